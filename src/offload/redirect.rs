//! A redirect to where the store's folder is published. The names there are unguessable, but whoever has one can pass it
//! on: this mode is for pictures that are public anyway.

use hyper::{
    Response, StatusCode,
    header::{HeaderValue, LOCATION},
};

use super::{Body, ImageHeaders, OffloadError, Served};

pub(super) fn respond(
    url: &str,
    status: StatusCode,
    added: &ImageHeaders,
    served: &Served,
) -> Result<Response<Body>, OffloadError> {
    let mut response = served.empty(status);
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::try_from(format!("{url}{}", served.stored.path))?);
    served.cache(headers)?;
    added.allow(headers);
    Ok(response)
}
