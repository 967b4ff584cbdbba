//! Takes out of the store what nobody will ask for again: renditions of originals that were replaced, and on demand those of
//! originals that are gone.
//!
//! It may run beside the service, purges and another one of itself: what one removes the other does not find, and a rendition
//! that is asked for after all is rendered again. What it cannot judge it keeps. A source that is not there says nothing about
//! its files, so that a file system that is not mounted never empties the store.

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use serde::Serialize;

use crate::{
    app::App,
    budget::Enforced,
    config::SourceKind,
    coordination::Event,
    model::{Generation, SourceKey, SourceRef},
    renditions::Condition,
    source::SourceError,
    store::{Depth, ImageFolder, Removed, RenditionFile, StoreError, Walked},
};

/// So many renditions may go whatever share of the store they are: a small store is rendered again in a minute.
const ALWAYS_ALLOWED: u64 = 100;
/// Files under verification at once: enough to keep the workers busy.
const VERIFIED_AT_ONCE: usize = 8;
/// Damaged files that are reported, and removed, in one run.
const MOST_DAMAGED: usize = 100_000;

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// Says what would be removed, and removes nothing.
    pub dry_run: bool,
    /// Also renditions of originals that are gone, and of sources that the config no longer has.
    pub orphans: bool,
    /// Reads every rendition.
    pub verify: bool,
    /// Removes those that are damaged.
    pub repair: bool,
    /// The largest part of all renditions that may be removed, 0 to 1.
    pub max_share: f64,
    /// What became out of date later than this long ago stays.
    pub grace: Duration,
}

/// Why something is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The original was replaced.
    OldGeneration,
    /// The original is gone.
    OriginalGone,
    /// The config has no such source.
    SourceNotConfigured,
    /// The file is damaged.
    Damaged,
}

/// A number of files, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    /// Counts some more.
    pub fn add(&mut self, files: u64, bytes: u64) {
        self.files += files;
        self.bytes += bytes;
    }
}

/// A damaged rendition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// Its path below the store's root.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What a run has found, and what it did about it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Collected {
    /// Source images that something is stored of.
    pub images: u64,
    /// Their renditions.
    pub stored: Tally,
    /// What is to be removed, by reason.
    pub found: BTreeMap<Reason, Tally>,
    /// What was removed, by reason.
    pub removed: BTreeMap<Reason, Tally>,
    /// Out of date, and not yet for long enough.
    pub waiting: Tally,
    /// What could not be judged: its source is away, or nothing says whose it is.
    pub unjudged: Tally,
    /// Records without renditions: found, or with `removed` counted as removed.
    pub records: u64,
    /// Files that crashed processes left.
    pub leftovers: u64,
    /// Files that sendimage never made. They stay.
    pub foreign: u64,
    /// Damaged renditions.
    pub damaged: Vec<Damaged>,
    /// Renditions that could not be verified, and why the first could not.
    pub unverified: Option<(u64, String)>,
    /// The sources that are away, and what they say.
    pub sources_away: BTreeMap<String, String>,
    /// Parts of the store that could not be read: how many, and the first one's problem.
    pub unreadable: Option<(u64, String)>,
    /// Why nothing was removed, or not all.
    pub stopped: Option<String>,
    /// What was evicted by the bounds of `[store]`, where there are any.
    pub budget: Option<Enforced>,
}

impl Collected {
    /// What is to be removed, for whatever reason.
    pub fn all_found(&self) -> Tally {
        sum(&self.found)
    }

    /// What was removed.
    pub fn all_removed(&self) -> Tally {
        sum(&self.removed)
    }
}

fn sum(tallies: &BTreeMap<Reason, Tally>) -> Tally {
    let mut all = Tally::default();
    tallies.values().for_each(|tally| all.add(tally.files, tally.bytes));
    all
}

/// How far a run has come, for whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    /// Renditions looked at, in both rounds together.
    pub seen: AtomicU64,
    /// Renditions that there are to look at; 0 while nobody knows.
    pub total: AtomicU64,
}

/// Looks through the store, and unless it is a dry run removes what it has found: in a second round, once it is known that it is
/// not too much.
///
/// # Errors
/// When the store cannot be read at all, or does not remove.
pub async fn gc(app: &App, options: &GcOptions, progress: &Progress) -> Result<Collected, StoreError> {
    let mut run = Run::new(app, options, progress);
    run.ask_sources().await;
    run.walk(Round::Look).await?;
    run.collected.leftovers = app.store.sweep(true).await?;
    let (found, stored) = (run.collected.all_found().files, run.collected.stored.files);
    let most = ((stored as f64 * options.max_share) as u64).max(ALWAYS_ALLOWED);
    if found > most {
        run.collected.stopped = Some(format!(
            "{found} of {stored} renditions would be removed, which is more than {:.0} %: --force does it all the same",
            options.max_share * 100.0
        ));
        return Ok(run.collected);
    }
    if options.dry_run {
        return Ok(run.collected);
    }
    progress.total.store(2 * stored, Ordering::Relaxed);
    run.left = most;
    run.walk(Round::Remove).await?;
    run.collected.leftovers = app.store.sweep(false).await?;
    Ok(run.collected)
}

/// What a walk is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    Look,
    Remove,
}

struct Run<'a> {
    app: &'a App,
    options: &'a GcOptions,
    progress: &'a Progress,
    now: SystemTime,
    collected: Collected,
    damaged: HashSet<String>,
    /// Renditions that may still be removed.
    left: u64,
}

/// What there is to say of a source image.
enum Verdict {
    /// Renditions of this generation are asked for, others are not, and not since this moment at the earliest.
    Current(Generation, SystemTime),
    /// None is.
    Orphan(Reason),
    /// Nobody knows.
    Unknown,
}

impl<'a> Run<'a> {
    fn new(app: &'a App, options: &'a GcOptions, progress: &'a Progress) -> Self {
        let (collected, damaged, now) = (Collected::default(), HashSet::new(), SystemTime::now());
        Self { app, options, progress, now, collected, damaged, left: 0 }
    }

    /// A source that is away now is not judged at all, whatever it may say of a file later.
    async fn ask_sources(&mut self) {
        for (name, source) in &self.app.sources {
            if let Err(error) = source.probe().await {
                self.collected.sources_away.insert(name.clone(), error.to_string());
            }
        }
    }

    async fn walk(&mut self, round: Round) -> Result<(), StoreError> {
        let mut walk = self.app.store.walk(Depth::Records);
        let (mut unreadable, mut records) = (None::<(u64, String)>, 0);
        while let Some(found) = walk.next().await {
            match found {
                Ok(Walked::Image(folder)) => records += u64::from(self.image(&folder, round).await?),
                Ok(Walked::Foreign(_)) if round == Round::Look => self.collected.foreign += 1,
                Ok(Walked::Foreign(_) | Walked::Unfinished(_)) => {}
                Err(error) => unreadable.get_or_insert((0, error.to_string())).0 += 1,
            }
        }
        self.collected.records = records;
        self.collected.unreadable = unreadable;
        Ok(())
    }

    /// Judges one source image, and acts on it. Whether nothing is left of it but its record.
    async fn image(&mut self, folder: &ImageFolder, round: Round) -> Result<bool, StoreError> {
        let verdict = self.judge(folder).await;
        let mut doomed: Vec<(Reason, &RenditionFile)> = Vec::new();
        let mut kept = Vec::new();
        for rendition in &folder.renditions {
            let reason = match &verdict {
                Verdict::Current(generation, _) if rendition.generation == *generation => None,
                Verdict::Current(_, since) => Some((Reason::OldGeneration, *since)),
                Verdict::Orphan(reason) => Some((*reason, SystemTime::UNIX_EPOCH)),
                Verdict::Unknown => None,
            };
            match reason {
                Some((reason, since)) if self.is_over(since.max(rendition.published)) => {
                    doomed.push((reason, rendition))
                }
                Some(_) => {
                    if round == Round::Look {
                        self.collected.waiting.add(1, rendition.bytes);
                    }
                    kept.push(rendition);
                }
                None => kept.push(rendition),
            }
        }
        match round {
            Round::Look => {
                if matches!(verdict, Verdict::Unknown) {
                    folder.renditions.iter().for_each(|of| self.collected.unjudged.add(1, of.bytes));
                }
                self.collected.images += 1;
                folder.renditions.iter().for_each(|of| self.collected.stored.add(1, of.bytes));
                doomed.extend(self.verify(&kept).await.into_iter().map(|rendition| (Reason::Damaged, rendition)));
                for (reason, rendition) in &doomed {
                    self.collected.found.entry(*reason).or_default().add(1, rendition.bytes);
                }
            }
            Round::Remove => {
                let is_damaged = |rendition: &&&RenditionFile| self.damaged.contains(&rendition.path);
                let damaged: Vec<_> = kept.iter().filter(is_damaged).map(|of| (Reason::Damaged, *of)).collect();
                doomed.extend(damaged);
                self.remove(folder, &doomed).await?;
            }
        }
        self.progress.seen.fetch_add(folder.renditions.len() as u64, Ordering::Relaxed);
        let is_lone = doomed.len() == folder.renditions.len()
            && !(matches!(verdict, Verdict::Unknown) && folder.recorded.is_some())
            && folder.recorded.is_none_or(|recorded| self.is_over(recorded));
        match round {
            Round::Look => Ok(is_lone && folder.recorded.is_some()),
            Round::Remove => Ok(is_lone && self.app.store.tidy(&folder.key).await? && folder.recorded.is_some()),
        }
    }

    /// Whether the time that out-of-date files are left is over. A date in the future is not.
    fn is_over(&self, since: SystemTime) -> bool {
        self.now.duration_since(since).is_ok_and(|age| age >= self.options.grace)
    }

    async fn judge(&mut self, folder: &ImageFolder) -> Verdict {
        let Some(record) = &folder.record else { return Verdict::Unknown };
        // A record that lies in another image's folder says nothing about this one.
        let Some(location) = record.location.as_ref().filter(|at| SourceKey::new(at) == folder.key) else {
            return Verdict::Unknown;
        };
        let Some(source) = self.app.sources.get(&location.source) else {
            // Where nobody has asked, renditions that nobody can ask for stay until then.
            return if self.options.orphans { Verdict::Orphan(Reason::SourceNotConfigured) } else { Verdict::Unknown };
        };
        if self.collected.sources_away.contains_key(&location.source) {
            return Verdict::Unknown;
        }
        let recorded = Generation::from(&record.version);
        // The record is of the newest version that was asked for: it was written when that was first seen.
        let by_record = Verdict::Current(recorded, folder.recorded.unwrap_or(self.now));
        let kind = self.app.config().sources.get(&location.source).map(|section| section.kind);
        // What a remote source says costs a request for each image; the record knows what `gc` needs.
        if kind != Some(SourceKind::Fs) && !self.options.orphans {
            return by_record;
        }
        match source.stat(&location.path).await {
            Ok(stat) if stat.generation() == recorded => by_record,
            Ok(stat) => {
                let since = u64::try_from(stat.modified_ns).map_or(Duration::ZERO, Duration::from_nanos);
                Verdict::Current(stat.generation(), SystemTime::UNIX_EPOCH + since)
            }
            // As in Wagtail, an image whose file is gone keeps what was made of its last version.
            Err(SourceError::Gone(_)) if !self.options.orphans => by_record,
            Err(SourceError::Gone(_)) => Verdict::Orphan(Reason::OriginalGone),
            Err(error) => {
                // One file's trouble is not its source's, unless that says so itself.
                let may_be_away = matches!(error, SourceError::Unavailable(_) | SourceError::TimedOut(_));
                if may_be_away && let Err(error) = source.probe().await {
                    self.collected.sources_away.insert(location.source.clone(), error.to_string());
                }
                Verdict::Unknown
            }
        }
    }

    /// Reads what stays, where that is asked for: what is damaged and to be removed.
    async fn verify<'r>(&mut self, renditions: &[&'r RenditionFile]) -> Vec<&'r RenditionFile> {
        if !self.options.verify {
            return Vec::new();
        }
        let app = self.app;
        let look = |rendition: &'r RenditionFile| async move { (rendition, app.renditions.verify(rendition).await) };
        let looks: Vec<_> = renditions.iter().map(|rendition| look(rendition)).collect();
        let found: Vec<_> = futures_util::stream::iter(looks).buffer_unordered(VERIFIED_AT_ONCE).collect().await;
        let mut doomed = Vec::new();
        for (rendition, condition) in found {
            match condition {
                Condition::Whole | Condition::Gone => {}
                Condition::Unknown(why) => self.collected.unverified.get_or_insert((0, why)).0 += 1,
                Condition::Damaged(problem) if self.collected.damaged.len() < MOST_DAMAGED => {
                    self.collected.damaged.push(Damaged { path: rendition.path.clone(), problem });
                    if self.options.repair {
                        self.damaged.insert(rendition.path.clone());
                        doomed.push(rendition);
                    }
                }
                Condition::Damaged(_) => {}
            }
        }
        doomed
    }

    async fn remove(&mut self, folder: &ImageFolder, doomed: &[(Reason, &RenditionFile)]) -> Result<(), StoreError> {
        let mut by_reason: BTreeMap<Reason, Vec<RenditionFile>> = BTreeMap::new();
        for (reason, rendition) in doomed {
            if self.left == 0 {
                // More than the first round has found.
                self.collected.stopped =
                    Some("the rest is left for another run: the store changes too fast".to_owned());
                break;
            }
            self.left -= 1;
            by_reason.entry(*reason).or_default().push(RenditionFile::clone(rendition));
        }
        let mut is_asked_for = false;
        for (reason, renditions) in by_reason {
            let Removed { files, bytes } = self.app.store.discard(&renditions).await?;
            renditions.iter().for_each(|rendition| self.app.budget.note_removed(&rendition.path));
            self.collected.removed.entry(reason).or_default().add(files, bytes);
            is_asked_for |= reason != Reason::OldGeneration;
        }
        let location = folder.record.as_ref().and_then(|record| record.location.clone());
        if let Some(location) = location.filter(|_| is_asked_for) {
            self.tell(location).await;
        }
        Ok(())
    }

    /// Nobody asks for old generations. Of everything else other gates may believe that it is there.
    async fn tell(&self, location: SourceRef) {
        let event = Event::Purged { locations: vec![location], ids: Vec::new() };
        self.app.renditions.coordination().tell_now(&event).await;
    }
}
