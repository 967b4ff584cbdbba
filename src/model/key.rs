//! Rendition keys, and the only code that names a rendition file.

use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::{EntityTag, ImageFormat, SourceRef, SourceVersion};

/// First component of every stored path: the layout's version. A later layout lives beside it and never touches it.
pub const LAYOUT: &str = "r1";

/// 2020-01-01T00:00:00Z. Rendition files are dated in the four years that follow, so never in the future.
const MTIME_BASE_SECONDS: u64 = 1_577_836_800;
const MTIME_RANGE_SECONDS: u64 = 4 * 365 * 86_400;

/// Names the directory that holds all renditions of one source image. Purging an image is removing it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceKey(String);

impl SourceKey {
    /// The key of a source image, whatever its version.
    pub fn new(location: &SourceRef) -> Self {
        Self(hex_digest(&[location.source.as_bytes(), location.path.as_str().as_bytes()]))
    }

    /// The directory below the store's root: `r1/3f/3fa0…`. The middle level keeps directories small.
    pub fn directory(&self) -> String {
        format!("{LAYOUT}/{}/{}", &self.0[..2], self.0)
    }
}

/// The name of one rendition: a digest of everything that decides its bytes. Other bytes, other name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RenditionKey {
    source: SourceKey,
    path: String,
    modified: Duration,
    format: ImageFormat,
}

impl RenditionKey {
    /// The key of what `recipe` makes of a version of a source image.
    ///
    /// `recipe` is the canonical text of the resolved plan: crop, size, format, every effective quality and the
    /// renderer's version. Two filter specs that resolve to the same plan share one file.
    pub fn new(location: &SourceRef, version: &SourceVersion, recipe: &str, format: ImageFormat) -> Self {
        let etag = version.etag.map(EntityTag::to_bytes);
        let (bytes, modified) = (version.bytes.to_be_bytes(), version.modified_ns.to_be_bytes());
        let parts = [
            location.source.as_bytes(),
            location.path.as_str().as_bytes(),
            &bytes,
            &modified,
            version.file_hash.as_deref().unwrap_or_default().as_bytes(),
            recipe.as_bytes(),
        ];
        let parts: Vec<&[u8]> = parts.into_iter().chain(etag.as_ref().map(<[u8; 16]>::as_slice)).collect();
        let digest = hex_digest(&parts);
        let source = SourceKey::new(location);
        let path = format!("{}/{digest}.{}", source.directory(), format.extension());
        let seed = u64::from_str_radix(&digest[..12], 16).unwrap_or_default();
        let modified = Duration::from_secs(MTIME_BASE_SECONDS + seed % MTIME_RANGE_SECONDS);
        Self { source, path, modified, format }
    }

    /// The source image's key.
    pub fn source(&self) -> &SourceKey {
        &self.source
    }

    /// The rendition's format.
    pub fn format(&self) -> ImageFormat {
        self.format
    }

    /// The path below the store's root, of `[a-z0-9/._-]` only, so that it needs no escaping in any header.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The modification time that the stored file is given.
    ///
    /// nginx makes `ETag` and `Last-Modified` from it, so it follows from the key: every host, and every re-render,
    /// announces the same validators. It lies in a fixed range of the past.
    pub fn modified(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.modified
    }
}

/// The first 128 bits of a SHA-256 over length-prefixed parts, in hex. The prefixes keep `("ab", "c")` and `("a", "bc")`
/// apart.
fn hex_digest(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    hasher.finalize()[..16].iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MediaPath;

    fn location(source: &str, path: &str) -> SourceRef {
        SourceRef { source: source.into(), path: MediaPath::parse(path).expect("a good path") }
    }

    fn version() -> SourceVersion {
        SourceVersion { bytes: 10, modified_ns: 1, etag: None, file_hash: None }
    }

    #[test]
    fn whatever_changes_the_bytes_changes_the_name() {
        let base = RenditionKey::new(&location("media", "a.jpg"), &version(), "x", ImageFormat::Jpeg);
        let mut versions = vec![version(), version(), version(), version()];
        versions[0].bytes += 1;
        versions[1].modified_ns += 1;
        versions[2].file_hash = Some("abc".into());
        versions[3].etag = Some(EntityTag::of(&[b"abc"]));
        for other in versions {
            assert_ne!(base, RenditionKey::new(&location("media", "a.jpg"), &other, "x", ImageFormat::Jpeg));
        }
        assert_ne!(base, RenditionKey::new(&location("media", "a.jpg"), &version(), "y", ImageFormat::Jpeg));
        assert_ne!(base, RenditionKey::new(&location("medi", "aa.jpg"), &version(), "x", ImageFormat::Jpeg));
    }

    #[test]
    fn paths_need_no_escaping_and_dates_are_past() {
        let key = RenditionKey::new(&location("mé dia", "ü %?#.jpg"), &version(), "x", ImageFormat::Webp);
        let path = key.path();
        assert!(path.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-')), "{path}");
        assert!(path.ends_with(".webp") && path.starts_with(&key.source().directory()));
        assert!(key.modified() < SystemTime::now());
    }
}
