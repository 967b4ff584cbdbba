//! `sendimage --version`: ours, and those of the libraries that read and write strangers' files.

use std::{fmt::Write as _, sync::LazyLock};

use crate::render;

/// What the lock file of this build says, for libraries that cannot be asked.
const LOCK: &str = include_str!("../../Cargo.lock");
/// The crates among those whose version matters to whoever reads an advisory.
const CRATES: [&str; 9] = ["turbojpeg-sys", "png", "gif", "image", "tiff", "rav1e", "resvg", "hyper", "libsqlite3-sys"];

/// Our version on the first line, then one library on each.
pub(super) fn long() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let mut text = format!("{}\n", env!("CARGO_PKG_VERSION"));
        let crates = CRATES.iter().filter_map(|name| Some((*name, locked(name)?.to_owned())));
        for (library, version) in render::library_versions().into_iter().chain(crates) {
            let _ = write!(text, "\n{library} {version}"); // writing to a String cannot fail
        }
        text
    });
    &TEXT
}

/// A package's version in the lock file.
fn locked(name: &str) -> Option<&'static str> {
    let entry = LOCK.split("[[package]]").find(|entry| entry.contains(&format!("\nname = \"{name}\"\n")))?;
    entry.split_once("\nversion = \"")?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_library_has_a_version() {
        for name in CRATES {
            assert!(locked(name).is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit())), "{name}");
        }
        for line in long().lines().skip(2) {
            let version = line.split(' ').nth(1).unwrap_or_default();
            assert!(version.split('.').count() >= 2, "{line}");
        }
    }
}
