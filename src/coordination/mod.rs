//! One render across processes and hosts, and news that gates tell each other.
//!
//! Within a process the [flights](crate::renditions::flight) see to it that a rendition is made once. Here gates that share a
//! store agree which of them makes it. Nothing that is right depends on this: a name is never reused for other bytes, so two
//! gates that both make a rendition write the same. Losing the coordinator costs duplicate renders, never a wrong or a
//! missing image.

mod files;
mod lease;
mod news;
mod objects;
mod postgres;
mod redis;
mod turn;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::sync::broadcast;

pub use files::LeaseFiles;
pub use lease::{Claim, Lease, Watch};
pub use news::{Event, News};
pub use objects::LeaseObjects;
pub use postgres::PostgresCoordinator;
pub use redis::RedisCoordinator;
pub use turn::{Coordination, Turn};

use crate::{
    config::{CoordinationConfig, CoordinationKind, Secret, StoreConfig},
    model::RenditionKey,
    remote::s3::Bucket,
};

/// The coordinator is away, or cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the coordination is not available: {0}")]
pub struct Away(pub String);

impl Away {
    fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// An answer under way.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Away>> + Send + 'a>>;

/// A place where gates meet.
pub trait Coordinator: Send + Sync {
    /// Asks for the lease of a rendition. `watch` is what this waiter has seen of somebody else's so far.
    fn claim<'a>(&'a self, key: &'a RenditionKey, watch: &'a mut Watch) -> Pending<'a, Claim>;

    /// Tells the other gates.
    fn tell<'a>(&'a self, _: &'a Event) -> Pending<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// What the other gates tell, where they can.
    fn news(&self) -> Option<broadcast::Receiver<Event>> {
        None
    }

    /// Asks whether it is there: a sentence about it.
    fn probe(&self) -> Pending<'_, String>;
}

/// The coordinator that the config asks for; `None` where each gate goes alone.
///
/// # Errors
/// When its URL cannot be read or used. Whether anybody answers there is found out later.
pub fn coordinator(
    config: &CoordinationConfig,
    store: &StoreConfig,
    bucket: Option<&Arc<Bucket>>,
) -> Result<Option<Arc<dyn Coordinator>>, Away> {
    let lease = Duration::from_secs_f64(config.lease_seconds);
    Ok(match (config.kind, bucket) {
        (CoordinationKind::None, _) => None,
        (CoordinationKind::Store, None) => Some(Arc::new(LeaseFiles::new(store, lease))),
        (CoordinationKind::Store, Some(bucket)) => Some(Arc::new(LeaseObjects::new(bucket.clone(), lease))),
        (CoordinationKind::Redis, _) => Some(Arc::new(RedisCoordinator::new(config, &url(config)?)?)),
        (CoordinationKind::Postgres, _) => Some(Arc::new(PostgresCoordinator::new(config, &url(config)?)?)),
    })
}

/// The URL, which may hold a password.
fn url(config: &CoordinationConfig) -> Result<Secret, Away> {
    let given = Secret::given(config.url.as_ref(), config.url_file.as_deref())
        .map_err(|error| Away(format!("coordination.url: {error}")))?;
    given.ok_or_else(|| Away("coordination.url is not set".into()))
}
