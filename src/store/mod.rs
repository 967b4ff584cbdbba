//! Where renditions live.

mod fs;
mod owner;
mod s3;
mod sweep;

use std::{fs::File, future::Future, io, pin::Pin, time::SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub(crate) use fs::DRAFTS;
pub use fs::FsStore;
pub(crate) use owner::{Lives, Owner};
pub use s3::S3Store;
pub(crate) use sweep::LEASE;

use crate::{
    model::{ImageFormat, RenditionKey, SourceFacts, SourceKey, SourceVersion},
    render::look::Findings,
};

/// A rendition that is in the store, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRendition {
    /// Its path below the store's root.
    pub path: String,
    /// Its format.
    pub format: ImageFormat,
    /// Its length in bytes.
    pub bytes: u64,
    /// The modification time of its file, which follows from its key.
    pub modified: SystemTime,
}

impl StoredRendition {
    /// The rendition of a key, found or made with this length.
    pub fn new(key: &RenditionKey, bytes: u64) -> Self {
        Self { path: key.path().to_owned(), format: key.format(), bytes, modified: key.modified() }
    }
}

/// What was taken out of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Renditions.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl std::ops::Add for Removed {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { files: self.files + other.files, bytes: self.bytes + other.bytes }
    }
}

/// What the store remembers about a source image beside its renditions: the version last seen, and what a probe of it
/// found. It spares a probe after a restart, and it names the renditions of an original that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// The version last rendered.
    pub version: SourceVersion,
    /// What its probe found.
    pub facts: SourceFacts,
    /// What looks at its pixels have found.
    #[serde(default)]
    pub findings: Findings,
}

/// A rendition being written. It has a temporary name until it is published; dropped before that, it is gone.
pub trait Draft: Send {
    /// The file to write to.
    fn file(&self) -> &File;

    /// Makes it durable and gives it its final name.
    ///
    /// # Errors
    /// When the disk refuses; then nothing is left of it. A failed fsync is never repeated on the same file: the kernel may
    /// have dropped the pages it could not write.
    fn publish(self: Box<Self>) -> Pending<'static, StoredRendition>;
}

/// An answer under way.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A place for renditions.
pub trait Store: Send + Sync {
    /// Looks a rendition up.
    fn find<'a>(&'a self, key: &'a RenditionKey) -> Pending<'a, Option<StoredRendition>>;

    /// The length of a rendition where finding it needs no waiting, and `None` where it does, where there is none, and for
    /// any trouble. The hot path asks this way: no future is boxed, and whatever is no hit takes the plain one.
    fn find_now(&self, _key: &RenditionKey) -> Option<u64> {
        None
    }

    /// A rendition's bytes; `None` where it is gone, or longer than `max_bytes`. For the editors' page: the public's go through the
    /// web server.
    fn read<'a>(&'a self, stored: &'a StoredRendition, max_bytes: u64) -> Pending<'a, Option<Bytes>>;

    /// Begins a rendition.
    fn draft<'a>(&'a self, key: &'a RenditionKey) -> Pending<'a, Box<dyn Draft>>;

    /// What is remembered about a source image; a record that cannot be read counts as none.
    fn record<'a>(&'a self, source: &'a SourceKey) -> Pending<'a, Option<SourceRecord>>;

    /// Remembers a source image.
    fn remember<'a>(&'a self, source: &'a SourceKey, record: &'a SourceRecord) -> Pending<'a, ()>;

    /// Removes all renditions of a source image, and what is remembered about it. Beside it renditions may be published, before
    /// or after as it comes, and whoever has one of them open goes on reading.
    fn remove<'a>(&'a self, source: &'a SourceKey) -> Pending<'a, Removed>;

    /// Writes, renames and removes a file, for `check` and readiness: a sentence about it.
    fn probe(&self) -> Pending<'_, String>;

    /// Removes what crashed processes left behind: how many files.
    fn sweep(&self) -> Pending<'_, u64>;
}

/// A call of the store that failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the store could not {action}: {message}")]
pub struct StoreError {
    /// What was tried.
    pub action: &'static str,
    /// The kind, for the metric: an errno's name in lower case, `s3_timeout` and the like, or `other`.
    pub kind: &'static str,
    /// The system's words.
    pub message: String,
}

impl StoreError {
    pub(crate) fn new(action: &'static str, error: &io::Error) -> Self {
        Self { action, kind: kind(error), message: error.to_string() }
    }
}

fn kind(error: &io::Error) -> &'static str {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC) => "enospc",
        Some(Errno::DQUOT) => "edquot",
        Some(Errno::FBIG) => "efbig",
        Some(Errno::IO) => "eio",
        Some(Errno::ROFS) => "erofs",
        Some(Errno::ACCESS) => "eacces",
        Some(Errno::PERM) => "eperm",
        Some(Errno::MFILE) => "emfile",
        Some(Errno::NFILE) => "enfile",
        Some(Errno::STALE) => "estale",
        Some(Errno::NOENT) => "enoent",
        Some(Errno::ISDIR) => "eisdir",
        _ => "other",
    }
}
