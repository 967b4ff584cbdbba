//! Requests that hide a second one: none is ever read as more than it is, at the gate's own socket and through a real nginx.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};

use crate::{
    client::{Client, path_url},
    harness::{KEY, Site},
    report::Row,
    tools,
};

const KEYS: &[u8] = KEY.as_bytes();

/// Requests that the service has counted, however they ended.
fn counted(site: &Site) -> f64 {
    let text = site.ops("/metrics").unwrap().text();
    let counts = text.lines().filter_map(|line| line.strip_prefix("sendimage_requests_total{"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
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
