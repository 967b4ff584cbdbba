//! `X-Accel-Redirect`: nginx streams the file.
//!
//! nginx unescapes the value once and reads a bare `?` as the start of a query; stored paths hold only characters that mean
//! nothing in either reading. Of our headers nginx keeps Content-Type, Content-Disposition, Cache-Control, Expires,
//! Accept-Ranges and Set-Cookie on the internal redirect and drops the rest (`ngx_http_upstream.c`, the table's redirect
//! flag), so ETag, CSP, nosniff and Vary belong in the internal location of the nginx config.

use hyper::{
    Response, StatusCode,
    header::{HeaderName, HeaderValue},
};

use super::{Body, OffloadError, SENDIMAGE_CACHE_CONTROL, SENDIMAGE_VARY, Served};

const X_ACCEL_REDIRECT: HeaderName = HeaderName::from_static("x-accel-redirect");

/// The one place that sets the header.
///
/// With a `query` the internal location passes the request on to an object store. nginx hands the query on as it is.
pub(super) fn respond(
    internal_prefix: &str,
    query: Option<&str>,
    served: &Served,
) -> Result<Response<Body>, OffloadError> {
    let (path, mark, query) = (&served.stored.path, query.map_or("", |_| "?"), query.unwrap_or_default());
    let target = format!("{internal_prefix}{path}{mark}{query}");
    let mut response = served.empty(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(X_ACCEL_REDIRECT, HeaderValue::try_from(target)?);
    headers.insert(SENDIMAGE_CACHE_CONTROL, served.caching.control()?);
    if let Some(vary) = served.caching.vary()? {
        headers.insert(SENDIMAGE_VARY, vary);
    }
    served.describe(headers);
    Ok(response)
}
