//! Whether requests can be answered, as `/health/ready` says it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::workers::SandboxReport;

/// The answer of `/health/ready`.
#[derive(Debug, Serialize)]
pub struct Readiness {
    /// Whether to send requests here.
    pub ready: bool,
    /// Whether a shutdown has begun.
    pub draining: bool,
    /// Living render workers.
    pub workers: usize,
    /// What they are locked in by.
    pub sandbox: SandboxReport,
    /// The catalogue.
    pub catalogue: Part,
    /// Each source.
    pub sources: BTreeMap<String, Part>,
    /// The store.
    pub store: Part,
    /// How this gate agrees with others.
    pub coordination: Part,
}

/// One part's state.
#[derive(Debug, Serialize)]
pub struct Part {
    /// Whether it works.
    pub ok: bool,
    /// A sentence about it.
    pub says: String,
}

impl Part {
    /// From what the part's probe said.
    pub fn new(probed: Result<String, impl std::fmt::Display>) -> Self {
        match probed {
            Ok(says) => Self { ok: true, says },
            Err(error) => Self { ok: false, says: error.to_string() },
        }
    }
}
