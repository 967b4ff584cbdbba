//! A real Chromium, driven through chromedriver by W3C WebDriver: JSON over HTTP.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Response, free_port, parse, wait_for};

/// The key of an element's id in WebDriver's answers (W3C WebDriver, 12.2).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
pub const TAB: &str = "\u{E004}";
pub const ENTER: &str = "\u{E007}";
pub const RIGHT: &str = "\u{E014}";
/// How long the browser may take for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A browser with one window.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// A browser; says so where there is none.
    pub fn start() -> Option<Self> {
        let binary = ["chromium", "chromium-browser", "google-chrome"]
            .into_iter()
            .find(|name| Command::new(name).arg("--version").stderr(Stdio::null()).output().is_ok());
        let port = free_port();
        let mut driver = Command::new("chromedriver");
        driver.arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null());
        let found = binary.and_then(|binary| Some((binary, driver.spawn().ok()?)));
        let Some((binary, driver)) = found else {
            eprintln!("SKIPPED: there is no chromium with its chromedriver");
            return None;
        };
        let path = std::env::split_paths(&std::env::var_os("PATH")?)
            .map(|folder| folder.join(binary))
            .find(|p| p.is_file())?;
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Self { driver, port, session: String::new(), _profile: profile };
        wait_for(PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok()).expect("chromedriver listens");
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".into(),
            "--disable-gpu".into(),
            "--disable-dev-shm-usage".into(),
            "--disable-background-networking".into(),
            "--disable-component-update".into(),
            "--disable-sync".into(),
            "--no-first-run".into(),
            "--window-size=1280,900".into(),
            format!("--user-data-dir={}", browser._profile.path().display()),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "binary": path, "args": arguments },
            "goog:loggingPrefs": { "performance": "ALL", "browser": "ALL" },
        } } });
        let session = browser.ask("POST", "/session", &wanted);
        browser.session = session["sessionId"].as_str().expect("a session").to_owned();
        Some(browser)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        );
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
        let response = talk(stream, request.as_bytes());
        let answer: Value = serde_json::from_slice(&response.body).unwrap_or_else(|_| panic!("{path}: {response:?}"));
        assert_eq!(response.status, 200, "{method} {path} {body}: {answer}");
        answer["value"].clone()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}{path}", self.session), body)
    }

    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// What a script returns; its arguments are `arguments`.
    pub fn run(&self, script: &str, arguments: Value) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": arguments }))
    }

    /// What an expression is.
    pub fn is(&self, expression: &str) -> Value {
        self.run(&format!("return {expression};"), json!([]))
    }

    /// What a script's promise comes to.
    pub fn later(&self, promise: &str) -> Value {
        let script = format!("const done = arguments[0]; ({promise}).then(done, error => done(`failed: ${{error}}`));");
        self.post("/execute/async", &json!({ "script": script, "args": [] }))
    }

    /// Waits until an expression holds.
    #[track_caller]
    pub fn until(&self, expression: &str) {
        if wait_for(PATIENCE, || self.is(&format!("Boolean({expression})")) == true).is_err() {
            self.shot("failed");
            panic!("never: {expression}\n{}", self.is("document.body.innerText").as_str().unwrap_or_default());
        }
    }

    fn element(&self, selector: &str) -> String {
        let found = self.post("/element", &json!({ "using": "css selector", "value": selector }));
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    pub fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.run("arguments[0].scrollIntoView({ block: 'center' })", json!([{ ELEMENT: element }]));
        self.post(&format!("/element/{element}/click"), &json!({}));
    }

    /// Types into a field, in place of what is in it.
    pub fn fill(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.run("arguments[0].focus(); arguments[0].select();", json!([{ ELEMENT: element }]));
        self.keys(text);
    }

    /// Keys, to whatever has the focus.
    pub fn keys(&self, text: &str) {
        let keys: Vec<Value> = text
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() })))
            .collect();
        self.post("/actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": keys }] }));
    }

    /// Chooses an option, as a user's choice is told to scripts.
    pub fn select(&self, selector: &str, value: &str) {
        let script = "const [node, value] = arguments; node.value = value;
            for (const name of ['input', 'change']) node.dispatchEvent(new Event(name, { bubbles: true }));";
        self.run(script, json!([{ ELEMENT: self.element(selector) }, value]));
    }

    /// Presses the pointer at one place of an element and lets it go at another: fractions of its width and height.
    pub fn drag(&self, selector: &str, from: (f64, f64), to: (f64, f64)) {
        let element = self.element(selector);
        self.run("arguments[0].scrollIntoView({ block: 'center' })", json!([{ ELEMENT: element }]));
        let size = self.run(
            "const r = arguments[0].getBoundingClientRect(); return [r.width, r.height]",
            json!([{ ELEMENT: element }]),
        );
        let side = |index: usize| size[index].as_f64().unwrap();
        // Counted from the element's middle.
        let place = |(x, y): (f64, f64)| (((x - 0.5) * side(0)) as i64, ((y - 0.5) * side(1)) as i64);
        let go = |(x, y): (i64, i64), ms: u64| json!({ "type": "pointerMove", "duration": ms, "origin": { ELEMENT: element }, "x": x, "y": y });
        let steps = [
            go(place(from), 0),
            json!({ "type": "pointerDown", "button": 0 }),
            go(place(to), 200),
            json!({ "type": "pointerUp", "button": 0 }),
        ];
        self.post("/actions", &json!({ "actions": [{ "type": "pointer", "id": "mouse", "actions": steps }] }));
    }

    /// A command of the browser's own protocol.
    pub fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    pub fn media(&self, features: &[(&str, &str)]) {
        let features: Vec<_> = features.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    pub fn screen(&self, width: u32, height: u32, is_phone: bool) {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": if is_phone { 2 } else { 1 }, "mobile": is_phone }),
        );
    }

    /// Every address that was asked for since the last call.
    pub fn requests(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({ "type": "performance" }));
        let sent = |entry: &Value| -> Option<String> {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &message["message"];
            let is_request = message["method"] == "Network.requestWillBeSent";
            is_request.then(|| message["params"]["request"]["url"].as_str().unwrap_or_default().to_owned())
        };
        entries.as_array().unwrap().iter().filter_map(sent).collect()
    }

    /// What the browser's console had to complain of since the last call.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({ "type": "browser" }));
        entries.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// A picture of the window, kept in `target/page`.
    pub fn shot(&self, name: &str) {
        let picture = self.ask("GET", &format!("/session/{}/screenshot", self.session), &Value::Null);
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("page");
        std::fs::create_dir_all(&folder).unwrap();
        let bytes = BASE64_STANDARD.decode(picture.as_str().unwrap()).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), bytes).unwrap();
    }
}

/// Sends a request and reads its answer, however long the driver keeps the connection open.
fn talk(mut stream: TcpStream, request: &[u8]) -> Response {
    stream.write_all(request).unwrap();
    let (mut bytes, mut part) = (Vec::new(), [0; 64 << 10]);
    loop {
        let answer = parse(&bytes);
        // chromedriver writes no space behind a header's colon, and none but this is wanted.
        let head =
            String::from_utf8_lossy(&bytes[..bytes.len().saturating_sub(answer.body.len())]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if answer.status != 0 && length.is_some_and(|length| answer.body.len() >= length) {
            return answer;
        }
        match stream.read(&mut part) {
            Ok(read @ 1..) => bytes.extend_from_slice(&part[..read]),
            Ok(0) | Err(_) => return answer,
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let request = format!(
                "DELETE /session/{} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n\r\n",
                self.session, self.port
            );
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)) {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
                talk(stream, request.as_bytes());
            }
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
