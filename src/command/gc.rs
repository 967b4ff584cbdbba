//! `sendimage gc`

use std::{
    io::IsTerminal as _,
    pin::pin,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    CommandError, CommandResult, ConfigArgument, output::Lines, print_json, runtime, say, start_log, with_one_worker,
};
use crate::{
    app::App,
    config::Config,
    upkeep::{self, Collected, GcOptions, Progress, Reason, Tally},
};

/// Between two lines about the progress where no terminal shows a bar.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Removes renditions that nobody will ask for again: those of originals that were replaced, records without renditions, and
/// what crashed processes left. It may run at any time, beside the service and beside another gc; once a day is enough. What a
/// source that is away says nothing about is kept.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 done; 1 nothing or not all was removed, damaged renditions were found and stay, or a part of the
store could not be read; 2 wrong usage, 78 bad config."
)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Says what would be removed, and removes nothing
    #[arg(long)]
    dry_run: bool,
    /// Also renditions of originals that are gone (they are served as long as they are there), and of sources that the config
    /// no longer has
    #[arg(long)]
    orphans: bool,
    /// Reads every rendition, and reports those that are damaged
    #[arg(long)]
    verify: bool,
    /// Removes damaged renditions: the next request renders them again
    #[arg(long, requires = "verify")]
    repair: bool,
    /// Removes nothing if it were more than so many percent of the renditions, and more than a hundred
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    max_share: u8,
    /// Removes it however much it is
    #[arg(long, conflicts_with = "max_share")]
    force: bool,
    /// Prints the findings as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let loaded = arguments.config.load()?;
    let _log = start_log(&loaded.config.log);
    let options = GcOptions {
        dry_run: arguments.dry_run,
        orphans: arguments.orphans,
        verify: arguments.verify,
        repair: arguments.repair,
        max_share: if arguments.force { 1.0 } else { f64::from(arguments.max_share) / 100.0 },
        grace: Duration::from_secs_f64(loaded.config.store.gc_grace_seconds),
    };
    let collected = runtime()?.block_on(collect(&loaded.config, &options))?;
    match arguments.json {
        true => print_json(&collected)?,
        false => report(&collected, &options).print()?,
    }
    let stays = !collected.damaged.is_empty() && (!options.repair || options.dry_run);
    let is_done = collected.stopped.is_none() && collected.unreadable.is_none() && !stays;
    if is_done { Ok(()) } else { Err(CommandError::Silent) }
}

async fn collect(config: &Config, options: &GcOptions) -> Result<Collected, CommandError> {
    // Only to verify takes more than one.
    let app = App::build(&if options.verify { config.clone() } else { with_one_worker(config) }).await?;
    let progress = Progress::default();
    let mut collected = shown(&progress, upkeep::gc(&app, options, &progress)).await;
    // Behind the collection, which may have made room enough.
    if let Ok(collected) = &mut collected {
        match app.budget.enforce(options.dry_run).await {
            Ok(budget) => collected.budget = budget,
            Err(error) => {
                let says = format!("the store's index cannot be used, nothing was done about its bounds: {error}");
                collected.stopped.get_or_insert(says);
            }
        }
    }
    app.shut_down().await;
    Ok(collected.map_err(anyhow::Error::from)?)
}

/// Shows the progress of some work until it ends: a bar on a terminal, else a line now and then.
async fn shown<T>(progress: &Progress, work: impl Future<Output = T>) -> T {
    let is_terminal = std::io::stderr().is_terminal();
    let bar = if is_terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let (mut work, mut said) = (pin!(work), Instant::now());
    loop {
        tokio::select! {
            result = &mut work => {
                bar.finish_and_clear();
                return result;
            }
            _ = ticks.tick() => {}
        }
        let (seen, total) = (progress.seen.load(Ordering::Relaxed), progress.total.load(Ordering::Relaxed));
        if total > 0 && bar.length().is_none() {
            bar.set_length(total);
            if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent} %, {eta} left") {
                bar.set_style(style);
            }
        }
        bar.set_position(seen);
        if total == 0 {
            bar.set_message(format!("{seen} renditions looked at"));
        }
        if !is_terminal && said.elapsed() >= BETWEEN_LINES {
            said = Instant::now();
            match total {
                0 => say(format_args!("{seen} renditions looked at")),
                total => say(format_args!("{} %", 100 * seen / total.max(1))),
            }
        }
    }
}

fn report(collected: &Collected, options: &GcOptions) -> Lines {
    let mut lines = Lines::default();
    let Tally { files, bytes } = collected.stored;
    lines.add(format_args!("{files} renditions of {} images are stored, {}", collected.images, ByteSize(bytes)));
    let is_removed = !options.dry_run && collected.stopped.is_none();
    let (verb, tallies) = match is_removed {
        true => ("removed", &collected.removed),
        false => ("would be removed", &collected.found),
    };
    let row =
        |Tally { files, bytes }: Tally, says: &str| format!("{files:>9}  {:>10}  {says}", ByteSize(bytes).to_string());
    for (reason, tally) in tallies {
        lines.add(row(*tally, &format!("{verb}: {}", describe(*reason))));
    }
    for (count, what) in
        [(collected.records, "records without renditions"), (collected.leftovers, "files that crashed processes left")]
    {
        if count > 0 {
            lines.add(format_args!("{count:>9}  {:>10}  {verb}: {what}", ""));
        }
    }
    if tallies.is_empty() && collected.records + collected.leftovers == 0 {
        lines.add(format_args!("nothing {}", if is_removed { "to remove" } else { "would be removed" }));
    }
    if let Some(budget) = &collected.budget {
        let verb = if options.dry_run { "at the least would be evicted" } else { "evicted" };
        let went = Tally { files: budget.files, bytes: budget.bytes };
        if went != Tally::default() {
            lines.add(row(went, &format!("{verb}: not asked for for longest")));
        }
        if budget.is_over && !options.dry_run {
            lines.add("a bound of the store is overstepped still: the rest was asked for a moment ago, or is pinned");
        }
    }
    for (tally, says) in [
        (collected.waiting, "kept: out of date, and not yet for store.gc_grace_seconds"),
        (collected.unjudged, "kept: the source is away or not in the config, or nothing says whose they are"),
    ] {
        if tally.files > 0 {
            lines.add(row(tally, says));
        }
    }
    if collected.foreign > 0 {
        lines.add(format_args!("{:>9}  {:>10}  kept: files that sendimage never made", collected.foreign, ""));
    }
    for (name, problem) in &collected.sources_away {
        lines.add(format_args!("source {name} is away: {problem}"));
    }
    for damaged in &collected.damaged {
        lines.add(format_args!("damaged: {}: {}", damaged.path, damaged.problem));
    }
    if options.verify && collected.damaged.is_empty() {
        lines.add("no rendition is damaged");
    }
    if let Some((count, why)) = &collected.unverified {
        lines.add(format_args!("{count} renditions could not be verified, the first because {why}"));
    }
    if let Some((count, why)) = &collected.unreadable {
        lines.add(format_args!("{count} parts of the store could not be read, the first because {why}"));
    }
    if let Some(why) = &collected.stopped {
        lines.add(format_args!("stopped: {why}"));
    }
    lines
}

fn describe(reason: Reason) -> &'static str {
    match reason {
        Reason::OldGeneration => "of originals that were replaced",
        Reason::OriginalGone => "of originals that are gone",
        Reason::SourceNotConfigured => "of sources that the config does not have",
        Reason::Damaged => "damaged",
    }
}
