//! Make sure a rendition exists.

mod facts;
mod failure;
pub mod flight;
mod found;
mod make;
mod planned;
mod purge;
mod terms;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use moka::sync::Cache;

pub use failure::EnsureError;
use failure::Memory;
use flight::Flights;
use make::Made;
pub use planned::Planned;
use planned::{Era, PlannedCache};
pub use terms::TermsBySpec;
pub use verify::Condition;

use crate::{
    budget::Budget,
    coordination::Coordination,
    metrics::Metrics,
    model::{FocalPoint, ImageFormat, RenditionKey, SourceImage, SourceRef, SourceVersion},
    render::{
        limits::Limits,
        look::Look,
        plan::{Defaults, Plan, PlanError},
    },
    source::{Source, SourceError, Stat},
    spec::{Accepted, FilterSpec},
    store::{SourceRecord, Store, StoredRendition},
    workers::{Coming, Lane, Marks, Pool},
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

/// A request solved as far as it can be without rendering.
#[derive(Debug)]
pub struct Resolved {
    /// Plan and key.
    pub planned: Arc<Planned>,
    /// The rendition, if it is stored.
    pub stored: Option<StoredRendition>,
    /// Whether the source image's file is still there.
    pub source_is_there: bool,
    /// That a render follows, together with others that waited for the same probe.
    coming: Option<Coming>,
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
        Resolved { planned, stored, source_is_there, coming }: Resolved,
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
        self.render(location, &planned, lane, deadline, coming).await
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
            let made = this.render(&location, &planned, Lane::Warm, this.deadline(), None).await;
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
        let resolved = self.resolve_by(image, spec, Ask::Disk, self.deadline()).await?;
        Ok(Resolved { coming: None, ..resolved })
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
                let (planned, coming) = self.planned(image, version(stat, image), None, spec, deadline).await?;
                let stored = self.stored(&planned, ask).await?;
                return Ok(Resolved { planned, stored, source_is_there: true, coming });
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
        let (planned, _) = self.planned(image, asked, Some(last.clone()), spec, deadline).await?;
        let stored = self.stored(&planned, ask).await?;
        if stored.is_some() || is_known {
            return Ok(Resolved { planned, stored, source_is_there: false, coming: None });
        }
        let (planned, _) = self.planned(image, known, Some(last), spec, deadline).await?;
        let stored = self.stored(&planned, ask).await?;
        Ok(Resolved { planned, stored, source_is_there: false, coming: None })
    }

    /// What a spec makes of a version: solved before, or now; then maybe together with others.
    async fn planned(
        self: &Arc<Self>,
        image: &SourceImage,
        version: SourceVersion,
        last: Option<Arc<SourceRecord>>,
        spec: &FilterSpec,
        deadline: Instant,
    ) -> Result<(Arc<Planned>, Option<Coming>), EnsureError> {
        match self.planned.find(&image.location, &version, spec, image.focal_point) {
            Some(planned) => Ok((planned, None)),
            None => self.plan(image, version, last, spec, deadline).await,
        }
    }

    /// Solves a spec that was not solved before, for this version; `last` is what is known of a file that is gone.
    async fn plan(
        self: &Arc<Self>,
        image: &SourceImage,
        version: SourceVersion,
        last: Option<Arc<SourceRecord>>,
        spec: &FilterSpec,
        deadline: Instant,
    ) -> Result<(Arc<Planned>, Option<Coming>), EnsureError> {
        let location = &image.location;
        let source_is_there = last.is_none();
        let (mut record, mut coming) = match last {
            Some(record) => (record, None),
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
                    coming = None; // not soon
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
        let planned = Planned::new(location, &version, spec, image.focal_point, plan, terms);
        Ok((self.planned.insert(planned), coming))
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

    fn store_failed(&self, error: crate::store::StoreError) -> EnsureError {
        self.metrics.store_error(error.kind);
        EnsureError::Store(error)
    }
}

fn version(stat: Stat, image: &SourceImage) -> SourceVersion {
    let Stat { bytes, modified_ns, etag } = stat;
    SourceVersion { bytes, modified_ns, etag, file_hash: image.file_hash.clone() }
}
