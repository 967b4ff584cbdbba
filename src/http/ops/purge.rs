//! `POST /purge`: renditions taken out of the store.

use serde::Deserialize;

use super::{call::each, failure::CallError};
use crate::{
    access::Subject,
    app::App,
    upkeep::{self, Purged, Scope},
};

/// The body of `POST /purge`: one of these.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PurgeBody {
    refs: Option<Vec<String>>,
    source: Option<String>,
    prefix: Option<String>,
    preset: Option<String>,
    all: Option<bool>,
}

/// Takes renditions out of the store.
pub(super) async fn purge(app: &App, body: PurgeBody) -> Result<Purged, CallError> {
    let PurgeBody { refs, source, prefix, preset, all } = body;
    if all == Some(false) {
        return Err(CallError::field("all", "true, or leave it away"));
    }
    let scopes =
        [source.map(Scope::Source), prefix.map(Scope::Prefix), preset.map(Scope::Preset), all.map(|_| Scope::All)];
    let mut scopes = scopes.into_iter().flatten();
    match (refs, scopes.next(), scopes.next()) {
        (Some(refs), None, None) => {
            Ok(upkeep::purge(app, &each(refs, |text| Ok((text.to_owned(), Subject::of_reference(text)?)))?).await?)
        }
        (None, Some(scope), None) => {
            scope.check(app.config()).map_err(|(field, says)| CallError::field(field, says))?;
            Ok(upkeep::purge_all_of(app, &scope).await?)
        }
        (None, None, _) => Err(CallError::field("refs", "give this, or source, prefix, preset or all")),
        _ => Err(CallError::field("", "Give one of refs, source, prefix, preset and all")),
    }
}
