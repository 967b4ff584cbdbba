//! A redirect to where the store's folder is published. The names there are unguessable, but whoever has one can pass it
//! on: this mode is for pictures that are public anyway.

use hyper::{
    Response, StatusCode,
    header::{HeaderValue, LOCATION},
};

use super::{Body, OffloadError, Served};

pub(super) fn respond(url: &str, status: StatusCode, served: &Served) -> Result<Response<Body>, OffloadError> {
    let mut response = served.empty(status);
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::try_from(format!("{url}{}", served.stored.path))?);
    served.cache(headers)?;
    Ok(response)
}
