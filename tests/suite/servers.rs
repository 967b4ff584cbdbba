//! Real servers that gates meet in, each private to its test: started and stopped, frozen and killed by it.

use std::sync::Mutex;

use crate::{databases, redis_server::Redis};

/// A server process that a test may do anything to.
pub trait Server {
    /// Where it is reached.
    fn url(&self) -> String;
    /// Starts it, and waits until it answers.
    fn start(&self);
    /// Stops it at once, as a crash does.
    fn stop(&self);
    /// Freezes it: connections stay open, and nobody answers.
    fn pause(&self);
    /// Goes on after [`Self::pause`].
    fn resume(&self);
}

/// A fresh server; `None` if this machine has none.
pub fn start(name: &str) -> Option<Box<dyn Server>> {
    match name {
        "redis" => Redis::new().map(|server| Box::new(server) as Box<dyn Server>),
        "postgres" => Postgres::new().map(|server| Box::new(server) as Box<dyn Server>),
        _ => None,
    }
}

/// Postgres, by the catalogues' own server.
struct Postgres(Mutex<databases::Server>);

impl Postgres {
    fn new() -> Option<Self> {
        let kind = databases::Kind::Postgres;
        kind.is_installed().then(|| Self(Mutex::new(databases::Server::at(kind, "127.0.0.1", 20))))
    }
}

impl Server for Postgres {
    fn url(&self) -> String {
        self.0.lock().unwrap().url()
    }

    fn start(&self) {
        self.0.lock().unwrap().start();
    }

    fn stop(&self) {
        self.0.lock().unwrap().kill();
    }

    fn pause(&self) {
        self.0.lock().unwrap().freeze();
    }

    fn resume(&self) {
        self.0.lock().unwrap().thaw();
    }
}

impl Server for Redis {
    fn url(&self) -> String {
        Redis::url(self)
    }

    fn start(&self) {
        Redis::start(self);
    }

    fn stop(&self) {
        Redis::stop(self);
    }

    fn pause(&self) {
        Redis::pause(self);
    }

    fn resume(&self) {
        Redis::resume(self);
    }
}
