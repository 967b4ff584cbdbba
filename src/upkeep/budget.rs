//! Keeps the store within its bounds, outside of the service.

use crate::{
    app::App,
    budget::{Enforced, IndexError},
};

/// Compares the store's index with the disk, and takes out what is too much by `[store]`: to the end, and as carefully as the
/// service does it in small steps. Whatever else has removed or added files is counted by this. `None` for a store
/// without bounds.
///
/// # Errors
/// When the index cannot be used.
pub async fn enforce_budget(app: &App, is_dry_run: bool) -> Result<Option<Enforced>, IndexError> {
    app.budget.enforce(is_dry_run).await
}
