//! A whole render of small pictures: probe, plan, decode, resample, encode. By whatever way a picture is decoded, the same bytes come
//! of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendimage::{
    app,
    config::RenderConfig,
    render::{
        self,
        limits::Limits,
        plan::{Defaults, Plan},
    },
    spec::FilterSpec,
    workers::Marks,
};

const LIMITS: Limits =
    Limits { max_source_bytes: 1 << 20, max_source_pixels: 1 << 18, max_source_side: 4096, max_output_pixels: 1 << 16 };
const SPECS: [&str; 10] = [
    "fill-7x5|format-jpeg",
    "width-60|format-jpeg",
    "width-40|format-png",
    "max-16x16|format-webp",
    "width-9|format-webp-lossless",
    "height-12|format-gif",
    "original|format-png",
    "width-3|format-jpeg|bgcolor-f00",
    "scale-30|format-png",
    "width-20|format-avif",
];

// The last byte chooses the spec, so that seeds are files as they are.
fuzz_target!(|source: &[u8]| {
    let Ok(facts) = render::probe(source) else { return };
    if LIMITS.check_source(&facts).is_err() {
        return;
    }
    let spec = FilterSpec::parse(SPECS[usize::from(source[source.len() - 1]) % SPECS.len()]).expect("a spec");
    let defaults =
        Defaults { full_decode_pixels: 1 << 10, ..app::defaults(&RenderConfig::default(), &Marks::default()) };
    let Ok(plan) = Plan::new(&facts, &spec, None, &defaults) else { return };
    if LIMITS.check_output(&plan).is_err() {
        return;
    }
    let same = |other: &[u8]| {
        let rendered = render::render(source, &plan).expect("it is rendered another way");
        assert!(rendered.bytes == other, "{plan:?}");
    };
    if let Ok(Some((beside, _))) = render::render_shareable(source, &plan, &[2, 4, 8]) {
        same(&beside.bytes);
    }
    if let Ok(Some((in_pieces, _))) = render::render_shareable_in_pieces(source, &plan) {
        same(&in_pieces.bytes);
    }
    if let Ok(rendered) = render::render(source, &plan) {
        let made = render::probe(&rendered.bytes).expect("what we write we can read");
        assert_eq!((made.format, made.stored_size), (plan.encoding.format(), plan.rendition_size()), "{plan:?}");
    }
});
