//! Sessions with a database: few, kept, opened again when they have died.
//!
//! A pool with the manners that a catalogue wants. The library's own tries again for as long as anybody waits when a server
//! refuses, asks before each question whether the session still lives, and takes a session that hangs back into the pool.
//! Here a request that finds its kept session dead or silent gets a fresh one; a server that is away is tried by one request
//! at a time, four times a second at most, and everybody else is told at once.

use std::{
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{Database, error::DatabaseError};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until, timeout_at},
};

use super::CatalogueError;
use crate::model::ImageId;

/// After an attempt that failed, the next one is made so much later.
const PAUSE: Duration = Duration::from_millis(250);
/// A session that nobody used for so long is closed: whatever is between us and the server forgets it as well.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// A session's longest life: a server whose name moves to another machine is followed.
const MAX_AGE: Duration = Duration::from_secs(1800);

/// What the databases do not have in common.
pub trait Dialect: Send + Sync + 'static {
    /// The library's driver.
    type Database: Database;
    /// How a query names its first parameter.
    const PARAMETER: &'static str;
    /// That the title or the file of Wagtail's table is like a pattern, whatever the case of letters.
    const MATCHES: &'static str;
    /// Whether a session may fall silent without having ended, as one through a network may.
    const IS_REMOTE: bool;

    /// Opens a session that reads only.
    fn open(&self) -> impl Future<Output = Result<Opened<Self::Database>, sqlx::Error>> + Send;

    /// The first row of the query for an image.
    fn ask<'a>(
        connection: &'a mut <Self::Database as Database>::Connection,
        query: &'a str,
        id: ImageId,
    ) -> impl Future<Output = Result<Option<<Self::Database as Database>::Row>, sqlx::Error>> + Send + 'a;

    /// The first rows of the query for what follows an id: [`PAGE_ROWS`] at most.
    ///
    /// [`PAGE_ROWS`]: super::PAGE_ROWS
    fn list<'a>(
        connection: &'a mut <Self::Database as Database>::Connection,
        query: &'a str,
        after: i64,
    ) -> impl Future<Output = Result<Vec<<Self::Database as Database>::Row>, sqlx::Error>> + Send + 'a;

    /// The first rows of the query for what is like a pattern: [`MAX_MATCHES`] at most.
    ///
    /// [`MAX_MATCHES`]: super::MAX_MATCHES
    fn search<'a>(
        connection: &'a mut <Self::Database as Database>::Connection,
        query: &'a str,
        pattern: &'a str,
    ) -> impl Future<Output = Result<Vec<<Self::Database as Database>::Row>, sqlx::Error>> + Send + 'a;

    /// A column's integer; `None` for a negative one.
    fn id(row: &<Self::Database as Database>::Row, column: &str) -> Result<Option<u64>, sqlx::Error>;

    /// A column's number, of whatever type of numbers.
    fn number(row: &<Self::Database as Database>::Row, column: &str) -> Result<Option<f64>, sqlx::Error>;

    /// A column's text.
    fn text(row: &<Self::Database as Database>::Row, column: &str) -> Result<Option<String>, sqlx::Error>;

    /// Whether this is about the session rather than the question.
    fn is_of_the_session(_error: &dyn DatabaseError) -> bool {
        false
    }

    /// Whether the server has no room for one more session.
    fn is_full(_error: &dyn DatabaseError) -> bool {
        false
    }

    /// Which file there is to read, where it is one: sessions with another are closed. `None`: there is nothing to compare.
    fn place(&self) -> Option<(u64, u64)> {
        None
    }
}

/// A session, and what the server says it is.
pub struct Opened<D: Database> {
    /// The session.
    pub connection: D::Connection,
    /// Name and version.
    pub server: String,
}

/// What a session is asked.
pub(super) trait Question<D: Dialect>: Send + Sync {
    /// What it gives.
    type Answer: Send;

    /// Asks.
    fn put<'a>(
        &'a self,
        connection: &'a mut <D::Database as Database>::Connection,
    ) -> impl Future<Output = Result<Self::Answer, sqlx::Error>> + Send + 'a;
}

/// The row of an image.
pub(super) struct OneRow<'q> {
    pub query: &'q str,
    pub id: ImageId,
}

impl<D: Dialect> Question<D> for OneRow<'_> {
    type Answer = Option<<D::Database as Database>::Row>;

    fn put<'a>(
        &'a self,
        connection: &'a mut <D::Database as Database>::Connection,
    ) -> impl Future<Output = Result<Self::Answer, sqlx::Error>> + Send + 'a {
        D::ask(connection, self.query, self.id)
    }
}

/// The rows that are like a pattern.
pub(super) struct Matching<'q> {
    pub query: &'q str,
    pub pattern: &'q str,
}

impl<D: Dialect> Question<D> for Matching<'_> {
    type Answer = Vec<<D::Database as Database>::Row>;

    fn put<'a>(
        &'a self,
        connection: &'a mut <D::Database as Database>::Connection,
    ) -> impl Future<Output = Result<Self::Answer, sqlx::Error>> + Send + 'a {
        D::search(connection, self.query, self.pattern)
    }
}

/// The rows after an id.
pub(super) struct Page<'q> {
    pub query: &'q str,
    pub after: i64,
}

impl<D: Dialect> Question<D> for Page<'_> {
    type Answer = Vec<<D::Database as Database>::Row>;

    fn put<'a>(
        &'a self,
        connection: &'a mut <D::Database as Database>::Connection,
    ) -> impl Future<Output = Result<Self::Answer, sqlx::Error>> + Send + 'a {
        D::list(connection, self.query, self.after)
    }
}

/// All sessions with one database.
pub(super) struct Sessions<D: Dialect> {
    dialect: D,
    seats: Semaphore,
    kept: Mutex<Vec<Session<D>>>,
    /// Whoever opens a session holds it.
    turn: tokio::sync::Mutex<()>,
    away: Mutex<Option<Away>>,
    server: Mutex<String>,
}

struct Session<D: Dialect> {
    connection: <D::Database as Database>::Connection,
    place: Option<(u64, u64)>,
    opened: Instant,
    used: Instant,
}

/// An attempt that failed, until one succeeds.
#[derive(Clone)]
struct Away {
    since: Instant,
    error: CatalogueError,
    is_full: bool,
}

impl<D: Dialect> Sessions<D> {
    /// None yet.
    pub fn new(dialect: D, most: usize) -> Self {
        Self {
            dialect,
            seats: Semaphore::new(most.min(Semaphore::MAX_PERMITS)),
            kept: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            away: Mutex::default(),
            server: Mutex::default(),
        }
    }

    /// What the server last said it is.
    pub fn server(&self) -> String {
        lock(&self.server).clone()
    }

    /// Asks, within the time.
    pub async fn ask<Q: Question<D>>(&self, question: &Q, deadline: Instant) -> Result<Q::Answer, CatalogueError> {
        let late = |_| CatalogueError::TimedOut;
        let _seat = timeout_at(deadline, self.seats.acquire()).await.map_err(late)?;
        loop {
            if let Some(session) = self.take()
                && let Some(answer) = self.ask_kept(session, question, deadline).await
            {
                return answer;
            }
            let mut session = match self.open(deadline).await {
                Ok(session) => session,
                // Another of our own may come free meanwhile, or somebody else's.
                Err(away) if away.is_full && Instant::now() + PAUSE / 2 < deadline => {
                    sleep_until(Instant::now() + PAUSE / 2).await;
                    continue;
                }
                Err(away) => return Err(away.error),
            };
            let answer = timeout_at(deadline, question.put(&mut session.connection)).await.map_err(late)?;
            if matches!(answer, Ok(_) | Err(sqlx::Error::Database(_))) {
                self.keep(session);
            }
            return answer.map_err(unavailable);
        }
    }

    /// The answer by a session that was used before; `None` when it turns out to be none any more.
    async fn ask_kept<Q: Question<D>>(
        &self,
        mut session: Session<D>,
        question: &Q,
        deadline: Instant,
    ) -> Option<Result<Q::Answer, CatalogueError>> {
        // A network that has forgotten the session says nothing. Half of the time is left for a fresh one.
        let now = Instant::now();
        let patience = if D::IS_REMOTE { now + (deadline - now) / 2 } else { deadline };
        match timeout_at(patience, question.put(&mut session.connection)).await {
            Ok(Ok(row)) => {
                self.keep(session);
                Some(Ok(row))
            }
            Ok(Err(sqlx::Error::Database(error))) if !D::is_of_the_session(&*error) => {
                self.keep(session);
                Some(Err(unavailable(sqlx::Error::Database(error))))
            }
            Err(_) if !D::IS_REMOTE => Some(Err(CatalogueError::TimedOut)),
            Ok(Err(_)) | Err(_) => {
                // The others have lived through the same.
                lock(&self.kept).clear();
                None
            }
        }
    }

    async fn open(&self, deadline: Instant) -> Result<Session<D>, Away> {
        let before = lock(&self.away).clone();
        let turn = match before {
            Some(away) if away.since.elapsed() < PAUSE => return Err(away),
            // Somebody is trying.
            Some(away) => self.turn.try_lock().map_err(|_| away)?,
            None => timeout_at(deadline, self.turn.lock()).await.map_err(|_| Away::of(CatalogueError::TimedOut))?,
        };
        if let Some(away) = lock(&self.away).clone().filter(|away| away.since.elapsed() < PAUSE) {
            return Err(away);
        }
        let place = self.dialect.place();
        let opened = timeout_at(deadline, self.dialect.open()).await;
        let away = match opened {
            Ok(Ok(Opened { connection, server })) => {
                *lock(&self.away) = None;
                *lock(&self.server) = server;
                let now = Instant::now();
                return Ok(Session { connection, place, opened: now, used: now });
            }
            Ok(Err(error)) => {
                let is_full = matches!(&error, sqlx::Error::Database(error) if D::is_full(&**error));
                Away { is_full, ..Away::of(unavailable(error)) }
            }
            Err(_) => Away::of(CatalogueError::TimedOut),
        };
        // A file that somebody holds is free the moment it is let go.
        if D::IS_REMOTE {
            *lock(&self.away) = Some(away.clone());
        }
        drop(turn);
        Err(away)
    }

    /// The session used last.
    fn take(&self) -> Option<Session<D>> {
        let place = self.dialect.place();
        let mut kept = lock(&self.kept);
        kept.retain(|session| {
            // What is there no more leaves nothing better to ask than the sessions there are.
            let is_there = place.is_none() || session.place == place;
            is_there && session.used.elapsed() < MAX_IDLE && session.opened.elapsed() < MAX_AGE
        });
        kept.pop()
    }

    fn keep(&self, session: Session<D>) {
        lock(&self.kept).push(Session { used: Instant::now(), ..session });
    }
}

impl Away {
    fn of(error: CatalogueError) -> Self {
        Self { since: Instant::now(), error, is_full: false }
    }
}

fn unavailable(error: sqlx::Error) -> CatalogueError {
    CatalogueError::Unavailable(error.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
