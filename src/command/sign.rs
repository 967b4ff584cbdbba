//! `sendimage sign`

use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

use super::{CommandError, CommandResult, ConfigArgument, check_spec, print_json, route, subject};
use crate::{
    access::{Link, Route, Scheme, Subject, Verifier},
    config::Config,
    model::{ImageFormat, MediaPath},
    spec::{FilterSpec, Operation},
};

/// Prints a signed URL.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sendimage sign 42 'fill-400x300|format-webp'
  sendimage sign media/2026/report.jpg width-1600 --expires 1h --download 'The report.jpg'
  sendimage sign 42 --preset-set article --json")]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// An image: 42, or source/path
    #[arg(value_name = "REF")]
    reference: String,
    /// A filter spec or the name of a preset
    #[arg(value_name = "SPEC", required_unless_present = "preset_set")]
    spec: Option<String>,
    /// For how long the link works: 90s, 15m, 1h, 7d; rounded up to signing.expiry_window_seconds
    #[arg(long, value_name = "TIME", value_parser = duration)]
    expires: Option<Duration>,
    /// Makes the browser save the image under this name
    #[arg(long, value_name = "NAME")]
    download: Option<String>,
    /// The signature scheme [default: native, or wagtail where the route has no native key]
    #[arg(long)]
    scheme: Option<SchemeName>,
    /// The decorative last part of an id URL
    #[arg(long, value_name = "NAME")]
    filename: Option<String>,
    /// The route that the URL is for, where the config has several
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// A URL for each entry of this preset set
    #[arg(long, value_name = "NAME", conflicts_with = "spec")]
    preset_set: Option<String>,
    /// Prints a JSON object: spec or preset to URL
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SchemeName {
    Native,
    Wagtail,
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let config = arguments.config.load()?.config;
    let verifier = Verifier::new(&config)?;
    let route = route(&verifier, arguments.route.as_deref())?;
    let subject = subject(&arguments.reference)?;
    if let Subject::Path { source, .. } = &subject
        && !config.sources.contains_key(source.as_ref())
    {
        return Err(anyhow::anyhow!("there is no [sources.{source}] in the config").into());
    }
    let mut urls = Map::new();
    for spec in specs(&config, arguments)? {
        check_spec(&config, &spec)?;
        let url = sign(&config, &verifier, route, &subject, &spec, arguments)?;
        urls.insert(spec, Value::String(url));
    }
    if arguments.json {
        return print_json(&urls);
    }
    for url in urls.values().filter_map(Value::as_str) {
        println!("{url}");
    }
    Ok(())
}

fn specs(config: &Config, arguments: &Arguments) -> Result<Vec<String>, CommandError> {
    match (&arguments.preset_set, &arguments.spec) {
        (Some(name), _) => config.preset_sets.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = config.preset_sets.keys().map(String::as_str).collect();
            anyhow::anyhow!("there is no preset set {name:?}; the config has: {}", known.join(", ")).into()
        }),
        (None, Some(spec)) => Ok(vec![spec.clone()]),
        (None, None) => Ok(Vec::new()),
    }
}

fn sign(
    config: &Config,
    verifier: &Verifier,
    route: &Route,
    subject: &Subject<'_>,
    spec: &str,
    arguments: &Arguments,
) -> Result<String, CommandError> {
    if route.presets_only && !config.presets.contains_key(spec) {
        return Err(anyhow::anyhow!("the route {:?} serves presets only, and {spec:?} is none", route.name).into());
    }
    let scheme = match arguments.scheme {
        Some(SchemeName::Native) => Scheme::Native,
        Some(SchemeName::Wagtail) => Scheme::Wagtail,
        None if route.native_keys.is_empty() => Scheme::Wagtail,
        None => Scheme::Native,
    };
    let expires = arguments.expires.map(|life| end_of(life, config.signing.expiry_window_seconds));
    let filename = arguments.filename.clone().unwrap_or_else(|| default_name(config, subject, spec));
    let download = arguments.download.as_deref();
    if download.is_some_and(|name| name.is_empty() || name.chars().any(char::is_control)) {
        return Err(anyhow::anyhow!("--download needs a name without control characters").into());
    }
    let link = Link { subject, filter_spec: spec, filename: &filename, expires, download };
    let path = verifier.sign(route, scheme, &link).ok_or_else(|| match scheme {
        Scheme::Wagtail if route.wagtail_keys.is_empty() => {
            anyhow::anyhow!("the route {:?} has no Wagtail key", route.name)
        }
        Scheme::Wagtail => {
            anyhow::anyhow!("a Wagtail signature covers an id and a spec only: no path, expiry or download")
        }
        Scheme::Native => anyhow::anyhow!("the route {:?} has no native key", route.name),
    })?;
    Ok(format!("{}{path}", config.server.public_url))
}

/// The end of a link's life, in Unix seconds, rounded up so that links made within one window are equal.
fn end_of(life: Duration, window_seconds: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (now + life).as_secs().div_ceil(window_seconds.max(1)) * window_seconds.max(1)
}

/// A name with the output's extension, where the spec says what that is.
fn default_name(config: &Config, subject: &Subject<'_>, spec: &str) -> String {
    let spec = config.presets.get(spec).map_or(spec, String::as_str);
    let asked = FilterSpec::parse(spec).ok().and_then(|spec| {
        spec.operations().iter().rev().find_map(|operation| match operation {
            Operation::Format(output) => Some(output.format),
            _ => None,
        })
    });
    match (subject, asked) {
        (Subject::Id(id), format) => format!("{id}.{}", format.unwrap_or(ImageFormat::Jpeg).extension()),
        (Subject::Path { path, .. }, format) => {
            let stem = MediaPath::parse(path).map_or_else(|_| "image".into(), |path| path.stem().to_owned());
            format!("{stem}.{}", format.unwrap_or(ImageFormat::Jpeg).extension())
        }
    }
}

/// `90`, `90s`, `15m`, `1h`, `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = digits.parse().map_err(|_| "a time is a number and a unit: 90s, 15m, 1h, 7d".to_owned())?;
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(format!("{unit:?} is no unit: use s, m, h or d")),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| "the time is too long".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("90", Some(90)),
            ("90s", Some(90)),
            ("15m", Some(900)),
            ("1h", Some(3600)),
            ("7d", Some(604_800)),
            ("h", None),
            ("1w", None),
            ("-1s", None),
        ] {
            assert_eq!(duration(text).ok(), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn ends_are_rounded_up_to_the_window() {
        let end = end_of(Duration::from_secs(60), 3600);
        assert_eq!(end % 3600, 0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert!(end >= now + 60 && end < now + 60 + 3600);
    }
}
