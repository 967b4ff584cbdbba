//! The lighttpd config that fits ours: mod_proxy asks, and lighttpd's own `x-sendfile` streams.
//!
//! Each line answers something seen with lighttpd 1.4.69: it decodes slashes in paths before it sends them on, takes files from
//! any folder unless it is told one, and remembers what it knows of a file. A file that vanished before lighttpd could open it is a
//! 404 without the answer's other headers; lighttpd has no way to ask once more.

use std::fmt::Write as _;

use super::{
    MEDIA_TYPES, ProxyConfError, ProxyOptions, WebServer, absolute, client_header, kept_back, listen_on, plain,
    public_address, published, push_block, quoted_headers, read_seconds, refused, routes, text_of, upstreams, without,
};
use crate::config::{Config, EffectiveRoute, ListenAddress, OffloadMode};

const SERVER: WebServer = WebServer::Lighttpd;

/// Prints the config.
pub(super) fn lighttpd_conf(config: &Config, options: &ProxyOptions) -> Result<String, ProxyConfError> {
    let site = Site::new(config, options)?;
    match options.whole {
        false => Ok(site.part()),
        true => site.whole(options),
    }
}

/// Everything the text needs, already in lighttpd's spelling.
struct Site<'a> {
    config: &'a Config,
    address: String,
    port: String,
    server_name: String,
    /// In quotes.
    store_root: String,
    /// The inside of a host in `proxy.server`.
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
        // A later block overrides an earlier one, and the longest prefix decides.
        routes.sort_by_key(|route| route.prefix.len());
        Ok(Self {
            config,
            address,
            port,
            server_name: plain(SERVER, "server.public_url", &host)?,
            store_root: quoted("store.root", absolute(SERVER, "store.root", &config.store.root)?)?,
            upstreams: upstreams(config, options).iter().map(upstream).collect::<Result<_, _>>()?,
            published: published(config, &routes)?,
            routes,
            headers: quoted_headers(config, quoted)?,
        })
    }

    /// A file for `conf-enabled`.
    fn part(&self) -> String {
        let modules =
            "server.modules += ( \"mod_proxy\", \"mod_setenv\", \"mod_access\", \"mod_alias\", \"mod_expire\" )\n";
        let mut text =
            format!("{HEAD}{modules}\n$HTTP[\"host\"] =~ \"^{}(:[0-9]+)?$\" {{\n", pattern(&self.server_name));
        if self.config.server.public_url.starts_with("https:") {
            text.push_str(
                "    # server.public_url is https: TLS belongs to the site's own $SERVER[\"socket\"] block.\n",
            );
        }
        self.blocks(&mut text, "    ");
        text.push_str("}\n");
        text
    }

    /// A complete file, for a lighttpd of its own that needs no privileges.
    fn whole(&self, options: &ProxyOptions) -> Result<String, ProxyConfError> {
        let directory = match &options.directory {
            Some(directory) => absolute(SERVER, "--directory", directory)?,
            None => return Err(refused("--directory", "is needed: where lighttpd keeps its pid and its log")),
        };
        let at = |name: &str| quoted("--directory", &format!("{directory}/{name}"));
        let mut text = String::from(
            "# Printed by `sendimage proxy-conf --server lighttpd --whole`. Run it with: lighttpd -D -f THIS_FILE\n",
        );
        let address = self.address.trim_start_matches('[').trim_end_matches(']');
        if !address.is_empty() && address != "*" {
            let _ = writeln!(text, "server.bind = \"{address}\"");
        }
        let _ = write!(
            text,
            "\
server.port = {port}
server.modules = ( \"mod_proxy\", \"mod_setenv\", \"mod_access\", \"mod_alias\", \"mod_expire\" )
# Nothing is served but what the blocks below say.
server.document-root = {nothing}
server.pid-file = {pid}
server.errorlog = {log}
server.upload-dirs = ( {uploads} )
{PARSING}",
            port = self.port,
            nothing = at("nothing")?,
            pid = at("lighttpd.pid")?,
            log = at("error.log")?,
            uploads = at("")?,
        );
        if let Some(user) = &options.user {
            let user = plain(SERVER, "--user", user)?;
            let (user, group) = user.split_once(':').unwrap_or((&user, &user));
            let _ = write!(text, "server.username = \"{user}\"\nserver.groupname = \"{group}\"\n");
        }
        text.push('\n');
        self.blocks(&mut text, "");
        Ok(text)
    }

    fn blocks(&self, text: &mut String, indent: &str) {
        let mut blocks = String::new();
        for (number, route) in self.routes.iter().enumerate() {
            self.public_block(&mut blocks, route, number == 0);
        }
        if let Some(prefix) = &self.published {
            self.published_block(&mut blocks, prefix);
        }
        for line in blocks.trim_start_matches('\n').lines() {
            match line {
                "" => text.push('\n'),
                line => {
                    let _ = writeln!(text, "{indent}{line}");
                }
            }
        }
    }

    /// Where browsers come in. Comments appear in the first of these only.
    fn public_block(&self, text: &mut String, route: &EffectiveRoute, first: bool) {
        let EffectiveRoute { prefix, offload: mode, auth, .. } = route;
        let sends = *mode == OffloadMode::Sendfile;
        let hands_over = match mode {
            OffloadMode::Redirect => "the browser is sent to the file",
            OffloadMode::Direct => "sendimage sends the bytes itself",
            OffloadMode::Sendfile | OffloadMode::Accel | OffloadMode::AuthRequest => "lighttpd streams the file",
        };
        let mut public = format!(
            "
# Signed URLs; {hands_over}.
$HTTP[\"url\"] =~ \"^{prefix}\" {{
    # read-timeout: render.deadline_seconds and two more, so that sendimage gives up first and says why.
",
            prefix = pattern(prefix)
        );
        if sends {
            public.push_str(
                "    # x-sendfile-docroot: the one folder that files may come from, whatever a header says. Without it: any.\n",
            );
        }
        public.push_str("    proxy.server = ( \"\" => (\n");
        for gate in &self.upstreams {
            let files = match sends {
                true => format!(
                    ",\n          \"x-sendfile\" => \"enable\", \"x-sendfile-docroot\" => ( {} )",
                    self.store_root
                ),
                false => String::new(),
            };
            let _ = writeln!(
                public,
                "        ( {gate}, \"connect-timeout\" => 1, \"write-timeout\" => 5, \"read-timeout\" => {read}{files} ),",
                read = read_seconds(self.config)
            );
        }
        public.push_str("    ) )\n");
        if self.upstreams.len() > 1 {
            public.push_str("    proxy.balance = \"least-connection\"\n");
        }
        public.push_str(
            "    # Not for sendimage: nobody marks a second look here, and where signatures alone decide, cookies and passwords stay
    # out of it. The request id is sendimage's own.
    setenv.set-request-header = (
",
        );
        // lighttpd has no variable for the client's address here: what a browser says of itself must not get through.
        for name in kept_back(*auth).iter().copied().chain(client_header(self.config)) {
            let _ = writeln!(public, "        \"{name}\" => \"\",");
        }
        public.push_str(
            "    )
    # An image is asked for without a body: more than a kilobyte is refused here, less by sendimage.
    server.max-request-size = 1
    # A link planted in the store leads nowhere.
    server.follow-symlink = \"disable\"
}
",
        );
        push_block(text, &public, first);
    }

    /// `redirect`: the same files in public, under names that cannot be guessed.
    fn published_block(&self, text: &mut String, prefix: &str) {
        let _ = write!(
            text,
            "
# Where redirected browsers fetch the files. Names are digests, and never reused for other bytes. Both paths end in a slash.
$HTTP[\"url\"] =~ \"^{prefix_pattern}\" {{
    alias.url = ( \"{prefix}\" => {root_slash} )
    server.follow-symlink = \"disable\"
    etag.use-inode = \"disable\"
    # Unlike a header that is set, this one is for files that are there: an error must not be in caches as an image is.
    expire.url = ( \"\" => \"access plus {max_age} seconds\" )
    setenv.set-response-header = (
        \"Content-Security-Policy\" => \"default-src 'none'; sandbox\",
        \"X-Content-Type-Options\" => \"nosniff\",
",
            prefix_pattern = pattern(prefix),
            root_slash = format_args!("{}/\"", self.store_root.trim_end_matches('"')),
            max_age = self.config.cache.max_age_seconds,
        );
        for (name, value) in &self.headers {
            let _ = writeln!(text, "        \"{name}\" => {value},");
        }
        text.push_str("    )\n    mimetype.assign = (\n");
        for (extension, media_type) in MEDIA_TYPES {
            let _ = writeln!(text, "        \".{extension}\" => \"{media_type}\",");
        }
        text.push_str(
            "    )
    # Half-written files and leases begin with a dot.
    $HTTP[\"url\"] =~ \"/\\.\" {
        url.access-deny = ( \"\" )
    }
}
",
        );
    }
}

/// The inside of a host in `proxy.server`.
fn upstream(address: &ListenAddress) -> Result<String, ProxyConfError> {
    match address {
        ListenAddress::Tcp(address) => Ok(format!("\"host\" => \"{}\", \"port\" => {}", address.ip(), address.port())),
        ListenAddress::Unix(path) => {
            Ok(format!("\"socket\" => {}", quoted("server.listen", text_of("server.listen", path)?)?))
        }
    }
}

/// A string. Whether a backslash is one or begins an escape depends on what follows it, so there is none.
fn quoted(key: &str, value: &str) -> Result<String, ProxyConfError> {
    Ok(format!("\"{}\"", without(SERVER, key, value, "\"\\")?))
}

/// A prefix or a host as a regular expression: both hold no other character with a meaning there.
fn pattern(text: &str) -> String {
    text.replace('.', "\\.").replace('[', "\\[").replace(']', "\\]")
}

/// Global in lighttpd: it cannot be said for some URLs only.
const PARSING: &str = "\
# The target reaches sendimage as the browser sent it, which is what the signature is over: nothing in it is decoded, encoded or
# removed.
server.http-parseopts = (
    \"header-strict\" => \"enable\",
    \"host-strict\" => \"enable\",
    \"host-normalize\" => \"enable\",
    \"url-normalize\" => \"disable\",
    \"url-path-2f-decode\" => \"disable\",
)
";

const HEAD: &str = "\
# Printed by `sendimage proxy-conf --server lighttpd` from sendimage's own config: change that, and print this again.
#
# This line belongs into lighttpd.conf itself, in server.http-parseopts, where Debian has \"enable\": an encoded slash has to reach
# sendimage as the browser sent it, which is what the signature is over. Without it, only names with a slash in them are refused.
#     \"url-path-2f-decode\" => \"disable\",
";
