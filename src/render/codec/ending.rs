//! Whether a file of ours ends where it says, which decoders do not ask.

use super::corrupt;
use crate::{model::ImageFormat, render::RenderError};

/// Sees to it that a file has its end.
pub fn check(file: &[u8], format: ImageFormat) -> Result<(), RenderError> {
    let is_whole = match format {
        ImageFormat::Jpeg => file.ends_with(b"\xFF\xD9"),
        // The last chunk has no data, so that it is the same in every file (PNG 3rd edition, 11.2.5).
        ImageFormat::Png => file.ends_with(b"\0\0\0\0IEND\xAE\x42\x60\x82"),
        ImageFormat::Gif => file.ends_with(b";"),
        ImageFormat::Webp => riff_ends(file),
        ImageFormat::Avif => boxes_end(file),
        ImageFormat::Ico => entries_end(file),
        ImageFormat::Heic | ImageFormat::Bmp | ImageFormat::Tiff | ImageFormat::Svg => true,
    };
    if is_whole { Ok(()) } else { Err(corrupt(format, "its end is missing")) }
}

/// RIFF says how many bytes follow its length, less the one that makes them even.
fn riff_ends(file: &[u8]) -> bool {
    let Some(length) = file.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes) else {
        return false;
    };
    file.len() as u64 == 8 + u64::from(length).next_multiple_of(2)
}

/// Boxes follow each other to the end (ISO/IEC 14496-12, 4.2).
fn boxes_end(mut file: &[u8]) -> bool {
    while let Some((head, rest)) = file.split_first_chunk::<8>() {
        let [a, b, c, d, ..] = *head;
        let length = match u32::from_be_bytes([a, b, c, d]) {
            // It reaches to the end, wherever that is.
            0 => return true,
            1 => match rest.first_chunk::<8>() {
                Some(long) => u64::from_be_bytes(*long),
                None => return false,
            },
            short => short.into(),
        };
        match usize::try_from(length).ok().filter(|length| *length >= 8).and_then(|length| file.get(length..)) {
            Some(next) => file = next,
            None => return false,
        }
    }
    file.is_empty()
}

/// Every picture that the directory names lies within the file.
fn entries_end(file: &[u8]) -> bool {
    let number = |at: usize| file.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes).map(u64::from);
    let Some(count) = file.get(4..6).map(|bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]]))) else {
        return false;
    };
    (0..count).all(|entry| {
        let at = 6 + entry * 16;
        number(at + 8).zip(number(at + 12)).is_some_and(|(length, offset)| offset + length <= file.len() as u64)
    })
}
