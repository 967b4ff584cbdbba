//! What is asked over the network: bounded in time and length, without redirects, proxies or cookies.
//!
//! The URLs that are fetched here come from the config, whole: no part of a request ever becomes part of one.

mod http;

pub use http::{Client, Fetch, RemoteError};
