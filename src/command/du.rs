//! `sendimage du`

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use super::{
    CommandError, CommandResult, ConfigArgument, output::Lines, print_json, runtime, start_log, with_one_worker,
};
use crate::{
    app::App,
    config::Config,
    upkeep::{self, Tally, Usage},
};

/// Says what is stored: renditions and bytes, by source, by format, and by preset where that is asked for. The store is gone
/// through, so it takes a while for a large one; it may run at any time.
#[derive(Debug, Args)]
#[command(
    after_help = "A rendition is a preset's if the preset makes it of the original as it was last asked for. The rest is (other):
specs that are no presets, presets before they were changed, originals before they were replaced."
)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Only this table
    #[arg(long, value_name = "WHAT")]
    by: Option<By>,
    /// How many of the images that take the most are named
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// Prints the findings as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Source,
    Preset,
    Format,
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let loaded = arguments.config.load()?;
    let _log = start_log(&loaded.config.log);
    let usage = runtime()?.block_on(count(&loaded.config, arguments))?;
    match arguments.json {
        true => print_json(&usage)?,
        false => report(&usage, arguments.by).print()?,
    }
    if usage.unreadable.is_none() { Ok(()) } else { Err(CommandError::Silent) }
}

async fn count(config: &Config, arguments: &Arguments) -> Result<Usage, CommandError> {
    let app = App::build(&with_one_worker(config)).await?;
    let usage = upkeep::usage(&app, arguments.by == Some(By::Preset), arguments.top).await;
    app.shut_down().await;
    Ok(usage)
}

fn report(usage: &Usage, by: Option<By>) -> Lines {
    let mut lines = Lines::default();
    let row =
        |name: &str, Tally { files, bytes }: Tally| format!("{files:>9}  {:>10}  {name}", ByteSize(bytes).to_string());
    lines.add(row(&format!("renditions of {} images", usage.images), usage.stored));
    if usage.outdated.files > 0 {
        lines.add(row("of them of originals that were replaced: gc removes those", usage.outdated));
    }
    let is_shown = |which| by.is_none_or(|by| by == which);
    if is_shown(By::Source) {
        lines.add("by source");
        usage.by_source.iter().for_each(|(name, tally)| lines.add(row(name, *tally)));
    }
    if is_shown(By::Format) {
        lines.add("by format");
        usage.by_format.iter().for_each(|(name, tally)| lines.add(row(name, *tally)));
    }
    if by == Some(By::Preset) {
        lines.add("by preset");
        usage.by_preset.iter().for_each(|(name, tally)| lines.add(row(name, *tally)));
    }
    if by.is_none() && !usage.largest.is_empty() {
        lines.add("largest");
        usage.largest.iter().for_each(|image| lines.add(row(&image.image, image.stored)));
    }
    if usage.unfinished.files > 0 {
        lines.add(row("being written, or left by crashed processes", usage.unfinished));
    }
    if usage.foreign > 0 {
        lines.add(format_args!("{:>9}  {:>10}  files that sendimage never made", usage.foreign, ""));
    }
    if let Some((count, why)) = &usage.unreadable {
        lines.add(format_args!(
            "{count} parts of the store could not be read, the first because {why}: this is not all"
        ));
    }
    lines
}
