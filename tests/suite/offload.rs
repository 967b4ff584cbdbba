//! The hand-offs other than nginx's: `redirect`, and `direct`, which streams the file itself.

use crate::harness::Site;

#[test]
fn redirect_points_to_where_the_store_is_published() {
    for (status, config) in [
        (302, "[offload]\nmode = \"redirect\"\nredirect_url = \"https://cdn.example/r/\"\n"),
        (301, "[offload]\nmode = \"redirect\"\nredirect_url = \"https://cdn.example/r/\"\nredirect_status = 301\n"),
        (307, "[offload]\nmode = \"redirect\"\nredirect_url = \"https://cdn.example/r/\"\nredirect_status = 307\n"),
    ] {
        let site = Site::new(config).serve();
        site.add("photo_land.jpg", "a.jpg");
        let response = site.gate("GET", &site.sign(&["media/a.jpg", "width-50"]), "");
        assert_eq!(response.status, status);
        let location = response.header("location").unwrap();
        let path = location.strip_prefix("https://cdn.example/r/").unwrap();
        assert!(site.path("renditions").join(path).is_file());
        assert_eq!(response.header("cache-control").as_deref(), Some("max-age=3600, public"));
        assert!(response.header("x-accel-redirect").is_none());
    }
}

#[test]
fn a_redirected_browser_gets_the_file_from_nginx() {
    let site =
        Site::new("[offload]\nmode = \"redirect\"\nredirect_url = \"/media/renditions/\"\n").serve().with_nginx();
    site.add("photo_land.jpg", "a.jpg");
    let response = site.nginx("GET", &site.sign(&["media/a.jpg", "width-50"]), "");
    let location = response.header("location").unwrap();
    let path = location.find("/media/").map_or(location.as_str(), |at| &location[at..]);
    let file = site.nginx("GET", path, "");
    assert_eq!((file.status, file.header("content-type").as_deref()), (200, Some("image/jpeg")), "{location}");
    assert_eq!(file.header("x-content-type-options").as_deref(), Some("nosniff"));
}

#[test]
fn direct_streams_with_ranges_and_conditions() {
    let site = Site::new("[offload]\nmode = \"direct\"\n").serve();
    site.add("photo_land.jpg", "a.jpg");
    let url = site.sign(&["media/a.jpg", "width-100"]);
    let whole = site.gate("GET", &url, "");
    assert_eq!((whole.status, whole.body.get(..3)), (200, Some(&[0xFF, 0xD8, 0xFF][..])));
    for (name, value) in [
        ("content-type", "image/jpeg"),
        ("content-disposition", "inline; filename=\"a.jpg\""),
        ("cache-control", "max-age=3600, public"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "default-src 'none'; sandbox"),
    ] {
        assert_eq!(whole.header(name).as_deref(), Some(value), "{name}");
    }
    let etag = whole.header("etag").expect("an ETag");
    let head = site.gate("HEAD", &url, "");
    assert_eq!((head.status, head.header("content-length")), (200, Some(whole.body.len().to_string())));
    let part = site.gate("GET", &url, "Range: bytes=5-14\r\n");
    assert_eq!((part.status, part.body.as_slice()), (206, &whole.body[5..15]));
    // What the range of one request comes to is nothing for a cache, and no image.
    let failed = "If-Match: \"other\"\r\nIf-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    for (status, headers) in [(416, "Range: bytes=9999999-\r\n"), (412, failed)] {
        let refused = site.gate("GET", &url, headers);
        assert_eq!((refused.status, refused.header("cache-control").as_deref()), (status, Some("no-store")));
        assert_eq!((refused.header("content-disposition"), refused.body.len()), (None, 0), "{status}");
    }
    // What a client has a part of is another picture: it gets this one whole, wherever the part would lie (RFC 9110, 13.1.5).
    for (range, condition, status) in [
        ("5-14", "\"other\"", 200),
        ("9999999-", "\"other\"", 200),
        ("9999999-", "Sun, 06 Nov 1994 08:49:37 GMT", 200),
        ("5-14", etag.as_str(), 206),
        ("9999999-", etag.as_str(), 416),
    ] {
        let answer = site.gate("GET", &url, &format!("Range: bytes={range}\r\nIf-Range: {condition}\r\n"));
        assert_eq!(answer.status, status, "{range} {condition}");
        assert!(status != 200 || answer.body == whole.body, "{range} {condition}");
    }
    let not_modified = site.gate("GET", &url, &format!("If-None-Match: {etag}\r\n"));
    assert_eq!((not_modified.status, not_modified.body.len()), (304, 0));
    assert!(not_modified.header("etag").is_some() && not_modified.header("cache-control").is_some());
    assert_eq!(site.metric("sendimage_requests_total{outcome=\"not_modified\"}"), 1.0);
    let forged = url.replace("width-100", "width-101");
    assert_eq!(site.gate("GET", &forged, &format!("If-None-Match: {etag}\r\n")).status, 403, "proof comes first");
}

#[test]
fn routes_side_by_side_have_their_own_keys_and_manners() {
    let site = Site::new(
        "[signing]
keys = [{ id = \"a\", secret = \"aaaaaaaaaaaaaaaa\" }, { id = \"b\", secret = \"bbbbbbbbbbbbbbbb\" }]
[presets]
hero = \"width-60\"
[offload]
redirect_url = \"/r/\"
[routes.public]
prefix = \"/images/\"
keys = [\"a\"]
[routes.private]
prefix = \"/images/private/\"
keys = [\"b\"]
presets_only = true
max_age_seconds = 7
offload = \"redirect\"
",
    )
    .serve();
    site.add("photo_land.jpg", "a.jpg");
    let public = site.sign(&["media/a.jpg", "width-50", "--route", "public"]);
    let private = site.sign(&["media/a.jpg", "hero", "--route", "private"]);
    let response = site.gate("GET", &public, "");
    assert_eq!((response.status, response.header("x-accel-redirect").is_some()), (200, true));
    let response = site.gate("GET", &private, "");
    assert_eq!((response.status, response.header("cache-control").as_deref()), (302, Some("max-age=7, public")));
    // The longest prefix decides, and a key of one route opens no other.
    assert_eq!(site.gate("GET", &private.replace("/images/private/", "/images/"), "").status, 403);
    assert_eq!(site.gate("GET", &public.replace("/images/", "/images/private/"), "").status, 403);
    assert!(!site.run(&["sign", "media/a.jpg", "width-50", "--route", "private"]).status.success());
    assert_eq!(site.metric("sendimage_key_uses_total{key=\"b\"}"), 1.0);
}
