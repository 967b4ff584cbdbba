//! `/_verdict`: what nginx's `auth_request` asks about the URL in `X-Original-URI`, before it serves a file by itself.
//!
//! The only answers are 204, 401 and 403. Whatever is neither a hit nor a refusal gets a 204 without a path, so that nginx asks
//! plainly and the client sees the real status. Nothing is rendered here.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper::{
    HeaderMap, Method, Response, StatusCode, Uri,
    header::{HeaderName, HeaderValue},
};

use super::{
    canary,
    failure::{Failure, RequestError},
    proven::{admit_size, count_allowed, find_image, prove},
    rendition::{self, Found, Rank},
};
use crate::{
    access::{Bearer, UrlError, VerifiedRequest},
    app::App,
    config::AuthMode,
    doctor::canary::Canary,
    metrics::Outcome,
    offload::{Body, X_ACCEL_EXPIRES, settled, unsettled},
    renditions::Ask,
    spec::FilterSpec,
};

/// Where nginx asks. No route can have it for a prefix: those end in a slash.
const PATH: &str = "/_verdict";
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
/// A refused URL is kept only so long that a flood of it is nginx's business: a key may be added any moment.
const REFUSED_URL_SECONDS: HeaderValue = HeaderValue::from_static("1");
/// A refused bearer is not kept: another one may ask for the same URL.
const REFUSED_BEARER_SECONDS: HeaderValue = HeaderValue::from_static("0");

/// Whether a request asks for a verdict.
pub(super) fn is_asked(app: &App, uri: &Uri) -> bool {
    app.gives_verdicts() && uri.path() == PATH
}

/// The verdict, and how it counts: not at all where a plain request follows.
///
/// # Errors
/// A refusal, for the log; its answer is [`refuse`]'s.
pub(super) async fn answer(
    app: &App,
    headers: &HeaderMap,
    request_id: &str,
) -> Result<(Response<Body>, Option<Outcome>), RequestError> {
    match settle(app, headers, request_id).await {
        Ok(Some(response)) => Ok((response, Some(Outcome::Hit))),
        Err(error) if is_refusal(&error) => Err(error),
        Ok(None) | Err(_) => Ok((unsettled(), None)),
    }
}

/// A refusal as nginx is told of it.
pub(super) fn refuse(failure: &Failure, error: &RequestError) -> Response<Body> {
    let mut response = failure.response();
    let seconds = if error.auth_outcome().is_some() { REFUSED_BEARER_SECONDS } else { REFUSED_URL_SECONDS };
    response.headers_mut().insert(X_ACCEL_EXPIRES, seconds);
    response
}

fn is_refusal(error: &RequestError) -> bool {
    matches!(Failure::from(error).status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// The verdict on a hit; `None` for whatever is none. As in `handler::serve`, nothing is looked up before the proof.
async fn settle(app: &App, headers: &HeaderMap, request_id: &str) -> Result<Option<Response<Body>>, RequestError> {
    let malformed = || RequestError::Url(UrlError::NotAPath);
    let target = headers.get(X_ORIGINAL_URI).and_then(|value| value.to_str().ok()).ok_or_else(malformed)?;
    // A plain request's target ends there, by the HTTP library: what nginx sends on must mean the same to both.
    let target = target.split_once('#').map_or(target, |(before, _)| before);
    let (route, url) = app.verifier.table().resolve_target(target).map_err(RequestError::Url)?;
    let Some(longest) = app.offload(&route.name).verdicts() else { return Ok(None) };
    let verified = prove(app, route, &url, Bearer { headers, target }, request_id).await?;
    let (keep, max_age) = terms(&verified, longest);
    let told = |path: &str, answer: &HeaderMap| {
        settled(path, answer, keep).map(Some).map_err(|error| RequestError::Offload(error.into()))
    };
    if let Some(canary) = Canary::of(&verified, SystemTime::now()) {
        let judged = canary::judged(app, &verified, &canary, headers).await?;
        return judged.map_or(Ok(None), |(key, answer)| told(key.path(), answer.headers()));
    }
    if let Some(answer) = rendition::hit(app, &verified, headers) {
        count_allowed(app, &verified);
        return told(answer.planned.key.path(), &answer.headers(max_age)?);
    }
    let image = find_image(app, &verified, request_id).await?;
    let spec = FilterSpec::parse(verified.filter_spec())?;
    // Which format a client gets may take a render to say.
    if spec.is_auto() {
        return Ok(None);
    }
    let Some(ensured) = app.renditions.find(&image, &spec).await? else { return Ok(None) };
    let planned = Arc::clone(&ensured.planned);
    admit_size(&verified, &planned)?;
    let found = Found { ensured, negotiated: false, rank: Rank::Best };
    let terms = (Ask::Memory, max_age);
    let (answer, _) = rendition::hand_over(app, &verified, &Method::GET, headers, terms, &image, found).await?;
    count_allowed(app, &verified);
    told(planned.key.path(), answer.headers())
}

/// For how long nginx may reuse a verdict, and what it tells browsers meanwhile. Both together stay within the life of link
/// and token: told at the very end of the first, the second must not go beyond it.
fn terms(verified: &VerifiedRequest<'_>, longest: Duration) -> (Duration, Duration) {
    // What the site says holds for `auth.forward.cache_seconds`, and no second memory adds to that.
    let longest = if verified.route().auth == AuthMode::Forward { Duration::ZERO } else { longest };
    let Some(left) = verified.left() else { return (longest, verified.max_age()) };
    let keep = Duration::from_secs(longest.min(left / 2).as_secs());
    (keep, verified.max_age().min(left - keep))
}
