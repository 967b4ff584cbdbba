//! `sendimage explain`

mod past;

use std::{path::PathBuf, time::SystemTime};

use clap::Args;
use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};
use serde::Serialize;

use super::{CommandError, CommandResult, ConfigArgument, header, output::Lines, print_json, runtime, with_one_worker};
use crate::{
    access::{Bearer, Scheme, Scope, SignedRequest, SignedUrl, Subject, VerifiedRequest, VerifyError},
    app::App,
    config::{AuthMode, Config},
    http::{Failure, RequestError, admit_size, explain_gone, find_image},
    renditions::Resolved,
    spec::FilterSpec,
};

/// Says, step by step, how a URL is answered: route, key, token, preset, image, plan, rendition, hit or miss, or why it is
/// refused. Nothing is rendered. The exit code is 0 when it would be served.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sendimage explain 'https://example.org/images/…/42/hero/x.jpg'
  sendimage explain URL -H \"Authorization: Bearer $TOKEN\"
  journalctl -u sendimage | sendimage explain --request 1f0c3a5d7e9b2468 --log -")]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// A whole URL, or its path and query
    #[arg(value_name = "URL", required_unless_present = "request")]
    url: Option<String>,
    /// A header of the request: who asks. May be repeated; its value is never printed
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Says instead why a request was not served that has been already: the id of its answer (X-Request-Id)
    #[arg(long, value_name = "ID", requires = "log", conflicts_with = "url")]
    request: Option<String>,
    /// Where the service's log is: a file, or - for standard input
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Prints the steps as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Explanation {
    served: bool,
    status: u16,
    steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
struct Step {
    what: &'static str,
    found: String,
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn add(&mut self, what: &'static str, found: impl ToString) {
        self.0.push(Step { what, found: found.to_string() });
    }
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let explanation = match (&arguments.url, &arguments.request, &arguments.log) {
        (_, Some(id), Some(log)) => past::explain(id, log)?,
        (Some(url), ..) => {
            let config = arguments.config.load()?.config;
            runtime()?.block_on(explain(&config, target(url), arguments.headers.iter().cloned().collect()))?
        }
        // clap asks for one of the two.
        (None, ..) => return Err(anyhow::anyhow!("a URL or --request is needed").into()),
    };
    if arguments.json {
        print_json(&explanation)?;
    } else {
        let width = explanation.steps.iter().map(|step| step.what.len()).max().unwrap_or(0);
        let mut lines = Lines::default();
        for step in &explanation.steps {
            lines.add(format_args!("{:width$}  {}", step.what, step.found));
        }
        lines.print()?;
    }
    if explanation.served { Ok(()) } else { Err(CommandError::Silent) }
}

/// The path and query of a URL.
fn target(url: &str) -> &str {
    match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => url,
    }
}

async fn explain(config: &Config, target: &str, headers: HeaderMap) -> Result<Explanation, CommandError> {
    let app = App::build(&with_one_worker(config)).await?;
    let mut steps = Steps::default();
    let result = walk(&app, Bearer { headers: &headers, target }, &mut steps).await;
    app.shut_down().await;
    let status = match &result {
        Ok(()) => 200,
        Err(error) => {
            steps.add("not served", error);
            let failure = Failure::from(error);
            steps.add("answer", format!("{}: {}", failure.status, failure.sentence));
            failure.status.as_u16()
        }
    };
    Ok(Explanation { served: result.is_ok(), status, steps: steps.0 })
}

/// The path of a request, with a word at every step.
async fn walk(app: &App, bearer: Bearer<'_>, steps: &mut Steps) -> Result<(), RequestError> {
    // What a request's target ends with, for the HTTP library.
    let target = bearer.target.split_once('#').map_or(bearer.target, |(target, _)| target);
    let (route, url) = app.verifier.table().resolve_target(target).map_err(RequestError::Url)?;
    steps.add("route", format!("{:?}, prefix {}", route.name, route.prefix));
    describe_url(&url, steps);
    let now = SystemTime::now();
    let signed = match app.verifier.verify_signature(route, &url, now) {
        Ok(signed) => signed,
        Err(error) => {
            if let VerifyError::Refused(_) = error {
                let ids = |ids: Vec<&str>| if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
                steps.add("native keys", ids(route.native_keys.iter().map(|key| key.id().as_ref()).collect()));
                steps.add("wagtail keys", ids(route.wagtail_keys.iter().map(|key| key.id().as_ref()).collect()));
            }
            return Err(error.into());
        }
    };
    describe_signature(&signed, steps);
    steps.add("auth", describe_auth(app, route.auth));
    let verified = app.verifier.authorise(&signed, bearer, now).await?;
    describe_bearer(&verified, steps);
    let image = find_image(app, &verified, "explain").await?;
    steps.add("source image", &image.location);
    if verified.grant().is_some_and(|grant| grant.is_limited()) {
        let fits = if verified.admits(&image).is_ok() { "allowed" } else { "not allowed, and let through by log_only" };
        steps.add("token's images", fits);
    }
    if let Some(focal_point) = image.focal_point {
        steps.add("focal point", format!("{focal_point:?}"));
    }
    let spec = FilterSpec::parse(verified.filter_spec())?;
    steps.add("canonical spec", &spec);
    let resolved = app.renditions.resolve(&image, &spec).await.map_err(|error| explain_gone(&verified, error))?;
    describe_plan(&resolved, steps);
    admit_size(&verified, &resolved.planned)
}

fn describe_url(url: &SignedUrl<'_>, steps: &mut Steps) {
    steps.add(
        "image",
        match &url.subject {
            Subject::Id(id) => format!("id {id}"),
            Subject::Path { source, path } => format!("path {path:?} in the source {source:?}"),
        },
    );
    steps.add("filter spec", format!("{:?}", url.filter_spec));
    steps.add(
        "scheme",
        match Scheme::of(&url.signature) {
            Some(scheme) => scheme.name().to_owned(),
            None => format!("none: {} characters, where Wagtail has 28 and native 43", url.signature.chars().count()),
        },
    );
    if let Some(expires) = &url.query.expires {
        steps.add("expires", expires);
    }
}

fn describe_signature(signed: &SignedRequest<'_>, steps: &mut Steps) {
    steps.add("signature", format!("good, by key {:?}", signed.key_id()));
    if let Some(scope) = signed.scope() {
        steps.add("key's scope", describe_scope(scope));
    }
    if let Some(preset) = signed.preset() {
        steps.add("preset", format!("{preset:?} stands for {:?}", signed.filter_spec()));
    }
}

fn describe_scope(scope: &Scope) -> String {
    let mut parts = Vec::new();
    if let Some(sources) = &scope.sources {
        parts.push(format!("sources {}", sources.join(", ")));
    }
    if scope.presets_only {
        parts.push("presets only".to_owned());
    }
    if let Some(pixels) = scope.max_pixels {
        parts.push(format!("at most {pixels} pixels"));
    }
    if scope.not_before.is_some() || scope.not_after.is_some() {
        parts.push("for a time, which is now".to_owned());
    }
    parts.join("; ")
}

fn describe_auth(app: &App, mode: AuthMode) -> String {
    let asks = match mode {
        AuthMode::Off => return "off: the signature suffices".to_owned(),
        AuthMode::Jwt => "jwt: a token is wanted",
        AuthMode::Forward => "forward: the site is asked",
    };
    if app.verifier.tries_auth() { format!("{asks}, for a trial (log_only)") } else { asks.to_owned() }
}

fn describe_bearer(verified: &VerifiedRequest<'_>, steps: &mut Steps) {
    for refusal in verified.on_trial() {
        steps.add("log_only", format!("without it: {refusal}"));
    }
    if let Some(grant) = verified.grant() {
        let left = grant.until().duration_since(SystemTime::now()).unwrap_or_default().as_secs();
        steps.add("token", format!("good, by key {:?}, for {left} s more", grant.key()));
        if let Some(subject) = grant.subject() {
            steps.add("token's subject", format!("{subject:?}"));
        }
        let images = grant.images().map_or("every image with a signed URL".to_owned(), |images| images.join(", "));
        steps.add("token allows", if images.is_empty() { "no image".to_owned() } else { images });
    } else if verified.is_private() {
        steps.add("the site", "says yes");
    }
    let whose = if verified.is_private() { "private" } else { "public" };
    steps.add("max-age", format!("{} s, {whose}", verified.max_age().as_secs()));
}

fn describe_plan(resolved: &Resolved, steps: &mut Steps) {
    let planned = &resolved.planned;
    let (facts, version) = (&planned.plan.source, planned.version());
    let size = facts.upright_size();
    steps.add("source", format!("{} {}x{}, {} frame(s)", facts.format, size.width, size.height, facts.frames));
    steps.add("version", format!("{} bytes, modified {} ns", version.bytes, version.modified_ns));
    steps.add("plan", planned.plan.recipe());
    steps.add("memory", format!("{} bytes at most", planned.plan.peak_bytes(version.bytes)));
    steps.add("rendition", planned.key.path());
    steps.add(
        "store",
        match (&resolved.stored, resolved.source_is_there) {
            (Some(stored), _) => format!("hit, {} bytes", stored.bytes),
            (None, true) => "miss: it would be rendered".to_owned(),
            (None, false) => "miss, and the source image's file is gone".to_owned(),
        },
    );
}
