//! The service streams the file itself, with ranges and conditions by tower-http's `ServeFile`: for trying it without a web
//! server. nginx does this with a third of the CPU.

use std::path::Path;

use bytes::Bytes;
use http_body_util::{Either, Empty};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE},
};
use tower_http::services::{ServeFile, fs::ServeFileSystemResponseBody};

use super::{Body, ImageHeaders, OffloadError, Served};

pub(super) async fn respond(
    root: &Path,
    added: &ImageHeaders,
    served: &Served,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response<Body>, OffloadError> {
    let mut streamed = ask(root, served, method, headers).await?;
    // The library does not know If-Range: a part of this picture would be put behind the beginning of another one, and a part
    // beyond its end be refused.
    let is_by_range = matches!(streamed.status(), StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE);
    if is_by_range && headers.contains_key(IF_RANGE) {
        let mut rangeless = headers.clone();
        rangeless.remove(RANGE);
        let whole = ask(root, served, method, &rangeless).await?;
        if is_outdated(headers, whole.headers()) {
            streamed = whole;
        }
    }
    if streamed.status() == StatusCode::NOT_FOUND {
        return Err(OffloadError::Vanished);
    }
    let mut response = streamed.map(Either::Right);
    let is_partial = response.headers().get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"multipart/"));
    let is_of_image =
        matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED);
    let headers = response.headers_mut();
    if is_of_image {
        if !is_partial {
            served.describe(headers);
        }
        served.cache(headers)?;
    } else {
        // A condition or a range that this one request got wrong: nothing to keep.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    added.secure(headers);
    Ok(response)
}

async fn ask(
    root: &Path,
    served: &Served,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response<ServeFileSystemResponseBody>, OffloadError> {
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method.clone();
    *request.headers_mut() = headers.clone();
    let asked = ServeFile::new(root.join(&served.stored.path)).try_call(request).await;
    asked.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => OffloadError::Vanished,
        _ => OffloadError::Open(error),
    })
}

/// Whether what the client has a part of is something else (RFC 9110, 13.1.5). A weak tag fits nothing.
fn is_outdated(request: &HeaderMap, answer: &HeaderMap) -> bool {
    let Some(condition) = request.get(IF_RANGE) else { return false };
    let fits = |name| answer.get(name).is_some_and(|value| value == condition);
    condition.as_bytes().starts_with(b"W/") || !(fits(ETAG) || fits(LAST_MODIFIED))
}
