//! Takes everything of an image away: its renditions, and whatever is remembered about it.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
};

use super::Renditions;
use crate::{
    model::{SourceKey, SourceRef},
    store::{Removed, StoreError},
};

impl Renditions {
    /// Removes all renditions of these source images, those included that were being made when the call came: they are waited
    /// for. The next request for one renders it again, from what the source is then. A rendition that is asked for meanwhile may
    /// be there again when this ends.
    ///
    /// # Errors
    /// The first that the store could not remove. The others are removed all the same, and none is believed to be there.
    pub async fn purge(&self, locations: &HashSet<SourceRef>) -> Result<Removed, StoreError> {
        let keys: HashMap<SourceKey, &SourceRef> = locations.iter().map(|at| (SourceKey::new(at), at)).collect();
        self.forget(locations).await;
        let mut removed = self.remove(keys.keys()).await;
        // Their results are published where something was just removed.
        if self.renders.landed(|key| keys.contains_key(key.source())).await > 0 {
            let late = self.remove(keys.keys()).await;
            removed = removed.and_then(|removed| Ok(removed + late?));
        }
        self.forget(locations).await;
        self.purges.fetch_add(1, Ordering::AcqRel);
        removed
    }

    async fn remove(&self, keys: impl Iterator<Item = &SourceKey>) -> Result<Removed, StoreError> {
        let mut removed = Ok(Removed::default());
        for key in keys {
            match self.store.remove(key).await {
                Ok(of_this) => removed = removed.map(|all| all + of_this),
                Err(error) => {
                    self.metrics.store_error(error.kind);
                    removed = removed.and(Err(error));
                }
            }
        }
        removed
    }

    async fn forget(&self, locations: &HashSet<SourceRef>) {
        for location in locations {
            self.known.invalidate(location);
            if let Some(source) = self.sources.get(&location.source) {
                // What cannot be forgotten ends by itself.
                let _ = source.forget(&location.path).await;
            }
        }
        self.planned.forget(locations);
        self.memory.forget(&locations.iter().map(|location| SourceKey::new(location).directory()).collect());
    }
}
