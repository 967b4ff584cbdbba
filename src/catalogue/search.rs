//! Searching a catalogue: for the editors' page, never for a request of the public.

use std::sync::Arc;

use super::Pending;
use crate::model::{ImageId, SourceImage};

/// Images that one search finds at most.
pub const MAX_MATCHES: usize = 50;

/// A search under way.
pub type Searching<'a> = Pending<'a, Option<Vec<Match>>>;

/// An image that a search has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// Its id.
    pub id: ImageId,
    /// Its title, where the catalogue has one.
    pub title: Option<String>,
    /// Where it is.
    pub image: Arc<SourceImage>,
}

/// A pattern for `LIKE ... ESCAPE '!'` that finds a text as it is: nobody's `%` means anything.
pub(super) fn pattern(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for letter in text.chars() {
        if matches!(letter, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_are_letters() {
        assert_eq!(pattern(""), "%%");
        assert_eq!(pattern("a_b%c!d\\e"), "%a!_b!%c!!d\\e%");
    }
}
