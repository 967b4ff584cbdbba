//! Postgres tells of changed rows (`LISTEN`, `NOTIFY`): what is remembered of them is forgotten at once.
//!
//! It only makes it faster: a notification that nobody heard costs `catalogue.cache_seconds`, as without.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification};
use tokio::{sync::mpsc::UnboundedSender, time::sleep};

use super::{CatalogueError, postgres};
use crate::{
    config::CatalogueConfig,
    model::ImageId,
    remote::postgres::{heard, listener},
};

/// A session that says nothing for so long is asked whether it is still there.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The pause before another attempt doubles from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What a notification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// This row is new, changed or gone.
    Row(ImageId),
    /// Any may be: also when listening begins, for nobody was told of what happened before.
    Any,
}

/// Who is told of changes.
pub trait Hearer: Send + Sync + 'static {
    /// Whether there is still anybody to tell.
    fn is_there(&self) -> bool;
    /// Is told.
    fn hear(&self, change: Change);
}

impl Hearer for UnboundedSender<Change> {
    fn is_there(&self) -> bool {
        !self.is_closed()
    }

    fn hear(&self, change: Change) {
        // Nobody is there to be told any more.
        let _ = self.send(change);
    }
}

/// Listens for as long as the hearer is there: a notification whose payload is an id is of that row, any other of all.
///
/// # Errors
/// When the URL is none. A server that is away is tried again.
pub fn listen(config: &CatalogueConfig, channel: &str, hearer: impl Hearer) -> Result<(), CatalogueError> {
    let listener = Listener {
        options: postgres::options(config)?.application_name("sendimage listen"),
        channel: channel.to_owned(),
        timeout: Duration::from_secs_f64(config.timeout_seconds),
        hearer,
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

struct Listener<H> {
    options: PgConnectOptions,
    channel: String,
    timeout: Duration,
    hearer: H,
}

impl<H: Hearer> Listener<H> {
    async fn run(self) {
        let mut pause = PAUSES.0;
        while self.hearer.is_there() {
            match listener(self.options.clone(), &self.channel, self.timeout).await {
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

    /// Until the session ends: an error. Or the hearer: none.
    async fn hear(&self, mut session: PgListener) -> Result<(), sqlx::Error> {
        // What changed before we listened was told to nobody.
        self.hearer.hear(Change::Any);
        while self.hearer.is_there() {
            if let Some(notification) = heard(&mut session, HEARTBEAT, self.timeout).await? {
                self.hearer.hear(change(&notification));
            }
        }
        Ok(())
    }
}

fn change(notification: &PgNotification) -> Change {
    notification.payload().parse().map_or(Change::Any, |id| Change::Row(ImageId(id)))
}
