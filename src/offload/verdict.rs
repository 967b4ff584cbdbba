//! What nginx's `auth_request` is told: 204 with the file's path for a hit, 204 without one for whatever needs a plain request.
//!
//! nginx keeps a verdict for as long as `X-Accel-Expires` says, by URL, and by the headers that `Vary` names (`Accept`, and what
//! says who asks); then it serves the
//! file without asking. The other headers travel in variables of the printed config.

use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{CONTENT_DISPOSITION, HeaderName, HeaderValue, InvalidHeaderValue, VARY},
};

use super::{Body, SENDIMAGE_CACHE_CONTROL, SENDIMAGE_VARY};

/// The file, below the store's root. Empty: nginx has to ask plainly.
const SENDIMAGE_PATH: HeaderName = HeaderName::from_static("x-sendimage-path");
/// The seconds for which nginx keeps a verdict.
pub const X_ACCEL_EXPIRES: HeaderName = HeaderName::from_static("x-accel-expires");

/// No verdict: nginx has to ask plainly, and keeps nothing of it.
pub fn unsettled() -> Response<Body> {
    no_content(Duration::ZERO)
}

/// The verdict that hands over what a hit would: the file at `path`, with the headers of that answer. nginx keeps it for `keep`.
///
/// # Errors
/// Never: paths of the store are fit for a header; the type is hyper's.
pub fn settled(path: &str, answer: &HeaderMap, keep: Duration) -> Result<Response<Body>, InvalidHeaderValue> {
    let mut response = no_content(keep);
    let headers = response.headers_mut();
    headers.insert(SENDIMAGE_PATH, HeaderValue::try_from(path)?);
    for name in [SENDIMAGE_CACHE_CONTROL, SENDIMAGE_VARY, CONTENT_DISPOSITION] {
        if let Some(value) = answer.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    if let Some(vary) = answer.get(SENDIMAGE_VARY) {
        headers.insert(VARY, vary.clone());
    }
    Ok(response)
}

fn no_content(keep: Duration) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(X_ACCEL_EXPIRES, HeaderValue::from(keep.as_secs()));
    response
}
