//! Why an object store did not do what it was asked.

use hyper::StatusCode;
use object_store::client::{HttpError, HttpErrorKind};
use thiserror::Error;

use super::client::Refused;

/// What is the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3ErrorKind {
    /// There is no such object. Asked by HEAD it may as well be the bucket that is missing: there is no word about it.
    NoSuchKey,
    /// There is no such bucket.
    NoSuchBucket,
    /// 401 or 403: the key pair is wrong, may not do this, or the clocks differ.
    Denied,
    /// 409 or 412: the object is there already, or is another one.
    Precondition,
    /// The store does not know the operation.
    NotSupported,
    /// 503 or 429: it asks for patience.
    Busy,
    /// Another answer that is no success.
    Failed,
    /// No connection, or one that broke.
    Unreachable,
    /// Not in time.
    TimedOut,
}

impl S3ErrorKind {
    /// The label of `sendimage_store_errors_total`.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoSuchKey | Self::Precondition | Self::NotSupported | Self::Failed => "s3_failed",
            Self::NoSuchBucket => "s3_no_bucket",
            Self::Denied => "s3_denied",
            Self::Busy => "s3_busy",
            Self::Unreachable => "s3_unreachable",
            Self::TimedOut => "s3_timeout",
        }
    }
}

/// A call that failed. The message never holds a signature, a header, or a body of the store's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct S3Error {
    /// What is the matter.
    pub kind: S3ErrorKind,
    /// The same in words.
    pub message: String,
}

impl S3Error {
    pub(super) fn new(kind: S3ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Of the library's error only what we put into it ourselves is passed on.
    pub(super) fn of(error: &object_store::Error) -> Self {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            if let Some(refused) = error.downcast_ref::<Refused>() {
                return Self::new(kind_of(refused), refused.to_string());
            }
            if let Some(http) = error.downcast_ref::<HttpError>()
                && !std::error::Error::source(http).is_some_and(|source| source.is::<Refused>())
            {
                let kind = match http.kind() {
                    HttpErrorKind::Timeout => S3ErrorKind::TimedOut,
                    _ => S3ErrorKind::Unreachable,
                };
                let message = std::error::Error::source(http).map_or_else(|| http.to_string(), ToString::to_string);
                return Self::new(kind, message);
            }
            next = error.source();
        }
        match error {
            object_store::Error::NotFound { .. } => Self::new(S3ErrorKind::NoSuchKey, "404 Not Found"),
            // The library's own words: an answer that it could not read.
            _ => Self::new(S3ErrorKind::Failed, "the answer is not one of an S3-compatible store"),
        }
    }
}

fn kind_of(Refused { status, code }: &Refused) -> S3ErrorKind {
    match (*status, code.as_deref()) {
        (StatusCode::NOT_FOUND, Some("NoSuchBucket")) => S3ErrorKind::NoSuchBucket,
        (StatusCode::NOT_FOUND, _) => S3ErrorKind::NoSuchKey,
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => S3ErrorKind::Denied,
        (StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED, _) => S3ErrorKind::Precondition,
        (StatusCode::NOT_IMPLEMENTED | StatusCode::METHOD_NOT_ALLOWED, _) | (_, Some("NotImplemented")) => {
            S3ErrorKind::NotSupported
        }
        (StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, _) => S3ErrorKind::Busy,
        _ => S3ErrorKind::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_and_the_stores_word_say_what_is_the_matter() {
        for (status, code, kind) in [
            (404, None, S3ErrorKind::NoSuchKey),
            (404, Some("NoSuchBucket"), S3ErrorKind::NoSuchBucket),
            (403, Some("SignatureDoesNotMatch"), S3ErrorKind::Denied),
            (412, Some("PreconditionFailed"), S3ErrorKind::Precondition),
            (501, Some("NotImplemented"), S3ErrorKind::NotSupported),
            (503, Some("SlowDown"), S3ErrorKind::Busy),
            (500, Some("InternalError"), S3ErrorKind::Failed),
            (301, Some("PermanentRedirect"), S3ErrorKind::Failed),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let error = object_store::Error::Generic {
                store: "S3",
                source: Box::new(HttpError::new(
                    HttpErrorKind::Unknown,
                    Refused { status, code: code.map(str::to_owned) },
                )),
            };
            assert_eq!(S3Error::of(&error).kind, kind, "{status} {code:?}");
        }
    }
}
