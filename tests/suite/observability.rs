//! What an operator sees of requests: the metrics add up, and every line of the log is one that the README describes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use sendimage::metrics::{Outcome, describe};
use serde_json::Value;

use crate::harness::{OPS_TOKEN, Site, exchange, request};

fn outcomes(site: &Site) -> BTreeMap<&'static str, f64> {
    let count = |name: &str| site.metric(&format!("sendimage_requests_total{{outcome=\"{name}\"}}"));
    Outcome::ALL.iter().map(|outcome| (outcome.name(), count(outcome.name()))).collect()
}

/// Every outcome there is, some of them many times: the counters' sum is what was sent, and there are no more series than the
/// code and the config name, whatever is asked for.
#[test]
fn metrics_add_up_to_what_was_sent() {
    let site = Site::new(
        "[log]\nformat = \"json\"\n[sources.away]\nkind = \"fs\"\nroot = \"{dir}/nothing-here\"\n\
         [routes.images]\nprefix = \"/images/\"\n[routes.direct]\nprefix = \"/direct/\"\noffload = \"direct\"\n",
    )
    .serve();
    site.add("photo_land.jpg", "a.jpg");
    fs::write(site.path("media/broken.jpg"), b"no picture").unwrap();
    let sign = |reference: &str, spec: &str| site.sign(&[reference, spec, "--route", "images"]);
    let mut sent = 0_u32;
    let mut send = |method: &str, target: &str, headers: &str, status: u16| {
        sent += 1;
        let response = site.gate(method, target, headers);
        assert_eq!(response.status, status, "{method} {target}: {}", response.text());
        response
    };
    let good = sign("media/a.jpg", "width-60");
    send("GET", &good, "", 200); // rendered
    send("GET", &good, "", 200); // hit
    send("HEAD", &good, "", 200);
    send("OPTIONS", &good, "", 204);
    let direct = site.sign(&["media/a.jpg", "width-60", "--route", "direct"]);
    let tag = send("GET", &direct, "", 200).header("etag").unwrap();
    send("GET", &direct, &format!("If-None-Match: {tag}\r\n"), 304); // not_modified
    for number in 0..30 {
        send("GET", &format!("/images/signature{number}/media/width-{number}/a.jpg"), "", 403); // refused
        send("GET", &sign(&format!("media/{number}.jpg"), "width-9"), "", 404); // missing
    }
    send("GET", "/elsewhere", "", 404);
    send("GET", &sign("7", "width-9"), "", 404);
    send("GET", &good.replace("width-60", "a%2fb"), "", 400); // invalid
    send("POST", &good, "", 405);
    send("GET", &sign("media/broken.jpg", "width-9"), "", 422); // failed
    send("GET", &sign("away/a.jpg", "width-9"), "", 503); // overloaded
    // Joined: who comes while it is rendered. Another size until somebody was in time.
    let mut width = 1000;
    while outcomes(&site)["joined"] == 0.0 {
        width += 1;
        assert!(width < 1040, "nobody was ever in time");
        let target = sign("media/a.jpg", &format!("width-{width}|format-webp"));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| exchange(site.gate_stream(), request("GET", &target, "").as_bytes()));
            }
        });
        sent += 4;
    }
    let seen = outcomes(&site);
    assert!(seen.values().all(|count| *count > 0.0), "an outcome was not met: {seen:?}");
    assert_eq!(seen.values().sum::<f64>(), f64::from(sent), "{seen:?}");
    assert_eq!(site.metric("sendimage_request_seconds_count"), f64::from(sent));
    assert_eq!(seen["refused"], 30.0);

    // No series is named after what was asked for.
    let text = site.ops("/metrics").unwrap().text();
    let known = describe();
    let mut series = BTreeMap::<&str, BTreeSet<&str>>::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
        series.entry(name).or_default().insert(rest.rsplit_once(' ').unwrap().0);
    }
    for (name, members) in series {
        let base = known.iter().find(|metric| name.starts_with(&metric.name)).unwrap_or_else(|| panic!("{name}"));
        let bound = if base.kind == "histogram" { 200 } else { 20 };
        assert!(members.len() <= bound, "{name} has {} series: {members:?}", members.len());
        for member in members {
            assert!(
                !member.contains("width-") && !member.contains(".jpg") && !member.contains("127.0.0.1"),
                "{member}"
            );
        }
    }
}

/// The fields of the log that the README documents.
fn documented() -> BTreeSet<String> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, table) = readme.split_once("| field of the log | |").expect("the README's table of fields");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

#[test]
fn every_line_of_the_log_is_one_object_of_documented_fields() {
    let site =
        Site::new(&format!("[log]\nformat = \"json\"\nlevel = \"debug\"\n[ops]\ntoken = \"{OPS_TOKEN}\"\n")).serve();
    site.add("photo_land.jpg", "a.jpg");
    let good = site.sign(&["media/a.jpg", "width-60"]);
    let id = "X-Request-Id: from-the-front-1\r\nX-Real-IP: 192.0.2.7\r\n";
    let answer = site.gate("GET", &good, id);
    assert_eq!(answer.header("x-request-id").as_deref(), Some("from-the-front-1"));
    assert_eq!(site.gate("GET", &good, "").status, 200);
    let refused = site.gate("GET", "/images/x/media/width-1/a.jpg", id);
    assert_eq!((refused.status, refused.header("x-request-id").as_deref()), (403, Some("from-the-front-1")));
    site.call("/purge", "{\"refs\": [\"media/a.jpg\"]}");
    site.assert_logs("operations call");
    site.assert_logs("not served");
    let fields = documented();
    let log = site.log();
    let (mut served, mut refused) = (0, 0);
    for line in log.lines().filter(|line| line.ends_with('}')) {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let message = line["message"].as_str().unwrap();
        if message == "served" || message == "not served" || message == "operations call" {
            for field in line.as_object().unwrap().keys() {
                assert!(fields.contains(field), "{field} is not in the README's table: {line}");
            }
            assert!(line["request.id"].is_string() && line["duration_ms"].is_number(), "{line}");
        }
        served +=
            u32::from(message == "served" && line["outcome"] == "rendered" && line["request.id"] == "from-the-front-1");
        if message == "not served" {
            refused += 1;
            assert_eq!(
                (&line["status"], &line["outcome"], &line["level"]),
                (&403.into(), &"refused".into(), &"INFO".into())
            );
            assert_eq!(
                (&line["client"], &line["request.id"]),
                (&"192.0.2.7".into(), &"from-the-front-1".into()),
                "{line}"
            );
            assert!(line["reason"].is_string(), "{line}");
        }
    }
    assert_eq!((served, refused), (1, 1), "{log}");
}
