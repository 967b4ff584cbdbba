//! The text itself: upstream, server and locations, each directive with its reason beside it.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    super::{MEDIA_TYPES, idle_connections, idle_seconds, push_block, read_seconds},
    Site, any_auth, client_header,
    values::quoted_or_plain,
};
use crate::config::{AuthMode, EffectiveRoute, IDLE_FILE_SECONDS, OPEN_FILE_SECONDS, OffloadMode};

impl Site<'_> {
    /// The upstream and the server block.
    pub(super) fn blocks(&self, indent: &str) -> String {
        let mut text = String::from(HEAD);
        self.upstream_block(&mut text);
        self.verdict_cache(&mut text);
        let has = |mode| self.routes.iter().any(|route| route.offload == mode);
        let store = self.object_store.as_ref().filter(|_| has(OffloadMode::Accel));
        if let Some(store) = store {
            self.store_upstream(&mut text, store);
        }
        if self.has_query_tokens() {
            text.push_str(REDACTED_LOG);
        }
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
            tls = self.redacted_log() + if self.config.server.public_url.starts_with("https:") { TLS } else { "" },
        );
        let verdicts = has(OffloadMode::AuthRequest);
        let accel = has(OffloadMode::Accel) || verdicts;
        for (number, route) in self.routes.iter().enumerate() {
            match route.offload {
                OffloadMode::AuthRequest => self.judged_location(&mut text, &route.prefix),
                _ => self.public_location(&mut text, route, number == 0),
            }
        }
        if verdicts {
            self.verdict_locations(&mut text);
        }
        if accel {
            match store {
                Some(store) => self.store_location(&mut text, store),
                None => self.internal_location(&mut text),
            }
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
        let (keepalive, idle_seconds) = (idle_connections(self.config), idle_seconds(self.config));
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
    fn public_location(&self, text: &mut String, route: &EffectiveRoute, first: bool) {
        let mut public = String::new();
        let prefix = &route.prefix;
        let hands_over = match route.offload {
            OffloadMode::Accel if self.object_store.is_some() => "nginx fetches the file from the store",
            OffloadMode::Accel | OffloadMode::AuthRequest | OffloadMode::Sendfile => "nginx streams the file",
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
        self.proxy_settings(&mut public, route.auth);
        public.push_str(
            "        # Ours alone: a browser may not ask for the second look of @again.
        proxy_set_header X-Sendimage-Again \"\";
    }
",
        );
        push_block(text, &public, first);
    }

    /// Files kept open. To look for links in every part of a path costs nginx more than all else that it does for an image.
    pub(super) fn open_files(&self, seconds: u64) -> String {
        format!(
            "        # A file that was opened, without a link in its path, is served from its descriptor for a while: a purged one may be
        # seen for so long. The number is bounded by what worker_rlimit_nofile leaves beside connections.
        open_file_cache max={} inactive={IDLE_FILE_SECONDS}s;
        open_file_cache_valid {seconds}s;
        open_file_cache_errors off;
",
            self.open_files_max
        )
    }

    /// Whether tokens come in URLs, where every log would show them.
    fn has_query_tokens(&self) -> bool {
        self.config.auth.jwt.query && self.routes.iter().any(|route| route.auth == AuthMode::Jwt)
    }

    /// A log of requests without their queries, where those may hold tokens.
    fn redacted_log(&self) -> String {
        match self.has_query_tokens() {
            true => format!("    access_log {} sendimage_without_query;\n", self.access_log),
            false => String::new(),
        }
    }

    /// What every proxied request to the gate needs.
    pub(super) fn proxy_settings(&self, text: &mut String, auth: AuthMode) {
        let read_seconds = read_seconds(self.config);
        // A second gate may be asked; a lone one gets a retry only where nginx met a kept connection that had closed.
        let next = match self.upstreams.len() {
            1 => "proxy_next_upstream error;",
            _ => "proxy_next_upstream error timeout;\n        proxy_next_upstream_tries 2;",
        };
        let mut credentials = match auth {
            AuthMode::Off => {
                "        # Signatures alone decide: cookies and passwords stay out of it.
        proxy_set_header Cookie \"\";
        proxy_set_header Authorization \"\";
"
            }
            // nginx passes both on by itself.
            AuthMode::Jwt | AuthMode::Forward => "        # Cookie and Authorization say who asks: they go along.\n",
        }
        .to_owned();
        if let Some(header) = client_header(self.config) {
            let _ = writeln!(
                credentials,
                "        # For sendimage's log. Never what the browser says: this line replaces it.
        proxy_set_header {header} $remote_addr;"
            );
        }
        let _ = write!(
            text,
            "        proxy_http_version 1.1;
        proxy_set_header Connection \"\";
        # sendimage makes the id that its answer and its log share: nginx's own costs it more than any other line here, and a
        # browser's is nobody's business. A log of nginx's has it as $upstream_http_x_request_id.
        proxy_set_header X-Request-Id \"\";
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
{CACHE_OFF}        proxy_hide_header X-Sendimage-Cache-Control;
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
        self.file_settings(text, &self.open_files(OPEN_FILE_SECONDS));
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
        self.proxy_settings(&mut settings, any_auth(&self.routes));
        push_block(text, &settings, false);
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
        self.file_settings(text, CLOSED);
        text.push_str("    }\n");
    }

    /// What holds for every image file that nginx opens.
    pub(super) fn file_settings(&self, text: &mut String, open_files: &str) {
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
{open_files}        default_type application/octet-stream;
        types {{
"
        );
        // The usual extension of a type first.
        let mut extensions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (extension, media_type) in MEDIA_TYPES.iter().rev() {
            extensions.entry(media_type).or_default().push(extension);
        }
        for (media_type, extensions) in extensions {
            let _ = writeln!(text, "            {media_type} {};", extensions.join(" "));
        }
        text.push_str("        }\n");
    }
}

/// A line that a location with verdicts does without.
pub(super) const CACHE_OFF: &str = "        proxy_cache off;\n";

const CLOSED: &str = "        # A purged file is gone at once, not when a cached descriptor expires.
        open_file_cache off;
";

const HEAD: &str = "\
# Printed by `sendimage proxy-conf` from sendimage's own config: change that, and print this again.
#
# A limit for each address belongs to the site. Lines such as these go here, above the server block
#     limit_req_zone $binary_remote_addr zone=images:10m rate=100r/s;
# and these into the signed locations below, where they count each request once:
#     limit_req zone=images burst=200 nodelay;
#
# Worth logging (an image is logged by the internal location's access_log, so do not turn it off there):
#     log_format images '$remote_addr $status $body_bytes_sent $request_time $upstream_response_time $upstream_http_x_request_id';

";

const REDACTED_LOG: &str = r#"
# auth.jwt.query: tokens in URLs stay out of this log. error_log shows whole requests all the same: keep it to yourself.
map $request_uri $sendimage_logged_uri {
    ~^(?<sendimage_uri_path>[^?]*) $sendimage_uri_path;
}
log_format sendimage_without_query '$remote_addr - $remote_user [$time_local] "$request_method $sendimage_logged_uri $server_protocol" '
                                   '$status $body_bytes_sent "-" "$http_user_agent"';
"#;

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
