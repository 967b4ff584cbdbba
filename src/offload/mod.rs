//! A stored rendition to an answer: who sends the bytes.
//!
//! Only these functions make a success, and only from a [`Served`]: nginx follows `X-Accel-Redirect` whatever the status
//! beside it is, and lighttpd `X-Sendfile`, so these headers must be out of reach for every refusal and failure.

mod accel;
mod direct;
mod disposition;
mod presigned;
mod redirect;
mod sendfile;
mod verdict;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    HeaderMap, Response,
    header::{
        CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
        InvalidHeaderValue, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};
use tower_http::services::fs::ServeFileSystemResponseBody;

pub use disposition::{content_disposition, file_name};
pub use verdict::{X_ACCEL_EXPIRES, settled, unsettled};

use self::presigned::Presigner;
use crate::{
    config::{Config, HeadersConfig, OffloadMode},
    remote::s3::{Bucket, S3Error},
    store::StoredRendition,
};

/// A body: fixed bytes, or a file that the service streams itself.
pub type Body = Either<Full<Bytes>, ServeFileSystemResponseBody>;

/// Carries the caching to nginx's internal location, which emits it as `Cache-Control`. Were it called that already here,
/// nginx would keep it on its own 404s too.
pub const SENDIMAGE_CACHE_CONTROL: HeaderName = HeaderName::from_static("x-sendimage-cache-control");

/// Carries `Vary` to nginx's internal location, as [`SENDIMAGE_CACHE_CONTROL`] does the caching.
pub const SENDIMAGE_VARY: HeaderName = HeaderName::from_static("x-sendimage-vary");

/// A rendition that a verified request may have.
#[derive(Clone, Debug)]
pub struct Served {
    /// The rendition.
    pub stored: StoredRendition,
    /// `Content-Disposition`; absent where nginx has kept the first round's and would send both.
    pub disposition: Option<HeaderValue>,
    /// How it may be kept.
    pub caching: Caching,
}

/// For how long an answer may be kept, by whom, and for which requests it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caching {
    /// For how long a browser may keep it.
    pub max_age: Duration,
    /// Whether a token decided, or the site: then no shared cache keeps it.
    pub is_private: bool,
    /// Whether the request's `Accept` had a say in the format.
    pub negotiated: bool,
    /// The request's headers that say who asks. A browser that another user takes over asks again.
    pub varies_by: &'static [&'static str],
}

impl Caching {
    /// `Cache-Control`.
    fn control(&self) -> Result<HeaderValue, OffloadError> {
        let whose = if self.is_private { "private" } else { "public" };
        Ok(HeaderValue::try_from(format!("max-age={}, {whose}", self.max_age.as_secs()))?)
    }

    /// `Vary`, where the answer depends on anything but the URL.
    fn vary(&self) -> Result<Option<HeaderValue>, OffloadError> {
        let names: Vec<&str> =
            self.negotiated.then_some("Accept").into_iter().chain(self.varies_by.iter().copied()).collect();
        if names.is_empty() {
            return Ok(None);
        }
        Ok(Some(HeaderValue::try_from(names.join(", "))?))
    }

    /// Changes the time in an answer that was made with another one.
    ///
    /// # Errors
    /// Never: a number is fit for a header; the type is the room's.
    pub fn renew(&self, headers: &mut HeaderMap) -> Result<(), OffloadError> {
        for name in [SENDIMAGE_CACHE_CONTROL, CACHE_CONTROL] {
            if let Some(value) = headers.get_mut(&name) {
                *value = self.control()?;
            }
        }
        Ok(())
    }
}

/// What answers with an image carry besides its own headers, where no web server adds it.
#[derive(Clone, Debug, Default)]
struct ImageHeaders {
    /// Those of `[headers]`.
    cross_origin: Vec<(HeaderName, HeaderValue)>,
}

impl ImageHeaders {
    fn new(config: &HeadersConfig) -> Self {
        // The config's check has seen that each is fit for a header.
        let fit = |(name, value)| Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?));
        Self { cross_origin: config.said().filter_map(fit).collect() }
    }

    /// What `[headers]` says; a browser that fetches across origins asks a redirect for it, too.
    fn allow(&self, headers: &mut HeaderMap) {
        headers.extend(self.cross_origin.iter().cloned());
    }

    /// Everything that an image needs: one that a browser is talked into reading as a page runs no script.
    fn secure(&self, headers: &mut HeaderMap) {
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
        self.allow(headers);
    }
}

/// The offload backend of a route.
#[derive(Clone, Debug)]
pub struct Offload {
    by: By,
    added: ImageHeaders,
}

#[derive(Clone, Debug)]
enum By {
    /// `X-Accel-Redirect`.
    Accel {
        /// The prefix of nginx's internal location.
        internal_prefix: String,
        /// `auth_request`: for how long nginx may keep a verdict. Its plain requests are those that no verdict settles.
        verdicts: Option<Duration>,
        /// The store is one that nginx asks for the bytes.
        presigner: Option<Presigner>,
    },
    /// A redirect to where the store is published.
    Redirect {
        /// What the stored path is appended to.
        url: String,
        /// 301, 302 or 307.
        status: hyper::StatusCode,
    },
    /// A redirect to the object store.
    Presigned {
        /// Signs the addresses.
        presigner: Presigner,
        /// 301, 302 or 307.
        status: hyper::StatusCode,
    },
    /// `X-Sendfile`.
    Sendfile {
        /// The store's root.
        root: PathBuf,
    },
    /// The service streams the file itself.
    Direct {
        /// The store's root.
        root: PathBuf,
    },
}

impl Offload {
    /// The backend for a mode. `bucket` is the store's, where it is in one.
    pub fn new(mode: OffloadMode, config: &Config, bucket: Option<&Arc<Bucket>>) -> Self {
        let (root, added) = (config.store.root.clone(), ImageHeaders::new(&config.headers));
        let life = Duration::from_secs(config.store.s3.as_ref().map_or(0, |section| section.presign_seconds));
        let presigner = bucket.map(|bucket| Presigner::new(bucket.clone(), life));
        let config = &config.offload;
        let status = hyper::StatusCode::from_u16(config.redirect_status).unwrap_or(hyper::StatusCode::FOUND);
        let by = match mode {
            OffloadMode::Accel | OffloadMode::AuthRequest => By::Accel {
                internal_prefix: config.internal_prefix.clone(),
                verdicts: (mode == OffloadMode::AuthRequest).then(|| Duration::from_secs(config.verdict_cache_seconds)),
                presigner,
            },
            OffloadMode::Redirect => match presigner {
                Some(presigner) if config.redirect_url.is_empty() => By::Presigned { presigner, status },
                _ => By::Redirect { url: config.redirect_url.clone(), status },
            },
            OffloadMode::Sendfile => By::Sendfile { root },
            OffloadMode::Direct => By::Direct { root },
        };
        Self { by, added }
    }

    /// The success answer for a rendition. `headers` are the request's, for the conditions and ranges that `direct` heeds;
    /// nginx sees to them itself.
    ///
    /// # Errors
    /// [`OffloadError`] when the answer cannot be made.
    pub async fn respond(
        &self,
        served: &Served,
        method: &hyper::Method,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, OffloadError> {
        match &self.by {
            By::Accel { internal_prefix, presigner, .. } => {
                let query = match presigner {
                    Some(presigner) => Some(presigner.query(&served.stored.path).await?),
                    None => None,
                };
                accel::respond(internal_prefix, query.as_deref(), served)
            }
            By::Presigned { presigner, status } => presigner.redirect(*status, &self.added, served, method).await,
            By::Redirect { url, status } => redirect::respond(url, *status, &self.added, served),
            By::Sendfile { root } => sendfile::respond(root, &self.added, served),
            By::Direct { root } => direct::respond(root, &self.added, served, method, headers).await,
        }
    }

    /// The same, but with two slashes behind the internal prefix: an `alias` without a slash of its own finds the file then, and
    /// only then. For the doctor.
    pub fn doubling_the_slash(&self) -> Option<Self> {
        self.under(|prefix| format!("{prefix}/"))
    }

    /// The same, but by a way out of the internal location's folder and back into it, which is open where a slash is missing. For
    /// the doctor: it proves the hole with a file that is served anyhow.
    pub fn leading_out(&self, root: &Path) -> Option<Self> {
        let is_plain = |name: &&str| name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        let folder = root.file_name()?.to_str().filter(is_plain)?;
        self.under(|prefix| format!("{}../{folder}/", prefix.trim_end_matches('/')))
    }

    /// As this one, for another prefix; `None` where nginx opens no file.
    fn under(&self, changed: impl FnOnce(&str) -> String) -> Option<Self> {
        let By::Accel { internal_prefix, verdicts, presigner: None } = &self.by else { return None };
        let by = By::Accel { internal_prefix: changed(internal_prefix), verdicts: *verdicts, presigner: None };
        Some(Self { by, added: self.added.clone() })
    }

    /// Whether the web server still has the `Content-Disposition` of its first round when it asks once more: nginx would send
    /// both.
    pub fn keeps_disposition(&self) -> bool {
        matches!(self.by, By::Accel { .. })
    }

    /// For how long nginx may keep a verdict, where it asks for verdicts at all.
    pub fn verdicts(&self) -> Option<Duration> {
        match self.by {
            By::Accel { verdicts, .. } => verdicts,
            By::Redirect { .. } | By::Presigned { .. } | By::Sendfile { .. } | By::Direct { .. } => None,
        }
    }

    /// How long its answers hold.
    pub fn life(&self) -> Life {
        let unbounded = Life { reusable_for: None, max_age: None };
        match &self.by {
            By::Accel { presigner: Some(presigner), .. } => {
                Life { reusable_for: Some(presigner.reusable_for()), ..unbounded }
            }
            By::Presigned { presigner, .. } => {
                let half = Some(presigner.reusable_for());
                Life { reusable_for: half, max_age: half }
            }
            By::Accel { presigner: None, .. } | By::Redirect { .. } | By::Sendfile { .. } | By::Direct { .. } => {
                unbounded
            }
        }
    }

    /// Whether the answer to a HEAD is another than the one to a GET: each method's address is signed apart.
    pub fn answers_by_method(&self) -> bool {
        matches!(self.by, By::Presigned { .. })
    }
}

/// How long answers hold that have an address with an end of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// For how long such an answer may be given again.
    pub reusable_for: Option<Duration>,
    /// For how long a browser may keep it at most.
    pub max_age: Option<Duration>,
}

/// Why a success could not be told.
#[derive(Debug, thiserror::Error)]
pub enum OffloadError {
    /// A header value that HTTP cannot carry.
    #[error("a header cannot be written: {0}")]
    Header(#[from] InvalidHeaderValue),
    /// `direct`: the file was removed between the look and the opening.
    #[error("the stored file was removed a moment ago")]
    Vanished,
    /// `direct`: the file cannot be opened.
    #[error("the stored file cannot be opened: {0}")]
    Open(std::io::Error),
    /// An address in the object store cannot be signed.
    #[error("an address in the object store cannot be signed: {0}")]
    Presign(S3Error),
}

impl Served {
    /// An answer without bytes of its own. `Content-Length: 0` keeps the connection to nginx open.
    fn empty(&self, status: hyper::StatusCode) -> Response<Body> {
        let mut response = Response::new(Either::Left(Full::default()));
        *response.status_mut() = status;
        response
    }

    /// The entity tag that nginx would make of the file, so that it says the same whoever sends the bytes.
    fn etag(&self) -> Result<HeaderValue, InvalidHeaderValue> {
        let modified = self.stored.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        HeaderValue::try_from(format!("\"{modified:x}-{:x}\"", self.stored.bytes))
    }

    fn describe(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.stored.format.media_type()));
        if let Some(disposition) = &self.disposition {
            headers.insert(CONTENT_DISPOSITION, disposition.clone());
        }
    }

    /// The caching for answers that reach the client as they are.
    fn cache(&self, headers: &mut HeaderMap) -> Result<(), OffloadError> {
        headers.insert(CACHE_CONTROL, self.caching.control()?);
        if let Some(vary) = self.caching.vary()? {
            headers.insert(VARY, vary);
        }
        Ok(())
    }
}
