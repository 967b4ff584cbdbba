//! Keys that verify tokens, each for one algorithm.

use std::{fmt, io, path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, DecodingKey, jwk::Jwk};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::{super::keys::MIN_KEY_BYTES, TemplateError};
use crate::config::{JwtConfig, TokenAlgorithm, TokenKeyConfig, read_secret_file};

/// Keys of one key set that are looked at.
const MAX_SET_KEYS: usize = 64;

/// A key that verifies tokens.
#[derive(Clone)]
pub struct TokenKey {
    kid: Arc<str>,
    algorithm: TokenAlgorithm,
    key: DecodingKey,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({:?}, {:?})", self.kid, self.algorithm)
    }
}

/// Why the keys of `[auth.jwt]` are not usable. The message names the key by id, never by content.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenKeyError {
    /// Two keys share an id.
    #[error("auth.jwt.keys: the kid {0:?} is used twice")]
    Duplicate(String),
    /// Not what the algorithm takes.
    #[error("token key {kid:?}: {algorithm:?} takes exactly one of {expected}")]
    NotOne {
        /// The key's id.
        kid: String,
        /// Its algorithm.
        algorithm: TokenAlgorithm,
        /// The names of the config keys.
        expected: &'static str,
    },
    /// Shorter than a signing key may be. RFC 7518 (3.2) asks for 32.
    #[error("token key {0:?} has {1} bytes; at least {MIN_KEY_BYTES} are needed")]
    TooShort(String, usize),
    /// A public key that everybody has, as a secret.
    #[error("token key {0:?} is a key in PEM: that is no secret, and HS256 would let whoever has it make tokens")]
    PemSecret(String),
    /// Not base64.
    #[error("token key {0:?}: secret_base64 is not base64")]
    NotBase64(String),
    /// A file cannot be read.
    #[error("token key {kid:?}: cannot read {file}: {error}")]
    Unreadable {
        /// The key's id.
        kid: String,
        /// The file's path.
        file: String,
        /// The system's words.
        error: String,
    },
    /// Not a public key of the algorithm.
    #[error("token key {kid:?}: {file} is not a public key for {algorithm:?} in PEM")]
    NotAKey {
        /// The key's id.
        kid: String,
        /// The file's path.
        file: String,
        /// The algorithm.
        algorithm: TokenAlgorithm,
    },
    /// `jwks_file` is none.
    #[error("auth.jwt.jwks_file: {file}: {error}")]
    KeySet {
        /// The file's path.
        file: String,
        /// What is the matter.
        error: String,
    },
    /// `jwks_url` cannot be fetched from at all.
    #[error("auth.jwt.jwks_url: {0}")]
    Url(String),
    /// An entry of `auth.jwt.images`.
    #[error("auth.jwt.images: {0}")]
    Template(TemplateError),
}

impl TokenKey {
    /// Its id.
    pub fn kid(&self) -> &Arc<str> {
        &self.kid
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> TokenAlgorithm {
        self.algorithm
    }

    /// Whether it is for an algorithm, by that one's name in a token's header.
    pub fn is_for(&self, alg: &str) -> bool {
        alg == name(self.algorithm)
    }

    /// Whether it is the key of a token's signature.
    pub fn verifies(&self, token: &str) -> bool {
        let Some((message, signature)) = token.rsplit_once('.') else { return false };
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, library(self.algorithm)).unwrap_or(false)
    }
}

/// The algorithm's name in headers and key sets.
pub(super) fn name(algorithm: TokenAlgorithm) -> &'static str {
    match algorithm {
        TokenAlgorithm::HS256 => "HS256",
        TokenAlgorithm::RS256 => "RS256",
        TokenAlgorithm::ES256 => "ES256",
        TokenAlgorithm::EdDSA => "EdDSA",
    }
}

pub(super) fn library(algorithm: TokenAlgorithm) -> Algorithm {
    match algorithm {
        TokenAlgorithm::HS256 => Algorithm::HS256,
        TokenAlgorithm::RS256 => Algorithm::RS256,
        TokenAlgorithm::ES256 => Algorithm::ES256,
        TokenAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}

/// The keys that the config names, and those of its key set file.
pub(super) fn configured(config: &JwtConfig) -> Result<Vec<TokenKey>, TokenKeyError> {
    let mut keys: Vec<TokenKey> = Vec::new();
    for section in &config.keys {
        if keys.iter().any(|other| *other.kid == *section.kid) {
            return Err(TokenKeyError::Duplicate(section.kid.clone()));
        }
        keys.push(TokenKey {
            kid: section.kid.as_str().into(),
            algorithm: section.algorithm,
            key: match section.algorithm {
                TokenAlgorithm::HS256 => DecodingKey::from_secret(&secret(section)?),
                _ => public_key(section)?,
            },
        });
    }
    if let Some(file) = &config.jwks_file {
        let failed = |error: String| TokenKeyError::KeySet { file: file.display().to_string(), error };
        let bytes = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
        keys.extend(key_set(&bytes, true).map_err(failed)?);
    }
    Ok(keys)
}

/// The bytes of an HS256 secret.
pub(super) fn secret(section: &TokenKeyConfig) -> Result<Vec<u8>, TokenKeyError> {
    let kid = section.kid.clone();
    let bytes = match (&section.secret, &section.secret_base64, &section.secret_file, &section.public_key_file) {
        (Some(secret), None, None, None) => secret.expose().as_bytes().to_vec(),
        (None, Some(secret), None, None) => {
            STANDARD.decode(secret.expose()).map_err(|_| TokenKeyError::NotBase64(kid.clone()))?
        }
        (None, None, Some(file), None) => read_secret_file(file).map_err(unreadable(&kid, file))?,
        _ => {
            let expected = "secret, secret_base64, secret_file";
            return Err(TokenKeyError::NotOne { kid, algorithm: section.algorithm, expected });
        }
    };
    if bytes.windows(10).any(|window| window == b"-----BEGIN") {
        return Err(TokenKeyError::PemSecret(kid));
    }
    if bytes.len() < MIN_KEY_BYTES {
        return Err(TokenKeyError::TooShort(kid, bytes.len()));
    }
    Ok(bytes)
}

fn public_key(section: &TokenKeyConfig) -> Result<DecodingKey, TokenKeyError> {
    let (kid, algorithm) = (section.kid.clone(), section.algorithm);
    let file = match (&section.secret, &section.secret_base64, &section.secret_file, &section.public_key_file) {
        (None, None, None, Some(file)) => file,
        _ => return Err(TokenKeyError::NotOne { kid, algorithm, expected: "public_key_file" }),
    };
    let pem = std::fs::read(file).map_err(unreadable(&kid, file))?;
    let key = match algorithm {
        TokenAlgorithm::RS256 => DecodingKey::from_rsa_pem(&pem),
        TokenAlgorithm::ES256 => DecodingKey::from_ec_pem(&pem),
        TokenAlgorithm::EdDSA | TokenAlgorithm::HS256 => DecodingKey::from_ed_pem(&pem),
    };
    let not_a_key = || TokenKeyError::NotAKey { kid, file: file.display().to_string(), algorithm };
    key.ok().filter(|key| has_length_of(algorithm, key)).ok_or_else(not_a_key)
}

/// Whether the key is one of the algorithm's curve: an uncompressed point of P-256 has 65 bytes, a key of Ed25519 has 32.
fn has_length_of(algorithm: TokenAlgorithm, key: &DecodingKey) -> bool {
    let bytes = key.try_get_as_bytes().map_or(0, <[u8]>::len);
    match algorithm {
        TokenAlgorithm::ES256 => bytes == 65,
        TokenAlgorithm::EdDSA => bytes == 32,
        TokenAlgorithm::HS256 => bytes >= MIN_KEY_BYTES,
        // The library refuses fewer than 2048 bits.
        TokenAlgorithm::RS256 => true,
    }
}

fn unreadable(kid: &str, file: &Path) -> impl FnOnce(io::Error) -> TokenKeyError {
    move |error| TokenKeyError::Unreadable {
        kid: kid.to_owned(),
        file: file.display().to_string(),
        error: error.to_string(),
    }
}

/// The keys of a JSON Web Key Set that are for one of our algorithms. Others are passed over, as RFC 7517 (5) says.
/// `with_secrets`: whether a shared secret may be among them; one that was fetched is none.
pub(super) fn key_set(bytes: &[u8], with_secrets: bool) -> Result<Vec<TokenKey>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(bytes).map_err(|_| "not a JSON Web Key Set".to_owned())?;
    if set.keys.len() > MAX_SET_KEYS {
        return Err(format!("it has more than {MAX_SET_KEYS} keys"));
    }
    let keys: Vec<TokenKey> = set.keys.iter().filter_map(|value| set_key(value, with_secrets)).collect();
    if keys.is_empty() {
        return Err("it has no key for HS256, RS256, ES256 or EdDSA".to_owned());
    }
    Ok(keys)
}

fn set_key(value: &Value, with_secrets: bool) -> Option<TokenKey> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let algorithm = match (text("kty")?, text("crv")) {
        ("oct", _) if with_secrets => TokenAlgorithm::HS256,
        ("RSA", _) => TokenAlgorithm::RS256,
        ("EC", Some("P-256")) => TokenAlgorithm::ES256,
        ("OKP", Some("Ed25519")) => TokenAlgorithm::EdDSA,
        _ => return None,
    };
    // A key says which algorithm it is for, or its type does. One that is for another, or not for signatures, is not ours.
    let is_ours = text("alg").is_none_or(|alg| alg == name(algorithm)) && text("use").is_none_or(|of| of == "sig");
    let verifies = value
        .get("key_ops")
        .is_none_or(|operations| operations.as_array().is_some_and(|list| list.iter().any(|one| one == "verify")));
    if !is_ours || !verifies {
        return None;
    }
    let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
    let key = DecodingKey::from_jwk(&jwk).ok().filter(|key| has_length_of(algorithm, key))?;
    Some(TokenKey { kid: text("kid").unwrap_or_default().into(), algorithm, key })
}
