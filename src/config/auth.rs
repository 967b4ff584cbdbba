//! `[auth]`: a second proof beside the signature.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Config, Secret, values};

/// `[auth]`: who may see what a signed URL asks for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// What is asked for beside the signature.
    #[serde(deserialize_with = "values::one_of")]
    pub mode: AuthMode,
    /// For a trial on live traffic: what would be refused is logged and counted, and served all the same.
    pub log_only: bool,
    /// `[auth.jwt]`
    pub jwt: JwtConfig,
    /// `[auth.forward]`
    pub forward: ForwardConfig,
}

/// How a request is authorised beyond its signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// The signature suffices.
    #[default]
    Off,
    /// A token that the site has signed (RFC 7519).
    Jwt,
    /// The site is asked.
    Forward,
}

/// `[auth.jwt]`: whose tokens are believed, and where they are looked for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JwtConfig {
    /// Keys that verify tokens.
    #[serde(deserialize_with = "values::list")]
    pub keys: Vec<TokenKeyConfig>,
    /// A file with more keys: a JSON Web Key Set (RFC 7517).
    pub jwks_file: Option<PathBuf>,
    /// Where a JSON Web Key Set is fetched: an http or https URL.
    pub jwks_url: Option<String>,
    /// The key set is fetched again after so long, and when a token names a key that is not in it.
    pub jwks_refresh_seconds: f64,
    /// What `aud` has to name. Without it, a token that names an audience is for somebody else.
    pub audience: Option<String>,
    /// What `iss` has to be.
    pub issuer: Option<String>,
    /// The cookie that a token is looked for in, beside `Authorization: Bearer`.
    pub cookie: Option<String>,
    /// Whether `?token=` is read. Such a token is seen in logs, histories and by whoever the link is passed on to.
    pub query: bool,
    /// How far the clocks of site and service may be apart.
    pub leeway_seconds: u64,
    /// Whether a token without the claim `images` sees nothing, rather than whatever it has a signed URL for.
    pub require_images_claim: bool,
    /// What every bearer may see beside the claim `images`, with claims in braces: `"users/{sub}/*"`. Where this is set, a
    /// token without that claim sees no more than this.
    #[serde(deserialize_with = "values::list")]
    pub images: Vec<String>,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            jwks_file: None,
            jwks_url: None,
            jwks_refresh_seconds: 600.0,
            audience: None,
            issuer: None,
            cookie: None,
            query: false,
            leeway_seconds: 5,
            require_images_claim: false,
            images: Vec::new(),
        }
    }
}

/// One entry of `auth.jwt.keys`: a key and the one algorithm that it is for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenKeyConfig {
    /// Which tokens it is for: their header names it. A token that names none is tried with each key of its algorithm.
    pub kid: String,
    /// The algorithm.
    pub algorithm: TokenAlgorithm,
    /// HS256: the secret's bytes as UTF-8; at least 16.
    pub secret: Option<Secret>,
    /// HS256: the secret's bytes in base64.
    pub secret_base64: Option<Secret>,
    /// HS256: a file that holds the secret (a final line break is dropped).
    pub secret_file: Option<PathBuf>,
    /// RS256, ES256, EdDSA: the public key in PEM.
    pub public_key_file: Option<PathBuf>,
}

/// A signature algorithm of tokens (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256: a secret that site and service share.
    HS256,
    /// RSA (PKCS #1 v1.5) with SHA-256, 2048 bits or more.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

/// `[auth.forward]`: which view of the site is asked, and how long its answers hold.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ForwardConfig {
    /// The view's URL. Nothing of a request becomes part of it.
    pub url: String,
    /// The `Host` that the site is asked by, where the URL's own is not one that it knows.
    pub host: Option<String>,
    /// Longest time for one answer; then it is 503.
    pub timeout_seconds: f64,
    /// For how long an answer holds: a logout takes so long to be felt.
    pub cache_seconds: f64,
    /// What an answer depends on, beside the client's credentials.
    #[serde(deserialize_with = "values::one_of")]
    pub scope: ForwardScope,
}

impl Default for ForwardConfig {
    fn default() -> Self {
        Self { url: String::new(), host: None, timeout_seconds: 1.0, cache_seconds: 10.0, scope: ForwardScope::Image }
    }
}

/// What the site's answer depends on, beside the client's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardScope {
    /// The image: one answer holds for all its renditions.
    Image,
    /// The image and the filter spec: one may see thumbnails only, say.
    Rendition,
    /// Nothing else: who is logged in sees all.
    Credentials,
}

impl Config {
    /// What is wrong with `[auth]`, where a route uses it. Keys are looked at when they are read.
    pub(super) fn check_auth(&self, problem: &mut impl FnMut(&str, String)) {
        let modes: Vec<AuthMode> = self.effective_routes().into_values().map(|route| route.auth).collect();
        if modes.contains(&AuthMode::Jwt) {
            self.check_jwt(problem);
        }
        if modes.contains(&AuthMode::Forward) {
            self.check_forward(problem);
        }
        if self.log.client_address_header.bytes().any(|b| !is_token_byte(b)) {
            problem("log.client_address_header", "is a header's name, or empty".into());
        }
    }

    fn check_jwt(&self, problem: &mut impl FnMut(&str, String)) {
        let jwt = &self.auth.jwt;
        if jwt.keys.is_empty() && jwt.jwks_file.is_none() && jwt.jwks_url.is_none() {
            problem("auth.jwt.keys", "mode \"jwt\" needs keys, jwks_file or jwks_url".into());
        }
        if let Some(url) = &jwt.jwks_url {
            check_url("auth.jwt.jwks_url", url, problem);
        }
        if jwt.cookie.as_ref().is_some_and(|name| name.is_empty() || !name.bytes().all(is_token_byte)) {
            problem("auth.jwt.cookie", "is a cookie's name: letters, digits, '-' and '_'".into());
        }
        if jwt.leeway_seconds > 300 {
            problem("auth.jwt.leeway_seconds", "is more than 300: clocks are set better than that".into());
        }
    }

    fn check_forward(&self, problem: &mut impl FnMut(&str, String)) {
        let forward = &self.auth.forward;
        check_url("auth.forward.url", &forward.url, problem);
        let is_host = |host: &str| {
            !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
        };
        if forward.host.as_deref().is_some_and(|host| !is_host(host)) {
            problem("auth.forward.host", "is a host's name, and a port where there is one".into());
        }
        if forward.cache_seconds > 300.0 {
            problem("auth.forward.cache_seconds", "is more than 300: a logout would be felt too late".into());
        }
    }
}

pub(super) fn check_url(key: &str, url: &str, problem: &mut impl FnMut(&str, String)) {
    let parsed = url.parse::<hyper::Uri>().ok().filter(|_| url.bytes().all(|b| b.is_ascii_graphic()));
    let is_whole = parsed.is_some_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https"))
            && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    });
    if !is_whole || url.contains('#') {
        problem(key, "is a whole URL that begins with http:// or https://, without a password or a fragment".into());
    }
}

/// A character of a header's or a cookie's name (RFC 9110's token, without what needs quoting somewhere).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}
