//! Renders that come together. Whoever asks for the sizes of a new photo waits for one probe of it with all the others, and
//! enters the queue within moments of them: the first to enter waits for those on their way, so that the workers begin with
//! what serves them all.
//!
//! Only those that are known to come are waited for, and only by their like: a request that is alone waits for nobody.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, Hash},
    sync::Arc,
    time::{Duration, Instant},
};

use super::Admission;

/// How long those that have entered wait for the others. The runtime's timer rounds up to whole milliseconds, so that it is
/// two at most.
const WAIT: Duration = Duration::from_millis(1);

/// Those who come together, by what they come for.
#[derive(Default)]
pub(super) struct Companies(HashMap<u64, Company>);

/// Where somebody is still on the way.
struct Company {
    coming: usize,
    /// When those that have entered go without the others; `None` before the first has.
    until: Option<Instant>,
}

impl Companies {
    fn expect(&mut self, id: u64) {
        self.0.entry(id).or_insert(Company { coming: 0, until: None }).coming += 1;
    }

    /// One less is on the way: it is in the queue, or will not come. When those in the queue go without the rest, if there
    /// is a rest.
    fn one_less(&mut self, id: u64, now: Option<Instant>) -> Option<Instant> {
        let company = self.0.get_mut(&id)?;
        company.coming -= 1;
        if company.coming == 0 {
            self.0.remove(&id);
            return None;
        }
        company.until = company.until.or_else(|| Some(now? + WAIT));
        company.until
    }

    /// Whether those of a company that are in the queue wait for others.
    pub(super) fn waits(&self, id: u64, now: Instant) -> bool {
        self.0.get(&id).and_then(|company| company.until).is_some_and(|until| now < until)
    }

    /// Ends all waiting.
    pub(super) fn set_out(&mut self, now: Instant) {
        self.0.values_mut().filter(|company| company.until.is_some()).for_each(|company| company.until = Some(now));
    }
}

/// A render that is on its way to the queue, as far as is known. It arrives by [`Admission::enter`]; dropped, it does not come.
pub struct Coming {
    admission: Option<Arc<Admission>>,
    company: u64,
}

impl Coming {
    /// Notes the arrival: its company, and until when it waits for the others.
    pub(super) fn arrive(mut self, companies: &mut Companies, now: Instant) -> (u64, Option<Instant>) {
        self.admission = None; // its lock is held
        (self.company, companies.one_less(self.company, Some(now)))
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if let Some(admission) = &self.admission {
            let mut state = admission.lock();
            if state.companies.one_less(self.company, None).is_none() {
                admission.dispatch(&mut state);
                admission.publish(&state);
            }
        }
    }
}

impl fmt::Debug for Coming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Coming").field(&self.company).finish()
    }
}

impl Admission {
    /// Expects a render soon, together with all others that are expected for the same thing.
    pub fn expect(self: &Arc<Self>, company: &impl Hash) -> Coming {
        // Two companies with one number would wait for each other, for no longer than for their own.
        let company = self.hasher.hash_one(company);
        self.lock().companies.expect(company);
        Coming { admission: Some(self.clone()), company }
    }
}
