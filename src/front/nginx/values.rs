//! Values in nginx's spelling: quoted right, or refused by key.

use std::path::Path;

use super::super::{self as front, ProxyConfError, WebServer, refused, text_of};
use crate::config::ListenAddress;

pub(super) fn upstream(address: &ListenAddress) -> Result<String, ProxyConfError> {
    match address {
        ListenAddress::Tcp(address) => Ok(address.to_string()),
        ListenAddress::Unix(path) => quoted("server.listen", &format!("unix:{}", text_of("server.listen", path)?)),
    }
}

/// Text that needs no quotes: an address, a host, a user.
pub(super) fn plain(key: &str, value: &str) -> Result<String, ProxyConfError> {
    front::plain(WebServer::Nginx, key, value)
}

/// A folder for `alias`, with the slash at its end that keeps `..` inside.
pub(super) fn folder(key: &str, path: &Path) -> Result<String, ProxyConfError> {
    if !path.is_absolute() {
        return Err(refused(key, "must be an absolute path for nginx, which would look below its own prefix"));
    }
    quoted(key, &format!("{}/", text_of(key, path)?.trim_end_matches('/')))
}

pub(super) fn quoted_path(key: &str, path: &Path) -> Result<String, ProxyConfError> {
    quoted(key, text_of(key, path)?)
}

/// One argument of a directive. `$` begins a variable, inside quotes too, and nginx knows no escape for it.
pub(super) fn quoted(key: &str, value: &str) -> Result<String, ProxyConfError> {
    match value.chars().find(|c| *c == '$' || c.is_control()) {
        Some(c) => Err(refused(key, &format!("{value:?} holds {c:?}, which an nginx config cannot"))),
        None => Ok(quoted_or_plain(value)),
    }
}

/// In double quotes only a quote and a backslash need an escape; a plain word stays as it is.
pub(super) fn quoted_or_plain(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | ':' | '=');
    match !value.is_empty() && value.chars().all(plain) {
        true => value.to_owned(),
        false => format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_spaces_quotes_and_backslashes() {
        assert_eq!(quoted("k", "/srv/a b").unwrap(), "\"/srv/a b\"");
        assert_eq!(quoted("k", "a\"b\\c;{}").unwrap(), "\"a\\\"b\\\\c;{}\"");
        assert_eq!(quoted("k", "").unwrap(), "\"\"");
    }
}
