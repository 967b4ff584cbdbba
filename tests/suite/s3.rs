//! Originals and renditions in object stores that check signatures, with a real nginx that fetches from them.

use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sendimage::{
    coordination::{Claim, Coordinator as _, LeaseObjects, Watch},
    model::{ImageFormat, MediaPath, RenditionKey, SourceRef, SourceVersion},
    remote::s3::Creation,
};

use crate::{
    buckets::{self, Hands, ObjectServer, Relay, SECRET, Way, lines},
    harness::{Response, Site, exchange, system_path, wait_for},
    stub::{Asked, Stub, answer},
};

/// A store, the way to it, and a site whose originals and renditions are there.
struct Far {
    server: ObjectServer,
    relay: Relay,
    site: Site,
    originals: Hands,
    renditions: Hands,
}

/// More lines of the sections.
#[derive(Default)]
struct More {
    store: &'static str,
    store_s3: &'static str,
    source_s3: &'static str,
    rest: &'static str,
}

impl Far {
    fn start(kind: &'static str, more: &More) -> Self {
        let site = Site::new("");
        // The other source, which every site of the tests has, is not taken for a file system that is not mounted.
        site.add("photo_land.jpg", "here.jpg");
        let folder = site.path("far");
        std::fs::create_dir(&folder).unwrap();
        let server = ObjectServer::start(kind, &folder, &["originals", "renditions"]);
        let relay = Relay::to(&server);
        let (originals, renditions) = (Hands::new(server.port, "originals"), Hands::new(server.port, "renditions"));
        let mut far = Self { server, relay, site, originals, renditions };
        far.configure(more);
        far.site.start();
        far
    }

    fn configure(&mut self, More { store, store_s3, source_s3, rest }: &More) {
        let of = |bucket, more| lines(self.relay.port, bucket, more);
        self.site.configure(&format!(
            "[store]\nkind = \"s3\"\n{store}\n[store.s3]\nprefix = \"pictures/v1/\"\n{}\n\
             [sources.far]\nkind = \"s3\"\n[sources.far.s3]\n{}\n[ops]\ntoken = \"{}\"\n{rest}",
            of("renditions", store_s3),
            of("originals", source_s3),
            crate::harness::OPS_TOKEN,
        ));
    }

    fn sign(&self, path: &str, spec: &str) -> String {
        self.site.sign(&[&format!("far/{path}"), spec])
    }

    /// Keys of renditions.
    fn stored(&self) -> Vec<String> {
        self.renditions.stored("pictures")
    }
}

#[test]
fn renditions_lie_below_the_prefix_and_check_says_what_the_bucket_can() {
    for kind in buckets::kinds() {
        let far = Far::start(kind, &More::default());
        far.originals.add("photo_land.jpg", "a.jpg");
        assert_eq!(far.site.gate("GET", &far.sign("a.jpg", "width-60"), "").status, 200, "{}", far.site.log());
        let stored = far.stored();
        assert!(stored.len() == 1 && stored[0].starts_with("pictures/v1/r1/"), "{kind}: {stored:?}");
        let purged = far.site.called("/purge", serde_json::json!({"refs": ["far/a.jpg"]}));
        assert_eq!(purged["files"], 1, "{kind}: {purged}");
        let checked = far.site.run(&["check"]);
        let says = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(checked.status.success() && says.contains("takes, gives and deletes objects"), "{says}");
        assert_eq!(says.contains("creates only what is not there"), kind == "s3s-fs", "{says}");
        assert_eq!(says.contains("by lease objects in the store"), kind == "s3s-fs", "{says}");
        assert_eq!(says.contains("each gate renders for itself"), kind == "garage", "{says}");
        // A lease is given back behind the answer.
        let left = || far.renditions.run(far.renditions.bucket.list("pictures")).unwrap();
        wait_for(Duration::from_secs(5), || left().is_empty())
            .unwrap_or_else(|()| panic!("{kind}: renditions, records, trials and leases are removed: {:?}", left()));
    }
}

#[test]
fn a_bucket_is_collected_counted_and_purged_as_a_folder_is() {
    for kind in buckets::kinds() {
        let more = More { source_s3: "fresh_seconds = 0\n", store: "gc_grace_seconds = 0\n", ..More::default() };
        let far = Far::start(kind, &more);
        let said = |arguments: &[&str]| -> serde_json::Value {
            let output = far.site.run(&[arguments, &["--json"]].concat());
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice(&output.stdout).unwrap()
        };
        for (vector, specs) in [("photo_land.jpg", &["width-60", "width-61"][..]), ("photo_port.jpg", &["width-60"])] {
            far.originals.add(vector, "a.jpg");
            for spec in specs {
                assert_eq!(far.site.gate("GET", &far.sign("a.jpg", spec), "").status, 200, "{kind}");
            }
        }
        // A lease is given back behind the answer.
        let left = || far.renditions.run(far.renditions.bucket.list("pictures")).unwrap();
        let usage = said(&["du"]);
        assert_eq!((&usage["stored"]["files"], &usage["outdated"]["files"]), (&3.into(), &2.into()), "{kind}: {usage}");
        assert_eq!(usage["largest"][0]["image"], "far/a.jpg");
        assert_eq!(said(&["gc", "--dry-run"])["found"]["old_generation"]["files"], 2, "{kind}");
        let collected = said(&["gc", "--verify"]);
        assert_eq!(collected["removed"]["old_generation"]["files"], 2, "{kind}: {collected}");
        assert_eq!((&collected["damaged"], &collected["unverified"]), (&serde_json::json!([]), &().into()));
        assert_eq!(far.stored().len(), 1, "{kind}");
        far.originals.run(far.originals.bucket.delete("a.jpg")).unwrap();
        assert_eq!(said(&["gc", "--orphans"])["removed"]["original_gone"]["files"], 1, "{kind}");
        wait_for(Duration::from_secs(5), || left().is_empty()).unwrap_or_else(|()| panic!("{kind}: {:?}", left()));
        far.originals.add("photo_land.jpg", "b.jpg");
        assert_eq!(far.site.gate("GET", &far.sign("b.jpg", "width-60"), "").status, 200, "{kind}");
        assert_eq!(said(&["purge", "--source", "far"])["files"], 1, "{kind}");
        wait_for(Duration::from_secs(5), || left().is_empty()).unwrap_or_else(|()| panic!("{kind}: {:?}", left()));
    }
}

#[test]
fn a_rendition_that_vanishes_or_is_refused_is_fetched_again() {
    if !buckets::is_there("s3s-fs") {
        return;
    }
    // Leases are given back behind the answers, by requests of their own: here they would take what is meant for nginx.
    const ALONE: &str = "[coordination]\nkind = \"none\"\n";
    const NO_CACHE: &str = "[offload]\nstore_cache_max_bytes = 0\n[coordination]\nkind = \"none\"\n";
    for cache in [ALONE, NO_CACHE] {
        let more = More { store: "existence = \"assume\"\n", rest: cache, ..More::default() };
        let mut far = Far::start("s3s-fs", &more);
        far.site = far.site.with_nginx();
        far.originals.add("photo_land.jpg", "a.jpg");
        let url = far.sign("a.jpg", "width-60");
        let gone = far.site.gate("GET", &url, "");
        assert_eq!(gone.status, 200);
        // The gate believes that it is there, and nginx has never heard of it.
        for key in far.stored() {
            far.renditions.run(far.renditions.bucket.delete(&key)).unwrap();
        }
        let answer = far.site.nginx("GET", &url, "");
        assert_eq!((answer.status, answer.body.get(..2)), (200, Some(&[0xFF, 0xD8][..])), "{}", far.site.log());
        assert_eq!(answer.header("content-disposition").as_deref(), Some("inline; filename=\"a.jpg\""), "said once");
        assert_eq!(far.stored().len(), 1);

        // A signature that is over is refused once; the second one is not.
        let other = far.sign("a.jpg", "width-61");
        assert_eq!(far.site.gate("GET", &other, "").status, 200);
        far.relay.take();
        far.relay.set(Way::Answer(
            "GET ",
            "HTTP/1.1 403 Forbidden\r\nX-Accel-Redirect: /_renditions/x\r\nContent-Length: 3\r\n\r\nxxx",
            1,
        ));
        assert_eq!(far.site.nginx("GET", &other, "").status, 200);
        let asked: Vec<String> = far.relay.take().into_iter().filter(|line| line.starts_with("GET ")).collect();
        assert_eq!(asked.len(), 2, "{asked:?}");

        // HEAD is asked for by GET, as it is signed; ranges come from the cache or from the store.
        let head = far.site.nginx("HEAD", &url, "");
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), Some(answer.body.len().to_string()));
        let part = far.site.nginx("GET", &url, "Range: bytes=5-14\r\n");
        assert_eq!((part.status, part.body.as_slice()), (206, &answer.body[5..15]), "{cache}");
        let odd = far.site.nginx("GET", &url, "Range: bytes=9999999-\r\n");
        assert_eq!(odd.status, 416);
        assert!(!odd.text().contains("<Code>"), "{}", odd.text());
        // A store that redirects, or that says more than it should, is not listened to.
        let third = far.sign("a.jpg", "width-62");
        assert_eq!(far.site.gate("GET", &third, "").status, 200);
        let says = "HTTP/1.1 200 OK\r\nX-Accel-Redirect: /_renditions/x\r\nX-Accel-Expires: 0\r\nSet-Cookie: a=1\r\nVary: *\r\n\
                    Cache-Control: no-store\r\nContent-Type: image/jpeg\r\nContent-Disposition: attachment\r\n\
                    x-amz-request-id: 7\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
        far.relay.set(Way::Answer("GET ", says, 1));
        let answer = far.site.nginx("GET", &third, "");
        assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
        assert_eq!(answer.header("cache-control").as_deref(), Some("max-age=3600, public"));
        assert_eq!(answer.header("content-disposition").as_deref(), Some("inline; filename=\"a.jpg\""));
        for name in ["set-cookie", "vary", "x-amz-request-id", "x-accel-redirect"] {
            assert_eq!(answer.header(name), None, "{name}");
        }
    }
}

#[test]
fn an_answer_is_given_again_for_half_the_life_of_its_address() {
    if !buckets::is_there("s3s-fs") {
        return;
    }
    let more = More {
        store: "existence = \"remember\"\n",
        store_s3: "presign_seconds = 4\n",
        source_s3: "fresh_seconds = 60\n",
        ..More::default()
    };
    let far = Far::start("s3s-fs", &more);
    far.originals.add("photo_land.jpg", "a.jpg");
    let url = far.sign("a.jpg", "width-60");
    far.site.gate("GET", &url, "");
    let address = || far.site.gate("GET", &url, "").header("x-accel-redirect").unwrap();
    let first = address();
    let (path, query) = first.split_once('?').unwrap();
    assert!(path.starts_with("/_renditions/r1/") && query.contains("X-Amz-Signature="), "{first}");
    far.relay.take();
    assert_eq!(address(), first, "kept");
    // But for a lease, which may be given back behind an answer of before.
    let asked: Vec<_> = far.relay.take().into_iter().filter(|request| !request.contains("/.lease-")).collect();
    assert_eq!(asked, [""; 0], "the store is not asked");
    let target = format!("/renditions/pictures/v1/{}?{query}", path.strip_prefix("/_renditions/").unwrap());
    let fetch = |target: &str| {
        let head = format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\r\n", far.relay.port);
        exchange(TcpStream::connect(("127.0.0.1", far.server.port)).unwrap(), head.as_bytes())
    };
    assert_eq!(fetch(&target).status, 200);
    assert_eq!(fetch(&target.replace("X-Amz-Expires=4", "X-Amz-Expires=9")).status, 403);
    assert_eq!(fetch(target.split('?').next().unwrap()).status, 403);
    let made = Instant::now();
    let changed = wait_for(Duration::from_secs(6), || address() != first);
    assert!(changed.is_ok() && made.elapsed() < Duration::from_secs(3), "{:?}", made.elapsed());
    thread::sleep(Duration::from_secs(5).saturating_sub(made.elapsed()));
    assert_eq!(fetch(&target).status, 403, "it is over");
}

#[test]
fn browsers_can_be_sent_to_the_store() {
    for kind in buckets::kinds() {
        let more = More {
            store_s3: "presign_seconds = 100\n",
            rest: "[offload]\nmode = \"redirect\"\n[headers]\naccess_control_allow_origin = \"*\"\n",
            ..More::default()
        };
        let far = Far::start(kind, &more);
        far.originals.add("photo_land.jpg", "a b.jpg");
        let url = far.site.sign(&["far/a b.jpg", "width-60", "--download", "ü.jpg"]);
        for method in ["GET", "HEAD", "GET", "HEAD"] {
            let first = far.site.gate(method, &url, "");
            assert_eq!(first.status, 302, "{}", far.site.log());
            assert_eq!(first.header("cache-control").as_deref(), Some("max-age=50, public"));
            assert_eq!(first.header("access-control-allow-origin").as_deref(), Some("*"));
            let location = first.header("location").unwrap();
            let host = format!("127.0.0.1:{}", far.relay.port);
            let target = location.strip_prefix(&format!("http://{host}")).unwrap();
            assert!(target.contains("response-content-disposition=attachment"), "{target}");
            let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let answer = exchange(TcpStream::connect(host).unwrap(), head.as_bytes());
            assert_eq!(answer.status, 200, "{kind} {method}: {}", answer.text());
            assert_eq!(answer.header("content-type").as_deref(), Some("image/jpeg"), "{kind}");
            assert_eq!(answer.body.is_empty(), method == "HEAD");
            if kind == "garage" && method == "GET" {
                let says = answer.header("content-disposition").unwrap();
                assert!(says.starts_with("attachment; filename=") && says.ends_with("%C3%BC.jpg"), "{says}");
                assert_eq!(answer.header("cache-control").as_deref(), Some("max-age=50, public"));
            }
        }
    }
}

#[test]
fn a_wrong_key_is_said_plainly_and_nothing_else_is() {
    for kind in buckets::kinds() {
        let mut far = Far::start(kind, &More::default());
        far.originals.add("photo_land.jpg", "a.jpg");
        let good = far.sign("a.jpg", "width-60");
        assert_eq!(far.site.gate("GET", &good, "").status, 200);
        far.site.signal(Signal::TERM);
        far.site.wait();
        let config = std::fs::read_to_string(far.site.config()).unwrap();
        let other = SECRET.replace('b', "c");
        let (store, source) = config.split_once("[sources.far]").unwrap();
        for (text, status) in [
            (format!("{}[sources.far]{source}", store.replace(SECRET, &other)), 503),
            (format!("{store}[sources.far]{}", source.replace(SECRET, &other)), 502),
        ] {
            std::fs::write(far.site.config(), text).unwrap();
            let checked = far.site.run(&["check"]);
            let says = String::from_utf8_lossy(&checked.stdout).into_owned();
            assert_eq!(checked.status.code(), Some(1), "{says}");
            let line = says.lines().find(|line| line.starts_with("FAIL")).unwrap();
            assert!(line.contains("403 Forbidden") && line.contains("bucket "), "{line}");
            let command = far.site.serve_command(&[crate::harness::SENDIMAGE]);
            far.site.start_as(command);
            let refused = far.site.gate("GET", &good, "");
            assert_eq!(refused.status, status, "{}", far.site.log());
            // The log is written behind the answers.
            let _ = wait_for(Duration::from_secs(5), || far.site.log().contains("403 Forbidden"));
            let log = far.site.log();
            assert!(log.contains("403 Forbidden"), "{log}");
            for text in [&says, &log, &refused.text(), &far.site.ops("/metrics").unwrap().text()] {
                for hidden in [SECRET, &other, "X-Amz-Signature", "StringToSign"] {
                    assert!(!text.contains(hidden), "{hidden} in {text}");
                }
            }
            assert!(
                status != 503 || far.site.metric("sendimage_store_errors_total{kind=\"s3_denied\"}") >= 1.0,
                "{}",
                far.site.ops("/metrics").unwrap().text()
            );
            far.site.signal(Signal::TERM);
            far.site.wait();
        }
    }
}

#[test]
fn hits_that_nginx_has_outlive_the_store() {
    for kind in buckets::kinds() {
        let more = More {
            store: "existence = \"remember\"\nremember_seconds = 1\n",
            store_s3: "timeout_seconds = 1\n",
            source_s3: "timeout_seconds = 1\nfresh_seconds = 1\n",
            ..More::default()
        };
        let mut far = Far::start(kind, &more);
        far.site = far.site.with_nginx();
        far.originals.add("photo_land.jpg", "a.jpg");
        let (seen, unseen) = (far.sign("a.jpg", "width-60"), far.sign("a.jpg", "width-61"));
        assert_eq!(far.site.nginx("GET", &seen, "").status, 200);
        assert_eq!(far.site.nginx("GET", &seen, "").status, 200);
        let mut worst = Duration::ZERO;
        for stop in ["SIGSTOP", "killed"] {
            match stop {
                "SIGSTOP" => far.server.signal(Signal::STOP),
                _ => far.server.kill(),
            }
            // Longer than anything is remembered.
            thread::sleep(Duration::from_millis(1200));
            for _ in 0..3 {
                let hit = far.site.nginx("GET", &seen, "");
                assert_eq!(hit.status, 200, "{kind} {stop}: {}", far.site.log());
            }
            let none = far.site.nginx("GET", &unseen, "");
            assert!(matches!(none.status, 503 | 504), "{kind} {stop}: {} {}", none.status, far.site.log());
            assert_eq!(none.header("cache-control").as_deref(), Some("no-store"));
            match stop {
                "SIGSTOP" => far.server.signal(Signal::CONT),
                _ => far.server.run(),
            }
            let back = Instant::now();
            let url = far.sign("a.jpg", if stop == "killed" { "width-63" } else { "width-62" });
            wait_for(Duration::from_secs(10), || far.site.nginx("GET", &url, "").status == 200).unwrap();
            worst = worst.max(back.elapsed());
        }
        println!("{kind}: {:.0} ms after the store was back a new rendition was served", worst.as_secs_f64() * 1e3);
        assert!(worst < Duration::from_secs(2), "{kind}: {worst:?}");
    }
}

#[test]
fn a_store_that_is_away_is_left_alone_and_found_again() {
    if !buckets::is_there("s3s-fs") {
        return;
    }
    const BUSY: &str = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let more = More {
        store: "existence = \"remember\"\n",
        store_s3: "timeout_seconds = 1\n",
        source_s3: "timeout_seconds = 1\nfresh_seconds = 0.1\n",
        ..More::default()
    };
    let far = Far::start("s3s-fs", &more);
    far.originals.add("photo_land.jpg", "a.jpg");
    let known = far.sign("a.jpg", "width-60");
    assert_eq!(far.site.gate("GET", &known, "").status, 200);
    // Images apart from each other: whoever asks for the same one waits for the same answer.
    const ASKS: usize = 30;
    let urls: Vec<_> = (0..3 * ASKS).map(|number| far.sign(&format!("{number}.jpg"), "width-60")).collect();
    let ways = [
        ("says nothing", Way::Silent),
        ("asks for patience", Way::Answer("", BUSY, usize::MAX)),
        ("refuses", Way::Shut),
    ];
    for (urls, (name, way)) in urls.chunks(ASKS).zip(ways) {
        let opened = || far.site.log().matches("the object store is left alone").count();
        let before = opened();
        far.relay.set(way);
        let struck = Instant::now();
        wait_for(Duration::from_secs(20), || {
            let answer = far.site.gate("GET", &urls[0], "");
            assert!(matches!(answer.status, 503 | 504), "{name}: {}", answer.status);
            opened() > before
        })
        .unwrap_or_else(|()| panic!("{name}: it is asked on and on\n{}", far.site.log()));
        let noticed = struck.elapsed();
        far.relay.take();
        let began = Instant::now();
        thread::scope(|scope| {
            for url in urls {
                scope.spawn(|| {
                    let answer = far.site.gate("GET", url, "");
                    let says = (answer.status, answer.header("retry-after").is_some());
                    assert_eq!(says, (503, true), "{name}: {}", far.site.log());
                });
            }
            assert_eq!(far.site.gate("GET", &known, "").status, 200, "{name}: what is known goes on");
        });
        let (took, seen) = (began.elapsed(), far.relay.take().len());
        // One trial at a time, and a rest of a quarter of a second behind each, for either bucket. If all were asked for, these
        // would be two or three attempts each.
        assert!(seen <= 2 * (took.as_millis() as usize / 250 + 1), "{name}: {seen} attempts in {took:?}");
        far.relay.set(Way::Open);
        let back = Instant::now();
        wait_for(Duration::from_secs(10), || far.site.gate("GET", &urls[0], "").status == 404).unwrap();
        let back = back.elapsed();
        println!(
            "{name}: left alone after {:.1} s, {ASKS} asks refused in {:.2} s with {seen} attempts, found again after {:.2} s",
            noticed.as_secs_f64(),
            took.as_secs_f64(),
            back.as_secs_f64()
        );
        assert!(back < Duration::from_secs(2), "{name}: {back:?}");
    }
    assert!(far.site.metric("sendimage_source_errors_total{class=\"unavailable\"}") > 0.0);
    far.site.assert_logs("the object store answers again");
}

#[test]
fn many_asks_at_once_are_one_get_and_one_put() {
    if !buckets::is_there("s3s-fs") {
        return;
    }
    let mut far = Far::start("s3s-fs", &More::default());
    far.site = far.site.with_nginx();
    far.originals.add("photo_land.jpg", "a.jpg");
    let url = far.sign("a.jpg", "width-160");
    far.relay.take();
    let answers: Vec<Response> = thread::scope(|scope| {
        let asks: Vec<_> = (0..60).map(|_| scope.spawn(|| far.site.nginx("GET", &url, ""))).collect();
        asks.into_iter().map(|ask| ask.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| answer.status == 200), "{:?}", answers.iter().map(|a| a.status).max());
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    let asked = far.relay.take();
    let count = |what: &str, end: &str| {
        asked
            .iter()
            .filter(|line| line.starts_with(what) && line.split([' ', '?']).nth(1).unwrap().ends_with(end))
            .count()
    };
    let leases = asked.iter().filter(|line| line.starts_with("PUT ") && line.contains("/.lease-")).count();
    assert_eq!((count("PUT ", ".jpg") - leases, count("GET /originals/", "a.jpg")), (1, 1), "{asked:#?}");
    // Served on and on: nginx has it.
    let before = far.relay.take().len();
    (0..50).for_each(|_| assert_eq!(far.site.nginx("GET", &url, "").status, 200));
    let fetched = far.relay.take().iter().filter(|line| line.starts_with("GET /renditions/")).count();
    assert_eq!((before, fetched), (0, 0));
}

#[test]
fn only_one_of_many_creates_where_the_store_can_tell() {
    for kind in buckets::kinds() {
        let folder = tempfile::tempdir().unwrap();
        let server = ObjectServer::start(kind, folder.path(), &["leases"]);
        let hands = Hands::new(server.port, "leases");
        let create = || hands.run(hands.bucket.put_if_absent("r1/.lease-a", b"me"[..].into())).unwrap();
        let first = create();
        println!("{kind}: {first:?}");
        match kind {
            "garage" => assert_eq!(first, Creation::Unsupported),
            _ => assert_eq!((first, create()), (Creation::Created, Creation::Exists)),
        }
        let left = hands.run(hands.bucket.list("r1")).unwrap();
        assert_eq!(left.len(), usize::from(first == Creation::Created), "no trial is left: {left:?}");
        // Removed in one request, where the store knows how.
        let keys: Vec<String> = (0..60).map(|number| format!("many/{number}")).collect();
        keys.iter().for_each(|key| hands.run(hands.bucket.put(key, b"x"[..].into(), "text/plain")).unwrap());
        hands.run(hands.bucket.delete_all(&keys)).unwrap();
        assert_eq!(hands.run(hands.bucket.list("many")).unwrap(), []);
    }
}

/// Reads a request to its end, so that nothing of the answer is lost.
fn read_body(asked: &Asked, stream: &mut TcpStream) {
    let (head, body) = asked.head.split_once("\r\n\r\n").unwrap();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |text| text.parse().unwrap());
    std::io::Read::read_exact(stream, &mut vec![0; usize::saturating_sub(length, body.len())]).unwrap();
}

#[test]
fn what_is_gone_already_does_not_keep_the_rest() {
    let stub = Stub::start(|asked, _, stream| {
        read_body(asked, stream);
        match asked.head.split(' ').next().unwrap() {
            "post" => answer(stream, "501 Not Implemented", "", b"<Error><Code>NotImplemented</Code></Error>"),
            _ if asked.target.contains("gone") => {
                answer(stream, "404 Not Found", "", b"<Error><Code>NoSuchKey</Code></Error>")
            }
            _ => answer(stream, "204 No Content", "", b""),
        }
    });
    let hands = Hands::new(stub.address.port(), "b");
    let name = |number: usize| format!("r1/{}{number}", if number.is_multiple_of(9) { "gone" } else { "there" });
    let keys: Vec<String> = (0..70).map(name).collect();
    hands.run(hands.bucket.delete_all(&keys)).unwrap();
    for key in &keys {
        assert_eq!(stub.count(&format!("/b/{key}")), 1, "{key}");
    }
    hands.run(hands.bucket.delete("r1/gone")).unwrap();
}

#[test]
fn a_store_that_is_ill_for_a_moment_removes_in_bulk_after_it() {
    const DONE: &[u8] =
        b"<DeleteResult><Deleted><Key>r1/a</Key></Deleted><Deleted><Key>r1/b</Key></Deleted></DeleteResult>";
    let is_ill = Arc::new(AtomicBool::new(true));
    let ill = is_ill.clone();
    let stub = Stub::start(move |asked, _, stream| {
        read_body(asked, stream);
        match ill.load(Ordering::SeqCst) {
            true => answer(stream, "500 Internal Server Error", "", b"<Error><Code>InternalError</Code></Error>"),
            false => answer(stream, "200 OK", "", DONE),
        }
    });
    let hands = Hands::new(stub.address.port(), "b");
    let keys = ["r1/a".to_owned(), "r1/b".to_owned()];
    hands.run(hands.bucket.delete_all(&keys)).unwrap_err();
    is_ill.store(false, Ordering::SeqCst);
    let before = stub.asked().len();
    hands.run(hands.bucket.delete_all(&keys)).unwrap();
    let asked = &stub.asked()[before..];
    assert!(asked.len() == 1 && asked[0].head.starts_with("post "), "{asked:?}");
}

/// As S3 answers of a key that is just being removed: it is there, and it is not.
#[test]
fn a_lease_that_is_there_and_is_not_is_somebody_elses() {
    let stub = Stub::start(|asked, before, stream| {
        read_body(asked, stream);
        let is_lease = asked.target.contains(".lease-");
        match asked.head.split(' ').next().unwrap() {
            "put" if before == 0 && !is_lease => answer(stream, "200 OK", "ETag: \"a\"\r\n", b""),
            "put" => answer(stream, "409 Conflict", "", b"<Error><Code>ConditionalRequestConflict</Code></Error>"),
            "get" => answer(stream, "404 Not Found", "", b"<Error><Code>NoSuchKey</Code></Error>"),
            _ => answer(stream, "204 No Content", "", b""),
        }
    });
    let bucket = Arc::new(Hands::new(stub.address.port(), "b").bucket);
    let leases = LeaseObjects::new(bucket, Duration::from_secs(10));
    let location = SourceRef { source: "far".into(), path: MediaPath::parse("a.jpg").unwrap() };
    let version = SourceVersion { bytes: 1, modified_ns: 2, etag: None, file_hash: None };
    let key = RenditionKey::new(&location, &version, "x", ImageFormat::Webp);
    let claimed = tokio::runtime::Runtime::new().unwrap().block_on(async {
        tokio::time::timeout(Duration::from_secs(10), leases.claim(&key, &mut Watch::default())).await
    });
    assert!(matches!(claimed, Ok(Ok(Claim::Theirs))), "{}", stub.asked().len());
}

#[test]
fn leases_of_killed_gates_are_swept_and_living_ones_are_not() {
    if !buckets::is_there("s3s-fs") {
        return;
    }
    let far = Far::start("s3s-fs", &More { rest: "[coordination]\nlease_seconds = 7\n", ..More::default() });
    let key = |name: &str| format!("pictures/v1/r1/.tmp-drafts/{name}");
    for name in [".lease-old.webp", ".tmp-create-old", ".lease-new.webp", "foreign"] {
        far.renditions.run(far.renditions.bucket.put(&key(name), b"gate 1"[..].into(), "text/plain")).unwrap();
        if name != ".lease-new.webp" {
            // The store's date of it is the file's.
            let file =
                std::fs::File::options().write(true).open(far.site.path("far/renditions").join(key(name))).unwrap();
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(2 * 3600)).unwrap();
        }
    }
    let leftovers = |arguments: &[&str]| {
        let output = far.site.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["leftovers"].as_u64().unwrap()
    };
    assert_eq!((leftovers(&["gc", "--dry-run"]), leftovers(&["gc"]), leftovers(&["gc"])), (2, 2, 0));
    let left = far.renditions.run(far.renditions.bucket.list("pictures")).unwrap();
    let left: Vec<String> = left.into_iter().map(|(key, _)| key).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!([".lease-new.webp", "foreign"].iter().all(|name| left.contains(&key(name))), "{left:?}");
}

/// Hosts, ports, TLS, the bucket in the path or in the host's name; with a cache and without.
#[test]
fn nginx_takes_what_is_printed_for_every_store() {
    let site = Site::new("");
    let directory = site.path("nginx");
    std::fs::create_dir(&directory).unwrap();
    let bucket = "bucket = \"renditions\"\naccess_key_id = \"a\"\nsecret_access_key = \"canary\"\n";
    for (table, wanted) in [
        ("endpoint = \"http://127.0.0.1\"\n", "proxy_pass http://sendimage_store/renditions/;"),
        (
            "endpoint = \"https://127.0.0.1:8443\"\nprefix = \"a/b/\"\n",
            "proxy_pass https://sendimage_store/renditions/a/b/;",
        ),
        ("endpoint = \"https://[::1]\"\n", "proxy_set_header Host [::1];"),
        ("endpoint = \"https://localhost\"\n", "proxy_ssl_verify on;"),
    ] {
        for offload in ["", "[offload]\nstore_cache_max_bytes = 0\n"] {
            site.configure(&format!("[store]\nkind = \"s3\"\n[store.s3]\n{table}{bucket}{offload}"));
            let text = site.printed_conf("gate.sock", &directory, &[]);
            assert!(text.contains(wanted) && !text.contains("canary"), "{text}");
            let conf = directory.join("nginx.conf");
            std::fs::write(&conf, &text).unwrap();
            let mut nginx = std::process::Command::new("nginx");
            nginx.env("PATH", system_path()).args(["-t", "-e", "stderr", "-p"]).arg(&directory).arg("-c").arg(&conf);
            let output = nginx.output().unwrap();
            assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
        }
        // The others know no way to a store, and say so; a redirect needs none.
        for server in ["apache", "lighttpd", "caddy"] {
            let printed = site.run(&["proxy-conf", "--server", server]);
            assert!(!printed.status.success(), "{server}");
        }
    }
    for (mode, status) in [("redirect", 0), ("sendfile", 78), ("direct", 78), ("auth_request", 78)] {
        let endpoint = "endpoint = \"https://s3.example\"\n";
        site.configure(&format!(
            "[store]\nkind = \"s3\"\n[store.s3]\n{endpoint}{bucket}[offload]\nmode = \"{mode}\"\n"
        ));
        for server in ["nginx", "apache", "lighttpd", "caddy"] {
            let printed = site.run(&["proxy-conf", "--server", server]);
            let says = String::from_utf8_lossy(&printed.stderr).into_owned();
            assert_eq!(printed.status.code(), Some(status), "{server} {mode}: {says}");
            assert!(status == 0 || says.contains("there are no files to send"), "{says}");
        }
    }
}

/// What becomes of a request for an original, and what the client is told.
#[test]
fn every_failure_of_an_original_has_its_status() {
    if !buckets::is_there("s3s-fs") {
        return;
    }
    const BROKEN: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    const BUSY: &str = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    const DENIED: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    const MISSING: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    const ELSEWHERE: &str =
        "HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    const NO_BUCKET: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 45\r\nConnection: close\r\n\r\n<Error><Code>NoSuchBucket</Code></Error>     ";
    const SHORT: &str = "HTTP/1.1 200 OK\r\nETag: \"a\"\r\nLast-Modified: Sat, 21 Nov 2026 21:00:00 GMT\r\nContent-Length: 1000\r\n\r\nabc";
    const HEAD: &str = "HEAD /originals/";
    const GET: &str = "GET /originals/";
    let far = Far::start(
        "s3s-fs",
        &More { source_s3: "timeout_seconds = 1\nfresh_seconds = 0\nstale_seconds = 0\n", ..More::default() },
    );
    let cases = [
        ("500", Way::Answer(HEAD, BROKEN, 99), 502, 3),
        ("503 SlowDown", Way::Answer(HEAD, BUSY, 99), 503, 3),
        ("503 once", Way::Answer(HEAD, BUSY, 1), 200, 0),
        ("403", Way::Answer(HEAD, DENIED, 99), 502, 1),
        ("404", Way::Answer(HEAD, MISSING, 99), 404, 1),
        ("404 of the bytes", Way::Answer(GET, NO_BUCKET, 99), 503, 0),
        ("a redirect", Way::Answer(HEAD, ELSEWHERE, 99), 502, 1),
        ("reset", Way::Cut(HEAD, 0), 503, 3),
        ("refused", Way::Shut, 503, 0),
        ("silence", Way::Silent, 504, 0),
        ("a byte at a time", Way::Drip(GET, Duration::from_millis(20)), 504, 0),
        ("truncated", Way::Cut(GET, 2000), 503, 0),
        ("shorter than it says", Way::Answer(GET, SHORT, 99), 502, 0),
        ("500 for the bytes", Way::Answer(GET, BROKEN, 99), 502, 0),
    ];
    for (number, (name, way, status, asked)) in cases.into_iter().enumerate() {
        far.originals.add("photo_land.jpg", &format!("{number}.jpg"));
        let url = far.sign(&format!("{number}.jpg"), "width-60");
        far.relay.take();
        far.relay.set(way);
        let began = Instant::now();
        let answer = far.site.gate("GET", &url, "");
        assert_eq!(answer.status, status, "{name}: {}", far.site.log());
        assert!(began.elapsed() < Duration::from_millis(2500), "{name}: {:?}", began.elapsed());
        if asked > 0 {
            let heads = far.relay.take().iter().filter(|line| line.starts_with(HEAD)).count();
            assert_eq!(heads, asked, "{name}");
        }
        far.relay.set(Way::Open);
        let stored = far.stored().len();
        let back = Instant::now();
        wait_for(Duration::from_secs(2), || far.site.gate("GET", &url, "").status == 200)
            .unwrap_or_else(|()| panic!("{name}: {}", far.site.log()));
        assert_eq!(far.stored().len(), stored + usize::from(status != 200), "{name}: only now");
        println!("{name}: {status}, and served {:.0} ms after it was over", back.elapsed().as_secs_f64() * 1e3);
    }
    for class in ["failed", "unavailable", "timed_out"] {
        assert!(far.site.metric(&format!("sendimage_source_errors_total{{class=\"{class}\"}}")) > 0.0, "{class}");
    }
    far.site.assert_logs("403 Forbidden");
}

#[test]
fn a_put_that_fails_leaves_nothing_to_be_seen() {
    if !buckets::is_there("s3s-fs") {
        return;
    }
    const BUSY: &str = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    const DENIED: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    const PUT: &str = "PUT /renditions/";
    // A lease is put, too: here only renditions are.
    let alone = "[coordination]\nkind = \"none\"\n";
    let far = Far::start("s3s-fs", &More { store_s3: "timeout_seconds = 1\n", rest: alone, ..More::default() });
    far.originals.add("photo_land.jpg", "a.jpg");
    // What a probe found is known by then: the record's own PUT is no part of this.
    assert_eq!(far.site.gate("GET", &far.sign("a.jpg", "width-50"), "").status, 200);
    let cases = [
        ("503 SlowDown", Way::Answer(PUT, BUSY, 99), 503, "s3_busy"),
        ("503 twice", Way::Answer(PUT, BUSY, 2), 200, ""),
        ("403", Way::Answer(PUT, DENIED, 99), 503, "s3_denied"),
        ("refused", Way::Shut, 503, "s3_unreachable"),
    ];
    for (number, (name, way, status, kind)) in cases.into_iter().enumerate() {
        let url = far.sign("a.jpg", &format!("width-{}", 60 + number));
        let before = far.stored().len();
        far.relay.set(way);
        let answer = far.site.gate("GET", &url, "");
        assert_eq!(answer.status, status, "{name}: {}", far.site.log());
        assert_eq!(far.stored().len(), before + usize::from(status == 200), "{name}");
        if status != 200 {
            assert!(answer.header("retry-after").is_some());
            assert!(far.site.metric(&format!("sendimage_store_errors_total{{kind=\"{kind}\"}}")) > 0.0, "{name}");
        }
        far.relay.set(Way::Open);
        assert_eq!(far.site.gate("GET", &url, "").status, 200, "{name}: {}", far.site.log());
        assert_eq!(far.stored().len(), before + 1, "{name}");
    }
}
