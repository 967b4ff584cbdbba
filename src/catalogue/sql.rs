//! What catalogues in databases have in common: the query, its columns, the time it may take.

use std::time::Duration;

use sqlx::Database;
use tokio::time::Instant;

use super::{
    Catalogue, CatalogueError, Finding, Found, Listed, Listing, MAX_MATCHES, Match, PAGE_ROWS, Pending, Searching,
    Sources,
    row::Row,
    search::pattern,
    sessions::{Dialect, Parameter, Question, Sessions},
};
use crate::{config::CatalogueConfig, model::ImageId};

/// What is asked of Wagtail's image table. A site with an image model of its own sets `catalogue.query`.
const WAGTAIL: &str = "file, file_hash, focal_point_x, focal_point_y, focal_point_width, focal_point_height \
                       FROM wagtailimages_image";

/// A catalogue in a database. Nothing is opened before the first question: one that is away at start may come back.
pub struct Sql<D: Dialect> {
    sessions: Sessions<D>,
    query: String,
    /// `None` where the config has a query of its own and none for this.
    list_query: Option<String>,
    /// As `list_query`.
    search_query: Option<String>,
    sources: Sources,
    timeout: Duration,
}

impl<D: Dialect> Sql<D> {
    /// With the query that the config names, or Wagtail's.
    pub(super) fn with(dialect: D, config: &CatalogueConfig, sources: Sources) -> Self {
        let list_query = match (&config.query, &config.list_query) {
            (None, None) => Some(wagtail_list::<D>()),
            (_, own) => own.clone(),
        };
        let search_query = match (&config.query, &config.search_query) {
            (None, None) => Some(wagtail_search::<D>()),
            (_, own) => own.clone(),
        };
        Self {
            list_query,
            search_query,
            sessions: Sessions::new(dialect, config.max_connections),
            query: config.query.clone().unwrap_or_else(wagtail::<D>),
            sources,
            timeout: Duration::from_secs_f64(config.timeout_seconds),
        }
    }

    async fn ask(&self, id: ImageId) -> Found {
        let rows = self.rows(&self.query, Parameter::Id(id), 1).await?;
        rows.first().map(|row| read::<D>(id, row)?.into_image(id, &self.sources)).transpose()
    }

    async fn rows(
        &self,
        query: &str,
        parameter: Parameter<'_>,
        most: usize,
    ) -> Result<Vec<<D::Database as Database>::Row>, CatalogueError> {
        self.sessions.ask(Question { query, parameter, most }, Instant::now() + self.timeout).await
    }

    async fn matching(&self, text: &str) -> Result<Option<Vec<Match>>, CatalogueError> {
        let Some(query) = &self.search_query else { return Ok(None) };
        let rows = self.rows(query, Parameter::Pattern(&pattern(text)), MAX_MATCHES).await?;
        // A row that could not be served is not offered.
        let usable = |row| {
            let id = ImageId(D::id(row, "id").ok()??);
            let image = read::<D>(id, row).ok()?.into_image(id, &self.sources).ok()?;
            let title = D::text(row, "title").ok().flatten().filter(|title| !title.is_empty());
            Some(Match { id, title, image })
        };
        Ok(Some(rows.iter().filter_map(usable).collect()))
    }

    async fn page(&self, after: Option<ImageId>) -> Result<Vec<Listed>, CatalogueError> {
        let unusable = |problem: &str| CatalogueError::Unavailable(format!("catalogue.list_query {problem}"));
        let query = self.list_query.as_deref().ok_or_else(|| unusable("is not set, and catalogue.query is"))?;
        // An id beyond them is in no table.
        let Ok(number) = after.map_or(Ok(-1), |after| i64::try_from(after.0)) else { return Ok(Vec::new()) };
        let rows = self.rows(query, Parameter::After(number), PAGE_ROWS).await?;
        let (mut listed, mut last) = (Vec::with_capacity(rows.len()), after);
        for row in &rows {
            // No URL can name a negative one.
            let Some(id) = D::id(row, "id").map_err(|error| unusable(&format!("gives no id: {error}")))? else {
                continue;
            };
            let id = ImageId(id);
            // Who asks for what follows the last one would go round in circles.
            if last.is_some_and(|last| id <= last) {
                return Err(unusable("does not give the rows after its parameter, in the order of id"));
            }
            last = Some(id);
            listed.push((id, read::<D>(id, row).and_then(|row| row.into_image(id, &self.sources))));
        }
        Ok(listed)
    }
}

impl<D: Dialect> Catalogue for Sql<D> {
    fn find(&self, id: ImageId) -> Finding<'_> {
        Box::pin(self.ask(id))
    }

    fn list(&self, after: Option<ImageId>) -> Listing<'_> {
        Box::pin(self.page(after))
    }

    fn search<'a>(&'a self, text: &'a str) -> Searching<'a> {
        Box::pin(self.matching(text))
    }

    fn probe(&self) -> Pending<'_, String> {
        Box::pin(async {
            // Asking for an id that cannot be there exercises server, table and columns alike.
            self.ask(ImageId(0)).await?;
            let query = if self.query == wagtail::<D>() { "Wagtail's query" } else { "catalogue.query" };
            Ok(format!("{} answers {query}; {}", self.sessions.server(), self.sources))
        })
    }
}

fn wagtail<D: Dialect>() -> String {
    format!("SELECT {WAGTAIL} WHERE id = {}", D::PARAMETER)
}

/// The same, for a pattern: the newest first.
fn wagtail_search<D: Dialect>() -> String {
    format!("SELECT id, title, {WAGTAIL} WHERE {} ORDER BY id DESC LIMIT {MAX_MATCHES}", D::MATCHES)
}

/// The same, page by page.
fn wagtail_list<D: Dialect>() -> String {
    format!("SELECT id, {WAGTAIL} WHERE id > {} ORDER BY id LIMIT {PAGE_ROWS}", D::PARAMETER)
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
