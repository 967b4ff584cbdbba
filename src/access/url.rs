//! The signed URL, taken apart and built by the same file.
//!
//! nginx hands on the raw target (`proxy_pass` without a URI part), while it chose the location by the normalised one. So
//! nothing is repaired here: every segment is percent-decoded exactly once, strictly, and what could be read in two ways is
//! refused.

use std::{borrow::Cow, fmt::Write as _};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use thiserror::Error;

/// What stays readable in a path segment: RFC 3986's unreserved characters and the sub-delimiters that browsers leave
/// alone. `=` keeps Wagtail's signatures as they are; `|` has to be encoded.
const SEGMENT: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// The same for a query value, where `&`, `=`, `+` and `;` mean something to somebody.
const QUERY_VALUE: AsciiSet = SEGMENT.add(b'=').add(b'+').add(b';').add(b'\'');

/// Why a target is not a signed URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    /// The path has the shape of no route.
    #[error("no route has this shape")]
    NoRoute,
    /// Not an origin-form target (RFC 9112, 3.2.1).
    #[error("the target is not a path")]
    NotAPath,
    /// An empty segment where one must be filled.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// A segment that is `.` or `..`, in whatever spelling.
    #[error("the path has a dot segment")]
    DotSegment,
    /// `%2F` in a segment.
    #[error("a segment holds an encoded slash")]
    EncodedSlash,
    /// `%` without two hexadecimal digits behind it.
    #[error("a percent sign is not followed by two hexadecimal digits")]
    BadEscape,
    /// Bytes that are not UTF-8 after decoding.
    #[error("the bytes are not UTF-8")]
    NotUtf8,
    /// A control character after decoding (general category Cc: C0, DEL, C1).
    #[error("a control character")]
    ControlCharacter,
    /// A query parameter that does not exist.
    #[error("an unknown query parameter")]
    UnknownParameter,
    /// A query parameter given twice.
    #[error("a query parameter is given twice")]
    RepeatedParameter,
    /// A query parameter without a value.
    #[error("a query parameter is empty")]
    EmptyParameter,
    /// `expires` that is no Unix time.
    #[error("expires is not a Unix time")]
    BadExpiry,
}

/// What a URL is about, as its text has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject<'a> {
    /// Digits: an image id. The text is what is signed, so `007` and `7` have signatures of their own.
    Id(Cow<'a, str>),
    /// A source and a path in it, both signed.
    Path {
        /// The source's name.
        source: Cow<'a, str>,
        /// The path, its segments joined by slashes.
        path: Cow<'a, str>,
    },
}

impl Subject<'_> {
    /// The same, of its own.
    pub fn into_owned(self) -> Subject<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Self::Id(id) => Subject::Id(owned(id)),
            Self::Path { source, path } => Subject::Path { source: owned(source), path: owned(path) },
        }
    }
}

/// A target in its decoded parts. None of them is trusted yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedUrl<'a> {
    /// The signature segment.
    pub signature: Cow<'a, str>,
    /// The image.
    pub subject: Subject<'a>,
    /// The filter spec, or a preset's name.
    pub filter_spec: Cow<'a, str>,
    /// The query, taken apart leniently; see [`Query::problem`].
    pub query: Query<'a>,
}

/// The query's fields. With a Wagtail signature they are ignored whole; with a native one, `problem` is a 400 once the
/// signature is good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query<'a> {
    /// `expires`, as text.
    pub expires: Option<Cow<'a, str>>,
    /// `download`, the file name of an attachment.
    pub download: Option<Cow<'a, str>>,
    /// Each `token`, undecoded: those that there can be need no escapes. Neither signed nor heeded unless the route's config
    /// says so.
    pub tokens: Vec<&'a str>,
    /// The first thing wrong with the rest of the query.
    pub problem: Option<UrlError>,
}

impl<'a> SignedUrl<'a> {
    /// Takes a target apart.
    ///
    /// `path` is the whole raw path, `rest` the part of it behind a route's prefix, both as received; `query` is what
    /// follows the question mark.
    ///
    /// # Errors
    /// [`UrlError::NoRoute`] when the number of segments fits no route; otherwise what is malformed.
    pub fn split(rest: &'a str, query: Option<&'a str>) -> Result<Self, UrlError> {
        let mut segments = rest.splitn(4, '/');
        let mut next = || segments.next().ok_or(UrlError::NoRoute);
        // Their number first: a path that ends early fits no route, whatever its last segment is.
        let (signature, subject, filter_spec, path) = (next()?, next()?, next()?, next()?);
        let subject = decode_segment(subject)?;
        let is_id = !subject.is_empty() && subject.bytes().all(|b| b.is_ascii_digit());
        let subject = match (is_id, path) {
            (true, path) if path.contains('/') => return Err(UrlError::NoRoute),
            // The file name is decoration: neither signed nor checked, and it may be empty.
            (true, "") => Subject::Id(subject),
            (true, filename) => {
                decode_segment(filename)?;
                Subject::Id(subject)
            }
            (false, path) => Subject::Path { source: subject, path: decode_path(path)? },
        };
        Ok(Self {
            signature: decode_segment(signature)?,
            subject,
            filter_spec: decode_segment(filter_spec)?,
            query: Query::parse(query.unwrap_or_default()),
        })
    }

    /// Refuses what no route may ever see: a path with empty, dot or undecodable segments. The last segment may be empty.
    ///
    /// # Errors
    /// What is malformed.
    pub fn check_path(path: &str) -> Result<(), UrlError> {
        let path = path.strip_prefix('/').ok_or(UrlError::NotAPath)?;
        let (folders, last) = path.rsplit_once('/').unwrap_or(("", path));
        if !folders.is_empty() || path.starts_with('/') {
            folders.split('/').try_for_each(|segment| decode_segment(segment).map(drop))?;
        }
        if last.is_empty() { Ok(()) } else { decode_segment(last).map(drop) }
    }
}

impl<'a> Query<'a> {
    fn parse(raw: &'a str) -> Self {
        let mut query = Self::default();
        for pair in raw.split('&').filter(|_| !raw.is_empty()) {
            if let Err(problem) = query.add(pair) {
                query.problem.get_or_insert(problem);
            }
        }
        query
    }

    fn add(&mut self, pair: &'a str) -> Result<(), UrlError> {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let field = match name {
            "token" => {
                self.tokens.push(value);
                return Ok(());
            }
            "expires" => &mut self.expires,
            "download" => &mut self.download,
            _ => return Err(UrlError::UnknownParameter),
        };
        if field.is_some() {
            return Err(UrlError::RepeatedParameter);
        }
        if value.is_empty() {
            return Err(UrlError::EmptyParameter);
        }
        *field = Some(decode(value)?);
        Ok(())
    }
}

/// Decodes the segments of a path. The slashes between them are not encoded, so the text is what the whole decodes to.
fn decode_path(raw: &str) -> Result<Cow<'_, str>, UrlError> {
    raw.split('/').try_for_each(|segment| decode_segment(segment).map(drop))?;
    decode(raw)
}

/// Decodes one path segment: not empty, no dot segment, no slash.
fn decode_segment(raw: &str) -> Result<Cow<'_, str>, UrlError> {
    let segment = decode(raw)?;
    match segment.as_ref() {
        "" => Err(UrlError::EmptySegment),
        "." | ".." => Err(UrlError::DotSegment),
        text if text.contains('/') => Err(UrlError::EncodedSlash),
        _ => Ok(segment),
    }
}

/// Percent-decodes once: UTF-8 without control characters. A plus is a plus.
fn decode(raw: &str) -> Result<Cow<'_, str>, UrlError> {
    // Nearly every segment there is.
    if raw.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'%') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut rest = raw.as_bytes();
    while let Some(at) = rest.iter().position(|&b| b == b'%') {
        match rest.get(at + 1..at + 3) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => rest = &rest[at + 3..],
            _ => return Err(UrlError::BadEscape),
        }
    }
    let text = percent_encoding::percent_decode_str(raw).decode_utf8().map_err(|_| UrlError::NotUtf8)?;
    if text.chars().any(char::is_control) { Err(UrlError::ControlCharacter) } else { Ok(text) }
}

/// The parts of a URL that is being made.
#[derive(Clone, Debug)]
pub struct UrlParts<'a> {
    /// The route's prefix.
    pub prefix: &'a str,
    /// The signature's text.
    pub signature: &'a str,
    /// The image.
    pub subject: &'a Subject<'a>,
    /// The filter spec or preset.
    pub filter_spec: &'a str,
    /// The decorative last segment of an id URL.
    pub filename: &'a str,
    /// Unix seconds.
    pub expires: Option<u64>,
    /// The name of an attachment.
    pub download: Option<&'a str>,
}

impl UrlParts<'_> {
    /// The path and query: what [`SignedUrl::split`] takes apart again.
    pub fn build(&self) -> String {
        let segment = |text| utf8_percent_encode(text, &SEGMENT);
        let mut url = format!("{}{}/", self.prefix, segment(self.signature));
        // Writing to a String cannot fail.
        let _ = match self.subject {
            Subject::Id(id) => {
                write!(url, "{id}/{}/{}", segment(self.filter_spec), segment(self.filename))
            }
            Subject::Path { source, path } => {
                let path: Vec<String> = path.split('/').map(|part| segment(part).to_string()).collect();
                write!(url, "{}/{}/{}", segment(source), segment(self.filter_spec), path.join("/"))
            }
        };
        let mut separator = '?';
        if let Some(expires) = self.expires {
            let _ = write!(url, "{separator}expires={expires}");
            separator = '&';
        }
        if let Some(download) = self.download {
            let _ = write!(url, "{separator}download={}", utf8_percent_encode(download, &QUERY_VALUE));
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(rest: &str) -> Result<SignedUrl<'_>, UrlError> {
        match rest.split_once('?') {
            Some((path, query)) => SignedUrl::split(path, Some(query)),
            None => SignedUrl::split(rest, None),
        }
    }

    #[test]
    fn both_shapes() {
        let url = split("SIG/42/fill-1x1%7Cformat-webp/x.jpg").expect("an id URL");
        assert_eq!(url.subject, Subject::Id("42".into()));
        assert_eq!(url.filter_spec, "fill-1x1|format-webp");
        let url = split("SIG/media/width-400/2024/caf%C3%A9%201.jpg").expect("a path URL");
        assert_eq!(url.subject, Subject::Path { source: "media".into(), path: "2024/café 1.jpg".into() });
        assert!(split("SIG/42/width-1/").is_ok(), "the decorative name may be empty");
    }

    #[test]
    fn no_route() {
        for rest in
            ["", "SIG", "SIG/", "SIG/42", "SIG/42/", "SIG/42/width-1", "SIG/42/width-1/a/b.jpg", "SIG/media/width-1"]
        {
            assert_eq!(split(rest), Err(UrlError::NoRoute), "{rest}");
        }
    }

    /// FAULTS 2.2, row by row, as path segments.
    #[test]
    fn the_canonicalisation_table() {
        for (raw, expected) in [
            ("a%2Fb", Err(UrlError::EncodedSlash)),
            ("a%2fb", Err(UrlError::EncodedSlash)),
            ("..%2f..%2fetc", Err(UrlError::EncodedSlash)),
            ("..", Err(UrlError::DotSegment)),
            (".", Err(UrlError::DotSegment)),
            ("%2e%2e", Err(UrlError::DotSegment)),
            ("%2E.", Err(UrlError::DotSegment)),
            ("", Err(UrlError::EmptySegment)),
            ("a%00b", Err(UrlError::ControlCharacter)),
            ("a%", Err(UrlError::BadEscape)),
            ("a%zz", Err(UrlError::BadEscape)),
            ("a%2", Err(UrlError::BadEscape)),
            ("a%0d%0aX:1", Err(UrlError::ControlCharacter)),
            ("a%7f", Err(UrlError::ControlCharacter)),
            ("a%C2%85", Err(UrlError::ControlCharacter)),
            ("fill-1x1|jpeg", Ok("fill-1x1|jpeg")),
            ("fill-1x1%7Cjpeg", Ok("fill-1x1|jpeg")),
            ("a+b", Ok("a+b")),
            ("%C3%A9", Ok("é")),
            ("é", Ok("é")),
            ("e%CC%81", Ok("e\u{301}")),
            ("%E9", Err(UrlError::NotUtf8)),
            ("%C0%AF", Err(UrlError::NotUtf8)),
            ("a%25b", Ok("a%b")),
            ("a%252Fb", Ok("a%2Fb")),
            ("<a>", Ok("<a>")),
            ("a\\b", Ok("a\\b")),
        ] {
            assert_eq!(decode_segment(raw).as_deref(), expected.as_ref().copied(), "{raw}");
        }
    }

    #[test]
    fn whole_paths() {
        for (path, expected) in [
            ("/images/a/b/", Ok(())),
            ("/", Ok(())),
            ("/favicon.ico", Ok(())),
            ("images/x", Err(UrlError::NotAPath)),
            ("*", Err(UrlError::NotAPath)),
            ("//images/a", Err(UrlError::EmptySegment)),
            ("/images//a", Err(UrlError::EmptySegment)),
            ("/images/../a", Err(UrlError::DotSegment)),
            ("/images/a/..", Err(UrlError::DotSegment)),
            ("/pub/..%2fraw/abc", Err(UrlError::EncodedSlash)),
        ] {
            assert_eq!(SignedUrl::check_path(path), expected, "{path}");
        }
    }

    #[test]
    fn queries() {
        let query = |raw| Query::parse(raw);
        assert_eq!(query(""), Query::default());
        assert_eq!(query("expires=12&download=a+b%20c").download.as_deref(), Some("a+b c"));
        assert_eq!(query("token=a&expires=1&token=").tokens, ["a", ""]);
        for (raw, problem) in [
            ("x=1", UrlError::UnknownParameter),
            ("expires=1&expires=2", UrlError::RepeatedParameter),
            ("expires=", UrlError::EmptyParameter),
            ("download", UrlError::EmptyParameter),
            ("expires=1&", UrlError::UnknownParameter),
            ("download=%0a", UrlError::ControlCharacter),
            ("download=%zz", UrlError::BadEscape),
        ] {
            assert_eq!(query(raw).problem, Some(problem), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn any_text_splits_or_fails(rest in "\\PC{0,60}", query in proptest::option::of("\\PC{0,30}")) {
            let _ = SignedUrl::split(&rest, query.as_deref());
            let _ = SignedUrl::check_path(&rest);
        }

        #[test]
        fn split_undoes_build(
            source in "[a-z][a-z0-9_-]{0,8}",
            path in prop::collection::vec("[^/\\p{Cc}]{1,12}", 1..4),
            filter_spec in "[^/\\p{Cc}]{1,20}",
            download in proptest::option::of("[^\\p{Cc}]{1,12}"),
            expires in proptest::option::of(0u64..1 << 40),
        ) {
            let is_dots = |text: &str| text == "." || text == "..";
            prop_assume!(!path.iter().any(|part| is_dots(part)) && !is_dots(&filter_spec));
            let subject = Subject::Path { source: source.into(), path: path.join("/").into() };
            let parts = UrlParts {
                prefix: "/images/", signature: "SIG=", subject: &subject, filter_spec: &filter_spec, filename: "",
                expires, download: download.as_deref(),
            };
            let url = parts.build();
            prop_assert!(url.bytes().all(|b| b.is_ascii_graphic()));
            let found = split(&url["/images/".len()..]).expect("what was built");
            prop_assert_eq!(found.signature.as_ref(), "SIG=");
            prop_assert_eq!(&found.subject, &subject);
            prop_assert_eq!(found.filter_spec.as_ref(), filter_spec.as_str());
            prop_assert_eq!(found.query.download.as_deref(), download.as_deref());
            prop_assert_eq!(found.query.expires.map(|text| text.into_owned()), expires.map(|e| e.to_string()));
            prop_assert_eq!(found.query.problem, None);
        }
    }
}
