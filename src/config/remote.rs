//! What is on other machines: sources by HTTP, S3-compatible stores, and who renders what among several gates.

use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use super::{Bytes, Secret, values};
use crate::model::{Network, UrlPattern};

/// `[sources.NAME.http]`: a site that originals are fetched from.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSourceConfig {
    /// What a path is appended to: `https://images.example/originals/`. Either this or `allow`.
    pub base_url: Option<String>,
    /// URLs that the catalogue may name, by their beginnings: `https://images.example/`, or `https://*.example/` for any host
    /// below one.
    #[serde(deserialize_with = "values::list")]
    pub allow: Vec<String>,
    /// Networks that may be connected to although they are not public: `10.1.0.0/16`, `fd00::/8`, `127.0.0.1/32`.
    #[serde(deserialize_with = "values::list")]
    pub allow_addresses: Vec<String>,
    /// Longest time for a connection, TLS included.
    pub connect_seconds: f64,
    /// Longest time to the answer's head.
    pub first_byte_seconds: f64,
    /// Longest time for all of it, redirects and second attempts included.
    pub total_seconds: f64,
    /// A body that arrives slower than this, in bytes a second over five seconds, is given up.
    pub min_rate: Bytes,
    /// Connections to one host at a time; more wait.
    pub max_connections: usize,
    /// A version is asked for again after so long.
    pub fresh_seconds: f64,
    /// A version that was known still counts for so long when the site is away.
    pub stale_seconds: f64,
}

impl Default for HttpSourceConfig {
    fn default() -> Self {
        Self {
            base_url: None,
            allow: Vec::new(),
            allow_addresses: Vec::new(),
            connect_seconds: 2.0,
            first_byte_seconds: 5.0,
            total_seconds: 15.0,
            min_rate: Bytes(16 << 10),
            max_connections: 8,
            fresh_seconds: 10.0,
            stale_seconds: 3600.0,
        }
    }
}

impl HttpSourceConfig {
    /// What makes the section unusable: key and sentence.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        match (&self.base_url, self.allow.is_empty()) {
            (None, true) => problems.push(("base_url", "is needed, or allow".into())),
            (Some(_), false) => problems.push(("base_url", "and allow exclude each other".into())),
            (Some(base), true) => problems.extend(base_problem(base).map(|says| ("base_url", says.to_owned()))),
            (None, false) => {}
        }
        for text in &self.allow {
            if let Err(error) = text.parse::<UrlPattern>() {
                problems.push(("allow", format!("{text:?} {error}")));
            }
        }
        for text in &self.allow_addresses {
            if let Err(error) = text.parse::<Network>() {
                problems.push(("allow_addresses", format!("{text:?} {error}")));
            }
        }
        for (key, seconds) in [
            ("connect_seconds", self.connect_seconds),
            ("first_byte_seconds", self.first_byte_seconds),
            ("total_seconds", self.total_seconds),
            ("fresh_seconds", self.fresh_seconds),
            ("stale_seconds", self.stale_seconds),
        ] {
            let is_bound = matches!(key, "connect_seconds" | "first_byte_seconds" | "total_seconds");
            if !(0.0..=1e9).contains(&seconds) || (is_bound && seconds == 0.0) {
                problems.push((key, format!("{seconds} is not a number of seconds that it can be")));
            }
        }
        // The semaphore's own bound is beyond any sense.
        if !(1..=65_535).contains(&self.max_connections) {
            problems.push(("max_connections", "must be at least 1 and at most 65535".into()));
        }
        problems
    }
}

/// What is wrong with a base, if anything.
fn base_problem(base: &str) -> Option<&'static str> {
    const RULE: &str = "must be a URL of http or https that ends in a slash, without a user, query or fragment";
    let Ok(url) = Url::parse(base) else { return Some(RULE) };
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    // What the parser repairs was written by mistake, or means something else elsewhere.
    let is_spelt = base.contains("://") && !base.contains(['\\', '@']) && !base.chars().any(char::is_whitespace);
    (!is_plain || !is_spelt || !base.ends_with('/')).then_some(RULE)
}

/// `[sources.NAME.s3]` and `[store.s3]`: a bucket in an S3-compatible object store.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Config {
    /// Scheme, host and port: `https://s3.example`.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// What keys begin with, without a slash at the beginning and with one at the end, or nothing.
    pub prefix: String,
    /// Who asks.
    pub access_key_id: String,
    /// The key that requests are signed with.
    pub secret_access_key: Option<Secret>,
    /// The same, read from a file (a final line break is dropped).
    pub secret_access_key_file: Option<PathBuf>,
    /// Whether the bucket is the first part of the path (`https://s3.example/bucket/key`) rather than of the host's name.
    pub path_style: bool,
    /// Longest time for one call, second attempts included.
    pub timeout_seconds: f64,
    /// A source: a version is asked for again after so long.
    pub fresh_seconds: f64,
    /// A source: a version that was known still counts for so long when the store is away.
    pub stale_seconds: f64,
    /// A store: for how long the web server may use an address that it was given.
    pub presign_seconds: u64,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            region: "us-east-1".into(),
            bucket: String::new(),
            prefix: String::new(),
            access_key_id: String::new(),
            secret_access_key: None,
            secret_access_key_file: None,
            path_style: true,
            timeout_seconds: 10.0,
            fresh_seconds: 2.0,
            stale_seconds: 3600.0,
            presign_seconds: 900,
        }
    }
}

impl S3Config {
    /// The key that requests are signed with, given either way.
    ///
    /// # Errors
    /// See [`Secret::given`].
    pub fn secret(&self) -> std::io::Result<Secret> {
        let given = Secret::given(self.secret_access_key.as_ref(), self.secret_access_key_file.as_deref())?;
        Ok(given.unwrap_or_else(|| Secret::new(String::new())))
    }

    /// Whether the store is asked by TLS.
    pub fn is_https(&self) -> bool {
        self.endpoint.starts_with("https://")
    }

    /// Host and port as they are signed, and as `Host` says them: those of the bucket, where it is part of the host's name. A
    /// port that goes without saying is not said.
    pub fn host(&self) -> String {
        let authority = self.endpoint.split_once("://").map_or(self.endpoint.as_str(), |(_, rest)| rest);
        let usual = if self.is_https() { ":443" } else { ":80" };
        let authority = authority.strip_suffix(usual).unwrap_or(authority).to_lowercase();
        match self.path_style {
            true => authority,
            false => format!("{}.{authority}", self.bucket),
        }
    }

    /// What the bucket's keys are appended to, with a slash between.
    pub fn bucket_endpoint(&self) -> String {
        match self.path_style {
            // The library appends the bucket itself.
            true => self.endpoint.clone(),
            false => format!("{}://{}", if self.is_https() { "https" } else { "http" }, self.host()),
        }
    }

    /// The path of a request for what is below `prefix`, with a slash at both ends.
    pub fn path(&self) -> String {
        match self.path_style {
            true => format!("/{}/{}", self.bucket, self.prefix),
            false => format!("/{}", self.prefix),
        }
    }
}

/// `[originals]`: copies of what remote sources have.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OriginalsConfig {
    /// A folder on this machine, best on a disk. The copies have no names in it and go when the service ends.
    pub root: PathBuf,
    /// Bytes that the copies may take.
    pub max_bytes: Bytes,
}

impl Default for OriginalsConfig {
    fn default() -> Self {
        Self { root: std::env::temp_dir(), max_bytes: Bytes(1 << 30) }
    }
}

/// `[coordination]`: how several gates see to it that one of them renders.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CoordinationConfig {
    /// Which way.
    #[serde(deserialize_with = "values::one_of")]
    pub kind: CoordinationKind,
    /// `redis`: `redis://host:6379/0`, or `rediss://` for TLS. `postgres`: `postgres://user@host/database`.
    pub url: Option<Secret>,
    /// The same, read from a file (a final line break is dropped).
    pub url_file: Option<PathBuf>,
    /// Whose gates belong together: part of the names in Redis and Postgres.
    pub namespace: String,
    /// A render whose gate gave no sign of life for so long is taken over.
    pub lease_seconds: f64,
    /// Longest time for one question to Redis or Postgres; without an answer the gate goes on alone.
    pub timeout_seconds: f64,
}

impl Default for CoordinationConfig {
    fn default() -> Self {
        Self {
            kind: CoordinationKind::Store,
            url: None,
            url_file: None,
            namespace: "sendimage".into(),
            lease_seconds: 10.0,
            timeout_seconds: 1.0,
        }
    }
}

/// Where gates meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CoordinationKind {
    /// Nowhere: each renders for itself.
    None,
    /// Lease files in the store.
    Store,
    /// A Redis server.
    Redis,
    /// A Postgres server.
    Postgres,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(edit: impl FnOnce(&mut HttpSourceConfig)) -> Vec<&'static str> {
        let base_url = Some("https://images.example/originals/".into());
        let mut section = HttpSourceConfig { base_url, ..HttpSourceConfig::default() };
        edit(&mut section);
        section.problems().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn every_mistake_is_named() {
        let list = |text: &str| vec![text.to_owned()];
        assert_eq!(keys(|_| {}), [""; 0]);
        for base in [
            "images.example/",
            "ftp://images.example/",
            "https://images.example/a",
            "https://a@images.example/",
            "https://images.example/?a/",
            "https:\\\\images.example/",
            "https://images.example/ /",
            "https:images.example/",
        ] {
            assert_eq!(keys(|section| section.base_url = Some(base.into())), ["base_url"], "{base}");
        }
        assert_eq!(keys(|section| section.base_url = None), ["base_url"]);
        assert_eq!(keys(|section| section.allow = list("https://images.example/")), ["base_url"]);
        let only = |entry: &str| keys(|section| (section.base_url, section.allow) = (None, list(entry)));
        assert_eq!(only("https://*.images.example/a"), [""; 0]);
        assert_eq!(only("https://*/"), ["allow"]);
        assert_eq!(only("file:///etc/"), ["allow"]);
        assert_eq!(keys(|section| section.allow_addresses = list("10.0.0.0/33")), ["allow_addresses"]);
        assert_eq!(keys(|section| section.allow_addresses = list("10.0.0.1/8")), ["allow_addresses"]);
        assert_eq!(keys(|section| section.total_seconds = 0.0), ["total_seconds"]);
        assert_eq!(keys(|section| section.fresh_seconds = f64::NAN), ["fresh_seconds"]);
        assert_eq!(keys(|section| section.max_connections = 0), ["max_connections"]);
    }
}
