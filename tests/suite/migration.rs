//! Moving a real Wagtail over: its own uploads, its own URLs, nothing changed but nginx.
//!
//! Installs Wagtail from its package registry, so it runs with `tests/run --long`. What cannot be installed is said, and
//! then nothing is tested.

use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use sendimage::model::ImageFormat;
use serde_json::Value;

use crate::{
    harness::{Response, Site, free_port, wait_for},
    pictures::Pixels,
    python, vectors,
};

const WAGTAIL: &str = "wagtail==8.0.1";
const IMAGES: [&str; 11] = [
    "photo_land.jpg",
    "photo_port.jpg",
    "exif_6.jpg",
    "exif_3.jpg",
    "rgba.png",
    "palette_trns.png",
    "static.gif",
    "alpha.webp",
    "wide_gamut.jpg",
    "photo.bmp",
    "photo.avif",
];
const SPECS: [&str; 10] = [
    "width-100",
    "original",
    "height-77",
    "max-90x90",
    "fill-60x60-c50",
    "fill-120x40|format-webp",
    "scale-33.3|format-png",
    "width-80|format-jpeg|jpegquality-40|bgcolor-fc3",
    "min-50x50|format-gif",
    "fill-70x70|format-avif",
];
/// Between two lossy renditions of the same plan, at these sizes and qualities; and between two palettes of 256 colours.
const CLOSE_DB: f64 = 30.0;
const CLOSE_PALETTES_DB: f64 = 25.0;

/// A Wagtail site under gunicorn.
struct Wagtail {
    python: PathBuf,
    folder: PathBuf,
    port: u16,
    server: Option<Child>,
}

impl Wagtail {
    /// Installs and prepares it; `None`, with the reason on standard error, where that is impossible here.
    fn install(folder: &Path) -> Option<Self> {
        let python = python::environment("wagtail", &[WAGTAIL, "gunicorn", "pillow"], "import wagtail, gunicorn")?;
        let site = Self { python, folder: folder.to_owned(), port: free_port(), server: None };
        let images: Vec<String> =
            IMAGES.iter().map(|name| vectors::folder().join("images").join(name).display().to_string()).collect();
        site.tool(&[&["prepare"], &images.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
        Some(site)
    }

    fn project() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/migration")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.python);
        command.env("SITE_FOLDER", &self.folder).env("DJANGO_SETTINGS_MODULE", "settings").current_dir(Self::project());
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Runs the site's own tool, and gives what it printed.
    fn tool(&self, arguments: &[&str]) -> String {
        let output = self.command().arg("site_tool.py").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn serve(mut self) -> Self {
        let bind = format!("127.0.0.1:{}", self.port);
        let server = self
            .command()
            .args(["-m", "gunicorn", "-b", &bind, "-w", "2", "--log-level", "warning"])
            .arg("django.core.wsgi:get_wsgi_application()")
            .spawn();
        self.server = Some(server.unwrap());
        let port = self.port;
        wait_for(Duration::from_secs(60), || TcpStream::connect(("127.0.0.1", port)).is_ok())
            .expect("gunicorn answers");
        self
    }

    fn urls(&self, specs: &[&str]) -> Vec<Value> {
        let text = self.tool(&[&["urls"], specs].concat());
        serde_json::from_str::<Value>(&text).unwrap().as_array().unwrap().clone()
    }
}

impl Drop for Wagtail {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let pid = rustix::process::Pid::from_raw(server.id() as i32).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = server.wait();
        }
    }
}

/// The config of step one.
const CONFIG: &str = "[signing]
wagtail_keys = [\"migration-secret-key\"]
[catalogue]
kind = \"sqlite\"
url = \"sqlite://{dir}/db.sqlite3\"
source = \"media\"
[offload]
mode = \"accel\"
";

/// What the site's own nginx had before: everything goes to the application. The mirror is how sendimage is tried first.
fn nginx_before(conf: &str, gunicorn: u16, ports: [u16; 2]) -> String {
    let [before, trying] = ports;
    let application = format!(
        "proxy_pass http://127.0.0.1:{gunicorn};\n proxy_set_header Host $host;\n proxy_ignore_headers X-Accel-Redirect;\n"
    );
    // Step two: our locations beside the site's.
    let place = conf.find("location / {").unwrap_or_else(|| panic!("no place for the rest of the site in:\n{conf}"));
    let after = place + conf[place..].find('}').expect("its end") + 1;
    let conf = format!("{}location / {{ {application} }}{}", &conf[..place], &conf[after..]);
    let end = conf.rfind('}').expect("the end of http");
    format!(
        "{}
    server {{
        listen 127.0.0.1:{before};
        location / {{ {application} }}
    }}
    server {{
        listen 127.0.0.1:{trying};
        location / {{ {application} }}
        location /images/ {{
            mirror /_try_sendimage;
            {application}
        }}
        location = /_try_sendimage {{
            internal;
            proxy_pass http://sendimage$request_uri;
            proxy_pass_request_body off;
            proxy_set_header Content-Length \"\";
            proxy_ignore_headers X-Accel-Redirect;
        }}
    }}
}}
",
        &conf[..end]
    )
}

fn ask(port: u16, target: &str) -> Response {
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    crate::harness::exchange(TcpStream::connect(("127.0.0.1", port)).unwrap(), request.as_bytes())
}

#[test]
#[ignore = "installs Wagtail from its registry: tests/run --long"]
fn a_real_wagtail_moves_over_by_changing_nginx_only() {
    let site = Site::new(CONFIG);
    let Some(wagtail) = Wagtail::install(site.folder.path()) else { return };
    let wagtail = wagtail.serve();
    let [before, trying] = [free_port(), free_port()];
    let site = site.with_nginx_edited("gate.sock", |conf| nginx_before(&conf, wagtail.port, [before, trying])).serve();
    let after = site.nginx_port();

    let urls = wagtail.urls(&SPECS);
    assert_eq!(urls.len(), IMAGES.len() * SPECS.len());
    let (mut same, mut compared, mut worst) = (0, 0, f64::INFINITY);
    for row in &urls {
        let name = format!("{} {}", row["file"].as_str().unwrap(), row["spec"].as_str().unwrap());
        let url = row["function"].as_str().unwrap();
        assert_eq!(row["tag"], row["function"], "{name}");
        let (old, new) = (ask(before, url), ask(after, url));
        assert_eq!((old.status, new.status), (200, 200), "{name}: {}", new.text());
        assert_eq!(old.header("content-type"), new.header("content-type"), "{name}");
        let format = ImageFormat::detect(&new.body);
        assert_eq!(ImageFormat::detect(&old.body), format, "{name}");
        let [old, new] = [old, new].map(|answer| Pixels::decode(&answer.body));
        assert_eq!((old.width, old.height), (new.width, new.height), "{name}");
        let palette = format == Some(ImageFormat::Gif);
        // Willow drops the transparency of what it writes as GIF, and shows the colours beneath it; we keep it.
        let comparable = !palette || new.is_opaque();
        let db = new.psnr(&old);
        assert!(!comparable || db >= if palette { CLOSE_PALETTES_DB } else { CLOSE_DB }, "{name}: {db:.1} dB");
        worst = if palette { worst } else { worst.min(db) };
        same += 1;
        // The address that the admin's generator shows leads to the same picture.
        if let Some(generated) = row["generator"].as_str() {
            assert_eq!(ask(after, generated).status, 200, "{generated}");
            compared += 1;
        }
    }
    assert_eq!(compared, IMAGES.len());

    // The same verdicts on what is not to be served.
    let signed = |id: &str, spec: &str| site.sign(&[id, spec, "--scheme", "wagtail"]);
    let malformed = wagtail.urls(&["width-nonsense"])[0]["function"].as_str().unwrap().to_owned();
    let good = urls[0]["function"].as_str().unwrap();
    for (target, status) in [
        (good.replacen("/images/", "/images/A", 1), 403),
        (good.replace("width-100", "width-101"), 403),
        (signed("999", "width-100"), 404),
        (malformed, 400),
        ("/images/".to_owned(), 404),
    ] {
        let (old, new) = (ask(before, &target).status, ask(after, &target).status);
        let verdict = |status: u16| if status == 403 || status == 400 { status / 100 } else { status };
        assert_eq!((verdict(old), verdict(new)), (verdict(status), verdict(status)), "{target}: {old}, {new}");
    }
    println!("{same} renditions alike; the furthest of those without a palette {worst:.1} dB apart");

    tried_beside_the_old_view(&site, trying, &urls);
    an_edit_is_seen_at_once(&wagtail, after);
}

/// Before anything is switched, nginx mirrors requests to sendimage, which logs what it would refuse.
fn tried_beside_the_old_view(site: &Site, trying: u16, urls: &[Value]) {
    let served = || site.metric("sendimage_requests_total{outcome=\"hit\"}");
    let refused = || site.metric("sendimage_requests_total{outcome=\"refused\"}");
    let (hits, refusals) = (served(), refused());
    let url = urls[0]["function"].as_str().unwrap();
    assert_eq!(ask(trying, url).status, 200);
    let forged = url.replacen("/images/", "/images/A", 1);
    let status = ask(trying, &forged).status;
    assert!(matches!(status, 403 | 404), "{status}");
    let seen = || served() > hits && refused() > refusals;
    wait_for(Duration::from_secs(5), seen).expect("sendimage was asked beside the old view");
}

/// Wagtail keeps an edited file under a new name: the row changes, and with it what is served.
fn an_edit_is_seen_at_once(wagtail: &Wagtail, after: u16) {
    let url = |id: u64| {
        let urls = wagtail.urls(&["width-100", "fill-60x60-c100"]);
        let of = |spec: &str| {
            let row = urls.iter().find(|row| row["id"] == id && row["spec"] == spec).unwrap();
            row["function"].as_str().unwrap().to_owned()
        };
        (of("width-100"), of("fill-60x60-c100"))
    };
    let (old_url, old_fill) = url(1);
    let old = Pixels::decode(&ask(after, &old_url).body);
    let old_crop = Pixels::decode(&ask(after, &old_fill).body);
    wagtail.tool(&["focus", "1", "520", "60", "80", "80"]);
    let edited = Instant::now();
    let crop_moved = || Pixels::decode(&ask(after, &old_fill).body).psnr(&old_crop) < CLOSE_DB;
    wait_for(Duration::from_secs(4), crop_moved).expect("a new focal point is seen");
    let focus_seen = edited.elapsed();
    let portrait = vectors::folder().join("images/photo_port.jpg").display().to_string();
    wagtail.tool(&["replace", "1", &portrait]);
    let replaced = Instant::now();
    // The old address goes on meaning the image, whatever its file is called now.
    let (new_url, _) = url(1);
    for target in [&old_url, &new_url] {
        let shows = || {
            let now = Pixels::decode(&ask(after, target).body);
            (now.width, now.height) != (old.width, old.height)
        };
        wait_for(Duration::from_secs(4), shows).expect("the new file is seen");
    }
    println!("seen: a new focal point after {focus_seen:?}, a new file after {:?}", replaced.elapsed());
}
