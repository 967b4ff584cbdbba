//! One bounded GET.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, Uri,
    header::{CONNECTION, HOST, HeaderValue, USER_AGENT},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as PooledClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use thiserror::Error;

/// An idle connection is kept for less than the two seconds after which gunicorn closes it: a request that meets a
/// connection on its way out would fail for no reason.
pub(super) const IDLE: Duration = Duration::from_millis(1500);
/// Idle connections that are kept.
pub(super) const MAX_IDLE: usize = 32;

/// Who asks: the `User-Agent` of every request.
pub(super) fn agent() -> HeaderValue {
    HeaderValue::from_static(concat!("sendimage/", env!("CARGO_PKG_VERSION")))
}

/// Why there is no answer. Never holds a header or a body.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// Not a URL that can be fetched.
    #[error("not a URL that can be fetched")]
    Url,
    /// The system has no certificates to trust.
    #[error("the system has no root certificates (the package ca-certificates): {0}")]
    Certificates(String),
    /// Not in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// No connection, or one that broke.
    #[error("cannot connect, or the connection broke: {0}")]
    Connection(String),
    /// A longer body than allowed.
    #[error("the answer is longer than {0} bytes, or breaks off")]
    Body(usize),
}

/// What is fetched, and within which bounds.
#[derive(Clone, Debug)]
pub struct Fetch {
    url: Uri,
    host: Option<HeaderValue>,
    timeout: Duration,
    max_bytes: usize,
}

impl Fetch {
    /// A URL, the longest time from connecting to the last byte, and the longest body.
    ///
    /// # Errors
    /// [`RemoteError::Url`].
    pub fn new(url: &str, timeout: Duration, max_bytes: usize) -> Result<Self, RemoteError> {
        let url: Uri = url.parse().map_err(|_| RemoteError::Url)?;
        if url.authority().is_none() || !matches!(url.scheme_str(), Some("http" | "https")) {
            return Err(RemoteError::Url);
        }
        Ok(Self { url, host: None, timeout, max_bytes })
    }

    /// The same, asked by another name than the URL's.
    ///
    /// # Errors
    /// [`RemoteError::Url`] for what is no header value.
    pub fn with_host(self, host: Option<&str>) -> Result<Self, RemoteError> {
        let host = host.map(|host| host.parse().map_err(|_| RemoteError::Url)).transpose()?;
        Ok(Self { host, ..self })
    }

    /// The URL, for the log: it holds no credentials.
    pub fn url(&self) -> String {
        self.url.to_string()
    }
}

/// A client with a pool of connections.
#[derive(Clone, Debug)]
pub struct Client(PooledClient<HttpsConnector<HttpConnector>, Empty<Bytes>>);

impl Client {
    /// A client for such fetches.
    ///
    /// # Errors
    /// [`RemoteError::Certificates`] for an https URL on a system that trusts nobody.
    pub fn new(fetch: &Fetch) -> Result<Self, RemoteError> {
        Ok(Self::by(connector(fetch.url.scheme_str() == Some("https"), fetch.timeout)?))
    }

    /// A client that takes any certificate, for whoever looks at a site of their own before it has one that others trust.
    ///
    /// # Errors
    /// [`RemoteError::Certificates`] when TLS cannot be set up at all.
    pub fn unverified(fetch: &Fetch) -> Result<Self, RemoteError> {
        Ok(Self::by(connector_by(super::tls::unverified()?, fetch.timeout)))
    }

    fn by(connector: HttpsConnector<HttpConnector>) -> Self {
        let client = PooledClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .build(connector);
        Self(client)
    }

    /// The answer to a GET, whatever its status. A redirect is an answer like any other.
    ///
    /// # Errors
    /// [`RemoteError`] when there is none within the bounds.
    pub async fn get(&self, fetch: &Fetch, headers: &HeaderMap) -> Result<Response<Bytes>, RemoteError> {
        self.ask(Method::GET, fetch, headers).await
    }

    /// As [`Self::get`], by another method without a body.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn ask(
        &self,
        method: Method,
        fetch: &Fetch,
        headers: &HeaderMap,
    ) -> Result<Response<Bytes>, RemoteError> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        *request.uri_mut() = fetch.url.clone();
        *request.headers_mut() = headers.clone();
        let own = request.headers_mut();
        own.remove(CONNECTION);
        own.insert(USER_AGENT, agent());
        if let Some(host) = &fetch.host {
            own.insert(HOST, host.clone());
        }
        let ask = async {
            let broke = |error: hyper_util::client::legacy::Error| RemoteError::Connection(deepest(&error));
            let (head, body) = self.0.request(request).await.map_err(broke)?.into_parts();
            let body = Limited::new(body, fetch.max_bytes).collect().await;
            let body = body.map_err(|_| RemoteError::Body(fetch.max_bytes))?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        tokio::time::timeout(fetch.timeout, ask).await.map_err(|_| RemoteError::TimedOut(fetch.timeout))?
    }
}

/// What connects, by TLS where the URL says so: within this time, and trusting whom the system trusts.
///
/// # Errors
/// [`RemoteError::Certificates`] for https on a system that trusts nobody.
pub(crate) fn connector(is_https: bool, timeout: Duration) -> Result<HttpsConnector<HttpConnector>, RemoteError> {
    Ok(connector_by(super::tls::client(is_https)?, timeout))
}

fn connector_by(tls: rustls::ClientConfig, timeout: Duration) -> HttpsConnector<HttpConnector> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(timeout));
    HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp)
}

/// The last word of a chain of errors: the others only say that there is one.
pub(crate) fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
