//! A running service, asked through its operations listener.

use std::time::{Duration, Instant};

use hyper::StatusCode;
use serde_json::json;
use thiserror::Error;

use crate::{command::ops_client::OpsClient, config::Config, upkeep::Warmed};

/// For how long a service that is gone is waited for: that of a restart.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(300);

/// A service that runs with this config.
#[derive(Clone)]
pub struct Service(OpsClient);

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
    /// One that was never asked.
    #[cfg(test)]
    pub fn at(config: &Config) -> Self {
        Self(OpsClient::new(config))
    }

    /// Looks for one.
    ///
    /// # Errors
    /// When one is there that cannot do what is wanted, and a second renderer beside it would be no help: it has another config.
    pub async fn find(config: &Config, specs: &[String]) -> Result<Found, anyhow::Error> {
        let Some(client) = OpsClient::with_token(config)? else {
            return Ok(Found::None("the config has no ops.token to ask a service with".into()));
        };
        let service = Self(client);
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
        let answer = self.0.post("/warm", &json!({ "refs": references, "specs": specs })).await;
        let (status, body) = answer.map_err(|error| CallError::Away(error.to_string()))?;
        let odd = |says: String| CallError::Refused { status, says };
        if status != StatusCode::OK {
            return Err(odd(String::from_utf8_lossy(&body).trim().chars().filter(|c| !c.is_control()).collect()));
        }
        serde_json::from_slice(&body).map_err(|error| odd(format!("no counts: {error}")))
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
