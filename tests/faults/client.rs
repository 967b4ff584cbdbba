//! A client that keeps its connection and sends exactly the bytes it is given; and signatures made without the service's own
//! code.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};

use base64::{
    Engine as _,
    engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD},
};
use hmac::{Hmac, KeyInit as _, Mac as _};

use crate::harness::{Response, Site, parse};

/// Longer than any answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stream of either kind.
pub trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A kept connection, opened again when the other side closes it.
pub struct Client<'a> {
    open: Box<dyn Fn() -> Box<dyn Stream> + 'a>,
    stream: Option<Box<dyn Stream>>,
    received: Vec<u8>,
}

impl<'a> Client<'a> {
    /// To the gate's own socket.
    pub fn gate(site: &'a Site) -> Self {
        let open = || {
            let stream: UnixStream = site.gate_stream();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            Box::new(stream) as Box<dyn Stream>
        };
        Self { open: Box::new(open), stream: None, received: Vec::new() }
    }

    /// To nginx.
    pub fn nginx(site: &'a Site) -> Self {
        let open = || {
            let stream: TcpStream = site.nginx_stream();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_nodelay(true).unwrap();
            Box::new(stream) as Box<dyn Stream>
        };
        Self { open: Box::new(open), stream: None, received: Vec::new() }
    }

    /// Asks for a target, as bytes.
    pub fn get(&mut self, target: &[u8]) -> Response {
        self.get_with(target, "")
    }

    /// The same with more header lines, each with its line break.
    pub fn get_with(&mut self, target: &[u8], headers: &str) -> Response {
        let request = [b"GET ", target, b" HTTP/1.1\r\nHost: localhost\r\n", headers.as_bytes(), b"\r\n"].concat();
        self.ask(&request)
    }

    /// Sends one request and reads its one answer. A connection that was closed meanwhile is opened anew.
    pub fn ask(&mut self, request: &[u8]) -> Response {
        let is_fresh = self.stream.is_none();
        match self.try_ask(request) {
            Some(response) => response,
            None if is_fresh => panic!("no answer to {:?}", String::from_utf8_lossy(request)),
            None => self.ask(request),
        }
    }

    fn try_ask(&mut self, request: &[u8]) -> Option<Response> {
        self.received.clear();
        let mut stream = self.stream.take().unwrap_or_else(&self.open);
        // Whoever refuses early may close before everything is read; what it said is there all the same.
        let _ = stream.write_all(request);
        let mut chunk = [0; 16 << 10];
        let is_head = request.starts_with(b"HEAD ");
        let mut wanted = None;
        let mut closed = false;
        while wanted.is_none_or(|wanted| self.received.len() < wanted) && !closed {
            match stream.read(&mut chunk) {
                Ok(0) => closed = true,
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    closed = true
                }
                Err(error) => panic!("{error} at {:?}", String::from_utf8_lossy(request)),
            }
            if wanted.is_none()
                && let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n")
            {
                let head = parse(&self.received[..end + 4]);
                let length = head.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
                let has_body = !is_head && !matches!(head.status, 204 | 304);
                wanted = Some(end + 4 + if has_body { length } else { 0 });
            }
        }
        let wanted = wanted.filter(|wanted| self.received.len() >= *wanted)?;
        assert_eq!(self.received.len(), wanted, "more than one answer: {}", String::from_utf8_lossy(&self.received));
        let response = parse(&self.received);
        let closes = response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if !closes && !closed {
            self.stream = Some(stream);
        }
        Some(response)
    }
}

/// The fields of a native signature, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fields {
    /// An id or a source.
    pub subject: String,
    /// The filter spec.
    pub spec: String,
    /// The path; empty for the id shape.
    pub path: String,
    /// Unix seconds.
    pub expires: Option<String>,
    /// The attachment's name.
    pub download: Option<String>,
}

/// The native signature, after the words of DESIGN 2.
pub fn native(key: &[u8], fields: &Fields) -> String {
    let Fields { subject, spec, path, expires, download } = fields;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let signed = format!("sendimage-v1\n{subject}\n{spec}\n{path}\n{}\n{}\n", text(expires), text(download));
    URL_SAFE_NO_PAD.encode(hmac_sha256(key, signed.as_bytes()))
}

/// Wagtail's signature (`wagtail.images.utils.generate_signature`).
pub fn wagtail(key: &[u8], id: &str, spec: &str) -> String {
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(key).unwrap();
    mac.update(format!("{id}/{spec}/").as_bytes());
    URL_SAFE.encode(mac.finalize().into_bytes())
}

/// HMAC-SHA256.
pub fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

/// Percent-encodes all but letters, digits and what a path leaves alone.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The native URL of these fields, the attachment's name and all.
pub fn native_url(key: &[u8], fields: &Fields) -> String {
    let signature = native(key, fields);
    let path: Vec<String> = fields.path.split('/').map(encoded).collect();
    let mut url =
        format!("/images/{signature}/{}/{}/{}", encoded(&fields.subject), encoded(&fields.spec), path.join("/"));
    let mut separator = '?';
    for (name, value) in [("expires", &fields.expires), ("download", &fields.download)] {
        if let Some(value) = value {
            url += &format!("{separator}{name}={}", encoded(value));
            separator = '&';
        }
    }
    url
}

/// The URL of a path in the source `media`.
pub fn path_url(key: &[u8], path: &str, spec: &str) -> String {
    native_url(key, &Fields { subject: "media".into(), spec: spec.into(), path: path.into(), ..Fields::default() })
}
