//! Animations made here, and renditions of animations.

use std::{borrow::Cow, time::Duration};

use image::AnimationDecoder;
use sendimage::{
    app,
    config::RenderConfig,
    model::{Animation, ImageFormat},
    render::{
        self, Plan,
        limits::{Limits, OverLimit},
        plan::Defaults,
    },
    spec::FilterSpec,
    workers::Marks,
};
use serde_json::Value;

use crate::{pictures::Pixels, vectors};

/// A square that wanders over a ground, each frame for so many hundredths of a second.
pub fn gif(width: u16, height: u16, delays: &[u16], repeat: Option<gif::Repeat>) -> Vec<u8> {
    let palette = [240, 230, 200, 20, 60, 160];
    let mut bytes = Vec::new();
    let mut encoder = gif::Encoder::new(&mut bytes, width, height, &palette).unwrap();
    if let Some(repeat) = repeat {
        encoder.set_repeat(repeat).unwrap();
    }
    for (i, &delay) in delays.iter().enumerate() {
        let at = (i * 3) % usize::from(width.min(height)).max(1);
        let square = |x: usize, y: usize| x.abs_diff(at) < 3 && y.abs_diff(at) < 3;
        let rows = (0..usize::from(height)).flat_map(|y| (0..usize::from(width)).map(move |x| (x, y)));
        let buffer: Vec<u8> = rows.map(|(x, y)| u8::from(square(x, y))).collect();
        encoder
            .write_frame(&gif::Frame { width, height, delay, buffer: Cow::Owned(buffer), ..gif::Frame::default() })
            .unwrap();
    }
    drop(encoder);
    bytes
}

fn defaults(animation: Animation) -> Defaults {
    Defaults { animation, ..app::defaults(&RenderConfig::default(), &Marks::default()) }
}

fn plan(source: &[u8], spec: &str, animation: Animation) -> Plan {
    let facts = render::probe(source).unwrap();
    Plan::new(&facts, &FilterSpec::parse(spec).unwrap(), None, &defaults(animation)).unwrap()
}

/// Frames and delays of a GIF by the `image` crate.
fn frames(gif: &[u8]) -> Vec<(Vec<u8>, Duration)> {
    let decoder = image::codecs::gif::GifDecoder::new(std::io::Cursor::new(gif)).unwrap();
    let frame = |frame: image::Frame| (Duration::from(frame.delay()), frame.into_buffer().into_raw());
    decoder.into_frames().map(|found| frame(found.unwrap())).map(|(delay, pixels)| (pixels, delay)).collect()
}

/// With Wand, Wagtail keeps GIFs moving. Its WebP stay still all the same, which ours need not.
#[test]
fn what_wagtail_with_wand_keeps_moving_moves() {
    let vectors = vectors::json("wagtail_wand.json");
    let mut moving = 0;
    for row in vectors["rows"].as_array().unwrap() {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let (image, spec, format) = (text("image"), text("filter_spec"), text("out_format"));
        if !image.ends_with(".gif") || format == "avif" {
            continue;
        }
        assert_eq!(text("status"), "ok");
        let source = std::fs::read(vectors::folder().join("images").join(image)).unwrap();
        let plan = plan(&source, spec, Animation::Keep);
        let bytes = render::render(&source, &plan).unwrap().bytes;
        let facts = render::probe(&bytes).unwrap();
        let number = |value: &Value| value.as_u64().unwrap() as u32;
        assert_eq!(facts.format.name(), format, "{image} {spec}");
        assert_eq!(facts.frames, number(&row["frames"]), "{image} {spec}");
        assert_eq!(facts.stored_size.width, number(&row["out_width"]), "{image} {spec}");
        assert_eq!(facts.stored_size.height, number(&row["out_height"]), "{image} {spec}");
        if format == "gif" {
            let delays = |file: &[u8]| frames(file).into_iter().map(|(_, delay)| delay).collect::<Vec<_>>();
            assert_eq!(delays(&bytes), delays(&source), "{image} {spec}");
        }
        moving += u32::from(facts.frames > 1);
    }
    assert_eq!(moving, 7);
}

#[test]
fn first_frame_means_the_first_frame() {
    let source = std::fs::read(vectors::folder().join("images/anim.gif")).unwrap();
    for (spec, format) in [("original", ImageFormat::Png), ("width-60|format-gif", ImageFormat::Gif)] {
        let plan = plan(&source, spec, Animation::FirstFrame);
        let facts = render::probe(&render::render(&source, &plan).unwrap().bytes).unwrap();
        assert_eq!((facts.format, facts.frames), (format, 1));
    }
    let keep = |spec| plan(&source, spec, Animation::Keep);
    assert_eq!((keep("original").encoding.format(), keep("original").frames), (ImageFormat::Gif, 4));
    assert_eq!(keep("format-jpeg").frames, 1);
    assert_eq!(keep("format-png").frames, 1);
}

/// Each frame of an animation is what a still picture of it would have been.
#[test]
fn frames_are_rendered_as_stills_are() {
    let source = std::fs::read(vectors::folder().join("images/anim.gif")).unwrap();
    let spec = "fill-40x30|rotate-90|grayscale|bgcolor-fff";
    let moving = render::render(&source, &plan(&source, &format!("{spec}|format-gif"), Animation::Keep)).unwrap().bytes;
    for (i, ((pixels, _), (original, _))) in frames(&moving).into_iter().zip(frames(&source)).enumerate() {
        let mut still = Vec::new();
        let image = image::RgbaImage::from_raw(120, 90, original).unwrap();
        let mut encoder = png::Encoder::new(&mut still, image.width(), image.height());
        encoder.set_color(png::ColorType::Rgba);
        encoder.write_header().unwrap().write_image_data(&image).unwrap();
        let still =
            render::render(&still, &plan(&still, &format!("{spec}|format-png"), Animation::Keep)).unwrap().bytes;
        let still = Pixels::decode(&still);
        let error: u64 = still.rgba.iter().zip(&pixels).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        let mean = error as f64 / pixels.len() as f64;
        assert!(still.rgba.len() == pixels.len() && mean < 2.0, "frame {i}: {mean}");
    }
}

#[test]
fn an_animation_cannot_be_blown_up() {
    let source = gif(100, 100, &[5; 200], None);
    let limits = Limits {
        max_source_bytes: 1 << 20,
        max_source_pixels: 3_000_000,
        max_source_side: 1_000,
        max_output_pixels: 1_000_000,
    };
    let check = |spec: &str| limits.check_output(&plan(&source, spec, Animation::Keep));
    assert_eq!(check("original"), Ok(()));
    assert_eq!(check("scale-500"), Err(OverLimit::OutputFrames { found: 50_000_000, limit: 3_000_000 }));
    assert_eq!(check("scale-500|format-png"), Ok(()));
    let reserved =
        |frames: usize| plan(&gif(100, 100, &vec![5; frames], None), "original", Animation::Keep).peak_bytes(0);
    assert!(reserved(1_000) > reserved(2) + 10_000_000);
}
