//! What a gate tells of a request that reached it: the other end of what the doctor sent.

use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    model::{PartsDigest, hex},
};

/// A request as the gate saw it. It holds no header's value but the client's address, and nothing of the config in plain: who
/// may sign for one source need not know the operator's folders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// The gate's version.
    pub version: String,
    /// Its clock.
    pub unix_seconds: u64,
    /// The path as received.
    pub target: String,
    /// Whether the web server keeps its connection to the gate.
    pub keeps_connection: bool,
    /// Whether the mark of a second look was on it.
    pub has_again: bool,
    /// Whether a `Cookie` came along.
    pub has_cookie: bool,
    /// Whether an `Authorization` came along.
    pub has_authorization: bool,
    /// Whether the gate reads the client's address from a header.
    pub believes_client: bool,
    /// What that header says.
    pub client: Option<String>,
    /// How the gate hands over.
    pub mode: String,
    /// [`digest`] of its config.
    pub terms: String,
}

/// What a gate and whoever checks it must agree on: the store, the internal location, the routes.
pub fn digest(config: &Config) -> String {
    let mut digest = PartsDigest::default();
    let mut feed = |text: &str| digest.add(text);
    feed(&config.store.root.to_string_lossy());
    feed(&config.offload.internal_prefix);
    feed(&config.offload.redirect_url);
    for (name, route) in config.effective_routes() {
        feed(&name);
        feed(&route.prefix);
        feed(route.offload.name());
        feed(&format!("{:?}", route.auth));
    }
    for (name, value) in config.headers.said() {
        feed(name);
        feed(value);
    }
    hex(&digest.half())
}
