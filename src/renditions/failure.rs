//! Why there is no rendition, and which of the reasons are worth remembering.

use std::{collections::HashSet, time::Duration};

use moka::sync::Cache;
use thiserror::Error;

use super::flight::Crashed;
use crate::{
    render::{RenderError, limits::OverLimit, plan::PlanError},
    source::SourceError,
    store::StoreError,
    workers::JobError,
};

/// Why there is no rendition. `Clone`: all who wait for one render share it.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum EnsureError {
    /// The config has no source of this name.
    #[error("there is no source {0:?}")]
    UnknownSource(String),
    /// The source image's file is gone, and no rendition of its last version is stored.
    #[error("the source image's file is gone: {0}")]
    SourceGone(&'static str),
    /// The source cannot be read, or does not give the file.
    #[error(transparent)]
    Source(SourceError),
    /// The source image kept changing while it was rendered.
    #[error("the source image changed while it was rendered")]
    SourceChanged,
    /// It is not an image, is corrupt, or is in a format that is not read.
    #[error(transparent)]
    Undecodable(RenderError),
    /// The watermark's file is no picture, or too large a one: nothing that the image could help.
    #[error("{0}")]
    Watermark(RenderError),
    /// There is no plan for this spec and this image.
    #[error(transparent)]
    Unplannable(#[from] PlanError),
    /// A configured bound was exceeded.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The deadline passed; only when a worker had begun does that say anything about the image.
    #[error("the render did not {} in time", if *started { "end" } else { "begin" })]
    TimedOut {
        /// Whether a worker had begun.
        started: bool,
    },
    /// As many renders wait as may.
    #[error("the render queue is full")]
    PoolFull,
    /// The workers went away, not by the image's doing.
    #[error("the render workers went away: {0}")]
    WorkersLost(String),
    /// Nobody waited any more before it began.
    #[error("nobody waits for the rendition any more")]
    Unwanted,
    /// The image killed two workers.
    #[error("the image killed two workers, the second by {0}")]
    Poison(String),
    /// The disk refuses to take the rendition.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect of our own.
    #[error("the render's task ended without a result")]
    Crashed,
}

impl From<Crashed> for EnsureError {
    fn from(Crashed: Crashed) -> Self {
        Self::Crashed
    }
}

impl From<SourceError> for EnsureError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Gone(why) => Self::SourceGone(why),
            SourceError::Changed => Self::SourceChanged,
            error => Self::Source(error),
        }
    }
}

impl From<JobError> for EnsureError {
    fn from(error: JobError) -> Self {
        match error {
            JobError::QueueFull => Self::PoolFull,
            JobError::OverLimit(over) => Self::OverLimit(over),
            JobError::Render(RenderError::Changed) | JobError::SourceChanged => Self::SourceChanged,
            JobError::Render(error @ RenderError::Watermark { .. }) => Self::Watermark(error),
            JobError::Render(error) => Self::Undecodable(error),
            JobError::Output(errno) => Self::Store(StoreError::new("write a rendition", &errno.into())),
            JobError::Source(errno) => Self::Source(SourceError::Unavailable(std::io::Error::from(errno).to_string())),
            JobError::NotAFile => Self::SourceGone("not a regular file"),
            JobError::TimedOut { started } => Self::TimedOut { started },
            JobError::Unwanted => Self::Unwanted,
            JobError::Poison { cause } => Self::Poison(cause),
            JobError::Lost => Self::WorkersLost("two were killed from outside".into()),
            JobError::ShuttingDown => Self::WorkersLost("the service is shutting down".into()),
        }
    }
}

/// Failures remembered for a minute, so that a bad image is not tried again for every request.
///
/// Only what the image itself decides is kept: the key holds its version, so a repaired file is tried at once. A missed
/// deadline counts when it happened twice. What the disk, the queue or a signal from outside did is never kept.
pub(super) struct Memory {
    failures: Cache<String, EnsureError>,
    timeouts: Cache<String, u32>,
}

/// How long a failure is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// Failures remembered at most.
const CAPACITY: u64 = 10_000;
/// Missed deadlines of one key before it is answered 504 at once.
const TIMEOUTS_REMEMBERED: u32 = 2;

impl Default for Memory {
    fn default() -> Self {
        Self {
            failures: Cache::builder().max_capacity(CAPACITY).time_to_live(REMEMBERED_FOR).build(),
            timeouts: Cache::builder().max_capacity(CAPACITY).time_to_live(REMEMBERED_FOR).build(),
        }
    }
}

impl Memory {
    /// A failure of this key that still counts.
    pub fn recall(&self, key: &str) -> Option<EnsureError> {
        // Nearly always empty: then a hit on nothing costs nothing.
        if self.failures.entry_count() == 0 {
            return None;
        }
        self.failures.get(key)
    }

    /// Forgets the failures of source images, by their directories in the store: every key begins with one.
    pub fn forget(&self, directories: &HashSet<String>) {
        let is_of = |key: &str| {
            let end = key.match_indices(['/', ' ']).map(|(at, _)| at);
            end.chain([key.len()]).any(|end| directories.contains(&key[..end]))
        };
        for (key, _) in self.failures.iter().filter(|(key, _)| is_of(key)) {
            self.failures.invalidate(&*key);
        }
        for (key, _) in self.timeouts.iter().filter(|(key, _)| is_of(key)) {
            self.timeouts.invalidate(&*key);
        }
    }

    /// Notes how a render ended.
    pub fn note(&self, key: &str, error: &EnsureError) {
        let keep = match error {
            EnsureError::Undecodable(_)
            | EnsureError::Unplannable(_)
            | EnsureError::OverLimit(_)
            | EnsureError::Poison(_) => true,
            EnsureError::TimedOut { started: true } => {
                let count = self.timeouts.get(key).unwrap_or(0) + 1;
                self.timeouts.insert(key.to_owned(), count);
                count >= TIMEOUTS_REMEMBERED
            }
            EnsureError::UnknownSource(_)
            | EnsureError::SourceGone(_)
            | EnsureError::Source(_)
            | EnsureError::SourceChanged
            | EnsureError::TimedOut { started: false }
            | EnsureError::PoolFull
            | EnsureError::WorkersLost(_)
            | EnsureError::Unwanted
            | EnsureError::Store(_)
            | EnsureError::Watermark(_)
            | EnsureError::Crashed => false,
        };
        if keep {
            self.failures.insert(key.to_owned(), error.clone());
            self.failures.run_pending_tasks();
        }
        self.timeouts.run_pending_tasks();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_image_decides_is_remembered() {
        let memory = Memory::default();
        let store = StoreError { action: "x", kind: "enospc", message: String::new() };
        for error in [EnsureError::PoolFull, EnsureError::Store(store), EnsureError::WorkersLost(String::new())] {
            memory.note("a", &error);
            assert_eq!(memory.recall("a"), None, "{error}");
        }
        memory.note("a", &EnsureError::Poison("SIGSEGV".into()));
        assert_eq!(memory.recall("a"), Some(EnsureError::Poison("SIGSEGV".into())));
        assert_eq!(memory.recall("b"), None);
    }

    #[test]
    fn however_many_fail_a_bounded_number_is_remembered() {
        let memory = Memory::default();
        for number in 0..50_000 {
            let error = match number % 2 {
                0 => EnsureError::Poison("SIGSEGV".into()),
                _ => EnsureError::TimedOut { started: true },
            };
            memory.note(&format!("r1/{number}"), &error);
        }
        assert!(memory.failures.entry_count() <= CAPACITY, "{}", memory.failures.entry_count());
        assert!(memory.timeouts.entry_count() <= CAPACITY, "{}", memory.timeouts.entry_count());
    }

    #[test]
    fn what_is_known_of_a_purged_image_is_forgotten() {
        let memory = Memory::default();
        let keys = ["r1/ab/abc/1.webp", "r1/ab/abc Version", "r1/ab/abcd/1.webp", "r1/cd/x/1.webp"];
        for key in keys {
            memory.note(key, &EnsureError::Poison("SIGSEGV".into()));
        }
        memory.forget(&HashSet::from(["r1/ab/abc".to_owned()]));
        assert_eq!(keys.map(|key| memory.recall(key).is_some()), [false, false, true, true]);
    }

    #[test]
    fn a_deadline_counts_when_missed_twice() {
        let memory = Memory::default();
        let (waited, hung) = (EnsureError::TimedOut { started: false }, EnsureError::TimedOut { started: true });
        for error in [&hung, &waited, &waited] {
            memory.note("a", error);
            assert_eq!(memory.recall("a"), None);
        }
        memory.note("a", &hung);
        assert_eq!(memory.recall("a"), Some(hung));
    }
}
