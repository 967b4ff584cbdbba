//! What a caller of the operations listener sees of a failure. Whoever gets as far as the body is the site itself: the
//! sentence says what is wrong, and where.

use hyper::{
    Response, StatusCode,
    header::{ALLOW, CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};
use thiserror::Error;

use super::text;
use crate::{access::LinkError, catalogue::CatalogueError, offload::Body, upkeep::PurgeError};

/// Why a call was not carried out.
#[derive(Debug, Error)]
pub(super) enum CallError {
    #[error("Unauthorized")]
    Token,
    #[error("Method not allowed")]
    Method,
    #[error("Too many calls are under way")]
    Busy,
    #[error("The body must be application/json")]
    MediaType,
    #[error("The body is longer than {0} bytes")]
    TooLong(usize),
    #[error("The body did not come in time")]
    TooSlow,
    #[error("The body broke off")]
    Broken,
    #[error("{}{message}", named(field))]
    Field { field: String, message: String },
    #[error("{field}: {0}", field = .0.field())]
    Link(#[from] LinkError),
    #[error(transparent)]
    Purge(#[from] PurgeError),
}

/// A place in the body, as far as there is one: `refs[1]`.
fn named(field: &str) -> String {
    let known = field.trim_end_matches(['.', '?']);
    if known.is_empty() { String::new() } else { format!("{known}: ") }
}

impl CallError {
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Self::Field { field: field.to_owned(), message: message.into() }
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken | Self::Field { .. } | Self::Link(_) => StatusCode::BAD_REQUEST,
            Self::Purge(PurgeError::Catalogue(
                CatalogueError::Unavailable(_) | CatalogueError::TimedOut | CatalogueError::BadRow { .. },
            )) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Busy | Self::Purge(PurgeError::Store(_)) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The label of the metric.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Token => "refused",
            Self::Busy | Self::Purge(_) => "failed",
            _ => "invalid",
        }
    }

    pub fn response(&self) -> Response<Body> {
        let mut response = text(self.status(), format!("{self}\n"));
        let headers = response.headers_mut();
        match self {
            Self::Token => drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Self::Method => drop(headers.insert(ALLOW, HeaderValue::from_static("POST"))),
            Self::Busy | Self::Purge(_) => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("2"))),
            _ => {}
        }
        // A body may still be on its way, which must not be read as the next request.
        if matches!(
            self,
            Self::Token | Self::Method | Self::MediaType | Self::TooLong(_) | Self::TooSlow | Self::Broken
        ) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
