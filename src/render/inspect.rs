//! What a file is, beyond what a render needs to know: whether all of it can be decoded, its colours, what it tells of whoever
//! made it. For whoever takes uploads.

use std::ops::RangeInclusive;

use bytes::Bytes;
use img_parts::{
    ImageEXIF as _,
    jpeg::{Jpeg, markers},
    png::Png,
    webp::WebP,
};
use moxcms::{ColorProfile, ProfileText};
use serde::{Deserialize, Serialize};

use super::{
    RenderError, codec,
    codec::animation::Frames,
    exif,
    picture::{Layout, Picture},
    plan::{Encoding, Plan},
};
use crate::model::{ImageFormat, SourceFacts};

/// The most characters of a profile's name.
const MAX_NAME_CHARS: usize = 100;
/// ISO BMFF files have their boxes in front, but for the data.
const BOXES_BYTES: usize = 1 << 20;
/// Places in them that may be the beginning of an EXIF block.
const BOXES_EXIF: usize = 16;

/// How colours are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // by their names
pub enum Colours {
    Gray,
    Rgb,
    Cmyk,
}

/// What was found in a file that decodes to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inspection {
    /// How colours are stored.
    pub colours: Colours,
    /// Bits of a sample as stored.
    pub bits: u8,
    /// Whether any pixel of it is not opaque.
    pub is_transparent: bool,
    /// Its colour profile's name, empty for one without.
    pub profile: Option<String>,
    /// What it says of itself.
    pub metadata: Told,
}

/// What a file says beside its pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// An EXIF block.
    pub exif: bool,
    /// Where the picture was taken, in EXIF or XMP.
    pub gps: bool,
    /// An XMP packet.
    pub xmp: bool,
    /// IPTC, as news agencies use it.
    pub iptc: bool,
    /// Comments and other texts.
    pub text: bool,
}

impl Inspection {
    /// Whether an honest worker can have said so.
    pub fn is_plausible(&self) -> bool {
        const BITS: RangeInclusive<u8> = 1..=32;
        BITS.contains(&self.bits)
    }

    /// The same with the profile's name put through `change`.
    pub(crate) fn with_name(mut self, change: impl FnOnce(&str) -> String) -> Self {
        self.profile = self.profile.map(|name| change(&name));
        self
    }
}

impl Plan {
    /// The decoding of a whole file, all frames of it, at this reduction of a JPEG: in full where memory allows, else by an
    /// eighth, for which all of its bytes are read as well.
    pub fn to_inspect(facts: &SourceFacts, reduction: u8) -> Self {
        let decode_reduction = if facts.format == ImageFormat::Jpeg { reduction } else { 1 };
        Self { decode_reduction, ..Self::whole(facts.clone(), Encoding::Png) }
    }
}

/// Decodes all there is, and looks at the rest.
///
/// # Errors
/// When it is damaged, or not what the plan was made for.
pub fn inspect(source: &[u8], plan: &Plan) -> Result<Inspection, RenderError> {
    let format = plan.source.format;
    let decoded = decode(source, plan)?;
    let (stored, bits) = codec::stored_colours(source, format).unwrap_or_else(|| by_layout(decoded.layout));
    Ok(Inspection {
        colours: stored,
        bits,
        is_transparent: decoded.is_transparent,
        profile: decoded.profile.as_deref().map(name),
        metadata: told(source, format),
    })
}

/// What is kept of decoded pixels.
struct Decoded {
    layout: Layout,
    is_transparent: bool,
    profile: Option<Vec<u8>>,
}

impl Decoded {
    fn of(picture: Picture) -> Self {
        Self { layout: picture.layout, is_transparent: is_transparent(&picture), profile: picture.profile }
    }
}

fn decode(source: &[u8], plan: &Plan) -> Result<Decoded, RenderError> {
    let facts = &plan.source;
    let is_moving = facts.frames > 1 && matches!(facts.format, ImageFormat::Gif | ImageFormat::Webp);
    if is_moving {
        let mut frames = Frames::open(source, plan)?;
        let mut first: Option<Decoded> = None;
        while let Some(frame) = frames.next()? {
            let decoded = Decoded::of(frame.picture);
            let shows_through = decoded.is_transparent;
            first.get_or_insert(decoded).is_transparent |= shows_through;
        }
        return first.ok_or(RenderError::Changed);
    }
    if facts.format == ImageFormat::Png && !facts.progressive {
        let (mut layout, mut shows_through) = (Layout::Rgb8, false);
        let profile = codec::decode_bands(source, plan, |band| {
            layout = band.layout;
            shows_through |= is_transparent(&band);
            Ok(())
        })?;
        return Ok(Decoded { layout, is_transparent: shows_through, profile });
    }
    codec::decode(source, plan).map(Decoded::of)
}

fn is_transparent(picture: &Picture) -> bool {
    let pixel = picture.layout.bytes();
    picture.layout.has_alpha() && picture.pixels.chunks_exact(pixel).any(|pixel| pixel.last() != Some(&u8::MAX))
}

fn by_layout(layout: Layout) -> (Colours, u8) {
    match layout {
        Layout::Gray8 | Layout::GrayAlpha8 => (Colours::Gray, 8),
        Layout::Gray16 => (Colours::Gray, 16),
        Layout::Rgb8 | Layout::Rgba8 => (Colours::Rgb, 8),
        Layout::Cmyk8 => (Colours::Cmyk, 8),
    }
}

/// A profile's own name for itself; empty where it has none, or cannot be read.
fn name(profile: &[u8]) -> String {
    let description = ColorProfile::new_from_slice(profile).ok().and_then(|profile| profile.description);
    let text = match description {
        Some(ProfileText::PlainString(text)) => text,
        Some(ProfileText::Localizable(texts)) => {
            let english = texts.iter().position(|text| text.language == "en").unwrap_or(0);
            texts.into_iter().nth(english).map(|text| text.value).unwrap_or_default()
        }
        Some(ProfileText::Description(text)) => match text.ascii_string.is_empty() {
            true => text.unicode_string,
            false => text.ascii_string,
        },
        None => String::new(),
    };
    text.chars().filter(|c| !c.is_control()).take(MAX_NAME_CHARS).collect()
}

/// One that cannot be taken apart tells nothing.
fn told(source: &[u8], format: ImageFormat) -> Told {
    match format {
        ImageFormat::Jpeg => {
            Jpeg::from_bytes(Bytes::copy_from_slice(source)).map(|jpeg| in_jpeg(&jpeg)).unwrap_or_default()
        }
        ImageFormat::Png => Png::from_bytes(Bytes::copy_from_slice(source)).map(|png| in_png(&png)).unwrap_or_default(),
        ImageFormat::Webp => {
            WebP::from_bytes(Bytes::copy_from_slice(source)).map(|webp| in_webp(&webp)).unwrap_or_default()
        }
        ImageFormat::Tiff => Told {
            // Its own directory has the tags (TIFF 6.0; EXIF 2.32, 4.6.3; XMP part 3, 1.1.6).
            exif: exif::has_tag(source, 0x8769),
            gps: exif::has_gps(source),
            xmp: exif::has_tag(source, 700),
            iptc: exif::has_tag(source, 33_723),
            text: exif::has_tag(source, 270) || exif::has_tag(source, 315),
        },
        ImageFormat::Avif | ImageFormat::Heic => in_boxes(source),
        ImageFormat::Gif => {
            let xmp = find(source, b"XMP DataXMP");
            Told { xmp, gps: xmp && names_place(source), ..Told::default() }
        }
        ImageFormat::Bmp | ImageFormat::Ico | ImageFormat::Svg => Told::default(),
    }
}

fn in_jpeg(jpeg: &Jpeg) -> Told {
    let exif = jpeg.exif();
    let segments = |marker, prefix: &'static [u8]| {
        jpeg.segments_by_marker(marker).filter(move |segment| segment.contents().starts_with(prefix))
    };
    Told {
        gps: exif.as_deref().is_some_and(exif::has_gps)
            || segments(markers::APP1, b"http://ns.adobe.com/x").any(|segment| names_place(segment.contents())),
        exif: exif.is_some(),
        xmp: segments(markers::APP1, b"http://ns.adobe.com/xap/1.0/\0").next().is_some(),
        iptc: segments(markers::APP13, b"Photoshop 3.0\0").any(|segment| find(segment.contents(), b"8BIM\x04\x04")),
        text: segments(markers::COM, b"").next().is_some(),
    }
}

fn in_png(png: &Png) -> Told {
    let exif = png.exif();
    let mut told = Told { exif: exif.is_some(), gps: exif.as_deref().is_some_and(exif::has_gps), ..Told::default() };
    for chunk in png.chunks() {
        match &chunk.kind() {
            b"iTXt" if chunk.contents().starts_with(b"XML:com.adobe.xmp\0") => {
                told.xmp = true;
                told.gps |= names_place(chunk.contents());
            }
            b"iTXt" | b"tEXt" | b"zTXt" => told.text = true,
            _ => {}
        }
    }
    told
}

fn in_webp(webp: &WebP) -> Told {
    let exif = webp.exif();
    let xmp = webp.chunk_by_id(*b"XMP ").and_then(|chunk| chunk.content().data().cloned());
    let in_xmp = xmp.as_deref().is_some_and(names_place);
    Told {
        gps: exif.as_deref().is_some_and(exif::has_gps) || in_xmp,
        exif: exif.is_some(),
        xmp: xmp.is_some(),
        ..Told::default()
    }
}

/// Items are named in front; what they hold lies anywhere (HEIF, annex A.2.1: EXIF's TIFF structure, after a number).
fn in_boxes(source: &[u8]) -> Told {
    let front = &source[..source.len().min(BOXES_BYTES)];
    let exif = front.windows(8).any(|window| window.starts_with(b"Exif\0"))
        && front.windows(4).any(|window| window == b"infe");
    let xmp = find(front, b"application/rdf+xml");
    // Anything may look like such a structure's beginning, in a file that was made for it all of it: the first few are looked into,
    // each for as long as the structure itself may be.
    let begins = |head: &[u8]| head == b"II*\0" || head == b"MM\0*";
    let places = source.windows(4).enumerate().filter(|(_, head)| begins(head)).take(BOXES_EXIF);
    let mut blocks = places.map(|(at, _)| &source[at..source.len().min(at + exif::MAX_BYTES)]);
    let gps = exif && blocks.any(exif::has_gps);
    Told { exif, xmp, gps: gps || (xmp && names_place(source)), ..Told::default() }
}

/// Whether an XMP packet has a place (EXIF schema for XMP).
fn names_place(packet: &[u8]) -> bool {
    find(packet, b"GPSLatitude")
}

fn find(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(name: &str) -> Vec<u8> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/images");
        std::fs::read(folder.join(name)).unwrap()
    }

    fn inspected(source: &[u8]) -> Result<Inspection, RenderError> {
        inspect(source, &Plan::to_inspect(&super::super::probe(source)?, 1))
    }

    #[test]
    fn colours_are_those_that_are_stored() {
        for (name, colours, bits, is_transparent) in [
            ("photo_land.jpg", Colours::Rgb, 8, false),
            ("gray8.jpg", Colours::Gray, 8, false),
            ("cmyk.jpg", Colours::Cmyk, 8, false),
            ("gray16.png", Colours::Gray, 16, false),
            ("rgb16.png", Colours::Rgb, 16, false),
            ("bilevel.png", Colours::Gray, 1, false),
            ("rgba.png", Colours::Rgb, 8, true),
            ("palette_trns.png", Colours::Rgb, 8, true),
            ("palette_opaque.png", Colours::Rgb, 8, false),
            ("alpha.webp", Colours::Rgb, 8, true),
            ("photo.tiff", Colours::Rgb, 8, false),
            ("photo.avif", Colours::Rgb, 8, false),
            ("anim.gif", Colours::Rgb, 8, false),
        ] {
            let found = inspected(&vector(name)).unwrap();
            let told = (found.colours, found.bits, found.is_transparent);
            assert_eq!(told, (colours, bits, is_transparent), "{name}");
        }
        assert!(inspected(&vector("wide_gamut.jpg")).unwrap().profile.is_some_and(|name| !name.is_empty()));
        assert_eq!(inspected(&vector("rgba.png")).unwrap().profile, None);
    }

    #[test]
    fn what_a_picture_tells_is_found() {
        // A directory with the tag of a GPS directory, and one with an orientation alone.
        const GPS: &[u8] = b"MM\0*\0\0\0\x08\0\x01\x88\x25\0\x04\0\0\0\x01\0\0\0\x1a\0\0\0\0";
        const PLAIN: &[u8] = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let with_exif = |block: &'static [u8]| {
            let mut jpeg = Jpeg::from_bytes(vector("photo_land.jpg").into()).unwrap();
            jpeg.set_exif(Some(Bytes::from_static(block)));
            inspected(&jpeg.encoder().bytes()).unwrap().metadata
        };
        assert_eq!(with_exif(GPS), Told { exif: true, gps: true, ..with_exif(PLAIN) });
        assert!(with_exif(PLAIN).exif && !with_exif(PLAIN).gps);
        let mut png = Png::from_bytes(vector("rgba.png").into()).unwrap();
        png.set_exif(Some(Bytes::from_static(GPS)));
        assert!(inspected(&png.encoder().bytes()).unwrap().metadata.gps);
        let mut webp = WebP::from_bytes(vector("lossy.webp").into()).unwrap();
        webp.set_exif(Some(Bytes::from_static(GPS)));
        assert!(inspected(&webp.encoder().bytes()).unwrap().metadata.gps);
    }

    #[test]
    fn a_file_full_of_beginnings_is_looked_through_at_once() {
        const GPS: &[u8] = b"MM\0*\0\0\0\x08\0\x01\x88\x25\0\x04\0\0\0\x01\0\0\0\x1a\0\0\0\0";
        const FRONT: &[u8] = b"\0\0\0\x15infe\x02\0\0\0\0\x01\0\0Exif\0\0\0\0";
        let exif = Told { exif: true, ..Told::default() };
        assert_eq!(in_boxes(&[FRONT, b"pixels", GPS].concat()), Told { gps: true, ..exif });
        let began = std::time::Instant::now();
        assert_eq!(in_boxes(&[FRONT, &b"II*\0".repeat(2 << 20)].concat()), exif);
        assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    }

    #[test]
    fn half_a_file_is_damaged_whatever_its_header_says() {
        for name in ["photo.tiff", "rgba.png", "lossy.webp", "anim.gif", "anim.webp", "photo.avif", "photo.bmp"] {
            let whole = vector(name);
            assert!(inspected(&whole).is_ok(), "{name}");
            assert!(inspected(&whole[..whole.len() / 2]).is_err(), "{name}");
        }
    }
}
