//! Removes the renditions of images.

use std::collections::HashSet;

use serde::Serialize;
use thiserror::Error;

use super::find_afresh;
use crate::{
    access::{ImageRef, Subject},
    app::App,
    catalogue::CatalogueError,
    coordination::Event,
    model::{ImageId, SourceRef},
    store::{Removed, StoreError},
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
}

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
    let event = Event::Purged { locations: locations.iter().cloned().collect(), ids };
    app.renditions.coordination().tell_now(&event).await;
    let Removed { files, bytes } = removed?;
    app.metrics.purged(files);
    Ok(Purged { images: locations.len() as u64, files, bytes, unknown })
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
