//! The Apache config that fits ours: mod_proxy asks, mod_xsendfile streams.
//!
//! Each directive answers something seen with Apache 2.4 and mod_xsendfile 0.12: the proxy decodes and encodes paths anew unless
//! told not to, begins to send bodies on before it refuses them, and every file's entity tag is `"0"`, which is why sendimage sends
//! one. A file that vanished before Apache could open it is a 404 of Apache's own, and an `ErrorDocument` brings the request back.

use std::fmt::Write as _;

use super::{
    AGAIN, MEDIA_TYPES, ProxyConfError, ProxyOptions, WebServer, absolute, any_auth, client_header, idle_connections,
    idle_seconds, kept_back, listen_on, plain, public_address, published, push_block, quoted_headers, read_seconds,
    refused, routes, text_of, upstreams, without,
};
use crate::config::{Config, EffectiveRoute, ListenAddress, OffloadMode};

const SERVER: WebServer = WebServer::Apache;

/// Prints the config.
pub(super) fn apache_conf(config: &Config, options: &ProxyOptions) -> Result<String, ProxyConfError> {
    let site = Site::new(config, options)?;
    match options.whole {
        false => Ok(format!("{HEAD}\n{}", site.virtual_host())),
        true => site.whole(options),
    }
}

/// Everything the text needs, already in Apache's spelling.
struct Site<'a> {
    config: &'a Config,
    address: String,
    port: String,
    server_name: String,
    /// In quotes.
    store_root: String,
    /// URLs of the gates, without a slash at the end.
    upstreams: Vec<String>,
    routes: Vec<EffectiveRoute>,
    published: Option<String>,
    /// Name and quoted value.
    headers: Vec<(&'static str, String)>,
}

impl<'a> Site<'a> {
    fn new(config: &'a Config, options: &ProxyOptions) -> Result<Self, ProxyConfError> {
        let (host, _) = public_address(&config.server.public_url);
        let (address, port) = listen_on(config, options, SERVER)?;
        let mut routes = routes(config);
        // A later section overrides an earlier one, and the longest prefix decides.
        routes.sort_by_key(|route| route.prefix.len());
        let root = absolute(SERVER, "store.root", &config.store.root)?;
        if root.contains('%') && routes.iter().any(|route| route.offload == OffloadMode::Sendfile) {
            // mod_xsendfile 0.12 takes a path as it is; later builds decode it.
            return Err(refused("store.root", "holds a '%', which not every mod_xsendfile reads alike"));
        }
        let quoted_header = |key: &str, value: &str| quoted(key, without(SERVER, key, value, "%")?);
        Ok(Self {
            config,
            address,
            port,
            server_name: plain(SERVER, "server.public_url", &host)?,
            store_root: quoted("store.root", root)?,
            upstreams: upstreams(config, options).iter().map(upstream).collect::<Result<_, _>>()?,
            published: published(config, &routes)?,
            routes,
            headers: quoted_headers(config, quoted_header)?,
        })
    }

    /// A complete file, for an Apache of its own that needs no privileges.
    fn whole(&self, options: &ProxyOptions) -> Result<String, ProxyConfError> {
        let directory = match &options.directory {
            Some(directory) => absolute(SERVER, "--directory", directory)?,
            None => return Err(refused("--directory", "is needed: where Apache keeps its pid and its logs")),
        };
        let at = |name: &str| quoted("--directory", &format!("{directory}/{name}"));
        let mut modules =
            vec!["mpm_event", "authz_core", "alias", "env", "headers", "mime", "proxy", "proxy_http", "rewrite"];
        if self.has(OffloadMode::Sendfile) {
            modules.push("xsendfile");
        }
        if self.upstreams.len() > 1 {
            modules.extend(["slotmem_shm", "proxy_balancer", "lbmethod_byrequests"]);
        }
        let mut text = String::from(
            "# Printed by `sendimage proxy-conf --server apache --whole`. Run it with: apache2 -f THIS_FILE -D FOREGROUND\n",
        );
        let _ = write!(
            text,
            "\
ServerRoot {root}
DefaultRuntimeDir {root}
PidFile {pid}
ErrorLog {log}
LogLevel warn
ServerName {server_name}
# Where Debian has its modules; on Red Hat's systems: /etc/httpd/modules
Define SENDIMAGE_MODULES /usr/lib/apache2/modules
",
            root = quoted("--directory", directory)?,
            server_name = self.server_name,
            pid = at("apache.pid")?,
            log = at("error.log")?,
        );
        for module in modules {
            let _ = writeln!(text, "LoadModule {module}_module ${{SENDIMAGE_MODULES}}/mod_{module}.so");
        }
        text.push_str("# The media types of images are said below.\nTypesConfig /dev/null\n");
        if let Some(user) = &options.user {
            let user = plain(SERVER, "--user", user)?;
            let (user, group) = user.split_once(':').unwrap_or((&user, &user));
            let _ = write!(text, "User {user}\nGroup {group}\n");
        }
        let address = if self.address.is_empty() { String::new() } else { format!("{}:", self.address) };
        let _ = write!(text, "Listen {address}{}\n\n{}", self.port, self.virtual_host());
        Ok(text)
    }

    fn has(&self, mode: OffloadMode) -> bool {
        self.routes.iter().any(|route| route.offload == mode)
    }

    fn virtual_host(&self) -> String {
        let mut text = String::new();
        self.balancer(&mut text);
        let _ = write!(
            text,
            "\
<VirtualHost *:{port}>
    ServerName {server_name}
    # An encoded slash stays one, and so do two slashes: with `nocanon` below, sendimage checks the signature over the path
    # exactly as the browser sent it.
    AllowEncodedSlashes NoDecode
    MergeSlashes Off
    # What the proxy would add: sendimage needs no addresses and no names.
    ProxyAddHeaders Off
    ProxyRequests Off
    RewriteEngine On
",
            port = self.port,
            server_name = self.server_name,
        );
        if self.config.server.public_url.starts_with("https:") {
            text.push_str(TLS);
        }
        if self.has(OffloadMode::Sendfile) {
            let _ = write!(
                text,
                "    # The one folder that files may come from; mod_xsendfile looks nowhere else, whatever a header says.
    XSendFilePath {}
",
                self.store_root
            );
        }
        text.push_str("    # An image is asked for without a body, and the proxy would begin to send one on.\n");
        for EffectiveRoute { prefix, .. } in &self.routes {
            let _ = write!(
                text,
                "    RewriteCond %{{HTTP:Content-Length}} [1-9] [OR]
    RewriteCond %{{HTTP:Transfer-Encoding}} .
    RewriteRule \"^{}\" - [R=413]
",
                prefix.replace('.', "\\.")
            );
        }
        for (number, route) in self.routes.iter().enumerate() {
            self.public_location(&mut text, route, number == 0);
        }
        if self.has(OffloadMode::Sendfile) {
            self.again(&mut text);
        }
        if let Some(prefix) = &self.published {
            self.published_location(&mut text, prefix);
        }
        text.push_str("</VirtualHost>\n");
        text
    }

    /// Several gates.
    fn balancer(&self, text: &mut String) {
        if self.upstreams.len() == 1 {
            return;
        }
        text.push_str(
            "# Needs slotmem_shm, proxy_balancer and lbmethod_byrequests, too.\n<Proxy \"balancer://sendimage\">\n",
        );
        for gate in &self.upstreams {
            let _ = writeln!(text, "    BalancerMember \"{gate}\" {}", self.worker().replace("retry=0", "retry=1"));
        }
        text.push_str("    # Another gate may be asked once.\n    ProxySet maxattempts=1\n</Proxy>\n\n");
    }

    fn gate(&self) -> &str {
        match self.upstreams.as_slice() {
            [one] => one,
            _ => "balancer://sendimage",
        }
    }

    /// What a connection to a gate may do.
    fn worker(&self) -> String {
        format!(
            "connectiontimeout=1 timeout={} retry=0 enablereuse=on ttl={} smax={}",
            read_seconds(self.config),
            idle_seconds(self.config),
            idle_connections(self.config),
        )
    }

    /// Where browsers come in. Comments appear in the first of these only.
    fn public_location(&self, text: &mut String, route: &EffectiveRoute, first: bool) {
        let EffectiveRoute { prefix, offload: mode, auth, .. } = route;
        let sends = *mode == OffloadMode::Sendfile;
        let hands_over = match mode {
            OffloadMode::Redirect => "the browser is sent to the file",
            OffloadMode::Direct => "sendimage sends the bytes itself",
            OffloadMode::Sendfile | OffloadMode::Accel | OffloadMode::AuthRequest => "Apache streams the file",
        };
        let worker = if self.upstreams.len() == 1 { format!(" {}", self.worker()) } else { String::new() };
        let mut public = format!(
            "
    # Signed URLs; {hands_over}.
    <Location \"{prefix}\">
        # timeout: render.deadline_seconds and two more, so that sendimage gives up first and says why. retry=0: a gate that could
        # not be reached is asked again at once. ttl: Apache lets go of an idle connection before sendimage does.
        ProxyPass \"{gate}{prefix}\" nocanon{worker}
",
            gate = self.gate(),
        );
        if sends {
            public.push_str(
                "        # X-Sendfile is obeyed here and nowhere else: whatever Apache proxies to could name a file with it.
        XSendFile On
        EnableSendfile On
        # A file that is gone is not a failure yet: ask once more.
        ErrorDocument 404 /_sendimage_again
",
            );
        }
        public.push_str(
            "        # Not for sendimage: the mark of a second look is Apache's alone, and where signatures alone decide, cookies and
        # passwords stay out of it. The request id is sendimage's own.
",
        );
        for name in kept_back(*auth) {
            let _ = writeln!(public, "        RequestHeader unset {name}");
        }
        self.client_address(&mut public);
        public.push_str(
            "        # Images are compressed already, and mod_deflate would take ranges away.
        SetEnv no-gzip 1
        ProxyErrorOverride Off
    </Location>
",
        );
        push_block(text, &public, first);
    }

    /// For sendimage's log, in place of whatever the browser says.
    fn client_address(&self, text: &mut String) {
        if let Some(header) = client_header(self.config) {
            let _ = writeln!(text, "        RequestHeader set {header} \"expr=%{{REMOTE_ADDR}}\"");
        }
    }

    /// The second look for a file that vanished between sendimage's check and Apache's open.
    fn again(&self, text: &mut String) {
        let _ = write!(
            text,
            "
    # The same request once more, marked, so that sendimage looks at the disk and renders what is not there. Only an
    # ErrorDocument leads here (REDIRECT_STATUS); a browser that asks for the path gets 404. By now Apache's own URI is this one;
    # THE_REQUEST is still the browser's.
    RewriteCond %{{ENV:REDIRECT_STATUS}} =404
    RewriteCond %{{THE_REQUEST}} \"^[A-Z]+ (/[^ ?]*)(?:\\?([^ ]*))? \"
    RewriteRule \"^/_sendimage_again$\" \"{gate}%1?%2\" [P,NE]
    <Location \"/_sendimage_again\">
        XSendFile On
        EnableSendfile On
",
            gate = self.gate(),
        );
        for name in kept_back(any_auth(&self.routes)).iter().filter(|name| **name != AGAIN) {
            let _ = writeln!(text, "        RequestHeader unset {name}");
        }
        self.client_address(text);
        text.push_str(
            "        RequestHeader set X-Sendimage-Again 1
        SetEnv no-gzip 1
    </Location>
",
        );
    }

    /// `redirect`: the same files in public, under names that cannot be guessed.
    fn published_location(&self, text: &mut String, prefix: &str) {
        let _ = write!(
            text,
            "
    # Where redirected browsers fetch the files. Names are digests, and never reused for other bytes. Both paths end in a slash.
    Alias \"{prefix}\" {root_slash}
    <Directory {root}>
        Require all granted
        AllowOverride None
        # No listings, and a link planted in the store leads nowhere.
        Options None
        EnableSendfile On
        FileETag MTime Size
        SetEnv no-gzip 1
        Header set Cache-Control \"public, max-age={max_age}\"
        Header always set Content-Security-Policy \"default-src 'none'; sandbox\"
        Header always set X-Content-Type-Options nosniff
",
            root = self.store_root,
            root_slash = format_args!("{}/\"", self.store_root.trim_end_matches('"')),
            max_age = self.config.cache.max_age_seconds,
        );
        for (name, value) in &self.headers {
            let _ = writeln!(text, "        Header set {name} {value}");
        }
        for (extension, media_type) in MEDIA_TYPES {
            let _ = writeln!(text, "        AddType {media_type} .{extension}");
        }
        let _ = write!(
            text,
            "    </Directory>
    # Half-written files and leases begin with a dot.
    <LocationMatch \"^{prefix}(.*/)?\\.\">
        Require all denied
    </LocationMatch>
",
            prefix = prefix.replace('.', "\\."),
        );
    }
}

/// The URL of a gate as mod_proxy writes it, without a slash at its end.
fn upstream(address: &ListenAddress) -> Result<String, ProxyConfError> {
    match address {
        ListenAddress::Tcp(address) => Ok(format!("http://{address}")),
        // `|` ends the path, and what else is read in it depends on the release.
        ListenAddress::Unix(path) => {
            let path = plain(SERVER, "server.listen", text_of("server.listen", path)?)?;
            Ok(format!("unix:{path}|http://sendimage"))
        }
    }
}

/// One argument of a directive. `${` begins a variable, inside quotes too.
fn quoted(key: &str, value: &str) -> Result<String, ProxyConfError> {
    without(SERVER, key, value, "")?;
    if value.contains("${") {
        return Err(refused(key, &format!("{value:?} holds \"${{\", which begins a variable in a config for Apache")));
    }
    Ok(format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
}

const HEAD: &str = "\
# Printed by `sendimage proxy-conf --server apache` from sendimage's own config: change that, and print this again.
#
# Needs these modules: alias env headers mime proxy proxy_http rewrite, and xsendfile for offload mode \"sendfile\". On Debian:
#     apt-get install libapache2-mod-xsendfile && a2enmod headers proxy_http rewrite xsendfile
";

const TLS: &str = "    # server.public_url is https: give this block its port, `SSLEngine on`, SSLCertificateFile and SSLCertificateKeyFile, or
    # put it behind whatever ends TLS.
";
