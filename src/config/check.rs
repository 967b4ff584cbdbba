//! What makes a whole config acceptable, and what is allowed with caution.

use std::collections::BTreeSet;

use super::{
    AuthMode, CatalogueKind, Config, CoordinationConfig, CoordinationKind, Existence, ListenAddress, OffloadMode,
    SourceConfig, SourceKind, StoreKind, bucket::check_bucket, budget::IDLE_FILE_SECONDS,
};
use crate::{
    model::ImageFormat,
    spec::{FilterSpec, Operation},
};

impl Config {
    /// Everything that makes the config unusable as a whole: key and sentence.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut problem = |key: &str, message: String| problems.push((key.to_owned(), message));

        for (key, seconds) in [
            ("server.header_timeout_seconds", self.server.header_timeout_seconds),
            ("server.drain_seconds", self.server.drain_seconds),
            ("catalogue.cache_seconds", self.catalogue.cache_seconds),
            ("catalogue.stale_seconds", self.catalogue.stale_seconds),
            ("catalogue.timeout_seconds", self.catalogue.timeout_seconds),
            ("render.deadline_seconds", self.render.deadline_seconds),
            ("store.remember_seconds", self.store.remember_seconds),
            ("store.eviction_grace_seconds", self.store.eviction_grace_seconds),
            ("store.gc_grace_seconds", self.store.gc_grace_seconds),
            ("coordination.lease_seconds", self.coordination.lease_seconds),
            ("coordination.timeout_seconds", self.coordination.timeout_seconds),
            ("page.session_seconds", self.page.session_seconds),
            ("auth.jwt.jwks_refresh_seconds", self.auth.jwt.jwks_refresh_seconds),
            ("auth.forward.timeout_seconds", self.auth.forward.timeout_seconds),
            ("auth.forward.cache_seconds", self.auth.forward.cache_seconds),
        ] {
            if !(0.0..=1e9).contains(&seconds) {
                problem(key, format!("{seconds} is not a number of seconds"));
            }
        }
        for (key, value) in [
            ("server.header_timeout_seconds", self.server.header_timeout_seconds),
            ("catalogue.timeout_seconds", self.catalogue.timeout_seconds),
            ("render.deadline_seconds", self.render.deadline_seconds),
            ("auth.jwt.jwks_refresh_seconds", self.auth.jwt.jwks_refresh_seconds),
            ("auth.forward.timeout_seconds", self.auth.forward.timeout_seconds),
            ("coordination.lease_seconds", self.coordination.lease_seconds),
            ("coordination.timeout_seconds", self.coordination.timeout_seconds),
            ("server.max_connections", self.server.max_connections as f64),
            ("catalogue.max_connections", self.catalogue.max_connections as f64),
            ("render.memory_budget", self.render.memory_budget.0 as f64),
        ] {
            if value == 0.0 {
                problem(key, "must be more than 0".into());
            }
        }
        if !(self.server.public_url.starts_with("http://") || self.server.public_url.starts_with("https://"))
            || self.server.public_url.ends_with('/')
        {
            problem("server.public_url", "must begin with http:// or https:// and not end in a slash".into());
        }
        self.check_prefixes(&mut problem);
        self.check_names(&mut problem);
        self.check_presets(&mut problem);
        self.check_rendering(&mut problem);
        self.check_offload(&mut problem);
        self.check_catalogue(&mut problem);
        self.check_coordination(&mut problem);
        self.check_headers(&mut problem);
        self.check_page(&mut problem);
        self.check_auth(&mut problem);
        self.check_budget(&mut problem);
        self.check_tracing(&mut problem);
        for (name, source) in &self.sources {
            if source.kind == SourceKind::Fs && source.root.as_os_str().is_empty() {
                problem(&format!("sources.{name}.root"), "is not set: the folder that originals are in".into());
            }
            self.check_http(name, source, &mut problem);
            let wanted = source.kind == SourceKind::S3;
            check_bucket(&format!("sources.{name}"), wanted, source.s3.as_ref(), &mut problem);
        }
        check_bucket("store", self.store.kind == StoreKind::S3, self.store.s3.as_ref(), &mut problem);
        if self.store.kind == StoreKind::Fs && self.store.root.as_os_str().is_empty() {
            problem("store.root", "is not set: the folder that renditions are kept in".into());
        }
        problems
    }

    fn check_http(&self, name: &str, source: &SourceConfig, problem: &mut impl FnMut(&str, String)) {
        let section = format!("sources.{name}.http");
        match (source.kind, &source.http) {
            (SourceKind::Http, None) => problem(&section, "is needed: base_url, or allow".into()),
            (SourceKind::Http, Some(http)) => {
                for (key, message) in http.problems() {
                    problem(&format!("{section}.{key}"), message);
                }
            }
            (_, Some(_)) => problem(&section, "is for kind = \"http\" alone".into()),
            (_, None) => {}
        }
    }

    fn check_prefixes(&self, problem: &mut impl FnMut(&str, String)) {
        let well_formed = |prefix: &str| {
            prefix.len() >= 2
                && prefix.starts_with('/')
                && prefix.ends_with('/')
                && !prefix.contains("//")
                && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~'))
                && !prefix.split('/').any(|segment| matches!(segment, "." | ".."))
        };
        const RULE: &str = "must begin and end with a slash and hold letters, digits, '-', '_', '.', '~' between them";
        if !well_formed(&self.server.url_prefix) {
            problem("server.url_prefix", RULE.into());
        }
        if !well_formed(&self.offload.internal_prefix) {
            problem("offload.internal_prefix", RULE.into());
        }
        let mut seen = BTreeSet::new();
        for (name, route) in &self.routes {
            let key = format!("routes.{name}.prefix");
            if !well_formed(&route.prefix) {
                problem(&key, RULE.into());
            }
            if !seen.insert(&route.prefix) {
                problem(&key, format!("another route has the prefix {:?} too", route.prefix));
            }
            if route.prefix == self.offload.internal_prefix {
                problem(&key, "is the internal location's own prefix (offload.internal_prefix)".into());
            }
        }
        if self.routes.is_empty() && self.server.url_prefix == self.offload.internal_prefix {
            problem("server.url_prefix", "is the internal location's own prefix (offload.internal_prefix)".into());
        }
    }

    fn check_names(&self, problem: &mut impl FnMut(&str, String)) {
        for (section, names) in [
            ("sources", self.sources.keys().collect::<Vec<_>>()),
            ("routes", self.routes.keys().collect()),
            ("watermarks", self.watermarks.keys().collect()),
            ("presets", self.presets.keys().collect()),
            ("preset_sets", self.preset_sets.keys().collect()),
        ] {
            for name in names {
                if !is_name(name) {
                    problem(&format!("{section}.{name}"), "a name holds letters, digits, '-' and '_'".into());
                }
            }
        }
        for key in &self.signing.keys {
            for source in key.sources.iter().flatten().filter(|source| !self.sources.contains_key(*source)) {
                problem("signing.keys", format!("the key {:?} is for a source that is none: {source:?}", key.id));
            }
        }
        for name in self.sources.keys().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
            problem(
                &format!("sources.{name}"),
                "a source's name is not all digits: those are image ids in URLs".into(),
            );
        }
    }

    fn check_presets(&self, problem: &mut impl FnMut(&str, String)) {
        let unknown_marks = |spec: &FilterSpec| -> Vec<String> {
            let marks = spec.operations().iter().filter_map(|operation| match operation {
                Operation::Watermark(name) => Some(name.as_str()),
                _ => None,
            });
            let unknown = marks.filter(|name| !self.watermarks.contains_key(*name));
            unknown.map(|name| format!("there is no [watermarks.{name}]")).collect()
        };
        for (name, spec) in &self.presets {
            let key = format!("presets.{name}");
            match FilterSpec::parse(spec) {
                Err(error) => problem(&key, format!("not a filter spec: {error}")),
                Ok(spec) => unknown_marks(&spec).into_iter().for_each(|says| problem(&key, says)),
            }
            if FilterSpec::parse(name).is_ok() {
                problem(&key, "a preset is not named like a filter spec".into());
            }
        }
        for (name, entries) in &self.preset_sets {
            let key = format!("preset_sets.{name}");
            for entry in entries.iter().filter(|entry| !self.presets.contains_key(*entry)) {
                match FilterSpec::parse(entry) {
                    Err(_) => problem(&key, format!("{entry:?} is neither a preset nor a filter spec")),
                    Ok(spec) => unknown_marks(&spec).into_iter().for_each(|says| problem(&key, says)),
                }
            }
        }
    }

    fn check_rendering(&self, problem: &mut impl FnMut(&str, String)) {
        for (from, to) in &self.render.format_conversions {
            let key = format!("render.format_conversions.{from}");
            if matches!(to, ImageFormat::Heic | ImageFormat::Bmp | ImageFormat::Tiff | ImageFormat::Svg) {
                problem(&key, format!("{to} is not written: jpeg, png, webp, avif, gif and ico are"));
            }
            if *from == ImageFormat::Svg {
                problem(&key, "SVG stays SVG unless a spec asks for another format".into());
            }
        }
        for (name, watermark) in &self.watermarks {
            for (key, value, most) in [
                ("opacity_percent", watermark.opacity_percent, 100),
                ("width_percent", watermark.width_percent, 100),
                ("margin_percent", watermark.margin_percent, 49),
            ] {
                if value > most || (key == "width_percent" && value == 0) {
                    problem(&format!("watermarks.{name}.{key}"), format!("is a share in percent, at most {most}"));
                }
            }
        }
    }

    fn check_offload(&self, problem: &mut impl FnMut(&str, String)) {
        // nginx and Caddy come back for a file that is not there; lighttpd and browsers do not.
        let comes_back = |mode: &OffloadMode| matches!(mode, OffloadMode::Accel | OffloadMode::AuthRequest);
        let modes: Vec<_> = self.effective_routes().into_values().map(|route| route.offload).collect();
        if modes.contains(&OffloadMode::Sendfile)
            && self.store.root.as_os_str().as_encoded_bytes().iter().any(u8::is_ascii_control)
        {
            problem("store.root", "holds a control character, which X-Sendfile cannot".into());
        }
        let needs_files =
            |mode: &OffloadMode| matches!(mode, OffloadMode::Sendfile | OffloadMode::Direct | OffloadMode::AuthRequest);
        if self.store.kind == StoreKind::S3 && modes.iter().any(needs_files) {
            problem(
                "offload.mode",
                "with store.kind = \"s3\" there are no files to send: it is \"accel\", where nginx fetches from the store, or \
                 \"redirect\", where browsers do"
                    .into(),
            );
        }
        if self.store.believes() && !modes.iter().all(comes_back) {
            problem(
                "store.existence",
                "must be \"check\" where a route's offload mode is \"sendfile\", \"redirect\" or \"direct\": a rendition that is \
                 not there after all is rendered when nginx asks again"
                    .into(),
            );
        }
        if !matches!(self.offload.redirect_status, 301 | 302 | 307) {
            problem("offload.redirect_status", "is one of 301, 302, 307".into());
        }
        let redirects = modes.contains(&OffloadMode::Redirect);
        let url = &self.offload.redirect_url;
        let printable = url.bytes().all(|b| b.is_ascii_graphic());
        let is_path = url.starts_with('/') && self.store.kind == StoreKind::Fs;
        let absolute = is_path || url.starts_with("http://") || url.starts_with("https://");
        // A store that signs its addresses needs no other.
        let signs = self.store.kind == StoreKind::S3 && url.is_empty();
        if redirects && !signs && !(printable && absolute && url.ends_with('/')) {
            problem(
                "offload.redirect_url",
                "is needed by mode \"redirect\": a URL or an absolute path, with a slash at its end".into(),
            );
        }
    }

    fn check_coordination(&self, problem: &mut impl FnMut(&str, String)) {
        let CoordinationConfig { kind, url, url_file, namespace, .. } = &self.coordination;
        let asks = matches!(kind, CoordinationKind::Redis | CoordinationKind::Postgres);
        match (url, url_file) {
            (Some(_), Some(_)) => problem("coordination.url_file", "is given beside coordination.url".into()),
            (None, None) if asks => problem("coordination.url", "is needed: where the gates meet".into()),
            _ => {}
        }
        if !is_name(namespace) || namespace.len() > 40 {
            problem("coordination.namespace", "holds letters, digits, '-' and '_', 40 at most".into());
        }
        // Shorter than a hiccup of the network is no sign of death.
        if self.coordination.lease_seconds < 1.0 {
            problem("coordination.lease_seconds", "is at least 1".into());
        }
    }

    fn check_headers(&self, problem: &mut impl FnMut(&str, String)) {
        let headers = &self.headers;
        for (key, value) in [
            ("headers.access_control_allow_origin", &headers.access_control_allow_origin),
            ("headers.cross_origin_resource_policy", &headers.cross_origin_resource_policy),
        ] {
            if value.as_ref().is_some_and(|value| value.is_empty() || !value.bytes().all(|b| matches!(b, b' '..=b'~')))
            {
                problem(key, "is a header's value: printable ASCII, and not empty".into());
            }
        }
    }

    fn check_catalogue(&self, problem: &mut impl FnMut(&str, String)) {
        let catalogue = &self.catalogue;
        let example = match catalogue.kind {
            CatalogueKind::None | CatalogueKind::Manifest => None,
            CatalogueKind::Sqlite => Some("sqlite:///path/to/db.sqlite3"),
            CatalogueKind::Postgres => Some("postgres://user@host/database, or url_file"),
            CatalogueKind::Mysql => Some("mysql://user@host/database, or url_file"),
        };
        match (example, &catalogue.url, &catalogue.url_file) {
            (Some(example), None, None) => problem("catalogue.url", format!("is needed: {example}")),
            (_, Some(_), Some(_)) => problem("catalogue.url", "and url_file exclude each other".into()),
            _ => {}
        }
        if catalogue.kind == CatalogueKind::Manifest && catalogue.file.is_none() {
            problem("catalogue.file", "is needed: a CSV or JSON file".into());
        }
        // A manifest's rows are read at once, and say themselves when they name no source.
        let names_source = catalogue.query.as_ref().is_some_and(|query| query.to_lowercase().contains("source"));
        match &catalogue.source {
            Some(source) if !self.sources.contains_key(source) => {
                problem("catalogue.source", format!("there is no [sources.{source}]"));
            }
            None if catalogue.kind.is_database() && !names_source => {
                problem(
                    "catalogue.source",
                    "is needed: the source that its paths are in, unless catalogue.query gives a column \"source\""
                        .into(),
                );
            }
            _ => {}
        }
        match &catalogue.listen {
            Some(_) if catalogue.kind != CatalogueKind::Postgres => {
                problem("catalogue.listen", "is for kind \"postgres\" only".into());
            }
            // The server cuts longer names, and nobody would tell us anything (NAMEDATALEN).
            Some(channel) if !is_name(channel) || channel.len() > 63 => {
                problem("catalogue.listen", "is a name of at most 63 letters, digits, '-' and '_'".into());
            }
            _ => {}
        }
    }

    /// What is allowed, and weaker than it may look: key and sentence. An operator must not forget it.
    pub fn cautions(&self) -> Vec<(String, &'static str)> {
        let mut cautions = Vec::new();
        for (key, is_on) in [("auth.log_only", self.auth.log_only), ("signing.log_only", self.signing.log_only)] {
            if is_on {
                cautions.push((key.to_owned(), "on trial: what should be refused is served, and logged"));
            }
        }
        if self.store.kind == StoreKind::S3 && self.store.existence == Existence::Check {
            cautions.push((
                "store.existence".to_owned(),
                "\"check\" asks the object store once for every image that is served; \"remember\" spares nearly all of that",
            ));
        }
        if self.tracing.endpoint.is_some() && !cfg!(feature = "otel") {
            let says = "this build sends no traces: it lacks the feature otel";
            cautions.push(("tracing.endpoint".to_owned(), says));
        }
        if self.store.is_bounded() && self.store.eviction_grace_seconds < IDLE_FILE_SECONDS as f64 {
            cautions.push((
                "store.eviction_grace_seconds".to_owned(),
                "nginx holds a file open for a minute after its last use, and its room on the disk with it: less than that, and \
                 a full disk may stay full",
            ));
        }
        let is_public = |address: &ListenAddress| matches!(address, ListenAddress::Tcp(at) if !at.ip().is_loopback());
        if self.page.listen.as_ref().is_some_and(is_public) {
            let says = "the page itself speaks no TLS: the password crosses the network as it is, unless a web server is in front";
            cautions.push(("page.listen".to_owned(), says));
        }
        if self.auth.jwt.query {
            cautions.push((
                "auth.jwt.query".to_owned(),
                "tokens in URLs are seen in logs, and go along where a link is passed on",
            ));
        }
        let routes = self.effective_routes();
        let open: BTreeSet<_> = routes
            .values()
            .filter(|route| route.auth == AuthMode::Off)
            .flat_map(|route| self.keys_taken(route))
            .collect();
        for (name, route) in routes.iter().filter(|(_, route)| route.auth != AuthMode::Off) {
            if !open.is_disjoint(&self.keys_taken(route)) {
                let says = "a route without auth takes one of its keys, and a signature covers no prefix: whoever changes that of a \
                            URL is asked nothing; give it keys of its own";
                cautions.push((format!("routes.{name}"), says));
            }
            if route.offload == OffloadMode::Redirect {
                let says =
                    "a redirect tells who may see an image where everybody can fetch it: the address can be passed on";
                cautions.push((format!("routes.{name}"), says));
            }
        }
        cautions
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use crate::config::load::{
        parse,
        tests::{ROOT, parsed},
    };

    #[test]
    fn what_is_weaker_than_it_looks_is_said() {
        let cautions = |text: &str| {
            let config = parsed(&format!("{text}{ROOT}"), &[]).unwrap();
            config.cautions().into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(cautions(""), [""; 0]);
        assert_eq!(
            cautions("[signing]\nlog_only = true\n[auth]\nlog_only = true\n"),
            ["auth.log_only", "signing.log_only"]
        );
        let forward = "[auth]\nmode = \"forward\"\n[auth.forward]\nurl = \"http://127.0.0.1/x\"\n";
        assert_eq!(cautions(forward), [""; 0]);
        let redirect = "[offload]\nmode = \"redirect\"\nredirect_url = \"/files/\"\n";
        assert_eq!(cautions(&format!("{forward}{redirect}")), ["routes.images"]);
        assert_eq!(cautions(redirect), [""; 0]);
        // A login that a change of the prefix spares.
        let routes = |keys: &str, open: &str, asks: &str| {
            let auth = "[auth.forward]\nurl = \"http://127.0.0.1/x\"\n";
            let routes = [("open", "off", open), ("asks", "forward", asks)]
                .map(|(name, auth, own)| format!("[routes.{name}]\nprefix = \"/{name}/\"\nauth = \"{auth}\"\n{own}"));
            cautions(&format!("[signing]\n{keys}{auth}{}", routes.concat()))
        };
        let native =
            "keys = [{ id = \"a\", secret = \"aaaaaaaaaaaaaaaa\" }, { id = \"b\", secret = \"bbbbbbbbbbbbbbbb\" }]\n";
        let (a, b) = ("keys = [\"a\"]\n", "keys = [\"b\"]\n");
        assert_eq!(routes(native, a, b), [""; 0]);
        for (open, asks) in [(a, a), ("", b), (a, ""), ("", "")] {
            assert_eq!(routes(native, open, asks), ["routes.asks"], "{open} {asks}");
        }
        assert_eq!(routes("secret = \"aaaaaaaaaaaaaaaa\"\n", "", ""), ["routes.asks"]);
        let wagtail = "wagtail_keys = [\"site\"]\n";
        let (site, other) = ("keys = []\nwagtail_keys = [\"site\"]\n", "keys = []\nwagtail_keys = [\"other\"]\n");
        assert_eq!(routes(wagtail, "", other), [""; 0]);
        for (open, asks) in [("", ""), ("", site), (site, site), (site, "")] {
            assert_eq!(routes(wagtail, open, asks), ["routes.asks"], "{open} {asks}");
        }
    }

    #[test]
    fn a_mode_that_no_route_has_asks_for_nothing() {
        let text = "[offload]\nmode = \"redirect\"\n[routes.a]\nprefix = \"/a/\"\noffload = \"accel\"\n";
        assert!(parsed(&format!("{text}{ROOT}"), &[]).is_ok());
    }

    #[test]
    fn the_whole_is_checked() {
        for (text, key) in [
            ("[server]\nurl_prefix = \"images\"\n", "server.url_prefix"),
            ("[server]\nurl_prefix = \"/_renditions/\"\n", "server.url_prefix"),
            ("[server]\nheader_timeout_seconds = 0\n", "server.header_timeout_seconds"),
            ("[sources.42]\nkind = \"fs\"\nroot = \"/m\"\n", "sources.42"),
            ("[presets]\nhero = \"fil-1x1\"\n", "presets.hero"),
            ("[presets]\noriginal = \"width-1\"\n", "presets.original"),
            ("[preset_sets]\na = [\"nope\"]\n", "preset_sets.a"),
            ("[presets]\na = \"width-1|watermark-nope\"\n", "presets.a"),
            ("[preset_sets]\na = [\"width-1|watermark-nope\"]\n", "preset_sets.a"),
            ("[offload]\nmode = \"redirect\"\n", "offload.redirect_url"),
            ("[offload]\nmode = \"direct\"\n[store]\nexistence = \"assume\"\nroot = \"/srv/r\"\n", "store.existence"),
            (
                "[offload]\nmode = \"sendfile\"\n[store]\nexistence = \"remember\"\nroot = \"/srv/r\"\n",
                "store.existence",
            ),
            ("[offload]\nmode = \"sendfile\"\n[store]\nroot = \"/srv/\\u0007\"\n", "store.root"),
            ("[sources.w]\nkind = \"http\"\n", "sources.w.http"),
            ("[sources.w]\nkind = \"http\"\n[sources.w.http]\n", "sources.w.http.base_url"),
            (
                "[sources.w]\nkind = \"fs\"\nroot = \"/m\"\n[sources.w.http]\nallow = [\"https://a.b/\"]\n",
                "sources.w.http",
            ),
            ("[catalogue]\nkind = \"sqlite\"\n", "catalogue.url"),
            ("[catalogue]\nkind = \"postgres\"\nurl = \"postgres://h/d\"\n", "catalogue.source"),
            ("[catalogue]\nkind = \"mysql\"\nurl = \"mysql://h/d\"\nurl_file = \"f\"\n", "catalogue.url"),
            ("[catalogue]\nkind = \"mysql\"\nurl_file = \"f\"\nlisten = \"a\"\n", "catalogue.source"),
            ("[catalogue]\nlisten = \"a\"\n", "catalogue.listen"),
            ("[tracing]\nendpoint = \"collector:4318\"\n", "tracing.endpoint"),
            ("[tracing]\nsample_percent = -1\n", "tracing.sample_percent"),
            ("[tracing]\nsample_percent = nan\n", "tracing.sample_percent"),
            ("[catalogue]\nmax_connections = 0\n", "catalogue.max_connections"),
            ("[catalogue]\nsource = \"media\"\n", "catalogue.source"),
            ("[store]\nroot = \"/r\"\nmax_files = 0\n", "store.max_files"),
            ("[store]\nroot = \"/r\"\npinned = [\"nope\"]\n", "store.pinned"),
            ("[store]\nroot = \"/r\"\neviction_grace_seconds = 1\n", "store.eviction_grace_seconds"),
            ("[store]\nroot = \"/r\"\nmax_idle = \"1m\"\n", "store.max_idle"),
            ("[store]\nroot = \"/r\"\nmin_free = \"lots\"\n", "store.min_free"),
            ("[store]\nroot = \"/r\"\nexistence_by_preset = { a = \"assume\" }\n", "store.existence_by_preset.a"),
            (
                "[store]\nroot = \"/r\"\nexistence_by_preset = { a = \"guess\" }\n[presets]\na = \"width-1\"\n",
                "`assume`",
            ),
            (
                "[store]\nroot = \"/r\"\nexistence_by_preset = { a = \"assume\" }\n[presets]\na = \"width-1\"\n\
                 [offload]\nmode = \"direct\"\n",
                "store.existence",
            ),
            (
                "[store]\nroot = \"/r\"\n[store.existence_by_preset]\na = \"assume\"\nb = \"check\"\n[presets]\n\
                 a = \"width-1\"\nb = \"width-1\"\n",
                "store.existence_by_preset.b",
            ),
            ("[store]\nkind = \"s3\"\nmax_bytes = \"1GiB\"\n", "store.max_bytes"),
            ("[store]\nkind = \"s3\"\nmax_idle = \"90d\"\n", "store.max_idle"),
            ("[routes.a]\nprefix = \"/a/\"\n[routes.b]\nprefix = \"/a/\"\n", "routes.b.prefix"),
            ("[routes.a]\nprefix = \"/a/\"\noffload = \"redirect\"\n", "offload.redirect_url"),
        ] {
            let root = if text.contains("[store]") { "" } else { ROOT };
            // A bucket's own keys come first among its problems.
            if text.contains("s3") {
                let all: Vec<_> = parse(text, HashMap::new(), "f").unwrap().problems();
                assert!(all.iter().any(|(of, says)| of == key && says.contains("lifecycle")), "{all:?}");
                continue;
            }
            let error = parsed(&format!("{text}{root}"), &[]).unwrap_err();
            assert!(error.contains(key), "{key} is not in {error:?}");
        }
    }
}
