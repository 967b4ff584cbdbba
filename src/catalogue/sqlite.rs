//! Wagtail's table in an SQLite file, or any query that gives the same columns.

use std::{os::unix::fs::MetadataExt as _, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteRow},
};

use super::{
    CatalogueError, Sources, address,
    sessions::{Dialect, Opened, Parameter, Question},
    sql::Sql,
};
use crate::config::CatalogueConfig;

/// An SQLite catalogue. The file is opened read-only and never repaired.
pub type Sqlite = Sql<SqliteFile>;

/// An SQLite file. Another one may be given its name, by a restored backup or a deployment; sessions with the old one are
/// closed then, which would read it for as long as they are open.
pub struct SqliteFile(SqliteConnectOptions);

impl Sqlite {
    /// A catalogue at `catalogue.url`.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(config: &CatalogueConfig, sources: Sources) -> Result<Self, CatalogueError> {
        let url = address::secret(config)?;
        let options: SqliteConnectOptions = url.expose().parse().map_err(|error| address::unusable(&error))?;
        let options = options
            .read_only(true)
            .busy_timeout(Duration::from_secs_f64(config.timeout_seconds))
            .disable_statement_logging();
        Ok(Self::with(SqliteFile(options), config, sources))
    }
}

impl Dialect for SqliteFile {
    type Database = sqlx::Sqlite;
    const PARAMETER: &'static str = "?";
    const MATCHES: &'static str = "title || ' ' || file LIKE ? ESCAPE '!'";
    const IS_REMOTE: bool = false;

    async fn open(&self) -> Result<Opened<sqlx::Sqlite>, sqlx::Error> {
        let mut connection = self.0.connect().await?;
        let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut connection).await?;
        Ok(Opened { connection, server: format!("SQLite {version}") })
    }

    async fn rows(
        connection: &mut SqliteConnection,
        Question { query, parameter, most }: Question<'_>,
    ) -> Result<Vec<SqliteRow>, sqlx::Error> {
        let query = sqlx::query(AssertSqlSafe(query));
        let query = match parameter {
            Parameter::Id(id) => match i64::try_from(id.0) {
                Ok(number) => query.bind(number),
                // SQLite's integers are signed; an id beyond them is in no table.
                Err(_) => return Ok(Vec::new()),
            },
            Parameter::After(number) => query.bind(number),
            Parameter::Pattern(pattern) => query.bind(pattern),
        };
        query.fetch(connection).take(most).try_collect().await
    }

    fn id(row: &SqliteRow, column: &str) -> Result<Option<u64>, sqlx::Error> {
        let id: i64 = row.try_get_unchecked(column)?;
        Ok(u64::try_from(id).ok())
    }

    fn number(row: &SqliteRow, column: &str) -> Result<Option<f64>, sqlx::Error> {
        // SQLite converts integers and texts to doubles itself.
        row.try_get_unchecked(column)
    }

    fn text(row: &SqliteRow, column: &str) -> Result<Option<String>, sqlx::Error> {
        row.try_get(column)
    }

    fn place(&self) -> Option<(u64, u64)> {
        let metadata = std::fs::metadata(self.0.get_filename()).ok()?;
        Some((metadata.dev(), metadata.ino()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{catalogue::Catalogue as _, config::Secret, model::ImageId};
    use sqlx::Connection as _;
    use std::str::FromStr as _;

    async fn database(statements: &[&str]) -> (tempfile::TempDir, CatalogueConfig) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("db.sqlite3").display());
        let options = SqliteConnectOptions::from_str(&url).unwrap().create_if_missing(true);
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        for statement in statements {
            sqlx::query(AssertSqlSafe(*statement)).execute(&mut connection).await.unwrap();
        }
        connection.close().await.unwrap();
        let config =
            CatalogueConfig { url: Some(Secret::new(url)), source: Some("media".into()), ..CatalogueConfig::default() };
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
        let catalogue = Sqlite::new(&config, Sources::local("media")).unwrap();
        let image = catalogue.find(ImageId(7)).await.unwrap().unwrap();
        assert_eq!(image.location.to_string(), "media/original_images/a.jpg");
        assert_eq!(image.file_hash.as_deref(), Some("abc"));
        assert_eq!(image.focal_point.map(|f| (f.x, f.height)), Some((10.0, 40.0)));
        assert_eq!(catalogue.find(ImageId(9)).await, Ok(None));
        assert_eq!(catalogue.find(ImageId(u64::MAX)).await, Ok(None));
        assert!(matches!(catalogue.find(ImageId(8)).await, Err(CatalogueError::BadRow { .. })));

        config.query = Some("SELECT name AS file FROM pictures WHERE pk = ?".into());
        let catalogue = Sqlite::new(&config, Sources::local("media")).unwrap();
        let image = catalogue.find(ImageId(1)).await.unwrap().unwrap();
        assert_eq!((image.location.path.as_str(), &image.file_hash, image.focal_point), ("x/y.png", &None, None));
    }

    #[tokio::test]
    async fn a_search_is_for_titles_and_files_as_they_are_written() {
        let (_folder, mut config) = database(&[
            "CREATE TABLE wagtailimages_image (id INTEGER PRIMARY KEY, title TEXT, file VARCHAR(100), file_hash VARCHAR(40), \
             focal_point_x INTEGER, focal_point_y INTEGER, focal_point_width INTEGER, focal_point_height INTEGER)",
            "INSERT INTO wagtailimages_image VALUES (7, 'The 100% Beach', 'o/a.jpg', 'abc', 10, 20, 30, 40)",
            "INSERT INTO wagtailimages_image VALUES (8, 'x', '../b.jpg', '', NULL, NULL, NULL, NULL)",
            "INSERT INTO wagtailimages_image VALUES (9, 'it''s; DROP TABLE x', 'o/beach_2.jpg', '', NULL, NULL, NULL, NULL)",
            "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 200) \
             INSERT INTO wagtailimages_image SELECT i, 'many', 'm/' || i || '.jpg', '', NULL, NULL, NULL, NULL FROM n",
            "CREATE TABLE pictures (pk INTEGER, name TEXT)",
            "INSERT INTO pictures VALUES (1, 'x/y.png')",
        ])
        .await;
        let catalogue = Sqlite::new(&config, Sources::local("media")).unwrap();
        let find = async |text| {
            let found = catalogue.search(text).await.unwrap().unwrap();
            found.into_iter().map(|listed| listed.id.0).collect::<Vec<_>>()
        };
        assert_eq!(find("beach").await, [9, 7]);
        // A row that cannot be served is not offered.
        assert_eq!(find("b.jpg").await, [0; 0]);
        assert_eq!(find("100%").await, [7]);
        assert_eq!(find("_").await, [9]);
        assert_eq!(find("'s; DROP").await, [9]);
        assert_eq!(find("%").await, [7]);
        assert_eq!(find("many").await, (151..=200).rev().collect::<Vec<_>>());
        assert_eq!(catalogue.search("The").await.unwrap().unwrap()[0].title.as_deref(), Some("The 100% Beach"));

        config.query = Some("SELECT name AS file FROM pictures WHERE pk = ?".into());
        let catalogue = Sqlite::new(&config, Sources::local("media")).unwrap();
        assert_eq!(catalogue.search("x").await, Ok(None));
        config.search_query = Some("SELECT pk AS id, name AS file FROM pictures WHERE name LIKE ? ESCAPE '!'".into());
        let catalogue = Sqlite::new(&config, Sources::local("media")).unwrap();
        assert_eq!(catalogue.search("y.p").await.unwrap().unwrap()[0].id, ImageId(1));
    }

    #[tokio::test]
    async fn the_database_is_never_written() {
        let (_folder, mut config) = database(&["CREATE TABLE t (id INTEGER, file TEXT)"]).await;
        config.query = Some("INSERT INTO t VALUES (?, 'x') RETURNING file".into());
        let catalogue = Sqlite::new(&config, Sources::local("media")).unwrap();
        assert!(matches!(catalogue.find(ImageId(1)).await, Err(CatalogueError::Unavailable(_))));
    }

    #[tokio::test]
    async fn a_file_that_takes_the_name_is_asked_at_once() {
        const TABLE: &str = "CREATE TABLE p (id INTEGER, file TEXT)";
        let (folder, mut config) = database(&[TABLE, "INSERT INTO p VALUES (1, 'old.jpg')"]).await;
        let (other, _) = database(&[TABLE, "INSERT INTO p VALUES (1, 'new.jpg')"]).await;
        config.query = Some("SELECT file FROM p WHERE id = ?".into());
        let catalogue = Sqlite::new(&config, Sources::local("media")).unwrap();
        let file = || async { catalogue.find(ImageId(1)).await.unwrap().unwrap().location.path.as_str().to_owned() };
        assert_eq!(file().await, "old.jpg");
        std::fs::rename(other.path().join("db.sqlite3"), folder.path().join("db.sqlite3")).unwrap();
        assert_eq!(file().await, "new.jpg");
    }

    #[tokio::test]
    async fn a_missing_or_corrupt_file_is_unavailable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sqlite3");
        let url = Some(Secret::new(format!("sqlite://{}", path.display())));
        let config = CatalogueConfig { url, ..CatalogueConfig::default() };
        let catalogue = Sqlite::new(&config, Sources::local("media")).unwrap();
        assert!(matches!(
            catalogue.find(ImageId(1)).await,
            Err(CatalogueError::Unavailable(_) | CatalogueError::TimedOut)
        ));
        std::fs::write(&path, "this is no database, whatever its name says".repeat(50)).unwrap();
        let catalogue = Sqlite::new(&config, Sources::local("media")).unwrap();
        assert!(matches!(catalogue.find(ImageId(1)).await, Err(CatalogueError::Unavailable(_))));
    }
}
