//! `POST /warm`: renditions made ahead of time.

use std::sync::Arc;

use serde::Deserialize;

use super::{call::each, failure::CallError};
use crate::{
    access::Renditions,
    app::App,
    spec::FilterSpec,
    upkeep::{self, MAX_RENDITIONS, Original, Warmed},
};

/// The body of `POST /warm`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WarmBody {
    refs: Vec<String>,
    specs: Option<Vec<String>>,
    preset_set: Option<String>,
}

/// Makes renditions ahead of time.
pub(super) async fn warm(app: &Arc<App>, body: WarmBody) -> Result<Warmed, CallError> {
    let originals = each(body.refs, Original::of_reference)?;
    let specs = match (body.specs, body.preset_set) {
        (Some(specs), None) => specs,
        (None, Some(set)) => Renditions::Set(&set).specs(app.config())?,
        (Some(_), Some(_)) => return Err(CallError::field("preset_set", "give this or specs, not both")),
        (None, None) => return Err(CallError::field("specs", "give this or preset_set")),
    };
    let mut tasks = Vec::new();
    for (index, text) in specs.iter().enumerate() {
        let spec = app.config().presets.get(text).unwrap_or(text);
        let spec = FilterSpec::parse(spec).map_err(|error| CallError::Field {
            field: format!("specs[{index}]"),
            message: format!("{text:?} is no preset and not a filter spec: {error}"),
        })?;
        tasks.extend(upkeep::tasks(spec));
    }
    let count = originals.len().saturating_mul(tasks.len());
    if count > MAX_RENDITIONS {
        let message = format!("{count} renditions, format-auto's three counted; one call may ask for {MAX_RENDITIONS}");
        return Err(CallError::field("refs", message));
    }
    Ok(upkeep::warm(app, &originals, &tasks.into()).await)
}
