//! Answers of the page: JSON, its errors, and the headers that all of them carry.

use std::fmt;

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{
        ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY,
        RETRY_AFTER, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
};
use serde::Serialize;

use crate::{http::message::fixed, offload::Body};

/// Nothing from elsewhere, nothing inline; previews are blobs, whose length the script knows. Nobody frames the page.
const CSP: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");

/// Adds what every answer carries.
pub(super) fn secure(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, CSP);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    // Not `no-referrer`: a browser told so sends `Origin: null` with a form.
    headers.insert(REFERRER_POLICY, SAME_ORIGIN);
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), SAME_ORIGIN);
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), SAME_ORIGIN);
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// An answer as JSON.
pub(super) fn json(answer: &impl Serialize) -> Response<Body> {
    // Numbers and texts: there is always JSON for them.
    fixed(StatusCode::OK, "application/json", serde_json::to_vec(answer).unwrap_or_default())
}

/// 303 to a place relative to the request's: the page may be published below a path.
pub(super) fn see_other(place: &'static str) -> Response<Body> {
    let mut response = fixed(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", Bytes::new());
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(place));
    response
}

/// Why the page has no better answer, for whoever is logged in: which field, where in it, and a sentence.
#[derive(Debug, Serialize)]
pub(super) struct PageError {
    #[serde(skip)]
    pub status: StatusCode,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'static str>,
    /// In UTF-16 units, as scripts count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<usize>,
    pub message: String,
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl PageError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, field: None, offset: None, message: message.into() }
    }

    /// Something is wrong with a field.
    pub fn field(field: &'static str, message: impl Into<String>) -> Self {
        Self { field: Some(field), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not found")
    }

    pub fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
    }

    pub fn logged_out() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "The login is over: log in again")
    }

    /// The call does not come from our page, as far as can be seen.
    pub fn forged() -> Self {
        Self::new(StatusCode::FORBIDDEN, "This call did not come from this page: load it again")
    }

    pub fn response(&self) -> Response<Body> {
        let body = serde_json::json!({ "error": self }).to_string();
        let mut response = fixed(self.status, "application/json", body);
        let headers = response.headers_mut();
        match self.status {
            StatusCode::METHOD_NOT_ALLOWED => drop(headers.insert(ALLOW, HeaderValue::from_static("GET, POST"))),
            StatusCode::SERVICE_UNAVAILABLE => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("2"))),
            _ => {}
        }
        // A body may still be on its way, which must not be read as the next request.
        if !matches!(self.status, StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
