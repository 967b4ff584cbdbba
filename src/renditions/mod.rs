//! Make sure a rendition exists.

mod failure;
pub mod flight;
mod planned;
mod purge;
mod terms;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use moka::sync::Cache;
use tracing::Instrument as _;

pub use failure::EnsureError;
use failure::Memory;
use flight::{Audience, Flights, Role};
pub use planned::Planned;
use planned::{Era, PlannedCache};
pub use terms::TermsBySpec;
pub use verify::Condition;

use crate::{
    budget::Budget,
    coordination::{Coordination, Event, Turn},
    metrics::Metrics,
    model::{FocalPoint, ImageFormat, RenditionKey, SourceFacts, SourceImage, SourceKey, SourceRef, SourceVersion},
    render::{
        limits::Limits,
        look::Look,
        plan::{Defaults, Plan, PlanError},
    },
    source::{OpenSource, Source, SourceError, Stat},
    spec::{Accepted, FilterSpec},
    store::{SourceRecord, Store, StoredRendition},
    traces::{self, part},
    workers::{Files, Lane, Marks, Pool},
};

/// Source images whose facts are held in memory; others are read from the store's record.
const KNOWN_SOURCES: u64 = 100_000;

/// Renditions made by other gates that are held in memory.
const TOLD_RENDITIONS: u64 = 100_000;

/// Where sources, store and workers meet.
pub struct Renditions {
    sources: BTreeMap<String, Arc<dyn Source>>,
    store: Arc<dyn Store>,
    pool: Arc<Pool>,
    limits: Limits,
    defaults: Defaults,
    svg_sources: BTreeSet<String>,
    marks: Arc<Marks>,
    deadline: Duration,
    terms: TermsBySpec,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    known: Cache<SourceRef, Arc<SourceRecord>>,
    planned: PlannedCache,
    probes: Flights<(SourceRef, SourceVersion), Result<Arc<SourceRecord>, EnsureError>>,
    looks: Flights<(SourceRef, SourceVersion, Look), Result<Arc<SourceRecord>, EnsureError>>,
    renders: Flights<RenditionKey, Result<Made, EnsureError>>,
    memory: Memory,
    coordination: Coordination,
    /// Renditions that other gates have made: bytes by path, in an era.
    told: Cache<String, (u64, Era)>,
    /// Purges that have ended: the [`Era`].
    purges: AtomicU64,
}

/// What [`Renditions`] is made of.
pub struct Parts {
    /// By the name that the config gives them.
    pub sources: BTreeMap<String, Arc<dyn Source>>,
    /// Where renditions are kept.
    pub store: Arc<dyn Store>,
    /// The render workers.
    pub pool: Arc<Pool>,
    /// Bounds of sources and outputs.
    pub limits: Limits,
    /// What specs leave open.
    pub defaults: Defaults,
    /// The sources whose SVG files are served.
    pub svg_sources: BTreeSet<String>,
    /// The watermarks' files.
    pub marks: Arc<Marks>,
    /// From the request to the rendition.
    pub deadline: Duration,
    /// How renditions are looked for, and which presets there are.
    pub terms: TermsBySpec,
    /// What the store holds, and may.
    pub budget: Arc<Budget>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// How this gate agrees with others.
    pub coordination: Coordination,
}

/// A rendition that exists, and how it came to.
#[derive(Clone, Debug)]
pub struct Ensured {
    /// The rendition.
    pub stored: StoredRendition,
    /// What it is of.
    pub planned: Arc<Planned>,
    /// How this request came by it.
    pub how: How,
}

/// Whom to ask whether a rendition is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Memory, as far as the config trusts it; else the disk.
    Memory,
    /// The disk: nginx did not find a rendition that memory had.
    Disk,
}

/// A rendition that is not there, for [`Renditions::begin`].
#[derive(Debug)]
pub struct Left {
    location: SourceRef,
    /// `None` if it cannot be made.
    planned: Option<Arc<Planned>>,
}

impl Left {
    /// Whether it can be made, as far as is known: its source image is there, and no attempt failed lately.
    pub fn can_be_made(&self) -> bool {
        self.planned.is_some()
    }
}

/// How a request came by its rendition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It was there.
    Hit,
    /// It was rendered for this request.
    Rendered,
    /// It was being rendered for another.
    Joined,
}

/// What a flight came to.
#[derive(Clone, Debug)]
struct Made {
    stored: StoredRendition,
    /// Whether this gate rendered it, and not another one.
    here: bool,
}

/// A request solved as far as it can be without rendering.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Plan and key.
    pub planned: Arc<Planned>,
    /// The rendition, if it is stored.
    pub stored: Option<StoredRendition>,
    /// Whether the source image's file is still there.
    pub source_is_there: bool,
}

impl Renditions {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { sources, store, pool, limits, defaults, svg_sources, marks, .. } = parts;
        let Parts { deadline, terms, budget, metrics, coordination, .. } = parts;
        Arc::new(Self {
            sources,
            store,
            pool,
            limits,
            defaults,
            svg_sources,
            marks,
            deadline,
            terms,
            budget,
            metrics,
            known: Cache::new(KNOWN_SOURCES),
            planned: PlannedCache::default(),
            probes: Flights::default(),
            looks: Flights::default(),
            renders: Flights::default(),
            memory: Memory::default(),
            coordination,
            told: Cache::new(TOLD_RENDITIONS),
            purges: AtomicU64::new(0),
        })
    }

    /// Returns the rendition, rendering it first if the store does not have it.
    ///
    /// # Errors
    /// See [`EnsureError`].
    pub async fn ensure(
        self: &Arc<Self>,
        image: &SourceImage,
        spec: &FilterSpec,
        ask: Ask,
    ) -> Result<Ensured, EnsureError> {
        self.ensure_in(None, image, spec, ask).await
    }

    /// As [`Renditions::ensure`], ahead of time: behind all that somebody waits for. It is rendered sooner when somebody does.
    ///
    /// # Errors
    /// See [`EnsureError`].
    pub async fn warm(self: &Arc<Self>, image: &SourceImage, spec: &FilterSpec) -> Result<Ensured, EnsureError> {
        self.ensure_in(Some(Lane::Warm), image, spec, Ask::Disk).await
    }

    /// Ensures a rendition, rendering in this lane, or in that of its cost.
    async fn ensure_in(
        self: &Arc<Self>,
        lane: Option<Lane>,
        image: &SourceImage,
        spec: &FilterSpec,
        ask: Ask,
    ) -> Result<Ensured, EnsureError> {
        let deadline = self.deadline();
        match self.try_ensure(lane, image, spec, ask, deadline).await {
            // The file was replaced between looking and opening; the second look finds the new version.
            Err(EnsureError::SourceChanged) => self.try_ensure(lane, image, spec, ask, deadline).await,
            result => result,
        }
    }

    /// Returns the rendition if it is stored and its plan is known, without asking a worker for anything.
    ///
    /// # Errors
    /// When source or store cannot be asked.
    pub async fn find(&self, image: &SourceImage, spec: &FilterSpec) -> Result<Option<Ensured>, EnsureError> {
        let location = &image.location;
        let stat = match self.source(location)?.stat(&location.path).await {
            Ok(stat) => stat,
            // `ensure` knows what to do about it.
            Err(SourceError::Gone(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(planned) = self.planned.find(location, &version(stat, image), spec, image.focal_point) else {
            return Ok(None);
        };
        let stored = self.stored(&planned, Ask::Memory).await?;
        Ok(stored.map(|stored| Ensured { stored, planned, how: How::Hit }))
    }

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

    /// What the rendition of a spec is called, as far as a source image's record tells: the paths for each focal point that it was
    /// planned with, and without one, with and without the catalogue's hash. Nothing is asked for.
    pub fn paths_of<'a>(&'a self, record: &'a SourceRecord, spec: &'a FilterSpec) -> impl Iterator<Item = String> + 'a {
        let points = record.focal_points.iter().copied().map(Some).chain([None]);
        let hashless = SourceVersion { file_hash: None, ..record.version.clone() };
        let versions = match record.version.file_hash {
            Some(_) => vec![record.version.clone(), hashless],
            None => vec![hashless],
        };
        points.flat_map(move |point| {
            let plan = self.solve(record, spec, point).ok();
            let named = plan.zip(record.location.as_ref()).map(|(plan, location)| {
                let key = |version| RenditionKey::new(location, version, &plan.recipe(), plan.encoding.format());
                versions.iter().map(|version| key(version).path().to_owned()).collect::<Vec<_>>()
            });
            named.unwrap_or_default()
        })
    }

    /// How this gate agrees with others.
    pub fn coordination(&self) -> &Coordination {
        &self.coordination
    }

    /// When a request that begins now must have its answer: one bound for probe, render and a second attempt together.
    fn deadline(&self) -> Instant {
        Instant::now() + self.deadline
    }

    async fn try_ensure(
        self: &Arc<Self>,
        lane: Option<Lane>,
        image: &SourceImage,
        spec: &FilterSpec,
        ask: Ask,
        deadline: Instant,
    ) -> Result<Ensured, EnsureError> {
        let resolved = self.resolve_by(image, spec, ask, deadline).await?;
        self.finish(lane, &image.location, resolved, deadline).await
    }

    /// What a solved request comes to: the rendition that is stored, else a render in this lane, or in that of its cost.
    async fn finish(
        self: &Arc<Self>,
        lane: Option<Lane>,
        location: &SourceRef,
        Resolved { planned, stored, source_is_there }: Resolved,
        deadline: Instant,
    ) -> Result<Ensured, EnsureError> {
        if let Some(stored) = stored {
            return Ok(Ensured { stored, planned, how: How::Hit });
        }
        if !source_is_there {
            return Err(EnsureError::SourceGone("no rendition of its last version is stored"));
        }
        if let Some(error) = self.memory.recall(planned.key.path()) {
            return Err(error);
        }
        let lane = lane.unwrap_or_else(|| Lane::of(&planned.plan));
        self.render(location, &planned, lane, deadline).await
    }

    /// Renders, or joins the render that is under way.
    async fn render(
        self: &Arc<Self>,
        location: &SourceRef,
        planned: &Arc<Planned>,
        lane: Lane,
        deadline: Instant,
    ) -> Result<Ensured, EnsureError> {
        // Between giving a render up and taking it up again: whoever is in a hurry shall be there first.
        const GIVE_WAY: Duration = Duration::from_millis(10);
        loop {
            let era = self.era();
            if lane != Lane::Warm {
                self.renders.hurry(&planned.key);
            }
            let render = |audience: Audience<_>| {
                let (this, location, planned) = (self.clone(), location.clone(), planned.clone());
                async move { this.make(&location, &planned, lane, deadline, unwanted(audience, lane)).await }
            };
            let (result, role) = self.renders.join(&planned.key, render).await?;
            match result {
                // It was given up at the moment when this request came, or for it.
                Err(EnsureError::Unwanted) if Instant::now() < deadline => {
                    if lane == Lane::Warm {
                        tokio::time::sleep(GIVE_WAY).await;
                    }
                }
                result => {
                    let (Made { stored, here }, planned) = (result?, planned.clone());
                    self.note(&planned, Some(stored.bytes), era);
                    let how = if here && role == Role::Leader { How::Rendered } else { How::Joined };
                    return Ok(Ensured { stored, planned, how });
                }
            }
        }
    }

    /// As [`Renditions::ensure`], but an AVIF that is not there is left for [`Renditions::begin`]: another format can be
    /// served meanwhile, or instead.
    ///
    /// # Errors
    /// See [`EnsureError`].
    pub async fn find_or_leave(
        self: &Arc<Self>,
        image: &SourceImage,
        spec: &FilterSpec,
        ask: Ask,
    ) -> Result<Result<Ensured, Left>, EnsureError> {
        let deadline = self.deadline();
        match self.try_find_or_leave(image, spec, ask, deadline).await {
            Err(EnsureError::SourceChanged) => self.try_find_or_leave(image, spec, ask, deadline).await,
            result => result,
        }
    }

    async fn try_find_or_leave(
        self: &Arc<Self>,
        image: &SourceImage,
        spec: &FilterSpec,
        ask: Ask,
        deadline: Instant,
    ) -> Result<Result<Ensured, Left>, EnsureError> {
        let resolved = self.resolve_by(image, spec, ask, deadline).await?;
        if resolved.stored.is_some() || resolved.planned.key.format() != ImageFormat::Avif {
            return self.finish(None, &image.location, resolved, deadline).await.map(Ok);
        }
        let Resolved { planned, source_is_there, .. } = resolved;
        let can_be_made = source_is_there && self.memory.recall(planned.key.path()).is_none();
        Ok(Err(Left { location: image.location.clone(), planned: can_be_made.then_some(planned) }))
    }

    /// Makes what was left, behind all that somebody waits for. What goes wrong is in the log and in the metrics, and it is
    /// left again until that is mended.
    pub fn begin(self: &Arc<Self>, Left { location, planned }: Left) {
        let Some(planned) = planned else { return };
        let this = self.clone();
        tokio::spawn(async move {
            let made = this.render(&location, &planned, Lane::Warm, this.deadline()).await;
            if let Err(error) = made {
                tracing::info!(reason = %error, "an AVIF was not made behind another format's answer");
            }
        });
    }

    /// Solves a request as far as it can be without rendering.
    ///
    /// # Errors
    /// When the source image is unknown or unreadable, or there is no plan.
    pub async fn resolve(self: &Arc<Self>, image: &SourceImage, spec: &FilterSpec) -> Result<Resolved, EnsureError> {
        self.resolve_by(image, spec, Ask::Disk, self.deadline()).await
    }

    async fn resolve_by(
        self: &Arc<Self>,
        image: &SourceImage,
        spec: &FilterSpec,
        ask: Ask,
        deadline: Instant,
    ) -> Result<Resolved, EnsureError> {
        let location = &image.location;
        let why = match self.source(location)?.stat(&location.path).await {
            Ok(stat) => {
                let planned = self.planned(image, version(stat, image), None, spec, deadline).await?;
                let stored = self.stored(&planned, ask).await?;
                return Ok(Resolved { planned, stored, source_is_there: true });
            }
            Err(SourceError::Gone(why)) => why,
            Err(error) => return Err(error.into()),
        };
        // As Wagtail: an image whose file is gone keeps the renditions it has.
        let last = self.last_record(location).await?.ok_or(EnsureError::SourceGone(why))?;
        let known = last.version.clone();
        // The same file is asked for by its id, with a hash, and by its path, without one: each has renditions of its own,
        // and what is missing of the one is served of the other.
        let asked = SourceVersion { file_hash: image.file_hash.clone(), ..known.clone() };
        let is_known = asked == known;
        let planned = self.planned(image, asked, Some(last.clone()), spec, deadline).await?;
        let stored = self.stored(&planned, ask).await?;
        if stored.is_some() || is_known {
            return Ok(Resolved { planned, stored, source_is_there: false });
        }
        let planned = self.planned(image, known, Some(last), spec, deadline).await?;
        let stored = self.stored(&planned, ask).await?;
        Ok(Resolved { planned, stored, source_is_there: false })
    }

    /// What a spec makes of a version: solved before, or now.
    async fn planned(
        self: &Arc<Self>,
        image: &SourceImage,
        version: SourceVersion,
        last: Option<Arc<SourceRecord>>,
        spec: &FilterSpec,
        deadline: Instant,
    ) -> Result<Arc<Planned>, EnsureError> {
        match self.planned.find(&image.location, &version, spec, image.focal_point) {
            Some(planned) => Ok(planned),
            None => self.plan(image, version, last, spec, deadline).await,
        }
    }

    /// The rendition, if it is stored: as far as memory is trusted by its word, else by the disk's.
    async fn stored(&self, planned: &Planned, ask: Ask) -> Result<Option<StoredRendition>, EnsureError> {
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

    /// Solves a spec that was not solved before, for this version; `last` is what is known of a file that is gone.
    async fn plan(
        self: &Arc<Self>,
        image: &SourceImage,
        version: SourceVersion,
        last: Option<Arc<SourceRecord>>,
        spec: &FilterSpec,
        deadline: Instant,
    ) -> Result<Arc<Planned>, EnsureError> {
        let location = &image.location;
        let source_is_there = last.is_none();
        let mut record = match last {
            Some(record) => record,
            None => self.facts(location, &version, deadline).await?,
        };
        if record.facts.format == ImageFormat::Svg && !self.svg_sources.contains(&location.source) {
            return Err(PlanError::Svg.into());
        }
        let plan = loop {
            match self.solve(&record, spec, image.focal_point) {
                Ok(plan) => break plan,
                // Each look adds its finding, so this ends.
                Err(PlanError::Unseen(look)) if source_is_there => {
                    record = self.looked(location, &record, look, deadline).await?
                }
                Err(PlanError::Unseen(_)) => return Err(EnsureError::SourceGone("its pixels were never looked at")),
                Err(error) => return Err(error.into()),
            }
        };
        self.limits.check_output(&plan)?;
        if let Some(point) = image.focal_point.filter(|point| !record.focal_points.contains(point) && source_is_there) {
            self.note_focal_point(location, &record, point).await;
        }
        let terms = self.terms.of(spec);
        Ok(self.planned.insert(Planned::new(location, &version, spec, image.focal_point, plan, terms)))
    }

    /// The plan for a source image, as its record tells of it. Where `format-auto` leads to an AVIF that takes more memory than
    /// there is, the next best format is planned: no encoder needs more than that of AVIF.
    fn solve(
        &self,
        record: &SourceRecord,
        spec: &FilterSpec,
        focal_point: Option<FocalPoint>,
    ) -> Result<Plan, PlanError> {
        let seen = |spec: &FilterSpec| Plan::seen(&record.facts, &record.findings, spec, focal_point, &self.defaults);
        let plan = seen(spec)?;
        match spec.accepted() {
            Some(accepted @ Accepted { avif: true, .. })
                if plan.encoding.format() == ImageFormat::Avif
                    && !self.pool.has_room_for(&plan, record.version.bytes) =>
            {
                seen(&spec.accepting(Accepted { avif: false, ..accepted }))
            }
            _ => Ok(plan),
        }
    }

    fn source(&self, location: &SourceRef) -> Result<&Arc<dyn Source>, EnsureError> {
        self.sources.get(&location.source).ok_or_else(|| EnsureError::UnknownSource(location.source.clone()))
    }

    /// What a probe finds in this version of a source image: from memory, from the store's record, else from a worker. The record
    /// may say of the same file which hash the catalogue gives it, where the version does not.
    async fn facts(
        self: &Arc<Self>,
        location: &SourceRef,
        version: &SourceVersion,
        deadline: Instant,
    ) -> Result<Arc<SourceRecord>, EnsureError> {
        if let Some(record) = self.known_of(location, version) {
            return Ok(self.hashed(location, record, version).await);
        }
        let key = (location.clone(), version.clone());
        let probe = |_| {
            let (this, (location, version)) = (self.clone(), key.clone());
            async move { this.find_facts(&location, version, deadline).await }
        };
        self.probes.join(&key, probe).await?.0
    }

    async fn find_facts(
        &self,
        location: &SourceRef,
        version: SourceVersion,
        deadline: Instant,
    ) -> Result<Arc<SourceRecord>, EnsureError> {
        let source_key = SourceKey::new(location);
        // A record that cannot be read is none: the probe decides, and the disk's own trouble shows when it is written to.
        let remembered = self.store.record(&source_key).await.ok().flatten();
        if let Some(record) = remembered.filter(|record| is_same_file(&record.version, &version)) {
            let record = Arc::new(record);
            self.known.insert(location.clone(), record.clone());
            return Ok(self.hashed(location, record, &version).await);
        }
        let memory_key = format!("{} {version:?}", source_key.directory());
        if let Some(error) = self.memory.recall(&memory_key) {
            return Err(error);
        }
        let facts =
            self.probe(location, &version, deadline).await.inspect_err(|error| self.memory.note(&memory_key, error))?;
        // Whoever asked by another kind of URL may have been quicker: what it found stays.
        if let Some(record) = self.known_of(location, &version) {
            return Ok(self.hashed(location, record, &version).await);
        }
        let record = Arc::new(SourceRecord::new(location.clone(), version, facts));
        self.remember(location, &record).await;
        Ok(record)
    }

    /// The record in memory, if it is of the file that has this version.
    fn known_of(&self, location: &SourceRef, version: &SourceVersion) -> Option<Arc<SourceRecord>> {
        self.known.get(location).filter(|record| is_same_file(&record.version, version))
    }

    /// A record of this version's file, with the version's hash in it where it has none.
    async fn hashed(
        &self,
        location: &SourceRef,
        record: Arc<SourceRecord>,
        version: &SourceVersion,
    ) -> Arc<SourceRecord> {
        if record.version.file_hash.is_some() || version.file_hash.is_none() {
            return record;
        }
        let record = Arc::new(SourceRecord { version: version.clone(), ..SourceRecord::clone(&record) });
        self.remember(location, &record).await;
        record
    }

    async fn remember(&self, location: &SourceRef, record: &Arc<SourceRecord>) {
        self.known.insert(location.clone(), record.clone());
        if let Err(error) = self.store.remember(&SourceKey::new(location), record).await {
            // Not this request's business: its rendition may be stored all the same, or fail with its own error.
            tracing::warn!(error = %self.store_failed(error), "a source image's record was not written");
        }
    }

    /// The record with what a look at the pixels finds: once for all who wait.
    async fn looked(
        self: &Arc<Self>,
        location: &SourceRef,
        record: &Arc<SourceRecord>,
        look: Look,
        deadline: Instant,
    ) -> Result<Arc<SourceRecord>, EnsureError> {
        let key = (location.clone(), record.version.clone(), look);
        let see = |_| {
            let (this, location, record) = (self.clone(), location.clone(), record.clone());
            async move { this.look(&location, record, look, deadline).await }
        };
        self.looks.join(&key, see).await?.0
    }

    async fn look(
        &self,
        location: &SourceRef,
        record: Arc<SourceRecord>,
        look: Look,
        deadline: Instant,
    ) -> Result<Arc<SourceRecord>, EnsureError> {
        let memory_key = format!("{} {:?} {look:?}", SourceKey::new(location).directory(), record.version);
        if let Some(error) = self.memory.recall(&memory_key) {
            return Err(error);
        }
        let see = async {
            let open = self.open(location, &record.version).await?;
            self.limits.check_source(&record.facts)?;
            let found = self.pool.look(&open.file, &record.facts, look, deadline).await?;
            if open.is_unchanged()? { Ok(found) } else { Err(EnsureError::SourceChanged) }
        };
        let found = see.await.inspect_err(|error| self.memory.note(&memory_key, error))?;
        // Another look may have ended meanwhile: what it found stays.
        let latest = self.known_of(location, &record.version);
        let mut record = SourceRecord::clone(&latest.unwrap_or(record));
        record.findings.note(look, found);
        let record = Arc::new(record);
        self.remember(location, &record).await;
        Ok(record)
    }

    /// Has the record say which focal point renditions of it were planned with.
    async fn note_focal_point(&self, location: &SourceRef, record: &Arc<SourceRecord>, point: FocalPoint) {
        // Another request may have noted something meanwhile: it stays.
        let latest = self.known_of(location, &record.version);
        let mut record = SourceRecord::clone(&latest.unwrap_or_else(|| record.clone()));
        if record.note_focal_point(point) {
            self.remember(location, &Arc::new(record)).await;
        }
    }

    async fn probe(
        &self,
        location: &SourceRef,
        version: &SourceVersion,
        deadline: Instant,
    ) -> Result<SourceFacts, EnsureError> {
        let open = self.open(location, version).await?;
        self.limits.check_bytes(open.stat.bytes)?;
        let facts = self.pool.probe(&open.file, deadline).await?;
        if !open.is_unchanged()? {
            return Err(EnsureError::SourceChanged);
        }
        self.limits.check_source(&facts)?;
        Ok(facts)
    }

    async fn last_record(&self, location: &SourceRef) -> Result<Option<Arc<SourceRecord>>, EnsureError> {
        if let Some(record) = self.known.get(location) {
            return Ok(Some(record));
        }
        let record = self.store.record(&SourceKey::new(location)).await.map_err(|error| self.store_failed(error))?;
        let record = record.map(Arc::new);
        if let Some(record) = &record {
            self.known.insert(location.clone(), record.clone());
        }
        Ok(record)
    }

    /// Opens a source image and sees that it is the version that was planned for.
    async fn open(&self, location: &SourceRef, version: &SourceVersion) -> Result<OpenSource, EnsureError> {
        if let Some(rest) = settles_in(version, SystemTime::now()) {
            tokio::time::sleep(rest).await;
        }
        let open = self.source(location)?.open(&location.path).await?;
        if open.stat == Stat::from(version) { Ok(open) } else { Err(EnsureError::SourceChanged) }
    }

    /// Renders and stores, unless another gate does: the work of one flight.
    async fn make(
        &self,
        location: &SourceRef,
        planned: &Planned,
        lane: Lane,
        deadline: Instant,
        unwanted: impl Future<Output = ()>,
    ) -> Result<Made, EnsureError> {
        let mut unwanted = pin!(unwanted);
        let lease = match self.turn(&planned.key, deadline, unwanted.as_mut()).await? {
            Turn::Make(lease) => lease,
            Turn::Made(stored) => return Ok(Made { stored, here: false }),
            Turn::Late => return Err(EnsureError::TimedOut { started: false }),
            Turn::GivenUp => return Err(EnsureError::Unwanted),
        };
        let mut result = self.render_and_store(location, planned, lane, deadline, unwanted.as_mut()).await;
        if has_no_room(&result) && self.budget.make_room(deadline).await {
            result = self.render_and_store(location, planned, lane, deadline, unwanted).await;
        }
        // Given back behind the answer.
        drop(lease);
        let outcome = match &result {
            Ok(stored) => {
                self.budget.note_made(&planned.noted, &planned.key, stored.bytes, planned.terms.preset);
                self.coordination.tell(Event::Made { path: stored.path.clone(), bytes: stored.bytes });
                "rendered"
            }
            Err(EnsureError::Unwanted) => "unwanted",
            Err(error) => {
                self.memory.note(planned.key.path(), error);
                "failed"
            }
        };
        self.metrics.render(outcome, planned.key.format().name());
        result.map(|stored| Made { stored, here: true })
    }

    /// Whether this gate makes a rendition: another one that shares the store may have been quicker, or be at it.
    async fn turn(
        &self,
        key: &RenditionKey,
        deadline: Instant,
        unwanted: impl Future<Output = ()>,
    ) -> Result<Turn<StoredRendition>, EnsureError> {
        let look = || async { self.store.find(key).await.map_err(|error| self.store_failed(error)) };
        self.coordination.turn(key, deadline, unwanted, look).await
    }

    async fn render_and_store(
        &self,
        location: &SourceRef,
        planned: &Planned,
        lane: Lane,
        deadline: Instant,
        unwanted: impl Future<Output = ()>,
    ) -> Result<StoredRendition, EnsureError> {
        let Planned { plan, key, .. } = planned;
        let open = self.open(location, planned.version()).await?;
        // The facts may be remembered from a time with wider limits.
        self.limits.check_bytes(open.stat.bytes)?;
        self.limits.check_source(&plan.source)?;
        let draft = self.store.draft(key).await.map_err(|error| self.store_failed(error))?;
        let files = Files { source: &open.file, output: draft.file(), mark: self.marks.of(plan) };
        let span = part!("render");
        let render = self.pool.render_unless(files, plan, open.stat.bytes, lane, deadline, unwanted);
        let rendered = render.instrument(span.clone()).await;
        let report = rendered.map_err(|error| match EnsureError::from(error) {
            EnsureError::Store(error) => self.store_failed(error),
            other => other,
        })?;
        traces::stages(&span, &report.times);
        drop(span);
        // Bytes of two versions mixed, under the name of one, must never be stored.
        if !open.is_unchanged()? {
            return Err(EnsureError::SourceChanged);
        }
        let started = Instant::now();
        let stored = draft.publish().instrument(part!("store")).await.map_err(|error| self.store_failed(error))?;
        self.metrics.render_stage("store", started.elapsed());
        Ok(stored)
    }

    /// Remembers what a look has found that began in `era`, where the config lets memory count.
    fn note(&self, planned: &Planned, bytes: Option<u64>, era: Era) {
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

    fn era(&self) -> Era {
        // Evictions as well as purges take away what was seen.
        Era(self.purges.load(Ordering::Acquire) + self.budget.steps())
    }

    fn store_failed(&self, error: crate::store::StoreError) -> EnsureError {
        self.metrics.store_error(error.kind);
        EnsureError::Store(error)
    }
}

/// Ends when a render that has not begun need not begin: nobody waits for it, or it waits behind everybody else's and now
/// somebody asks for it who does not.
async fn unwanted<V>(audience: Audience<V>, lane: Lane) {
    tokio::select! {
        () = audience.left() => {}
        () = audience.hurried(), if lane == Lane::Warm => {}
    }
}

/// Whether a render was lost for want of room: bytes, inodes or a quota.
fn has_no_room(result: &Result<StoredRendition, EnsureError>) -> bool {
    matches!(result, Err(EnsureError::Store(error)) if matches!(error.kind, "enospc" | "edquot"))
}

/// How long a source image that was written a moment ago has to be left alone.
///
/// Linux before 6.13 dates files by its tick, of 10 ms at most, and some file systems still do: two writes within one leave two
/// contents with the same date. What is read once the tick is over is the last of them, and any later one has another date.
fn settles_in(version: &SourceVersion, now: SystemTime) -> Option<Duration> {
    const TICK: Duration = Duration::from_millis(20);
    let modified = u64::try_from(version.modified_ns).ok().map(Duration::from_nanos)?;
    // A date in the future says nothing about when the file was written.
    let age = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.checked_sub(modified)?;
    TICK.checked_sub(age).filter(|rest| !rest.is_zero())
}

/// Whether two versions are of one file. The catalogue's hash tells them apart where both have one; a URL that names the path
/// brings none.
fn is_same_file(one: &SourceVersion, other: &SourceVersion) -> bool {
    let hashes_agree = one.file_hash.is_none() || other.file_hash.is_none() || one.file_hash == other.file_hash;
    Stat::from(one) == Stat::from(other) && hashes_agree
}

fn version(stat: Stat, image: &SourceImage) -> SourceVersion {
    let Stat { bytes, modified_ns, etag } = stat;
    SourceVersion { bytes, modified_ns, etag, file_hash: image.file_hash.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_just_now_has_to_settle() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let written = |at: Duration| {
            settles_in(
                &SourceVersion { bytes: 1, modified_ns: at.as_nanos() as i128, etag: None, file_hash: None },
                now,
            )
        };
        assert_eq!(written(Duration::from_millis(999_995)), Some(Duration::from_millis(15)));
        for settled in [Duration::ZERO, Duration::from_millis(999_980), Duration::from_millis(1_000_001)] {
            assert_eq!(written(settled), None);
        }
    }
}
