//! The web server in front of us: what `sendimage proxy-conf` prints for it.

mod nginx;

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::{Config, ListenAddress};

/// A web server that a config can be printed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum WebServer {
    /// nginx: `accel`, `auth_request`, `redirect`, `direct`.
    #[default]
    Nginx,
}

/// What the command line adds to the config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyOptions {
    /// A complete file that the server runs as it is, in place of one that is included in the site's own.
    pub whole: bool,
    /// What the server listens on: `8080` or `127.0.0.1:8080`. Otherwise the port of `server.public_url`.
    pub listen: Option<String>,
    /// Several gates that share one store. Otherwise the one at `server.listen`.
    pub upstreams: Vec<ListenAddress>,
    /// Whole files: where the server keeps its pid, logs and temporary files. Otherwise its own prefix (`nginx -p`).
    pub directory: Option<PathBuf>,
    /// Whole files: the user, or `USER:GROUP`, that the server's workers run as. A server started without root ignores it.
    pub user: Option<String>,
}

/// Prints the config.
///
/// # Errors
/// A path, address or header value that the server would read as something else: nginx has no escape for `$`, for one.
pub fn proxy_conf(server: WebServer, config: &Config, options: &ProxyOptions) -> Result<String, ProxyConfError> {
    match server {
        WebServer::Nginx => nginx::nginx_conf(config, options),
    }
}

/// A value that the server's own syntax cannot hold.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{key}: {message}")]
pub struct ProxyConfError {
    key: String,
    message: String,
}

fn refused(key: &str, message: &str) -> ProxyConfError {
    ProxyConfError { key: key.to_owned(), message: message.to_owned() }
}

/// Host and port of `server.public_url`; the port is http's where nothing else is said, as TLS needs certificates that
/// are not ours to name.
fn public_address(url: &str) -> (String, String) {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            (host.to_owned(), port.to_owned())
        }
        _ => (authority.to_owned(), "80".to_owned()),
    }
}

fn text_of<'p>(key: &str, path: &'p Path) -> Result<&'p str, ProxyConfError> {
    path.to_str().ok_or_else(|| refused(key, "is not UTF-8"))
}
