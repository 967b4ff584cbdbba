//! HTTP: connections, the life of a request, statuses, and the operations listener.

mod accept;
mod canary;
mod failure;
mod handler;
pub mod inherited;
mod message;
mod ops;
pub mod page;
mod proven;
mod rendition;
mod request_id;
pub mod server;
mod verdict;

pub use failure::{Failure, RequestError, STATUSES, StatusRow};
pub use handler::{answer, serve};
pub use ops::answer_ops;
pub use proven::{admit_size, explain_gone, find_image};
