//! Where a token is looked for: `Authorization: Bearer`, a cookie, the query.

use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, COOKIE},
};

use super::TokenError;
use crate::config::JwtConfig;

/// Where tokens are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    cookie: Option<String>,
    query: bool,
}

impl Places {
    /// Where the config says.
    pub fn new(config: &JwtConfig) -> Self {
        Self { cookie: config.cookie.clone(), query: config.query }
    }

    /// Whether `?token=` is one of them.
    pub fn has_query(&self) -> bool {
        self.query
    }

    /// Whether a cookie is one of them.
    pub fn has_cookie(&self) -> bool {
        self.cookie.is_some()
    }

    /// The request's token, and which place had it first. `query` are the values of `?token=`.
    ///
    /// # Errors
    /// [`TokenError::Missing`], and [`TokenError::Disagree`] where there are several that differ: which one counts would be for
    /// each reader of the request to guess.
    pub fn find<'a>(
        &self,
        headers: &'a HeaderMap,
        query: impl Iterator<Item = &'a str>,
    ) -> Result<(&'a str, &'static str), TokenError> {
        let in_header = headers.get_all(AUTHORIZATION).into_iter().filter_map(|value| bearer(value.to_str().ok()?));
        let cookies = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
        let in_cookie = cookies
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(name, _)| self.cookie.as_deref() == Some(*name))
            .map(|(_, value)| value);
        let mut found = in_header
            .map(|token| (token, "Authorization"))
            .chain(in_cookie.map(|token| (token, "cookie")))
            .chain(query.filter(|_| self.query).map(|token| (token, "query")));
        let first = found.next().ok_or(TokenError::Missing)?;
        if found.any(|(token, _)| token != first.0) { Err(TokenError::Disagree) } else { Ok(first) }
    }
}

/// The token of `Bearer TOKEN` (RFC 6750, 2.1); the scheme's case does not matter. Other schemes are somebody else's business.
fn bearer(value: &str) -> Option<&str> {
    // A scheme alone is an empty token, which agrees with no other.
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(headers: &[(&str, &str)], query: &[&'static str]) -> Result<(String, &'static str), TokenError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(hyper::header::HeaderName::try_from(*name).expect("a name"), value.parse().expect("a value"));
        }
        let places = Places { cookie: Some("image_token".into()), query: true };
        places.find(&map, query.iter().copied()).map(|(token, place)| (token.to_owned(), place))
    }

    #[test]
    fn three_places_in_one_order() {
        let (header, cookie) = (("authorization", "Bearer a.b.c"), ("cookie", "x=1; image_token=a.b.c; y=2"));
        for (headers, query, expected) in [
            (&[header][..], &[][..], "Authorization"),
            (&[cookie], &[], "cookie"),
            (&[], &["a.b.c"], "query"),
            (&[header, cookie], &["a.b.c"], "Authorization"),
            (&[("authorization", "bearer   a.b.c")], &[], "Authorization"),
            (&[("authorization", "Basic eA=="), cookie], &[], "cookie"),
        ] {
            assert_eq!(find(headers, query), Ok(("a.b.c".into(), expected)), "{headers:?}");
        }
        assert_eq!(find(&[("cookie", "image_token2=a; ximage_token=b; image_token")], &[]), Err(TokenError::Missing));
    }

    #[test]
    fn tokens_that_differ_count_for_nothing() {
        for (headers, query) in [
            (&[("authorization", "Bearer a"), ("cookie", "image_token=b")][..], &[][..]),
            (&[("authorization", "Bearer a"), ("authorization", "Bearer b")], &[]),
            (&[("authorization", "Bearer"), ("cookie", "image_token=b")], &[]),
            (&[("cookie", "image_token=a; image_token=b")], &[]),
            (&[("cookie", "image_token=a"), ("cookie", "image_token=b")], &[]),
            (&[("cookie", "image_token=a; image_token=")], &[]),
            (&[("authorization", "Bearer a")], &["b"]),
            (&[], &["a", "b"]),
        ] {
            assert_eq!(find(headers, query), Err(TokenError::Disagree), "{headers:?} {query:?}");
        }
    }
}
