//! Image ids to source images.
//!
//! What a catalogue says is not trusted: paths are checked like those of strangers, and the source opens them beneath its
//! root.

mod address;
mod cached;
mod listen;
mod manifest;
mod mysql;
mod postgres;
mod row;
mod search;
mod sessions;
mod sql;
mod sqlite;

use std::{future::Future, pin::Pin, sync::Arc};

use thiserror::Error;

pub use cached::Cached;
pub use listen::{Change, Hearer, listen, trigger};
pub use manifest::Manifest;
pub use mysql::MySql;
pub use postgres::Postgres;
pub use row::Sources;
pub use search::{MAX_MATCHES, Match, Searching};
pub use sqlite::Sqlite;

use crate::model::{ImageId, SourceImage};

/// What a look-up gives: `None` for an id that the catalogue does not have.
pub type Found = Result<Option<Arc<SourceImage>>, CatalogueError>;

/// An answer under way.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, CatalogueError>> + Send + 'a>>;

/// A look-up under way.
pub type Finding<'a> = Pending<'a, Option<Arc<SourceImage>>>;

/// A row of a walk: the image, or what is wrong with its row.
pub type Listed = (ImageId, Result<Arc<SourceImage>, CatalogueError>);

/// A page of a walk under way.
pub type Listing<'a> = Pending<'a, Vec<Listed>>;

/// The most rows of a page.
pub const PAGE_ROWS: usize = 1000;

/// Where ids are looked up.
pub trait Catalogue: Send + Sync {
    /// Finds an image.
    fn find(&self, id: ImageId) -> Finding<'_>;

    /// The image where finding it needs no waiting, and `None` where it does or there is none. The hot path asks this way.
    fn find_now(&self, _: ImageId) -> Option<Arc<SourceImage>> {
        None
    }

    /// As [`Self::find`], past every memory: the row as it is at this moment.
    fn find_afresh(&self, id: ImageId) -> Finding<'_> {
        self.find(id)
    }

    /// What is remembered of an image's row, however old: where a changed or deleted one used to point.
    fn recall(&self, _: ImageId) -> Option<Arc<SourceImage>> {
        None
    }

    /// Forgets that a row was asked for a moment ago, or that any was: whoever asks from now on is told what it is then.
    fn forget(&self, _: Option<ImageId>) {}

    /// The rows that follow an id, or the first ones: some, in the order of ids, and none after the last. Whoever walks the
    /// catalogue so holds a page of it, and no session or lock from one page to the next: rows that change meanwhile are met as
    /// they are then, and one that is there all the while is met once.
    fn list(&self, after: Option<ImageId>) -> Listing<'_>;

    /// The images whose title or file holds this text, the newest first, at most [`MAX_MATCHES`]; all of them where it is empty.
    /// `None`: this catalogue cannot be searched. For editors: it may read a whole table, and nothing of it is remembered.
    fn search<'a>(&'a self, _text: &'a str) -> Searching<'a> {
        Box::pin(async { Ok(None) })
    }

    /// Asks the backend whether it is there, for `check` and readiness: a sentence about it.
    fn probe(&self) -> Pending<'_, String>;
}

/// Why a look-up has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CatalogueError {
    /// The backend cannot be reached or read.
    #[error("the catalogue is not available: {0}")]
    Unavailable(String),
    /// It did not answer in time.
    #[error("the catalogue did not answer in time")]
    TimedOut,
    /// The row is there but cannot be used: its path leaves the source, or a column has the wrong type.
    #[error("the catalogue's row for image {id} cannot be used: {problem}")]
    BadRow {
        /// The image.
        id: ImageId,
        /// What is wrong with its row.
        problem: String,
    },
}

impl CatalogueError {
    /// Whether nothing was said of the image. A bad row is an answer.
    pub fn is_absence(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::TimedOut => true,
            Self::BadRow { .. } => false,
        }
    }
}

/// The catalogue of a site whose URLs name sources and paths only: it has no ids.
#[derive(Debug)]
pub struct NoCatalogue;

impl Catalogue for NoCatalogue {
    fn find(&self, _: ImageId) -> Finding<'_> {
        Box::pin(async { Ok(None) })
    }

    fn list(&self, _: Option<ImageId>) -> Listing<'_> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn probe(&self) -> Pending<'_, String> {
        Box::pin(async { Ok("none: URLs name a source and a path".to_owned()) })
    }
}
