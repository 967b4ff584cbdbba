//! The editors' page by plain HTTP: who gets in, what it says, and what nobody can do with it.

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{OPS_TOKEN, Response, Site, exchange, free_port, wait_for};

pub const PASSWORD: &str = "correct horse battery";
/// What a browser would run, were it ever taken for markup.
const MARKUP: &str = "<img src=x onerror=alert(1)>\"'&";

/// A site with a page.
pub struct Paged {
    pub site: Site,
    pub address: SocketAddr,
}

impl Paged {
    /// With more sections behind `[page]`.
    pub fn new(rest: &str) -> Self {
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let site = Site::new(&Self::config(address, PASSWORD, rest));
        std::fs::write(
            site.path("images.csv"),
            "id,file,focal_point_x,focal_point_y,focal_point_width,focal_point_height\n\
             1,o/land.jpg,,,,\n2,o/port.jpg,40,40,20,20\n3,o/missing.jpg,,,,\n4,o/rgba.png,,,,\n",
        )
        .unwrap();
        site.add("photo_land.jpg", "o/land.jpg");
        site.add("photo_port.jpg", "o/port.jpg");
        site.add("rgba.png", "o/rgba.png");
        site.add("notimage.jpg", "broken.jpg");
        Self { site: site.serve(), address }
    }

    pub fn config(address: SocketAddr, password: &str, rest: &str) -> String {
        format!(
            "[catalogue]\nkind = \"manifest\"\nfile = \"{{dir}}/images.csv\"\nsource = \"media\"\n\
             [ops]\ntoken = \"{OPS_TOKEN}\"\n\
             [presets]\nhero = \"fill-160x60|format-webp\"\n\
             [preset_sets]\narticle = [\"width-80|format-webp\", \"width-40|format-webp\", \"width-80|format-jpeg\"]\n\
             [page]\nlisten = \"{address}\"\npassword = \"{password}\"\n{rest}"
        )
    }

    fn exchange(&self, method: &str, target: &str, headers: &str, body: &str) -> Response {
        let length = if method == "POST" { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}{length}\r\n{body}",
            self.address
        );
        exchange(TcpStream::connect(self.address).unwrap(), request.as_bytes())
    }

    fn origin(&self) -> String {
        format!("Origin: http://{}\r\n", self.address)
    }

    pub fn get(&self, target: &str, headers: &str) -> Response {
        self.exchange("GET", target, headers, "")
    }

    /// The login form's token.
    fn form_token(&self) -> String {
        let form = self.get("/", "").text();
        let (_, rest) = form.split_once("name=\"token\" value=\"").expect("a form with a token");
        rest.split('"').next().unwrap().to_owned()
    }

    fn login(&self, password: &str, headers: &str) -> Response {
        let body = format!("password={}&token={}", password.replace(' ', "+"), self.form_token());
        self.exchange("POST", "/login", &format!("{}{headers}{FORM}", self.origin()), &body)
    }

    /// A cookie that holds, and the session's token.
    fn session(&self) -> Session<'_> {
        let answer = self.login(PASSWORD, "");
        assert_eq!(answer.status, 303, "{}", answer.text());
        let cookie = answer.header("set-cookie").unwrap();
        let cookie = format!("Cookie: other=1; {}\r\n", cookie.split(';').next().unwrap());
        let start: Value = serde_json::from_slice(&self.get("/api/start", &cookie).body).unwrap();
        Session { page: self, cookie, csrf: start["csrf"].as_str().unwrap().to_owned(), start }
    }
}

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

struct Session<'a> {
    page: &'a Paged,
    cookie: String,
    csrf: String,
    start: Value,
}

impl Session<'_> {
    fn get(&self, target: &str) -> Response {
        self.page.get(target, &self.cookie)
    }

    fn json(&self, target: &str) -> Value {
        let answer = self.get(target);
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    fn headers(&self) -> String {
        let (origin, cookie, csrf) = (self.page.origin(), &self.cookie, &self.csrf);
        format!("{origin}{cookie}Content-Type: application/json\r\nX-CSRF-Token: {csrf}\r\n")
    }

    fn post(&self, target: &str, body: &Value) -> Response {
        self.page.exchange("POST", target, &self.headers(), &body.to_string())
    }

    fn solve(&self, body: Value) -> Value {
        let answer = self.post("/api/solve", &body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// Field, offset, message.
    fn refused(&self, target: &str, body: Value) -> (u16, Value) {
        let answer = self.post(target, &body);
        assert_ne!(answer.status, 200, "{body}: {}", answer.text());
        let said: Value = serde_json::from_slice(&answer.body).unwrap();
        (answer.status, said["error"].clone())
    }
}

/// What every answer carries, whatever it is about.
fn assert_secure(answer: &Response, what: &str) {
    let header = |name| answer.header(name).unwrap_or_else(|| panic!("{what}: no {name}"));
    let csp = header("content-security-policy");
    for part in
        ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
    {
        assert!(csp.split("; ").any(|found| found == part), "{what}: {csp}");
    }
    assert!(!csp.contains("unsafe") && !csp.contains('*'), "{what}: {csp}");
    assert_eq!(header("x-content-type-options"), "nosniff", "{what}");
    assert_eq!(header("x-frame-options"), "DENY", "{what}");
    assert_eq!(header("referrer-policy"), "same-origin", "{what}");
    assert_eq!(header("cross-origin-resource-policy"), "same-origin", "{what}");
    assert!(answer.header("x-request-id").is_some(), "{what}");
    assert!(matches!(header("cache-control").as_str(), "no-store" | "no-cache"), "{what}");
    for name in ["x-accel-redirect", "x-sendfile"] {
        assert_eq!(answer.header(name), None, "{what}");
    }
}

#[test]
fn nobody_gets_in_without_the_password() {
    let page = Paged::new("");
    let form = page.get("/", "");
    assert_secure(&form, "the form");
    assert_eq!((form.status, form.header("cache-control").unwrap().as_str()), (200, "no-store"));
    assert!(form.text().contains("type=\"password\"") && form.header("set-cookie").is_none());
    for target in
        ["/api/start", "/api/search", "/api/browse?source=media", "/api/status", "/preview?ref=1&spec=width-9"]
    {
        for cookie in ["", "Cookie: sendimage_page=\r\n", "Cookie: sendimage_page=1.a.b\r\n"] {
            let answer = page.get(target, cookie);
            assert_eq!(answer.status, 401, "{target}");
            assert_secure(&answer, target);
        }
    }
    let json = format!("{}Content-Type: application/json\r\nX-CSRF-Token: x\r\n", page.origin());
    assert_eq!(page.exchange("POST", "/api/solve", &json, "{}").status, 401);
    assert_eq!(page.exchange("POST", "/logout", &format!("{}{FORM}", page.origin()), "token=x").status, 401);

    // What is wrong with a password nobody is told, and it takes as long as a right one.
    let started = Instant::now();
    let wrong: Vec<Response> =
        ["", "correct horse batter", "correct horse batteryy"].map(|text| page.login(text, "")).into();
    assert!(started.elapsed() >= Duration::from_millis(900));
    for answer in &wrong {
        assert_secure(answer, "a wrong password");
        assert_eq!(answer.status, 403);
        assert!(answer.text().contains("That is not the password.") && answer.header("set-cookie").is_none());
        let without_token =
            |answer: &Response| answer.text().lines().filter(|line| !line.contains("token")).collect::<String>();
        assert_eq!(without_token(answer), without_token(&wrong[0]));
    }
    let started = Instant::now();
    let right = page.login(PASSWORD, "");
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!((right.status, right.header("location").as_deref()), (303, Some("./")));
    assert_eq!(page.site.metric("sendimage_page_logins_total{outcome=\"wrong\"}"), 3.0);
    assert_eq!(page.site.metric("sendimage_page_logins_total{outcome=\"done\"}"), 1.0);
    page.site.assert_logs("page login");
    assert!(!page.site.log().contains("correct horse"), "{}", page.site.log());
}

#[test]
fn a_login_form_is_ours_and_fresh() {
    let page = Paged::new("");
    let token = page.form_token();
    let body = format!("password={}&token={token}", PASSWORD.replace(' ', "+"));
    let post = |headers: &str, body: &str| page.exchange("POST", "/login", &format!("{headers}{FORM}"), body).status;
    let origin = page.origin();
    assert_eq!(post(&origin, &body), 303);
    for headers in [
        "",
        "Origin: null\r\n",
        "Origin: http://elsewhere.example\r\n",
        &format!("{origin}Sec-Fetch-Site: cross-site\r\n"),
        &format!("{origin}Sec-Fetch-Site: same-site\r\n"),
    ] {
        assert_eq!(post(headers, &body), 403, "{headers}");
    }
    for forged in ["", "x", "9999999999.AAAAAAAAAAAAAAAAAAAAAA.AAAA", &token[1..]] {
        assert_eq!(post(&origin, &format!("password={}&token={forged}", PASSWORD.replace(' ', "+"))), 403, "{forged}");
    }
    // A body beyond its bound is not read to its end.
    assert_eq!(post(&origin, &format!("{body}&x={}", "x".repeat(20_000))), 413);
}

#[test]
fn guesses_are_few() {
    let page = Paged::new("");
    let token = page.form_token();
    let attempts: Vec<_> = (0..28)
        .map(|number| {
            let body = format!("password=guess+number+{number}&token={token}");
            let request = format!(
                "POST /login HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{}{FORM}Content-Length: {}\r\n\r\n{body}",
                page.address,
                page.origin(),
                body.len()
            );
            let address = page.address;
            std::thread::spawn(move || exchange(TcpStream::connect(address).unwrap(), request.as_bytes()).status)
        })
        .collect();
    let statuses: Vec<u16> = attempts.into_iter().map(|attempt| attempt.join().unwrap()).collect();
    let (wrong, stopped): (usize, usize) =
        [403, 429].map(|status| statuses.iter().filter(|found| **found == status).count()).into();
    // One more is let through in three seconds.
    assert!(wrong >= 20 && stopped >= 1 && wrong + stopped == 28, "{statuses:?}");
    // The right one is no better off: otherwise there would be no bound.
    let late = page.login(PASSWORD, "");
    if late.status == 429 {
        assert!(late.header("retry-after").is_some() && late.text().contains("Too many wrong passwords"));
    }
}

#[test]
fn the_cookie_is_the_browsers_alone() {
    let page = Paged::new("");
    let cookie = page.login(PASSWORD, "").header("set-cookie").unwrap();
    let attributes: Vec<&str> = cookie.split("; ").skip(1).collect();
    assert_eq!(attributes, ["Max-Age=43200", "HttpOnly", "SameSite=Strict"]);
    let secure = page.login(PASSWORD, "X-Forwarded-Proto: https\r\n").header("set-cookie").unwrap();
    assert!(secure.ends_with("; SameSite=Strict; Secure"), "{secure}");

    let session = page.session();
    assert_eq!(session.get("/api/start").status, 200);
    let out = |token: &str, origin: &str| {
        page.exchange("POST", "/logout", &format!("{origin}{}{FORM}", session.cookie), &format!("token={token}"))
    };
    assert_eq!(out("x", &page.origin()).status, 403);
    assert_eq!(out(&session.csrf, "Origin: http://elsewhere.example\r\n").status, 403);
    let done = out(&session.csrf, &page.origin());
    let gone = done.header("set-cookie").unwrap();
    assert!(done.status == 303 && gone.starts_with("sendimage_page=; Max-Age=0; "), "{gone}");

    // Another gate's process takes the cookie; another password does not.
    let address = page.address;
    let old = session.cookie.clone();
    page.site.configure(&Paged::config(address, "another password", ""));
    page.site.signal(rustix::process::Signal::HUP);
    page.site.assert_logs("the changed config is applied");
    assert_eq!(page.get("/api/start", &old).status, 401);
    assert_eq!(page.login(PASSWORD, "").status, 403);
    assert_eq!(page.login("another password", "").status, 303);
}

#[test]
fn sessions_end() {
    let page = Paged::new("session_seconds = 4\n");
    let session = page.session();
    assert!(session.start["ends"].as_u64().is_some());
    wait_for(Duration::from_secs(20), || session.get("/api/start").status == 401).expect("it ends");
    assert!(session.get("/").text().contains("type=\"password\""));
}

#[test]
fn calls_come_from_the_page_alone() {
    let page = Paged::new("");
    let session = page.session();
    let body = json!({"ref": "1", "spec": "width-80"}).to_string();
    let (origin, cookie, csrf) = (page.origin(), &session.cookie, &session.csrf);
    let json_type = "Content-Type: application/json\r\n";
    let token = format!("X-CSRF-Token: {csrf}\r\n");
    for (status, headers) in [
        (200, format!("{origin}{cookie}{json_type}{token}")),
        (401, format!("{origin}{json_type}{token}")),
        (403, format!("{cookie}{json_type}{token}")),
        (403, format!("Origin: null\r\n{cookie}{json_type}{token}")),
        (403, format!("Origin: https://elsewhere.example\r\n{cookie}{json_type}{token}")),
        (403, format!("Origin: http://{}.elsewhere.example\r\n{cookie}{json_type}{token}", page.address)),
        (403, format!("{origin}{cookie}{json_type}")),
        (403, format!("{origin}{cookie}{json_type}X-CSRF-Token: {}x\r\n", csrf)),
        (403, format!("{origin}{cookie}{json_type}{token}Sec-Fetch-Site: cross-site\r\n")),
        (415, format!("{origin}{cookie}{FORM}{token}")),
        (415, format!("{origin}{cookie}{token}")),
    ] {
        let answer = page.exchange("POST", "/api/solve", &headers, &body);
        assert_eq!(answer.status, status, "{headers}: {}", answer.text());
        assert_secure(&answer, &headers);
    }
    // Another site's page may not even look, should a browser send the cookie along.
    for target in ["/api/start", "/api/search?text=a", "/preview?ref=1&spec=width-9"] {
        assert_eq!(page.get(target, &format!("{cookie}Sec-Fetch-Site: cross-site\r\n")).status, 403, "{target}");
        assert_eq!(page.get(target, &format!("{cookie}Sec-Fetch-Site: same-origin\r\n")).status, 200, "{target}");
    }
    for (method, target) in [
        ("PUT", "/"),
        ("DELETE", "/api/solve"),
        ("HEAD", "/"),
        ("OPTIONS", "/login"),
        ("POST", "/"),
        ("POST", "/api/start"),
        ("GET", "/api/solve"),
        ("GET", "/logout"),
        ("POST", "/preview"),
    ] {
        let answer = page.exchange(method, target, &session.headers(), "");
        assert_eq!(answer.status, 405, "{method} {target}");
        assert_secure(&answer, target);
    }
    let broken = page.exchange("POST", "/api/solve", &session.headers(), "{\"ref\":");
    assert_eq!(broken.status, 400);
    assert_eq!(page.exchange("POST", "/api/solve", &session.headers(), &" ".repeat(20_000)).status, 413);
}

#[test]
fn the_listeners_do_not_serve_each_other() {
    let page = Paged::new("");
    let session = page.session();
    for target in
        ["/metrics", "/health/ready", "/health/live", "/sign", "/purge", "/warm", "/images/x/1/width-9/", "/_verdict"]
    {
        assert_eq!(session.get(target).status, 404, "{target}");
        let bearer = format!("{}Authorization: Bearer {OPS_TOKEN}\r\n", session.headers());
        assert_eq!(page.exchange("POST", target, &bearer, "{\"refs\":[\"1\"]}").status, 404, "{target}");
    }
    for target in ["/", "/page.js", "/login", "/api/start", "/preview?ref=1&spec=width-9"] {
        let ops = page.site.ops(target).unwrap();
        assert_eq!(ops.status, 404, "{target} on the operations listener");
        let public = page.site.gate("GET", target, &session.cookie);
        assert!(public.status >= 400 && !public.text().contains("Image links"), "{target} on the public one");
    }
}

#[test]
fn nothing_typed_comes_back_as_markup() {
    let page = Paged::new("");
    let session = page.session();
    let encoded: String = url::form_urlencoded::byte_serialize(MARKUP.as_bytes()).collect();
    let fields = ["ref", "spec", "download", "route", "set"];
    let mut answers = vec![
        session.get(&format!("/api/search?text={encoded}")),
        session.get(&format!("/api/browse?source={encoded}&path={encoded}")),
        session.get(&format!("/api/browse?source=media&path={encoded}")),
        session.get(&format!("/preview?ref={encoded}&spec={encoded}&focal={encoded}")),
        session.get(&format!("/preview?ref=1&spec={encoded}")),
        session.get(&format!("/{encoded}")),
        page.login(MARKUP, ""),
    ];
    for field in fields {
        let mut body = json!({"ref": "1", "spec": "width-80", field: MARKUP});
        answers.push(session.post("/api/solve", &body));
        body["specs"] = json!(["width-80"]);
        answers.push(session.post("/api/links", &body));
    }
    answers.push(session.post("/api/links", &json!({"ref": "1", "specs": [MARKUP]})));
    for answer in answers {
        let kind = answer.header("content-type").unwrap();
        assert_secure(&answer, &kind);
        match kind.as_str() {
            // JSON is never shown, whatever is in it.
            "application/json" => assert!(serde_json::from_slice::<Value>(&answer.body).is_ok()),
            "text/html; charset=utf-8" => assert!(!answer.text().contains("onerror"), "{}", answer.text()),
            other => panic!("{other}"),
        }
    }
    // Errors do not repeat what was typed at all.
    let (_, error) = session.refused("/api/solve", json!({"ref": "1", "spec": MARKUP}));
    assert!(!error.to_string().contains("onerror"), "{error}");
}

#[test]
fn from_an_image_to_a_link_that_works() {
    let page = Paged::new("");
    let session = page.session();
    assert_eq!(session.start["presets"]["hero"], "fill-160x60|format-webp");
    assert_eq!(session.start["has_catalogue"], true);
    assert_eq!(session.start["sources"], json!([{"name": "media", "browsable": true}]));

    let refs = |found: &Value| -> Vec<String> {
        found["images"].as_array().unwrap().iter().map(|image| image["ref"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(refs(&session.json("/api/search?text=")), ["4", "3", "2", "1"]);
    assert_eq!(refs(&session.json("/api/search?text=PORT")), ["2"]);
    assert_eq!(refs(&session.json("/api/search?text=%25")), [""; 0]);
    assert_eq!(refs(&session.json("/api/search?text=3")), ["3"]);
    let names = |target: &str| -> Vec<String> {
        let listed = session.json(target);
        listed["entries"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/api/browse?source=media&path="), ["o", "broken.jpg"]);
    assert_eq!(names("/api/browse?source=media&path=o/"), ["land.jpg", "port.jpg", "rgba.png"]);
    assert_eq!(names("/api/browse?source=media&path=o/L"), ["land.jpg"]);
    assert_eq!(names("/api/browse?source=media&path=nowhere/"), [""; 0]);
    for path in ["../", "/etc/", "o/../../"] {
        assert_eq!(session.get(&format!("/api/browse?source=media&path={path}")).status, 400, "{path}");
    }

    for (reference, spec) in
        [("1", "width-80"), ("2", "fill-40x40|format-webp"), ("media/o/land.jpg", "width-60"), ("1", "hero")]
    {
        let solved = session.solve(json!({"ref": reference, "spec": spec, "expires": 3600, "download": "a b.jpg"}));
        let answer = page.site.gate("GET", &page.site.target(&solved["url"]), "");
        assert_eq!(answer.status, 200, "{solved}: {}", answer.text());
        assert!(answer.header("content-disposition").unwrap().contains("a b.jpg"));

        let preview = page.get(&format!("/preview?ref={reference}&spec={}", spec.replace('|', "%7C")), &session.cookie);
        assert_eq!(preview.status, 200);
        assert_eq!(preview.header("content-type").as_deref(), solved["output"]["media_type"].as_str());
        let picture = sendimage::render::probe(&preview.body).unwrap().upright_size();
        assert_eq!(json!([picture.width, picture.height]), solved["output"]["size"]);
    }
    // The public's rendition and the preview are the same file.
    assert_eq!(page.site.stored().len(), 4);

    let solved = session.solve(json!({"ref": "2", "spec": "fill-40x40"}));
    assert_eq!(solved["focal"], json!({"x": 40.0, "y": 40.0, "width": 20.0, "height": 20.0}));
    let tried =
        session.solve(json!({"ref": "2", "spec": "fill-40x20", "focal": {"x": 0, "y": 0, "width": 0, "height": 0}}));
    assert_eq!((tried["crop"]["top"].as_u64(), tried["crop"]["whole"].as_bool()), (Some(0), Some(false)));
    let target = "/preview?ref=2&spec=fill-40x20&focal=";
    assert_ne!(session.get(&format!("{target}0,0,0,0")).body, session.get(&format!("{target}0,9999,0,0")).body);
    for focal in ["", "1", "1,2,3,4,5", "-1,0,0,0", "NaN,0,0,0", "1e9,0,0,0"] {
        assert_eq!(session.get(&format!("{target}{focal}")).status, 400, "{focal}");
    }

    let set = session.post("/api/links", &json!({"ref": "1", "set": "article"}));
    let set: Value = serde_json::from_slice(&set.body).unwrap();
    let links = set["links"].as_array().unwrap();
    assert_eq!(links.iter().map(|link| link["size"][0].as_u64().unwrap()).collect::<Vec<_>>(), [80, 40, 80]);
    for link in links {
        assert_eq!(page.site.gate("GET", &page.site.target(&link["url"]), "").status, 200, "{link}");
    }
}

#[test]
fn what_is_wrong_is_said_at_its_field() {
    let page = Paged::new("");
    let session = page.session();
    for (body, status, field, offset) in [
        (json!({"ref": "1", "spec": "width-80|formt-webp"}), 400, "spec", Some(9)),
        (json!({"ref": "1", "spec": "é|width-80"}), 400, "spec", Some(0)),
        (json!({"ref": "1", "spec": ""}), 400, "spec", Some(0)),
        (json!({"ref": "77", "spec": "width-80"}), 404, "ref", None),
        (json!({"ref": "nonsense", "spec": "width-80"}), 400, "ref", None),
        (json!({"ref": "nowhere/a.jpg", "spec": "width-80"}), 404, "ref", None),
        (json!({"ref": "3", "spec": "width-80"}), 410, "ref", None),
        (json!({"ref": "media/o/none.jpg", "spec": "width-80"}), 410, "ref", None),
        (json!({"ref": "media/broken.jpg", "spec": "width-80"}), 422, "ref", None),
        (json!({"ref": "1", "spec": "scale-1000000"}), 422, "spec", None),
        (json!({"ref": "1", "spec": "crop-9999,9999,5,5"}), 422, "spec", None),
        (json!({"ref": "1", "spec": "width-80", "expires": 0}), 400, "expires", None),
        (json!({"ref": "1", "spec": "width-80", "download": "a\nb"}), 400, "download", None),
        (json!({"ref": "1", "spec": "width-80", "route": "nope"}), 400, "route", None),
        (
            json!({"ref": "1", "spec": "width-80", "focal": {"x": -1, "y": 0, "width": 0, "height": 0}}),
            400,
            "focal",
            None,
        ),
    ] {
        let (found, error) = session.refused("/api/solve", body.clone());
        assert_eq!((found, error["field"].as_str()), (status, Some(field)), "{body}: {error}");
        assert_eq!(error["offset"].as_u64(), offset, "{body}: {error}");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    let (status, error) = session.refused("/api/links", json!({"ref": "1", "set": "nope"}));
    assert_eq!((status, error["field"].as_str()), (400, Some("set")));
    // A preview that cannot be made says why, too.
    assert_eq!(session.get("/preview?ref=media/broken.jpg&spec=width-80").status, 422);
}

#[test]
fn a_key_with_bounds_signs_nothing_beyond_them() {
    let page = Paged::new(
        "[signing]\nkeys = [{ id = \"small\", secret = \"0123456789abcdef\", max_pixels = 2000, sources = [\"media\"] }]\n",
    );
    let session = page.session();
    assert_eq!(session.solve(json!({"ref": "1", "spec": "fill-40x40"}))["output"]["size"], json!([40, 40]));
    let (_, error) = session.refused("/api/solve", json!({"ref": "1", "spec": "fill-60x40"}));
    assert_eq!(error["field"], "spec");
    assert!(error["message"].as_str().unwrap().contains("2000 pixels"), "{error}");
}

/// Of several keys the page signs with the first that signs for the image's source and the rendition's size.
#[test]
fn links_are_signed_by_a_key_that_admits_the_image() {
    let page = Paged::new(
        "[sources.other]\nkind = \"fs\"\nroot = \"{dir}/media\"\n[signing]\nkeys = [\
         { id = \"other\", secret = \"0123456789abcdef\", sources = [\"other\"] }, \
         { id = \"small\", secret = \"small-small-small-small\", max_pixels = 2000 }, \
         { id = \"large\", secret = \"large-large-large-large\", max_pixels = 4000 }]\n",
    );
    let session = page.session();
    for spec in ["fill-40x40", "fill-60x60"] {
        let url = session.solve(json!({"ref": "1", "spec": spec}))["url"].clone();
        assert_eq!(page.site.gate("GET", &page.site.target(&url), "").status, 200, "{spec}: {url}");
    }
    let (_, error) = session.refused("/api/solve", json!({"ref": "1", "spec": "fill-80x80"}));
    assert!(error["message"].as_str().unwrap().contains("4000 pixels"), "{error}");
}

#[test]
fn assets_are_asked_about_and_kept() {
    let page = Paged::new("");
    for (target, kind) in [("/page.js", "text/javascript"), ("/page.css", "text/css"), ("/icon.svg", "image/svg+xml")] {
        let first = page.get(target, "");
        assert_secure(&first, target);
        assert!(first.status == 200 && first.header("content-type").unwrap().starts_with(kind));
        let etag = first.header("etag").unwrap();
        let again = page.get(target, &format!("If-None-Match: {etag}\r\n"));
        assert_eq!((again.status, again.body.len()), (304, 0), "{target}");
    }
    let session = page.session();
    let status = session.json("/api/status");
    assert_eq!(status["interval"], 5);
    let sample = &status["samples"][0]["values"];
    assert!(sample["hit"].is_number() && sample["queue"].is_number(), "{status}");
}

#[test]
fn a_page_without_a_good_password_does_not_start() {
    let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let site = Site::new(&Paged::config(address, "too short", ""));
    std::fs::write(site.path("images.csv"), "id,file\n").unwrap();
    let output = site.run(&["serve"]);
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{says}");
    assert!(says.contains("page.password") && !says.contains("too short\""), "{says}");
    site.configure(&Paged::config(address, "", "").replace("password = \"\"\n", ""));
    assert_eq!(site.run(&["serve"]).status.code(), Some(78));
}
