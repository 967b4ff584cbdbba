//! Source images: what a URL refers to, where its bytes are, which version they are, and what a probe found out.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{DocumentSize, FocalPoint, ImageFormat, MediaPath, PartsDigest, Size};

/// An image's number in the catalogue. URLs carry it as text (`007` and `7` are the same image, signed apart).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImageId(pub u64);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a source image's bytes are: a source named in the config, and a path within it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourceRef {
    /// The key of `[sources.NAME]`.
    pub source: String,
    /// The path below that source's root.
    pub path: MediaPath,
}

impl fmt::Display for SourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.source, self.path)
    }
}

/// A source image as the catalogue (or the URL itself) describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceImage {
    /// Where the bytes are.
    pub location: SourceRef,
    /// The content hash that the catalogue keeps, where it keeps one: part of the version.
    pub file_hash: Option<String>,
    /// What a `fill` keeps visible.
    pub focal_point: Option<FocalPoint>,
}

impl SourceImage {
    /// One of which no more is known than where it is.
    pub fn at(location: SourceRef) -> Self {
        Self { location, file_hash: None, focal_point: None }
    }
}

/// Which bytes a source image has. A replaced original has another version, hence other rendition keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourceVersion {
    /// Length in bytes.
    pub bytes: u64,
    /// Modification time in nanoseconds since the epoch (negative before it).
    pub modified_ns: i128,
    /// What tells its contents apart where the source is remote: neither size nor date need change there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<EntityTag>,
    /// The catalogue's content hash, where known.
    pub file_hash: Option<String>,
}

/// The validators of a remote file (RFC 9110, 8.8), digested: a number to compare, whatever text a stranger sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntityTag(u128);

impl EntityTag {
    /// The digest of an `ETag`, and of whatever else tells versions apart.
    pub fn of(validators: &[&[u8]]) -> Self {
        Self(u128::from_be_bytes(PartsDigest::of(validators.iter().copied()).half()))
    }

    /// As bytes, for a digest.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<EntityTag> for String {
    fn from(tag: EntityTag) -> Self {
        tag.to_string()
    }
}

impl TryFrom<String> for EntityTag {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Self)
    }
}

/// How the pixels as stored must be turned to stand upright: EXIF tag 0x0112 (CIPA DC-008, 4.6.4 A), 1 to 8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Orientation {
    /// 1: as stored.
    #[default]
    Upright,
    /// 2: mirrored left to right.
    FlipHorizontal,
    /// 3: half a turn.
    Rotate180,
    /// 4: mirrored top to bottom.
    FlipVertical,
    /// 5: mirrored along the main diagonal.
    Transpose,
    /// 6: a quarter turn clockwise makes it upright.
    Rotate90,
    /// 7: mirrored along the other diagonal.
    Transverse,
    /// 8: a quarter turn counter-clockwise makes it upright.
    Rotate270,
}

impl Orientation {
    /// The orientation of an EXIF value; anything but 1 to 8 counts as upright, as every viewer has it.
    pub fn from_exif(value: u32) -> Self {
        match value {
            2 => Self::FlipHorizontal,
            3 => Self::Rotate180,
            4 => Self::FlipVertical,
            5 => Self::Transpose,
            6 => Self::Rotate90,
            7 => Self::Transverse,
            8 => Self::Rotate270,
            _ => Self::Upright,
        }
    }

    /// The EXIF value, 1 to 8.
    pub fn to_exif(self) -> u8 {
        match self {
            Self::Upright => 1,
            Self::FlipHorizontal => 2,
            Self::Rotate180 => 3,
            Self::FlipVertical => 4,
            Self::Transpose => 5,
            Self::Rotate90 => 6,
            Self::Transverse => 7,
            Self::Rotate270 => 8,
        }
    }

    /// Whether turning upright swaps width and height.
    pub fn swaps_sides(self) -> bool {
        self.to_exif() >= 5
    }

    /// The upright size of pixels stored as `stored`.
    pub fn upright(self, stored: Size) -> Size {
        if self.swaps_sides() { stored.transposed() } else { stored }
    }
}

/// The eight as arithmetic: what leads from a point of the turned picture to the picture as stored, both with the origin in
/// the middle.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Matrix([[i8; 2]; 2]);

impl Orientation {
    const ALL: [Self; 8] = [
        Self::Upright,
        Self::FlipHorizontal,
        Self::Rotate180,
        Self::FlipVertical,
        Self::Transpose,
        Self::Rotate90,
        Self::Transverse,
        Self::Rotate270,
    ];

    fn matrix(self) -> Matrix {
        Matrix(match self {
            Self::Upright => [[1, 0], [0, 1]],
            Self::FlipHorizontal => [[-1, 0], [0, 1]],
            Self::Rotate180 => [[-1, 0], [0, -1]],
            Self::FlipVertical => [[1, 0], [0, -1]],
            Self::Transpose => [[0, 1], [1, 0]],
            Self::Rotate90 => [[0, 1], [-1, 0]],
            Self::Transverse => [[0, -1], [-1, 0]],
            Self::Rotate270 => [[0, -1], [1, 0]],
        })
    }

    /// This turn first, then the other: as one.
    pub fn then(self, next: Self) -> Self {
        let (Matrix(a), Matrix(b)) = (self.matrix(), next.matrix());
        let product: [[i8; 2]; 2] =
            std::array::from_fn(|i| std::array::from_fn(|j| a[i][0] * b[0][j] + a[i][1] * b[1][j]));
        Self::ALL.into_iter().find(|turn| turn.matrix() == Matrix(product)).unwrap_or_default()
    }

    /// The turn that undoes this one.
    pub fn inverse(self) -> Self {
        Self::ALL.into_iter().find(|turn| self.then(*turn) == Self::Upright).unwrap_or_default()
    }

    /// Where a point of a picture of `size` is after the turn.
    pub fn turn_point(self, (x, y): (f64, f64), (width, height): (f64, f64)) -> (f64, f64) {
        match self {
            Self::Upright => (x, y),
            Self::FlipHorizontal => (width - x, y),
            Self::Rotate180 => (width - x, height - y),
            Self::FlipVertical => (x, height - y),
            Self::Transpose => (y, x),
            Self::Rotate90 => (height - y, x),
            Self::Transverse => (height - y, width - x),
            Self::Rotate270 => (y, width - x),
        }
    }
}

impl From<Orientation> for u8 {
    fn from(orientation: Orientation) -> Self {
        orientation.to_exif()
    }
}

impl TryFrom<u8> for Orientation {
    type Error = String;

    fn try_from(value: u8) -> Result<Self, Self::Error> {
        match value {
            1..=8 => Ok(Self::from_exif(value.into())),
            _ => Err(format!("{value} is not an EXIF orientation")),
        }
    }
}

/// What a worker's probe reads from a source image's header. Numbers only: the gate itself parses no image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFacts {
    /// What the magic bytes say.
    pub format: ImageFormat,
    /// Size of the pixels as stored.
    pub stored_size: Size,
    /// How they must be turned.
    pub orientation: Orientation,
    /// Pictures in the file; 1 for a still.
    pub frames: u32,
    /// Bytes of one decoded pixel in the decoder's own layout (1 gray, 3 RGB, 4 RGBA or CMYK, 2 for 16-bit gray ...).
    pub bytes_per_pixel: u8,
    /// Whether the file is coded in several scans or passes, which makes the decoder hold all coefficients at once.
    pub progressive: bool,
    /// The size of a vector image, whose `stored_size` is that in whole pixels. `None` for pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentSize>,
}

impl SourceFacts {
    /// Whether an honest probe can have said so: a hijacked worker might name a picture without frames or sides, which no
    /// bound on pixels would catch.
    pub fn is_plausible(&self) -> bool {
        let Size { width, height } = self.stored_size;
        let document = self.document.is_none_or(|document| document.rounded_up() == self.stored_size);
        width > 0 && height > 0 && self.frames > 0 && (1..=16).contains(&self.bytes_per_pixel) && document
    }

    /// The size after turning upright: what filter specs are about.
    pub fn upright_size(&self) -> Size {
        self.orientation.upright(self.stored_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A point that no turn but one puts where it goes.
    const POINT: (f64, f64) = (1.0, 2.0);
    const SIZE: (f64, f64) = (10.0, 20.0);

    #[test]
    fn turns_compose_as_their_points_do() {
        for first in Orientation::ALL {
            let between = if first.swaps_sides() { (SIZE.1, SIZE.0) } else { SIZE };
            for second in Orientation::ALL {
                let stepwise = second.turn_point(first.turn_point(POINT, SIZE), between);
                assert_eq!(first.then(second).turn_point(POINT, SIZE), stepwise, "{first:?} {second:?}");
            }
            assert_eq!(first.then(first.inverse()), Orientation::Upright);
            assert_eq!(first.inverse().then(first), Orientation::Upright);
        }
    }
}
