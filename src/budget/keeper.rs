//! The keeper: writes notes down every few seconds, and evicts in small steps.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{
    Answered, Bounds, Budget, Enforced, Index, IndexError, Place, Totals,
    bounds::{Excess, Reason},
    index::{self, Entry},
    uses::{Moment, moment, now, unix_seconds},
    walk::Walker,
};
use crate::store::{Candidate, Evicted, Space};

/// How often the bounds are looked at when nothing is written.
const TICK: Duration = Duration::from_secs(1);
/// Renditions that go at once.
const STEP: usize = 64;
/// Between two steps, so that the disk has time for others.
const PAUSE: Duration = Duration::from_millis(2);
/// Steps for one reason before notes are written down again.
const STEPS: usize = 32;
/// Notes of one transaction.
const NOTES: usize = 4096;
/// With less room than this, the disk is full.
const CRAMPED: u64 = 256 << 10;
/// Before an index that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Keeps a budget until it is stopped, or nobody holds it any more.
pub(super) async fn keep(budget: Weak<Budget>, wake: Arc<Notify>, mut stop: watch::Receiver<bool>) {
    let mut keeper = Keeper { index: None, opened_at: None, last_error: String::new(), written_at: Instant::now() };
    let walker = Walker::start(budget.clone());
    loop {
        let is_over = *stop.borrow();
        // Held for a turn only: a budget that the next config has replaced ends with its last request.
        let Some(budget) = budget.upgrade() else { break };
        keeper.turn(&budget, &walker, is_over).await;
        drop(budget);
        if is_over {
            break;
        }
        tokio::select! {
            () = sleep(TICK) => {}
            () = wake.notified() => {}
            _ = stop.changed() => {}
        }
    }
    walker.stop();
    if let Some(index) = keeper.index {
        index.close().await;
    }
}

struct Keeper {
    index: Option<Index>,
    /// When it was last tried.
    opened_at: Option<Instant>,
    last_error: String,
    written_at: Instant,
}

impl Keeper {
    async fn turn(&mut self, budget: &Budget, walker: &Walker, is_last: bool) {
        let Some(place) = &budget.place else { return };
        let ticket = budget.asked.load(Ordering::Acquire);
        let is_called = ticket > budget.answered.borrow().ticket;
        let mut has_room = false;
        let done = self.try_turn(budget, place, walker, is_last, is_called).await;
        match done {
            Ok(removed) => has_room = removed,
            Err(error) => self.close(place, &error).await,
        }
        budget.metrics.store_index_up.set(self.index.is_some().into());
        if is_called {
            budget.answered.send_replace(Answered { ticket, has_room });
        }
    }

    /// `true` when a call for room was heard.
    async fn try_turn(
        &mut self,
        budget: &Budget,
        place: &Place,
        walker: &Walker,
        is_last: bool,
        is_called: bool,
    ) -> Result<bool, IndexError> {
        if self.index.as_ref().is_some_and(|index| !index.is_there()) {
            return Err(IndexError::Away("it was removed, and is made anew".into()));
        }
        if self.index.is_none() && !self.open(budget, place, walker).await? {
            return Ok(false);
        }
        let Some(index) = &mut self.index else { return Ok(false) };
        let bounds = budget.bounds.load_full();
        if is_last || is_called || self.written_at.elapsed() >= bounds.flush() {
            self.written_at = Instant::now();
            loop {
                let notes = budget.uses.take(NOTES);
                if notes.is_empty() {
                    break;
                }
                index.write(&notes).await?;
            }
        }
        if is_last {
            return Ok(false);
        }
        let mut has_room = false;
        if is_called {
            let excess = Bounds::room(space(budget).await);
            has_room = evict(budget, index, excess, latest_use(bounds.protected())).await? > 0;
        }
        enforce(budget, index, &bounds).await?;
        Ok(has_room)
    }

    /// Opens the index. `false`: not yet again.
    async fn open(&mut self, budget: &Budget, place: &Place, walker: &Walker) -> Result<bool, IndexError> {
        if self.opened_at.is_some_and(|at| at.elapsed() < RETRY) {
            return Ok(false);
        }
        self.opened_at = Some(Instant::now());
        if let Some(folder) = place.file.parent().filter(|folder| *folder == place.root && !folder.exists()) {
            // The first rendition makes it, with its mode.
            tracing::debug!(folder = %folder.display(), "the store is not there yet, and neither is its index");
            self.opened_at = None;
            return Ok(false);
        }
        let (index, is_new) = match Index::open(place).await {
            // SQLite needs some room to read even. What is in the index can be found again, and a disk that is full cannot wait.
            Err(IndexError::Away(_)) if space(budget).await.is_some_and(|space| space.free_bytes < CRAMPED) => {
                index::discard(&place.file)?;
                Index::open(place).await?
            }
            result => result?,
        };
        self.index = Some(index);
        self.last_error.clear();
        if is_new {
            tracing::info!(file = %place.file.display(), "a new index of the store: what is stored is counted behind");
        }
        walker.look();
        Ok(true)
    }

    async fn close(&mut self, place: &Place, error: &IndexError) {
        let text = error.to_string();
        if text != self.last_error {
            tracing::warn!(file = %place.file.display(), error = text, "the store's index cannot be used");
            self.last_error = text;
        }
        if let Some(index) = self.index.take() {
            index.close().await;
            // It worked until now.
            self.opened_at = None;
        }
        if matches!(error, IndexError::Damaged(_))
            && let Err(error) = index::discard(&place.file)
        {
            tracing::warn!(file = %place.file.display(), %error, "the store's damaged index cannot be removed");
        }
    }
}

/// Sees to every bound once, and says in the metrics how things are.
async fn enforce(budget: &Budget, index: &mut Index, bounds: &Bounds) -> Result<(), IndexError> {
    let mut is_over = false;
    if let Some(seconds) = bounds.max_idle() {
        let excess = Excess { reason: Reason::MaxIdle, bytes: 0, files: u64::MAX };
        evict(budget, index, excess, latest_use(seconds)).await?;
    }
    let (mut totals, mut room) = (index.totals().await?, space(budget).await);
    if let Some(excess) = bounds.excess(totals, room) {
        is_over = evict(budget, index, excess, latest_use(bounds.protected())).await? == 0;
        (totals, room) = (index.totals().await?, space(budget).await);
    }
    let Totals { files, bytes } = totals;
    let metrics = &budget.metrics;
    metrics.store_files.set(files.try_into().unwrap_or(i64::MAX));
    metrics.store_bytes.set(bytes.try_into().unwrap_or(i64::MAX));
    metrics.store_over_budget.set(is_over.into());
    metrics.store_index_complete.set((index.walked_at().await? > 0).into());
    if let Some(space) = room {
        metrics.store_free_bytes.set(space.free_bytes.try_into().unwrap_or(i64::MAX));
        metrics.store_free_inodes.set(space.free_inodes.try_into().unwrap_or(i64::MAX));
    }
    Ok(())
}

/// Sees to every bound until none is overstepped, or nothing more may go.
pub(super) async fn enforce_to_the_end(
    budget: &Budget,
    index: &mut Index,
    is_dry_run: bool,
) -> Result<Enforced, IndexError> {
    let bounds = budget.bounds.load_full();
    let before = index.totals().await?;
    let mut is_over = false;
    if let Some(excess) = bounds.excess(before, space(budget).await).filter(|_| is_dry_run) {
        let (stored_files, stored_bytes) = (before.files, before.bytes);
        return Ok(Enforced { files: excess.files, bytes: excess.bytes, stored_files, stored_bytes, is_over: true });
    }
    if let Some(seconds) = bounds.max_idle().filter(|_| !is_dry_run) {
        let excess = Excess { reason: Reason::MaxIdle, bytes: 0, files: u64::MAX };
        while evict(budget, index, excess, latest_use(seconds)).await? > 0 {}
    }
    while let Some(excess) = bounds.excess(index.totals().await?, space(budget).await) {
        if evict(budget, index, excess, latest_use(bounds.protected())).await? == 0 {
            is_over = true;
            break;
        }
    }
    let after = index.totals().await?;
    let (files, bytes) = (before.files.saturating_sub(after.files), before.bytes.saturating_sub(after.bytes));
    Ok(Enforced { files, bytes, stored_files: after.files, stored_bytes: after.bytes, is_over })
}

/// What was last used before this moment may go, so many seconds being protected.
fn latest_use(protected: u32) -> Moment {
    now().saturating_sub(protected)
}

async fn space(budget: &Budget) -> Option<Space> {
    budget.store.space().await.ok().flatten()
}

/// Takes the longest unused renditions out, as many as are too many: how many went.
pub(super) async fn evict(
    budget: &Budget,
    index: &mut Index,
    excess: Excess,
    before: Moment,
) -> Result<u64, IndexError> {
    let (mut files, mut bytes) = (0, 0);
    for _ in 0..STEPS {
        if files >= excess.files && bytes >= excess.bytes {
            break;
        }
        let mut idle = index.idle(before, STEP).await?;
        if idle.is_empty() {
            break;
        }
        keep_enough(&mut idle, excess.files.saturating_sub(files), excess.bytes.saturating_sub(bytes));
        let (went, freed) = step(budget, index, &idle, before, excess.reason).await?;
        (files, bytes) = (files + went, bytes + freed);
        sleep(PAUSE).await;
    }
    Ok(files)
}

/// Leaves no more than are needed for so many files and bytes.
fn keep_enough(idle: &mut Vec<Entry>, files: u64, bytes: u64) {
    let mut sum = 0;
    let needed = idle.iter().zip(0..).take_while(|(entry, number)| {
        let is_needed = *number < files || sum < bytes;
        sum += entry.bytes;
        is_needed
    });
    let needed = needed.count();
    idle.truncate(needed);
}

/// Removes these: how many went, and the room that they had.
async fn step(
    budget: &Budget,
    index: &mut Index,
    idle: &[Entry],
    before: Moment,
    reason: Reason,
) -> Result<(u64, u64), IndexError> {
    let made_before = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds(before).unsigned_abs());
    let candidates = idle.iter().map(|entry| Candidate { path: entry.name.path(), made_before }).collect();
    let evicted = match budget.store.evict(candidates).await {
        Ok(evicted) => evicted,
        Err(error) => {
            budget.metrics.store_error(error.kind);
            return Err(IndexError::Away(error.to_string()));
        }
    };
    // Whoever has seen them, or sees them still, looks again.
    budget.steps.fetch_add(1, Ordering::AcqRel);
    let (mut files, mut bytes, mut room) = (0, 0, 0);
    let (mut gone, mut used) = (Vec::new(), Vec::new());
    for (entry, evicted) in idle.iter().zip(evicted) {
        match evicted {
            Evicted::Removed { bytes: length, disk_bytes } => {
                (files, bytes, room) = (files + 1, bytes + length, room + disk_bytes);
                gone.push(entry.name);
            }
            Evicted::Absent => gone.push(entry.name),
            Evicted::Kept { made_at } => used.push((entry.name, moment(made_at))),
            Evicted::Failed(error) => {
                budget.metrics.store_error(error.kind);
                tracing::warn!(path = entry.name.path(), %error, "a rendition could not be evicted");
                // The others have their turn first.
                used.push((entry.name, now()));
            }
        }
    }
    budget.metrics.evicted(reason.name(), files, bytes);
    index.settle(&gone, &used).await?;
    let freed = if matches!(reason, Reason::MinFree | Reason::NoSpace) { room } else { bytes };
    Ok((files, freed))
}
