//! The Caddyfile that fits ours: `reverse_proxy` asks, and `handle_response` streams.
//!
//! Each line answers something seen with Caddy 2.6: `handle_response` drops all headers of the answer but those that are copied, a
//! file server's 404 keeps the headers that were meant for the file, and the proxy asks for compressed answers by itself.

use std::fmt::Write as _;

use super::{
    AGAIN, ProxyConfError, ProxyOptions, WebServer, absolute, client_header, idle_connections, idle_seconds, kept_back,
    listen_on, plain, published, push_block, quoted_headers, read_seconds, refused, routes, text_of, upstreams,
    without,
};
use crate::config::{AuthMode, Config, EffectiveRoute, ListenAddress, OffloadMode};

const SERVER: WebServer = WebServer::Caddy;

/// Prints the config.
pub(super) fn caddyfile(config: &Config, options: &ProxyOptions) -> Result<String, ProxyConfError> {
    let site = Site::new(config, options)?;
    match options.whole {
        false => Ok(format!("{HEAD}\n{}", site.block())),
        true => site.whole(options),
    }
}

/// Everything the text needs, already in Caddy's spelling.
struct Site<'a> {
    config: &'a Config,
    /// `http://:8080`, `https://images.example`.
    address: String,
    bind: Option<String>,
    /// In quotes.
    store_root: String,
    upstreams: String,
    several: bool,
    /// Longest prefix first.
    routes: Vec<EffectiveRoute>,
    published: Option<String>,
    /// Name and quoted value.
    headers: Vec<(&'static str, String)>,
}

impl<'a> Site<'a> {
    fn new(config: &'a Config, options: &ProxyOptions) -> Result<Self, ProxyConfError> {
        let mut routes = routes(config);
        routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        let (address, bind) = match &options.listen {
            // Behind whatever ends TLS.
            Some(_) => {
                let (address, port) = listen_on(config, options, SERVER)?;
                let address = address.trim_start_matches('[').trim_end_matches(']');
                (format!("http://:{port}"), (!matches!(address, "" | "*")).then(|| address.to_owned()))
            }
            None => {
                let url = plain(SERVER, "server.public_url", config.server.public_url.trim_end_matches('/'))?;
                let (scheme, rest) = url.split_once("://").unwrap_or(("http", &url));
                (format!("{scheme}://{}", rest.split('/').next().unwrap_or(rest)), None)
            }
        };
        let gates = upstreams(config, options);
        Ok(Self {
            config,
            address,
            bind,
            // `*`, `?` and brackets: the look for a file takes a pattern.
            store_root: quoted(
                "store.root",
                without(SERVER, "store.root", absolute(SERVER, "store.root", &config.store.root)?, "*?[]")?,
            )?,
            upstreams: gates.iter().map(upstream).collect::<Result<Vec<_>, _>>()?.join(" "),
            several: gates.len() > 1,
            published: published(config, &routes)?,
            routes,
            headers: quoted_headers(config, quoted)?,
        })
    }

    /// A complete file, for a Caddy of its own that needs no privileges.
    fn whole(&self, options: &ProxyOptions) -> Result<String, ProxyConfError> {
        if options.user.is_some() {
            return Err(refused("--user", "Caddy runs as whoever starts it"));
        }
        let directory = match &options.directory {
            Some(directory) => quoted("--directory", absolute(SERVER, "--directory", directory)?)?,
            None => return Err(refused("--directory", "is needed: where Caddy keeps its certificates")),
        };
        Ok(format!(
            "\
# Printed by `sendimage proxy-conf --server caddy --whole`. Run it with: caddy run --adapter caddyfile --config THIS_FILE
{{
\tadmin off
\tstorage file_system {directory}
}}

{}",
            self.block()
        ))
    }

    /// The site block.
    fn block(&self) -> String {
        let mut text = String::new();
        let accel = self.routes.iter().any(|route| route.offload == OffloadMode::Accel);
        if accel {
            self.snippets(&mut text);
        }
        let _ = writeln!(text, "{} {{", self.address);
        if let Some(address) = &self.bind {
            let _ = writeln!(text, "\tbind {address}");
        }
        for (number, route) in self.routes.iter().enumerate() {
            self.public_block(&mut text, route, number == 0);
        }
        if let Some(prefix) = &self.published {
            self.published_block(&mut text, prefix);
        }
        text.push_str(
            "
\t# The rest of the site.
\thandle {
\t\trespond 404
\t}
",
        );
        if accel || self.published.is_some() {
            text.push_str(
                "
\t# What was said for a file must not stay with an error: a 404 would be in caches for as long as an image.
\thandle_errors {
\t\theader {
\t\t\t-Cache-Control
\t\t\t-Content-Disposition
\t\t\t-Content-Type
\t\t\t-Vary
\t\t}
\t\trespond {err.status_code}
\t}
",
            );
        }
        text.push_str("}\n");
        text
    }

    /// What a request to the gate needs, and what hands a file over: each is used twice.
    fn snippets(&self, text: &mut String) {
        let _ = write!(
            text,
            "\
# Where X-Accel-Redirect leads: the file below the store's root, if it is there.
(sendimage_look) {{
\tmap {{http.reverse_proxy.header.X-Accel-Redirect}} {{sendimage_path}} {{
\t\t~^{prefix}(/.*)$ \"$1\"
\t}}
\t# Matchers cannot be named twice; {{args.0}} tells the two rounds apart.
\t@there_{{args.0}} file {{
\t\troot {root}
\t\ttry_files {{sendimage_path}}
\t}}
}}
# The file itself. Caddy drops sendimage's other headers, so they are said here.
(sendimage_file) {{
\tcopy_response_headers {{
\t\tinclude Content-Type X-Request-Id
\t}}
\theader Content-Disposition {{http.vars.sendimage_disposition}}
\theader Cache-Control {{http.reverse_proxy.header.X-Sendimage-Cache-Control}}
\t# A placeholder without a value would be sent as it stands here.
\t@varies_{{args.0}} vars_regexp {{http.reverse_proxy.header.X-Sendimage-Vary}} ^[A-Z]
\theader @varies_{{args.0}} Vary {{http.reverse_proxy.header.X-Sendimage-Vary}}
",
            prefix = self.config.offload.internal_prefix.trim_end_matches('/').replace('.', "\\."),
            root = self.store_root,
        );
        self.image_headers(text, "\t");
        let _ = write!(
            text,
            "\
\trewrite * {{http.matchers.file.relative}}
\tfile_server {{
\t\troot {root}
\t\tdisable_canonical_uris
\t}}
}}

",
            root = self.store_root,
        );
    }

    fn image_headers(&self, text: &mut String, indent: &str) {
        for (name, value) in &self.headers {
            let _ = writeln!(text, "{indent}header {name} {value}");
        }
        let _ = write!(
            text,
            "\
{indent}# An image that a browser is talked into reading as a page runs no script.
{indent}header Content-Security-Policy \"default-src 'none'; sandbox\"
{indent}header X-Content-Type-Options nosniff
"
        );
    }

    /// Where browsers come in. Comments appear in the first of these only.
    fn public_block(&self, text: &mut String, route: &EffectiveRoute, first: bool) {
        let EffectiveRoute { prefix, offload: mode, auth, .. } = route;
        let hands_over = match mode {
            OffloadMode::Redirect => "the browser is sent to the file",
            OffloadMode::Direct => "sendimage sends the bytes itself",
            OffloadMode::Accel | OffloadMode::AuthRequest | OffloadMode::Sendfile => "Caddy streams the file",
        };
        let mut public = format!(
            "
\t# Signed URLs; {hands_over}.
\thandle {prefix}* {{
\t\t# An image is asked for without a body: Caddy refuses more than a byte of it, and sendimage the rest.
\t\trequest_body {{
\t\t\tmax_size 1
\t\t}}
\t\treverse_proxy {gates} {{
",
            gates = self.upstreams
        );
        self.proxy_settings(&mut public, *auth, "\t\t\t");
        public.push_str(
            "\t\t\t# The mark of a second look is Caddy's alone.
\t\t\theader_up -X-Sendimage-Again
",
        );
        if *mode == OffloadMode::Accel {
            public.push_str(
                "\t\t\t@file header X-Accel-Redirect *
\t\t\thandle_response @file {
\t\t\t\troute {
\t\t\t\t\tvars sendimage_disposition {http.reverse_proxy.header.Content-Disposition}
\t\t\t\t\timport sendimage_look first
\t\t\t\t\troute @there_first {
\t\t\t\t\t\timport sendimage_file first
\t\t\t\t\t}
",
            );
            let _ = write!(
                public,
                "\
\t\t\t\t\t# A file that is gone is not a failure yet. The same request once more, marked, so that sendimage looks at the
\t\t\t\t\t# disk and renders what is not there.
\t\t\t\t\treverse_proxy {gates} {{
",
                gates = self.upstreams
            );
            let mut settings = String::new();
            self.proxy_settings(&mut settings, *auth, "\t\t\t\t\t\t");
            push_block(&mut public, &settings, false);
            let _ = write!(
                public,
                "\
\t\t\t\t\t\theader_up {AGAIN} 1
\t\t\t\t\t\t@file header X-Accel-Redirect *
\t\t\t\t\t\thandle_response @file {{
\t\t\t\t\t\t\troute {{
\t\t\t\t\t\t\t\timport sendimage_look second
\t\t\t\t\t\t\t\troute @there_second {{
\t\t\t\t\t\t\t\t\timport sendimage_file second
\t\t\t\t\t\t\t\t}}
\t\t\t\t\t\t\t\trespond 404
\t\t\t\t\t\t\t}}
\t\t\t\t\t\t}}
\t\t\t\t\t}}
\t\t\t\t}}
\t\t\t}}
"
            );
        }
        public.push_str("\t\t}\n\t}\n");
        push_block(text, &public, first);
    }

    /// What every proxied request to the gate needs.
    fn proxy_settings(&self, text: &mut String, auth: AuthMode, indent: &str) {
        if self.several {
            let _ = write!(
                text,
                "\
{indent}# Another gate may be asked once.
{indent}lb_policy least_conn
{indent}lb_try_duration 2s
{indent}fail_duration 2s
"
            );
        }
        let _ = write!(
            text,
            "\
{indent}transport http {{
{indent}\tdial_timeout 1s
{indent}\twrite_timeout 5s
{indent}\t# render.deadline_seconds and two more: sendimage gives up first, and says why.
{indent}\tresponse_header_timeout {read}s
{indent}\t# Caddy lets go of an idle connection before sendimage does.
{indent}\tkeepalive {idle}s
{indent}\tkeepalive_idle_conns {connections}
{indent}\tkeepalive_idle_conns_per_host {connections}
{indent}\t# It would ask for what no browser asked for.
{indent}\tcompression off
{indent}}}
{indent}# Not for sendimage: it makes the request id itself, and where signatures alone decide, cookies and
{indent}# passwords stay out of it.
{indent}header_up -X-Forwarded-For
{indent}header_up -X-Forwarded-Host
{indent}header_up -X-Forwarded-Proto
",
            read = read_seconds(self.config),
            idle = idle_seconds(self.config),
            connections = idle_connections(self.config),
        );
        for name in kept_back(auth).iter().filter(|name| **name != AGAIN) {
            let _ = writeln!(text, "{indent}header_up -{name}");
        }
        if let Some(header) = client_header(self.config) {
            let _ = writeln!(text, "{indent}header_up {header} {{http.request.remote.host}}");
        }
    }

    /// `redirect`: the same files in public, under names that cannot be guessed.
    fn published_block(&self, text: &mut String, prefix: &str) {
        let bare = prefix.trim_end_matches('/');
        let _ = write!(
            text,
            "
\t# Where redirected browsers fetch the files. Names are digests, and never reused for other bytes.
\thandle {prefix}* {{
\t\t# Half-written files and leases begin with a dot.
\t\t@hidden path */.*
\t\terror @hidden 404
\t\turi strip_prefix {bare}
\t\theader Cache-Control \"public, max-age={max_age}\"
",
            max_age = self.config.cache.max_age_seconds,
        );
        self.image_headers(text, "\t\t");
        let _ = write!(
            text,
            "\
\t\tfile_server {{
\t\t\troot {root}
\t\t\tdisable_canonical_uris
\t\t}}
\t}}
",
            root = self.store_root,
        );
    }
}

/// The address of a gate.
fn upstream(address: &ListenAddress) -> Result<String, ProxyConfError> {
    match address {
        ListenAddress::Tcp(address) => Ok(address.to_string()),
        ListenAddress::Unix(path) => {
            Ok(format!("unix/{}", plain(SERVER, "server.listen", text_of("server.listen", path)?)?))
        }
    }
}

/// A token in quotes. Braces begin a placeholder there too.
fn quoted(key: &str, value: &str) -> Result<String, ProxyConfError> {
    Ok(format!("\"{}\"", without(SERVER, key, value, "\"\\{}`")?))
}

const HEAD: &str = "\
# Printed by `sendimage proxy-conf --server caddy` from sendimage's own config: change that, and print this again.
# For Caddy 2.6 or newer. In a Caddyfile: import /etc/caddy/sendimage.caddy
";
