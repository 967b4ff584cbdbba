//! Rendition keys, and the only code that names a rendition file.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use super::{EntityTag, ImageFormat, PartsDigest, SourceRef, SourceVersion, hex};

/// First component of every stored path: the layout's version. A later layout lives beside it and never touches it.
pub const LAYOUT: &str = "r1";

/// Hex digits of a digest in a name.
const DIGEST_DIGITS: usize = 32;
/// Hex digits of a [`Generation`].
const GENERATION_DIGITS: usize = 12;

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

    /// The key whose directory has this name; `None` if no key's can.
    pub fn of_directory_name(name: &str) -> Option<Self> {
        is_hex(name, DIGEST_DIGITS).then(|| Self(name.to_owned()))
    }
}

/// Which of the files that a source image has been a rendition is of: a digest of length, date and a remote file's validators,
/// and the first part of the rendition's name.
///
/// It is how `gc` tells from a name what nobody will ask for again. The catalogue's content hash is no part of it, though it is
/// part of the key: the same file is asked for by its id, with a hash, and by its path, without one, and those live side by
/// side. 48 bits: two generations of one image that agree by chance cost some bytes, not a wrong picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(u64);

impl Generation {
    /// The generation of a file with this length, date and validators.
    pub fn new(bytes: u64, modified_ns: i128, etag: Option<EntityTag>) -> Self {
        let etag = etag.map(EntityTag::to_bytes);
        let (bytes, modified) = (bytes.to_be_bytes(), modified_ns.to_be_bytes());
        let parts: [&[u8]; 2] = [&bytes, &modified];
        let parts: Vec<&[u8]> = parts.into_iter().chain(etag.as_ref().map(<[u8; 16]>::as_slice)).collect();
        // Twelve hex digits: there is always a number.
        Self(u64::from_str_radix(&hex_digest(&parts)[..GENERATION_DIGITS], 16).unwrap_or_default())
    }
}

impl From<&SourceVersion> for Generation {
    fn from(version: &SourceVersion) -> Self {
        Self::new(version.bytes, version.modified_ns, version.etag)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0width$x}", self.0, width = GENERATION_DIGITS)
    }
}

/// What the name of a rendition's file says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenditionName {
    /// What it is of.
    pub generation: Generation,
    /// Its format.
    pub format: ImageFormat,
}

impl RenditionName {
    /// Takes a file's name apart, as [`RenditionKey`] makes them. `None` for any other.
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, extension) = name.split_once('.')?;
        let (generation, digest) = stem.split_once('-')?;
        if !is_hex(generation, GENERATION_DIGITS) || !is_hex(digest, DIGEST_DIGITS) {
            return None;
        }
        let generation = Generation(u64::from_str_radix(generation, 16).ok()?);
        Some(Self { generation, format: ImageFormat::of_extension(extension)? })
    }
}

/// The name of one rendition: its generation, and a digest of everything that decides its bytes. Other bytes, other name.
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
        let generation = Generation::from(version);
        let path = format!("{}/{generation}-{digest}.{}", source.directory(), format.extension());
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

/// Whether a text is so many hex digits as [`hex_digest`] writes them.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The first half of a digest over parts, in hex.
fn hex_digest(parts: &[&[u8]]) -> String {
    hex(&PartsDigest::of(parts.iter().copied()).half())
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
        assert_eq!(
            SourceKey::of_directory_name(key.source().directory().rsplit('/').next().unwrap()),
            Some(key.source)
        );
    }

    #[test]
    fn names_say_which_generation_they_are_of() {
        let name = |version: &SourceVersion, recipe| {
            let key = RenditionKey::new(&location("media", "a.jpg"), version, recipe, ImageFormat::Jpeg);
            key.path().rsplit('/').next().unwrap().to_owned()
        };
        let (now, hashed) = (version(), SourceVersion { file_hash: Some("abc".into()), ..version() });
        let later = SourceVersion { modified_ns: 2, ..version() };
        let generation = |name: &str| RenditionName::parse(name).unwrap().generation;
        let of_now = generation(&name(&now, "x"));
        assert_eq!(of_now, Generation::from(&now));
        assert_eq!(of_now, generation(&name(&now, "y")));
        assert_eq!(of_now, generation(&name(&hashed, "x")), "one file, asked for in two ways");
        assert_ne!(name(&now, "x"), name(&hashed, "x"));
        assert_ne!(of_now, generation(&name(&later, "x")));
        let tagged = SourceVersion { etag: Some(EntityTag::of(&[b"abc"])), ..version() };
        assert_ne!(of_now, Generation::from(&tagged));
        assert_eq!(RenditionName::parse(&name(&now, "x")).unwrap().format, ImageFormat::Jpeg);
        assert_eq!(Generation(0xAB).to_string(), "0000000000ab");
    }

    #[test]
    fn other_names_are_nobodys() {
        let (generation, digest) = ("0123456789ab", "0123456789abcdef0123456789abcdef");
        assert!(RenditionName::parse(&format!("{generation}-{digest}.avif")).is_some());
        for other in [
            format!("{digest}.jpg"),
            format!("{generation}-{digest}"),
            format!("{generation}-{digest}.jpeg"),
            format!("{generation}-{digest}.jpg.bak"),
            format!("{generation}-{}.jpg", digest.to_uppercase()),
            format!("{generation}-{}.jpg", &digest[1..]),
            format!("+23456789abc-{digest}.jpg"),
            format!("-{digest}.jpg"),
            ".source.json".to_owned(),
            String::new(),
        ] {
            assert_eq!(RenditionName::parse(&other), None, "{other}");
        }
        assert_eq!(SourceKey::of_directory_name("../../etc"), None);
    }
}
