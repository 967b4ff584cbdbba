//! Whose request it is: the cookie, the origin, the bounds of a body.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::{
    HeaderMap, Request, StatusCode,
    body::Incoming,
    header::{COOKIE, HOST, HeaderName, ORIGIN},
};

use super::answer::PageError;
use crate::{
    access::{PageDoor, PageSession},
    app::App,
    http::message::{self, BodyError},
};

/// The session's cookie.
pub(super) const COOKIE_NAME: &str = "sendimage_page";
/// Longest body: a URL's parts are far shorter.
const MAX_BODY_BYTES: usize = 16 << 10;
/// Cookies of our name that are looked at: a neighbour's host may have set one more.
const MAX_COOKIES: usize = 4;
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The session that a request's cookie stands for.
pub(super) fn session(door: &PageDoor, headers: &HeaderMap) -> Option<PageSession> {
    let now = SystemTime::now();
    let lines = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let ours = pairs.filter(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| value);
    ours.take(MAX_COOKIES).find_map(|value| door.session(value, now))
}

/// Whether the browser speaks TLS, as far as the web server in front or the config says.
pub(super) fn is_https(app: &App, headers: &HeaderMap) -> bool {
    let by_config = app.config().page.public_url.as_deref().is_some_and(|url| url.starts_with("https://"));
    by_config || headers.get(X_FORWARDED_PROTO).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// Whether a post comes from a page of ours. Every browser of these years says where a post comes from.
pub(super) fn origin(app: &App, headers: &HeaderMap) -> Result<(), PageError> {
    same_site(headers)?;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let origin = text(ORIGIN).ok_or_else(PageError::forged)?;
    let is_ours = match &app.config().page.public_url {
        Some(url) => origin.eq_ignore_ascii_case(url),
        None => {
            let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            host.zip(text(HOST)).is_some_and(|(from, here)| from.eq_ignore_ascii_case(here))
        }
    };
    if is_ours { Ok(()) } else { Err(PageError::forged()) }
}

/// Refuses what the browser itself says another site's page has asked for.
pub(super) fn same_site(headers: &HeaderMap) -> Result<(), PageError> {
    match headers.get(SEC_FETCH_SITE).map(|value| value.as_bytes()) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(PageError::forged()),
    }
}

/// Whether the body is JSON: no form of another site's can send that.
pub(super) fn json(headers: &HeaderMap) -> Result<(), PageError> {
    match message::is_json(headers) {
        true => Ok(()),
        false => Err(PageError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body must be application/json")),
    }
}

/// A request's body, within its length and time.
pub(super) async fn body(app: &App, request: Request<Incoming>) -> Result<Bytes, PageError> {
    let patience = Duration::from_secs_f64(app.config().server.header_timeout_seconds);
    message::read(request.into_body(), MAX_BODY_BYTES, patience).await.map_err(|error| match error {
        BodyError::TooLong => PageError::new(StatusCode::PAYLOAD_TOO_LARGE, "The body is too long"),
        BodyError::TooSlow => PageError::new(StatusCode::REQUEST_TIMEOUT, "The body did not come in time"),
        BodyError::Broken => PageError::new(StatusCode::BAD_REQUEST, "The body broke off"),
    })
}

/// Who asks, where that can be believed.
pub(super) fn client<'a>(app: &App, headers: &'a HeaderMap) -> Option<&'a str> {
    let config = app.config();
    let name = config.log.client_address_header_on(config.page.listen.as_ref()?)?;
    headers.get(name)?.to_str().ok().filter(|text| text.len() <= 64)
}
