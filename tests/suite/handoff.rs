//! Every hand-off by a real server: one table of behaviours, asked of each pair of web server and offload mode.
//!
//! Between server and gate stands a listener that writes down what it is asked, and can take a file away after the gate has
//! promised it.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use sendimage::{
    access::{Link, Scheme, Subject, Verifier},
    config::load,
};

use crate::buckets::{self, ObjectServer};
use crate::harness::{Response, SENDIMAGE, Site, exchange, free_port, has_front, parse, renditions, system_path};

/// A behaviour's name, and what is asked of a pair that has it.
type Behaviour = (&'static str, fn(&Pair));

/// What is asked of each pair. A redirect is followed, as a browser does, wherever "the answer" is spoken of.
const BEHAVIOURS: &[Behaviour] = &[
    ("the bytes are those of the stored file", bytes),
    ("HEAD tells the length and sends nothing", head),
    ("ranges", ranges),
    ("validators are the file's, and match", validators),
    ("refusals pass as they are", refusals),
    ("Content-Disposition holds any name", names),
    ("the target reaches the gate as it was sent", targets),
    ("caching and security headers are on the answer", headers),
    ("format-auto varies", negotiated),
    ("nothing of the hand-off is told", leaks),
    ("only the web server marks a second look", second_looks),
    ("cookies and passwords stay in front", credentials),
    ("nothing but the gate leads to the files", internals),
    ("methods", methods),
    ("bodies are refused or dropped", bodies),
    ("a file that vanishes", vanished),
];

macro_rules! pairs {
    ($($name:ident: $server:literal, $config:expr;)*) => {
        $(#[test]
        fn $name() {
            behave(stringify!($name), $server, $config);
        })*
    };
}

pairs! {
    nginx_accel: "nginx", "";
    nginx_accel_of_a_bucket: "nginx", S3;
    nginx_auth_request: "nginx", "mode = \"auth_request\"\nverdict_cache_seconds = 1\n";
    nginx_before_direct: "nginx", "mode = \"direct\"\n";
    nginx_redirect_301: "nginx", "mode = \"redirect\"\nredirect_status = 301\nredirect_url = \"/files/\"\n";
    nginx_redirect_302: "nginx", "mode = \"redirect\"\nredirect_url = \"/files/\"\n";
    nginx_redirect_307: "nginx", "mode = \"redirect\"\nredirect_status = 307\nredirect_url = \"/files/\"\n";
    apache_sendfile: "apache", "mode = \"sendfile\"\n";
    apache_before_direct: "apache", "mode = \"direct\"\n";
    apache_redirect: "apache", "mode = \"redirect\"\nredirect_url = \"/files/\"\n";
    lighttpd_sendfile: "lighttpd", "mode = \"sendfile\"\n";
    lighttpd_before_direct: "lighttpd", "mode = \"direct\"\n";
    lighttpd_redirect: "lighttpd", "mode = \"redirect\"\nredirect_url = \"/files/\"\n";
    caddy_accel: "caddy", "mode = \"accel\"\n";
    caddy_before_direct: "caddy", "mode = \"direct\"\n";
    caddy_redirect: "caddy", "mode = \"redirect\"\nredirect_url = \"/files/\"\n";
    direct_alone: "", "mode = \"direct\"\n";
}

const HEADERS: &str = "[headers]\naccess_control_allow_origin = \"https://app.example\"\ncross_origin_resource_policy = \"cross-origin\"\n";

/// Renditions in a bucket that nginx fetches from. The store keeps its objects as files where the folder would be.
const S3: &str = "mode = \"accel\"\nstore_cache_max_bytes = \"1MiB\"\n";

fn behave(name: &str, server: &'static str, offload: &'static str) {
    if !is_there(server) || (offload == S3 && !buckets::is_there("s3s-fs")) {
        return;
    }
    let pair = Pair::start(server, offload);
    let fails = |check: &fn(&Pair)| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&pair))).is_err();
    let failed: Vec<&str> = BEHAVIOURS.iter().filter(|(_, check)| fails(check)).map(|(what, _)| *what).collect();
    assert!(
        failed.is_empty(),
        "{name} (each above): {failed:#?}\n{}\n{}",
        pair.site.log(),
        pair.site.front_log(server)
    );
}

fn is_there(server: &str) -> bool {
    let there = server.is_empty() || has_front(server);
    if !there {
        eprintln!("SKIPPED: {server} is not installed (tests/run does that)");
    }
    there
}

/// A web server, what stands behind it, and the gate.
struct Pair {
    /// Empty: the gate alone.
    server: &'static str,
    redirects: bool,
    streams_itself: bool,
    /// By verdicts.
    judged: bool,
    site: Site,
    between: Arc<Between>,
    /// Where the renditions are, if not in a folder.
    _bucket: Option<ObjectServer>,
}

impl Pair {
    fn start(server: &'static str, offload: &'static str) -> Self {
        let config = format!("[offload]\n{offload}{HEADERS}");
        let site = Site::new(&config);
        let bucket = (offload == S3).then(|| ObjectServer::start("s3s-fs", site.folder.path(), &["renditions"]));
        if let Some(server) = &bucket {
            let lines = buckets::lines(server.port, "renditions", "");
            site.configure(&format!("[store]\nkind = \"s3\"\n[store.s3]\n{lines}{config}"));
        }
        let site = site.serve();
        let between = Between::stand(&site);
        let site = if server.is_empty() { site } else { site.with_front(server, "between.sock") };
        let has = |mode: &str| offload.contains(&format!("mode = \"{mode}\""));
        Self {
            server,
            redirects: has("redirect"),
            streams_itself: has("direct"),
            judged: has("auth_request"),
            site,
            between,
            _bucket: bucket,
        }
    }

    /// One request, as it is.
    fn ask(&self, method: &str, target: &str, headers: &str) -> Response {
        match self.server {
            "" => self.site.gate(method, target, headers),
            _ => self.site.front(method, target, headers),
        }
    }

    /// The answer with the image: behind the redirect, where there is one.
    fn answer(&self, method: &str, url: &str, headers: &str) -> Response {
        let first = self.ask(method, url, headers);
        if !self.redirects {
            return first;
        }
        assert!(matches!(first.status, 301 | 302 | 307), "{url} is answered {}: {}", first.status, first.text());
        assert_eq!(first.header("access-control-allow-origin").as_deref(), Some("https://app.example"));
        self.ask(method, &first.header("location").unwrap(), headers)
    }

    /// A rendition that no web server has heard of yet: its URL and its file.
    fn rendition(&self, name: &str, spec: &str) -> (String, PathBuf) {
        self.site.add("photo_land.jpg", name);
        let url = self.site.sign(&[&format!("media/{name}"), spec]);
        let before = self.site.stored();
        let response = self.site.gate("GET", &url, "");
        assert!(response.status < 400, "{url}: {}", response.text());
        let file = self.site.stored().into_iter().find(|file| !before.contains(file)).expect("it is stored");
        (url, file)
    }
}

fn bytes(pair: &Pair) {
    for (spec, media_type) in
        [("width-60", "image/jpeg"), ("width-61|format-webp", "image/webp"), ("width-62|format-png", "image/png")]
    {
        let (url, file) = pair.rendition("bytes.jpg", spec);
        // The second time a server may know the file.
        for _ in 0..2 {
            let answer = pair.answer("GET", &url, "");
            assert_eq!((answer.status, answer.header("content-type").as_deref()), (200, Some(media_type)));
            assert!(answer.body == fs::read(&file).unwrap());
        }
    }
    // What is not there yet is rendered on the way.
    pair.site.add("photo_land.jpg", "fresh.jpg");
    let answer = pair.answer("GET", &pair.site.sign(&["media/fresh.jpg", "width-50"]), "");
    assert_eq!((answer.status, answer.body.get(..3)), (200, Some(&[0xFF, 0xD8, 0xFF][..])));
}

fn head(pair: &Pair) {
    let (url, file) = pair.rendition("head.jpg", "width-60");
    let answer = pair.answer("HEAD", &url, "");
    let length = fs::metadata(file).unwrap().len().to_string();
    assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (200, Some(length), 0));
    assert_eq!(answer.header("content-type").as_deref(), Some("image/jpeg"));
}

fn ranges(pair: &Pair) {
    let (url, file) = pair.rendition("ranges.jpg", "width-60");
    let whole = fs::read(file).unwrap();
    let length = whole.len();
    for (range, expected) in
        [("5-14", 5..15), ("-7", length - 7..length), (&format!("{}-", length - 3), length - 3..length)]
    {
        let part = pair.answer("GET", &url, &format!("Range: bytes={range}\r\n"));
        assert_eq!((part.status, part.body.as_slice()), (206, &whole[expected.clone()]), "{range}");
        let told = format!("bytes {}-{}/{length}", expected.start, expected.end - 1);
        assert_eq!(part.header("content-range"), Some(told), "{range}");
    }
    assert_eq!(pair.answer("GET", &url, "Range: bytes=9999999-\r\n").status, 416);
    let outdated = pair.answer("GET", &url, "Range: bytes=5-14\r\nIf-Range: \"another\"\r\n");
    assert_eq!(
        (outdated.status, outdated.body == whole),
        (200, true),
        "a part of another picture fits none of this one"
    );
}

fn validators(pair: &Pair) {
    let (url, file) = pair.rendition("validators.jpg", "width-60");
    let whole = pair.answer("GET", &url, "");
    let modified = fs::metadata(&file).unwrap().modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(whole.header("last-modified"), Some(http_date(modified.as_secs())));
    let etag = whole.header("etag").unwrap();
    let status = |condition: &str| {
        let answer = pair.answer("GET", &url, condition);
        if answer.status == 304 {
            assert!(answer.body.is_empty());
            // lighttpd says nothing new about a published file that is unchanged.
            let says_again = !(pair.redirects && pair.server == "lighttpd");
            assert!(!says_again || answer.header("cache-control") == whole.header("cache-control"), "{condition}");
        }
        answer.status
    };
    assert_eq!(status(&format!("If-None-Match: {etag}\r\n")), 304);
    assert_eq!(status("If-None-Match: \"another\"\r\n"), 200);
    assert_eq!(status(&format!("If-Modified-Since: {}\r\n", http_date(modified.as_secs()))), 304);
    assert_eq!(status(&format!("If-Modified-Since: {}\r\n", http_date(modified.as_secs() - 1))), 200);
    // Another picture has another tag: a server that gave all files one would keep browsers from ever seeing a new one.
    let (other, _) = pair.rendition("validators.jpg", "width-61");
    let answer = pair.answer("GET", &other, &format!("If-None-Match: {etag}\r\n"));
    assert_eq!(answer.status, 200, "{:?}", answer.headers);
}

fn refusals(pair: &Pair) {
    let (url, _) = pair.rendition("refusals.jpg", "width-60");
    let altered = url.replace("width-60", "width-61");
    let nowhere = pair.site.sign(&["media/none.jpg", "width-60"]);
    for (url, status, sentence) in [
        (&altered, 403, "Forbidden"),
        (&nowhere, 404, "Not found"),
        (&bad_spec(&pair.site), 400, "Invalid filter spec (offset 0)"),
    ] {
        for method in ["GET", "HEAD"] {
            let refused = pair.ask(method, url, "Range: bytes=0-0\r\nIf-None-Match: *\r\n");
            assert_eq!(refused.status, status, "{url}: {}", refused.text());
            // nginx words the refusals of its subrequests itself, and lighttpd the heads of answers without a body.
            let worded = !(pair.judged && status == 403 || method == "HEAD");
            if worded {
                assert_eq!(refused.text().trim_end(), sentence);
                assert_eq!(refused.header("content-type").as_deref(), Some("text/plain; charset=utf-8"), "{url}");
            }
            for name in ["etag", "last-modified", "content-disposition", "vary", "location", "accept-ranges"] {
                assert_eq!(refused.header(name), None, "{name} of {url}");
            }
            nothing_leaks(&refused);
            if !worded {
                continue;
            }
            let caching = if status == 403 { "no-store" } else { "max-age=5, public" };
            assert_eq!(refused.header("cache-control").as_deref(), Some(caching), "{url}");
        }
    }
}

/// A spec that does not parse, under a good signature.
fn bad_spec(site: &Site) -> String {
    let verifier = Verifier::new(&load(Some(&site.config())).unwrap().config).unwrap();
    let subject = Subject::Path { source: "media".into(), path: "refusals.jpg".into() };
    verifier
        .sign(
            &verifier.table().routes()[0],
            Scheme::Native,
            &Link::new(&subject, "width0"),
            std::time::SystemTime::now(),
        )
        .unwrap()
}

fn names(pair: &Pair) {
    if pair.redirects {
        // The published file is fetched under the name that it is stored by.
        return;
    }
    let (url, _) = pair.rendition("été \"1\" ☃.jpg", "width-60");
    let answer = pair.answer("GET", &url, "");
    let expected = "inline; filename=\"_t_ \\\"1\\\" _.jpg\"; filename*=UTF-8''%C3%A9t%C3%A9%20%221%22%20%E2%98%83.jpg";
    assert_eq!(answer.header("content-disposition").as_deref(), Some(expected));
    let download = pair.site.sign(&["media/été \"1\" ☃.jpg", "width-60", "--download", "a/b ü.jpg"]);
    let answer = pair.answer("GET", &download, "");
    let expected = "attachment; filename=\"a_b _.jpg\"; filename*=UTF-8''a%2Fb%20%C3%BC.jpg";
    assert_eq!(answer.header("content-disposition").as_deref(), Some(expected));
}

fn targets(pair: &Pair) {
    let (url, file) = pair.rendition("deep/ünï %41 a+b&c.jpg", "width-60|format-jpeg");
    let whole = fs::read(file).unwrap();
    assert!(url.contains("%7C") && url.contains("%C3%BC") && url.contains("%2541"), "{url}");
    let download =
        pair.site.sign(&["media/deep/ünï %41 a+b&c.jpg", "width-60|format-jpeg", "--download", "a/b&c=é +.jpg"]);
    // Lower case is as good, and what needs no escape may have one: the signature is over what they stand for.
    for target in [url.clone(), download.clone(), download.replace("%C3%A9", "%c3%a9"), url.replace("media", "%6Dedia")]
    {
        let answer = pair.answer("GET", &target, "");
        assert_eq!((answer.status, answer.body == whole), (200, true), "{target}: {}", answer.text());
        if !pair.server.is_empty() {
            assert_eq!(pair.between.last_target(), target);
        }
    }
    // An encoded slash is no slash, wherever it stands.
    let smuggled = url.replace("/deep/", "%2Fdeep%2F");
    let answer = pair.ask("GET", &smuggled, "");
    assert!(answer.status < 500 && answer.status != 404, "{}: {}", answer.status, answer.text());
    if !pair.server.is_empty() {
        assert_eq!(pair.between.last_target(), smuggled);
    }
}

fn headers(pair: &Pair) {
    let (url, _) = pair.rendition("headers.jpg", "width-60");
    let caching = match (pair.redirects, pair.server) {
        (true, "lighttpd") => "max-age=3600",
        (true, _) => "public, max-age=3600",
        (false, _) => "max-age=3600, public",
    };
    for request in ["", "Range: bytes=0-9\r\n"] {
        let answer = pair.answer("GET", &url, request);
        for (name, value) in [
            ("cache-control", caching),
            ("content-security-policy", "default-src 'none'; sandbox"),
            ("x-content-type-options", "nosniff"),
            ("access-control-allow-origin", "https://app.example"),
            ("cross-origin-resource-policy", "cross-origin"),
            ("content-type", "image/jpeg"),
        ] {
            assert_eq!(answer.header(name).as_deref(), Some(value), "{name}, each once: {:?}", answer.headers);
        }
        assert_eq!(answer.header("vary"), None);
    }
    if pair.redirects {
        assert_eq!(pair.ask("GET", &url, "").header("cache-control").as_deref(), Some("max-age=3600, public"));
    }
}

fn negotiated(pair: &Pair) {
    let (url, _) = pair.rendition("auto.jpg", "width-60|format-auto");
    for (accept, media_type) in [("image/webp", "image/webp"), ("image/*", "image/jpeg")] {
        let accept = format!("Accept: {accept}\r\n");
        let first = pair.ask("GET", &url, &accept);
        assert_eq!(first.header("vary").as_deref(), Some("Accept"), "{:?}", first.headers);
        assert_eq!(pair.answer("GET", &url, &accept).header("content-type").as_deref(), Some(media_type));
    }
}

fn leaks(pair: &Pair) {
    let (url, _) = pair.rendition("leaks.jpg", "width-60");
    for request in ["", "Range: bytes=0-9\r\n", "Range: bytes=9999999-\r\n", "If-None-Match: *\r\n"] {
        nothing_leaks(&pair.ask("GET", &url, request));
        nothing_leaks(&pair.answer("GET", &url, request));
    }
}

fn nothing_leaks(answer: &Response) {
    for (name, value) in &answer.headers {
        let name = name.to_ascii_lowercase();
        let ours = ["sendfile", "x-accel", "sendimage"].iter().any(|part| name.contains(part));
        assert!(!ours, "{name}: {value}");
        assert!(!value.contains("renditions"), "{name}: {value}");
    }
}

fn second_looks(pair: &Pair) {
    if pair.server.is_empty() {
        return;
    }
    let (url, _) = pair.rendition("second.jpg", "width-60");
    for name in ["X-Sendimage-Again", "x-sendimage-again"] {
        let answer = pair.answer("GET", &url, &format!("{name}: 1\r\n{name}: 2\r\n"));
        assert_eq!(answer.status, 200);
        let asked = pair.between.last();
        assert!(!asked.contains("x-sendimage-again"), "{asked}");
    }
}

fn credentials(pair: &Pair) {
    if pair.server.is_empty() {
        return;
    }
    let (url, _) = pair.rendition("credentials.jpg", "width-60");
    assert_eq!(pair.answer("GET", &url, "Cookie: session=1\r\nAuthorization: Basic eDp5\r\n").status, 200);
    let asked = pair.between.last();
    assert!(!asked.contains("cookie") && !asked.contains("authorization"), "{asked}");
}

fn internals(pair: &Pair) {
    let (url, file) = pair.rendition("internals.jpg", "width-60");
    let path = file.strip_prefix(pair.site.path("renditions")).unwrap().display().to_string();
    fs::write(file.with_file_name(".tmp-1.webp"), "half an image").unwrap();
    let hidden = Path::new(&path).with_file_name(".tmp-1.webp").display().to_string();
    for target in [
        format!("/_renditions/{path}"),
        format!("/images/..%2f_renditions/{path}"),
        format!("/images/../_renditions/{path}"),
        format!("/{path}"),
        format!("/files/{hidden}"),
        "/files/".to_owned(),
        "/files/../sendimage.toml".to_owned(),
        "/files..%2fsendimage.toml".to_owned(),
        "/_sendimage_again".to_owned(),
        "/_verdict".to_owned(),
        "/".to_owned(),
    ] {
        let answer = pair.ask("GET", &target, &format!("X-Original-URI: {url}\r\nX-Sendfile: {}\r\n", file.display()));
        assert!(matches!(answer.status, 400 | 403 | 404), "{target}: {}", answer.status);
        assert!(!answer.text().contains("secret"), "{target}");
        assert_eq!(answer.header("cache-control").filter(|value| value.contains("3600")), None, "{target}");
    }
}

fn methods(pair: &Pair) {
    let (url, _) = pair.rendition("methods.jpg", "width-60");
    let options = pair.ask("OPTIONS", &url, "");
    assert_eq!((options.status, options.header("allow").as_deref()), (204, Some("GET, HEAD, OPTIONS")));
    for method in ["DELETE", "PUT", "POST", "PATCH"] {
        let refused = pair.ask(method, &url, "Content-Length: 0\r\n");
        assert!(matches!(refused.status, 400 | 405), "{method}: {}", refused.status);
        nothing_leaks(&refused);
    }
}

fn bodies(pair: &Pair) {
    let (url, _) = pair.rendition("bodies.jpg", "width-60");
    for length in [5, 3000] {
        let body = "x".repeat(length);
        let request = format!(
            "GET {url} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = match pair.server {
            "" => exchange(pair.site.gate_stream(), request.as_bytes()),
            _ => exchange(pair.site.nginx_stream(), request.as_bytes()),
        };
        // nginx drops a small one, and serves.
        let dropped = pair.server == "nginx" && length == 5 && matches!(answer.status, 200 | 301 | 302 | 307);
        assert!(dropped || matches!(answer.status, 400 | 413), "{length} bytes: {}", answer.status);
    }
    assert_eq!(pair.answer("GET", &url, "").status, 200, "the next request is none the worse");
}

fn vanished(pair: &Pair) {
    if pair.streams_itself {
        // The gate opens the file itself: there is no time between its look and its open for somebody else's.
        return;
    }
    let comes_back = !pair.redirects && pair.server != "lighttpd";
    for (method, spec) in [("GET", "width-70"), ("HEAD", "width-71"), ("GET", "width-72")] {
        let (mut url, file) = pair.rendition("vanished.jpg", spec);
        let whole = fs::read(&file).unwrap();
        if spec == "width-72" {
            url = pair.site.sign(&["media/vanished.jpg", spec, "--download", "a/b c.jpg"]);
        }
        pair.between.take(&file);
        let answer = pair.answer(method, &url, "");
        assert!(pair.between.has_taken(), "{method}: {:?}", answer);
        if comes_back {
            assert_eq!(answer.status, 200, "{method}: {}", answer.text());
            let length = answer.header("content-length");
            assert_eq!(length, Some(whole.len().to_string()));
            assert!(method == "HEAD" || answer.body == whole);
            assert_eq!(answer.header("cache-control").as_deref(), Some("max-age=3600, public"), "said once");
            let disposition = answer.header("content-disposition").unwrap();
            let expected = match spec {
                "width-72" => "attachment; filename=\"a_b c.jpg\"; filename*=UTF-8''a%2Fb%20c.jpg",
                _ => "inline; filename=\"vanished.jpg\"",
            };
            assert_eq!(disposition, expected, "said once");
            assert_eq!(pair.between.last_target(), url, "the second ask has the browser's own target");
        } else {
            // Nobody asks again. An error that no cache keeps, and the next request is served.
            assert_eq!(answer.status, 404, "{}", answer.text());
            for name in ["cache-control", "content-disposition", "etag", "last-modified"] {
                assert_eq!(answer.header(name), None, "{name}");
            }
            assert_eq!(pair.answer(method, &url, "").status, 200);
        }
    }
}

#[test]
fn redirects_lead_to_another_host_as_they_are() {
    for (server, status) in
        [("nginx", 301), ("nginx", 302), ("nginx", 307), ("apache", 301), ("lighttpd", 302), ("caddy", 307)]
    {
        if !is_there(server) {
            continue;
        }
        let config = format!(
            "[offload]\nmode = \"redirect\"\nredirect_status = {status}\nredirect_url = \"https://cdn.example/r%20s/\"\n{HEADERS}"
        );
        let site = Site::new(&config).serve().with_front(server, "gate.sock");
        site.add("photo_land.jpg", "a.jpg");
        let answer = site.front("GET", &site.sign(&["media/a.jpg", "width-50"]), "");
        let location = answer.header("location").unwrap();
        let path = location.strip_prefix("https://cdn.example/r%20s/").unwrap();
        assert!(site.path("renditions").join(path).is_file(), "{location}");
        assert_eq!(answer.status, status, "{server}");
        assert_eq!(answer.header("cache-control").as_deref(), Some("max-age=3600, public"), "{server}");
        assert_eq!(answer.header("access-control-allow-origin").as_deref(), Some("https://app.example"), "{server}");
    }
}

#[test]
fn a_store_with_an_odd_name_is_served_by_every_server() {
    for (server, mode, name) in [
        ("nginx", "accel", "odd é%41 {x};#"),
        ("apache", "sendfile", "odd é {x};# \\\"q\\\" 'z'"),
        ("lighttpd", "sendfile", "odd é%41 {x};#$y"),
        ("caddy", "accel", "odd é%41 ;# $y"),
    ] {
        if !is_there(server) {
            continue;
        }
        let site = Site::new(&format!("[offload]\nmode = \"{mode}\"\n"));
        let config = fs::read_to_string(site.config()).unwrap();
        fs::write(site.config(), config.replace("/renditions\"", &format!("/{name}\""))).unwrap();
        let site = site.serve().with_front(server, "gate.sock");
        site.add("photo_land.jpg", "a.jpg");
        let answer = site.front("GET", &site.sign(&["media/a.jpg", "width-50"]), "");
        assert_eq!(answer.status, 200, "{server}: {}", site.front_log(server));
        let stored = renditions(&site.path(&name.replace("\\\"", "\"")));
        assert!(stored.len() == 1 && answer.body == fs::read(&stored[0]).unwrap(), "{server}: {stored:?}");
    }
}

#[test]
fn a_gate_that_is_down_is_passed_over() {
    let dead = format!("127.0.0.1:{}", free_port());
    for (server, mode) in [("apache", "sendfile"), ("lighttpd", "sendfile"), ("caddy", "accel")] {
        if !is_there(server) {
            continue;
        }
        let site = Site::new(&format!("[offload]\nmode = \"{mode}\"\n")).serve();
        let site = site.with_front_told(server, "gate.sock", &["--upstream", &dead]);
        site.add("photo_land.jpg", "a b.jpg");
        let url = site.sign(&["media/a b.jpg", "width-50|format-webp"]);
        for round in 0..6 {
            let answer = site.front("GET", &url, "");
            assert_eq!((answer.status, answer.body.get(..4)), (200, Some(&b"RIFF"[..])), "{server}, request {round}");
        }
        if server != "lighttpd" {
            fs::remove_file(&site.stored()[0]).unwrap();
            assert_eq!(site.front("GET", &url, "").status, 200, "{server}");
        }
    }
}

#[test]
fn every_server_takes_what_is_printed() {
    let config = "[offload]\nredirect_url = \"/pub.files/\"\n\
                  [headers]\naccess_control_allow_origin = \"https://a.example 'x' #;\"\n\
                  [routes.a]\nprefix = \"/a.b/\"\noffload = \"direct\"\n\
                  [routes.b]\nprefix = \"/a.b/c/\"\noffload = \"redirect\"\n\
                  [routes.c]\nprefix = \"/c~-_/\"\noffload = \"MODE\"\n";
    for (server, mode) in [("apache", "sendfile"), ("lighttpd", "sendfile"), ("caddy", "accel")] {
        if !is_there(server) {
            continue;
        }
        let site = Site::new(&config.replace("MODE", mode));
        let directory = site.path("d");
        fs::create_dir(&directory).unwrap();
        for upstreams in [&[][..], &["--upstream", "10.0.0.2:80", "--upstream", "[fd00::1]:80"]] {
            let whole = site.printed_conf("gate.sock", &directory, &[&["--server", server], upstreams].concat());
            assert_taken(&site, server, &whole);
            let output = Command::new(SENDIMAGE)
                .args(["proxy-conf", "--server", server, "-c"])
                .arg(site.config())
                .args(upstreams)
                .env("SENDIMAGE_SERVER__PUBLIC_URL", "https://images.example")
                .output()
                .unwrap();
            let part = String::from_utf8(output.stdout.clone()).unwrap();
            // What a system's own file says around it.
            let around = match server {
                "apache" => whole.lines().take_while(|line| !line.starts_with('<')).collect::<Vec<_>>().join("\n"),
                "lighttpd" => {
                    "server.port = 1\nserver.document-root = \"/\"\nserver.modules = ( \"mod_access\" )".to_owned()
                }
                _ => String::new(),
            };
            assert!(part.replace('\\', "").contains("images.example"), "{server}: {output:?}");
            assert_taken(&site, server, &format!("{around}\n{part}"));
        }
    }
}

fn assert_taken(site: &Site, server: &str, text: &str) {
    let conf = site.path("taken");
    fs::write(&conf, text).unwrap();
    let (program, arguments): (_, &[&str]) = match server {
        "apache" => ("apache2", &["-t", "-f"]),
        "lighttpd" => ("lighttpd", &["-tt", "-f"]),
        _ => ("caddy", &["validate", "--adapter", "caddyfile", "--config"]),
    };
    let output = Command::new(program)
        .args(arguments)
        .arg(&conf)
        .env("PATH", system_path())
        .env("HOME", site.path("d"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}\n{text}");
}

/// What stands between a web server and the gate.
struct Between {
    gate: PathBuf,
    /// Heads of requests, as they came.
    asked: Mutex<Vec<String>>,
    /// The file to take away once the gate has promised it.
    target: Mutex<Option<PathBuf>>,
    taken: AtomicBool,
}

impl Between {
    fn stand(site: &Site) -> Arc<Self> {
        let listener = UnixListener::bind(site.path("between.sock")).unwrap();
        fs::set_permissions(site.path("between.sock"), fs::Permissions::from_mode(0o666)).unwrap();
        let between = Arc::new(Self {
            gate: site.path("gate.sock"),
            asked: Mutex::default(),
            target: Mutex::default(),
            taken: AtomicBool::new(false),
        });
        let one = Arc::clone(&between);
        thread::spawn(move || {
            for front in listener.incoming().flatten() {
                let one = Arc::clone(&one);
                // A connection that its server drops is no failure.
                thread::spawn(move || while one.pass_on(&front).is_ok() {});
            }
        });
        between
    }

    /// One request to the gate, and its answer back.
    fn pass_on(&self, mut front: &UnixStream) -> std::io::Result<()> {
        let mut from_front = BufReader::with_capacity(1, front);
        let head = read_head(&mut from_front)?;
        let mut body = vec![0; length_of(&head)];
        from_front.read_exact(&mut body)?;
        let mut gate = UnixStream::connect(&self.gate)?;
        gate.write_all(head.as_bytes())?;
        gate.write_all(&body)?;
        self.asked.lock().unwrap().push(head.clone());
        let mut from_gate = BufReader::new(&gate);
        let answer = read_head(&mut from_gate)?;
        let parsed = parse(answer.as_bytes());
        let bodiless = head.starts_with("HEAD ") || matches!(parsed.status, 204 | 304);
        let mut body = vec![0; if bodiless { 0 } else { length_of(&answer) }];
        from_gate.read_exact(&mut body)?;
        let promises = ["x-accel-redirect", "x-sendfile", "x-sendimage-path", "location"];
        if promises.iter().any(|name| parsed.header(name).is_some())
            && let Some(file) = self.target.lock().unwrap().take()
        {
            fs::remove_file(file)?;
            self.taken.store(true, Ordering::SeqCst);
        }
        front.write_all(answer.as_bytes())?;
        front.write_all(&body)?;
        match head.to_ascii_lowercase().contains("connection: close") {
            true => Err(std::io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }

    /// Takes this file away after the next promise.
    fn take(&self, file: &Path) {
        self.taken.store(false, Ordering::SeqCst);
        *self.target.lock().unwrap() = Some(file.to_owned());
    }

    fn has_taken(&self) -> bool {
        self.taken.load(Ordering::SeqCst)
    }

    /// The head of the latest request, in lower case.
    fn last(&self) -> String {
        self.asked.lock().unwrap().last().expect("a request").to_ascii_lowercase()
    }

    /// The target of the latest request, or the one that it wants a verdict on.
    fn last_target(&self) -> String {
        let asked = self.asked.lock().unwrap();
        let head = asked.last().expect("a request");
        let original = head.lines().find_map(|line| line.strip_prefix("X-Original-URI: "));
        original.map_or_else(|| head.split(' ').nth(1).unwrap().to_owned(), str::to_owned)
    }
}

fn read_head(from: &mut impl BufRead) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if from.read_until(b'\n', &mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn length_of(head: &str) -> usize {
    let lengths = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.map(|(_, value)| value.parse().unwrap()).next().unwrap_or(0)
}

/// A time as HTTP writes it.
fn http_date(seconds: u64) -> String {
    let at = format!("@{seconds}");
    let format = "+%a, %d %b %Y %H:%M:%S GMT";
    let date = Command::new("date").env("LC_ALL", "C").args(["-u", "-d", &at, format]).output().unwrap();
    String::from_utf8(date.stdout).unwrap().trim().to_owned()
}

const TOKENS: &str = "[auth]\nmode = \"jwt\"\n[auth.jwt]\ncookie = \"image_token\"\n\
    keys = [{ kid = \"site\", algorithm = \"HS256\", secret = \"a secret that site and service share\" }]\n";

/// Who asks goes along, and the answer's caching says that it is theirs, whichever server is in front.
#[test]
fn tokens_pass_every_server_and_answers_stay_private() {
    for (server, offload) in [
        ("nginx", "mode = \"accel\"\n"),
        ("nginx", "mode = \"auth_request\"\nverdict_cache_seconds = 1\n"),
        ("nginx", "mode = \"direct\"\n"),
        ("apache", "mode = \"sendfile\"\n"),
        ("lighttpd", "mode = \"sendfile\"\n"),
        ("caddy", "mode = \"accel\"\n"),
        ("", "mode = \"direct\"\n"),
    ] {
        if !is_there(server) {
            continue;
        }
        let site = Site::new(&format!("[offload]\n{offload}{TOKENS}")).serve();
        let site = if server.is_empty() { site } else { site.with_front(server, "gate.sock") };
        let ask = |headers: &str, url: &str| match server {
            "" => site.gate("GET", url, headers),
            _ => site.front("GET", url, headers),
        };
        site.add("photo_land.jpg", "a.jpg");
        let url = site.sign(&["media/a.jpg", "width-60"]);
        let minted = site.run(&["token", "--sub", "anna", "--ttl", "10h"]);
        let token = String::from_utf8(minted.stdout).unwrap().trim().to_owned();
        let bearer = format!("Authorization: Bearer {token}\r\n");
        let what = format!("{server} {offload}");
        let stranger = "X-Real-IP: 203.0.113.9\r\n";
        for _ in 0..2 {
            let refused = ask(stranger, &url);
            assert_eq!(refused.status, 401, "{what}: {}", refused.text());
            assert_eq!(refused.header("www-authenticate").as_deref(), Some("Bearer"), "{what}");
            for headers in [bearer.clone(), format!("Cookie: a=1; image_token={token}\r\n")] {
                let seen = ask(&headers, &url);
                assert_eq!((seen.status, seen.header("content-type").as_deref()), (200, Some("image/jpeg")), "{what}");
                assert_eq!(seen.header("cache-control").as_deref(), Some("max-age=3600, private"), "{what}");
                // Apache writes a list of its own.
                let vary = seen.header("vary").map(|vary| vary.replace(", ", ","));
                assert_eq!(vary.as_deref(), Some("Authorization,Cookie"), "{what}");
                let etag = seen.header("etag").unwrap();
                let unchanged = format!("If-None-Match: {etag}\r\n");
                assert_eq!(ask(&(unchanged.clone() + &headers), &url).status, 304, "{what}");
                assert_eq!(ask(&unchanged, &url).status, 401, "{what}");
                assert_eq!(ask(&format!("Range: bytes=0-3\r\n{headers}"), &url).status, 206, "{what}");
                assert_eq!(ask("Range: bytes=0-3\r\n", &url).status, 401, "{what}");
            }
        }
        let log = || site.log();
        site.assert_logs("there is no token");
        // What a browser says of its address is nobody's word; without a web server in between there is nobody else's.
        assert!(server.is_empty() || !log().contains("203.0.113.9"), "{what}: {}", log());
        let says = log().contains("client=127.0.0.1");
        assert_eq!(says, matches!(server, "nginx" | "apache" | "caddy"), "{what}: {}", log());
    }
}
