//! The running service, told by commands: what it is told it heeds at once, whatever it remembers.

use anyhow::Context as _;
use hyper::StatusCode;
use serde_json::Value;

use super::{
    CommandError,
    ops_client::{AskError, OpsClient},
};
use crate::config::Config;

/// Calls the service that runs with this config. `None` where nobody listens, or where the config has no `ops.token`.
pub(super) async fn call(config: &Config, path: &str, body: &Value) -> Result<Option<Value>, CommandError> {
    let Some(client) = OpsClient::with_token(config)? else { return Ok(None) };
    let (status, text) = match client.post(path, body).await {
        Ok(answer) => answer,
        Err(AskError::Away(_)) => return Ok(None),
        Err(AskError::Broken(why)) => {
            return Err(anyhow::anyhow!("the running service did not answer: {why}").into());
        }
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
