//! An SVG of a stranger: rewritten from the allow-list, and drawn.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendimage::{
    app,
    config::RenderConfig,
    model::ImageFormat,
    render::{self, limits::Limits, plan::Plan},
    spec::FilterSpec,
    workers::Marks,
};

const LIMITS: Limits =
    Limits { max_source_bytes: 1 << 20, max_source_pixels: 1 << 20, max_source_side: 4096, max_output_pixels: 1 << 16 };

// What begins a document is put in front, which a mutator seldom keeps whole.
fuzz_target!(|body: &str| {
    for source in
        [body.to_owned(), format!(r#"<svg xmlns="http://www.w3.org/2000/svg" width="60" height="40">{body}</svg>"#)]
    {
        let Ok(facts) = render::probe(source.as_bytes()) else { continue };
        if facts.format != ImageFormat::Svg || LIMITS.check_source(&facts).is_err() {
            continue;
        }
        let defaults = app::defaults(&RenderConfig::default(), &Marks::default());
        for spec in ["fill-20x20", "width-16|format-png"] {
            let spec = FilterSpec::parse(spec).expect("a spec");
            let Ok(plan) = Plan::new(&facts, &spec, None, &defaults) else { continue };
            if LIMITS.check_output(&plan).is_err() {
                continue;
            }
            let Ok(rendered) = render::render(source.as_bytes(), &plan) else { continue };
            let made = render::probe(&rendered.bytes).expect("what we write we can read");
            assert_eq!(made.format, plan.encoding.format());
            if made.format == ImageFormat::Svg {
                let text = String::from_utf8(rendered.bytes).expect("text").to_ascii_lowercase();
                // As elements and attributes; the same letters as text are text.
                for harmful in ["<script", "<foreignobject", "<iframe", "<!entity", "<!doctype"] {
                    assert!(!text.contains(harmful), "{harmful} in {text}");
                }
            }
        }
    }
});
