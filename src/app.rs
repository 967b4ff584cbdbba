//! The composition root: a config to a running whole. `parts.rs` chooses the backends.

mod parts;
mod readiness;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus_client::metrics::counter::Counter;
use thiserror::Error;

use self::parts::{bucket, catalogue, sources, store};
pub use self::{
    parts::{SourcesByName, defaults, limits, pool_config, walkable},
    readiness::{Part, Readiness},
};
use crate::{
    access::{KeyError, OpsToken, PageDoor, SignedRequest, Verifier},
    budget::Budget,
    catalogue::{Catalogue, CatalogueError},
    config::{Config, RenderConfig},
    coordination::{Away, Coordination, coordinator},
    metrics::Metrics,
    model::{Size, SourceFacts},
    offload::Offload,
    remote::{RemoteError, s3::BucketError},
    render::plan::MAX_WATERMARK_PIXELS,
    renditions::{Parts, Renditions, TermsBySpec},
    solved::Solved,
    source::{Originals, Source},
    store::Store,
    workers::{MarkError, Marks, Pool, SandboxReport, StartError},
};

/// Everything that answering a request needs.
pub struct App {
    /// Checks URLs.
    pub verifier: Verifier,
    /// Finds images.
    pub catalogue: Arc<dyn Catalogue>,
    /// Finds or makes renditions.
    pub renditions: Arc<Renditions>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// The sources by name, for `check` and readiness.
    pub sources: BTreeMap<String, Arc<dyn Source>>,
    /// The store, for `check`, readiness and the sweep.
    pub store: Arc<dyn Store>,
    /// What the store holds, and may.
    pub budget: Arc<Budget>,
    /// Requests answered before.
    pub solved: Solved,
    /// What `/purge`, `/warm` and `/sign` are asked with, where there are such.
    pub ops_token: Option<OpsToken>,
    /// Who may use the editors' page, where there is one.
    pub page_door: Option<PageDoor>,
    config: Config,
    pool: Arc<Pool>,
    marks: Arc<Marks>,
    offloads: HashMap<Arc<str>, Offload>,
    gives_verdicts: bool,
    key_uses: HashMap<Arc<str>, Counter>,
    draining: AtomicBool,
}

/// Why the service cannot start.
#[derive(Debug, Error)]
pub enum BuildError {
    /// A key is not usable.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The catalogue cannot be set up.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The workers do not start.
    #[error("the render workers do not start: {0}")]
    Workers(#[from] StartError),
    /// A remote source cannot be set up.
    #[error("sources.{name}.http: {error}")]
    Source {
        /// Its name.
        name: String,
        /// Why.
        error: RemoteError,
    },
    /// A bucket cannot be set up.
    #[error("{section}: {error}")]
    Bucket {
        /// The section it is of.
        section: String,
        /// Why.
        error: BucketError,
    },
    /// A watermark cannot be read.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The coordination between gates cannot be set up.
    #[error("{0}")]
    Coordination(Away),
    /// A key that a running service cannot change.
    #[error("{0} cannot change while the service runs: restart it")]
    NeedsRestart(&'static str),
}

impl App {
    /// Builds the whole and starts the render workers.
    ///
    /// # Errors
    /// The first part that cannot be built.
    pub async fn build(config: &Config) -> Result<Arc<Self>, BuildError> {
        let metrics = Arc::new(Metrics::new());
        // Keys first: a service without a usable key starts nothing.
        let verifier = Verifier::new(config)?;
        let pool = Pool::start(pool_config(&config.render), metrics.clone()).await?;
        Self::assemble(config, verifier, metrics, pool, None)
    }

    /// Builds a whole from a changed config, keeping metrics and render workers. This one goes on serving whoever holds it;
    /// when anything is wrong with the new config, it is as if nothing had happened.
    ///
    /// # Errors
    /// The first part that cannot be built, or a key that only a restart can change.
    pub fn rebuild(&self, config: &Config) -> Result<Arc<Self>, BuildError> {
        for (key, changed) in [
            ("server.listen", self.config.server.listen != config.server.listen),
            ("server.listen_mode", self.config.server.listen_mode != config.server.listen_mode),
            ("server.ops_listen", self.config.server.ops_listen != config.server.ops_listen),
            (
                "server.header_timeout_seconds",
                self.config.server.header_timeout_seconds != config.server.header_timeout_seconds,
            ),
            ("server.max_connections", self.config.server.max_connections != config.server.max_connections),
            ("server.drain_seconds", self.config.server.drain_seconds != config.server.drain_seconds),
            ("page.listen", self.config.page.listen != config.page.listen),
            ("log", self.config.log != config.log),
            ("tracing", self.config.tracing != config.tracing),
            // The workers' own bounds: their number, queue, budget, longest file and recycling.
            ("render.workers, queue_depth, memory_budget, max_source_bytes or recycle_after_jobs", {
                let key = |render: &RenderConfig| {
                    let RenderConfig { workers, queue_depth, memory_budget, max_source_bytes, .. } = render;
                    (*workers, *queue_depth, *memory_budget, *max_source_bytes, render.recycle_after_jobs)
                };
                key(&self.config.render) != key(&config.render)
            }),
        ] {
            if changed {
                return Err(BuildError::NeedsRestart(key));
            }
        }
        let (metrics, pool) = (self.metrics.clone(), self.pool.clone());
        Self::assemble(config, self.verifier.renewed(config)?, metrics, pool, Some(&self.budget))
    }

    fn assemble(
        config: &Config,
        verifier: Verifier,
        metrics: Arc<Metrics>,
        pool: Arc<Pool>,
        budget: Option<&Arc<Budget>>,
    ) -> Result<Arc<Self>, BuildError> {
        let catalogue = catalogue(config, &metrics)?;
        let originals = Arc::new(Originals::new(&config.originals));
        let sources = sources(config, &originals, &metrics)?;
        let bucket = match &config.store.s3 {
            Some(section) => Some(Arc::new(bucket("store.s3", section)?)),
            None => None,
        };
        let store = store(config, bucket.as_ref());
        let budget = match budget {
            Some(budget) => budget.renewed(config, &store),
            None => Budget::new(config, store.clone(), metrics.clone()),
        };
        let marks = Arc::new(Marks::load(&config.watermarks)?);
        let svg_sources =
            config.sources.iter().filter(|(_, section)| section.svg).map(|(name, _)| name.clone()).collect();
        let renditions = Renditions::new(Parts {
            sources: sources.clone(),
            store: store.clone(),
            pool: pool.clone(),
            limits: limits(&config.render),
            defaults: defaults(&config.render, &marks),
            svg_sources,
            marks: marks.clone(),
            deadline: Duration::from_secs_f64(config.render.deadline_seconds),
            terms: TermsBySpec::new(&config.store, config.existence_by_spec(), budget.clone()),
            budget: budget.clone(),
            metrics: metrics.clone(),
            coordination: Coordination::new(
                coordinator(&config.coordination, &config.store, bucket.as_ref()).map_err(BuildError::Coordination)?,
                metrics.clone(),
            ),
        });
        let offloads: HashMap<Arc<str>, Offload> = config
            .effective_routes()
            .into_iter()
            .map(|(name, route)| (Arc::from(name), Offload::new(route.offload, config, bucket.as_ref())))
            .collect();
        let key_uses = verifier.table().key_ids().map(|id| (id.clone(), metrics.key_counter(id))).collect();
        let page_door = PageDoor::new(&config.page, verifier.table())?;
        Ok(Arc::new(Self {
            verifier,
            catalogue,
            renditions,
            metrics,
            sources,
            store,
            budget,
            solved: Solved::default(),
            ops_token: OpsToken::new(&config.ops)?,
            page_door,
            config: config.clone(),
            pool,
            marks,
            gives_verdicts: offloads.values().any(|offload| offload.verdicts().is_some()),
            offloads,
            key_uses,
            draining: AtomicBool::new(false),
        }))
    }

    /// What all of this was made from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The offload backend of a route.
    pub fn offload(&self, route: &str) -> &Offload {
        // Made from the same config as the routes, so the name is always there.
        self.offloads.get(route).unwrap_or_else(|| unreachable!("every route has an offload backend"))
    }

    /// Whether any route's nginx asks for verdicts.
    pub fn gives_verdicts(&self) -> bool {
        self.gives_verdicts
    }

    /// For how long a browser may keep what `format-auto` serves until something better is ready.
    pub fn interim_max_age(&self) -> Duration {
        Duration::from_secs(self.config.cache.interim_max_age_seconds)
    }

    /// Counts the key that verified a request.
    pub fn count_key_use(&self, signed: &SignedRequest<'_>) {
        if let Some(counter) = self.key_uses.get(signed.key_id()) {
            counter.inc();
        }
    }

    /// The origin whose scripts may ask, where there is one.
    pub fn allowed_origin(&self) -> Option<&str> {
        self.config.headers.access_control_allow_origin.as_deref()
    }

    /// The header that says who asks, where it can be believed.
    pub fn client_address_header(&self) -> Option<&str> {
        self.config.log.client_address_header_on(&self.config.server.listen)
    }

    /// How well the workers are locked in.
    pub fn sandbox(&self) -> SandboxReport {
        self.pool.sandbox()
    }

    /// Has a worker look at each watermark: what it is, or why it cannot be used.
    pub async fn check_watermarks(&self) -> BTreeMap<String, Part> {
        let mut found = BTreeMap::new();
        for (name, file) in self.marks.files() {
            let deadline = Instant::now() + Duration::from_secs_f64(self.config.render.deadline_seconds);
            let result = match self.pool.probe(file, deadline).await {
                Ok(facts) if facts.stored_size.pixels() > MAX_WATERMARK_PIXELS => {
                    Err(format!("it has more than {MAX_WATERMARK_PIXELS} pixels"))
                }
                Ok(SourceFacts { format, stored_size: Size { width, height }, .. }) => {
                    Ok(format!("{format}, {width}x{height}"))
                }
                Err(error) => Err(error.to_string()),
            };
            found.insert(name.to_owned(), Part::new(result));
        }
        found
    }

    /// Says goodbye: readiness turns false.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Writes down what the store's index is still to learn, ends the render workers, and gives all leases back. Renders at work
    /// are waited for.
    pub async fn shut_down(&self) {
        self.shut_down_until(std::future::pending()).await;
    }

    /// As [`App::shut_down`]; renders still at work when `enough` ends are cut off.
    pub async fn shut_down_until(&self, enough: impl Future<Output = ()>) {
        tokio::join!(self.budget.stop(), self.pool.shutdown_until(enough));
        self.renditions.coordination().settled().await;
    }

    /// Whether requests can be answered, and what is degraded.
    pub async fn readiness(&self) -> Readiness {
        let draining = self.draining.load(Ordering::Relaxed);
        let workers = self.pool.stats().alive;
        let mut sources = BTreeMap::new();
        for (name, source) in &self.sources {
            sources.insert(name.clone(), Part::new(source.probe().await));
        }
        Readiness {
            ready: !draining && workers > 0,
            draining,
            workers,
            sandbox: self.sandbox(),
            catalogue: Part::new(self.catalogue.probe().await),
            sources,
            store: Part::new(self.store.probe().await),
            coordination: Part::new(self.renditions.coordination().probe().await),
        }
    }
}
