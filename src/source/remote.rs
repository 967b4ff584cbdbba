//! What sources on other machines have in common: versions that are remembered for a while, and copies of originals.

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::{Expiry, future, sync};

use super::{Listing, OpenSource, Originals, Pending, Source, SourceError, Stat};
use crate::{
    at_once::at_once,
    metrics::Metrics,
    model::{MediaPath, SourceRef},
};

/// Files whose versions are remembered at most.
const CAPACITY: u64 = 100_000;
/// No ask takes longer than this, whatever its bounds are.
const LONGEST_ASK: Duration = Duration::from_secs(600);

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

/// What a source said.
#[derive(Clone)]
struct Said {
    answer: Result<Stat, SourceError>,
    asked: Asked,
}

/// When it was asked: also by how often somebody had [forgotten](Source::forget) anything by then.
#[derive(Clone, Copy)]
struct Asked {
    at: Instant,
    forgotten: u64,
}

/// What was said counts for so long from the question on: it may have been out of date when the answer came.
struct SinceAsked(Duration);

impl SinceAsked {
    fn left(&self, said: &Said, now: Instant) -> Option<Duration> {
        Some(self.0.saturating_sub(now.saturating_duration_since(said.asked.at)))
    }
}

impl Expiry<MediaPath, Said> for SinceAsked {
    fn expire_after_create(&self, _: &MediaPath, said: &Said, now: Instant) -> Option<Duration> {
        self.left(said, now)
    }

    fn expire_after_update(&self, _: &MediaPath, said: &Said, now: Instant, _: Option<Duration>) -> Option<Duration> {
        self.left(said, now)
    }
}

/// A source on another machine.
///
/// Who asks after something was forgotten is told what the source says after that, and not what an answer under way was about to
/// say: an ask takes as long as a network may.
pub struct RemoteSource {
    name: String,
    backend: Box<dyn Backend>,
    originals: Arc<Originals>,
    fresh: future::Cache<MediaPath, Said>,
    /// How often something was forgotten, which was the last time for everything, and for single files: those times are
    /// remembered longer than any answer from before them.
    forgotten: AtomicU64,
    forgotten_all: AtomicU64,
    forgotten_files: sync::Cache<MediaPath, u64>,
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
            fresh: future::Cache::builder().max_capacity(CAPACITY).expire_after(SinceAsked(fresh_for)).build(),
            forgotten: AtomicU64::new(0),
            forgotten_all: AtomicU64::new(0),
            forgotten_files: sync::Cache::builder().time_to_live(fresh_for + LONGEST_ASK).build(),
            known: sync::Cache::builder().max_capacity(CAPACITY).time_to_live(stale_for.max(fresh_for)).build(),
            metrics,
        }
    }

    fn location(&self, path: &MediaPath) -> SourceRef {
        SourceRef { source: self.name.clone(), path: path.clone() }
    }

    async fn look(&self, path: &MediaPath) -> Result<Stat, SourceError> {
        // Hot path: one look-up in memory.
        if let Some(said) = self.fresh.get(path).await
            && self.counts(path, said.asked)
        {
            return said.answer;
        }
        loop {
            let ask = async {
                let asked = self.now();
                self.ask(path).await.map(|answer| Said { answer, asked })
            };
            match self.fresh.try_get_with_by_ref(path, ask).await {
                Ok(said) if self.counts(path, said.asked) => return said.answer,
                // It was under way when the file was forgotten, and nobody else may hear of it.
                Ok(_) => self.fresh.invalidate(path).await,
                Err(error) => return Err(SourceError::clone(&error)),
            }
        }
    }

    /// Whether an answer is of a question that was asked after all that was forgotten.
    fn counts(&self, path: &MediaPath, Asked { forgotten, .. }: Asked) -> bool {
        forgotten == self.forgotten.load(Ordering::Acquire)
            || (forgotten >= self.forgotten_all.load(Ordering::Acquire)
                && self.forgotten_files.get(path).is_none_or(|file| forgotten >= file))
    }

    fn now(&self) -> Asked {
        Asked { at: Instant::now(), forgotten: self.forgotten.load(Ordering::Acquire) }
    }

    fn forgotten_once_more(&self) -> u64 {
        self.forgotten.fetch_add(1, Ordering::AcqRel) + 1
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
        let asked = self.now();
        let (stat, copy) = self.backend.fetch(path, self.originals.empty()?).await.inspect_err(|e| self.note(e))?;
        if stat == wanted {
            return Ok(copy);
        }
        // Replaced since it was asked for: whoever asks again is told of what there is now, and has it at hand.
        self.fresh.insert(path.clone(), Said { answer: Ok(stat), asked }).await;
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
        let said = at_once(self.fresh.get(path)).flatten()?;
        self.counts(path, said.asked).then_some(said.answer)
    }

    /// What was said before does not count any more, and goes when somebody asks.
    fn forget(&self, path: &MediaPath) {
        match self.forgotten_files.entry_count() < CAPACITY {
            true => self.forgotten_files.insert(path.clone(), self.forgotten_once_more()),
            // Too many to tell apart.
            false => _ = self.forgotten_all.fetch_max(self.forgotten_once_more(), Ordering::AcqRel),
        }
    }

    fn forget_all(&self) {
        self.forgotten_all.fetch_max(self.forgotten_once_more(), Ordering::AcqRel);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OriginalsConfig;
    use tokio::sync::Semaphore;

    /// Says how long a file is, once it may.
    struct Slow {
        may_answer: Arc<Semaphore>,
        bytes: Arc<AtomicU64>,
    }

    impl Backend for Slow {
        fn ask<'a>(&'a self, _: &'a MediaPath, _: Option<&'a Validators>) -> Pending<'a, Answer> {
            Box::pin(async move {
                // What the server says was true when it was asked.
                let bytes = self.bytes.load(Ordering::SeqCst);
                self.may_answer.acquire().await.unwrap().forget();
                let stat = Stat { bytes, modified_ns: 0, etag: None };
                Ok(Answer::Version { stat, validators: Validators::default(), copy: None })
            })
        }

        fn fetch<'a>(&'a self, _: &'a MediaPath, _: File) -> Pending<'a, (Stat, File)> {
            Box::pin(std::future::ready(Err(SourceError::Changed)))
        }

        fn probe(&self) -> Pending<'_, String> {
            Box::pin(std::future::ready(Ok("there".into())))
        }
    }

    #[tokio::test]
    async fn an_answer_under_way_is_not_believed_after_its_file_was_forgotten() {
        for forgets_all in [false, true] {
            let (may_answer, bytes) = (Arc::new(Semaphore::new(1)), Arc::new(AtomicU64::new(1)));
            let backend = Slow { may_answer: may_answer.clone(), bytes: bytes.clone() };
            let freshness = Freshness { fresh_for: Duration::from_secs(60), stale_for: Duration::ZERO };
            let originals = Arc::new(Originals::new(&OriginalsConfig::default()));
            let source = RemoteSource::new("far", Box::new(backend), originals, freshness, Arc::new(Metrics::new()));
            let (path, other) = (MediaPath::parse("a.jpg").unwrap(), MediaPath::parse("b.jpg").unwrap());
            assert_eq!(source.look(&other).await.unwrap().bytes, 1);
            let late = async {
                // By now the early one has asked. The file is replaced, and then forgotten.
                bytes.store(2, Ordering::SeqCst);
                match forgets_all {
                    true => source.forget_all(),
                    false => source.forget(&path),
                }
                let answers = async { may_answer.add_permits(9) };
                tokio::join!(source.look(&path), answers).0
            };
            let (_, late) = tokio::join!(source.look(&path), late);
            assert_eq!(late.unwrap().bytes, 2);
            assert_eq!(source.stat_now(&other).is_some(), !forgets_all, "what is known of others stays");
        }
    }
}
