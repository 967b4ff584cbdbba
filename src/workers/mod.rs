//! Render workers: child processes that alone touch pixels.
//!
//! The gate hands a worker an open source, a plan and an open output over a socket, and believes nothing that comes back
//! until it is parsed and checked. [`Pool`] is the one door: it owns the children, the bounded queue, the memory budget and
//! the deadline. What a worker may do is decided in [`sandbox`], what it does in [`worker`], what is said in [`job`].

pub mod job;
mod keeper;
pub mod marks;
mod oom;
pub mod pool;
mod process;
mod queue;
pub mod sandbox;
mod seccomp;
pub mod self_test;
mod source_file;
pub mod worker;

use std::{ffi::OsString, process::ExitCode};

pub use job::{Errno, JobError, Lane, RenderReport, cost};
pub use marks::{MarkError, Marks};
pub use pool::{Files, Pool, PoolConfig, PoolStats, StartError, Wanted};
pub use queue::Coming;
pub use sandbox::SandboxReport;

/// Runs this process as one of the service's own children, if that is what it was started as: to be called first thing in
/// `main`, before arguments are parsed, a logger is set up or a runtime is started.
///
/// The names of these subcommands are hidden: they take a socket or a pipe that only [`Pool`] and [`self_test`] provide.
pub fn run_as_child() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let name = arguments.next()?;
    let rest: Vec<OsString> = arguments.collect();
    match name.to_str()? {
        worker::SUBCOMMAND => Some(worker::run(&rest)),
        self_test::SUBCOMMAND => Some(self_test::run(&rest)),
        _ => None,
    }
}
