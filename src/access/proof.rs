//! Proofs: what is known of a request once its signature, and its bearer, were checked.
//!
//! Their fields are private to this room, they have no `Default` and no `Deserialize`: [`super::Verifier`] is their only maker.
//! They borrow what the request and the config hold anyhow.

use std::{
    ops::Deref,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    refusal::{Refusal, VerifyError},
    route::Route,
    scope::Scope,
    signature::Scheme,
    token::Grant,
    url::{SignedUrl, Subject},
};
use crate::model::{ImageId, MediaPath, SourceImage, SourceRef};

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

/// Proof that the signature and the expiry were checked; whoever sent it may still have to say who they are.
#[derive(Clone, Copy, Debug)]
pub struct SignedRequest<'a> {
    pub(super) url: &'a SignedUrl<'a>,
    pub(super) route: &'a Route,
    pub(super) key_id: &'a Arc<str>,
    /// The bounds of the key, where it has any.
    pub(super) scope: Option<&'a Scope>,
    pub(super) scheme: Scheme,
    /// What the preset stands for that the URL names.
    pub(super) preset: Option<&'a str>,
    /// How much of the link's life is left.
    pub(super) left: Option<Duration>,
    /// What would be refused, were `signing.log_only` off.
    pub(super) trial: Option<Refusal>,
}

impl<'a> SignedRequest<'a> {
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

    /// The filter spec as the URL has it, or the preset's name.
    pub fn named_spec(&self) -> &'a str {
        &self.url.filter_spec
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

    /// The bounds of that key, where it has any.
    pub fn scope(&self) -> Option<&'a Scope> {
        self.scope
    }

    /// The scheme of its signature.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// How much is left of the link's life; absent where it does not end.
    pub fn link_left(&self) -> Option<Duration> {
        self.left
    }

    /// The name of an attachment, where the URL asks for one.
    pub fn download(&self) -> Option<&'a str> {
        // A Wagtail signature says nothing about the query.
        self.url.query.download.as_deref().filter(|_| self.scheme == Scheme::Native)
    }

    /// The values of `?token=`.
    pub(super) fn query_tokens(&self) -> &'a [&'a str] {
        &self.url.query.tokens
    }
}

/// Proof that the signature and the expiry were checked, and the token or the site's word where one is wanted.
#[derive(Clone, Debug)]
pub struct VerifiedRequest<'a> {
    pub(super) signed: SignedRequest<'a>,
    /// What the token allows; absent where there is none, or the site was asked.
    pub(super) grant: Option<Arc<Grant>>,
    /// How much of the token's life is left.
    pub(super) grant_left: Option<Duration>,
    /// Whether its bearer decides: what it gets is nobody else's.
    pub(super) is_private: bool,
    /// What would be refused, were `auth.log_only` off; then nothing else about the bearer is known.
    pub(super) trial: Option<VerifyError>,
}

impl<'a> Deref for VerifiedRequest<'a> {
    type Target = SignedRequest<'a>;

    fn deref(&self) -> &SignedRequest<'a> {
        &self.signed
    }
}

impl VerifiedRequest<'_> {
    /// What the token allows, where there is one.
    pub fn grant(&self) -> Option<&Grant> {
        self.grant.as_deref()
    }

    /// Whether shared caches must keep nothing of the answer.
    pub fn is_private(&self) -> bool {
        self.is_private
    }

    /// What would have refused it, did the config not say `log_only`.
    pub fn on_trial(&self) -> impl Iterator<Item = VerifyError> {
        self.signed.trial.map(VerifyError::from).into_iter().chain(self.trial.clone())
    }

    /// Whether its bearer would have been refused.
    pub fn is_on_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Whether an image is one that the key signs for, and that the token allows.
    ///
    /// # Errors
    /// [`Refusal::KeySource`], [`Refusal::OutOfScope`].
    pub fn admits(&self, image: &SourceImage) -> Result<(), Refusal> {
        if self.scope.is_some_and(|scope| !scope.has_source(&image.location.source)) {
            return Err(Refusal::KeySource);
        }
        match &self.grant {
            Some(grant) if grant.is_limited() && !grant.covers(self.image().id(), &image.location) => {
                Err(Refusal::OutOfScope)
            }
            _ => Ok(()),
        }
    }

    /// What is said of an image that does not exist. To a token that allows some images only, it looks as one out of its
    /// scope does: what there is is not for its bearer to find out.
    ///
    /// # Errors
    /// [`Refusal::OutOfScope`].
    pub fn admits_unknown(&self) -> Result<(), Refusal> {
        match &self.grant {
            Some(grant) if grant.is_limited() && !grant.covers_id(self.image().id()) => Err(Refusal::OutOfScope),
            _ => Ok(()),
        }
    }

    /// Whether the key has a bound on the rendition's size.
    pub fn limits_pixels(&self) -> bool {
        self.scope.is_some_and(|scope| scope.max_pixels.is_some())
    }

    /// Whether a rendition of so many pixels is one that the key signs for.
    ///
    /// # Errors
    /// [`Refusal::KeyPixels`].
    pub fn admits_pixels(&self, pixels: u64) -> Result<(), Refusal> {
        match self.scope {
            Some(scope) if !scope.has_pixels(pixels) => Err(Refusal::KeyPixels),
            _ => Ok(()),
        }
    }

    /// For how long a browser may keep the answer; never beyond the life of the link or the token.
    pub fn max_age(&self) -> Duration {
        let usual = Duration::from_secs(self.route.max_age_seconds);
        self.left().map_or(usual, |left| left.min(usual))
    }

    /// How much is left of the life of the link or of the token, whichever ends first; absent where neither ends.
    pub fn left(&self) -> Option<Duration> {
        [self.left, self.grant_left].into_iter().flatten().min()
    }
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

/// How much is left until a moment; nothing where it is over.
pub(super) fn left_until(end: SystemTime, now: SystemTime) -> Duration {
    end.duration_since(now).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_beyond_64_bits_refer_to_nothing() {
        assert_eq!(Subject::Id("10000000000000000000000000".into()).image(), ImageRef::Nothing);
        assert_eq!(Subject::Id("007".into()).image(), ImageRef::Id(ImageId(7)));
        let path = Subject::Path { source: "m".into(), path: "a\\b".into() };
        assert_eq!(path.image(), ImageRef::Nothing);
    }
}
