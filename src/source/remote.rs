//! What sources on other machines have in common: versions that are remembered for a while, and copies of originals.

use std::{fs::File, sync::Arc, time::Duration};

use moka::{future, sync};

use super::{Listing, OpenSource, Originals, Pending, Source, SourceError, Stat};
use crate::{
    at_once::at_once,
    metrics::Metrics,
    model::{MediaPath, SourceRef},
};

/// Files whose versions are remembered at most.
const CAPACITY: u64 = 100_000;

/// What a server says of a version, in its own words (RFC 9110, 8.8), to be asked whether it still holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`, quotes and all.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<String>,
}

/// What a backend answers.
pub enum Answer {
    /// The version is what the validators say.
    Unchanged,
    /// Another version, or the first that is seen.
    Version {
        /// Which.
        stat: Stat,
        /// The server's words for it.
        validators: Validators,
        /// Its bytes, where they came along.
        copy: Option<File>,
    },
}

/// A protocol that files are fetched by. It bounds time, length and rate itself.
pub trait Backend: Send + Sync {
    /// Asks for the present version of a file.
    fn ask<'a>(&'a self, path: &'a MediaPath, known: Option<&'a Validators>) -> Pending<'a, Answer>;

    /// Writes a file's bytes to `copy`: which version they are of.
    fn fetch<'a>(&'a self, path: &'a MediaPath, copy: File) -> Pending<'a, (Stat, File)>;

    /// All files; `None` where nobody can tell which there are.
    fn list(&self) -> Option<Listing<'_>> {
        None
    }

    /// Asks whether the source is there: a sentence about it.
    fn probe(&self) -> Pending<'_, String>;
}

/// How long what is known of a remote file counts.
#[derive(Clone, Copy, Debug)]
pub struct Freshness {
    /// A version is asked for again after so long: what is served was current so long ago.
    pub fresh_for: Duration,
    /// A version that was known still counts for so long where the source is away.
    pub stale_for: Duration,
}

/// A source on another machine.
pub struct RemoteSource {
    name: String,
    backend: Box<dyn Backend>,
    originals: Arc<Originals>,
    fresh: future::Cache<MediaPath, Result<Stat, SourceError>>,
    known: sync::Cache<MediaPath, (Stat, Validators)>,
    metrics: Arc<Metrics>,
}

impl RemoteSource {
    /// A source of this name. Nothing is asked yet.
    pub fn new(
        name: &str,
        backend: Box<dyn Backend>,
        originals: Arc<Originals>,
        freshness: Freshness,
        metrics: Arc<Metrics>,
    ) -> Self {
        let Freshness { fresh_for, stale_for } = freshness;
        Self {
            name: name.to_owned(),
            backend,
            originals,
            fresh: future::Cache::builder().max_capacity(CAPACITY).time_to_live(fresh_for).build(),
            known: sync::Cache::builder().max_capacity(CAPACITY).time_to_live(stale_for.max(fresh_for)).build(),
            metrics,
        }
    }

    fn location(&self, path: &MediaPath) -> SourceRef {
        SourceRef { source: self.name.clone(), path: path.clone() }
    }

    async fn look(&self, path: &MediaPath) -> Result<Stat, SourceError> {
        // Hot path: one look-up in memory.
        if let Some(answer) = self.fresh.get(path).await {
            return answer;
        }
        let asked = self.fresh.try_get_with_by_ref(path, self.ask(path)).await;
        asked.unwrap_or_else(|error| Err(SourceError::clone(&error)))
    }

    /// Asks the backend. The outer error is forgotten, the inner one is an answer.
    async fn ask(&self, path: &MediaPath) -> Result<Result<Stat, SourceError>, SourceError> {
        let known = self.known.get(path);
        let answer = self.backend.ask(path, known.as_ref().map(|(_, validators)| validators)).await;
        match (answer, known) {
            (Ok(Answer::Version { stat, validators, copy }), _) => {
                if let Some(copy) = copy {
                    self.originals.keep(self.location(path), stat, copy).await;
                }
                self.known.insert(path.clone(), (stat, validators));
                Ok(Ok(stat))
            }
            (Ok(Answer::Unchanged), Some((stat, validators))) => {
                self.known.insert(path.clone(), (stat, validators));
                Ok(Ok(stat))
            }
            (Ok(Answer::Unchanged), None) => Err(SourceError::Failed("it says that nothing changed, unasked".into())),
            (Err(error @ (SourceError::Gone(_) | SourceError::TooLong(_) | SourceError::NotAnImage(_))), _) => {
                self.note(&error);
                self.known.invalidate(path);
                Ok(Err(error))
            }
            (Err(error), Some((stat, _))) => {
                self.note(&error);
                tracing::warn!(source = self.name, %error, "serving a version known from before");
                Ok(Ok(stat))
            }
            (Err(error), None) => {
                self.note(&error);
                Err(error)
            }
        }
    }

    async fn fetch(&self, path: &MediaPath, wanted: Stat) -> Result<File, SourceError> {
        let (stat, copy) = self.backend.fetch(path, self.originals.empty()?).await.inspect_err(|e| self.note(e))?;
        if stat == wanted {
            return Ok(copy);
        }
        // Replaced since it was asked for: whoever asks again is told of what there is now, and has it at hand.
        self.fresh.insert(path.clone(), Ok(stat)).await;
        self.originals.keep(self.location(path), stat, copy).await;
        Err(SourceError::Changed)
    }

    fn note(&self, error: &SourceError) {
        if let Some(class) = error.class() {
            self.metrics.source_error(class);
        }
    }
}

impl Source for RemoteSource {
    fn stat<'a>(&'a self, path: &'a MediaPath) -> Pending<'a, Stat> {
        Box::pin(self.look(path))
    }

    fn stat_now(&self, path: &MediaPath) -> Option<Result<Stat, SourceError>> {
        at_once(self.fresh.get(path)).flatten()
    }

    fn forget(&self, path: &MediaPath) -> Pending<'_, ()> {
        let path = path.clone();
        Box::pin(async move {
            self.fresh.invalidate(&path).await;
            Ok(())
        })
    }

    fn forget_all(&self) {
        self.fresh.invalidate_all();
    }

    fn open<'a>(&'a self, path: &'a MediaPath) -> Pending<'a, OpenSource> {
        Box::pin(async move {
            let stat = self.look(path).await?;
            self.originals.open(self.location(path), stat, self.fetch(path, stat)).await
        })
    }

    fn list(&self) -> Option<Listing<'_>> {
        self.backend.list()
    }

    fn probe(&self) -> Pending<'_, String> {
        self.backend.probe()
    }
}
