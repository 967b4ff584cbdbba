//! Renditions in an object store: nginx asks it for the bytes, at an address that sendimage has signed.

use std::fmt::Write as _;

use super::{
    ProxyConfError, ProxyOptions, Site,
    values::{plain, quoted_path},
};
use crate::config::{Config, StoreKind};

/// The store, in nginx's spelling.
pub(super) struct ObjectStore {
    /// Host and port to connect to.
    server: String,
    /// `Host`, as it is signed.
    host: String,
    /// The bucket's renditions, with a slash at both ends.
    path: String,
    is_https: bool,
    /// Where fetched objects are kept, and how many bytes of them.
    cache: Option<(String, u64)>,
    /// Seconds for an answer.
    timeout: f64,
}

impl ObjectStore {
    pub fn new(config: &Config, options: &ProxyOptions) -> Result<Option<Self>, ProxyConfError> {
        let Some(section) = config.store.s3.as_ref().filter(|_| config.store.kind == StoreKind::S3) else {
            return Ok(None);
        };
        let host = plain("store.s3.endpoint", &section.host())?;
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let server = match (has_port, section.is_https()) {
            (true, _) => host.clone(),
            (false, true) => format!("{host}:443"),
            (false, false) => format!("{host}:80"),
        };
        let folder = match &options.directory {
            Some(directory) => quoted_path("--directory", &directory.join("store_cache"))?,
            None if options.whole => "store_cache".to_owned(),
            None => "/var/cache/nginx-sendimage".to_owned(),
        };
        let max_bytes = config.offload.store_cache_max_bytes.0;
        Ok(Some(Self {
            server,
            host,
            path: plain("store.s3.prefix", &section.path())?,
            is_https: section.is_https(),
            cache: (max_bytes > 0).then_some((folder, max_bytes)),
            timeout: section.timeout_seconds.ceil().max(1.0),
        }))
    }
}

impl Site<'_> {
    /// Outside of the server block: where the store is, and where nginx keeps what it has fetched.
    pub(super) fn store_upstream(&self, text: &mut String, store: &ObjectStore) {
        let _ = write!(
            text,
            "
# The object store. nginx looks its addresses up when it starts and when it is reloaded: where they change, reload it now and then.
upstream sendimage_store {{
    server {server};
    keepalive 32;
}}
",
            server = store.server
        );
        if let Some((folder, max_bytes)) = &store.cache {
            let _ = write!(
                text,
                "
# Objects that were fetched (offload.store_cache_max_bytes). A name is never reused for other bytes, so none of them is ever stale.
proxy_cache_path {folder} levels=1:2 keys_zone=sendimage_store:16m max_size={max_bytes} inactive=30d use_temp_path=off;
"
            );
        }
    }

    /// Where `X-Accel-Redirect` leads.
    pub(super) fn store_location(&self, text: &mut String, store: &ObjectStore) {
        let scheme = if store.is_https { "https" } else { "http" };
        let _ = write!(
            text,
            "
    # The renditions. internal: only sendimage's X-Accel-Redirect leads here, a browser gets 404. Host and bucket are fixed here;
    # the path has only characters that are never encoded, and the query is the store's signature, which nginx passes on as it is.
    location ^~ {prefix} {{
        internal;
        # sendimage's answer is gone once the store is asked: what is needed of it is kept.
        set $sendimage_caching $upstream_http_x_sendimage_cache_control;
        set $sendimage_varies $upstream_http_x_sendimage_vary;
        set $sendimage_id $upstream_http_x_request_id;
        proxy_pass {scheme}://sendimage_store{path};
        # The address is signed for GET and for this host.
        proxy_method GET;
        proxy_set_header Host {host};
        proxy_http_version 1.1;
        proxy_set_header Connection \"\";
        # Nothing that a browser sends is the store's business: no cookie, no password, no header that would have to be signed.
        proxy_pass_request_headers off;
        proxy_pass_request_body off;
        proxy_set_header Content-Length \"\";
",
            prefix = self.config.offload.internal_prefix,
            path = store.path,
            host = store.host,
        );
        if store.is_https {
            let name = store.host.rsplit_once(':').map_or(store.host.as_str(), |(name, _)| name);
            let _ = write!(
                text,
                "        proxy_ssl_server_name on;
        proxy_ssl_name {name};
        proxy_ssl_verify on;
        proxy_ssl_verify_depth 4;
        # Whom the system trusts; other systems than Debian keep the file elsewhere.
        proxy_ssl_trusted_certificate /etc/ssl/certs/ca-certificates.crt;
"
            );
        }
        let _ = write!(
            text,
            "        proxy_connect_timeout 2s;
        proxy_send_timeout 5s;
        proxy_read_timeout {timeout}s;
        proxy_redirect off;
        # The store's word on redirects and caching counts for nothing: it may be somebody else's.
        proxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset Cache-Control
                             Expires Set-Cookie Vary;
",
            timeout = store.timeout,
        );
        for name in HIDDEN {
            let _ = writeln!(text, "        proxy_hide_header {name};");
        }
        text.push_str(match store.cache {
            Some(_) => CACHED,
            None => UNCACHED,
        });
        text.push_str(
            "        # An object that is gone, or a signature that is over, is not a failure yet: ask once more. Off, so that the second
        # one is the last.
        proxy_intercept_errors on;
        error_page 400 401 403 404 = @again;
        error_page 500 501 502 503 504 = @store_away;
        recursive_error_pages off;
        # No \"always\": a failure must not be cached as an image would be, and an empty value sends no header.
        add_header Cache-Control $sendimage_caching;
        add_header Vary $sendimage_varies;
        add_header X-Request-Id $sendimage_id;
",
        );
        for (name, value) in &self.headers {
            let _ = writeln!(text, "        add_header {name} {value};");
        }
        text.push_str(
            "        # An image that a browser is talked into reading as a page runs no script.
        add_header Content-Security-Policy \"default-src 'none'; sandbox\" always;
        add_header X-Content-Type-Options nosniff always;
        gzip off;
    }

    # The store cannot be reached, or asks for patience.
    location @store_away {
        add_header Retry-After 2 always;
        add_header Cache-Control no-store always;
        return 503;
    }
",
        );
        if store.cache.is_none() {
            text.push_str(
                "
    # Without the store's own words about it.
    location @no_such_range {
        return 416;
    }
",
            );
        }
    }
}

/// What stores say that is nobody's business, or that sendimage says itself.
const HIDDEN: [&str; 21] = [
    "Cache-Control",
    "Content-Disposition",
    "Expires",
    "Set-Cookie",
    "Vary",
    "Content-Security-Policy",
    "X-Content-Type-Options",
    "Access-Control-Allow-Origin",
    "Cross-Origin-Resource-Policy",
    "X-Request-Id",
    "x-amz-id-2",
    "x-amz-request-id",
    "x-amz-version-id",
    "x-amz-expiration",
    "x-amz-storage-class",
    "x-amz-server-side-encryption",
    "x-amz-replication-status",
    "x-amz-checksum-sha256",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-crc32",
    "x-amz-checksum-type",
];

const CACHED: &str = "        # Ranges and conditions are nginx's own business then: it fetches whole objects.
        proxy_cache sendimage_store;
        # Without the query: the signature is another one each time.
        proxy_cache_key $uri;
        proxy_cache_methods GET HEAD;
        # Some stores do not say that they know ranges; of what is kept nginx knows them by itself.
        proxy_force_ranges on;
        proxy_cache_valid 200 30d;
        proxy_cache_use_stale error timeout invalid_header updating http_500 http_502 http_503 http_504;
        # Off: who waits looks again every half second, and the store is faster than that.
        proxy_cache_lock off;
";

const UNCACHED: &str = "        proxy_cache off;
        # The store sees to ranges and conditions.
        proxy_set_header Range $http_range;
        proxy_set_header If-Range $http_if_range;
        proxy_set_header If-None-Match $http_if_none_match;
        proxy_set_header If-Modified-Since $http_if_modified_since;
        error_page 416 = @no_such_range;
";
