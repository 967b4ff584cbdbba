//! The right to make a rendition, for as long as its holder gives signs of life.

use std::{future::Future, pin::Pin, time::Instant};

use tokio::{sync::OwnedRwLockReadGuard, task::AbortHandle};

/// Signs of life in the time after which a lease counts as abandoned.
pub(super) const BEATS: u32 = 4;
/// A claim that finds a lease there and then gone begins anew, so often: whoever asks comes again soon.
pub(super) const ROUNDS: u32 = 3;

/// What a claim comes to.
pub enum Claim {
    /// This gate makes it.
    Mine(Lease),
    /// Another one does.
    Theirs,
    /// There can be no leases here: each gate makes it for itself.
    Nobodys,
}

/// A lease that this gate holds. Its signs of life end with it.
#[must_use]
pub struct Lease {
    heartbeat: Option<AbortHandle>,
    release: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Held until it is given back: who stops waits for that.
    out: Option<OwnedRwLockReadGuard<()>>,
    /// Whether it was taken from a holder that gave no sign of life.
    pub taken_over: bool,
}

impl Lease {
    /// A lease that is kept by `heartbeat`, which never ends by itself, and given back by `release`.
    pub fn new(
        heartbeat: impl Future<Output = ()> + Send + 'static,
        release: impl Future<Output = ()> + Send + 'static,
        taken_over: bool,
    ) -> Self {
        let heartbeat = Some(tokio::spawn(heartbeat).abort_handle());
        Self { heartbeat, release: Some(Box::pin(release)), out: None, taken_over }
    }

    /// Counts it among those that are out.
    pub(super) fn counted(mut self, out: Option<OwnedRwLockReadGuard<()>>) -> Self {
        self.out = out;
        self
    }

    /// Gives it back, and returns when that is done.
    #[cfg(test)]
    pub(super) async fn release(mut self) {
        self.stop();
        if let Some(release) = self.release.take() {
            release.await;
        }
    }

    /// Dies without a word, as a process that is killed does.
    #[cfg(test)]
    pub(super) fn die(mut self) {
        self.stop();
        self.release = None;
    }

    /// Freezes: no sign of life any more, and no knowledge of it.
    #[cfg(test)]
    pub(super) fn freeze(&mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(heartbeat) = self.heartbeat.take() {
            heartbeat.abort();
        }
    }
}

impl Drop for Lease {
    /// Gives it back, behind whoever drops it: others need not wait for the end of its signs of life. A render that panicked gives
    /// it back all the same.
    fn drop(&mut self) {
        self.stop();
        if let (Some(release), Ok(runtime)) = (self.release.take(), tokio::runtime::Handle::try_current()) {
            let out = self.out.take();
            runtime.spawn(async move {
                release.await;
                drop(out);
            });
        }
    }
}

/// What a waiter has seen of a lease, by its own clock: hosts' clocks are not compared.
#[derive(Debug, Default)]
pub struct Watch {
    seen: Option<(Sign, Instant)>,
}

/// A sign of life: who, and which beat of the heart.
pub(super) type Sign = (String, i128);

impl Watch {
    /// Since when this sign is the last one.
    pub(super) fn unchanged_since(&mut self, sign: Sign) -> Instant {
        match &self.seen {
            Some((seen, since)) if *seen == sign => *since,
            _ => {
                let now = Instant::now();
                self.seen = Some((sign, now));
                now
            }
        }
    }
}
