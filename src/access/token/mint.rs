//! Tokens for tests and scripts. Sites make their own, with the library of their language.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use thiserror::Error;

use super::keys::{TokenKeyError, library, secret};
use crate::{
    access::LAST_SECOND,
    config::{JwtConfig, TokenAlgorithm, TokenKeyConfig},
};

/// Whom a token is about, and what it allows.
#[derive(Clone, Debug)]
pub struct Minted<'a> {
    /// `sub`.
    pub subject: &'a str,
    /// The claim `images`; absent where there is none.
    pub images: Option<&'a [String]>,
    /// From now to `exp`.
    pub ttl: Duration,
    /// The `kid` of the key to use; else the first.
    pub kid: Option<&'a str>,
    /// The private key in PEM, for algorithms that have one.
    pub private_key_file: Option<&'a Path>,
}

impl Minted<'_> {
    /// `exp` of a token that is made now, in Unix seconds.
    ///
    /// # Errors
    /// [`MintError::Life`].
    pub fn expires(&self, now: SystemTime) -> Result<u64, MintError> {
        let end = unix_seconds(now).checked_add(self.ttl.as_secs());
        end.filter(|end| *end <= LAST_SECOND).ok_or(MintError::Life)
    }
}

fn unix_seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Why there is no token.
#[derive(Debug, Error)]
pub enum MintError {
    /// An end that no clock can hold.
    #[error("a token is not good beyond the year 9999")]
    Life,
    /// No such key in the config.
    #[error("auth.jwt.keys has no such key")]
    NoKey,
    /// The config has the public half only.
    #[error("the key {0:?} needs its private half: --private-key FILE")]
    NoPrivateKey(String),
    /// The key is not usable.
    #[error(transparent)]
    Key(#[from] TokenKeyError),
    /// The private key cannot be read.
    #[error("cannot read {0}: {1}")]
    Unreadable(String, std::io::Error),
    /// The library does not take the key.
    #[error("the private key is none for this algorithm, in PKCS #8 and PEM: {0}")]
    Library(#[from] jsonwebtoken::errors::Error),
}

/// Makes a token with one of the config's keys.
///
/// # Errors
/// [`MintError`].
pub fn mint(config: &JwtConfig, minted: &Minted<'_>, now: SystemTime) -> Result<String, MintError> {
    let named = |key: &&TokenKeyConfig| minted.kid.is_none_or(|kid| kid == key.kid);
    let section = config.keys.iter().find(named).ok_or(MintError::NoKey)?;
    let key = match section.algorithm {
        TokenAlgorithm::HS256 => EncodingKey::from_secret(&secret(section)?),
        algorithm => {
            let file = minted.private_key_file.ok_or_else(|| MintError::NoPrivateKey(section.kid.clone()))?;
            let pem = std::fs::read(file).map_err(|error| MintError::Unreadable(file.display().to_string(), error))?;
            match algorithm {
                TokenAlgorithm::RS256 => EncodingKey::from_rsa_pem(&pem)?,
                TokenAlgorithm::ES256 => EncodingKey::from_ec_pem(&pem)?,
                TokenAlgorithm::EdDSA | TokenAlgorithm::HS256 => EncodingKey::from_ed_pem(&pem)?,
            }
        }
    };
    let mut claims = json!({ "sub": minted.subject, "iat": unix_seconds(now), "exp": minted.expires(now)? });
    for (name, value) in [("aud", &config.audience), ("iss", &config.issuer)] {
        if let Some(value) = value {
            claims[name] = json!(value);
        }
    }
    if let Some(images) = minted.images {
        claims["images"] = json!(images);
    }
    let header = Header { kid: Some(section.kid.clone()), ..Header::new(library(section.algorithm)) };
    Ok(jsonwebtoken::encode(&header, &claims, &key)?)
}
