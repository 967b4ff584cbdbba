//! The walk: fills a new index from what the store holds, and once a day sees whether both agree.
//!
//! It runs behind everything, in small steps with pauses, and one gate of those that share an index does it at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    Budget, Index, IndexError, Place,
    index::{Entry, discard},
    name::Name,
    uses::{Moment, moment, now},
};
use crate::store::{Depth, RenditionFile, Walk, Walked};

/// Rows of one step.
const STEP: usize = 512;
/// A pause is so many times as long as the step before it, when the index is new ...
const PAUSE_OF_NEW: u32 = 1;
/// ... and when it is only compared.
const PAUSE: u32 = 8;
/// How often index and store are compared.
const EVERY: Moment = 86_400;
/// How often it is looked at whether that is due.
const LOOK: Duration = Duration::from_secs(600);
/// A walk whose gate gave no sign of life for so long is taken over.
const TURN: Moment = 60;

/// The walk's task.
pub(super) struct Walker {
    look: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Walker {
    /// Begins to wait for a walk to be due.
    pub fn start(budget: Weak<Budget>) -> Self {
        let look = Arc::new(Notify::new());
        let due = look.clone();
        let task = tokio::spawn(async move {
            loop {
                let _ = timeout(LOOK, due.notified()).await;
                let Some(budget) = budget.upgrade() else { return };
                let Some(place) = &budget.place else { return };
                if let Err(error) = walk_if_due(&budget, place).await {
                    tracing::warn!(%error, "the walk through the store has ended early, and begins again later");
                    if matches!(error, IndexError::Damaged(_)) {
                        // The keeper finds it gone, and begins it anew.
                        let _ = discard(&place.file);
                    }
                }
            }
        });
        Self { look, task }
    }

    /// Looks at once whether a walk is due.
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// Ends a walk that is under way: the next start begins it again.
    pub fn stop(self) {
        self.task.abort();
    }
}

async fn walk_if_due(budget: &Budget, place: &Place) -> Result<(), IndexError> {
    let (mut index, _) = Index::open(place).await?;
    let walked_at = index.walked_at().await?;
    if walked_at > 0 && now() < walked_at.saturating_add(EVERY) {
        return Ok(());
    }
    let (began, pause) = (now(), if walked_at == 0 { PAUSE_OF_NEW } else { PAUSE });
    let result = walk(budget, &mut index, pause).await;
    index.close().await;
    if let Some((added, gone)) = result? {
        let seconds = now().saturating_sub(began);
        tracing::info!(added, gone, seconds, "the store was walked: its index is whole");
    }
    Ok(())
}

/// Compares index and store at once, unless another gate is about it.
pub(super) async fn walk_now(budget: &Budget, index: &mut Index) -> Result<(), IndexError> {
    walk(budget, index, 0).await.map(drop)
}

/// Compares index and store if it is this gate's turn, as [`compare`] does, and notes how it ended. `None` when it is another's, or
/// has become it.
async fn walk(budget: &Budget, index: &mut Index, pause: u32) -> Result<Option<(u64, u64)>, IndexError> {
    let began = now();
    let mut turn = Turn { until: began + TURN };
    if !index.take_turn(0, began, turn.until).await? {
        return Ok(None);
    }
    let result = compare(budget, index, &mut turn, pause).await;
    match &result {
        Ok(Some(_)) => index.end_turn(Some(began)).await?,
        Ok(None) => {}
        Err(_) => index.end_turn(None).await?,
    }
    result
}

/// The turn to walk, kept for as long as steps are made.
struct Turn {
    until: Moment,
}

impl Turn {
    /// `false` when another gate has taken it over.
    async fn keep(&mut self, index: &mut Index) -> Result<bool, IndexError> {
        let now = now();
        if self.until.saturating_sub(now) > TURN / 2 {
            return Ok(true);
        }
        let mine = std::mem::replace(&mut self.until, now + TURN);
        index.take_turn(mine, now, self.until).await
    }
}

/// Adds what the index does not have and forgets what the store does not: how many of each. `None` when the turn was lost.
async fn compare(
    budget: &Budget,
    index: &mut Index,
    turn: &mut Turn,
    pause: u32,
) -> Result<Option<(u64, u64)>, IndexError> {
    let Some(added) = add(index, turn, pause, budget.store.walk(Depth::Names)).await? else { return Ok(None) };
    // A new index has nothing to forget.
    if pause == PAUSE_OF_NEW {
        return Ok(Some((added, 0)));
    }
    let Some(gone) = forget(budget, index, turn, pause).await? else { return Ok(None) };
    Ok(Some((added, gone)))
}

async fn add(index: &mut Index, turn: &mut Turn, pause: u32, mut walk: Walk) -> Result<Option<u64>, IndexError> {
    let (mut found, mut added, mut is_over) = (Vec::new(), 0, false);
    while !is_over {
        let began = Instant::now();
        match walk.next().await {
            Some(Ok(Walked::Image(image))) => found.extend(image.renditions.iter().filter_map(entry)),
            Some(Ok(Walked::Unfinished(_) | Walked::Foreign(_))) => {}
            Some(Err(error)) => return Err(IndexError::Away(error.to_string())),
            None => is_over = true,
        }
        if found.len() >= STEP || is_over {
            if !turn.keep(index).await? {
                return Ok(None);
            }
            added += index.add(&found).await?;
            found.clear();
            sleep(began.elapsed() * pause).await;
        }
    }
    Ok(Some(added))
}

fn entry(rendition: &RenditionFile) -> Option<Entry> {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let used = moment(seconds(rendition.published));
    Some(Entry { name: Name::parse(&rendition.path)?, bytes: rendition.bytes, used })
}

async fn forget(budget: &Budget, index: &mut Index, turn: &mut Turn, pause: u32) -> Result<Option<u64>, IndexError> {
    let (mut from, mut forgotten) = (Some(0), 0);
    while let Some(number) = from {
        let began = Instant::now();
        let (entries, next) = index.page(number, STEP).await?;
        let by_path: HashMap<String, Name> = entries.iter().map(|entry| (entry.name.path(), entry.name)).collect();
        let absent = budget.store.absent(by_path.keys().cloned().collect()).await;
        let absent = absent.map_err(|error| IndexError::Away(error.to_string()))?;
        let gone: Vec<Name> = absent.iter().filter_map(|path| by_path.get(path).copied()).collect();
        if !turn.keep(index).await? {
            return Ok(None);
        }
        index.settle(&gone, &[]).await?;
        (from, forgotten) = (next, forgotten + gone.len() as u64);
        sleep(began.elapsed() * pause).await;
    }
    Ok(Some(forgotten))
}
