//! Requests to URLs that a stranger may have named: guarded addresses, bounded heads, no redirect followed by itself.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{HeaderMap, Request, Response, Uri, body::Incoming, header::USER_AGENT};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::capture_connection},
    rt::{TokioExecutor, TokioTimer},
};
use thiserror::Error;
use tower_service::Service as _;

use super::{
    Guard, RemoteError,
    connect::{ConnectError, Connector, InTime, Resolve},
    http::{IDLE, MAX_IDLE, agent, deepest},
    tls,
};

/// Longest head of an answer, and the lines in it.
const MAX_HEAD_BYTES: usize = 32 << 10;
const MAX_HEADERS: usize = 100;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// No connection.
    #[error(transparent)]
    Connect(ConnectError),
    /// The server is not who it says it is, or speaks no TLS that we speak.
    #[error("TLS: {0}")]
    Tls(String),
    /// The connection was there and the answer was not.
    #[error("no answer within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The connection broke, or what came is no HTTP.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl AskError {
    fn new(error: &(dyn StdError + 'static)) -> Self {
        let mut layer = Some(error);
        while let Some(error) = layer {
            if let Some(error) = error.downcast_ref::<ConnectError>() {
                return Self::Connect(error.clone());
            }
            if let Some(error) = error.downcast_ref::<rustls::Error>() {
                return Self::Tls(error.to_string());
            }
            layer = error.source().or_else(|| {
                // An I/O error does not name what it wraps as its source, but that one's.
                error.downcast_ref::<std::io::Error>()?.get_ref().map(|inner| inner as &(dyn StdError + 'static))
            });
        }
        Self::Broken(deepest(error))
    }
}

/// A client with a pool of connections, all of which were checked when they were made.
#[derive(Clone, Debug)]
pub struct GuardedClient {
    client: Client<InTime<HttpsConnector<Connector>>, Empty<Bytes>>,
    connector: InTime<HttpsConnector<Connector>>,
}

impl GuardedClient {
    /// A client that connects to whom the guard lets, TLS and all within `connect`.
    ///
    /// # Errors
    /// [`RemoteError::Certificates`] where TLS is wanted on a system that trusts nobody.
    pub fn new(
        guard: Guard,
        resolver: Arc<dyn Resolve>,
        connect: Duration,
        wants_tls: bool,
    ) -> Result<Self, RemoteError> {
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls::client(wants_tls)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector::new(guard, resolver, connect));
        let connector = InTime { connector: https, limit: connect };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(MAX_HEAD_BYTES)
            .http1_max_headers(MAX_HEADERS)
            .build(connector.clone());
        Ok(Self { client, connector })
    }

    /// The head of the answer to a GET, and its body to come. The head is waited for until `first_byte` after there is a
    /// connection. A redirect is an answer like any other.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn get(
        &self,
        url: Uri,
        headers: HeaderMap,
        first_byte: Duration,
    ) -> Result<Response<Incoming>, AskError> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = url;
        *request.headers_mut() = headers;
        request.headers_mut().insert(USER_AGENT, agent());
        let mut connected = capture_connection(&mut request);
        let mut answer = std::pin::pin!(self.client.request(request));
        let answered = tokio::select! {
            answered = &mut answer => answered,
            () = async { drop(connected.wait_for_connection_metadata().await) } => {
                tokio::time::timeout(first_byte, answer).await.map_err(|_| AskError::TimedOut(first_byte))?
            }
        };
        answered.map_err(|error| AskError::new(&error))
    }

    /// Connects and hangs up.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn knock(&self, url: Uri) -> Result<(), AskError> {
        let connected = self.connector.clone().call(url).await;
        connected.map(drop).map_err(|error| AskError::new(&*error))
    }
}
