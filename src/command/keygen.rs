//! `sendimage keygen`

use clap::Args;

use super::{CommandResult, print_line};

/// Prints 256 random bits as text: a value for `signing.keys[].secret`, `signing.secret` or a key file.
#[derive(Debug, Args)]
pub struct Arguments {}

pub fn run(_: &Arguments) -> CommandResult {
    let secret =
        crate::access::fresh_secret().map_err(|error| anyhow::anyhow!("the system has no randomness: {error}"))?;
    print_line(secret.expose())
}
