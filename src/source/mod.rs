//! Where originals are: a version to compare, and bytes to decode.

mod fs;

use std::{fs::File, future::Future, pin::Pin};

use thiserror::Error;

pub use fs::FsSource;

use crate::model::MediaPath;

/// Which bytes a file has: size, and modification time in nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Length in bytes.
    pub bytes: u64,
    /// Modification time.
    pub modified_ns: i128,
}

/// An open source image.
#[derive(Debug)]
pub struct OpenSource {
    /// Its bytes, readable from the start.
    pub file: File,
    /// What was opened: taken from the descriptor, not the name.
    pub stat: Stat,
    /// When anything about the file last changed, in nanoseconds since the epoch. Nobody can set it: a writer that gives the
    /// file its old modification time again is found out.
    pub(crate) changed_ns: i128,
}

impl OpenSource {
    /// Whether the open file still has the bytes it had when it was opened.
    ///
    /// # Errors
    /// When the descriptor cannot be asked.
    pub fn is_unchanged(&self) -> Result<bool, SourceError> {
        let metadata =
            fs::retried(|| self.file.metadata()).map_err(|error| SourceError::Unavailable(error.to_string()))?;
        Ok(fs::stat_of(&metadata) == self.stat && fs::changed_ns(&metadata) == self.changed_ns)
    }
}

/// An answer under way.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + Send + 'a>>;

/// A place that originals are read from.
pub trait Source: Send + Sync {
    /// The present version of a file. Called for every request, hits included.
    fn stat<'a>(&'a self, path: &'a MediaPath) -> Pending<'a, Stat>;

    /// The same where it needs no waiting, and `None` where it does. The hot path asks this way: no future is boxed.
    fn stat_now(&self, _path: &MediaPath) -> Option<Result<Stat, SourceError>> {
        None
    }

    /// Opens a file for reading.
    fn open<'a>(&'a self, path: &'a MediaPath) -> Pending<'a, OpenSource>;

    /// Asks whether the source is there, for `check` and readiness: a sentence about it.
    fn probe(&self) -> Pending<'_, String>;
}

/// Why a source image cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceError {
    /// There is no such file, or it is none: a folder, a device, a link that leads outside.
    #[error("there is no such file: {0}")]
    Gone(&'static str),
    /// The source itself is missing or unreadable; nothing can be said about the file.
    #[error("the source is not available: {0}")]
    Unavailable(String),
}
