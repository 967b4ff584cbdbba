//! Secrets from the config: readable by code that asks, invisible to everything that prints.

use std::{fmt, io, path::Path};

use serde::Deserialize;

/// A secret text. `Debug` is redacted; there is no `Display` and no `Serialize`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// A secret that is given either way; `None` if neither is.
    ///
    /// # Errors
    /// When both are given, and when the file cannot be read, or is no text: the message names it.
    pub fn given(inline: Option<&Self>, file: Option<&Path>) -> io::Result<Option<Self>> {
        let file = match (inline, file) {
            (inline, None) => return Ok(inline.cloned()),
            (Some(_), Some(file)) => {
                let says = format!("it is given, and so is the file {}: give one of them, not both", file.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, says));
            }
            (None, Some(file)) => file,
        };
        let text = read_secret_file(file)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::Error::other("the file is not UTF-8")))
            .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", file.display())))?;
        Ok(Some(Self(text)))
    }

    /// The secret itself. Callers keep it out of logs, metrics, errors and answers.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The content of a file that holds a secret, without its final line break, which editors add and nobody means.
///
/// # Errors
/// The system's own.
pub fn read_secret_file(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = std::fs::read(file)?;
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_of_giving_it_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        let (file, missing) = (folder.path().join("secret"), folder.path().join("nope"));
        std::fs::write(&file, "canary\n").unwrap();
        let inline = Secret::new("canary".into());
        assert_eq!(Secret::given(None, None).unwrap(), None);
        for (inline, file) in [(Some(&inline), None), (None, Some(file.as_path()))] {
            assert_eq!(Secret::given(inline, file).unwrap().unwrap().expose(), "canary");
        }
        for (inline, file, needle) in [(Some(&inline), &file, "not both"), (None, &missing, "cannot read")] {
            let error = Secret::given(inline, Some(file)).unwrap_err().to_string();
            assert!(error.contains(needle) && error.contains(file.to_str().unwrap()), "{error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("canary".into())), "[redacted]");
    }
}
