//! Links for a site: what `sendimage sign` prints and `POST /sign` answers.
//!
//! A link is checked before it is signed: what is made here the service itself takes, as long as its image is there.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use thiserror::Error;

use super::{Known, LAST_SECOND, Link, Route, Scheme, Subject, Verifier};
use crate::{
    config::{Config, Span},
    model::{ImageFormat, MediaPath},
    spec::{FilterSpec, Operation, SpecError},
};

/// What links are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// An image: `42`, or `source/path`.
    pub reference: &'a str,
    /// One rendition of it, or several.
    pub renditions: Renditions<'a>,
    /// The route that they are for, where the config has several.
    pub route: Option<&'a str>,
    /// The signature scheme; where none is named native, or Wagtail's on a route without a native key.
    pub scheme: Option<Scheme>,
    /// For how long they work; rounded up to `signing.expiry_window_seconds`.
    pub life: Option<Duration>,
    /// The name of an attachment.
    pub download: Option<&'a str>,
    /// The decorative last segment of an id URL; where none is named, one with the output's extension.
    pub filename: Option<&'a str>,
    /// What the signing key may have bounds for.
    pub known: Known<'a>,
}

/// Which renditions of an image.
#[derive(Clone, Copy, Debug)]
pub enum Renditions<'a> {
    /// That of a filter spec or preset.
    Of(&'a str),
    /// Those of a preset set's entries.
    Set(&'a str),
}

/// Links by spec or preset, in the order that the config has them in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links(Vec<(String, String)>);

impl Links {
    /// The URLs.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(_, url)| url.as_str())
    }
}

impl Serialize for Links {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(spec, url)| (spec, url)))
    }
}

/// Why there are no links.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    /// Not a reference.
    #[error("{0:?} is neither an image id (42) nor a source and a path (media/a/b.jpg)")]
    Reference(String),
    /// The config has no such source.
    #[error("there is no [sources.{0}] in the config")]
    Source(String),
    /// The config has no such preset set.
    #[error("there is no preset set {name:?}; the config has: {}", known.join(", "))]
    PresetSet {
        /// The name asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// Neither a preset nor a filter spec.
    #[error("{text:?} is no preset and not a filter spec: {error}")]
    Spec {
        /// The text.
        text: String,
        /// What is wrong with it.
        error: SpecError,
    },
    /// No URL may hold a control character, however a filter spec is written.
    #[error("a filter spec in a URL holds no control character")]
    SpecCharacter,
    /// The route serves presets only.
    #[error("the route {route:?} serves presets only, and {spec:?} is none")]
    NotAPreset {
        /// The route's name.
        route: String,
        /// The spec.
        spec: String,
    },
    /// No route of this name, or several to choose from.
    #[error("choose one of the routes {}", .0.join(", "))]
    Route(Vec<String>),
    /// The route cannot sign in this scheme.
    #[error("the route {route:?} has no {} key that signs for this now", scheme.name())]
    NoKey {
        /// The route's name.
        route: String,
        /// The scheme.
        scheme: Scheme,
    },
    /// Every key of the route that would sign for this has a bound on the rendition's size.
    #[error("the signing key signs for {most} pixels at most, and this has {pixels}")]
    Pixels {
        /// The largest of the bounds.
        most: u64,
        /// The rendition's size.
        pixels: u64,
    },
    /// Wagtail's scheme signs less.
    #[error("a Wagtail signature covers an id and a spec only: no path, expiry or download")]
    NotInWagtail,
    /// A life that is over before it begins, or one beyond [`LAST_SECOND`].
    #[error("a link works for a second at least, and not beyond the year 9999")]
    Life,
    /// A name that no header can carry.
    #[error("the name of a download is not empty and holds no control character")]
    Download,
    /// A name that the service would refuse.
    #[error("a decorative file name is no dot segment and holds neither slashes nor control characters")]
    Filename,
}

impl LinkError {
    /// The field of [`Wanted`] that is at fault, as `POST /sign` calls it.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Reference(_) | Self::Source(_) => "ref",
            Self::PresetSet { .. } => "preset_set",
            Self::Spec { .. } | Self::SpecCharacter | Self::NotAPreset { .. } | Self::Pixels { .. } => "spec",
            Self::Route(_) => "route",
            Self::NoKey { .. } | Self::NotInWagtail => "scheme",
            Self::Life => "expires",
            Self::Download => "download",
            Self::Filename => "filename",
        }
    }
}

impl Subject<'static> {
    /// The subject of a reference: `42`, or `source/path`.
    ///
    /// # Errors
    /// [`LinkError::Reference`] for what no URL can be about.
    pub fn of_reference(reference: &str) -> Result<Self, LinkError> {
        if !reference.is_empty() && reference.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Subject::Id(reference.to_owned().into()));
        }
        match reference.split_once('/') {
            Some((source, path)) if MediaPath::parse(path).is_ok() && !source.is_empty() => {
                Ok(Subject::Path { source: source.to_owned().into(), path: path.to_owned().into() })
            }
            _ => Err(LinkError::Reference(reference.to_owned())),
        }
    }
}

impl Verifier {
    /// The route that somebody means: the named one, else the only one, else the one called `images`.
    ///
    /// # Errors
    /// [`LinkError::Route`] when there is none.
    pub fn route(&self, name: Option<&str>) -> Result<&Route, LinkError> {
        let routes = self.table().routes();
        let found = match (name, routes) {
            (None, [only]) => Some(only),
            (name, routes) => routes.iter().find(|route| *route.name == *name.unwrap_or("images")),
        };
        found.ok_or_else(|| LinkError::Route(routes.iter().map(|route| route.name.to_string()).collect()))
    }

    /// Makes links.
    ///
    /// # Errors
    /// What nobody could be served by.
    pub fn links(&self, config: &Config, wanted: &Wanted<'_>, now: SystemTime) -> Result<Links, LinkError> {
        let route = self.route(wanted.route)?;
        let subject = Subject::of_reference(wanted.reference)?;
        if let Subject::Path { source, .. } = &subject
            && !config.sources.contains_key(source.as_ref())
        {
            return Err(LinkError::Source(source.to_string()));
        }
        let window = config.signing.expiry_window_seconds;
        let expires = wanted.life.map(|life| end_of(now, life, window).ok_or(LinkError::Life)).transpose()?;
        let is_plain = |name: &str| !name.chars().any(char::is_control);
        if wanted.download.is_some_and(|name| name.is_empty() || !is_plain(name)) {
            return Err(LinkError::Download);
        }
        if wanted.filename.is_some_and(|name| !is_plain(name) || name.contains('/') || matches!(name, "." | "..")) {
            return Err(LinkError::Filename);
        }
        let link = |spec: &String| {
            check_spec(config, route, spec)?;
            let filename = wanted.filename.map_or_else(|| default_name(config, &subject, spec), str::to_owned);
            let scheme = wanted.scheme.unwrap_or(match route.native_keys.is_empty() {
                true => Scheme::Wagtail,
                false => Scheme::Native,
            });
            let (download, known) = (wanted.download, wanted.known);
            let link = Link { subject: &subject, filter_spec: spec, filename: &filename, expires, download, known };
            let path = self.sign(route, scheme, &link, now).ok_or_else(|| {
                let no_key = LinkError::NoKey { route: route.name.to_string(), scheme };
                match (scheme, known.pixels) {
                    (Scheme::Wagtail, _) if !route.wagtail_keys.is_empty() => LinkError::NotInWagtail,
                    (Scheme::Wagtail, _) | (Scheme::Native, None) => no_key,
                    (Scheme::Native, Some(pixels)) => match self.most_pixels(route, &link, now) {
                        Some(most) => LinkError::Pixels { most, pixels },
                        None => no_key,
                    },
                }
            })?;
            Ok((spec.clone(), format!("{}{path}", config.server.public_url)))
        };
        Ok(Links(wanted.renditions.specs(config)?.iter().map(link).collect::<Result<_, _>>()?))
    }
}

impl Renditions<'_> {
    /// Specs and names of presets.
    ///
    /// # Errors
    /// [`LinkError::PresetSet`].
    pub fn specs(&self, config: &Config) -> Result<Vec<String>, LinkError> {
        match self {
            Self::Of(spec) => Ok(vec![(*spec).to_owned()]),
            Self::Set(name) => config.preset_sets.get(*name).cloned().ok_or_else(|| LinkError::PresetSet {
                name: (*name).to_owned(),
                known: config.preset_sets.keys().cloned().collect(),
            }),
        }
    }
}

fn check_spec(config: &Config, route: &Route, text: &str) -> Result<(), LinkError> {
    if config.presets.contains_key(text) {
        return Ok(());
    }
    FilterSpec::parse(text).map_err(|error| LinkError::Spec { text: text.to_owned(), error })?;
    if text.chars().any(char::is_control) {
        return Err(LinkError::SpecCharacter);
    }
    match route.presets_only {
        true => Err(LinkError::NotAPreset { route: route.name.to_string(), spec: text.to_owned() }),
        false => Ok(()),
    }
}

/// The end of a link's life, in Unix seconds, rounded up so that links made within one window are equal.
fn end_of(now: SystemTime, life: Duration, window_seconds: u64) -> Option<u64> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let end = now.checked_add(life).filter(|_| !life.is_zero())?.as_secs();
    // An hour's window may be the last of its time; nobody needs a window of years.
    end.checked_next_multiple_of(window_seconds.max(1)).filter(|end| *end <= LAST_SECOND)
}

/// A name with the output's extension, where the spec says what that is.
fn default_name(config: &Config, subject: &Subject<'_>, spec: &str) -> String {
    let spec = config.presets.get(spec).map_or(spec, String::as_str);
    let asked = FilterSpec::parse(spec).ok().and_then(|spec| {
        spec.operations().iter().rev().find_map(|operation| match operation {
            Operation::Format(output) => Some(output.format),
            _ => None,
        })
    });
    let extension = asked.unwrap_or(ImageFormat::Jpeg).extension();
    match subject {
        Subject::Id(id) => format!("{id}.{extension}"),
        // The path ends such a URL.
        Subject::Path { .. } => String::new(),
    }
}

/// A time as people write it: `90`, `90s`, `15m`, `1h`, `7d`.
///
/// # Errors
/// A sentence about what is no time.
pub fn parse_life(text: &str) -> Result<Duration, String> {
    let span: Result<Span, _> = text.parse();
    span.map(|Span(seconds)| Duration::from_secs(seconds))
        .map_err(|_| "a time is a number and a unit: 90s, 15m, 1h, 7d".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, SigningConfig, SigningKeyConfig, SourceConfig};

    fn config() -> Config {
        let mut config = Config::default();
        config.signing.secret = Some(Secret::new("0123456789abcdef".into()));
        config.signing.wagtail_keys = vec![Secret::new("site".into())];
        let media = SourceConfig::folder("/media".into());
        config.sources.insert("media".into(), media);
        config.presets.insert("hero".into(), "fill-1600x600|format-webp".into());
        config.preset_sets.insert("article".into(), vec!["width-800".into(), "hero".into()]);
        config
    }

    fn wanted(reference: &'static str) -> Wanted<'static> {
        let renditions = Renditions::Of("width-800");
        let known = Known::default();
        Wanted { reference, renditions, route: None, scheme: None, life: None, download: None, filename: None, known }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("90", Some(90)),
            ("90s", Some(90)),
            ("15m", Some(900)),
            ("1h", Some(3600)),
            ("7d", Some(604_800)),
            ("h", None),
            ("1w", None),
            ("-1s", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(parse_life(text).ok(), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn ends_are_rounded_up_to_the_window() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_500);
        let end = |life, window| end_of(now, Duration::from_secs(life), window);
        for (life, window, expected) in [
            (60, 3600, Some(3600)),
            (2600, 3600, Some(3600)),
            (2601, 3600, Some(7200)),
            (60, 1, Some(1060)),
            (60, 0, Some(1060)),
            (0, 3600, None),
            (LAST_SECOND, 1, None),
            (u64::MAX, 3600, None),
            (60, u64::MAX, None),
        ] {
            assert_eq!(end(life, window), expected, "{life} {window}");
        }
    }

    #[test]
    fn a_set_has_its_own_order() {
        let config = config();
        let set = Wanted { renditions: Renditions::Set("article"), ..wanted("42") };
        let links = Verifier::new(&config).unwrap().links(&config, &set, SystemTime::now()).unwrap();
        let text = serde_json::to_string(&links).unwrap();
        assert!(text.find("\"width-800\"").unwrap() < text.find("\"hero\"").unwrap(), "{text}");
        let urls: Vec<&str> = links.urls().collect();
        assert!(urls[0].ends_with("/42/width-800/42.jpg") && urls[1].ends_with("/42/hero/42.webp"), "{urls:?}");
    }

    /// The first key that signs for what is known of the image, whatever the others are bound to.
    #[test]
    fn a_key_that_signs_for_the_image_is_found() {
        let key = |id: &str, sources: Option<Vec<String>>, max_pixels| SigningKeyConfig {
            id: id.into(),
            secret: Some(Secret::new(format!("{id}-{id}-{id}-{id}"))),
            sources,
            max_pixels,
            ..SigningKeyConfig::default()
        };
        let mut config = config();
        config.signing = SigningConfig {
            keys: vec![
                key("other", Some(vec!["other".into()]), None),
                key("small", None, Some(100)),
                key("large", None, Some(1_000)),
            ],
            ..SigningConfig::default()
        };
        let verifier = Verifier::new(&config).unwrap();
        let now = SystemTime::now();
        let by = |source: Option<&'static str>, pixels| {
            let links = verifier.links(&config, &Wanted { known: Known { source, pixels }, ..wanted("42") }, now)?;
            let url = links.urls().next().unwrap().strip_prefix(&config.server.public_url).unwrap().to_owned();
            let (route, url) = verifier.table().resolve_target(&url).unwrap();
            Ok(verifier.verify_signature(route, &url, now).unwrap().key_id().to_string())
        };
        assert_eq!(by(None, None), Ok("other".into()), "nothing is known: the first");
        assert_eq!(by(Some("other"), Some(2_000)), Ok("other".into()));
        assert_eq!(by(Some("media"), None), Ok("small".into()));
        assert_eq!(by(Some("media"), Some(100)), Ok("small".into()));
        assert_eq!(by(Some("media"), Some(101)), Ok("large".into()));
        assert_eq!(by(Some("media"), Some(1_001)), Err(LinkError::Pixels { most: 1_000, pixels: 1_001 }));
    }

    #[test]
    fn what_nobody_could_be_served_by_is_not_signed() {
        let config = config();
        let verifier = Verifier::new(&config).unwrap();
        let day = Some(Duration::from_secs(86_400));
        for (field, wanted) in [
            ("ref", wanted("")),
            ("ref", wanted("media")),
            ("ref", wanted("media/../a.jpg")),
            ("ref", wanted("elsewhere/a.jpg")),
            ("preset_set", Wanted { renditions: Renditions::Set("nope"), ..wanted("42") }),
            ("spec", Wanted { renditions: Renditions::Of("widht-8"), ..wanted("42") }),
            ("spec", Wanted { renditions: Renditions::Of("width-\t8"), ..wanted("42") }),
            ("route", Wanted { route: Some("nope"), ..wanted("42") }),
            ("scheme", Wanted { scheme: Some(Scheme::Wagtail), ..wanted("media/a.jpg") }),
            ("scheme", Wanted { scheme: Some(Scheme::Wagtail), life: day, ..wanted("42") }),
            ("expires", Wanted { life: Some(Duration::ZERO), ..wanted("42") }),
            ("expires", Wanted { life: Some(Duration::MAX), ..wanted("42") }),
            ("download", Wanted { download: Some(""), ..wanted("42") }),
            ("download", Wanted { download: Some("a\nb"), ..wanted("42") }),
            ("filename", Wanted { filename: Some("a/b"), ..wanted("42") }),
            ("filename", Wanted { filename: Some(".."), ..wanted("42") }),
        ] {
            let error = verifier.links(&config, &wanted, SystemTime::now()).unwrap_err();
            assert_eq!(error.field(), field, "{wanted:?}: {error}");
        }
        assert!(verifier.links(&config, &Wanted { filename: Some(""), ..wanted("42") }, SystemTime::now()).is_ok());
    }
}
