//! `POST /sign`, `/purge` and `/warm`: the token, then the body, then the work.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Visitor},
};
use tokio::sync::Semaphore;

use super::{JSON, failure::CallError, text};
use crate::{
    access::{LinkError, Links, OpsToken, Renditions, Scheme, Subject, Wanted, parse_life},
    app::App,
    http::request_id::{RequestId, X_REQUEST_ID},
    offload::Body,
    spec::FilterSpec,
    upkeep::{self, MAX_RENDITIONS, Original, Purged, Scope, Warmed},
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
    if !is_json(request.headers()) {
        return Err(CallError::MediaType);
    }
    let patience = Duration::from_secs_f64(app.config().server.header_timeout_seconds);
    let body = tokio::time::timeout(patience, read(request.into_body())).await.map_err(|_| CallError::TooSlow)??;
    match call {
        Call::Sign => {
            let signed = sign(app, parse(&body)?)?;
            let says = match &signed {
                Signed::Url(_) => "1 URL signed".to_owned(),
                Signed::Urls(links) => format!("{} URLs signed", links.urls().count()),
            };
            Ok(done(&signed, says))
        }
        Call::Purge => {
            let purged = purge(app, parse(&body)?).await?;
            let Purged { images, files, bytes, unknown, .. } = &purged;
            let says = format!("{images} images, {files} files, {bytes} bytes removed, {} unknown", unknown.len());
            Ok(done(&purged, says))
        }
        Call::Warm => {
            let warmed = warm(app, parse(&body)?).await?;
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

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

async fn read(body: Incoming) -> Result<Bytes, CallError> {
    // What says that it is too long need not come first.
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(CallError::TooLong(MAX_BODY_BYTES));
    }
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(CallError::TooLong(MAX_BODY_BYTES)),
        Err(_) => Err(CallError::Broken),
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

/// The body of `POST /sign`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignBody {
    #[serde(rename = "ref")]
    reference: String,
    spec: Option<String>,
    preset_set: Option<String>,
    expires: Option<Life>,
    download: Option<String>,
    filename: Option<String>,
    scheme: Option<SchemeName>,
    route: Option<String>,
}

/// The answer to it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Signed {
    Url(String),
    Urls(Links),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SchemeName {
    Native,
    Wagtail,
}

/// Seconds, or a text such as `1h`.
#[derive(Clone, Copy, Debug)]
struct Life(Duration);

impl<'de> Deserialize<'de> for Life {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfLife;
        impl Visitor<'_> for OfLife {
            type Value = Life;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of seconds, or a time such as 90s, 15m, 1h, 7d")
            }

            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<Life, E> {
                Ok(Life(Duration::from_secs(seconds)))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Life, E> {
                parse_life(text).map(Life).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(OfLife)
    }
}

/// Which of two fields is given.
fn one_of<'a>(spec: Option<&'a str>, set: Option<&'a str>) -> Result<Renditions<'a>, CallError> {
    match (spec, set) {
        (Some(spec), None) => Ok(Renditions::Of(spec)),
        (None, Some(set)) => Ok(Renditions::Set(set)),
        (Some(_), Some(_)) => Err(CallError::field("preset_set", "give this or spec, not both")),
        (None, None) => Err(CallError::field("spec", "give this or preset_set")),
    }
}

fn sign(app: &App, body: SignBody) -> Result<Signed, CallError> {
    let renditions = one_of(body.spec.as_deref(), body.preset_set.as_deref())?;
    let wanted = Wanted {
        reference: &body.reference,
        renditions,
        route: body.route.as_deref(),
        scheme: body.scheme.map(|name| match name {
            SchemeName::Native => Scheme::Native,
            SchemeName::Wagtail => Scheme::Wagtail,
        }),
        life: body.expires.map(|Life(life)| life),
        download: body.download.as_deref(),
        filename: body.filename.as_deref(),
    };
    let links = app.verifier.links(app.config(), &wanted, SystemTime::now())?;
    let first = links.urls().next().map(str::to_owned);
    Ok(match (renditions, first) {
        (Renditions::Of(_), Some(url)) => Signed::Url(url),
        _ => Signed::Urls(links),
    })
}

/// The body of `POST /purge`: one of these.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PurgeBody {
    refs: Option<Vec<String>>,
    source: Option<String>,
    prefix: Option<String>,
    preset: Option<String>,
    all: Option<bool>,
}

async fn purge(app: &App, body: PurgeBody) -> Result<Purged, CallError> {
    let PurgeBody { refs, source, prefix, preset, all } = body;
    if all == Some(false) {
        return Err(CallError::field("all", "true, or leave it away"));
    }
    let scopes =
        [source.map(Scope::Source), prefix.map(Scope::Prefix), preset.map(Scope::Preset), all.map(|_| Scope::All)];
    let mut scopes = scopes.into_iter().flatten();
    match (refs, scopes.next(), scopes.next()) {
        (Some(refs), None, None) => {
            Ok(upkeep::purge(app, &each(refs, |text| Ok((text.to_owned(), Subject::of_reference(text)?)))?).await?)
        }
        (None, Some(scope), None) => {
            scope.check(app.config()).map_err(|(field, says)| CallError::field(field, says))?;
            Ok(upkeep::purge_all_of(app, &scope).await?)
        }
        (None, None, _) => Err(CallError::field("refs", "give this, or source, prefix, preset or all")),
        _ => Err(CallError::field("", "Give one of refs, source, prefix, preset and all")),
    }
}

/// The body of `POST /warm`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WarmBody {
    refs: Vec<String>,
    specs: Option<Vec<String>>,
    preset_set: Option<String>,
}

async fn warm(app: &Arc<App>, body: WarmBody) -> Result<Warmed, CallError> {
    let originals = each(body.refs, Original::of_reference)?;
    let specs = match (body.specs, body.preset_set) {
        (Some(specs), None) => specs,
        (None, Some(set)) => Renditions::Set(&set).specs(app.config())?,
        (Some(_), Some(_)) => return Err(CallError::field("preset_set", "give this or specs, not both")),
        (None, None) => return Err(CallError::field("specs", "give this or preset_set")),
    };
    let mut tasks = Vec::new();
    for (index, text) in specs.iter().enumerate() {
        let spec = app.config().presets.get(text).unwrap_or(text);
        let spec = FilterSpec::parse(spec).map_err(|error| CallError::Field {
            field: format!("specs[{index}]"),
            message: format!("{text:?} is no preset and not a filter spec: {error}"),
        })?;
        tasks.extend(upkeep::tasks(spec));
    }
    let count = originals.len().saturating_mul(tasks.len());
    if count > MAX_RENDITIONS {
        let message = format!("{count} renditions, format-auto's three counted; one call may ask for {MAX_RENDITIONS}");
        return Err(CallError::field("refs", message));
    }
    Ok(upkeep::warm(app, &originals, &tasks.into()).await)
}

/// What references mean.
fn each<T>(references: Vec<String>, meaning: impl Fn(&str) -> Result<T, LinkError>) -> Result<Vec<T>, CallError> {
    let meaning = |(index, text): (usize, String)| {
        let field = || format!("refs[{index}]");
        meaning(&text).map_err(|error| CallError::Field { field: field(), message: error.to_string() })
    };
    references.into_iter().enumerate().map(meaning).collect()
}
