//! Goes through all that is stored, however much that is.

mod folders;
mod objects;

use std::time::SystemTime;

pub(super) use folders::of_folders;
pub(super) use objects::of_objects;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::{RECORD, SourceRecord, StoreError};
use crate::model::{Generation, ImageFormat, RenditionName, SourceKey};

/// What is found ahead of whoever takes it: enough to keep both busy.
const AHEAD: usize = 32;

/// What a walk reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Names, lengths and dates.
    Names,
    /// Also what is remembered about each source image: one more file to read, or one more request, for each.
    Records,
}

/// A walk under way.
#[derive(Debug)]
pub struct Walk {
    found: Receiver<Result<Walked, StoreError>>,
}

/// The other end of a walk.
type Found = Sender<Result<Walked, StoreError>>;

impl Walk {
    fn begin() -> (Found, Self) {
        let (sender, found) = mpsc::channel(AHEAD);
        (sender, Self { found })
    }

    /// What is found next; `None` at the end. A folder that cannot be read is an error, and the walk goes on behind it: what
    /// was found is right, but it is not all.
    pub async fn next(&mut self) -> Option<Result<Walked, StoreError>> {
        self.found.recv().await
    }
}

/// One thing that a walk has found.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // nearly everything that is found is an image: a box for each would gain nothing
pub enum Walked {
    /// What is kept of a source image.
    Image(ImageFolder),
    /// A file that a process is writing, or was when it ended; a lease as well.
    Unfinished(Unfinished),
    /// Something that sendimage never made: a path below the root. Nobody but its owner removes it.
    Foreign(String),
}

/// What is kept of a source image.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFolder {
    /// The image.
    pub key: SourceKey,
    /// What is remembered about it, for a walk that reads records. `None` also for a record that cannot be understood.
    pub record: Option<SourceRecord>,
    /// When the record was written, if there is one.
    pub recorded: Option<SystemTime>,
    /// Its renditions.
    pub renditions: Vec<RenditionFile>,
}

impl ImageFolder {
    fn new(key: SourceKey) -> Self {
        Self { key, record: None, recorded: None, renditions: Vec::new() }
    }
}

/// A rendition as the store has it: whole or damaged, of today's original or of an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenditionFile {
    /// Its path below the store's root.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was put there. Not its modification time, which follows from its key.
    pub published: SystemTime,
    /// What it is of.
    pub generation: Generation,
    /// Its format.
    pub format: ImageFormat,
}

/// An unfinished file, or a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Its path below the store's root.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What a name in a source image's folder stands for.
enum Kind {
    Record,
    Rendition(RenditionName),
    Foreign,
}

impl Kind {
    fn of(name: &str) -> Self {
        match RenditionName::parse(name) {
            Some(parts) => Self::Rendition(parts),
            None if name == RECORD => Self::Record,
            None => Self::Foreign,
        }
    }
}
