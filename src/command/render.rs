//! `sendimage render`

use std::{
    fs::File,
    io::{self, Seek as _},
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
    unnamed::unnamed_file,
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
    let output = Output::of(&arguments.output)?;
    let deadline = || Instant::now() + Duration::from_secs_f64(config.render.deadline_seconds);
    let mut rounds = Vec::new();
    let mut plan = None;
    for _ in 0..arguments.repeat {
        let started = Instant::now();
        let (made, report) = worker
            .render(&source, spec, arguments.focal, output.file(), deadline())
            .await
            .with_context(|| format!("cannot render {}", input.display()))?;
        rounds.push((started.elapsed(), report));
        plan = Some(made);
    }
    output.finish()?;
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

/// Where the rendition goes, once it is whole: a failed render leaves what was there.
enum Output {
    /// A file, which has another name beside its own until then: the rename stays on one file system.
    File { file: File, temporary: PathBuf, named: PathBuf },
    /// A device or a pipe, which is written to and stays what it is.
    Device { file: File, device: File, path: PathBuf },
}

impl Output {
    fn of(path: &Path) -> Result<Self, anyhow::Error> {
        let cannot_write = || format!("cannot write {}", path.display());
        // A link stays, and the file that it leads to is replaced.
        let named = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if std::fs::metadata(&named).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
            let device = File::options().write(true).open(&named).with_context(cannot_write)?;
            let file = unnamed_file(&std::env::temp_dir()).with_context(cannot_write)?;
            return Ok(Self::Device { file, device, path: path.to_owned() });
        }
        let name = named.file_name().and_then(|name| name.to_str()).context("OUT is not the name of a file")?;
        let temporary = named.with_file_name(format!(".{name}.tmp-{}", std::process::id()));
        let file = File::create_new(&temporary).with_context(|| format!("cannot write {}", temporary.display()))?;
        Ok(Self::File { file, temporary, named })
    }

    /// For the worker to write to.
    fn file(&self) -> &File {
        match self {
            Self::File { file, .. } | Self::Device { file, .. } => file,
        }
    }

    fn finish(&self) -> Result<(), anyhow::Error> {
        let (done, path) = match self {
            Self::File { temporary, named, .. } => (std::fs::rename(temporary, named), named),
            Self::Device { file, device, path } => {
                let (mut from, mut to) = (file, device);
                (from.rewind().and_then(|()| io::copy(&mut from, &mut to)).map(drop), path)
            }
        };
        done.with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Self::File { temporary, .. } = self {
            // Gone already when it was renamed.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

fn focal_point(text: &str) -> Result<FocalPoint, String> {
    let numbers: Vec<f64> = text.split(',').filter_map(|part| part.trim().parse().ok()).collect();
    match numbers[..] {
        [x, y, width, height] if numbers.iter().all(|n| n.is_finite()) => Ok(FocalPoint { x, y, width, height }),
        _ => Err("a focal point is X,Y,WIDTH,HEIGHT: its centre and its size".into()),
    }
}
