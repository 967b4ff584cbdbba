//! Leases and news in a Redis server (or Valkey, KeyDB: anything that speaks its protocol).

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use redis::{Client, RedisError, Script, aio::ConnectionManager, aio::ConnectionManagerConfig};
use tokio::{
    sync::{OnceCell, broadcast},
    task::AbortHandle,
};

use super::{
    Away, Claim, Coordinator, Event, Lease, News, Pending, Watch,
    lease::BEATS,
    news::{BACKLOG, SILENCE, listen},
};
use crate::{
    config::{CoordinationConfig, Secret},
    model::RenditionKey,
    random::random_name,
};

/// Prolongs a lease, if it is still the caller's.
const PROLONG: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end return 0";
/// Removes a lease, if it is still the caller's.
const RELEASE: &str = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0";

/// Gates that meet in a Redis server.
pub struct RedisCoordinator {
    inner: Arc<Inner>,
    listener: AbortHandle,
}

struct Inner {
    client: Client,
    connection: OnceCell<ConnectionManager>,
    namespace: String,
    name: String,
    lease: Duration,
    timeout: Duration,
    news: broadcast::Sender<Event>,
}

impl RedisCoordinator {
    /// A coordinator at this URL. Nobody is connected to yet.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(config: &CoordinationConfig, url: &Secret) -> Result<Self, Away> {
        // Once for the process; whoever was first has chosen the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // The error names what is wrong, not the URL.
        let client = Client::open(url.expose()).map_err(|error| Away(format!("coordination.url: {}", said(&error))))?;
        let inner = Arc::new(Inner {
            client,
            connection: OnceCell::new(),
            namespace: config.namespace.clone(),
            name: random_name(),
            lease: Duration::from_secs_f64(config.lease_seconds),
            timeout: Duration::from_secs_f64(config.timeout_seconds),
            news: broadcast::Sender::new(BACKLOG),
        });
        let heard = inner.clone();
        let listener = tokio::spawn(listen(async move || subscribe(&heard).await.map_err(|error| said(&error))));
        let listener = listener.abort_handle();
        Ok(Self { inner, listener })
    }
}

impl Drop for RedisCoordinator {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Inner {
    /// A connection that is made again when it breaks, and on which nothing is waited for longer than the config allows.
    async fn connection(&self) -> Result<ConnectionManager, Away> {
        let connect = || async {
            let config = ConnectionManagerConfig::new()
                .set_connection_timeout(Some(self.timeout))
                .set_response_timeout(Some(self.timeout))
                // A question fails at once; the connection is tried again behind it.
                .set_number_of_retries(0);
            ConnectionManager::new_with_config(self.client.clone(), config).await
        };
        let connection = self.connection.get_or_try_init(connect);
        // The manager's own bounds do not hold for a name that is not resolved.
        match tokio::time::timeout(self.timeout, connection).await {
            Err(_) => Err(Away("no connection in time".into())),
            Ok(connection) => connection.cloned().map_err(|error| Away(said(&error))),
        }
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Away> {
        let mut connection = self.connection().await?;
        let asked = tokio::time::timeout(self.timeout, command.query_async(&mut connection));
        asked.await.map_err(|_| Away("no answer in time".into()))?.map_err(|error| Away(said(&error)))
    }

    /// One of the scripts that only whoever holds a lease may run.
    async fn as_holder(&self, script: &str, lease: &str, mark: &str) -> Result<bool, Away> {
        let mut connection = self.connection().await?;
        let script = Script::new(script);
        let mut call = script.key(lease);
        let asked = call.arg(mark).arg(self.lease.as_millis() as u64).invoke_async::<i64>(&mut connection);
        let done = tokio::time::timeout(self.timeout, asked).await;
        done.map_err(|_| Away("no answer in time".into()))?.map(|n| n == 1).map_err(|error| Away(said(&error)))
    }

    fn lease_name(&self, key: &RenditionKey) -> String {
        format!("{}:lease:{}", self.namespace, key.path())
    }

    fn channel(&self) -> String {
        format!("{}:news", self.namespace)
    }
}

/// An error's words: what the server or the system says, never the URL with its password.
fn said(error: &RedisError) -> String {
    format!("{:?}: {}", error.kind(), error.detail().unwrap_or("no answer, or a connection that broke"))
}

/// Hears what others tell until the connection ends.
async fn subscribe(inner: &Inner) -> Result<(), RedisError> {
    let connect = async {
        let mut subscription = inner.client.get_async_pubsub().await?;
        subscription.subscribe(inner.channel()).await?;
        Ok::<_, RedisError>(subscription)
    };
    let timed_out = |_| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let subscription = tokio::time::timeout(inner.timeout, connect).await.map_err(timed_out)??;
    // What was told before, or while nobody listened, is not known.
    let _ = inner.news.send(Event::Unknown);
    let (mut sink, mut messages) = subscription.split();
    loop {
        let message = match tokio::time::timeout(SILENCE, messages.next()).await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(()),
            // Does nobody tell anything, or is nobody there?
            Err(_) => {
                let ping = sink.ping::<redis::Value>();
                tokio::time::timeout(inner.timeout, ping).await.map_err(timed_out)??;
                continue;
            }
        };
        let event = message.get_payload::<String>().map_or(Some(Event::Unknown), |text| News::hear(&text, &inner.name));
        if let Some(event) = event {
            // Nobody may listen at this moment.
            let _ = inner.news.send(event);
        }
    }
}

impl Coordinator for RedisCoordinator {
    fn claim<'a>(&'a self, key: &'a RenditionKey, _: &'a mut Watch) -> Pending<'a, Claim> {
        Box::pin(async move {
            let (lease, mark) = (self.inner.lease_name(key), random_name());
            let mut set = redis::cmd("SET");
            set.arg(&lease).arg(&mark).arg("NX").arg("PX").arg(self.inner.lease.as_millis() as u64);
            if self.inner.ask::<Option<String>>(&set).await?.is_none() {
                return Ok(Claim::Theirs);
            }
            let inner = self.inner.clone();
            let (name, of) = (lease.clone(), mark.clone());
            let heartbeat = async move {
                loop {
                    tokio::time::sleep(inner.lease / BEATS).await;
                    // What is lost is lost: the render goes on, and at worst another one begins.
                    let _ = inner.as_holder(PROLONG, &name, &of).await;
                }
            };
            let inner = self.inner.clone();
            let release = async move {
                let _ = inner.as_holder(RELEASE, &lease, &mark).await;
            };
            // One that ended is gone without a trace: that it was somebody's before cannot be told.
            Ok(Claim::Mine(Lease::new(heartbeat, release, false)))
        })
    }

    fn tell<'a>(&'a self, event: &'a Event) -> Pending<'a, ()> {
        Box::pin(async move {
            let mut publish = redis::cmd("PUBLISH");
            publish.arg(self.inner.channel()).arg(News::to_text(&self.inner.name, event));
            self.inner.ask::<i64>(&publish).await.map(|_| ())
        })
    }

    fn news(&self) -> Option<broadcast::Receiver<Event>> {
        Some(self.inner.news.subscribe())
    }

    fn probe(&self) -> Pending<'_, String> {
        Box::pin(async {
            self.inner.ask::<String>(&redis::cmd("PING")).await?;
            Ok("redis answers".to_owned())
        })
    }
}
