//! `sendimage check`

use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use clap::Args;
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderName, HeaderValue},
};

use super::{
    CommandError, CommandResult, ConfigArgument, header, origin, output::Lines, print_json, runtime, start_log,
};
use crate::{
    access::{
        Verifier,
        token::{Minted, mint},
    },
    app::{App, Part},
    catalogue,
    config::{AuthMode, Config},
    doctor::{self, Asked, Finding, Severity},
    workers::{self, PoolConfig},
};

/// The doctor: loads the config, reads the keys, asks the catalogue, opens the sources, writes to the store, starts the
/// render workers and tries to break out of them. With --url it also asks the running service through the web server in
/// front, names what is the matter, and the line to change. Exit code 0 when all is well (warnings are), 1 when something
/// is wrong, 78 when it is the config.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sendimage check
  sendimage check --url https://www.example.org        what browsers get, through nginx
  sendimage check --url                                the same, at server.public_url
  sendimage check --url --image media/a.jpg            and whether this image comes
  sudo -u sendimage sendimage check --url --json       as the service's own user, for machines

With --url, a canary goes through: a signed URL that works for five minutes, and a file of 1 KB in the store, removed at the
end. No config of nginx's has to know of it. Where nginx runs on this machine, its user and its config are looked at too.")]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Asks through the web server, too; without a URL, at server.public_url
    #[arg(long, value_name = "PUBLIC", num_args = 0..=1, default_missing_value = "")]
    url: Option<String>,
    /// Goes along with each request, where a route wants a token or a session: 'Cookie: sessionid=...'
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header, requires = "url")]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Takes any certificate (SSL_CERT_FILE names one to trust)
    #[arg(long, requires = "url")]
    insecure: bool,
    /// The user of nginx's workers [default: that of the nginx on this machine]
    #[arg(long, value_name = "USER", requires = "url")]
    nginx_user: Option<String>,
    /// An image to ask for too, by an id or a source and a path: one rendition of it, by each route
    #[arg(long, value_name = "REF", requires = "url")]
    image: Option<String>,
    /// Says more: what was seen of what is good, too
    #[arg(short, long)]
    verbose: bool,
    /// Prints the findings as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let loaded = arguments.config.load()?;
    let config = &loaded.config;
    let _log = start_log(&config.log);
    let mut findings = vec![Finding::good("config", origin(loaded.file.as_deref()))];
    for (key, says) in config.cautions() {
        findings.push(Finding::good(key, format!("allowed, with caution: {says}")));
    }
    findings.extend(keys(config)?);
    findings.push(doctor::local::clock(SystemTime::now()));
    let runtime = runtime()?;
    findings.extend(runtime.block_on(parts(config))?);
    findings.extend(sandbox());
    if let Some(url) = &arguments.url {
        let asked = asked(arguments, config, url);
        let examined = runtime.block_on(doctor::examine(config, &asked));
        findings.extend(examined.map_err(|error| anyhow!(error))?);
    }
    if arguments.json {
        print_json(&findings)?;
    } else {
        let mut lines = Lines::default();
        findings.iter().for_each(|finding| report(&mut lines, finding, arguments.verbose));
        lines.print()?;
    }
    if findings.iter().all(|finding| finding.ok) { Ok(()) } else { Err(CommandError::Silent) }
}

/// One line; what was seen and what to change on lines of their own.
fn report(lines: &mut Lines, finding: &Finding, verbose: bool) {
    let mark = match finding.severity {
        Severity::Ok => "ok  ",
        Severity::Warning => "warn",
        Severity::Error => "FAIL",
    };
    let cause = finding.cause.and_then(|cause| serde_json::to_value(cause).ok());
    let cause = cause.as_ref().and_then(|cause| cause.as_str()).map(|cause| format!("  [{cause}]")).unwrap_or_default();
    lines.add(format_args!("{mark}  {:<18}  {}{cause}", finding.part, finding.says));
    if finding.severity != Severity::Ok || verbose {
        finding.evidence.iter().for_each(|seen| lines.add(format_args!("{:26}seen: {seen}", "")));
        finding.fix.iter().for_each(|fix| lines.add(format_args!("{:26}fix:  {fix}", "")));
    }
}

/// How the public URL is asked: with what the operator gives, and with a token of our own where there is a key for one.
fn asked(arguments: &Arguments, config: &Config, url: &str) -> Asked {
    let mut credentials = HeaderMap::new();
    for (name, value) in &arguments.headers {
        credentials.append(name, value.clone());
    }
    let wants_token = config.effective_routes().values().any(|route| route.auth == AuthMode::Jwt);
    if credentials.is_empty() && wants_token {
        // No image but the one that is asked for.
        let images = arguments.image.as_slice();
        let minted = Minted {
            subject: "sendimage check",
            images: Some(images),
            ttl: Duration::from_secs(300),
            kid: None,
            private_key_file: None,
        };
        // Keys of which we have the public half only sign nothing; then the finding says what to give.
        if let Ok(token) = mint(&config.auth.jwt, &minted, SystemTime::now())
            && let Ok(mut value) = HeaderValue::try_from(format!("Bearer {token}"))
        {
            value.set_sensitive(true);
            credentials.insert(AUTHORIZATION, value);
        }
    }
    let url = if url.is_empty() { config.server.public_url.clone() } else { url.to_owned() };
    let (user, image) = (arguments.nginx_user.clone(), arguments.image.clone());
    Asked { url, insecure: arguments.insecure, credentials, user, image }
}

fn part(name: impl Into<String>, part: Part) -> Finding {
    Finding::of(name, if part.ok { Ok(part.says) } else { Err(part.says) })
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
        Finding::good(format!("route {}", route.name), says)
    };
    Ok(verifier.table().routes().iter().map(describe).collect())
}

async fn parts(config: &Config) -> Result<Vec<Finding>, CommandError> {
    let app = App::build(config).await?;
    let readiness = app.readiness().await;
    let watermarks = app.check_watermarks().await;
    let bearers = app.verifier.probe().await;
    app.shut_down().await;
    let mut findings: Vec<Finding> = bearers.into_iter().map(|(part, result)| Finding::of(part, result)).collect();
    let in_wal = (!readiness.catalogue.ok).then(|| doctor::local::sqlite(&config.catalogue, &readiness.catalogue.says));
    findings.push(in_wal.flatten().unwrap_or_else(|| part("catalogue", readiness.catalogue)));
    if let Some(channel) = &config.catalogue.listen {
        let says = format!("on {channel:?}; Wagtail's table tells by\n{}", catalogue::trigger(channel));
        findings.push(Finding::good("catalogue.listen", says));
    }
    for (name, found) in readiness.sources {
        findings.push(part(format!("source {name}"), found));
    }
    findings.push(part("store", readiness.store));
    findings.extend(doctor::local::store(config));
    if let Some(index) = app.budget.probe().await.map_or_else(|error| Some(Err(error.to_string())), |says| says.map(Ok))
    {
        findings.push(Finding::of("store.index", index));
    }
    findings.push(part("coordination", readiness.coordination));
    if let Some(listen) = &config.page.listen {
        findings.push(Finding::good("page", format!("for editors, on {listen}, behind its login")));
    }
    for (name, found) in watermarks {
        findings.push(part(format!("watermark {name}"), found));
    }
    findings.push(Finding::good("workers", format!("{} started", readiness.workers)));
    findings.push(Finding::good("sandbox", readiness.sandbox.to_string()));
    Ok(findings)
}

/// Each layer of the sandbox, tried from inside: one line, and one more for each attempt that did not end as it should.
fn sandbox() -> Vec<Finding> {
    let attempts = match workers::self_test::self_test(&PoolConfig::default().program) {
        Ok(attempts) => attempts,
        Err(error) => return vec![Finding::of("sandbox test", Err(error))],
    };
    let bad: Vec<Finding> = attempts
        .iter()
        .filter(|attempt| !attempt.is_good())
        .map(|attempt| Finding::of("sandbox test", Err(attempt)))
        .collect();
    match bad.is_empty() {
        true => {
            let says =
                format!("{} attempts to break out were refused, or allowed where they should be", attempts.len());
            vec![Finding::good("sandbox test", says)]
        }
        false => bad,
    }
}
