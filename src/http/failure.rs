//! What the client sees of a failure. Statuses appear here and nowhere else.
//!
//! The matches have no `_` arm: a new reason does not compile until someone decides its status. Bodies are fixed sentences;
//! the reason is for the log, tied to the answer by the request id.

use hyper::{
    Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS},
};
use thiserror::Error;

use super::message::fixed;
use crate::{
    access::{Refusal, UrlError, VerifyError},
    catalogue::CatalogueError,
    metrics::{AuthOutcome, Outcome},
    offload::{Body, OffloadError},
    render::plan::PlanError,
    renditions::EnsureError,
    source::SourceError,
    spec::SpecError,
};

/// The methods that images answer to.
pub(super) const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
/// Seconds after which a client may ask again.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("2");
/// For what will be the same a moment later, whoever asks.
const SHORT_LIVED: HeaderValue = HeaderValue::from_static("max-age=5, public");
const NEVER: HeaderValue = HeaderValue::from_static("no-store");

/// One row of the README's table of statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRow {
    /// The status.
    pub status: u16,
    /// How the metrics count it.
    pub outcomes: &'static [Outcome],
    /// When a client sees it.
    pub when: &'static str,
}

/// Every status of an image request. The match below decides, and a test holds the two together.
pub const STATUSES: &[StatusRow] = {
    const fn row(status: u16, outcomes: &'static [Outcome], when: &'static str) -> StatusRow {
        StatusRow { status, outcomes, when }
    }
    use Outcome as O;
    &[
        row(200, &[O::Hit, O::Rendered, O::Joined], "served: an empty body with `X-Accel-Redirect` (`HEAD` too)"),
        row(204, &[O::Hit], "`OPTIONS`, with `Allow`"),
        row(304, &[O::NotModified], "the client has it (where sendimage itself sends the files)"),
        row(
            400,
            &[O::Invalid],
            "malformed path or query, a body, a bad filter spec (with its offset), a malformed record",
        ),
        row(
            401,
            &[O::Refused],
            "with a good signature: no token or a bad one (`WWW-Authenticate: Bearer`), or the site's own 401",
        ),
        row(
            403,
            &[O::Refused],
            "every other refusal, byte for byte the same: bad signature, expired link, not a preset, out of the key's or \
             the token's bounds, the site says no",
        ),
        row(404, &[O::Missing], "no route, unknown image, source or path"),
        row(405, &[O::Invalid], "a method other than `GET`, `HEAD` and `OPTIONS`; with `Allow`"),
        row(410, &[O::Missing], "a known image whose file is gone and that has no stored rendition"),
        row(422, &[O::Failed], "not an image, corrupt, over a limit, or it killed two workers"),
        row(500, &[O::Failed], "a fault of ours; the log has it"),
        row(
            502,
            &[O::Failed],
            "a remote source (a web site or a bucket) refuses us, is broken, or leads where nothing may be fetched",
        ),
        row(
            503,
            &[O::Overloaded],
            "with `Retry-After`: queue full or too slow, memory full, catalogue or source away, nobody can tell who may \
             see it, store full or read-only (hits are still served)",
        ),
        row(
            504,
            &[O::Failed],
            "not rendered within `render.deadline_seconds`, or a remote source did not answer in time",
        ),
    ]
};

/// Why a request was not served.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The target is malformed or fits no route.
    #[error("malformed target: {0}")]
    Url(#[source] UrlError),
    /// Not GET, HEAD or OPTIONS.
    #[error("the method is not allowed")]
    Method,
    /// The request came with a body.
    #[error("the request has a body")]
    HasBody,
    /// Not proven.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The catalogue does not have the image, or the URL names no source.
    #[error("there is no such image")]
    UnknownImage,
    /// The catalogue has no answer.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The filter spec is malformed.
    #[error("bad filter spec {0}")]
    Spec(#[from] SpecError),
    /// A path URL names a file that is not there.
    #[error("there is no such path in the source")]
    NoSuchPath,
    /// There is no rendition.
    #[error(transparent)]
    Ensure(#[from] EnsureError),
    /// There is one, but the answer cannot be made.
    #[error(transparent)]
    Offload(#[from] OffloadError),
}

/// A failure as the client and the metrics see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The status.
    pub status: StatusCode,
    /// The label of the request metric.
    pub outcome: Outcome,
    /// The body, one line.
    pub sentence: String,
    /// `WWW-Authenticate` of a 401.
    pub challenge: Option<HeaderValue>,
}

impl From<&RequestError> for Failure {
    fn from(error: &RequestError) -> Self {
        use RequestError as E;
        match error {
            E::Url(UrlError::NoRoute) => (StatusCode::NOT_FOUND, Outcome::Missing, "Not found"),
            E::Url(_) => (StatusCode::BAD_REQUEST, Outcome::Invalid, "Malformed URL"),
            E::Method => (StatusCode::METHOD_NOT_ALLOWED, Outcome::Invalid, "Method not allowed"),
            E::HasBody => (StatusCode::BAD_REQUEST, Outcome::Invalid, "A request for an image has no body"),
            // One answer for every refusal, byte for byte: it tells a stranger nothing.
            E::Verify(VerifyError::Refused(
                Refusal::SignatureLength
                | Refusal::Signature
                | Refusal::Expired
                | Refusal::NotAPreset
                | Refusal::KeyNotYet
                | Refusal::KeyOver
                | Refusal::KeySource
                | Refusal::KeyPixels
                | Refusal::OutOfScope,
            )) => FORBIDDEN,
            E::Verify(VerifyError::Token(_)) => {
                return Self { challenge: Some(BEARER), ..UNAUTHORIZED.into() };
            }
            E::Verify(VerifyError::Site(refusal)) if refusal.is_unauthenticated() => {
                return Self { challenge: refusal.challenge.clone(), ..UNAUTHORIZED.into() };
            }
            E::Verify(VerifyError::Site(_)) => FORBIDDEN,
            E::Verify(VerifyError::Unavailable(_)) => UNAVAILABLE,
            E::Verify(VerifyError::Query(_)) => (StatusCode::BAD_REQUEST, Outcome::Invalid, "Malformed query"),
            E::UnknownImage | E::NoSuchPath => (StatusCode::NOT_FOUND, Outcome::Missing, "Not found"),
            E::Catalogue(error) => catalogue(error),
            E::Spec(error) => {
                let sentence = format!("Invalid filter spec (offset {})", error.offset);
                return Self { sentence, ..(StatusCode::BAD_REQUEST, Outcome::Invalid, "").into() };
            }
            E::Ensure(error) => ensure(error),
            E::Offload(OffloadError::Vanished) => UNAVAILABLE,
            E::Offload(_) => (StatusCode::INTERNAL_SERVER_ERROR, Outcome::Failed, "Internal error"),
        }
        .into()
    }
}

impl From<Row> for Failure {
    fn from((status, outcome, sentence): Row) -> Self {
        Self { status, outcome, sentence: sentence.to_owned(), challenge: None }
    }
}

impl RequestError {
    /// What it says about who asks, if anything.
    pub fn auth_outcome(&self) -> Option<AuthOutcome> {
        match self {
            Self::Verify(VerifyError::Token(_)) => Some(AuthOutcome::Unauthenticated),
            Self::Verify(VerifyError::Site(refusal)) if refusal.is_unauthenticated() => {
                Some(AuthOutcome::Unauthenticated)
            }
            Self::Verify(VerifyError::Site(_) | VerifyError::Refused(Refusal::OutOfScope)) => {
                Some(AuthOutcome::Forbidden)
            }
            Self::Verify(VerifyError::Unavailable(_)) => Some(AuthOutcome::Unavailable),
            _ => None,
        }
    }
}

type Row = (StatusCode, Outcome, &'static str);

const FORBIDDEN: Row = (StatusCode::FORBIDDEN, Outcome::Refused, "Forbidden");
const UNAUTHORIZED: Row = (StatusCode::UNAUTHORIZED, Outcome::Refused, "Unauthorized");
/// RFC 6750, 3: what a request without a good token is told. Which of its faults it has is for the log.
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");
const UNAVAILABLE: Row = (StatusCode::SERVICE_UNAVAILABLE, Outcome::Overloaded, "Temporarily unavailable");

fn catalogue(error: &CatalogueError) -> Row {
    match error {
        CatalogueError::Unavailable(_) | CatalogueError::TimedOut => UNAVAILABLE,
        // As Wagtail answers for a stored name that leaves the media folder.
        CatalogueError::BadRow { .. } => (StatusCode::BAD_REQUEST, Outcome::Invalid, "The image's record is malformed"),
    }
}

fn ensure(error: &EnsureError) -> Row {
    const UNPROCESSABLE: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
    match error {
        EnsureError::UnknownSource(_) => (StatusCode::NOT_FOUND, Outcome::Missing, "Not found"),
        EnsureError::SourceGone(_) => (StatusCode::GONE, Outcome::Missing, "Source image file not found"),
        EnsureError::Source(SourceError::Unavailable(_) | SourceError::Gone(_) | SourceError::Changed) => UNAVAILABLE,
        EnsureError::Source(SourceError::Failed(_)) => {
            (StatusCode::BAD_GATEWAY, Outcome::Failed, "The source of the image failed")
        }
        EnsureError::Source(SourceError::TimedOut(_)) => {
            (StatusCode::GATEWAY_TIMEOUT, Outcome::Failed, "The source of the image did not answer in time")
        }
        EnsureError::Source(SourceError::TooLong(_)) => {
            (UNPROCESSABLE, Outcome::Failed, "The image is larger than this service renders")
        }
        EnsureError::Source(SourceError::NotAnImage(_)) => {
            (UNPROCESSABLE, Outcome::Failed, "The source image cannot be rendered")
        }
        EnsureError::SourceChanged => UNAVAILABLE,
        EnsureError::Undecodable(_) | EnsureError::Poison(_) => {
            (UNPROCESSABLE, Outcome::Failed, "The source image cannot be rendered")
        }
        EnsureError::Unplannable(PlanError::NoEncoder(_)) => {
            (StatusCode::BAD_REQUEST, Outcome::Invalid, "Invalid filter spec (this output format is not available)")
        }
        EnsureError::Unplannable(PlanError::NoWatermark) => {
            (StatusCode::BAD_REQUEST, Outcome::Invalid, "Invalid filter spec (there is no such watermark)")
        }
        EnsureError::Unplannable(
            PlanError::NoDecoder(_) | PlanError::Svg | PlanError::EmptyCrop | PlanError::Unseen(_),
        ) => (UNPROCESSABLE, Outcome::Failed, "The source image cannot be rendered"),
        EnsureError::Unplannable(PlanError::TooLarge) | EnsureError::OverLimit(_) => {
            (UNPROCESSABLE, Outcome::Failed, "The image is larger than this service renders")
        }
        EnsureError::TimedOut { .. } => {
            (StatusCode::GATEWAY_TIMEOUT, Outcome::Failed, "The image was not ready in time")
        }
        // The operator's file, which `check` finds.
        EnsureError::Watermark(_) => UNAVAILABLE,
        EnsureError::PoolFull | EnsureError::WorkersLost(_) | EnsureError::Unwanted | EnsureError::Store(_) => {
            UNAVAILABLE
        }
        EnsureError::Crashed => (StatusCode::INTERNAL_SERVER_ERROR, Outcome::Failed, "Internal error"),
    }
}

impl Failure {
    /// The answer.
    pub fn response(&self) -> Response<Body> {
        let mut response = fixed(self.status, "text/plain; charset=utf-8", format!("{}\n", self.sentence));
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CACHE_CONTROL, if self.is_settled() { SHORT_LIVED } else { NEVER });
        match self.status {
            StatusCode::METHOD_NOT_ALLOWED => drop(headers.insert(ALLOW, ALLOWED)),
            StatusCode::SERVICE_UNAVAILABLE => drop(headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS)),
            _ => {}
        }
        if let Some(challenge) = &self.challenge {
            headers.insert(WWW_AUTHENTICATE, challenge.clone());
        }
        response
    }

    /// As [`Self::response`], on a connection that must not be used again: a body may be on its way.
    pub fn final_response(&self) -> Response<Body> {
        let mut response = self.response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }

    /// Whether the answer is the same for everybody for a moment: then it may be kept for a few seconds.
    fn is_settled(&self) -> bool {
        matches!(
            self.status,
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::UNPROCESSABLE_ENTITY
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::{SiteRefusal, token::TokenError},
        render::RenderError,
        source::SourceError,
        spec::Problem,
        store::StoreError,
    };

    fn site(status: u16) -> VerifyError {
        SiteRefusal { status: StatusCode::from_u16(status).expect("a status"), challenge: None }.into()
    }

    /// One of each: the table of the README.
    fn all() -> Vec<(RequestError, u16)> {
        use RequestError as E;
        let store = StoreError { action: "x", kind: "enospc", message: String::new() };
        vec![
            (E::Url(UrlError::NoRoute), 404),
            (E::Url(UrlError::DotSegment), 400),
            (E::Method, 405),
            (E::HasBody, 400),
            (E::Verify(Refusal::SignatureLength.into()), 403),
            (E::Verify(Refusal::Signature.into()), 403),
            (E::Verify(Refusal::Expired.into()), 403),
            (E::Verify(Refusal::NotAPreset.into()), 403),
            (E::Verify(Refusal::KeyOver.into()), 403),
            (E::Verify(Refusal::KeyPixels.into()), 403),
            (E::Verify(Refusal::OutOfScope.into()), 403),
            (E::Verify(TokenError::Missing.into()), 401),
            (E::Verify(TokenError::Expired.into()), 401),
            (E::Verify(site(401)), 401),
            (E::Verify(site(403)), 403),
            (E::Verify(site(302)), 403),
            (E::Verify(VerifyError::Unavailable(Default::default())), 503),
            (E::Verify(VerifyError::Query(UrlError::UnknownParameter)), 400),
            (E::UnknownImage, 404),
            (E::NoSuchPath, 404),
            (E::Catalogue(CatalogueError::TimedOut), 503),
            (E::Catalogue(CatalogueError::Unavailable(String::new())), 503),
            (E::Spec(SpecError { offset: 6, problem: Problem::NotWhole }), 400),
            (E::Ensure(EnsureError::UnknownSource(String::new())), 404),
            (E::Ensure(EnsureError::SourceGone("")), 410),
            (E::Ensure(EnsureError::Source(SourceError::Unavailable(String::new()))), 503),
            (E::Ensure(EnsureError::Source(SourceError::Failed(String::new()))), 502),
            (E::Ensure(EnsureError::Source(SourceError::TimedOut(String::new()))), 504),
            (E::Ensure(EnsureError::Source(SourceError::TooLong(1))), 422),
            (E::Ensure(EnsureError::Source(SourceError::NotAnImage(String::new()))), 422),
            (E::Ensure(EnsureError::SourceChanged), 503),
            (E::Ensure(EnsureError::Undecodable(RenderError::NotAnImage)), 422),
            (E::Ensure(EnsureError::Unplannable(PlanError::NoEncoder(crate::model::ImageFormat::Avif))), 400),
            (E::Ensure(EnsureError::Unplannable(PlanError::Svg)), 422),
            (E::Ensure(EnsureError::Unplannable(PlanError::TooLarge)), 422),
            (E::Ensure(EnsureError::TimedOut { started: true }), 504),
            (E::Ensure(EnsureError::PoolFull), 503),
            (E::Ensure(EnsureError::WorkersLost(String::new())), 503),
            (E::Ensure(EnsureError::Unwanted), 503),
            (E::Ensure(EnsureError::Poison(String::new())), 422),
            (E::Ensure(EnsureError::Store(store)), 503),
            (E::Ensure(EnsureError::Crashed), 500),
            (E::Offload(OffloadError::Open(std::io::ErrorKind::NotFound.into())), 500),
        ]
    }

    #[test]
    fn every_failure_has_its_status_and_never_hands_anything_over() {
        for (error, status) in all() {
            let failure = Failure::from(&error);
            let response = failure.response();
            assert_eq!(response.status().as_u16(), status, "{error}");
            assert!(!response.status().is_success());
            for name in response.headers().keys() {
                assert!(!name.as_str().starts_with("x-accel") && !name.as_str().starts_with("x-sendfile"), "{error}");
            }
            assert_eq!(response.headers().contains_key(RETRY_AFTER), status == 503, "{error}");
            let kept = response.headers()[CACHE_CONTROL] != NEVER;
            assert_eq!(kept, matches!(status, 400 | 404 | 410 | 422), "{error}");
        }
    }

    #[test]
    fn the_table_of_statuses_is_what_the_match_says() {
        let said: Vec<_> = all().iter().map(|(error, _)| Failure::from(error)).collect();
        for failure in &said {
            let row = STATUSES.iter().find(|row| row.status == failure.status.as_u16());
            assert!(row.is_some_and(|row| row.outcomes.contains(&failure.outcome)), "{failure:?}");
        }
        for row in STATUSES.iter().filter(|row| row.status >= 400) {
            for outcome in row.outcomes {
                let is_said = |failure: &Failure| failure.status.as_u16() == row.status && failure.outcome == *outcome;
                assert!(said.iter().any(is_said), "nothing is answered {row:?}");
            }
        }
    }

    #[test]
    fn refusals_are_alike_byte_for_byte() {
        let refusals: Vec<_> = all()
            .iter()
            .filter(|(_, status)| *status == 403)
            .map(|(error, _)| format!("{:?}", Failure::from(error)))
            .collect();
        assert!(refusals.len() >= 4 && refusals.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
