//! The gate's own socket: statuses, limits, and what never leaves it.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use crate::harness::{Response, Site, exchange, wait_for};

/// Everything that is not a success hands nothing over: nginx would follow the header whatever the status.
fn assert_hands_nothing_over(response: &Response, why: &str) {
    for (name, value) in &response.headers {
        let name = name.to_lowercase();
        assert!(!name.starts_with("x-accel") && !name.starts_with("x-sendfile"), "{why}: {name}: {value}");
    }
}

#[test]
fn a_signed_path_is_rendered_then_hit_and_handed_to_nginx() {
    let site = Site::new("").serve();
    site.add("photo_land.jpg", "2024/café 1.jpg");
    let url = site.sign(&["media/2024/café 1.jpg", "fill-100x80|format-webp"]);
    let first = site.gate("GET", &url, "");
    assert_eq!(first.status, 200, "{}", site.log());
    let accel = first.header("x-accel-redirect").expect("the hand-over");
    let path = accel.strip_prefix("/_renditions/").expect("the internal prefix");
    assert!(site.path("renditions").join(path).is_file());
    assert!(first.body.is_empty());
    for (name, value) in [
        ("content-length", "0"),
        ("content-type", "image/webp"),
        ("x-sendimage-cache-control", "max-age=3600, public"),
        ("content-disposition", "inline; filename=\"caf_ 1.webp\"; filename*=UTF-8''caf%C3%A9%201.webp"),
    ] {
        assert_eq!(first.header(name).as_deref(), Some(value), "{name}");
    }
    assert!(first.header("cache-control").is_none(), "nginx would keep it on its own 404s");
    assert!(first.header("set-cookie").is_none());
    let second = site.gate("GET", &url, "");
    assert_eq!(second.header("x-accel-redirect"), Some(accel));
    assert_eq!(site.metric("sendimage_requests_total{outcome=\"rendered\"}"), 1.0);
    assert_eq!(site.metric("sendimage_requests_total{outcome=\"hit\"}"), 1.0);
    assert_eq!(site.metric("sendimage_renders_total{outcome=\"rendered\",format=\"webp\"}"), 1.0);
    assert_eq!(site.metric("sendimage_key_uses_total{key=\"default\"}"), 2.0);
    assert_eq!(site.stored().len(), 1);
    assert_eq!(site.gate("HEAD", &url, "").header("x-accel-redirect"), second.header("x-accel-redirect"));
}

#[test]
fn every_failure_has_its_status_and_hands_nothing_over() {
    let site = Site::new("[presets]\nhero = \"width-50\"\n").serve();
    site.add("photo_land.jpg", "a.jpg");
    site.add("notimage.jpg", "not.jpg");
    site.add("truncated.jpg", "cut.jpg");
    site.add("vector.svg", "v.svg");
    std::fs::write(site.path("media/empty.jpg"), "").unwrap();
    std::fs::create_dir(site.path("media/dir.jpg")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", site.path("media/out.jpg")).unwrap();
    let good = site.sign(&["media/a.jpg", "width-50"]);
    let signed = |reference: &str, spec: &str| site.sign(&[reference, spec]);
    let cases: Vec<(&str, String, u16)> = vec![
        ("GET", good.clone(), 200),
        ("HEAD", good.clone(), 200),
        ("GET", signed("media/a.jpg", "hero"), 200),
        ("OPTIONS", good.clone(), 204),
        ("POST", good.clone(), 405),
        ("DELETE", good.clone(), 405),
        ("GET", "/".into(), 404),
        ("GET", "/images/x/y".into(), 404),
        ("POST", "/images/x/y".into(), 404),
        ("GET", "/metrics".into(), 404),
        ("GET", "/health/live".into(), 404),
        ("GET", good.replace("width-50", "width-51"), 403),
        ("GET", good.replace("a.jpg", "b.jpg"), 403),
        ("GET", format!("{good}?expires=1"), 403),
        ("GET", format!("{good}?v=1"), 400),
        ("GET", signed("media/nope.jpg", "width-50"), 404),
        ("GET", signed("media/dir.jpg", "width-50"), 404),
        ("GET", signed("media/out.jpg", "width-50"), 404),
        ("GET", signed("42", "width-50"), 404),
        ("GET", signed("media/not.jpg", "width-50"), 422),
        ("GET", signed("media/cut.jpg", "width-50"), 422),
        ("GET", signed("media/empty.jpg", "width-50"), 422),
        ("GET", signed("media/v.svg", "width-50"), 422),
        ("GET", signed("media/a.jpg", "scale-100000"), 422),
    ];
    for (method, target, status) in cases {
        let response = site.gate(method, &target, "");
        assert_eq!(response.status, status, "{method} {target}: {}\n{}", response.text(), site.log());
        if status != 200 {
            assert_hands_nothing_over(&response, &target);
            assert!(response.header("x-request-id").is_some());
        }
        match status {
            405 => assert_eq!(response.header("allow").as_deref(), Some("GET, HEAD, OPTIONS")),
            403 => assert_eq!(response.header("cache-control").as_deref(), Some("no-store")),
            _ => {}
        }
    }
}

#[test]
fn refusals_are_the_same_byte_for_byte() {
    let site = Site::new("").serve();
    site.add("photo_land.jpg", "a.jpg");
    let good = site.sign(&["media/a.jpg", "width-50"]);
    let signature = good.split('/').nth(2).unwrap().to_owned();
    let bare = |target: &str| {
        let mut response = site.gate("GET", target, "");
        assert_eq!(response.status, 403, "{target}");
        response.headers.retain(|(name, _)| !matches!(name.as_str(), "x-request-id" | "date"));
        response
    };
    let expired = site.sign(&["media/a.jpg", "width-50", "--expires", "1h"]);
    let expires = expired.split("expires=").nth(1).unwrap().to_owned();
    let reference = bare(&good.replace("width-50", "width-51"));
    for target in [
        good.replace(&signature, "x"),
        good.replace(&signature, &"A".repeat(43)),
        good.replace(&signature, &format!("{}=", "A".repeat(27))),
        good.replace(&signature, &format!("{signature}=")),
        good.replace("a.jpg", "does-not-exist.jpg"),
        good.replace("media", "no-such-source"),
        good.replace("width-50", "not-a-spec"),
        expired.replace(&expires, "1"),
        expired.replace("expires=", "download=x&expires="),
    ] {
        assert_eq!(bare(&target), reference, "{target}");
    }
}

#[test]
fn a_url_with_anything_altered_is_refused() {
    let site = Site::new("").serve();
    site.add("photo_land.jpg", "2024/a.jpg");
    let url = site.sign(&["media/2024/a.jpg", "fill-50x40|format-webp", "--expires", "1d", "--download", "x.webp"]);
    assert_eq!(site.gate("GET", &url, "").status, 200);
    let signed = "/images/".len();
    for position in signed..url.len() {
        let old = url.as_bytes()[position] as char;
        // The shape stays: what cuts the URL apart, and what escapes, is altered by the table above.
        if matches!(old, '/' | '%' | '?' | '&' | '=')
            || url[..position].ends_with('%')
            || url[..position - 1].ends_with('%')
        {
            continue;
        }
        let new = if old == 'z' { 'y' } else { 'z' };
        let mut altered = url.clone();
        altered.replace_range(position..=position, &new.to_string());
        let response = site.gate("GET", &altered, "");
        assert_eq!(response.status, 403, "{altered}");
        assert_hands_nothing_over(&response, &altered);
    }
}

/// FAULTS 2.2: what reaches the service as sent, and what it must answer.
#[test]
fn the_canonicalisation_table_straight_to_the_socket() {
    let site = Site::new("").serve();
    site.add("photo_land.jpg", "é+1.jpg");
    let url = site.sign(&["media/é+1.jpg", "width-50|format-webp"]);
    let swapped = |from: &str, to: &str| {
        assert!(url.contains(from), "{url} has no {from}");
        url.replace(from, to)
    };
    for (target, status) in [
        (url.clone(), 200),
        (swapped("%7C", "|"), 200),
        (swapped("%7C", "%7c"), 200),
        (swapped("width", "%77idth"), 200),
        (swapped("%C3%A9", "é"), 200),
        (swapped("+1", "%2B1"), 200),
        (swapped("%C3%A9", "e%CC%81"), 403),
        (swapped("+1", "%201"), 403),
        (swapped("%C3%A9", "%E9"), 400),
        (swapped("/media/", "/media%2F"), 400),
        (swapped("/media/", "/media%2f"), 400),
        (swapped("/media/", "/media//"), 400),
        (swapped("/media/", "/media/./"), 400),
        (swapped("/media/", "/x/../media/"), 400),
        (swapped("/media/", "/x/%2e%2e/media/"), 400),
        (swapped("/media/", "/x/..%2fmedia/"), 400),
        (swapped("/images/", "//images/"), 400),
        (swapped("/images/", "/pub/..%2fimages/"), 400),
        (swapped("/images/", "/%69mages/"), 404),
        (swapped("/images/", "/IMAGES/"), 404),
        (swapped(".jpg", "%00.jpg"), 400),
        (swapped(".jpg", "%0d%0aX:1"), 400),
        (swapped(".jpg", "%7f.jpg"), 400),
        (swapped(".jpg", "%"), 400),
        (swapped(".jpg", "%zz"), 400),
        (swapped("%7C", "%257C"), 403),
        (format!("{url}#x"), 200),
        (format!("http://evil{url}"), 400),
        (swapped("/images/", "/images/<a>/"), 400),
    ] {
        let response = site.gate("GET", &target, "");
        assert_eq!(response.status, status, "{target}: {}", response.text());
    }
    for raw in [
        &b"GET /images/a b HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"GET /images/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ] {
        let response = exchange(site.gate_stream(), raw);
        assert_eq!(response.status, 400, "{raw:?}");
    }
}

#[test]
fn requests_with_bodies_and_oversized_heads_are_refused() {
    let site = Site::new("").serve();
    site.add("photo_land.jpg", "a.jpg");
    let url = site.sign(&["media/a.jpg", "width-50"]);
    for headers in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
        let request = format!("GET {url} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        let mut stream = site.gate_stream();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("connection: close"), "{answer}");
    }
    assert_eq!(site.gate("GET", &url, "Content-Length: 0\r\n").status, 200);
    let many = (0..100).map(|i| format!("X-{i}: 1\r\n")).collect::<String>();
    assert_eq!(site.gate("GET", &url, &many).status, 431);
    let long = format!("X: {}\r\n", "a".repeat(64 << 10));
    assert_eq!(site.gate("GET", &url, &long).status, 431);
}

#[test]
fn silent_and_slow_connections_are_cut() {
    let site = Site::new("[server]\nheader_timeout_seconds = 1\n").serve();
    for opening in [&b""[..], b"GET /images/", b"GET / HTTP/1.1\r\nHost: x\r\n"] {
        let started = Instant::now();
        let mut stream = site.gate_stream();
        stream.write_all(opening).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        let elapsed = started.elapsed();
        assert!(elapsed > Duration::from_millis(900) && elapsed < Duration::from_secs(4), "{opening:?}: {elapsed:?}");
    }
}

#[test]
fn request_ids_are_taken_over_when_they_are_harmless() {
    let site = Site::new("").serve();
    assert_eq!(site.gate("GET", "/x", "X-Request-Id: abc-123\r\n").header("x-request-id").as_deref(), Some("abc-123"));
    let replaced = site.gate("GET", "/x", "X-Request-Id: a b\"c\r\n").header("x-request-id").unwrap();
    assert!(replaced.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{replaced}");
    site.assert_logs("abc-123");
}

#[test]
fn downloads_and_expiring_links() {
    let site = Site::new("[signing]\nsecret = \"0123456789abcdef\"\nexpiry_window_seconds = 10\n").serve();
    site.add("photo_land.jpg", "a.jpg");
    let url = site.sign(&["media/a.jpg", "width-50", "--expires", "60s", "--download", "My \"Photo\".jpg"]);
    let response = site.gate("GET", &url, "");
    assert_eq!(response.status, 200);
    let disposition = response.header("content-disposition");
    assert_eq!(disposition.as_deref(), Some("attachment; filename=\"My \\\"Photo\\\".jpg\""));
    let caching = response.header("x-sendimage-cache-control").unwrap();
    let age: u64 = caching.strip_prefix("max-age=").unwrap().split(',').next().unwrap().parse().unwrap();
    assert!((50..=70).contains(&age), "never beyond the link's life: {caching}");
}

#[test]
fn sigterm_answers_what_is_in_flight_and_exits_with_zero() {
    let mut site = Site::new("").serve();
    site.add("photo_land.jpg", "a.jpg");
    let url = site.sign(&["media/a.jpg", "scale-250|format-webp-lossless"]);
    let mut stream = site.gate_stream();
    stream.write_all(format!("GET {url} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    let idle = site.gate_stream();
    site.signal(rustix::process::Signal::TERM);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(site.wait().code(), Some(0));
    drop(idle);
    assert!(!site.path("gate.sock").exists(), "the socket's file goes with its owner");
    assert!(std::os::unix::net::UnixStream::connect(site.path("gate.sock")).is_err());
}

#[test]
fn no_secret_and_no_path_of_a_secret_in_the_log() {
    let site = Site::new("[log]\nlevel = \"trace\"\n").serve();
    site.add("photo_land.jpg", "a.jpg");
    let url = site.sign(&["media/a.jpg", "width-50"]);
    site.gate("GET", &url, "");
    site.gate("GET", &url.replace("width-50", "width-51"), "");
    // A thread of its own writes the log.
    let _ = wait_for(Duration::from_secs(5), || site.log().contains("refused"));
    let log = site.log();
    assert!(log.contains("served") && log.contains("refused"), "{log}");
    assert!(!log.contains(crate::harness::KEY));
    assert!(!log.contains(url.split('/').nth(2).unwrap()), "a signature is a capability");
}

#[test]
fn sighup_applies_a_good_config_whole_and_a_bad_one_not_at_all() {
    let hup = |site: &Site, config: &str, word: &str| {
        site.configure(config);
        let before = site.log().matches(word).count();
        site.signal(rustix::process::Signal::HUP);
        let done = || site.log().matches(word).count() > before;
        wait_for(Duration::from_secs(5), done).unwrap_or_else(|()| panic!("{word}: {}", site.log()));
    };
    let site = Site::new("").serve();
    site.add("photo_land.jpg", "a.jpg");
    let old = site.sign(&["media/a.jpg", "width-50"]);
    let workers = site.workers();
    for bad in [
        "[render]\nworkerz = 1\n",
        "[signing]\nsecret = \"short\"\n",
        "[signing]\nkeys = [{ id = \"a\", secret = \"aaaaaaaaaaaaaaaa\" }, { id = \"a\", secret = \"bbbbbbbbbbbbbbbb\" }]\n",
        "[signing]\nkeys = []\n",
        "[cache",
        "[render]\nqueue_depth = 3\n",
        "[server]\ndrain_seconds = 7\n",
        "[tracing]\nservice_name = \"another\"\n",
        "[cache]\nmax_age_seconds = 7\n[offload]\ninternal_prefix = \"/x\"\n",
    ] {
        hup(&site, bad, "the old one stays");
        let response = site.gate("GET", &old, "");
        let caching = response.header("x-sendimage-cache-control").unwrap();
        assert_eq!((response.status, caching.as_str()), (200, "max-age=3600, public"), "{bad}");
    }
    assert_eq!(site.metric("sendimage_config_reload_failed_total"), 9.0);

    let keys =
        "keys = [{ id = \"new\", secret = \"nnnnnnnnnnnnnnnn\" }, { id = \"old\", secret = \"0123456789abcdef\" }]";
    hup(&site, &format!("[signing]\n{keys}\n[cache]\nmax_age_seconds = 7\n"), "is applied");
    let new = site.sign(&["media/a.jpg", "width-50"]);
    for url in [&old, &new] {
        let response = site.gate("GET", url, "");
        assert_eq!(
            (response.status, response.header("x-sendimage-cache-control").as_deref()),
            (200, Some("max-age=7, public"))
        );
    }
    hup(&site, "[signing]\nkeys = [{ id = \"new\", secret = \"nnnnnnnnnnnnnnnn\" }]\n", "is applied");
    assert_eq!((site.gate("GET", &old, "").status, site.gate("GET", &new, "").status), (403, 200));
    assert_eq!(site.workers(), workers, "the render workers stay");
}
