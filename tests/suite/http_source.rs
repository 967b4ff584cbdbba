//! Originals of web sites: a real nginx, and a site that behaves in every bad way.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    harness::{Response, Site, free_port, wait_for},
    stub::{Asked, Stub, answer},
    web_server::WebServer,
};

fn photo() -> Vec<u8> {
    std::fs::read(crate::vectors::folder().join("images/photo_land.jpg")).unwrap()
}

/// A site whose source `web` is at a base, with short times.
fn config(base: &str, more: &str) -> String {
    format!(
        "[render]\nmax_source_bytes = \"1MiB\"\n[sources.web]\nkind = \"http\"\n[sources.web.http]\nbase_url = \"{base}\"\n\
         allow_addresses = [\"127.0.0.1\"]\nconnect_seconds = 1\nfirst_byte_seconds = 1\n{more}"
    )
}

fn get(site: &Site, path: &str) -> Response {
    site.gate("GET", &site.sign(&[&format!("web/{path}"), "width-40"]), "")
}

fn errors(site: &Site, class: &str) -> f64 {
    site.metric(&format!("sendimage_source_errors_total{{class=\"{class}\"}}"))
}

/// Every bad way that is over soon, and some good ones, by the first part of the path.
fn misbehave(asked: &Asked, before: usize, stream: &mut TcpStream) {
    const JPEG: &str = "Content-Type: image/jpeg\r\n";
    let photo = photo();
    let send = |stream: &mut TcpStream, bytes: &[u8]| stream.write_all(bytes).is_ok();
    let head = |length: usize| format!("HTTP/1.1 200 OK\r\n{JPEG}Content-Length: {length}\r\n\r\n").into_bytes();
    let redirect = |stream: &mut TcpStream, to: &str| answer(stream, "302 Found", &format!("Location: {to}\r\n"), b"");
    let number = |part: &str| part.trim_end_matches(".jpg").parse::<usize>().unwrap();
    match asked.parts()[..] {
        ["good", ..] => answer(stream, "200 OK", JPEG, &photo),
        ["no_type", _] => answer(stream, "200 OK", "", &photo),
        ["octets", _] => answer(stream, "200 OK", "Content-Type: application/octet-stream\r\n", &photo),
        ["stays_open", _] => {
            send(stream, &[&head(photo.len())[..], &photo].concat());
            let _ = stream.read(&mut [0; 1]);
        }
        ["chunked", _] => {
            send(stream, format!("HTTP/1.1 200 OK\r\n{JPEG}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
            for chunk in photo.chunks(1000) {
                send(stream, &[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
            }
            send(stream, b"0\r\n\r\n");
        }
        ["early_hints", _] => {
            send(stream, b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
            answer(stream, "200 OK", JPEG, &photo);
        }
        // Slow ones.
        ["slow_head", _] => std::thread::sleep(Duration::from_secs(5)),
        ["slow_line", _] => {
            for byte in b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n" {
                if !send(stream, &[*byte]) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        ["trickle", _] => {
            send(stream, &head(photo.len()));
            for byte in photo {
                if !send(stream, &[byte]) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        ["silent_body", _] => {
            send(stream, &head(photo.len()));
            std::thread::sleep(Duration::from_secs(5));
        }
        // Broken ones.
        ["short", _] => drop(send(stream, &[&head(photo.len() + 1)[..], &photo].concat())),
        ["truncated_chunk", _] => {
            send(stream, format!("HTTP/1.1 200 OK\r\n{JPEG}Transfer-Encoding: chunked\r\n\r\nffff\r\n").as_bytes());
            send(stream, &photo[..1000]);
        }
        ["bad_chunk", _] => {
            send(stream, format!("HTTP/1.1 200 OK\r\n{JPEG}Transfer-Encoding: chunked\r\n\r\nxyz\r\n").as_bytes());
        }
        ["two_lengths", _] => {
            let both = format!("HTTP/1.1 200 OK\r\n{JPEG}Content-Length: 5\r\nContent-Length: {}\r\n\r\n", photo.len());
            send(stream, &[both.as_bytes(), &photo].concat());
        }
        ["reset", _] => {
            rustix::net::sockopt::set_socket_linger(&*stream, Some(Duration::ZERO)).unwrap();
        }
        ["nothing", _] => {}
        ["garbage", _] => drop(send(stream, &[0xAB; 4096])),
        ["huge_header", _] => answer(stream, "200 OK", &format!("{JPEG}X-A: {}\r\n", "a".repeat(200_000)), &photo),
        ["many_headers", _] => answer(stream, "200 OK", &format!("{JPEG}{}", "X-A: a\r\n".repeat(500)), &photo),
        // Too much.
        ["endless", _] => {
            send(stream, format!("HTTP/1.1 200 OK\r\n{JPEG}\r\n").as_bytes());
            send(stream, &photo);
            while send(stream, &[0; 16384]) {}
        }
        ["endless_chunks", _] => {
            send(stream, format!("HTTP/1.1 200 OK\r\n{JPEG}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
            let chunk = [&b"4000\r\n"[..], &photo[..2], &[0xFF; 0x3FFE], b"\r\n"].concat();
            while send(stream, &chunk) {}
        }
        ["says_10_gb", _] => {
            send(stream, &head(10 << 30));
            while send(stream, &[0; 16384]) {}
        }
        // Something else.
        ["html", _] => answer(stream, "200 OK", "Content-Type: text/html; charset=utf-8\r\n", &photo),
        ["html_as_jpeg", _] => answer(stream, "200 OK", JPEG, b"<html><body>Please log in</body></html>"),
        ["long_html_as_jpeg", _] => {
            send(stream, format!("HTTP/1.1 200 OK\r\n{JPEG}\r\n<html>").as_bytes());
            while send(stream, &[b' '; 16384]) {}
        }
        ["empty", _] => answer(stream, "200 OK", JPEG, b""),
        ["gzip", _] => {
            answer(stream, "200 OK", &format!("{JPEG}Content-Encoding: gzip\r\n"), b"\x1f\x8b\x08\0\0\0\0\0")
        }
        ["status", status, ..] => answer(stream, &format!("{status} X"), JPEG, b"x"),
        ["500_twice", _] if before < 2 => answer(stream, "500 X", "", b""),
        ["reset_twice", _] if before < 2 => {
            rustix::net::sockopt::set_socket_linger(&*stream, Some(Duration::ZERO)).unwrap();
        }
        ["short_once", _] if before < 1 => drop(send(stream, &[&head(photo.len())[..], &photo[..99]].concat())),
        ["500_twice" | "reset_twice" | "short_once", _] => answer(stream, "200 OK", JPEG, &photo),
        // Elsewhere.
        ["hops", left] if number(left) > 0 => redirect(stream, &format!("{}.jpg", number(left) - 1)),
        ["hops", _] => answer(stream, "200 OK", JPEG, &photo),
        ["loop", _] => redirect(stream, &asked.target),
        ["nowhere", _] => answer(stream, "302 Found", "", b""),
        _ => answer(stream, "404 Not Found", "", b""),
    }
}

/// One row: what is asked for, the status, the class that is counted, how often the site is asked, and the longest time.
type Row = (&'static str, u16, &'static str, usize, f64);

#[test]
fn every_bad_answer_has_its_status_within_its_time_and_nothing_is_stored() {
    let stub = Stub::start(misbehave);
    let base = format!("http://{}/", stub.address);
    let site = Site::new(&config(&base, "total_seconds = 3\n")).serve();
    // With half a second, or as much of the time again, for the rest of the machine.
    let rows: [Row; 47] = [
        ("good/1.jpg", 200, "", 1, 1.0),
        ("no_type/1.jpg", 200, "", 1, 1.0),
        ("octets/1.jpg", 200, "", 1, 1.0),
        ("stays_open/1.jpg", 200, "", 1, 1.0),
        ("chunked/1.jpg", 200, "", 1, 1.0),
        ("early_hints/1.jpg", 200, "", 1, 1.0),
        ("slow_head/1.jpg", 504, "timed_out", 3, 3.5),
        ("slow_line/1.jpg", 504, "timed_out", 3, 3.5),
        ("trickle/1.jpg", 504, "timed_out", 1, 3.5),
        ("silent_body/1.jpg", 504, "timed_out", 1, 3.5),
        ("short/1.jpg", 502, "failed", 3, 1.5),
        ("truncated_chunk/1.jpg", 502, "failed", 3, 1.5),
        ("bad_chunk/1.jpg", 502, "failed", 3, 1.5),
        ("two_lengths/1.jpg", 502, "failed", 3, 1.5),
        ("reset/1.jpg", 502, "failed", 3, 1.5),
        ("nothing/1.jpg", 502, "failed", 3, 1.5),
        ("garbage/1.jpg", 502, "failed", 3, 1.5),
        ("huge_header/1.jpg", 502, "failed", 3, 1.5),
        ("many_headers/1.jpg", 502, "failed", 3, 1.5),
        ("endless/1.jpg", 422, "too_long", 1, 1.0),
        ("endless_chunks/1.jpg", 422, "too_long", 1, 1.0),
        ("says_10_gb/1.jpg", 422, "too_long", 1, 1.0),
        ("html/1.jpg", 422, "not_an_image", 1, 1.0),
        ("html_as_jpeg/1.jpg", 422, "not_an_image", 1, 1.0),
        ("long_html_as_jpeg/1.jpg", 422, "not_an_image", 1, 1.0),
        ("empty/1.jpg", 422, "not_an_image", 1, 1.0),
        ("gzip/1.jpg", 502, "failed", 1, 1.0),
        ("status/204/1.jpg", 502, "failed", 1, 1.0),
        ("status/206/1.jpg", 502, "failed", 1, 1.0),
        ("status/300/1.jpg", 502, "failed", 1, 1.0),
        ("status/304/1.jpg", 502, "failed", 1, 1.0),
        ("status/400/1.jpg", 502, "failed", 1, 1.0),
        ("status/401/1.jpg", 502, "failed", 1, 1.0),
        ("status/403/1.jpg", 502, "failed", 1, 1.0),
        ("status/404/1.jpg", 404, "", 1, 1.0),
        ("status/410/1.jpg", 404, "", 1, 1.0),
        ("status/429/1.jpg", 502, "failed", 1, 1.0),
        ("status/500/1.jpg", 502, "failed", 3, 1.5),
        ("status/503/1.jpg", 502, "failed", 3, 1.5),
        ("500_twice/1.jpg", 200, "", 3, 1.5),
        ("reset_twice/1.jpg", 200, "", 3, 1.5),
        ("short_once/1.jpg", 200, "", 2, 1.5),
        ("hops/3.jpg", 200, "", 1, 1.0),
        ("hops/4.jpg", 502, "failed", 1, 1.0),
        ("loop/1.jpg", 502, "failed", 4, 1.0),
        ("nowhere/1.jpg", 502, "failed", 1, 1.0),
        ("absent/1.jpg", 404, "", 1, 1.0),
    ];
    let classes = ["failed", "timed_out", "too_long", "not_an_image", "unavailable"];
    let counts = || classes.map(|class| errors(&site, class));
    let mut table = String::new();
    for (number, (path, status, class, asked, longest)) in rows.into_iter().enumerate() {
        let (before, stored) = (counts(), site.stored().len());
        let began = Instant::now();
        let response = get(&site, path);
        let took = began.elapsed().as_secs_f64();
        let log = || site.log().lines().last().unwrap_or_default().to_owned();
        assert_eq!(response.status, status, "{path}: {}", log());
        assert!(took < longest + 0.5, "{path}: {took} s");
        assert_eq!(stub.count(&format!("/{path}")), asked, "{path}: {}", log());
        for (class_of, (before, after)) in classes.iter().zip(before.into_iter().zip(counts())) {
            assert_eq!(after - before, f64::from(u8::from(*class_of == class)), "{path}: {class_of}");
        }
        assert_eq!(site.stored().len() - stored, usize::from(status == 200), "{path}: what is stored");
        table += &format!("| {path} | {status} | {class} | {asked} | {took:.2} |\n");
        // In between all is well, and the host is not given up.
        assert_eq!(get(&site, &format!("good/between-{number}.jpg")).status, 200, "{path}");
    }
    println!("{table}");
    assert!(!stub.asked().iter().any(|asked| !asked.head.contains("accept-encoding: identity\r\n")));
}

#[test]
fn redirects_lead_nowhere_else() {
    let other = Stub::at(([127, 0, 0, 2], 0).into(), |_, _, stream| answer(stream, "200 OK", "", &photo()));
    let (to, elsewhere) = (Arc::new(OnceLock::<Vec<(String, u16)>>::new()), other.address);
    let table = to.clone();
    let stub = Stub::start(move |asked, _, stream| match asked.parts()[..] {
        ["to", number] => {
            let (location, _) = &table.get().unwrap()[number.parse::<usize>().unwrap()];
            answer(stream, "302 Found", &format!("Location: {location}\r\n"), b"");
        }
        _ => answer(stream, "200 OK", "Set-Cookie: a=b\r\n", &photo()),
    });
    let own = stub.address;
    // The first ones show that there is a way.
    let rows = [
        (format!("http://{own}/good/a.jpg"), 200),
        ("/good/b.jpg".to_owned(), 200),
        ("../good/c.jpg#top".to_owned(), 200),
        (format!("http://{elsewhere}/a.jpg"), 502),
        (format!("//{elsewhere}/a.jpg"), 502),
        (format!("\\\\{elsewhere}\\a.jpg"), 502),
        (format!("http://{own}@{elsewhere}/a.jpg"), 502),
        (format!("http://user@{own}/good/a.jpg"), 502),
        (format!("http://127.2:{}/a.jpg", elsewhere.port()), 502),
        (format!("https://{own}/good/a.jpg"), 502),
        ("http://169.254.169.254/latest/meta-data/".into(), 502),
        ("http://[::1]/a.jpg".into(), 502),
        ("http://0/a.jpg".into(), 502),
        ("file:///etc/passwd".into(), 502),
        ("gopher://127.0.0.1:70/1".into(), 502),
        ("ftp://127.0.0.1/a.jpg".into(), 502),
        ("data:image/gif;base64,R0lGODlhAQABAAAAACw=".into(), 502),
        ("javascript:alert(1)".into(), 502),
        ("http://".into(), 502),
        ("http://[".into(), 502),
    ];
    to.set(rows.to_vec()).unwrap();
    let config = config(&format!("http://{own}/"), "").replace("[\"127.0.0.1\"]", "[\"127.0.0.0/8\"]");
    let site = Site::new(&config).serve();
    for (number, (location, status)) in rows.iter().enumerate() {
        let response = get(&site, &format!("to/{number}"));
        assert_eq!(response.status, *status, "{location}: {}", site.log().lines().last().unwrap_or_default());
    }
    assert_eq!(other.asked().len(), 0);
}

#[test]
fn nobody_is_told_who_asks() {
    let trap = Stub::start(|_, _, stream| answer(stream, "200 OK", "", &photo()));
    let stub = Stub::start(|asked, _, stream| match asked.parts()[..] {
        ["again", ..] => answer(stream, "302 Found", "Location: /good/a.jpg\r\nSet-Cookie: a=b\r\n", b""),
        _ => answer(stream, "200 OK", "Set-Cookie: session=1; Path=/\r\n", &photo()),
    });
    let mut site = Site::new(&config(&format!("http://{}/", stub.address), ""));
    let proxy = format!("http://{}", trap.address);
    site.start_by(crate::harness::SENDIMAGE.as_ref(), |command| {
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env(name, &proxy);
        }
    });
    let secrets = "Authorization: Bearer bearer-secret\r\nCookie: session=cookie-secret\r\nReferer: http://x/referer-secret\r\n\
                   X-Forwarded-For: 192.0.2.1\r\nRange: bytes=0-9\r\nIf-None-Match: \"client\"\r\n";
    for path in ["web/again/a.jpg", "web/good/a.jpg", "web/good/b.jpg"] {
        assert_eq!(site.gate("GET", &site.sign(&[path, "width-40"]), secrets).status, 200);
    }
    let asked = stub.asked();
    assert!(asked.len() >= 4, "{asked:?}");
    for Asked { head, .. } in asked {
        let mut names: Vec<_> = head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0)).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "accept-encoding", "host", "user-agent"], "{head}");
        assert!(!head.contains("secret") && head.contains("user-agent: sendimage/"), "{head}");
    }
    assert_eq!(trap.asked().len(), 0, "a proxy of the environment was asked");
}

#[test]
fn a_slow_body_has_another_chance_and_a_rate() {
    // The first time it comes too slowly, though always some of it.
    let stub = Stub::start(|asked, before, stream| {
        let photo = photo();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", photo.len());
        let _ = stream.write_all(head.as_bytes());
        for chunk in photo.chunks(100) {
            if stream.write_all(chunk).is_err() {
                return;
            }
            if before == 0 || asked.target.starts_with("/always") {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
    let site =
        Site::new(&config(&format!("http://{}/", stub.address), "min_rate = \"4KiB\"\ntotal_seconds = 8\n")).serve();
    let began = Instant::now();
    assert_eq!(get(&site, "once.jpg").status, 200, "{}", site.log());
    let took = began.elapsed().as_secs_f64();
    assert!((4.9..7.5).contains(&took), "{took}");
    assert_eq!(get(&site, "always.jpg").status, 504);
    assert!(began.elapsed().as_secs_f64() - took < 9.0);
    assert_eq!(stub.count("/always.jpg"), 2);
}

#[test]
fn a_real_site_is_asked_once_then_whether_anything_changed() {
    let nginx = WebServer::start();
    nginx.put(&photo(), "2024/ä b+c.jpg");
    let site = Site::new(&config(&format!("http://127.0.0.1:{}/", nginx.port), "fresh_seconds = 2\n")).serve();
    let url = site.sign(&["web/2024/ä b+c.jpg", "width-40"]);
    let first = site.gate("GET", &url, "");
    assert_eq!(first.status, 200, "{}", site.log());
    for _ in 0..20 {
        assert_eq!(site.gate("GET", &url, "").header("x-accel-redirect"), first.header("x-accel-redirect"));
    }
    const TARGET: &str = "/2024/%C3%A4%20b%2Bc.jpg";
    assert_eq!(nginx.log(), [format!("200 {TARGET}")], "one request brought the version and the bytes");
    assert_eq!(site.metric("sendimage_requests_total{outcome=\"hit\"}"), 20.0);

    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(site.gate("GET", &url, "").header("x-accel-redirect"), first.header("x-accel-redirect"));
    assert_eq!(nginx.log()[1..], [format!("304 {TARGET}")]);

    let other = std::fs::read(crate::vectors::folder().join("images/photo_port.jpg")).unwrap();
    nginx.put(&other, "2024/ä b+c.jpg");
    std::thread::sleep(Duration::from_millis(2100));
    assert_ne!(site.gate("GET", &url, "").header("x-accel-redirect"), first.header("x-accel-redirect"));
    assert_eq!(nginx.log()[2..], [format!("200 {TARGET}")]);

    nginx.put(b"<html>", "page.html");
    assert_eq!(get(&site, "page.html").status, 422);
    let ready = site.ops("/health/ready").unwrap().text();
    assert!(ready.contains("can be connected to"), "{ready}");
}

#[test]
fn without_validators_the_bytes_are_the_version() {
    let shown = Arc::new(AtomicUsize::new(0));
    let which = shown.clone();
    let stub = Stub::start(move |_, _, stream| {
        let name = ["photo_land.jpg", "photo_port.jpg"][which.load(Ordering::SeqCst)];
        let bytes = std::fs::read(crate::vectors::folder().join("images").join(name)).unwrap();
        answer(
            stream,
            "200 OK",
            "Cache-Control: max-age=31536000, immutable\r\nExpires: Thu, 31 Dec 2099 23:59:59 GMT\r\n",
            &bytes,
        );
    });
    let site = Site::new(&config(&format!("http://{}/", stub.address), "fresh_seconds = 0.3\n")).serve();
    let url = site.sign(&["web/a.jpg", "width-40"]);
    let path = || {
        let response = site.gate("GET", &url, "");
        assert_eq!(response.status, 200, "{}", site.log());
        response.header("x-accel-redirect").unwrap()
    };
    let first = path();
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(path(), first, "the same bytes are the same version");
    assert_eq!(stub.asked().len(), 2);
    shown.store(1, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(400));
    let second = path();
    assert_ne!(second, first, "whatever the site says of how long they are good");
    assert_eq!(site.stored().len(), 2);
}

#[test]
fn a_version_that_never_stays_is_not_mixed() {
    // Another name at each request: what is asked for is always replaced before it is fetched.
    let count = AtomicUsize::new(0);
    let stub = Stub::start(move |_, _, stream| {
        let tag = count.fetch_add(1, Ordering::SeqCst);
        answer(stream, "200 OK", &format!("ETag: \"{tag}\"\r\n"), &photo());
    });
    let base = format!("http://{}/", stub.address);
    // Where the answer's own copy is kept, one request is enough for both.
    let site = Site::new(&config(&base, "fresh_seconds = 10\n")).serve();
    assert_eq!(get(&site, "a.jpg").status, 200);
    assert_eq!(stub.asked().len(), 1);
    drop(site);
    let site = Site::new(&config(&base, "fresh_seconds = 0\n")).serve();
    let response = get(&site, "b.jpg");
    assert!(matches!(response.status, 200 | 503), "{}", response.status);
}

#[test]
fn a_file_that_is_replaced_between_asking_and_fetching_is_asked_for_again() {
    const BROWSER: &str = "Accept: image/avif,image/webp,image/*,*/*;q=0.8\r\n";
    // The first answer is of one version, all that follow are of another.
    let stub = Stub::start(move |_, before, stream| {
        answer(stream, "200 OK", &format!("ETag: \"{}\"\r\n", before.min(1)), &photo());
    });
    let site = Site::new(&config(&format!("http://{}/", stub.address), "fresh_seconds = 0\n")).serve();
    let cases =
        [("a.jpg", "width-40", ""), ("b.jpg", "width-40|format-auto", ""), ("c.jpg", "width-40|format-auto", BROWSER)];
    for (name, spec, accept) in cases {
        let answer = site.gate("GET", &site.sign(&[&format!("web/{name}"), spec]), accept);
        assert_eq!(answer.status, 200, "{spec} {accept}: {}", site.log());
    }
}

#[test]
fn a_site_that_is_away_is_left_alone_and_found_again() {
    let port = free_port();
    let address = ([127, 0, 0, 1], port).into();
    let good = |_: &Asked, _: usize, stream: &mut TcpStream| answer(stream, "200 OK", "ETag: \"1\"\r\n", &photo());
    let stub = Stub::at(address, good);
    let site = Site::new(&config(&format!("http://{}/", stub.address), "fresh_seconds = 0.1\n")).serve();
    let known = site.sign(&["web/known.jpg", "width-40"]);
    assert_eq!(site.gate("GET", &known, "").status, 200);
    drop(stub);
    std::thread::sleep(Duration::from_millis(200));

    let mut statuses = Vec::new();
    let began = Instant::now();
    for number in 0..8 {
        let response = get(&site, &format!("unknown-{number}.jpg"));
        assert_eq!(response.header("retry-after").is_some(), response.status == 503);
        statuses.push(response.status);
        assert_eq!(site.gate("GET", &known, "").status, 200, "a known version serves on");
    }
    // Ten attempts in a row: three for each unknown file, one for each time that the known one is asked for.
    assert_eq!(statuses[..2], [502, 502], "{statuses:?}");
    assert_eq!(statuses[3..], [503; 5], "{statuses:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let quick = Instant::now();
    assert_eq!(get(&site, "unknown.jpg").status, 503);
    assert!(quick.elapsed() < Duration::from_millis(500), "{:?}", quick.elapsed());
    assert!(errors(&site, "unavailable") >= 5.0 && errors(&site, "failed") >= 2.0);

    let stub = Stub::at(address, good);
    let back = Instant::now();
    let url = site.sign(&["web/unknown.jpg", "width-40"]);
    wait_for(Duration::from_secs(8), || site.gate("GET", &url, "").status == 200).expect("it is found again");
    println!("found again after {:.1} s", back.elapsed().as_secs_f64());
    assert!(!stub.asked().is_empty());
}

#[test]
fn so_many_at_a_time() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (here, highest) = (now.clone(), most.clone());
    let stub = Stub::start(move |_, _, stream| {
        highest.fetch_max(here.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(100));
        here.fetch_sub(1, Ordering::SeqCst);
        answer(stream, "200 OK", "", &photo());
    });
    let site = Site::new(&config(&format!("http://{}/", stub.address), "max_connections = 2\n")).serve();
    let urls: Vec<_> = (0..12).map(|number| site.sign(&[&format!("web/{number}.jpg"), "width-40"])).collect();
    std::thread::scope(|scope| {
        for url in &urls {
            scope.spawn(|| assert_eq!(site.gate("GET", url, "").status, 200));
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[test]
fn private_addresses_are_refused_until_they_are_allowed() {
    let stub = Stub::start(misbehave);
    let open = config(&format!("http://{}/", stub.address), "");
    let shut = open.replace("allow_addresses = [\"127.0.0.1\"]\n", "");
    assert_ne!(open, shut);
    let site = Site::new(&shut).serve();
    assert_eq!(get(&site, "good/a.jpg").status, 502);
    site.assert_logs("127.0.0.1 is not public");
    assert_eq!(stub.asked().len(), 0);
    let ready = site.ops("/health/ready").unwrap().text();
    assert!(ready.contains("is not public"), "{ready}");
    site.configure(&open);
    site.signal(rustix::process::Signal::HUP);
    wait_for(Duration::from_secs(5), || get(&site, "good/a.jpg").status == 200).unwrap();
}

#[test]
fn a_list_admits_urls_by_their_parts() {
    let stub = Stub::start(misbehave);
    let address = stub.address;
    let allow = format!("allow = [\"http://{address}/good\", \"http://127.0.0.1:9/\"]");
    let config = config("", "").replace("base_url = \"\"", &allow);
    let site = Site::new(&config).serve();
    let get = |path: &str| get(&site, path).status;
    assert_eq!(get(&format!("http/{address}/good/a.jpg?v=1")), 200);
    assert_eq!(stub.asked()[0].target, "/good/a.jpg?v=1");
    for path in [
        format!("http/{address}/goods/a.jpg"),
        format!("http/{address}/status/500/a.jpg"),
        format!("http/{address}/good/..%2fstatus/a.jpg"),
        format!("https/{address}/good/a.jpg"),
        format!("http/127.0.0.2:{}/good/a.jpg", address.port()),
        format!("http/images.example/{address}/good/a.jpg"),
        "good/a.jpg".into(),
    ] {
        assert_eq!(get(&path), 502, "{path}");
    }
    assert_eq!(stub.asked().len(), 1);
}
