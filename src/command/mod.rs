//! One file for each command. Each prints what it has to say and returns how the process ends.

mod check;
mod completions;
mod demo;
mod du;
mod explain;
mod gc;
mod health;
mod inspect;
mod keygen;
mod manual;
mod one_worker;
mod ops_client;
mod output;
mod proxy_conf;
mod purge;
mod reference;
mod render;
mod running;
mod sample;
mod serve;
mod service_manager;
mod sign;
mod token;
mod version;
mod warm;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use hyper::header::{HeaderName, HeaderValue};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use self::output::{print_bytes, print_json, print_line, say};
use crate::{
    access::KeyError,
    app::BuildError,
    config::{Config, ConfigError, Loaded, LogConfig, LogFormat, LogLevel, load},
    spec::{FilterSpec, SpecError},
};

/// Exit code of a command that failed.
const FAILED: u8 = 1;
/// The config that explains every key: `man` and `reference` print it.
const EXAMPLE_CONFIG: &str = include_str!("../../deploy/sendimage.toml");
/// Exit code for a config that cannot be used (sysexits.h, EX_CONFIG).
const BAD_CONFIG: u8 = 78;

/// Serves signed images: proves that a URL may be served, makes sure the rendition exists in a folder shared with nginx,
/// and lets nginx stream the file (X-Accel-Redirect).
#[derive(Debug, Parser)]
#[command(name = "sendimage", version, long_version = version::long(), about, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Try it:      sendimage demo
Start here:  sendimage keygen; write sendimage.toml; sendimage check; sendimage proxy-conf; sendimage serve

The config is the file given with -c, else ./sendimage.toml, else /etc/sendimage/sendimage.toml; environment variables
such as SENDIMAGE_RENDER__WORKERS=2 or SENDIMAGE_SIGNING__SECRET=... override it.

Exit codes: 0 done, 1 failed, 2 wrong usage, 78 bad config.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the service until SIGTERM or SIGINT
    Serve(serve::Arguments),
    /// Everything in one: a sample photo, a fresh key, direct mode, URLs to click
    Demo(demo::Arguments),
    /// The doctor: looks at config, keys, catalogue, sources, store and sandbox, and through nginx; says what is wrong, and why
    Check(check::Arguments),
    /// Asks the running service whether it is ready
    Health(health::Arguments),
    /// Prints the web server's config that fits ours
    #[command(visible_alias = "nginx-conf")]
    ProxyConf(proxy_conf::Arguments),
    /// Prints a signed URL
    Sign(sign::Arguments),
    /// Says, step by step, how a URL is answered and why
    Explain(explain::Arguments),
    /// Renders ahead of time: images by name, or all; --watch stays on
    Warm(Box<warm::Arguments>),
    /// Mints a token (JWT), for tests and scripts
    Token(token::Arguments),
    /// Prints a fresh signing key
    Keygen(keygen::Arguments),
    /// Renders one file, without service, store or signature
    Render(render::Arguments),
    /// Removes what is stored of images: the next request renders anew
    Purge(purge::Arguments),
    /// Removes renditions that nobody will ask for again; finds damaged ones
    Gc(gc::Arguments),
    /// Says what is stored: by source, format and preset
    Du(du::Arguments),
    /// Looks at files as the service would: what they are, what serving them needs, or why they would be refused
    Inspect(inspect::Arguments),
    /// Prints the completion of commands and options for a shell
    Completions(completions::Arguments),
    /// Prints or writes the manual pages
    Man(manual::Arguments),
    /// Prints the reference chapter of the README, made of the code
    #[command(hide = true)]
    Reference(reference::Arguments),
    /// Writes the sample photo that the demo uses
    #[command(hide = true)]
    SamplePhoto(sample::Arguments),
}

/// Which config file.
#[derive(Clone, Debug, Args)]
struct ConfigArgument {
    /// The config file [default: ./sendimage.toml, else /etc/sendimage/sendimage.toml]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Which config file, for a command that needs none.
#[derive(Clone, Debug, Args)]
struct OwnConfigArgument {
    /// The config file whose limits and presets count [default: none: the default limits]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl OwnConfigArgument {
    /// The file's config; without a file the defaults, whatever is in the environment.
    fn load(&self) -> Result<Config, CommandError> {
        Ok(match &self.config {
            Some(file) => load(Some(file))?.config,
            None => Config::default(),
        })
    }
}

impl ConfigArgument {
    fn load(&self) -> Result<Loaded, CommandError> {
        Ok(load(self.config.as_deref())?)
    }
}

/// Why a command failed: decides the exit code.
#[derive(Debug)]
enum CommandError {
    Config(String),
    Failed(anyhow::Error),
    /// Everything has been said already.
    Silent,
}

impl std::fmt::Display for CommandError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config(message) => f.write_str(message),
            Self::Failed(error) => write!(f, "{error:#}"),
            Self::Silent => f.write_str("failed"),
        }
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error.to_string())
    }
}

impl From<KeyError> for CommandError {
    fn from(error: KeyError) -> Self {
        Self::Config(error.to_string())
    }
}

impl From<BuildError> for CommandError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Key(_)
            | BuildError::Catalogue(_)
            | BuildError::Bucket { .. }
            | BuildError::Coordination(_)
            | BuildError::Mark(_)
            | BuildError::Source { .. }
            | BuildError::NeedsRestart(_) => Self::Config(error.to_string()),
            BuildError::Workers(_) => Self::Failed(error.into()),
        }
    }
}

impl From<anyhow::Error> for CommandError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<std::io::Error> for CommandError {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}

type CommandResult = Result<(), CommandError>;

impl Cli {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Serve(arguments) => serve::run(&arguments),
            Command::Demo(arguments) => demo::run(&arguments),
            Command::Check(arguments) => check::run(&arguments),
            Command::Health(arguments) => health::run(&arguments),
            Command::ProxyConf(arguments) => proxy_conf::run(&arguments),
            Command::Sign(arguments) => sign::run(&arguments),
            Command::Explain(arguments) => explain::run(&arguments),
            Command::Warm(arguments) => warm::run(&arguments),
            Command::Token(arguments) => token::run(&arguments),
            Command::Keygen(arguments) => keygen::run(&arguments),
            Command::Render(arguments) => render::run(&arguments),
            Command::Purge(arguments) => purge::run(&arguments),
            Command::Gc(arguments) => gc::run(&arguments),
            Command::Du(arguments) => du::run(&arguments),
            Command::Inspect(arguments) => inspect::run(&arguments),
            Command::Completions(arguments) => completions::run(&arguments),
            Command::Man(arguments) => manual::run(&arguments),
            Command::Reference(arguments) => reference::run(&arguments),
            Command::SamplePhoto(arguments) => sample::run(&arguments),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(CommandError::Silent) => ExitCode::from(FAILED),
            Err(CommandError::Config(message)) => {
                say(format_args!("sendimage: {message}"));
                ExitCode::from(BAD_CONFIG)
            }
            Err(CommandError::Failed(error)) => {
                say(format_args!("sendimage: {error:#}"));
                ExitCode::from(FAILED)
            }
        }
    }
}

/// A header of a request, as it is typed: `NAME: VALUE`. Its value is a secret.
fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("a header is NAME: VALUE")?;
    let name = name.trim().parse().map_err(|_| "the header's name is none".to_owned())?;
    let mut value: HeaderValue = value.trim().parse().map_err(|_| "the header's value is none".to_owned())?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// A runtime for a command that needs one.
fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// The same config for a command that renders nothing, or next to nothing.
fn with_one_worker(config: &Config) -> Config {
    let mut config = config.clone();
    config.render.workers = 1;
    config
}

/// Lines that wait for a standard error that takes none; more are dropped, and counted.
const WAITING_LOG_LINES: usize = 8192;

/// The log, while it is kept: what still waits is written when this is dropped, and nothing after that.
#[must_use = "no line is written once it is dropped"]
struct Log {
    /// How many lines were dropped.
    dropped: ErrorCounter,
    _writer: WorkerGuard,
    #[cfg(feature = "otel")]
    _traces: Option<crate::traces::Exporter>,
}

/// What is logged, and to whom.
fn log_parts(config: &LogConfig) -> (tracing_subscriber::EnvFilter, NonBlocking, WorkerGuard) {
    let level = match config.level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    // Libraries have little to say to an operator below a warning.
    let filter = tracing_subscriber::EnvFilter::new(format!("warn,sendimage={level}"));
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LOG_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    (filter, writer, guard)
}

/// Log lines to standard error, as `[log]` says. A thread of their own writes them: a reader that sleeps, or a full disk,
/// costs log lines and no answer.
fn start_log(config: &LogConfig) -> Log {
    let (filter, writer, guard) = log_parts(config);
    let dropped = writer.error_counter();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // A line that cannot be written is lost. Said on standard error, which would take no line either, it would be a panic and a
    // request without an answer.
    let lines = lines.log_internal_errors(false);
    // A second start in one process (the tests') leaves the first in place.
    let _ = match config.format {
        LogFormat::Human => lines.with_ansi(ansi).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    Log {
        dropped,
        _writer: guard,
        #[cfg(feature = "otel")]
        _traces: None,
    }
}

/// As [`start_log`], and traces to the collector that `[tracing]` names.
#[cfg(feature = "otel")]
fn start_log_and_traces(config: &Config) -> Result<Log, CommandError> {
    use tracing_subscriber::{Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

    let traced = crate::traces::layer(&config.tracing).map_err(|error| CommandError::Config(error.to_string()))?;
    let Some((traces, exporter)) = traced else { return Ok(start_log(&config.log)) };
    let (filter, writer, guard) = log_parts(&config.log);
    let dropped = writer.error_counter();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false).log_internal_errors(false);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // The log has its own filter, which lets no span through: its lines are the same with traces and without.
    let lines = match config.log.format {
        LogFormat::Human => lines.with_ansi(ansi).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    let _ = tracing_subscriber::registry().with(traces).with(lines).try_init();
    Ok(Log { dropped, _writer: guard, _traces: Some(exporter) })
}

/// As [`start_log`]: this build sends no traces, which is said where the config wants some.
#[cfg(not(feature = "otel"))]
fn start_log_and_traces(config: &Config) -> Result<Log, CommandError> {
    Ok(start_log(&config.log))
}

/// A config file's place, for messages.
fn origin(loaded_from: Option<&Path>) -> String {
    loaded_from.map_or("defaults and environment".into(), |file| file.display().to_string())
}

/// Refuses a spec that is no spec and no preset.
fn check_spec(config: &Config, text: &str) -> CommandResult {
    match config.presets.contains_key(text) {
        true => Ok(()),
        false => FilterSpec::parse(text).map(drop).map_err(|error| bad_spec(text, error)),
    }
}

/// What is wrong with a spec, with a mark under the place.
fn bad_spec(text: &str, error: SpecError) -> CommandError {
    let before = text.get(..error.offset).unwrap_or(text).chars().count();
    anyhow::anyhow!("not a filter spec: {}\n  {text}\n  {}^", error.problem, " ".repeat(before)).into()
}
