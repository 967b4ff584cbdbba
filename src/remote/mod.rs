//! What is asked over the network: bounded in time and length, without redirects, proxies or cookies.
//!
//! The URLs that [`Client`] fetches come from the config, whole: no part of a request ever becomes part of one. Of those of
//! [`s3`] the host and the bucket do.

mod http;
pub mod s3;

pub use http::{Client, Fetch, RemoteError};
