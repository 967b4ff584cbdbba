//! What a site may ask of the operations listener: URLs, renditions taken away, renditions made ahead.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    str::FromStr as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::harness::{OPS_TOKEN, Response, Site, exchange, wait_for};

fn config(more: &str) -> String {
    format!("{more}[ops]\ntoken = \"{OPS_TOKEN}\"\n")
}

const PRESETS: &str = "[presets]\nhero = \"fill-60x40|format-webp\"\n\
                       [preset_sets]\narticle = [\"width-50\", \"hero\", \"fill-20x20\"]\n";

/// A catalogue of a table with ids and files.
const CATALOGUE: &str = "[catalogue]\nkind = \"sqlite\"\nurl = \"sqlite://{dir}/db.sqlite3\"\nsource = \"media\"\n\
                         query = \"SELECT file FROM images WHERE id = ?\"\ncache_seconds = 60\n";

fn sql(site: &Site, statements: &[&str]) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let url = format!("sqlite://{}", site.path("db.sqlite3").display());
        let options = SqliteConnectOptions::from_str(&url).unwrap().create_if_missing(true);
        let mut database = SqliteConnection::connect_with(&options).await.unwrap();
        for statement in statements {
            sqlx::query(AssertSqlSafe(*statement)).execute(&mut database).await.unwrap();
        }
        database.close().await.unwrap();
    });
}

fn post(site: &Site, head: &str, body: &[u8]) -> Response {
    let head = format!("{head}Host: x\r\nConnection: close\r\n\r\n");
    exchange(TcpStream::connect(site.ops).unwrap(), &[head.as_bytes(), body].concat())
}

#[test]
fn without_a_token_in_the_config_there_is_nothing_to_call() {
    let site = Site::new("").serve();
    for path in ["/sign", "/purge", "/warm"] {
        let response = site.call(path, "{}");
        assert_eq!((response.status, response.text().as_str()), (404, "Not found\n"), "{path}");
    }
    assert_eq!(site.metric("sendimage_ops_calls_total{call=\"sign\",outcome=\"refused\"}"), 0.0);
}

#[test]
fn nobody_calls_without_the_token() {
    let site = Site::new(&config("")).serve();
    let longer = format!("Bearer {OPS_TOKEN}x");
    let good = format!("Bearer {OPS_TOKEN}");
    let twice = format!("{good}\r\nAuthorization: {good}");
    for authorization in ["", "Bearer", "Bearer ", "Bearer wrong", &good[..good.len() - 1], &longer, &twice, OPS_TOKEN]
    {
        for method in ["POST", "GET"] {
            for path in ["/sign", "/purge", "/warm"] {
                let header =
                    if authorization.is_empty() { "".into() } else { format!("Authorization: {authorization}\r\n") };
                let response =
                    post(&site, &format!("{method} {path} HTTP/1.1\r\n{header}Content-Length: 2\r\n"), b"{}");
                let challenge = response.header("www-authenticate");
                assert_eq!(
                    (response.status, challenge.as_deref()),
                    (401, Some("Bearer")),
                    "{method} {path} {authorization:?}"
                );
                assert_eq!(response.text(), "Unauthorized\n");
            }
        }
    }
    assert_eq!(site.metric("sendimage_ops_calls_total{call=\"purge\",outcome=\"refused\"}"), 16.0);
    let lower = post(
        &site,
        &format!(
            "POST /purge HTTP/1.1\r\nAuthorization: bearer {OPS_TOKEN}\r\nContent-Type: Application/JSON; charset=utf-8\r\nContent-Length: 11\r\n"
        ),
        b"{\"refs\":[]}",
    );
    assert_eq!(lower.status, 200, "the scheme's name has no case: {}", lower.text());
    assert!(!site.log().contains(OPS_TOKEN));
}

#[test]
fn calls_are_posts_of_json_and_their_bodies_are_bounded_in_length_and_time() {
    let site = Site::new(&config("[server]\nheader_timeout_seconds = 1\n")).serve();
    let authorized = format!("Authorization: Bearer {OPS_TOKEN}\r\n");
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        let response = post(&site, &format!("{method} /purge HTTP/1.1\r\n{authorized}"), b"");
        assert_eq!((response.status, response.header("allow").as_deref()), (405, Some("POST")), "{method}");
    }
    for kind in ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"] {
        let response = post(&site, &format!("POST /purge HTTP/1.1\r\n{authorized}{kind}Content-Length: 2\r\n"), b"{}");
        assert_eq!(response.status, 415, "{kind}");
    }
    let json = format!("POST /purge HTTP/1.1\r\n{authorized}Content-Type: application/json\r\n");
    // Told by its length alone: not a byte of it is sent.
    let told = post(&site, &format!("{json}Content-Length: 65537\r\n"), b"");
    assert_eq!((told.status, told.header("connection").as_deref()), (413, Some("close")));
    let mut chunks = Vec::new();
    for _ in 0..100 {
        chunks.extend_from_slice(format!("400\r\n{}\r\n", " ".repeat(1024)).as_bytes());
    }
    assert_eq!(post(&site, &format!("{json}Transfer-Encoding: chunked\r\n"), &chunks).status, 413);
    let largest = format!("{{\"refs\": []{}}}", " ".repeat((64 << 10) - 12));
    assert_eq!(post(&site, &format!("{json}Content-Length: 65536\r\n"), largest.as_bytes()).status, 200);

    let began = Instant::now();
    let mut stream = TcpStream::connect(site.ops).unwrap();
    stream.write_all(format!("{json}Content-Length: 100\r\n\r\n{{\"refs\"").as_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answer = String::new();
    while !answer.contains("\r\n\r\n") && began.elapsed() < Duration::from_secs(8) {
        // A byte now and then buys no time.
        let _ = stream.write_all(b" ");
        let mut buffer = [0; 1024];
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        if let Ok(read @ 1..) = stream.read(&mut buffer) {
            answer.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    }
    assert!(
        answer.starts_with("HTTP/1.1 408") && began.elapsed() < Duration::from_secs(4),
        "{:?} {answer}",
        began.elapsed()
    );
    assert_eq!(site.metric("sendimage_ops_calls_total{call=\"purge\",outcome=\"invalid\"}"), 11.0);
}

#[test]
fn callers_that_are_many_leave_health_and_metrics_alone() {
    let site = Site::new(&config("[server]\nheader_timeout_seconds = 8\n")).serve();
    let head = format!(
        "POST /warm HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OPS_TOKEN}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n"
    );
    // Some more than there are places for. Who looks whether all places are taken must not take one: a caller who comes at that
    // moment would be refused, and one place be free for good.
    const PLACES: usize = 128;
    const CALLERS: usize = PLACES + 12;
    let _callers: Vec<TcpStream> = (0..CALLERS)
        .map(|_| {
            let mut stream = TcpStream::connect(site.ops).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    let refused = || site.metric("sendimage_ops_calls_total{call=\"warm\",outcome=\"failed\"}");
    wait_for(Duration::from_secs(6), || refused() >= (CALLERS - PLACES) as f64)
        .unwrap_or_else(|()| panic!("no bound: {} refused\n{}", refused(), site.log()));
    let busy = || site.call("/purge", r#"{"refs": []}"#);
    assert_eq!((busy().status, refused()), (503, (CALLERS - PLACES) as f64), "{}", site.log());
    assert!(busy().header("retry-after").is_some());
    assert_eq!(site.ops("/health/ready").unwrap().status, 200);
    assert!(site.metric("sendimage_ops_calls_total{call=\"purge\",outcome=\"failed\"}") >= 2.0);
    wait_for(Duration::from_secs(40), || busy().status == 200).expect("bodies that do not come keep nobody for long");
}

#[test]
fn what_is_wrong_with_a_call_is_said_with_the_fields_name() {
    let site = Site::new(&config(PRESETS)).serve();
    for (path, body, says) in [
        ("/sign", r#"{"spec": "width-5"}"#, "missing field `ref`"),
        ("/sign", r#"{"ref": 42, "spec": "width-5"}"#, "ref: invalid type: integer `42`, expected a string"),
        (
            "/sign",
            r#"{"ref": "42", "spec": "width-5", "specs": []}"#,
            "specs: unknown field `specs`, expected one of `ref`",
        ),
        ("/sign", r#"{"ref": "42", "ref": "43", "spec": "width-5"}"#, "duplicate field `ref`"),
        ("/sign", r#"{"ref": "42"}"#, "spec: give this or preset_set"),
        ("/sign", r#"{"ref": "42", "spec": "hero", "preset_set": "article"}"#, "preset_set: give this or spec"),
        ("/sign", r#"{"ref": "42", "spec": "hero", "expires": "soon"}"#, "expires: a time is a number and a unit"),
        (
            "/sign",
            r#"{"ref": "42", "spec": "hero", "expires": -1}"#,
            "expires: invalid type: integer `-1`, expected a number of seconds",
        ),
        ("/sign", r#"{"ref": "42", "spec": "hero", "expires": 18446744073709551615}"#, "expires: a link works"),
        ("/sign", r#"{"ref": "42", "spec": "hero", "scheme": "rsa"}"#, "scheme: unknown variant `rsa`"),
        (
            "/sign",
            r#"{"ref": "42", "spec": "hero", "scheme": "wagtail"}"#,
            "scheme: the route \"images\" has no wagtail key",
        ),
        ("/sign", r#"{"ref": "42", "spec": "hero", "route": "nope"}"#, "route: choose one of the routes images"),
        ("/sign", r#"{"ref": "nope/a.jpg", "spec": "hero"}"#, "ref: there is no [sources.nope]"),
        ("/sign", r#"{"ref": "42", "spec": "widht-5"}"#, "spec: \"widht-5\" is no preset and not a filter spec"),
        (
            "/sign",
            r#"{"ref": "42", "preset_set": "nope"}"#,
            "preset_set: there is no preset set \"nope\"; the config has: article",
        ),
        ("/sign", r#"{"ref": "42", "spec": "hero", "download": "a\u0000"}"#, "download: "),
        ("/sign", r#"{"ref": "42", "spec": "hero", "filename": "a/b"}"#, "filename: "),
        ("/sign", "[]", "The body must be a JSON object"),
        ("/purge", r#"[["42"]]"#, "The body must be a JSON object"),
        ("/purge", "", "The body must be a JSON object"),
        ("/sign", "{", "EOF"),
        ("/sign", r#"{"ref": "42", "spec": "hero"} x"#, "trailing characters"),
        ("/purge", "{}", "refs: give this, or source"),
        ("/purge", r#"{"refs": "42"}"#, "refs: invalid type"),
        ("/purge", r#"{"refs": ["42", 7]}"#, "refs[1]: invalid type"),
        ("/purge", r#"{"refs": ["42", "media/../a.jpg"]}"#, "refs[1]: \"media/../a.jpg\" is neither an image id"),
        ("/warm", r#"{"refs": ["42"]}"#, "specs: give this or preset_set"),
        (
            "/warm",
            r#"{"refs": ["42"], "specs": ["width-5"], "preset_set": "article"}"#,
            "preset_set: give this or specs",
        ),
        ("/warm", r#"{"refs": ["42"], "specs": ["width-5", "nope"]}"#, "specs[1]: \"nope\" is no preset"),
    ] {
        let response = site.call(path, body);
        assert_eq!(response.status, 400, "{path} {body}: {}", response.text());
        assert!(response.text().starts_with(says), "{path} {body}: {}", response.text());
    }
    let many: Vec<String> = (0..5000).map(|id| id.to_string()).collect();
    let response = site.call("/warm", &json!({"refs": many, "specs": ["width-1", "width-2", "width-3"]}).to_string());
    assert_eq!(response.status, 400);
    assert!(response.text().starts_with("refs: 15000 renditions"), "{}", response.text());
    assert_eq!(site.metric("sendimage_warmed_total{outcome=\"failed\"}"), 0.0, "nothing was begun");
}

#[test]
fn what_is_signed_is_served() {
    let more = format!("{PRESETS}[signing]\nsecret = \"0123456789abcdef\"\nwagtail_keys = [\"the site's\"]\n");
    let site = Site::new(&config(&format!("{more}{CATALOGUE}"))).with_nginx().serve();
    site.add("photo_land.jpg", "2024/café 1.jpg");
    sql(&site, &["CREATE TABLE images (id INTEGER, file TEXT)", "INSERT INTO images VALUES (42, '2024/café 1.jpg')"]);
    let sign = |body: Value| site.called("/sign", body);

    let set = sign(json!({"ref": "42", "preset_set": "article"}));
    let urls = set["urls"].as_object().unwrap();
    assert_eq!(urls.len(), 3);
    for (spec, url) in urls {
        assert_eq!(site.nginx("GET", &site.target(url), "").status, 200, "{spec} {url}");
        let printed = site.sign(&["42", spec]);
        assert_eq!(site.target(url), printed, "as the command prints it");
    }
    for (body, disposition) in [
        (json!({"ref": "media/2024/café 1.jpg", "spec": "hero"}), "inline"),
        (json!({"ref": "42", "spec": "width-30", "download": "Ünï \"1\".jpg", "expires": "1h"}), "attachment"),
        (json!({"ref": "42", "spec": "width-30", "scheme": "wagtail", "filename": "x.jpg"}), "inline"),
        (json!({"ref": "42", "spec": "width-30", "expires": 90, "route": "images"}), "inline"),
    ] {
        let target = site.target(&sign(body.clone())["url"]);
        let response = site.nginx("GET", &target, "");
        assert_eq!(response.status, 200, "{body}: {target}");
        assert!(response.header("content-disposition").unwrap().starts_with(disposition), "{body}");
    }
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    for (life, seconds) in [(json!("1h"), 3600), (json!(60), 60), (json!("2d"), 172_800)] {
        let before = now();
        let target = site.target(&sign(json!({"ref": "42", "spec": "hero", "expires": life}))["url"]);
        let expires: u64 = target.split_once("?expires=").unwrap().1.parse().unwrap();
        assert_eq!(expires % 3600, 0, "a whole window, so that links made within one are equal: {target}");
        assert!(expires >= before + seconds && expires < now() + seconds + 3600, "{life} {target}");
    }
    let calls = site.metric("sendimage_ops_calls_total{call=\"sign\",outcome=\"done\"}");
    assert_eq!(calls, 8.0);
    let lines = || site.log().lines().filter(|line| line.contains("operations call")).count();
    // A thread of its own writes the log.
    let _ = wait_for(Duration::from_secs(5), || lines() >= 8);
    assert_eq!(lines(), 8, "one line for each\n{}", site.log());
}

#[test]
fn after_a_purge_nothing_is_left_and_nothing_is_believed() {
    for existence in ["check", "remember", "assume"] {
        let site = Site::new(&config(&format!("[store]\nexistence = \"{existence}\"\n"))).serve();
        for name in ["a.jpg", "b.jpg"] {
            site.add("photo_land.jpg", name);
        }
        let urls: Vec<String> =
            ["width-60", "width-70|format-webp"].iter().map(|spec| site.sign(&["media/a.jpg", spec])).collect();
        let beside = site.sign(&["media/b.jpg", "width-60"]);
        for url in urls.iter().chain([&beside]) {
            // Twice: the second time it is remembered.
            assert!((0..2).all(|_| site.gate("GET", url, "").status == 200));
        }
        let stored = site.stored();
        let bytes: u64 = stored.iter().map(|path| path.metadata().unwrap().len()).sum();
        let other = site.called("/purge", json!({"refs": ["media/b.jpg"]}));
        let purged = site.called("/purge", json!({"refs": ["media/a.jpg", "media/a.jpg", "nope/a.jpg", "7"]}));
        assert_eq!((&purged["images"], &purged["files"]), (&1.into(), &2.into()), "{purged}");
        assert_eq!(purged["unknown"], json!(["nope/a.jpg", "7"]));
        assert_eq!(purged["bytes"].as_u64().unwrap() + other["bytes"].as_u64().unwrap(), bytes, "{existence}");
        // The record is gone as well; a lease is given back behind the answer.
        let is_empty = || crate::harness::files(&site.path("renditions")).is_empty();
        wait_for(Duration::from_secs(10), is_empty).expect("nothing is left");
        assert_eq!(site.metric("sendimage_purged_files_total"), 3.0);

        // No mark of nginx's is needed to find out.
        for url in urls.iter().chain([&beside]) {
            assert_eq!(site.gate("GET", url, "").status, 200, "{existence}");
        }
        assert_eq!(site.stored(), stored, "made again, under the same names");
        let again = site.called("/purge", json!({"refs": ["media/a.jpg"]}));
        assert_eq!(again["files"], 2, "{existence}");
        assert_eq!(site.called("/purge", json!({"refs": ["media/a.jpg"]}))["files"], 0, "{existence}");
    }
}

#[test]
fn a_failure_that_is_remembered_is_forgotten_with_the_rest() {
    let site = Site::new(&config("")).serve();
    site.add("photo_land.jpg", "good.jpg");
    let good = std::fs::read(site.path("media/good.jpg")).unwrap();
    let url = site.sign(&["media/a.jpg", "width-60"]);
    // The same length and date: only who is told can know.
    let date = SystemTime::now() - Duration::from_secs(1000);
    let write = |bytes: &[u8]| {
        std::fs::write(site.path("media/a.jpg"), bytes).unwrap();
        std::fs::File::options().write(true).open(site.path("media/a.jpg")).unwrap().set_modified(date).unwrap();
    };
    write(&vec![b'x'; good.len()]);
    assert_eq!(site.gate("GET", &url, "").status, 422);
    write(&good);
    assert_eq!(site.gate("GET", &url, "").status, 422, "it is remembered for a minute");
    site.called("/purge", json!({"refs": ["media/a.jpg"]}));
    assert_eq!(site.gate("GET", &url, "").status, 200);
}

#[test]
fn rows_that_are_changed_or_gone_are_purged_by_their_ids() {
    let site = Site::new(&config(CATALOGUE)).serve();
    for name in ["a.jpg", "b.jpg", "c.jpg"] {
        site.add("photo_land.jpg", name);
    }
    sql(
        &site,
        &[
            "CREATE TABLE images (id INTEGER, file TEXT)",
            "INSERT INTO images VALUES (1, 'a.jpg'), (2, 'b.jpg'), (3, '../outside.jpg')",
        ],
    );
    for id in ["1", "2"] {
        assert_eq!(site.gate("GET", &site.sign(&[id, "width-60"]), "").status, 200);
    }
    sql(&site, &["UPDATE images SET file = 'c.jpg' WHERE id = 1", "DELETE FROM images WHERE id = 2"]);
    // The catalogue's cache would say for a minute that nothing has changed.
    let warmed = site.called("/warm", json!({"refs": ["1", "2"], "specs": ["width-60"]}));
    assert_eq!((&warmed["created"], &warmed["failed"]), (&json!(1), &json!({"unknown": 1})), "the new file");
    assert_eq!(warmed["failures"][0]["ref"], "2");
    assert_eq!(site.gate("GET", &site.sign(&["2", "width-60"]), "").status, 404);
    assert_eq!(site.stored().len(), 3);

    sql(&site, &["UPDATE images SET file = 'b.jpg' WHERE id = 1", "INSERT INTO images VALUES (4, 'c.jpg')"]);
    let purged = site.called("/purge", json!({"refs": ["1", "2", "3", "99"]}));
    assert_eq!((&purged["images"], &purged["files"]), (&2.into(), &2.into()), "what it was and what it is: {purged}");
    assert_eq!(purged["unknown"], json!(["2", "3", "99"]), "told of already, leads outside, never was");
    let purged = site.called("/purge", json!({"refs": ["media/a.jpg"]}));
    assert_eq!(purged["files"], 1, "whatever no row knows any more has its path");
    assert!(site.stored().is_empty());

    assert_eq!(site.gate("GET", &site.sign(&["4", "width-60"]), "").status, 200);
    sql(&site, &["DELETE FROM images"]);
    std::fs::remove_file(site.path("media/c.jpg")).unwrap();
    assert_eq!(site.called("/purge", json!({"refs": ["4"]}))["files"], 1, "its row is gone, and remembered");
    assert_eq!(site.gate("GET", &site.sign(&["4", "width-60"]), "").status, 404);
}

#[test]
fn a_purge_is_told_when_the_catalogue_or_the_store_cannot() {
    let site = Site::new(&config(CATALOGUE)).serve();
    let response = site.call("/purge", r#"{"refs": ["1"]}"#);
    assert_eq!((response.status, response.header("retry-after").is_some()), (503, true), "{}", response.text());
    let warmed = site.called("/warm", json!({"refs": ["1"], "specs": ["width-60"]}));
    assert_eq!(warmed["failed"], json!({"catalogue": 1}));
    // A folder of the store that is none.
    std::fs::create_dir_all(site.path("renditions")).unwrap();
    let _ = std::fs::remove_dir_all(site.path("renditions/r1"));
    std::fs::write(site.path("renditions/r1"), "").unwrap();
    assert_eq!(site.call("/purge", r#"{"refs": ["media/a.jpg"]}"#).status, 503);
    assert_eq!(site.metric("sendimage_ops_calls_total{call=\"purge\",outcome=\"failed\"}"), 2.0);
}

/// Clients ask without a pause while their images are purged without a pause: the purge is never seen.
#[test]
fn every_answer_under_purges_is_right() {
    for config_of_it in ["", "[store]\nexistence = \"assume\"\n", "[offload]\nmode = \"auth_request\"\n"] {
        let site = Site::new(&config(config_of_it)).with_nginx().serve();
        site.add("photo_land.jpg", "a.jpg");
        site.add("photo_port.jpg", "b.jpg");
        let urls: Vec<(String, Vec<u8>)> = [
            ["media/a.jpg", "width-60"],
            ["media/a.jpg", "width-200|format-webp"],
            ["media/b.jpg", "fill-50x50"],
            ["media/b.jpg", "trim-10|width-40"],
        ]
        .iter()
        .map(|arguments| {
            let url = site.sign(arguments);
            let response = site.nginx("GET", &url, "");
            assert_eq!(response.status, 200, "{arguments:?}");
            (url, response.body)
        })
        .collect();
        let (done, answers, twice) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        let (begun, ended) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut files = 0;
        std::thread::scope(|scope| {
            for at in 0..4 {
                let (site, urls, done, answers) = (&site, &urls, &done, &answers);
                let (begun, ended, twice) = (&begun, &ended, &twice);
                scope.spawn(move || {
                    for (url, bytes) in urls.iter().cycle().skip(at) {
                        if done.load(Relaxed) {
                            break;
                        }
                        let before = ended.load(Relaxed);
                        let response = site.nginx("GET", url, "");
                        // nginx comes back once. Whoever is met a second time while it does, by another purge or by the end of one
                        // that had waited for a render, is told so by nginx.
                        if response.status == 404 && begun.load(Relaxed) > before {
                            twice.fetch_add(1, Relaxed);
                            continue;
                        }
                        let is_right = response.status == 200 && response.body == *bytes;
                        if !is_right {
                            done.store(true, Relaxed);
                        }
                        assert!(
                            is_right,
                            "{config_of_it} {url}: {} {}\n{}",
                            response.status,
                            response.text(),
                            site.log()
                        );
                        answers.fetch_add(1, Relaxed);
                    }
                });
            }
            let (end, latest) = (Instant::now() + Duration::from_secs(4), Instant::now() + Duration::from_secs(60));
            let is_enough = || Instant::now() > end && answers.load(Relaxed) > 100 && ended.load(Relaxed) > 10;
            while !is_enough() && Instant::now() < latest && !done.load(Relaxed) {
                begun.fetch_add(1, Relaxed);
                let purged = site.called("/purge", json!({"refs": ["media/a.jpg", "media/b.jpg"]}));
                ended.fetch_add(1, Relaxed);
                files += purged["files"].as_u64().unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
            done.store(true, Relaxed);
        });
        let (answers, purges, twice) = (answers.into_inner(), ended.into_inner(), twice.into_inner());
        println!(
            "{config_of_it:?}: {answers} answers beside {purges} purges of {files} files, {twice} met two of them"
        );
        // The busier the machine, the longer a render and the more purges meet it.
        assert!(twice * 4 <= answers, "{twice} of {answers}");
        // With verdicts that nginx keeps, a rendition is made again only when one has run out.
        let enough = if config_of_it.contains("auth_request") { 4 } else { purges };
        assert!(answers > 100 && purges > 10 && files >= enough, "{answers} {purges} {files}");
    }
}

#[test]
fn what_is_warmed_is_there() {
    let site = Site::new(&config(PRESETS)).serve();
    site.add("photo_land.jpg", "a.jpg");
    site.add("photo_port.jpg", "b.jpg");
    site.add("notimage.jpg", "bad.jpg");
    let warm = |body: Value| site.called("/warm", body);
    let set = json!({"refs": ["media/a.jpg", "media/b.jpg"], "preset_set": "article"});
    assert_eq!(warm(set.clone()), json!({"created": 6, "present": 0, "failed": {}}));
    assert_eq!(warm(set), json!({"created": 0, "present": 6, "failed": {}}));
    for spec in ["width-50", "hero", "fill-20x20"] {
        assert_eq!(site.gate("GET", &site.sign(&["media/a.jpg", spec]), "").status, 200);
    }
    assert_eq!(site.metric("sendimage_requests_total{outcome=\"hit\"}"), 3.0, "nobody waited");

    let auto = json!({"refs": ["media/a.jpg"], "specs": ["width-90|format-auto"]});
    assert_eq!(warm(auto), json!({"created": 3, "present": 0, "failed": {}}));
    let url = site.sign(&["media/a.jpg", "width-90|format-auto"]);
    for (accept, kind) in [("image/avif,image/webp", "image/avif"), ("image/webp", "image/webp"), ("*/*", "image/jpeg")]
    {
        let response = site.gate("GET", &url, &format!("Accept: {accept}\r\n"));
        assert_eq!(response.header("content-type").as_deref(), Some(kind), "{accept}: the best at once");
    }
    let failed = warm(json!({"refs": ["media/bad.jpg", "media/gone.jpg", "7", "nope/a.jpg"], "specs": ["width-5"]}));
    assert_eq!(failed["failed"], json!({"gone": 1, "not_an_image": 1, "unknown": 2}));
    assert_eq!(failed["failures"].as_array().unwrap().len(), 4, "{failed}");
    assert_eq!(site.metric("sendimage_warmed_total{outcome=\"created\"}"), 9.0);
    assert_eq!(site.metric("sendimage_warmed_total{outcome=\"failed\"}"), 4.0);
    assert_eq!(warm(json!({"refs": [], "specs": ["width-5"]})), json!({"created": 0, "present": 0, "failed": {}}));
}

/// Sizes that take long to make, one worker.
const SLOW: &str = "[render]\nworkers = 1\n";

fn slow_specs(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("width-{}|format-avif-lossless", 300 - at)).collect()
}

#[test]
fn who_hangs_up_leaves_what_has_not_begun() {
    let site = Site::new(&config(SLOW)).serve();
    site.add("photo_land.jpg", "a.jpg");
    let body = json!({"refs": ["media/a.jpg"], "specs": slow_specs(40)}).to_string();
    let mut stream = TcpStream::connect(site.ops).unwrap();
    let head = format!(
        "POST /warm HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OPS_TOKEN}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    wait_for(Duration::from_secs(20), || !site.stored().is_empty()).expect("it has begun");
    drop(stream);
    wait_for(Duration::from_secs(20), || {
        site.metric("sendimage_ops_calls_total{call=\"warm\",outcome=\"left\"}") == 1.0
    })
    .expect("it is noticed");
    wait_for(Duration::from_secs(20), || site.metric("sendimage_render_memory_bytes") == 0.0).expect("it ends");
    // What had begun is still written; then nothing comes any more, long before all were made.
    let mut made = 0;
    wait_for(Duration::from_secs(60), || {
        let before = std::mem::replace(&mut made, site.stored().len());
        std::thread::sleep(Duration::from_secs(1));
        site.stored().len() == before && before == made
    })
    .expect("nothing goes on");
    assert!(made < 20, "{made}");
    site.assert_logs("the connection ended");
    // Its places are free again.
    assert_eq!(site.called("/warm", json!({"refs": ["media/a.jpg"], "specs": ["width-5"]}))["created"], 1);
}

#[test]
fn who_waits_for_what_is_being_warmed_waits_for_that_alone() {
    let site = Site::new(&config(SLOW)).serve();
    site.add("photo_land.jpg", "a.jpg");
    let specs = slow_specs(8);
    let urls: Vec<String> = specs.iter().map(|spec| site.sign(&["media/a.jpg", spec])).collect();
    std::thread::scope(|scope| {
        let body = json!({"refs": ["media/a.jpg"], "specs": specs});
        let warming = scope.spawn(|| site.called("/warm", body));
        wait_for(Duration::from_secs(20), || !site.stored().is_empty()).expect("it has begun");
        // The last that the queue would come to.
        let response = site.gate("GET", &urls[7], "");
        let made = site.stored().len();
        assert_eq!(response.status, 200);
        assert!(made <= 4, "{made} were made before the one that somebody waits for");
        assert_eq!(warming.join().unwrap(), json!({"created": 8, "present": 0, "failed": {}}));
    });
}
