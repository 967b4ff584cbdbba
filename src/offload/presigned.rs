//! Renditions in an object store: addresses that are their own permission, for a while.

use std::{sync::Arc, time::Duration};

use hyper::{
    Method, Response, StatusCode,
    header::{HeaderValue, LOCATION},
};

use super::{Body, ImageHeaders, OffloadError, Served};
use crate::remote::s3::Bucket;

/// Signs addresses in the store's bucket.
#[derive(Clone, Debug)]
pub(super) struct Presigner {
    bucket: Arc<Bucket>,
    life: Duration,
}

impl Presigner {
    pub fn new(bucket: Arc<Bucket>, life: Duration) -> Self {
        Self { bucket, life }
    }

    /// For how long an answer with such an address may be handed out again: whoever gets it at the last moment has half of the
    /// address's life left.
    pub fn reusable_for(&self) -> Duration {
        self.life / 2
    }

    /// What follows the `?` of nginx's request for a rendition. nginx asks by GET, whatever it was asked by.
    pub async fn query(&self, path: &str) -> Result<String, OffloadError> {
        let signed = self.bucket.presign(Method::GET, path, &[], self.life).await;
        signed.map(|signed| signed.query).map_err(OffloadError::Presign)
    }

    /// A redirect to the rendition in the store, by the method that the browser asks with. What nginx would say about the picture
    /// the store says, as far as it can be told to: its name and caching, and no security headers.
    pub async fn redirect(
        &self,
        status: StatusCode,
        added: &ImageHeaders,
        served: &Served,
        method: &Method,
    ) -> Result<Response<Body>, OffloadError> {
        let control = served.caching.control()?;
        let mut says = Vec::new();
        for (name, value) in
            [("response-cache-control", Some(&control)), ("response-content-disposition", served.disposition.as_ref())]
        {
            // Made of visible ASCII by ourselves.
            says.extend(value.and_then(|value| Some((name, value.to_str().ok()?))));
        }
        let signed = self.bucket.presign(method.clone(), &served.stored.path, &says, self.life).await;
        let signed = signed.map_err(OffloadError::Presign)?;
        let mut response = served.empty(status);
        let headers = response.headers_mut();
        headers.insert(LOCATION, HeaderValue::try_from(signed.url)?);
        served.cache(headers)?;
        added.allow(headers);
        Ok(response)
    }
}
