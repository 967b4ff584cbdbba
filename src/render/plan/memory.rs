//! How much memory a plan takes: what the budget of bytes is reserved by.

use super::{BAND_BYTES, Encoding, Plan};
use crate::model::ImageFormat;

/// The most pixels of a watermark; a worker refuses a larger one.
pub const MAX_WATERMARK_PIXELS: u64 = 2_000_000;
/// The longest file of a watermark.
pub const MAX_WATERMARK_BYTES: u64 = 4 << 20;

impl Plan {
    /// An upper bound of the bytes that this render holds at its peak: the file, and what the hungriest stage holds, for each
    /// stage gives back what the one before it needed.
    ///
    /// `tests/suite/render_cost.rs` compares it with resident memory, on large pictures of every format.
    pub fn peak_bytes(&self, source_bytes: u64) -> u64 {
        /// Allocator, tables, buffers of rows, the small parts of every codec, an ICC profile.
        const FIXED: u128 = 8 << 20;
        /// A parsed document and its rewritten text, against the file: `<g/>` is the worst. And what is drawn of it.
        const NODES: u128 = 40;
        const SHAPES: u128 = 110;
        // Sides of 32 bits times bytes a pixel times stages need more than 64 bits; a reservation that wrapped round would
        // let a bomb in.
        let pixel = u128::from(self.source.bytes_per_pixel).max(1);
        let decoded = u128::from(self.decoded_size().pixels());
        let output = u128::from(self.output_size.pixels());
        // A drawing is made at the rendition's size, with layers for groups, masks and filters.
        const LAYERS: u128 = 8;
        let is_drawing = self.source.format == ImageFormat::Svg;
        let decoded = if is_drawing { output * LAYERS } else { decoded };
        // Of a source in bands there are only the one decoded and the one being resized.
        let decoded = if self.in_bands() { decoded.min(3 * u128::from(BAND_BYTES)) } else { decoded };
        let decode = decoded * (pixel + u128::from(self.decoder_bytes_per_pixel())) + self.coefficient_bytes();
        // Two passes, either first: the picture between them has one side of the crop and one of the output.
        let reduced = |side: u32| u128::from(side.div_ceil(self.decode_reduction.max(1).into()));
        let crop = self.crop.size();
        let between = (u128::from(self.output_size.width) * reduced(crop.height))
            .max(reduced(crop.width) * u128::from(self.output_size.height));
        let resample = (decoded + between + output) * pixel;
        // Turning, laying on a background and widening gray to colour copy the output, to four bytes a pixel at most.
        const WIDEST: u128 = 4;
        // A blur works on a copy, and on sums between its passes.
        let copies = if self.effects.is_empty() { 1 } else { 4 };
        let rendition = u128::from(self.rendition_size().pixels()) * WIDEST;
        let watermark =
            if self.watermark.is_some() { u128::from(MAX_WATERMARK_PIXELS * 12 + MAX_WATERMARK_BYTES) } else { 0 };
        let finish = output * (pixel + WIDEST * copies) + rendition + watermark;
        let encode = rendition.max(output * pixel)
            + u128::from(self.rendition_size().pixels()) * u128::from(self.encoder_bytes_per_pixel());
        // A JPEG without its end marker is mended in a copy; an icon's BMP entry becomes a file of its own.
        let mended = matches!(self.source.format, ImageFormat::Jpeg | ImageFormat::Ico);
        // Taken apart for its metadata, it is copied once more.
        let copies = 1
            + u128::from(mended)
            + u128::from(self.keep_metadata)
            + match (is_drawing, self.encoding) {
                (false, _) => 0,
                (true, Encoding::Svg) => NODES,
                (true, _) => NODES + SHAPES,
            };
        let peak = FIXED
            + u128::from(source_bytes) * copies
            + decode.max(resample).max(finish).max(encode)
            + self.animation_bytes();
        u64::try_from(peak).unwrap_or(u64::MAX)
    }

    /// The same for decoding alone, all frames of it.
    pub fn peak_bytes_of_decoding(&self, source_bytes: u64) -> u64 {
        if self.source.format == ImageFormat::Svg {
            return self.peak_bytes(source_bytes);
        }
        const FIXED: u128 = 8 << 20;
        // The file, once mended and once taken apart.
        const COPIES: u128 = 3;
        // A canvas, one to go back to, and the frame that is handed on.
        const FRAMES: u128 = 3 * 4;
        let pixel = u128::from(self.source.bytes_per_pixel).max(1);
        let decoded = u128::from(self.decoded_size().pixels());
        let in_bands = self.source.format == ImageFormat::Png && !self.source.progressive;
        let decoded = if in_bands { decoded.min(3 * u128::from(BAND_BYTES)) } else { decoded };
        let animation = if self.source.frames > 1 { decoded * FRAMES } else { 0 };
        let decode = decoded * (pixel + u128::from(self.decoder_bytes_per_pixel())) + self.coefficient_bytes();
        u64::try_from(FIXED + u128::from(source_bytes) * COPIES + decode + animation).unwrap_or(u64::MAX)
    }

    /// An upper bound of the bytes that the decoded planes are held in for other renders: no colour difference is at a lower
    /// resolution. What a render takes that has the source decoded for others too is its own [peak](Plan::peak_bytes) and
    /// this of each of theirs.
    pub fn held_bytes(&self) -> u64 {
        const PLANES: u64 = 3;
        self.decoded_size().pixels().saturating_mul(PLANES)
    }

    /// What an animation holds from one frame to the next: the canvas and one to go back to or to draw on, the frames last
    /// written, and the file so far, which grows by a quarter at a time.
    fn animation_bytes(&self) -> u128 {
        if self.frames <= 1 {
            return 0;
        }
        const CANVAS: u128 = 2 * 4;
        const WRITTEN: u128 = 3 * 4;
        let file = u128::from(self.most_animation_bytes());
        u128::from(self.source.stored_size.pixels()) * CANVAS
            + u128::from(self.rendition_size().pixels()) * WRITTEN
            + file
            + file / 4
    }

    /// The longest file that an animation may become; a worker gives up beyond. Frames of 64x64 pixels of noise take, palettes
    /// included, 1.55 bytes a pixel as GIF, 3.03 as lossless WebP and 0.94 as lossy WebP of quality 90
    /// (`what_is_reserved_is_not_exceeded` prints it); a palette has 768 bytes.
    pub fn most_animation_bytes(&self) -> u64 {
        const FRAME: u64 = 1_000;
        /// A profile, metadata, headers.
        const FILE: u64 = 5 << 20;
        let halves_a_pixel = match self.encoding {
            Encoding::WebpLossless => 9,
            Encoding::Webp { .. } => 4,
            _ => 3,
        };
        let frame = self.rendition_size().pixels().saturating_mul(halves_a_pixel) / 2 + FRAME;
        frame.saturating_mul(self.frames.into()).saturating_add(FILE)
    }

    /// What a JPEG in several scans is held as, whatever the reduction: 16 bits a coefficient, no channel subsampled.
    fn coefficient_bytes(&self) -> u128 {
        match (self.source.format, self.source.progressive) {
            (ImageFormat::Jpeg, true) => {
                u128::from(self.source.stored_size.pixels()) * 2 * u128::from(self.source.bytes_per_pixel)
            }
            _ => 0,
        }
    }

    /// What a decoder holds for each pixel beside the picture.
    fn decoder_bytes_per_pixel(&self) -> u64 {
        match self.source.format {
            // An alpha plane; a lossless file is decoded to 32 bits first.
            ImageFormat::Webp => 5,
            // Palette indices; the gray picture that a bilevel one is decoded to.
            ImageFormat::Gif | ImageFormat::Png | ImageFormat::Ico => 1,
            // The samples as stored and a copy of them, each up to 16 bits wide.
            ImageFormat::Tiff => 12,
            // Planes of up to 16 bits, in a grid those of its tiles too.
            ImageFormat::Avif => 16,
            // The same, and red, green and blue in planes of their own.
            ImageFormat::Heic => 20,
            ImageFormat::Jpeg | ImageFormat::Bmp | ImageFormat::Svg => 0,
        }
    }

    /// What an encoder holds for each pixel beside the picture, its growing output included.
    fn encoder_bytes_per_pixel(&self) -> u64 {
        match self.encoding {
            // Coefficients, kept until the Huffman codes are known.
            Encoding::Jpeg { .. } => 8,
            Encoding::Png => 12,
            // A copy for each entry in turn, which is resized to 256 pixels at most.
            Encoding::Ico => 12,
            // The quantiser works on three floats a pixel.
            Encoding::Gif => 28,
            // Planes of 4:2:0 and alpha, tokens.
            Encoding::Webp { .. } => 10,
            // Hash chains and several tries at back references.
            Encoding::WebpLossless => 52,
            // The planes, the encoder's frames and its notes about each block.
            Encoding::Avif { .. } => 60,
            Encoding::AvifLossless => 140,
            Encoding::Svg => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_are_held_in_no_more_than_is_said() {
        let facts = r#"{"format": "jpeg", "stored_size": {"width": 4001, "height": 3000}, "orientation": 1, "frames": 1,
                        "bytes_per_pixel": 3, "progressive": false}"#;
        let whole = Plan::whole(serde_json::from_str(facts).unwrap(), Encoding::Png);
        let held = |reduction| Plan { decode_reduction: reduction, ..whole.clone() }.held_bytes();
        assert_eq!([1, 2, 4, 8].map(held), [36_009_000, 9_004_500, 2_252_250, 563_625]);
    }
}
