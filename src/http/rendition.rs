//! From a proof to the answer that hands a rendition over.

use std::{sync::Arc, time::Duration};

use hyper::{HeaderMap, Method, Response, StatusCode, header::HeaderValue};

use super::{
    accept,
    failure::RequestError,
    proven::{admit_size, count_allowed, explain_gone, find_image},
    request_id::X_REQUEST_ID,
};
use crate::{
    access::VerifiedRequest,
    app::App,
    metrics::Outcome,
    model::{ImageFormat, SourceImage},
    offload::{Body, Caching, OffloadError, Served, content_disposition, file_name},
    renditions::{Ask, EnsureError, Ensured, How},
    solved::Answer,
    spec::{Accepted, FilterSpec},
};

/// What [`find_or_make`] answers, for a request that it has answered as a hit before: no spec is parsed, no plan looked for,
/// no header written. `None` is no verdict, but for `find_or_make` to say what is the matter.
pub(super) fn hit(app: &App, verified: &VerifiedRequest<'_>, headers: &HeaderMap) -> Option<Arc<Answer>> {
    let solved = app.solved.find(verified, negotiable(verified, headers))?;
    if let Some(id) = solved.id {
        app.catalogue.find_now(id).filter(|image| *image == solved.image)?;
    }
    // The answer was somebody else's: key and token are this request's own.
    verified.admits(&solved.image).ok()?;
    verified.admits_pixels(solved.planned.plan.rendition_size().pixels()).ok()?;
    app.renditions.is_hit(&solved.image, &solved.planned).then_some(solved)
}

/// What the client accepts, where that can have a say: `format-auto` is written in one way only.
fn negotiable(verified: &VerifiedRequest<'_>, headers: &HeaderMap) -> Option<Accepted> {
    verified.filter_spec().contains("format-auto").then(|| accept::accepted(headers))
}

/// The whole way of a request that is proven: each of its answers comes from here, or is a copy of one that did.
pub(super) async fn find_or_make(
    app: &App,
    verified: &VerifiedRequest<'_>,
    method: &Method,
    headers: &HeaderMap,
    ask: Ask,
    request_id: &str,
) -> Result<(Response<Body>, Outcome), RequestError> {
    let image = find_image(app, verified, request_id).await?;
    count_allowed(app, verified);
    let spec = FilterSpec::parse(verified.filter_spec())?;
    if verified.limits_pixels() {
        let spec = if spec.is_auto() { spec.accepting(accept::accepted(headers)) } else { spec.clone() };
        let resolved = app.renditions.resolve(&image, &spec).await.map_err(|error| explain_gone(verified, error))?;
        admit_size(verified, &resolved.planned)?;
    }
    let answer = async |ask| {
        let found = find(app, &image, spec.clone(), headers, ask).await;
        let found = found.map_err(|error| explain_gone(verified, error))?;
        hand_over(app, verified, method, headers, (ask, verified.max_age()), &image, found).await
    };
    match answer(ask).await {
        // A purge came between, and nobody else would ask again.
        Err(RequestError::Offload(OffloadError::Vanished)) => answer(Ask::Disk).await,
        result => result,
    }
}

/// The answer that hands a rendition over, to be kept for `max_age` at most.
pub(super) async fn hand_over(
    app: &App,
    verified: &VerifiedRequest<'_>,
    method: &Method,
    headers: &HeaderMap,
    (ask, max_age): (Ask, Duration),
    image: &Arc<SourceImage>,
    Found { ensured, negotiated, rank }: Found,
) -> Result<(Response<Body>, Outcome), RequestError> {
    let Ensured { stored, planned, how } = ensured;
    let again = ask == Ask::Disk;
    if again && how == How::Hit {
        tracing::warn!(
            path = stored.path,
            "the web server could not open a rendition that is there: see its error log"
        );
    }
    let offload = app.offload(&verified.route().name);
    let disposition = match again && offload.keeps_disposition() {
        true => None,
        false => Some(disposition(verified, image, stored.format)?),
    };
    let life = offload.life();
    let max_age = max_age.min(life.max_age.unwrap_or(Duration::MAX));
    let caching = Caching {
        max_age: match rank {
            Rank::Meanwhile => max_age.min(app.interim_max_age()),
            Rank::Best | Rank::Instead => max_age,
        },
        is_private: verified.is_private(),
        negotiated,
        varies_by: app.verifier.varies_by(verified.route()),
    };
    let served = Served { stored, disposition, caching };
    let mut response = offload.respond(&served, method, headers).await?;
    // A place for the id that each answer gets at its end: the table of a copy would have to grow for it.
    response.headers_mut().insert(X_REQUEST_ID, HeaderValue::from_static(""));
    let is_kept =
        how == How::Hit && !again && rank == Rank::Best && (*method == Method::GET || !offload.answers_by_method());
    if is_kept {
        let image = (verified.image().id(), image);
        app.solved.keep(verified, negotiable(verified, headers), image, &planned, (caching, life, &response));
    }
    let outcome = match how {
        _ if response.status() == StatusCode::NOT_MODIFIED => Outcome::NotModified,
        How::Hit => Outcome::Hit,
        How::Rendered => Outcome::Rendered,
        How::Joined => Outcome::Joined,
    };
    Ok((response, outcome))
}

/// A rendition, and how far the request's `Accept` decided about it.
pub(super) struct Found {
    pub ensured: Ensured,
    /// Another client may get another format.
    pub negotiated: bool,
    pub rank: Rank,
}

/// How a rendition stands to the best that its client could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// There is no better one.
    Best,
    /// A better one will soon be there.
    Meanwhile,
    /// A better one cannot be made now: its source image is gone, or it has failed and is tried again later.
    Instead,
}

/// Finds or makes the rendition. For `format-auto` an AVIF that is not there yet is made behind, and the next best format
/// is served meanwhile: encoding one takes longer than anybody likes to wait.
async fn find(
    app: &App,
    image: &SourceImage,
    spec: FilterSpec,
    headers: &HeaderMap,
    ask: Ask,
) -> Result<Found, EnsureError> {
    if !spec.is_auto() {
        let ensured = app.renditions.ensure(image, &spec, ask).await?;
        return Ok(Found { ensured, negotiated: false, rank: Rank::Best });
    }
    let accepted = accept::accepted(headers);
    let spec = spec.accepting(accepted);
    let left = match app.renditions.find_or_leave(image, &spec, ask).await? {
        Ok(ensured) => return Ok(Found { ensured, negotiated: true, rank: Rank::Best }),
        Err(left) => left,
    };
    let meanwhile = spec.accepting(Accepted { avif: false, ..accepted });
    let ensured = app.renditions.ensure(image, &meanwhile, ask).await?;
    let rank = if left.can_be_made() { Rank::Meanwhile } else { Rank::Instead };
    // Not before: it would share the processor with what the client waits for.
    app.renditions.begin(left);
    Ok(Found { ensured, negotiated: true, rank })
}

/// The name that the browser saves the image under: the link's own, else the original's with the output's extension.
fn disposition(
    verified: &VerifiedRequest<'_>,
    image: &SourceImage,
    format: ImageFormat,
) -> Result<HeaderValue, RequestError> {
    let value = match verified.download() {
        Some(name) => content_disposition(name, true),
        None => content_disposition(&file_name(image.location.path.stem(), format), false),
    };
    Ok(value.map_err(OffloadError::from)?)
}
