//! `[catalogue]`: image ids to files.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Secret, values};

/// `[catalogue]`: image ids to files.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatalogueConfig {
    /// Which backend.
    #[serde(deserialize_with = "values::one_of")]
    pub kind: CatalogueKind,
    /// `sqlite`: `sqlite:///path/to/db.sqlite3`. `postgres`: `postgres://user:password@host/database?sslmode=verify-full`.
    /// `mysql`: `mysql://user:password@host/database?ssl-mode=VERIFY_IDENTITY`, for MariaDB as well.
    pub url: Option<Secret>,
    /// The same, read from a file (a final line break is dropped).
    pub url_file: Option<PathBuf>,
    /// `manifest`: a CSV or JSON file.
    pub file: Option<PathBuf>,
    /// The source of rows that name none.
    pub source: Option<String>,
    /// Databases: a query with one parameter, the id (`$1` in Postgres, else `?`), in place of Wagtail's table. Columns by
    /// name: `file`, and where there are any `source`, `file_hash`, `focal_point_x`, `focal_point_y`, `focal_point_width`,
    /// `focal_point_height`.
    pub query: Option<String>,
    /// Databases: the rows after an id, in the order of ids, in place of Wagtail's table: for whoever walks the catalogue
    /// (`warm --all`). One parameter, written as in `query`; the columns of `query` and `id`. A `LIMIT` bounds a page.
    pub list_query: Option<String>,
    /// Databases, with a query of one's own: what the editors' page searches by. One parameter, a pattern for `LIKE` with `!` as
    /// its escape; the columns are `id`, `title` where there is one, and those of `query`.
    pub search_query: Option<String>,
    /// Databases: sessions held at once.
    pub max_connections: usize,
    /// `postgres`: a channel that tells of changed rows.
    pub listen: Option<String>,
    /// A row is asked for again after so long.
    pub cache_seconds: f64,
    /// Known rows still serve for so long when the catalogue is away.
    pub stale_seconds: f64,
    /// Longest time for one look-up.
    pub timeout_seconds: f64,
}

impl Default for CatalogueConfig {
    fn default() -> Self {
        Self {
            kind: CatalogueKind::None,
            url: None,
            url_file: None,
            file: None,
            source: None,
            query: None,
            list_query: None,
            search_query: None,
            max_connections: 4,
            listen: None,
            cache_seconds: 2.0,
            stale_seconds: 3600.0,
            timeout_seconds: 1.0,
        }
    }
}

/// A catalogue backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CatalogueKind {
    /// No ids: URLs name a source and a path.
    #[default]
    None,
    /// A CSV or JSON file.
    Manifest,
    /// An SQLite database, opened read-only.
    Sqlite,
    /// A Postgres database.
    Postgres,
    /// A MySQL or MariaDB database.
    Mysql,
}

impl CatalogueKind {
    /// Whether it is a database, with an address and a query.
    pub fn is_database(self) -> bool {
        matches!(self, Self::Sqlite | Self::Postgres | Self::Mysql)
    }
}
