//! `sendimage explain`

use std::time::SystemTime;

use clap::Args;
use serde::Serialize;

use super::{CommandError, CommandResult, ConfigArgument, print_json, runtime};
use crate::{
    access::{Scheme, SignedUrl, Subject, VerifiedRequest, VerifyError},
    app::App,
    config::Config,
    http::{Failure, RequestError, explain_gone, find_image},
    renditions::Resolved,
    spec::FilterSpec,
};

/// Says, step by step, how a URL is answered: route, key, preset, image, plan, rendition, hit or miss, or why it is refused.
/// Nothing is rendered. The exit code is 0 when it would be served.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// A whole URL, or its path and query
    #[arg(value_name = "URL")]
    url: String,
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
    let config = arguments.config.load()?.config;
    let explanation = runtime()?.block_on(explain(&config, target(&arguments.url)))?;
    if arguments.json {
        print_json(&explanation)?;
    } else {
        let width = explanation.steps.iter().map(|step| step.what.len()).max().unwrap_or(0);
        for step in &explanation.steps {
            println!("{:width$}  {}", step.what, step.found);
        }
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

async fn explain(config: &Config, target: &str) -> Result<Explanation, CommandError> {
    let app = App::build(config).await?;
    let mut steps = Steps::default();
    let result = walk(&app, target, &mut steps).await;
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
async fn walk(app: &App, target: &str, steps: &mut Steps) -> Result<(), RequestError> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let path = path.split('#').next().unwrap_or(path);
    let (route, url) = app.verifier.table().resolve(path, query).map_err(RequestError::Url)?;
    steps.add("route", format!("{:?}, prefix {}", route.name, route.prefix));
    describe_url(&url, steps);
    let verified = match app.verifier.verify(route, &url, SystemTime::now()) {
        Ok(verified) => verified,
        Err(error) => {
            if let VerifyError::Refused(_) = error {
                let ids = |ids: Vec<&str>| if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
                steps.add("native keys", ids(route.native_keys.iter().map(|key| key.id().as_ref()).collect()));
                steps.add("wagtail keys", ids(route.wagtail_keys.iter().map(|key| key.id().as_ref()).collect()));
            }
            return Err(error.into());
        }
    };
    describe_proof(&verified, steps);
    let image = find_image(app, &verified).await?;
    steps.add("source image", &image.location);
    if let Some(focal_point) = image.focal_point {
        steps.add("focal point", format!("{focal_point:?}"));
    }
    let spec = FilterSpec::parse(verified.filter_spec())?;
    steps.add("canonical spec", &spec);
    let resolved = app.renditions.resolve(&image, &spec).await.map_err(|error| explain_gone(&verified, error))?;
    describe_plan(&resolved, steps);
    Ok(())
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

fn describe_proof(verified: &VerifiedRequest<'_>, steps: &mut Steps) {
    steps.add("signature", format!("good, by key {:?}", verified.key_id()));
    if let Some(preset) = verified.preset() {
        steps.add("preset", format!("{preset:?} stands for {:?}", verified.filter_spec()));
    }
    steps.add("max-age", format!("{} s", verified.max_age().as_secs()));
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
