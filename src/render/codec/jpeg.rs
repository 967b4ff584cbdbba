//! JPEG, by libjpeg-turbo.

use turbojpeg::{Colorspace, Compressor, Decompressor, Image, PixelFormat, ScalingFactor, Subsamp};

use super::{
    corrupt, encode_error, expect_size,
    jpeg_header::{Header, ICC},
};
use crate::{
    model::{ImageFormat, Size, SourceFacts},
    render::{
        RenderError, exif,
        picture::{Layout, Picture, buffer_bytes},
    },
    spec::Quality,
};

/// Scans of one file. Real progressive files have about ten; a 305 KB file with 8,000 empty ones costs 11 s of CPU.
const MAX_SCANS: u32 = 100;
/// Profile bytes in one APP2 segment: 65,533 less the heading.
const PROFILE_PART_BYTES: usize = 65_533 - ICC.len() - 2;
const END_OF_IMAGE: &[u8] = b"\xFF\xD9";

/// Reads the header.
pub fn probe(source: &[u8]) -> Result<SourceFacts, RenderError> {
    let header = Header::read(source)?;
    Ok(SourceFacts {
        format: ImageFormat::Jpeg,
        stored_size: header.size,
        orientation: header.exif.map(exif::orientation).unwrap_or_default(),
        frames: 1,
        bytes_per_pixel: layout(&header)?.bytes() as u8,
        progressive: header.several_scans,
        document: None,
    })
}

/// Decodes to `1/reduction` of the size.
pub fn decode(source: &[u8], stored_size: Size, reduction: u8) -> Result<Picture, RenderError> {
    let header = Header::read(source)?;
    expect_size(header.size, stored_size)?;
    let layout = layout(&header)?;
    let factor = ScalingFactor::new(1, reduction.max(1).into());
    let size =
        Size::new(factor.scale(stored_size.width as usize) as u32, factor.scale(stored_size.height as usize) as u32);
    let mut picture = Picture::blank(size, layout);
    match decompress(source, factor, &mut picture) {
        Ok(()) => {}
        Err(complaint) if only_extraneous_bytes(&complaint, source) => {}
        // Many a file lacks nothing but its last two bytes. With those put back, whatever else is missing is still
        // complained about.
        Err(_) if !source.ends_with(END_OF_IMAGE) => {
            let mended = [source, END_OF_IMAGE].concat();
            decompress(&mended, factor, &mut picture).map_err(|error| corrupt(ImageFormat::Jpeg, error))?;
        }
        Err(error) => return Err(corrupt(ImageFormat::Jpeg, error)),
    }
    if layout == Layout::Cmyk8 && header.adobe {
        picture.pixels.iter_mut().for_each(|ink| *ink = 255 - *ink);
    }
    picture.profile = header.profile();
    Ok(picture)
}

/// Encodes with libjpeg's standard tables at a quality, 4:2:0, and Huffman codes made for the picture, as Wagtail does.
///
/// With `rgb`, for sources in CMYK, red, green and blue are coded as they are, each by the luma table and none subsampled.
/// Wagtail keeps the four inks, each by that table, which browsers show in colours of their own choice; of what every
/// browser shows alike, YCbCr is 8.2 dB (4:2:0) and 4.2 dB (4:4:4) below Wagtail's picture, and only this is not below.
pub fn encode(picture: Picture, quality: Quality, progressive: bool, rgb: bool) -> Result<Vec<u8>, RenderError> {
    let picture = match picture.layout {
        Layout::Gray8 | Layout::Gray16 => picture.into_8_bits(),
        Layout::Rgb8 | Layout::Cmyk8 => picture.into_colour(),
        // The plan lays every JPEG on a background; alpha that still comes here is ignored.
        Layout::Rgba8 => picture.mapped(Layout::Rgb8, |[r, g, b, _]: [u8; 4]| [r, g, b]),
        Layout::GrayAlpha8 => picture.mapped(Layout::Gray8, |[gray, _]: [u8; 2]| [gray]),
    };
    let bytes =
        compress(&picture, quality, progressive, rgb).map_err(|error| encode_error(ImageFormat::Jpeg, error))?;
    Ok(match picture.usable_profile() {
        Some(profile) => with_profile(&bytes, profile),
        None => bytes,
    })
}

fn layout(header: &Header<'_>) -> Result<Layout, RenderError> {
    let unsupported = |detail: String| RenderError::Unsupported { format: ImageFormat::Jpeg, detail };
    match (header.components, header.precision, header.lossless) {
        (1, 8, false) => Ok(Layout::Gray8),
        (3, 8, false) => Ok(Layout::Rgb8),
        (4, 8, false) => Ok(Layout::Cmyk8),
        (_, 8, true) => Err(unsupported("lossless coding".into())),
        (components, 8, false) => Err(unsupported(format!("{components} components"))),
        (_, bits, _) => Err(unsupported(format!("{bits} bits a sample"))),
    }
}

fn pixel_format(layout: Layout) -> PixelFormat {
    match layout {
        Layout::Gray8 => PixelFormat::GRAY,
        Layout::Cmyk8 => PixelFormat::CMYK,
        Layout::Rgb8 | Layout::Rgba8 | Layout::GrayAlpha8 | Layout::Gray16 => PixelFormat::RGB,
    }
}

/// Accurate DCT and smooth upsampling are TurboJPEG's defaults, and Pillow's. A warning is an error here.
fn decompress(source: &[u8], factor: ScalingFactor, picture: &mut Picture) -> turbojpeg::Result<()> {
    let mut decompressor = Decompressor::new()?;
    decompressor.set_scan_limit(MAX_SCANS)?;
    decompressor.set_scaling_factor(factor)?;
    let (width, height) = (picture.size.width as usize, picture.size.height as usize);
    let (pitch, format) = (picture.stride(), pixel_format(picture.layout));
    decompressor.read_header(source)?;
    decompressor.decompress(source, Image { pixels: &mut picture.pixels[..], width, pitch, height, format })
}

/// libjpeg warns of bytes between segments, which many a camera leaves there; the picture is whole. It reports its first
/// warning only, so that the end of the image has to be looked for apart.
fn only_extraneous_bytes(complaint: &turbojpeg::Error, source: &[u8]) -> bool {
    complaint.to_string().contains("extraneous bytes before marker") && source.ends_with(END_OF_IMAGE)
}

fn compress(picture: &Picture, quality: Quality, progressive: bool, rgb: bool) -> turbojpeg::Result<Vec<u8>> {
    let gray = picture.layout == Layout::Gray8;
    let mut compressor = Compressor::new()?;
    compressor.set_quality(quality.get().max(1).into())?; // libjpeg's scale begins at 1, and takes 0 for it
    compressor.set_subsamp(if gray { Subsamp::Gray } else { Subsamp::Sub2x2 })?;
    if rgb && !gray {
        compressor.set_subsamp(Subsamp::None)?;
        compressor.set_colorspace(Colorspace::RGB)?;
    }
    compressor.set_optimize(true)?;
    compressor.set_progressive(progressive)?;
    debug_assert_eq!(picture.pixels.len(), buffer_bytes(picture.size, picture.layout));
    compressor.compress_to_vec(Image {
        pixels: &picture.pixels[..],
        width: picture.size.width as usize,
        pitch: picture.stride(),
        height: picture.size.height as usize,
        format: pixel_format(picture.layout),
    })
}

/// Puts APP2 segments after the JFIF one.
fn with_profile(jpeg: &[u8], profile: &[u8]) -> Vec<u8> {
    let after_jfif = match jpeg {
        [_, _, 0xFF, 0xE0, high, low, ..] => 4 + usize::from(u16::from_be_bytes([*high, *low])),
        _ => 2,
    };
    let (before, after) = jpeg.split_at(after_jfif.min(jpeg.len()));
    let parts = profile.chunks(PROFILE_PART_BYTES);
    let total = parts.len() as u8; // at most 65 of them: a profile has up to 4 MiB
    let mut bytes = Vec::with_capacity(jpeg.len() + profile.len() + usize::from(total) * (ICC.len() + 6));
    bytes.extend_from_slice(before);
    for (number, part) in (1..=total).zip(parts) {
        bytes.extend_from_slice(&[0xFF, 0xE2]);
        bytes.extend_from_slice(&((2 + ICC.len() + 2 + part.len()) as u16).to_be_bytes());
        bytes.extend_from_slice(ICC);
        bytes.extend_from_slice(&[number, total]);
        bytes.extend_from_slice(part);
    }
    bytes.extend_from_slice(after);
    bytes
}
