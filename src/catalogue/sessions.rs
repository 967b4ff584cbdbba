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

    /// The first rows of a query with a parameter, so many at most. An id that no column can hold has none.
    fn rows<'a>(
        connection: &'a mut <Self::Database as Database>::Connection,
        question: Question<'a>,
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

/// What a session is asked: the operator's own text, a parameter that is bound to it, and how many rows at most.
#[derive(Clone, Copy)]
pub struct Question<'q> {
    /// The query.
    pub query: &'q str,
    /// Its one parameter.
    pub parameter: Parameter<'q>,
    /// Rows at most.
    pub most: usize,
}

/// What a query's parameter stands for.
#[derive(Clone, Copy)]
pub enum Parameter<'q> {
    /// An image's id.
    Id(ImageId),
    /// The number that the rows' ids follow.
    After(i64),
    /// A pattern of `LIKE`.
    Pattern(&'q str),
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
    pub async fn ask(
        &self,
        question: Question<'_>,
        deadline: Instant,
    ) -> Result<Vec<<D::Database as Database>::Row>, CatalogueError> {
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
            let answer = timeout_at(deadline, D::rows(&mut session.connection, question)).await.map_err(late)?;
            if matches!(answer, Ok(_) | Err(sqlx::Error::Database(_))) {
                self.keep(session);
            }
            return answer.map_err(unavailable);
        }
    }

    /// The answer by a session that was used before; `None` when it turns out to be none any more.
    async fn ask_kept(
        &self,
        mut session: Session<D>,
        question: Question<'_>,
        deadline: Instant,
    ) -> Option<Result<Vec<<D::Database as Database>::Row>, CatalogueError>> {
        // A network that has forgotten the session says nothing. Half of the time is left for a fresh one.
        let now = Instant::now();
        let patience = if D::IS_REMOTE { now + (deadline - now) / 2 } else { deadline };
        match timeout_at(patience, D::rows(&mut session.connection, question)).await {
            Ok(Ok(rows)) => {
                self.keep(session);
                Some(Ok(rows))
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
