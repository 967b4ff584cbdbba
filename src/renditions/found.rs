//! Whether a rendition is stored: by memory, as far as it is believed, else by the store.

use std::{sync::atomic::Ordering, time::Duration};

use tracing::Instrument as _;

use super::{
    Ask, EnsureError, Renditions,
    planned::{Era, Planned},
};
use crate::{model::SourceImage, store::StoredRendition, traces::part};

impl Renditions {
    /// Whether what was solved before for this very image is a hit still: [`Self::ensure`] without a future, for the case
    /// that nearly every request is. The source image has the version that it was solved for, and the rendition is stored.
    /// `false` is no verdict: `ensure` finds out what is the matter.
    pub fn is_hit(&self, image: &SourceImage, planned: &Planned) -> bool {
        let Some(source) = self.sources.get(&image.location.source) else { return false };
        let Some(Ok(stat)) = source.stat_now(&image.location.path) else { return false };
        let era = self.era();
        if !planned.is_of(stat, image) {
            return false;
        }
        let bytes = planned.believed(era).or_else(|| {
            // That it was not found says nothing: some stores cannot tell at once.
            let found = self.store.find_now(&planned.key);
            found.inspect(|bytes| self.note(planned, Some(*bytes), era))
        });
        bytes.inspect(|bytes| self.note_use(planned, *bytes)).is_some()
    }

    /// The rendition, if it is stored: as far as memory is trusted by its word, else by the disk's.
    pub(super) async fn stored(&self, planned: &Planned, ask: Ask) -> Result<Option<StoredRendition>, EnsureError> {
        let stored = self.find_stored(planned, ask).await?;
        Ok(stored.inspect(|stored| self.note_use(planned, stored.bytes)))
    }

    async fn find_stored(&self, planned: &Planned, ask: Ask) -> Result<Option<StoredRendition>, EnsureError> {
        let era = self.era();
        if let Some(bytes) = planned.believed(era).filter(|_| ask == Ask::Memory) {
            return Ok(Some(StoredRendition::new(&planned.key, bytes)));
        }
        if let Some(bytes) = self.told_of(planned, era).filter(|_| ask == Ask::Memory) {
            self.note(planned, Some(bytes), era);
            return Ok(Some(StoredRendition::new(&planned.key, bytes)));
        }
        let found = match self.store.find(&planned.key).instrument(part!("find")).await {
            Ok(found) => found,
            Err(error) => {
                let error = self.store_failed(error);
                // Where memory counts, it counts for longer while the store is away: what nginx keeps of it goes on being served.
                let once = if planned.terms.trust.is_zero() { None } else { planned.remembered(Duration::MAX, era) };
                return match once.filter(|_| ask == Ask::Memory) {
                    Some(bytes) => Ok(Some(StoredRendition::new(&planned.key, bytes))),
                    None => Err(error),
                };
            }
        };
        self.note(planned, found.as_ref().map(|stored| stored.bytes), era);
        Ok(found)
    }

    /// Remembers what a look has found that began in `era`, where the config lets memory count.
    pub(super) fn note(&self, planned: &Planned, bytes: Option<u64>, era: Era) {
        if !planned.terms.trust.is_zero() {
            planned.note(bytes, era);
        }
    }

    /// Notes for the store's index that a rendition was asked for.
    fn note_use(&self, planned: &Planned, bytes: u64) {
        self.budget.note_use(&planned.noted, &planned.key, bytes, planned.terms.preset);
    }

    /// The length of a rendition that another gate has told of, where the config lets memory count.
    fn told_of(&self, planned: &Planned, era: Era) -> Option<u64> {
        if planned.terms.trust.is_zero() {
            return None;
        }
        self.told.get(planned.key.path()).filter(|(_, of)| *of == era).map(|(bytes, _)| bytes)
    }

    pub(super) fn era(&self) -> Era {
        // Evictions as well as purges take away what was seen.
        Era(self.purges.load(Ordering::Acquire) + self.budget.steps())
    }
}
