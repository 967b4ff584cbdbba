//! A filter spec: parsed, printed, and solved for some picture.
#![no_main]

use libfuzzer_sys::{arbitrary, fuzz_target};
use sendimage::{
    model::{FocalPoint, Size},
    render::plan,
    spec::FilterSpec,
};

#[derive(arbitrary::Arbitrary, Debug)]
struct Input<'a> {
    width: u32,
    height: u32,
    focal_point: Option<[f64; 4]>,
    text: &'a str,
}

fuzz_target!(|input: Input<'_>| {
    let text = input.text;
    let spec = match FilterSpec::parse(text) {
        Ok(spec) => spec,
        Err(error) => {
            assert!(error.offset <= text.len() && text.is_char_boundary(error.offset), "{text:?}: {error:?}");
            return;
        }
    };
    // A double may print longer than a spec may be; then there is nothing to take apart again.
    let canonical = spec.canonical();
    if canonical.len() <= sendimage::spec::MAX_BYTES {
        assert_eq!(FilterSpec::parse(&canonical).as_ref(), Ok(&spec), "{text:?}");
    }
    // As the catalogue lets focal points through: finite, of any size.
    let focal_point = input
        .focal_point
        .filter(|numbers| numbers.iter().all(|n| n.is_finite()))
        .map(|[x, y, width, height]| FocalPoint { x, y, width, height });
    let size = Size::new(input.width.max(1), input.height.max(1));
    if let Ok(solved) = plan::solve(size, None, &spec, focal_point) {
        assert!(solved.crop.is_within(solved.turn.upright(size)), "{solved:?} of {size:?}");
        assert!(solved.output_size.pixels() > 0, "{solved:?}");
    }
});
