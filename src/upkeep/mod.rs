//! What is done to images outside of requests for them: taking their renditions away, making them ahead of time, and seeing
//! what there is.

mod folder;
mod gc;
mod news;
mod original;
mod purge;
mod seen;
mod usage;
mod walk;
mod warm;

pub use folder::{Folder, Told, WatchError};
pub use gc::{Collected, Damaged, GcOptions, Progress, Reason, Tally, gc};
pub use news::attend;
pub use original::Original;
pub use purge::{PurgeError, Purged, Scope, purge, purge_all_of};
pub use seen::Seen;
pub use usage::{OfImage, Usage, usage};
pub use walk::{Candidates, Walk, files, rows};
pub use warm::{Failure, MAX_RENDITIONS, Warmed, reason, tasks, warm};

use std::sync::Arc;

use crate::{
    access::{ImageRef, Subject},
    app::App,
    catalogue::CatalogueError,
    model::SourceImage,
};

/// The source image that a reference means, by the catalogue's row as it is at this moment: what was just saved counts, whatever
/// is remembered. `None` if there is none.
///
/// # Errors
/// The catalogue's own.
async fn find_afresh(app: &App, subject: &Subject<'_>) -> Result<Option<Arc<SourceImage>>, CatalogueError> {
    match subject.image() {
        ImageRef::Id(id) => app.catalogue.find_afresh(id).await,
        ImageRef::Path(location) if app.sources.contains_key(&location.source) => {
            Ok(Some(Arc::new(SourceImage::at(location))))
        }
        ImageRef::Path(_) | ImageRef::Nothing => Ok(None),
    }
}
