//! The life of an image request.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime},
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
    canary,
    failure::{ALLOWED, Failure, RequestError},
    proven::{count_allowed, prove},
    rendition::{find_or_make, hit},
    request_id::{RequestId, X_REQUEST_ID},
    verdict,
};
use crate::{
    access::{Bearer, Route, UrlError},
    app::App,
    config::AuthMode,
    doctor::canary::Canary,
    metrics::Outcome,
    offload::Body,
    renditions::Ask,
    traces,
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
