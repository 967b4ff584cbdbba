//! Removes the renditions of images.

use std::collections::HashSet;

use serde::Serialize;
use thiserror::Error;

use super::{find_afresh, usage::presets};
use crate::{
    access::{ImageRef, Subject},
    app::App,
    catalogue::CatalogueError,
    config::Config,
    coordination::Event,
    model::{ImageId, SourceKey, SourceRef},
    store::{Depth, Removed, RenditionFile, StoreError, Walked},
};

/// What a purge has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Purged {
    /// Source images that were meant.
    pub images: u64,
    /// Renditions removed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// References to nothing that is known: ids without a row, sources that the config does not have.
    pub unknown: Vec<String>,
    /// For so many seconds nginx may go on sending what it has open.
    pub held_open_seconds: u64,
}

/// More than single images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All images of a source, whether the config has it or not.
    Source(String),
    /// The images whose `source/path` begins so.
    Prefix(String),
    /// What a preset makes, of all images.
    Preset(String),
    /// Everything.
    All,
}

impl Scope {
    /// Sees whether it can be meant: a slip of the pen must not look like a purge that found nothing.
    ///
    /// # Errors
    /// Which of them is wrong, and a sentence.
    pub fn check(&self, config: &Config) -> Result<(), (&'static str, String)> {
        match self {
            Self::Preset(name) if !config.presets.contains_key(name) => {
                Err(("preset", format!("there is no preset {name:?}")))
            }
            Self::Prefix(prefix) if !prefix.contains('/') => {
                Err(("prefix", "is source/path, or the beginning of one: at least source/".into()))
            }
            Self::Source(name) if name.is_empty() => Err(("source", "is empty".into())),
            _ => Ok(()),
        }
    }
}

/// Source images whose renditions are removed at a time, so that memory does not grow with the store.
const AT_A_TIME: usize = 256;

/// Why a purge was not done, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PurgeError {
    /// An id could not be looked up, and nothing is remembered of it. Nothing was removed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The store could not remove everything.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Removes all renditions of the images that these refer to. When it ends, nothing is left that was there or on its way when
/// it began, and nothing that was remembered counts any more. The other gates are told, where gates tell each other.
///
/// An id means the file that its row names and, where it is remembered, the one that it named before: of a row that is changed
/// or deleted those are the renditions to remove.
///
/// # Errors
/// See [`PurgeError`].
pub async fn purge(app: &App, subjects: &[(String, Subject<'_>)]) -> Result<Purged, PurgeError> {
    let (mut locations, mut unknown) = (HashSet::new(), Vec::new());
    let id = |subject: &Subject<'_>| match subject.image() {
        ImageRef::Id(id) => Some(id),
        ImageRef::Path(_) | ImageRef::Nothing => None,
    };
    let ids: Vec<ImageId> = subjects.iter().filter_map(|(_, subject)| id(subject)).collect();
    for (reference, subject) in subjects {
        let found = locate(app, subject).await?;
        if found.is_empty() {
            unknown.push(reference.clone());
        }
        locations.extend(found);
    }
    let removed = app.renditions.purge(&locations).await;
    app.solved.forget(&locations);
    ids.iter().for_each(|id| app.catalogue.forget(Some(*id)));
    let event = Event::Purged { locations: locations.iter().cloned().collect(), ids };
    app.renditions.coordination().tell_now(&event).await;
    let Removed { files, bytes } = removed?;
    app.metrics.purged(files);
    let held_open_seconds = app.config().held_open_seconds();
    Ok(Purged { images: locations.len() as u64, files, bytes, unknown, held_open_seconds })
}

/// Removes the renditions of all images within a scope: those that were stored when it began. What is rendered meanwhile may stay;
/// it is of the version that its original has now.
///
/// # Errors
/// The first that the store could not remove, or read. What follows it is left.
pub async fn purge_all_of(app: &App, scope: &Scope) -> Result<Purged, PurgeError> {
    let presets: Vec<_> = match scope {
        Scope::Preset(name) => presets(app).into_iter().filter(|(preset, _)| preset == name).collect(),
        _ => Vec::new(),
    };
    let mut purged = Purged { held_open_seconds: app.config().held_open_seconds(), ..Purged::default() };
    let mut batch = Batch::default();
    let mut walk = app.store.walk(Depth::Records);
    while let Some(found) = walk.next().await {
        let Walked::Image(folder) = found? else { continue };
        let location = folder.record.as_ref().and_then(|record| record.location.clone());
        let is_meant = match (scope, &location) {
            (Scope::All, _) => true,
            (Scope::Source(source), Some(at)) => at.source == *source,
            (Scope::Prefix(prefix), Some(at)) => at.to_string().starts_with(prefix),
            (Scope::Preset(_), Some(_)) => true,
            (_, None) => false,
        };
        if !is_meant {
            continue;
        }
        if let (Scope::Preset(_), Some(record)) = (scope, &folder.record) {
            let specs = presets.iter().flat_map(|(_, specs)| specs);
            let paths: HashSet<String> = specs.flat_map(|spec| app.renditions.paths_of(record, spec)).collect();
            let of_preset = folder.renditions.into_iter().filter(|rendition| paths.contains(&rendition.path));
            let before = batch.files.len();
            batch.files.extend(of_preset);
            if batch.files.len() == before {
                continue;
            }
        }
        batch.keys.insert(folder.key);
        batch.locations.extend(location);
        if batch.keys.len() >= AT_A_TIME {
            std::mem::take(&mut batch).purge(app, scope, &mut purged).await?;
        }
    }
    batch.purge(app, scope, &mut purged).await?;
    app.metrics.purged(purged.files);
    Ok(purged)
}

/// Some of the images of a scope.
#[derive(Default)]
struct Batch {
    keys: HashSet<SourceKey>,
    locations: HashSet<SourceRef>,
    /// Where not everything of an image is meant.
    files: Vec<RenditionFile>,
}

impl Batch {
    async fn purge(self, app: &App, scope: &Scope, purged: &mut Purged) -> Result<(), StoreError> {
        let Self { keys, locations, files } = self;
        if keys.is_empty() {
            return Ok(());
        }
        let removed = match scope {
            Scope::Preset(_) => app.renditions.purge_files(&files, &locations).await,
            _ => app.renditions.purge_folders(&keys, &locations).await,
        };
        app.solved.forget(&locations);
        let images = keys.len() as u64;
        let event = Event::Purged { locations: locations.into_iter().collect(), ids: Vec::new() };
        app.renditions.coordination().tell_now(&event).await;
        let Removed { files, bytes } = removed?;
        purged.images += images;
        purged.files += files;
        purged.bytes += bytes;
        Ok(())
    }
}

/// Where the bytes of an image are and were, as far as anybody knows.
async fn locate(app: &App, subject: &Subject<'_>) -> Result<Vec<SourceRef>, CatalogueError> {
    let before = match subject.image() {
        ImageRef::Id(id) => app.catalogue.recall(id),
        ImageRef::Path(_) | ImageRef::Nothing => None,
    };
    let now = match find_afresh(app, subject).await {
        Ok(image) => image,
        // No row, for this purpose: its path leaves the source, say.
        Err(CatalogueError::BadRow { .. }) => None,
        Err(_) if before.is_some() => None,
        Err(error) => return Err(error),
    };
    Ok([before, now].into_iter().flatten().map(|image| image.location.clone()).collect())
}
