//! Defaults, then the file, then the environment.

use std::{
    collections::HashMap,
    env,
    path::{Path, PathBuf},
};

use config::{Environment, File, FileFormat};
use thiserror::Error;

use super::Config;

/// Files looked for when none is named, in this order.
const USUAL_FILES: [&str; 2] = ["sendimage.toml", "/etc/sendimage/sendimage.toml"];

/// A config and the file it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The file, unless there was none.
    pub file: Option<PathBuf>,
}

/// Why a config is not usable. Messages name the file and the key, never a secret.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The named file cannot be read.
    #[error("cannot read {}: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// No TOML, an unknown key, or a value of the wrong type.
    #[error("{origin}: {message}")]
    Malformed {
        /// The file, or the environment.
        origin: String,
        /// Which key, and what about it.
        message: String,
    },
    /// Each value is fine alone but the whole is not.
    #[error("{origin}: {key}: {message}")]
    Unsuitable {
        /// The file, or the environment.
        origin: String,
        /// The key, dotted.
        key: String,
        /// What is wrong with it.
        message: String,
    },
}

/// Loads the config: from `file`, else from the first usual file that exists, else from defaults and environment alone.
///
/// # Errors
/// See [`ConfigError`].
pub fn load(file: Option<&Path>) -> Result<Loaded, ConfigError> {
    let file = match file {
        Some(named) => Some(named.to_owned()),
        None => USUAL_FILES.iter().map(PathBuf::from).find(|usual| usual.exists()),
    };
    let text = match &file {
        Some(file) => {
            std::fs::read_to_string(file).map_err(|error| ConfigError::Unreadable { file: file.clone(), error })?
        }
        None => String::new(),
    };
    // Absolute, for nginx and the workers have other ideas of where a relative path begins.
    let absolute = file.as_deref().and_then(|file| std::path::absolute(file).ok());
    let base = absolute.as_deref().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
    let origin = file.as_ref().map_or("the environment".into(), |file| file.display().to_string());
    let mut config = parse(&text, environment(env::vars_os()), &origin)?;
    config.resolve_paths(&base);
    config.check(&origin)?;
    Ok(Loaded { config, file })
}

/// `SENDIMAGE_SECTION__KEY` only: without `__` a name is not ours, for platforms inject variables such as
/// `SENDIMAGE_SERVICE_HOST`.
fn environment(variables: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>) -> HashMap<String, String> {
    variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("SENDIMAGE_") && name.contains("__"))
        .collect()
}

pub(super) fn parse(text: &str, environment: HashMap<String, String>, origin: &str) -> Result<Config, ConfigError> {
    let malformed = |message: String| ConfigError::Malformed { origin: origin.to_owned(), message };
    // Values stay text until a key's own type reads them: a secret of digits is still a secret.
    let variables = Environment::with_prefix("SENDIMAGE")
        .prefix_separator("_")
        .separator("__")
        .source(Some(environment.into_iter().collect()));
    let merged = config::Config::builder()
        .add_source(File::from_str(text, FileFormat::Toml))
        .add_source(variables)
        .build()
        .map_err(|error| malformed(without_excerpt(&error)))?;
    merged.try_deserialize().map_err(|error| malformed(error.to_string()))
}

/// A TOML error's position and message without the line it quotes, which may hold a secret.
fn without_excerpt(error: &config::ConfigError) -> String {
    error
        .to_string()
        .lines()
        .filter(|line| !line.contains(" | ") && !line.trim().is_empty() && !line.trim_end().ends_with('|'))
        .collect::<Vec<_>>()
        .join(" ")
}

impl Config {
    /// Makes relative paths relative to the config file's folder.
    fn resolve_paths(&mut self, base: &Path) {
        let resolve = |path: &mut PathBuf| {
            if path.is_relative() && !path.as_os_str().is_empty() {
                *path = base.join(&*path);
            }
        };
        self.sources.values_mut().for_each(|source| resolve(&mut source.root));
        let buckets = self.sources.values_mut().filter_map(|source| source.s3.as_mut()).chain(self.store.s3.as_mut());
        buckets.filter_map(|bucket| bucket.secret_access_key_file.as_mut()).for_each(resolve);
        resolve(&mut self.store.root);
        self.store.index.as_mut().map(resolve);
        resolve(&mut self.originals.root);
        self.coordination.url_file.as_mut().map(resolve);
        self.watermarks.values_mut().for_each(|watermark| resolve(&mut watermark.file));
        self.catalogue.file.as_mut().map(resolve);
        self.catalogue.url_file.as_mut().map(resolve);
        self.signing.secret_file.as_mut().map(resolve);
        self.ops.token_file.as_mut().map(resolve);
        self.page.password_file.as_mut().map(resolve);
        self.signing.wagtail_key_files.iter_mut().for_each(resolve);
        self.signing.keys.iter_mut().filter_map(|key| key.secret_file.as_mut()).for_each(resolve);
        let jwt = &mut self.auth.jwt;
        jwt.jwks_file.as_mut().map(resolve);
        for key in &mut jwt.keys {
            [&mut key.secret_file, &mut key.public_key_file].into_iter().flatten().for_each(resolve);
        }
    }

    fn check(&self, origin: &str) -> Result<(), ConfigError> {
        self.problems()
            .into_iter()
            .next()
            .map_or(Ok(()), |(key, message)| Err(ConfigError::Unsuitable { origin: origin.to_owned(), key, message }))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::config) fn parsed(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let config = parse(text, variables, "sendimage.toml").map_err(|error| error.to_string())?;
        config.check("sendimage.toml").map_err(|error| error.to_string())?;
        Ok(config)
    }

    pub(in crate::config) const ROOT: &str = "[store]\nroot = \"/srv/r\"\n";

    #[test]
    fn defaults_alone_lack_only_the_store() {
        assert_eq!(
            parsed("", &[]).unwrap_err(),
            "sendimage.toml: store.root: is not set: the folder that renditions are kept in"
        );
        assert!(parsed(ROOT, &[]).is_ok());
    }

    #[test]
    fn unknown_keys_and_wrong_types_name_file_and_key() {
        for (text, needles) in [
            ("[render]\nworkerz = 3\n", &["sendimage.toml", "workerz"][..]),
            ("[rendr]\nworkers = 3\n", &["rendr"]),
            ("[render]\nworkers = \"many\"\n", &["render.workers"]),
            ("[render]\njpeg_quality = 101\n", &["render.jpeg_quality"]),
            ("[render]\nmemory_budget = \"12 parsecs\"\n", &["render.memory_budget"]),
            ("[server]\nlisten = \"everywhere\"\n", &["server.listen"]),
            ("[signing]\nwagtail_key_files = 3\n", &["signing.wagtail_key_files", "not a list"]),
            ("[store]\nmin_free = []", &["store.min_free", "neither a whole number nor a text"]),
            ("[auth]\nmode = \"jwt\"\n", &["auth.jwt"]),
            ("[auth]\nmode = \"oauth\"\n", &["auth.mode", "`forward`"]),
            ("[auth.jwt]\nkeys = [{ kid = \"a\", algorithm = \"none\" }]\n", &["auth.jwt.keys", "`ES256`"]),
            ("[offload]\nmode = \"teleport\"\n", &["offload.mode", "teleport", "`accel`", "`auth_request`"]),
            ("[routes.a]\nprefix = \"/a/\"\noffload = \"teleport\"\n", &["routes.a", "`redirect`"]),
            ("[headers]\naccess_control_allow_origin = \"a\\r\\nb: c\"\n", &["headers.access_control_allow_origin"]),
            ("[signing]\nkeys = [{ id = \"a\", secrt = \"x\" }]\n", &["signing.keys"]),
            ("[store\nroot", &["sendimage.toml"]),
        ] {
            let error = parsed(&format!("{text}{}", if text.ends_with('\n') { ROOT } else { "" }), &[]).unwrap_err();
            for needle in needles {
                assert!(error.contains(needle), "{needle:?} is not in {error:?}");
            }
        }
    }

    #[test]
    fn errors_never_show_a_secret() {
        for text in [
            "[signing]\nsecret = [\"canary-canary-canary\"]\n",
            "[signing]\nwagtail_keys = [[\"canary-canary-canary\"]]\n",
            "[signing]\nkeys = [{ id = [\"canary-canary-canary\"] }]\n",
            "[signing]\nsecret = \"canary-canary-canary\n",
            "[signing]\nkeys = \"canary-canary-canary\"\n",
            "[signing]\nwagtail_keys = { a = \"canary-canary-canary\" }\n",
            "[routes.a]\nprefix = \"/a/\"\nwagtail_keys = \"canary-canary-canary\"\n",
            "[routes.a]\nprefix = \"/a/\"\nwagtail_keys = [[\"canary-canary-canary\"]]\n",
            "[routes.a]\nprefix = \"/a/\"\nkeys = \"canary-canary-canary\"\n",
            "[preset_sets]\na = \"canary-canary-canary\"\n",
        ] {
            let error = parsed(text, &[]).unwrap_err();
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn lists_of_every_table_come_from_the_environment() {
        let config = parsed(
            &format!("{ROOT}[routes.a]\nprefix = \"/a/\"\n"),
            &[
                ("SENDIMAGE_ROUTES__A__WAGTAIL_KEYS", "[\"one\", \"two\"]"),
                ("SENDIMAGE_ROUTES__A__KEYS", "[]"),
                ("SENDIMAGE_PRESET_SETS__ARTICLE", "[\"width-1\"]"),
            ],
        )
        .unwrap();
        let route = &config.routes["a"];
        assert_eq!(route.wagtail_keys.as_ref().unwrap()[1].expose(), "two");
        assert_eq!(
            (route.keys.as_deref(), &config.preset_sets["article"][..]),
            (Some(&[][..]), &["width-1".into()][..])
        );
        let bad = [("SENDIMAGE_ROUTES__A__WAGTAIL_KEYS", "canary")];
        let error = parsed(&format!("{ROOT}[routes.a]\nprefix = \"/a/\"\n"), &bad).unwrap_err();
        assert!(error.contains("JSON array") && !error.contains("canary"), "{error}");
    }

    #[test]
    fn the_environment_wins_and_is_read_as_the_keys_type() {
        let config = parsed(
            "[render]\nworkers = 3\n[store]\nroot = \"/srv/r\"\n",
            &[
                ("SENDIMAGE_RENDER__WORKERS", "7"),
                ("SENDIMAGE_RENDER__MEMORY_BUDGET", "1GiB"),
                ("SENDIMAGE_RENDER__JPEG_PROGRESSIVE", "true"),
                ("SENDIMAGE_SIGNING__SECRET", "0123456789012345"),
                ("SENDIMAGE_SIGNING__WAGTAIL_KEYS", "[\"a\", \"b\"]"),
                ("SENDIMAGE_SOURCES__MEDIA__KIND", "fs"),
                ("SENDIMAGE_SOURCES__MEDIA__ROOT", "/srv/media"),
            ],
        )
        .unwrap();
        assert_eq!(config.render.workers, 7);
        assert_eq!(config.render.memory_budget, crate::config::Bytes(1 << 30));
        assert!(config.render.jpeg_progressive);
        assert_eq!(config.signing.secret.unwrap().expose(), "0123456789012345");
        assert_eq!(config.signing.wagtail_keys.len(), 2);
        assert_eq!(config.sources["media"].root, Path::new("/srv/media"));
    }

    #[test]
    fn foreign_variables_are_left_alone() {
        let names = |list: &[&str]| environment(list.iter().map(|name| ((*name).into(), "x".into()))).len();
        assert_eq!(names(&["SENDIMAGE_SERVICE_HOST", "SENDIMAGE_PORT", "PATH"]), 0);
        assert_eq!(names(&["SENDIMAGE_STORE__ROOT"]), 1);
    }
}
