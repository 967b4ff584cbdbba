//! `sendimage health`

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;

use super::{CommandError, CommandResult, ConfigArgument};
use crate::config::ListenAddress;

/// No answer is longer; what comes beyond is not read.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// Asks the running service whether it is ready, by its operations listener. Prints what it says; exit code 0: ready, 1: not,
/// or no answer. For containers, whose image has no other program to ask with.
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
    let address = &config.server.ops_listen;
    let answer = ask(address, path, Duration::from_secs(arguments.timeout))
        .with_context(|| format!("no answer from {address}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    print!("{body}");
    match head.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(CommandError::Silent),
    }
}

fn ask(address: &ListenAddress, path: &str, timeout: Duration) -> std::io::Result<String> {
    match address {
        ListenAddress::Tcp(address) => {
            let mut address = *address;
            // What listens everywhere is asked here.
            if address.ip().is_unspecified() {
                address.set_ip(if address.is_ipv4() {
                    [127, 0, 0, 1].into()
                } else {
                    std::net::Ipv6Addr::LOCALHOST.into()
                });
            }
            let stream = TcpStream::connect_timeout(&address, timeout)?;
            stream.set_read_timeout(Some(timeout))?;
            exchange(stream, path)
        }
        ListenAddress::Unix(socket) => {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(timeout))?;
            exchange(stream, path)
        }
    }
}

fn exchange(mut stream: impl Read + Write, path: &str) -> std::io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}
