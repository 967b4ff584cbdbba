//! The running service's operations listener, asked by the commands beside it.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::{
    config::{Config, ListenAddress},
    remote::deepest,
};

/// A service on this machine takes a connection at once, or is not there.
pub(super) const CONNECT: Duration = Duration::from_secs(2);
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// What the references of one call take of its body at most, which has 64 KiB in all.
const CALL_BYTES: usize = 48 << 10;

/// Whom to ask, and as whom.
#[derive(Clone)]
pub(super) struct OpsClient {
    address: ListenAddress,
    authorization: Option<HeaderValue>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum AskError {
    /// Nobody takes a connection.
    #[error("{0}")]
    Away(io::Error),
    /// The connection ended before the answer did, or the answer is none.
    #[error("{0}")]
    Broken(String),
}

impl OpsClient {
    /// The service that runs with this config, asked as anybody.
    pub fn new(config: &Config) -> Self {
        Self { address: here(&config.server.ops_listen), authorization: None }
    }

    /// The same, asked with `ops.token`; `None` where the config has none.
    ///
    /// # Errors
    /// When the token cannot be read, or cannot travel in a header.
    pub fn with_token(config: &Config) -> Result<Option<Self>, anyhow::Error> {
        let given = config.ops.secret().map_err(|error| anyhow::anyhow!("ops.token: {error}"))?;
        let Some(token) = given else { return Ok(None) };
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
            .map_err(|_| anyhow::anyhow!("ops.token cannot travel in a header"))?;
        authorization.set_sensitive(true);
        Ok(Some(Self { authorization: Some(authorization), ..Self::new(config) }))
    }

    /// Asks for a path. A connection is waited for as long as `connect`.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn get(&self, path: &str, connect: Duration) -> Result<(StatusCode, Bytes), AskError> {
        self.ask(Request::get(path), Bytes::new(), connect).await
    }

    /// Makes a call, for as long as it takes: only connecting is bounded.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<(StatusCode, Bytes), AskError> {
        let request = Request::builder().method(Method::POST).uri(path).header(CONTENT_TYPE, "application/json");
        self.ask(request, body.to_string().into(), CONNECT).await
    }

    async fn ask(
        &self,
        request: hyper::http::request::Builder,
        body: Bytes,
        connect: Duration,
    ) -> Result<(StatusCode, Bytes), AskError> {
        let broke = |error: &dyn std::error::Error| AskError::Broken(deepest(error));
        let mut request = request.header(HOST, "localhost").body(Full::new(body)).map_err(|error| broke(&error))?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        let late = |_| AskError::Away(io::Error::new(io::ErrorKind::TimedOut, "it takes no connection"));
        let stream = tokio::time::timeout(connect, self.connect()).await.map_err(late)?.map_err(AskError::Away)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broke(&error))?;
        let answer = async {
            let (head, body) = sender.send_request(request).await.map_err(|error| broke(&error))?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            Ok((head.status, body.map_err(|error| AskError::Broken(error.to_string()))?.to_bytes()))
        };
        let mut answer = std::pin::pin!(answer);
        // One future for both: a caller that leaves takes the connection along, and the service notices.
        tokio::select! {
            answer = &mut answer => answer,
            ended = connection => {
                ended.map_err(|error| broke(&error))?;
                answer.await
            }
        }
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.address {
            ListenAddress::Tcp(address) => Box::new(TcpStream::connect(address).await?),
            ListenAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

impl fmt::Display for OpsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// What listens everywhere is asked here.
fn here(address: &ListenAddress) -> ListenAddress {
    match address {
        ListenAddress::Tcp(address) if address.ip().is_unspecified() => {
            let ip: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            ListenAddress::Tcp((ip, address.port()).into())
        }
        address => address.clone(),
    }
}

/// Either kind of socket.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How many of these references, from the first on, one call takes: at most `most` and as many as its body has room for, but
/// one in any case.
pub(super) fn in_one_call<'a>(references: impl IntoIterator<Item = &'a str>, most: usize) -> usize {
    let mut left = CALL_BYTES;
    let fits = |reference: &&str| {
        // A quotation mark takes two characters in JSON; control characters, which would take six, are in no reference.
        let rest = left.checked_sub(reference.len() * 2 + 8);
        left = rest.unwrap_or_default();
        rest.is_some()
    };
    references.into_iter().take(most.max(1)).take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_asked_on_the_loopback() {
        for (listens, asked) in [
            ("0.0.0.0:8481", "127.0.0.1:8481"),
            ("[::]:8481", "[::1]:8481"),
            ("192.0.2.1:8481", "192.0.2.1:8481"),
            ("unix:/run/ops", "unix:/run/ops"),
        ] {
            assert_eq!(here(&listens.parse().unwrap()).to_string(), asked);
        }
    }

    #[test]
    fn a_call_stays_within_its_bytes_and_number() {
        let long = format!("media/{}\".jpg", "\u{e9}".repeat(1000));
        let many = vec![long.as_str(); 100];
        let fits = in_one_call(many.iter().copied(), 100);
        assert!((10..100).contains(&fits), "{fits}");
        assert!(serde_json::to_string(&many[..fits]).unwrap().len() <= CALL_BYTES);
        assert_eq!(in_one_call(many.iter().copied(), 3), 3);
        assert_eq!(in_one_call(["x".repeat(CALL_BYTES).as_str(), "y"], 2), 1, "one goes in any case");
        assert_eq!(in_one_call(["1", "2"], 0), 1);
    }
}
