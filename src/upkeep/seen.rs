//! Which originals are new or changed since they were last looked at, where nobody tells: everything is walked again.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher as _},
};

use crate::{catalogue, source};

/// What was met on the last walk: sixteen bytes an original.
#[derive(Debug, Default)]
pub struct Seen {
    last: HashMap<u64, u64>,
    now: HashMap<u64, u64>,
}

impl Seen {
    /// Notes a row: whether it is new, or says something else than when it was met before.
    pub fn row(&mut self, (id, image): &catalogue::Listed) -> bool {
        // A focal point's numbers have no hash of their own.
        self.note(id.0, digest(&format!("{image:?}")))
    }

    /// Notes a file, as [`Self::row`].
    pub fn file(&mut self, source::Listed { path, stat }: &source::Listed) -> bool {
        self.note(digest(path), digest(stat))
    }

    fn note(&mut self, which: u64, what: u64) -> bool {
        self.now.insert(which, what);
        self.last.get(&which) != Some(&what)
    }

    /// A walk has come to its end: what it did not meet is gone, and new if it comes back.
    pub fn end_of_walk(&mut self) {
        self.last = std::mem::take(&mut self.now);
    }

    /// A walk broke off: what it did not meet may still be there.
    pub fn broken_off(&mut self) {
        self.last.extend(self.now.drain());
    }
}

fn digest(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::MediaPath, source::Stat};

    #[test]
    fn only_what_is_new_or_changed_is_said() {
        let file = |path: &str, bytes| source::Listed {
            path: MediaPath::parse(path).expect("a path"),
            stat: Stat { bytes, modified_ns: 1, etag: None },
        };
        let mut seen = Seen::default();
        let mut walk = |files: &[(&str, u64)], whole: bool| {
            let new = files.iter().map(|(path, bytes)| seen.file(&file(path, *bytes))).collect::<Vec<_>>();
            if whole {
                seen.end_of_walk()
            } else {
                seen.broken_off()
            }
            new
        };
        assert_eq!(walk(&[("a.jpg", 1), ("b.jpg", 1)], true), [true, true]);
        assert_eq!(walk(&[("a.jpg", 1), ("b.jpg", 2)], true), [false, true]);
        // What a walk that broke off has not met is no news when it is met again.
        assert_eq!(walk(&[("a.jpg", 1)], false), [false]);
        assert_eq!(walk(&[("b.jpg", 2)], true), [false]);
        assert_eq!(walk(&[("a.jpg", 1), ("b.jpg", 2)], true), [true, false]);
    }
}
