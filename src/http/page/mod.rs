//! The editors' page: from an image to its URL. A listener of its own, which may be published behind TLS.
//!
//! Everything but the login form wants a session, everything that is posted also the session's token and an `Origin` of ours.
//! What a user types is answered as JSON, and the page's script puts it in place as text: no answer here is made of it.

mod answer;
mod api;
mod assets;
mod guard;
mod limit;
mod login;
mod preview;
mod solve;
mod status;

use std::{sync::Arc, time::SystemTime};

use hyper::{Method, Request, Response, body::Incoming, header::HeaderValue};

use super::request_id::{RequestId, X_REQUEST_ID};
use crate::{access::PageSession, app::App, offload::Body};
use answer::PageError;

/// What the page keeps from one request to the next. All of it may be lost: logins hold without it.
#[derive(Default)]
pub struct PageMemory {
    logins: limit::Limit,
    history: status::History,
}

impl PageMemory {
    /// Notes the metrics as they are, for the status view. Called once in [`status::INTERVAL`].
    pub fn sample(&self, app: &App) {
        self.history.sample(app);
    }
}

pub use status::INTERVAL;

/// Answers a request on the page's listener.
pub async fn answer_page(app: Arc<App>, memory: Arc<PageMemory>, request: Request<Incoming>) -> Response<Body> {
    let request_id = RequestId::of(request.headers());
    let answered = Box::pin(route(&app, &memory, request, request_id.as_str())).await;
    let mut response = answered.unwrap_or_else(|error| {
        tracing::info!(request.id = request_id.as_str(), status = error.status.as_u16(), reason = %error, "page");
        error.response()
    });
    response.headers_mut().insert(X_REQUEST_ID, HeaderValue::from(request_id));
    answer::secure(response)
}

async fn route(
    app: &Arc<App>,
    memory: &PageMemory,
    request: Request<Incoming>,
    request_id: &str,
) -> Result<Response<Body>, PageError> {
    // A config that lost its page keeps the listener until a restart, and nobody can log in.
    let door = app.page_door.as_ref().ok_or_else(PageError::not_found)?;
    let (is_get, is_post) = (*request.method() == Method::GET, *request.method() == Method::POST);
    if !is_get && !is_post {
        return Err(PageError::method());
    }
    let path = request.uri().path().to_owned();
    if is_get && let Some(asset) = assets::find(&path) {
        return Ok(asset.response(request.headers()));
    }
    let session = || guard::session(door, request.headers());
    let signed_in = || session().ok_or_else(PageError::logged_out);
    let query = request.uri().query().unwrap_or_default();
    match (path.as_str(), is_post) {
        ("/", false) => match session() {
            Some(_) => Ok(assets::page()),
            None => login::form(door, login::Says::Nothing),
        },
        ("/login", true) => login::log_in(app, door, memory, request, request_id).await,
        // Where the browser is after a wrong password, should somebody load it again.
        ("/login", false) => Ok(answer::see_other("./")),
        ("/logout", true) => {
            let session = signed_in()?;
            login::log_out(app, &session, request).await
        }
        ("/api/start", false) => {
            let session = signed_in()?;
            guard::same_site(request.headers())?;
            Ok(api::start(app, &session))
        }
        ("/api/search" | "/api/browse" | "/api/status" | "/preview", false) => {
            signed_in()?;
            guard::same_site(request.headers())?;
            match path.as_str() {
                "/api/search" => api::search(app, query).await,
                "/api/browse" => api::browse(app, query).await,
                "/api/status" => Ok(memory.history.answer()),
                _ => preview::answer(app, query, request.headers()).await,
            }
        }
        ("/api/solve" | "/api/links", true) => {
            let session = signed_in()?;
            called(app, &session, request.headers())?;
            let accepted = super::accept::accepted(request.headers());
            let body = guard::body(app, request).await?;
            match path.as_str() {
                "/api/solve" => solve::solve(app, &body, accepted, SystemTime::now()).await,
                _ => solve::links(app, &body, accepted, SystemTime::now()).await,
            }
        }
        ("/logout" | "/api/solve" | "/api/links", _) => Err(PageError::method()),
        ("/" | "/api/start" | "/api/search" | "/api/browse" | "/api/status" | "/preview", _) => {
            Err(PageError::method())
        }
        _ => Err(PageError::not_found()),
    }
}

/// Whether a call comes from our own page: its origin, its token, its type.
fn called(app: &App, session: &PageSession, headers: &hyper::HeaderMap) -> Result<(), PageError> {
    guard::origin(app, headers)?;
    let token = headers.get("x-csrf-token").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !session.is_of(token) {
        return Err(PageError::forged());
    }
    guard::json(headers)
}
