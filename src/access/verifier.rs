//! The only maker of [`VerifiedRequest`].

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use thiserror::Error;

use super::{
    route::{Route, RouteTable},
    signature::{NativeFields, Scheme},
    url::{SignedUrl, Subject, UrlError, UrlParts},
};
use crate::{
    config::Config,
    model::{ImageId, MediaPath, SourceRef},
};

use super::keys::KeyError;

/// Checks URLs against the keys of their route, and makes URLs.
#[derive(Clone, Debug)]
pub struct Verifier {
    table: RouteTable,
}

/// What a verified URL refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageRef {
    /// An id in the catalogue.
    Id(ImageId),
    /// A path in a source.
    Path(SourceRef),
    /// A signed reference that nothing can match: an id beyond 64 bits, a path that leaves its root.
    Nothing,
}

impl ImageRef {
    /// The id, if it is one.
    pub fn id(&self) -> Option<ImageId> {
        match self {
            Self::Id(id) => Some(*id),
            Self::Path(_) | Self::Nothing => None,
        }
    }
}

/// Proof that the signature and the expiry were checked. Its fields are private, it has no `Default` and no
/// `Deserialize`: [`Verifier::verify`] is the only way to get one. It borrows what the request and the config hold anyhow.
#[derive(Clone, Copy, Debug)]
pub struct VerifiedRequest<'a> {
    url: &'a SignedUrl<'a>,
    route: &'a Route,
    key_id: &'a Arc<str>,
    scheme: Scheme,
    /// What the preset stands for that the URL names.
    preset: Option<&'a str>,
    /// How much of the link's life is left.
    left: Option<Duration>,
}

impl<'a> VerifiedRequest<'a> {
    /// What the URL refers to.
    pub fn image(&self) -> ImageRef {
        self.url.subject.image()
    }

    /// The text of the same: equal texts refer to the same.
    pub fn subject(&self) -> &'a Subject<'a> {
        &self.url.subject
    }

    /// The filter spec, a preset's name already replaced by what it stands for. Not parsed yet.
    pub fn filter_spec(&self) -> &'a str {
        self.preset.unwrap_or(&self.url.filter_spec)
    }

    /// The preset that the URL named, if any.
    pub fn preset(&self) -> Option<&'a str> {
        self.preset.is_some().then_some(&self.url.filter_spec)
    }

    /// The route it came in by.
    pub fn route(&self) -> &'a Route {
        self.route
    }

    /// The id of the key that verified it.
    pub fn key_id(&self) -> &'a Arc<str> {
        self.key_id
    }

    /// The scheme of its signature.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The name of an attachment, where the URL asks for one.
    pub fn download(&self) -> Option<&'a str> {
        // A Wagtail signature says nothing about the query.
        self.url.query.download.as_deref().filter(|_| self.scheme == Scheme::Native)
    }

    /// For how long a browser may keep the answer; never beyond the link's own life.
    pub fn max_age(&self) -> Duration {
        let usual = Duration::from_secs(self.route.max_age_seconds);
        self.left.map_or(usual, |left| left.min(usual))
    }

    /// For how long an equal request will have an equal answer, its caching included: for ever, or until the link's end is
    /// nearer than the caching usual.
    pub fn unchanged_for(&self) -> Duration {
        let usual = Duration::from_secs(self.route.max_age_seconds);
        self.left.map_or(Duration::MAX, |left| left.saturating_sub(usual))
    }
}

/// Why a request is refused. The client sees one and the same answer for all; the reason is for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Neither scheme has signatures of this length.
    #[error("the signature has the length of no scheme")]
    SignatureLength,
    /// No key of the route gives this signature.
    #[error("the signature fits no key of the route")]
    Signature,
    /// The link's time is over.
    #[error("the link has expired")]
    Expired,
    /// The route serves presets only.
    #[error("the route serves presets only, and this is none")]
    NotAPreset,
}

/// Why there is no [`VerifiedRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// The URL was refused.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// The signature is good but the query is not.
    #[error("malformed query: {0}")]
    Query(#[source] UrlError),
}

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
    /// A verifier for the config's routes and keys.
    ///
    /// # Errors
    /// The first key that is not usable.
    pub fn new(config: &Config) -> Result<Self, KeyError> {
        Ok(Self { table: RouteTable::new(config)? })
    }

    /// The routes.
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// Checks a URL: signature, expiry, preset.
    ///
    /// # Errors
    /// [`VerifyError::Refused`] for everything that is not proven; [`VerifyError::Query`] once the signature is good.
    pub fn verify<'a>(
        &'a self,
        route: &'a Route,
        url: &'a SignedUrl<'a>,
        now: SystemTime,
    ) -> Result<VerifiedRequest<'a>, VerifyError> {
        let scheme = Scheme::of(&url.signature).ok_or(Refusal::SignatureLength)?;
        let key_id = match scheme {
            Scheme::Wagtail => wagtail_key_id(route, url),
            Scheme::Native => native_key_id(route, url),
        };
        let key_id = key_id.ok_or(Refusal::Signature)?;
        let left = match scheme {
            Scheme::Wagtail => None,
            Scheme::Native => native_query(url, now)?,
        };
        let preset = self.table.preset(&url.filter_spec);
        if route.presets_only && preset.is_none() {
            return Err(Refusal::NotAPreset.into());
        }
        Ok(VerifiedRequest { url, route, key_id, scheme, preset, left })
    }

    /// Makes a signed URL's path and query, with the route's first key of the scheme.
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
                route.native_keys.first()?.mac.sign(&fields)
            }
        };
        let prefix = &route.prefix;
        Some(UrlParts { prefix, signature: &signature, subject, filter_spec, filename, expires, download }.build())
    }
}

/// Every key is tried, whether or not one has fitted already: the time says nothing about which.
fn native_key_id<'a>(route: &'a Route, url: &SignedUrl<'_>) -> Option<&'a Arc<str>> {
    let fields = NativeFields {
        subject: &url.subject,
        filter_spec: &url.filter_spec,
        expires: url.query.expires.as_deref(),
        download: url.query.download.as_deref(),
    };
    route.native_keys.iter().fold(None, |found, key| {
        let fits = key.mac.verifies(&fields, &url.signature);
        if fits { Some(key.id()) } else { found }
    })
}

fn wagtail_key_id<'a>(route: &'a Route, url: &SignedUrl<'_>) -> Option<&'a Arc<str>> {
    let Subject::Id(id) = &url.subject else { return None };
    route.wagtail_keys.iter().fold(None, |found, key| {
        let fits = key.mac.verifies(id, &url.filter_spec, &url.signature);
        if fits { Some(key.id()) } else { found }
    })
}

/// The signed query of a native URL: how much of the link's life is left.
fn native_query(url: &SignedUrl<'_>, now: SystemTime) -> Result<Option<Duration>, VerifyError> {
    if let Some(problem) = url.query.problem {
        return Err(VerifyError::Query(problem));
    }
    let Some(text) = url.query.expires.as_deref() else { return Ok(None) };
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let seconds: u64 = text.parse().ok().filter(|_| digits).ok_or(VerifyError::Query(UrlError::BadExpiry))?;
    let end = SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .ok_or(VerifyError::Query(UrlError::BadExpiry))?;
    Ok(Some(end.duration_since(now).map_err(|_| Refusal::Expired)?))
}

impl Subject<'_> {
    /// What it refers to.
    pub fn image(&self) -> ImageRef {
        match self {
            Self::Id(id) => id.parse().map_or(ImageRef::Nothing, |id| ImageRef::Id(ImageId(id))),
            Self::Path { source, path } => match MediaPath::parse(path) {
                Ok(path) => ImageRef::Path(SourceRef { source: source.clone().into_owned(), path }),
                Err(_) => ImageRef::Nothing,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, SigningKeyConfig};

    const KEY: &str = "0123456789abcdef";

    fn verifier(edit: impl FnOnce(&mut Config)) -> Verifier {
        let mut config = Config::default();
        config.signing.keys = vec![SigningKeyConfig {
            id: "2026".into(),
            secret: Some(Secret::new(KEY.into())),
            secret_base64: None,
            secret_file: None,
        }];
        config.signing.wagtail_keys = vec![Secret::new("conformance-secret-key".into())];
        config.presets.insert("hero".into(), "fill-1600x600|format-webp".into());
        edit(&mut config);
        Verifier::new(&config).expect("good keys")
    }

    fn verify<'a>(verifier: &'a Verifier, target: &'a str, now: u64) -> Result<VerifiedRequest<'a>, VerifyError> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let (route, url) = verifier.table().resolve(path, query).expect("a route");
        // Proofs borrow their URL; a test's may as well live for ever.
        verifier.verify(route, Box::leak(Box::new(url)), SystemTime::UNIX_EPOCH + Duration::from_secs(now))
    }

    #[test]
    fn the_two_native_signatures_of_the_design() {
        let verifier = verifier(|_| {});
        let route = &verifier.table().routes()[0];
        let id = Subject::Id("42".into());
        let url = verifier
            .sign(route, Scheme::Native, &Link { filename: "x.jpg", ..Link::new(&id, "fill-100x100") })
            .expect("a key");
        assert_eq!(url, "/images/gLUj4AI-KVV6vyJkAdygJWEnRR3k4AxJSIbaTjeMd64/42/fill-100x100/x.jpg");
        let path = Subject::Path { source: "media".into(), path: "2024/café 1.jpg".into() };
        let spec = "width-400|format-webp";
        let link = Link { expires: Some(1_893_456_000), download: Some("My Photo.webp"), ..Link::new(&path, spec) };
        let url = verifier.sign(route, Scheme::Native, &link).expect("a key");
        assert!(url.starts_with("/images/lzDKeLQtl3Du06OULBfeMDfIWtYmVAyHAfZVh8rQjLs/media/"), "{url}");
        let verified = verify(&verifier, &url, 1_893_455_000).expect("a good URL");
        assert_eq!(verified.download(), Some("My Photo.webp"));
        assert_eq!(verified.max_age(), Duration::from_secs(1000), "never beyond the link's life");
        assert_eq!(verify(&verifier, &url, 1_893_456_001).unwrap_err(), Refusal::Expired.into());
    }

    #[test]
    fn a_native_query_is_checked_once_the_signature_is_good() {
        let verifier = verifier(|_| {});
        let good = "/images/gLUj4AI-KVV6vyJkAdygJWEnRR3k4AxJSIbaTjeMd64/42/fill-100x100/x.jpg";
        assert!(verify(&verifier, good, 0).is_ok());
        let unknown = verify(&verifier, &format!("{good}?v=2"), 0).unwrap_err();
        assert_eq!(unknown, VerifyError::Query(UrlError::UnknownParameter));
        // An expiry that was not signed makes another text, so the signature is bad first.
        assert_eq!(verify(&verifier, &format!("{good}?expires=9"), 0).unwrap_err(), Refusal::Signature.into());
        let wagtail = "/images/K4ei13HmFX4kK423GtwSUtWsGos=/1/width-100/x.jpg?v=2&v=3";
        assert!(verify(&verifier, wagtail, 0).is_ok(), "with a Wagtail signature the query is ignored");
    }

    #[test]
    fn every_altered_character_is_refused() {
        let verifier = verifier(|_| {});
        let good = "gLUj4AI-KVV6vyJkAdygJWEnRR3k4AxJSIbaTjeMd64";
        for position in 0..good.len() {
            for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=".chars() {
                let mut altered = good.to_owned();
                altered.replace_range(position..=position, &other.to_string());
                if altered != good {
                    let target = format!("/images/{altered}/42/fill-100x100/x.jpg");
                    assert_eq!(verify(&verifier, &target, 0).unwrap_err(), Refusal::Signature.into());
                }
            }
        }
    }

    #[test]
    fn schemes_do_not_stand_in_for_each_other() {
        // One key configured for both schemes: a MAC of one is still none of the other.
        let verifier = verifier(|config| config.signing.wagtail_keys = vec![Secret::new(KEY.into())]);
        let route = &verifier.table().routes()[0];
        let subject = Subject::Path { source: "media".into(), path: "a.jpg".into() };
        assert!(verifier.sign(route, Scheme::Wagtail, &Link::new(&subject, "original")).is_none());
        let id = Subject::Id("7".into());
        assert!(
            verifier.sign(route, Scheme::Wagtail, &Link { expires: Some(1), ..Link::new(&id, "original") }).is_none()
        );
        for scheme in [Scheme::Wagtail, Scheme::Native] {
            let url = verifier.sign(route, scheme, &Link::new(&id, "original")).expect("a key");
            assert_eq!(verify(&verifier, &url, 0).expect("its own").scheme(), scheme);
        }
    }

    #[test]
    fn presets_expand_and_may_be_all_there_is() {
        let open = verifier(|_| {});
        let closed = verifier(|config| config.signing.presets_only = true);
        let id = Subject::Id("42".into());
        for scheme in [Scheme::Wagtail, Scheme::Native] {
            let sign = |spec| open.sign(&open.table().routes()[0], scheme, &Link::new(&id, spec)).expect("a key");
            let url = sign("hero");
            let hero = verify(&closed, &url, 0).expect("a preset");
            assert_eq!((hero.filter_spec(), hero.preset()), ("fill-1600x600|format-webp", Some("hero")));
            assert_eq!(verify(&closed, &sign("width-1"), 0).unwrap_err(), Refusal::NotAPreset.into());
            assert!(verify(&open, &sign("width-1"), 0).is_ok());
        }
    }

    #[test]
    fn ids_beyond_64_bits_refer_to_nothing() {
        assert_eq!(Subject::Id("10000000000000000000000000".into()).image(), ImageRef::Nothing);
        assert_eq!(Subject::Id("007".into()).image(), ImageRef::Id(ImageId(7)));
        let path = Subject::Path { source: "m".into(), path: "a\\b".into() };
        assert_eq!(path.image(), ImageRef::Nothing);
    }
}
