//! The life of an image request.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use http_body_util::{Either, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::{Body as _, Incoming},
    header::{ALLOW, HeaderName, HeaderValue, TRANSFER_ENCODING},
};

use super::{
    accept,
    failure::{ALLOWED, Failure, RequestError},
    request_id::{RequestId, X_REQUEST_ID},
    verdict,
};
use crate::{
    access::{ImageRef, UrlError, VerifiedRequest},
    app::App,
    metrics::Outcome,
    model::{ImageFormat, SourceImage},
    offload::{Body, OffloadError, Served, content_disposition, file_name},
    renditions::{Ask, EnsureError, Ensured, How},
    solved::Answer,
    spec::{Accepted, FilterSpec},
};

/// The web server marks a request that comes back because the file was not there when it opened it.
const X_SENDIMAGE_AGAIN: HeaderName = HeaderName::from_static("x-sendimage-again");

/// Answers one request on the public listener: always an answer, with its line in the log and its count in the metrics.
pub async fn answer(app: Arc<App>, request: Request<Incoming>) -> Response<Body> {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let request_id = RequestId::of(&parts.headers);
    let has_body = !body.is_end_stream() || parts.headers.contains_key(TRANSFER_ENCODING);
    let asks_for_verdict = verdict::is_asked(&app, &parts.uri);
    let result = match has_body {
        true => Err(RequestError::HasBody),
        false if asks_for_verdict => Box::pin(verdict::answer(&app, &parts.headers)).await,
        false => serve(&app, &parts.method, &parts.uri, &parts.headers).await.map(|(answer, how)| (answer, Some(how))),
    };
    let (mut response, outcome) = match result {
        Ok((response, None)) => (response, None),
        Ok((response, Some(outcome))) => {
            tracing::debug!(
                request.id = request_id.as_str(),
                outcome = outcome.name(),
                duration_ms = millis(started),
                "served"
            );
            (response, Some(outcome))
        }
        Err(error) => {
            let failure = Failure::from(&error);
            log(request_id.as_str(), &failure, &error, started);
            let response = match has_body {
                true => failure.final_response(),
                false if asks_for_verdict => verdict::refuse(&failure),
                false => failure.response(),
            };
            (response, Some(failure.outcome))
        }
    };
    response.headers_mut().insert(X_REQUEST_ID, request_id.into());
    if let Some(outcome) = outcome {
        app.metrics.request(outcome, started.elapsed());
    }
    response
}

/// Each `?` is an early exit; `failure.rs` says which status it becomes. The order is a promise - cheap before costly, proof
/// before look-up - so that a stranger cannot learn whether an image exists, nor make the service touch a disk.
///
/// # Errors
/// Why the request was not served.
pub async fn serve(
    app: &App,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(Response<Body>, Outcome), RequestError> {
    if uri.authority().is_some() {
        return Err(RequestError::Url(UrlError::NotAPath));
    }
    let (route, url) = app.verifier.table().resolve(uri.path(), uri.query()).map_err(RequestError::Url)?;
    match *method {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return Ok((options(), Outcome::Hit)),
        _ => return Err(RequestError::Method),
    }
    let verified = app.verifier.verify(route, &url, SystemTime::now())?;
    app.count_key_use(&verified);
    let ask = if headers.contains_key(X_SENDIMAGE_AGAIN) { Ask::Disk } else { Ask::Memory };
    // Hot path: nearly every request ends here, after one stat of the source and one of the rendition.
    if ask == Ask::Memory
        && let Some(answer) = hit(app, &verified, headers)
    {
        return Ok((answer.response(), Outcome::Hit));
    }
    // In a box: hyper moves a request's future about, and a hit's would have to be as large as this one.
    Box::pin(find_or_make(app, &verified, method, headers, ask)).await
}

/// What [`find_or_make`] answers, for a request that it has answered as a hit before: no spec is parsed, no plan looked for,
/// no header written. `None` is no verdict, but for `find_or_make` to say what is the matter.
pub(super) fn hit(app: &App, verified: &VerifiedRequest<'_>, headers: &HeaderMap) -> Option<Arc<Answer>> {
    let solved = app.solved.find(verified, negotiable(verified, headers))?;
    if let Some(id) = solved.id {
        app.catalogue.find_now(id).filter(|image| *image == solved.image)?;
    }
    app.renditions.is_hit(&solved.image, &solved.planned).then_some(solved)
}

/// What the client accepts, where that can have a say: `format-auto` is written in one way only.
fn negotiable(verified: &VerifiedRequest<'_>, headers: &HeaderMap) -> Option<Accepted> {
    verified.filter_spec().contains("format-auto").then(|| accept::accepted(headers))
}

/// The whole way of a request that is proven: each of its answers comes from here, or is a copy of one that did.
async fn find_or_make(
    app: &App,
    verified: &VerifiedRequest<'_>,
    method: &Method,
    headers: &HeaderMap,
    ask: Ask,
) -> Result<(Response<Body>, Outcome), RequestError> {
    let image = find_image(app, verified).await?;
    let spec = FilterSpec::parse(verified.filter_spec())?;
    let found = find(app, &image, spec, headers, ask).await.map_err(|error| explain_gone(verified, error))?;
    hand_over(app, verified, method, headers, ask, &image, found).await
}

/// The answer that hands a rendition over.
pub(super) async fn hand_over(
    app: &App,
    verified: &VerifiedRequest<'_>,
    method: &Method,
    headers: &HeaderMap,
    ask: Ask,
    image: &Arc<SourceImage>,
    Found { ensured, negotiated, interim }: Found,
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
    let max_age = if interim { verified.max_age().min(app.interim_max_age()) } else { verified.max_age() };
    let served = Served { stored, disposition, max_age, negotiated };
    let mut response = offload.respond(&served, method, headers).await?;
    // A place for the id that each answer gets at its end: the table of a copy would have to grow for it.
    response.headers_mut().insert(X_REQUEST_ID, HeaderValue::from_static(""));
    if how == How::Hit && !again && !interim {
        let image = (verified.image().id(), image);
        app.solved.keep(verified, negotiable(verified, headers), image, &planned, &response);
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
    /// The same client will get a better one soon.
    pub interim: bool,
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
        return Ok(Found { ensured, negotiated: false, interim: false });
    }
    let accepted = accept::accepted(headers);
    let spec = spec.accepting(accepted);
    if !accepted.avif {
        let ensured = app.renditions.ensure(image, &spec, ask).await?;
        return Ok(Found { ensured, negotiated: true, interim: false });
    }
    let left = match app.renditions.find_or_leave(image, &spec, ask).await {
        Ok(Ok(ensured)) => return Ok(Found { ensured, negotiated: true, interim: false }),
        Ok(Err(left)) => Some(left),
        // What is too large for an AVIF may fit another format.
        Err(EnsureError::OverLimit(_)) => None,
        Err(error) => return Err(error),
    };
    let meanwhile = spec.accepting(Accepted { avif: false, ..accepted });
    let ensured = app.renditions.ensure(image, &meanwhile, ask).await?;
    // Not before: it would share the processor with what the client waits for.
    if let Some(left) = left {
        app.renditions.begin(left);
    }
    Ok(Found { ensured, negotiated: true, interim: true })
}

/// The source image that a verified URL refers to.
///
/// # Errors
/// [`RequestError::UnknownImage`], or the catalogue's own.
pub async fn find_image(app: &App, verified: &VerifiedRequest<'_>) -> Result<Arc<SourceImage>, RequestError> {
    match verified.image() {
        ImageRef::Id(id) => app.catalogue.find(id).await?.ok_or(RequestError::UnknownImage),
        ImageRef::Path(location) => Ok(Arc::new(SourceImage { location, file_hash: None, focal_point: None })),
        ImageRef::Nothing => Err(RequestError::UnknownImage),
    }
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

/// A catalogue's image whose file is gone is 410; a path that nothing was ever said about is 404.
pub fn explain_gone(verified: &VerifiedRequest<'_>, error: EnsureError) -> RequestError {
    match (verified.image(), error) {
        (ImageRef::Path(_), EnsureError::SourceGone(_)) => RequestError::NoSuchPath,
        (_, error) => RequestError::Ensure(error),
    }
}

fn options() -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, ALLOWED);
    response
}

/// One line for each failure: who is at fault decides how loud.
fn log(request_id: &str, failure: &Failure, error: &RequestError, started: Instant) {
    let (status, outcome, duration_ms) = (failure.status.as_u16(), failure.outcome.name(), millis(started));
    if failure.status.is_server_error() || failure.status == StatusCode::UNPROCESSABLE_ENTITY {
        tracing::warn!(request.id = request_id, status, outcome, duration_ms, reason = %error, "not served");
    } else {
        tracing::info!(request.id = request_id, status, outcome, duration_ms, reason = %error, "not served");
    }
}

fn millis(started: Instant) -> f64 {
    (started.elapsed().as_secs_f64() * 1e6).round() / 1e3
}
