//! `sendimage proxy-conf`

use std::path::PathBuf;

use clap::Args;

use super::{CommandResult, ConfigArgument, print_bytes};
use crate::{
    config::ListenAddress,
    front::{ProxyOptions, WebServer, proxy_conf},
};

/// Prints the web server's config that fits ours: upstream, public locations, internal location.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sendimage proxy-conf > /etc/nginx/conf.d/sendimage.conf
  sendimage proxy-conf --server apache > /etc/apache2/sites-available/images.conf
  sendimage proxy-conf --whole --listen 127.0.0.1:8080 --directory /tmp/n > nginx.conf && nginx -p /tmp/n -c $PWD/nginx.conf")]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The web server
    #[arg(long, value_enum, default_value_t)]
    server: WebServer,
    /// A complete file that runs as it is, instead of one for conf.d
    #[arg(long)]
    whole: bool,
    /// What the server listens on
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// With --whole: where pid, logs and temporary files go
    #[arg(long, value_name = "DIR", requires = "whole")]
    directory: Option<PathBuf>,
    /// With --whole: the user, or USER:GROUP, that the server's workers run as
    #[arg(long, value_name = "USER", requires = "whole")]
    user: Option<String>,
    /// Another gate that shares the store, besides the one of server.listen; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    upstream: Vec<ListenAddress>,
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let config = arguments.config.load()?.config;
    let options = ProxyOptions {
        whole: arguments.whole,
        listen: arguments.listen.clone(),
        directory: arguments.directory.clone(),
        user: arguments.user.clone(),
        upstreams: match arguments.upstream.as_slice() {
            [] => Vec::new(),
            others => std::iter::once(config.server.listen.clone()).chain(others.iter().cloned()).collect(),
        },
    };
    let text = proxy_conf(arguments.server, &config, &options).map_err(anyhow::Error::from)?;
    print_bytes(text.as_bytes())
}
