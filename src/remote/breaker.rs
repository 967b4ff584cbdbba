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
    rest: Duration,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// All may pass; so many have failed since the last that did not.
    Closed { failures: u32 },
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
    is_trial: bool,
    is_told: bool,
}

impl Breaker {
    /// Opens `after` so many failures in a row, and rests for so long.
    pub fn new(after: u32, rest: Duration) -> Arc<Self> {
        Arc::new(Self { after, rest, state: Mutex::new(State::Closed { failures: 0 }) })
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
        Ok(Leave { breaker: self.clone(), is_trial, is_told: false })
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
    /// The call got an answer.
    pub fn succeeded(mut self) {
        self.is_told = true;
        let mut state = self.breaker.lock();
        // One that began before the breaker opened is no trial: it may have been slow for a reason that has lasted.
        if self.is_trial || matches!(*state, State::Closed { .. }) {
            *state = State::Closed { failures: 0 };
        }
    }

    /// It got none.
    pub fn failed(self) {
        self.failed_at(Instant::now());
    }

    fn failed_at(mut self, now: Instant) {
        self.is_told = true;
        let mut state = self.breaker.lock();
        let failures = match *state {
            State::Closed { failures } => failures.saturating_add(1),
            State::Trial if self.is_trial => self.breaker.after,
            State::Open { .. } | State::Trial => return,
        };
        *state = if failures >= self.breaker.after {
            State::Open { until: now + self.breaker.rest }
        } else {
            State::Closed { failures }
        };
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
    fn a_trial_that_nobody_ends_is_followed_by_another() {
        let breaker = Breaker::new(1, Duration::ZERO);
        breaker.enter().unwrap().failed();
        drop(breaker.enter().unwrap());
        breaker.enter().unwrap().succeeded();
        assert!(breaker.enter().is_ok());
    }
}
