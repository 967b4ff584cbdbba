//! Where originals are: a version to compare, and bytes to decode.

mod folder;
mod fs;
mod http;
mod originals;
mod remote;
mod s3;
mod walk;

use std::{fs::File, future::Future, pin::Pin};

use futures_util::stream::BoxStream;
use thiserror::Error;

pub use folder::{Entry, Folder};
pub use fs::FsSource;
pub use http::HttpBackend;
pub use originals::Originals;
pub use remote::{Answer, Backend, Freshness, RemoteSource, Validators};
pub use s3::S3Source;

use crate::model::{EntityTag, Generation, MediaPath, SourceVersion};

/// Which bytes a file has: size, modification time in nanoseconds since the epoch, and what a remote source says of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stat {
    /// Length in bytes.
    pub bytes: u64,
    /// Modification time; 0 where the source has none.
    pub modified_ns: i128,
    /// A remote file's validators.
    pub etag: Option<EntityTag>,
}

impl From<&SourceVersion> for Stat {
    fn from(version: &SourceVersion) -> Self {
        let SourceVersion { bytes, modified_ns, etag, file_hash: _ } = version;
        Self { bytes: *bytes, modified_ns: *modified_ns, etag: *etag }
    }
}

impl Stat {
    /// What the names of its renditions begin with.
    pub fn generation(self) -> Generation {
        Generation::new(self.bytes, self.modified_ns, self.etag)
    }
}

/// An open source image.
#[derive(Debug)]
pub struct OpenSource {
    /// Its bytes, readable from the start.
    pub file: File,
    /// What was opened: taken from the descriptor, not the name.
    pub stat: Stat,
    /// When anything about the file last changed, in nanoseconds since the epoch. Nobody can set it: a writer that gives the
    /// file its old modification time again is found out. `None` for a copy of our own, which nobody else writes to.
    pub(crate) changed_ns: Option<i128>,
}

impl OpenSource {
    /// Whether the open file still has the bytes it had when it was opened.
    ///
    /// # Errors
    /// When the descriptor cannot be asked.
    pub fn is_unchanged(&self) -> Result<bool, SourceError> {
        let Some(changed_ns) = self.changed_ns else { return Ok(true) };
        let metadata =
            fs::retried(|| self.file.metadata()).map_err(|error| SourceError::Unavailable(error.to_string()))?;
        Ok(fs::stat_of(&metadata) == self.stat && fs::changed_ns(&metadata) == changed_ns)
    }
}

/// An answer under way.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + Send + 'a>>;

/// A file that a walk has met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its path.
    pub path: MediaPath,
    /// Its version, as a [`Source::stat`] would say.
    pub stat: Stat,
}

/// A walk under way. An error is of one folder or page, unless it is the last item.
pub type Listing<'a> = BoxStream<'a, Result<Listed, SourceError>>;

/// A place that originals are read from.
pub trait Source: Send + Sync {
    /// The present version of a file. Called for every request, hits included.
    fn stat<'a>(&'a self, path: &'a MediaPath) -> Pending<'a, Stat>;

    /// The same where it needs no waiting, and `None` where it does. The hot path asks this way: no future is boxed.
    fn stat_now(&self, _path: &MediaPath) -> Option<Result<Stat, SourceError>> {
        None
    }

    /// Forgets what is remembered of a file: whoever asks from now on is told what the source says then.
    fn forget(&self, _path: &MediaPath) {}

    /// Forgets what is remembered of all files.
    fn forget_all(&self) {}

    /// Opens a file for reading.
    fn open<'a>(&'a self, path: &'a MediaPath) -> Pending<'a, OpenSource>;

    /// All files, in no particular order, as they are met; `None` where nobody can tell which there are.
    fn list(&self) -> Option<Listing<'_>> {
        None
    }

    /// What is in a folder, by names that begin with a text; `None` where the source cannot tell. For the editors' page.
    fn browse<'a>(&'a self, _folder: Option<&'a MediaPath>, _begins: &'a str) -> Pending<'a, Option<Folder>> {
        Box::pin(std::future::ready(Ok(None)))
    }

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
    /// A remote source answered, but not with the file: it refuses us, is broken, or leads where nothing may be fetched.
    #[error("the remote source failed: {0}")]
    Failed(String),
    /// A remote source did not answer in time, or too slowly.
    #[error("the remote source did not answer in time: {0}")]
    TimedOut(String),
    /// A remote file was replaced between asking for it and fetching it.
    #[error("the remote file was replaced while it was fetched")]
    Changed,
    /// A remote file is longer than `render.max_source_bytes`; what came of it was thrown away.
    #[error("the remote file is longer than {0} bytes")]
    TooLong(u64),
    /// A remote file says itself that it is no image, or its first bytes do.
    #[error("the remote file is no image: {0}")]
    NotAnImage(String),
}

impl SourceError {
    /// The label of `sendimage_source_errors_total`; `None` for a file that is simply not there.
    pub fn class(&self) -> Option<&'static str> {
        match self {
            Self::Gone(_) | Self::Changed => None,
            Self::Unavailable(_) => Some("unavailable"),
            Self::Failed(_) => Some("failed"),
            Self::TimedOut(_) => Some("timed_out"),
            Self::TooLong(_) => Some("too_long"),
            Self::NotAnImage(_) => Some("not_an_image"),
        }
    }
}
