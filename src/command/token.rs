//! `sendimage token`

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::Args;
use serde_json::json;

use super::{CommandResult, ConfigArgument, print_json, print_line};
use crate::access::{
    parse_life,
    token::{Minted, mint},
};

/// Mints a token (JWT) with a key of auth.jwt.keys, for tests and scripts. Sites make their own, with the library of their
/// language.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sendimage token --sub anna --ttl 10m
  sendimage token --sub anna --images '42,media/2026/*'
  curl -H \"Authorization: Bearer $(sendimage token --sub test)\" \"$(sendimage sign 42 width-400)\"")]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Whom the token is about
    #[arg(long, value_name = "NAME")]
    sub: String,
    /// What it allows: ids, and paths such as media/2026/*, with commas between them [default: no such claim]
    #[arg(long, value_name = "REF,...", value_delimiter = ',')]
    images: Option<Vec<String>>,
    /// For how long it is good: 90s, 15m, 1h, 7d
    #[arg(long, value_name = "TIME", value_parser = parse_life, default_value = "10m")]
    ttl: Duration,
    /// The key to use [default: the first of auth.jwt.keys]
    #[arg(long, value_name = "KID")]
    kid: Option<String>,
    /// The private key in PEM (PKCS #8), for RS256, ES256 and EdDSA
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    /// Prints a JSON object: token and expires
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let config = arguments.config.load()?.config;
    let now = SystemTime::now();
    let minted = Minted {
        subject: &arguments.sub,
        images: arguments.images.as_deref(),
        ttl: arguments.ttl,
        kid: arguments.kid.as_deref(),
        private_key_file: arguments.private_key.as_deref(),
    };
    let token = mint(&config.auth.jwt, &minted, now).map_err(anyhow::Error::from)?;
    if arguments.json {
        let expires = minted.expires(now).map_err(anyhow::Error::from)?;
        return print_json(&json!({ "token": token, "expires": expires }));
    }
    print_line(token)
}
