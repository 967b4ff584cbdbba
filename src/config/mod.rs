//! What the operator decides. Every default lives here; [`load`](load::load) says where values come from.

mod auth;
mod bucket;
mod budget;
mod catalogue;
mod check;
mod load;
mod page;
mod remote;
mod render;
mod route;
mod secret;
mod store;
mod tracing;
mod values;
mod wagtail;

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

pub use auth::{AuthConfig, AuthMode, ForwardConfig, ForwardScope, JwtConfig, TokenAlgorithm, TokenKeyConfig};
pub use budget::{IDLE_FILE_SECONDS, OPEN_FILE_SECONDS};
pub use catalogue::{CatalogueConfig, CatalogueKind};
pub use load::{ConfigError, Loaded, load};
pub use page::PageConfig;
pub use remote::{CoordinationConfig, CoordinationKind, HttpSourceConfig, OriginalsConfig, S3Config};
pub use render::{RenderConfig, WatermarkConfig};
pub use route::{EffectiveRoute, RouteConfig};
pub use secret::{Secret, read_secret_file};
pub use store::{Existence, StoreConfig, StoreKind};
pub use tracing::TracingConfig;
pub use values::{Bytes, ListenAddress, Mode, Share, Span};
pub use wagtail::WagtailVersion;

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[server]`
    pub server: ServerConfig,
    /// `[signing]`
    pub signing: SigningConfig,
    /// `[auth]`
    pub auth: AuthConfig,
    /// `[catalogue]`
    pub catalogue: CatalogueConfig,
    /// `[sources.NAME]`
    pub sources: BTreeMap<String, SourceConfig>,
    /// `[store]`
    pub store: StoreConfig,
    /// `[originals]`
    pub originals: OriginalsConfig,
    /// `[coordination]`
    pub coordination: CoordinationConfig,
    /// `[offload]`
    pub offload: OffloadConfig,
    /// `[render]`
    pub render: RenderConfig,
    /// `[cache]`
    pub cache: CacheConfig,
    /// `[headers]`
    pub headers: HeadersConfig,
    /// `[ops]`
    pub ops: OpsConfig,
    /// `[page]`
    pub page: PageConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[tracing]`
    pub tracing: TracingConfig,
    /// `[watermarks.NAME]`: what `watermark-NAME` lays on top.
    pub watermarks: BTreeMap<String, WatermarkConfig>,
    /// `[presets]`: names for filter specs.
    pub presets: BTreeMap<String, String>,
    /// `[preset_sets]`: names for lists of presets or filter specs.
    #[serde(deserialize_with = "values::lists")]
    pub preset_sets: BTreeMap<String, Vec<String>>,
    /// `[routes.NAME]`: several views side by side; without any there is one, made from the sections above.
    pub routes: BTreeMap<String, RouteConfig>,
}

/// `[server]`: sockets and their limits.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Where nginx reaches the service.
    pub listen: ListenAddress,
    /// Permission bits of a unix socket; nginx's user must be able to write to it.
    pub listen_mode: Mode,
    /// Health, metrics, and what `[ops]` opens; never public.
    pub ops_listen: ListenAddress,
    /// First part of every image URL, with a slash at both ends.
    pub url_prefix: String,
    /// Bounds the time for a request's head, and with it idle and silent connections.
    pub header_timeout_seconds: f64,
    /// Connections held at once; more wait in the kernel's backlog.
    pub max_connections: usize,
    /// After SIGTERM: how long requests in flight, and renders at work, may take before they are cut.
    pub drain_seconds: f64,
    /// What signed URLs begin with: scheme, host and port as browsers see them.
    pub public_url: String,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: ListenAddress::Tcp(([127, 0, 0, 1], 8480).into()),
            listen_mode: Mode(0o660),
            ops_listen: ListenAddress::Tcp(([127, 0, 0, 1], 8481).into()),
            url_prefix: "/images/".into(),
            header_timeout_seconds: 5.0,
            max_connections: 4096,
            drain_seconds: 30.0,
            public_url: "http://localhost:8080".into(),
        }
    }
}

/// `[signing]`: who may make URLs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SigningConfig {
    /// Keys for native signatures. Any of them verifies, the first signs.
    #[serde(deserialize_with = "values::list")]
    pub keys: Vec<SigningKeyConfig>,
    /// Shorthand for one key named `default`.
    pub secret: Option<Secret>,
    /// The same, read from a file (a final line break is dropped).
    pub secret_file: Option<PathBuf>,
    /// Keys for Wagtail signatures: a site's `SECRET_KEY`, or the `key` its view was given.
    #[serde(deserialize_with = "values::list")]
    pub wagtail_keys: Vec<Secret>,
    /// The same, one in each file (a final line break is dropped).
    #[serde(deserialize_with = "values::list")]
    pub wagtail_key_files: Vec<PathBuf>,
    /// Refuses every filter spec that is not the name of a preset.
    pub presets_only: bool,
    /// For a trial on live traffic: what `presets_only` would refuse is logged, and served all the same.
    pub log_only: bool,
    /// `sign --expires` rounds up to a multiple of this, so that equal links stay equal and browsers can cache.
    pub expiry_window_seconds: u64,
}

impl Default for SigningConfig {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            secret: None,
            secret_file: None,
            wagtail_keys: Vec::new(),
            wagtail_key_files: Vec::new(),
            presets_only: false,
            log_only: false,
            expiry_window_seconds: 3600,
        }
    }
}

/// One entry of `signing.keys`. Exactly one of the three secrets is given; the rest is what URLs that it signs may ask for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningKeyConfig {
    /// Names the key in metrics and `explain`.
    pub id: String,
    /// The key's bytes as UTF-8; at least 16.
    pub secret: Option<Secret>,
    /// The key's bytes in base64.
    pub secret_base64: Option<Secret>,
    /// A file that holds the key (a final line break is dropped).
    pub secret_file: Option<PathBuf>,
    /// Only images of these sources; for an id, the source that its catalogue row is in.
    pub sources: Option<Vec<String>>,
    /// Only presets.
    #[serde(default)]
    pub presets_only: bool,
    /// Only renditions of at most so many pixels (width x height).
    pub max_pixels: Option<u64>,
    /// Not before this moment, in RFC 3339: `"2026-01-01T00:00:00Z"`.
    pub not_before: Option<String>,
    /// Not from this moment on, in RFC 3339.
    pub not_after: Option<String>,
}

/// `[sources.NAME]`: where originals are.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Which backend.
    #[serde(deserialize_with = "values::one_of")]
    pub kind: SourceKind,
    /// `fs`: the folder; nothing outside it is ever opened.
    #[serde(default)]
    pub root: PathBuf,
    /// `http`: the site, or the sites.
    pub http: Option<HttpSourceConfig>,
    /// `s3`: the bucket.
    pub s3: Option<S3Config>,
    /// Whether SVG files are served, rewritten without anything that runs or that fetches. Off: they are 422.
    #[serde(default)]
    pub svg: bool,
}

impl SourceConfig {
    /// A folder, with what is usual.
    pub fn folder(root: PathBuf) -> Self {
        Self { kind: SourceKind::Fs, root, http: None, s3: None, svg: false }
    }

    /// Whether a catalogue's row may name a whole URL in it.
    pub fn takes_urls(&self) -> bool {
        match self.kind {
            SourceKind::Fs | SourceKind::S3 => false,
            SourceKind::Http => self.http.as_ref().is_some_and(|http| !http.allow.is_empty()),
        }
    }
}

/// A source backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A folder.
    Fs,
    /// A web site.
    Http,
    /// A bucket in an S3-compatible object store.
    S3,
}

/// `[offload]`: who sends the bytes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OffloadConfig {
    /// How an answer hands a rendition over.
    #[serde(deserialize_with = "values::one_of")]
    pub mode: OffloadMode,
    /// `accel`: the prefix of nginx's internal location, with a slash at both ends.
    pub internal_prefix: String,
    /// `redirect`: what a stored path is appended to; a URL or an absolute path, with a slash at its end. With `store.kind = "s3"`
    /// none is needed: browsers are sent to the store, with a signature that lives for `store.s3.presign_seconds`.
    pub redirect_url: String,
    /// `redirect`: 301, 302 or 307.
    pub redirect_status: u16,
    /// `accel` with `store.kind = "s3"`: bytes that nginx may keep of what it fetches from the store; 0: none.
    pub store_cache_max_bytes: Bytes,
    /// `auth_request`: for how long nginx may reuse a verdict, and an open file with it. An expiring link's own end comes
    /// first.
    pub verdict_cache_seconds: u64,
}

impl Default for OffloadConfig {
    fn default() -> Self {
        Self {
            mode: OffloadMode::Accel,
            internal_prefix: "/_renditions/".into(),
            redirect_url: String::new(),
            redirect_status: 302,
            store_cache_max_bytes: Bytes(1 << 30),
            verdict_cache_seconds: 10,
        }
    }
}

/// How an answer hands a rendition over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffloadMode {
    /// `X-Accel-Redirect`: nginx streams the file.
    Accel,
    /// nginx asks for a verdict, keeps it for a while, and streams the file without asking again.
    AuthRequest,
    /// `X-Sendfile`: Apache (mod_xsendfile) or lighttpd streams the file.
    Sendfile,
    /// A redirect to where the store's folder is published.
    Redirect,
    /// The service streams the file itself: for trying it, and for sites without nginx.
    Direct,
}

impl OffloadMode {
    /// Its name in a config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accel => "accel",
            Self::AuthRequest => "auth_request",
            Self::Sendfile => "sendfile",
            Self::Redirect => "redirect",
            Self::Direct => "direct",
        }
    }
}

/// `[cache]`: what browsers may keep.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// `max-age` of a served image; a link that expires sooner shortens it.
    pub max_age_seconds: u64,
    /// `max-age` of what `format-auto` serves until the AVIF is ready.
    pub interim_max_age_seconds: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { max_age_seconds: 3600, interim_max_age_seconds: 10 }
    }
}

/// `[headers]`: what nginx adds to every image.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadersConfig {
    /// `Access-Control-Allow-Origin`.
    pub access_control_allow_origin: Option<String>,
    /// `Cross-Origin-Resource-Policy`.
    pub cross_origin_resource_policy: Option<String>,
}

impl HeadersConfig {
    /// Name and value of each header that is set.
    pub fn said(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("Access-Control-Allow-Origin", &self.access_control_allow_origin),
            ("Cross-Origin-Resource-Policy", &self.cross_origin_resource_policy),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }
}

/// `[ops]`: what the operations listener may be asked to do.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpsConfig {
    /// Bearer token for `/purge`, `/warm` and `/sign`; without one there is none of them.
    pub token: Option<Secret>,
    /// The same, read from a file (a final line break is dropped).
    pub token_file: Option<PathBuf>,
}

impl OpsConfig {
    /// The token, given either way, if there is one.
    ///
    /// # Errors
    /// See [`Secret::given`].
    pub fn secret(&self) -> std::io::Result<Option<Secret>> {
        Secret::given(self.token.as_ref(), self.token_file.as_deref())
    }
}

/// `[log]`: what is written to standard error.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// One line for people, or one JSON object.
    #[serde(deserialize_with = "values::one_of")]
    pub format: LogFormat,
    /// The request header that the client's address is logged from. Believed on a unix socket only, where nobody but the web
    /// server comes in; empty: no address is logged.
    pub client_address_header: String,
    /// `error`, `warn`, `info`, `debug` or `trace`. Served images are logged at `debug`, failures at `info` and above.
    #[serde(deserialize_with = "values::one_of")]
    pub level: LogLevel,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Human, client_address_header: "X-Real-IP".into(), level: LogLevel::Info }
    }
}

impl LogConfig {
    /// The header that says who asks, where it can be believed: on a unix socket nobody but the web server comes in.
    pub fn client_address_header_on(&self, address: &ListenAddress) -> Option<&str> {
        let is_unix = matches!(address, ListenAddress::Unix(_));
        Some(self.client_address_header.as_str()).filter(|name| is_unix && !name.is_empty())
    }
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LogFormat {
    Human,
    Json,
}

/// The least important lines that are still written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}
