//! What a gate answers to a canary: see [`crate::doctor::canary`] for whose they are.

use std::{
    io::Write as _,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Response, StatusCode, Uri,
    header::{AUTHORIZATION, CACHE_CONTROL, CONNECTION, COOKIE, HeaderValue, X_CONTENT_TYPE_OPTIONS},
};

use super::{failure::RequestError, message::fixed};
use crate::{
    access::VerifiedRequest,
    app::App,
    doctor::{
        canary::{ASKED_AGAIN, ASKED_AGAIN_UNMARKED, ASKED_PLAINLY, Canary, Kind, NO_VERDICT_ASKED, Nonce},
        mirror::{Mirror, digest},
    },
    model::RenditionKey,
    offload::{
        Body, Caching, Offload, OffloadError, SENDIMAGE_CACHE_CONTROL, SENDIMAGE_VARY, Served, content_disposition,
    },
    renditions::EnsureError,
    store::{StoreError, StoredRendition},
};

/// What the gate remembers of a canary that was asked for once without a mark.
const SEEN: &str = "seen";

/// How a request for a canary came.
pub(super) struct Came<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    /// The web server's mark is on it.
    pub again: bool,
}

/// Answers one.
///
/// # Errors
/// When the store fails, or the answer cannot be made.
pub(super) async fn answer(
    app: &App,
    verified: &VerifiedRequest<'_>,
    canary: &Canary,
    came: &Came<'_>,
) -> Result<Response<Body>, RequestError> {
    let offload = app.offload(&verified.route().name);
    let hand_over = async |offload: &Offload, stored| {
        let served = served(app, verified, canary, stored, came.again)?;
        Ok::<_, RequestError>(offload.respond(&served, came.method, came.headers).await?)
    };
    let nonce = &canary.nonce;
    match canary.kind {
        Kind::Mirror => Ok(mirrored(app, verified, came)),
        Kind::Over => {
            let key = nonce.source_key().ok_or(RequestError::NoSuchPath)?;
            app.store.remove(&key).await.map_err(failed)?;
            Ok(said(StatusCode::OK, "canary: gone"))
        }
        Kind::Judged => match app.store.find(&key(nonce, canary.kind)?).await.map_err(failed)? {
            Some(_) => Ok(said(StatusCode::NOT_FOUND, ASKED_PLAINLY)),
            None => Ok(said(StatusCode::NOT_FOUND, NO_VERDICT_ASKED)),
        },
        Kind::Gone if came.again => hand_over(offload, plant(app, nonce, &key(nonce, Kind::Gone)?).await?).await,
        Kind::Gone => {
            let (seen, gone) = (nonce.marker(SEEN).ok_or(RequestError::NoSuchPath)?, key(nonce, Kind::Gone)?);
            // HEAD and ranges come later: by then it is there.
            if let Some(stored) = app.store.find(&gone).await.map_err(failed)? {
                return hand_over(offload, stored).await;
            }
            if app.store.find(&seen).await.map_err(failed)?.is_some() {
                return Ok(said(StatusCode::NOT_FOUND, ASKED_AGAIN_UNMARKED));
            }
            plant(app, nonce, &seen).await?;
            hand_over(offload, StoredRendition::new(&gone, nonce.bytes().len() as u64)).await
        }
        Kind::File | Kind::Slashed | Kind::Bare | Kind::Outside if came.again => {
            Ok(said(StatusCode::NOT_FOUND, ASKED_AGAIN))
        }
        kind @ (Kind::File | Kind::Slashed | Kind::Bare | Kind::Outside) => {
            let mut stored = plant(app, nonce, &key(nonce, kind)?).await?;
            let elsewhere = match kind {
                Kind::Slashed => Some(offload.doubling_the_slash()),
                Kind::Outside => Some(offload.leading_out(&app.config().store.root)),
                _ => None,
            };
            if kind == Kind::Bare {
                stored.path = stored.path.trim_end_matches(".png").to_owned();
            }
            match elsewhere {
                None => hand_over(offload, stored).await,
                Some(Some(offload)) => hand_over(&offload, stored).await,
                Some(None) => Err(RequestError::NoSuchPath),
            }
        }
    }
}

/// The answer whose headers a verdict carries, and the path: the canary is there, and handed over as a hit is.
///
/// # Errors
/// As [`answer`].
pub(super) async fn judged(
    app: &App,
    verified: &VerifiedRequest<'_>,
    canary: &Canary,
    headers: &HeaderMap,
) -> Result<Option<(RenditionKey, Response<Body>)>, RequestError> {
    if canary.kind != Kind::Judged {
        return Ok(None);
    }
    let key = key(&canary.nonce, canary.kind)?;
    let stored = plant(app, &canary.nonce, &key).await?;
    let served = served(app, verified, canary, stored, false)?;
    let response = app.offload(&verified.route().name).respond(&served, &Method::GET, headers).await?;
    Ok(Some((key, response)))
}

/// The canary as any rendition is served. `Vary` is always there, so that its loss is seen.
fn served(
    app: &App,
    verified: &VerifiedRequest<'_>,
    canary: &Canary,
    stored: StoredRendition,
    again: bool,
) -> Result<Served, RequestError> {
    let offload = app.offload(&verified.route().name);
    let disposition = match again && offload.keeps_disposition() {
        true => None,
        false => Some(content_disposition("canary.png", false).map_err(OffloadError::from)?),
    };
    let caching = Caching {
        max_age: verified.max_age().min(canary.left).min(offload.life().max_age.unwrap_or(Duration::MAX)),
        is_private: verified.is_private(),
        negotiated: true,
        varies_by: app.verifier.varies_by(verified.route()),
    };
    Ok(Served { stored, disposition, caching })
}

fn key(nonce: &Nonce, kind: Kind) -> Result<RenditionKey, RequestError> {
    nonce.key(kind).ok_or(RequestError::NoSuchPath)
}

/// Puts a canary's file into the store, by the way of every rendition: it has the modes and the folders that they have.
async fn plant(app: &App, nonce: &Nonce, key: &RenditionKey) -> Result<StoredRendition, RequestError> {
    if let Some(stored) = app.store.find(key).await.map_err(failed)? {
        return Ok(stored);
    }
    let draft = app.store.draft(key).await.map_err(failed)?;
    let (bytes, file) = (nonce.bytes(), draft.file().try_clone());
    let written = tokio::task::spawn_blocking(move || file?.write_all(&bytes)).await;
    let written = written.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    written.map_err(|error| failed(StoreError::new("write a canary", &error)))?;
    draft.publish().await.map_err(failed)
}

fn failed(error: StoreError) -> RequestError {
    RequestError::Ensure(EnsureError::Store(error))
}

/// What the request looked like here.
fn mirrored(app: &App, verified: &VerifiedRequest<'_>, came: &Came<'_>) -> Response<Body> {
    let config = app.config();
    let text = |name: &str| came.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let routes = config.effective_routes();
    let mode = routes.get(&*verified.route().name).map_or(config.offload.mode, |route| route.offload);
    let seen = Mirror {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        unix_seconds: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
        target: came.uri.path().to_owned(),
        // nginx says so with HTTP/1.0, too.
        keeps_connection: text(CONNECTION.as_str()).is_none_or(|value| !value.eq_ignore_ascii_case("close")),
        has_again: came.again,
        has_cookie: came.headers.contains_key(COOKIE),
        has_authorization: came.headers.contains_key(AUTHORIZATION),
        believes_client: app.client_address_header().is_some(),
        client: app.client_address_header().and_then(text),
        mode: mode.name().to_owned(),
        terms: digest(config),
    };
    let body = serde_json::to_vec(&seen).unwrap_or_default();
    let mut response = plain(StatusCode::OK, body.into(), "application/json");
    // Names that the printed config hides on answers that are passed on: seen outside, they are not hidden.
    for name in [SENDIMAGE_CACHE_CONTROL, SENDIMAGE_VARY] {
        response.headers_mut().insert(name, HeaderValue::from_static("canary"));
    }
    response
}

fn said(status: StatusCode, sentence: &'static str) -> Response<Body> {
    plain(status, format!("{sentence}\n").into(), "text/plain")
}

fn plain(status: StatusCode, body: Bytes, media_type: &'static str) -> Response<Body> {
    let mut response = fixed(status, media_type, body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
