//! `sendimage purge`

use clap::Args;
use serde_json::{Value, json};

use super::{
    CommandError, CommandResult, ConfigArgument, ops_client::in_one_call, output::Lines, print_json, running, runtime,
    say, start_log,
};
use crate::{
    access::Subject,
    app::App,
    config::{Config, CoordinationKind},
    upkeep::{self, Purged, Scope},
};

/// References in one call at most, so that a stop loses little.
const REFERENCES_IN_A_CALL: usize = 50;

/// Removes what is stored of images; the next request renders anew, from the original as it is then. A running service is asked
/// to do it where the config has an ops.token, so that nothing it remembers goes on being served; else the store is gone
/// through by this command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sendimage purge 42 media/2026/a.jpg
  sendimage purge --prefix media/2024/
  sendimage purge --preset hero           what hero makes, as the config has it now
  sendimage purge --all --yes")]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(false))]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Images: 42 or source/path
    #[arg(value_name = "REF", group = "what")]
    references: Vec<String>,
    /// All images of a source
    #[arg(long, value_name = "NAME", group = "what")]
    source: Option<String>,
    /// All images whose source/path begins so
    #[arg(long, value_name = "SOURCE/PATH", group = "what")]
    prefix: Option<String>,
    /// What a preset makes, of all images
    #[arg(long, value_name = "NAME", group = "what")]
    preset: Option<String>,
    /// Everything; with --yes
    #[arg(long, group = "what", requires = "yes")]
    all: bool,
    /// Everything is meant
    #[arg(long)]
    yes: bool,
    /// Prints the answer as JSON
    #[arg(long)]
    json: bool,
}

enum What {
    Images(Vec<String>),
    Scope(Scope),
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let loaded = arguments.config.load()?;
    let _log = start_log(&loaded.config.log);
    let what = arguments.what(&loaded.config)?;
    let answer = runtime()?.block_on(purge(&loaded.config, &what))?;
    if arguments.json {
        return print_json(&answer);
    }
    let number = |key: &str| answer[key].as_u64().unwrap_or(0);
    let bytes = bytesize::ByteSize(number("bytes"));
    let mut lines = Lines::default();
    lines.add(format_args!("{} renditions of {} images removed, {bytes}", number("files"), number("images")));
    for unknown in answer["unknown"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        lines.add(format_args!("unknown: {unknown}"));
    }
    match number("held_open_seconds") {
        0 => {}
        seconds => {
            lines.add(format_args!("nginx may go on sending what it has open for {seconds} s (open_file_cache_valid)"))
        }
    }
    lines.print()
}

impl Arguments {
    fn what(&self, config: &Config) -> Result<What, CommandError> {
        let scope = if let Some(source) = &self.source {
            Scope::Source(source.clone())
        } else if let Some(prefix) = &self.prefix {
            Scope::Prefix(prefix.clone())
        } else if let Some(preset) = &self.preset {
            Scope::Preset(preset.clone())
        } else if self.all {
            Scope::All
        } else {
            for reference in &self.references {
                Subject::of_reference(reference).map_err(anyhow::Error::from)?;
            }
            return Ok(What::Images(self.references.clone()));
        };
        scope.check(config).map_err(|(option, says)| anyhow::anyhow!("--{option}: {says}"))?;
        Ok(What::Scope(scope))
    }
}

/// By the running service if there is one that can be asked, else by ourselves.
async fn purge(config: &Config, what: &What) -> Result<Value, CommandError> {
    let bodies = match what {
        What::Images(references) => {
            let (mut bodies, mut left) = (Vec::new(), &references[..]);
            while !left.is_empty() {
                let (now, later) = left.split_at(in_one_call(left.iter().map(String::as_str), REFERENCES_IN_A_CALL));
                bodies.push(json!({ "refs": now }));
                left = later;
            }
            bodies
        }
        What::Scope(Scope::Source(name)) => vec![json!({ "source": name })],
        What::Scope(Scope::Prefix(prefix)) => vec![json!({ "prefix": prefix })],
        What::Scope(Scope::Preset(name)) => vec![json!({ "preset": name })],
        What::Scope(Scope::All) => vec![json!({ "all": true })],
    };
    let mut answers = Vec::new();
    for body in &bodies {
        match running::call(config, "/purge", body).await? {
            Some(answer) => answers.push(answer),
            None if answers.is_empty() => return alone(config, what).await,
            None => return Err(anyhow::anyhow!("the running service has ended; what is left was not purged").into()),
        }
    }
    Ok(answers.into_iter().reduce(sum).unwrap_or_default())
}

/// Two answers as one.
fn sum(mut all: Value, one: Value) -> Value {
    for key in ["images", "files", "bytes"] {
        all[key] = json!(all[key].as_u64().unwrap_or(0) + one[key].as_u64().unwrap_or(0));
    }
    if let (Some(all), Some(one)) = (all["unknown"].as_array_mut(), one["unknown"].as_array()) {
        all.extend(one.iter().cloned());
    }
    all
}

async fn alone(config: &Config, what: &What) -> Result<Value, CommandError> {
    let carries_news = matches!(config.coordination.kind, CoordinationKind::Redis | CoordinationKind::Postgres);
    if config.store.believes() && !carries_news {
        say(
            "sendimage: a service that runs is not told: it finds out when nginx misses a file. With ops.token it would be",
        );
    }
    let app = App::build(&super::with_one_worker(config)).await?;
    let purged = match what {
        What::Images(references) => {
            let subject = |text: &String| Ok((text.clone(), Subject::of_reference(text).map_err(anyhow::Error::from)?));
            let subjects = references.iter().map(subject).collect::<Result<Vec<_>, anyhow::Error>>()?;
            upkeep::purge(&app, &subjects).await
        }
        What::Scope(scope) => upkeep::purge_all_of(&app, scope).await,
    };
    app.shut_down().await;
    let purged: Purged = purged.map_err(anyhow::Error::from)?;
    Ok(serde_json::to_value(purged).map_err(anyhow::Error::from)?)
}
