//! The first directory of an EXIF block: the orientation that it names, and whether a tag is in it. Nothing else of it is read.
//!
//! Each entry is looked at once, and there are 65,535 at most: no other offset is followed, so there is no loop to be caught in.
//! The orientation is looked for in the first 64 KiB.

use crate::model::Orientation;

/// The longest block that a JPEG can have: one segment.
pub const MAX_BYTES: usize = 64 << 10;
/// CIPA DC-008 (EXIF 2.32), 4.6.4 A.
const ORIENTATION_TAG: u16 = 0x0112;
/// What a JPEG's block begins with.
const PREFIX: &[u8] = b"Exif\0\0";
/// Where the directory with the position is (EXIF 2.32, 4.6.3).
const GPS_TAG: u16 = 0x8825;
const TYPE_SHORT: u16 = 3;
const TYPE_LONG: u16 = 4;
const ENTRY_BYTES: usize = 12;

/// The orientation that an EXIF block names; upright when it names none or cannot be read.
///
/// The block may begin with JPEG's `Exif\0\0`, which some writers also put into PNG and WebP.
pub fn orientation(block: &[u8]) -> Orientation {
    let block = &block[..block.len().min(MAX_BYTES)];
    let tiff = block.strip_prefix(PREFIX).unwrap_or(block);
    first_directory(tiff).map(Orientation::from_exif).unwrap_or_default()
}

/// Whether an EXIF block, or a TIFF file, of any length, says where the picture was taken.
pub fn has_gps(block: &[u8]) -> bool {
    has_tag(block, GPS_TAG)
}

/// Whether the first directory has a tag.
pub fn has_tag(block: &[u8], tag: u16) -> bool {
    find_tag(block.strip_prefix(PREFIX).unwrap_or(block), tag).is_some()
}

/// The same block, naming no turn: for pixels that are upright already.
pub fn upright(block: &[u8]) -> Vec<u8> {
    let mut upright = block.to_vec();
    let prefix = if block.starts_with(PREFIX) { PREFIX.len() } else { 0 };
    if let Some((bytes, entry)) = find_tag(&block[prefix..], ORIENTATION_TAG) {
        // A single SHORT lies left-aligned in its four bytes; its type is set too, for a LONG would be read otherwise.
        let one: [u8; 2] = if bytes.big_endian { [0, 1] } else { [1, 0] };
        let kind: [u8; 2] = if bytes.big_endian { [0, 3] } else { [3, 0] };
        let fields = [(entry + 2, kind), (entry + 8, one)];
        for (at, value) in fields {
            if let Some(field) = upright.get_mut(prefix + at..prefix + at + 2) {
                field.copy_from_slice(&value);
            }
        }
    }
    upright
}

/// The tag's value in the TIFF structure's first directory.
fn first_directory(tiff: &[u8]) -> Option<u32> {
    let (bytes, entry) = find_tag(tiff, ORIENTATION_TAG)?;
    match bytes.u16(entry + 2)? {
        TYPE_SHORT => bytes.u16(entry + 8).map(u32::from),
        TYPE_LONG => bytes.u32(entry + 8),
        _ => None,
    }
}

/// Where a tag's entry begins in the TIFF structure's first directory (TIFF 6.0, section 2).
fn find_tag(tiff: &[u8], tag: u16) -> Option<(Bytes<'_>, usize)> {
    let bytes = match tiff.get(..4)? {
        b"II*\0" => Bytes { tiff, big_endian: false },
        b"MM\0*" => Bytes { tiff, big_endian: true },
        _ => return None,
    };
    let start = bytes.u32(4)? as usize;
    let entries = usize::from(bytes.u16(start)?);
    let entry = (0..entries)
        .map_while(|index| start.checked_add(2 + index * ENTRY_BYTES).filter(|&at| at < tiff.len()))
        .find(|&at| bytes.u16(at) == Some(tag))?;
    Some((bytes, entry))
}

struct Bytes<'a> {
    tiff: &'a [u8],
    big_endian: bool,
}

impl Bytes<'_> {
    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = *self.tiff.get(at..)?.first_chunk()?;
        Some(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let bytes = *self.tiff.get(at..)?.first_chunk()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BIG: &[u8] = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    const LITTLE: &[u8] = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x08\0\0\0\0\0\0\0";

    #[test]
    fn both_byte_orders_are_read() {
        assert_eq!(orientation(BIG), Orientation::Rotate90);
        assert_eq!(orientation(LITTLE), Orientation::Rotate270);
    }

    #[test]
    fn a_block_is_made_upright() {
        for block in [BIG, LITTLE] {
            let made = upright(block);
            assert_eq!((orientation(&made), made.len()), (Orientation::Upright, block.len()));
        }
        assert_eq!(upright(b"no EXIF"), b"no EXIF");
    }

    #[test]
    fn what_cannot_be_read_is_upright() {
        for end in 0..BIG.len() - 6 {
            assert_eq!(orientation(&BIG[..end]), Orientation::Upright);
        }
        assert_eq!(orientation(b"MM\0*\xFF\xFF\xFF\xFF"), Orientation::Upright);
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(mut tail in proptest::collection::vec(any::<u8>(), 0..200), big in any::<bool>()) {
            let mut block = if big { b"MM\0*".to_vec() } else { b"II*\0".to_vec() };
            block.append(&mut tail);
            orientation(&block);
        }
    }
}
