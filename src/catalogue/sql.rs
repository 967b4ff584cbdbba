//! What catalogues in databases have in common: the query, its columns, the time it may take.

use std::{future::Future, pin::Pin, time::Duration};

use sqlx::Database;
use tokio::time::Instant;

use super::{
    Catalogue, CatalogueError, Finding, Found, Sources,
    row::Row,
    sessions::{Dialect, Sessions},
};
use crate::{config::CatalogueConfig, model::ImageId};

/// Wagtail's image table; an id follows. A site with an image model of its own sets `catalogue.query`.
const WAGTAIL: &str = "SELECT file, file_hash, focal_point_x, focal_point_y, focal_point_width, focal_point_height \
                       FROM wagtailimages_image WHERE id = ";

/// A catalogue in a database. Nothing is opened before the first question: one that is away at start may come back.
pub struct Sql<D: Dialect> {
    sessions: Sessions<D>,
    query: String,
    sources: Sources,
    timeout: Duration,
}

impl<D: Dialect> Sql<D> {
    /// With the query that the config names, or Wagtail's.
    pub(super) fn with(dialect: D, config: &CatalogueConfig, sources: Sources) -> Self {
        Self {
            sessions: Sessions::new(dialect, config.max_connections),
            query: config.query.clone().unwrap_or_else(wagtail::<D>),
            sources,
            timeout: Duration::from_secs_f64(config.timeout_seconds),
        }
    }

    async fn ask(&self, id: ImageId) -> Found {
        let row = self.sessions.ask(&self.query, id, Instant::now() + self.timeout).await?;
        row.map(|row| read::<D>(id, &row)?.into_image(id, &self.sources)).transpose()
    }
}

impl<D: Dialect> Catalogue for Sql<D> {
    fn find(&self, id: ImageId) -> Finding<'_> {
        Box::pin(self.ask(id))
    }

    fn probe(&self) -> Pin<Box<dyn Future<Output = Result<String, CatalogueError>> + Send + '_>> {
        Box::pin(async {
            // Asking for an id that cannot be there exercises server, table and columns alike.
            self.ask(ImageId(0)).await?;
            let query = if self.query == wagtail::<D>() { "Wagtail's query" } else { "catalogue.query" };
            Ok(format!("{} answers {query}; {}", self.sessions.server(), self.sources))
        })
    }
}

fn wagtail<D: Dialect>() -> String {
    format!("{WAGTAIL}{}", D::PARAMETER)
}

/// The columns by name. One that the query does not give is absent, but for `file`.
fn read<D: Dialect>(id: ImageId, row: &<D::Database as Database>::Row) -> Result<Row, CatalogueError> {
    fn optional<T>(id: ImageId, column: Result<Option<T>, sqlx::Error>) -> Result<Option<T>, CatalogueError> {
        match column {
            Err(sqlx::Error::ColumnNotFound(_)) => Ok(None),
            other => other.map_err(|error| CatalogueError::BadRow { id, problem: error.to_string() }),
        }
    }
    let number = |name| optional(id, D::number(row, name));
    let text = |name| optional(id, D::text(row, name));
    let file = text("file")?
        .ok_or_else(|| CatalogueError::BadRow { id, problem: "it has no column \"file\", or an empty one".into() })?;
    Ok(Row {
        file,
        source: text("source")?,
        file_hash: text("file_hash")?,
        focal_point_x: number("focal_point_x")?,
        focal_point_y: number("focal_point_y")?,
        focal_point_width: number("focal_point_width")?,
        focal_point_height: number("focal_point_height")?,
    })
}

/// The error of a column that is no number.
pub(super) fn not_a_number(column: &str, name: &str) -> sqlx::Error {
    let problem = format!("its type is {name}, not one of the numbers: cast it in catalogue.query");
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: problem.into() }
}
