//! Signing keys with bounds, and keys that come and go while the service runs.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Site, wait_for};

/// Keys that each sign for less than everything; the second folder is a source of its own.
const CONFIG: &str = "[signing]
keys = [
    { id = \"all\", secret = \"0123456789abcdef\" },
    { id = \"media\", secret = \"media-media-media-media\", sources = [\"media\"] },
    { id = \"presets\", secret = \"presets-presets-presets\", presets_only = true },
    { id = \"small\", secret = \"small-small-small-small\", max_pixels = 3000 },
    { id = \"early\", secret = \"early-early-early-early\", not_before = \"2999-01-01T00:00:00Z\" },
    { id = \"late\", secret = \"late-late-late-late-late\", not_after = \"2020-01-01T00:00:00+01:00\" },
]
[sources.other]
kind = \"fs\"
root = \"{dir}/other\"
[catalogue]
kind = \"manifest\"
file = \"{dir}/images.csv\"
source = \"other\"
[presets]
hero = \"width-60\"
";

/// A URL that one of the keys has signed, whatever it is meant for: as a site's own code would make it.
fn signed_by(site: &Site, key: &str, reference: &str, spec: &str) -> String {
    let secret = match key {
        "all" => "0123456789abcdef".to_owned(),
        "late" => "late-late-late-late-late".to_owned(),
        "presets" => "presets-presets-presets".to_owned(),
        other => [other; 4].join("-"),
    };
    let config = site.path("signer.toml");
    let store = site.path("renditions");
    let text = format!(
        "[signing]\nsecret = \"{secret}\"\n[store]\nroot = {store:?}\n[sources.media]\nkind = \"fs\"\nroot = {store:?}\n\
         [sources.other]\nkind = \"fs\"\nroot = {store:?}\n[presets]\nhero = \"width-60\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let output = std::process::Command::new(crate::harness::SENDIMAGE)
        .args(["sign", reference, spec, "-c"])
        .arg(&config)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let url = String::from_utf8(output.stdout).unwrap();
    url.trim().strip_prefix("http://localhost:8080").unwrap().to_owned()
}

fn site() -> Site {
    site_with(CONFIG)
}

fn site_with(config: &str) -> Site {
    let site = Site::new(config);
    site.add("photo_land.jpg", "a.jpg");
    std::fs::create_dir(site.path("other")).unwrap();
    std::fs::copy(site.path("media/a.jpg"), site.path("other/b.jpg")).unwrap();
    std::fs::write(site.path("images.csv"), "id,file\n42,b.jpg\n").unwrap();
    site.serve()
}

#[test]
fn every_bound_of_a_key_holds() {
    let site = site();
    // 60 x 40 are 2,400 pixels; 80 x 53 are 4,240.
    for (key, reference, spec, status) in [
        ("all", "media/a.jpg", "width-80", 200),
        ("all", "42", "width-80", 200),
        ("media", "media/a.jpg", "width-80", 200),
        ("media", "other/b.jpg", "width-80", 403),
        ("media", "42", "width-80", 403),
        ("media", "43", "width-80", 404),
        ("presets", "media/a.jpg", "hero", 200),
        ("presets", "media/a.jpg", "width-60", 403),
        ("small", "media/a.jpg", "width-60", 200),
        ("small", "media/a.jpg", "hero", 200),
        ("small", "media/a.jpg", "width-80", 403),
        ("small", "42", "width-80", 403),
        ("small", "media/a.jpg", "original", 403),
        ("small", "media/a.jpg", "width-80|format-auto", 403),
        ("small", "media/a.jpg", "width-20|pad-80x80", 403),
        ("early", "media/a.jpg", "width-60", 403),
        ("late", "media/a.jpg", "width-60", 403),
    ] {
        let url = signed_by(&site, key, reference, spec);
        // Before and after a hit of another key is remembered.
        for _ in 0..3 {
            let answer = site.gate("GET", &url, "");
            assert_eq!(answer.status, status, "{key} {reference} {spec}: {}", answer.text());
            assert_eq!(answer.header("x-accel-redirect").is_some(), status == 200, "{key} {reference} {spec}");
        }
    }
    let uses = |key: &str| site.metric(&format!("sendimage_key_uses_total{{key=\"{key}\"}}"));
    assert_eq!((uses("all"), uses("early"), uses("late")), (6.0, 0.0, 0.0));
    assert!(uses("media") >= 9.0 && uses("small") >= 20.0);
}

#[test]
fn what_is_refused_by_size_is_not_rendered() {
    let site = site();
    assert_eq!(site.gate("GET", &signed_by(&site, "small", "media/a.jpg", "width-80"), "").status, 403);
    assert!(site.stored().is_empty());
}

#[test]
fn a_link_is_signed_by_a_key_that_may() {
    // The first key is dead, the second one is for another source, the third for presets.
    let config = CONFIG
        .replace("{ id = \"all\", secret = \"0123456789abcdef\" },\n    ", "")
        .replace("sources = [\"media\"]", "sources = [\"other\"]");
    let site = site_with(&config);
    let says = |reference: &str, spec: &str| {
        let url = site.sign(&[reference, spec]);
        let text = String::from_utf8(site.run(&["explain", &url]).stdout).unwrap();
        text.lines().find(|line| line.starts_with("signature")).unwrap().to_owned()
    };
    assert!(says("media/a.jpg", "hero").contains("by key \"presets\""));
    assert!(says("media/a.jpg", "width-60").contains("by key \"small\""));
    assert!(says("other/b.jpg", "width-60").contains("by key \"media\""));
}

#[test]
fn explain_says_what_a_key_is_for() {
    let site = site();
    let explain = |key: &str, spec: &str| {
        let output = site.run(&["explain", &signed_by(&site, key, "media/a.jpg", spec)]);
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (served, text) = explain("small", "width-60");
    assert!(served && text.contains("at most 3000 pixels"), "{text}");
    for (key, reason) in
        [("small", "not for renditions of this size"), ("late", "not valid any more"), ("early", "not valid yet")]
    {
        let (served, text) = explain(key, "width-80");
        assert!(!served && text.contains(reason), "{reason:?} is not in\n{text}");
    }
}

#[test]
fn keys_come_and_go_without_a_restart() {
    let mut config = CONFIG.to_owned();
    let site = site();
    let url = signed_by(&site, "media", "media/a.jpg", "width-60");
    let ask = || site.gate("GET", &url, "").status;
    let applies = |status: u16| {
        site.signal(Signal::HUP);
        assert!(wait_for(Duration::from_secs(10), || ask() == status).is_ok(), "{status}: {}", site.log());
    };
    assert_eq!(ask(), 200);
    // Bounded to another source, over, gone, and back.
    config = config.replace("sources = [\"media\"]", "sources = [\"other\"]");
    site.configure(&config);
    applies(403);
    config = config.replace("sources = [\"other\"]", "not_after = \"2999-01-01T00:00:00Z\"");
    site.configure(&config);
    applies(200);
    let over = config.replace("not_after = \"2999", "not_after = \"2021");
    site.configure(&over);
    applies(403);
    site.configure(&config);
    applies(200);
    // A bound that is none changes nothing.
    site.configure(&config.replace("2999-01-01T00:00:00Z", "next year"));
    site.signal(Signal::HUP);
    let failed = || site.metric("sendimage_config_reload_failed_total") == 1.0;
    assert!(wait_for(Duration::from_secs(10), failed).is_ok());
    assert_eq!(ask(), 200);
}
