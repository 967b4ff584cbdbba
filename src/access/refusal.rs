//! Why a request is not verified.

use std::sync::Arc;

use thiserror::Error;

use super::{
    forward::SiteRefusal,
    token::{CheckError, TokenError},
    url::UrlError,
};

/// Why a request is refused. The client sees one and the same answer for all; the reason is for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Neither scheme has signatures of this length.
    #[error("the signature has the length of no scheme")]
    SignatureLength,
    /// No key of the route gives this signature.
    #[error("the signature fits no key of the route")]
    Signature,
    /// The link's time is over.
    #[error("the link has expired")]
    Expired,
    /// The route, or the key, serves presets only.
    #[error("the route or the key serves presets only, and this is none")]
    NotAPreset,
    /// The key's life has not begun.
    #[error("the signing key is not valid yet")]
    KeyNotYet,
    /// The key's life is over.
    #[error("the signing key is not valid any more")]
    KeyOver,
    /// The key does not sign for images of this source.
    #[error("the signing key is not for this source")]
    KeySource,
    /// The key does not sign for renditions of this size.
    #[error("the signing key is not for renditions of this size")]
    KeyPixels,
    /// The token does not allow this image.
    #[error("the token does not allow this image")]
    OutOfScope,
}

/// Why there is no proof.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// The URL was refused.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// The signature is good but the query is not.
    #[error("malformed query: {0}")]
    Query(#[source] UrlError),
    /// The signature is good but who asks is not known.
    #[error("refused: {0}")]
    Token(#[from] TokenError),
    /// The site says no.
    #[error("refused: {0}")]
    Site(#[from] SiteRefusal),
    /// Who asks could not be found out.
    #[error("nobody can tell who may see it: {0}")]
    Unavailable(Arc<String>),
}

impl From<CheckError> for VerifyError {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Token(error) => Self::Token(error),
            CheckError::NoKeys(reason) => Self::Unavailable(Arc::new(reason)),
        }
    }
}
