//! `sendimage check`

use clap::Args;
use serde::Serialize;

use super::{CommandError, CommandResult, ConfigArgument, origin, print_json, runtime, start_log};
use crate::{
    access::Verifier,
    app::{App, Part},
    catalogue,
    config::{AuthMode, Config},
    workers::{self, PoolConfig},
};

/// The doctor: loads the config, reads the keys, asks the catalogue, opens the sources, writes to the store, starts the
/// render workers and tries to break out of them. Exit code 0 when all is well, 1 when something is wrong, 78 when it is
/// the config.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Prints the findings as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Finding {
    part: String,
    #[serde(flatten)]
    result: Part,
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let loaded = arguments.config.load()?;
    let config = &loaded.config;
    start_log(&config.log);
    let mut findings = vec![finding("config", Ok::<_, CommandError>(origin(loaded.file.as_deref())))];
    for (key, says) in config.without_effect() {
        findings.push(finding(key, Ok::<_, CommandError>(format!("no effect: {says}"))));
    }
    for (key, says) in config.cautions() {
        findings.push(finding(key, Ok::<_, CommandError>(format!("allowed, with caution: {says}"))));
    }
    findings.extend(keys(config)?);
    findings.extend(runtime()?.block_on(parts(config))?);
    findings.extend(sandbox());

    if arguments.json {
        print_json(&findings)?;
    } else {
        for finding in &findings {
            let mark = if finding.result.ok { "ok  " } else { "FAIL" };
            println!("{mark}  {:<18}  {}", finding.part, finding.result.says);
        }
    }
    if findings.iter().all(|finding| finding.result.ok) { Ok(()) } else { Err(CommandError::Silent) }
}

fn finding(part: impl Into<String>, result: Result<String, impl std::fmt::Display>) -> Finding {
    Finding { part: part.into(), result: Part::new(result) }
}

fn keys(config: &Config) -> Result<Vec<Finding>, CommandError> {
    let verifier = Verifier::new(config)?;
    let describe = |route: &crate::access::Route| {
        let (native, wagtail) = (route.native_keys.len(), route.wagtail_keys.len());
        let bearer = match route.auth {
            AuthMode::Off => "",
            AuthMode::Jwt => ", and wants a token",
            AuthMode::Forward => ", and asks the site",
        };
        let says = format!("{} takes {native} native and {wagtail} Wagtail key(s){bearer}", route.prefix);
        finding(format!("route {}", route.name), Ok::<_, CommandError>(says))
    };
    Ok(verifier.table().routes().iter().map(describe).collect())
}

async fn parts(config: &Config) -> Result<Vec<Finding>, CommandError> {
    let app = App::build(config).await?;
    let readiness = app.readiness().await;
    let watermarks = app.check_watermarks().await;
    let bearers = app.verifier.probe().await;
    app.shut_down().await;
    let mut findings: Vec<Finding> = bearers.into_iter().map(|(part, result)| finding(part, result)).collect();
    findings.push(Finding { part: "catalogue".into(), result: readiness.catalogue });
    if let Some(channel) = &config.catalogue.listen {
        let says = format!("on {channel:?}; Wagtail's table tells by\n{}", catalogue::trigger(channel));
        findings.push(finding("catalogue.listen", Ok::<_, CommandError>(says)));
    }
    for (name, part) in readiness.sources {
        findings.push(Finding { part: format!("source {name}"), result: part });
    }
    findings.push(Finding { part: "store".into(), result: readiness.store });
    findings.push(Finding { part: "coordination".into(), result: readiness.coordination });
    if let Some(listen) = &config.page.listen {
        findings.push(finding("page", Ok::<_, CommandError>(format!("for editors, on {listen}, behind its login"))));
    }
    for (name, part) in watermarks {
        findings.push(Finding { part: format!("watermark {name}"), result: part });
    }
    findings.push(finding("workers", Ok::<_, CommandError>(format!("{} started", readiness.workers))));
    findings.push(finding("sandbox", Ok::<_, CommandError>(readiness.sandbox.to_string())));
    Ok(findings)
}

/// Each layer of the sandbox, tried from inside: one line, and one more for each attempt that did not end as it should.
fn sandbox() -> Vec<Finding> {
    let attempts = match workers::self_test::self_test(&PoolConfig::default().program) {
        Ok(attempts) => attempts,
        Err(error) => return vec![finding("sandbox test", Err::<String, _>(error))],
    };
    let bad: Vec<Finding> = attempts
        .iter()
        .filter(|attempt| !attempt.is_good())
        .map(|attempt| finding("sandbox test", Err::<String, _>(attempt)))
        .collect();
    match bad.is_empty() {
        true => {
            let says =
                format!("{} attempts to break out were refused, or allowed where they should be", attempts.len());
            vec![finding("sandbox test", Ok::<_, CommandError>(says))]
        }
        false => bad,
    }
}
