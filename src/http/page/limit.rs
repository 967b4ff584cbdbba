//! Wrong passwords are few: for all clients together, and for each where they can be told apart.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use moka::sync::Cache;

/// Wrong passwords in a row, of all clients; and when the next one is forgiven.
const ALL: Bounds = Bounds { burst: 20.0, every: Duration::from_secs(3) };
/// The same of one client.
const ONE: Bounds = Bounds { burst: 5.0, every: Duration::from_secs(20) };
/// Clients that are remembered.
const CLIENTS: u64 = 10_000;

struct Bounds {
    burst: f64,
    every: Duration,
}

/// A bucket of attempts that fills again.
#[derive(Clone, Copy, Default)]
struct Bucket {
    /// Attempts taken, less what has been forgiven since `at`.
    taken: f64,
    at: Option<Instant>,
}

impl Bucket {
    fn now(self, bounds: &Bounds) -> Self {
        let now = Instant::now();
        let forgiven = self.at.map_or(0.0, |at| (now - at).as_secs_f64() / bounds.every.as_secs_f64());
        Self { taken: (self.taken - forgiven).max(0.0), at: Some(now) }
    }

    fn is_full(self, bounds: &Bounds) -> bool {
        self.now(bounds).taken + 1.0 > bounds.burst
    }

    fn taking(self, bounds: &Bounds) -> Self {
        let now = self.now(bounds);
        Self { taken: now.taken + 1.0, ..now }
    }
}

/// The attempts of all. Each process counts its own.
pub(super) struct Limit {
    all: Mutex<Bucket>,
    clients: Cache<String, Bucket>,
}

impl Default for Limit {
    fn default() -> Self {
        let idle = ONE.every * 2 * ONE.burst as u32;
        Self { all: Mutex::default(), clients: Cache::builder().max_capacity(CLIENTS).time_to_idle(idle).build() }
    }
}

impl Limit {
    /// Takes an attempt, unless there is none left. It is taken before the password is looked at: attempts at one moment count too.
    pub fn takes(&self, client: Option<&str>) -> bool {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let own = client.map(|client| (client, self.clients.get(client).unwrap_or_default()));
        if all.is_full(&ALL) || own.is_some_and(|(_, bucket)| bucket.is_full(&ONE)) {
            return false;
        }
        *all = all.taking(&ALL);
        if let Some((client, bucket)) = own {
            self.clients.insert(client.to_owned(), bucket.taking(&ONE));
        }
        true
    }

    /// Gives back the attempt of a good password.
    pub fn give_back(&self, client: Option<&str>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.taken = (all.taken - 1.0).max(0.0);
        if let Some(client) = client {
            self.clients.invalidate(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_is_stopped_before_all_are() {
        let limit = Limit::default();
        assert_eq!((0..9).filter(|_| limit.takes(Some("a"))).count(), 5);
        assert!(limit.takes(Some("b")), "another one is not");
        limit.give_back(Some("a"));
        assert!(limit.takes(Some("a")));
        // A stream of clients that nobody has seen before ends at the bound of all.
        let others = (0..40).filter(|number| limit.takes(Some(&format!("client {number}")))).count();
        assert!((13..=16).contains(&others), "{others}");
        assert!(!limit.takes(None));
    }
}
