//! What is asked over the network: bounded in time and length, without proxies or cookies.
//!
//! Three kinds of URL. Those of the config are fetched by [`Client`], whole: no part of a request ever becomes part of one. Of
//! those of [`s3`] the host and the bucket come from the config. Those that a catalogue, a signed path or a redirect names are
//! fetched by [`GuardedClient`], which connects to public addresses only, and to those that an operator allows.

mod breaker;
mod connect;
mod guard;
mod guarded;
mod hosts;
mod http;
pub mod postgres;
pub mod s3;
mod tls;

pub use breaker::{Breaker, Leave, Open, Turned};
pub use connect::{ConnectError, Resolve, SystemResolver};
pub use guard::{Forbidden, Guard};
pub use guarded::{AskError, GuardedClient};
pub use hosts::{HostBusy, Hosts, Turn};
#[cfg(feature = "otel")]
pub(crate) use http::connector as http_connector;
pub(crate) use http::deepest;
pub use http::{Client, Fetch, RemoteError};
