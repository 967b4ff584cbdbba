//! What the operator decides. Every default lives here; [`load`](load::load) says where values come from.

mod auth;
mod bucket;
mod budget;
mod load;
mod page;
mod remote;
mod route;
mod secret;
mod tracing;
mod values;
mod wagtail;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;

pub use auth::{AuthConfig, AuthMode, ForwardConfig, ForwardScope, JwtConfig, TokenAlgorithm, TokenKeyConfig};
pub use budget::{IDLE_FILE_SECONDS, OPEN_FILE_SECONDS};
pub use load::{ConfigError, Loaded, load};
pub use page::PageConfig;
pub use remote::{CoordinationConfig, CoordinationKind, HttpSourceConfig, OriginalsConfig, S3Config};
pub use route::EffectiveRoute;
pub use secret::{Secret, read_secret_file};
pub use tracing::TracingConfig;
pub use values::{Bytes, ListenAddress, Mode, Share, Span};
pub use wagtail::WagtailVersion;

use crate::{
    model::{Animation, ImageFormat, Place},
    spec::Quality,
};

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

/// `[catalogue]`: image ids to files.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatalogueConfig {
    /// Which backend.
    #[serde(deserialize_with = "values::one_of")]
    pub kind: CatalogueKind,
    /// `sqlite`: `sqlite:///path/to/db.sqlite3`. `postgres`: `postgres://user:password@host/database?sslmode=verify-full`.
    /// `mysql`: `mysql://user:password@host/database?ssl-mode=VERIFY_IDENTITY`, for MariaDB as well.
    pub url: Option<Secret>,
    /// The same, read from a file (a final line break is dropped).
    pub url_file: Option<PathBuf>,
    /// `manifest`: a CSV or JSON file.
    pub file: Option<PathBuf>,
    /// The source of rows that name none.
    pub source: Option<String>,
    /// Databases: a query with one parameter, the id (`$1` in Postgres, else `?`), in place of Wagtail's table. Columns by
    /// name: `file`, and where there are any `source`, `file_hash`, `focal_point_x`, `focal_point_y`, `focal_point_width`,
    /// `focal_point_height`.
    pub query: Option<String>,
    /// Databases: the rows after an id, in the order of ids, in place of Wagtail's table: for whoever walks the catalogue
    /// (`warm --all`). One parameter, written as in `query`; the columns of `query` and `id`. A `LIMIT` bounds a page.
    pub list_query: Option<String>,
    /// Databases, with a query of one's own: what the editors' page searches by. One parameter, a pattern for `LIKE` with `!` as
    /// its escape; the columns are `id`, `title` where there is one, and those of `query`.
    pub search_query: Option<String>,
    /// Databases: sessions held at once.
    pub max_connections: usize,
    /// `postgres`: a channel that tells of changed rows.
    pub listen: Option<String>,
    /// A row is asked for again after so long.
    pub cache_seconds: f64,
    /// Known rows still serve for so long when the catalogue is away.
    pub stale_seconds: f64,
    /// Longest time for one look-up.
    pub timeout_seconds: f64,
}

impl Default for CatalogueConfig {
    fn default() -> Self {
        Self {
            kind: CatalogueKind::None,
            url: None,
            url_file: None,
            file: None,
            source: None,
            query: None,
            list_query: None,
            search_query: None,
            max_connections: 4,
            listen: None,
            cache_seconds: 2.0,
            stale_seconds: 3600.0,
            timeout_seconds: 1.0,
        }
    }
}

/// A catalogue backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CatalogueKind {
    /// No ids: URLs name a source and a path.
    #[default]
    None,
    /// A CSV or JSON file.
    Manifest,
    /// An SQLite database, opened read-only.
    Sqlite,
    /// A Postgres database.
    Postgres,
    /// A MySQL or MariaDB database.
    Mysql,
}

impl CatalogueKind {
    /// Whether it is a database, with an address and a query.
    pub fn is_database(self) -> bool {
        matches!(self, Self::Sqlite | Self::Postgres | Self::Mysql)
    }
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

/// `[store]`: where renditions are kept.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Which backend.
    #[serde(deserialize_with = "values::one_of")]
    pub kind: StoreKind,
    /// `fs`: the folder that nginx streams from; there is no default.
    pub root: PathBuf,
    /// `s3`: the bucket.
    pub s3: Option<S3Config>,
    /// Permission bits of stored files; nginx must be able to read them.
    pub file_mode: Mode,
    /// Permission bits of the folders; nginx must be able to enter them.
    pub dir_mode: Mode,
    /// How sure sendimage makes that a rendition is there before it hands it over. Whatever it believes, nginx finds out,
    /// and asks again.
    #[serde(deserialize_with = "values::one_of")]
    pub existence: Existence,
    /// `existence = "remember"`: for how long a rendition that was there counts as there.
    pub remember_seconds: f64,
    /// The same by preset: these are looked for in their own way. A filter spec that is spelled out as the preset's counts as it.
    #[serde(deserialize_with = "values::one_of_each")]
    pub existence_by_preset: BTreeMap<String, Existence>,
    /// `gc` leaves what is out of date alone for so long: nginx, or a client that was redirected, may still be asking for it.
    pub gc_grace_seconds: f64,
    /// Bytes that renditions may take.
    pub max_bytes: Option<Bytes>,
    /// How many renditions there may be.
    pub max_files: Option<u64>,
    /// Bytes, or a percentage, of the file system to keep free.
    pub min_free: Share,
    /// Inodes, or a percentage, of the file system to keep free.
    pub min_free_inodes: Share,
    /// Renditions that nobody has asked for in so long go.
    pub max_idle: Span,
    /// A rendition that was made or asked for less than so long ago never goes.
    pub eviction_grace_seconds: f64,
    /// Preset sets whose renditions never go.
    #[serde(deserialize_with = "values::list")]
    pub pinned: Vec<String>,
    /// The file that sizes and last uses are kept in: on a local disk, shared by the gates of one host.
    pub index: Option<PathBuf>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            kind: StoreKind::Fs,
            root: PathBuf::new(),
            s3: None,
            file_mode: Mode(0o644),
            dir_mode: Mode(0o755),
            existence: Existence::Check,
            remember_seconds: 60.0,
            existence_by_preset: BTreeMap::new(),
            gc_grace_seconds: 3600.0,
            max_bytes: None,
            max_files: None,
            min_free: Share::default(),
            min_free_inodes: Share::default(),
            max_idle: Span(0),
            eviction_grace_seconds: 300.0,
            pinned: Vec::new(),
            index: None,
        }
    }
}

/// How sure sendimage makes that a rendition exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Existence {
    /// Look every time.
    Check,
    /// Look once in `remember_seconds`.
    Remember,
    /// Look once in a process's life.
    Assume,
}

impl StoreConfig {
    /// For how long a rendition that was there counts as there.
    pub fn trust(&self, existence: Existence) -> Duration {
        match existence {
            Existence::Check => Duration::ZERO,
            Existence::Remember => Duration::from_secs_f64(self.remember_seconds),
            Existence::Assume => Duration::MAX,
        }
    }

    /// Whether any rendition counts as there without being looked for.
    pub fn believes(&self) -> bool {
        self.existence_by_preset.values().chain([&self.existence]).any(|existence| *existence != Existence::Check)
    }
}

/// A store backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// A folder.
    Fs,
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

/// `[render]`: the workers and their bounds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RenderConfig {
    /// Worker processes; 0 means one for each core.
    pub workers: usize,
    /// Jobs that may wait for a worker; the next one is answered 503.
    pub queue_depth: usize,
    /// Bytes that all renders together may hold.
    pub memory_budget: Bytes,
    /// From the request to the rendition, waiting included.
    pub deadline_seconds: f64,
    /// Largest source file.
    pub max_source_bytes: Bytes,
    /// Largest source: width x height x frames.
    pub max_source_pixels: u64,
    /// Longest side of a source.
    pub max_source_side: u32,
    /// Largest rendition: width x height.
    pub max_output_pixels: u64,
    /// JPEG sources of up to so many pixels are always decoded in full.
    pub full_decode_pixels: u64,
    /// Whose defaults the next five have: those of this Wagtail release.
    pub wagtail_version: WagtailVersion,
    /// 76 in Wagtail 8; 85 before 7.3.
    pub jpeg_quality: Option<Quality>,
    /// Wagtail writes progressive: smaller by a few percent, slower to make.
    pub jpeg_progressive: bool,
    /// 80 in Wagtail 8.
    pub webp_quality: Option<Quality>,
    /// 61 in Wagtail 8; 80 before 7.3.
    pub avif_quality: Option<Quality>,
    /// The format of a spec without `format-`, by the source's: as Wagtail's `WAGTAILIMAGES_FORMAT_CONVERSIONS`, these are
    /// added to the release's own.
    pub format_conversions: BTreeMap<ImageFormat, ImageFormat>,
    /// Whether animations stay animated where the format can be; a Wagtail without Wand takes the first frame.
    #[serde(deserialize_with = "values::one_of")]
    pub animation: Animation,
    /// Jobs after which a worker is replaced by a fresh one.
    pub recycle_after_jobs: u32,
}

impl Default for RenderConfig {
    fn default() -> Self {
        Self {
            workers: 0,
            queue_depth: 64,
            memory_budget: Bytes(512 << 20),
            deadline_seconds: 20.0,
            max_source_bytes: Bytes(64 << 20),
            max_source_pixels: 100_000_000,
            max_source_side: 65_535,
            max_output_pixels: 40_000_000,
            full_decode_pixels: 2_000_000,
            wagtail_version: WagtailVersion::LATEST,
            jpeg_quality: None,
            jpeg_progressive: false,
            webp_quality: None,
            avif_quality: None,
            format_conversions: BTreeMap::new(),
            animation: Animation::Keep,
            recycle_after_jobs: 1000,
        }
    }
}

/// A release's quality; its constants are in range.
fn quality(value: u8) -> Quality {
    Quality::try_from(value).unwrap_or_else(|_| unreachable!("a default quality is at most 100"))
}

impl RenderConfig {
    /// The JPEG quality of a spec that names none.
    pub fn effective_jpeg_quality(&self) -> Quality {
        self.jpeg_quality.unwrap_or_else(|| quality(self.wagtail_version.jpeg_quality()))
    }

    /// The WebP quality of a spec that names none.
    pub fn effective_webp_quality(&self) -> Quality {
        self.webp_quality.unwrap_or_else(|| quality(self.wagtail_version.webp_quality()))
    }

    /// The AVIF quality of a spec that names none.
    pub fn effective_avif_quality(&self) -> Quality {
        self.avif_quality.unwrap_or_else(|| quality(self.wagtail_version.avif_quality()))
    }

    /// The format of a spec without `format-`, by the source's.
    pub fn effective_conversions(&self) -> BTreeMap<ImageFormat, ImageFormat> {
        let mut conversions = self.wagtail_version.conversions();
        conversions.extend(&self.format_conversions);
        conversions
    }
}

/// `[watermarks.NAME]`: a picture laid on top of renditions.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatermarkConfig {
    /// A picture in any format that is read, best a PNG with transparency.
    pub file: PathBuf,
    /// One of nine: `top-left`, `top` ... `bottom-right`.
    #[serde(default)]
    pub place: Place,
    /// How much of it is seen, 0 to 100.
    #[serde(default = "WatermarkConfig::opacity")]
    pub opacity_percent: u8,
    /// Its width as a share of the rendition's, 1 to 100.
    #[serde(default = "WatermarkConfig::width")]
    pub width_percent: u8,
    /// Its distance from the edges as a share of the rendition's shorter side, 0 to 49.
    #[serde(default = "WatermarkConfig::margin")]
    pub margin_percent: u8,
}

impl WatermarkConfig {
    fn opacity() -> u8 {
        60
    }

    fn width() -> u8 {
        25
    }

    fn margin() -> u8 {
        3
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

/// `[routes.NAME]`: one view with its own keys and manners.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// First part of its URLs, with a slash at both ends.
    pub prefix: String,
    /// Ids of the native keys that it takes; all where absent.
    #[serde(default, deserialize_with = "values::optional_list")]
    pub keys: Option<Vec<String>>,
    /// The Wagtail keys that it takes; those of `[signing]` where absent.
    #[serde(default, deserialize_with = "values::optional_list")]
    pub wagtail_keys: Option<Vec<Secret>>,
    /// As `auth.mode`.
    #[serde(default, deserialize_with = "values::one_of_these")]
    pub auth: Option<AuthMode>,
    /// As `offload.mode`.
    #[serde(default, deserialize_with = "values::one_of_these")]
    pub offload: Option<OffloadMode>,
    /// As `signing.presets_only`.
    pub presets_only: Option<bool>,
    /// As `cache.max_age_seconds`.
    pub max_age_seconds: Option<u64>,
}
