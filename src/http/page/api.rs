//! What the page's script asks for before there is a link: the config, images, folders.

use std::{sync::Arc, time::SystemTime};

use hyper::Response;
use tokio::sync::Semaphore;

use super::answer::{self, PageError};
use crate::{
    access::PageSession,
    app::App,
    catalogue::{CatalogueError, Match},
    config::{AuthMode, CatalogueKind, SourceKind},
    http::failure::{Failure, RequestError},
    model::{ImageId, MediaPath, SourceImage},
    offload::Body,
    renditions::EnsureError,
    source::{Folder, SourceError},
};

/// Searches at one moment: each may read a whole table, by one of the few sessions that the public's look-ups have too.
static SEARCHES: Semaphore = Semaphore::const_new(1);
/// Longest text that is searched for, in bytes.
const MAX_SEARCH: usize = 200;
/// What the page knows from the start: the config, as far as editors need it.
pub(super) fn start(app: &App, session: &PageSession) -> Response<Body> {
    let config = app.config();
    let routes: Vec<_> = app
        .verifier
        .table()
        .routes()
        .iter()
        .map(|route| {
            let private = route.auth != AuthMode::Off && !app.verifier.tries_auth();
            serde_json::json!({ "name": *route.name, "presets_only": route.presets_only, "private": private,
            "wagtail_only": route.native_keys.is_empty() })
        })
        .collect();
    let sources: Vec<_> = config
        .sources
        .iter()
        .map(|(name, source)| serde_json::json!({ "name": name, "browsable": source.kind == SourceKind::Fs }))
        .collect();
    let ends = session.ends.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    answer::json(&serde_json::json!({
        "csrf": session.csrf,
        "ends": ends,
        "routes": routes,
        "sources": sources,
        "has_catalogue": config.catalogue.kind != CatalogueKind::None,
        "presets": config.presets,
        "preset_sets": config.preset_sets,
        "watermarks": config.watermarks.keys().collect::<Vec<_>>(),
        "qualities": {
            "jpeg": config.render.effective_jpeg_quality().get(),
            "webp": config.render.effective_webp_quality().get(),
            "avif": config.render.effective_avif_quality().get(),
        },
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

/// The first value of a query's parameter.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// Images by a part of title or file, or by id.
pub(super) async fn search(app: &App, query: &str) -> Result<Response<Body>, PageError> {
    let text = parameter(query, "text").unwrap_or_default();
    let text = text.trim();
    if text.len() > MAX_SEARCH {
        return Err(PageError::field("search", "That is too long to search for"));
    }
    let mut found = Vec::new();
    let id = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit())).map(ImageId);
    if let Some(id) = id
        && let Some(image) = app.catalogue.find(id).await.or_else(none_of_bad_row)?
    {
        found.push(Match { id, title: None, image });
    }
    let listed = {
        // The semaphore is never closed.
        let _turn = SEARCHES.acquire().await.ok();
        app.catalogue.search(text).await.map_err(catalogue_error)?
    };
    let searchable = listed.is_some();
    let mut listed = listed.unwrap_or_default();
    if let Some(first) = found.first_mut()
        && let Some(at) = listed.iter().position(|other| other.id == first.id)
    {
        *first = listed.remove(at);
    }
    found.append(&mut listed);
    let images: Vec<_> = found.iter().map(|Match { id, title, image }| {
        serde_json::json!({ "ref": id.to_string(), "title": title, "file": image.location.to_string() })
    }).collect();
    Ok(answer::json(&serde_json::json!({ "searchable": searchable, "images": images })))
}

/// A row that cannot be used is no image to choose.
fn none_of_bad_row(error: CatalogueError) -> Result<Option<Arc<SourceImage>>, PageError> {
    match error {
        CatalogueError::BadRow { .. } => Ok(None),
        error => Err(catalogue_error(error)),
    }
}

pub(super) fn catalogue_error(error: CatalogueError) -> PageError {
    failed("ref", &RequestError::Catalogue(error))
}

/// What is in a source's folder.
pub(super) async fn browse(app: &App, query: &str) -> Result<Response<Body>, PageError> {
    let (name, path) = (parameter(query, "source").unwrap_or_default(), parameter(query, "path").unwrap_or_default());
    let source = app.sources.get(&name).ok_or_else(|| PageError::field("ref", "There is no such source"))?;
    let (folder, begins) = path.rsplit_once('/').map_or((None, path.as_str()), |(folder, rest)| (Some(folder), rest));
    let folder = folder.map(MediaPath::parse).transpose();
    let folder = folder.map_err(|error| PageError::field("ref", format!("No path: {error}")))?;
    let listed = source.browse(folder.as_ref(), begins).await.or_else(|error| match error {
        SourceError::Gone(_) => Ok(Some(Folder::default())),
        error => Err(failed("ref", &RequestError::Ensure(EnsureError::from(error)))),
    })?;
    Ok(answer::json(&listed))
}

/// A failure as the public sees it, at a field.
pub(super) fn failed(field: &'static str, error: &RequestError) -> PageError {
    let Failure { status, sentence, .. } = Failure::from(error);
    PageError { status, field: Some(field), offset: None, message: sentence }
}
