//! The nginx config that fits ours: what `sendimage proxy-conf` prints.
//!
//! Each directive here answers a measured fault: nginx follows `X-Accel-Redirect` whatever the status, drops most headers
//! on the way, reads a missing slash after `alias` as a way out of the folder, and closes a connection that it was not
//! told to keep. The comments in the printed file say which line prevents what.

mod blocks;
mod store;
mod values;
mod verdicts;

use std::fmt::Write as _;

use self::store::ObjectStore;
use self::values::{folder, plain, quoted, quoted_path, upstream};
use super::{ProxyConfError, ProxyOptions, any_auth, client_header, public_address, quoted_headers};
use crate::config::{Config, EffectiveRoute};

/// Prints the config.
///
/// # Errors
/// A path, address or header value that nginx would read as something else: nginx has no escape for `$`, for one.
pub(super) fn nginx_conf(config: &Config, options: &ProxyOptions) -> Result<String, ProxyConfError> {
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
    /// The object store, where renditions are in one.
    object_store: Option<ObjectStore>,
    /// Files that nginx may keep open.
    open_files_max: usize,
    /// `auth_request`: where nginx keeps verdicts.
    verdict_folder: String,
    /// Where requests are logged, for a log of our own format.
    access_log: String,
    /// The public locations.
    routes: Vec<EffectiveRoute>,
    /// The path below which redirected browsers fetch the files, where it is ours to publish.
    published: Option<String>,
    /// Headers from `[headers]`, name and quoted value.
    headers: Vec<(&'static str, String)>,
}

impl<'a> Site<'a> {
    fn new(config: &'a Config, options: &ProxyOptions) -> Result<Self, ProxyConfError> {
        let (host, port) = public_address(&config.server.public_url);
        let upstreams = super::upstreams(config, options);
        let routes = super::routes(config);
        let published = super::published(config, &routes)?;
        let object_store = ObjectStore::new(config, options)?;
        Ok(Self {
            config,
            upstreams: upstreams.iter().map(upstream).collect::<Result<_, _>>()?,
            listen: plain("--listen", options.listen.as_deref().unwrap_or(&port))?,
            server_name: plain("server.public_url", &host)?,
            store_root: match &object_store {
                Some(_) => String::new(),
                None => folder("store.root", &config.store.root)?,
            },
            object_store,
            // A whole file sets worker_rlimit_nofile; elsewhere a worker may have no more than 1024 descriptors.
            open_files_max: if options.whole { 10_000 } else { 256 },
            verdict_folder: match &options.directory {
                Some(directory) => quoted_path("--directory", &directory.join("verdicts"))?,
                None if options.whole => "verdicts".to_owned(),
                // In memory, and nobody but root may make a folder there. nginx does, at its start.
                None => "/run/nginx-sendimage".to_owned(),
            },
            access_log: match &options.directory {
                Some(directory) => quoted_path("--directory", &directory.join("access.log"))?,
                None if options.whole => "access.log".to_owned(),
                None => "/var/log/nginx/access.log".to_owned(),
            },
            routes,
            published,
            headers: quoted_headers(config, quoted)?,
        })
    }

    /// A complete file, for an nginx of its own that needs no privileges.
    fn whole(&self, options: &ProxyOptions) -> Result<String, ProxyConfError> {
        let at = |name: &str| match &options.directory {
            Some(directory) => quoted_path("--directory", &directory.join(name)),
            None => Ok(name.to_owned()),
        };
        let mut text = String::from(
            "# Printed by `sendimage proxy-conf --whole`. Run it with: nginx -e stderr -p DIRECTORY -c THIS_FILE\n",
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ListenAddress, OffloadMode, RouteConfig};

    fn config() -> Config {
        let mut config = Config::default();
        config.store.root = "/srv/renditions".into();
        config
    }

    fn printed(config: &Config) -> String {
        nginx_conf(config, &ProxyOptions::default()).unwrap()
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
        let options = ProxyOptions {
            upstreams: vec!["10.0.0.1:8480".parse().unwrap(), "10.0.0.2:8480".parse().unwrap()],
            ..ProxyOptions::default()
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
        let route = |prefix: &str, offload| RouteConfig { prefix: prefix.into(), offload, ..RouteConfig::default() };
        config.routes.insert("a".into(), route("/a/", None));
        config.routes.insert("b".into(), route("/b/", Some(OffloadMode::Direct)));
        let text = printed(&config);
        assert_eq!(text.matches("X-Sendimage-Again \"\"").count(), 2);
        assert!(text.contains("location ^~ /a/ {") && text.contains("location ^~ /b/ {"));
        config.offload.redirect_url = "/a/".into();
        config.routes.insert("c".into(), route("/c/", Some(OffloadMode::Redirect)));
        assert!(nginx_conf(&config, &ProxyOptions::default()).is_err());
    }

    #[test]
    fn what_nginx_cannot_hold_is_refused_by_key() {
        let error = |change: fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            nginx_conf(&config, &ProxyOptions::default()).unwrap_err().to_string()
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
        let options = ProxyOptions { listen: Some("80; evil".into()), ..ProxyOptions::default() };
        assert!(nginx_conf(&config(), &options).unwrap_err().to_string().starts_with("--listen: "));
    }
}
