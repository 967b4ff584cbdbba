//! Takes everything of an image away: its renditions, and whatever is remembered about it.

use std::{collections::HashSet, sync::atomic::Ordering};

use super::Renditions;
use crate::{
    model::{SourceKey, SourceRef},
    store::{Removed, RenditionFile, StoreError},
};

impl Renditions {
    /// Removes all renditions of these source images, those included that were being made when the call came: they are waited
    /// for. The next request for one renders it again, from what the source is then. A rendition that is asked for meanwhile, or
    /// that another gate is making, may be there again when this ends: of a version that the source still has.
    ///
    /// # Errors
    /// The first that the store could not remove. The others are removed all the same, and none is believed to be there.
    pub async fn purge(&self, locations: &HashSet<SourceRef>) -> Result<Removed, StoreError> {
        self.purge_folders(&locations.iter().map(SourceKey::new).collect(), locations).await
    }

    /// As [`Self::purge`], by the folders in the store: of some it may not be known what they are of.
    ///
    /// # Errors
    /// As [`Self::purge`].
    pub async fn purge_folders(
        &self,
        keys: &HashSet<SourceKey>,
        locations: &HashSet<SourceRef>,
    ) -> Result<Removed, StoreError> {
        self.forget(locations);
        let mut removed = self.remove(keys.iter()).await;
        // Their results are published where something was just removed.
        if self.renders.landed(|key| keys.contains(key.source())).await > 0 {
            let late = self.remove(keys.iter()).await;
            removed = removed.and_then(|removed| Ok(removed + late?));
        }
        self.forget(locations);
        self.purges.fetch_add(1, Ordering::AcqRel);
        removed
    }

    /// Removes these renditions of these source images, and forgets whatever was seen of the images.
    ///
    /// # Errors
    /// The store's own.
    pub async fn purge_files(
        &self,
        files: &[RenditionFile],
        locations: &HashSet<SourceRef>,
    ) -> Result<Removed, StoreError> {
        let removed = self.store.discard(files).await.inspect_err(|error| self.metrics.store_error(error.kind));
        files.iter().for_each(|file| self.budget.note_removed(&file.path));
        self.forget(locations);
        self.purges.fetch_add(1, Ordering::AcqRel);
        removed
    }

    /// Forgets what another gate has purged: what was seen of it in the store is not believed any more.
    pub fn forget_purged(&self, locations: &HashSet<SourceRef>) {
        self.forget(locations);
        self.purges.fetch_add(1, Ordering::AcqRel);
    }

    /// Forgets what was seen in the store, whatever it is of, and which versions remote files have.
    pub fn forget_all(&self) {
        for source in self.sources.values() {
            source.forget_all();
        }
        self.purges.fetch_add(1, Ordering::AcqRel);
    }

    /// Notes that another gate has made a rendition, where the config lets memory count.
    pub fn note_made(&self, path: String, bytes: u64) {
        if self.terms.believe() {
            self.told.insert(path, (bytes, self.era()));
        }
    }

    async fn remove(&self, keys: impl Iterator<Item = &SourceKey>) -> Result<Removed, StoreError> {
        let mut removed = Ok(Removed::default());
        for key in keys {
            match self.store.remove(key).await {
                Ok(of_this) => {
                    self.budget.note_emptied(key);
                    removed = removed.map(|all| all + of_this);
                }
                Err(error) => {
                    self.metrics.store_error(error.kind);
                    removed = removed.and(Err(error));
                }
            }
        }
        removed
    }

    fn forget(&self, locations: &HashSet<SourceRef>) {
        for location in locations {
            self.known.invalidate(location);
            if let Some(source) = self.sources.get(&location.source) {
                source.forget(&location.path);
            }
        }
        self.planned.forget(locations);
        self.memory.forget(&locations.iter().map(|location| SourceKey::new(location).directory()).collect());
    }
}
