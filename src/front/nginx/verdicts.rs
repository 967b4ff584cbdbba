//! `auth_request`: where nginx keeps verdicts, asks for them, and serves by itself what it has one on.

use std::fmt::Write as _;

use super::{super::push_block, Site, any_auth, blocks::CACHE_OFF};
use crate::config::{OPEN_FILE_SECONDS, OffloadMode};

impl Site<'_> {
    /// Where nginx keeps verdicts.
    pub(super) fn verdict_cache(&self, text: &mut String) {
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
    pub(super) fn judged_location(&self, text: &mut String, prefix: &str) {
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

    /// The verdict itself, and the plain request for whatever it does not settle.
    pub(super) fn verdict_locations(&self, text: &mut String) {
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
        push_block(text, &settings.replace(CACHE_OFF, ""), false);
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
        push_block(text, &settings, false);
        text.push_str("        proxy_set_header X-Sendimage-Again \"\";\n    }\n");
    }

    /// Open files beside verdicts are kept for as long as these.
    fn verdict_seconds(&self) -> u64 {
        self.config.offload.verdict_cache_seconds.max(OPEN_FILE_SECONDS)
    }
}
