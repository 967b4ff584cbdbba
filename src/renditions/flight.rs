//! Single flight: one piece of work for each key, however many ask.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Notify, watch};
use tracing::Instrument as _;

/// How a caller came by a flight's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It began the flight.
    Leader,
    /// It joined one under way.
    Follower,
}

/// A flight's task ended without a result: it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crashed;

/// Flights under way, by key.
///
/// Each runs on a task of its own: a caller that goes away cancels nobody. Its result, error or not, reaches every waiter,
/// and its entry leaves the map however it ends.
pub struct Flights<K, V> {
    under_way: Arc<Mutex<HashMap<K, Flight<V>>>>,
}

/// A flight under way: where its result appears, and who is told that it is urgent.
struct Flight<V> {
    result: watch::Sender<Option<V>>,
    hurry: Arc<Notify>,
}

/// Tells a flight's work whether anybody still waits for it, and how urgently.
pub struct Audience<V> {
    result: watch::Sender<Option<V>>,
    hurry: Arc<Notify>,
}

impl<V> Audience<V> {
    /// Returns when nobody does. Somebody may come again.
    pub async fn left(&self) {
        self.result.closed().await;
    }

    /// Returns when [`Flights::hurry`] has been called.
    pub async fn hurried(&self) {
        self.hurry.notified().await;
    }
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self { under_way: Arc::default() }
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Joins the flight of `key`, or begins one with `work`.
    ///
    /// # Errors
    /// [`Crashed`] when the flight's task panicked.
    pub async fn join<F>(&self, key: &K, work: impl FnOnce(Audience<V>) -> F) -> Result<(V, Role), Crashed>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (mut result, role) = self.board(key, work);
        let landed = result.wait_for(Option::is_some).await.map_err(|_| Crashed)?;
        landed.clone().map(|value| (value, role)).ok_or(Crashed)
    }

    fn board<F>(&self, key: &K, work: impl FnOnce(Audience<V>) -> F) -> (watch::Receiver<Option<V>>, Role)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = under_way.get(key) {
            return (flight.result.subscribe(), Role::Follower);
        }
        let (sender, receiver) = watch::channel(None);
        let hurry = Arc::new(Notify::new());
        under_way.insert(key.clone(), Flight { result: sender.clone(), hurry: hurry.clone() });
        drop(under_way);
        let entry = Entry { key: key.clone(), under_way: self.under_way.clone() };
        let work = work(Audience { result: sender.clone(), hurry });
        let flight = async move {
            // Dropped after the result is sent, or when the work panics; either way the next caller begins anew.
            let _entry = entry;
            let value = work.await;
            sender.send_replace(Some(value));
        };
        // The leader's trace is the flight's.
        tokio::spawn(flight.in_current_span());
        (receiver, Role::Leader)
    }

    /// Tells the flight of `key`, if there is one, that somebody is in a hurry. What that means is the work's business.
    pub fn hurry(&self, key: &K) {
        if let Some(flight) = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).get(key) {
            flight.hurry.notify_one();
        }
    }

    /// Waits for those flights that are under way at this moment and that `of` chooses: how many there were. Those that begin
    /// later are not waited for.
    pub async fn landed(&self, of: impl Fn(&K) -> bool) -> usize {
        let chosen: Vec<_> = {
            let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            under_way.iter().filter(|(key, _)| of(key)).map(|(_, flight)| flight.result.subscribe()).collect()
        };
        let count = chosen.len();
        for mut result in chosen {
            // A flight that crashed has ended too.
            let _ = result.wait_for(Option::is_some).await;
        }
        count
    }

    /// Flights under way.
    pub fn count(&self) -> usize {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Takes a flight's entry out of the map when dropped.
struct Entry<K: Eq + Hash, V> {
    key: K,
    under_way: Arc<Mutex<HashMap<K, Flight<V>>>>,
}

impl<K: Eq + Hash, V> Drop for Entry<K, V> {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        time::Duration,
    };

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_thousand_callers_one_flight() {
        let flights = Arc::new(Flights::<u32, usize>::default());
        let runs = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..1000)
            .map(|_| {
                let (flights, runs) = (flights.clone(), runs.clone());
                tokio::spawn(async move {
                    flights
                        .join(&7, |_| async move {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                            runs.fetch_add(1, SeqCst)
                        })
                        .await
                })
            })
            .collect();
        let mut leaders = 0;
        for caller in callers {
            let (value, role) = caller.await.unwrap().unwrap();
            assert_eq!(value, 0);
            leaders += usize::from(role == Role::Leader);
        }
        assert_eq!((leaders, runs.load(SeqCst), flights.count()), (1, 1, 0));
    }

    #[tokio::test]
    async fn a_caller_that_leaves_cancels_nobody() {
        let flights = Arc::new(Flights::<u32, Result<u8, String>>::default());
        let leader = {
            let flights = flights.clone();
            tokio::spawn(async move {
                let work = |_| async {
                    tokio::time::sleep(Duration::from_millis(60)).await;
                    Err("its error reaches all".to_owned())
                };
                flights.join(&1, work).await
            })
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        leader.abort();
        let (value, role) = flights.join(&1, |_| async { unreachable!("the flight is under way") }).await.unwrap();
        assert_eq!((value.unwrap_err().as_str(), role), ("its error reaches all", Role::Follower));
        assert_eq!(flights.count(), 0);
    }

    #[tokio::test]
    async fn a_crash_reaches_every_waiter_and_does_not_stick() {
        let flights = Flights::<u32, u8>::default();
        assert_eq!(flights.join(&1, |_| async { panic!("on purpose") }).await, Err(Crashed));
        assert_eq!(flights.count(), 0);
        assert_eq!(flights.join(&1, |_| async { 5 }).await, Ok((5, Role::Leader)));
    }

    #[tokio::test]
    async fn whoever_must_wait_for_what_is_under_way_waits_for_no_more() {
        let flights = Arc::new(Flights::<u32, u8>::default());
        let begin = |key: u32, ms: u64| {
            let flights = flights.clone();
            let work = move |audience: Audience<u8>| async move {
                tokio::select! {
                    () = audience.hurried() => 1,
                    () = tokio::time::sleep(Duration::from_millis(ms)) => 0,
                }
            };
            tokio::spawn(async move { flights.join(&key, work).await.unwrap().0 })
        };
        let (one, other, crashed) =
            (begin(1, 60_000), begin(2, 60_000), flights.join(&3, |_| async { panic!("on purpose") }));
        assert_eq!(crashed.await, Err(Crashed));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(flights.landed(|key| *key == 7).await, 0);
        flights.hurry(&1);
        flights.hurry(&7);
        assert_eq!(flights.landed(|key| *key == 1).await, 1);
        assert_eq!((one.await.unwrap(), flights.count(), other.is_finished()), (1, 1, false));
    }

    #[tokio::test]
    async fn work_learns_that_nobody_waits() {
        let flights = Arc::new(Flights::<u32, &str>::default());
        let join = |flights: Arc<Flights<u32, &'static str>>| async move {
            let work = |audience: Audience<&'static str>| async move {
                tokio::select! {
                    () = audience.left() => "given up",
                    () = tokio::time::sleep(Duration::from_secs(5)) => "done",
                }
            };
            flights.join(&1, work).await
        };
        let (one, other) = (tokio::spawn(join(flights.clone())), tokio::spawn(join(flights.clone())));
        tokio::time::sleep(Duration::from_millis(20)).await;
        one.abort();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(flights.count(), 1, "one still waits");
        other.abort();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(flights.count(), 0);
    }
}
