//! `sendimage render`

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::{CommandResult, OwnConfigArgument, check_spec, one_worker::OneWorker, print_json, runtime};
use crate::{
    config::Config,
    model::{FocalPoint, ImageFormat},
    render::plan::Plan,
    spec::{FilterSpec, Operation},
    workers::RenderReport,
};

/// Renders one file, in the same locked-in worker that the service uses.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sendimage render photo.jpg 'fill-400x300' thumb.jpg
  sendimage render photo.jpg width-800 photo.webp          the extension decides where the spec is silent
  sendimage render photo.jpg fill-400x300-c100 t.jpg --focal 1200,800,300,300 --json")]
pub struct Arguments {
    /// The source image
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// A filter spec, or the name of a preset of the config
    #[arg(value_name = "SPEC")]
    spec: String,
    /// The file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Centre and size of what a fill keeps visible, in pixels of the upright source
    #[arg(long, value_name = "X,Y,W,H", value_parser = focal_point)]
    focal: Option<FocalPoint>,
    /// Prints sizes, crop, format, milliseconds by stage and peak bytes
    #[arg(long)]
    json: bool,
    /// Renders N times and prints the median times: for benchmarks
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeat: u32,
    #[command(flatten)]
    config: OwnConfigArgument,
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let config = arguments.config.load()?;
    check_spec(&config, &arguments.spec)?;
    let text = config.presets.get(&arguments.spec).unwrap_or(&arguments.spec);
    let spec = with_format_of(FilterSpec::parse(text).map_err(anyhow::Error::from)?, &arguments.output)?;
    runtime()?.block_on(render(arguments, &config, &spec))?;
    Ok(())
}

async fn render(arguments: &Arguments, config: &Config, spec: &FilterSpec) -> Result<(), anyhow::Error> {
    let input = &arguments.input;
    let source = File::open(input).with_context(|| format!("cannot open {}", input.display()))?;
    let worker = OneWorker::start(config).await?;
    // Beside the output, so that a failed render leaves what was there, and the rename stays on one file system.
    let temporary = Temporary::beside(&arguments.output)?;
    let deadline = || Instant::now() + Duration::from_secs_f64(config.render.deadline_seconds);
    let mut rounds = Vec::new();
    let mut plan = None;
    for _ in 0..arguments.repeat {
        let started = Instant::now();
        let (made, report) = worker
            .render(&source, spec, arguments.focal, &temporary.file, deadline())
            .await
            .with_context(|| format!("cannot render {}", input.display()))?;
        rounds.push((started.elapsed(), report));
        plan = Some(made);
    }
    temporary.rename(&arguments.output)?;
    let Some(plan) = plan else { return Ok(()) };
    if arguments.json {
        return print_json(&describe(spec, &plan, &rounds)).map_err(|_| anyhow::anyhow!("the report was not printed"));
    }
    Ok(())
}

fn describe(spec: &FilterSpec, plan: &Plan, rounds: &[(Duration, RenderReport)]) -> serde_json::Value {
    let median = |pick: fn(&(Duration, RenderReport)) -> Duration| {
        let mut times: Vec<Duration> = rounds.iter().map(pick).collect();
        times.sort_unstable();
        (times[times.len() / 2].as_secs_f64() * 1e6).round() / 1e3
    };
    let peak = rounds.iter().map(|(_, report)| report.peak_rss_bytes).max();
    json!({
        "spec": spec.canonical(),
        "source": plan.source,
        "crop": plan.crop,
        "decode_reduction": plan.decode_reduction,
        "output": { "size": plan.rendition_size(), "frames": plan.frames, "format": plan.encoding.format(), "bytes": rounds[0].1.bytes },
        "rounds": rounds.len(),
        "ms": {
            "decode": median(|(_, report)| report.times.decode),
            "resample": median(|(_, report)| report.times.resample),
            "encode": median(|(_, report)| report.times.encode),
            "stages": median(|(_, report)| report.times.decode + report.times.resample + report.times.encode),
            "total": median(|(total, _)| *total),
        },
        "peak_bytes": peak,
    })
}

/// The spec, with the format that the output's extension names where it asks for none.
fn with_format_of(spec: FilterSpec, output: &Path) -> Result<FilterSpec, anyhow::Error> {
    if spec.operations().iter().any(|operation| matches!(operation, Operation::Format(_))) {
        return Ok(spec);
    }
    let named = output.file_name().and_then(|name| name.to_str()).and_then(ImageFormat::of_file_name);
    let Some(format) = named else { return Ok(spec) };
    match format {
        ImageFormat::Jpeg
        | ImageFormat::Png
        | ImageFormat::Gif
        | ImageFormat::Webp
        | ImageFormat::Avif
        | ImageFormat::Ico => {}
        // These are read, not written.
        ImageFormat::Heic | ImageFormat::Bmp | ImageFormat::Tiff | ImageFormat::Svg => return Ok(spec),
    }
    Ok(FilterSpec::parse(&format!("{}|format-{}", spec.canonical(), format.name()))?)
}

/// A file with another name until it is whole.
struct Temporary {
    file: File,
    path: PathBuf,
}

impl Temporary {
    fn beside(output: &Path) -> Result<Self, anyhow::Error> {
        let name = output.file_name().and_then(|name| name.to_str()).context("OUT is not the name of a file")?;
        let path = output.with_file_name(format!(".{name}.tmp-{}", std::process::id()));
        let file = File::create_new(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file, path })
    }

    fn rename(self, output: &Path) -> Result<(), anyhow::Error> {
        std::fs::rename(&self.path, output).with_context(|| format!("cannot write {}", output.display()))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already when it was renamed.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn focal_point(text: &str) -> Result<FocalPoint, String> {
    let numbers: Vec<f64> = text.split(',').filter_map(|part| part.trim().parse().ok()).collect();
    match numbers[..] {
        [x, y, width, height] if numbers.iter().all(|n| n.is_finite()) => Ok(FocalPoint { x, y, width, height }),
        _ => Err("a focal point is X,Y,WIDTH,HEIGHT: its centre and its size".into()),
    }
}
