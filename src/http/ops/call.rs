//! `POST /sign`, `/purge` and `/warm`: the token, then the body, then the work.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use super::{JSON, failure::CallError, purge, sign, sign::Signed, text, warm};
use crate::{
    access::{LinkError, OpsToken},
    app::App,
    http::{
        message::{self, BodyError},
        request_id::{RequestId, X_REQUEST_ID},
    },
    offload::Body,
    upkeep::{Purged, Warmed},
};

/// Longest body: some six thousand references.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Calls under way at once: a warming may take minutes, and health and metrics need connections too.
static CALLS: Semaphore = Semaphore::const_new(128);

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Sign,
    Purge,
    Warm,
}

impl Call {
    /// The call of a path.
    pub fn of(path: &str) -> Option<Self> {
        match path {
            "/sign" => Some(Self::Sign),
            "/purge" => Some(Self::Purge),
            "/warm" => Some(Self::Warm),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sign => "sign",
            Self::Purge => "purge",
            Self::Warm => "warm",
        }
    }
}

/// One line in the log and one count for each call, whatever becomes of it: also for one whose connection ends, and its future
/// with it.
struct Line {
    app: Arc<App>,
    call: Call,
    request_id: RequestId,
    started: Instant,
    is_said: bool,
}

impl Line {
    fn say(&mut self, outcome: &str, status: u16, says: &str) {
        self.is_said = true;
        self.app.metrics.ops_call(self.call.name(), outcome);
        let (call, request_id) = (self.call.name(), self.request_id.as_str());
        let duration_ms = self.started.elapsed().as_millis() as u64;
        tracing::info!(request.id = request_id, call, outcome, status, duration_ms, says, "operations call");
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.is_said {
            self.say("left", 0, "the connection ended; what had not begun is left");
        }
    }
}

/// Answers a call.
pub(super) async fn answer(app: &Arc<App>, call: Call, token: &OpsToken, request: Request<Incoming>) -> Response<Body> {
    let request_id = RequestId::of(request.headers());
    let mut line = Line { app: app.clone(), call, request_id, started: Instant::now(), is_said: false };
    let mut response = match carry_out(app, call, token, request).await {
        Ok(Done { answer, says }) => {
            line.say("done", 200, &says);
            let mut response = text(StatusCode::OK, answer + "\n");
            response.headers_mut().insert(CONTENT_TYPE, JSON);
            response
        }
        Err(error) => {
            line.say(error.outcome(), error.status().as_u16(), &error.to_string());
            error.response()
        }
    };
    if let Ok(id) = HeaderValue::from_str(line.request_id.as_str()) {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    response
}

/// A call that was carried out: its answer, and the same for the log.
struct Done {
    answer: String,
    says: String,
}

/// Proof first: whoever has no token learns nothing but that.
async fn carry_out(
    app: &Arc<App>,
    call: Call,
    token: &OpsToken,
    request: Request<Incoming>,
) -> Result<Done, CallError> {
    if !is_bearer(request.headers(), token) {
        return Err(CallError::Token);
    }
    // Of those who have the token alone: nobody else may keep them from it.
    let _place = CALLS.try_acquire().map_err(|_| CallError::Busy)?;
    if *request.method() != Method::POST {
        return Err(CallError::Method);
    }
    if !message::is_json(request.headers()) {
        return Err(CallError::MediaType);
    }
    let patience = Duration::from_secs_f64(app.config().server.header_timeout_seconds);
    let body = message::read(request.into_body(), MAX_BODY_BYTES, patience).await.map_err(|error| match error {
        BodyError::TooLong => CallError::TooLong(MAX_BODY_BYTES),
        BodyError::TooSlow => CallError::TooSlow,
        BodyError::Broken => CallError::Broken,
    })?;
    match call {
        Call::Sign => {
            let signed = sign::sign(app, parse(&body)?)?;
            let says = match &signed {
                Signed::Url(_) => "1 URL signed".to_owned(),
                Signed::Urls(links) => format!("{} URLs signed", links.urls().count()),
            };
            Ok(done(&signed, says))
        }
        Call::Purge => {
            let purged = purge::purge(app, parse(&body)?).await?;
            let Purged { images, files, bytes, unknown, .. } = &purged;
            let says = format!("{images} images, {files} files, {bytes} bytes removed, {} unknown", unknown.len());
            Ok(done(&purged, says))
        }
        Call::Warm => {
            let warmed = warm::warm(app, parse(&body)?).await?;
            let Warmed { created, present, failed, failures: _ } = &warmed;
            let failed: u64 = failed.values().sum();
            let says = format!("{created} created, {present} present, {failed} failed");
            Ok(done(&warmed, says))
        }
    }
}

fn done(answer: &impl Serialize, says: String) -> Done {
    // Numbers and texts: there is always JSON for them.
    Done { answer: serde_json::to_string(answer).unwrap_or_default(), says }
}

/// One `Authorization` header, with the token (RFC 6750, 2.1).
fn is_bearer(headers: &HeaderMap, token: &OpsToken) -> bool {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    match value.as_bytes().split_at_checked("Bearer ".len()) {
        Some((scheme, given)) => scheme.eq_ignore_ascii_case(b"Bearer ") && token.is(given),
        None => false,
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, CallError> {
    // Serde would take a list of the fields' values as well.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(CallError::field("", "The body must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        CallError::Field { field, message: error.into_inner().to_string() }
    })?;
    json.end().map_err(|error| CallError::field("", error.to_string()))?;
    Ok(parsed)
}

/// What references mean.
pub(super) fn each<T>(
    references: Vec<String>,
    meaning: impl Fn(&str) -> Result<T, LinkError>,
) -> Result<Vec<T>, CallError> {
    let meaning = |(index, text): (usize, String)| {
        let field = || format!("refs[{index}]");
        meaning(&text).map_err(|error| CallError::Field { field: field(), message: error.to_string() })
    };
    references.into_iter().enumerate().map(meaning).collect()
}
