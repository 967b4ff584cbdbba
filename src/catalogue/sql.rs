//! What catalogues in databases have in common: the query, its columns, the time it may take.

use std::{future::Future, pin::Pin, time::Duration};

use sqlx::Database;
use tokio::time::Instant;

use super::{
    Catalogue, CatalogueError, Finding, Found, Listed, MAX_LISTED, Searching, Sources,
    row::Row,
    search::pattern,
    sessions::{About, Dialect, Sessions},
};
use crate::{config::CatalogueConfig, model::ImageId};

/// A catalogue in a database. Nothing is opened before the first question: one that is away at start may come back.
pub struct Sql<D: Dialect> {
    sessions: Sessions<D>,
    query: String,
    search_query: Option<String>,
    sources: Sources,
    timeout: Duration,
}

impl<D: Dialect> Sql<D> {
    /// With the query that the config names, or Wagtail's.
    pub(super) fn with(dialect: D, config: &CatalogueConfig, sources: Sources) -> Self {
        Self {
            sessions: Sessions::new(dialect, config.max_connections),
            query: config.query.clone().unwrap_or_else(|| D::WAGTAIL_QUERY.to_owned()),
            // Wagtail's search is for Wagtail's table.
            search_query: match (&config.search_query, &config.query) {
                (Some(query), _) => Some(query.clone()),
                (None, Some(_)) => None,
                (None, None) => Some(D::WAGTAIL_SEARCH.to_owned()),
            },
            sources,
            timeout: Duration::from_secs_f64(config.timeout_seconds),
        }
    }

    async fn ask(&self, id: ImageId) -> Found {
        let rows = self.sessions.ask(&self.query, About::Image(id), Instant::now() + self.timeout).await?;
        rows.first().map(|row| read::<D>(id, row)?.into_image(id, &self.sources)).transpose()
    }

    async fn look_for(&self, text: &str) -> Result<Option<Vec<Listed>>, CatalogueError> {
        let Some(query) = &self.search_query else { return Ok(None) };
        let pattern = pattern(text);
        let rows = self.sessions.ask(query, About::Pattern(&pattern), Instant::now() + self.timeout).await?;
        // A row that could not be served is not offered.
        Ok(Some(rows.iter().filter_map(|row| self.listed(row)).take(MAX_LISTED).collect()))
    }

    fn listed(&self, row: &<D::Database as Database>::Row) -> Option<Listed> {
        // Doubles hold every id up to 2^53 as it is.
        let id = ImageId(D::number(row, "id").ok()?.filter(|id| (0.0..=9e15).contains(id))? as u64);
        let image = read::<D>(id, row).ok()?.into_image(id, &self.sources).ok()?;
        let title = D::text(row, "title").ok().flatten().filter(|title| !title.is_empty());
        Some(Listed { id, title, image })
    }
}

impl<D: Dialect> Catalogue for Sql<D> {
    fn find(&self, id: ImageId) -> Finding<'_> {
        Box::pin(self.ask(id))
    }

    fn search<'a>(&'a self, text: &'a str) -> Searching<'a> {
        Box::pin(self.look_for(text))
    }

    fn probe(&self) -> Pin<Box<dyn Future<Output = Result<String, CatalogueError>> + Send + '_>> {
        Box::pin(async {
            // Asking for an id that cannot be there exercises server, table and columns alike.
            self.ask(ImageId(0)).await?;
            let query = if self.query == D::WAGTAIL_QUERY { "Wagtail's query" } else { "catalogue.query" };
            Ok(format!("{} answers {query}; {}", self.sessions.server(), self.sources))
        })
    }
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
