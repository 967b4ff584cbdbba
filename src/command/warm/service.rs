//! A running service, asked through its operations listener.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, StatusCode,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};

use crate::{
    config::{Config, ListenAddress, Secret},
    upkeep::Warmed,
};

/// The longest answer that is read: some counts, and the first failures.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// For how long a service that is gone is waited for: that of a restart.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(300);
/// Whether there is one is known sooner.
const CONNECT: Duration = Duration::from_secs(2);

/// A service that runs with this config.
#[derive(Clone)]
pub struct Service {
    address: Address,
    authorization: HeaderValue,
}

#[derive(Clone, Debug)]
enum Address {
    Tcp(std::net::SocketAddr),
    Unix(PathBuf),
}

/// Why a call has no answer.
#[derive(Debug, Error)]
pub enum CallError {
    /// Nobody listens, or the connection broke.
    #[error("the service does not answer: {0}")]
    Away(String),
    /// It answered something else.
    #[error("the service answered {status}: {says}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its sentence.
        says: String,
    },
}

/// What was found at the operations listener.
pub enum Found {
    /// One that takes this config's token and knows these renditions.
    Service(Service),
    /// None to work through, and why: what is said about it.
    None(String),
}

impl Service {
    /// Looks for one.
    ///
    /// # Errors
    /// When one is there that cannot do what is wanted, and a second renderer beside it would be no help: it has another config.
    pub async fn find(config: &Config, specs: &[String]) -> Result<Found, anyhow::Error> {
        let token = Secret::given(config.ops.token.as_ref(), config.ops.token_file.as_deref())?;
        let Some(token) = token else {
            return Ok(Found::None("the config has no ops.token to ask a service with".into()));
        };
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
            .map_err(|_| anyhow::anyhow!("ops.token cannot travel in a header"))?;
        authorization.set_sensitive(true);
        let address = match &config.server.ops_listen {
            ListenAddress::Unix(path) => Address::Unix(path.clone()),
            ListenAddress::Tcp(address) if address.ip().is_unspecified() => {
                let local: std::net::IpAddr = match address.ip() {
                    std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                    std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
                };
                Address::Tcp((local, address.port()).into())
            }
            ListenAddress::Tcp(address) => Address::Tcp(*address),
        };
        let service = Self { address, authorization };
        match service.call(&[], specs).await {
            Ok(_) => Ok(Found::Service(service)),
            Err(CallError::Away(_)) => Ok(Found::None(format!("no service answers at {service}"))),
            Err(CallError::Refused { status: StatusCode::UNAUTHORIZED, .. }) => {
                Ok(Found::None(format!("what answers at {service} does not take this config's ops.token")))
            }
            Err(CallError::Refused { status: StatusCode::NOT_FOUND, .. }) => {
                Ok(Found::None(format!("what answers at {service} takes no calls: it runs without ops.token")))
            }
            Err(error) => {
                anyhow::bail!("{error} (does it run with this config? SIGHUP reloads it; --alone renders without it)")
            }
        }
    }

    /// Has renditions made of these originals; a service that is restarted meanwhile is waited for.
    pub async fn warm(&self, references: &[&str], specs: &[String]) -> Result<Warmed, CallError> {
        let patience = Instant::now() + PATIENCE;
        loop {
            match self.call(references, specs).await {
                Err(CallError::Away(_) | CallError::Refused { status: StatusCode::SERVICE_UNAVAILABLE, .. })
                    if Instant::now() < patience =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }

    async fn call(&self, references: &[&str], specs: &[String]) -> Result<Warmed, CallError> {
        let broke = |error: &dyn std::error::Error| CallError::Away(crate::remote::deepest(error));
        let late = |_| CallError::Away("it takes no connection".into());
        let body = json!({ "refs": references, "specs": specs }).to_string();
        let request = Request::post("/warm")
            .header(HOST, "localhost")
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| CallError::Away(error.to_string()))?;
        // As long as the renders take: only connecting is bounded.
        let connect = tokio::time::timeout(CONNECT, self.connect());
        let stream = connect.await.map_err(late)?.map_err(|error| broke(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broke(&error))?;
        let answer = async {
            let (head, body) = sender.send_request(request).await.map_err(|error| broke(&error))?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            Ok((head.status, body.map_err(|error| CallError::Away(error.to_string()))?.to_bytes()))
        };
        let mut answer = std::pin::pin!(answer);
        // One future for both: a caller that leaves takes the connection along, and the service notices.
        let (status, body) = tokio::select! {
            answer = &mut answer => answer?,
            ended = connection => {
                ended.map_err(|error| broke(&error))?;
                answer.await?
            }
        };
        let odd = |says: String| CallError::Refused { status, says };
        if status != StatusCode::OK {
            return Err(odd(String::from_utf8_lossy(&body).trim().chars().filter(|c| !c.is_control()).collect()));
        }
        serde_json::from_slice(&body).map_err(|error| odd(format!("no counts: {error}")))
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.address {
            Address::Tcp(address) => Box::new(TcpStream::connect(address).await?),
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

/// Either kind of socket.
trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.address {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
