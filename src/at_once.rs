//! Answers that need no waiting, out of interfaces that could.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

/// A future's value if it has it already: a look in memory never waits, though a cache's interface is async.
pub fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
