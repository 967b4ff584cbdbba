//! From an image and a spec to a link, and to what is known of its rendition before it is made.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    answer::{self, PageError},
    api::{catalogue_error, failed},
};
use crate::{
    access::{ImageRef, Known, LinkError, Renditions, Subject, Wanted},
    app::App,
    http::failure::RequestError,
    model::{FocalPoint, Size, SourceImage},
    offload::{Body, file_name},
    render::plan::{Plan, PlanError},
    renditions::{EnsureError, Resolved},
    spec::{Accepted, FilterSpec, SpecError},
};

/// Links made by one call.
const MAX_LINKS: usize = 32;

/// The body of both calls.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(rename = "ref")]
    reference: String,
    #[serde(default)]
    spec: String,
    /// In place of the catalogue's, for a look.
    focal: Option<Focus>,
    /// For how many seconds.
    expires: Option<u64>,
    download: Option<String>,
    route: Option<String>,
    /// For links: a preset set, or several specs.
    set: Option<String>,
    #[serde(default)]
    specs: Vec<String>,
}

/// A focal point, as catalogues have it: its middle and its size, in pixels of the upright original.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Focus {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl From<Focus> for FocalPoint {
    fn from(Focus { x, y, width, height }: Focus) -> Self {
        Self { x, y, width, height }
    }
}

impl Focus {
    /// `X,Y,WIDTH,HEIGHT`, none of them negative or beyond any image.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers: Vec<f64> = text.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [x, y, width, height] = numbers.try_into().ok()?;
        Some(Self { x, y, width, height }).filter(|focus| focus.is_sane())
    }

    fn is_sane(self) -> bool {
        [self.x, self.y, self.width, self.height].iter().all(|number| (0.0..=1e6).contains(number))
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, PageError> {
    serde_json::from_slice(body).map_err(|error| PageError::new(StatusCode::BAD_REQUEST, error.to_string()))
}

/// A spec or preset as a spec; an error says where.
pub(super) fn spec(app: &App, text: &str) -> Result<FilterSpec, PageError> {
    let written = app.config().presets.get(text).map_or(text, String::as_str);
    FilterSpec::parse(written).map_err(|error| bad_spec(text, &error))
}

fn bad_spec(text: &str, error: &SpecError) -> PageError {
    let before = text.get(..error.offset).unwrap_or(text);
    PageError { offset: Some(before.encode_utf16().count()), ..PageError::field("spec", sentence(&error.problem)) }
}

/// An error's words with a capital at the front.
fn sentence(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The image that an editor names, looked up as for anybody, with another focal point where one is tried.
pub(super) async fn image(app: &App, reference: &str, focal: Option<Focus>) -> Result<SourceImage, PageError> {
    let unknown = || PageError { status: StatusCode::NOT_FOUND, ..PageError::field("ref", "There is no such image") };
    let subject = Subject::of_reference(reference).map_err(|error| link_error(reference, error))?;
    let mut image = match subject.image() {
        ImageRef::Id(id) => {
            let found = app.catalogue.find(id).await.map_err(catalogue_error)?;
            SourceImage::clone(&*found.ok_or_else(unknown)?)
        }
        ImageRef::Path(location) => SourceImage::at(location),
        ImageRef::Nothing => return Err(unknown()),
    };
    match focal {
        Some(focus) if !focus.is_sane() => return Err(PageError::field("focal", "Not a focal point")),
        Some(focus) => image.focal_point = Some(focus.into()),
        None => {}
    }
    Ok(image)
}

/// A rendition's URL, and all that is known of it without making it.
pub(super) async fn solve(
    app: &Arc<App>,
    body: &[u8],
    accepted: Accepted,
    now: SystemTime,
) -> Result<Response<Body>, PageError> {
    let asked: Asked = parse(body)?;
    let spec = spec(app, &asked.spec)?;
    let image = image(app, &asked.reference, asked.focal).await?;
    let solved = resolve(app, &image, &spec.accepting(accepted)).await?;
    let (plan, version) = (&solved.planned.plan, solved.planned.version());
    let url = link(app, &asked, (&asked.spec, &spec), &image, plan, now)?;
    let (upright, turned) = (plan.source.upright_size(), plan.turn.upright(plan.source.stored_size));
    let focal = image.focal_point.map(|FocalPoint { x, y, width, height }| Focus { x, y, width, height });
    Ok(answer::json(&serde_json::json!({
        "url": url,
        "spec": spec.to_string(),
        "source": { "format": plan.source.format.name(), "size": sides(upright), "bytes": version.bytes,
            "frames": plan.source.frames },
        "focal": focal,
        "output": { "format": plan.encoding.format().name(), "media_type": plan.encoding.format().media_type(),
            "size": sides(plan.rendition_size()) },
        // In pixels of the upright original, unless the spec turns it.
        "crop": { "left": plan.crop.left, "top": plan.crop.top, "width": plan.crop.size().width,
            "height": plan.crop.size().height, "turned": plan.turn != plan.source.orientation,
            "whole": plan.crop.size() == turned },
    })))
}

fn sides(size: Size) -> [u32; 2] {
    [size.width, size.height]
}

/// The URLs of a preset set, or of several specs, each with the size that its rendition has.
pub(super) async fn links(
    app: &Arc<App>,
    body: &[u8],
    accepted: Accepted,
    now: SystemTime,
) -> Result<Response<Body>, PageError> {
    let asked: Asked = parse(body)?;
    let specs = match &asked.set {
        Some(set) => Renditions::Set(set).specs(app.config()).map_err(|error| link_error(set, error))?,
        None => asked.specs.clone(),
    };
    if specs.is_empty() || specs.len() > MAX_LINKS {
        return Err(PageError::field("set", format!("One to {MAX_LINKS} renditions at a time")));
    }
    let image = image(app, &asked.reference, asked.focal).await?;
    let mut made = Vec::new();
    for text in &specs {
        let spec = spec(app, text)?;
        let solved = resolve(app, &image, &spec.accepting(accepted)).await?;
        let plan = &solved.planned.plan;
        let (url, format) = (link(app, &asked, (text, &spec), &image, plan, now)?, plan.encoding.format());
        made.push(serde_json::json!({ "spec": text, "url": url, "size": sides(plan.rendition_size()),
            "format": format.name(), "media_type": format.media_type() }));
    }
    Ok(answer::json(&serde_json::json!({ "links": made })))
}

/// A signed URL that we ourselves would take.
fn link(
    app: &App,
    asked: &Asked,
    (text, spec): (&str, &FilterSpec),
    image: &SourceImage,
    plan: &Plan,
    now: SystemTime,
) -> Result<String, PageError> {
    // As the original is called; which format a browser will get by `format-auto` is not known yet.
    let is_id = asked.reference.bytes().all(|byte| byte.is_ascii_digit());
    let name = file_name(image.location.path.stem(), plan.encoding.format());
    let wanted = Wanted {
        reference: &asked.reference,
        renditions: Renditions::Of(text),
        route: asked.route.as_deref(),
        scheme: None,
        life: asked.expires.map(Duration::from_secs),
        download: asked.download.as_deref(),
        filename: (is_id && !spec.is_auto()).then_some(name.as_str()),
        known: Known { source: Some(&image.location.source), pixels: Some(plan.rendition_size().pixels()) },
    };
    let links = app.verifier.links(app.config(), &wanted, now).map_err(|error| match error {
        // Wagtail's scheme is all that this route has.
        LinkError::NotInWagtail if asked.expires.is_some() => PageError::field("expires", sentence(&error)),
        LinkError::NotInWagtail if asked.download.is_some() => PageError::field("download", sentence(&error)),
        LinkError::NotInWagtail => PageError::field("ref", sentence(&error)),
        LinkError::NoKey { .. } => PageError::field("route", sentence(&error)),
        error => link_error(text, error),
    })?;
    Ok(links.urls().next().unwrap_or_default().to_owned())
}

async fn resolve(app: &Arc<App>, image: &SourceImage, spec: &FilterSpec) -> Result<Resolved, PageError> {
    app.renditions.resolve(image, spec).await.map_err(ensure_error)
}

/// Why there is no rendition: what the public is told, or more where that tells of the spec.
pub(super) fn ensure_error(error: EnsureError) -> PageError {
    let field = match &error {
        EnsureError::Unplannable(PlanError::NoEncoder(_) | PlanError::NoWatermark | PlanError::EmptyCrop) => "spec",
        EnsureError::Unplannable(PlanError::TooLarge) | EnsureError::OverLimit(_) => "spec",
        _ => "ref",
    };
    let detail = match &error {
        EnsureError::Unplannable(error) => Some(sentence(error)),
        EnsureError::OverLimit(_) => Some(sentence(&error)),
        EnsureError::SourceGone(_) => Some("The image's file is not there".to_owned()),
        _ => None,
    };
    let error = failed(field, &RequestError::Ensure(error));
    PageError { message: detail.unwrap_or(error.message), ..error }
}

fn link_error(text: &str, error: LinkError) -> PageError {
    let field = match error.field() {
        // The page has one field for both.
        "preset_set" => "set",
        field => field,
    };
    match &error {
        LinkError::Spec { error, .. } => bad_spec(text, error),
        LinkError::Reference(_) => {
            PageError::field(field, "Neither an id (42) nor a source and a path (media/a/b.jpg)")
        }
        LinkError::NotAPreset { .. } => PageError::field(field, "This route serves presets only: choose one"),
        error => PageError::field(field, sentence(error)),
    }
}
