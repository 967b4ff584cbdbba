//! `POST /sign`: links for whoever has the token.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, de::Visitor};

use super::failure::CallError;
use crate::{
    access::{Known, Links, Renditions, Scheme, Wanted, parse_life},
    app::App,
};

/// The body of `POST /sign`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignBody {
    #[serde(rename = "ref")]
    reference: String,
    spec: Option<String>,
    preset_set: Option<String>,
    expires: Option<Life>,
    download: Option<String>,
    filename: Option<String>,
    scheme: Option<SchemeName>,
    route: Option<String>,
}

/// The answer to it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Signed {
    Url(String),
    Urls(Links),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SchemeName {
    Native,
    Wagtail,
}

/// Seconds, or a text such as `1h`.
#[derive(Clone, Copy, Debug)]
struct Life(Duration);

impl<'de> Deserialize<'de> for Life {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfLife;
        impl Visitor<'_> for OfLife {
            type Value = Life;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of seconds, or a time such as 90s, 15m, 1h, 7d")
            }

            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<Life, E> {
                Ok(Life(Duration::from_secs(seconds)))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Life, E> {
                parse_life(text).map(Life).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(OfLife)
    }
}

/// Which of two fields is given.
fn one_of<'a>(spec: Option<&'a str>, set: Option<&'a str>) -> Result<Renditions<'a>, CallError> {
    match (spec, set) {
        (Some(spec), None) => Ok(Renditions::Of(spec)),
        (None, Some(set)) => Ok(Renditions::Set(set)),
        (Some(_), Some(_)) => Err(CallError::field("preset_set", "give this or spec, not both")),
        (None, None) => Err(CallError::field("spec", "give this or preset_set")),
    }
}

/// Makes links.
pub(super) fn sign(app: &App, body: SignBody) -> Result<Signed, CallError> {
    let renditions = one_of(body.spec.as_deref(), body.preset_set.as_deref())?;
    let wanted = Wanted {
        reference: &body.reference,
        renditions,
        route: body.route.as_deref(),
        scheme: body.scheme.map(|name| match name {
            SchemeName::Native => Scheme::Native,
            SchemeName::Wagtail => Scheme::Wagtail,
        }),
        life: body.expires.map(|Life(life)| life),
        download: body.download.as_deref(),
        filename: body.filename.as_deref(),
        known: Known::default(),
    };
    let links = app.verifier.links(app.config(), &wanted, SystemTime::now())?;
    let first = links.urls().next().map(str::to_owned);
    Ok(match (renditions, first) {
        (Renditions::Of(_), Some(url)) => Signed::Url(url),
        _ => Signed::Urls(links),
    })
}
