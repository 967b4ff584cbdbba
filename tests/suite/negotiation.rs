//! `format-auto` through a real nginx: who accepts what gets which, and caches are told.

use std::time::Duration;

use serde_json::json;

use crate::harness::{OPS_TOKEN, Response, Site, wait_for};

const BROWSER: &str = "Accept: image/avif,image/webp,image/*,*/*;q=0.8\r\n";
const OLDER: &str = "Accept: image/webp,image/*,*/*;q=0.8\r\n";
const OLDEST: &str = "Accept: image/*,*/*\r\n";

fn kind(response: &Response) -> (u16, Option<String>) {
    (response.status, response.header("content-type"))
}

fn image(kind: &str) -> (u16, Option<String>) {
    (200, Some(format!("image/{kind}")))
}

#[test]
fn the_best_format_that_a_client_names_is_served_and_caches_know() {
    let site = Site::new("[cache]\nmax_age_seconds = 3600\ninterim_max_age_seconds = 7\n").serve().with_nginx();
    site.add("photo_land.jpg", "a.jpg");
    site.add("rgba.png", "clear.png");
    let url = site.sign(&["media/a.jpg", "width-200|format-auto"]);

    // The first browser does not wait for an AVIF: it gets a WebP, for a short while.
    let first = site.nginx("GET", &url, BROWSER);
    assert_eq!(kind(&first), image("webp"));
    assert_eq!(first.header("cache-control").as_deref(), Some("max-age=7, public"));
    let ready = || kind(&site.nginx("GET", &url, BROWSER)) == image("avif");
    wait_for(Duration::from_secs(60), ready).expect("the AVIF is made behind");
    let then = site.nginx("GET", &url, BROWSER);
    assert_eq!(then.header("cache-control").as_deref(), Some("max-age=3600, public"));

    for (accept, format) in [(BROWSER, "avif"), (OLDER, "webp"), (OLDEST, "jpeg"), ("", "jpeg")] {
        let answer = site.nginx("GET", &url, accept);
        assert_eq!(kind(&answer), image(format), "{accept:?}");
        // nginx adds Accept-Encoding only where it compresses.
        assert_eq!(answer.header("vary").as_deref(), Some("Accept"), "{accept:?}");
        assert!(answer.header("x-sendimage-vary").is_none());
        let name = answer.header("content-disposition").unwrap();
        let extension = if format == "jpeg" { "jpg" } else { format };
        assert!(name.contains(&format!("a.{extension}")), "{name}");
    }
    // What has an alpha channel keeps it.
    let clear = site.sign(&["media/clear.png", "width-100|format-auto"]);
    assert_eq!(kind(&site.nginx("GET", &clear, OLDEST)), image("png"));
    assert_eq!(kind(&site.nginx("GET", &clear, OLDER)), image("webp"));
    // Without format-auto nothing varies.
    let plain = site.sign(&["media/a.jpg", "width-200"]);
    let answer = site.nginx("GET", &plain, BROWSER);
    assert_eq!((kind(&answer), answer.header("vary")), (image("jpeg"), None));
    // The last format wins, as ever.
    let fixed = site.sign(&["media/a.jpg", "width-200|format-auto|format-png"]);
    assert_eq!(kind(&site.nginx("GET", &fixed, BROWSER)), image("png"));
}

#[test]
fn direct_answers_vary_too() {
    let site = Site::new("[offload]\nmode = \"direct\"\n").serve();
    site.add("photo_land.jpg", "a.jpg");
    let url = site.sign(&["media/a.jpg", "width-90|format-auto"]);
    let answer = site.gate("GET", &url, OLDER);
    assert_eq!((kind(&answer), answer.header("vary").as_deref()), (image("webp"), Some("Accept")));
}

/// A side that WebP, or AVIF too, has no room for, and an AVIF that takes more memory than there is: the best of the others is
/// no makeshift, and nothing is tried behind it.
#[test]
fn what_a_format_cannot_hold_is_served_in_another() {
    let bounds = "[cache]\nmax_age_seconds = 3600\ninterim_max_age_seconds = 7\n[render]\nmemory_budget = \"64MiB\"\n";
    let bounded = "[signing]\nkeys = [{ id = \"a\", secret = \"0123456789abcdef\", max_pixels = 2_000_000 }]\n";
    for signing in ["", bounded] {
        let site = Site::new(&format!("{bounds}{signing}[ops]\ntoken = \"{OPS_TOKEN}\"\n")).serve();
        site.add("photo_land.jpg", "a.jpg");
        for (spec, accept, format) in [
            ("width-20|pad-20x16384|format-auto", OLDER, "jpeg"),
            ("width-20|pad-20x32769|format-auto", BROWSER, "jpeg"),
            ("width-20|pad-1200x1000|format-auto", BROWSER, "webp"),
        ] {
            let url = site.sign(&["media/a.jpg", spec]);
            // Before and after it is a hit.
            for _ in 0..3 {
                let answer = site.gate("GET", &url, accept);
                assert_eq!(kind(&answer), image(format), "{spec}: {}", answer.text());
                let caching = answer.header("x-sendimage-cache-control");
                assert_eq!(caching.as_deref(), Some("max-age=3600, public"), "{spec}");
            }
        }
        // Until the AVIF is there, what is served is no WebP: it would not fit.
        let url = site.sign(&["media/a.jpg", "width-20|pad-20x16384|format-auto"]);
        assert_eq!(site.gate("GET", &url, BROWSER).status, 200);
        let refs = ["media/a.jpg"];
        let warmed = site.called("/warm", json!({"refs": refs, "specs": ["width-20|pad-1200x1000|format-auto"]}));
        assert_eq!(warmed["failed"], json!({}), "{warmed}");
    }
}

/// Where the original is gone, the AVIF will never be there: what is served in its place is final.
#[test]
fn what_will_not_be_made_is_not_waited_for() {
    let site = Site::new("[cache]\nmax_age_seconds = 3600\ninterim_max_age_seconds = 7\n").serve();
    site.add("photo_land.jpg", "a.jpg");
    // A folder with nothing in it may be a disk that is away.
    site.add("photo_port.jpg", "b.jpg");
    let url = site.sign(&["media/a.jpg", "width-90|format-auto"]);
    assert_eq!(kind(&site.gate("GET", &url, OLDER)), image("webp"));
    std::fs::remove_file(site.path("media/a.jpg")).unwrap();
    let answer = site.gate("GET", &url, BROWSER);
    assert_eq!(kind(&answer), image("webp"));
    assert_eq!(answer.header("x-sendimage-cache-control").as_deref(), Some("max-age=3600, public"));
}
