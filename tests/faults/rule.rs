//! The rule of FAULTS 2.2, written a second time and from its words alone: what a raw target asks for, and what the answer
//! must be. The service is compared with it on random targets.

use crate::client::{Fields, native, wagtail};

/// What a raw target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// 400, whoever signed it.
    Malformed,
    /// 404.
    NoRoute,
    /// A URL with a signature, good or bad.
    Signed(Asked),
}

/// The decoded parts of a signed URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// The route's prefix.
    pub prefix: String,
    /// As given.
    pub signature: String,
    /// What a native signature is about.
    pub fields: Fields,
    /// The query has something that no native URL may have.
    pub is_query_bad: bool,
}

/// A route and the keys that it takes.
pub struct Route {
    pub prefix: &'static str,
    pub native: Vec<&'static [u8]>,
    pub wagtail: Vec<&'static [u8]>,
}

/// What must be answered to a target when every image that was ever signed exists: 200, 400, 403 or 404.
pub fn verdict(target: &[u8], routes: &[Route]) -> (u16, Option<Asked>) {
    let asked = match read(target, routes) {
        Target::Malformed => return (400, None),
        Target::NoRoute => return (404, None),
        Target::Signed(asked) => asked,
    };
    let route = routes.iter().find(|route| route.prefix == asked.prefix).unwrap();
    let is_native = route.native.iter().any(|key| native(key, &asked.fields) == asked.signature);
    let is_id = asked.fields.path.is_empty();
    let Fields { subject, spec, .. } = &asked.fields;
    let is_wagtail = is_id && route.wagtail.iter().any(|key| wagtail(key, subject, spec) == asked.signature);
    let status = match (is_native, is_wagtail) {
        (true, _) if asked.is_query_bad => 400,
        (true, _) | (_, true) => 200,
        _ => 403,
    };
    (status, Some(asked))
}

fn read(target: &[u8], routes: &[Route]) -> Target {
    let whole = target.split(|byte| *byte == b'#').next().unwrap_or_default();
    let mut halves = whole.splitn(2, |byte| *byte == b'?');
    let (path, query) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
    let Some(inside) = path.strip_prefix(b"/") else { return Target::Malformed };
    let segments: Vec<&[u8]> = inside.split(|byte| *byte == b'/').collect();
    let (last, folders) = segments.split_last().unwrap();
    if folders.iter().any(|segment| decode_segment(segment).is_none())
        || !last.is_empty() && decode_segment(last).is_none()
    {
        return Target::Malformed;
    }
    let mut routes: Vec<_> = routes.iter().map(|route| route.prefix).collect();
    routes.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
    let Some(prefix) = routes.into_iter().find(|prefix| path.starts_with(prefix.as_bytes())) else {
        return Target::NoRoute;
    };
    let rest: Vec<&[u8]> = path[prefix.len()..].split(|byte| *byte == b'/').collect();
    let [signature, subject, spec, names @ ..] = rest.as_slice() else { return Target::NoRoute };
    if names.is_empty() {
        return Target::NoRoute;
    }
    let text = |segment: &[u8]| decode_segment(segment);
    let (Some(signature), Some(subject), Some(spec)) = (text(signature), text(subject), text(spec)) else {
        return Target::Malformed;
    };
    let is_id = subject.bytes().all(|byte| byte.is_ascii_digit());
    let path = match (is_id, names) {
        (true, [_decoration]) => String::new(),
        (true, _) => return Target::NoRoute,
        (false, names) => match names.iter().map(|name| text(name)).collect::<Option<Vec<_>>>() {
            Some(names) => names.join("/"),
            None => return Target::Malformed,
        },
    };
    let mut asked = Asked {
        prefix: prefix.to_owned(),
        signature,
        fields: Fields { subject, spec, path, ..Fields::default() },
        is_query_bad: false,
    };
    for pair in query.split(|byte| *byte == b'&').filter(|_| !query.is_empty()) {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        let field = match name {
            b"expires" => &mut asked.fields.expires,
            b"download" => &mut asked.fields.download,
            _ => {
                asked.is_query_bad = true;
                continue;
            }
        };
        match decode(value).filter(|value| !value.is_empty() && field.is_none()) {
            Some(value) => *field = Some(value),
            None => asked.is_query_bad = true,
        }
    }
    Target::Signed(asked)
}

fn decode_segment(raw: &[u8]) -> Option<String> {
    decode(raw).filter(|text| !text.is_empty() && text != "." && text != ".." && !text.contains('/'))
}

/// Once and strictly: `None` for what is no text without control characters.
fn decode(raw: &[u8]) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = raw;
    while let [first, more @ ..] = rest {
        rest = more;
        match first {
            b'%' => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                bytes.push((digit(more.first()?)? * 16 + digit(more.get(1)?)?) as u8);
                rest = &more[2..];
            }
            // No request line holds these (RFC 9112, 3.2).
            b'<' | b'>' | b'`' | b' ' => return None,
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}
