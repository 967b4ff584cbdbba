//! The id that ties an answer to its log line.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

/// Carries the id, both ways: whatever is in front may send one.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// An id: letters, digits and hyphens.
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The id that nginx gave the request, or a fresh one. Only what cannot disturb a log or a header is taken over.
    pub fn of(headers: &HeaderMap) -> Self {
        let plain = |id: &[u8]| id.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
        match headers.get(X_REQUEST_ID) {
            Some(id) if (1..=64).contains(&id.len()) && plain(id.as_bytes()) => Self(id.clone()),
            _ => Self(fresh()),
        }
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl From<RequestId> for HeaderValue {
    fn from(id: RequestId) -> Self {
        id.0
    }
}

/// 64 bits that nobody has seen before: a keyed hash of a counter, so that it tells nobody how many requests there were.
fn fresh() -> HeaderValue {
    static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let bits = HASHER.hash_one(COUNTER.fetch_add(1, Ordering::Relaxed));
    let digits: [u8; 16] = std::array::from_fn(|digit| b"0123456789abcdef"[(bits >> (60 - 4 * digit)) as usize & 15]);
    HeaderValue::from_bytes(&digits).unwrap_or_else(|_| unreachable!("hexadecimal digits"))
}
