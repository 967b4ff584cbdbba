//! `sendimage reference`: the README's last chapter but one, made of the code. A test holds the two equal.

use std::fmt::Write as _;

use clap::{Arg, Args, Command, CommandFactory as _};

use super::{Cli, CommandResult, EXAMPLE_CONFIG};
use crate::{
    http::STATUSES,
    metrics::{Outcome, describe},
};

/// Prints the reference (commands, config, statuses, metrics) as Markdown. The README's chapter is this text: after a change,
/// SENDIMAGE_UPDATE_EXAMPLES=1 with the tests writes it there.
#[derive(Debug, Args)]
pub struct Arguments {}

pub fn run(_: &Arguments) -> CommandResult {
    super::print_bytes(markdown().as_bytes())
}

/// The whole chapter.
fn markdown() -> String {
    let mut text = String::new();
    commands(&mut text);
    text += "\n### Config keys\n\nAll of them, with their defaults; `man sendimage.toml` shows the same.\n\n<details>\n\
             <summary><code>deploy/sendimage.toml</code></summary>\n\n```toml\n";
    text += EXAMPLE_CONFIG.trim_end();
    text += "\n```\n\n</details>\n";
    statuses(&mut text);
    metrics(&mut text);
    text
}

// Writing to a String cannot fail.

fn commands(text: &mut String) {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    *text += "### Commands\n\n| command | |\n|---|---|\n";
    let shown: Vec<&Command> = root.get_subcommands().filter(|command| !command.is_hide_set()).collect();
    for command in &shown {
        let aliases: String = command.get_visible_aliases().map(|alias| format!(" (also `{alias}`)")).collect();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "| `{}`{aliases} | {} |", usage(command), cell(&about));
    }
    *text += "\nExit codes: 0 done, 1 failed, 2 wrong usage, 78 bad config. `sendimage COMMAND --help` says more.\n\n\
              <details>\n<summary>Every option</summary>\n\n| command | argument | |\n|---|---|---|\n";
    for command in &shown {
        let is_own =
            |argument: &&Arg| !argument.is_hide_set() && !["help", "version"].contains(&argument.get_id().as_str());
        for argument in command.get_arguments().filter(is_own) {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            let values: Vec<_> =
                argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
            // A flag's own values are true and false, which nobody types.
            let values = match argument.get_action().takes_values() && !values.is_empty() {
                true => format!(" ({})", values.join(", ")),
                false => String::new(),
            };
            let _ = writeln!(text, "| `{}` | `{}` | {}{values} |", command.get_name(), spelled(argument), cell(&help));
        }
    }
    *text += "\n</details>\n";
}

/// `sign REF SPEC [OPTIONS]`: what is typed after the program's name.
fn usage(command: &Command) -> String {
    let mut usage = command.get_name().to_owned();
    for argument in command.get_positionals().filter(|argument| !argument.is_hide_set()) {
        let (open, close) = if argument.is_required_set() { ("", "") } else { ("[", "]") };
        let many = if argument.get_num_args().is_some_and(|count| count.max_values() > 1) { "..." } else { "" };
        let _ = write!(usage, " {open}{}{many}{close}", value_name(argument));
    }
    usage
}

/// An argument as it is typed: `-c, --config FILE`.
fn spelled(argument: &Arg) -> String {
    if argument.is_positional() {
        return value_name(argument);
    }
    let short = argument.get_short().map(|letter| format!("-{letter}"));
    let long = argument.get_long().map(|word| format!("--{word}"));
    let mut spelled = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    if argument.get_action().takes_values() {
        let _ = write!(spelled, " {}", value_name(argument));
    }
    spelled
}

fn value_name(argument: &Arg) -> String {
    let named = argument.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    named.unwrap_or_else(|| argument.get_id().as_str().to_uppercase())
}

fn statuses(text: &mut String) {
    *text += "\n### Statuses\n\nOne table for all routes; bodies are fixed sentences, and a request id (`X-Request-Id`) ties them to \
              the log.\n\n| status | outcome in the metrics | when |\n|---|---|---|\n";
    for row in STATUSES {
        let outcomes: Vec<_> = row.outcomes.iter().map(|outcome| format!("`{}`", outcome.name())).collect();
        let _ = writeln!(text, "| {} | {} | {} |", row.status, outcomes.join(", "), cell(row.when));
    }
    *text += "\nWith `offload.mode = \"redirect\"` a hit is `offload.redirect_status` (302), with `\"direct\"` also 206 and 416 for \
              ranges. 400, 404, 410 and 422 may be kept for five seconds, every other failure is `no-store`. Calls of the operations \
              listener are answered 200, or 400, 401, 404, 405, 408, 413, 415, 503 with a sentence that says what is wrong.\n";
}

fn metrics(text: &mut String) {
    *text += "\n### Metrics\n\nNo label ever holds an image's id, a filter spec or a host: the number of series is fixed by the code and \
              the config.\n\n| metric | type | labels | |\n|---|---|---|---|\n";
    for metric in describe() {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ =
            writeln!(text, "| `{}` | {} | {} | {} |", metric.name, metric.kind, labels.join(", "), cell(&metric.help));
    }
    let outcomes: Vec<_> = Outcome::ALL.iter().map(|outcome| format!("`{}`", outcome.name())).collect();
    let _ = writeln!(
        text,
        "\n`sendimage_requests_total` counts each answered request once, by {}; `sendimage_request_seconds_count` is their sum.",
        outcomes.join(", ")
    );
}

/// Text within a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
