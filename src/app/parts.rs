//! The parts of a whole, each from its section of the config: the backends are chosen here.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use super::BuildError;
use crate::{
    catalogue::{Cached, Catalogue, CatalogueError, Manifest, MySql, NoCatalogue, Postgres, Sources, Sqlite, listen},
    config::{CatalogueKind, Config, RenderConfig, S3Config, SourceConfig, SourceKind, StoreKind},
    metrics::Metrics,
    remote::{SystemResolver, s3::Bucket},
    render::{limits::Limits, plan::Defaults},
    source::{Freshness, FsSource, HttpBackend, Originals, RemoteSource, S3Source, Source},
    store::{FsStore, S3Store, Store},
    workers::{Marks, PoolConfig},
};

/// A config's sources.
pub type SourcesByName = BTreeMap<String, Arc<dyn Source>>;

/// What can be walked of a config without anything being rendered: its catalogue, and its sources by name.
///
/// # Errors
/// The first part that cannot be set up.
pub fn walkable(config: &Config) -> Result<(Arc<dyn Catalogue>, SourcesByName), BuildError> {
    let metrics = Arc::new(Metrics::new());
    let originals = Arc::new(Originals::new(&config.originals));
    Ok((rows(config)?.into(), sources(config, &originals, &metrics)?))
}

pub(super) fn sources(
    config: &Config,
    originals: &Arc<Originals>,
    metrics: &Arc<Metrics>,
) -> Result<SourcesByName, BuildError> {
    let one = |(name, section): (&String, &SourceConfig)| {
        Ok((name.clone(), source(name, section, config, originals, metrics)?))
    };
    config.sources.iter().map(one).collect()
}

pub(super) fn catalogue(config: &Config, metrics: &Arc<Metrics>) -> Result<Arc<dyn Catalogue>, CatalogueError> {
    let section = &config.catalogue;
    let fresh = Duration::from_secs_f64(section.cache_seconds);
    let stale = Duration::from_secs_f64(section.stale_seconds);
    let cached = Arc::new(Cached::new(rows(config)?, fresh, stale, metrics.clone()));
    if let Some(channel) = &section.listen {
        listen(section, channel, Arc::downgrade(&cached))?;
    }
    Ok(cached)
}

/// The catalogue without a memory.
fn rows(config: &Config) -> Result<Box<dyn Catalogue>, CatalogueError> {
    let (section, sources) = (&config.catalogue, Sources::new(config));
    Ok(match section.kind {
        CatalogueKind::None => Box::new(NoCatalogue),
        CatalogueKind::Manifest => {
            let file: PathBuf = section.file.clone().unwrap_or_default();
            Box::new(Manifest::open(&file, sources)?)
        }
        CatalogueKind::Sqlite => Box::new(Sqlite::new(section, sources)?),
        CatalogueKind::Postgres => Box::new(Postgres::new(section, sources)?),
        CatalogueKind::Mysql => Box::new(MySql::new(section, sources)?),
    })
}

fn freshness(fresh_seconds: f64, stale_seconds: f64) -> Freshness {
    Freshness { fresh_for: Duration::from_secs_f64(fresh_seconds), stale_for: Duration::from_secs_f64(stale_seconds) }
}

fn source(
    name: &str,
    section: &SourceConfig,
    config: &Config,
    originals: &Arc<Originals>,
    metrics: &Arc<Metrics>,
) -> Result<Arc<dyn Source>, BuildError> {
    Ok(match section.kind {
        SourceKind::Fs => Arc::new(FsSource::new(&section.root)),
        SourceKind::Http => {
            let settings = section.http.clone().unwrap_or_default();
            let resolver = Arc::new(SystemResolver::default());
            let backend = HttpBackend::new(&settings, config.render.max_source_bytes.0, originals.clone(), resolver);
            let backend = backend.map_err(|error| BuildError::Source { name: name.to_owned(), error })?;
            let freshness = freshness(settings.fresh_seconds, settings.stale_seconds);
            Arc::new(RemoteSource::new(name, Box::new(backend), originals.clone(), freshness, metrics.clone()))
        }
        SourceKind::S3 => {
            let settings = section.s3.clone().unwrap_or_default();
            let bucket = bucket(&format!("sources.{name}.s3"), &settings)?;
            let backend = Box::new(S3Source::new(bucket, config.render.max_source_bytes.0));
            let freshness = freshness(settings.fresh_seconds, settings.stale_seconds);
            Arc::new(RemoteSource::new(name, backend, originals.clone(), freshness, metrics.clone()))
        }
    })
}

pub(super) fn bucket(section: &str, settings: &S3Config) -> Result<Bucket, BuildError> {
    Bucket::new(settings).map_err(|error| BuildError::Bucket { section: section.to_owned(), error })
}

pub(super) fn store(config: &Config, bucket: Option<&Arc<Bucket>>) -> Arc<dyn Store> {
    match (config.store.kind, bucket) {
        // The config's check has seen to it that the one comes with the other.
        (StoreKind::S3, Some(bucket)) => {
            // So long without a sign of life no holder is alive, and no waiter has taken over.
            let abandoned_after = config.store.gc_grace_seconds.max(10.0 * config.coordination.lease_seconds);
            let abandoned_after = Duration::from_secs_f64(abandoned_after);
            Arc::new(S3Store::new(bucket.clone(), config.originals.root.clone(), abandoned_after))
        }
        (StoreKind::Fs | StoreKind::S3, _) => Arc::new(FsStore::new(&config.store)),
    }
}

/// The render room's own terms for `[render]`.
pub fn limits(render: &RenderConfig) -> Limits {
    Limits {
        max_source_bytes: render.max_source_bytes.0,
        max_source_pixels: render.max_source_pixels,
        max_source_side: render.max_source_side,
        max_output_pixels: render.max_output_pixels,
    }
}

/// What `[render]` says where a spec is silent.
pub fn defaults(render: &RenderConfig, marks: &Marks) -> Defaults {
    Defaults {
        jpeg_quality: render.effective_jpeg_quality(),
        jpeg_progressive: render.jpeg_progressive,
        webp_quality: render.effective_webp_quality(),
        avif_quality: render.effective_avif_quality(),
        conversions: render.effective_conversions(),
        animation: render.animation,
        watermarks: marks.by_name().clone(),
        full_decode_pixels: render.full_decode_pixels,
    }
}

/// The workers' own terms for `[render]`.
pub fn pool_config(render: &RenderConfig) -> PoolConfig {
    PoolConfig {
        workers: render.workers,
        queue_depth: render.queue_depth,
        memory_budget: render.memory_budget.0,
        max_source_bytes: render.max_source_bytes.0,
        recycle_after_jobs: render.recycle_after_jobs,
        ..PoolConfig::default()
    }
}
