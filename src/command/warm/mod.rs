//! `sendimage warm`

mod changes;
mod hand;
mod originals;
mod progress;
mod run;
mod service;
mod summary;
mod watch;

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::{CommandError, CommandResult, ConfigArgument, bad_spec, runtime, start_log};
use crate::{
    access::{LinkError, Renditions},
    config::Config,
    spec::FilterSpec,
    upkeep,
};

/// Renders ahead of time, behind everybody who waits: the first visitor finds what the second would. Beside a running service
/// it works through it (`server.ops_listen`, `ops.token`), else by itself. What is there is passed quickly: a run that was cut
/// short is simply run again.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("what").args(["references", "from", "all", "watch"]).required(true).multiple(true))]
#[command(group = ArgGroup::new("how").args(["preset_sets", "presets", "specs"]).required(true).multiple(true))]
#[command(after_help = "Examples:
  sendimage warm 42 43 media/2026/a.jpg --preset-set article
  sendimage warm --all --preset-set article                  every row of the catalogue
  sendimage warm --all --source media --spec width-800       every image file of a source
  psql -Atc 'SELECT id FROM picks' | sendimage warm --from - --preset hero --json
  sendimage warm --watch --all --preset-set article          first everything, then what appears or changes

Exit code 0 when nothing failed, 1 when anything did or the run was cut short.")]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Images: 42, or source/path
    #[arg(value_name = "REF", value_parser = reference)]
    references: Vec<String>,
    /// More of them: one a line, - for standard input; lines that begin with # are passed over
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Every row of the catalogue, or with --source every image file of a source
    #[arg(long)]
    all: bool,
    /// With --all and --watch: the files of this source, rather than the catalogue's rows. May be repeated; without a catalogue,
    /// those of all sources
    #[arg(long = "source", value_name = "NAME")]
    sources: Vec<String>,
    /// The renditions of a preset set. May be repeated, as the next two
    #[arg(long = "preset-set", value_name = "NAME")]
    preset_sets: Vec<String>,
    /// The rendition of a preset
    #[arg(long = "preset", value_name = "NAME")]
    presets: Vec<String>,
    /// The rendition of a filter spec, or a preset
    #[arg(long = "spec", value_name = "SPEC")]
    specs: Vec<String>,
    /// Stays on, and renders as originals appear or change, until SIGTERM. Without --all, from now on
    #[arg(long)]
    watch: bool,
    /// With --watch: where nothing tells of changes (a catalogue other than postgres with catalogue.listen, a source that is no
    /// folder) it is walked again after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    interval: f64,
    /// Prints the summary as JSON
    #[arg(long)]
    json: bool,
    /// Renders by itself, whether a service runs or not
    #[arg(long)]
    alone: bool,
}

impl Arguments {
    /// The same, about those alone that are named one by one.
    fn named(&self) -> Self {
        Self { all: false, watch: false, ..self.clone() }
    }
}

fn reference(text: &str) -> Result<String, String> {
    upkeep::Original::of_reference(text).map(|original| original.reference().to_owned()).map_err(|e| e.to_string())
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds)).ok_or("0.1 to 86400 seconds".into())
}

/// Which renditions to make of each original.
#[derive(Clone, Debug)]
struct Wanted {
    /// Filter specs and presets, as they were named: what a preset is, the service says where one works.
    names: Vec<String>,
    /// The same, solved.
    tasks: std::sync::Arc<[FilterSpec]>,
}

impl Wanted {
    fn of(arguments: &Arguments, config: &Config) -> Result<Self, CommandError> {
        let mut names = Vec::new();
        for set in &arguments.preset_sets {
            let specs = Renditions::Set(set).specs(config).map_err(|error: LinkError| anyhow::anyhow!(error))?;
            names.extend(specs);
        }
        for preset in &arguments.presets {
            if !config.presets.contains_key(preset) {
                let known: Vec<&str> = config.presets.keys().map(String::as_str).collect();
                let known = known.join(", ");
                return Err(anyhow::anyhow!("there is no preset {preset:?}; the config has: {known}").into());
            }
        }
        names.extend(arguments.presets.iter().chain(&arguments.specs).cloned());
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        let mut tasks = Vec::new();
        for name in &names {
            let text = config.presets.get(name).unwrap_or(name);
            tasks.extend(upkeep::tasks(FilterSpec::parse(text).map_err(|error| bad_spec(text, error))?));
        }
        Ok(Self { names, tasks: tasks.into() })
    }
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let loaded = arguments.config.load()?;
    let wanted = Wanted::of(arguments, &loaded.config)?;
    if arguments.watch {
        start_log_and_watch(arguments, &loaded.config, &wanted)
    } else {
        runtime()?.block_on(run::run(arguments, &loaded.config, &wanted))
    }
}

fn start_log_and_watch(arguments: &Arguments, config: &Config, wanted: &Wanted) -> CommandResult {
    let _log = start_log(&config.log);
    runtime()?.block_on(watch::watch(arguments, config, wanted))
}
