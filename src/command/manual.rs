//! `sendimage man`: the manual pages, made of what `--help` says and of the example config, so that they cannot disagree.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory as _};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::{Cli, CommandResult, EXAMPLE_CONFIG};

const MANUAL: &str = "sendimage manual";

/// Prints the manual page sendimage(1), or writes all of them into a folder: one for each command, and sendimage.toml(5).
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sendimage man | man -l -
  sendimage man /usr/local/share/man && man sendimage-sign")]
pub struct Arguments {
    /// A folder for the pages (its man1 and man5 are made) [default: sendimage(1) to standard output]
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let root = root();
    let Some(folder) = &arguments.folder else {
        return super::print_bytes(&page(root)?);
    };
    let config = config_page()?;
    for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("sendimage-{}", command.get_name());
        // The page's own name, and what is typed: `sendimage sign`.
        let command = command.clone().bin_name(name.replacen('-', " ", 1)).display_name(&name);
        write(&folder.join("man1").join(format!("{name}.1")), &page(command)?)?;
    }
    write(&folder.join("man1/sendimage.1"), &page(root)?)?;
    write(&folder.join("man5/sendimage.toml.5"), &config)
}

/// The program with its commands. Its long version names libraries, which a page has no place for.
fn root() -> Command {
    let mut root = Cli::command().long_version(None::<&str>).disable_help_subcommand(true);
    root.build();
    root
}

/// One page of section 1.
fn page(command: Command) -> Result<Vec<u8>, std::io::Error> {
    let mut page = Vec::new();
    let source = concat!("sendimage ", env!("CARGO_PKG_VERSION"));
    Man::new(command).source(source).manual(MANUAL).render(&mut page)?;
    Ok(dateless(page))
}

/// sendimage.toml(5): the example config, which names every key.
fn config_page() -> Result<Vec<u8>, std::io::Error> {
    let mut roff = Roff::new();
    roff.control("TH", ["sendimage.toml", "5", "", concat!("sendimage ", env!("CARGO_PKG_VERSION")), MANUAL]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("sendimage.toml - the config of sendimage(1), every section and every key")]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.control("nf", []);
    for line in EXAMPLE_CONFIG.lines() {
        roff.text([if line.starts_with('[') { bold(line) } else { roman(line) }]);
    }
    roff.control("fi", []);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("sendimage-check"), roman("(1), "), bold("sendimage-serve"), roman("(1)")]);
    let mut page = Vec::new();
    roff.to_writer(&mut page)?;
    Ok(dateless(page))
}

/// No page has a date: the same source makes the same bytes. An empty argument must be quoted to be one, which the library does
/// not do.
fn dateless(page: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8_lossy(&page);
    let lines = text.split_inclusive('\n').map(|line| match line.starts_with(".TH ") {
        true => line.replacen("  ", " \"\" ", 1),
        false => line.to_owned(),
    });
    lines.collect::<String>().into_bytes()
}

fn write(file: &Path, page: &[u8]) -> CommandResult {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let written = std::fs::File::create(file).and_then(|mut open| open.write_all(page));
    Ok(written.with_context(|| file.display().to_string())?)
}
