//! Renditions against those of a real Wagtail: sizes, formats, quality tables, and pixels by distance.

use std::collections::BTreeMap;

use sendimage::{
    app,
    config::RenderConfig,
    model::{Animation, FocalPoint, ImageFormat},
    render::{
        self, Plan, RenderError, Rendered,
        plan::{Defaults, Encoding},
    },
    spec::FilterSpec,
    workers::Marks,
};
use serde_json::Value;
use sha1::{Digest, Sha1};

use crate::{
    pictures::{self, Pixels},
    vectors,
};

/// What a lossless rendition's pixels must reach against Wagtail's own.
const LOSSLESS_DB: f64 = 50.0;
/// What a lossless AVIF must reach against our own PNG: single samples off by one.
const AVIF_LOSSLESS_DB: f64 = 70.0;
/// How much further from the lossless picture ours may be than Wagtail's, both encoded at the same quality.
const LOSSY_LOSS_DB: f64 = 1.0;

fn defaults() -> Defaults {
    // The vectors' Wagtail has Pillow only, which takes an animation's first frame.
    let config = RenderConfig { animation: Animation::FirstFrame, ..RenderConfig::default() };
    app::defaults(&config, &Marks::default())
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}

fn source(row: &Value) -> Vec<u8> {
    std::fs::read(vectors::folder().join("images").join(text(row, "image"))).unwrap()
}

fn plan(row: &Value, source: &[u8]) -> Result<Plan, String> {
    let spec = FilterSpec::parse(text(row, "filter_spec")).map_err(|error| error.to_string())?;
    let facts = render::probe(source).map_err(|error| error.to_string())?;
    let number = |key: &str| row["focal_point"][key].as_f64();
    let focal_point = number("x").map(|x| FocalPoint {
        x,
        y: number("y").unwrap(),
        width: number("w").or(number("width")).unwrap(),
        height: number("h").or(number("height")).unwrap(),
    });
    Plan::new(&facts, &spec, focal_point, &defaults()).map_err(|error| error.to_string())
}

fn has_extension(row: &Value, extensions: &[&str]) -> bool {
    text(row, "image").rsplit('.').next().is_some_and(|extension| extensions.contains(&extension))
}

#[cfg(not(feature = "heic"))]
const READ: &[&str] = &["jpg", "png", "webp", "gif", "avif", "bmp", "ico", "tiff"];
#[cfg(feature = "heic")]
const READ: &[&str] = &["jpg", "png", "webp", "gif", "avif", "heic", "bmp", "ico", "tiff"];
const WRITTEN: &[&str] = &["jpeg", "png", "webp", "gif", "avif", "ico"];

#[test]
fn wagtails_renditions_are_met() {
    let vectors = vectors::json("wagtail_renditions.json");
    let rows: Vec<&Value> = vectors["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| text(row, "status") == "ok" && has_extension(row, READ))
        .filter(|row| WRITTEN.contains(&text(row, "out_format")))
        .collect();
    let mut tally = Tally::default();
    for row in &rows {
        tally.check(row);
    }
    tally.report(rows.len());
    assert_eq!(rows.len(), if cfg!(feature = "heic") { 778 } else { 765 });
    assert!(tally.wrong.is_empty(), "{} complaints:\n{}", tally.wrong.len(), tally.wrong.join("\n"));
}

#[derive(Default)]
struct Tally {
    rendered: usize,
    tables: usize,
    subsamplings: usize,
    profiles: usize,
    icons: usize,
    lossless: Vec<(f64, String)>,
    avif_lossless: Vec<(f64, String)>,
    lossy: BTreeMap<String, Vec<(f64, String)>>,
    wrong: Vec<String>,
}

impl Tally {
    fn check(&mut self, row: &Value) {
        let name = format!("{} {} ({})", text(row, "image"), text(row, "filter_spec"), text(row, "reference"));
        let source = source(row);
        let made = plan(row, &source).and_then(|plan| {
            render::render(&source, &plan).map_err(|error| error.to_string()).map(|done| (plan, done))
        });
        let (plan, Rendered { bytes, .. }) = match made {
            Ok(made) => made,
            Err(error) => return self.wrong.push(format!("{name}: {error}")),
        };
        self.rendered += 1;
        let pixels = Pixels::decode(&bytes);
        let format = ImageFormat::detect(&bytes).unwrap().name();
        let found = (u64::from(pixels.width), u64::from(pixels.height), format);
        // An icon of ours also holds the size that was asked for; Wagtail's largest entry may be smaller.
        let (width, height) = match format {
            "ico" => (&row["resize"][0], &row["resize"][1]),
            _ => (&row["out_width"], &row["out_height"]),
        };
        let wanted = (width.as_u64().unwrap(), height.as_u64().unwrap(), text(row, "out_format"));
        if found != wanted {
            return self.wrong.push(format!("{name}: {found:?} instead of {wanted:?}"));
        }
        self.check_header(row, &name, &bytes);
        if plan.encoding == Encoding::AvifLossless {
            // Wagtail's are not kept; the PNG of the same plan is exact.
            let exact = Plan { encoding: Encoding::Png, ..plan.clone() };
            let db = pixels.psnr(&Pixels::decode(&render::render(&source, &exact).unwrap().bytes));
            if db < AVIF_LOSSLESS_DB {
                self.wrong.push(format!("{name}: {db:.2} dB"));
            }
            self.avif_lossless.push((db, name.clone()));
        }
        if !text(row, "reference").is_empty() {
            self.check_pixels(row, name, &source, &plan, &pixels);
        }
    }

    fn check_header(&mut self, row: &Value, name: &str, bytes: &[u8]) {
        let output = &row["output"];
        if ImageFormat::detect(bytes) == Some(ImageFormat::Avif) {
            let wanted = match output["mode"].as_str() {
                Some("L") => [1].as_slice(),
                Some("RGB") => &[1, 3], // Wagtail's lossless gray is coloured
                _ => &[2, 4],
            };
            let found = render::probe(bytes).unwrap().bytes_per_pixel;
            if !wanted.contains(&found) {
                self.wrong.push(format!("{name}: {found} bytes a pixel instead of {wanted:?}"));
            }
        }
        if let Some(table) = output["jpeg_luma_q8"].as_array() {
            self.tables += 1;
            let wanted: Vec<u64> = table.iter().map(|v| v.as_u64().unwrap()).collect();
            let found = pictures::jpeg_luma_row(bytes);
            if found != wanted {
                self.wrong.push(format!("{name}: quantisation {found:?} instead of {wanted:?}"));
            }
        }
        if output["jpeg_subsampling"] == "4:2:0" {
            self.subsamplings += 1;
            let found = turbojpeg::read_header(bytes).unwrap().subsamp;
            if found != turbojpeg::Subsamp::Sub2x2 {
                self.wrong.push(format!("{name}: subsampling {found:?}"));
            }
        }
        if let Some(listed) = output["ico_sizes"].as_array() {
            self.icons += 1;
            let found = pictures::icon_sizes(bytes);
            let missing: Vec<&Value> = listed
                .iter()
                .filter(|size| !found.contains(&(size[0].as_u64().unwrap(), size[1].as_u64().unwrap())))
                .collect();
            if !missing.is_empty() {
                self.wrong.push(format!("{name}: entries {found:?} lack {missing:?}"));
            }
        }
        let wanted = output["icc_sha1"].as_str();
        let found = pictures::profile(bytes).map(|profile| {
            Sha1::digest(profile).iter().map(|byte| format!("{byte:02x}")).collect::<String>()[..12].to_owned()
        });
        self.profiles += usize::from(wanted.is_some());
        if found.as_deref() != wanted {
            self.wrong.push(format!("{name}: profile {found:?} instead of {wanted:?}"));
        }
    }

    fn check_pixels(&mut self, row: &Value, name: String, source: &[u8], plan: &Plan, ours: &Pixels) {
        let reference = Pixels::open(&vectors::folder().join("wagtail_reference").join(text(row, "reference")));
        if plan.encoding.is_lossless() {
            let db = ours.psnr(&reference);
            if db < LOSSLESS_DB {
                self.wrong.push(format!("{name}: {db:.2} dB"));
            }
            return self.lossless.push((db, name));
        }
        let lossless = Plan { encoding: Encoding::Png, ..plan.clone() };
        let lossless = Pixels::decode(&render::render(source, &lossless).unwrap().bytes);
        let gain = ours.psnr(&lossless) - reference.psnr(&lossless);
        if gain < -LOSSY_LOSS_DB {
            self.wrong.push(format!("{name}: {gain:.2} dB against Wagtail's"));
        }
        self.lossy.entry(text(row, "out_format").into()).or_default().push((gain, name));
    }

    fn report(&mut self, rows: usize) {
        println!(
            "{} of {rows} rows rendered at the right size and format; {} quantisation tables, {} subsamplings, {} \
             profiles, {} icons compared",
            self.rendered, self.tables, self.subsamplings, self.profiles, self.icons
        );
        let line = |label: &str, unit: &str, found: &mut Vec<(f64, String)>| {
            found.sort_by(|a, b| a.0.total_cmp(&b.0));
            let Some((worst, name)) = found.first() else { return };
            let median = found[found.len() / 2].0;
            println!("{label}: {} rows, worst {worst:.2} {unit} ({name}), median {median:.2}", found.len());
        };
        line("lossless against the reference", "dB", &mut self.lossless);
        line("lossless AVIF against our PNG", "dB", &mut self.avif_lossless);
        for (format, found) in &mut self.lossy {
            line(&format!("{format}, gain over the reference"), "dB", found);
        }
    }
}

#[test]
fn specs_that_wagtail_refuses_are_refused() {
    let vectors = vectors::json("wagtail_renditions.json");
    // Operations that Wagtail does not have and we do.
    const OURS: [&str; 8] = ["rotate-", "crop-", "flip-", "blur-", "grayscale", "sharpen-", "pad-", "invert"];
    let (mut refused, mut ours) = (0, 0);
    for row in vectors["rows"].as_array().unwrap() {
        // Whether an SVG may be converted is for the plan to say.
        let applies = text(row, "error") == "InvalidFilterSpecError" && !has_extension(row, &["svg"]);
        if applies {
            let spec = text(row, "filter_spec");
            match FilterSpec::parse(spec) {
                Err(_) => refused += 1,
                Ok(_) => {
                    assert!(OURS.iter().any(|name| spec.starts_with(name)), "{spec:?}");
                    ours += 1;
                }
            }
        }
    }
    println!("{refused} specs refused, {ours} are operations of our own");
    assert!(refused >= 70 && ours <= 5, "{refused} {ours}");
}

#[test]
fn what_wagtail_fails_on_renders_or_gives_a_clean_error() {
    let vectors = vectors::json("wagtail_renditions.json");
    let (mut rendered, mut refused) = (0, 0);
    for row in vectors["rows"].as_array().unwrap() {
        let failed = text(row, "status") != "ok" && text(row, "error") != "InvalidFilterSpecError";
        if !failed || !has_extension(row, READ) || text(row, "image") == "missing.jpg" {
            continue;
        }
        let source = source(row);
        let outcome =
            plan(row, &source).and_then(|plan| render::render(&source, &plan).map_err(|error| error.to_string()));
        let name = format!("{} {}", text(row, "image"), text(row, "filter_spec"));
        let bad_file = matches!(text(row, "image"), "truncated.jpg" | "notimage.jpg");
        let bad_spec = ["nan", "inf", "fill-0", "x0", "heic"].iter().any(|part| name.contains(part));
        match outcome {
            Ok(_) => {
                assert!(!bad_file && !bad_spec, "{name} should not render");
                rendered += 1;
            }
            Err(error) => {
                assert!(bad_file || bad_spec, "{name}: {error}");
                refused += 1;
            }
        }
    }
    println!("rows on which Wagtail fails: {rendered} rendered, {refused} refused cleanly");
}

#[test]
fn a_truncated_file_is_damaged_and_a_text_is_no_image() {
    let image = |name: &str| std::fs::read(vectors::folder().join("images").join(name)).unwrap();
    let truncated = image("truncated.jpg");
    let facts = render::probe(&truncated).unwrap();
    let plan = Plan::new(&facts, &FilterSpec::parse("width-100").unwrap(), None, &defaults()).unwrap();
    assert!(matches!(render::render(&truncated, &plan), Err(RenderError::Corrupt { .. })));
    assert_eq!(render::probe(&image("notimage.jpg")), Err(RenderError::NotAnImage));
    // The plan's file, replaced by another one of the same format.
    assert_eq!(render::render(&image("photo_land.jpg"), &plan).map(drop), Err(RenderError::Changed));
    assert_eq!(render::render(&image("rgba.png"), &plan).map(drop), Err(RenderError::Changed));
}

#[test]
fn formats_without_a_decoder_are_named() {
    let without: &[_] = if cfg!(feature = "heic") { &[] } else { &["photo.heic"] };
    for name in without {
        let source = std::fs::read(vectors::folder().join("images").join(name)).unwrap();
        match render::probe(&source) {
            Err(RenderError::Unsupported { format, .. }) => assert_eq!(ImageFormat::detect(&source), Some(format)),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn probes_tell_the_truth() {
    let facts = |name: &str| render::probe(&std::fs::read(vectors::folder().join("images").join(name)).unwrap());
    for (name, frames, bytes, orientation) in [
        ("anim.gif", None, 3, 1),
        ("anim.png", None, 0, 1),
        ("anim.webp", None, 3, 1),
        ("exif_6.png", Some(1), 3, 6),
        ("exif_8.webp", Some(1), 3, 8),
        ("exif_7.jpg", Some(1), 3, 7),
        ("gray16.png", Some(1), 2, 1),
        ("la.png", Some(1), 2, 1),
        ("cmyk.jpg", Some(1), 4, 1),
        ("gray8.jpg", Some(1), 1, 1),
        ("bilevel.png", Some(1), 3, 1),
        ("palette_trns.png", Some(1), 4, 1),
        ("photo.avif", Some(1), 3, 1),
        ("photo.bmp", Some(1), 3, 1),
        ("photo.tiff", Some(1), 3, 1),
        ("icon.ico", Some(1), 4, 1),
    ] {
        let found = facts(name).unwrap();
        println!("{name}: {found:?}");
        match frames {
            Some(frames) => assert_eq!(found.frames, frames, "{name}"),
            None => assert!(found.frames > 1, "{name}"),
        }
        if bytes > 0 {
            assert_eq!(found.bytes_per_pixel, bytes, "{name}");
        }
        assert_eq!(found.orientation.to_exif(), orientation, "{name}");
    }
}

/// The eight files hold the same stored pixels under eight tags.
#[test]
fn all_eight_orientations_are_turned_upright() {
    let rendered = |number: u8| {
        let source = std::fs::read(vectors::folder().join(format!("images/exif_{number}.jpg"))).unwrap();
        let facts = render::probe(&source).unwrap();
        let plan = Plan::new(&facts, &FilterSpec::parse("original|format-png").unwrap(), None, &defaults()).unwrap();
        Pixels::decode(&render::render(&source, &plan).unwrap().bytes)
    };
    let stored = rendered(1);
    let stored = image::RgbaImage::from_raw(stored.width, stored.height, stored.rgba).unwrap();
    for number in 1..=8 {
        let mut wanted = image::DynamicImage::from(stored.clone());
        wanted.apply_orientation(image::metadata::Orientation::from_exif(number).unwrap());
        let found = rendered(number);
        assert_eq!((found.width, found.height), (wanted.width(), wanted.height()), "{number}");
        assert!(found.rgba == wanted.into_rgba8().into_raw(), "{number}");
    }
}
