//! What a browser makes of our files: Chromium's own decoder counts frames, repetitions and milliseconds. Part of
//! `tests/run --long`: `cargo test --test suite browser -- --ignored`.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use sendimage::{
    app,
    config::RenderConfig,
    render::{self, Plan},
    spec::FilterSpec,
    workers::Marks,
};
use serde_json::{Value, json};

use crate::{animations, vectors};

/// Decodes every frame of every file and sends back what it found.
const PAGE: &str = r#"<!doctype html><body><script>
const files = FILES;
async function inspect({ type, data }) {
  const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
  const decoder = new ImageDecoder({ data: bytes, type });
  await decoder.completed;
  await decoder.tracks.ready;
  const { frameCount, repetitionCount } = decoder.tracks.selectedTrack;
  const ms = [];
  for (let frameIndex = 0; frameIndex < frameCount; frameIndex++) {
    const { image } = await decoder.decode({ frameIndex });
    ms.push(image.duration / 1000);
    image.close();
  }
  return { frames: frameCount, again: repetitionCount === Infinity ? -1 : repetitionCount, ms };
}
(async () => {
  const found = [];
  for (const file of files) found.push(await inspect(file).catch(error => ({ error: String(error) })));
  await fetch("/found", { method: "POST", body: JSON.stringify(found) });
})();
</script></body>"#;

fn inspect(files: &[Vec<u8>]) -> Vec<Value> {
    let listed: Vec<Value> = files
        .iter()
        .map(|bytes| {
            let kind = if bytes.starts_with(b"GIF") { "image/gif" } else { "image/webp" };
            json!({ "type": kind, "data": BASE64_STANDARD.encode(bytes) })
        })
        .collect();
    let found = ask(&PAGE.replace("FILES", &serde_json::to_string(&listed).unwrap()));
    found.as_array().unwrap().clone()
}

/// Whether there is a browser; says so where there is none.
pub fn is_there() -> bool {
    let there = Command::new("chromium").arg("--version").output().is_ok();
    if !there {
        eprintln!("SKIPPED: there is no chromium");
    }
    there
}

/// Shows a page to the browser, and gives what the page sends back.
pub fn ask(page: &str) -> Value {
    let page = page.to_owned();
    // Loopback is a secure context, which `ImageDecoder` wants.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let profile = tempfile::tempdir().unwrap();
    let mut browser = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{}/", listener.local_addr().unwrap()))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let found = listener.incoming().find_map(|stream| answer(stream.unwrap(), &page));
        found.map(|found| send.send(found))
    });
    let found = receive.recv_timeout(Duration::from_secs(60));
    let _ = browser.kill();
    let _ = browser.wait();
    serde_json::from_slice(&found.expect("what the page found, within a minute")).unwrap()
}

/// Answers one request: with the page, or, to what it sends, with nothing. Returns what was sent.
fn answer(stream: TcpStream, page: &str) -> Option<Vec<u8>> {
    let mut reader = BufReader::new(&stream);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line).ok()? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let page = if length == 0 { page } else { "" };
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length:";
    write!(&stream, "{head} {}\r\n\r\n{page}", page.len()).ok()?;
    (length > 0).then_some(body)
}

fn rendered(source: &[u8], spec: &str) -> Vec<u8> {
    let defaults = app::defaults(&RenderConfig::default(), &Marks::default());
    let facts = render::probe(source).unwrap();
    let plan = Plan::new(&facts, &FilterSpec::parse(spec).unwrap(), None, &defaults).unwrap();
    render::render(source, &plan).unwrap().bytes
}

#[test]
#[ignore = "needs Chromium: tests/run --long"]
fn chromium_sees_the_animation_that_went_in() {
    if !is_there() {
        return;
    }
    let image = |name: &str| std::fs::read(vectors::folder().join("images").join(name)).unwrap();
    // What comes again, as the browser counts it: -1 is forever.
    let sources = [
        ("anim.gif", image("anim.gif")),
        ("anim.webp", image("anim.webp")),
        ("once", animations::gif(24, 18, &[10, 3, 20, 4, 100], None)),
        ("thrice", animations::gif(24, 18, &[10, 3, 20, 4, 100], Some(gif::Repeat::Finite(2)))),
        ("for ever", animations::gif(24, 18, &[10, 3, 20, 4, 100], Some(gif::Repeat::Infinite))),
        ("as fast as can be", animations::gif(24, 18, &[0, 1, 2], None)),
    ];
    let specs = [
        "width-20|format-gif",
        "width-20|format-webp",
        "width-20|format-webp-lossless",
        "original|bgcolor-fff|format-webp",
        "rotate-90|format-gif",
    ];
    let mut files: Vec<Vec<u8>> = sources.iter().map(|(_, source)| source.clone()).collect();
    for (_, source) in &sources {
        files.extend(specs.map(|spec| rendered(source, spec)));
    }
    let mut found = inspect(&files);
    let made = found.split_off(sources.len());
    for ((name, _), (wanted, made)) in sources.iter().zip(found.iter().zip(made.chunks(specs.len()))) {
        println!("{name}: {wanted}");
        assert!(wanted["frames"].as_u64() > Some(1), "{name}: {wanted}");
        for (spec, made) in specs.iter().zip(made) {
            assert_eq!(made, wanted, "{name} {spec}");
        }
    }
}
