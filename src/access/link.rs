//! Signed URLs, made.

use std::time::SystemTime;

use super::{
    keys::NativeKey,
    route::Route,
    signature::{NativeFields, Scheme},
    url::{Subject, UrlParts},
    verifier::Verifier,
};

/// What a URL is to be about.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// The image.
    pub subject: &'a Subject<'a>,
    /// A filter spec or the name of a preset.
    pub filter_spec: &'a str,
    /// The decorative last segment of an id URL.
    pub filename: &'a str,
    /// The end of its life, in Unix seconds.
    pub expires: Option<u64>,
    /// The name of an attachment.
    pub download: Option<&'a str>,
    /// What the signing key may have bounds for.
    pub known: Known<'a>,
}

/// What is known of an image and its rendition when a link is made; the rest shows when it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known<'a> {
    /// The source that the image is in. That of a path the path tells itself.
    pub source: Option<&'a str>,
    /// The rendition's pixels.
    pub pixels: Option<u64>,
}

impl<'a> Link<'a> {
    /// A link without decoration, end or attachment.
    pub fn new(subject: &'a Subject<'a>, filter_spec: &'a str) -> Self {
        Self { subject, filter_spec, filename: "", expires: None, download: None, known: Known::default() }
    }
}

impl Verifier {
    /// Makes a signed URL's path and query, with the route's first key of the scheme that signs for it now.
    ///
    /// Returns `None` when the route has no key of this scheme, or the scheme cannot sign the subject or the query.
    pub fn sign(&self, route: &Route, scheme: Scheme, link: &Link<'_>, now: SystemTime) -> Option<String> {
        let Link { subject, filter_spec, filename, expires, download, known } = *link;
        let signature = match (scheme, subject) {
            (Scheme::Wagtail, Subject::Id(id)) if expires.is_none() && download.is_none() => {
                route.wagtail_keys.first()?.mac.sign(id, filter_spec)
            }
            (Scheme::Wagtail, _) => return None,
            (Scheme::Native, subject) => {
                let expires = expires.map(|seconds| seconds.to_string());
                let fields = NativeFields { subject, filter_spec, expires: expires.as_deref(), download };
                let is_large_enough =
                    |key: &&NativeKey| known.pixels.is_none_or(|pixels| key.scope().has_pixels(pixels));
                self.signing_keys(route, link, now).find(is_large_enough)?.mac.sign(&fields)
            }
        };
        let prefix = &route.prefix;
        Some(UrlParts { prefix, signature: &signature, subject, filter_spec, filename, expires, download }.build())
    }

    /// The most pixels of a rendition that the route has a native key for, where their number is all that keeps a link from being
    /// signed.
    pub(super) fn most_pixels(&self, route: &Route, link: &Link<'_>, now: SystemTime) -> Option<u64> {
        self.signing_keys(route, link, now).filter_map(|key| key.scope().max_pixels).max()
    }

    /// The route's keys that sign for this now, as far as the rendition's size lets them. One whose life has not begun is there to
    /// verify what another host signs.
    fn signing_keys<'a>(
        &self,
        route: &'a Route,
        link: &Link<'_>,
        now: SystemTime,
    ) -> impl Iterator<Item = &'a NativeKey> {
        let is_preset = self.table().preset(link.filter_spec).is_some();
        let source = match link.subject {
            Subject::Path { source, .. } => Some(source.as_ref()),
            // Which source an id is in, its catalogue knows.
            Subject::Id(_) => link.known.source,
        };
        route.native_keys.iter().filter(move |key| {
            let scope = key.scope();
            let has_source = source.is_none_or(|source| scope.has_source(source));
            scope.is_alive(now).is_ok() && has_source && (is_preset || !scope.presets_only)
        })
    }
}
