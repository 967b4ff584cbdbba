//! Requests answered before: what the next one like them is spared.
//!
//! A hit asks for the same few things each time: the parsed filter spec, the solved plan, a handful of headers. All of them
//! follow from the request's signed text, the config and the version of the source image. So the answer to a hit is kept,
//! under the text, and the next request with this text has it at the cost of a look-up, **once its own signature, expiry and
//! bearer are checked** and while source image and rendition are what they were. The plain path makes these answers; nothing else
//! does.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use http_body_util::{Either, Full};
use hyper::{HeaderMap, Response, StatusCode};

use crate::{
    access::{Subject, VerifiedRequest},
    model::{ImageId, SourceImage, SourceRef},
    offload::{Body, Caching, Life, OffloadError},
    renditions::Planned,
    spec::Accepted,
};

/// Answers held at most; some 1,500 bytes each, half of which the plan is that is held anyway.
const PLACES: usize = 1 << 15;

/// Answers by the text of their requests. Each text has one place, which the latest takes over: bounded without any
/// book-keeping, and looked up without a lock.
pub struct Solved {
    hasher: RandomState,
    places: Box<[ArcSwapOption<Answer>]>,
}

/// An answer, and what it is the answer to.
pub struct Answer {
    route: Arc<str>,
    subject: Subject<'static>,
    filter_spec: String,
    accepted: Option<Accepted>,
    caching: Caching,
    /// The image's id, if the URL named it by one. Its row may change.
    pub id: Option<ImageId>,
    /// The image that the text referred to.
    pub image: Arc<SourceImage>,
    /// The rendition.
    pub planned: Arc<Planned>,
    status: StatusCode,
    headers: HeaderMap,
    /// From then on a new one has to be made: the address in this one ends.
    good_until: Option<Instant>,
    life: Life,
}

impl Default for Solved {
    fn default() -> Self {
        Self { hasher: RandomState::new(), places: (0..PLACES).map(|_| ArcSwapOption::empty()).collect() }
    }
}

impl Solved {
    /// The answer that a request like this one got. `accepted` is what its `Accept` says, where that has a say.
    pub fn find(&self, verified: &VerifiedRequest<'_>, accepted: Option<Accepted>) -> Option<Arc<Answer>> {
        let answer = self.place(verified, accepted).load();
        answer.as_ref().filter(|answer| answer.fits(verified, accepted) && answer.is_good()).cloned()
    }

    /// Keeps the answer to a hit, if it is one that others can have too: no attachment under a name of its own, no body. How
    /// long it may be cached is each request's own.
    pub fn keep(
        &self,
        verified: &VerifiedRequest<'_>,
        accepted: Option<Accepted>,
        (id, image): (Option<ImageId>, &Arc<SourceImage>),
        planned: &Arc<Planned>,
        (caching, life, response): (Caching, Life, &Response<Body>),
    ) {
        let is_empty = matches!(response.body(), Either::Left(_));
        if verified.download().is_some() || !is_empty {
            return;
        }
        let answer = Answer {
            route: verified.route().name.clone(),
            subject: verified.subject().clone().into_owned(),
            filter_spec: verified.filter_spec().to_owned(),
            accepted,
            caching,
            id,
            image: image.clone(),
            planned: planned.clone(),
            status: response.status(),
            headers: response.headers().clone(),
            good_until: life.reusable_for.map(|reusable_for| Instant::now() + reusable_for),
            life,
        };
        self.place(verified, accepted).store(Some(Arc::new(answer)));
    }

    /// Forgets all answers.
    pub fn forget_all(&self) {
        self.places.iter().for_each(|place| place.store(None));
    }

    /// Forgets the answers about these source images.
    pub fn forget(&self, locations: &HashSet<SourceRef>) {
        for place in &self.places {
            let is_of = |answer: &Arc<Answer>| locations.contains(&answer.image.location);
            if place.load().as_ref().is_some_and(is_of) {
                place.store(None);
            }
        }
    }

    fn place(&self, verified: &VerifiedRequest<'_>, accepted: Option<Accepted>) -> &ArcSwapOption<Answer> {
        let hash = self.hasher.hash_one((verified.subject(), verified.filter_spec(), accepted));
        &self.places[hash as usize % PLACES]
    }
}

impl Answer {
    fn is_good(&self) -> bool {
        self.good_until.is_none_or(|end| Instant::now() < end)
    }

    fn fits(&self, verified: &VerifiedRequest<'_>, accepted: Option<Accepted>) -> bool {
        self.subject == *verified.subject()
            && self.filter_spec == verified.filter_spec()
            && self.accepted == accepted
            && verified.download().is_none()
            && self.route == verified.route().name
    }

    /// The answer's headers, for a request that may keep it for so long.
    ///
    /// # Errors
    /// Never: a number is fit for a header; the type is the offload room's.
    pub fn headers(&self, max_age: Duration) -> Result<HeaderMap, OffloadError> {
        let mut headers = self.headers.clone();
        let max_age = max_age.min(self.life.max_age.unwrap_or(Duration::MAX));
        if max_age != self.caching.max_age {
            Caching { max_age, ..self.caching }.renew(&mut headers)?;
        }
        Ok(headers)
    }

    /// The answer once more.
    ///
    /// # Errors
    /// As [`Self::headers`].
    pub fn response(&self, max_age: Duration) -> Result<Response<Body>, OffloadError> {
        let mut response = Response::new(Either::Left(Full::default()));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers(max_age)?;
        Ok(response)
    }
}
