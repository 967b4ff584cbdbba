//! Requests solved before: what a hit finds instead of computing it again.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use moka::sync::Cache;

use crate::{
    model::{FocalPoint, RenditionKey, SourceRef, SourceVersion},
    render::plan::Plan,
    spec::FilterSpec,
};

/// Solutions held at most; some 600 bytes each.
const CAPACITY: u64 = 200_000;

/// A filter spec solved for one version of a source image.
#[derive(Clone, Debug)]
pub struct Planned {
    location: SourceRef,
    version: SourceVersion,
    spec: FilterSpec,
    focal_point: Option<FocalPoint>,
    /// The plan.
    pub plan: Plan,
    /// The rendition's key.
    pub key: RenditionKey,
}

impl Planned {
    /// Names what a plan makes.
    pub fn new(
        location: &SourceRef,
        version: &SourceVersion,
        spec: &FilterSpec,
        focal_point: Option<FocalPoint>,
        plan: Plan,
    ) -> Self {
        let key = RenditionKey::new(location, version, &plan.recipe(), plan.encoding.format());
        Self { location: location.clone(), version: version.clone(), spec: spec.clone(), focal_point, plan, key }
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

    fn hash(&self, location: &SourceRef, spec: &FilterSpec) -> u64 {
        self.hasher.hash_one((location, spec))
    }
}
