//! A key set that the site publishes: fetched when first needed, kept, and fetched again when it is old or lacks a key.
//!
//! Bounded in every way that a stranger can pull: whoever sends tokens with made-up key ids causes one fetch in
//! [`PAUSE`], and no more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use super::keys::{TokenKey, TokenKeyError, key_set};
use crate::remote::{Client, Fetch};

/// Between two fetches, whether they went well or not.
const PAUSE: Duration = Duration::from_secs(10);
/// Longest time for one fetch.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Longest key set.
const MAX_BYTES: usize = 256 << 10;
/// A key set that could not be fetched again for so long is believed no more: keys that the site has withdrawn must end.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// The key set of one URL.
#[derive(Debug)]
pub(super) struct Jwks {
    fetch: Fetch,
    client: Client,
    known: ArcSwap<Known>,
    fresh: Duration,
    /// When the last fetch began. The lock is held for its length: whoever comes meanwhile waits for its result.
    last_try: Mutex<Option<Instant>>,
    is_behind: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    keys: Arc<[TokenKey]>,
    since: Option<Instant>,
}

impl Jwks {
    /// The key set of a URL. Nothing is fetched yet.
    ///
    /// # Errors
    /// [`TokenKeyError::Url`] when it cannot be fetched from at all.
    pub fn new(url: &str, refresh_seconds: f64) -> Result<Self, TokenKeyError> {
        let failed = |error: crate::remote::RemoteError| TokenKeyError::Url(error.to_string());
        let fetch = Fetch::new(url, TIMEOUT, MAX_BYTES).map_err(failed)?;
        Ok(Self {
            client: Client::new(&fetch).map_err(failed)?,
            fetch,
            known: ArcSwap::default(),
            fresh: Duration::from_secs_f64(refresh_seconds),
            last_try: Mutex::new(None),
            is_behind: AtomicBool::new(false),
        })
    }

    /// Takes over what another one has fetched from the same place, as old as it is. What it is fetching now is not waited for.
    pub fn adopt(&self, other: &Self) {
        self.known.store(other.known.load_full());
    }

    /// The keys, as far as they are known and not too old to be believed.
    pub fn keys(&self) -> Arc<[TokenKey]> {
        let known = self.known.load();
        match known.since {
            Some(since) if since.elapsed() < STALE => known.keys.clone(),
            _ => Arc::default(),
        }
    }

    /// Where it is fetched.
    pub fn url(&self) -> String {
        self.fetch.url()
    }

    /// Whether no key is known.
    pub fn is_empty(&self) -> bool {
        self.keys().is_empty()
    }

    /// Fetches the set, unless that was tried a moment ago.
    ///
    /// # Errors
    /// When no key is known at the end: then nobody can tell a good token from a bad one.
    pub async fn refresh(&self) -> Result<(), String> {
        let mut last_try = self.last_try.lock().await;
        let is_due = last_try.is_none_or(|begun| begun.elapsed() >= PAUSE);
        let mut failed = "it could not be fetched a moment ago".to_owned();
        if is_due {
            *last_try = Some(Instant::now());
            match self.fetch_set().await {
                Ok(keys) => self.known.store(Arc::new(Known { keys: keys.into(), since: Some(Instant::now()) })),
                Err(error) => {
                    tracing::warn!(url = self.fetch.url(), error, "the key set of auth.jwt.jwks_url cannot be had");
                    failed = error;
                }
            }
        }
        if self.is_empty() { Err(format!("there is no key set: {failed}")) } else { Ok(()) }
    }

    /// Begins a fetch that nobody waits for, where the set is older than it should be.
    pub fn refresh_behind(self: &Arc<Self>) {
        let is_old = self.known.load().since.is_none_or(|since| since.elapsed() >= self.fresh);
        if is_old && !self.is_behind.swap(true, Ordering::Relaxed) {
            let this = self.clone();
            tokio::spawn(async move {
                // Said in the log where it fails; what is known goes on being believed.
                let _ = this.refresh().await;
                this.is_behind.store(false, Ordering::Relaxed);
            });
        }
    }

    async fn fetch_set(&self) -> Result<Vec<TokenKey>, String> {
        let answer = self.client.get(&self.fetch, &hyper::HeaderMap::new()).await.map_err(|error| error.to_string())?;
        match answer.status() {
            hyper::StatusCode::OK => key_set(answer.body(), false),
            status => Err(format!("the answer is {status}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{access::token::Tokens, config::JwtConfig};

    fn tokens(jwks_refresh_seconds: f64) -> Tokens {
        let jwks_url = Some("http://127.0.0.1:9/keys".into());
        Tokens::new(&JwtConfig { jwks_url, jwks_refresh_seconds, ..JwtConfig::default() }).unwrap()
    }

    /// A reload keeps the keys and nothing else of the old config.
    #[test]
    fn fetched_keys_outlive_a_config_and_its_intervals_do_not() {
        let (old, new) = (tokens(300.0), tokens(5.0));
        let set = br#"{"keys": [{"kty": "oct", "kid": "a", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}]}"#;
        let keys = key_set(set, true).unwrap().into();
        old.jwks.as_ref().unwrap().known.store(Arc::new(Known { keys, since: Some(Instant::now()) }));
        let new = new.with_keys_of(&old);
        let jwks = new.jwks.as_ref().unwrap();
        assert_eq!((jwks.keys().len(), jwks.fresh), (1, Duration::from_secs(5)));
    }
}
