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

    /// A text file's contents; a final line break is dropped.
    ///
    /// # Errors
    /// When the file cannot be read, or is no text.
    pub fn read(file: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(file)?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(Self(text.strip_suffix('\r').unwrap_or(text).to_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("canary".into())), "[redacted]");
    }
}
