//! Signing keys, resolved from the config.

use std::{fmt, path::Path, sync::Arc};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use thiserror::Error;

use super::{
    scope::Scope,
    signature::{NativeMac, WagtailMac},
    token::TokenKeyError,
};
use crate::config::{Secret, SigningConfig, SigningKeyConfig, read_secret_file};

/// Shortest native key, in bytes: 128 bits (NIST SP 800-107, 5.3.4 asks for no less). `wagtail_keys` have no floor: they are
/// the site's.
pub const MIN_KEY_BYTES: usize = 16;
/// Id of the key that `signing.secret` or `signing.secret_file` make.
const SHORTHAND_ID: &str = "default";

/// A key for native signatures.
#[derive(Clone)]
pub struct NativeKey {
    id: Arc<str>,
    pub(super) mac: NativeMac,
    pub(super) scope: Scope,
}

/// A key for Wagtail signatures.
#[derive(Clone)]
pub struct WagtailKey {
    id: Arc<str>,
    pub(super) mac: WagtailMac,
}

impl NativeKey {
    /// The id from the config.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// What its URLs may ask for.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
}

impl WagtailKey {
    /// `wagtail-1`, `wagtail-2` ... in the config's order; the keys of a route's own have the route's name before that,
    /// `NAME-wagtail-1`.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// A key from its bytes; Django takes any.
    pub fn new(id: impl Into<Arc<str>>, bytes: &[u8]) -> Self {
        Self { id: id.into(), mac: WagtailMac::new(bytes) }
    }
}

impl fmt::Debug for NativeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NativeKey({:?})", self.id)
    }
}

impl fmt::Debug for WagtailKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WagtailKey({:?})", self.id)
    }
}

/// All keys of `[signing]`. The first native key signs.
#[derive(Clone, Debug, Default)]
pub struct KeyRing {
    /// For native signatures.
    pub native: Vec<NativeKey>,
    /// For Wagtail signatures.
    pub wagtail: Vec<WagtailKey>,
}

/// Why the keys are not usable. The message names the key by id, never by content.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// No key at all: nothing could ever be served. The section that lacks them.
    #[error("{0}: no key is set; `sendimage keygen` makes one")]
    None(String),
    /// Two keys share an id.
    #[error("signing.keys: the id {0:?} is used twice")]
    DuplicateId(String),
    /// An id that cannot be a metric label or a log field.
    #[error("signing.keys: {0:?} is not an id: use letters, digits, '-', '_' and '.'")]
    BadId(String),
    /// Not exactly one of `secret`, `secret_base64`, `secret_file`.
    #[error("signing key {0:?}: give exactly one of secret, secret_base64, secret_file")]
    NotOneSecret(String),
    /// Shorter than [`MIN_KEY_BYTES`].
    #[error("signing key {id:?} has {bytes} bytes; at least {MIN_KEY_BYTES} are needed")]
    TooShort {
        /// The key's id.
        id: String,
        /// Its length.
        bytes: usize,
    },
    /// Not base64.
    #[error("signing key {0:?}: secret_base64 is not base64")]
    NotBase64(String),
    /// An empty Wagtail key would accept what anybody signs.
    #[error("{key}: {id} is empty")]
    Empty {
        /// The config key.
        key: String,
        /// The key's id.
        id: String,
    },
    /// A key file cannot be read.
    #[error("signing key {id:?}: cannot read {file}: {error}")]
    Unreadable {
        /// The key's id.
        id: String,
        /// The file's path.
        file: String,
        /// The system's words.
        error: String,
    },
    /// `not_before` or `not_after` is no time.
    #[error("signing key {id:?}: {key} is not a time in RFC 3339, such as 2026-01-01T00:00:00Z")]
    BadTime {
        /// The key's id.
        id: String,
        /// The config key.
        key: &'static str,
    },
    /// A life that ends before it begins.
    #[error("signing key {0:?}: not_after comes before not_before")]
    NoLife(String),
    /// The keys of `[auth.jwt]`.
    #[error(transparent)]
    Token(#[from] TokenKeyError),
    /// `[auth.forward]` cannot be asked at all.
    #[error("auth.forward.url: {0}")]
    Forward(String),
    /// The operations listener's token is not usable.
    #[error("ops.token: {0}")]
    OpsToken(String),
    /// The editors' page has no usable password.
    #[error("page.password: {0}")]
    PagePassword(String),
    /// A route names a key that does not exist.
    #[error("routes.{route}.keys: there is no signing key {id:?}")]
    UnknownId {
        /// The route's name.
        route: String,
        /// The id asked for.
        id: String,
    },
}

impl KeyRing {
    /// Resolves all keys, reading key files.
    ///
    /// # Errors
    /// The first key that is not usable.
    pub fn new(config: &SigningConfig) -> Result<Self, KeyError> {
        let shorthand = (config.secret.is_some() || config.secret_file.is_some()).then(|| SigningKeyConfig {
            id: SHORTHAND_ID.into(),
            secret: config.secret.clone(),
            secret_file: config.secret_file.clone(),
            ..SigningKeyConfig::default()
        });
        let mut native: Vec<NativeKey> = Vec::new();
        for key in config.keys.iter().chain(&shorthand) {
            if native.iter().any(|other| *other.id == *key.id) {
                return Err(KeyError::DuplicateId(key.id.clone()));
            }
            native.push(native_key(key)?);
        }
        let texts = config.wagtail_keys.iter().map(|text| ("signing.wagtail_keys", text.expose().as_bytes().to_vec()));
        let mut wagtail: Vec<_> = texts.collect();
        for file in &config.wagtail_key_files {
            let id = format!("wagtail-{}", wagtail.len() + 1);
            wagtail.push(("signing.wagtail_key_files", read_key_file(&id, file)?));
        }
        Ok(Self { native, wagtail: wagtail_keys("", wagtail)? })
    }
}

/// The Wagtail keys of a route's own.
pub(super) fn wagtail_keys_of_route(route: &str, texts: &[Secret]) -> Result<Vec<WagtailKey>, KeyError> {
    let key = format!("routes.{route}.wagtail_keys");
    wagtail_keys(&format!("{route}-"), texts.iter().map(|text| (key.as_str(), text.expose().as_bytes().to_vec())))
}

/// Wagtail keys from the config keys that they stand under and their bytes, numbered in that order.
fn wagtail_keys<'a>(
    prefix: &str,
    secrets: impl IntoIterator<Item = (&'a str, Vec<u8>)>,
) -> Result<Vec<WagtailKey>, KeyError> {
    let numbered = secrets.into_iter().enumerate().map(|(index, (key, secret))| {
        let id = format!("{prefix}wagtail-{}", index + 1);
        if secret.is_empty() {
            Err(KeyError::Empty { key: key.to_owned(), id })
        } else {
            Ok(WagtailKey::new(id, &secret))
        }
    });
    numbered.collect()
}

fn native_key(config: &SigningKeyConfig) -> Result<NativeKey, KeyError> {
    let id = config.id.clone();
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(KeyError::BadId(id));
    }
    let bytes = match (&config.secret, &config.secret_base64, &config.secret_file) {
        (Some(secret), None, None) => secret.expose().as_bytes().to_vec(),
        (None, Some(secret), None) => STANDARD.decode(secret.expose()).map_err(|_| KeyError::NotBase64(id.clone()))?,
        (None, None, Some(file)) => read_key_file(&id, file)?,
        _ => return Err(KeyError::NotOneSecret(id)),
    };
    if bytes.len() < MIN_KEY_BYTES {
        return Err(KeyError::TooShort { id, bytes: bytes.len() });
    }
    Ok(NativeKey { id: id.into(), mac: NativeMac::new(&bytes), scope: Scope::new(config)? })
}

fn read_key_file(id: &str, file: &Path) -> Result<Vec<u8>, KeyError> {
    read_secret_file(file).map_err(|error| KeyError::Unreadable {
        id: id.to_owned(),
        file: file.display().to_string(),
        error: error.to_string(),
    })
}

/// A fresh key: 256 random bits from the system, in base64 without characters that a shell or TOML would mind.
///
/// # Errors
/// When the system has no randomness to give.
pub fn fresh_secret() -> Result<Secret, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signing(keys: Vec<SigningKeyConfig>) -> SigningConfig {
        SigningConfig { keys, ..SigningConfig::default() }
    }

    fn key(id: &str, secret: &str) -> SigningKeyConfig {
        SigningKeyConfig { id: id.into(), secret: Some(Secret::new(secret.into())), ..SigningKeyConfig::default() }
    }

    #[test]
    fn unusable_keys_are_named() {
        let sixteen = "0123456789abcdef";
        for (keys, expected) in [
            (vec![key("a", sixteen), key("a", sixteen)], KeyError::DuplicateId("a".into())),
            (vec![key("a b", sixteen)], KeyError::BadId("a b".into())),
            (vec![key("a", "short")], KeyError::TooShort { id: "a".into(), bytes: 5 }),
            (vec![key("a", "")], KeyError::TooShort { id: "a".into(), bytes: 0 }),
            (vec![SigningKeyConfig { secret: None, ..key("a", "") }], KeyError::NotOneSecret("a".into())),
        ] {
            assert_eq!(KeyRing::new(&signing(keys)).unwrap_err(), expected);
        }
        let empty = SigningConfig { wagtail_keys: vec![Secret::new(String::new())], ..SigningConfig::default() };
        assert_eq!(
            KeyRing::new(&empty).unwrap_err(),
            KeyError::Empty { key: "signing.wagtail_keys".into(), id: "wagtail-1".into() }
        );
    }

    #[test]
    fn fresh_secrets_differ() {
        let (a, b) = (fresh_secret().expect("randomness"), fresh_secret().expect("randomness"));
        assert_ne!(a, b);
        assert!(a.expose().len() >= 43);
    }
}
