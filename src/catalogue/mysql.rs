//! Wagtail's table in a MySQL or MariaDB database, or any query that gives the same columns.

use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Executor as _, MySqlConnection, Row as _, TypeInfo as _, ValueRef as _,
    error::DatabaseError,
    mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlRow},
};

use super::{
    CatalogueError, Sources, address,
    sessions::{Dialect, Opened, Parameter, Question},
    sql::{Sql, not_a_number},
};
use crate::config::CatalogueConfig;

/// A MySQL or MariaDB catalogue.
pub type MySql = Sql<MySqlServer>;

/// A MySQL or MariaDB server.
pub struct MySqlServer {
    options: MySqlConnectOptions,
    timeout_seconds: f64,
}

impl MySql {
    /// A catalogue at `catalogue.url`.
    ///
    /// # Errors
    /// When the URL is none, or has a parameter that is.
    pub fn new(config: &CatalogueConfig, sources: Sources) -> Result<Self, CatalogueError> {
        let url = address::checked(config, &["mysql", "mariadb"], &address::MYSQL_PARAMETERS)?;
        let options = MySqlConnectOptions::from_url(&url).map_err(|error| address::unusable(&error))?;
        // The query is written for the server as it is: what the library would change of its mode stays.
        let options = options.pipes_as_concat(false).no_engine_substitution(false).timezone(None);
        let server =
            MySqlServer { options: options.disable_statement_logging(), timeout_seconds: config.timeout_seconds };
        Ok(Self::with(server, config, sources))
    }
}

impl Dialect for MySqlServer {
    type Database = sqlx::MySql;
    const PARAMETER: &'static str = "?";
    const MATCHES: &'static str = "CONCAT(title, ' ', file) LIKE ? ESCAPE '!'";
    const IS_REMOTE: bool = true;

    async fn open(&self) -> Result<Opened<sqlx::MySql>, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        let version: String = sqlx::query_scalar("SELECT VERSION()").fetch_one(&mut connection).await?;
        // "11.8.3-MariaDB-0+deb13u1", "8.4.5"
        let (number, is_mariadb) = (version.split('-').next().unwrap_or_default(), version.contains("MariaDB"));
        connection.execute("SET SESSION TRANSACTION READ ONLY").await?;
        // A statement does not go on when nobody waits for it any more: MariaDB counts seconds, MySQL milliseconds.
        let bound = match is_mariadb {
            // It takes no more than a year.
            true => format!("SET SESSION max_statement_time = {}", self.timeout_seconds.min(31_536_000.0)),
            false => {
                format!("SET SESSION max_execution_time = {}", (self.timeout_seconds * 1000.0).ceil() as u32)
            }
        };
        connection.execute(AssertSqlSafe(bound)).await?;
        let server = format!("{} {number}", if is_mariadb { "MariaDB" } else { "MySQL" });
        Ok(Opened { connection, server })
    }

    async fn rows(
        connection: &mut MySqlConnection,
        Question { query, parameter, most }: Question<'_>,
    ) -> Result<Vec<MySqlRow>, sqlx::Error> {
        let query = sqlx::query(AssertSqlSafe(query));
        let query = match parameter {
            // Compared with a column of any integer type.
            Parameter::Id(id) => query.bind(id.0),
            Parameter::After(number) => query.bind(number),
            Parameter::Pattern(pattern) => query.bind(pattern),
        };
        query.fetch(connection).take(most).try_collect().await
    }

    fn id(row: &MySqlRow, column: &str) -> Result<Option<u64>, sqlx::Error> {
        if row.try_get_raw(column)?.type_info().name().ends_with("UNSIGNED") {
            return row.try_get(column).map(Some);
        }
        let id: i64 = row.try_get(column)?;
        Ok(u64::try_from(id).ok())
    }

    fn number(row: &MySqlRow, column: &str) -> Result<Option<f64>, sqlx::Error> {
        let value = row.try_get_raw(column)?;
        if value.is_null() {
            return Ok(None);
        }
        let type_info = value.type_info();
        match type_info.name() {
            "FLOAT" | "DOUBLE" => row.try_get(column),
            // It comes as text.
            "DECIMAL" => {
                let text: Option<String> = row.try_get_unchecked(column)?;
                text.map(|text| text.parse().map_err(|_| not_a_number(column, "DECIMAL"))).transpose()
            }
            name if name.ends_with("INT UNSIGNED") => {
                Ok(row.try_get::<Option<u64>, _>(column)?.map(|number| number as f64))
            }
            name if name.ends_with("INT") => Ok(row.try_get::<Option<i64>, _>(column)?.map(|number| number as f64)),
            name => Err(not_a_number(column, name)),
        }
    }

    fn text(row: &MySqlRow, column: &str) -> Result<Option<String>, sqlx::Error> {
        row.try_get(column)
    }

    /// 1053 the server shuts down; 1927 (MariaDB) and 4031 (MySQL) it has ended the session; 1615 a table has changed: a
    /// fresh session prepares the query anew.
    fn is_of_the_session(error: &dyn DatabaseError) -> bool {
        matches!(number_of(error), Some(1053 | 1615 | 1927 | 4031))
    }

    /// 1040, 1203, 1226: too many connections, of all or of this user.
    fn is_full(error: &dyn DatabaseError) -> bool {
        matches!(number_of(error), Some(1040 | 1203 | 1226))
    }
}

fn number_of(error: &dyn DatabaseError) -> Option<u16> {
    error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}
