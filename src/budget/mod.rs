//! What the store holds, when each rendition was last asked for, and what has to go.
//!
//! A folder of renditions grows with every width that somebody asks for. The index knows its size without counting and its order of
//! uses without a date of any file; the keeper writes down what requests note, and takes the longest unused renditions out when a
//! bound of `[store]` is near. None of it is in a hit's way: a hit leaves a note, and never waits. Nothing right depends on it: a
//! rendition that went is made again when it is asked for.

mod bounds;
mod index;
mod keeper;
mod name;
#[cfg(test)]
mod tests;
mod uses;
mod walk;

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use bounds::Bounds;
use index::{Index, Place};
pub use index::{IndexError, Totals};
use name::{Folder, Name};
pub use uses::LastNoted;
use uses::{Note, Uses};

use crate::{
    config::Config,
    metrics::Metrics,
    model::{RenditionKey, SourceKey},
    store::Store,
};

/// How long a stop waits for the last notes to be written down.
const LAST_NOTES: Duration = Duration::from_secs(2);

/// A store's index and bounds.
pub struct Budget {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    /// `None`: the store has no index.
    place: Option<Place>,
    /// A preset's number by its filter spec in one spelling: its place in [`Place::presets`], and one more.
    presets: HashMap<String, u16>,
    bounds: ArcSwap<Bounds>,
    interval: AtomicU32,
    uses: Uses,
    wake: Arc<Notify>,
    /// Steps of eviction so far: what was seen in the store before the last one may be gone.
    steps: AtomicU64,
    /// Calls for room so far.
    asked: AtomicU64,
    answered: watch::Sender<Answered>,
    stop: watch::Sender<bool>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

/// What [`Budget::enforce`] has done, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Enforced {
    /// Renditions that went; in a dry run those that must at the least.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Renditions that are stored.
    pub stored_files: u64,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Whether a bound is overstepped still: nothing more may go.
    pub is_over: bool,
}

/// Up to which call for room there was an answer, and whether anything went for it.
#[derive(Clone, Copy, Debug, Default)]
struct Answered {
    ticket: u64,
    has_room: bool,
}

impl Budget {
    /// The budget of a store. Nothing is opened before [`Self::start`].
    pub fn new(config: &Config, store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Arc<Self> {
        let state = std::env::var_os("STATE_DIRECTORY");
        let presets: Vec<(String, bool)> = config.preset_specs().into_iter().collect();
        // Those beyond the number are presets all the same, but are not told apart.
        let numbers = (1..=u16::MAX).zip(&presets).map(|(number, (spec, _))| (spec.clone(), number)).collect();
        let file = config.index_file(state.as_deref().map(Path::new));
        let place = file.map(|file| Place { file, root: config.store.root.clone(), presets });
        let bounds = Bounds::from(&config.store);
        Arc::new(Self {
            store,
            metrics,
            place,
            presets: numbers,
            interval: AtomicU32::new(bounds.interval()),
            bounds: ArcSwap::from_pointee(bounds),
            uses: Uses::default(),
            wake: Arc::default(),
            steps: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            answered: watch::Sender::default(),
            stop: watch::Sender::new(false),
            keeper: Mutex::default(),
        })
    }

    /// The budget for a changed config: this one, with other bounds, where it is of the same store and index. The bounds count from
    /// [`Self::start`] on.
    pub fn renewed(self: &Arc<Self>, config: &Config, store: &Arc<dyn Store>) -> Arc<Self> {
        let other = Self::new(config, store.clone(), self.metrics.clone());
        if other.place == self.place { self.clone() } else { other }
    }

    /// Begins to keep the index, and the store within the bounds of this config. It may be called again, with others.
    pub fn start(self: &Arc<Self>, config: &Config) {
        let bounds = Bounds::from(&config.store);
        self.interval.store(bounds.interval(), Ordering::Relaxed);
        self.bounds.store(Arc::new(bounds));
        if self.place.is_none() {
            return;
        }
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.is_none() {
            *keeper = Some(tokio::spawn(keeper::keep(Arc::downgrade(self), self.wake.clone(), self.stop.subscribe())));
        }
        self.wake.notify_one();
    }

    /// Writes the last notes down and lets go of the index. A command that never started to keep it does so too, where there is one.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        let last_notes = async {
            match keeper {
                Some(keeper) => drop(keeper.await),
                None => self.write_notes().await,
            }
        };
        let _ = tokio::time::timeout(LAST_NOTES, last_notes).await;
    }

    async fn write_notes(&self) {
        let Some(place) = self.place.as_ref().filter(|place| place.file.exists()) else { return };
        let notes = self.uses.take(usize::MAX);
        if notes.is_empty() {
            return;
        }
        let write = async {
            let (mut index, _) = Index::open(place).await?;
            index.write(&notes).await?;
            index.close().await;
            Ok::<_, IndexError>(())
        };
        if let Err(error) = write.await {
            tracing::warn!(file = %place.file.display(), %error, "the store's index was not told what has changed");
        }
    }

    /// Compares the index with the disk and evicts what is too much, at once and to its end: for `gc`, beside running gates or
    /// without any. `None` where the store has no index or no bounds.
    ///
    /// # Errors
    /// When the index cannot be used.
    pub async fn enforce(&self, is_dry_run: bool) -> Result<Option<Enforced>, IndexError> {
        let Some(place) = self.place.as_ref().filter(|_| self.bounds.load().are_any()) else { return Ok(None) };
        let (mut index, _) = Index::open(place).await?;
        index.write(&self.uses.take(usize::MAX)).await?;
        walk::walk_now(self, &mut index).await?;
        let enforced = keeper::enforce_to_the_end(self, &mut index, is_dry_run).await;
        index.close().await;
        enforced.map(Some)
    }

    /// The number of the preset that a filter spec in one spelling is; 0: it is none.
    pub fn preset(&self, canonical: &str) -> u16 {
        self.presets.get(canonical).copied().unwrap_or(0)
    }

    /// Notes that a rendition was asked for, once in a while. Hits call this: no lock, no allocation, no waiting.
    pub fn note_use(&self, last: &LastNoted, key: &RenditionKey, bytes: u64, preset: u16) {
        if self.place.is_some() {
            let note = |at| Some(Note::Used { name: Name::of(key)?, bytes, at, preset });
            self.uses.note(last, self.interval.load(Ordering::Relaxed), note);
        }
    }

    /// Notes that a rendition was made, and has the bounds looked at.
    pub fn note_made(&self, last: &LastNoted, key: &RenditionKey, bytes: u64, preset: u16) {
        if self.place.is_some() {
            self.uses.note(last, 0, |at| Some(Note::Used { name: Name::of(key)?, bytes, at, preset }));
            self.wake.notify_one();
        }
    }

    /// Notes that a source image's renditions were removed.
    pub fn note_emptied(&self, source: &SourceKey) {
        if let Some(folder) = Folder::of(source).filter(|_| self.place.is_some()) {
            self.uses.put(Note::Emptied(folder));
        }
    }

    /// Notes that a rendition was removed.
    pub fn note_removed(&self, path: &str) {
        if let Some(name) = Name::parse(path).filter(|_| self.place.is_some()) {
            self.uses.put(Note::Removed(name));
        }
    }

    /// A number that changes when renditions were evicted: what was seen in the store before may be gone.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Acquire)
    }

    /// A write has failed for want of room: evicts, and says whether anything went. Without any bound in the config nothing does.
    pub async fn make_room(&self, deadline: Instant) -> bool {
        if !self.bounds.load().are_any() || self.place.is_none() {
            return false;
        }
        let mut answered = self.answered.subscribe();
        let ticket = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake.notify_one();
        let answer = answered.wait_for(|answered| answered.ticket >= ticket);
        matches!(tokio::time::timeout_at(deadline.into(), answer).await, Ok(Ok(answered)) if answered.has_room)
    }

    /// A sentence about the index, for `check`: what is stored and where that is written down. Nothing is made or thrown away.
    ///
    /// # Errors
    /// When there is an index and it cannot be read.
    pub async fn probe(&self) -> Result<Option<String>, IndexError> {
        let Some(place) = &self.place else { return Ok(None) };
        let file = place.file.display();
        if !place.file.exists() {
            return Ok(Some(format!("{file}, made when the service starts")));
        }
        let Totals { files, bytes } = index::read_totals(place).await?;
        Ok(Some(format!("{file}: {files} renditions, {}", bytesize::ByteSize(bytes))))
    }
}
