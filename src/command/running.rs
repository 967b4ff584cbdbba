//! The running service, asked on its operations listener: what it is told it heeds at once, whatever it remembers.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, StatusCode,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::CommandError;
use crate::config::{Config, ListenAddress, OpsConfig, read_secret_file};

/// A service on this machine takes a connection at once, or is not there.
const PATIENCE: Duration = Duration::from_secs(2);

/// Calls the service that runs with this config. `None` where nobody listens, or where the config has no `ops.token`.
pub(super) async fn call(config: &Config, path: &str, body: &Value) -> Result<Option<Value>, CommandError> {
    let Some(token) = token(&config.ops)? else { return Ok(None) };
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, "localhost")
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .context("the call to the running service")?;
    let (status, text) = match &config.server.ops_listen {
        ListenAddress::Tcp(address) => match connected(TcpStream::connect(address)).await {
            Some(stream) => exchange(stream, request).await?,
            None => return Ok(None),
        },
        ListenAddress::Unix(path) => match connected(UnixStream::connect(path)).await {
            Some(stream) => exchange(stream, request).await?,
            None => return Ok(None),
        },
    };
    let text = String::from_utf8_lossy(&text);
    match status {
        StatusCode::OK => Ok(Some(serde_json::from_str(&text).context("the running service's answer cannot be read")?)),
        StatusCode::UNAUTHORIZED => Err(anyhow::anyhow!("the running service has another ops.token").into()),
        // Of another version, or without a token when it was started.
        StatusCode::NOT_FOUND => {
            Err(anyhow::anyhow!("the running service has no {path}: is ops.token new to it?").into())
        }
        status => Err(anyhow::anyhow!("the running service answered {status}: {}", text.trim()).into()),
    }
}

fn token(config: &OpsConfig) -> Result<Option<String>, CommandError> {
    Ok(match (&config.token, &config.token_file) {
        (Some(token), _) => Some(token.expose().to_owned()),
        (None, Some(file)) => {
            let bytes = read_secret_file(file).with_context(|| format!("cannot read {}", file.display()))?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        (None, None) => None,
    })
}

async fn connected<T>(connecting: impl Future<Output = std::io::Result<T>>) -> Option<T> {
    tokio::time::timeout(PATIENCE, connecting).await.ok()?.ok()
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), anyhow::Error> {
    let failed = "the running service did not answer";
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context(failed)?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await.context(failed)?;
    let status = response.status();
    Ok((status, response.into_body().collect().await.context(failed)?.to_bytes()))
}
