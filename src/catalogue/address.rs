//! Where a database is, and with which password: from the config or a file, and never shown.

use url::Url;

use super::CatalogueError;
use crate::config::{CatalogueConfig, Secret};

/// What the library knows in a Postgres URL.
pub(super) const POSTGRES_PARAMETERS: [&str; 17] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
];

/// What the library knows in a MySQL URL.
pub(super) const MYSQL_PARAMETERS: [&str; 12] = [
    "sslmode",
    "ssl-mode",
    "sslca",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "charset",
    "collation",
    "statement-cache-capacity",
    "socket",
];

/// `catalogue.url`, or what the file has.
pub(super) fn secret(config: &CatalogueConfig) -> Result<Secret, CatalogueError> {
    let given = Secret::given(config.url.as_ref(), config.url_file.as_deref())
        .map_err(|error| CatalogueError::Unavailable(format!("catalogue.url: {error}")))?;
    given.ok_or_else(|| CatalogueError::Unavailable("catalogue.url is not set".into()))
}

/// The URL, taken apart, with nothing in it that would be ignored: who misspells `sslmode` goes without TLS.
pub(super) fn checked(config: &CatalogueConfig, schemes: &[&str], parameters: &[&str]) -> Result<Url, CatalogueError> {
    let url = secret(config)?;
    let url = Url::parse(url.expose()).map_err(|error| unusable(&error))?;
    if !schemes.contains(&url.scheme()) {
        return Err(unusable(&format!("it begins with {}://", schemes[0])));
    }
    for (key, _) in url.query_pairs() {
        if !parameters.contains(&&*key) {
            return Err(unusable(&format!("the parameter {key:?} is none; there are {}", parameters.join(", "))));
        }
    }
    Ok(url)
}

/// The error of a URL that is none. It does not show it.
pub(super) fn unusable(problem: &dyn std::fmt::Display) -> CatalogueError {
    CatalogueError::Unavailable(format!("catalogue.url: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        let parse = |url: &str| {
            let config = CatalogueConfig { url: Some(Secret::new(url.into())), ..CatalogueConfig::default() };
            checked(&config, &["postgres", "postgresql"], &POSTGRES_PARAMETERS).map_err(|error| error.to_string())
        };
        assert!(parse("postgres://anna:canary@db.example/site?sslmode=verify-full").is_ok());
        assert!(parse("postgresql:///site?host=/run/postgresql").is_ok());
        for (url, needle) in [
            ("postgres://anna:canary@db.example:port/site", "invalid port number"),
            ("mysql://anna:canary@db.example/site", "begins with postgres://"),
            ("postgres://anna:canary@db.example/site?sslmod=require", "\"sslmod\""),
            ("anna:canary@db.example", "begins with postgres://"),
            ("canary", "relative URL"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(needle) && !error.contains("canary"), "{error}");
        }
    }
}
