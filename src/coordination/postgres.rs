//! Leases and news in a Postgres server: advisory locks, which it takes back from whoever is gone, and `NOTIFY`.

use std::{
    str::FromStr as _,
    sync::{Arc, Weak},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::{Mutex, broadcast},
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
    remote::postgres::{heard, listener},
};

/// Gates that meet in a Postgres server. One session holds all leases of a gate: when it ends, however it ends, the server gives
/// them to others. A pooler that shares sessions (PgBouncer, but for session pooling) breaks that.
pub struct PostgresCoordinator {
    inner: Arc<Inner>,
    tasks: [AbortHandle; 2],
}

struct Inner {
    options: PgConnectOptions,
    session: Mutex<Option<PgConnection>>,
    channel: String,
    namespace: String,
    name: String,
    timeout: Duration,
    news: broadcast::Sender<Event>,
}

impl PostgresCoordinator {
    /// A coordinator at this URL. Nobody is connected to yet.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(config: &CoordinationConfig, url: &Secret) -> Result<Self, Away> {
        let lease = Duration::from_secs_f64(config.lease_seconds);
        let (idle_ms, keepalive) = (lease.as_millis().to_string(), lease.as_secs().max(2) / 2);
        let options = PgConnectOptions::from_str(url.expose())
            // Its words may hold the URL.
            .map_err(|_| Away("coordination.url is not a URL of a Postgres server".into()))?
            .application_name("sendimage coordination")
            // A gate that is frozen holds its connection open: it is gone when it is silent. One whose host is cut off does
            // not even close it.
            .options([
                ("idle_session_timeout", idle_ms.as_str()),
                ("tcp_keepalives_idle", &keepalive.to_string()),
                ("tcp_keepalives_interval", "1"),
                ("tcp_keepalives_count", "2"),
            ]);
        let inner = Arc::new(Inner {
            options,
            session: Mutex::new(None),
            channel: format!("{}_news", config.namespace),
            namespace: config.namespace.clone(),
            name: random_name(),
            timeout: Duration::from_secs_f64(config.timeout_seconds),
            news: broadcast::Sender::new(BACKLOG),
        });
        let beat = tokio::spawn(stay_alive(Arc::downgrade(&inner), lease / BEATS)).abort_handle();
        let (heard, url) = (inner.clone(), url.clone());
        let listener = tokio::spawn(listen(async move || subscribe(&heard, &url).await));
        Ok(Self { inner, tasks: [beat, listener.abort_handle()] })
    }
}

impl Drop for PostgresCoordinator {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Inner {
    /// Asks on the session that holds the leases, connecting first where there is none. A session that does not answer in time
    /// is given up, and with it its leases: the server ends them when it notices.
    async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error> + Send,
    ) -> Result<T, Away> {
        let ask = async {
            let mut session = self.session.lock().await;
            // Out of its place: should this be dropped half-way, nobody asks on it again.
            let mut connection = match session.take() {
                Some(connection) => connection,
                None => PgConnection::connect_with(&self.options).await?,
            };
            let answer = question(&mut connection).await?;
            *session = Some(connection);
            Ok(answer)
        };
        match tokio::time::timeout(self.timeout, ask).await {
            Err(_) => Err(Away("no answer in time".into())),
            Ok(answer) => answer.map_err(|error: sqlx::Error| Away::new(error)),
        }
    }

    /// An advisory lock's number: 64 bits of a digest. Two keys that share one wait for each other, and no more.
    fn number(&self, key: &RenditionKey) -> i64 {
        let digest = Sha256::new().chain_update(&self.namespace).chain_update([0]).chain_update(key.path()).finalize();
        i64::from_be_bytes(digest[..8].try_into().unwrap_or_default())
    }

    async fn unlock(&self, number: i64) {
        let unlock = async |session: &mut PgConnection| {
            sqlx::query_scalar::<_, bool>("SELECT pg_advisory_unlock($1)").bind(number).fetch_one(session).await
        };
        // A session that is gone has given it back.
        let _ = self.ask(unlock).await;
    }
}

/// Keeps the session from looking idle.
async fn stay_alive(inner: Weak<Inner>, pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        let Some(inner) = inner.upgrade() else { return };
        if inner.session.lock().await.is_some() {
            let _ = inner.ask(async |session: &mut PgConnection| session.ping().await).await;
        }
    }
}

/// Hears what others tell until the connection ends.
async fn subscribe(inner: &Inner, url: &Secret) -> Result<(), sqlx::Error> {
    let options = PgConnectOptions::from_str(url.expose())?.application_name("sendimage news");
    let mut session = listener(options, &inner.channel, inner.timeout).await?;
    // What was told before, or while nobody listened, is not known.
    let _ = inner.news.send(Event::Unknown);
    loop {
        let notification = match heard(&mut session, SILENCE, inner.timeout).await {
            Err(sqlx::Error::PoolClosed) => return Ok(()),
            result => result?,
        };
        let event = notification.and_then(|notification| News::hear(notification.payload(), &inner.name));
        if let Some(event) = event {
            // Nobody may listen at this moment.
            let _ = inner.news.send(event);
        }
    }
}

impl Coordinator for PostgresCoordinator {
    fn claim<'a>(&'a self, key: &'a RenditionKey, _: &'a mut Watch) -> Pending<'a, Claim> {
        Box::pin(async move {
            let number = self.inner.number(key);
            let lock = async |session: &mut PgConnection| {
                sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_lock($1)").bind(number).fetch_one(session).await
            };
            if !self.inner.ask(lock).await? {
                return Ok(Claim::Theirs);
            }
            let inner = self.inner.clone();
            let release = async move { inner.unlock(number).await };
            // The session's own signs of life are those of all its leases.
            Ok(Claim::Mine(Lease::new(std::future::pending(), release, false)))
        })
    }

    fn tell<'a>(&'a self, event: &'a Event) -> Pending<'a, ()> {
        Box::pin(async move {
            let text = News::to_text(&self.inner.name, event);
            let notify = async |session: &mut PgConnection| {
                sqlx::query("SELECT pg_notify($1, $2)").bind(&self.inner.channel).bind(text).execute(session).await
            };
            self.inner.ask(notify).await.map(|_| ())
        })
    }

    fn news(&self) -> Option<broadcast::Receiver<Event>> {
        Some(self.inner.news.subscribe())
    }

    fn probe(&self) -> Pending<'_, String> {
        Box::pin(async {
            self.inner.ask(async |session: &mut PgConnection| session.ping().await).await?;
            Ok("postgres answers".to_owned())
        })
    }
}
