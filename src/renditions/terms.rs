//! What a rendition's filter spec says about it beside its pixels: how it is looked for, and which preset it is.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{budget::Budget, config::StoreConfig, spec::FilterSpec};

/// How a rendition is looked for, and what its uses are noted under.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    /// For how long it counts as there once it was seen: zero asks each time, `Duration::MAX` once.
    pub trust: Duration,
    /// The preset's number in the store's index; 0: it is none.
    pub preset: u16,
}

/// The terms by filter spec. A rendition is one of a preset's when its spec is the preset's, whoever spelled it out: both are the
/// same file.
pub struct TermsBySpec {
    usual: Duration,
    by_spec: HashMap<String, Duration>,
    budget: Arc<Budget>,
}

impl TermsBySpec {
    /// What `[store]` says. `existence` is by filter spec in one spelling.
    pub fn new(
        store: &StoreConfig,
        existence: impl IntoIterator<Item = (String, crate::config::Existence)>,
        budget: Arc<Budget>,
    ) -> Self {
        let by_spec = existence.into_iter().map(|(spec, existence)| (spec, store.trust(existence))).collect();
        Self { usual: store.trust(store.existence), by_spec, budget }
    }

    /// The terms of a rendition; asked once for each that is planned.
    pub(super) fn of(&self, spec: &FilterSpec) -> Terms {
        let spec = spec.canonical();
        let trust = self.by_spec.get(&spec).copied().unwrap_or(self.usual);
        Terms { trust, preset: self.budget.preset(&spec) }
    }

    /// Whether memory counts for any rendition.
    pub(super) fn believe(&self) -> bool {
        !self.usual.is_zero() || self.by_spec.values().any(|trust| !trust.is_zero())
    }
}
