//! A stored rendition to an answer: who sends the bytes.
//!
//! Only these functions make a success, and only from a [`Served`]: nginx follows `X-Accel-Redirect` whatever the status
//! beside it is, so the header must be out of reach for every refusal and failure.

mod accel;
mod direct;
mod disposition;
mod redirect;
mod verdict;

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    HeaderMap, Response,
    header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderName, HeaderValue, VARY},
};
use tower_http::services::fs::ServeFileSystemResponseBody;

pub use disposition::{content_disposition, file_name};
pub use verdict::{NO_VERDICT, verdict};

use crate::{
    config::{OffloadConfig, OffloadMode},
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

/// An offload backend.
#[derive(Clone, Debug)]
pub enum Offload {
    /// `X-Accel-Redirect`.
    Accel {
        /// The prefix of nginx's internal location.
        internal_prefix: String,
        /// `auth_request`: for how long nginx may keep a verdict. Its plain requests are those that no verdict settles.
        verdicts: Option<Duration>,
    },
    /// A redirect to where the store is published.
    Redirect {
        /// What the stored path is appended to.
        url: String,
        /// 301, 302 or 307.
        status: hyper::StatusCode,
    },
    /// The service streams the file itself.
    Direct {
        /// The store's root.
        root: PathBuf,
    },
}

impl Offload {
    /// The backend for a mode.
    pub fn new(mode: OffloadMode, config: &OffloadConfig, store_root: &std::path::Path) -> Self {
        match mode {
            OffloadMode::Accel | OffloadMode::AuthRequest => Self::Accel {
                internal_prefix: config.internal_prefix.clone(),
                verdicts: (mode == OffloadMode::AuthRequest).then(|| Duration::from_secs(config.verdict_cache_seconds)),
            },
            OffloadMode::Redirect => Self::Redirect {
                url: config.redirect_url.clone(),
                status: hyper::StatusCode::from_u16(config.redirect_status).unwrap_or(hyper::StatusCode::FOUND),
            },
            OffloadMode::Direct => Self::Direct { root: store_root.to_owned() },
        }
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
        match self {
            Self::Accel { internal_prefix, .. } => accel::respond(internal_prefix, served),
            Self::Redirect { url, status } => redirect::respond(url, *status, served),
            Self::Direct { root } => direct::respond(root, served, method, headers).await,
        }
    }
}

impl Offload {
    /// For how long nginx may keep a verdict, where it asks for verdicts at all.
    pub fn verdicts(&self) -> Option<Duration> {
        match self {
            Self::Accel { verdicts, .. } => *verdicts,
            Self::Redirect { .. } | Self::Direct { .. } => None,
        }
    }
}

/// Why a success could not be told.
#[derive(Debug, thiserror::Error)]
pub enum OffloadError {
    /// A header value that HTTP cannot carry.
    #[error("a header cannot be written: {0}")]
    Header(#[from] hyper::header::InvalidHeaderValue),
    /// `direct`: the file cannot be opened.
    #[error("the stored file cannot be opened: {0}")]
    Open(std::io::Error),
}

impl Served {
    /// An answer without bytes of its own. `Content-Length: 0` keeps the connection to nginx open.
    fn empty(&self, status: hyper::StatusCode) -> Response<Body> {
        let mut response = Response::new(Either::Left(Full::default()));
        *response.status_mut() = status;
        response
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
