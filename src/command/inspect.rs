//! `sendimage inspect`

use std::{
    fs::File,
    io::{IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;

use super::{
    CommandError, CommandResult, OwnConfigArgument, check_spec, one_worker::OneWorker, output::Lines, print_json,
    runtime,
};
use crate::{
    access::Renditions,
    config::Config,
    model::{ImageFormat, Orientation, Size, SourceFacts},
    render::{
        Inspection,
        inspect::{Colours, Told},
        plan::{Plan, PlanError},
    },
    renditions::EnsureError,
    spec::FilterSpec,
    upkeep::reason,
    workers::{Lane, cost},
};

/// Looks at files as the service would: what they are, what serving them will need, or why they would be refused. Each is
/// decoded to its end, in a locked-in worker; nothing of it is read by this process. For a site that takes uploads.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sendimage inspect photo.jpg
  sendimage inspect --json upload.tmp --name holiday.png        the name that it was uploaded by
  sendimage inspect --json - < upload.tmp

Exit code 0 when all would be served, 1 when any would be refused.")]
pub struct Arguments {
    #[command(flatten)]
    config: OwnConfigArgument,
    /// The files; - for standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The name that the extension is taken from, where the file has another
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The source that it is meant for: whether SVG is served there [default: catalogue.source, else the only one]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// What it is to become. May be repeated [default: the config's presets, else width-800]
    #[arg(long = "spec", value_name = "SPEC")]
    specs: Vec<String>,
    /// The renditions of a preset set
    #[arg(long = "preset-set", value_name = "NAME")]
    preset_set: Option<String>,
    /// Prints a list of what was found, one object a file
    #[arg(long)]
    json: bool,
}

/// What was found of a file. What could not be found out is `null`.
#[derive(Debug, Default, Serialize)]
struct Report {
    file: String,
    ok: bool,
    refused: Option<Refused>,
    notes: Vec<String>,
    bytes: Option<u64>,
    format: Option<ImageFormat>,
    media_type: Option<&'static str>,
    extension_fits: Option<bool>,
    stored_size: Option<Size>,
    upright_size: Option<Size>,
    orientation: Option<Orientation>,
    frames: Option<u32>,
    progressive: Option<bool>,
    colours: Option<Colours>,
    bits: Option<u8>,
    transparent: Option<bool>,
    profile: Option<String>,
    metadata: Option<Told>,
    needs: Vec<Need>,
}

/// Why it would not be served: the word of `warm`'s summary, and a sentence.
#[derive(Clone, Debug, Serialize)]
struct Refused {
    reason: &'static str,
    says: String,
}

/// What one rendition takes.
#[derive(Debug, Serialize)]
struct Need {
    spec: String,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Made { format: ImageFormat, size: Size, memory_bytes: u64, lane: &'static str, estimated_ms: u64 },
    Refused { refused: Refused },
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let config = arguments.config.load()?;
    let specs = specs(arguments, &config)?;
    let reports = runtime()?.block_on(async {
        let worker = OneWorker::start(&config).await?;
        let mut reports = Vec::new();
        for file in &arguments.files {
            let name = arguments.name.as_deref().map_or(file.as_path(), Path::new);
            let mut report = Report { file: shown(file), ..Report::default() };
            match open(file, &config) {
                Ok(open) => {
                    inspect(&worker, &open, name, &specs, takes_svg(arguments, &config)?, &config, &mut report).await
                }
                Err(error) => report.refused = Some(Refused { reason: "source", says: error.to_string() }),
            }
            report.ok = report.refused.is_none();
            reports.push(report);
        }
        worker.shut_down().await;
        anyhow::Ok(reports)
    })?;
    if arguments.json {
        print_json(&reports)?;
    } else {
        let mut lines = Lines::default();
        reports.iter().for_each(|report| describe(&mut lines, report));
        lines.print()?;
    }
    if reports.iter().all(|report| report.ok) { Ok(()) } else { Err(CommandError::Silent) }
}

fn specs(arguments: &Arguments, config: &Config) -> Result<Vec<(String, FilterSpec)>, CommandError> {
    let mut names = arguments.specs.clone();
    if let Some(set) = &arguments.preset_set {
        names.extend(Renditions::Set(set).specs(config).map_err(anyhow::Error::from)?);
    }
    if names.is_empty() {
        names.extend(config.presets.keys().cloned());
    }
    if names.is_empty() {
        names.push("width-800".into());
    }
    let solve = |name: String| {
        check_spec(config, &name)?;
        let text = config.presets.get(&name).unwrap_or(&name);
        let spec = FilterSpec::parse(text).map_err(anyhow::Error::from)?;
        Ok((name, spec))
    };
    names.into_iter().map(solve).collect()
}

/// Whether the source that it is for serves SVG.
fn takes_svg(arguments: &Arguments, config: &Config) -> Result<bool, anyhow::Error> {
    if let Some(name) = &arguments.source {
        let section =
            config.sources.get(name).with_context(|| format!("there is no [sources.{name}] in the config"))?;
        return Ok(section.svg);
    }
    let usual = config.catalogue.source.as_ref().and_then(|name| config.sources.get(name));
    Ok(usual.map_or_else(|| config.sources.values().any(|section| section.svg), |section| section.svg))
}

/// A regular file: what is none, standard input too, is copied to one, as far as a source may be long.
fn open(path: &Path, config: &Config) -> Result<File, anyhow::Error> {
    let is_standard_input = path == Path::new("-");
    if !is_standard_input {
        let metadata = std::fs::metadata(path)?;
        anyhow::ensure!(metadata.is_file(), "not a file");
        return Ok(File::open(path)?);
    }
    anyhow::ensure!(!std::io::stdin().is_terminal(), "standard input is a terminal");
    let mut copy = super::sample::temporary()?;
    let most = config.render.max_source_bytes.0.saturating_add(1);
    std::io::copy(&mut std::io::stdin().lock().take(most), &mut copy)?;
    copy.flush()?;
    Ok(copy)
}

async fn inspect(
    worker: &OneWorker,
    file: &File,
    name: &Path,
    specs: &[(String, FilterSpec)],
    takes_svg: bool,
    config: &Config,
    report: &mut Report,
) {
    let refused = |error: EnsureError| Refused { reason: reason(&error), says: error.to_string() };
    let deadline = || Instant::now() + Duration::from_secs_f64(config.render.deadline_seconds);
    report.bytes = file.metadata().ok().map(|metadata| metadata.len());
    let facts = match worker.probe(file, deadline()).await {
        Ok(facts) => facts,
        Err(error) => return report.refused = Some(refused(error)),
    };
    note_facts(report, &facts, name);
    let is_drawing_refused = facts.format == ImageFormat::Svg && !takes_svg;
    let limits = worker.limits().check_source(&facts).map_err(EnsureError::from);
    if let Err(error) = limits {
        return report.refused = Some(refused(error));
    }
    if is_drawing_refused {
        return report.refused = Some(refused(PlanError::Svg.into()));
    }
    match worker.inspect(file, &facts, deadline()).await {
        Ok(found) => note_inspection(report, &found),
        Err(error) => return report.refused = Some(refused(error)),
    }
    for (name, spec) in specs {
        let outcome = match worker.plan(file, &facts, spec, deadline()).await {
            Ok(plan) => made(&plan, report.bytes.unwrap_or_default(), config),
            Err(error) => Err(error),
        };
        let outcome = outcome.unwrap_or_else(|error| Outcome::Refused { refused: refused(error) });
        report.needs.push(Need { spec: name.clone(), outcome });
    }
    let refusals = report.needs.iter().filter_map(|need| match &need.outcome {
        Outcome::Refused { refused } => Some(refused.clone()),
        Outcome::Made { .. } => None,
    });
    let refusals: Vec<Refused> = refusals.collect();
    if refusals.len() == report.needs.len() {
        report.refused = refusals.into_iter().next();
    }
}

fn made(plan: &Plan, source_bytes: u64, config: &Config) -> Result<Outcome, EnsureError> {
    /// What the unit of costs takes, about.
    const NANOSECONDS: u64 = 10;
    let memory_bytes = plan.peak_bytes(source_bytes);
    let limit = config.render.memory_budget.0;
    if memory_bytes > limit {
        return Err(crate::render::limits::OverLimit::Memory { needed: memory_bytes, limit }.into());
    }
    let lane = match Lane::of(plan) {
        Lane::Cheap => "cheap",
        Lane::Costly | Lane::Warm => "costly",
    };
    let estimated_ms = (cost(plan).saturating_mul(NANOSECONDS) / 1_000_000).max(1);
    Ok(Outcome::Made { format: plan.encoding.format(), size: plan.rendition_size(), memory_bytes, lane, estimated_ms })
}

fn note_facts(report: &mut Report, facts: &SourceFacts, name: &Path) {
    report.format = Some(facts.format);
    report.media_type = Some(facts.format.media_type());
    report.stored_size = Some(facts.stored_size);
    report.upright_size = Some(facts.upright_size());
    report.orientation = Some(facts.orientation);
    report.frames = Some(facts.frames);
    report.progressive = Some(facts.progressive);
    let extension = name.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_lowercase();
    let fits = facts.format.file_extensions().contains(&extension.as_str());
    // What has no extension, as most temporary files, says nothing wrong.
    report.extension_fits = (!extension.is_empty() && name != Path::new("-")).then_some(fits);
    if report.extension_fits == Some(false) {
        let (article, format) = (if facts.format == ImageFormat::Svg { "an" } else { "a" }, facts.format);
        report.notes.push(format!("its name ends in .{}, and it is {article} {format} file", plain(&extension)));
    }
}

fn note_inspection(report: &mut Report, found: &Inspection) {
    report.colours = Some(found.colours);
    report.bits = Some(found.bits);
    report.transparent = Some(found.is_transparent);
    report.profile = found.profile.clone();
    report.metadata = Some(found.metadata);
    if found.metadata.gps {
        report.notes.push("it says where it was taken; renditions do not, but with keep-meta".into());
    }
    if found.colours == Colours::Cmyk {
        report.notes.push("its colours are inks: renditions have them converted for screens".into());
    }
}

/// A name as it may be printed.
fn shown(path: &Path) -> String {
    plain(&path.to_string_lossy())
}

fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn describe(lines: &mut Lines, report: &Report) {
    match &report.refused {
        None => lines.add(format_args!("{}: would be served", report.file)),
        Some(Refused { reason, says }) => {
            lines.add(format_args!("{}: would be refused ({reason}): {says}", report.file))
        }
    }
    let mut line = |what: &str, says: String| lines.add(format_args!("  {what:<9} {says}"));
    if let (Some(format), Some(stored), Some(upright)) = (report.format, report.stored_size, report.upright_size) {
        let turned = report.orientation.map_or(1, Orientation::to_exif);
        let upright = match turned {
            1 => String::new(),
            exif => format!(", upright {}x{} (EXIF orientation {exif})", upright.width, upright.height),
        };
        let frames = report.frames.filter(|frames| *frames > 1).map(|n| format!(", {n} frames")).unwrap_or_default();
        let bytes = report.bytes.map(|bytes| format!(", {}", ByteSize(bytes))).unwrap_or_default();
        line("is", format!("{format}, {}x{}{upright}{frames}{bytes}", stored.width, stored.height));
    }
    if let (Some(colours), Some(bits)) = (report.colours, report.bits) {
        let name = format!("{colours:?}").to_lowercase();
        let alpha = if report.transparent == Some(true) { ", transparent in places" } else { "" };
        let profile = match report.profile.as_deref() {
            None => ", no profile".to_owned(),
            Some("") => ", a profile without a name".to_owned(),
            Some(name) => format!(", profile {name:?}"),
        };
        line("colours", format!("{name}, {bits} bits{alpha}{profile}"));
    }
    if let Some(Told { exif, gps, xmp, iptc, text }) = report.metadata {
        let all = [("EXIF", exif), ("a position", gps), ("XMP", xmp), ("IPTC", iptc), ("texts", text)];
        let told: Vec<&str> = all.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
        line("tells", if told.is_empty() { "nothing else".into() } else { told.join(", ") });
    }
    for Need { spec, outcome } in &report.needs {
        line(
            "needs",
            match outcome {
                Outcome::Made { format, size, memory_bytes, lane, estimated_ms } => format!(
                    "{spec}: {}x{} {format}, about {estimated_ms} ms ({lane} lane), at most {}",
                    size.width,
                    size.height,
                    ByteSize(*memory_bytes)
                ),
                Outcome::Refused { refused } => {
                    format!("{spec}: would be refused ({}): {}", refused.reason, refused.says)
                }
            },
        );
    }
    report.notes.iter().for_each(|note| line("note", note.clone()));
}
