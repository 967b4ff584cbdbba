//! Requests answered before: what the next one like them is spared.
//!
//! A hit asks for the same few things each time: the parsed filter spec, the solved plan, a handful of headers. All of them
//! follow from the request's signed text, the config and the version of the source image. So the answer to a hit is kept,
//! under the text, and the next request with this text has it at the cost of a look-up, **once its own signature and expiry
//! are checked** and while source image and rendition are what they were. The plain path makes these answers; nothing else
//! does.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use http_body_util::{Either, Full};
use hyper::{HeaderMap, Response, StatusCode};

use crate::{
    access::{Subject, VerifiedRequest},
    model::{ImageId, SourceImage, SourceRef},
    offload::Body,
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
    max_age: Duration,
    /// The image's id, if the URL named it by one. Its row may change.
    pub id: Option<ImageId>,
    /// The image that the text referred to.
    pub image: Arc<SourceImage>,
    /// The rendition.
    pub planned: Arc<Planned>,
    status: StatusCode,
    headers: HeaderMap,
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
        answer.as_ref().filter(|answer| answer.fits(verified, accepted)).cloned()
    }

    /// Keeps the answer to a hit, if it is one that others can have too: no attachment under a name of its own, no link
    /// that is about to expire, no body.
    pub fn keep(
        &self,
        verified: &VerifiedRequest<'_>,
        accepted: Option<Accepted>,
        (id, image): (Option<ImageId>, &Arc<SourceImage>),
        planned: &Arc<Planned>,
        response: &Response<Body>,
    ) {
        let full_age = Duration::from_secs(verified.route().max_age_seconds);
        let is_empty = matches!(response.body(), Either::Left(_));
        if verified.download().is_some() || verified.max_age() != full_age || !is_empty {
            return;
        }
        let answer = Answer {
            route: verified.route().name.clone(),
            subject: verified.subject().clone().into_owned(),
            filter_spec: verified.filter_spec().to_owned(),
            accepted,
            max_age: full_age,
            id,
            image: image.clone(),
            planned: planned.clone(),
            status: response.status(),
            headers: response.headers().clone(),
        };
        self.place(verified, accepted).store(Some(Arc::new(answer)));
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
    fn fits(&self, verified: &VerifiedRequest<'_>, accepted: Option<Accepted>) -> bool {
        self.subject == *verified.subject()
            && self.filter_spec == verified.filter_spec()
            && self.accepted == accepted
            && self.max_age == verified.max_age()
            && verified.download().is_none()
            && self.route == verified.route().name
    }

    /// The answer's headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The answer once more.
    pub fn response(&self) -> Response<Body> {
        let mut response = Response::new(Either::Left(Full::default()));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        response
    }
}
