//! The life of an image request.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http_body_util::{Either, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::{Body as _, Incoming},
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_MAX_AGE, ALLOW, HeaderName, HeaderValue, TRANSFER_ENCODING,
    },
    http::uri::PathAndQuery,
};
use tracing::Instrument as _;

use super::{
    accept, canary,
    failure::{ALLOWED, Failure, RequestError},
    request_id::{RequestId, X_REQUEST_ID},
    verdict,
};
use crate::{
    access::{Bearer, ImageRef, Refusal, Route, SignedUrl, UrlError, VerifiedRequest, VerifyError},
    app::App,
    catalogue::CatalogueError,
    config::AuthMode,
    doctor::canary::Canary,
    metrics::{AuthOutcome, Outcome},
    model::{ImageFormat, SourceImage},
    offload::{Body, Caching, OffloadError, Served, content_disposition, file_name},
    renditions::{Ask, EnsureError, Ensured, How, Planned},
    solved::Answer,
    spec::{Accepted, FilterSpec},
    traces::{self, part},
};

/// The web server marks a request that comes back because the file was not there when it opened it.
const X_SENDIMAGE_AGAIN: HeaderName = HeaderName::from_static("x-sendimage-again");

/// Answers one request on the public listener: always an answer, with its line in the log and its count in the metrics, and a
/// trace where somebody wants one.
pub async fn answer(app: Arc<App>, request: Request<Incoming>) -> Response<Body> {
    if !traces::are_wanted() {
        return answer_untraced(app, request).await;
    }
    let span = traces::request(request.method(), request.headers());
    let response = Box::pin(answer_untraced(app, request).instrument(span.clone())).await;
    // Signed: the OpenTelemetry layer makes text of an unsigned one.
    span.record("http.response.status_code", i64::from(response.status().as_u16()));
    if let Some(id) = response.headers().get(X_REQUEST_ID).and_then(|id| id.to_str().ok()) {
        span.record("request.id", id);
    }
    response
}

async fn answer_untraced(app: Arc<App>, request: Request<Incoming>) -> Response<Body> {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let request_id = RequestId::of(&parts.headers);
    let has_body = !body.is_end_stream() || parts.headers.contains_key(TRANSFER_ENCODING);
    let asks_for_verdict = verdict::is_asked(&app, &parts.uri);
    let result = match has_body {
        true => Err(RequestError::HasBody),
        false if asks_for_verdict => Box::pin(verdict::answer(&app, &parts.headers, request_id.as_str())).await,
        false => {
            let answer = serve(&app, &parts.method, &parts.uri, &parts.headers, request_id.as_str()).await;
            answer.map(|(answer, how)| (answer, Some(how)))
        }
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
            if let Some(outcome) = error.auth_outcome() {
                app.metrics.auth(outcome);
            }
            log(request_id.as_str(), client_address(&app, &parts.headers), &failure, &error, started);
            let response = match has_body {
                true => failure.final_response(),
                false if asks_for_verdict => verdict::refuse(&failure, &error),
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
    request_id: &str,
) -> Result<(Response<Body>, Outcome), RequestError> {
    if uri.authority().is_some() {
        return Err(RequestError::Url(UrlError::NotAPath));
    }
    let (route, url) = app.verifier.table().resolve(uri.path(), uri.query()).map_err(RequestError::Url)?;
    match *method {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return Ok((options(app, route), Outcome::Hit)),
        _ => return Err(RequestError::Method),
    }
    let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let verified = prove(app, route, &url, Bearer { headers, target }, request_id).await?;
    let ask = if headers.contains_key(X_SENDIMAGE_AGAIN) { Ask::Disk } else { Ask::Memory };
    if let Some(canary) = Canary::of(&verified, SystemTime::now()) {
        let came = canary::Came { method, uri, headers, again: ask == Ask::Disk };
        let response = Box::pin(canary::answer(app, &verified, &canary, &came)).await?;
        return Ok((response, Outcome::Hit));
    }
    // Hot path: nearly every request ends here, after one stat of the source and one of the rendition.
    let is_as_kept = *method == Method::GET || !app.offload(&route.name).answers_by_method();
    if ask == Ask::Memory
        && is_as_kept
        && let Some(answer) = hit(app, &verified, headers)
    {
        count_allowed(app, &verified);
        return Ok((answer.response(verified.max_age())?, Outcome::Hit));
    }
    // In a box: hyper moves a request's future about, and a hit's would have to be as large as this one.
    Box::pin(find_or_make(app, &verified, method, headers, ask, request_id)).await
}

/// The proof that a URL may be served to whoever sent it.
///
/// # Errors
/// Why there is none.
pub async fn prove<'a>(
    app: &'a App,
    route: &'a Route,
    url: &'a SignedUrl<'a>,
    bearer: Bearer<'_>,
    request_id: &str,
) -> Result<VerifiedRequest<'a>, RequestError> {
    let now = SystemTime::now();
    let signed = app.verifier.verify_signature(route, url, now)?;
    app.count_key_use(&signed);
    let verified = match app.verifier.authorise_now(&signed, bearer, now) {
        Some(settled) => settled?,
        // In a box, as above.
        None => Box::pin(app.verifier.authorise(&signed, bearer, now)).await?,
    };
    for refusal in verified.on_trial() {
        note_trial(app, refusal, request_id);
    }
    Ok(verified)
}

/// What `log_only` lets through.
fn note_trial(app: &App, refusal: VerifyError, request_id: &str) {
    let error = RequestError::from(refusal);
    if let Some(outcome) = error.auth_outcome() {
        app.metrics.auth(outcome);
    }
    tracing::info!(request.id = request_id, reason = %error, "would not be served, were log_only off");
}

/// Counts a bearer whom the token or the site's word lets pass, where one was asked for.
pub(super) fn count_allowed(app: &App, verified: &VerifiedRequest<'_>) {
    if verified.route().auth != AuthMode::Off && !verified.is_on_trial() {
        app.metrics.auth(AuthOutcome::Allowed);
    }
}

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
async fn find_or_make(
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

/// Whether the key signs for a rendition as large as the plan makes it.
///
/// # Errors
/// A refusal.
pub fn admit_size(verified: &VerifiedRequest<'_>, planned: &Planned) -> Result<(), RequestError> {
    Ok(verified.admits_pixels(planned.plan.rendition_size().pixels()).map_err(VerifyError::from)?)
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

/// The source image that a verified URL refers to, if key and token allow it.
///
/// # Errors
/// [`RequestError::UnknownImage`], a refusal, or the catalogue's own.
pub async fn find_image(
    app: &App,
    verified: &VerifiedRequest<'_>,
    request_id: &str,
) -> Result<Arc<SourceImage>, RequestError> {
    let found = match verified.image() {
        ImageRef::Id(id) => app.catalogue.find(id).instrument(part!("catalogue")).await.map_err(RequestError::from),
        ImageRef::Path(location) => Ok(Some(Arc::new(SourceImage::at(location)))),
        ImageRef::Nothing => Ok(None),
    };
    let admitted = match &found {
        Ok(Some(image)) => verified.admits(image),
        // A row that is malformed is none either, for whoever may not know. That the catalogue is away says nothing of an image.
        Ok(None) | Err(RequestError::Catalogue(CatalogueError::BadRow { .. })) => verified.admits_unknown(),
        Err(_) => Ok(()),
    };
    match admitted {
        Err(refusal @ Refusal::OutOfScope) if app.verifier.tries_auth() => {
            note_trial(app, refusal.into(), request_id);
        }
        Err(refusal) => return Err(VerifyError::from(refusal).into()),
        Ok(()) => {}
    }
    found?.ok_or(RequestError::UnknownImage)
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

/// What may be asked. A script of the allowed origin that sends a token asks this first (Fetch, 4.8).
fn options(app: &App, route: &Route) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ALLOW, ALLOWED);
    if route.auth != AuthMode::Off
        && let Some(origin) = app.allowed_origin().and_then(|origin| HeaderValue::try_from(origin).ok())
    {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, ALLOWED);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Authorization, Range"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    response
}

/// One line for each failure: who is at fault decides how loud.
fn log(request_id: &str, client: Option<IpAddr>, failure: &Failure, error: &RequestError, started: Instant) {
    let (status, outcome, duration_ms) = (failure.status.as_u16(), failure.outcome.name(), millis(started));
    let client = client.map(tracing::field::display);
    if failure.status.is_server_error() || failure.status == StatusCode::UNPROCESSABLE_ENTITY {
        tracing::warn!(request.id = request_id, client, status, outcome, duration_ms, reason = %error, "not served");
    } else {
        tracing::info!(request.id = request_id, client, status, outcome, duration_ms, reason = %error, "not served");
    }
}

/// Who asks, as the web server says, where it can be believed. What is no address is nobody's.
fn client_address(app: &App, headers: &HeaderMap) -> Option<IpAddr> {
    headers.get(app.client_address_header()?)?.to_str().ok()?.parse().ok()
}

fn millis(started: Instant) -> f64 {
    (started.elapsed().as_secs_f64() * 1e6).round() / 1e3
}
