//! What large renders cost: memory against the plan's reservation, and what a reduced decode costs in fidelity. Slow, and
//! alone in its process when memory is measured: `cargo test --test suite render_cost -- --ignored --test-threads 1`.

use sendimage::{
    app,
    config::RenderConfig,
    model::SourceFacts,
    render::{self, Plan, plan::Encoding},
    spec::{FilterSpec, Quality},
    workers::Marks,
};

use crate::{pictures::Pixels, vectors};

fn plan(facts: &SourceFacts, spec: &str) -> Plan {
    let quality = Quality::new(85).unwrap();
    let config = RenderConfig { jpeg_quality: Some(quality), ..RenderConfig::default() };
    let defaults = app::defaults(&config, &Marks::default());
    Plan::new(facts, &FilterSpec::parse(spec).unwrap(), None, &defaults).unwrap()
}

/// A photograph blown up, with the grain that a sensor of that size would add.
fn photo(width: u32, height: u32, channels: usize) -> Vec<u8> {
    use fast_image_resize::{PixelType, Resizer, images::Image};
    let small = Pixels::open(&vectors::folder().join("images/photo_land.jpg"));
    let from = Image::from_vec_u8(small.width, small.height, small.rgba, PixelType::U8x4).unwrap();
    let mut to = Image::new(width, height, PixelType::U8x4);
    Resizer::new().resize(&from, &mut to, None).unwrap();
    let mut state = 1_u32;
    let mut pixels = Vec::with_capacity((width * height) as usize * channels);
    for pixel in to.buffer().as_chunks::<4>().0 {
        for (channel, &value) in pixel.iter().enumerate().take(channels) {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let grain = (state >> 28) as u8;
            pixels.push(if channel == 3 { 255 - grain } else { value.saturating_add(grain) });
        }
    }
    pixels
}

pub fn jpeg(width: u32, height: u32, progressive: bool) -> Vec<u8> {
    let pixels = photo(width, height, 3);
    let (width, height) = (width as usize, height as usize);
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_quality(90).unwrap();
    compressor.set_subsamp(turbojpeg::Subsamp::Sub2x2).unwrap();
    compressor.set_progressive(progressive).unwrap();
    let format = turbojpeg::PixelFormat::RGB;
    compressor
        .compress_to_vec(turbojpeg::Image { pixels: &pixels[..], width, pitch: width * 3, height, format })
        .unwrap()
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_compression(png::Compression::Fastest);
    encoder.write_header().unwrap().write_image_data(&photo(width, height, 4)).unwrap();
    bytes
}

/// Sixteen bits a sample: what the decoder holds is widest then.
fn tiff(width: u32, height: u32) -> Vec<u8> {
    use image::{ExtendedColorType, ImageEncoder, codecs::tiff::TiffEncoder};
    let deep: Vec<u8> = photo(width, height, 4).iter().flat_map(|&sample| [sample, sample]).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    TiffEncoder::new(&mut bytes).write_image(&deep, width, height, ExtendedColorType::Rgba16).unwrap();
    bytes.into_inner()
}

fn status_kb(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The most resident memory that a piece of work adds, in bytes.
fn peak_of(work: impl FnOnce()) -> u64 {
    // SAFETY: both only tune the allocator: large blocks are mapped one by one, and free pages go back to the system, so
    // that memory from an earlier case neither counts nor hides anything.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
        libc::malloc_trim(0);
    }
    std::fs::write("/proc/self/clear_refs", "5").unwrap(); // the high-water mark starts again
    let before = status_kb("VmRSS:");
    work();
    (status_kb("VmHWM:").saturating_sub(before)) << 10
}

#[test]
#[ignore = "slow, and measures the whole process"]
fn reservations_are_upper_bounds() {
    let baseline = jpeg(4000, 3000, false);
    let progressive = jpeg(4000, 3000, true);
    let rgba = png(4000, 3000);
    let deep = tiff(2400, 1800);
    let webp = {
        let facts = render::probe(&baseline).unwrap();
        render::render(&baseline, &plan(&facts, "width-1600|format-webp")).unwrap().bytes
    };
    let avif = {
        let facts = render::probe(&webp).unwrap();
        render::render(&webp, &plan(&facts, "original|format-avif")).unwrap().bytes
    };
    let mut broken = Vec::new();
    for (name, source, specs) in [
        ("12 MP JPEG", &baseline, &["fill-400x300", "width-1600|format-webp", "original"][..]),
        ("12 MP progressive JPEG", &progressive, &["fill-400x300", "original"]),
        ("12 MP PNG, RGBA", &rgba, &["width-800", "original|format-jpeg", "original", "original|format-ico"]),
        ("4 MP TIFF, 16-bit RGBA", &deep, &["width-200", "original"]),
        (
            "2 MP WebP",
            &webp,
            &["original", "original|format-webp-lossless", "original|format-gif", "scale-150|format-png"],
        ),
        ("2 MP WebP", &webp, &["original|format-avif", "width-800|format-avif", "width-800|format-avif-lossless"]),
        ("2 MP AVIF", &avif, &["width-200", "original|format-jpeg"]),
    ] {
        for spec in specs {
            for orientation in [1, 6] {
                let mut facts = render::probe(source).unwrap();
                facts.orientation = sendimage::model::Orientation::from_exif(orientation);
                let plan = plan(&facts, spec);
                let reserved = plan.peak_bytes(source.len() as u64) - source.len() as u64;
                let mut times = None;
                let used = peak_of(|| times = Some(render::render(source, &plan).unwrap().times));
                println!(
                    "{name} ({} KiB) {spec} o{orientation}: {} of {} MiB, {:.0} B/px out, {times:?}",
                    source.len() >> 10,
                    used >> 20,
                    reserved >> 20,
                    used as f64 / plan.output_size.pixels() as f64,
                );
                if used > reserved {
                    broken.push(format!("{name} {spec} o{orientation}: {} of {} KiB", used >> 10, reserved >> 10));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
#[ignore = "slow"]
fn a_reduced_decode_is_faithful() {
    let source = jpeg(4000, 3000, false);
    let facts = render::probe(&source).unwrap();
    // Sharp's fidelity on the same targets, from photographs: the mark to be above.
    for (spec, floor) in [("fill-400x300", 47.2), ("width-800", 51.2), ("width-1600", 54.8)] {
        let reduced = Plan { encoding: Encoding::Png, ..plan(&facts, spec) };
        let full = Plan { decode_reduction: 1, ..reduced.clone() };
        let [small, large] =
            [&reduced, &full].map(|plan| Pixels::decode(&render::render(&source, plan).unwrap().bytes));
        let db = small.psnr(&large);
        println!("{spec}: decoded at 1/{}, {db:.1} dB from a full decode", reduced.decode_reduction);
        assert!(db >= floor, "{spec}: {db} dB");
    }
}
