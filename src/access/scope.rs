//! What the URLs that one signing key signs may ask for.

use std::time::SystemTime;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{keys::KeyError, refusal::Refusal};
use crate::config::SigningKeyConfig;

/// The bounds of a signing key. Without any, it signs for everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Names of the sources whose images it signs for; all where absent.
    pub sources: Option<Vec<String>>,
    /// Whether it signs for presets only.
    pub presets_only: bool,
    /// Width x height of the largest rendition that it signs for.
    pub max_pixels: Option<u64>,
    /// The first moment of its life.
    pub not_before: Option<SystemTime>,
    /// The end of its life.
    pub not_after: Option<SystemTime>,
}

impl Scope {
    /// The scope of a configured key.
    ///
    /// # Errors
    /// [`KeyError::BadTime`] for what is not RFC 3339, [`KeyError::NoLife`] for an end that comes before the beginning.
    pub fn new(config: &SigningKeyConfig) -> Result<Self, KeyError> {
        let time = |key: &'static str, text: &Option<String>| {
            let parsed = text.as_deref().map(|text| OffsetDateTime::parse(text, &Rfc3339).map(SystemTime::from));
            parsed.transpose().map_err(|_| KeyError::BadTime { id: config.id.clone(), key })
        };
        let (not_before, not_after) = (time("not_before", &config.not_before)?, time("not_after", &config.not_after)?);
        if let (Some(begin), Some(end)) = (not_before, not_after)
            && end <= begin
        {
            return Err(KeyError::NoLife(config.id.clone()));
        }
        Ok(Self {
            sources: config.sources.clone(),
            presets_only: config.presets_only,
            max_pixels: config.max_pixels,
            not_before,
            not_after,
        })
    }

    /// Whether the key may be used at all at this moment.
    ///
    /// # Errors
    /// [`Refusal::KeyNotYet`] before its life, [`Refusal::KeyOver`] after it.
    pub fn is_alive(&self, now: SystemTime) -> Result<(), Refusal> {
        if self.not_before.is_some_and(|begin| now < begin) {
            return Err(Refusal::KeyNotYet);
        }
        if self.not_after.is_some_and(|end| now >= end) {
            return Err(Refusal::KeyOver);
        }
        Ok(())
    }

    /// Whether images of a source are in it.
    pub fn has_source(&self, source: &str) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.iter().any(|other| other == source))
    }

    /// Whether a rendition of so many pixels is in it.
    pub fn has_pixels(&self, pixels: u64) -> bool {
        self.max_pixels.is_none_or(|most| pixels <= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(not_before: Option<&str>, not_after: Option<&str>) -> SigningKeyConfig {
        SigningKeyConfig {
            id: "a".into(),
            not_before: not_before.map(str::to_owned),
            not_after: not_after.map(str::to_owned),
            ..SigningKeyConfig::default()
        }
    }

    #[test]
    fn a_life_has_a_beginning_and_an_end() {
        let scope = Scope::new(&key(Some("2026-01-01T00:00:00Z"), Some("2026-01-01T02:00:00+01:00"))).expect("times");
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(scope.is_alive(at(1_767_225_599)), Err(Refusal::KeyNotYet));
        assert_eq!(scope.is_alive(at(1_767_225_600)), Ok(()));
        assert_eq!(scope.is_alive(at(1_767_229_199)), Ok(()));
        assert_eq!(scope.is_alive(at(1_767_229_200)), Err(Refusal::KeyOver));
        assert_eq!(Scope::default().is_alive(at(0)), Ok(()));
    }

    #[test]
    fn bad_times_name_the_key() {
        for (text, expected) in [
            (key(Some("2026-01-01"), None), "signing key \"a\": not_before is not a time in RFC 3339"),
            (key(None, Some("soon")), "signing key \"a\": not_after is not a time in RFC 3339"),
            (
                key(Some("2026-01-02T00:00:00Z"), Some("2026-01-01T00:00:00Z")),
                "signing key \"a\": not_after comes before",
            ),
        ] {
            assert!(Scope::new(&text).unwrap_err().to_string().starts_with(expected));
        }
    }
}
