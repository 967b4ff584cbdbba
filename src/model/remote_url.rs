//! Absolute URLs of originals, and how one is written as a path.
//!
//! A source that takes whole URLs is asked for a [`MediaPath`] like any other. `https://host/a/b.jpg?v=2` is
//! `https/host/a/b.jpg?v=2` there: the URL's one normal spelling with `://` replaced by a slash, still percent-encoded. So
//! scopes, keys and logs treat it as they treat every path, and one file has one name.

use std::fmt;

use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::Url;

use super::{MediaPath, media_path::MediaPathError};

/// An absolute `http` or `https` URL in its normal spelling: scheme and host in lower case, no default port, no fragment, no
/// user, no empty or dot segment, neither in the path nor (where slashes separate as well) in the query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RemoteUrl {
    url: Url,
    path: MediaPath,
}

/// Why a text is not a [`RemoteUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RemoteUrlError {
    /// Another scheme, or none.
    #[error("it is not an absolute URL of http or https")]
    Scheme,
    /// A name and password for whom they were written to, not for us to pass on.
    #[error("the URL names a user")]
    User,
    /// Whitespace at an end, a control character or a backslash: readers of URLs differ about these.
    #[error("the URL has a character that none may have")]
    Character,
    /// The host is missing or none, or the port is.
    #[error("the URL's host or port is none")]
    Host,
    /// As a path, it breaks a path's rules.
    #[error("as a path: {0}")]
    Path(#[from] MediaPathError),
    /// As a path, it is not spelt as its URL would be.
    #[error("the path is not the normal spelling of a URL")]
    Spelling,
}

impl RemoteUrl {
    /// Reads a URL as a catalogue has it. Case, default port, fragment and missing percent-encoding are made normal (RFC 3986,
    /// 6.2.2 and 6.2.3); what could be taken for another file is refused.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, RemoteUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(RemoteUrlError::Scheme)?;
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(RemoteUrlError::Scheme);
        }
        // The parser drops and repairs all of these, as browsers do. Nobody asked for a repaired URL.
        if text.chars().any(|c| c == '\\' || c.is_control()) || text.ends_with(char::is_whitespace) {
            return Err(RemoteUrlError::Character);
        }
        let before_fragment = rest.split('#').next().unwrap_or_default();
        let (before_query, _) = before_fragment.split_once('?').unwrap_or((before_fragment, ""));
        let (authority, path) = before_query.split_once('/').unwrap_or((before_query, ""));
        if authority.is_empty() {
            return Err(RemoteUrlError::Host);
        }
        if authority.contains('@') {
            return Err(RemoteUrlError::User);
        }
        // The parser resolves dots, encoded ones too.
        for segment in path.split('/') {
            match percent_decode_str(segment).collect::<Vec<_>>().as_slice() {
                b"" => return Err(MediaPathError::EmptySegment.into()),
                b"." | b".." => return Err(MediaPathError::DotSegment.into()),
                _ => {}
            }
        }
        let mut url = Url::parse(text).map_err(|_| RemoteUrlError::Host)?;
        url.set_fragment(None);
        let path = MediaPath::parse(&url.as_str().replacen("://", "/", 1))?;
        Ok(Self { url, path })
    }

    /// The URL that a path stands for. There is no other path that stands for it.
    ///
    /// # Errors
    /// When it stands for none, or is not spelt as [`Self::path`] would be.
    pub fn of(path: &MediaPath) -> Result<Self, RemoteUrlError> {
        let url = Self::parse(&path.as_str().replacen('/', "://", 1))?;
        if url.path == *path { Ok(url) } else { Err(RemoteUrlError::Spelling) }
    }

    /// The URL as a path.
    pub fn path(&self) -> &MediaPath {
        &self.path
    }

    /// The URL, taken apart.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The URL's text.
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }
}

impl From<RemoteUrl> for MediaPath {
    fn from(url: RemoteUrl) -> Self {
        url.path
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_file_has_one_path() {
        for (text, path) in [
            ("https://images.example/a/b.jpg", "https/images.example/a/b.jpg"),
            ("HTTPS://Images.EXAMPLE:443/a/b.jpg#top", "https/images.example/a/b.jpg"),
            ("http://images.example:8080/A.jpg?v=2&w=a/b", "http/images.example:8080/A.jpg?v=2&w=a/b"),
            ("http://images.example:80/a%20b.jpg", "http/images.example/a%20b.jpg"),
            ("https://images.example/a b/ü.jpg", "https/images.example/a%20b/%C3%BC.jpg"),
            ("https://bücher.example/a..b/...", "https/xn--bcher-kva.example/a..b/..."),
            ("https://[2001:DB8::1]:8443/a", "https/[2001:db8::1]:8443/a"),
            // What a host's name may be spelt as is not for us to say; which address it is, the source checks.
            ("http://0x7f.1/a", "http/127.0.0.1/a"),
        ] {
            let url = RemoteUrl::parse(text).expect(text);
            assert_eq!(url.path().as_str(), path, "{text}");
            assert_eq!(RemoteUrl::of(url.path()).as_ref(), Ok(&url), "{text}");
            assert_eq!(RemoteUrl::parse(url.as_str()), Ok(url), "{text}");
        }
    }

    #[test]
    fn what_could_be_taken_for_another_file_is_refused() {
        let empty = RemoteUrlError::Path(MediaPathError::EmptySegment);
        let dot = RemoteUrlError::Path(MediaPathError::DotSegment);
        for (text, why) in [
            ("", RemoteUrlError::Scheme),
            ("a/b.jpg", RemoteUrlError::Scheme),
            ("//images.example/a.jpg", RemoteUrlError::Scheme),
            ("file:///etc/passwd", RemoteUrlError::Scheme),
            ("javascript://images.example/a", RemoteUrlError::Scheme),
            (" https://images.example/a.jpg", RemoteUrlError::Scheme),
            ("https:/images.example/a.jpg", RemoteUrlError::Scheme),
            ("https://anna@images.example/a.jpg", RemoteUrlError::User),
            ("https://anna:pass@images.example/a.jpg", RemoteUrlError::User),
            ("https://@images.example/a.jpg", RemoteUrlError::User),
            ("https://images.example/a.jpg ", RemoteUrlError::Character),
            ("https://images.example/a\n.jpg", RemoteUrlError::Character),
            ("https://images.example\\a.jpg", RemoteUrlError::Character),
            ("https:///images.example/a.jpg", RemoteUrlError::Host),
            ("https://images.example:port/a.jpg", RemoteUrlError::Host),
            ("https://images.example:99999/a.jpg", RemoteUrlError::Host),
            ("https://images example/a.jpg", RemoteUrlError::Host),
            ("https://1.2.3.4.5/a.jpg", RemoteUrlError::Host),
            ("https://images.example", empty),
            ("https://images.example/", empty),
            ("https://images.example?a", empty),
            ("https://images.example/a/", empty),
            ("https://images.example//a", empty),
            ("https://images.example/a?u=http://b", empty),
            ("https://images.example/a/../b", dot),
            ("https://images.example/./b", dot),
            ("https://images.example/%2e%2E/b", dot),
            ("https://images.example/a/.%2e", dot),
            ("https://images.example/a?b/../c", dot),
        ] {
            assert_eq!(RemoteUrl::parse(text), Err(why), "{text:?}");
        }
    }

    #[test]
    fn a_path_in_another_spelling_is_none() {
        for path in [
            "https/IMAGES.example/a",
            "https/images.example:443/a",
            "https/images.example/ä",
            "https/images.example/a#b",
        ] {
            let path = MediaPath::parse(path).expect("a path");
            assert_eq!(RemoteUrl::of(&path), Err(RemoteUrlError::Spelling), "{path}");
        }
        for path in ["original_images/a.jpg", "https", "HTTPS"] {
            assert_eq!(RemoteUrl::of(&MediaPath::parse(path).expect("a path")), Err(RemoteUrlError::Scheme), "{path}");
        }
    }

    proptest! {
        /// Texts made of what URLs are made of.
        #[test]
        fn round_trip(text in "(?i:https?)://([a-zA-Z0-9ü.%-]|\\PC){0,12}(:[0-9]{0,5})?(/([a-z0-9.%2eé\\[\\]|^ ']|\\PC){0,6}){0,4}(\\?\\PC{0,9})?(#\\PC{0,3})?") {
            if let Ok(url) = RemoteUrl::parse(&text) {
                prop_assert_eq!(RemoteUrl::of(url.path()), Ok(url.clone()));
                prop_assert_eq!(RemoteUrl::parse(url.as_str()), Ok(url));
            }
        }

        #[test]
        fn any_text_has_an_answer(text in "\\PC{0,60}") {
            let _ = RemoteUrl::parse(&text);
            if let Ok(path) = MediaPath::parse(&text)
                && let Ok(url) = RemoteUrl::of(&path)
            {
                prop_assert_eq!(url.path(), &path);
            }
        }
    }
}
