//! Postgres tells of changed rows (`LISTEN`, `NOTIFY`): what is remembered of them is forgotten at once.
//!
//! It only makes it faster: a notification that nobody heard costs `catalogue.cache_seconds`, as without.

use std::{
    future::Future,
    sync::{Arc, Weak},
    time::Duration,
};

use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};
use tokio::time::{sleep, timeout};

use super::{Cached, CatalogueError, postgres};
use crate::{config::CatalogueConfig, model::ImageId};

/// A session that says nothing for so long is asked whether it is still there: a network forgets without a word.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The pause before another attempt doubles from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Listens for as long as anybody holds the cache: a notification whose payload is an id is of that row, any other of all.
///
/// # Errors
/// When the URL is none. A server that is away is tried again.
pub fn listen(config: &CatalogueConfig, channel: &str, cached: &Arc<Cached>) -> Result<(), CatalogueError> {
    let listener = Listener {
        options: postgres::options(config)?.application_name("sendimage listen"),
        channel: channel.to_owned(),
        timeout: Duration::from_secs_f64(config.timeout_seconds),
        cached: Arc::downgrade(cached),
    };
    tokio::spawn(listener.run());
    Ok(())
}

/// What makes Wagtail's table tell. A row that is new is told of, too: that it was not there is remembered as well.
pub fn trigger(channel: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION sendimage_changed() RETURNS trigger LANGUAGE plpgsql AS $$\n\
         BEGIN PERFORM pg_notify('{channel}', COALESCE(NEW.id, OLD.id)::text); RETURN NULL; END $$;\n\
         CREATE TRIGGER sendimage_changed AFTER INSERT OR UPDATE OR DELETE ON wagtailimages_image\n\
         FOR EACH ROW EXECUTE FUNCTION sendimage_changed();"
    )
}

struct Listener {
    options: PgConnectOptions,
    channel: String,
    timeout: Duration,
    cached: Weak<Cached>,
}

impl Listener {
    async fn run(self) {
        let mut pause = PAUSES.0;
        while self.cached.strong_count() > 0 {
            match self.open().await {
                Ok(session) => {
                    pause = PAUSES.0;
                    tracing::info!(channel = self.channel, "listening for changed rows");
                    let Err(error) = self.hear(session).await else { return };
                    tracing::warn!(channel = self.channel, %error, "changed rows are not told of for the moment");
                }
                Err(error) => tracing::debug!(channel = self.channel, %error, "no session to listen in"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn open(&self) -> Result<PgListener, sqlx::Error> {
        self.in_time(async {
            // A pool for each attempt: the last one may wait for its session until the network gives that up.
            let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(self.timeout).max_lifetime(None);
            let pool = pool.idle_timeout(None).connect_lazy_with(self.options.clone());
            let mut session = PgListener::connect_with(&pool).await?;
            session.eager_reconnect(false);
            session.listen(&self.channel).await?;
            Ok(session)
        })
        .await
    }

    /// Until the session ends: an error. Or the cache: none.
    async fn hear(&self, mut session: PgListener) -> Result<(), sqlx::Error> {
        let Some(cached) = self.cached.upgrade() else { return Ok(()) };
        // What changed before we listened was told to nobody.
        cached.forget_all();
        drop(cached);
        loop {
            let heard = timeout(HEARTBEAT, session.try_recv()).await;
            let Some(cached) = self.cached.upgrade() else { return Ok(()) };
            match heard {
                Ok(Ok(Some(notification))) => forget(&cached, &notification),
                Ok(Ok(None)) => return Err(sqlx::Error::PoolClosed),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    self.in_time(sqlx::query("SELECT 1").execute(&mut session)).await?;
                }
            }
        }
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        timeout(self.timeout, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }
}

fn forget(cached: &Cached, notification: &PgNotification) {
    match notification.payload().parse() {
        Ok(id) => cached.forget(ImageId(id)),
        Err(_) => cached.forget_all(),
    }
}
