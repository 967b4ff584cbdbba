//! The optional second proof: a JSON Web Token (RFC 7519), signed by the site, that says who asks and what they may see.
//!
//! The library checks signatures; everything that decides what a good signature is worth is here, on a clock that the caller
//! hands in. A key is for one algorithm, by the config or by the key set: what a token's header says about itself only
//! chooses among keys, and nothing else that the header says is heeded (RFC 8725, 3.1).

mod claims;
mod credentials;
mod images;
mod jwks;
mod keys;
mod mint;

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use self::{
    claims::{Claims, Header},
    jwks::Jwks,
};
pub use self::{
    credentials::Places,
    images::{ImagePattern, Template, TemplateError},
    keys::{TokenKey, TokenKeyError},
    mint::{MintError, Minted, mint},
};
use crate::{
    config::JwtConfig,
    model::{ImageId, SourceRef},
};

/// Longest token, in bytes: what common servers take for a whole header.
pub const MAX_TOKEN_BYTES: usize = 8192;

/// For how long a token that was verified counts as such without another look at its signature. A key that is taken away is
/// believed for no longer than this.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Verified tokens that are remembered at most.
const PLACES: usize = 1 << 12;

/// Why a token proves nothing. The client sees one and the same 401 for all; the reason is for the log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// The request has none.
    #[error("there is no token")]
    Missing,
    /// Header, cookie and query do not agree, or one of them is there twice with different tokens.
    #[error("the request has several tokens, and they differ")]
    Disagree,
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// Not three parts of base64 and JSON, or a claim of the wrong type.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// The key that the header names is for another algorithm, or none that is known.
    #[error("no key is for the token's algorithm")]
    Algorithm,
    /// The header names a key that nobody knows.
    #[error("the token names a key that is not known")]
    UnknownKey,
    /// The signature is not that of the key.
    #[error("the token's signature fits no key")]
    Signature,
    /// `exp` is over.
    #[error("the token has expired")]
    Expired,
    /// `nbf` or `iat` is in the future.
    #[error("the token is not valid yet")]
    NotYet,
    /// `aud` names somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// `iss` is somebody else.
    #[error("the token is from another issuer")]
    Issuer,
}

/// What a good token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which images; all where absent.
    images: Option<Vec<ImagePattern>>,
    /// The end of its life.
    until: SystemTime,
    /// Whom the token is about (`sub`), for `explain`.
    subject: Option<String>,
    /// The key that verified it.
    key: Arc<str>,
}

impl Grant {
    /// Whether it allows some images only.
    pub fn is_limited(&self) -> bool {
        self.images.is_some()
    }

    /// Whether it allows an image: `id` where the URL names one, `location` what that refers to.
    pub fn covers(&self, id: Option<ImageId>, location: &SourceRef) -> bool {
        let Some(patterns) = &self.images else { return true };
        let path = location.to_string();
        self.covers_id(id) || patterns.iter().any(|pattern| pattern.fits(&path))
    }

    /// Whether it allows an image whatever its id refers to.
    pub fn covers_id(&self, id: Option<ImageId>) -> bool {
        let Some(patterns) = &self.images else { return true };
        let id = id.map(|id| id.0.to_string());
        id.is_some_and(|id| patterns.iter().any(|pattern| pattern.fits(&id)))
    }

    /// The end of its life.
    pub fn until(&self) -> SystemTime {
        self.until
    }

    /// Whom the token is about.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// The `kid` of the key that verified it.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Which images, as they were written; all where absent.
    pub fn images(&self) -> Option<Vec<String>> {
        Some(self.images.as_ref()?.iter().map(ToString::to_string).collect())
    }
}

/// What a look at a token without waiting says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It is good.
    Good(Arc<Grant>),
    /// It names a key that a fresh key set may have.
    NeedsKeys,
}

/// Why a token was not found to be good.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckError {
    /// It proves nothing.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Nobody can tell: there is no key set.
    #[error("{0}")]
    NoKeys(String),
}

/// Checks tokens.
#[derive(Debug)]
pub struct Tokens {
    places: Places,
    keys: Vec<TokenKey>,
    jwks: Option<Arc<Jwks>>,
    rules: claims::Rules,
    remembered: Remembered,
}

impl Tokens {
    /// A checker with the config's keys.
    ///
    /// # Errors
    /// The first key or template that is not usable.
    pub fn new(config: &JwtConfig) -> Result<Self, TokenKeyError> {
        let keys = keys::configured(config)?;
        let jwks = config.jwks_url.as_deref().map(|url| Jwks::new(url, config.jwks_refresh_seconds)).transpose()?;
        Ok(Self {
            places: Places::new(config),
            keys,
            jwks: jwks.map(Arc::new),
            rules: claims::Rules::new(config)?,
            remembered: Remembered::default(),
        })
    }

    /// The same, with the key set that another checker has fetched from the same place already.
    pub fn with_keys_of(self, other: &Self) -> Self {
        if let (Some(ours), Some(theirs)) = (&self.jwks, &other.jwks)
            && ours.url() == theirs.url()
        {
            ours.adopt(theirs);
        }
        self
    }

    /// Where tokens are looked for.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Forgets every token that was verified: the next look at each is a first one.
    pub fn forget(&self) {
        self.remembered.places.iter().for_each(|place| place.store(None));
    }

    /// Says which keys there are, for `check`; a key set is fetched.
    ///
    /// # Errors
    /// A sentence, when the key set cannot be had.
    pub async fn probe(&self) -> Result<String, String> {
        let configured = format!("{} key(s) in the config", self.keys.len());
        let Some(jwks) = &self.jwks else { return Ok(configured) };
        jwks.refresh().await?;
        Ok(format!("{configured}, {} at {}", jwks.keys().len(), jwks.url()))
    }

    /// Checks a token without waiting.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn check_now(&self, token: &str, now: SystemTime) -> Result<Checked, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(grant) = self.remembered.find(&digest) {
            // Its life may have ended since.
            self.rules.is_alive(grant.until, now)?;
            return Ok(Checked::Good(grant));
        }
        let header = Header::of(token)?;
        let known = self.jwks.as_ref().map(|jwks| jwks.keys());
        let all = self.keys.iter().chain(known.iter().flat_map(|keys| keys.iter()));
        let is_meant = |key: &&TokenKey| header.kid.as_deref().is_none_or(|kid| **key.kid() == *kid);
        let candidates: Vec<&TokenKey> = all.filter(is_meant).collect();
        let mut right = candidates.iter().filter(|key| key.is_for(&header.alg)).peekable();
        let has_right = right.peek().is_some();
        let Some(key) = right.find(|key| key.verifies(token)) else {
            let is_named = header.kid.is_some();
            // A fresh set may have the key that is named; without any set, any key may be in it.
            return match &self.jwks {
                Some(jwks) if (candidates.is_empty() && is_named) || jwks.is_empty() => Ok(Checked::NeedsKeys),
                _ if candidates.is_empty() => Err(TokenError::UnknownKey),
                _ if has_right => Err(TokenError::Signature),
                _ => Err(TokenError::Algorithm),
            };
        };
        let grant = Arc::new(self.rules.grant(&Claims::of(token)?, key.kid(), now)?);
        self.remembered.keep(digest, grant.clone());
        if let Some(jwks) = &self.jwks {
            jwks.refresh_behind();
        }
        Ok(Checked::Good(grant))
    }

    /// Checks a token, with a fresh key set where it names a key that is not known.
    ///
    /// # Errors
    /// Why it proves nothing, or that nobody can tell.
    pub async fn check(&self, token: &str, now: SystemTime) -> Result<Arc<Grant>, CheckError> {
        if let Checked::Good(grant) = self.check_now(token, now)? {
            return Ok(grant);
        }
        if let Some(jwks) = &self.jwks {
            jwks.refresh().await.map_err(CheckError::NoKeys)?;
        }
        match self.check_now(token, now)? {
            Checked::Good(grant) => Ok(grant),
            Checked::NeedsKeys => Err(TokenError::UnknownKey.into()),
        }
    }
}

/// Tokens that were verified, by their digest. Each has one place, which the latest takes over: bounded, and looked up
/// without a lock.
struct Remembered {
    hasher: RandomState,
    places: Box<[ArcSwapOption<Verified>]>,
}

/// A token that was verified.
struct Verified {
    since: Instant,
    digest: [u8; 32],
    grant: Arc<Grant>,
}

impl Default for Remembered {
    fn default() -> Self {
        Self { hasher: RandomState::new(), places: (0..PLACES).map(|_| ArcSwapOption::empty()).collect() }
    }
}

impl std::fmt::Debug for Remembered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Remembered")
    }
}

impl Remembered {
    fn find(&self, digest: &[u8; 32]) -> Option<Arc<Grant>> {
        let place = self.place(digest).load();
        let verified = place.as_deref()?;
        let counts = verified.digest == *digest && verified.since.elapsed() < REMEMBERED;
        counts.then(|| verified.grant.clone())
    }

    fn keep(&self, digest: [u8; 32], grant: Arc<Grant>) {
        self.place(&digest).store(Some(Arc::new(Verified { since: Instant::now(), digest, grant })));
    }

    fn place(&self, digest: &[u8; 32]) -> &ArcSwapOption<Verified> {
        &self.places[self.hasher.hash_one(digest) as usize % PLACES]
    }
}

#[cfg(test)]
mod tests;
