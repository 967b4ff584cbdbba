//! The name of a rendition in 39 bytes: what the index keeps, and what its path is made of again.

use crate::model::{ImageFormat, RenditionKey, SourceKey, hex, key::LAYOUT};

/// Bytes of a digest in a name.
const DIGEST: usize = 16;
/// Bytes of a generation.
const GENERATION: usize = 6;
/// Where the generation begins, behind source, digest and format.
const TAIL: usize = DIGEST + DIGEST + 1;
/// Bytes of a name.
const LENGTH: usize = TAIL + GENERATION;

/// Formats by their number in the index. A change of the order is a change of the index's layout.
const FORMATS: [ImageFormat; 10] = [
    ImageFormat::Jpeg,
    ImageFormat::Png,
    ImageFormat::Gif,
    ImageFormat::Webp,
    ImageFormat::Avif,
    ImageFormat::Ico,
    ImageFormat::Svg,
    ImageFormat::Heic,
    ImageFormat::Bmp,
    ImageFormat::Tiff,
];

/// A rendition's path in the store, packed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Name([u8; LENGTH]);

/// The digest that a source image's folder is named by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Folder([u8; DIGEST]);

impl Name {
    /// Packs a rendition's path. `None` for what is no rendition's.
    pub fn parse(path: &str) -> Option<Self> {
        let (directory, name) = path.rsplit_once('/')?;
        let folder = Folder::parse(directory)?;
        let (stem, extension) = name.split_once('.')?;
        let (generation, digest) = stem.split_once('-')?;
        let format = FORMATS.iter().position(|format| format.extension() == extension)?;
        let mut bytes = [0; LENGTH];
        bytes[..DIGEST].copy_from_slice(&folder.0);
        unhex(digest, &mut bytes[DIGEST..2 * DIGEST])?;
        bytes[2 * DIGEST] = u8::try_from(format).ok()?;
        unhex(generation, &mut bytes[TAIL..])?;
        Some(Self(bytes))
    }

    /// A rendition's name.
    pub fn of(key: &RenditionKey) -> Option<Self> {
        Self::parse(key.path())
    }

    /// As the index keeps it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What the index has kept; `None` if that is damaged.
    pub fn from_bytes(kept: &[u8]) -> Option<Self> {
        let bytes = <[u8; LENGTH]>::try_from(kept).ok()?;
        (usize::from(bytes[2 * DIGEST]) < FORMATS.len()).then_some(Self(bytes))
    }

    /// The number of its row: 24 bits of its folder's digest, so that the rows of a folder stand together, and 39 of its own.
    /// Two names that agree in all of them share a row; of 10^7 renditions that happens to none, most likely.
    pub fn row(&self) -> i64 {
        self.folder().rows().0 | (number(&self.0[DIGEST..DIGEST + 5]) >> 1)
    }

    /// The folder that it is in.
    pub fn folder(&self) -> Folder {
        let mut digest = [0; DIGEST];
        digest.copy_from_slice(&self.0[..DIGEST]);
        Folder(digest)
    }

    /// The path below the store's root.
    pub fn path(&self) -> String {
        let generation = hex(&self.0[TAIL..]);
        let digest = hex(&self.0[DIGEST..2 * DIGEST]);
        // Checked when it was made.
        let format = FORMATS.get(usize::from(self.0[2 * DIGEST])).copied().unwrap_or(ImageFormat::Jpeg);
        format!("{}/{generation}-{digest}.{}", self.folder().directory(), format.extension())
    }
}

impl Folder {
    /// A source image's folder.
    pub fn of(source: &SourceKey) -> Option<Self> {
        Self::parse(&source.directory())
    }

    fn parse(directory: &str) -> Option<Self> {
        let (middle, name) = directory.strip_prefix(LAYOUT)?.strip_prefix('/')?.split_once('/')?;
        let mut digest = [0; DIGEST];
        unhex(name, &mut digest)?;
        (name.get(..2) == Some(middle)).then_some(Self(digest))
    }

    /// The first and the last number that a row of it can have. Rows of other folders may be between.
    pub fn rows(&self) -> (i64, i64) {
        const OWN_BITS: u32 = 39;
        let first = number(&self.0[..3]) << OWN_BITS;
        (first, first | ((1 << OWN_BITS) - 1))
    }

    /// How the names of its renditions begin.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path below the store's root.
    pub fn directory(&self) -> String {
        let name = hex(&self.0);
        format!("{LAYOUT}/{}/{name}", &name[..2])
    }
}

/// At most seven bytes as a number.
fn number(bytes: &[u8]) -> i64 {
    bytes.iter().fold(0, |number, byte| number << 8 | i64::from(*byte))
}

fn unhex(text: &str, bytes: &mut [u8]) -> Option<()> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MediaPath, SourceRef, SourceVersion};

    fn key(path: &str, recipe: &str, format: ImageFormat) -> RenditionKey {
        let location = SourceRef { source: "media".into(), path: MediaPath::parse(path).unwrap() };
        let version = SourceVersion { bytes: 1, modified_ns: 1, etag: None, file_hash: None };
        RenditionKey::new(&location, &version, recipe, format)
    }

    #[test]
    fn a_path_is_what_it_was_before() {
        for format in FORMATS {
            let key = key("a.jpg", "x", format);
            let name = Name::of(&key).unwrap();
            assert_eq!(name.path(), key.path());
            assert_eq!(name.folder().directory(), key.source().directory());
            assert!(Name::from_bytes(name.as_bytes()) == Some(name));
            assert!(name.as_bytes().starts_with(Folder::of(key.source()).unwrap().as_bytes()));
            let (first, last) = name.folder().rows();
            assert!((first..=last).contains(&name.row()) && first >= 0);
        }
        let digest = "0123456789abcdef0123456789abcdef";
        let path = format!("{LAYOUT}/01/{digest}/abcdef012345-{digest}.avif");
        assert_eq!(Name::parse(&path).unwrap().path(), path);
    }

    #[test]
    fn what_is_no_rendition_has_no_name() {
        let digest = "0123456789abcdef0123456789abcdef";
        let generation = "abcdef012345";
        for path in [
            format!("{LAYOUT}/01/{digest}/.source.json"),
            format!("{LAYOUT}/01/{digest}/{digest}.webp"),
            format!("{LAYOUT}/01/{digest}/{generation}-{digest}"),
            format!("{LAYOUT}/01/{digest}/{generation}-{digest}.exe"),
            format!("{LAYOUT}/01/{digest}/{generation}-{}.webp", digest.to_uppercase()),
            format!("{LAYOUT}/01/{digest}/1-{digest}.webp"),
            format!("{LAYOUT}/02/{digest}/{generation}-{digest}.webp"),
            format!("r0/01/{digest}/{generation}-{digest}.webp"),
            format!("{generation}-{digest}.webp"),
            String::new(),
        ] {
            assert!(Name::parse(&path).is_none(), "{path}");
        }
        assert!(Name::from_bytes(&[0; 3]).is_none());
        assert!(Name::from_bytes(&[0xFF; LENGTH]).is_none());
    }
}
