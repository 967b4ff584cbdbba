//! Which URLs a source may fetch.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::{
    config::HttpSourceConfig,
    model::{MediaPath, RemoteUrl, UrlPattern},
    source::SourceError,
};

/// What stays as it is in a segment of a path: RFC 3986's unreserved characters. Everything else has a meaning somewhere.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A base, or what is admitted of whole URLs.
#[derive(Debug)]
pub enum Scope {
    /// Paths are appended to it.
    Base(Url),
    /// Paths are URLs, of those that begin so.
    Allowed(Vec<UrlPattern>),
}

impl Scope {
    /// By the config; `None` where that has neither or what is none, which its own check says better.
    pub fn new(config: &HttpSourceConfig) -> Option<Self> {
        match &config.base_url {
            Some(base) => Url::parse(base).ok().map(Self::Base),
            None => config.allow.iter().map(|text| text.parse().ok()).collect::<Option<_>>().map(Self::Allowed),
        }
    }

    /// Whether anything may be fetched with TLS.
    pub fn wants_tls(&self) -> bool {
        match self {
            // A redirect may lead there.
            Self::Base(_) => true,
            Self::Allowed(patterns) => patterns.iter().any(UrlPattern::is_https),
        }
    }

    /// The base, where there is one.
    pub fn base(&self) -> Option<&Url> {
        match self {
            Self::Base(base) => Some(base),
            Self::Allowed(_) => None,
        }
    }

    /// The URL of a path.
    ///
    /// # Errors
    /// [`SourceError::Failed`] for a path that is no URL, or none that is admitted.
    pub fn locate(&self, path: &MediaPath) -> Result<Url, SourceError> {
        match self {
            Self::Base(base) => {
                let segments: Vec<_> =
                    path.as_str().split('/').map(|segment| utf8_percent_encode(segment, SEGMENT).to_string()).collect();
                let mut url = base.clone();
                url.set_path(&format!("{}{}", base.path(), segments.join("/")));
                Ok(url)
            }
            Self::Allowed(_) => {
                let url = RemoteUrl::of(path).map_err(|error| SourceError::Failed(error.to_string()))?;
                if self.admits(url.url()) {
                    Ok(url.url().clone())
                } else {
                    Err(SourceError::Failed("its URL is none that http.allow admits".into()))
                }
            }
        }
    }

    /// Whether a redirect may lead there. With a list: whatever the list admits. With a base: the base's own host, at the same
    /// port or, out of plain HTTP, at that of TLS. Its path may be any: the site itself says that the file is there.
    pub fn admits(&self, url: &Url) -> bool {
        match self {
            Self::Base(base) => {
                let place = |url: &Url| (url.scheme().to_owned(), url.port_or_known_default());
                let has_user = !url.username().is_empty() || url.password().is_some();
                let plain = || place(base) == ("http".into(), Some(80)) && place(url) == ("https".into(), Some(443));
                !has_user && url.host() == base.host() && (place(url) == place(base) || plain())
            }
            Self::Allowed(patterns) => patterns.iter().any(|pattern| pattern.admits(url)),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base(base) => write!(f, "{base}"),
            Self::Allowed(patterns) => {
                let list: Vec<_> = patterns.iter().map(ToString::to_string).collect();
                write!(f, "whatever begins with {}", list.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(base: &str) -> Scope {
        Scope::new(&HttpSourceConfig { base_url: Some(base.into()), ..HttpSourceConfig::default() }).unwrap()
    }

    fn allowed(list: &[&str]) -> Scope {
        let allow = list.iter().map(|text| (*text).to_owned()).collect();
        Scope::new(&HttpSourceConfig { allow, ..HttpSourceConfig::default() }).unwrap()
    }

    #[test]
    fn paths_are_appended_to_a_base_as_data() {
        let base = base("https://images.example/originals/");
        for (path, url) in [
            ("a/b.jpg", "https://images.example/originals/a/b.jpg"),
            ("a b?c#d.jpg", "https://images.example/originals/a%20b%3Fc%23d.jpg"),
            ("%2e%2e/x", "https://images.example/originals/%252e%252e/x"),
            ("ü+&;@:.jpg", "https://images.example/originals/%C3%BC%2B%26%3B%40%3A.jpg"),
            ("...", "https://images.example/originals/..."),
            ("http:/x", "https://images.example/originals/http%3A/x"),
        ] {
            assert_eq!(base.locate(&MediaPath::parse(path).unwrap()).unwrap().as_str(), url, "{path}");
        }
    }

    #[test]
    fn redirects_stay_with_the_bases_host() {
        let plain = base("http://images.example/a/");
        let tls = base("https://images.example/a/");
        let odd = base("http://images.example:8080/a/");
        let admits = |scope: &Scope, url: &str| scope.admits(&Url::parse(url).unwrap());
        assert!(admits(&plain, "http://images.example/b") && admits(&plain, "https://images.example/b"));
        assert!(admits(&tls, "https://images.example:443/b") && admits(&odd, "http://images.example:8080/b"));
        assert!(!admits(&tls, "http://images.example/b"));
        assert!(!admits(&odd, "https://images.example/b") && !admits(&odd, "http://images.example/b"));
        for url in [
            "https://images.example.evil.com/",
            "https://images.example./",
            "https://x@images.example/",
            "https://127.0.0.1/",
            "file:///etc/passwd",
            "gopher://images.example/",
            "https://images.example:8443/",
        ] {
            assert!(!admits(&plain, url) && !admits(&tls, url), "{url}");
        }
    }

    #[test]
    fn whole_urls_are_what_the_list_admits() {
        let scope = allowed(&["https://images.example/public", "http://*.cdn.example:8080/"]);
        let locate = |path: &str| scope.locate(&MediaPath::parse(path).unwrap()).map(String::from);
        assert_eq!(locate("https/images.example/public/a.jpg?v=1").unwrap(), "https://images.example/public/a.jpg?v=1");
        assert_eq!(locate("http/a.cdn.example:8080/x").unwrap(), "http://a.cdn.example:8080/x");
        for path in [
            "https/images.example/private/a.jpg",
            "https/images.example.evil.com/public/a.jpg",
            "https/images.example/public/..%2fprivate/a.jpg",
            "http/images.example/public/a.jpg",
            "http/a.cdn.example/x",
            "file/images.example/public/a",
            "public/a.jpg",
        ] {
            assert!(matches!(locate(path), Err(SourceError::Failed(_))), "{path}");
        }
    }
}
