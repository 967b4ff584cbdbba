//! Not asking again what does not answer.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Lets calls through until several in a row have failed; then none for a while; then one, which decides. So a server that
/// is down costs its callers nothing but the news, and is not run over when it comes back.
#[derive(Debug)]
pub struct Breaker {
    after: u32,
    spread: Duration,
    rest: Duration,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// All may pass; so many have failed since the last that did not. That one ended then, or the first of these began then,
    /// whichever was later.
    Closed { failures: u32, since: Option<Instant> },
    /// None may pass until then; the first behind it is a trial.
    Open { until: Instant },
    /// One is under way, and decides.
    Trial,
}

/// None may pass now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open;

/// Leave for one call. Say how it ended; dropped without a word, nothing is known of it.
#[derive(Debug)]
pub struct Leave {
    breaker: Arc<Breaker>,
    began: Instant,
    is_trial: bool,
    is_told: bool,
}

/// What the end of a call means for those who come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// None may pass any more.
    Off,
    /// All may pass again.
    On,
    /// Nothing is new.
    Not,
}

impl Breaker {
    /// Opens `after` so many failures in a row, and rests for so long.
    pub fn new(after: u32, rest: Duration) -> Arc<Self> {
        Self::spread(after, Duration::ZERO, rest)
    }

    /// As [`Self::new`], but for so much time none must have succeeded. A server that starts again breaks many calls at the same
    /// moment, and the second attempt at each finds it; one that is asked by many at once answers late, but it answers.
    pub fn spread(after: u32, spread: Duration, rest: Duration) -> Arc<Self> {
        Arc::new(Self { after, spread, rest, state: Mutex::new(State::Closed { failures: 0, since: None }) })
    }

    /// Leave to call now.
    ///
    /// # Errors
    /// [`Open`].
    pub fn enter(self: &Arc<Self>) -> Result<Leave, Open> {
        self.enter_at(Instant::now())
    }

    fn enter_at(self: &Arc<Self>, now: Instant) -> Result<Leave, Open> {
        let mut state = self.lock();
        let is_trial = match *state {
            State::Closed { .. } => false,
            State::Open { until } if until <= now => {
                *state = State::Trial;
                true
            }
            State::Open { .. } | State::Trial => return Err(Open),
        };
        Ok(Leave { breaker: self.clone(), began: now, is_trial, is_told: false })
    }

    /// Whether none may pass just now: for those who would have to wait for something else before they ask.
    pub fn is_resting(&self) -> bool {
        match *self.lock() {
            State::Closed { .. } => false,
            State::Open { until } => Instant::now() < until,
            State::Trial => true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked did so between two whole states.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leave {
    /// Whether this call decides for all: it should not take long.
    pub fn is_trial(&self) -> bool {
        self.is_trial
    }

    /// The call got an answer.
    pub fn succeeded(self) -> Turned {
        self.succeeded_at(Instant::now())
    }

    fn succeeded_at(mut self, now: Instant) -> Turned {
        self.is_told = true;
        let mut state = self.breaker.lock();
        // One that began before the breaker opened is no trial: it may have been slow for a reason that has lasted.
        if self.is_trial || matches!(*state, State::Closed { .. }) {
            *state = State::Closed { failures: 0, since: Some(now) };
        }
        if self.is_trial { Turned::On } else { Turned::Not }
    }

    /// It got none.
    pub fn failed(self) -> Turned {
        self.failed_at(Instant::now())
    }

    fn failed_at(mut self, now: Instant) -> Turned {
        self.is_told = true;
        let Breaker { after, spread, rest, .. } = *self.breaker;
        let mut state = self.breaker.lock();
        let open = State::Open { until: now + rest };
        match *state {
            State::Closed { failures, since } => {
                let since = match (failures, since) {
                    (0, last) => last.map_or(self.began, |last| last.max(self.began)),
                    (_, since) => since.unwrap_or(self.began),
                };
                let failures = failures.saturating_add(1);
                if failures >= after && now.saturating_duration_since(since) >= spread {
                    *state = open;
                    return Turned::Off;
                }
                *state = State::Closed { failures, since: Some(since) };
            }
            State::Trial if self.is_trial => *state = open,
            State::Open { .. } | State::Trial => {}
        }
        Turned::Not
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if self.is_trial && !self.is_told {
            // Given up by its caller: the next one may try.
            *self.breaker.lock() = State::Open { until: Instant::now() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(5);

    #[test]
    fn opens_after_failures_in_a_row_and_tries_once() {
        let breaker = Breaker::new(3, REST);
        let start = Instant::now();
        let enter = |seconds| breaker.enter_at(start + Duration::from_secs(seconds));
        enter(0).unwrap().failed_at(start);
        enter(0).unwrap().failed_at(start);
        enter(0).unwrap().succeeded();
        enter(0).unwrap().failed_at(start);
        enter(0).unwrap().failed_at(start);
        let late = enter(0).unwrap();
        enter(0).unwrap().failed_at(start);
        assert_eq!(enter(4).unwrap_err(), Open);
        // The news of a call from before is no trial, good or bad.
        late.succeeded();
        assert_eq!(enter(4).unwrap_err(), Open);

        let trial = enter(5).unwrap();
        assert_eq!(enter(5).unwrap_err(), Open, "one trial at a time");
        trial.failed_at(start + REST);
        assert_eq!(enter(9).unwrap_err(), Open);
        enter(10).unwrap().succeeded();
        enter(10).unwrap().failed_at(start);
        assert!(enter(10).is_ok());
    }

    #[test]
    fn what_breaks_at_one_moment_is_one_blow() {
        let breaker = Breaker::spread(2, REST, REST);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let all: Vec<_> = (0..9).map(|_| breaker.enter_at(at(1)).unwrap()).collect();
        let turned: Vec<_> = all.into_iter().map(|leave| leave.failed_at(at(2))).collect();
        assert_eq!(turned, [Turned::Not; 9]);
        assert_eq!(breaker.enter_at(at(5)).unwrap().failed_at(at(5)), Turned::Not);
        assert_eq!(
            breaker.enter_at(at(6)).unwrap().failed_at(at(6)),
            Turned::Off,
            "for five seconds none has succeeded"
        );
        let trial = breaker.enter_at(at(11)).unwrap();
        assert!(trial.is_trial());
        assert_eq!(trial.succeeded_at(at(11)), Turned::On);

        // A slow call counts from its beginning.
        let (slow, other) = (breaker.enter_at(at(20)).unwrap(), breaker.enter_at(at(20)).unwrap());
        slow.failed_at(at(25));
        assert_eq!(other.failed_at(at(25)), Turned::Off);

        // But not if another has succeeded meanwhile.
        let breaker = Breaker::spread(2, REST, REST);
        let calls: Vec<_> = (0..9).map(|_| breaker.enter_at(at(1)).unwrap()).collect();
        breaker.enter_at(at(4)).unwrap().succeeded_at(at(5));
        assert!(calls.into_iter().all(|slow| slow.failed_at(at(9)) == Turned::Not));
    }

    #[test]
    fn a_trial_that_nobody_ends_is_followed_by_another() {
        let breaker = Breaker::new(1, Duration::ZERO);
        breaker.enter().unwrap().failed();
        drop(breaker.enter().unwrap());
        breaker.enter().unwrap().succeeded();
        assert!(breaker.enter().is_ok());
    }
}
