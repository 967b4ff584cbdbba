//! The bearer token of the operations listener.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::keys::{KeyError, MIN_KEY_BYTES};
use crate::config::OpsConfig;

/// What `/purge`, `/warm` and `/sign` are asked with. Only its digest is kept: digests are of one length, so that a comparison
/// tells nothing about the token's.
#[derive(Clone)]
pub struct OpsToken([u8; 32]);

impl OpsToken {
    /// The config's token, from `ops.token` or `ops.token_file`, if it has one.
    ///
    /// # Errors
    /// When it is none that a request's header could carry, or that nobody could guess.
    pub fn new(config: &OpsConfig) -> Result<Option<Self>, KeyError> {
        let bad = |why: String| Err(KeyError::OpsToken(why));
        let given = config.secret().map_err(|error| KeyError::OpsToken(error.to_string()))?;
        let Some(token) = given.as_ref().map(|token| token.expose().as_bytes()) else { return Ok(None) };
        if token.len() < MIN_KEY_BYTES {
            return bad(format!("has {} bytes; at least {MIN_KEY_BYTES} are needed", token.len()));
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return bad("holds letters, digits and signs of ASCII, and no spaces: it travels in a header".into());
        }
        Ok(Some(Self(Sha256::digest(token).into())))
    }

    /// Whether this is the token; in a time that says nothing about either.
    pub fn is(&self, given: &[u8]) -> bool {
        Sha256::digest(given).ct_eq(&self.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn token(text: &str) -> Result<Option<OpsToken>, KeyError> {
        OpsToken::new(&OpsConfig { token: Some(Secret::new(text.into())), token_file: None })
    }

    #[test]
    fn a_token_is_itself_and_nothing_else() {
        let token = token("0123456789abcdef").unwrap().unwrap();
        assert!(token.is(b"0123456789abcdef"));
        for other in ["", "0123456789abcde", "0123456789abcdef ", "0123456789abcdeF", "0123456789abcdef\0"] {
            assert!(!token.is(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn tokens_that_cannot_be_meant_are_refused_without_being_shown() {
        for bad in ["", "canary", "canary canary canary", "canary-canary-é-canary", "canary-canary-canary\n"] {
            let error = token(bad).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with("ops.token: ") && !error.contains("canary"), "{bad:?}: {error}");
        }
        assert!(OpsToken::new(&OpsConfig::default()).unwrap().is_none());
    }

    #[test]
    fn a_file_may_hold_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        let config = |token| OpsConfig { token, token_file: Some(file.clone()) };
        assert!(OpsToken::new(&config(None)).unwrap().unwrap().is(b"0123456789abcdef"));
        assert!(OpsToken::new(&config(Some(Secret::new("0123456789abcdef".into())))).is_err());
    }
}
