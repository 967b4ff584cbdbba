//! `[routes.NAME]`, and what holds for a route: its own words, and those of the sections where it has none.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Deserialize;

use super::{AuthMode, Config, OffloadMode, Secret, values};

/// `[routes.NAME]`: one view with its own keys and manners.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// First part of its URLs, with a slash at both ends.
    pub prefix: String,
    /// Ids of the native keys that it takes; all where absent.
    #[serde(default, deserialize_with = "values::optional_list")]
    pub keys: Option<Vec<String>>,
    /// The Wagtail keys that it takes; those of `[signing]` where absent.
    #[serde(default, deserialize_with = "values::optional_list")]
    pub wagtail_keys: Option<Vec<Secret>>,
    /// As `auth.mode`.
    #[serde(default, deserialize_with = "values::one_of_these")]
    pub auth: Option<AuthMode>,
    /// As `offload.mode`.
    #[serde(default, deserialize_with = "values::one_of_these")]
    pub offload: Option<OffloadMode>,
    /// As `signing.presets_only`.
    pub presets_only: Option<bool>,
    /// As `cache.max_age_seconds`.
    pub max_age_seconds: Option<u64>,
}

/// A route with everything that it inherits.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveRoute {
    /// First part of its URLs, with a slash at both ends.
    pub prefix: String,
    /// Ids of the native keys that it takes; `None` for every one of `[signing]`.
    pub keys: Option<Vec<String>>,
    /// The Wagtail keys that it takes; `None` for every one of `[signing]`, those in files too.
    pub wagtail_keys: Option<Vec<Secret>>,
    /// What is asked for beside the signature.
    pub auth: AuthMode,
    /// How an answer hands a rendition over.
    pub offload: OffloadMode,
    /// Whether only presets are served.
    pub presets_only: bool,
    /// `max-age` of what it serves, in seconds.
    pub max_age_seconds: u64,
}

impl Config {
    /// The routes by name: those of `[routes]`, or the one that the sections make.
    pub fn effective_routes(&self) -> BTreeMap<String, EffectiveRoute> {
        if self.routes.is_empty() {
            let route = RouteConfig { prefix: self.server.url_prefix.clone(), ..RouteConfig::default() };
            return BTreeMap::from([("images".to_owned(), self.effective(&route))]);
        }
        self.routes.iter().map(|(name, route)| (name.clone(), self.effective(route))).collect()
    }

    fn effective(&self, route: &RouteConfig) -> EffectiveRoute {
        EffectiveRoute {
            prefix: route.prefix.clone(),
            keys: route.keys.clone(),
            wagtail_keys: route.wagtail_keys.clone(),
            auth: route.auth.unwrap_or(self.auth.mode),
            offload: route.offload.unwrap_or(self.offload.mode),
            presets_only: route.presets_only.unwrap_or(self.signing.presets_only),
            max_age_seconds: route.max_age_seconds.unwrap_or(self.cache.max_age_seconds),
        }
    }

    /// What tells apart the keys that a route takes: the ids of native keys, and of Wagtail's the secrets or their files.
    pub(super) fn keys_taken<'a>(&'a self, route: &'a EffectiveRoute) -> BTreeSet<TakenKey<'a>> {
        let all = || {
            // What `signing.secret` and `signing.secret_file` make.
            let shorthand = self.signing.secret.is_some() || self.signing.secret_file.is_some();
            let ids = self.signing.keys.iter().map(|key| key.id.as_str());
            ids.chain(shorthand.then_some("default")).collect()
        };
        let native: Vec<&str> = route.keys.as_ref().map_or_else(all, |ids| ids.iter().map(String::as_str).collect());
        let texts = route.wagtail_keys.as_ref().unwrap_or(&self.signing.wagtail_keys);
        let files = if route.wagtail_keys.is_none() { self.signing.wagtail_key_files.as_slice() } else { &[] };
        let wagtail = texts.iter().map(|text| TakenKey::Wagtail(text.expose()));
        let files = files.iter().map(|file| TakenKey::WagtailFile(file));
        native.into_iter().map(TakenKey::Native).chain(wagtail).chain(files).collect()
    }
}

/// A key that a route takes.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TakenKey<'a> {
    Native(&'a str),
    Wagtail(&'a str),
    WagtailFile(&'a Path),
}
