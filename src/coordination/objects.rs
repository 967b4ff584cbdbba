//! Leases as objects in the store, where it creates only what is not there.
//!
//! Whether it does is found out by trying (Garage 2.5, for one, overwrites). What a bucket cannot do is to delete an object only if
//! it is still the one that was read: of two waiters that take over the same dead holder's lease at the same moment, one may take
//! the other's. Then both render, and write the same.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use super::{
    Away, Claim, Coordinator, Lease, Pending, Watch,
    lease::{BEATS, ROUNDS, Sign},
};
use crate::{
    model::{RenditionKey, key::LAYOUT},
    remote::s3::{Bucket, Creation},
    store::{DRAFTS, LEASE, Lives, Owner},
};

/// Longest lease that is read.
const LEASE_BYTES: u64 = 256;

/// Leases in a bucket that the gates share.
pub struct LeaseObjects {
    inner: Arc<Inner>,
}

struct Inner {
    bucket: Arc<Bucket>,
    owner: Owner,
    counter: AtomicU64,
    abandoned_after: Duration,
}

impl LeaseObjects {
    /// Leases beside the renditions of a bucket; one without a sign of life for `abandoned_after` is taken over.
    pub fn new(bucket: Arc<Bucket>, abandoned_after: Duration) -> Self {
        let inner = Inner { bucket, owner: Owner::this_process(), counter: AtomicU64::new(0), abandoned_after };
        Self { inner: Arc::new(inner) }
    }
}

/// What a claim finds.
enum Found {
    /// A lease that is ours now, with this mark.
    Ours { mark: String, taken_over: bool },
    /// Somebody else's, who lives.
    Theirs,
    /// A store that overwrites what it is asked to create.
    Impossible,
}

/// What a lease says: whose it is, and which beat of the heart.
fn text(mark: &str, beat: u64) -> Bytes {
    format!("{mark} {beat}").into()
}

fn sign(text: &[u8]) -> Sign {
    let text = String::from_utf8_lossy(text);
    let (mark, beat) = text.split_once(' ').unwrap_or((&text, ""));
    (mark.to_owned(), beat.parse().unwrap_or_default())
}

impl Inner {
    fn key(key: &RenditionKey) -> String {
        let name = key.path().rsplit('/').next().unwrap_or_default();
        format!("{LAYOUT}/{DRAFTS}/{LEASE}{name}")
    }

    async fn claim(&self, key: &str, watch: &mut Watch) -> Result<Found, Away> {
        let mark = self.owner.mark(self.counter.fetch_add(1, Ordering::Relaxed));
        let mut taken_over = false;
        for _ in 0..ROUNDS {
            match self.bucket.put_if_absent(key, text(&mark, 0)).await.map_err(Away::new)? {
                Creation::Created => return Ok(Found::Ours { mark, taken_over }),
                Creation::Exists => {}
                Creation::Unsupported => return Ok(Found::Impossible),
            }
            let held = self.bucket.read(key, LEASE_BYTES).await.map_err(Away::new)?;
            let Some(sign) = held.map(|held| sign(&held)) else { continue };
            let is_dead = self.owner.is_gone(&sign.0, &mut Lives::new());
            if !is_dead && watch.unchanged_since(sign).elapsed() < self.abandoned_after {
                return Ok(Found::Theirs);
            }
            self.bucket.delete(key).await.map_err(Away::new)?;
            taken_over = true;
        }
        Ok(Found::Theirs)
    }

    /// Removes a lease if it is still ours: a gate that slept too long has lost it.
    async fn release(&self, key: &str, mark: &str) -> Result<(), Away> {
        let held = self.bucket.read(key, LEASE_BYTES).await.map_err(Away::new)?;
        match held.map(|held| sign(&held)) {
            Some((of, _)) if of == mark => self.bucket.delete(key).await.map_err(Away::new),
            _ => Ok(()),
        }
    }
}

impl Coordinator for LeaseObjects {
    fn claim<'a>(&'a self, key: &'a RenditionKey, watch: &'a mut Watch) -> Pending<'a, Claim> {
        Box::pin(async move {
            let key = Inner::key(key);
            let (mark, taken_over) = match self.inner.claim(&key, watch).await? {
                Found::Ours { mark, taken_over } => (mark, taken_over),
                Found::Theirs => return Ok(Claim::Theirs),
                Found::Impossible => return Ok(Claim::Nobodys),
            };
            let (inner, at, of) = (self.inner.clone(), key.clone(), mark.clone());
            let heartbeat = async move {
                for beat in 1.. {
                    tokio::time::sleep(inner.abandoned_after / BEATS).await;
                    // What is lost is lost: the render goes on, and at worst another one begins.
                    let _ = inner.bucket.put(&at, text(&of, beat), "text/plain").await;
                }
            };
            let inner = self.inner.clone();
            let release = async move {
                let _ = inner.release(&key, &mark).await;
            };
            Ok(Claim::Mine(Lease::new(heartbeat, release, taken_over)))
        })
    }

    fn probe(&self) -> Pending<'_, String> {
        Box::pin(async {
            match self.inner.bucket.creates_only(LAYOUT).await.map_err(Away::new)? {
                true => Ok("by lease objects in the store".to_owned()),
                // All that one gate alone needs; several do the same work twice.
                false => {
                    Ok("none: the store overwrites what it is asked to create, so that each gate renders for itself; \
                             several agree with coordination.kind = \"redis\" or \"postgres\""
                        .to_owned())
                }
            }
        })
    }
}
