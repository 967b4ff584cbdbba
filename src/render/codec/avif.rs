//! AVIF: read by libavif on dav1d, written by rav1e in a container of our own.
//!
//! The `unsafe` of this file is libavif's decoder and its conversion to RGB, behind [`Decoder`]. Both codecs run on the one
//! thread that a worker has.

use std::{ffi::CStr, marker::PhantomData};

use libavif_sys as ffi;
use sendimage_pixels::av1::{self, Coded, Still};

use super::{
    MAX_PROFILE_BYTES,
    avif_file::{self, Item},
    corrupt, encode_error, expect_size,
};
use crate::{
    model::{ImageFormat, Orientation, Size, SourceFacts},
    render::{
        RenderError,
        picture::{Layout, Picture},
        planes::{Planes, Range, Subsampled},
    },
    spec::Quality,
};

/// libavif's version, with its decoder's.
pub fn version() -> String {
    // What libavif asks for at least (avif.h, avifCodecVersions).
    let mut codecs = [0; 256];
    // SAFETY: the buffer has the size that the header demands, and is ended by a NUL; the version is a static text.
    let (own, codecs) = unsafe {
        ffi::avifCodecVersions(codecs.as_mut_ptr());
        (CStr::from_ptr(ffi::avifVersion()), CStr::from_ptr(codecs.as_ptr()))
    };
    format!("{} ({})", own.to_string_lossy(), codecs.to_string_lossy())
}

/// Reads the boxes; no AV1 is decoded.
pub fn probe(source: &[u8]) -> Result<SourceFacts, RenderError> {
    let decoder = Decoder::open(source, None)?;
    let image = decoder.image();
    Ok(SourceFacts {
        format: ImageFormat::Avif,
        stored_size: size_of(image),
        orientation: orientation(image),
        frames: decoder.frames(),
        bytes_per_pixel: decoder.layout()?.bytes() as u8,
        progressive: false,
        document: None,
    })
}

/// Decodes the picture, of a sequence the first frame. Ten and twelve bits a sample become eight.
pub fn decode(source: &[u8], stored_size: Size) -> Result<Picture, RenderError> {
    let mut decoder = Decoder::open(source, Some(stored_size))?;
    expect_size(size_of(decoder.image()), stored_size)?;
    let profile = decoder.profile().filter(|profile| profile.len() <= MAX_PROFILE_BYTES).map(<[u8]>::to_vec);
    let layout = decoder.layout()?;
    decoder.next_image()?;
    expect_size(size_of(decoder.image()), stored_size)?;
    let picture = Picture { profile, ..decoder.colours(layout.has_alpha())? };
    Ok(match layout {
        Layout::Gray8 => picture.mapped(layout, |[gray, _, _]: [u8; 3]| [gray]),
        Layout::GrayAlpha8 => picture.mapped(layout, |[gray, _, _, alpha]: [u8; 4]| [gray, alpha]),
        _ => picture,
    })
}

/// As [`decode`], the planes as they are coded. `None` unless these are eight bits deep, BT.601 and without alpha.
pub fn decode_planes(source: &[u8], stored_size: Size) -> Result<Option<Planes>, RenderError> {
    let mut decoder = Decoder::open(source, Some(stored_size))?;
    expect_size(size_of(decoder.image()), stored_size)?;
    // What the boxes tell already is not decoded in vain.
    if decoder.layout()? != Layout::Rgb8 || decoder.plain_subsampling().is_none() {
        return Ok(None);
    }
    let profile = decoder.profile().filter(|profile| profile.len() <= MAX_PROFILE_BYTES).map(<[u8]>::to_vec);
    decoder.next_image()?;
    expect_size(size_of(decoder.image()), stored_size)?;
    Ok(decoder.planes().map(|planes| Planes { profile, ..planes }))
}

fn size_of(image: &ffi::avifImage) -> Size {
    Size::new(image.width, image.height)
}

/// The turn that the boxes ask for: a rotation against the clock, then a mirroring (HEIF, 6.5.10 and 6.5.12). An EXIF block
/// counts for nothing in this format.
fn orientation(image: &ffi::avifImage) -> Orientation {
    let has = |flag| image.transformFlags & flag != 0;
    let turns = if has(ffi::AVIF_TRANSFORM_IROT) { image.irot.angle & 3 } else { 0 };
    // Axis 0 exchanges top and bottom.
    let mirror = has(ffi::AVIF_TRANSFORM_IMIR).then_some(image.imir.axis & 1);
    use Orientation as O;
    match (turns, mirror) {
        (0, None) => O::Upright,
        (1, None) => O::Rotate270,
        (2, None) => O::Rotate180,
        (_, None) => O::Rotate90,
        (0, Some(1)) | (2, Some(0)) => O::FlipHorizontal,
        (0, Some(_)) | (2, Some(_)) => O::FlipVertical,
        (1, Some(0)) | (3, Some(1)) => O::Transpose,
        (_, Some(_)) => O::Transverse,
    }
}

/// libavif's decoder over bytes that outlive it.
struct Decoder<'a> {
    raw: *mut ffi::avifDecoder,
    source: PhantomData<&'a [u8]>,
}

impl Drop for Decoder<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `avifDecoderCreate`, destroyed once.
        unsafe { ffi::avifDecoderDestroy(self.raw) };
    }
}

impl<'a> Decoder<'a> {
    /// Reads the boxes. With `size`, no frame with more pixels will be decoded.
    fn open(source: &'a [u8], size: Option<Size>) -> Result<Self, RenderError> {
        // SAFETY: takes nothing, and gives null or a decoder of our own.
        let raw = unsafe { ffi::avifDecoderCreate() };
        if raw.is_null() {
            return Err(corrupt(ImageFormat::Avif, "no memory for a decoder"));
        }
        let decoder = Self { raw, source: PhantomData };
        // SAFETY: `raw` is a decoder that nobody else has.
        let settings = unsafe { &mut *raw };
        settings.maxThreads = 1;
        settings.ignoreExif = 1;
        settings.ignoreXMP = 1;
        settings.imageDimensionLimit = ffi::AVIF_DEFAULT_IMAGE_DIMENSION_LIMIT;
        if let Some(size) = size {
            let most = u64::from(ffi::AVIF_DEFAULT_IMAGE_SIZE_LIMIT);
            settings.imageSizeLimit = size.pixels().clamp(1, most) as u32;
        }
        // Files by older writers lack a box that tells nothing new, or have a clean aperture that nobody applies.
        settings.strictFlags = ffi::AVIF_STRICT_ALPHA_ISPE_REQUIRED;
        // SAFETY: `source` is readable for its length and, by `'a`, for longer than the decoder lives.
        let status = unsafe { ffi::avifDecoderSetIOMemory(raw, source.as_ptr(), source.len()) };
        decoder.check(status)?;
        // SAFETY: the decoder has its input.
        let status = unsafe { ffi::avifDecoderParse(raw) };
        decoder.check(status)?;
        Ok(decoder)
    }

    /// Decodes the first frame.
    fn next_image(&mut self) -> Result<(), RenderError> {
        // SAFETY: the decoder has parsed its input.
        let status = unsafe { ffi::avifDecoderNextImage(self.raw) };
        self.check(status)
    }

    fn raw(&self) -> &ffi::avifDecoder {
        // SAFETY: a decoder, which lives as long as `self`, and is written to by `&mut self` only.
        unsafe { &*self.raw }
    }

    /// What is known of the picture: after `next_image` its samples too.
    fn image(&self) -> &ffi::avifImage {
        // SAFETY: set by a successful parse, owned by the decoder, and replaced by `&mut self` only.
        unsafe { &*self.raw().image }
    }

    fn frames(&self) -> u32 {
        u32::try_from(self.raw().imageCount).unwrap_or(0).max(1)
    }

    fn layout(&self) -> Result<Layout, RenderError> {
        let gray = match self.image().yuvFormat {
            ffi::AVIF_PIXEL_FORMAT_YUV400 => true,
            ffi::AVIF_PIXEL_FORMAT_YUV444 | ffi::AVIF_PIXEL_FORMAT_YUV422 | ffi::AVIF_PIXEL_FORMAT_YUV420 => false,
            _ => return Err(corrupt(ImageFormat::Avif, "no pixel format is named")),
        };
        Ok(match (gray, self.raw().alphaPresent != 0) {
            (true, false) => Layout::Gray8,
            (true, true) => Layout::GrayAlpha8,
            (false, false) => Layout::Rgb8,
            (false, true) => Layout::Rgba8,
        })
    }

    fn profile(&self) -> Option<&[u8]> {
        let ffi::avifRWData { data, size } = self.image().icc;
        if data.is_null() || size == 0 {
            return None;
        }
        // SAFETY: libavif's own buffer of `size` bytes, which stays as long as nothing is decoded.
        Some(unsafe { std::slice::from_raw_parts(data, size) })
    }

    /// The subsampling of colours that are handed on as they are: eight bits deep, BT.601.
    fn plain_subsampling(&self) -> Option<(u32, u32)> {
        let image = self.image();
        let subsampling = match image.yuvFormat {
            ffi::AVIF_PIXEL_FORMAT_YUV444 => (1, 1),
            ffi::AVIF_PIXEL_FORMAT_YUV422 => (2, 1),
            ffi::AVIF_PIXEL_FORMAT_YUV420 => (2, 2),
            _ => return None,
        };
        // libavif too takes what is not specified for BT.601.
        let is_bt601 = matches!(
            u32::from(image.matrixCoefficients),
            ffi::AVIF_MATRIX_COEFFICIENTS_BT470BG
                | ffi::AVIF_MATRIX_COEFFICIENTS_BT601
                | ffi::AVIF_MATRIX_COEFFICIENTS_UNSPECIFIED
        );
        (image.depth == 8 && is_bt601).then_some(subsampling)
    }

    /// A copy of the decoded frame's planes, if they are of that kind.
    fn planes(&self) -> Option<Planes> {
        let (image, subsampling) = (self.image(), self.plain_subsampling()?);
        if image.yuvPlanes.iter().any(|plane| plane.is_null()) {
            return None;
        }
        let size = size_of(image);
        let chroma = Size::new(size.width.div_ceil(subsampling.0), size.height.div_ceil(subsampling.1));
        let mut samples = Vec::with_capacity((size.pixels() + 2 * chroma.pixels()) as usize);
        for (index, Size { width, height }) in [size, chroma, chroma].into_iter().enumerate() {
            let (rows, stride) = (image.yuvPlanes[index], image.yuvRowBytes[index] as usize);
            for row in 0..height as usize {
                // SAFETY: a decoded frame has its height in rows of `yuvRowBytes`, each at least the plane's width.
                samples
                    .extend_from_slice(unsafe { std::slice::from_raw_parts(rows.add(row * stride), width as usize) });
            }
        }
        let range = if image.yuvRange == ffi::AVIF_RANGE_FULL { Range::Full } else { Range::Limited };
        let subsampling = (subsampling.0 as u8, subsampling.1 as u8);
        Some(Planes { size, luma: size, chroma, subsampling, samples, range, profile: None })
    }

    /// The decoded frame as RGB or RGBA in eight bits, not premultiplied, chroma upsampled smoothly.
    fn colours(&self, alpha: bool) -> Result<Picture, RenderError> {
        let image = self.image();
        let layout = if alpha { Layout::Rgba8 } else { Layout::Rgb8 };
        let mut picture = Picture::blank(size_of(image), layout);
        let mut rgb = ffi::avifRGBImage::default();
        // SAFETY: both are valid, and `rgb` is only written to.
        unsafe { ffi::avifRGBImageSetDefaults(&raw mut rgb, image) };
        rgb.depth = 8;
        rgb.format = if alpha { ffi::AVIF_RGB_FORMAT_RGBA } else { ffi::AVIF_RGB_FORMAT_RGB };
        rgb.chromaUpsampling = ffi::AVIF_CHROMA_UPSAMPLING_BEST_QUALITY;
        rgb.maxThreads = 1;
        rgb.pixels = picture.pixels.as_mut_ptr();
        rgb.rowBytes = picture.stride() as u32;
        // SAFETY: `pixels` has the image's height in rows of `rowBytes`, each the image's width in pixels of this format;
        // the conversion writes nothing else and keeps nothing.
        let status = unsafe { ffi::avifImageYUVToRGB(image, &raw mut rgb) };
        self.check(status)?;
        Ok(picture)
    }

    fn check(&self, status: ffi::avifResult) -> Result<(), RenderError> {
        if status == ffi::AVIF_RESULT_OK {
            return Ok(());
        }
        // SAFETY: a static text for any number.
        let text = unsafe { CStr::from_ptr(ffi::avifResultToString(status)) }.to_string_lossy();
        let unsupported = matches!(
            status,
            ffi::AVIF_RESULT_NOT_IMPLEMENTED | ffi::AVIF_RESULT_UNSUPPORTED_DEPTH | ffi::AVIF_RESULT_NO_CODEC_AVAILABLE
        );
        Err(match unsupported {
            true => RenderError::Unsupported { format: ImageFormat::Avif, detail: text.into_owned() },
            false => corrupt(ImageFormat::Avif, text),
        })
    }
}

/// How to write the frame.
#[derive(Clone, Copy)]
pub enum Mode {
    /// YCbCr 4:2:0 in eight bits, at a quality.
    Lossy(Quality),
    /// Red, green and blue as they are, in ten bits.
    Lossless,
}

/// Encodes, with the profile where there is one. Gray is written without colour.
pub fn encode(picture: Picture, mode: Mode) -> Result<Vec<u8>, RenderError> {
    let picture = picture.into_screen_colours().into_8_bits();
    encode_file(&picture, mode).map_err(|detail| encode_error(ImageFormat::Avif, detail))
}

/// As [`encode`] at a quality, of what is in planes already.
pub fn encode_planes(picture: Subsampled, quality: Quality) -> Result<Vec<u8>, RenderError> {
    let picture = picture.in_range(Range::Full);
    let (size, mode, profile) = (picture.size(), Mode::Lossy(quality), picture.usable_profile());
    let planes = picture.planes.each_ref().map(|plane| &plane.pixels[..]);
    let (item, cicp) = encode_item(size, av1::Planes::Subsampled(planes), mode, profile)
        .map_err(|detail| encode_error(ImageFormat::Avif, detail))?;
    Ok(avif_file::write(size, &item, None, cicp, profile))
}

fn encode_file(picture: &Picture, mode: Mode) -> Result<Vec<u8>, String> {
    let size = picture.size;
    let profile = picture.usable_profile();
    let coded = |planes: av1::Planes<'_>, profile: Option<&[u8]>| encode_item(size, planes, mode, profile);
    let channel = |index: usize| -> Vec<u8> {
        picture.pixels.chunks_exact(picture.layout.bytes()).map(|pixel| pixel[index]).collect()
    };
    let (colours, cicp) = match (picture.layout, mode) {
        (Layout::Gray8 | Layout::GrayAlpha8, _) => coded(av1::Planes::Gray(&channel(0)), profile),
        (_, Mode::Lossy(_)) => {
            let [luma, blue, red] = subsampled(picture);
            coded(av1::Planes::Subsampled([&luma, &blue, &red]), profile)
        }
        (_, Mode::Lossless) => coded(av1::Planes::Rgb([&channel(0), &channel(1), &channel(2)]), profile),
    }?;
    let alpha = match picture.layout.has_alpha() {
        true => Some(coded(av1::Planes::Gray(&channel(picture.layout.bytes() - 1)), None)?.0),
        false => None,
    };
    Ok(avif_file::write(size, &colours, alpha.as_ref(), cicp, profile))
}

/// Encodes one item of the file, with the numbers of what its samples mean.
fn encode_item(
    size: Size,
    planes: av1::Planes<'_>,
    mode: Mode,
    profile: Option<&[u8]>,
) -> Result<(Item, [u16; 3]), String> {
    let channels = if matches!(planes, av1::Planes::Gray(_)) { 1 } else { 3 };
    let still = Still { width: size.width as usize, height: size.height as usize, planes, profiled: profile.is_some() };
    let settings = settings(mode, size);
    let Coded { configuration, data } = av1::encode(&still, settings)?;
    Ok((Item { configuration, data, channels, depth: settings.depth }, av1::cicp(&still)))
}

/// What is told to rav1e.
fn settings(mode: Mode, size: Size) -> av1::Settings {
    /// Up to here blocks of 8 pixels are tried too, for twice the time and a sixth off a thumbnail's length.
    const SMALL_PIXELS: u64 = 40_000;
    match mode {
        Mode::Lossy(quality) => av1::Settings {
            quantizer: quantizer(quality.get()),
            depth: 8,
            smallest_block: if size.pixels() <= SMALL_PIXELS { 8 } else { 16 },
            psychovisual: true,
        },
        // rav1e has no lossless mode, and its finest quantiser is a step too coarse for eight bits (54 to 57 dB). With two
        // more bits the eight-bit values come back: six samples of ten thousand are off by one, none by more, 80 dB and
        // above over six photographs. Small blocks have the more exact transforms, and make the file a tenth smaller.
        // Twelve bits are of a profile that not every browser decodes.
        Mode::Lossless => av1::Settings { quantizer: 1, depth: 10, smallest_block: 4, psychovisual: false },
    }
}

/// Quality on libavif's scale, which is Wagtail's, and rav1e's quantiser of the same PSNR. Measured against Pillow 13 with
/// libavif 1.4.2 (libaom, speed 6, its default): medians over six photographs of 90 to 600 pixels' width, at 0.8 to 1.4
/// times Pillow's length, 1.05 in the middle.
const QUANTIZERS: [(u8, u8); 12] = [
    (0, 252),
    (10, 230),
    (20, 210),
    (30, 190),
    (40, 168),
    (50, 142),
    (61, 120),
    (70, 95),
    (80, 66),
    (90, 37),
    (95, 23),
    (100, 4),
];

/// Straight lines between the measured points.
fn quantizer(quality: u8) -> u8 {
    let above = QUANTIZERS.iter().position(|(point, _)| *point >= quality).unwrap_or(QUANTIZERS.len() - 1).max(1);
    let ((low, coarse), (high, fine)) = (QUANTIZERS[above - 1], QUANTIZERS[above]);
    let (span, into) = (u16::from(high - low), u16::from(quality.min(100) - low));
    coarse - ((u16::from(coarse - fine) * into + span / 2) / span) as u8
}

/// Brightness for each pixel and two colour differences for each square of four: the mean of what there is of them.
fn subsampled(picture: &Picture) -> [Vec<u8>; 3] {
    /// ITU-R BT.601, 2.5.1.
    const RED: f32 = 0.299;
    const GREEN: f32 = 0.587;
    const BLUE: f32 = 0.114;
    let luma = |pixel: &[u8]| RED * f32::from(pixel[0]) + GREEN * f32::from(pixel[1]) + BLUE * f32::from(pixel[2]);
    let sample = |value: f32| value.round() as u8; // which saturates
    let (bytes, stride) = (picture.layout.bytes(), picture.stride());
    let difference = |channel: usize, weight: f32| {
        let scale = 0.5 / (1.0 - weight);
        let mean = move |(upper, lower): (&[u8], &[u8])| {
            let pixels = upper.chunks_exact(bytes).chain(lower.chunks_exact(bytes));
            let sum: f32 = pixels.map(|pixel| f32::from(pixel[channel]) - luma(pixel)).sum();
            sample(sum / ((upper.len() + lower.len()) / bytes) as f32 * scale + 128.0)
        };
        let rows = picture.pixels.chunks(2 * stride).map(move |rows| rows.split_at(stride));
        rows.flat_map(move |(upper, lower)| {
            // The last row of an odd height stands for its missing neighbour.
            let lower = if lower.is_empty() { upper } else { lower };
            upper.chunks(2 * bytes).zip(lower.chunks(2 * bytes)).map(mean)
        })
        .collect()
    };
    [
        picture.pixels.chunks_exact(bytes).map(|pixel| sample(luma(pixel))).collect(),
        difference(2, BLUE),
        difference(0, RED),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 37, height: 21 };

    fn picture(layout: Layout) -> Picture {
        let mut picture = Picture::blank(SIZE, layout);
        for (index, pixel) in picture.pixels.chunks_exact_mut(layout.bytes()).enumerate() {
            let (x, y) = (index % SIZE.width as usize, index / SIZE.width as usize);
            let values = [x * 6, y * 11, x * y % 256, 255 - x * 3];
            pixel.iter_mut().zip(values).for_each(|(byte, value)| *byte = value as u8);
        }
        picture
    }

    fn profile(space: &[u8; 4]) -> Vec<u8> {
        let mut profile: Vec<u8> = (0..300).map(|i| i as u8).collect();
        profile[16..20].copy_from_slice(space);
        profile
    }

    fn decoded(file: &[u8]) -> Picture {
        let facts = probe(file).unwrap();
        assert_eq!((facts.format, facts.stored_size, facts.frames), (ImageFormat::Avif, SIZE, 1));
        let picture = decode(file, SIZE).unwrap();
        assert_eq!(usize::from(facts.bytes_per_pixel), picture.layout.bytes());
        picture
    }

    fn furthest(a: &Picture, b: &Picture) -> u8 {
        assert_eq!((a.size, a.layout), (b.size, b.layout));
        a.pixels.iter().zip(&b.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }

    #[test]
    fn every_layout_comes_back_with_its_profile() {
        for (layout, space) in
            [(Layout::Gray8, b"GRAY"), (Layout::GrayAlpha8, b"GRAY"), (Layout::Rgb8, b"RGB "), (Layout::Rgba8, b"RGB ")]
        {
            let mut original = picture(layout);
            let lossless = decoded(&encode(original.clone(), Mode::Lossless).unwrap());
            assert!(furthest(&original, &lossless) <= 1, "{layout:?}");
            assert_eq!(lossless.profile, None);
            original.profile = Some(profile(space));
            let lossy = decoded(&encode(original.clone(), Mode::Lossy(Quality::new(90).unwrap())).unwrap());
            assert_eq!((lossy.layout, &lossy.profile), (layout, &original.profile));
        }
    }

    #[test]
    fn one_pixel_and_one_row_are_pictures() {
        for size in [Size::new(1, 1), Size::new(17, 1), Size::new(1, 40), Size::new(3, 2)] {
            for mode in [Mode::Lossless, Mode::Lossy(Quality::new(61).unwrap())] {
                let file = encode(Picture::blank(size, Layout::Rgba8), mode).unwrap();
                assert_eq!(decode(&file, size).unwrap().size, size);
            }
        }
    }

    #[test]
    fn quality_rises_all_the_way() {
        let steps: Vec<u8> = (0..=100).map(quantizer).collect();
        assert!(steps.is_sorted_by(|a, b| a > b), "{steps:?}");
        assert_eq!((steps[0], steps[61], steps[100]), (252, 120, 4));
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let file = encode(picture(Layout::Rgba8), Mode::Lossy(Quality::new(50).unwrap())).unwrap();
        for end in 0..file.len() {
            let cut = &file[..end];
            assert!(probe(cut).and_then(|facts| decode(cut, facts.stored_size)).is_err(), "{end} of {}", file.len());
        }
    }

    /// A turn put into the boxes: the property, and its number behind those of the picture.
    #[test]
    fn turns_are_read_from_the_boxes() {
        use Orientation as O;
        for (angle, axis, expected) in [
            (Some(1), None, O::Rotate270),
            (Some(2), None, O::Rotate180),
            (Some(3), None, O::Rotate90),
            (None, Some(0), O::FlipVertical),
            (None, Some(1), O::FlipHorizontal),
            (Some(1), Some(0), O::Transpose),
            (Some(1), Some(1), O::Transverse),
            (Some(2), Some(1), O::FlipVertical),
            (Some(3), Some(0), O::Transverse),
        ] {
            // SAFETY: all-zero is a valid image of plain numbers and null pointers.
            let mut image: ffi::avifImage = unsafe { std::mem::zeroed() };
            if let Some(angle) = angle {
                image.transformFlags |= ffi::AVIF_TRANSFORM_IROT;
                image.irot.angle = angle;
            }
            if let Some(axis) = axis {
                image.transformFlags |= ffi::AVIF_TRANSFORM_IMIR;
                image.imir.axis = axis;
            }
            assert_eq!(orientation(&image), expected, "{angle:?} {axis:?}");
        }
    }
}
