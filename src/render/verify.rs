//! Whether a rendition's file is whole: every part of it is there, and every pixel can be decoded.
//!
//! Decoders are lenient with what comes last: many a JPEG lacks its end marker, and is shown all the same. What sendimage has
//! written has an end, so a file without one was cut.

use super::{
    RenderError,
    codec::{self, animation::Frames},
    look::Look,
    plan::Plan,
};
use crate::model::{ImageFormat, SourceFacts};

impl Plan {
    /// The decoding that tells whether a file of these facts is whole, with as little memory as decoding takes.
    pub fn to_verify(facts: &SourceFacts) -> Self {
        Self::to_look(facts, Look::Interest { across: 1, down: 1 })
    }

    /// What [`verify`] holds at its peak.
    pub fn verify_bytes(&self, file_bytes: u64) -> u64 {
        // A canvas to draw on, and one to go back to.
        let canvases = if self.source.frames > 1 { self.source.stored_size.pixels().saturating_mul(2 * 4) } else { 0 };
        self.peak_bytes(file_bytes).saturating_add(canvases)
    }
}

/// Looks at a file from its first byte to its last.
///
/// # Errors
/// What is wrong with it.
pub fn verify(file: &[u8], plan: &Plan) -> Result<(), RenderError> {
    codec::ending::check(file, plan.source.format)?;
    match plan.source.format {
        // A drawing is text: to read it is to see that it is whole, and the probe has done so.
        ImageFormat::Svg => codec::probe(file).map(drop),
        _ if plan.source.frames > 1 => {
            let mut frames = Frames::open(file, plan)?;
            while frames.next()?.is_some() {}
            Ok(())
        }
        _ => codec::decode(file, plan).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Size,
        render::{
            picture::{Layout, Picture},
            plan::Encoding,
            probe,
        },
        spec::Quality,
    };

    fn picture() -> Picture {
        let mut picture = Picture::blank(Size::new(40, 30), Layout::Rgb8);
        picture.pixels.iter_mut().enumerate().for_each(|(index, sample)| *sample = (index * 37 % 251) as u8);
        picture
    }

    fn check(file: &[u8]) -> Result<(), RenderError> {
        let facts = probe(file)?;
        verify(file, &Plan::to_verify(&facts))
    }

    /// A file that was cut anywhere is found out, and a whole one is not.
    #[test]
    fn every_format_cut_anywhere_is_found() {
        let quality = Quality::new(80).unwrap();
        for encoding in [
            Encoding::Jpeg { quality, progressive: false, rgb: false },
            Encoding::Jpeg { quality, progressive: true, rgb: false },
            Encoding::Png,
            Encoding::Gif,
            Encoding::Ico,
            Encoding::Webp { quality },
            Encoding::WebpLossless,
            Encoding::Avif { quality },
            Encoding::AvifLossless,
        ] {
            let file = codec::encode(picture(), encoding).unwrap();
            assert_eq!(check(&file), Ok(()), "{encoding:?}");
            let step = (file.len() / 40).max(1);
            let cuts = (0..file.len()).step_by(step).chain([file.len() - 1, file.len() - 2, file.len() - 9]);
            for length in cuts {
                assert!(check(&file[..length]).is_err(), "{encoding:?}: {length} of {} bytes", file.len());
            }
            // As a crash of the machine leaves it: the length is right, the end was never written. Within the data of the others
            // any bits are some picture's.
            if matches!(encoding, Encoding::Jpeg { .. } | Encoding::Png | Encoding::Gif) {
                let mut holed = file.clone();
                let half = holed.len() / 2;
                holed[half..].fill(0);
                assert!(check(&holed).is_err(), "{encoding:?}: its second half is zeros");
            }
        }
    }
}
