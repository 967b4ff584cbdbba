//! `auth_request`: nginx keeps verdicts and serves files by itself.

use std::{fs, time::Duration};

use crate::harness::Site;

const CONFIG: &str = "[offload]\nmode = \"auth_request\"\nverdict_cache_seconds = 1\n";
const HITS: &str = "sendimage_requests_total{outcome=\"hit\"}";

fn site(config: &str) -> Site {
    let site = Site::new(config).serve().with_nginx();
    site.add("photo_land.jpg", "a.jpg");
    site
}

/// Longer than a verdict of [`CONFIG`] and the open file beside it are kept.
fn verdicts_expire() {
    std::thread::sleep(Duration::from_millis(2200));
}

#[test]
fn a_miss_is_rendered_and_hits_stay_in_nginx() {
    let site = site("[offload]\nmode = \"auth_request\"\nverdict_cache_seconds = 60\n");
    let url = site.sign(&["media/a.jpg", "width-60"]);
    let first = site.nginx("GET", &url, "");
    assert_eq!((first.status, first.header("content-type").as_deref()), (200, Some("image/jpeg")), "{}", first.text());
    let second = site.nginx("GET", &url, "");
    let asked = site.metric(HITS);
    for _ in 0..10 {
        let hit = site.nginx("GET", &url, "");
        assert_eq!((hit.status, &hit.body), (200, &first.body));
        for name in [
            "cache-control",
            "content-disposition",
            "content-length",
            "content-security-policy",
            "content-type",
            "etag",
            "last-modified",
            "vary",
            "x-content-type-options",
        ] {
            assert_eq!(hit.header(name), first.header(name), "{name}");
            assert_eq!(hit.header(name), second.header(name), "{name}");
        }
        let told = hit.headers.iter().filter(|(name, _)| name.to_ascii_lowercase().contains("sendimage"));
        assert_eq!(told.count(), 0, "{:?}", hit.headers);
    }
    assert_eq!(site.metric(HITS), asked, "nginx asked for none of them");
    assert_eq!(first.header("cache-control").as_deref(), Some("max-age=3600, public"));
    assert_eq!(first.header("content-disposition").as_deref(), Some("inline; filename=\"a.jpg\""));
}

#[test]
fn heads_ranges_and_conditions_are_nginxs() {
    let site = site(CONFIG);
    let url = site.sign(&["media/a.jpg", "width-60"]);
    let whole = site.nginx("GET", &url, "");
    let etag = whole.header("etag").unwrap();
    // By the plain way at first, by a verdict later: the same.
    for _ in 0..3 {
        let head = site.nginx("HEAD", &url, "");
        assert_eq!((head.status, head.header("content-length")), (200, Some(whole.body.len().to_string())));
        let part = site.nginx("GET", &url, "Range: bytes=5-14\r\n");
        assert_eq!((part.status, part.body.as_slice()), (206, &whole.body[5..15]));
        let unchanged = site.nginx("GET", &url, &format!("If-None-Match: {etag}\r\n"));
        assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
        assert_eq!(unchanged.header("cache-control"), whole.header("cache-control"));
    }
    let options = site.nginx("OPTIONS", &url, "");
    assert_eq!((options.status, options.header("allow").as_deref()), (204, Some("GET, HEAD, OPTIONS")));
    assert_eq!(site.nginx("DELETE", &url, "").status, 405);
}

#[test]
fn what_is_no_hit_has_its_own_status() {
    let site = site(CONFIG);
    let url = site.sign(&["media/a.jpg", "width-60"]);
    assert_eq!(site.nginx("GET", &url, "").status, 200);
    let altered = url.replace("width-60", "width-61");
    let short = url.replacen("/images/", "/images/x", 1);
    for forged in [altered, short] {
        for _ in 0..2 {
            let refused = site.nginx("GET", &forged, "");
            assert_eq!(refused.status, 403);
            assert!(refused.header("cache-control").is_none_or(|value| value.contains("no-store")));
        }
    }
    let signed = |arguments: &[&str]| site.sign(arguments);
    for (target, status) in [
        (url.clone() + "?v=1", 400),
        (signed(&["media/none.jpg", "width-60"]), 404),
        (signed(&["42", "width-60"]), 404),
        ("/images/x".to_owned(), 404),
        ("/images/x/%zz/x/x".to_owned(), 400),
    ] {
        for _ in 0..2 {
            assert_eq!(site.nginx("GET", &target, "").status, status, "{target}");
        }
    }
    fs::write(site.path("media/text.jpg"), "no picture").unwrap();
    assert_eq!(site.nginx("GET", &signed(&["media/text.jpg", "width-60"]), "").status, 422);
}

#[test]
fn a_verdict_does_not_outlive_its_link() {
    let site = Site::new(
        "[signing]\nsecret = \"0123456789abcdef\"\nexpiry_window_seconds = 1\n[cache]\nmax_age_seconds = 0\n\
         [offload]\nmode = \"auth_request\"\nverdict_cache_seconds = 60\n",
    )
    .serve()
    .with_nginx();
    site.add("photo_land.jpg", "a.jpg");
    assert_eq!(site.nginx("GET", &site.sign(&["media/a.jpg", "width-60"]), "").status, 200);
    let url = site.sign(&["media/a.jpg", "width-60", "--expires", "2s"]);
    for _ in 0..5 {
        assert_eq!(site.nginx("GET", &url, "").status, 200);
    }
    std::thread::sleep(Duration::from_millis(4200));
    assert_eq!(site.nginx("GET", &url, "").status, 403);
}

#[test]
fn a_removed_file_is_made_again() {
    for existence in ["check", "assume"] {
        let site = site(&format!("[store]\nexistence = \"{existence}\"\n{CONFIG}"));
        let url = site.sign(&["media/a.jpg", "width-60"]);
        let first = site.nginx("GET", &url, "");
        for _ in 0..3 {
            assert_eq!(site.nginx("GET", &url, "").status, 200, "{existence}");
        }
        fs::remove_file(&site.stored()[0]).unwrap();
        let at_once = site.nginx("GET", &url, "");
        assert_eq!(
            (at_once.status, &at_once.body),
            (200, &first.body),
            "{existence}: from the file that is still open"
        );
        verdicts_expire();
        let later = site.nginx("GET", &url, "");
        assert_eq!((later.status, &later.body), (200, &first.body), "{existence}");
        assert_eq!(later.header("content-disposition"), first.header("content-disposition"), "{existence}");
        assert_eq!(site.stored().len(), 1, "{existence}");
    }
}

#[test]
fn who_accepts_what_stays_apart() {
    let site = site(CONFIG);
    let url = site.sign(&["media/a.jpg", "width-50|format-auto"]);
    for _ in 0..4 {
        for (headers, kind) in [("Accept: image/webp,*/*\r\n", "image/webp"), ("", "image/jpeg")] {
            let answer = site.nginx("GET", &url, headers);
            assert_eq!((answer.status, answer.header("content-type").as_deref()), (200, Some(kind)));
            assert_eq!(answer.header("vary").as_deref(), Some("Accept"));
        }
    }
}

#[test]
fn downloads_have_their_names() {
    let site = site(CONFIG);
    let url = site.sign(&["media/a.jpg", "width-60", "--download", "x y.jpg"]);
    for _ in 0..4 {
        let answer = site.nginx("GET", &url, "");
        assert_eq!(answer.header("content-disposition").as_deref(), Some("attachment; filename=\"x y.jpg\""));
    }
}

#[test]
fn verdicts_and_files_are_out_of_reach() {
    let site = site(CONFIG);
    let url = site.sign(&["media/a.jpg", "width-60"]);
    site.nginx("GET", &url, "");
    let stored = site.stored()[0].strip_prefix(site.path("renditions")).unwrap().display().to_string();
    for target in
        ["/_verdict".to_owned(), format!("/_renditions/{stored}"), format!("/{stored}"), format!("/images/{stored}")]
    {
        let answer = site.nginx("GET", &target, &format!("X-Original-URI: {url}\r\n"));
        assert!(matches!(answer.status, 403 | 404), "{target}: {}", answer.status);
    }
    // Whoever reaches the gate itself learns nothing without a signature, and only where nginx asks for verdicts at all.
    let verdict = |site: &Site, target: &str| site.gate("GET", "/_verdict", &format!("X-Original-URI: {target}\r\n"));
    site.gate("GET", &url, "");
    let hit = verdict(&site, &url);
    assert_eq!((hit.status, hit.header("x-sendimage-path")), (204, Some(stored)));
    let refused = verdict(&site, &url.replace("width-60", "width-61"));
    assert_eq!((refused.status, refused.header("x-accel-expires").as_deref()), (403, Some("1")));
    for neither in ["", "/images/", "/images/%zz/x/x/x"] {
        let answer = verdict(&site, neither);
        assert_eq!((answer.status, answer.header("x-sendimage-path")), (204, None), "{neither}");
        assert_eq!(answer.header("x-accel-expires").as_deref(), Some("0"), "{neither}");
    }
    let plain = Site::new("").serve();
    assert_eq!(verdict(&plain, &url).status, 404);
}

#[test]
fn a_gate_that_is_down_is_a_502() {
    let mut site = site(CONFIG);
    let url = site.sign(&["media/a.jpg", "width-60"]);
    site.nginx("GET", &url, "");
    site.signal(rustix::process::Signal::TERM);
    site.wait();
    verdicts_expire();
    assert_eq!(site.nginx("GET", &url, "").status, 502);
}
