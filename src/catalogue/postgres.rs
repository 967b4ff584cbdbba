//! Wagtail's table in a Postgres database, or any query that gives the same columns.

use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, PgConnection, Row as _, TypeInfo as _, ValueRef as _,
    error::DatabaseError,
    postgres::{PgConnectOptions, PgRow},
};

use super::{
    CatalogueError, Sources, address,
    sessions::{Dialect, Opened, Parameter, Question},
    sql::{Sql, not_a_number},
};
use crate::config::CatalogueConfig;

/// A Postgres catalogue.
pub type Postgres = Sql<PostgresServer>;

/// A Postgres server.
pub struct PostgresServer(PgConnectOptions);

impl Postgres {
    /// A catalogue at `catalogue.url`.
    ///
    /// # Errors
    /// When the URL is none, or has a parameter that is.
    pub fn new(config: &CatalogueConfig, sources: Sources) -> Result<Self, CatalogueError> {
        Ok(Self::with(PostgresServer(options(config)?), config, sources))
    }
}

/// Sessions that read only, and in which no statement goes on when nobody waits for it any more.
pub(super) fn options(config: &CatalogueConfig) -> Result<PgConnectOptions, CatalogueError> {
    let url = address::checked(config, &["postgres", "postgresql"], &address::POSTGRES_PARAMETERS)?;
    let mut options = PgConnectOptions::from_url(&url).map_err(|error| address::unusable(&error))?;
    if options.get_application_name().is_none() {
        options = options.application_name("sendimage");
    }
    // The server takes no more than 2^31 - 1.
    let timeout_ms = ((config.timeout_seconds * 1000.0).ceil() as i32).to_string();
    let bounds = [("default_transaction_read_only", "on"), ("statement_timeout", &timeout_ms)];
    Ok(options.options(bounds).disable_statement_logging())
}

impl Dialect for PostgresServer {
    type Database = sqlx::Postgres;
    const PARAMETER: &'static str = "$1";
    const MATCHES: &'static str = "title || ' ' || file ILIKE $1 ESCAPE '!'";
    const IS_REMOTE: bool = true;

    async fn open(&self) -> Result<Opened<sqlx::Postgres>, sqlx::Error> {
        let connection = self.0.connect().await?;
        // Since Postgres 10: 170005 is 17.5.
        let version = connection.server_version_num().unwrap_or_default();
        Ok(Opened { connection, server: format!("PostgreSQL {}.{}", version / 10_000, version % 10_000) })
    }

    async fn rows(
        connection: &mut PgConnection,
        Question { query, parameter, most }: Question<'_>,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let query = sqlx::query(AssertSqlSafe(query));
        let query = match parameter {
            Parameter::Id(id) => match i64::try_from(id.0) {
                Ok(number) => query.bind(number),
                // `bigint` is compared with a column of any integer type; an id beyond it is in no table.
                Err(_) => return Ok(Vec::new()),
            },
            Parameter::After(number) => query.bind(number),
            Parameter::Pattern(pattern) => query.bind(pattern),
        };
        query.fetch(connection).take(most).try_collect().await
    }

    fn id(row: &PgRow, column: &str) -> Result<Option<u64>, sqlx::Error> {
        let id = match row.try_get_raw(column)?.type_info().name() {
            "INT2" => i64::from(row.try_get::<i16, _>(column)?),
            "INT4" => i64::from(row.try_get::<i32, _>(column)?),
            _ => row.try_get(column)?,
        };
        Ok(u64::try_from(id).ok())
    }

    fn number(row: &PgRow, column: &str) -> Result<Option<f64>, sqlx::Error> {
        let value = row.try_get_raw(column)?;
        if value.is_null() {
            return Ok(None);
        }
        match value.type_info().name() {
            "INT2" => Ok(row.try_get::<Option<i16>, _>(column)?.map(f64::from)),
            "INT4" => Ok(row.try_get::<Option<i32>, _>(column)?.map(f64::from)),
            "INT8" => Ok(row.try_get::<Option<i64>, _>(column)?.map(|number| number as f64)),
            "FLOAT4" => Ok(row.try_get::<Option<f32>, _>(column)?.map(f64::from)),
            "FLOAT8" => row.try_get(column),
            name => Err(not_a_number(column, name)),
        }
    }

    fn text(row: &PgRow, column: &str) -> Result<Option<String>, sqlx::Error> {
        row.try_get(column)
    }

    /// PostgreSQL, appendix A: 08 connection exception, 57P operator intervention. A prepared statement whose table has
    /// changed is 0A000: a fresh session prepares it anew.
    fn is_of_the_session(error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| code.starts_with("08") || code.starts_with("57P") || code == "0A000")
    }

    /// 53300: too many connections, of all or of this user.
    fn is_full(error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| code == "53300")
    }
}
