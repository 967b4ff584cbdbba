//! The whole of `probe` and `render`, on pictures made here and on damaged ones.

use proptest::prelude::*;

use super::{
    codec,
    picture::{Layout, Picture},
    plan::{Defaults, Encoding},
    *,
};
use crate::{
    model::{Orientation, PixelRect, Size},
    spec::{FilterSpec, Quality},
};

const QUALITY: u64 = 80;

fn quality() -> Quality {
    Quality::new(QUALITY).unwrap()
}

fn plan_for(source: &[u8], spec: &str) -> Result<Plan, String> {
    let defaults =
        Defaults { jpeg_quality: quality(), jpeg_progressive: false, webp_quality: quality(), full_decode_pixels: 100 };
    let facts = probe(source).map_err(|error| error.to_string())?;
    // What the gate does: nothing large is decoded in a test.
    if facts.stored_size.pixels() > 4_000_000 {
        return Err("over the limit".into());
    }
    let spec = FilterSpec::parse(spec).map_err(|error| error.to_string())?;
    Plan::new(&facts, &spec, None, &defaults).map_err(|error| error.to_string())
}

/// A smooth picture with some of everything in it.
fn picture(size: Size, layout: Layout) -> Picture {
    let mut picture = Picture::blank(size, layout);
    let bytes = layout.bytes();
    for (i, pixel) in picture.pixels.chunks_exact_mut(bytes).enumerate() {
        let (x, y) = (i as u32 % size.width, i as u32 / size.width);
        for (channel, byte) in pixel.iter_mut().enumerate() {
            *byte = ((x * 3 + y * (2 + channel as u32) + channel as u32 * 40) / 2 % 256) as u8;
        }
    }
    picture
}

fn decoded(bytes: &[u8]) -> Picture {
    let plan = plan_for(bytes, "original|format-png").unwrap();
    codec::decode(bytes, &plan).unwrap()
}

const LAYOUTS: [Layout; 5] = [Layout::Gray8, Layout::GrayAlpha8, Layout::Rgb8, Layout::Rgba8, Layout::Gray16];

#[test]
fn png_brings_every_layout_back() {
    for layout in LAYOUTS {
        let made = picture(Size::new(31, 17), layout);
        let bytes = codec::encode(made.clone(), Encoding::Png).unwrap();
        let back = decoded(&bytes);
        assert_eq!((back.layout, back.pixels == made.pixels), (layout, true), "{layout:?}");
    }
}

#[test]
fn lossless_webp_brings_visible_pixels_back() {
    for layout in LAYOUTS {
        let made = picture(Size::new(31, 17), layout);
        let bytes = codec::encode(made.clone(), Encoding::WebpLossless).unwrap();
        let (made, back) = (made.into_colour(), decoded(&bytes));
        assert_eq!(back.layout, made.layout);
        let bytes = made.layout.bytes();
        let hidden = |pixel: &[u8]| bytes == 4 && pixel[3] == 0;
        for (a, b) in made.pixels.chunks_exact(bytes).zip(back.pixels.chunks_exact(bytes)) {
            assert!(a == b || (hidden(a) && hidden(b)), "{layout:?}");
        }
    }
}

#[test]
fn lossy_formats_come_close() {
    for layout in LAYOUTS {
        for encoding in [
            Encoding::Jpeg { quality: quality(), progressive: true, rgb: false },
            Encoding::Webp { quality: quality() },
            Encoding::Gif,
        ] {
            let opaque = background::lay_on(picture(Size::new(64, 40), layout), crate::spec::Rgb::WHITE);
            let back = decoded(&codec::encode(opaque.clone(), encoding).unwrap()).into_colour();
            let wanted = opaque.into_colour();
            let error: u64 = wanted.pixels.iter().zip(&back.pixels).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            let mean = error as f64 / wanted.pixels.len() as f64;
            assert!(mean < 12.0, "{layout:?} {encoding:?}: {mean}");
        }
    }
}

#[test]
fn profiles_go_along() {
    let mut profile: Vec<u8> = (0..150_000_u32).map(|i| (i * 7 / 3) as u8).collect();
    profile[16..20].copy_from_slice(b"RGB ");
    let mut made = picture(Size::new(9, 9), Layout::Rgb8);
    made.profile = Some(profile.clone());
    for encoding in [
        Encoding::Png,
        Encoding::WebpLossless,
        Encoding::Webp { quality: quality() },
        Encoding::Jpeg { quality: quality(), progressive: false, rgb: false },
    ] {
        let back = decoded(&codec::encode(made.clone(), encoding).unwrap());
        assert!(back.profile.as_deref() == Some(&profile[..]), "{encoding:?}");
    }
}

#[test]
fn an_oversized_profile_is_left_behind() {
    let mut profile = vec![0; 20 << 20];
    profile[16..20].copy_from_slice(b"RGB ");
    let mut made = picture(Size::new(9, 9), Layout::Rgb8);
    made.profile = Some(profile);
    let bytes = codec::encode(made.clone(), Encoding::Png).unwrap();
    assert!(bytes.len() < 1 << 20);
    let back = decoded(&bytes);
    assert!(back.profile.is_none());
    assert_eq!(back.pixels, made.pixels);
}

#[test]
fn a_scan_bomb_is_refused() {
    let encoding = Encoding::Jpeg { quality: quality(), progressive: true, rgb: false };
    let jpeg = codec::encode(picture(Size::new(64, 64), Layout::Rgb8), encoding).unwrap();
    let last_scan = jpeg.windows(2).rposition(|marker| marker == [0xFF, 0xDA]).unwrap();
    let end = jpeg.len() - 2;
    let bomb = [&jpeg[..end], &jpeg[last_scan..end].repeat(200), &jpeg[end..]].concat();
    let plan = plan_for(&bomb, "original|format-png").unwrap();
    assert!(plan.source.progressive);
    match render(&bomb, &plan) {
        Err(RenderError::Corrupt { detail, .. }) => assert!(detail.contains("scans"), "{detail}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_the_end_marker_may_be_missing() {
    for progressive in [false, true] {
        let encoding = Encoding::Jpeg { quality: quality(), progressive, rgb: false };
        let jpeg = codec::encode(picture(Size::new(200, 150), Layout::Rgb8), encoding).unwrap();
        let plan = plan_for(&jpeg, "width-50").unwrap();
        assert!(render(&jpeg[..jpeg.len() - 2], &plan).is_ok());
        for part in 2..10 {
            let cut = &jpeg[..jpeg.len() * part / 10];
            assert!(render(cut, &plan).is_err(), "{part}/10, progressive: {progressive}");
        }
    }
}

#[test]
fn trailing_bytes_do_no_harm_and_are_not_carried_over() {
    let encoding = Encoding::Jpeg { quality: quality(), progressive: false, rgb: false };
    let mut jpeg = codec::encode(picture(Size::new(64, 48), Layout::Rgb8), encoding).unwrap();
    jpeg.extend_from_slice(b"PK\x03\x04<script>alert(1)</script>");
    let plan = plan_for(&jpeg, "original").unwrap();
    let made = render(&jpeg, &plan).unwrap().bytes;
    assert!(!made.windows(7).any(|window| window == b"<script"));
}

/// A red disc on transparent blue: resampled without premultiplying, its edge would turn purple.
#[test]
fn transparent_colours_do_not_bleed() {
    const SIDE: u32 = 96;
    const OUT: u32 = 12;
    let mut disc = Picture::blank(Size::new(SIDE, SIDE), Layout::Rgba8);
    for (i, pixel) in disc.pixels.chunks_exact_mut(4).enumerate() {
        let (x, y) = (i as i32 % SIDE as i32 - 48, i as i32 / SIDE as i32 - 48);
        let color = if x * x + y * y < 1600 { [255, 0, 0, 255] } else { [0, 0, 255, 0] };
        pixel.copy_from_slice(&color);
    }
    let cut = resample::Cut {
        crop: PixelRect::whole(disc.size),
        reduction: 1,
        output: Size::new(OUT, OUT),
        first: resample::Axis::Horizontal,
    };
    let small = resample::resize(disc, cut).unwrap();
    let mut edges = 0;
    for pixel in small.pixels.as_chunks::<4>().0 {
        let [red, green, blue, alpha] = *pixel;
        if alpha > 8 {
            assert!(red >= 245 && green <= 10 && blue <= 10, "{pixel:?}");
            edges += u32::from(alpha < 250);
        }
    }
    assert!(edges > 8, "the disc has no soft edge");
}

#[test]
fn a_reduced_decode_keeps_the_crop_in_place() {
    let encoding = Encoding::Jpeg { quality: Quality::new(95).unwrap(), progressive: false, rgb: false };
    let jpeg = codec::encode(picture(Size::new(643, 481), Layout::Gray8), encoding).unwrap();
    for orientation in 1..=8 {
        let mut reduced = plan_for(&jpeg, "fill-75x50").unwrap();
        reduced.source.orientation = Orientation::from_exif(orientation);
        let upright = reduced.source.upright_size();
        reduced.crop = PixelRect { left: 37, top: 51, right: upright.width - 91, bottom: upright.height - 13 };
        reduced.encoding = Encoding::Png;
        reduced.decode_reduction = 2;
        let full = Plan { decode_reduction: 1, ..reduced.clone() };
        let [reduced, full] = [reduced, full].map(|plan| decoded(&render(&jpeg, &plan).unwrap().bytes).pixels);
        let error: u64 = reduced.iter().zip(&full).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
        let mean = error as f64 / full.len() as f64;
        assert!(mean < 4.0, "orientation {orientation}: mean square error {mean}");
    }
}

#[test]
fn a_plan_out_of_bounds_is_refused() {
    let png = codec::encode(picture(Size::new(8, 8), Layout::Gray8), Encoding::Png).unwrap();
    let good = plan_for(&png, "original").unwrap();
    let crops = [(0, 0, 9, 8), (4, 0, 4, 8), (5, 0, 4, 8), (0, 0, 8, u32::MAX)];
    for (left, top, right, bottom) in crops {
        let plan = Plan { crop: PixelRect { left, top, right, bottom }, ..good.clone() };
        assert_eq!(render(&png, &plan).map(drop), Err(RenderError::Changed));
    }
    let plan = Plan { decode_reduction: 0, ..good };
    assert_eq!(render(&png, &plan).map(drop), Err(RenderError::Changed));
}

#[test]
fn errors_cross_the_process_border() {
    let error = RenderError::Corrupt { format: ImageFormat::Gif, detail: "x".into() };
    let json = serde_json::to_string(&error).unwrap();
    assert_eq!(serde_json::from_str::<RenderError>(&json).unwrap(), error);
}

/// One good file of each format.
fn good_files() -> Vec<Vec<u8>> {
    let vectors = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/images");
    const NAMES: [&str; 9] = [
        "anim.gif",
        "anim.png",
        "anim.webp",
        "alpha.webp",
        "photo.bmp",
        "palette_trns.png",
        "exif_6.jpg",
        "cmyk.jpg",
        "icon.ico",
    ];
    NAMES.map(|name| std::fs::read(vectors.join(name)).unwrap()).to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_files_never_panic(
        which in 0_usize..9,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..12),
        end in any::<prop::sample::Index>(),
        cut in prop::bool::weighted(0.3),
    ) {
        let mut file = good_files().swap_remove(which);
        for (at, byte, early) in changes {
            // Half of the damage goes into the header, where it changes most.
            let reach = if early { file.len().min(200) } else { file.len() };
            let at = at.index(reach);
            file[at] = byte;
        }
        if cut {
            let length = end.index(file.len());
            file.truncate(length);
        }
        if let Ok(plan) = plan_for(&file, "fill-20x30|format-webp") {
            let _ = render(&file, &plan);
        }
    }
}
