//! `sendimage demo`

use std::{net::SocketAddr, time::SystemTime};

use anyhow::Context as _;
use clap::Args;

use super::{CommandResult, output::Lines, runtime, say, serve, start_log};
use crate::{
    access::{Link, Scheme, Subject, Verifier, fresh_secret},
    config::{Config, ListenAddress, OffloadMode, Secret, SigningKeyConfig, SourceConfig},
    http::inherited::Inherited,
};

/// Everything in one: makes a sample photo and a fresh key in a temporary folder, serves without nginx (offload mode
/// "direct"), prints URLs to click, and cleans up after Ctrl-C.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

const SPECS: [&str; 4] = ["width-800", "fill-400x300", "fill-400x400|format-webp", "original"];

pub fn run(arguments: &Arguments) -> CommandResult {
    let folder = Folder::new()?;
    let media = folder.path.join("media");
    std::fs::create_dir(&media)?;
    say("making a sample photo ...");
    let photo = super::sample::jpeg(2400, 1600, 90, 1).context("the sample photo was not made")?;
    std::fs::write(media.join("photo.jpg"), photo)?;

    let mut config = Config::default();
    config.server.listen = ListenAddress::Tcp(arguments.listen);
    config.server.ops_listen = ListenAddress::Tcp(([127, 0, 0, 1], 0).into());
    let secret = fresh_secret().map_err(|error| anyhow::anyhow!("the system has no randomness: {error}"))?;
    config.signing.keys =
        vec![SigningKeyConfig { id: "demo".into(), secret: Some(secret), ..SigningKeyConfig::default() }];
    config.sources.insert("media".into(), SourceConfig::folder(media));
    config.store.root = folder.path.join("renditions");
    config.offload.mode = OffloadMode::Direct;
    config.page.listen = Some(ListenAddress::Tcp(([127, 0, 0, 1], 0).into()));
    let password = fresh_secret().map_err(|error| anyhow::anyhow!("the system has no randomness: {error}"))?;
    let password: String = password.expose().chars().take(16).collect();
    config.page.password = Some(Secret::new(password.clone()));
    let log = start_log(&config.log);

    let (verifier, now) = (Verifier::new(&config)?, SystemTime::now());
    let urls: Vec<String> = SPECS
        .iter()
        .filter_map(|spec| {
            let subject = Subject::Path { source: "media".into(), path: "photo.jpg".into() };
            verifier.sign(&verifier.table().routes()[0], Scheme::Native, &Link::new(&subject, spec), now)
        })
        .collect();
    runtime()?.block_on(serve::serve(&config, None, Inherited::default(), &log, |address, page| {
        let mut lines = Lines::default();
        lines.add("\nOpen one of these; the first look renders, the second finds it in the store:\n");
        for (spec, url) in SPECS.iter().zip(&urls) {
            lines.add(format_args!("  {spec}\n    http://{address}{url}\n"));
        }
        if let Some(page) = page {
            lines.add(format_args!(
                "Or make one by hand, on the editors' page:\n\n    http://{page}/    password: {password}\n"
            ));
        }
        lines.add("Change anything in a URL and it is refused. Ctrl-C ends the demo.\n");
        lines.print()
    }))
}

/// A temporary folder that goes when the demo ends.
struct Folder {
    path: std::path::PathBuf,
}

impl Folder {
    fn new() -> Result<Self, anyhow::Error> {
        let name = format!("sendimage-demo-{}-{:08x}", std::process::id(), getrandom::u32().unwrap_or_default());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
