//! Routes: the views that a site mounts side by side, each with its own prefix and keys.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    keys::{self, KeyError, KeyRing, NativeKey, WagtailKey},
    url::{SignedUrl, UrlError},
};
use crate::config::{AuthMode, Config};

/// One view.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name in the config.
    pub name: Arc<str>,
    /// First part of its URLs.
    pub prefix: String,
    /// Native keys it takes; the first one signs.
    pub native_keys: Vec<NativeKey>,
    /// Wagtail keys it takes; the first one signs.
    pub wagtail_keys: Vec<WagtailKey>,
    /// Whether only presets are served.
    pub presets_only: bool,
    /// `max-age` of what it serves, in seconds.
    pub max_age_seconds: u64,
    /// What is asked for beside the signature.
    pub auth: AuthMode,
}

/// All routes and the presets, found by a raw path.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// Longest prefix first, so that `/images/private/` is found before `/images/`.
    routes: Vec<Route>,
    presets: BTreeMap<String, String>,
}

impl RouteTable {
    /// Resolves the config's routes and their keys.
    ///
    /// # Errors
    /// The first key that is not usable, or a route without any.
    pub fn new(config: &Config) -> Result<Self, KeyError> {
        let ring = KeyRing::new(&config.signing)?;
        let mut routes = Vec::new();
        for (name, section) in config.effective_routes() {
            let native_keys = match &section.keys {
                None => ring.native.clone(),
                Some(ids) => ids
                    .iter()
                    .map(|id| {
                        let found = ring.native.iter().find(|key| **key.id() == **id).cloned();
                        found.ok_or_else(|| KeyError::UnknownId { route: name.clone(), id: id.clone() })
                    })
                    .collect::<Result<_, _>>()?,
            };
            let wagtail_keys = match &section.wagtail_keys {
                None => ring.wagtail.clone(),
                Some(texts) => keys::wagtail_keys_of_route(&name, texts)?,
            };
            if native_keys.is_empty() && wagtail_keys.is_empty() {
                let section = if config.routes.is_empty() { "signing".to_owned() } else { format!("routes.{name}") };
                return Err(KeyError::None(section));
            }
            routes.push(Route {
                name: name.into(),
                prefix: section.prefix,
                native_keys,
                wagtail_keys,
                presets_only: section.presets_only,
                max_age_seconds: section.max_age_seconds,
                auth: section.auth,
            });
        }
        routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        Ok(Self { routes, presets: config.presets.clone() })
    }

    /// The route of a raw path, and the parts of the URL. The prefix is matched byte by byte as received.
    ///
    /// # Errors
    /// [`UrlError::NoRoute`], or what is malformed.
    pub fn resolve<'a>(&self, path: &'a str, query: Option<&'a str>) -> Result<(&Route, SignedUrl<'a>), UrlError> {
        let found = self.routes.iter().find_map(|route| Some((route, path.strip_prefix(route.prefix.as_str())?)));
        let resolved = match found {
            Some((route, rest)) => SignedUrl::split(rest, query).map(|url| (route, url)),
            None => Err(UrlError::NoRoute),
        };
        // What splits is well-formed in every segment, and so are the routes' prefixes. Only what does not is looked at
        // again: a malformed path is that on every route and on none.
        resolved.or_else(|error| SignedUrl::check_path(path).and(Err(error)))
    }

    /// As [`Self::resolve`], for a target as a request line has it: a path, and a query where there is a `?`.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn resolve_target<'a>(&self, target: &'a str) -> Result<(&Route, SignedUrl<'a>), UrlError> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        self.resolve(path, query)
    }

    /// All routes, longest prefix first.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The ids of all keys of all routes, each once.
    pub fn key_ids(&self) -> impl Iterator<Item = &Arc<str>> {
        let native = self.routes.iter().flat_map(|route| route.native_keys.iter().map(NativeKey::id));
        let wagtail = self.routes.iter().flat_map(|route| route.wagtail_keys.iter().map(WagtailKey::id));
        native.chain(wagtail).collect::<std::collections::BTreeSet<_>>().into_iter()
    }

    /// Gives what follows from each route's signing key, in an order that every gate with this config has: the beginning of another
    /// key.
    pub(super) fn feed_keys(&self, label: &[u8], mut take: impl FnMut(&[u8])) {
        for route in &self.routes {
            match (route.native_keys.first(), route.wagtail_keys.first()) {
                (Some(native), _) => take(&native.mac.derive(label)),
                (None, Some(wagtail)) => take(&wagtail.mac.derive(label)),
                (None, None) => {}
            }
        }
    }

    /// The filter spec that a preset stands for.
    pub fn preset(&self, name: &str) -> Option<&str> {
        self.presets.get(name).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RouteConfig, Secret};
    use proptest::prelude::*;

    fn table() -> RouteTable {
        let mut config = Config::default();
        config.signing.secret = Some(Secret::new("0123456789abcdef".into()));
        RouteTable::new(&config).expect("a table")
    }

    #[test]
    fn the_keys_of_routes_are_told_apart() {
        let mut config = Config::default();
        config.signing.wagtail_keys = vec![Secret::new("site".into())];
        let own = |prefix: &str, texts: &[&str]| RouteConfig {
            prefix: prefix.into(),
            wagtail_keys: Some(texts.iter().map(|text| Secret::new((*text).into())).collect()),
            ..RouteConfig::default()
        };
        config.routes.insert("a".into(), own("/a/", &["one", "two"]));
        config.routes.insert("b".into(), own("/b/", &["three"]));
        config.routes.insert("c".into(), RouteConfig { prefix: "/c/".into(), ..RouteConfig::default() });
        let ids: Vec<String> = RouteTable::new(&config).unwrap().key_ids().map(ToString::to_string).collect();
        assert_eq!(ids, ["a-wagtail-1", "a-wagtail-2", "b-wagtail-1", "wagtail-1"]);
        config.routes.insert("b".into(), own("/b/", &["three", ""]));
        let error = RouteTable::new(&config).unwrap_err().to_string();
        assert_eq!(error, "routes.b.wagtail_keys: b-wagtail-2 is empty");
        config.routes.insert("b".into(), own("/b/", &[]));
        assert!(RouteTable::new(&config).unwrap_err().to_string().starts_with("routes.b: no key is set"));
        let error = RouteTable::new(&Config::default()).unwrap_err().to_string();
        assert!(error.starts_with("signing: no key is set"), "{error}");
    }

    proptest! {
        /// Malformed paths are told so before anything else, though only those that do not split are looked at as a whole.
        #[test]
        fn what_resolves_is_well_formed_as_a_whole(
            prefix in prop_oneof!["/images/", "/", "/images", ""],
            rest in "([a-z0-9/.]|%7C|%2[Ff]|%2e|%00|%|é){0,24}",
        ) {
            let path = format!("{prefix}{rest}");
            match (SignedUrl::check_path(&path), table().resolve(&path, None)) {
                (Err(malformed), found) => prop_assert_eq!(found.err(), Some(malformed)),
                (Ok(()), Err(error)) => prop_assert!(!matches!(error, UrlError::DotSegment | UrlError::BadEscape)),
                (Ok(()), Ok(_)) => {}
            }
        }
    }
}
