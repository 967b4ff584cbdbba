//! What a token's bearer may see: patterns over image references, and templates that become patterns.

use std::fmt;

use serde_json::{Map, Value};
use thiserror::Error;

/// A pattern over `42` or `source/path`. A star stands for any run of characters, slashes too: `media/2024/*` is all that is
/// below that folder.
///
/// Kept as the pieces between the stars, so that a star that came out of a claim is a character like any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePattern(Vec<String>);

impl ImagePattern {
    /// A pattern from its text.
    pub fn parse(text: &str) -> Self {
        Self(text.split('*').map(str::to_owned).collect())
    }

    /// Whether a reference fits.
    pub fn fits(&self, reference: &str) -> bool {
        let (Some((first, rest)), Some(last)) = (self.0.split_first(), self.0.last()) else { return false };
        if rest.is_empty() {
            return first == reference;
        }
        let Some(between) = reference.strip_prefix(first.as_str()).and_then(|text| text.strip_suffix(last.as_str()))
        else {
            return false;
        };
        let inner = &rest[..rest.len() - 1];
        inner.iter().try_fold(between, |text, piece| text.split_once(piece.as_str()).map(|(_, after)| after)).is_some()
    }
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("*"))
    }
}

/// A pattern with claims in braces: `users/{sub}/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Claim(String),
}

/// Why a template is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// A brace without its other half, or nothing between them.
    #[error("{0:?} has a brace that does not hold a claim's name")]
    Brace(String),
    /// Nothing at all.
    #[error("it is empty")]
    Empty,
}

impl Template {
    /// A template from its text.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.is_empty() {
            return Err(TemplateError::Empty);
        }
        let broken = || TemplateError::Brace(text.to_owned());
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            parts.push(Part::Text(rest[..at].to_owned()));
            let (name, after) =
                rest[at..].strip_prefix('{').and_then(|rest| rest.split_once('}')).ok_or_else(broken)?;
            if name.is_empty() || name.contains('{') {
                return Err(broken());
            }
            parts.push(Part::Claim(name.to_owned()));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    /// The pattern for a token's claims. `None` where a claim is absent, or is no text or number that can be one segment of a
    /// path: a `sub` of `..` or `a/b` must not reach into somebody else's folder.
    pub fn fill(&self, claims: &Map<String, Value>) -> Option<ImagePattern> {
        let mut pieces = vec![String::new()];
        for part in &self.0 {
            match part {
                Part::Text(text) => {
                    let mut texts = text.split('*');
                    pieces.last_mut()?.push_str(texts.next().unwrap_or_default());
                    pieces.extend(texts.map(str::to_owned));
                }
                Part::Claim(name) => pieces.last_mut()?.push_str(&segment(claims.get(name)?)?),
            }
        }
        Some(ImagePattern(pieces))
    }
}

fn segment(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_u64() || number.is_i64() => number.to_string(),
        _ => return None,
    };
    let is_segment = !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '\\']);
    (is_segment && !text.chars().any(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn patterns() {
        for (pattern, reference, fits) in [
            ("42", "42", true),
            ("42", "421", false),
            ("42", "4", false),
            ("*", "", true),
            ("*", "media/a/b.jpg", true),
            ("media/2024/*", "media/2024/a.jpg", true),
            ("media/2024/*", "media/2024/a/b.jpg", true),
            ("media/2024/*", "media/2024", false),
            ("media/2024/*", "media/20245/a.jpg", false),
            ("media/2024/*", "other/media/2024/a.jpg", false),
            ("media/*.jpg", "media/a.png", false),
            ("media/*.jpg", "media/x/a.jpg", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxcyyb", false),
            ("a*b*c", "ab", false),
            ("a**c", "abc", true),
            ("", "", true),
            ("", "42", false),
        ] {
            assert_eq!(ImagePattern::parse(pattern).fits(reference), fits, "{pattern} {reference}");
        }
    }

    #[test]
    fn templates_take_one_segment_from_each_claim() {
        let template = Template::parse("users/{sub}/*").expect("a template");
        let fits = |sub: Value, reference: &str| {
            let claims = json!({ "sub": sub });
            template.fill(claims.as_object().expect("an object")).is_some_and(|pattern| pattern.fits(reference))
        };
        assert!(fits(json!("anna"), "users/anna/a.jpg"));
        assert!(fits(json!(7), "users/7/a.jpg"));
        assert!(!fits(json!("anna"), "users/bert/a.jpg"));
        // A star in a claim is a star, and no pattern.
        assert!(!fits(json!("*"), "users/bert/a.jpg") && fits(json!("*"), "users/*/a.jpg"));
        for odd in [
            json!(".."),
            json!("."),
            json!(""),
            json!("a/b"),
            json!("a\\b"),
            json!("a\nb"),
            json!(null),
            json!(["a"]),
            json!(1.5),
        ] {
            let claims = json!({ "sub": odd });
            assert_eq!(template.fill(claims.as_object().expect("an object")), None, "{odd}");
        }
        assert_eq!(template.fill(&Map::new()), None);
    }

    #[test]
    fn broken_templates() {
        for text in ["{", "}", "a{}b", "a{b", "a}b", "{{a}}", ""] {
            assert!(Template::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(Template::parse("*").expect("no claim").fill(&Map::new()), Some(ImagePattern::parse("*")));
    }

    proptest! {
        /// The same as the plainest matcher there is.
        #[test]
        fn as_a_plain_matcher_would(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            fn plain(pattern: &[u8], text: &[u8]) -> bool {
                match pattern.split_first() {
                    None => text.is_empty(),
                    Some((b'*', rest)) => (0..=text.len()).any(|at| plain(rest, &text[at..])),
                    Some((c, rest)) => text.split_first().is_some_and(|(d, text)| c == d && plain(rest, text)),
                }
            }
            prop_assert_eq!(ImagePattern::parse(&pattern).fits(&text), plain(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
