//! The site is asked: may whoever sends these credentials see this image?
//!
//! One fixed URL, only the listed headers, no redirect followed, one answer at a time for all who wait for it, and closed
//! whenever there is none. What the site says is passed on as a status, never as a body.

use std::{fmt, sync::Arc, time::Duration};

use hyper::{
    HeaderMap, StatusCode,
    header::{ACCEPT, AUTHORIZATION, COOKIE, HeaderName, HeaderValue, WWW_AUTHENTICATE},
};
use moka::future::Cache;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use thiserror::Error;

use super::{proof::SignedRequest, url::Subject, verifier::Bearer};
use crate::{
    config::{ForwardConfig, ForwardScope},
    model::PartsDigest,
    remote::{Client, Fetch, RemoteError},
};

/// Longest body that is read, to be thrown away: a connection can be used again only after its answer's end.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Answers that are remembered.
const MAX_ANSWERS: u64 = 100_000;
/// A header that says which image is asked for: its id, or `source/path`.
const X_IMAGE_ID: HeaderName = HeaderName::from_static("x-image-id");
/// A header with the filter spec, or the preset's name, as the URL has it.
const X_FILTER_SPEC: HeaderName = HeaderName::from_static("x-filter-spec");
/// How browsers reach the site: one that insists on https would answer every question with a redirect.
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// A header with the path and query of the signed URL, as received.
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
/// What a header's value cannot hold, or could be read in two ways, is percent-encoded.
const HEADER_VALUE: AsciiSet = CONTROLS.add(b' ').add(b'%').add(b'"');

/// What the site said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteAnswer {
    /// 2xx.
    Allowed,
    /// It refuses.
    Refused(SiteRefusal),
}

/// A refusal by the site.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the site answered {status}")]
pub struct SiteRefusal {
    /// What the site's status was.
    pub status: StatusCode,
    /// `WWW-Authenticate`, which is passed on with a 401.
    pub challenge: Option<HeaderValue>,
}

impl SiteRefusal {
    /// The same as of somebody who has not said who they are.
    pub fn unauthenticated(self) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, ..self }
    }

    /// Whether the client is told that it has not said who it is (401), rather than that it may not (403).
    pub fn is_unauthenticated(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }
}

/// Asks the site.
pub struct Forward {
    fetch: Fetch,
    client: Client,
    scope: ForwardScope,
    proto: HeaderValue,
    answers: Cache<[u8; 32], SiteAnswer>,
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Forward({})", self.fetch.url())
    }
}

impl Forward {
    /// One that asks the config's URL. `public_url` is how browsers reach the site.
    ///
    /// # Errors
    /// [`RemoteError`] when that cannot be asked at all.
    pub fn new(config: &ForwardConfig, public_url: &str) -> Result<Self, RemoteError> {
        let timeout = Duration::from_secs_f64(config.timeout_seconds);
        let fetch = Fetch::new(&config.url, timeout, MAX_BODY_BYTES)?.with_host(config.host.as_deref())?;
        Ok(Self {
            client: Client::new(&fetch)?,
            fetch,
            scope: config.scope,
            proto: HeaderValue::from_static(if public_url.starts_with("https:") { "https" } else { "http" }),
            answers: Cache::builder()
                .max_capacity(MAX_ANSWERS)
                .time_to_live(Duration::from_secs_f64(config.cache_seconds))
                .build(),
        })
    }

    /// What the site says about this request: now, or a moment ago about one like it.
    ///
    /// # Errors
    /// A sentence for the log when there is no answer that could be acted on.
    pub(super) async fn ask(&self, signed: &SignedRequest<'_>, bearer: Bearer<'_>) -> Result<SiteAnswer, Arc<String>> {
        self.answers.try_get_with(self.key(signed, bearer.headers), self.ask_site(signed, bearer)).await
    }

    /// Asks the site as somebody without credentials would be asked about, for `check`.
    ///
    /// # Errors
    /// A sentence, when there is no answer that could be acted on.
    pub(super) async fn probe(&self) -> Result<String, String> {
        let mut sent = HeaderMap::new();
        sent.insert(X_IMAGE_ID, HeaderValue::from_static("0"));
        sent.insert(X_FILTER_SPEC, HeaderValue::from_static("original"));
        Ok(match self.answer(sent).await? {
            SiteAnswer::Allowed => {
                format!("{} lets in who sends no credentials: is that meant?", self.fetch.url())
            }
            SiteAnswer::Refused(refusal) => {
                format!("{} refuses who sends no credentials ({})", self.fetch.url(), refusal.status.as_u16())
            }
        })
    }

    async fn ask_site(
        &self,
        signed: &SignedRequest<'_>,
        Bearer { headers, target }: Bearer<'_>,
    ) -> Result<SiteAnswer, String> {
        let mut sent = HeaderMap::new();
        for name in [COOKIE, AUTHORIZATION] {
            for value in headers.get_all(&name) {
                sent.append(name.clone(), value.clone());
            }
        }
        sent.insert(ACCEPT, HeaderValue::from_static("*/*"));
        let image = match signed.subject() {
            Subject::Id(id) => id.to_string(),
            Subject::Path { source, path } => format!("{source}/{path}"),
        };
        for (name, text, set) in [
            (X_IMAGE_ID, image.as_str(), &HEADER_VALUE),
            (X_FILTER_SPEC, signed.named_spec(), &HEADER_VALUE),
            // As received: its escapes are meant to be there.
            (X_ORIGINAL_URI, target, CONTROLS),
        ] {
            let value = HeaderValue::try_from(utf8_percent_encode(text, set).to_string());
            sent.insert(name, value.map_err(|_| "the request does not fit a header".to_owned())?);
        }
        self.answer(sent).await
    }

    async fn answer(&self, mut sent: HeaderMap) -> Result<SiteAnswer, String> {
        sent.insert(X_FORWARDED_PROTO, self.proto.clone());
        let answer = self.client.get(&self.fetch, &sent).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let challenge = answer.headers().get(WWW_AUTHENTICATE).cloned().filter(|_| status == StatusCode::UNAUTHORIZED);
        match status {
            _ if status.is_success() => Ok(SiteAnswer::Allowed),
            // A redirect leads to the login. A page that is not there is how many a view hides what one may not see.
            _ if status.is_redirection() => Ok(SiteAnswer::Refused(SiteRefusal { status, challenge })),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE => {
                Ok(SiteAnswer::Refused(SiteRefusal { status, challenge }))
            }
            // 5xx, and what says that the question was wrong: a host that the site does not know is a 400.
            _ => Err(format!("the site answered {status}")),
        }
    }

    /// A digest of all that the answer depends on.
    fn key(&self, signed: &SignedRequest<'_>, headers: &HeaderMap) -> [u8; 32] {
        let mut digest = PartsDigest::default();
        let mut add = |bytes: &[u8]| digest.add(bytes);
        for name in [COOKIE, AUTHORIZATION] {
            add(&headers.get_all(&name).iter().count().to_le_bytes());
            headers.get_all(&name).into_iter().for_each(|value| add(value.as_bytes()));
        }
        // The site may answer by its view of the route too.
        if self.scope != ForwardScope::Credentials {
            add(signed.route().name.as_bytes());
            match signed.subject() {
                Subject::Id(id) => add(id.as_bytes()),
                Subject::Path { source, path } => {
                    add(source.as_bytes());
                    add(path.as_bytes());
                }
            }
        }
        if self.scope == ForwardScope::Rendition {
            add(signed.named_spec().as_bytes());
        }
        digest.bytes()
    }
}
