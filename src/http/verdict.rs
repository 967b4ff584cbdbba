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
    failure::{Failure, RequestError},
    handler::{self, Found},
};
use crate::{
    access::UrlError,
    app::App,
    metrics::Outcome,
    offload::{Body, NO_VERDICT, verdict},
    renditions::Ask,
    spec::FilterSpec,
};

/// Where nginx asks. No route can have it for a prefix: those end in a slash.
const PATH: &str = "/_verdict";
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const X_ACCEL_EXPIRES: HeaderName = HeaderName::from_static("x-accel-expires");
/// A refusal is kept only so long that a flood of one URL is nginx's business: a key may be added any moment.
const REFUSAL_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Whether a request asks for a verdict.
pub(super) fn is_asked(app: &App, uri: &Uri) -> bool {
    app.gives_verdicts() && uri.path() == PATH
}

/// The verdict, and how it counts: not at all where a plain request follows.
///
/// # Errors
/// A refusal, for the log; its answer is [`refuse`]'s.
pub(super) async fn answer(app: &App, headers: &HeaderMap) -> Result<(Response<Body>, Option<Outcome>), RequestError> {
    match settle(app, headers).await {
        Ok(Some(response)) => Ok((response, Some(Outcome::Hit))),
        Ok(None) => Ok((verdict(None, NO_VERDICT).map_err(crate::offload::OffloadError::from)?, None)),
        Err(error) if is_refusal(&error) => Err(error),
        Err(_) => Ok((verdict(None, NO_VERDICT).map_err(crate::offload::OffloadError::from)?, None)),
    }
}

/// A refusal as nginx is told of it.
pub(super) fn refuse(failure: &Failure) -> Response<Body> {
    let mut response = failure.response();
    response.headers_mut().insert(X_ACCEL_EXPIRES, REFUSAL_SECONDS);
    response
}

fn is_refusal(error: &RequestError) -> bool {
    matches!(Failure::from(error).status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// The verdict on a hit; `None` for whatever is none. As in `handler::serve`, nothing is looked up before the proof.
async fn settle(app: &App, headers: &HeaderMap) -> Result<Option<Response<Body>>, RequestError> {
    let malformed = || RequestError::Url(UrlError::NotAPath);
    let target = headers.get(X_ORIGINAL_URI).and_then(|value| value.to_str().ok()).ok_or_else(malformed)?;
    // A plain request's target ends there, by the HTTP library: what nginx sends on must mean the same to both.
    let target = target.split_once('#').map_or(target, |(before, _)| before);
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let (route, url) = app.verifier.table().resolve(path, query).map_err(RequestError::Url)?;
    let Some(longest) = app.offload(&route.name).verdicts() else { return Ok(None) };
    let verified = app.verifier.verify(route, &url, SystemTime::now())?;
    app.count_key_use(&verified);
    // What nginx reuses must stay true for so long: the signature's end, and the caching that it tells browsers.
    let keep = Duration::from_secs(longest.min(verified.unchanged_for()).as_secs());
    let told = |path: &str, answer: &HeaderMap| {
        verdict(Some((path, answer)), keep).map(Some).map_err(|error| RequestError::Offload(error.into()))
    };
    if let Some(answer) = handler::hit(app, &verified, headers) {
        return told(answer.planned.key.path(), answer.headers());
    }
    let image = handler::find_image(app, &verified).await?;
    let spec = FilterSpec::parse(verified.filter_spec())?;
    // Which format a client gets may take a render to say.
    if spec.is_auto() {
        return Ok(None);
    }
    let Some(ensured) = app.renditions.find(&image, &spec).await? else { return Ok(None) };
    let planned = Arc::clone(&ensured.planned);
    let found = Found { ensured, negotiated: false, interim: false };
    let (answer, _) = handler::hand_over(app, &verified, &Method::GET, headers, Ask::Memory, &image, found).await?;
    told(planned.key.path(), answer.headers())
}
