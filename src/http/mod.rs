//! HTTP: connections, the life of a request, statuses, and the operations listener.

mod accept;
mod canary;
mod failure;
mod handler;
pub mod inherited;
mod message;
mod ops;
pub mod page;
mod request_id;
pub mod server;
mod verdict;

pub use failure::{Failure, RequestError, STATUSES, StatusRow};
pub use handler::{admit_size, answer, explain_gone, find_image, serve};
pub use ops::answer_ops;
