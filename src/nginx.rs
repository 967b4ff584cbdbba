//! The nginx config that fits ours: what `sendimage nginx-conf` prints.
//!
//! Each directive here answers a measured fault: nginx follows `X-Accel-Redirect` whatever the status, drops most headers
//! on the way, reads a missing slash after `alias` as a way out of the folder, and closes a connection that it was not
//! told to keep. The comments in the printed file say which line prevents what.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::config::{AuthMode, Config, ListenAddress, OffloadMode};

/// What the command line adds to the config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NginxOptions {
    /// A complete file for `nginx -c FILE`, in place of upstream and server blocks for `conf.d`.
    pub whole: bool,
    /// What nginx listens on: `8080` or `127.0.0.1:8080`. Otherwise the port of `server.public_url`.
    pub listen: Option<String>,
    /// Several gates that share one store. Otherwise the one at `server.listen`.
    pub upstreams: Vec<ListenAddress>,
    /// Whole files: where nginx keeps its pid, logs and temporary files. Otherwise its prefix (`nginx -p`).
    pub directory: Option<PathBuf>,
    /// Whole files: the user, or `USER:GROUP`, that nginx's workers run as. nginx started without root ignores it.
    pub user: Option<String>,
}

/// A value that nginx's own syntax cannot hold.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{key}: {message}")]
pub struct NginxError {
    key: String,
    message: String,
}

/// Prints the config.
///
/// # Errors
/// A path, address or header value that nginx would read as something else: nginx has no escape for `$`, for one.
pub fn nginx_conf(config: &Config, options: &NginxOptions) -> Result<String, NginxError> {
    let site = Site::new(config, options)?;
    Ok(match options.whole {
        false => site.blocks(""),
        true => site.whole(options)?,
    })
}

/// Everything the text needs, already in nginx's spelling.
struct Site<'a> {
    config: &'a Config,
    upstreams: Vec<String>,
    listen: String,
    server_name: String,
    store_root: String,
    /// Prefix and mode of each public location.
    routes: Vec<(String, OffloadMode)>,
    /// The path below which redirected browsers fetch the files, where it is ours to publish.
    published: Option<String>,
    /// Headers from `[headers]`, name and quoted value.
    headers: Vec<(&'static str, String)>,
}

impl<'a> Site<'a> {
    fn new(config: &'a Config, options: &NginxOptions) -> Result<Self, NginxError> {
        let (host, port) = public_address(&config.server.public_url);
        let upstreams = match options.upstreams.as_slice() {
            [] => std::slice::from_ref(&config.server.listen),
            given => given,
        };
        let routes: Vec<_> = config
            .effective_routes()
            .into_values()
            .map(|route| (route.prefix, route.offload.unwrap_or(config.offload.mode)))
            .collect();
        let redirects = routes.iter().any(|(_, mode)| *mode == OffloadMode::Redirect);
        let published = match config.offload.redirect_url.as_str() {
            path if redirects && path.starts_with('/') => {
                if routes.iter().any(|(prefix, _)| prefix == path) {
                    return Err(refused("offload.redirect_url", "is also the prefix of a route"));
                }
                Some(location("offload.redirect_url", path)?)
            }
            _ => None,
        };
        let headers = [
            ("Access-Control-Allow-Origin", &config.headers.access_control_allow_origin),
            ("Cross-Origin-Resource-Policy", &config.headers.cross_origin_resource_policy),
        ];
        Ok(Self {
            config,
            upstreams: upstreams.iter().map(upstream).collect::<Result<_, _>>()?,
            listen: plain("--listen", options.listen.as_deref().unwrap_or(&port))?,
            server_name: plain("server.public_url", &host)?,
            store_root: folder("store.root", &config.store.root)?,
            routes,
            published,
            headers: headers
                .into_iter()
                .filter_map(|(name, value)| Some((name, value.as_deref()?)))
                .map(|(name, value)| Ok((name, quoted("headers", value)?)))
                .collect::<Result<_, _>>()?,
        })
    }

    /// A complete file, for an nginx of its own that needs no privileges.
    fn whole(&self, options: &NginxOptions) -> Result<String, NginxError> {
        let at = |name: &str| match &options.directory {
            Some(directory) => quoted_path("--directory", &directory.join(name)),
            None => Ok(name.to_owned()),
        };
        let mut text = String::from(
            "# Printed by `sendimage nginx-conf --whole`. Run it with: nginx -e stderr -p DIRECTORY -c THIS_FILE\n",
        );
        if let Some(user) = &options.user {
            let _ = writeln!(text, "user {};", plain("--user", user)?.replace(':', " "));
        }
        let _ = write!(
            text,
            "\
worker_processes auto;
worker_rlimit_nofile 16384;
pid {pid};
error_log {error_log} warn;

events {{
    worker_connections 4096;
}}

http {{
    client_body_temp_path {client_body};
    proxy_temp_path {proxy};
    fastcgi_temp_path {fastcgi};
    uwsgi_temp_path {uwsgi};
    scgi_temp_path {scgi};
    access_log {access_log};
    default_type application/octet-stream;

{blocks}}}
",
            pid = at("nginx.pid")?,
            error_log = at("error.log")?,
            client_body = at("client_body_temp")?,
            proxy = at("proxy_temp")?,
            fastcgi = at("fastcgi_temp")?,
            uwsgi = at("uwsgi_temp")?,
            scgi = at("scgi_temp")?,
            access_log = at("access.log")?,
            blocks = self.blocks("    "),
        );
        Ok(text)
    }

    /// The upstream and the server block.
    fn blocks(&self, indent: &str) -> String {
        let mut text = String::from(HEAD);
        self.upstream_block(&mut text);
        let _ = write!(
            text,
            "
server {{
    listen {listen};
    server_name {server_name};
    server_tokens off;
{tls}",
            listen = self.listen,
            server_name = self.server_name,
            tls = if self.config.server.public_url.starts_with("https:") { TLS } else { "" },
        );
        let accel = self.routes.iter().any(|(_, mode)| *mode == OffloadMode::Accel);
        for (number, (prefix, mode)) in self.routes.iter().enumerate() {
            self.public_location(&mut text, prefix, *mode, number == 0);
        }
        if accel {
            self.internal_location(&mut text);
            self.again_location(&mut text);
        }
        if let Some(prefix) = &self.published {
            self.published_location(&mut text, prefix);
        }
        text.push_str(REST);
        text.lines().fold(String::new(), |all, line| match line {
            "" => all + "\n",
            line => all + indent + line + "\n",
        })
    }

    fn upstream_block(&self, text: &mut String) {
        // Idle connections of all workers together must leave room for busy ones below the gate's own limit.
        let keepalive = (self.config.server.max_connections / 16).clamp(16, 512);
        let idle_seconds = (self.config.server.header_timeout_seconds - 1.0).floor().max(1.0);
        text.push_str("upstream sendimage {\n");
        for server in &self.upstreams {
            let _ = writeln!(text, "    server {server};");
        }
        let _ = write!(
            text,
            "    # Idle connections each worker keeps. Without them, or with fewer than there are requests at once, every request
    # opens a connection of its own, and throughput halves.
    keepalive {keepalive};
    keepalive_requests 1000000;
    # Below server.header_timeout_seconds: nginx lets go first, so no request meets a connection that is being closed.
    keepalive_timeout {idle_seconds}s;
}}
"
        );
    }

    /// Where browsers come in. Comments appear in the first of these only.
    fn public_location(&self, text: &mut String, prefix: &str, mode: OffloadMode, first: bool) {
        let mut public = String::new();
        let hands_over = match mode {
            OffloadMode::Accel => "nginx streams the file",
            OffloadMode::Redirect => "the browser is sent to the file",
            OffloadMode::Direct => "sendimage sends the bytes itself",
        };
        let _ = write!(
            public,
            "
    # Signed URLs; {hands_over}. ^~ keeps a regex location (\\.(jpg|webp)$, say) from taking them away.
    location ^~ {prefix} {{
        # No URI part: sendimage checks the signature over the path exactly as the browser sent it.
        proxy_pass http://sendimage;
"
        );
        self.proxy_settings(&mut public);
        public.push_str(
            "        # Ours alone: a browser may not ask for the second look of @again.
        proxy_set_header X-Sendimage-Again \"\";
    }
",
        );
        if first {
            text.push_str(&public);
        } else {
            let code = |line: &&str| !line.trim_start().starts_with('#') || line.starts_with("    # Signed");
            public.lines().filter(code).for_each(|line| {
                text.push_str(line);
                text.push('\n');
            });
        }
    }

    /// What every proxied request to the gate needs.
    fn proxy_settings(&self, text: &mut String) {
        let read_seconds = (self.config.render.deadline_seconds + 2.0).ceil();
        // A second gate may be asked; a lone one gets a retry only where nginx met a kept connection that had closed.
        let next = match self.upstreams.len() {
            1 => "proxy_next_upstream error;",
            _ => "proxy_next_upstream error timeout;\n        proxy_next_upstream_tries 2;",
        };
        let credentials = match self.config.auth.mode {
            AuthMode::Off => {
                "        # Signatures alone decide: cookies and passwords stay out of it.
        proxy_set_header Cookie \"\";
        proxy_set_header Authorization \"\";
"
            }
        };
        let _ = write!(
            text,
            "        proxy_http_version 1.1;
        proxy_set_header Connection \"\";
        proxy_set_header X-Request-Id $request_id;
{credentials}        # An image is asked for without a body: a sent one is bounded, and goes no further.
        client_max_body_size 1k;
        proxy_pass_request_body off;
        proxy_set_header Content-Length \"\";
        proxy_connect_timeout 1s;
        proxy_send_timeout 5s;
        # render.deadline_seconds and two more: sendimage gives up first, and says why.
        proxy_read_timeout {read_seconds}s;
        {next}
        proxy_intercept_errors off;
        proxy_redirect off;
        # Answers that hand a file over are never in a cache, and it would only make requests take turns.
        proxy_cache off;
        proxy_hide_header X-Sendimage-Cache-Control;
        proxy_hide_header X-Sendimage-Vary;
"
        );
    }

    /// Where `X-Accel-Redirect` leads.
    fn internal_location(&self, text: &mut String) {
        let _ = write!(
            text,
            "
    # The renditions. internal: only sendimage's X-Accel-Redirect leads here, a browser gets 404. Both lines end in a
    # slash: with one missing, \"{prefix_bare}..\" would be a way out of the folder.
    location ^~ {prefix} {{
        internal;
        alias {root};
        # A file that is gone is not a failure yet: ask once more. Off, so that the second 404 is the last.
        error_page 404 = @again;
        recursive_error_pages off;
        # nginx drops these from sendimage's answer, so they are said here. No \"always\": a 404 must not be cached as an
        # image would be, and an empty value sends no header.
        add_header Cache-Control $upstream_http_x_sendimage_cache_control;
        add_header Vary $upstream_http_x_sendimage_vary;
        add_header X-Request-Id $upstream_http_x_request_id;
",
            prefix = self.config.offload.internal_prefix,
            prefix_bare = self.config.offload.internal_prefix.trim_end_matches('/'),
            root = self.store_root,
        );
        self.file_settings(text);
        text.push_str("    }\n");
    }

    /// The second look for a file that vanished between sendimage's check and nginx's open.
    fn again_location(&self, text: &mut String) {
        text.push_str(
            "
    # The same request once more, marked, so that sendimage looks at the disk and renders what is not there.
    location @again {
        # By now nginx's own URI is the internal one; $request_uri is still the browser's.
        proxy_pass http://sendimage$request_uri;
",
        );
        let mut settings = String::new();
        self.proxy_settings(&mut settings);
        for line in settings.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let _ = writeln!(text, "{line}");
        }
        text.push_str("        proxy_set_header X-Sendimage-Again 1;\n    }\n");
    }

    /// `redirect`: the same files in public, under names that cannot be guessed.
    fn published_location(&self, text: &mut String, prefix: &str) {
        let _ = write!(
            text,
            "
    # Where redirected browsers fetch the files. Names are digests, and never reused for other bytes.
    location ^~ {prefix} {{
        alias {root};
        autoindex off;
        # Half-written files and leases begin with a dot.
        location ~ /\\. {{
            return 404;
        }}
        add_header Cache-Control \"public, max-age={max_age}\";
",
            root = self.store_root,
            max_age = self.config.cache.max_age_seconds,
        );
        self.file_settings(text);
        text.push_str("    }\n");
    }

    /// What holds for every image file that nginx opens.
    fn file_settings(&self, text: &mut String) {
        for (name, value) in &self.headers {
            let _ = writeln!(text, "        add_header {name} {value};");
        }
        let from = quoted_or_plain(&format!("from={}", self.config.store.root.display()));
        let _ = write!(
            text,
            "        # An image that a browser is talked into reading as a page runs no script.
        add_header Content-Security-Policy \"default-src 'none'; sandbox\" always;
        add_header X-Content-Type-Options nosniff always;
        # A link planted in the store leads nowhere.
        disable_symlinks on {from};
        sendfile on;
        tcp_nopush on;
        gzip off;
        etag on;
        if_modified_since exact;
        # A purged file is gone at once, not when a cached descriptor expires.
        open_file_cache off;
        default_type application/octet-stream;
        types {{
            image/avif avif;
            image/gif gif;
            image/jpeg jpg jpeg;
            image/png png;
            image/svg+xml svg;
            image/webp webp;
            image/x-icon ico;
        }}
"
        );
    }
}

const HEAD: &str = "\
# Printed by `sendimage nginx-conf` from sendimage's own config: change that, and print this again.
#
# A limit for each address belongs to the site. Lines such as these go here, above the server block
#     limit_req_zone $binary_remote_addr zone=images:10m rate=100r/s;
# and these into the signed locations below, where they count each request once:
#     limit_req zone=images burst=200 nodelay;
#
# Worth logging (an image is logged by the internal location's access_log, so do not turn it off there):
#     log_format images '$remote_addr $status $body_bytes_sent $request_time $upstream_response_time $request_id';

";

const TLS: &str = "    # server.public_url is https: give this block its `listen 443 ssl`, ssl_certificate and ssl_certificate_key, or put
    # it behind whatever ends TLS.
";

const REST: &str = "
    # The rest of the site. nginx obeys X-Accel-Redirect from whatever it proxies to, so every other proxied location
    # in this server needs: proxy_ignore_headers X-Accel-Redirect;
    location / {
        return 404;
    }
}
";

fn refused(key: &str, message: &str) -> NginxError {
    NginxError { key: key.to_owned(), message: message.to_owned() }
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

fn upstream(address: &ListenAddress) -> Result<String, NginxError> {
    match address {
        ListenAddress::Tcp(address) => Ok(address.to_string()),
        ListenAddress::Unix(path) => quoted("server.listen", &format!("unix:{}", text_of("server.listen", path)?)),
    }
}

/// Text that needs no quotes: an address, a host, a user.
fn plain(key: &str, value: &str) -> Result<String, NginxError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'*' | b'/');
    match !value.is_empty() && value.bytes().all(fine) {
        true => Ok(value.to_owned()),
        false => Err(refused(key, &format!("{value:?} cannot stand in an nginx config"))),
    }
}

/// A location's prefix. nginx compares it with the decoded, normalised path, so anything that has another form there
/// would never match.
fn location(key: &str, path: &str) -> Result<String, NginxError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~');
    let dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    match path.len() > 1 && path.bytes().all(fine) && !path.contains("//") && !dots {
        true => Ok(path.to_owned()),
        false => Err(refused(
            key,
            "as a location in nginx it holds letters, digits, '-', '_', '.', '~' between its slashes, and more than one slash",
        )),
    }
}

/// A folder for `alias`, with the slash at its end that keeps `..` inside.
fn folder(key: &str, path: &Path) -> Result<String, NginxError> {
    if !path.is_absolute() {
        return Err(refused(key, "must be an absolute path for nginx, which would look below its own prefix"));
    }
    quoted(key, &format!("{}/", text_of(key, path)?.trim_end_matches('/')))
}

fn quoted_path(key: &str, path: &Path) -> Result<String, NginxError> {
    quoted(key, text_of(key, path)?)
}

fn text_of<'p>(key: &str, path: &'p Path) -> Result<&'p str, NginxError> {
    path.to_str().ok_or_else(|| refused(key, "is not UTF-8"))
}

/// One argument of a directive. `$` begins a variable, inside quotes too, and nginx knows no escape for it.
fn quoted(key: &str, value: &str) -> Result<String, NginxError> {
    match value.chars().find(|c| *c == '$' || c.is_control()) {
        Some(c) => Err(refused(key, &format!("{value:?} holds {c:?}, which an nginx config cannot"))),
        None => Ok(quoted_or_plain(value)),
    }
}

/// In double quotes only a quote and a backslash need an escape; a plain word stays as it is.
fn quoted_or_plain(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | ':' | '=');
    match !value.is_empty() && value.chars().all(plain) {
        true => value.to_owned(),
        false => format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RouteConfig;

    fn config() -> Config {
        let mut config = Config::default();
        config.store.root = "/srv/renditions".into();
        config
    }

    fn printed(config: &Config) -> String {
        nginx_conf(config, &NginxOptions::default()).unwrap()
    }

    #[test]
    fn addresses_come_from_the_config() {
        let text = printed(&config());
        assert!(text.contains("server 127.0.0.1:8480;") && text.contains("listen 8080;"));
        assert!(text.contains("server_name localhost;") && text.contains("proxy_read_timeout 22s;"));
        let mut config = config();
        config.server.listen = ListenAddress::Unix("/run/send image.sock".into());
        config.server.public_url = "https://images.example".into();
        let text = printed(&config);
        assert!(text.contains("server \"unix:/run/send image.sock\";"));
        assert!(text.contains("listen 80;") && text.contains("server_name images.example;"));
    }

    #[test]
    fn a_lone_gate_is_not_asked_twice() {
        assert!(printed(&config()).contains("proxy_next_upstream error;"));
        let options = NginxOptions {
            upstreams: vec!["10.0.0.1:8480".parse().unwrap(), "10.0.0.2:8480".parse().unwrap()],
            ..NginxOptions::default()
        };
        let text = nginx_conf(&config(), &options).unwrap();
        assert!(text.contains("server 10.0.0.2:8480;") && text.contains("proxy_next_upstream error timeout;"));
        assert!(text.contains("proxy_next_upstream_tries 2;") && !text.contains("127.0.0.1:8480"));
    }

    #[test]
    fn only_the_locations_that_are_needed() {
        let mut config = config();
        config.offload.mode = OffloadMode::Direct;
        let text = printed(&config);
        assert!(!text.contains("alias") && !text.contains("@again {"));
        config.offload.mode = OffloadMode::Redirect;
        config.offload.redirect_url = "https://cdn.example/files/".into();
        assert!(!printed(&config).contains("alias"));
        config.offload.redirect_url = "/files/".into();
        let text = printed(&config);
        assert!(text.contains("location ^~ /files/ {") && !text.contains("internal;"));
    }

    #[test]
    fn every_route_is_a_location() {
        let mut config = config();
        let route = |prefix: &str, offload| RouteConfig {
            prefix: prefix.into(),
            keys: None,
            wagtail_keys: None,
            offload,
            presets_only: None,
            max_age_seconds: None,
        };
        config.routes.insert("a".into(), route("/a/", None));
        config.routes.insert("b".into(), route("/b/", Some(OffloadMode::Direct)));
        let text = printed(&config);
        assert_eq!(text.matches("X-Sendimage-Again \"\"").count(), 2);
        assert!(text.contains("location ^~ /a/ {") && text.contains("location ^~ /b/ {"));
        config.offload.redirect_url = "/a/".into();
        config.routes.insert("c".into(), route("/c/", Some(OffloadMode::Redirect)));
        assert!(nginx_conf(&config, &NginxOptions::default()).is_err());
    }

    #[test]
    fn what_nginx_cannot_hold_is_refused_by_key() {
        let error = |change: fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            nginx_conf(&config, &NginxOptions::default()).unwrap_err().to_string()
        };
        assert!(error(|c| c.store.root = "/srv/$host".into()).starts_with("store.root: "));
        assert!(error(|c| c.store.root = "/srv/a\nb".into()).starts_with("store.root: "));
        assert!(error(|c| c.store.root = "renditions".into()).starts_with("store.root: "));
        assert!(error(|c| c.server.public_url = "http://a;b".into()).starts_with("server.public_url: "));
        assert!(error(|c| c.headers.access_control_allow_origin = Some("$host".into())).starts_with("headers: "));
        assert!(
            error(|c| {
                c.offload.mode = OffloadMode::Redirect;
                c.offload.redirect_url = "/a%20b/".into();
            })
            .starts_with("offload.redirect_url: ")
        );
        let options = NginxOptions { listen: Some("80; evil".into()), ..NginxOptions::default() };
        assert!(nginx_conf(&config(), &options).unwrap_err().to_string().starts_with("--listen: "));
    }

    #[test]
    fn quotes_hold_spaces_quotes_and_backslashes() {
        assert_eq!(quoted("k", "/srv/a b").unwrap(), "\"/srv/a b\"");
        assert_eq!(quoted("k", "a\"b\\c;{}").unwrap(), "\"a\\\"b\\\\c;{}\"");
        assert_eq!(quoted("k", "").unwrap(), "\"\"");
    }
}
