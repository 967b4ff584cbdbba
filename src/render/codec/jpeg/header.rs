//! A JPEG's header: what stands before the first scan. One walk over the marker segments (ITU-T T.81, annex B).

use super::{MAX_PROFILE_BYTES, corrupt};
use crate::{
    model::{ImageFormat, Size},
    render::RenderError,
};

const EXIF: &[u8] = b"Exif\0\0";
/// ICC.1:2022, annex B.4: `ICC_PROFILE\0`, number of this part (from 1), number of parts.
pub const ICC: &[u8] = b"ICC_PROFILE\0";
/// As many as can be numbered. A file may hold millions of segments of this kind, and each part is looked for among them.
const MAX_PROFILE_PARTS: usize = 255;

/// What the segments before the first scan say.
pub struct Header<'a> {
    /// Of the full image, at least 1x1.
    pub size: Size,
    /// 1 gray, 3 colour, 4 CMYK or YCCK.
    pub components: u8,
    /// Bits of a sample.
    pub precision: u8,
    /// Predictive coding without a DCT.
    pub lossless: bool,
    /// Coded in progressive scans, by Huffman codes.
    pub progressive: bool,
    /// Several scans: the decoder holds all coefficients.
    pub several_scans: bool,
    /// An Adobe marker: CMYK is stored inverted, as Photoshop has always done it.
    pub adobe: bool,
    /// The first EXIF block.
    pub exif: Option<&'a [u8]>,
    profile_parts: Vec<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// Walks the segments up to the first scan.
    pub fn read(source: &'a [u8]) -> Result<Self, RenderError> {
        let damaged = |what| corrupt(ImageFormat::Jpeg, what);
        let mut frame = None;
        let (mut adobe, mut exif, mut profile_parts) = (false, None, Vec::new());
        let mut rest = source.get(2..).unwrap_or_default(); // the magic bytes were checked
        loop {
            let (marker, body, after) = segment(rest).ok_or_else(|| damaged("the header is cut off"))?;
            rest = after;
            match marker {
                0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => frame = frame.or(Some((marker, body))),
                0xE1 if body.starts_with(EXIF) => exif = exif.or(Some(body)),
                0xE2 if body.starts_with(ICC) && profile_parts.len() < MAX_PROFILE_PARTS => {
                    profile_parts.push(&body[ICC.len()..]);
                }
                0xEE if body.starts_with(b"Adobe") && body.len() >= 12 => adobe = true,
                0xD9 => return Err(damaged("there is no picture")),
                0xDA => {
                    let (marker, frame) = frame.ok_or_else(|| damaged("a scan comes before the frame header"))?;
                    let &[precision, h1, h0, w1, w0, components, ..] = frame else {
                        return Err(damaged("the frame header is too short"));
                    };
                    let size = Size::new(u16::from_be_bytes([w1, w0]).into(), u16::from_be_bytes([h1, h0]).into());
                    if size.pixels() == 0 {
                        return Err(damaged("a side has no pixels"));
                    }
                    let in_first_scan = body.first().copied().unwrap_or_default();
                    return Ok(Self {
                        size,
                        components,
                        precision,
                        lossless: matches!(marker, 0xC3 | 0xC7 | 0xCB | 0xCF),
                        progressive: marker == 0xC2,
                        several_scans: matches!(marker, 0xC2 | 0xC6 | 0xCA | 0xCE) || in_first_scan < components,
                        adobe,
                        exif,
                        profile_parts,
                    });
                }
                _ => {}
            }
        }
    }

    /// The ICC profile, put together; `None` when a part is missing or it is unreasonably long.
    pub fn profile(&self) -> Option<Vec<u8>> {
        let mut profile = Vec::new();
        let total = *self.profile_parts.first()?.get(1)?;
        for number in 1..=total {
            let part = self.profile_parts.iter().find(|part| part.first() == Some(&number))?;
            profile.extend_from_slice(part.get(2..)?);
            if profile.len() > MAX_PROFILE_BYTES {
                return None;
            }
        }
        Some(profile)
    }
}

/// The next marker, its parameters and what follows. Bytes between segments are skipped, as libjpeg does.
pub fn segment(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let mut rest = bytes;
    loop {
        rest = &rest[rest.iter().position(|&byte| byte == 0xFF)?..];
        rest = &rest[rest.iter().position(|&byte| byte != 0xFF)?..];
        let (&marker, after) = rest.split_first()?;
        rest = after;
        match marker {
            0x00 => {}
            // These stand alone.
            0x01 | 0xD0..=0xD9 => return Some((marker, &[], after)),
            _ => {
                let length = usize::from(u16::from_be_bytes(*after.first_chunk()?));
                let body = after.get(2..length)?;
                return Some((marker, body, &after[length..]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(segments: &[&[u8]]) -> Vec<u8> {
        [b"\xFF\xD8", segments.concat().as_slice()].concat()
    }

    const FRAME: &[u8] = b"\xFF\xC0\0\x0B\x08\0\x05\0\x07\x01\x01\x11\0";
    const SCAN: &[u8] = b"\xFF\xDA\0\x08\x01\x01\0\0\x3F\0";

    #[test]
    fn size_and_parts_are_found() {
        let part = |number: u8, text: &[u8]| {
            let body = [ICC, &[number, 2], text].concat();
            [&[0xFF, 0xE2], &(body.len() as u16 + 2).to_be_bytes()[..], &body].concat()
        };
        let source = header(&[&part(2, b"world"), FRAME, b"junk", &part(1, b"hello "), SCAN]);
        let header = Header::read(&source).unwrap();
        assert_eq!((header.size, header.components, header.several_scans), (Size::new(7, 5), 1, false));
        assert_eq!(header.profile().unwrap(), b"hello world");
    }

    #[test]
    fn a_profile_with_a_part_missing_is_none() {
        let source = header(&[b"\xFF\xE2\0\x11ICC_PROFILE\0\x01\x02a", FRAME, SCAN]);
        assert!(Header::read(&source).unwrap().profile().is_none());
    }

    #[test]
    fn a_cut_header_is_damage() {
        let source = header(&[FRAME, SCAN]);
        for end in 0..source.len() - 6 {
            assert!(Header::read(&source[..end]).is_err(), "{end}");
        }
    }
}
