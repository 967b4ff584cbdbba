//! `sendimage health`

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use hyper::StatusCode;

use super::{CommandError, CommandResult, ConfigArgument, ops_client::OpsClient, print_bytes};

/// Asks the running service whether it is ready, by its operations listener. Prints what it says; exit code 0: ready, 1: not,
/// or no answer. For containers, whose image has no other program to ask with.
///
/// It is not ready while it drains, and while no render worker is alive. A catalogue, a source or a store that is away is told of
/// in the answer, and leaves it ready: what needs none of them is served.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Only whether it is alive, whatever its sources and store are like
    #[arg(long)]
    live: bool,
    /// Longest time for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let config = arguments.config.load()?.config;
    let path = if arguments.live { "/health/live" } else { "/health/ready" };
    let client = OpsClient::new(&config);
    let timeout = Duration::from_secs(arguments.timeout);
    // Asked by containers every few seconds: one thread is enough.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = async { tokio::time::timeout(timeout, client.get(path, timeout)).await };
    let answer = runtime.block_on(asked).map_err(|_| anyhow::anyhow!("none within {} s", timeout.as_secs()));
    let answer = answer.and_then(|answer| answer.map_err(anyhow::Error::from));
    let (status, body) = answer.with_context(|| format!("no answer from {client}"))?;
    print_bytes(&body)?;
    match status {
        StatusCode::OK => Ok(()),
        _ => Err(CommandError::Silent),
    }
}
