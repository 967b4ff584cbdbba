//! The commands, as an operator types them.

use std::process::Command;

use crate::harness::{SENDIMAGE, Site};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_teaches_and_wrong_usage_is_2() {
    let help = Command::new(SENDIMAGE).arg("--help").output().unwrap();
    let help = text(&help.stdout);
    for word in [
        "serve",
        "demo",
        "check",
        "proxy-conf",
        "sign",
        "explain",
        "keygen",
        "render",
        "warm",
        "inspect",
        "Exit codes",
        "SENDIMAGE_",
    ] {
        assert!(help.contains(word), "{word} is not in\n{help}");
    }
    for hidden in ["render-worker", "sample-photo"] {
        assert!(!help.contains(hidden), "{hidden}");
    }
    for command in ["serve", "demo", "check", "proxy-conf", "sign", "explain", "keygen", "render", "warm", "inspect"] {
        let output = Command::new(SENDIMAGE).args([command, "--help"]).output().unwrap();
        assert!(output.status.success() && output.stdout.len() > 100, "{command}");
    }
    assert_eq!(Command::new(SENDIMAGE).arg("nonsense").output().unwrap().status.code(), Some(2));
    assert_eq!(Command::new(SENDIMAGE).args(["sign", "42"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn bad_configs_are_78_and_name_file_and_key() {
    for (config, needle) in [
        ("[render]\nworkerz = 2\n", "workerz"),
        ("[render]\nworkers = \"many\"\n", "render.workers"),
        ("[signing]\nsecret = \"short\"\n", "default"),
        ("[signing]\nkeys = []\n", "no key is set"),
        ("[auth]\nmode = \"jwt\"\n", "auth.jwt.keys"),
        ("[auth]\nmode = \"forward\"\n", "auth.forward.url"),
        ("[auth]\nmode = \"none\"\n", "auth.mode"),
        ("[catalogue]\nkind = \"manifest\"\nfile = \"{dir}/nope.csv\"\nsource = \"media\"\n", "nope.csv"),
    ] {
        let site = Site::new(config);
        for command in ["serve", "check"] {
            let output = site.run(&[command]);
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{command} {config}: {error}");
            assert!(error.contains(needle), "{needle} is not in {error}");
        }
    }
    let missing = Command::new(SENDIMAGE).args(["serve", "-c", "/nonexistent/sendimage.toml"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(78));
    assert!(text(&missing.stderr).contains("/nonexistent/sendimage.toml"));
}

#[test]
fn the_environment_overrides_the_file() {
    let site = Site::new("");
    let output = Command::new(SENDIMAGE)
        .args(["sign", "42", "width-1", "-c"])
        .arg(site.config())
        .env("SENDIMAGE_SERVER__PUBLIC_URL", "https://example.org")
        .env("SENDIMAGE_SERVICE_HOST", "10.0.0.1")
        .output()
        .unwrap();
    assert!(text(&output.stdout).starts_with("https://example.org/images/"), "{output:?}");
}

#[test]
fn relative_paths_are_relative_to_the_config() {
    let folder = tempfile::tempdir().unwrap();
    let config = "[signing]\nsecret = \"0123456789abcdef\"\n[store]\nroot = \"renditions\"\n";
    std::fs::write(folder.path().join("sendimage.toml"), config).unwrap();
    let output = Command::new(SENDIMAGE).arg("nginx-conf").current_dir(folder.path()).output().unwrap();
    let alias = format!("alias {}/renditions/;", folder.path().display());
    assert!(text(&output.stdout).contains(&alias), "{alias} is not in {output:?}");
}

#[test]
fn keygen_makes_keys_that_serve() {
    let key = Command::new(SENDIMAGE).arg("keygen").output().unwrap();
    let key = text(&key.stdout);
    assert_eq!(key.lines().count(), 1);
    assert!(key.trim().len() >= 43);
    let site = Site::new(&format!("[signing]\nsecret = \"{}\"\n", key.trim()));
    assert!(site.sign(&["42", "width-100"]).starts_with("/images/"));
}

#[test]
fn sign_prints_wagtails_urls_and_sets() {
    let site = Site::new(
        "[signing]\nwagtail_keys = [\"conformance-secret-key\"]\n[presets]\nhero = \"fill-10x10|format-webp\"\n\
         [preset_sets]\narticle = [\"hero\", \"width-800\"]\n",
    );
    let url = site.sign(&["1", "width-100", "--filename", "photo.jpg"]);
    assert_eq!(url, "/images/K4ei13HmFX4kK423GtwSUtWsGos=/1/width-100/photo.jpg");
    assert!(site.sign(&["1", "hero"]).ends_with("/1/hero/1.webp"), "the output's extension");
    let set = site.run(&["sign", "1", "--preset-set", "article", "--json"]);
    let set: serde_json::Value = serde_json::from_slice(&set.stdout).unwrap();
    assert!(set["hero"].as_str().unwrap().contains("/hero/") && set["width-800"].is_string());
    let bad = site.run(&["sign", "1", "width-100|height-x"]);
    let error = text(&bad.stderr);
    assert_eq!(bad.status.code(), Some(1));
    assert!(error.contains("width-100|height-x") && error.contains("                   ^"), "{error}");
    assert_eq!(
        site.run(&["sign", "1", "width-1", "--expires", "1h"]).status.code(),
        Some(1),
        "Wagtail signs no expiry"
    );
}

#[test]
fn explain_says_why() {
    let site = Site::new("[presets]\nhero = \"fill-40x30|format-webp\"\n");
    site.add("photo_land.jpg", "a.jpg");
    let url = site.sign(&["media/a.jpg", "hero"]);
    let output = site.run(&["explain", &url]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    for needle in
        ["\"hero\" stands for", "fill-40x30|format-webp", "good, by key \"default\"", "jpeg 640x427", "r1/", "miss"]
    {
        assert!(said.contains(needle), "{needle} is not in\n{said}");
    }
    assert!(!said.contains(crate::harness::KEY));
    let refused = site.run(&["explain", "--json", &url.replace("hero", "width-9")]);
    let report: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((refused.status.code(), &report["status"]), (Some(1), &403.into()));
    // The status that the service itself would answer: a path is unknown, where a catalogue's image would be gone.
    let missing = site.run(&["explain", "--json", &site.sign(&["media/nope.jpg", "width-9"])]);
    let report: serde_json::Value = serde_json::from_slice(&missing.stdout).unwrap();
    assert_eq!((missing.status.code(), &report["status"]), (Some(1), &404.into()));
    let whole = site.run(&["explain", &format!("https://example.org{url}")]);
    assert_eq!(whole.status.code(), Some(0), "a whole URL will do");
}

#[test]
fn render_makes_one_file_and_reports() {
    let site = Site::new("");
    site.add("exif_6.jpg", "a.jpg");
    let (input, output) = (site.path("media/a.jpg"), site.path("out.webp"));
    let run = |spec: &str, output: &std::path::Path| {
        Command::new(SENDIMAGE)
            .arg("render")
            .args([&input, spec.as_ref(), output] as [&std::path::Path; 3])
            .arg("--json")
            .output()
            .unwrap()
    };
    let report = run("fill-20x10", &output);
    assert!(report.status.success(), "{}", text(&report.stderr));
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["output"]["format"], "webp", "the extension decides where the spec is silent");
    assert_eq!(report["output"]["size"], serde_json::json!({"width": 20, "height": 10}));
    assert_eq!(report["source"]["orientation"], 6);
    assert_eq!(std::fs::metadata(&output).unwrap().len(), report["output"]["bytes"].as_u64().unwrap());
    assert!(report["ms"]["total"].as_f64().unwrap() > 0.0 && report["peak_bytes"].as_u64().unwrap() > 1 << 20);

    site.add("notimage.jpg", "a.jpg");
    let failed = run("width-5", &output);
    assert_eq!(failed.status.code(), Some(1));
    assert!(std::fs::metadata(&output).unwrap().len() > 0, "what was there stays");
    assert_eq!(
        crate::harness::files(site.folder.path()).iter().filter(|p| p.to_string_lossy().contains(".tmp-")).count(),
        0
    );
}

#[test]
fn render_replaces_neither_links_nor_pipes() {
    use std::os::unix::fs::FileTypeExt as _;
    let site = Site::new("");
    site.add("photo_land.jpg", "a.jpg");
    let (link, file, pipe) = (site.path("link.png"), site.path("file.png"), site.path("pipe"));
    std::fs::write(&file, "what was there").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let render = |output: &std::path::Path| {
        let (input, spec) = (site.path("media/a.jpg"), "width-20|format-png");
        Command::new(SENDIMAGE).arg("render").args([&input, std::path::Path::new(spec), output]).spawn().unwrap()
    };
    assert!(render(&link).wait().unwrap().success());
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    let made = std::fs::read(&file).unwrap();
    assert!(made.starts_with(b"\x89PNG"));
    let mut child = render(&pipe);
    assert!(std::fs::read(&pipe).unwrap() == made, "whoever reads a pipe gets what a file gets");
    assert!(child.wait().unwrap().success());
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[test]
fn a_reader_that_has_enough_is_no_failure_and_a_full_disk_is_one() {
    let site = Site::new("");
    site.add("photo_land.jpg", "a.jpg");
    let url = site.sign(&["media/a.jpg", "width-9"]);
    let file = site.path("media/a.jpg").display().to_string();
    for arguments in [
        &["keygen"][..],
        &["du", "-c"],
        &["gc", "-c"],
        &["check", "--json", "-c"],
        &["sign", "42", "width-1", "-c"],
        &["proxy-conf", "-c"],
        &["inspect", &file],
        &["explain", &url, "-c"],
    ] {
        let run = |stdout: std::process::Stdio| {
            let config = arguments.last().filter(|last| **last == "-c").map(|_| site.config());
            Command::new(SENDIMAGE).args(arguments).args(config).stdout(stdout).output().unwrap()
        };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let enough = run(writer.into());
        assert_eq!(enough.status.code(), Some(0), "{arguments:?}: {}", text(&enough.stderr));
        let full = run(std::fs::File::options().write(true).open("/dev/full").unwrap().into());
        let error = text(&full.stderr);
        assert!(full.status.code() == Some(1) && error.contains("standard output"), "{arguments:?}: {full:?}");
    }
}

#[test]
fn health_is_what_the_service_says_of_itself() {
    let mut site = Site::new("").serve();
    for arguments in [&["health"][..], &["health", "--live"], &["health", "--timeout", "2"]] {
        let output = site.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
    assert!(text(&site.run(&["health"]).stdout).contains("\"ready\""));
    site.signal(rustix::process::Signal::TERM);
    site.wait();
    let output = site.run(&["health"]);
    assert!(
        output.status.code() == Some(1) && text(&output.stderr).contains("no answer from 127.0.0.1:"),
        "{output:?}"
    );
}

#[test]
fn check_finds_what_is_wrong() {
    let site = Site::new("[catalogue]\nkind = \"sqlite\"\nurl = \"sqlite://{dir}/nope.sqlite3\"\nsource = \"media\"\n");
    site.add("photo_land.jpg", "a.jpg");
    let output = site.run(&["check", "--json"]);
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let ok = |part: &str| findings.iter().find(|f| f["part"] == part).map(|f| f["ok"].as_bool().unwrap());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(ok("catalogue"), Some(false));
    for part in ["config", "route images", "source media", "store", "workers", "sandbox", "sandbox test"] {
        assert_eq!(ok(part), Some(true), "{part}: {findings:?}");
    }
    site.configure("");
    assert_eq!(site.run(&["check"]).status.code(), Some(0));
}

#[test]
fn demo_serves_its_own_photo_and_cleans_up() {
    use std::io::{BufRead, BufReader};
    let mut child = Command::new(SENDIMAGE)
        .arg("demo")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = lines.find_map(|line| line.unwrap().trim().strip_prefix("http://").map(str::to_owned)).unwrap();
    let (address, path) = url.split_once('/').unwrap();
    let stream = std::net::TcpStream::connect(address).unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let response = crate::harness::exchange(stream, request.as_bytes());
    assert_eq!((response.status, response.header("content-type").as_deref()), (200, Some("image/jpeg")));
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let left = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let name = format!("sendimage-demo-{}-", child.id());
    assert_eq!(left.filter(|entry| entry.file_name().to_string_lossy().starts_with(&name)).count(), 0);
}

#[test]
fn what_is_allowed_with_caution_is_said_aloud() {
    let bounded =
        "[store]\nmax_bytes = \"1GiB\"\neviction_grace_seconds = 30\n[ops]\ntoken = \"canary-canary-canary\"\n";
    let site = Site::new(bounded);
    let output = site.run(&["check"]);
    let said = text(&output.stdout);
    assert!(said.contains("store.eviction_grace_seconds") && said.contains("with caution"), "{said}");
    assert!(!said.contains("ops.token") && !said.contains("canary"), "{said}");
    site.configure("[ops]\ntoken = \"canary\"\n");
    let output = site.run(&["check"]);
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(!output.status.success() && said.contains("ops.token") && !said.contains("canary"), "{said}");
}
