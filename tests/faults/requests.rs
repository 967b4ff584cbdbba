//! Requests in every shape but the right one: to the gate's own socket, and through a real nginx.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use crate::{
    client::{Client, Fields, native_url, path_url},
    harness::{KEY, Response, Site},
    report::Row,
    tools::{self, random, scale},
};

const KEYS: &[u8] = KEY.as_bytes();

/// What no answer may ever hold: paths, names of what it is made of, and the words of a failing program.
pub fn assert_tells_nothing<'a>(texts: impl Iterator<Item = &'a str>) {
    let words = [
        "panicked",
        "RUST",
        ".rs",
        "src/",
        "/tmp",
        "/work",
        "/home",
        "/proc",
        "hyper",
        "tokio",
        "sqlx",
        "sqlite",
        "image::",
        "os error",
        "errno",
        "unwrap",
        "thread '",
        "libc",
        "zune",
        "turbojpeg",
        "renditions",
        "media/",
    ];
    for text in texts {
        for word in words {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }
}

/// Requests that the service has counted, however they ended.
fn counted(site: &Site) -> f64 {
    let text = site.ops("/metrics").unwrap().text();
    let counts = text.lines().filter_map(|line| line.strip_prefix("sendimage_requests_total{"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Names and labels of all series.
fn series(site: &Site) -> BTreeSet<String> {
    let text = site.ops("/metrics").unwrap().text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ').map(|(name, _)| name.to_owned())).collect()
}

/// FAULTS 2.2, row by row: what is sent, what the gate says, and what nginx says where it has a word of its own.
#[test]
fn the_canonicalisation_table() {
    let row = Row::begin("the canonicalisation table", "T03");
    let site = Site::new("").serve().with_nginx();
    site.add("photo_land.jpg", "é+1.jpg");
    let url = path_url(KEYS, "é+1.jpg", "width-50|format-webp");
    let swapped = |from: &str, to: &str| {
        assert!(url.contains(from), "{url} has no {from}");
        url.replace(from, to).into_bytes()
    };
    let raw = |from: &str, to: &[u8]| {
        let at = url.find(from).unwrap();
        [&url.as_bytes()[..at], to, &url.as_bytes()[at + from.len()..]].concat()
    };
    let absolute = |host: &str| format!("http://{host}{url}").into_bytes();
    // Sent, the gate's answer, nginx's.
    let table: Vec<(Vec<u8>, u16, u16)> = vec![
        (url.clone().into(), 200, 200),
        (swapped("/media/", "/media%2F"), 400, 400),
        (swapped("/media/", "/media%2f"), 400, 400),
        (swapped("/media/", "/media//"), 400, 400),
        (swapped("/images/", "//images/"), 400, 400),
        (swapped("/images/", "/images//"), 400, 400),
        (swapped("/media/", "/media/./"), 400, 400),
        (swapped("/media/", "/x/../media/"), 400, 400),
        (swapped("/media/", "/x/%2e%2e/media/"), 400, 400),
        (swapped("/media/", "/x/.%2E/media/"), 400, 400),
        (swapped("/media/", "/x/..%2fmedia/"), 400, 400),
        // Above the root, nginx refuses by itself; another location takes what leads elsewhere.
        (swapped("/images/", "/..%2f..%2fimages/"), 400, 400),
        (swapped("/images/", "/images/..%2f..%2fetc/"), 400, 400),
        (swapped("/images/", "/pub/..%2fimages/"), 400, 400),
        (swapped("/images/", "/images/..%2fpub/"), 400, 404),
        (swapped(".jpg", "%00.jpg"), 400, 400),
        (swapped(".jpg", "%"), 400, 400),
        (swapped(".jpg", "%2"), 400, 400),
        (swapped(".jpg", "%zz"), 400, 400),
        (swapped(".jpg", "%0d%0aX:1"), 400, 400),
        (swapped(".jpg", "%0a.jpg"), 400, 400),
        (swapped(".jpg", "%7f.jpg"), 400, 400),
        (swapped(".jpg", "%C2%85.jpg"), 400, 400),
        (swapped("%7C", "|"), 200, 200),
        (swapped("%7C", "%7c"), 200, 200),
        (swapped("width", "%77idth"), 200, 200),
        (swapped("%C3%A9+", "%C3%A9%20"), 403, 403),
        (swapped("%C3%A9+", "%C3%A9%2B"), 200, 200),
        (swapped("%C3%A9", "é"), 200, 200),
        (swapped("%C3%A9", "e%CC%81"), 403, 403),
        (swapped("%C3%A9", "%E9"), 400, 400),
        (raw("%C3%A9", b"\xE9"), 400, 400),
        (raw("%C3%A9", b"\xFF"), 400, 400),
        (swapped("%C3%A9", "%25C3%25A9"), 403, 403),
        (swapped("%7C", "%257C"), 403, 403),
        (swapped(".jpg", "%252Fb.jpg"), 403, 403),
        (swapped("width", "%2577idth"), 403, 403),
        (format!("{url}?b=1#f").into(), 400, 400),
        (format!("{url}#c").into(), 200, 200),
        (format!("{url}?").into(), 200, 200),
        (swapped("é+1".replace('é', "%C3%A9").as_str(), "<a>"), 400, 400),
        (swapped(".jpg", "`.jpg"), 400, 400),
        (swapped(".jpg", " .jpg"), 400, 400),
        (swapped(".jpg", "\t.jpg"), 400, 400),
        (swapped(".jpg", "\u{7f}.jpg"), 400, 400),
        (swapped("width-50", "\"a\""), 403, 403),
        (swapped("width-50", "a\\b"), 403, 403),
        (swapped("width-50", "a^b"), 403, 403),
        (swapped("width-50", "{}"), 403, 403),
        (swapped("width-50", "[]"), 403, 403),
        (absolute("evil"), 400, 200),
        (b"*".to_vec(), 400, 400),
        (b"localhost:80".to_vec(), 400, 400),
        (swapped("/images/", "/%69mages/"), 404, 404),
        (swapped("/images/", "/IMAGES/"), 404, 404),
        (swapped("/images/", "/images;a/"), 404, 404),
        (swapped("/media/", "/media;a/"), 403, 403),
        (swapped("/media/", "\\media\\"), 404, 404),
    ];
    let mut wrong = Vec::new();
    for (target, wanted, wanted_of_nginx) in &table {
        for (door, wanted) in [("gate", *wanted), ("nginx", *wanted_of_nginx)] {
            let mut client = if door == "gate" { Client::gate(&site) } else { Client::nginx(&site) };
            let response = client.get(target);
            if response.status != wanted {
                wrong.push(format!("{door}: {} for {wanted}: {}", response.status, String::from_utf8_lossy(target)));
            }
            if response.status != 200 {
                let text = response.text();
                assert_tells_nothing([text.replace("nginx", "").as_str()].into_iter());
            }
        }
    }
    // What the grammar refuses is 400 once it is signed.
    for spec in
        ["\"a\"", "a\\b", "a^b", "{}", "[]", "<a>", "a%b", "a%2Fb", "a b", "width-50|", "|", "width-50||original"]
    {
        let signed = path_url(KEYS, "é+1.jpg", spec);
        let response = Client::gate(&site).get(signed.as_bytes());
        if response.status != 400 {
            wrong.push(format!("signed {spec}: {}", response.status));
        }
        assert!(!response.text().contains(spec), "the text is echoed: {}", response.text());
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", site.log());
    assert_eq!(site.stored().len(), 1);
    row.passed(&format!("{} rows, each at both doors; 12 signed specs that are none; 1 file", table.len()));
}

/// What a shape may come to: how many requests the service may count when it gets it.
struct Shape {
    name: String,
    bytes: Vec<u8>,
    most: usize,
}

/// T27: shapes that have once made a proxy and a server disagree about where a request ends. In each a second request is
/// hidden, for a rendition that is not there: were it ever read as a request, there would be a file more.
fn shapes(outer: &str, hidden: &str) -> Vec<Shape> {
    let second = format!("GET {hidden} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let length = second.len();
    let chunked = format!("{length:x}\r\n{second}\r\n0\r\n\r\n");
    let mut shapes = Vec::new();
    let mut add = |name: &str, most: usize, bytes: Vec<u8>| shapes.push(Shape { name: name.into(), bytes, most });
    // Bodies whose length two readers see differently. `{}` is where the header goes.
    let bodies = [
        ("content-length", format!("Content-Length: {length}\r\n")),
        ("content-length 0 then bytes, close", "Content-Length: 0\r\nConnection: close\r\n".into()),
        ("content-length with a plus", format!("Content-Length: +{length}\r\n")),
        ("content-length with a minus", format!("Content-Length: -{length}\r\n")),
        ("content-length in hexadecimal", format!("Content-Length: 0x{length:x}\r\n")),
        ("content-length with a space inside", format!("Content-Length: {} {}\r\n", length / 10, length % 10)),
        ("content-length with a comma", format!("Content-Length: {length}, {length}\r\n")),
        ("content-length twice, equal", format!("Content-Length: {length}\r\nContent-Length: {length}\r\n")),
        ("content-length twice, unequal", format!("Content-Length: 0\r\nContent-Length: {length}\r\n")),
        ("content-length twice, the other way", format!("Content-Length: {length}\r\nContent-Length: 0\r\n")),
        ("content-length beyond 64 bits", "Content-Length: 18446744073709551616\r\n".into()),
        ("content-length of zeros", format!("Content-Length: 0000{length}\r\n")),
        ("content-length empty", "Content-Length:\r\n".into()),
        ("content-length quoted", format!("Content-Length: \"{length}\"\r\n")),
        ("space before the colon", format!("Content-Length : {length}\r\n")),
        ("tab before the colon", format!("Content-Length\t: {length}\r\n")),
        ("underscore for hyphen", format!("Content_Length: {length}\r\n")),
        ("chunked", "Transfer-Encoding: chunked\r\n".into()),
        ("chunked and content-length", format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n")),
        ("content-length and chunked", format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n")),
        ("chunked and content-length 0", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n".into()),
        ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n".into()),
        ("chunked, identity", "Transfer-Encoding: chunked, identity\r\n".into()),
        ("identity, chunked", "Transfer-Encoding: identity, chunked\r\n".into()),
        ("identity", "Transfer-Encoding: identity\r\n".into()),
        ("gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n".into()),
        ("xchunked", "Transfer-Encoding: xchunked\r\n".into()),
        ("chunked with a tab", "Transfer-Encoding:\tchunked\r\n".into()),
        ("chunked after a vertical tab", "Transfer-Encoding: \x0bchunked\r\n".into()),
        ("chunked, space before the colon", "Transfer-Encoding : chunked\r\n".into()),
        ("chunked in capitals", "TRANSFER-ENCODING: CHUNKED\r\n".into()),
        ("chunked, folded", "Transfer-Encoding:\r\n chunked\r\n".into()),
        ("chunked, quoted", "Transfer-Encoding: \"chunked\"\r\n".into()),
        ("chunked behind a bare line feed", "X: 1\nTransfer-Encoding: chunked\r\n".into()),
        ("chunked behind a bare carriage return", "X: 1\rTransfer-Encoding: chunked\r\n".into()),
        ("chunked behind a NUL", "X: 1\0Transfer-Encoding: chunked\r\n".into()),
        ("trailer announced", "Trailer: X\r\nTransfer-Encoding: chunked\r\n".into()),
        ("te: trailers", "TE: trailers\r\n".into()),
        ("expect", format!("Expect: 100-continue\r\nContent-Length: {length}\r\n")),
        (
            "upgrade to h2c",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
                .into(),
        ),
        (
            "upgrade to a web socket",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n".into(),
        ),
        ("connection names content-length", format!("Connection: Content-Length\r\nContent-Length: {length}\r\n")),
        ("two hosts", "Host: evil\r\n".into()),
        ("a folded header", "X: 1\r\n 2\r\n".into()),
        ("a header without a colon", "X\r\n".into()),
        ("a header without a name", ": 1\r\n".into()),
        ("a space before the first header", " X: 1\r\n".into()),
    ];
    for (name, header) in &bodies {
        for (suffix, method, body) in
            [("", "GET", &second), (", POST", "POST", &second), (", in chunks", "GET", &chunked)]
        {
            // In chunks only where something says so; the rest as they are.
            let of_chunks = header.to_ascii_lowercase().contains("chunked");
            if suffix == ", in chunks" && !of_chunks || suffix == ", POST" && header.contains("Upgrade") {
                continue;
            }
            let bytes = format!("{method} {outer} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n{body}");
            // Where no body is announced, what follows is a request in its own right: HTTP/1.1 pipelining.
            add(&format!("{name}{suffix}"), 2, bytes.into_bytes());
        }
    }
    let chunk = |text: &str| {
        let head = format!("GET {outer} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
        [head.as_bytes(), text.as_bytes()].concat()
    };
    for (name, text) in [
        ("a chunk's size with an extension", format!("{length:x};a=b\r\n{second}\r\n0\r\n\r\n")),
        ("a chunk's size with a bare line feed", format!("{length:x}\n{second}\n0\n\n")),
        ("a chunk's size that is none", format!("zz\r\n{second}\r\n0\r\n\r\n")),
        ("a chunk's size beyond 64 bits", format!("fffffffffffffffff\r\n{second}")),
        ("a chunk's size with a sign", format!("+{length:x}\r\n{second}\r\n0\r\n\r\n")),
        ("the last chunk at once", format!("0\r\n\r\n{second}")),
        ("trailers", format!("0\r\nX: 1\r\nContent-Length: {length}\r\n\r\n{second}")),
        ("a chunk that ends early", format!("{:x}\r\n{second}\r\n0\r\n\r\n", length - 4)),
    ] {
        add(name, 2, chunk(&text));
    }
    // First lines.
    for (name, line, most) in [
        ("HTTP/0.9", format!("GET {outer}\r\n"), 1),
        ("HTTP/1.0", format!("GET {outer} HTTP/1.0\r\n\r\n"), 1),
        ("HTTP/1.0, kept", format!("GET {outer} HTTP/1.0\r\nConnection: keep-alive\r\nHost: localhost\r\n\r\n"), 2),
        ("HTTP/2.0", format!("GET {outer} HTTP/2.0\r\nHost: localhost\r\n\r\n"), 1),
        ("HTTP/1.2", format!("GET {outer} HTTP/1.2\r\nHost: localhost\r\n\r\n"), 2),
        ("a preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 1),
        ("two spaces", format!("GET  {outer} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 2),
        ("a tab", format!("GET\t{outer} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 1),
        ("a line break in the target", format!("GET {outer}\r\n HTTP/1.1\r\nHost: localhost\r\n\r\n"), 1),
        ("a second line in the target", format!("GET {outer} HTTP/1.1\r\nX: {outer}\r\nHost: localhost\r\n\r\n"), 2),
        ("empty lines first", format!("\r\n\r\nGET {outer} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 2),
        ("line feeds only", format!("GET {outer} HTTP/1.1\nHost: localhost\n\n"), 2),
        ("a space first", format!(" GET {outer} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 1),
        ("CONNECT", "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), 2),
        ("a method in small letters", format!("get {outer} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 2),
        ("a long method", format!("{} {outer} HTTP/1.1\r\nHost: localhost\r\n\r\n", "G".repeat(300)), 2),
        ("no host", format!("GET {outer} HTTP/1.1\r\n\r\n"), 2),
        (
            "HEAD with a body",
            format!("HEAD {outer} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"),
            2,
        ),
        (
            "OPTIONS with a body",
            format!("OPTIONS {outer} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"),
            2,
        ),
        ("TRACE", format!("TRACE {outer} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 2),
        ("a TLS hello", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03".into(), 1),
        ("nothing but a line break", "\r\n".into(), 1),
    ] {
        add(name, most, [line.as_bytes(), second.as_bytes()].concat());
    }
    shapes
}

/// A socket whose reader loses patience.
trait Patient: Read + Write {
    fn wait(&self, at_most: Duration);
}

impl Patient for UnixStream {
    fn wait(&self, at_most: Duration) {
        self.set_read_timeout(Some(at_most)).unwrap();
    }
}

impl Patient for TcpStream {
    fn wait(&self, at_most: Duration) {
        self.set_read_timeout(Some(at_most)).unwrap();
    }
}

/// Sends bytes and gives back all that comes, until the other side closes or has said nothing more for a moment.
fn talk(mut stream: impl Patient, bytes: &[u8]) -> Vec<u8> {
    let (first, more) = if tools::is_long() { (2_000, 300) } else { (250, 40) };
    let _ = stream.write_all(bytes);
    let mut received = Vec::new();
    let mut chunk = [0; 8192];
    stream.wait(Duration::from_millis(first));
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        received.extend_from_slice(&chunk[..count]);
        stream.wait(Duration::from_millis(more));
    }
    received
}

/// How many answers there are in these bytes.
fn answers(bytes: &[u8]) -> usize {
    bytes.windows(9).filter(|window| window.starts_with(b"HTTP/1.1 ")).count()
}

#[test]
fn no_request_hides_in_another() {
    let row = Row::begin("no request hides in another", "T27");
    let site = Site::new("[log]\nlevel = \"error\"\n").serve().with_nginx();
    site.add("photo_land.jpg", "a.jpg");
    let outer = path_url(KEYS, "a.jpg", "width-50");
    let others = [path_url(KEYS, "a.jpg", "width-40|format-webp"), path_url(KEYS, "a.jpg", "width-40|format-png")];
    for url in others.iter().chain([&outer]) {
        assert_eq!(site.gate("GET", url, "").status, 200, "{}", site.log());
    }
    let (mut sent, mut refused, mut pipelined, mut told) = (0, 0, 0, BTreeMap::<&str, usize>::new());
    for door in ["gate", "nginx"] {
        // The connection that nginx keeps to the gate is one and the same for all that follows.
        let mut regular = if door == "gate" { Client::gate(&site) } else { Client::nginx(&site) };
        for shape in shapes(&outer, "/images/not-signed/42/width-1/hidden") {
            let before = counted(&site);
            let received = match door {
                "gate" => talk(site.gate_stream(), &shape.bytes),
                _ => talk(site.nginx_stream(), &shape.bytes),
            };
            sent += 1;
            let name = format!("{door}, {}", shape.name);
            let text = String::from_utf8_lossy(&received).into_owned();
            let found = answers(&received);
            let seen = (counted(&site) - before) as usize;
            assert!(
                seen <= shape.most && found <= shape.most,
                "{name}: {seen} requests counted, {found} answers\n{text}"
            );
            // A body that was announced is no request, whoever announced it and how: the hidden one is refused with 403.
            let announces = announces_a_body(&shape.bytes);
            if announces {
                assert!(!text.contains(" 403 "), "{name}: the body was read as a request\n{text}");
                assert!(seen <= 1, "{name}: {seen} requests counted\n{text}");
            }
            pipelined += usize::from(text.contains(" 403 "));
            refused += usize::from(!text.contains(" 200 "));
            *told.entry(text.get(9..12).map_or("none", status_of)).or_default() += 1;
            // And nobody else gets an answer that was meant for this one.
            for (url, kind) in others.iter().zip(["image/webp", "image/png"]) {
                let response = regular.get(url.as_bytes());
                assert_eq!(response.status, 200, "after {name}");
                assert_eq!(response.header("content-type").as_deref(), Some(kind), "after {name}");
                let bytes = response.body.starts_with(if kind == "image/webp" { b"RIFF" } else { b"\x89PNG" });
                assert!(door == "gate" || bytes, "after {name}");
            }
        }
    }
    assert_eq!(site.stored().len(), 3);
    row.passed(&format!(
        "{sent} raw shapes at two doors; {refused} refused, {pipelined} with a second request in plain sight (pipelining), \
         none in which an announced body was read as one; first answers {told:?}; 0 answers went astray"
    ));
}

fn status_of(text: &str) -> &'static str {
    ["200", "204", "400", "403", "404", "405", "411", "413", "414", "431", "494", "501", "505"]
        .into_iter()
        .find(|status| *status == text)
        .unwrap_or("other")
}

/// Whether the request's head says, in whatever words, that a body follows.
fn announces_a_body(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    head.lines().any(|line| {
        let Some((name, value)) = line.split_once(':') else { return false };
        match name {
            "content-length" => value.trim().parse::<u64>().is_ok_and(|length| length > 0),
            // A body of no chunks ends at once.
            "transfer-encoding" => value.trim() == "chunked" && !text.contains("\r\n\r\n0\r\n"),
            _ => false,
        }
    })
}

/// T22: no name of a file, however it came about, writes a header of its own.
#[test]
fn names_write_no_headers() {
    let row = Row::begin("names write no headers", "T22 T14");
    let config = "[catalogue]\nkind = \"sqlite\"\nurl = \"sqlite://{dir}/images.sqlite3\"\nsource = \"media\"\n\
                  query = \"SELECT file FROM images WHERE id = ?\"\n[log]\nlevel = \"error\"\n";
    let site = Site::new(config);
    let marks = [
        "\"",
        "'",
        "\\",
        ";",
        "%0d%0aX-Evil: 1",
        "%0a",
        "\u{a0}",
        "\u{2028}",
        "\u{2029}",
        "\u{feff}",
        "é",
        "e\u{301}",
        "名前",
        "🖼",
        "a b",
        " a",
        "a ",
        "a=b",
        "a,b",
        "a;filename=b",
        "a\";x=\"",
        "*",
        "..a",
        "a%",
        "%22",
        "~",
        "\u{202e}gpj.a",
        "=?utf-8?q?a?=",
    ];
    let controls = ["\r\nX-Evil: 1", "\n", "\r", "\0", "\u{85}", "\u{7f}", "\u{1b}[2J", "\t", "\u{9b}"];
    let mut names: Vec<String> = marks.iter().map(|mark| format!("n{mark}n")).collect();
    names.extend(["n".repeat(240), "é".repeat(120), "\"".repeat(240)]);
    let mut random = random("names write no headers");
    for _ in 0..scale(100, 3_000) {
        let length = random.usize(1..40);
        let name: String = (0..length).map(|_| char::from_u32(random.u32(0x20..0x2FF)).unwrap_or('x')).collect();
        names.push(name.chars().filter(|c| !c.is_control() && !matches!(c, '/' | '\\')).collect::<String>() + "n");
    }
    let photo = std::fs::read(crate::vectors::folder().join("images/tiny_3x2.png")).unwrap();
    let (mut entries, mut files) = (Vec::new(), BTreeSet::new());
    for (number, name) in names.iter().enumerate() {
        let path = format!("{name}.png");
        if !path.contains('\\') && path.len() < 255 {
            std::fs::write(site.path("media").join(&path), &photo).unwrap();
            files.insert(path.clone());
        }
        entries.push((number + 1, path));
    }
    // Rows that lead out, or are no paths at all.
    let bad: Vec<String> = controls
        .iter()
        .map(|control| format!("n{control}n.png"))
        .chain(
            ["../images.json", "/etc/passwd", "a/../../images.json", "file:///etc/passwd", "", ".", "a//b", "a\\..\\b"]
                .map(String::from),
        )
        .collect();
    for (number, path) in bad.iter().enumerate() {
        entries.push((1_000_000 + number, path.clone()));
    }
    tools::database(&site.path("images.sqlite3"), &entries);
    let site = site.serve().with_nginx();
    let (mut gate, mut nginx) = (Client::gate(&site), Client::nginx(&site));
    let known = known_headers(&site, &mut gate, &mut nginx);
    let (mut asked, mut served) = (0, 0);
    let mut check = |response: &Response, about: &str| {
        asked += 1;
        assert!(!response.text().contains("root:"), "{about}");
        for (name, value) in &response.headers {
            assert!(known.contains(&name.to_lowercase()), "{about}: {name}: {value}");
            assert!(value.bytes().all(|byte| (0x20..0x7F).contains(&byte)), "{about}: {name}: {value:?}");
        }
        if response.status == 200 {
            served += 1;
            let value = response.header("content-disposition").unwrap();
            assert_one_filename(&value, about);
        }
        response.status
    };
    for (number, name) in names.iter().enumerate() {
        let by_id = native_url(
            KEYS,
            &Fields { subject: (number + 1).to_string(), spec: "width-2".into(), ..Fields::default() },
        );
        let path = format!("{name}.png");
        let is_there = files.contains(&path);
        let by_path = path_url(KEYS, &path, "width-2");
        for client in [&mut gate, &mut nginx] {
            let status = check(&client.get(by_id.as_bytes()), name);
            assert!(
                status == if is_there { 200 } else { status } && matches!(status, 200 | 400 | 410),
                "{status}: {name:?}"
            );
            let status = check(&client.get(by_path.as_bytes()), name);
            assert!(status == if is_there { 200 } else { status } && matches!(status, 200 | 404), "{status}: {name:?}");
        }
    }
    for (number, path) in bad.iter().enumerate() {
        let id = 1_000_000 + number;
        let url = native_url(KEYS, &Fields { subject: id.to_string(), spec: "width-2".into(), ..Fields::default() });
        let status = check(&gate.get(url.as_bytes()), path);
        assert!(matches!(status, 400 | 404 | 410), "{status}: {path:?}");
    }
    // Attachments' names, which are signed: as they come, and long ones.
    let mut downloads = names.clone();
    downloads.extend(["x".repeat(5_000), "é".repeat(1_000), "\"".repeat(2_000)]);
    for name in &downloads {
        let fields = Fields {
            subject: "media".into(),
            spec: "width-2".into(),
            path: "nén.png".into(),
            download: Some(name.clone()),
            ..Fields::default()
        };
        for client in [&mut gate, &mut nginx] {
            let status = check(&client.get(native_url(KEYS, &fields).as_bytes()), name);
            assert_eq!(status, 200, "{name:?}");
        }
    }
    for control in controls {
        let fields = Fields {
            subject: "media".into(),
            spec: "width-2".into(),
            path: "nén.png".into(),
            download: Some(format!("a{control}b")),
            ..Fields::default()
        };
        for client in [&mut gate, &mut nginx] {
            // Refused: either because it is not what was signed, or because it is malformed.
            let status = check(&client.get(native_url(KEYS, &fields).as_bytes()), control);
            assert!(matches!(status, 400 | 403), "{status}: {control:?}");
        }
    }
    row.passed(&format!("{asked} requests with {} names and {} rows that are no paths; {served} served, each with the known headers and one file name", downloads.len(), bad.len()));
}

/// The names of headers that a hit, a miss and a refusal have at both doors.
fn known_headers(site: &Site, gate: &mut Client<'_>, nginx: &mut Client<'_>) -> BTreeSet<String> {
    let url = path_url(KEYS, "nén.png", "width-3");
    let mut known =
        BTreeSet::from(["vary", "retry-after", "allow", "connection", "x-sendimage-vary"].map(String::from));
    for target in [url.as_str(), url.as_str(), "/images/x/42/y/", "/nowhere"] {
        for response in [gate.get(target.as_bytes()), nginx.get(target.as_bytes())] {
            known.extend(response.headers.iter().map(|(name, _)| name.to_lowercase()));
        }
    }
    assert!(known.contains("x-accel-redirect") && known.contains("etag"), "{known:?}\n{}", site.log());
    known
}

/// `inline; filename="…"` and perhaps `filename*`: taken apart as RFC 6266 says, there is nothing else.
fn assert_one_filename(value: &str, about: &str) {
    let (kind, mut rest) = value.split_once("; filename=\"").unwrap_or_else(|| panic!("{about}: {value}"));
    assert!(matches!(kind, "inline" | "attachment"), "{about}: {value}");
    loop {
        let at = rest.find(['"', '\\']).unwrap_or_else(|| panic!("{about}: an open quote in {value}"));
        let is_escape = rest[at..].starts_with('\\');
        rest = &rest[at + if is_escape { 2 } else { 1 }..];
        if !is_escape {
            break;
        }
    }
    if !rest.is_empty() {
        let extended = rest.strip_prefix("; filename*=UTF-8''").unwrap_or_else(|| panic!("{about}: {value}"));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"%!#$&+-.^_`|~".contains(&byte);
        assert!(extended.bytes().all(plain), "{about}: {value}");
    }
    assert!(value.len() < 8_000, "{about}: {} bytes", value.len());
}

/// The internal location, asked for from outside in every spelling: nginx serves it to nobody.
#[test]
fn the_internal_location_is_nobodys() {
    let row = Row::begin("the internal location is nobody's", "T26");
    let site = Site::new("").serve().with_nginx();
    site.add("photo_land.jpg", "a.jpg");
    let url = path_url(KEYS, "a.jpg", "width-50");
    let accel = site.gate("GET", &url, "").header("x-accel-redirect").unwrap();
    let image = site.nginx("GET", &url, "").body;
    assert!(image.starts_with(b"\xFF\xD8"));
    std::fs::write(site.path("secret.txt"), "a canary outside of the store").unwrap();
    let below = accel.strip_prefix("/_renditions/").unwrap();
    let mut targets: Vec<String> = vec![
        accel.clone(),
        format!("{accel}?x=1"),
        format!("{accel}#x"),
        format!("/{accel}"),
        format!("//localhost{accel}"),
        accel.replace("/_renditions/", "/_renditions//"),
        accel.replace("/_renditions/", "/./_renditions/"),
        accel.replace("/_renditions/", "/images/../_renditions/"),
        accel.replace("/_renditions/", "/images/..%2f_renditions/"),
        accel.replace("/_renditions/", "/images/%2e%2e/_renditions/"),
        accel.replace("/_renditions/", "/%5frenditions/"),
        accel.replace("/_renditions/", "/_renditions%2f"),
        accel.replace("/_renditions/", "/_RENDITIONS/"),
        accel.replace("/_renditions/", "/_renditions;/"),
        accel.replace("/_renditions/", "/_renditions%00/"),
        accel.replace("/_renditions/", "/_renditions\\"),
        accel.replace("/_renditions/", "/x/../_renditions/"),
        format!("http://localhost{accel}"),
        format!("/images/x/42/y/..%2f..%2f..%2f..%2f_renditions/{below}"),
        "/_renditions".into(),
        "/_renditions/".into(),
        "/_renditions/../secret.txt".into(),
        "/_renditions../secret.txt".into(),
        "/_renditions%2e%2e/secret.txt".into(),
        "/_renditions/..%2fsecret.txt".into(),
        "/_renditions/%2e%2e/secret.txt".into(),
        "/_renditionssecret.txt".into(),
        "/_renditions/..%252fsecret.txt".into(),
        format!("/renditions/{below}"),
        format!("/{below}"),
        "/@again".into(),
        "/_verdict".into(),
        "/metrics".into(),
        "/health/ready".into(),
        "/purge".into(),
        "/warm".into(),
        "/sign".into(),
    ];
    let mut random = random("the internal location is nobody's");
    for _ in 0..scale(300, 10_000) {
        let mut target = accel.clone().into_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(1..target.len());
            let put: &[u8] =
                random.choice(&[&b"/"[..], b"./", b"../", b"%2f", b"%2e%2e/", b"//", b"%00", b";"]).unwrap();
            if random.bool() {
                let byte = target[at];
                target.splice(at..=at, format!("%{byte:02x}").bytes());
            } else {
                target.splice(at..at, put.iter().copied());
            }
        }
        targets.push(String::from_utf8(target).unwrap());
    }
    let lines = [
        "",
        "X-Accel-Redirect: /_renditions/x\r\n",
        "X-Original-URI: /images/x\r\n",
        "X-Rewrite-URL: /_renditions/x\r\n",
        "X-Sendimage-Again: 1\r\n",
        "X-Sendfile: /etc/passwd\r\n",
    ];
    let mut told = BTreeMap::<u16, usize>::new();
    let mut nginx = Client::nginx(&site);
    for (number, target) in targets.iter().enumerate() {
        for headers in if number < 40 { &lines[..] } else { &lines[..1] } {
            for method in if number < 40 { &["GET", "HEAD", "POST", "PUT", "PROPFIND"][..] } else { &["GET"] } {
                let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
                let response = nginx.ask(request.as_bytes());
                assert!(matches!(response.status, 400 | 403 | 404 | 405), "{}: {method} {target}", response.status);
                assert!(response.body != image && !response.text().contains("canary"), "{method} {target}");
                *told.entry(response.status).or_default() += 1;
            }
        }
    }
    // The operations listener's paths are none of the public one's, at either door.
    for path in
        ["/metrics", "/health/live", "/health/ready", "/purge", "/warm", "/sign", "/_verdict", "/debug/pprof", "/"]
    {
        for response in [site.gate("GET", path, ""), site.nginx("GET", path, "")] {
            assert_eq!(response.status, 404, "{path}");
        }
    }
    row.passed(&format!(
        "{} requests in {} spellings: {told:?}; no byte of a rendition, none from outside of the store",
        told.values().sum::<usize>(),
        targets.len()
    ));
}

/// T21: the answer is decided by the URL alone.
#[test]
fn headers_have_no_say() {
    let row = Row::begin("headers have no say", "T21");
    let site = Site::new("[log]\nlevel = \"error\"\n").serve();
    site.add("photo_land.jpg", "a.jpg");
    let hit = path_url(KEYS, "a.jpg", "width-50");
    let auto = path_url(KEYS, "a.jpg", "width-60|format-auto");
    let targets = [
        hit.clone(),
        hit.replace("width-50", "width-51"),
        path_url(KEYS, "none.jpg", "width-50"),
        path_url(KEYS, "a.jpg", "width-"),
        "/".into(),
        auto,
    ];
    let names = [
        "Host",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Prefix",
        "X-Forwarded-Port",
        "Forwarded",
        "X-Original-URL",
        "X-Original-URI",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-Method-Override",
        "X-Host",
        "X-Real-IP",
        "Via",
        "Cookie",
        "Authorization",
        "Proxy-Authorization",
        "Origin",
        "Referer",
        "User-Agent",
        "Accept-Language",
        "Accept-Encoding",
        "Accept-Charset",
        "Range",
        "If-None-Match",
        "If-Modified-Since",
        "If-Range",
        "If-Match",
        "If-Unmodified-Since",
        "Cache-Control",
        "Pragma",
        "DNT",
        "Save-Data",
        "DPR",
        "Width",
        "Viewport-Width",
        "Sec-Fetch-Dest",
        "Sec-CH-DPR",
        "X-Accel-Redirect",
        "X-Accel-Internal",
        "X-Sendfile",
        "X-Sendfile-Type",
        "X-Accel-Mapping",
        "X-Sendimage-Cache-Control",
        "X-Sendimage-Path",
        "Content-Type",
        "Content-Encoding",
        "Content-Disposition",
        "Surrogate-Capability",
        "X-Request-Deadline",
        "Max-Forwards",
        "From",
        "TE",
        "Trailer",
        "Priority",
        "X-Wap-Profile",
        "Last-Event-ID",
        "X-Http-Destinationurl",
        "Base-Url",
        "Proxy",
        "X-Amz-Website-Redirect-Location",
    ];
    let values = [
        "evil.example",
        "127.0.0.1",
        "http",
        "https",
        "/images/x/42/width-1/",
        "bytes=0-3",
        "\"x\"",
        "*",
        "no-cache",
        "1",
        "0",
        "-1",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "gzip, br",
        "image/png",
        "a=b; c=d",
        "Bearer x",
        "../../etc/passwd",
        "'; DROP TABLE x; --",
        "${jndi:ldap://x}",
        "%0d%0aX: 1",
        "<script>",
    ];
    let plain = |response: Response| {
        let mut response = response;
        response.headers.retain(|(name, _)| !matches!(name.as_str(), "date" | "x-request-id"));
        response
    };
    let mut gate = Client::gate(&site);
    let mut ask =
        |target: &str, headers: &str| plain(gate.ask(format!("GET {target} HTTP/1.1\r\n{headers}\r\n").as_bytes()));
    let hosted = "Host: localhost\r\n";
    // Twice: the first renders, and is a miss.
    let wanted: Vec<Response> = targets.iter().map(|target| (ask(target, hosted), ask(target, hosted)).1).collect();
    let statuses: Vec<u16> = wanted.iter().map(|response| response.status).collect();
    assert_eq!(statuses, [200, 403, 404, 400, 404, 200], "{}", site.log());
    let mut random = random("headers have no say");
    let count = scale(1_500, 30_000);
    for _ in 0..count {
        let mut headers = String::new();
        for _ in 0..random.usize(1..12) {
            let name = *random.choice(&names).unwrap();
            let mut value = (*random.choice(&values).unwrap()).to_owned();
            if random.u8(..) < 40 {
                value = (0..random.usize(0..200)).map(|_| char::from(random.u8(0x20..0x7F))).collect();
            }
            let name = if random.bool() { name.to_lowercase() } else { name.to_owned() };
            headers += &format!("{name}: {value}\r\n");
        }
        let number = random.usize(0..targets.len());
        let answer = ask(&targets[number], &headers);
        assert_eq!(answer, wanted[number], "{} with\n{headers}", targets[number]);
    }
    // And Accept has a say only where the spec leaves the format open: one of three answers, told apart by Vary.
    let mut told = BTreeSet::new();
    for _ in 0..scale(200, 5_000) {
        let kinds = [
            "image/avif",
            "image/webp",
            "image/*",
            "*/*",
            "text/html",
            "image/avif;q=0",
            "image/webp;q=0.5",
            "",
            "image/png",
            ";;,",
            "\"image/webp",
        ];
        let accept: Vec<&str> = (0..random.usize(0..6)).map(|_| *random.choice(&kinds).unwrap()).collect();
        let headers = format!("{hosted}Accept: {}\r\n", accept.join(","));
        assert_eq!(ask(&targets[0], &headers), wanted[0], "{headers}");
        let answer = ask(&targets[5], &headers);
        assert_eq!((answer.status, answer.header("x-sendimage-vary").as_deref()), (200, Some("Accept")), "{headers}");
        told.insert(answer.header("content-type").unwrap());
    }
    assert!(told.len() <= 3, "{told:?}");
    assert!(site.stored().len() <= 4, "{:?}", site.stored());
    row.passed(&format!(
        "{count} random sets of headers on 6 URLs: 6 answers, byte for byte; formats by Accept {told:?}"
    ));
}

/// T05, T06, T26: whoever holds signatures gets bounded work, one file for one rendition, and no series of a metric.
#[test]
fn specs_and_names_without_end() {
    let row = Row::begin("specs and names without end", "T05 T06 T26");
    let site = Site::new("[render]\nworkers = 2\ndeadline_seconds = 10.0\n[log]\nlevel = \"error\"\n").serve();
    site.add("tiny_3x2.png", "t.png");
    site.add("photo_land.jpg", "a.jpg");
    std::fs::write(site.path("images.csv"), "id,file\n42,t.png\n").unwrap();
    let mut gate = Client::gate(&site);
    // T06: the trailing name of an id URL is decoration... of the path shape it is signed. So an id it is.
    let catalogue = Site::new(
        "[catalogue]\nkind = \"manifest\"\nfile = \"{dir}/images.csv\"\nsource = \"media\"\n[log]\nlevel = \"error\"\n",
    );
    catalogue.add("tiny_3x2.png", "t.png");
    std::fs::write(catalogue.path("images.csv"), "id,file\n42,t.png\n").unwrap();
    let catalogue = catalogue.serve();
    let url = native_url(KEYS, &Fields { subject: "42".into(), spec: "width-2".into(), ..Fields::default() });
    let mut random = random("specs and names without end");
    let names = scale(1_000, 20_000);
    let mut other = Client::gate(&catalogue);
    for number in 0..names {
        let name: String = (0..random.usize(0..60)).map(|_| char::from(random.u8(b'a'..=b'z'))).collect();
        let response = other.get(
            format!("{url}{name}{number}.{}", random.choice(["jpg", "php", "exe", "%20", "png%7Cx"]).unwrap())
                .as_bytes(),
        );
        assert_eq!(response.status, 200);
    }
    assert_eq!(catalogue.stored().len(), 1);
    assert_eq!(catalogue.metric("sendimage_requests_total{outcome=\"rendered\"}"), 1.0);
    drop(other);
    drop(catalogue);

    // T05: specs of every shape that the grammar has a word for, at its bounds and beyond.
    let spec = |random: &mut fastrand::Rng| -> String {
        let number = |random: &mut fastrand::Rng| -> String {
            random
                .choice([
                    "0",
                    "1",
                    "2",
                    "3",
                    "7",
                    "50",
                    "100",
                    "9999",
                    "65535",
                    "2147483647",
                    "4294967296",
                    "18446744073709551616",
                    "-1",
                    "1e9",
                    "00001",
                    "١",
                ])
                .unwrap()
                .to_string()
        };
        let one = |random: &mut fastrand::Rng| match random.u8(0..20) {
            0 => "original".into(),
            1 => format!("width-{}", number(random)),
            2 => format!("height-{}", number(random)),
            3 => format!("max-{}x{}", number(random), number(random)),
            4 => format!("min-{}x{}", number(random), number(random)),
            5 => format!("fill-{}x{}", number(random), number(random)),
            6 => format!("fill-{}x{}-c{}", number(random), number(random), number(random)),
            7 => format!("scale-{}", number(random)),
            8 => format!(
                "format-{}",
                random.choice(["jpeg", "png", "webp", "avif", "gif", "ico", "webp-lossless", "bmp"]).unwrap()
            ),
            9 => format!("jpegquality-{}", number(random)),
            10 => format!("webpquality-{}", number(random)),
            11 => format!("bgcolor-{}", random.choice(["fff", "123456", "xyz", "ffffffff"]).unwrap()),
            12 => format!("rotate-{}", random.choice(["90", "180", "270", "45"]).unwrap()),
            13 => format!("crop-{},{},{},{}", number(random), number(random), number(random), number(random)),
            14 => format!("pad-{}x{}", number(random), number(random)),
            15 => format!("blur-{}", number(random)),
            16 => format!("sharpen-{}", number(random)),
            17 => format!("trim-{}", number(random)),
            18 => format!("dpr-{}", number(random)),
            _ => random
                .choice([
                    "grayscale",
                    "invert",
                    "flip-h",
                    "flip-v",
                    "smart",
                    "keep-meta",
                    "preserve-svg",
                    "watermark-x",
                ])
                .unwrap()
                .to_string(),
        };
        let most = if random.u8(..) < 20 { 40 } else { 4 };
        let operations = random.usize(1..most);
        let parts: Vec<String> = (0..operations).map(|_| one(random)).collect();
        parts.join("|")
    };
    let (mut told, mut slowest, mut before) = (BTreeMap::<u16, usize>::new(), Duration::ZERO, None);
    let mut specs = BTreeSet::new();
    let count = scale(400, 10_000);
    while specs.len() < count {
        let text = spec(&mut random);
        if !specs.insert(text.clone()) {
            continue;
        }
        let source = if specs.len() % 8 == 0 { "a.jpg" } else { "t.png" };
        let began = Instant::now();
        let response = gate.get(path_url(KEYS, source, &text).as_bytes());
        slowest = slowest.max(began.elapsed());
        assert!(matches!(response.status, 200 | 400 | 422), "{}: {text}\n{}", response.status, site.log());
        let too_much = text.len() > 255 || text.split('|').count() > 16;
        assert!(!too_much || response.status == 400, "{}: {text}", response.status);
        *told.entry(response.status).or_default() += 1;
        if specs.len() == count / 2 {
            before = Some(series(&site));
        }
    }
    assert!(slowest < Duration::from_secs(11), "{slowest:?}");
    let (before, after) = (before.unwrap(), series(&site));
    let formats = |series: &BTreeSet<String>| {
        series.iter().filter(|name| !name.contains("format=")).cloned().collect::<BTreeSet<_>>()
    };
    assert_eq!(formats(&before), formats(&after), "distinct specs are distinct series");
    assert!(after.len() < 400, "{}", after.len());
    for stored in site.stored() {
        let (width, height) = size_of(&site.path("renditions").join(stored));
        assert!(u64::from(width) * u64::from(height) <= 40_000_000, "{width}x{height}");
    }
    row.passed(&format!("{names} trailing names: 1 file, 1 render; {count} distinct specs: {told:?}, {} files, the slowest {slowest:.1?}; {} series of metrics, none new", site.stored().len(), after.len()));
}

/// The size of a rendition.
fn size_of(path: &std::path::Path) -> (u32, u32) {
    let facts = sendimage::render::probe(&std::fs::read(path).unwrap()).unwrap();
    (facts.stored_size.width, facts.stored_size.height)
}
