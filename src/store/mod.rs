//! Where renditions live.

mod evict;
mod fs;
mod owner;
mod s3;
mod sweep;
mod walk;

use std::{fs::File, future::Future, io, pin::Pin, time::SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use evict::{Candidate, Evicted, Space};
pub use fs::FsStore;
pub(crate) use fs::{DRAFTS, Tree};
pub(crate) use owner::{Lives, Owner};
pub use s3::S3Store;
pub(crate) use sweep::{LEASE, draft_name};
pub use walk::{Depth, ImageFolder, RenditionFile, Unfinished, Walk, Walked};

use crate::{
    model::{FocalPoint, ImageFormat, RenditionKey, SourceFacts, SourceKey, SourceRef, SourceVersion},
    remote::s3::S3Error,
    render::look::Findings,
};

/// The record of a source image, beside its renditions.
const RECORD: &str = ".source.json";
/// Longest record read. Records are some 300 bytes, and a path's.
const RECORD_BYTES: u64 = 16 << 10;

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Which image it is of: the folder's name is a digest, which nobody can read. `None` in a record that an earlier version
    /// wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<SourceRef>,
    /// The version last rendered.
    pub version: SourceVersion,
    /// What its probe found.
    pub facts: SourceFacts,
    /// What looks at its pixels have found.
    #[serde(default)]
    pub findings: Findings,
    /// The focal points that its renditions were planned with, the last of them last: with these it is known what a preset's
    /// renditions are called, whatever the catalogue says by now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub focal_points: Vec<FocalPoint>,
}

impl SourceRecord {
    /// Focal points kept for one source image; the oldest is forgotten for a new one.
    const MOST_FOCAL_POINTS: usize = 8;

    /// What a probe has found in a version of a source image.
    pub fn new(location: SourceRef, version: SourceVersion, facts: SourceFacts) -> Self {
        let (findings, focal_points) = (Findings::default(), Vec::new());
        Self { location: Some(location), version, facts, findings, focal_points }
    }

    /// Notes a focal point: whether it is a new one.
    pub fn note_focal_point(&mut self, point: FocalPoint) -> bool {
        let is_new = !self.focal_points.contains(&point);
        if is_new {
            if self.focal_points.len() == Self::MOST_FOCAL_POINTS {
                self.focal_points.remove(0);
            }
            self.focal_points.push(point);
        }
        is_new
    }
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

    /// Opens a stored rendition for reading, by the path that a walk has found. `None` if it is gone.
    fn open<'a>(&'a self, path: &'a str) -> Pending<'a, Option<File>>;

    /// Removes renditions that a walk has found. What is gone already does not count, as far as the store can tell.
    fn discard<'a>(&'a self, renditions: &'a [RenditionFile]) -> Pending<'a, Removed>;

    /// Removes what is remembered about a source image that has no renditions, and its folder: whether it did. A rendition that
    /// is published meanwhile keeps its record.
    fn tidy<'a>(&'a self, source: &'a SourceKey) -> Pending<'a, bool>;

    /// Goes through all that is stored, one source image after the other, in no order. Holds what is of one image at a time,
    /// however much there is, and waits for whoever takes what it finds: dropped, it ends. What is written, renamed or removed
    /// meanwhile is found or not, and is never an error.
    fn walk(&self, depth: Depth) -> Walk;

    /// Takes single renditions out, where room is needed: what became of each, in their order. Where a bucket's own rules do that,
    /// nothing is ever taken.
    fn evict(&self, _candidates: Vec<Candidate>) -> Pending<'_, Vec<Evicted>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Those of these renditions that are not there. A store that says nothing about it has them all.
    fn absent(&self, _paths: Vec<String>) -> Pending<'_, Vec<String>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// The room of the file system that renditions are in, where they are in one.
    fn space(&self) -> Pending<'_, Option<Space>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Writes, renames and removes a file, for `check` and readiness: a sentence about it.
    fn probe(&self) -> Pending<'_, String>;

    /// Removes what crashed processes left behind, or with `dry_run` only counts it: how many files.
    fn sweep(&self, dry_run: bool) -> Pending<'_, u64>;
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

    fn of_s3(action: &'static str, error: &S3Error) -> Self {
        Self { action, kind: error.kind.label(), message: error.to_string() }
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
