//! The id that ties an answer to its log line.

use std::sync::atomic::{AtomicU64, Ordering};

use hyper::{HeaderMap, header::HeaderName};

/// Carries the id, both ways: nginx may send its own `$request_id`.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id that nginx gave the request, or a fresh one. Only what cannot disturb a log or a header is taken over.
pub(super) fn of(headers: &HeaderMap) -> String {
    let given = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
    match given {
        Some(id) if (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
            id.to_owned()
        }
        _ => fresh(),
    }
}

/// Unique within a process, and between processes as far as 32 random bits go.
fn fresh() -> String {
    static LIFE: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let life = LIFE.get_or_init(|| getrandom::u32().unwrap_or_else(|_| std::process::id()));
    format!("{life:08x}-{:x}", COUNTER.fetch_add(1, Ordering::Relaxed))
}
