//! The text itself: upstream, server and locations, each directive with its reason beside it.

use std::fmt::Write as _;

use super::{Site, any_auth, client_header, values::quoted_or_plain};
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

    /// Where nginx keeps verdicts.
    fn verdict_cache(&self, text: &mut String) {
        if !self.routes.iter().any(|route| route.offload == OffloadMode::AuthRequest) {
            return;
        }
        let _ = write!(
            text,
            "
# Verdicts on URLs, each a small file that lives for seconds: a folder in memory (tmpfs) suits them best.
proxy_cache_path {} levels=1:2 keys_zone=sendimage_verdicts:16m max_size=256m inactive=10m use_temp_path=off;
",
            self.verdict_folder
        );
    }

    /// Where browsers come in, and nginx serves by itself what it has a verdict on.
    fn judged_location(&self, text: &mut String, prefix: &str) {
        let _ = write!(
            text,
            "
    # Signed URLs; nginx asks for a verdict, keeps it, and streams the file. ^~ keeps a regex location (\\.(jpg|webp)$, say)
    # from taking them away.
    location ^~ {prefix} {{
        auth_request /_verdict;
        auth_request_set $sendimage_path $upstream_http_x_sendimage_path;
        auth_request_set $sendimage_cache_control $upstream_http_x_sendimage_cache_control;
        auth_request_set $sendimage_vary $upstream_http_x_sendimage_vary;
        auth_request_set $sendimage_disposition $upstream_http_content_disposition;
        root {root};
        # Without a path in the verdict, or without the file, ask plainly; so too where a verdict cannot be had (500), and for
        # methods that files do not know (405): sendimage says what is the matter.
        try_files /$sendimage_path @plain;
        error_page 404 405 500 = @plain;
        recursive_error_pages off;
        client_max_body_size 1k;
        add_header Cache-Control $sendimage_cache_control;
        add_header Vary $sendimage_vary;
        add_header Content-Disposition $sendimage_disposition;
",
            root = self.store_root,
        );
        self.file_settings(text, &self.open_files(self.verdict_seconds()));
        text.push_str("    }\n");
    }

    /// Open files beside verdicts are kept for as long as these.
    fn verdict_seconds(&self) -> u64 {
        self.config.offload.verdict_cache_seconds.max(OPEN_FILE_SECONDS)
    }

    /// Files kept open. To look for links in every part of a path costs nginx more than all else that it does for an image.
    fn open_files(&self, seconds: u64) -> String {
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

    /// The verdict itself, and the plain request for whatever it does not settle.
    fn verdict_locations(&self, text: &mut String) {
        text.push_str(
            "
    # internal: a browser gets 404. sendimage says with X-Accel-Expires how long an answer is kept: a refusal for a second,
    # what settles nothing not at all.
    location = /_verdict {
        internal;
        proxy_pass http://sendimage/_verdict;
        proxy_set_header X-Original-URI $request_uri;
",
        );
        let mut settings = String::new();
        self.proxy_settings(&mut settings, any_auth(&self.routes));
        let code = |line: &&str| !line.trim_start().starts_with('#');
        for line in settings.lines().filter(code).filter(|line| !line.contains("proxy_cache off")) {
            let _ = writeln!(text, "{line}");
        }
        let _ = write!(
            text,
            "        proxy_set_header X-Sendimage-Again \"\";
        proxy_cache sendimage_verdicts;
        # All that the verdict depends on, but for Accept and what says who asks: sendimage names those with Vary, and nginx keeps
        # a verdict for each.
        proxy_cache_key $request_uri;
        proxy_cache_methods GET HEAD;
        proxy_ignore_headers Cache-Control Expires Set-Cookie;
        # Off: who waits looks again every half second, and a verdict is faster than that.
        proxy_cache_lock off;
        proxy_cache_use_stale off;
        # What is said here stays with the connection, and the file is sent on it.
        sendfile on;
        tcp_nopush on;
{open_files}    }}

    # The request as it came. Here sendimage renders, and tells why where it does not.
    location @plain {{
        proxy_pass http://sendimage$request_uri;
",
            open_files = self.open_files(self.verdict_seconds()),
        );
        for line in settings.lines().filter(code) {
            let _ = writeln!(text, "{line}");
        }
        text.push_str("        proxy_set_header X-Sendimage-Again \"\";\n    }\n");
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
    fn proxy_settings(&self, text: &mut String, auth: AuthMode) {
        let read_seconds = (self.config.render.deadline_seconds + 2.0).ceil();
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
        self.file_settings(text, CLOSED);
        text.push_str("    }\n");
    }

    /// What holds for every image file that nginx opens.
    fn file_settings(&self, text: &mut String, open_files: &str) {
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
