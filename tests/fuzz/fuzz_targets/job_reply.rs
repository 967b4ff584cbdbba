//! A datagram from a worker that is no longer ours, and what the gate makes of the numbers in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendimage::{
    app,
    config::RenderConfig,
    model::Size,
    render::{limits::Limits, plan::Plan},
    spec::FilterSpec,
    workers::{
        JobError, Lane, Marks,
        job::{Answer, Ready, Reply},
    },
};

/// An operator who took every bound away: then arithmetic has to hold by itself.
const NO_LIMITS: Limits = Limits {
    max_source_bytes: u64::MAX,
    max_source_pixels: u64::MAX,
    max_source_side: u32::MAX,
    max_output_pixels: u64::MAX,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(ready) = serde_json::from_slice::<Ready>(bytes) {
        let _ = format!("{:?}", ready.sandbox);
    }
    let Ok(reply) = serde_json::from_slice::<Reply>(bytes) else { return };
    match reply.answer {
        Answer::Probed(facts) => {
            if NO_LIMITS.check_source(&facts).is_err() {
                return;
            }
            let defaults = app::defaults(&RenderConfig::default(), &Marks::default());
            for spec in ["original", "width-100|format-webp-lossless", "fill-3x4000000000|format-gif", "scale-300"] {
                let spec = FilterSpec::parse(spec).expect("a spec");
                let Ok(plan) = Plan::new(&facts, &spec, None, &defaults) else { continue };
                assert!(plan.output_size.pixels() > 0 && plan.crop.size().pixels() > 0, "{plan:?}");
                assert!(plan.peak_bytes(u64::from(u32::MAX)) > 0);
                let _ = (plan.recipe(), NO_LIMITS.check_output(&plan), Lane::of(&plan));
            }
        }
        // The gate asks this before it does anything else with the numbers.
        Answer::Looked(found) => {
            let size = Size::new(640, 480);
            assert!(!found.is_within(size) || found.size().pixels() <= size.pixels());
        }
        Answer::Inspected(found) => assert!(found.is_plausible() || !(1..=32).contains(&found.bits)),
        Answer::Rendered(report) => drop(format!("{:?}", report.times.decode.as_secs_f64())),
        Answer::Failed(error) => drop(JobError::from(error).to_string()),
        Answer::Source(errno) | Answer::Output(errno) => drop(errno.to_string()),
        Answer::Verified | Answer::SourceChanged | Answer::Panicked { .. } => {}
    }
});
