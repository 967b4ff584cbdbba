//! Wagtail's table in an SQLite file, or any query that gives the same columns.

use std::{
    future::Future,
    os::unix::fs::MetadataExt as _,
    pin::Pin,
    str::FromStr as _,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use sqlx::{
    AssertSqlSafe, Row as _, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteRow},
};

use super::{Catalogue, CatalogueError, Finding, Found, row::Row};
use crate::{config::CatalogueConfig, metrics::Metrics, model::ImageId};

/// Wagtail's image table. A site with an image model of its own sets `catalogue.query`.
const WAGTAIL_QUERY: &str = "SELECT file, file_hash, focal_point_x, focal_point_y, focal_point_width, \
                             focal_point_height FROM wagtailimages_image WHERE id = ?";
const CONNECTIONS: u32 = 4;

/// An SQLite catalogue. The file is opened read-only and never repaired.
pub struct Sqlite {
    options: SqliteConnectOptions,
    opened: ArcSwap<Opened>,
    query: String,
    source: String,
    timeout: Duration,
    metrics: Arc<Metrics>,
}

/// Connections to one file. Another one may be given its name, by a restored backup or a deployment; these would read the old
/// one for as long as they are open.
struct Opened {
    pool: SqlitePool,
    /// Device and inode; `None` for a database that is no file, or is not there yet.
    file: Option<(u64, u64)>,
}

impl Opened {
    /// Opens nothing yet.
    fn new(options: &SqliteConnectOptions, timeout: Duration, file: Option<(u64, u64)>) -> Self {
        let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(timeout);
        Self { pool: pool.connect_lazy_with(options.clone()), file }
    }
}

impl Sqlite {
    /// A catalogue at `catalogue.url`. Nothing is opened yet: a database that is away at start may come back.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(config: &CatalogueConfig, metrics: Arc<Metrics>) -> Result<Self, CatalogueError> {
        let timeout = Duration::from_secs_f64(config.timeout_seconds);
        let url = config.url.as_deref().unwrap_or_default();
        let options = SqliteConnectOptions::from_str(url)
            .map_err(|error| CatalogueError::Unavailable(error.to_string()))?
            .read_only(true)
            .busy_timeout(timeout);
        Ok(Self {
            opened: ArcSwap::from_pointee(Opened::new(&options, timeout, None)),
            options,
            query: config.query.clone().unwrap_or_else(|| WAGTAIL_QUERY.to_owned()),
            source: config.source.clone().unwrap_or_default(),
            timeout,
            metrics,
        })
    }

    /// Connections to the file that has the name now.
    fn pool(&self) -> SqlitePool {
        let opened = self.opened.load();
        let metadata = std::fs::metadata(self.options.get_filename()).ok();
        let file = metadata.map(|metadata| (metadata.dev(), metadata.ino()));
        // What is there no more leaves nothing better to ask than the connections there are.
        if file.is_none() || file == opened.file {
            return opened.pool.clone();
        }
        let new = Opened::new(&self.options, self.timeout, file);
        let pool = new.pool.clone();
        // Those under way keep the old pool until they have their answers.
        self.opened.store(Arc::new(new));
        pool
    }

    async fn ask(&self, id: ImageId) -> Found {
        // SQLite's integers are signed; an id beyond them is in no table.
        let Ok(number) = i64::try_from(id.0) else { return Ok(None) };
        let started = Instant::now();
        let pool = self.pool();
        // The query is the operator's own text; the id is a bound parameter.
        let query = sqlx::query(AssertSqlSafe(self.query.as_str())).bind(number).fetch_optional(&pool);
        let row = tokio::time::timeout(self.timeout, query).await;
        self.metrics.catalogue_seconds.observe(started.elapsed().as_secs_f64());
        match row {
            Err(_) => Err(CatalogueError::TimedOut),
            Ok(Err(error)) => Err(CatalogueError::Unavailable(error.to_string())),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(row))) => read(id, &row)?.into_image(id, &self.source).map(Some),
        }
    }
}

fn read(id: ImageId, row: &SqliteRow) -> Result<Row, CatalogueError> {
    let bad = |error: sqlx::Error| CatalogueError::BadRow { id, problem: error.to_string() };
    // SQLite converts integers and texts to doubles itself; a column that the query does not give is absent.
    let number = |name: &str| match row.try_get_unchecked::<Option<f64>, _>(name) {
        Err(sqlx::Error::ColumnNotFound(_)) => Ok(None),
        other => other.map_err(bad),
    };
    Ok(Row {
        file: row.try_get("file").map_err(bad)?,
        file_hash: match row.try_get("file_hash") {
            Err(sqlx::Error::ColumnNotFound(_)) => None,
            other => other.map_err(bad)?,
        },
        focal_point_x: number("focal_point_x")?,
        focal_point_y: number("focal_point_y")?,
        focal_point_width: number("focal_point_width")?,
        focal_point_height: number("focal_point_height")?,
    })
}

impl Catalogue for Sqlite {
    fn find(&self, id: ImageId) -> Finding<'_> {
        Box::pin(self.ask(id))
    }

    fn probe(&self) -> Pin<Box<dyn Future<Output = Result<String, CatalogueError>> + Send + '_>> {
        Box::pin(async {
            // Asking for an id that cannot be there exercises file, table and columns alike.
            self.ask(ImageId(0)).await?;
            Ok(format!("sqlite answers; its paths are in the source {:?}", self.source))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::Connection as _;

    async fn database(statements: &[&str]) -> (tempfile::TempDir, CatalogueConfig) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("db.sqlite3").display());
        let options = SqliteConnectOptions::from_str(&url).unwrap().create_if_missing(true);
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        for statement in statements {
            sqlx::query(AssertSqlSafe(*statement)).execute(&mut connection).await.unwrap();
        }
        connection.close().await.unwrap();
        let config = CatalogueConfig { url: Some(url), source: Some("media".into()), ..CatalogueConfig::default() };
        (folder, config)
    }

    #[tokio::test]
    async fn wagtails_table_and_a_query_of_ones_own() {
        let (_folder, mut config) = database(&[
            "CREATE TABLE wagtailimages_image (id INTEGER PRIMARY KEY, title TEXT, file VARCHAR(100), file_hash VARCHAR(40), \
             focal_point_x INTEGER, focal_point_y INTEGER, focal_point_width INTEGER, focal_point_height INTEGER)",
            "INSERT INTO wagtailimages_image VALUES (7, 't', 'original_images/a.jpg', 'abc', 10, 20, 30, 40)",
            "INSERT INTO wagtailimages_image VALUES (8, 't', '../b.jpg', '', NULL, NULL, NULL, NULL)",
            "CREATE TABLE pictures (pk INTEGER, name TEXT)",
            "INSERT INTO pictures VALUES (1, 'x/y.png')",
        ])
        .await;
        let catalogue = Sqlite::new(&config, Arc::new(Metrics::new())).unwrap();
        let image = catalogue.find(ImageId(7)).await.unwrap().unwrap();
        assert_eq!(image.location.to_string(), "media/original_images/a.jpg");
        assert_eq!(image.file_hash.as_deref(), Some("abc"));
        assert_eq!(image.focal_point.map(|f| (f.x, f.height)), Some((10.0, 40.0)));
        assert_eq!(catalogue.find(ImageId(9)).await, Ok(None));
        assert_eq!(catalogue.find(ImageId(u64::MAX)).await, Ok(None));
        assert!(matches!(catalogue.find(ImageId(8)).await, Err(CatalogueError::BadRow { .. })));

        config.query = Some("SELECT name AS file FROM pictures WHERE pk = ?".into());
        let catalogue = Sqlite::new(&config, Arc::new(Metrics::new())).unwrap();
        let image = catalogue.find(ImageId(1)).await.unwrap().unwrap();
        assert_eq!((image.location.path.as_str(), &image.file_hash, image.focal_point), ("x/y.png", &None, None));
    }

    #[tokio::test]
    async fn the_database_is_never_written() {
        let (_folder, mut config) = database(&["CREATE TABLE t (id INTEGER, file TEXT)"]).await;
        config.query = Some("INSERT INTO t VALUES (?, 'x') RETURNING file".into());
        let catalogue = Sqlite::new(&config, Arc::new(Metrics::new())).unwrap();
        assert!(matches!(catalogue.find(ImageId(1)).await, Err(CatalogueError::Unavailable(_))));
    }

    #[tokio::test]
    async fn a_file_that_takes_the_name_is_asked_at_once() {
        const TABLE: &str = "CREATE TABLE p (id INTEGER, file TEXT)";
        let (folder, mut config) = database(&[TABLE, "INSERT INTO p VALUES (1, 'old.jpg')"]).await;
        let (other, _) = database(&[TABLE, "INSERT INTO p VALUES (1, 'new.jpg')"]).await;
        config.query = Some("SELECT file FROM p WHERE id = ?".into());
        let catalogue = Sqlite::new(&config, Arc::new(Metrics::new())).unwrap();
        let file = || async { catalogue.find(ImageId(1)).await.unwrap().unwrap().location.path.as_str().to_owned() };
        assert_eq!(file().await, "old.jpg");
        std::fs::rename(other.path().join("db.sqlite3"), folder.path().join("db.sqlite3")).unwrap();
        assert_eq!(file().await, "new.jpg");
    }

    #[tokio::test]
    async fn a_missing_or_corrupt_file_is_unavailable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sqlite3");
        let config =
            CatalogueConfig { url: Some(format!("sqlite://{}", path.display())), ..CatalogueConfig::default() };
        let catalogue = Sqlite::new(&config, Arc::new(Metrics::new())).unwrap();
        assert!(matches!(
            catalogue.find(ImageId(1)).await,
            Err(CatalogueError::Unavailable(_) | CatalogueError::TimedOut)
        ));
        std::fs::write(&path, "this is no database, whatever its name says".repeat(50)).unwrap();
        let catalogue = Sqlite::new(&config, Arc::new(Metrics::new())).unwrap();
        assert!(matches!(catalogue.find(ImageId(1)).await, Err(CatalogueError::Unavailable(_))));
    }
}
