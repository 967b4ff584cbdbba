//! From a URL to the proof that it may be served, and to the image that it is about.

use std::{sync::Arc, time::SystemTime};

use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, COOKIE},
};
use tracing::Instrument as _;

use super::failure::RequestError;
use crate::{
    access::{Bearer, ImageRef, Refusal, Route, SignedUrl, VerifiedRequest, VerifyError},
    app::App,
    catalogue::CatalogueError,
    config::AuthMode,
    doctor::canary::Canary,
    metrics::AuthOutcome,
    model::SourceImage,
    renditions::{EnsureError, Planned},
    traces::part,
};

/// The proof that a URL may be served to whoever sent it.
///
/// # Errors
/// Why there is none.
pub async fn prove<'a>(
    app: &'a App,
    route: &'a Route,
    url: &'a SignedUrl<'a>,
    bearer: Bearer<'_>,
    request_id: &str,
) -> Result<VerifiedRequest<'a>, RequestError> {
    let now = SystemTime::now();
    let signed = app.verifier.verify_signature(route, url, now)?;
    app.count_key_use(&signed);
    let verified = match app.verifier.authorise_now(&signed, bearer, now) {
        Some(settled) => settled?,
        // In a box: hyper moves a request's future about, and a hit's would have to be as large as this one.
        None => match Box::pin(app.verifier.authorise(&signed, bearer, now)).await {
            Err(VerifyError::Site(refusal)) if Canary::of(&signed, now).is_some() => {
                // No site knows a canary: its no says nothing of the way there. That nobody was named does.
                if !has_credentials(bearer.headers) {
                    return Err(VerifyError::Site(refusal.unauthenticated()).into());
                }
                app.verifier.whoever_asks(&signed)
            }
            result => result?,
        },
    };
    for refusal in verified.on_trial() {
        note_trial(app, refusal, request_id);
    }
    Ok(verified)
}

fn has_credentials(headers: &HeaderMap) -> bool {
    headers.contains_key(COOKIE) || headers.contains_key(AUTHORIZATION)
}

/// What `log_only` lets through.
fn note_trial(app: &App, refusal: VerifyError, request_id: &str) {
    let error = RequestError::from(refusal);
    if let Some(outcome) = error.auth_outcome() {
        app.metrics.auth(outcome);
    }
    tracing::info!(request.id = request_id, reason = %error, "would not be served, were log_only off");
}

/// Counts a bearer whom the token or the site's word lets pass, where one was asked for.
pub(super) fn count_allowed(app: &App, verified: &VerifiedRequest<'_>) {
    if verified.route().auth != AuthMode::Off && !verified.is_on_trial() {
        app.metrics.auth(AuthOutcome::Allowed);
    }
}

/// The source image that a verified URL refers to, if key and token allow it.
///
/// # Errors
/// [`RequestError::UnknownImage`], a refusal, or the catalogue's own.
pub async fn find_image(
    app: &App,
    verified: &VerifiedRequest<'_>,
    request_id: &str,
) -> Result<Arc<SourceImage>, RequestError> {
    let found = match verified.image() {
        ImageRef::Id(id) => app.catalogue.find(id).instrument(part!("catalogue")).await.map_err(RequestError::from),
        ImageRef::Path(location) => Ok(Some(Arc::new(SourceImage::at(location)))),
        ImageRef::Nothing => Ok(None),
    };
    let admitted = match &found {
        Ok(Some(image)) => verified.admits(image),
        // A row that is malformed is none either, for whoever may not know. That the catalogue is away says nothing of an image.
        Ok(None) | Err(RequestError::Catalogue(CatalogueError::BadRow { .. })) => verified.admits_unknown(),
        Err(_) => Ok(()),
    };
    match admitted {
        Err(refusal @ Refusal::OutOfScope) if app.verifier.tries_auth() => {
            note_trial(app, refusal.into(), request_id);
        }
        Err(refusal) => return Err(VerifyError::from(refusal).into()),
        Ok(()) => {}
    }
    found?.ok_or(RequestError::UnknownImage)
}

/// Whether the key signs for a rendition as large as the plan makes it.
///
/// # Errors
/// A refusal.
pub fn admit_size(verified: &VerifiedRequest<'_>, planned: &Planned) -> Result<(), RequestError> {
    Ok(verified.admits_pixels(planned.plan.rendition_size().pixels()).map_err(VerifyError::from)?)
}

/// A catalogue's image whose file is gone is 410; a path that nothing was ever said about is 404.
pub fn explain_gone(verified: &VerifiedRequest<'_>, error: EnsureError) -> RequestError {
    match (verified.image(), error) {
        (ImageRef::Path(_), EnsureError::SourceGone(_)) => RequestError::NoSuchPath,
        (_, error) => RequestError::Ensure(error),
    }
}
