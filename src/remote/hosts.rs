//! What is remembered of each host that is asked: how many ask at a time, and whether it answers.

use std::{sync::Arc, time::Duration};

use moka::{policy::EvictionPolicy, sync::Cache};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Breaker, Leave};

/// Hosts that are remembered; who names more of them makes us forget those that were not asked for longest.
const MAX_HOSTS: u64 = 1024;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// Turns at hosts.
#[derive(Debug)]
pub struct Hosts {
    most: usize,
    patience: Duration,
    failures: u32,
    rest: Duration,
    known: Cache<String, Arc<Host>>,
}

#[derive(Debug)]
struct Host {
    turns: Arc<Semaphore>,
    breaker: Arc<Breaker>,
}

/// Why there is no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostBusy {
    /// It failed too often in a row, a moment ago.
    #[error("it failed again and again, and is left alone for a moment")]
    Broken,
    /// Too many ask it already.
    #[error("too many ask it at the same time")]
    Full,
}

/// Leave to ask a host once; others wait while it is held.
#[derive(Debug)]
pub struct Turn {
    leave: Leave,
    _place: OwnedSemaphorePermit,
}

impl Hosts {
    /// At most `most` ask a host at a time, and wait for `patience`. After so many `failures` in a row it has its `rest`.
    pub fn new(most: usize, patience: Duration, failures: u32, rest: Duration) -> Self {
        let known = Cache::builder()
            .max_capacity(MAX_HOSTS)
            .time_to_idle(FORGOTTEN_AFTER)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { most, patience, failures, rest, known }
    }

    /// A turn at a host, named with its port.
    ///
    /// # Errors
    /// [`HostBusy`].
    pub async fn turn(&self, host: &str) -> Result<Turn, HostBusy> {
        let host = self.known.get_with_by_ref(host, || {
            let breaker = Breaker::new(self.failures, self.rest);
            Arc::new(Host { turns: Arc::new(Semaphore::new(self.most)), breaker })
        });
        if host.breaker.is_resting() {
            return Err(HostBusy::Broken);
        }
        let place = tokio::time::timeout(self.patience, host.turns.clone().acquire_owned());
        // A closed semaphore would be no place either.
        let place = place.await.ok().and_then(Result::ok).ok_or(HostBusy::Full)?;
        // After the wait: what happened meanwhile counts.
        let leave = host.breaker.enter().map_err(|_| HostBusy::Broken)?;
        Ok(Turn { leave, _place: place })
    }
}

impl Turn {
    /// It answered.
    pub fn succeeded(self) {
        self.leave.succeeded();
    }

    /// It did not, or not as a server should.
    pub fn failed(self) {
        self.leave.failed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_at_a_time_and_none_where_nobody_answers() {
        let hosts = Hosts::new(2, Duration::from_millis(20), 2, Duration::from_secs(60));
        let (one, two) = (hosts.turn("a:80").await.unwrap(), hosts.turn("a:80").await.unwrap());
        assert_eq!(hosts.turn("a:80").await.unwrap_err(), HostBusy::Full);
        assert!(hosts.turn("b:80").await.is_ok(), "another host has turns of its own");
        one.failed();
        two.failed();
        assert_eq!(hosts.turn("a:80").await.unwrap_err(), HostBusy::Broken);
        assert!(hosts.turn("b:80").await.is_ok());
    }

    #[tokio::test]
    async fn hosts_beyond_number_are_forgotten() {
        let hosts = Hosts::new(1, Duration::ZERO, 1, Duration::from_secs(60));
        for number in 0..5 * MAX_HOSTS {
            hosts.turn(&format!("{number}:80")).await.unwrap().succeeded();
        }
        hosts.known.run_pending_tasks();
        assert!(hosts.known.entry_count() <= MAX_HOSTS);
    }
}
