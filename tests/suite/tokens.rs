//! Tokens through the built service: the vectors that PyJWT made, by header, cookie and query, at the gate and behind nginx.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;

use crate::{
    harness::{Response, SENDIMAGE, Site, free_port, wait_for},
    vectors,
};

/// The settings of the vectors' strict rows, on three routes: one that wants a token, one that takes it from the query, as
/// does the first, and one that is open. All share keys and renditions.
const CONFIG: &str = "[auth.jwt]
keys = [
    { kid = \"hs\", algorithm = \"HS256\", secret_file = \"keys/hs\" },
    { kid = \"rs\", algorithm = \"RS256\", public_key_file = \"keys/rs\" },
    { kid = \"es\", algorithm = \"ES256\", public_key_file = \"keys/es\" },
    { kid = \"ed\", algorithm = \"EdDSA\", public_key_file = \"keys/ed\" },
]
jwks_file = \"keys/set.json\"
audience = \"images\"
issuer = \"https://site.example\"
cookie = \"image_token\"
query = true
[routes.private]
prefix = \"/private/\"
auth = \"jwt\"
[routes.public]
prefix = \"/public/\"
";

fn keys(site: &Site, vectors: &Value) {
    std::fs::create_dir_all(site.path("keys")).unwrap();
    for kid in ["hs", "rs", "es", "ed"] {
        std::fs::write(site.path("keys").join(kid), vectors["keys"][kid].as_str().unwrap()).unwrap();
    }
    std::fs::write(site.path("keys/set.json"), vectors["key_set"].to_string()).unwrap();
}

fn token_site(config: &str) -> (Site, Value) {
    let vectors = vectors::json("tokens/tokens.json");
    let site = Site::new(config);
    keys(&site, &vectors);
    site.add("photo_land.jpg", "a.jpg");
    site.add("photo_land.jpg", "users/anna/a.jpg");
    site.add("photo_land.jpg", "users/bert/a.jpg");
    (site.serve(), vectors)
}

fn row<'v>(vectors: &'v Value, name: &str) -> &'v str {
    let rows = vectors["rows"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).unwrap()["token"].as_str().unwrap()
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn served(response: &Response) -> bool {
    response.status == 200
}

const AUTH: &str = "sendimage_auth_total";

#[test]
fn every_token_of_the_vectors_has_its_verdict_at_the_service() {
    let (site, vectors) = token_site(CONFIG);
    let url = site.sign(&["media/a.jpg", "width-60", "--route", "private"]);
    let mut counted = 0;
    for row in vectors["rows"].as_array().unwrap() {
        // The others are judged by other settings, or at another moment: in the unit tests.
        if row["rules"] != "strict" || row.get("at").is_some() {
            continue;
        }
        let (name, token) = (row["name"].as_str().unwrap(), row["token"].as_str().unwrap());
        let sees = row["sees"]["media/a.jpg"].as_bool();
        let limited = row["sees"].get("42").is_some() && sees != Some(true) && name != "no claim images";
        let expected = match row["refused"].as_str() {
            Some(_) => 401,
            None if limited => 403,
            None => 200,
        };
        for headers in [bearer(token), format!("Cookie: a=b; image_token={token}\r\n")] {
            let response = site.gate("GET", &url, &headers);
            assert_eq!(response.status, expected, "{name}: {}", response.text());
            match expected {
                401 => assert_eq!(response.header("www-authenticate").as_deref(), Some("Bearer"), "{name}"),
                200 => assert!(response.header("x-accel-redirect").is_some(), "{name}"),
                _ => assert_eq!(response.text(), "Forbidden\n", "{name}"),
            }
            assert_eq!(response.header("x-accel-redirect").is_some(), expected == 200, "{name}");
        }
        counted += 1;
    }
    assert!(counted >= 80, "{counted} rows");
    assert!(site.metric(&format!("{AUTH}{{outcome=\"allowed\"}}")) >= 20.0);
    assert!(site.metric(&format!("{AUTH}{{outcome=\"unauthenticated\"}}")) >= 100.0);
    assert!(site.metric(&format!("{AUTH}{{outcome=\"forbidden\"}}")) >= 2.0);
    let log = site.log();
    for row in vectors["rows"].as_array().unwrap() {
        let signature = row["token"].as_str().unwrap().rsplit('.').next().unwrap();
        assert!(signature.len() < 20 || !log.contains(signature), "a token is in the log");
    }
    assert!(!log.contains("a secret of the site"));
}

#[test]
fn header_cookie_and_query_agree_or_count_for_nothing() {
    let (site, vectors) = token_site(CONFIG);
    let site = site.with_nginx();
    let url = site.sign(&["media/a.jpg", "width-60", "--route", "private"]);
    let (good, other) = (row(&vectors, "HS256"), row(&vectors, "ES256"));
    let bad = row(&vectors, "exp long over");
    let place = |place: usize, token: &str| match place {
        0 => (bearer(token), String::new()),
        1 => (format!("Cookie: image_token={token}\r\n"), String::new()),
        _ => (String::new(), format!("?token={token}")),
    };
    for (first, second) in [(0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)] {
        for (a, b, status) in [
            (good, good, 200),
            (good, other, 401),
            (good, bad, 401),
            (bad, good, 401),
            (bad, bad, 401),
            (good, "", 401),
        ] {
            let ((headers, query), (more, more_query)) = (place(first, a), place(second, b));
            // An empty query parameter is malformed before it is a token.
            let status = if b.is_empty() && second == 2 { 400 } else { status };
            let target = format!("{url}{query}{more_query}");
            let answer = site.nginx("GET", &target, &(headers + &more));
            assert_eq!(answer.status, status, "{first} {second}: {}", answer.text());
        }
        let (headers, query) = place(first, good);
        assert!(served(&site.nginx("GET", &format!("{url}{query}"), &headers)));
    }
    assert_eq!(site.nginx("GET", &url, "").status, 401);
    assert_eq!(site.nginx("GET", &url, "Authorization: Basic eDp5\r\n").status, 401);
    let twice = format!("Cookie: image_token={good}; image_token={other}\r\n");
    assert_eq!(site.nginx("GET", &url, &twice).status, 401);
    // nginx's own log has none of those that came in the query.
    let log = std::fs::read_to_string(site.path("nginx/access.log")).unwrap();
    assert!(log.contains("/private/") && !log.contains("eyJ"), "{log}");
    // Where no token is wanted, it is an unknown parameter like any other.
    let public = site.sign(&["media/a.jpg", "width-60", "--route", "public"]);
    assert_eq!(site.nginx("GET", &format!("{public}?token={good}"), "").status, 400);
    assert!(served(&site.nginx("GET", &public, "")));
}

#[test]
fn a_token_is_asked_for_after_the_signature_and_before_anything_is_looked_up() {
    let (site, vectors) = token_site(CONFIG);
    let good = bearer(row(&vectors, "HS256"));
    let limited = bearer(row(&vectors, "claim images"));
    let url = site.sign(&["media/a.jpg", "width-60", "--route", "private"]);
    let forged = url.replace("width-60", "width-61");
    assert_eq!(site.gate("GET", &forged, "").status, 403, "the signature comes first");
    assert_eq!(site.gate("GET", &forged, &good).status, 403);
    let missing = site.sign(&["media/none.jpg", "width-60", "--route", "private"]);
    let nonsense = site.sign(&["media/a.jpg", "width-60", "--route", "private"]);
    for target in [&missing, &nonsense] {
        assert_eq!(site.gate("GET", target, "").status, 401);
    }
    assert_eq!(site.gate("GET", &missing, &good).status, 404);
    // To whoever may see some images only, what is not there looks as what is not theirs.
    let (unknown, hidden) = (site.gate("GET", &missing, &limited), site.gate("GET", &url, &limited));
    assert_eq!((unknown.status, hidden.status), (403, 403));
    assert_eq!(unknown.body, hidden.body);
    assert!(site.stored().is_empty(), "nothing was rendered for any of them");
}

#[test]
fn private_and_public_share_the_bytes_and_not_the_caching() {
    let (site, vectors) = token_site(CONFIG);
    let site = site.with_nginx();
    let (private, public) = (
        site.sign(&["media/a.jpg", "width-60", "--route", "private"]),
        site.sign(&["media/a.jpg", "width-60", "--route", "public"]),
    );
    let good = bearer(row(&vectors, "HS256"));
    let first = site.nginx("GET", &private, &good);
    assert!(served(&first));
    for _ in 0..3 {
        let (mine, anyones) = (site.nginx("GET", &private, &good), site.nginx("GET", &public, ""));
        assert_eq!((&mine.body, &anyones.body), (&first.body, &first.body));
        assert_eq!(mine.header("etag"), anyones.header("etag"));
        assert_eq!(mine.header("cache-control").as_deref(), Some("max-age=3600, private"));
        assert_eq!(mine.header("vary").as_deref(), Some("Authorization, Cookie"));
        assert_eq!(anyones.header("cache-control").as_deref(), Some("max-age=3600, public"));
        assert_eq!(anyones.header("vary"), None);
        assert_eq!(site.nginx("GET", &private, "").status, 401);
    }
    assert_eq!(site.stored().len(), 1, "one rendition for both");
    // Conditional and range requests are asked too.
    let etag = first.header("etag").unwrap();
    for (headers, status) in [(format!("If-None-Match: {etag}\r\n"), 304), ("Range: bytes=0-9\r\n".to_owned(), 206)] {
        assert_eq!(site.nginx("GET", &private, &headers).status, 401);
        let answer = site.nginx("GET", &private, &(headers + &good));
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("cache-control").as_deref(), Some("max-age=3600, private"));
    }
    assert_eq!(site.nginx("HEAD", &private, "").status, 401);
}

#[test]
fn a_script_of_the_allowed_origin_may_send_a_token() {
    let (site, vectors) =
        token_site(&format!("{CONFIG}[headers]\naccess_control_allow_origin = \"https://app.example\"\n"));
    let site = site.with_nginx();
    let ask = "Origin: https://app.example\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: authorization\r\n";
    let private = site.sign(&["media/a.jpg", "width-60", "--route", "private"]);
    let answer = site.nginx("OPTIONS", &private, ask);
    assert_eq!(answer.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example"),
        ("access-control-allow-headers", "Authorization, Range"),
        ("access-control-allow-methods", "GET, HEAD, OPTIONS"),
    ] {
        assert_eq!(answer.header(name).as_deref(), Some(value));
    }
    let image = site.nginx("GET", &private, &bearer(row(&vectors, "HS256")));
    assert_eq!(image.header("access-control-allow-origin").as_deref(), Some("https://app.example"));
    let public = site.sign(&["media/a.jpg", "width-60", "--route", "public"]);
    assert_eq!(site.nginx("OPTIONS", &public, ask).header("access-control-allow-headers"), None);
}

#[test]
fn caching_ends_with_the_token() {
    let (site, _) = token_site(CONFIG);
    let url = site.sign(&["media/a.jpg", "width-60", "--route", "private"]);
    for ttl in ["90s", "90s", "30m", "5h"] {
        let minted = site.run(&["token", "--sub", "anna", "--ttl", ttl]);
        assert!(minted.status.success(), "{}", String::from_utf8_lossy(&minted.stderr));
        let token = String::from_utf8(minted.stdout).unwrap();
        let answer = site.gate("GET", &url, &bearer(token.trim()));
        let caching = answer.header("x-sendimage-cache-control").unwrap();
        let seconds: u64 = caching.strip_prefix("max-age=").unwrap().split(',').next().unwrap().parse().unwrap();
        let expected = match ttl {
            "90s" => 80..=90,
            "30m" => 1790..=1800,
            _ => 3600..=3600,
        };
        assert!(expected.contains(&seconds), "{ttl}: {caching}");
    }
    let minted = site.run(&["token", "--sub", "anna", "--ttl", "1s"]);
    let headers = bearer(String::from_utf8(minted.stdout).unwrap().trim());
    assert!(served(&site.gate("GET", &url, &headers)));
    // One second, and five of leeway.
    std::thread::sleep(Duration::from_millis(7100));
    assert_eq!(site.gate("GET", &url, &headers).status, 401, "though it was remembered");
}

#[test]
fn nginx_keeps_verdicts_for_each_bearer_apart() {
    let config = CONFIG.to_owned() + "offload = \"auth_request\"\n[offload]\nverdict_cache_seconds = 5\n";
    let config = config.replace("auth = \"jwt\"\n", "auth = \"jwt\"\noffload = \"auth_request\"\n");
    let (site, vectors) = token_site(&config);
    let site = site.with_nginx();
    let url = site.sign(&["media/a.jpg", "width-60", "--route", "private"]);
    let (good, limited) = (bearer(row(&vectors, "HS256")), bearer(row(&vectors, "claim images")));
    let cookie = format!("Cookie: image_token={}\r\n", row(&vectors, "RS256"));
    for _ in 0..4 {
        assert_eq!(site.nginx("GET", &url, "").status, 401);
        assert!(served(&site.nginx("GET", &url, &good)));
        assert_eq!(site.nginx("GET", &url, &limited).status, 403);
        assert!(served(&site.nginx("GET", &url, &cookie)));
        let answer = site.nginx("GET", &url, &good);
        assert_eq!(answer.header("cache-control").as_deref(), Some("max-age=3600, private"));
        assert_eq!(answer.header("vary").as_deref(), Some("Authorization, Cookie"));
        assert_eq!(site.nginx("GET", &url, &bearer(row(&vectors, "exp long over"))).status, 401);
    }
    let hits = site.metric("sendimage_requests_total{outcome=\"hit\"}");
    for _ in 0..5 {
        assert!(served(&site.nginx("GET", &url, &good)));
    }
    assert_eq!(
        site.metric("sendimage_requests_total{outcome=\"hit\"}"),
        hits,
        "nginx has its own memory of this bearer"
    );
    // Each verdict that lets nginx serve the file counts, as a plain answer does.
    let allowed = || site.metric(&format!("{AUTH}{{outcome=\"allowed\"}}"));
    let before = allowed();
    for _ in 0..3 {
        let verdict = site.gate("GET", "/_verdict", &format!("X-Original-URI: {url}\r\n{good}"));
        assert!(verdict.header("x-sendimage-path").is_some(), "{}", verdict.status);
    }
    assert_eq!(allowed(), before + 3.0);
}

#[test]
fn a_template_gives_everyone_a_folder() {
    let config = CONFIG.replace("query = true\n", "images = [\"media/users/{sub}/*\"]\n");
    let (site, vectors) = token_site(&config);
    let good = bearer(row(&vectors, "HS256"));
    for (image, status) in [("media/users/anna/a.jpg", 200), ("media/users/bert/a.jpg", 403), ("media/a.jpg", 403)] {
        let url = site.sign(&[image, "width-60", "--route", "private"]);
        for _ in 0..2 {
            assert_eq!(site.gate("GET", &url, &good).status, status, "{image}");
        }
    }
    // What another's hit has left behind is checked like anything else.
    let star = bearer(row(&vectors, "template, sub a star"));
    let url = site.sign(&["media/users/anna/a.jpg", "width-60", "--route", "private"]);
    assert_eq!(site.gate("GET", &url, &star).status, 403);
}

#[test]
fn log_only_refuses_nobody_and_says_so() {
    let config = format!(
        "[signing]\nsecret = \"0123456789abcdef\"\npresets_only = true\nlog_only = true\n[presets]\nsmall = \"width-60\"\n\
         [auth]\nmode = \"jwt\"\nlog_only = true\n{}",
        CONFIG.split("[routes.private]").next().unwrap()
    );
    let (site, vectors) = token_site(&config);
    // `sign` makes what the route is meant for.
    let url = site.sign(&["media/a.jpg", "small"]);
    for headers in [String::new(), bearer(row(&vectors, "exp long over")), bearer(row(&vectors, "claim images"))] {
        let answer = site.gate("GET", &url, &headers);
        assert!(served(&answer), "{}", answer.text());
        assert_eq!(answer.header("x-sendimage-cache-control").as_deref(), Some("max-age=3600, public"));
        assert_eq!(answer.header("x-sendimage-vary"), None);
    }
    // The log has a writer of its own.
    let _ = wait_for(Duration::from_secs(5), || site.log().matches("were log_only off").count() == 3);
    let log = site.log();
    for reason in ["there is no token", "the token has expired", "the token does not allow this image"] {
        assert!(log.contains(reason), "{reason:?} is not in\n{log}");
    }
    assert_eq!(log.matches("were log_only off").count(), 3);
    assert_eq!(site.metric(&format!("{AUTH}{{outcome=\"unauthenticated\"}}")), 2.0);
    // A spec that is no preset, signed by hand as a site's own code would.
    site.configure(&config.replace("presets_only = true\n", ""));
    let free = site.sign(&["media/a.jpg", "width-61"]);
    assert!(served(&site.gate("GET", &free, &bearer(row(&vectors, "HS256")))));
    assert!(wait_for(Duration::from_secs(5), || site.log().contains("presets only")).is_ok(), "{}", site.log());
}

#[test]
fn explain_says_which_rule_and_never_the_token() {
    let (site, vectors) = token_site(CONFIG);
    let url = site.sign(&["media/a.jpg", "width-60", "--route", "private"]);
    let explain = |token: Option<&str>| {
        let header = token.map(|token| format!("Authorization: Bearer {token}"));
        let mut arguments = vec!["explain", &url];
        if let Some(header) = &header {
            arguments.extend(["-H", header.as_str()]);
        }
        let output = site.run(&arguments);
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(token.is_none_or(|token| !text.contains(token)), "{text}");
        (output.status.success(), text)
    };
    let (served, text) = explain(Some(row(&vectors, "ES256")));
    assert!(served, "{text}");
    for part in
        ["jwt: a token is wanted", "good, by key \"es\"", "\"anna\"", "every image with a signed URL", "private"]
    {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    for (token, reason) in [
        (None, "there is no token"),
        (Some("exp long over"), "the token has expired"),
        (Some("claim images"), "the token does not allow this image"),
        (Some("a kid that nobody knows"), "names a key that is not known"),
    ] {
        let (served, text) = explain(token.map(|name| row(&vectors, name)));
        assert!(!served && text.contains(reason), "{reason:?} is not in\n{text}");
    }
    // A refusal of a moment ago, by its id.
    let refused = site.gate("GET", &url, "X-Real-IP: 192.0.2.7\r\n");
    let id = refused.header("x-request-id").unwrap();
    assert!(wait_for(Duration::from_secs(5), || site.log().contains(&id)).is_ok());
    let log = site.path("log").display().to_string();
    let output = Command::new(SENDIMAGE).args(["explain", "--request", &id, "--log", &log]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["401", "there is no token", "192.0.2.7"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert_eq!(output.status.code(), Some(1));
}

/// A key set server: counts how often it is asked, and answers what it is told to.
struct KeySetServer {
    url: String,
    asked: Arc<AtomicUsize>,
    answer: Arc<Mutex<String>>,
}

impl KeySetServer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/keys.json", listener.local_addr().unwrap());
        let (asked, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(String::new())));
        let (count, text) = (asked.clone(), answer.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = [0; 2048];
                let _ = stream.read(&mut head);
                count.fetch_add(1, Ordering::SeqCst);
                let text = text.lock().unwrap().clone();
                let _ = stream.write_all(text.as_bytes());
            }
        });
        Self { url, asked, answer }
    }

    fn says(&self, status: &str, body: &str) {
        *self.answer.lock().unwrap() =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[test]
fn a_key_set_is_fetched_kept_and_fetched_again_for_a_new_key() {
    let server = KeySetServer::start();
    let vectors = vectors::json("tokens/tokens.json");
    let config = format!(
        "[auth]\nmode = \"jwt\"\n[auth.jwt]\naudience = \"images\"\nissuer = \"https://site.example\"\njwks_url = \"{}\"\n",
        server.url
    );
    let site = Site::new(&config).serve();
    site.add("photo_land.jpg", "a.jpg");
    let url = site.sign(&["media/a.jpg", "width-60"]);
    let good = bearer(row(&vectors, "ES256 by the key set"));
    assert_eq!(server.asked(), 0, "nothing is fetched before it is needed");
    // Nobody can tell a good token from a bad one: closed, and temporary.
    server.says("500 Oops", "");
    let answer = site.gate("GET", &url, &good);
    assert_eq!((answer.status, answer.header("retry-after").as_deref()), (503, Some("2")));
    let asked = server.asked();
    assert_eq!(asked, 1);
    server.says("200 OK", &vectors["key_set"].to_string());
    for _ in 0..20 {
        assert_eq!(site.gate("GET", &url, &good).status, 503);
    }
    assert_eq!(server.asked(), asked, "not again for some seconds");
    std::thread::sleep(Duration::from_secs(10));
    for _ in 0..5 {
        assert!(served(&site.gate("GET", &url, &good)));
    }
    assert_eq!(server.asked(), asked + 1, "and kept");
    // Key ids that nobody knows cause a fetch in ten seconds, not one each.
    for _ in 0..50 {
        assert_eq!(site.gate("GET", &url, &bearer(row(&vectors, "a kid that nobody knows"))).status, 401);
    }
    assert_eq!(server.asked(), asked + 1);
    // A shared secret in a published set is nobody's secret.
    assert_eq!(site.gate("GET", &url, &bearer(row(&vectors, "HS256"))).status, 401);
    assert_eq!(site.metric(&format!("{AUTH}{{outcome=\"unavailable\"}}")), 21.0);
}

/// A file server over TLS, on its way out with its folder.
struct Tls {
    server: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Tls {
    /// Serves a key set as `keys.json`, by a certificate for `localhost` from an authority of its own. `None`, said aloud, where
    /// Python or openssl are missing.
    fn start(keys: &Value) -> Option<Self> {
        const SERVER: &str = "import http.server, ssl, sys
server = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('site.pem', 'site.key')
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()";
        let folder = tempfile::tempdir().unwrap();
        let run = |program: &str, arguments: &str| {
            let mut command = Command::new(program);
            command.args(arguments.split(' ')).current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        std::fs::write(folder.path().join("names"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
            .unwrap();
        let made = run("python3", "--version")
            && run(
                "openssl",
                "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
            )
            && run("openssl", "req -newkey rsa:2048 -nodes -keyout site.key -out site.csr -subj /CN=localhost")
            && run(
                "openssl",
                "x509 -req -in site.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out site.pem",
            );
        if !made {
            eprintln!("SKIPPED: python3 and openssl are not here, so a key set over TLS is not fetched");
            return None;
        }
        std::fs::write(folder.path().join("keys.json"), keys.to_string()).unwrap();
        let port = free_port();
        let mut command = Command::new("python3");
        command.args(["-c", SERVER, &port.to_string()]).current_dir(folder.path());
        let server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for(Duration::from_secs(10), || TcpStream::connect(("127.0.0.1", port)).is_ok()).unwrap();
        Some(Self { server, port, folder })
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn a_key_set_over_tls_is_believed_by_its_certificate() {
    let vectors = vectors::json("tokens/tokens.json");
    let Some(tls) = Tls::start(&vectors["key_set"]) else { return };
    for (host, authority, expected) in [
        ("localhost", "ca.pem", 200),
        ("127.0.0.1", "ca.pem", 503),
        ("localhost", "/etc/ssl/certs/ca-certificates.crt", 503),
    ] {
        let config = format!(
            "[auth]\nmode = \"jwt\"\n[auth.jwt]\naudience = \"images\"\nissuer = \"https://site.example\"\n\
             jwks_url = \"https://{host}:{}/keys.json\"\n",
            tls.port
        );
        let mut site = Site::new(&config);
        site.add("photo_land.jpg", "a.jpg");
        site.start_by(SENDIMAGE.as_ref(), |command| {
            command.env("SSL_CERT_FILE", tls.folder.path().join(authority)).env_remove("SSL_CERT_DIR");
        });
        let url = site.sign(&["media/a.jpg", "width-60"]);
        let answer = site.gate("GET", &url, &bearer(row(&vectors, "ES256 by the key set")));
        assert_eq!(answer.status, expected, "{host} {authority}: {}", site.log());
    }
}
