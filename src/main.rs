//! The `sendimage` program: one match over the commands.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use sendimage::{command::Cli, workers};

fn main() -> ExitCode {
    // A render worker is this same program; it must be locked in before anything else is looked at.
    match workers::run_as_child() {
        Some(code) => code,
        None => Cli::parse().run(),
    }
}
