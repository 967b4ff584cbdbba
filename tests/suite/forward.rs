//! The site decides: a real Django with sessions and `LoginRequiredMixin`, and a site that behaves in every bad way.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::harness::{Response, Site, exchange, free_port, wait_for};

fn config(url: &str, more: &str) -> String {
    format!("[auth]\nmode = \"forward\"\n[auth.forward]\nurl = \"{url}\"\n{more}")
}

fn site(config: &str) -> Site {
    let site = Site::new(config).serve();
    for name in ["a.jpg", "b.jpg", "annas.jpg"] {
        site.add("photo_land.jpg", name);
    }
    site
}

/// The Django site of `tests/login`.
struct Django {
    server: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Django {
    /// Installs and starts it; `None`, with the reason on standard error, where that is impossible here.
    fn start() -> Option<Self> {
        let python = crate::python::django()?;
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let command = |arguments: &[&str]| {
            let mut command = Command::new(&python);
            command.arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/login/site.py")).args(arguments);
            command.env("SITE_FOLDER", folder.path()).env("PYTHONDONTWRITEBYTECODE", "1");
            command.stdout(Stdio::null()).stderr(std::fs::File::create(folder.path().join("log")).unwrap());
            command
        };
        let log = || std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert!(command(&["prepare"]).status().unwrap().success(), "{}", log());
        let server = command(&["runserver", "--noreload", &format!("127.0.0.1:{port}")]).spawn().unwrap();
        wait_for(Duration::from_secs(20), || TcpStream::connect(("127.0.0.1", port)).is_ok())
            .unwrap_or_else(|()| panic!("{}", log()));
        Some(Self { server, port, folder })
    }

    fn get(&self, target: &str, headers: &str) -> Response {
        let request = format!("GET {target} HTTP/1.1\r\nHost: www.example.org\r\nConnection: close\r\n{headers}\r\n");
        exchange(TcpStream::connect(("127.0.0.1", self.port)).unwrap(), request.as_bytes())
    }

    /// Logs in, as a browser does: the cookie to send from now on.
    fn log_in(&self, name: &str) -> String {
        let answer = self.get(&format!("/login/?name={name}"), "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let cookie = answer.header("set-cookie").unwrap();
        format!("Cookie: {}\r\n", cookie.split(';').next().unwrap())
    }

    /// What it was asked so far, one line for each time.
    fn asked(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("asked")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Django {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn who_is_logged_in_sees_the_image_and_who_has_logged_out_does_not() {
    let Some(django) = Django::start() else { return };
    let url = format!("http://127.0.0.1:{}/may-see-image", django.port);
    let site = site(&config(&url, "host = \"www.example.org\"\ncache_seconds = 2\ntimeout_seconds = 5\n")).with_nginx();
    let (image, annas) = (site.sign(&["media/a.jpg", "width-60"]), site.sign(&["media/annas.jpg", "width-60"]));
    let stranger = site.nginx("GET", &image, "");
    assert_eq!((stranger.status, stranger.text().as_str()), (403, "Forbidden\n"), "the login's redirect is a refusal");
    assert_eq!(stranger.header("location"), None);
    let (anna, bert) = (django.log_in("anna"), django.log_in("bert"));
    for _ in 0..5 {
        let seen = site.nginx("GET", &image, &anna);
        assert_eq!((seen.status, seen.header("content-type").as_deref()), (200, Some("image/jpeg")));
        assert_eq!(seen.header("cache-control").as_deref(), Some("max-age=3600, private"));
        assert_eq!(seen.header("vary").as_deref(), Some("Authorization, Cookie"));
        assert_eq!(seen.header("set-cookie"), None);
        assert_eq!(site.nginx("GET", &annas, &anna).status, 200);
        assert_eq!(site.nginx("GET", &image, &bert).status, 200);
        assert_eq!(site.nginx("GET", &annas, &bert).status, 403);
        assert_eq!(site.nginx("GET", &image, "Cookie: sessionid=0123456789abcdef0123456789abcdef\r\n").status, 403);
    }
    let asked = django.asked();
    // A fresh answer may have been needed where the machine was slow: two seconds are not long.
    assert!((6..=12).contains(&asked.len()), "{asked:?}");
    assert!(asked[0].starts_with(&format!("media/a.jpg width-60 {image} www.example.org")), "{asked:?}");
    // Out she goes.
    let left = Instant::now();
    assert_eq!(django.get("/logout/", &anna).status, 200);
    let refused = wait_for(Duration::from_secs(10), || site.nginx("GET", &image, &anna).status == 403);
    assert!(refused.is_ok() && left.elapsed() < Duration::from_millis(3500), "{:?}", left.elapsed());
    assert_eq!(site.nginx("GET", &image, &bert).status, 200, "he is still there");
}

/// A site that answers what it is told to, and keeps what it was asked.
pub struct Scripted {
    pub url: String,
    asked: Arc<Mutex<Vec<String>>>,
    answer: Arc<Mutex<(String, Duration)>>,
}

impl Scripted {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/ask", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let answer = Arc::new(Mutex::new((String::new(), Duration::ZERO)));
        let (log, script) = (asked.clone(), answer.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, script) = (log.clone(), script.clone());
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                        head.push(byte[0]);
                    }
                    log.lock().unwrap().push(String::from_utf8(head).unwrap());
                    let (text, delay) = script.lock().unwrap().clone();
                    std::thread::sleep(delay);
                    let _ = stream.write_all(text.as_bytes());
                });
            }
        });
        let scripted = Self { url, asked, answer };
        scripted.says("204 No Content", "");
        scripted
    }

    pub fn says(&self, status: &str, headers: &str) {
        self.says_late(status, headers, Duration::ZERO);
    }

    fn says_late(&self, status: &str, headers: &str, delay: Duration) {
        let body = if status.starts_with("204") { "" } else { "private words" };
        let text =
            format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        *self.answer.lock().unwrap() = (text, delay);
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn cookie(value: impl std::fmt::Display) -> String {
    format!("Cookie: session={value}\r\n")
}

#[test]
fn every_answer_of_the_site_has_its_status() {
    let scripted = Scripted::start();
    let trap = Scripted::start();
    let site = site(&config(&scripted.url, "cache_seconds = 60\ntimeout_seconds = 0.5\n"));
    let url = site.sign(&["media/a.jpg", "width-60"]);
    let location = format!("Location: {}\r\n", trap.url);
    for (number, (status, headers, expected)) in [
        ("200 OK", "", 200),
        ("204 No Content", "", 200),
        ("206 Partial Content", "", 200),
        ("301 Moved Permanently", location.as_str(), 403),
        ("302 Found", location.as_str(), 403),
        ("304 Not Modified", "", 403),
        ("307 Temporary Redirect", location.as_str(), 403),
        ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"staff\"\r\n", 401),
        ("401 Unauthorized", "", 401),
        ("403 Forbidden", "WWW-Authenticate: Basic realm=\"staff\"\r\n", 403),
        ("404 Not Found", "", 403),
        ("400 Bad Request", "", 503),
        ("429 Too Many Requests", "", 503),
        ("500 Internal Server Error", "", 503),
        ("502 Bad Gateway", "", 503),
    ]
    .into_iter()
    .enumerate()
    {
        scripted.says(status, headers);
        let answer = site.gate("GET", &url, &cookie(number));
        assert_eq!(answer.status, expected, "{status}");
        assert_eq!(answer.header("x-accel-redirect").is_some(), expected == 200, "{status}");
        assert!(!answer.text().contains("private words") && answer.header("location").is_none(), "{status}");
        assert_eq!(answer.header("retry-after").is_some(), expected == 503, "{status}");
        let challenge = (expected == 401 && !headers.is_empty()).then(|| "Basic realm=\"staff\"".to_owned());
        assert_eq!(answer.header("www-authenticate"), challenge, "{status}");
        // Yes and no are remembered; that nobody could tell is not.
        scripted.says("204 No Content", "");
        let again = if expected == 503 { 200 } else { expected };
        assert_eq!(site.gate("GET", &url, &cookie(number)).status, again, "{status}, a moment later");
    }
    assert!(trap.asked().is_empty(), "no redirect is followed");
    // Too late, and not at all.
    scripted.says_late("204 No Content", "", Duration::from_secs(3));
    let begun = Instant::now();
    assert_eq!(site.gate("GET", &url, &cookie("slow")).status, 503);
    assert!((400..2500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    scripted.says("204 No Content\r\nX-Long: ", &"x".repeat(100_000));
    assert_eq!(site.gate("GET", &url, &cookie("endless")).status, 503);
    *scripted.answer.lock().unwrap() = ("no HTTP at all\r\n\r\n".into(), Duration::ZERO);
    assert_eq!(site.gate("GET", &url, &cookie("odd")).status, 503);
    *scripted.answer.lock().unwrap() = (String::new(), Duration::ZERO);
    assert_eq!(site.gate("GET", &url, &cookie("gone")).status, 503);
    assert!(site.metric("sendimage_auth_total{outcome=\"unavailable\"}") >= 8.0);
    assert!(site.metric("sendimage_auth_total{outcome=\"forbidden\"}") >= 12.0);
}

#[test]
fn check_asks_the_site_and_says_what_it_thinks_of_strangers() {
    let scripted = Scripted::start();
    let site = Site::new(&config(&scripted.url, ""));
    for (status, is_fine, says) in [
        ("302 Found", true, "refuses who sends no credentials (302)"),
        ("204 No Content", true, "lets in who sends no credentials: is that meant?"),
        ("400 Bad Request", false, "the site answered 400"),
    ] {
        scripted.says(status, "");
        let output = site.run(&["check"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.contains("the site's word")).unwrap();
        assert!(line.contains(says) && line.starts_with("ok") == is_fine, "{line}");
        assert!(text.contains("and asks the site"), "{text}");
        assert!(is_fine || output.status.code() == Some(1), "{status}");
    }
}

#[test]
fn a_site_that_is_not_there_lets_nobody_in() {
    let site = site(&config(&format!("http://127.0.0.1:{}/ask", free_port()), ""));
    let url = site.sign(&["media/a.jpg", "width-60"]);
    for _ in 0..3 {
        assert_eq!(site.gate("GET", &url, &cookie(1)).status, 503);
    }
}

#[test]
fn only_the_listed_headers_go_to_the_site() {
    let scripted = Scripted::start();
    let site = site(&config(&scripted.url, "")).with_nginx();
    let url = site.sign(&["media/a.jpg", "width-60|format-webp"]);
    let headers = "Cookie: a=1; b=2\r\nAuthorization: Basic eDp5\r\nX-Image-Id: 1\r\nX-Original-URI: /\r\nX-Filter-Spec: original\r\n\
                   X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-User: admin\r\nX-Forwarded-Proto: https\r\nReferer: http://x/\r\nRange: bytes=0-1\r\nAccept: image/*\r\n";
    assert_eq!(site.nginx("GET", &url, headers).status, 206);
    let asked = scripted.asked();
    assert_eq!(asked.len(), 1);
    let mut lines: Vec<String> = asked[0].trim_end().split("\r\n").map(str::to_owned).collect();
    assert_eq!(lines.remove(0), "GET /ask HTTP/1.1");
    lines.sort();
    let authority = scripted.url.strip_prefix("http://").unwrap().strip_suffix("/ask").unwrap();
    let mut expected = vec![
        "accept: */*".to_owned(),
        "authorization: Basic eDp5".into(),
        "cookie: a=1; b=2".into(),
        "x-forwarded-proto: http".into(),
        "x-filter-spec: width-60|format-webp".into(),
        "x-image-id: media/a.jpg".into(),
        format!("x-original-uri: {url}"),
        format!("user-agent: sendimage/{}", env!("CARGO_PKG_VERSION")),
        format!("host: {authority}"),
    ];
    expected.sort();
    assert_eq!(lines, expected);
}

#[test]
fn the_site_is_asked_once_for_all_who_wait() {
    let scripted = Scripted::start();
    let site = site(&config(&scripted.url, "cache_seconds = 60\ntimeout_seconds = 5\n"));
    let url = site.sign(&["media/a.jpg", "width-60"]);
    scripted.says_late("204 No Content", "", Duration::from_millis(500));
    std::thread::scope(|scope| {
        let (site, url) = (&site, &url);
        for _ in 0..40 {
            scope.spawn(move || assert_eq!(site.gate("GET", url, &cookie("one")).status, 200));
        }
    });
    assert_eq!(scripted.asked().len(), 1);
    scripted.says("403 Forbidden", "");
    assert_eq!(site.gate("GET", &url, &cookie("one")).status, 200, "remembered");
    assert_eq!(site.gate("GET", &url, &cookie("two")).status, 403, "somebody else");
    assert_eq!(site.gate("GET", &url, "").status, 403, "nobody");
    assert_eq!(site.gate("GET", &url, "Authorization: session=one\r\n").status, 403, "the same words in another place");
    assert_eq!(scripted.asked().len(), 4);
}

#[test]
fn what_an_answer_depends_on_is_the_configs_to_say() {
    let scripted = Scripted::start();
    for (scope, expected) in [("image", 2), ("rendition", 4), ("credentials", 1)] {
        let site = site(&config(&scripted.url, &format!("cache_seconds = 60\nscope = \"{scope}\"\n")));
        let before = scripted.asked().len();
        for _ in 0..2 {
            for image in ["media/a.jpg", "media/b.jpg"] {
                for spec in ["width-60", "width-61"] {
                    assert_eq!(site.gate("GET", &site.sign(&[image, spec]), &cookie("one")).status, 200);
                }
            }
        }
        assert_eq!(scripted.asked().len() - before, expected, "{scope}");
    }
}

#[test]
fn nginx_remembers_no_verdict_that_is_the_sites() {
    let scripted = Scripted::start();
    let more = "cache_seconds = 1\n[offload]\nmode = \"auth_request\"\nverdict_cache_seconds = 60\n";
    let site = site(&config(&scripted.url, more)).with_nginx();
    let url = site.sign(&["media/a.jpg", "width-60"]);
    for _ in 0..3 {
        assert_eq!(site.nginx("GET", &url, &cookie("one")).status, 200);
    }
    scripted.says("403 Forbidden", "");
    std::thread::sleep(Duration::from_millis(1300));
    assert_eq!(site.nginx("GET", &url, &cookie("one")).status, 403);
}
