//! Logging in and out.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONNECTION, HeaderValue, RETRY_AFTER, SET_COOKIE},
};
use tokio::time::Instant;

use super::{
    PageMemory,
    answer::{self, PageError},
    assets, guard,
};
use crate::{
    access::{PageDoor, PageSession},
    app::App,
    http::message::fixed,
    offload::Body,
};

/// A login takes so long, whatever becomes of it.
const PAUSE: Duration = Duration::from_millis(300);

/// What the form says above its field: fixed sentences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    Nothing,
    Wrong,
    TooMany,
    TooOld,
}

impl Says {
    fn sentence(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Wrong => "That is not the password.",
            Self::TooMany => "Too many wrong passwords. Wait a minute and try again.",
            Self::TooOld => "This form was open for too long. Try again.",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Nothing => StatusCode::OK,
            Self::Wrong | Self::TooOld => StatusCode::FORBIDDEN,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

/// The login form.
pub(super) fn form(door: &PageDoor, says: Says) -> Result<Response<Body>, PageError> {
    let token = door.form_token(SystemTime::now()).map_err(no_randomness)?;
    let mut response = fixed(says.status(), "text/html; charset=utf-8", assets::login(&token, says.sentence()));
    if says == Says::TooMany {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("60"));
    }
    Ok(response)
}

/// Takes a password.
pub(super) async fn log_in(
    app: &Arc<App>,
    door: &PageDoor,
    memory: &PageMemory,
    request: Request<Incoming>,
    request_id: &str,
) -> Result<Response<Body>, PageError> {
    let answer_at = Instant::now() + PAUSE;
    guard::origin(app, request.headers())?;
    let client = guard::client(app, request.headers()).map(str::to_owned);
    let is_https = guard::is_https(app, request.headers());
    let body = guard::body(app, request).await?;
    let (mut password, mut token) = (String::new(), String::new());
    for (name, value) in url::form_urlencoded::parse(&body) {
        match name.as_ref() {
            "password" => password = value.into_owned(),
            "token" => token = value.into_owned(),
            _ => {}
        }
    }
    let says = match () {
        () if !door.takes_form_token(&token, SystemTime::now()) => Says::TooOld,
        () if !memory.logins.takes(client.as_deref()) => Says::TooMany,
        () if door.opens(password.as_bytes()) => Says::Nothing,
        () => Says::Wrong,
    };
    let outcome = match says {
        Says::Nothing => "done",
        Says::Wrong => "wrong",
        Says::TooMany => "too_many",
        Says::TooOld => "too_old",
    };
    app.metrics.page_login(outcome);
    tracing::info!(request.id = request_id, client = client.as_deref(), outcome, "page login");
    tokio::time::sleep_until(answer_at).await;
    if says != Says::Nothing {
        return form(door, says);
    }
    memory.logins.give_back(client.as_deref());
    let cookie = door.begin(SystemTime::now()).map_err(no_randomness)?;
    let mut response = answer::see_other("./");
    response.headers_mut().insert(SET_COOKIE, set_cookie(&cookie, door.life(), is_https)?);
    Ok(response)
}

/// Removes the browser's cookie.
pub(super) async fn log_out(
    app: &App,
    session: &PageSession,
    request: Request<Incoming>,
) -> Result<Response<Body>, PageError> {
    guard::origin(app, request.headers())?;
    let is_https = guard::is_https(app, request.headers());
    let body = guard::body(app, request).await?;
    let token = url::form_urlencoded::parse(&body).find(|(name, _)| name == "token");
    if !token.is_some_and(|(_, token)| session.is_of(&token)) {
        return Err(PageError::forged());
    }
    let mut response = answer::see_other("./");
    let headers = response.headers_mut();
    headers.insert(SET_COOKIE, set_cookie("", Duration::ZERO, is_https)?);
    // What this browser still shows of the page goes too.
    headers.insert("clear-site-data", HeaderValue::from_static("\"cache\""));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(response)
}

/// Strict, not lax: previews and searches are asked for by GET, and no link from elsewhere has any business there. Whoever follows
/// a link to the page itself sees the login form once, and the page when it is loaded again. Without a path the cookie is for the
/// folder that the page is published in.
fn set_cookie(value: &str, life: Duration, is_https: bool) -> Result<HeaderValue, PageError> {
    let secure = if is_https { "; Secure" } else { "" };
    let text = format!("{}={value}; Max-Age={}; HttpOnly; SameSite=Strict{secure}", guard::COOKIE_NAME, life.as_secs());
    HeaderValue::try_from(text).map_err(|_| PageError::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal error"))
}

fn no_randomness(error: getrandom::Error) -> PageError {
    tracing::error!(%error, "the system has no randomness");
    PageError::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal error")
}
