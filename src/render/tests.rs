//! The whole of `probe` and `render`, on pictures made here and on damaged ones.

use proptest::prelude::*;

use super::{
    codec,
    picture::{Layout, Picture},
    plan::{Defaults, Encoding, PlanError},
    *,
};
use crate::{
    app,
    config::RenderConfig,
    model::{FocalPoint, ImageFormat, Orientation, PixelRect, Size, SourceFacts},
    spec::{Accepted, FilterSpec, Quality},
    workers::Marks,
};

const QUALITY: u64 = 80;

fn quality() -> Quality {
    Quality::new(QUALITY).unwrap()
}

pub(super) fn plan_for(source: &[u8], spec: &str) -> Result<Plan, String> {
    let defaults = Defaults { full_decode_pixels: 100, ..app::defaults(&RenderConfig::default(), &Marks::default()) };
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
fn a_header_read_in_pieces_is_that_of_the_whole() {
    let of = |encoding: Encoding| codec::encode(picture(Size::new(40, 30), Layout::Rgb8), encoding).unwrap();
    let jpeg = of(Encoding::Jpeg { quality: quality(), progressive: true, rgb: false });
    // Comments of 60,000 bytes before everything else.
    let after_comments = |count: usize| {
        let comment = [&b"\xFF\xFE\xEA\x62"[..], &[0; 60_000]].concat();
        [&jpeg[..2], &comment.repeat(count), &jpeg[2..]].concat()
    };
    for source in [jpeg.clone(), after_comments(2), of(Encoding::Png)] {
        assert_eq!(probe_in_pieces(&source[..]), probe(&source).map(Some));
    }
    // Only the whole says what these are.
    let far = after_comments(3);
    assert_eq!((probe_in_pieces(&far[..]), probe(&far)), (Ok(None), probe(&jpeg)));
    for source in [&jpeg[..20], b"no image", b"", &of(Encoding::WebpLossless)] {
        assert_eq!(probe_in_pieces(source), Ok(None));
    }
    let png = of(Encoding::Png);
    assert_eq!(probe_in_pieces(&png[..20]), probe(&png[..20]).map(Some));
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
        reduced.turn = reduced.source.orientation;
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

/// The way through red, green and blue is the specification of the way without.
#[test]
fn planes_and_pixels_come_to_the_same_picture() {
    let quality = || Quality::new(95).unwrap();
    let encodings = || {
        [
            Encoding::Jpeg { quality: quality(), progressive: false, rgb: false },
            Encoding::Webp { quality: quality() },
            Encoding::Avif { quality: quality() },
        ]
    };
    let size = Size::new(323, 241);
    let sources = encodings().map(|encoding| codec::encode(smooth(size), encoding).unwrap());
    for (source, encoding, spec, orientation) in every_way(&sources, encodings()) {
        let mut plan = plan_for(&source, spec).unwrap();
        plan.turn = plan.source.orientation.then(Orientation::from_exif(orientation));
        if plan.turn.swaps_sides() != plan.source.orientation.swaps_sides() {
            plan.crop = PixelRect { left: 3, top: 5, right: 200, bottom: 201 };
            plan.output_size = Size::new(98, 98);
        }
        plan.encoding = encoding;
        plan.in_planes = true;
        assert!(render_shareable(&source, &plan, &[]).unwrap().is_some(), "{} has no planes", plan.source.format);
        let pixels = Plan { in_planes: false, ..plan.clone() };
        let [planes, pixels] = [plan, pixels].map(|plan| decoded(&render(&source, &plan).unwrap().bytes));
        assert_eq!(planes.size, pixels.size);
        let error: u64 = planes.pixels.iter().zip(&pixels.pixels).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
        let decibels = 10.0 * (65_025.0 * planes.pixels.len() as f64 / error.max(1) as f64).log10();
        assert!(decibels > 42.0, "{spec} turned {orientation} as {encoding}: {decibels:.1} dB");
    }
}

#[test]
fn what_is_decoded_beside_a_plan_is_what_each_decodes_alone() {
    let encoding = |progressive| Encoding::Jpeg { quality: Quality::new(90).unwrap(), progressive, rgb: false };
    let encoded =
        |progressive| codec::encode(picture(Size::new(643, 481), Layout::Rgb8), encoding(progressive)).unwrap();
    let jpeg = encoded(false);
    let plans = ["width-60", "width-120", "width-200", "width-400"].map(|spec| plan_for(&jpeg, spec).unwrap());
    assert_eq!(plans.each_ref().map(|plan| plan.decode_reduction), [8, 4, 2, 1]);
    let (first, mut shared) = render_shareable(&jpeg, &plans[0], &[4, 1, 0, 8, 3, 2, 4]).unwrap().unwrap();
    assert_eq!(shared.reductions().collect::<Vec<_>>(), [8, 4, 2]);
    assert_eq!(first.bytes, render(&jpeg, &plans[0]).unwrap().bytes);
    for plan in plans[..3].iter().chain(&plans[..1]) {
        assert_eq!(shared.render(plan).unwrap().bytes, render(&jpeg, plan).unwrap().bytes);
    }
    assert_eq!(shared.render(&plans[3]).map(drop), Err(RenderError::Changed));
    shared.keep(|reduction| reduction == 4);
    assert_eq!((shared.has(4), shared.has(8)), (true, false));
    assert_eq!(shared.render(&plans[0]).map(drop), Err(RenderError::Changed));
    // In full, and in several scans, nothing goes along.
    let progressive = encoded(true);
    let in_scans = plan_for(&progressive, "width-60").unwrap();
    for (source, plan) in [(&jpeg, &plans[3]), (&progressive, &in_scans)] {
        let (_, shared) = render_shareable(source, plan, &[2, 4]).unwrap().unwrap();
        assert_eq!(shared.reductions().collect::<Vec<_>>(), [plan.decode_reduction]);
    }
}

#[test]
fn an_eighth_is_the_same_in_pieces() {
    let encoding = |progressive| Encoding::Jpeg { quality: Quality::new(97).unwrap(), progressive, rgb: false };
    let encoded =
        |progressive| codec::encode(picture(Size::new(2_003, 1_501), Layout::Rgb8), encoding(progressive)).unwrap();
    let (jpeg, progressive) = (encoded(false), encoded(true));
    assert!(jpeg.len() > 600_000, "{} bytes are few pieces", jpeg.len());
    let plan = |source: &[u8], spec| plan_for(source, spec).unwrap();
    let thumbnail = plan(&jpeg, "width-200");
    let (in_pieces, decoded) = render_shareable_in_pieces(&jpeg[..], &thumbnail).unwrap().unwrap();
    assert_eq!(decoded.reductions().collect::<Vec<_>>(), [8]);
    assert!(in_pieces.bytes == render(&jpeg, &thumbnail).unwrap().bytes);
    // What is decoded otherwise, coded otherwise, or damaged is for those who have all of it.
    let cut = &jpeg[..jpeg.len() - 1_000];
    for (source, plan) in
        [(&jpeg[..], plan(&jpeg, "width-300")), (&progressive, plan(&progressive, "width-200")), (cut, thumbnail)]
    {
        assert!(render_shareable_in_pieces(source, &plan).unwrap().is_none());
    }
}

/// Colours that change slowly, for at half the resolution others look different by any way.
fn smooth(size: Size) -> Picture {
    let mut picture = Picture::blank(size, Layout::Rgb8);
    for (at, pixel) in picture.pixels.chunks_exact_mut(3).enumerate() {
        let (x, y) = (at as f32 % size.width as f32, at as f32 / size.width as f32);
        let wave = |length: f32, phase: f32| (128.0 + 100.0 * ((x + 2.0 * y) / length + phase).sin()) as u8;
        pixel.copy_from_slice(&[wave(131.0, 0.0), wave(113.0, 1.0), wave(151.0, 2.0)]);
    }
    picture
}

/// Every source in every encoding, cut and turned in turn.
fn every_way(sources: &[Vec<u8>], encodings: [Encoding; 3]) -> Vec<(Vec<u8>, Encoding, &'static str, u32)> {
    const SPECS: [(&str, u32); 6] =
        [("width-100", 1), ("fill-81x47", 1), ("original", 1), ("width-140", 3), ("fill-80x80", 2), ("width-98", 6)];
    let mut all = Vec::new();
    for source in sources {
        for encoding in encodings {
            all.extend(SPECS.map(|(spec, orientation)| (source.clone(), encoding, spec, orientation)));
        }
    }
    all
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

/// Our own operations on a picture of 24 x 16 pixels, as rows of what must come out.
#[test]
fn our_own_operations_give_the_sizes_they_promise() {
    let png = codec::encode(picture(Size::new(24, 16), Layout::Rgba8), Encoding::Png).unwrap();
    for (spec, width, height) in [
        ("rotate-90", 16, 24),
        ("rotate-180", 24, 16),
        ("rotate-270|width-8", 8, 12),
        ("width-12|rotate-90", 8, 12),
        ("flip-h|flip-v", 24, 16),
        ("crop-2,3,10,5", 10, 5),
        ("crop-20,10,100,100", 4, 6),
        ("width-12|crop-2,2,6,6", 6, 6),
        ("crop-0,0,16,16|fill-8x4", 8, 4),
        ("pad-30x30", 30, 30),
        ("pad-12x12-f00", 12, 12),
        ("fill-8x8|pad-10x9|format-jpeg", 10, 9),
        ("width-6|dpr-2", 12, 8),
        ("width-6|dpr-1.5", 9, 6),
        ("fill-4x4|dpr-8", 16, 16),
        ("pad-6x6|dpr-3", 18, 18),
        ("blur-2|sharpen-1|grayscale|invert", 24, 16),
        ("scale-50|dpr-2", 12, 8),
        ("keep-meta|width-7", 7, 4),
    ] {
        let plan = plan_for(&png, spec).unwrap();
        let made = decoded(&render(&png, &plan).unwrap().bytes);
        assert_eq!((made.size, made.size), (Size::new(width, height), plan.rendition_size()), "{spec}");
    }
    assert_eq!(plan_for(&png, "crop-24,0,1,1"), Err(PlanError::EmptyCrop.to_string()));
    assert_eq!(plan_for(&png, "watermark-none"), Err(PlanError::NoWatermark.to_string()));
}

#[test]
fn turns_and_crops_move_pixels_where_they_should() {
    let source = picture(Size::new(24, 16), Layout::Rgb8);
    let png = codec::encode(source.clone(), Encoding::Png).unwrap();
    let made = |spec: &str| decoded(&render(&png, &plan_for(&png, spec).unwrap()).unwrap().bytes);
    let pixel = |picture: &Picture, x: u32, y: u32| {
        let at = (y * picture.size.width + x) as usize * 3;
        picture.pixels[at..at + 3].to_vec()
    };
    let rotated = made("rotate-90");
    assert_eq!(pixel(&rotated, 15 - 3, 5), pixel(&source, 5, 3));
    let cut = made("rotate-90|crop-4,6,8,8|flip-h");
    assert_eq!(pixel(&cut, 7 - 2, 1), pixel(&rotated, 6, 7));
    assert_eq!(made("rotate-90|rotate-270").pixels, source.pixels);
    assert_eq!(made("flip-h|rotate-180|flip-v").pixels, source.pixels);
}

#[test]
fn a_border_is_found_whatever_the_orientation() {
    let mut framed = Picture::blank(Size::new(20, 10), Layout::Gray8);
    framed.pixels.fill(250);
    for y in 3..6 {
        framed.pixels[y * 20 + 7..y * 20 + 12].fill(9);
    }
    let png = codec::encode(framed, Encoding::Png).unwrap();
    let mut facts = probe(&png).unwrap();
    let trim = look::Look::Trim { tolerance: 3 };
    for (orientation, found) in [(1, (7, 3, 12, 6)), (2, (8, 3, 13, 6)), (6, (4, 7, 7, 12)), (8, (3, 8, 6, 13))] {
        facts.orientation = Orientation::from_exif(orientation);
        let (left, top, right, bottom) = found;
        let rect = look(&png, &Plan::to_look(&facts, trim), trim).unwrap();
        assert_eq!(rect, PixelRect { left, top, right, bottom }, "{orientation}");
    }
    facts.orientation = Orientation::Upright;
    let mut findings = look::Findings::default();
    let spec = FilterSpec::parse("trim-3|width-100").unwrap();
    let defaults = app::defaults(&RenderConfig::default(), &Marks::default());
    assert_eq!(Plan::seen(&facts, &findings, &spec, None, &defaults), Err(PlanError::Unseen(trim)));
    findings.note(trim, look(&png, &Plan::to_look(&facts, trim), trim).unwrap());
    let plan = Plan::seen(&facts, &findings, &spec, None, &defaults).unwrap();
    let made = decoded(&render(&png, &plan).unwrap().bytes);
    assert_eq!((made.size, made.pixels), (Size::new(5, 3), vec![9; 15]));
    // A picture of one colour has no border: it stays whole.
    let plain = codec::encode(Picture::blank(Size::new(4, 4), Layout::Rgb8), Encoding::Png).unwrap();
    let plan = Plan::to_look(&probe(&plain).unwrap(), trim);
    assert_eq!(look(&plain, &plan, trim).unwrap(), PixelRect::whole(Size::new(4, 4)));
}

#[test]
fn a_smart_fill_keeps_the_subject() {
    // A busy square at the right of a plain picture.
    let mut scene = Picture::blank(Size::new(600, 200), Layout::Rgb8);
    scene.pixels.fill(128);
    for y in 60..140 {
        for x in 480..560 {
            let at = (y * 600 + x) * 3;
            scene.pixels[at..at + 3].copy_from_slice(if (x / 8 + y / 8) % 2 == 0 {
                &[255, 40, 0]
            } else {
                &[0, 40, 255]
            });
        }
    }
    let png = codec::encode(scene, Encoding::Png).unwrap();
    let facts = probe(&png).unwrap();
    let spec = FilterSpec::parse("fill-50x50|smart").unwrap();
    let interest = look::Look::interest(&spec, None).unwrap();
    assert_eq!(interest, look::Look::Interest { across: 1, down: 1 });
    let mut findings = look::Findings::default();
    findings.note(interest, look(&png, &Plan::to_look(&facts, interest), interest).unwrap());
    let defaults = app::defaults(&RenderConfig::default(), &Marks::default());
    let plan = Plan::seen(&facts, &findings, &spec, None, &defaults).unwrap();
    assert!(plan.crop.left <= 480 && plan.crop.right >= 560, "{:?} of {findings:?}", plan.crop);
    // A focal point that an editor set goes before.
    let set = FocalPoint { x: 50.0, y: 100.0, width: 10.0, height: 10.0 };
    assert!(Plan::seen(&facts, &findings, &spec, Some(set), &defaults).unwrap().crop.left <= 45);
}

#[test]
fn metadata_goes_along_only_when_asked_for() {
    let exif = include_bytes!("../../tests/vectors/images/exif_6.jpg");
    for (format, kept) in [("jpeg", true), ("png", true), ("webp", true), ("gif", false)] {
        let plan = plan_for(exif, &format!("width-20|keep-meta|format-{format}")).unwrap();
        let made = render(exif, &plan).unwrap().bytes;
        assert_eq!(
            made.windows(8).any(|window| window == b"MM\0*\0\0\0\x08" || window == b"II*\0\x08\0\0\0"),
            kept,
            "{format}"
        );
        // The pixels are upright now, and the file says so.
        let facts = probe(&made).unwrap();
        assert_eq!((facts.orientation, facts.stored_size), (Orientation::Upright, plan.rendition_size()), "{format}");
        let bare = render(exif, &plan_for(exif, &format!("width-20|format-{format}")).unwrap()).unwrap().bytes;
        assert!(made.len() > bare.len() || !kept, "{format}");
        assert!(!bare.windows(4).any(|window| window == b"Exif" || window == b"eXIf"), "{format}");
    }
}

fn our_operation() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "rotate-90",
            "rotate-180",
            "rotate-270",
            "flip-h",
            "flip-v",
            "grayscale",
            "invert",
            "smart",
            "keep-meta",
            "original",
            "format-jpeg",
            "format-webp",
            "format-gif",
            "format-png",
            "bgcolor-fe3",
            "dpr-2",
            "format-auto",
        ])
        .prop_map(str::to_owned),
        (0u32..30, 0u32..30, 1u32..40, 1u32..40).prop_map(|(x, y, w, h)| format!("crop-{x},{y},{w},{h}")),
        (1u32..60, 1u32..60).prop_map(|(w, h)| format!("fill-{w}x{h}")),
        (1u32..60).prop_map(|w| format!("width-{w}")),
        (1u32..60, 1u32..60).prop_map(|(w, h)| format!("min-{w}x{h}")),
        (30u32..300).prop_map(|s| format!("blur-{}", f64::from(s) / 100.0)),
        (30u32..300).prop_map(|s| format!("sharpen-{}", f64::from(s) / 100.0)),
        any::<u8>().prop_map(|tolerance| format!("trim-{tolerance}")),
    ]
}

#[test]
fn format_auto_is_the_best_that_can_hold_the_rendition() {
    let defaults = app::defaults(&RenderConfig::default(), &Marks::default());
    let facts = probe(&codec::encode(picture(Size::new(30, 20), Layout::Rgb8), Encoding::Png).unwrap()).unwrap();
    use ImageFormat::{Avif, Gif, Jpeg, Webp};
    let photo = SourceFacts { format: Jpeg, ..facts.clone() };
    let moving = SourceFacts { format: Gif, frames: 2, ..facts };
    let best = |facts: &SourceFacts, side: u32, avif: bool, webp: bool| {
        let spec = FilterSpec::parse(&format!("pad-20x{side}|format-auto")).unwrap().accepting(Accepted { avif, webp });
        Plan::new(facts, &spec, None, &defaults).unwrap().encoding.format()
    };
    for (facts, side, expected) in [
        (&photo, 16_383, [Avif, Webp, Jpeg]),
        (&photo, 16_384, [Avif, Jpeg, Jpeg]),
        (&photo, 32_769, [Jpeg, Jpeg, Jpeg]),
        (&photo, 100_000, [Jpeg, Jpeg, Jpeg]),
        (&moving, 16_383, [Webp, Webp, Gif]),
        (&moving, 16_384, [Gif, Gif, Gif]),
    ] {
        let found = [(true, true), (false, true), (false, false)].map(|(avif, webp)| best(facts, side, avif, webp));
        assert_eq!(found, expected, "{side}");
    }
    // What was asked for by name is not replaced.
    let named = FilterSpec::parse("pad-20x16384|format-webp").unwrap();
    assert_eq!(Plan::new(&photo, &named, None, &defaults).unwrap().encoding.format(), Webp);
}

proptest! {
    /// Whatever is asked for, in whatever order: no panic, the size that was planned, and never more than is reserved for.
    #[test]
    fn any_chain_of_operations_keeps_its_plan(
        layout in prop::sample::select(vec![
            Layout::Gray8, Layout::GrayAlpha8, Layout::Rgb8, Layout::Rgba8, Layout::Gray16,
        ]),
        (width, height) in (1u32..40, 1u32..40),
        orientation in 1u32..=8,
        operations in prop::collection::vec(our_operation(), 1..6),
        pad in prop::option::of((1u32..50, 1u32..50, any::<bool>())),
    ) {
        let png = codec::encode(picture(Size::new(width, height), layout), Encoding::Png).unwrap();
        let mut facts = probe(&png).unwrap();
        facts.orientation = Orientation::from_exif(orientation);
        let pad = pad.map(|(w, h, color)| format!("pad-{w}x{h}{}", if color { "-0a0b0c" } else { "" }));
        let text: Vec<String> = operations.into_iter().chain(pad).collect();
        let spec = FilterSpec::parse(&text.join("|")).unwrap();
        let defaults = app::defaults(&RenderConfig::default(), &Marks::default());
        let mut findings = look::Findings::default();
        let plan = loop {
            match Plan::seen(&facts, &findings, &spec, None, &defaults) {
                Err(PlanError::Unseen(what)) => {
                    let found = look(&png, &Plan::to_look(&facts, what), what).unwrap();
                    prop_assert!(found.is_within(facts.upright_size()), "{:?} {:?}", what, found);
                    findings.note(what, found);
                }
                Err(PlanError::EmptyCrop) => return Ok(()),
                other => break other.unwrap(),
            }
        };
        let made = render(&png, &plan).unwrap();
        let facts = probe(&made.bytes).unwrap();
        prop_assert_eq!((facts.format, facts.stored_size), (plan.encoding.format(), plan.rendition_size()));
        prop_assert!(made.bytes.len() as u64 <= plan.peak_bytes(png.len() as u64));
    }
}
