//! The web server in front of us: what `sendimage proxy-conf` prints for it.

mod apache;
mod caddy;
mod lighttpd;
mod nginx;

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::{AuthMode, Config, EffectiveRoute, ListenAddress, OffloadMode, StoreConfig, StoreKind};

/// A web server that a config can be printed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum WebServer {
    /// nginx: `accel`, `auth_request`, `redirect`, `direct`.
    #[default]
    Nginx,
    /// Apache with mod_xsendfile: `sendfile`, `redirect`, `direct`.
    Apache,
    /// lighttpd: `sendfile`, `redirect`, `direct`.
    Lighttpd,
    /// Caddy: `accel`, `redirect`, `direct`.
    Caddy,
}

impl WebServer {
    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Apache => "Apache",
            Self::Lighttpd => "lighttpd",
            Self::Caddy => "Caddy",
        }
    }

    /// What to set in place of a mode that the server does not know.
    fn instead_of(self, mode: OffloadMode) -> Option<&'static str> {
        use OffloadMode as Mode;
        match (self, mode) {
            (_, Mode::Redirect | Mode::Direct) | (Self::Nginx, Mode::Accel | Mode::AuthRequest) => None,
            (Self::Caddy, Mode::Accel) | (Self::Apache | Self::Lighttpd, Mode::Sendfile) => None,
            (Self::Nginx, Mode::Sendfile) => Some("\"sendfile\" is for Apache and lighttpd; for nginx set \"accel\""),
            (Self::Caddy, Mode::Sendfile) => Some("\"sendfile\" is for Apache and lighttpd; for Caddy set \"accel\""),
            (Self::Caddy, Mode::AuthRequest) => Some("\"auth_request\" is for nginx alone; for Caddy set \"accel\""),
            (Self::Apache, Mode::Accel) => Some("\"accel\" is for nginx and Caddy; for Apache set \"sendfile\""),
            (Self::Lighttpd, Mode::Accel) => Some("\"accel\" is for nginx and Caddy; for lighttpd set \"sendfile\""),
            (Self::Apache, Mode::AuthRequest) => {
                Some("\"auth_request\" is for nginx alone; for Apache set \"sendfile\"")
            }
            (Self::Lighttpd, Mode::AuthRequest) => {
                Some("\"auth_request\" is for nginx alone; for lighttpd set \"sendfile\"")
            }
        }
    }
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
    /// Whole files: the user, or `USER:GROUP`, that the server's workers run as. A server started without root ignores it, and
    /// Caddy always.
    pub user: Option<String>,
}

/// Prints the config.
///
/// # Errors
/// A path, address or header value that the server would read as something else: nginx has no escape for `$`, for one. A mode
/// that the server does not know.
pub fn proxy_conf(server: WebServer, config: &Config, options: &ProxyOptions) -> Result<String, ProxyConfError> {
    check_modes(server, config)?;
    check_store(server, config)?;
    // Nobody sends files of a store without a folder; the texts that would name it are not printed.
    let without_folder;
    let config = match config.store.kind {
        StoreKind::Fs => config,
        StoreKind::S3 => {
            let store = StoreConfig { root: "/nonexistent".into(), ..config.store.clone() };
            without_folder = Config { store, ..config.clone() };
            &without_folder
        }
    };
    match server {
        WebServer::Nginx => nginx::nginx_conf(config, options),
        WebServer::Apache => apache::apache_conf(config, options),
        WebServer::Lighttpd => lighttpd::lighttpd_conf(config, options),
        WebServer::Caddy => caddy::caddyfile(config, options),
    }
}

/// Refuses a mode that the server does not know.
fn check_modes(server: WebServer, config: &Config) -> Result<(), ProxyConfError> {
    for (name, route) in config.effective_routes() {
        if let Some(instead) = server.instead_of(route.offload) {
            let is_its_own = config.routes.get(&name).is_some_and(|route| route.offload.is_some());
            let key = if is_its_own { format!("routes.{name}.offload") } else { "offload.mode".to_owned() };
            return Err(refused(&key, instead));
        }
    }
    Ok(())
}

/// Refuses to fetch from an object store by a server other than nginx.
fn check_store(server: WebServer, config: &Config) -> Result<(), ProxyConfError> {
    let fetches = routes(config).iter().any(|route| route.offload == OffloadMode::Accel);
    match config.store.kind {
        StoreKind::S3 if fetches && server != WebServer::Nginx => {
            let message =
                "\"s3\" needs nginx, which fetches what it sends from the store, or offload.mode = \"redirect\"";
            Err(refused("store.kind", message))
        }
        StoreKind::S3 | StoreKind::Fs => Ok(()),
    }
}

/// The public locations.
fn routes(config: &Config) -> Vec<EffectiveRoute> {
    config.effective_routes().into_values().collect()
}

/// The path below which redirected browsers fetch the files, where it is ours to publish.
fn published(config: &Config, routes: &[EffectiveRoute]) -> Result<Option<String>, ProxyConfError> {
    let redirects = routes.iter().any(|route| route.offload == OffloadMode::Redirect);
    match config.offload.redirect_url.as_str() {
        path if redirects && path.starts_with('/') => {
            if routes.iter().any(|route| route.prefix == path) {
                return Err(refused("offload.redirect_url", "is also the prefix of a route"));
            }
            Ok(Some(location("offload.redirect_url", path)?))
        }
        _ => Ok(None),
    }
}

/// A location's prefix. Web servers compare it with the decoded, normalised path, so anything that has another form there
/// would never match.
fn location(key: &str, path: &str) -> Result<String, ProxyConfError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~');
    let dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    match path.len() > 1 && path.bytes().all(fine) && !path.contains("//") && !dots {
        true => Ok(path.to_owned()),
        false => Err(refused(
            key,
            "as a location it holds letters, digits, '-', '_', '.', '~' between its slashes, and more than one slash",
        )),
    }
}

/// The gates: those of the command line, else the one of the config.
fn upstreams<'a>(config: &'a Config, options: &'a ProxyOptions) -> &'a [ListenAddress] {
    match options.upstreams.as_slice() {
        [] => std::slice::from_ref(&config.server.listen),
        given => given,
    }
}

/// For how long a server waits for an answer: `render.deadline_seconds` and two more, so that sendimage gives up first, and
/// says why.
fn read_seconds(config: &Config) -> f64 {
    (config.render.deadline_seconds + 2.0).ceil()
}

/// For how long a server may keep an idle connection: below `server.header_timeout_seconds`, so that the server lets go first.
fn idle_seconds(config: &Config) -> f64 {
    (config.server.header_timeout_seconds - 1.0).floor().max(1.0)
}

/// Idle connections that a server may keep: all together must leave room for busy ones below the gate's own limit.
fn idle_connections(config: &Config) -> usize {
    (config.server.max_connections / 16).clamp(16, 512)
}

/// The mark of a second look.
const AGAIN: &str = "X-Sendimage-Again";

/// Request headers that are not for the gate: its own mark of a second look, and credentials where signatures alone decide.
fn kept_back(auth: AuthMode) -> &'static [&'static str] {
    match auth {
        AuthMode::Off => &[AGAIN, "X-Request-Id", "Cookie", "Authorization"],
        AuthMode::Jwt | AuthMode::Forward => &[AGAIN, "X-Request-Id"],
    }
}

/// What a location that serves every route has to pass on.
fn any_auth(routes: &[EffectiveRoute]) -> AuthMode {
    routes.iter().map(|route| route.auth).find(|auth| *auth != AuthMode::Off).unwrap_or_default()
}

/// The request header that the gate logs the client's address from. Where it does, no browser may write it.
fn client_header(config: &Config) -> Option<&str> {
    config.log.client_address_header_on(&config.server.listen)
}

/// Extensions and media types of renditions.
const MEDIA_TYPES: [(&str, &str); 8] = [
    ("avif", "image/avif"),
    ("gif", "image/gif"),
    ("ico", "image/x-icon"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("webp", "image/webp"),
];

/// Text that needs no quotes in any server's syntax: an address, a host, a user, a path without surprises.
fn plain(server: WebServer, key: &str, value: &str) -> Result<String, ProxyConfError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'*' | b'/');
    match !value.is_empty() && value.bytes().all(fine) {
        true => Ok(value.to_owned()),
        false => Err(refused(key, &format!("{value:?} cannot stand in a config for {}", server.name()))),
    }
}

/// Adds a block of lines. One like it stood before, where `says_why` is off: then without its comments but the one that says
/// what it is.
fn push_block(text: &mut String, block: &str, says_why: bool) {
    let keep = |line: &&str| {
        let line = line.trim_start();
        says_why || !line.starts_with('#') || line.starts_with("# Signed")
    };
    for line in block.lines().filter(keep) {
        text.push_str(line);
        text.push('\n');
    }
}

/// Name and value of each header of `[headers]`, quoted as the server wants it.
fn quoted_headers(
    config: &Config,
    quoted: impl Fn(&str, &str) -> Result<String, ProxyConfError>,
) -> Result<Vec<(&'static str, String)>, ProxyConfError> {
    config.headers.said().map(|(name, value)| Ok((name, quoted("headers", value)?))).collect()
}

/// A value that may hold anything but these characters and control characters.
fn without<'v>(server: WebServer, key: &str, value: &'v str, forbidden: &str) -> Result<&'v str, ProxyConfError> {
    match value.chars().find(|c| forbidden.contains(*c) || c.is_control()) {
        Some(c) => Err(refused(key, &format!("{value:?} holds {c:?}, which a config for {} cannot", server.name()))),
        None => Ok(value),
    }
}

/// The text of an absolute path, without a slash at its end.
fn absolute<'p>(server: WebServer, key: &str, path: &'p Path) -> Result<&'p str, ProxyConfError> {
    if !path.is_absolute() {
        return Err(refused(key, &format!("must be an absolute path for {}", server.name())));
    }
    Ok(text_of(key, path)?.trim_end_matches('/'))
}

/// Address and port of `--listen`, else of `server.public_url`: the address may be empty.
fn listen_on(config: &Config, options: &ProxyOptions, server: WebServer) -> Result<(String, String), ProxyConfError> {
    let (_, public_port) = public_address(&config.server.public_url);
    let text = plain(server, "--listen", options.listen.as_deref().unwrap_or(&public_port))?;
    let (address, port) = text.rsplit_once(':').unwrap_or(("", &text));
    match port.parse::<u16>() {
        Ok(_) => Ok((address.to_owned(), port.to_owned())),
        Err(_) => Err(refused("--listen", "is a port, or an address and a port")),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RouteConfig;

    const SERVERS: [WebServer; 4] = [WebServer::Nginx, WebServer::Apache, WebServer::Lighttpd, WebServer::Caddy];

    /// A mode that a server knows and that hands files over.
    fn own_mode(server: WebServer) -> OffloadMode {
        match server {
            WebServer::Nginx | WebServer::Caddy => OffloadMode::Accel,
            WebServer::Apache | WebServer::Lighttpd => OffloadMode::Sendfile,
        }
    }

    fn config(server: WebServer) -> Config {
        let mut config = Config::default();
        config.store.root = "/srv/renditions".into();
        config.offload.mode = own_mode(server);
        config
    }

    fn options() -> ProxyOptions {
        ProxyOptions { whole: true, directory: Some("/tmp/d".into()), ..ProxyOptions::default() }
    }

    #[test]
    fn a_mode_that_a_server_does_not_know_names_the_one_to_set() {
        for (server, mode, key, instead) in [
            (WebServer::Nginx, OffloadMode::Sendfile, "offload.mode", "for nginx set \"accel\""),
            (WebServer::Caddy, OffloadMode::Sendfile, "offload.mode", "for Caddy set \"accel\""),
            (WebServer::Caddy, OffloadMode::AuthRequest, "offload.mode", "for Caddy set \"accel\""),
            (WebServer::Apache, OffloadMode::Accel, "offload.mode", "for Apache set \"sendfile\""),
            (WebServer::Apache, OffloadMode::AuthRequest, "routes.b.offload", "for Apache set \"sendfile\""),
            (WebServer::Lighttpd, OffloadMode::Accel, "routes.b.offload", "for lighttpd set \"sendfile\""),
            (WebServer::Lighttpd, OffloadMode::AuthRequest, "offload.mode", "for lighttpd set \"sendfile\""),
        ] {
            let mut config = config(server);
            match key {
                "offload.mode" => config.offload.mode = mode,
                _ => {
                    for (name, offload) in [("a", None), ("b", Some(mode))] {
                        let route = RouteConfig { prefix: format!("/{name}/"), offload, ..RouteConfig::default() };
                        config.routes.insert(name.into(), route);
                    }
                }
            }
            let error = proxy_conf(server, &config, &options()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{key}: ")) && error.ends_with(instead), "{error}");
        }
    }

    #[test]
    fn every_server_has_the_modes_that_need_no_web_server() {
        for server in SERVERS {
            for mode in [OffloadMode::Direct, OffloadMode::Redirect, own_mode(server)] {
                let mut config = config(server);
                config.offload.mode = mode;
                config.offload.redirect_url = "/files/".into();
                let text = proxy_conf(server, &config, &options()).unwrap();
                let published = text.matches("/files/").count() > 0;
                assert_eq!(published, mode == OffloadMode::Redirect, "{server:?} {mode:?}");
                assert_eq!(text.contains("/srv/renditions"), mode != OffloadMode::Direct, "{server:?} {mode:?}");
            }
        }
    }

    #[test]
    fn what_a_server_would_read_as_something_else_is_refused_by_key() {
        type Change = fn(&mut Config);
        let root = |root: &str| root.to_owned();
        for (server, odd) in [
            (WebServer::Apache, vec![root("/srv/${HOME}"), root("/srv/100%")]),
            (WebServer::Lighttpd, vec![root("/srv/\"q"), root("/srv/back\\slash")]),
            (WebServer::Caddy, vec![root("/srv/{env.HOME}"), root("/srv/*"), root("/srv/[a]"), root("/srv/\"q")]),
        ] {
            for root in odd.into_iter().chain(["/srv/a\nb".into(), "renditions".into()]) {
                let mut config = config(server);
                config.store.root = root.clone().into();
                let error = proxy_conf(server, &config, &options()).unwrap_err().to_string();
                assert!(error.starts_with("store.root: "), "{server:?} {root:?}: {error}");
            }
        }
        for server in [WebServer::Apache, WebServer::Lighttpd, WebServer::Caddy] {
            let cases: [(Change, &str); 4] = [
                (|c| c.server.public_url = "http://a;b c".into(), "server.public_url: "),
                (|c| c.server.listen = ListenAddress::Unix("/run/a b|c.sock\"".into()), "server.listen: "),
                (|c| c.headers.access_control_allow_origin = Some("a\nb".into()), "headers: "),
                (
                    |c| {
                        c.offload.mode = OffloadMode::Redirect;
                        c.offload.redirect_url = "/a%20b/".into();
                    },
                    "offload.redirect_url: ",
                ),
            ];
            for (change, key) in cases {
                let mut config = config(server);
                change(&mut config);
                let listen = Some("8080".to_owned()).filter(|_| !key.starts_with("server.public_url"));
                let error = proxy_conf(server, &config, &ProxyOptions { listen, ..options() }).unwrap_err().to_string();
                assert!(error.starts_with(key), "{server:?}: {error}");
            }
            for listen in ["80; evil", "name", "1.2.3.4:http", "70000"] {
                let options = ProxyOptions { listen: Some(listen.into()), ..options() };
                let error = proxy_conf(server, &config(server), &options).unwrap_err().to_string();
                assert!(error.starts_with("--listen: "), "{server:?} {listen}: {error}");
            }
            let nowhere = ProxyOptions { whole: true, ..ProxyOptions::default() };
            assert!(
                proxy_conf(server, &config(server), &nowhere).unwrap_err().to_string().starts_with("--directory: ")
            );
        }
    }

    #[test]
    fn no_request_header_of_a_browser_marks_a_second_look() {
        for server in SERVERS {
            let text = proxy_conf(server, &config(server), &options()).unwrap();
            let lines: Vec<&str> = text.lines().filter(|line| line.contains(AGAIN)).map(str::trim).collect();
            let expected: &[&str] = match server {
                WebServer::Nginx => {
                    &["proxy_set_header X-Sendimage-Again \"\";", "proxy_set_header X-Sendimage-Again 1;"]
                }
                WebServer::Apache => {
                    &["RequestHeader unset X-Sendimage-Again", "RequestHeader set X-Sendimage-Again 1"]
                }
                WebServer::Lighttpd => &["\"X-Sendimage-Again\" => \"\","],
                WebServer::Caddy => &["header_up -X-Sendimage-Again", "header_up X-Sendimage-Again 1"],
            };
            assert_eq!(lines, expected, "{server:?}");
        }
    }
}
