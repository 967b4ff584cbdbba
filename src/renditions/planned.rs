//! Requests solved before: what a hit finds instead of computing it again.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::sync::Cache;

use super::terms::Terms;
use crate::{
    budget::LastNoted,
    model::{FocalPoint, RenditionKey, SourceImage, SourceRef, SourceVersion},
    render::plan::Plan,
    source::Stat,
    spec::FilterSpec,
};

/// Solutions held at most; some 600 bytes each.
const CAPACITY: u64 = 50_000;

/// A filter spec solved for one version of a source image.
#[derive(Debug)]
pub struct Planned {
    location: SourceRef,
    version: SourceVersion,
    spec: FilterSpec,
    focal_point: Option<FocalPoint>,
    /// The plan.
    pub plan: Plan,
    /// The rendition's key.
    pub key: RenditionKey,
    seen: Seen,
    /// How it is looked for, and what its uses are noted under.
    pub(super) terms: Terms,
    /// When its last use was noted for the store's index.
    pub(super) noted: LastNoted,
}

/// When the rendition was last found in the store or put there, and how long it was. Numbers without a lock: nobody is told
/// the one while the other changes, for a name is never reused for other bytes.
#[derive(Debug, Default)]
struct Seen {
    /// Milliseconds since the first use of this clock, and one more; 0: never.
    at_ms: AtomicU64,
    bytes: AtomicU64,
    /// The [`Era`].
    era: AtomicU64,
}

/// The time between two purges. What was seen in the store in an earlier one may be gone: a look that began before a purge ended
/// counts for the era that it began in, so that it cannot bring back what was purged meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Era(pub u64);

/// Milliseconds of a clock that begins with 1.
fn clock_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_millis() as u64 + 1
}

impl Planned {
    /// Names what a plan makes.
    pub(super) fn new(
        location: &SourceRef,
        version: &SourceVersion,
        spec: &FilterSpec,
        focal_point: Option<FocalPoint>,
        plan: Plan,
        terms: Terms,
    ) -> Self {
        let key = RenditionKey::new(location, version, &plan.recipe(), plan.encoding.format());
        let (location, version, spec) = (location.clone(), version.clone(), spec.clone());
        Self {
            location,
            version,
            spec,
            focal_point,
            plan,
            key,
            seen: Seen::default(),
            terms,
            noted: LastNoted::default(),
        }
    }

    /// Whether it was solved for this version of a source image.
    pub(super) fn is_of(&self, stat: Stat, image: &SourceImage) -> bool {
        Stat::from(&self.version) == stat && self.version.file_hash == image.file_hash
    }

    /// Notes that the rendition is stored, with this length, or that it is not: what a look that began in `era` has found.
    pub(super) fn note(&self, bytes: Option<u64>, era: Era) {
        if let Some(bytes) = bytes {
            self.seen.bytes.store(bytes, Ordering::Relaxed);
            self.seen.era.store(era.0, Ordering::Relaxed);
        }
        self.seen.at_ms.store(bytes.map_or(0, |_| clock_ms()), Ordering::Release);
    }

    /// The rendition's length, if memory counts for it by its terms: it was seen in this era, and lately enough.
    pub(super) fn believed(&self, era: Era) -> Option<u64> {
        self.remembered(self.terms.trust, era)
    }

    /// The rendition's length, if it was seen in this era and less than `trust` ago. `Duration::MAX` trusts for ever, zero
    /// never.
    pub(super) fn remembered(&self, trust: Duration, era: Era) -> Option<u64> {
        if trust.is_zero() {
            return None;
        }
        let at_ms = self.seen.at_ms.load(Ordering::Acquire);
        let is_of_now = at_ms != 0 && self.seen.era.load(Ordering::Relaxed) == era.0;
        let trusted = is_of_now && (trust == Duration::MAX || u128::from(clock_ms() - at_ms) < trust.as_millis());
        trusted.then(|| self.seen.bytes.load(Ordering::Relaxed))
    }

    /// The version it was solved for.
    pub fn version(&self) -> &SourceVersion {
        &self.version
    }
}

/// Solutions by what they are for. The plan is a function of that and of the config, so none is ever wrong; the version is
/// part of what is asked for, so none is ever stale.
pub(super) struct PlannedCache {
    hasher: RandomState,
    cache: Cache<u64, Arc<Planned>>,
}

impl Default for PlannedCache {
    fn default() -> Self {
        Self { hasher: RandomState::new(), cache: Cache::new(CAPACITY) }
    }
}

impl PlannedCache {
    pub fn find(
        &self,
        location: &SourceRef,
        version: &SourceVersion,
        spec: &FilterSpec,
        focal_point: Option<FocalPoint>,
    ) -> Option<Arc<Planned>> {
        // The hash spares building an owned key for the look-up; the comparison makes a collision a mere miss.
        let planned = self.cache.get(&self.hash(location, spec))?;
        let fits = planned.version == *version
            && planned.focal_point == focal_point
            && planned.spec == *spec
            && planned.location == *location;
        fits.then_some(planned)
    }

    pub fn insert(&self, planned: Planned) -> Arc<Planned> {
        let planned = Arc::new(planned);
        self.cache.insert(self.hash(&planned.location, &planned.spec), planned.clone());
        planned
    }

    /// Forgets what was solved for these source images.
    pub fn forget(&self, locations: &HashSet<SourceRef>) {
        for (hash, _) in self.cache.iter().filter(|(_, planned)| locations.contains(&planned.location)) {
            self.cache.invalidate(&*hash);
        }
    }

    fn hash(&self, location: &SourceRef, spec: &FilterSpec) -> u64 {
        self.hasher.hash_one((location, spec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::MediaPath, render::plan::Encoding};

    #[test]
    fn what_was_seen_before_a_purge_is_not_believed_after_it() {
        let facts = r#"{"format": "jpeg", "stored_size": {"width": 9, "height": 9}, "orientation": 1, "frames": 1,
                        "bytes_per_pixel": 3, "progressive": false}"#;
        let plan = Plan::whole(serde_json::from_str(facts).unwrap(), Encoding::Png);
        let location = SourceRef { source: "media".into(), path: MediaPath::parse("a.jpg").unwrap() };
        let version = SourceVersion { bytes: 1, modified_ns: 1, etag: None, file_hash: None };
        let planned =
            Planned::new(&location, &version, &FilterSpec::parse("original").unwrap(), None, plan, Terms::default());
        let believed = |era| planned.remembered(Duration::MAX, era);
        let (before, after) = (Era(1), Era(2));
        planned.note(Some(7), before);
        assert_eq!((believed(before), believed(after)), (Some(7), None));
        planned.note(None, after);
        // A look that began before the purge, and is noted after another one that found nothing.
        planned.note(Some(7), before);
        assert_eq!(believed(after), None);
        planned.note(Some(7), after);
        assert_eq!(believed(after), Some(7));
        assert_eq!(planned.remembered(Duration::ZERO, after), None);
    }
}
