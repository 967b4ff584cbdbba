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
}

impl<'a> Link<'a> {
    /// A link without decoration, end or attachment.
    pub fn new(subject: &'a Subject<'a>, filter_spec: &'a str) -> Self {
        Self { subject, filter_spec, filename: "", expires: None, download: None }
    }
}

impl Verifier {
    /// Makes a signed URL's path and query, with the route's first key of the scheme that signs for it.
    ///
    /// Returns `None` when the route has no key of this scheme, or the scheme cannot sign the subject or the query.
    pub fn sign(&self, route: &Route, scheme: Scheme, link: &Link<'_>) -> Option<String> {
        let Link { subject, filter_spec, filename, expires, download } = *link;
        let signature = match (scheme, subject) {
            (Scheme::Wagtail, Subject::Id(id)) if expires.is_none() && download.is_none() => {
                route.wagtail_keys.first()?.mac.sign(id, filter_spec)
            }
            (Scheme::Wagtail, _) => return None,
            (Scheme::Native, subject) => {
                let expires = expires.map(|seconds| seconds.to_string());
                let fields = NativeFields { subject, filter_spec, expires: expires.as_deref(), download };
                self.signing_key(route, subject, filter_spec)?.mac.sign(&fields)
            }
        };
        let prefix = &route.prefix;
        Some(UrlParts { prefix, signature: &signature, subject, filter_spec, filename, expires, download }.build())
    }
    /// The first of the route's keys that signs for this now. One whose life has not begun is there to verify what another
    /// host signs.
    fn signing_key<'a>(&self, route: &'a Route, subject: &Subject<'_>, filter_spec: &str) -> Option<&'a NativeKey> {
        let now = SystemTime::now();
        let is_preset = self.table().preset(filter_spec).is_some();
        route.native_keys.iter().find(|key| {
            let scope = key.scope();
            let has_source = match subject {
                Subject::Path { source, .. } => scope.has_source(source),
                // Which source an id is in, its catalogue knows.
                Subject::Id(_) => true,
            };
            scope.is_alive(now).is_ok() && has_source && (is_preset || !scope.presets_only)
        })
    }
}
