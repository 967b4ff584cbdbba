//! The door of the editors' page: a password, then a cookie that says so.
//!
//! Gates hold no state. A session is a text with its end and a signature, so that every gate with the same config takes it, and its
//! key follows from the password and from the signing keys: whoever changes one of them ends all sessions. A logout removes the
//! browser's cookie; a copy of it would work to its end.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{keys::KeyError, route::RouteTable};
use crate::config::{PageConfig, Secret};

/// Shortest password, in characters: wrong ones are slowed down, and no more than that.
const MIN_CHARACTERS: usize = 12;
/// For how long a login form may be left open.
const FORM_LIFE: Duration = Duration::from_secs(3600);

/// Who may use the page.
#[derive(Clone)]
pub struct PageDoor {
    /// The password's digest: of one length, so that a comparison tells nothing about the password's.
    password: [u8; 32],
    key: [u8; 32],
    life: Duration,
}

/// A login that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSession {
    /// What every call that changes something carries beside the cookie.
    pub csrf: String,
    /// When the login ends.
    pub ends: SystemTime,
}

impl PageDoor {
    /// The door of the config's page, if it has one.
    ///
    /// # Errors
    /// When the password cannot be read, or is too short.
    pub fn new(config: &PageConfig, table: &RouteTable) -> Result<Option<Self>, KeyError> {
        if config.listen.is_none() {
            return Ok(None);
        }
        let given = Secret::given(config.password.as_ref(), config.password_file.as_deref());
        let password = given
            .map_err(|error| KeyError::PagePassword(error.to_string()))?
            .ok_or_else(|| KeyError::PagePassword("is not set: what editors log in with (or password_file)".into()))?;
        let characters = password.expose().chars().count();
        if characters < MIN_CHARACTERS {
            let why = format!("has {characters} characters; at least {MIN_CHARACTERS} are needed");
            return Err(KeyError::PagePassword(why));
        }
        let digest: [u8; 32] = Sha256::digest(password.expose()).into();
        // Whoever has a cookie cannot try passwords by it at home: the signing keys are in the key too.
        let mut hasher = Sha256::new();
        table.feed_keys(b"sendimage page session\n", |derived| hasher.update(derived));
        let key = mac(&hasher.finalize(), &[b"sendimage-page-v1\n", &digest]);
        Ok(Some(Self { password: digest, key, life: Duration::from_secs_f64(config.session_seconds) }))
    }

    /// Whether this is the password; in a time that says nothing about either.
    pub fn opens(&self, given: &[u8]) -> bool {
        Sha256::digest(given).ct_eq(&self.password).into()
    }

    /// For how long a login holds.
    pub fn life(&self) -> Duration {
        self.life
    }

    /// The cookie's value for a login at this moment.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn begin(&self, now: SystemTime) -> Result<String, getrandom::Error> {
        self.seal("session", now + self.life)
    }

    /// The login that a cookie's value stands for.
    pub fn session(&self, cookie: &str, now: SystemTime) -> Option<PageSession> {
        let ends = self.open("session", cookie, now)?;
        Some(PageSession { csrf: encode(&mac(&self.key, &[b"csrf\n", cookie.as_bytes()])), ends })
    }

    /// A login form's own token: it was made here, not long ago.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn form_token(&self, now: SystemTime) -> Result<String, getrandom::Error> {
        self.seal("form", now + FORM_LIFE)
    }

    /// Whether a text is a login form's token.
    pub fn takes_form_token(&self, token: &str, now: SystemTime) -> bool {
        self.open("form", token, now).is_some()
    }

    /// `END.NONCE.MAC`
    fn seal(&self, purpose: &str, ends: SystemTime) -> Result<String, getrandom::Error> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)?;
        let ends = ends.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let said = format!("{ends}.{}", encode(&nonce));
        let sealed = encode(&self.sign(purpose, &said));
        Ok(format!("{said}.{sealed}"))
    }

    fn open(&self, purpose: &str, text: &str, now: SystemTime) -> Option<SystemTime> {
        let (said, sealed) = text.rsplit_once('.')?;
        // Texts, not decoded bytes: of base64 only the canonical spelling passes.
        let expected = encode(&self.sign(purpose, said));
        if !bool::from(expected.as_bytes().ct_eq(sealed.as_bytes())) {
            return None;
        }
        let ends: u64 = said.split('.').next()?.parse().ok()?;
        let ends = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(ends))?;
        (now < ends).then_some(ends)
    }

    fn sign(&self, purpose: &str, said: &str) -> [u8; 32] {
        mac(&self.key, &[purpose.as_bytes(), b"\n", said.as_bytes()])
    }
}

impl PageSession {
    /// Whether a call carries this session's token.
    pub fn is_of(&self, given: &str) -> bool {
        self.csrf.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // RFC 2104 defines HMAC for keys of any length; the crate's error cannot occur.
    let mac = Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
    parts.iter().fold(mac, |mac, part| mac.chain_update(part)).finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ListenAddress};

    fn door(password: &str, signing: &str) -> Result<Option<PageDoor>, KeyError> {
        let mut config = Config::default();
        config.signing.secret = Some(Secret::new(signing.into()));
        config.page.listen = Some(ListenAddress::Tcp(([127, 0, 0, 1], 1).into()));
        config.page.password = Some(Secret::new(password.into()));
        PageDoor::new(&config.page, &RouteTable::new(&config).unwrap())
    }

    const PASSWORD: &str = "correct horse battery";
    const SIGNING: &str = "0123456789abcdef";

    #[test]
    fn a_session_is_one_of_this_password_and_these_keys_for_its_time() {
        let (now, first) = (SystemTime::now(), door(PASSWORD, SIGNING).unwrap().unwrap());
        let cookie = first.begin(now).unwrap();
        let session = first.session(&cookie, now).unwrap();
        let again = door(PASSWORD, SIGNING).unwrap().unwrap();
        assert_eq!(again.session(&cookie, now), Some(session.clone()), "another gate takes it too");
        assert!(session.is_of(&session.csrf) && !session.is_of("") && !session.is_of(&cookie));

        let life = first.life();
        assert!(first.session(&cookie, now + life - Duration::from_secs(2)).is_some());
        assert_eq!(first.session(&cookie, now + life), None);
        for other in [door("another password", SIGNING), door(PASSWORD, "fedcba9876543210")] {
            assert_eq!(other.unwrap().unwrap().session(&cookie, now), None);
        }
        let form = first.form_token(now).unwrap();
        assert!(first.takes_form_token(&form, now) && !first.takes_form_token(&form, now + FORM_LIFE));
        assert!(!first.takes_form_token(&cookie, now) && first.session(&form, now).is_none(), "one is not the other");
        let later = cookie.replacen(|c: char| c.is_ascii_digit(), "9", 1);
        for forged in ["", ".", "..", "a.b.c", &later, &format!("{cookie}A"), &cookie[1..], &cookie[..cookie.len() - 1]]
        {
            assert!(first.session(forged, now).is_none(), "{forged}");
        }
    }

    #[test]
    fn passwords() {
        let good = door(PASSWORD, SIGNING).unwrap().unwrap();
        assert!(good.opens(PASSWORD.as_bytes()));
        for wrong in ["", "correct horse batterz", "correct horse battery "] {
            assert!(!good.opens(wrong.as_bytes()), "{wrong:?}");
        }
        assert!(matches!(door("elevenchars", SIGNING), Err(KeyError::PagePassword(_))));
        let mut without = Config::default();
        without.signing.secret = Some(Secret::new(SIGNING.into()));
        let table = RouteTable::new(&without).unwrap();
        assert!(PageDoor::new(&without.page, &table).unwrap().is_none());
    }
}
