//! How `object_store` speaks HTTP here: our own client. No proxy, no redirect, nothing from the environment.
//!
//! An answer that is no success becomes an error here already, of its status and the store's own word for it (`NoSuchKey`). The
//! rest of such a body is thrown away: stores send back what was signed, and an error of ours may end in a log.
//!
//! A store that does not answer is left alone: a [`Breaker`] for each bucket counts attempts. Whatever has a head is an answer,
//! but 503 and 429, by which a store asks for patience. A 500 may be about one object, and says nothing about the next.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::{
    Response, StatusCode,
    body::{Body as _, Incoming},
    header::USER_AGENT,
};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client as PooledClient, Error as ClientError, connect::HttpConnector as TcpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
        HttpResponseBody, HttpService,
    },
};
use thiserror::Error;

use super::super::{
    Breaker, Open, Turned,
    http::{RemoteError, agent, connector, deepest},
};

/// An idle connection is kept for so long.
const IDLE: Duration = Duration::from_secs(20);
/// Idle connections that are kept.
const MAX_IDLE: usize = 32;
/// Longest error document read.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// So many failed attempts in a row, and none that succeeded for so long, and the store is left alone for so long. The three
/// attempts of one call at a store that refuses connections are over sooner: one that starts again is not left alone for it.
const MOST_FAILURES: u32 = 3;
const SPREAD: Duration = Duration::from_secs(1);
const REST: Duration = Duration::from_millis(250);
/// The attempt that finds out whether the store is back takes no longer than this: while it is under way, the others are refused.
const TRIAL: Duration = Duration::from_millis(1500);

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{status}{}", code.as_deref().map(|code| format!(" {code}")).unwrap_or_default())]
pub(super) struct Refused {
    /// Its status.
    pub status: StatusCode,
    /// The store's word for it; a HEAD has none.
    pub code: Option<String>,
}

/// No answer.
#[derive(Debug, Error)]
pub(super) enum NoAnswer {
    /// Not in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// No connection, or one that broke.
    #[error("{0}")]
    Broken(String),
    /// Not asked.
    #[error("it failed again and again, and is left alone for a moment")]
    LeftAlone,
}

/// A pool of connections to one store.
#[derive(Clone)]
pub(super) struct Client {
    pool: PooledClient<HttpsConnector<TcpConnector>, HttpRequestBody>,
    breaker: Arc<Breaker>,
    /// The bucket, for the log.
    name: Arc<str>,
    /// Longest time for one attempt, up to the answer's head.
    attempt: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

impl Client {
    /// A client for a bucket in a store that is asked by https or http.
    ///
    /// # Errors
    /// [`RemoteError::Certificates`] for https on a system that trusts nobody.
    pub fn new(name: &str, is_https: bool, attempt: Duration) -> Result<Self, RemoteError> {
        let pool = PooledClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .build(connector(is_https, attempt)?);
        Ok(Self { pool, breaker: Breaker::spread(MOST_FAILURES, SPREAD, REST), name: name.into(), attempt })
    }

    /// One attempt, if the store is not left alone just now.
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // Of this kind no other attempt is made.
        let leave = self.breaker.enter();
        let leave = leave.map_err(|Open| HttpError::new(HttpErrorKind::Unknown, NoAnswer::LeftAlone))?;
        let limit = if leave.is_trial() { self.attempt.min(TRIAL) } else { self.attempt };
        let answer = self.ask(request, limit).await;
        let turned = if answer.as_ref().is_err_and(is_away) { leave.failed() } else { leave.succeeded() };
        match (turned, &answer) {
            (Turned::Off, Err(error)) => {
                let reason = deepest(error);
                tracing::warn!(bucket = &*self.name, %reason, "the object store is left alone, and tried now and then");
            }
            (Turned::On, _) => tracing::info!(bucket = &*self.name, "the object store answers again"),
            _ => {}
        }
        answer
    }

    async fn ask(&self, mut request: HttpRequest, limit: Duration) -> Result<HttpResponse, HttpError> {
        request.headers_mut().insert(USER_AGENT, agent());
        let late = NoAnswer::TimedOut(limit);
        let response = tokio::time::timeout(limit, self.pool.request(request)).await;
        let response = response.map_err(|_| HttpError::new(HttpErrorKind::Timeout, late))?.map_err(no_answer)?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let (head, body) = response.into_parts();
        let broken =
            |error: hyper::Error| HttpError::new(HttpErrorKind::Interrupted, NoAnswer::Broken(error.to_string()));
        Ok(Response::from_parts(head, HttpResponseBody::new(body.map_err(broken))))
    }
}

/// Whether nobody answered, or the store asked to be left alone.
fn is_away(error: &HttpError) -> bool {
    match std::error::Error::source(error).and_then(|source| source.downcast_ref::<Refused>()) {
        Some(Refused { status, .. }) => {
            matches!(*status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
        }
        None => true,
    }
}

fn no_answer(error: ClientError) -> HttpError {
    let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
    HttpError::new(kind, NoAnswer::Broken(deepest(&error)))
}

/// What a failure is, and whether it is worth another attempt: the kind says so to `object_store`.
async fn refused(response: Response<Incoming>) -> HttpError {
    let status = response.status();
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => HttpErrorKind::Interrupted,
        StatusCode::NOT_IMPLEMENTED => HttpErrorKind::Unknown,
        status if status.is_server_error() => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    };
    let body = response.into_body();
    let code = match body.is_end_stream() {
        true => None,
        false => Limited::new(body, MAX_ERROR_BYTES).collect().await.ok().and_then(|body| code(&body.to_bytes())),
    };
    HttpError::new(kind, Refused { status, code })
}

/// The content of `<Code>`, if it is a word.
fn code(body: &Bytes) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (code, _) = text.split_once("<Code>")?.1.split_once("</Code>")?;
    let is_word = (1..=64).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric());
    is_word.then(|| code.to_owned())
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>;

impl HttpService for Client {
    fn call<'this, 'answer>(&'this self, request: HttpRequest) -> Answer<'answer>
    where
        'this: 'answer,
        Self: 'answer,
    {
        Box::pin(self.send(request))
    }
}

/// Gives `object_store` the one client that there is.
#[derive(Clone, Debug)]
pub(super) struct Connector(pub Arc<Client>);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Client::clone(&self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_error_document_only_its_code_is_read() {
        let document = "<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><StringToSign>canary</StringToSign>\
                        <AWSAccessKeyId>canary</AWSAccessKeyId></Error>";
        let refused = Refused { status: StatusCode::FORBIDDEN, code: code(&Bytes::from_static(document.as_bytes())) };
        assert_eq!(refused.to_string(), "403 Forbidden SignatureDoesNotMatch");
        for odd in ["", "<Code>", "<Code></Code>", "<Code>a b</Code>", "<Code>a\nb</Code>", "\u{fffd}"] {
            assert_eq!(code(&Bytes::copy_from_slice(odd.as_bytes())), None, "{odd:?}");
        }
    }
}
