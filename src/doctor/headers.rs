//! On what comes back: bytes, headers, ranges, conditions.

use std::time::SystemTime;

use hyper::{
    Method,
    header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, LAST_MODIFIED},
};

use super::{Answer, Cause, Finding, Look, canary::Kind};
use crate::config::{OffloadMode, StoreKind};

impl Look<'_> {
    /// Whether a 200 has the canary's bytes, as they are.
    ///
    /// # Errors
    /// What has changed them.
    pub(super) fn bytes(&self, answer: &Answer) -> Result<(), Box<Finding>> {
        let place = self.answering_location();
        if answer.body() == self.nonce.bytes() {
            return Ok(());
        }
        let says = "the bytes are not those that were stored: a filter changes them";
        let seen = format!("{} bytes stored, {} received", self.nonce.bytes().len(), answer.body().len());
        let fix = format!("{place}: no sub_filter, image_filter, addition or pagespeed");
        Err(self.error(Cause::ChangedBytes, says).seen(seen).fix(fix).into())
    }

    /// Every header that an image must have.
    pub(super) fn image_headers(&self, answer: &Answer, findings: &mut Vec<Finding>) {
        let place = self.answering_location();
        let is_published = self.mode == OffloadMode::Redirect;
        let mut lost = Vec::new();
        for (cause, name, wanted) in self.wanted() {
            // What is published varies by nothing, and is named by its path.
            if is_published && matches!(name, "Vary" | "Content-Disposition" | "X-Request-Id") {
                continue;
            }
            let values = answer.all(name);
            let has = match wanted {
                Some(wanted) => values.contains(&wanted),
                None => !values.is_empty(),
            };
            if !has {
                lost.push((cause, name));
            }
        }
        let of = |cause| lost.iter().filter(|(c, _)| *c == cause).map(|(_, name)| *name).collect::<Vec<_>>();
        let (security, caching, cors) = (of(Cause::LostSecurity), of(Cause::LostCaching), of(Cause::LostCors));
        let seen = |names: &[&str]| format!("not there: {}", names.join(", "));
        let lines = |names: &[&str]| names.iter().map(|name| self.line_for(name)).collect::<Vec<_>>().join(" ");
        if !security.is_empty() && !caching.is_empty() {
            let names: Vec<&str> = lost.iter().map(|(_, name)| *name).collect();
            let says = "none of the headers that the location adds is on the image: an add_header in a block within it makes \
                        nginx forget all of the outer ones";
            let fix = format!(
                "{place}: repeat these in the inner block (if, limit_except, a nested location), or take its \
                               add_header out: {}",
                lines(&names)
            );
            findings.push(self.error(Cause::LostHeaders, says).seen(seen(&names)).fix(fix));
            return;
        }
        for (cause, names, says) in [
            (Cause::LostSecurity, security, "an image that a browser is talked into reading as a page may run scripts"),
            (
                Cause::LostCaching,
                caching,
                "browsers and caches are not told how long, and for whom, an image may be kept",
            ),
            (
                Cause::LostCors,
                cors,
                "what [headers] says is not on images: scripts and pages of other origins are refused them",
            ),
            (Cause::LostDisposition, of(Cause::LostDisposition), "images are saved under the URL's name"),
        ] {
            if !names.is_empty() {
                let fix = format!("{place}: {}", lines(&names));
                findings.push(self.error(cause, says).seen(seen(&names)).fix(fix));
            }
        }
        self.type_and_caching(answer, findings);
    }

    /// Whether images are compressed for whoever takes that, as every browser does.
    async fn compressed(&self, path: &str) -> Option<Finding> {
        let answer = self.public.ask(Method::GET, path, &[("Accept-Encoding", "gzip, br")]).await.ok()?;
        let coding = answer.header(CONTENT_ENCODING.as_str())?;
        let says = "images are compressed once more, which makes them slower and no smaller, and costs them ranges";
        let fix =
            format!("{}: gzip off; (and brotli off;), or take image/* out of gzip_types", self.answering_location());
        Some(self.error(Cause::Compressed, says).seen(format!("Content-Encoding: {coding}")).fix(fix))
    }

    fn type_and_caching(&self, answer: &Answer, findings: &mut Vec<Finding>) {
        let place = self.answering_location();
        let media = answer.header(CONTENT_TYPE.as_str()).unwrap_or("none");
        if media != "image/png" {
            let says = "the type is not the image's: with nosniff, browsers do not show it";
            let fix = format!(
                "{place}: types {{ image/png png; ... }} as printed, and no default_type or add_header in their place"
            );
            findings.push(self.error(Cause::WrongType, says).seen(format!("Content-Type: {media}")).fix(fix));
        }
        let values = answer.all(CACHE_CONTROL.as_str());
        if values.is_empty() {
            return;
        }
        let age =
            values.first().and_then(|value| value.split([',', ' ']).find_map(|part| part.strip_prefix("max-age=")));
        let longest = self.route.max_age_seconds.min(match self.mode {
            OffloadMode::Redirect => u64::MAX,
            _ => super::canary::LIFE.as_secs(),
        });
        let fits = values.len() == 1
            && age.and_then(|age| age.parse::<u64>().ok()).is_some_and(|age| age <= longest)
            && answer.header("expires").is_none();
        if !fits {
            let says =
                "what sendimage says about caching is overruled: images outlive their links, or are not kept at all";
            let fix = format!("{place}: no expires, and no add_header Cache-Control but the printed one");
            let mut seen = format!("Cache-Control: {}", values.join(" | "));
            if answer.header("expires").is_some() {
                seen += ", and Expires";
            }
            findings.push(self.error(Cause::CachingChanged, says).seen(seen).fix(fix));
        }
    }

    /// Name, the value where it is known, and whose loss it is.
    fn wanted(&self) -> Vec<(Cause, &'static str, Option<&str>)> {
        let mut wanted = vec![
            (Cause::LostSecurity, "Content-Security-Policy", Some("default-src 'none'; sandbox")),
            (Cause::LostSecurity, "X-Content-Type-Options", Some("nosniff")),
            (Cause::LostCaching, "Cache-Control", None),
            (Cause::LostCaching, "Vary", None),
            (Cause::LostDisposition, "Content-Disposition", None),
        ];
        let said = self.config.headers.said().map(|(name, value)| (Cause::LostCors, name, Some(value)));
        wanted.extend(said);
        wanted
    }

    /// The printed config's line for a header. In `direct` mode the headers are sendimage's own, and somebody hides them.
    fn line_for(&self, name: &str) -> String {
        if self.mode == OffloadMode::Direct {
            return format!("no proxy_hide_header {name};");
        }
        let judged = self.mode == OffloadMode::AuthRequest;
        let value = match name {
            "Cache-Control" if self.mode == OffloadMode::Redirect => {
                format!("\"public, max-age={}\"", self.config.cache.max_age_seconds)
            }
            "Cache-Control" if judged => "$sendimage_cache_control".to_owned(),
            "Cache-Control" => "$upstream_http_x_sendimage_cache_control".to_owned(),
            "Vary" if judged => "$sendimage_vary".to_owned(),
            "Vary" => "$upstream_http_x_sendimage_vary".to_owned(),
            "Content-Disposition" => "$sendimage_disposition".to_owned(),
            "Content-Security-Policy" => "\"default-src 'none'; sandbox\" always".to_owned(),
            "X-Content-Type-Options" => "nosniff always".to_owned(),
            name => {
                let said = self.config.headers.said().find(|(known, _)| *known == name);
                format!("\"{}\"", said.map_or("", |(_, value)| value))
            }
        };
        format!("add_header {name} {value};")
    }

    /// The location whose headers an image has.
    pub(super) fn answering_location(&self) -> String {
        match self.mode {
            OffloadMode::Accel => format!("location ^~ {}", self.config.offload.internal_prefix),
            OffloadMode::Redirect => format!("location ^~ {}", self.config.offload.redirect_url),
            OffloadMode::AuthRequest | OffloadMode::Direct | OffloadMode::Sendfile => {
                format!("location ^~ {}", self.route.prefix)
            }
        }
    }

    /// HEAD, ranges, validators and conditions: whoever sends the bytes has to know them.
    pub(super) async fn conditions(&self, kind: Kind, whole: &Answer, findings: &mut Vec<Finding>) {
        let Some(path) = self.sign(kind, "") else { return };
        let (place, bytes) = (self.answering_location(), self.nonce.bytes());
        // A redirect's address is followed for the bytes alone.
        if self.mode == OffloadMode::Redirect {
            return;
        }
        findings.extend(self.compressed(&path).await);
        if let Ok(head) = self.public.ask(Method::HEAD, &path, &[]).await {
            let length = head.header(CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok());
            if head.status() != 200 || length != Some(bytes.len()) {
                let says = "HEAD is not answered as GET is";
                let fix = self.in_route("location ^~ PREFIX: no limit_except, and no proxy_method");
                findings.push(self.error(Cause::HeadFails, says).seen(head.words()).fix(fix));
            }
        }
        if let Ok(part) = self.public.ask(Method::GET, &path, &[("Range", "bytes=8-15")]).await
            && (part.status() != 206 || part.body() != &bytes[8..16])
        {
            let says = "no parts of an image can be asked for: a broken download begins anew";
            let fix = format!("{place}: no max_ranges 0, and no filter that changes the bytes");
            findings.push(
                self.warning(Cause::NoRanges, says).seen(format!("Range: bytes=8-15: {}", part.words())).fix(fix),
            );
        }
        let tag = whole.header(ETAG.as_str());
        // nginx makes it of the file; others have ways of their own.
        let opens_the_file = matches!(self.mode, OffloadMode::Accel | OffloadMode::AuthRequest);
        let is_made_of_file = opens_the_file && self.config.store.kind == StoreKind::Fs;
        let expected = self.nonce.key(kind).filter(|_| is_made_of_file).map(|key| {
            let modified = key.modified().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            format!("\"{modified:x}-{:x}\"", bytes.len())
        });
        let fits = tag.is_some_and(|tag| expected.as_deref().is_none_or(|expected| expected == tag));
        let unchanged = match tag {
            Some(tag) => self.public.ask(Method::GET, &path, &[("If-None-Match", tag)]).await.ok(),
            None => None,
        };
        let matches = unchanged.as_ref().is_some_and(|answer| answer.status() == 304);
        if !fits || !matches || whole.header(LAST_MODIFIED.as_str()).is_none() {
            let says = "browsers cannot ask whether an image has changed, and load it anew each time";
            let seen = format!(
                "ETag {}, Last-Modified {}, and the same ETag sent back: {}",
                whole.header(ETAG.as_str()).unwrap_or("none"),
                whole.header(LAST_MODIFIED.as_str()).unwrap_or("none"),
                unchanged.map_or("not tried".to_owned(), |answer| answer.status().to_string()),
            );
            let fix = format!("{place}: etag on; if_modified_since exact; and no add_header ETag or Last-Modified");
            findings.push(self.warning(Cause::NoValidators, says).seen(seen).fix(fix));
        }
    }
}
