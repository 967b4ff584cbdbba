//! What URLs begin with: the entries of an allow-list.

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode;
use thiserror::Error;
use url::{Host, Url};

/// Scheme, host, port and the beginning of a path. Compared part by part with a parsed URL, never with its text: as texts,
/// `https://images.example` begins `https://images.example.evil.com` and `https://images.example@evil.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlPattern {
    /// With the host below which any may be, where `is_any_below`.
    url: Url,
    is_any_below: bool,
}

/// Why a text is no [`UrlPattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UrlPatternError {
    /// Not the beginning of an absolute URL.
    #[error("is not the beginning of a URL of http or https, such as https://images.example/")]
    Malformed,
    /// A user, a query or a fragment.
    #[error("has a user, a query or a fragment, which no beginning has")]
    Extra,
    /// `*` elsewhere than as the whole first label of a name of two or more others.
    #[error("has a * that does not stand for the hosts below a name: https://*.images.example/")]
    Star,
}

impl UrlPattern {
    /// Whether a URL begins so: equal scheme and port, the host itself (or one below it, where the pattern says so), and a
    /// path that goes on behind whole segments.
    pub fn admits(&self, url: &Url) -> bool {
        let has_user = !url.username().is_empty() || url.password().is_some();
        self.url.scheme() == url.scheme()
            && self.url.port_or_known_default() == url.port_or_known_default()
            && !has_user
            && self.admits_host(url)
            && begins(url.path(), self.url.path())
            && !climbs(url.path())
    }

    fn admits_host(&self, url: &Url) -> bool {
        match (self.url.host(), url.host()) {
            (Some(Host::Domain(name)), Some(Host::Domain(host))) if self.is_any_below => {
                host.strip_suffix(name).is_some_and(|below| below.len() > 1 && below.ends_with('.'))
            }
            (ours, theirs) => ours == theirs && !self.is_any_below,
        }
    }

    /// Whether what it admits is fetched with TLS.
    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }
}

/// Whether a path begins with these segments, whole ones.
fn begins(path: &str, beginning: &str) -> bool {
    path.strip_prefix(beginning)
        .is_some_and(|rest| beginning.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
}

/// Whether a server that decodes a path, once or more often than it should, could meet dot segments in it.
fn climbs(path: &str) -> bool {
    const MOST_DECODINGS: usize = 4;
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..MOST_DECODINGS {
        if bytes.split(|byte| matches!(byte, b'/' | b'\\')).any(|segment| matches!(segment, b"." | b"..")) {
            return true;
        }
        let decoded: Vec<u8> = percent_decode(&bytes).collect();
        if decoded == bytes {
            return false;
        }
        bytes = decoded;
    }
    true
}

impl FromStr for UrlPattern {
    type Err = UrlPatternError;

    fn from_str(text: &str) -> Result<Self, UrlPatternError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlPatternError::Malformed)?;
        if !matches!(scheme, "http" | "https") || text.chars().any(|c| c == '\\' || c.is_control() || c.is_whitespace())
        {
            return Err(UrlPatternError::Malformed);
        }
        // Behind the star, for a parser of URLs looks for a host that is missing behind the next slash.
        let (is_any_below, rest) = rest.strip_prefix("*.").map_or((false, rest), |name| (true, name));
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.is_empty() {
            return Err(UrlPatternError::Malformed);
        }
        if authority.contains('@') || rest.contains(['?', '#']) {
            return Err(UrlPatternError::Extra);
        }
        let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|_| UrlPatternError::Malformed)?;
        if climbs(rest.strip_prefix(authority).unwrap_or_default()) {
            return Err(UrlPatternError::Malformed);
        }
        match url.host() {
            // All of a top-level domain is not a choice of hosts.
            Some(Host::Domain(name)) if is_any_below && !name.trim_end_matches('.').contains('.') => {
                return Err(UrlPatternError::Star);
            }
            Some(Host::Domain(name)) if name.contains('*') => return Err(UrlPatternError::Star),
            Some(Host::Ipv4(_) | Host::Ipv6(_)) if is_any_below => return Err(UrlPatternError::Star),
            _ => {}
        }
        Ok(Self { url, is_any_below })
    }
}

impl fmt::Display for UrlPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.url.as_str();
        match text.split_once("://") {
            Some((scheme, rest)) if self.is_any_below => write!(f, "{scheme}://*.{rest}"),
            _ => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(pattern: &str, url: &str) -> bool {
        pattern.parse::<UrlPattern>().expect(pattern).admits(&Url::parse(url).expect(url))
    }

    #[test]
    fn parts_are_compared_and_not_texts() {
        for (pattern, url) in [
            ("https://images.example/", "https://images.example/a.jpg"),
            ("https://images.example", "https://images.example/a.jpg?v=1"),
            ("https://images.example:443/", "https://IMAGES.example/a.jpg"),
            ("http://images.example:8080/", "http://images.example:8080/a"),
            ("https://images.example/public", "https://images.example/public/a.jpg"),
            ("https://images.example/public", "https://images.example/public"),
            ("https://images.example/public/", "https://images.example/public/a/b..c/d%2Fe.jpg"),
            ("https://*.images.example/", "https://a.images.example/a.jpg"),
            ("https://*.images.example/", "https://a.b.images.example/a.jpg"),
            ("https://bücher.example/", "https://xn--bcher-kva.example/a"),
            ("http://127.0.0.1/", "http://0x7f.1/a"),
            ("http://[2001:db8::1]:81/", "http://[2001:DB8:0::1]:81/a"),
        ] {
            assert!(admits(pattern, url), "{pattern} {url}");
        }
        for (pattern, url) in [
            ("https://images.example/", "http://images.example/a.jpg"),
            ("https://images.example/", "https://images.example:8443/a.jpg"),
            ("https://images.example/", "https://images.example.evil.com/a.jpg"),
            ("https://images.example", "https://images.example.evil.com/a.jpg"),
            ("https://images.example", "https://images.example@evil.com/a.jpg"),
            ("https://images.example/", "https://anna@images.example/a.jpg"),
            ("https://images.example/", "https://:pass@images.example/a.jpg"),
            ("https://images.example/", "https://images.example./a.jpg"),
            ("https://images.example/", "https://a.images.example/a.jpg"),
            ("https://images.example/", "https://evil.com/https://images.example/a.jpg"),
            ("https://images.example/", "https://evil.com\\@images.example/a.jpg"),
            ("https://images.example/", "https://evilimages.example/a.jpg"),
            ("https://images.example/", "ftp://images.example/a.jpg"),
            ("https://images.example/public", "https://images.example/publicity/a.jpg"),
            ("https://images.example/public", "https://images.example/public/../private/a.jpg"),
            ("https://images.example/public", "https://images.example/public/%2e%2e/private/a.jpg"),
            ("https://images.example/public", "https://images.example/public/..%2fprivate/a.jpg"),
            ("https://images.example/public", "https://images.example/public/..%5cprivate/a.jpg"),
            ("https://images.example/public", "https://images.example/public/%252e%252e%252fprivate/a.jpg"),
            ("https://images.example/public", "https://images.example/Public/a.jpg"),
            ("https://*.images.example/", "https://images.example/a.jpg"),
            ("https://*.images.example/", "https://evilimages.example/a.jpg"),
            ("https://*.images.example/", "https://.images.example/a.jpg"),
            ("https://*.images.example/", "https://a.images.example./a.jpg"),
            ("https://*.images.example/", "https://images.example.evil.com/a.jpg"),
            ("http://127.0.0.1/", "http://127.0.0.2/a"),
        ] {
            assert!(!admits(pattern, url), "{pattern} {url}");
        }
    }

    #[test]
    fn what_is_no_beginning() {
        for (text, why) in [
            ("", UrlPatternError::Malformed),
            ("images.example", UrlPatternError::Malformed),
            ("ftp://images.example/", UrlPatternError::Malformed),
            ("https://", UrlPatternError::Malformed),
            ("https:///a", UrlPatternError::Malformed),
            ("https://*./a", UrlPatternError::Malformed),
            ("https://*./*.us.ex@pa0.example/", UrlPatternError::Malformed),
            ("https://images.example:x/", UrlPatternError::Malformed),
            ("https://images.example/a/../b", UrlPatternError::Malformed),
            ("https://images.example/ a", UrlPatternError::Malformed),
            ("https://anna@images.example/", UrlPatternError::Extra),
            ("https://images.example/?a", UrlPatternError::Extra),
            ("https://*/", UrlPatternError::Star),
            ("https://*.com/", UrlPatternError::Star),
            ("https://*.com./", UrlPatternError::Star),
            ("https://a.*.example/", UrlPatternError::Star),
            ("https://*.*.example.com/", UrlPatternError::Star),
            ("https://*.1.2.3.4/", UrlPatternError::Star),
        ] {
            assert_eq!(text.parse::<UrlPattern>(), Err(why), "{text:?}");
        }
        assert_eq!(
            "https://*.images.example/a".parse::<UrlPattern>().unwrap().to_string(),
            "https://*.images.example/a"
        );
    }
}
