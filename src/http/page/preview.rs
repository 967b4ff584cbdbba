//! Pictures for the page: made as the public's are, behind all that the public waits for.

use std::{sync::Arc, time::Duration};

use hyper::{HeaderMap, Response, StatusCode};
use tokio::sync::Semaphore;

use super::{
    answer::PageError,
    api,
    solve::{self, Focus},
};
use crate::{
    app::App,
    http::{accept, message::fixed},
    offload::Body,
};

/// Previews at one moment; more wait.
static TURNS: Semaphore = Semaphore::const_new(8);
/// Longest preview: it goes through this process.
const MAX_BYTES: u64 = 32 << 20;

/// `ref`, `spec` (or a preset's name), and `focal` where one is tried.
pub(super) async fn answer(app: &Arc<App>, query: &str, headers: &HeaderMap) -> Result<Response<Body>, PageError> {
    let parameter = |name| api::parameter(query, name);
    let (reference, spec) = (parameter("ref").unwrap_or_default(), parameter("spec").unwrap_or_default());
    let focal = match parameter("focal") {
        Some(text) => Some(Focus::parse(&text).ok_or_else(|| PageError::field("focal", "Not a focal point"))?),
        None => None,
    };
    let spec = solve::spec(app, &spec)?.accepting(accept::accepted(headers));
    let image = solve::image(app, &reference, focal).await?;
    let busy = || PageError::new(StatusCode::SERVICE_UNAVAILABLE, "The service is busy: the preview comes later");
    let patience = Duration::from_secs_f64(app.config().render.deadline_seconds);
    let turn = tokio::time::timeout(patience, TURNS.acquire()).await;
    let _turn = turn.ok().and_then(Result::ok).ok_or_else(busy)?;
    let ensured = app.renditions.warm(&image, &spec).await.map_err(solve::ensure_error)?;
    let read = app.store.read(&ensured.stored, MAX_BYTES).await;
    let bytes = read.map_err(|error| {
        tracing::warn!(%error, "a preview was not read");
        busy()
    })?;
    // Purged a moment ago, or too long to be shown.
    let too_long = || PageError::field("spec", "The preview is too large to be shown here");
    let bytes = bytes.ok_or_else(|| if ensured.stored.bytes > MAX_BYTES { too_long() } else { busy() })?;
    Ok(fixed(StatusCode::OK, ensured.stored.format.media_type(), bytes))
}
