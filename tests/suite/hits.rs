//! Renditions that are there: the short way of a hit, and what happens when one was thought to be there and is not.

use std::{fs, time::Duration};

use crate::harness::{Response, Site};

const MODES: [&str; 3] = ["check", "remember", "assume"];

fn site(existence: &str) -> Site {
    let site = Site::new(&format!("[store]\nexistence = \"{existence}\"\nremember_seconds = 1\n")).serve();
    site.add("photo_land.jpg", "a.jpg");
    site.add("photo_land.jpg", "another.jpg");
    site
}

/// What an answer says, but for what is each answer's own.
fn said(response: &Response) -> Response {
    let own = |name: &str| ["date", "x-request-id"].iter().any(|own| name.eq_ignore_ascii_case(own));
    let headers = response.headers.iter().filter(|(name, _)| !own(name)).cloned().collect();
    Response { headers, ..response.clone() }
}

#[test]
fn a_file_removed_under_nginx_is_made_again_within_the_request() {
    for existence in MODES {
        let site = site(existence).with_nginx();
        let url = site.sign(&["media/a.jpg", "width-60"]);
        let first = site.nginx("GET", &url, "");
        assert_eq!(first.status, 200, "{existence}");
        for _ in 0..3 {
            assert_eq!(site.nginx("GET", &url, "").body, first.body, "{existence}");
        }
        for method in ["GET", "HEAD"] {
            let stored = site.stored();
            fs::remove_file(&stored[0]).unwrap();
            assert_eq!(site.nginx("GET", &url, "").body, first.body, "{existence}: nginx has it open for a second");
            std::thread::sleep(Duration::from_millis(2100));
            let again = site.nginx(method, &url, "");
            assert_eq!((again.status, again.header("etag")), (200, first.header("etag")), "{existence} {method}");
            assert_eq!(site.stored(), stored, "{existence} {method}");
        }
        assert_eq!(site.nginx("GET", &url, "").body, first.body, "{existence}");
        assert_eq!(site.metric("sendimage_renders_total{outcome=\"rendered\",format=\"jpeg\"}"), 3.0, "{existence}");
    }
}

#[test]
fn the_disk_is_asked_as_often_as_the_config_says() {
    for existence in MODES {
        let site = site(existence);
        let url = site.sign(&["media/a.jpg", "width-60"]);
        let hand_over = |headers: &str| {
            let response = site.gate("GET", &url, headers);
            assert_eq!(response.status, 200, "{existence}");
            assert!(response.header("x-accel-redirect").is_some(), "{existence}");
        };
        hand_over("");
        hand_over("");
        fs::remove_file(&site.stored()[0]).unwrap();
        hand_over("");
        assert_eq!(site.stored().len(), usize::from(existence == "check"), "{existence}: believed, not looked for");
        std::thread::sleep(Duration::from_millis(1100));
        hand_over("");
        assert_eq!(site.stored().len(), usize::from(existence != "assume"), "{existence}: after a second");
        hand_over("X-Sendimage-Again: 1\r\n");
        assert_eq!(site.stored().len(), 1, "{existence}: nginx says that it is not there");
    }
}

#[test]
fn a_replaced_original_is_seen_at_once_in_every_mode() {
    for existence in MODES {
        let site = site(existence);
        let url = site.sign(&["media/a.jpg", "width-60"]);
        let path = || site.gate("GET", &url, "").header("x-accel-redirect").unwrap();
        let before = path();
        assert_eq!([path(), path()], [before.clone(), before.clone()], "{existence}");
        site.add("photo_port.jpg", "a.jpg");
        let after = path();
        assert_ne!(after, before, "{existence}");
        assert_eq!([path(), path()], [after.clone(), after.clone()], "{existence}");
        // The renditions of an original that is gone stay.
        fs::remove_file(site.path("media/a.jpg")).unwrap();
        assert_eq!([path(), path()], [after.clone(), after], "{existence}");
    }
}

/// The first answer is the render's, the second comes by the plain way, those that follow by the short one.
#[test]
fn the_short_way_answers_as_the_plain_one() {
    let site = Site::new("[presets]\nsmall = \"width-40\"\n[offload]\nmode = \"accel\"\n").serve();
    site.add("photo_land.jpg", "a.jpg");
    site.add("photo_land.jpg", "ü %|.jpg");
    let chrome = "Accept: image/avif,image/webp,*/*\r\n";
    let safari = "Accept: image/webp,*/*\r\n";
    for (arguments, headers) in [
        (&["media/a.jpg", "width-60"][..], ""),
        (&["media/a.jpg", "width-60|format-webp"], chrome),
        (&["media/ü %|.jpg", "fill-30x30"], ""),
        (&["media/a.jpg", "small"], ""),
        (&["media/a.jpg", "width-50|format-auto"], safari),
        (&["media/a.jpg", "width-50|format-auto"], ""),
        (&["media/a.jpg", "width-60", "--download", "x y.jpg"], ""),
        (&["media/a.jpg", "width-60", "--expires", "10d"], ""),
        (&["media/a.jpg", "width-60"], "X-Request-Id: abc\r\n"),
        (&["media/a.jpg", "width-60"], "If-None-Match: *\r\nRange: bytes=0-1\r\n"),
    ] {
        let url = site.sign(arguments);
        site.gate("GET", &url, headers);
        let plain = site.gate("GET", &url, headers);
        assert_eq!(plain.status, 200, "{arguments:?}");
        for _ in 0..2 {
            assert_eq!(said(&site.gate("GET", &url, headers)), said(&plain), "{arguments:?} {headers}");
        }
        let without_length = |response: Response| {
            let kept =
                said(&response).headers.into_iter().filter(|(name, _)| !name.eq_ignore_ascii_case("content-length"));
            kept.collect::<Vec<_>>()
        };
        let head = site.gate("HEAD", &url, headers);
        assert_eq!(without_length(head), without_length(plain), "{arguments:?} {headers}");
    }
    // Who accepts what stays apart, however often each was asked.
    let url = site.sign(&["media/a.jpg", "width-50|format-auto"]);
    for _ in 0..3 {
        for (headers, kind) in [(safari, "image/webp"), ("", "image/jpeg")] {
            let response = site.gate("GET", &url, headers);
            assert_eq!(response.header("content-type").as_deref(), Some(kind));
            assert_eq!(response.header("x-sendimage-vary").as_deref(), Some("Accept"));
        }
    }
    // And the short way is shut to whoever cannot prove a thing.
    let url = site.sign(&["media/a.jpg", "width-60"]);
    let hits = site.metric("sendimage_requests_total{outcome=\"hit\"}");
    for altered in [url.replacen("/images/", "/images/A", 1), url.replace("width-60", "width-61"), url.clone() + "?x=1"]
    {
        assert!(matches!(site.gate("GET", &altered, "").status, 400 | 403), "{altered}");
    }
    let soon = site.sign(&["media/a.jpg", "width-60", "--expires", "1s"]);
    assert_eq!(site.metric("sendimage_requests_total{outcome=\"hit\"}"), hits);
    assert_eq!(site.gate("GET", &soon, "").status, 200);
}
