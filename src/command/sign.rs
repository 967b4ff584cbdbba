//! `sendimage sign`

use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};

use super::{CommandError, CommandResult, ConfigArgument, bad_spec, output::Lines, print_json};
use crate::access::{Known, LinkError, Renditions, Scheme, Verifier, Wanted, parse_life};

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
    #[arg(long, value_name = "TIME", value_parser = parse_life)]
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
    let renditions = match (&arguments.preset_set, &arguments.spec) {
        (Some(set), _) => Renditions::Set(set),
        // Clap sees to it that there is one.
        (None, spec) => Renditions::Of(spec.as_deref().unwrap_or_default()),
    };
    let wanted = Wanted {
        reference: &arguments.reference,
        renditions,
        route: arguments.route.as_deref(),
        scheme: arguments.scheme.map(|name| match name {
            SchemeName::Native => Scheme::Native,
            SchemeName::Wagtail => Scheme::Wagtail,
        }),
        life: arguments.expires,
        download: arguments.download.as_deref(),
        filename: arguments.filename.as_deref(),
        known: Known::default(),
    };
    let links = verifier.links(&config, &wanted, SystemTime::now()).map_err(|error| match error {
        LinkError::Spec { text, error } => bad_spec(&text, error),
        error => CommandError::Failed(error.into()),
    })?;
    if arguments.json {
        return print_json(&links);
    }
    let mut lines = Lines::default();
    links.urls().for_each(|url| lines.add(url));
    lines.print()
}
