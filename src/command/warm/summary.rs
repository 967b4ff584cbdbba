//! What a run has come to.

use std::time::Duration;

use serde::Serialize;

use crate::{
    command::output::Lines,
    upkeep::{Failure, Warmed},
};

/// The summary, as `--json` prints it.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Who rendered: `service` or `itself`.
    pub by: &'static str,
    /// Originals that were seen to.
    pub images: u64,
    /// What became of their renditions.
    #[serde(flatten)]
    pub warmed: Warmed,
    /// How long it took.
    pub seconds: f64,
    /// Whether it was cut short, by a signal or because the service went away.
    pub interrupted: bool,
}

impl Summary {
    /// Nothing done yet.
    pub fn new(by: &'static str) -> Self {
        Self { by, images: 0, warmed: Warmed::default(), seconds: 0.0, interrupted: false }
    }

    /// Adds a batch.
    pub fn add(&mut self, images: u64, warmed: Warmed) {
        self.images += images;
        self.warmed.absorb(warmed);
    }

    /// Whether all is there.
    pub fn is_good(&self) -> bool {
        !self.interrupted && self.failed() == 0
    }

    /// How many renditions there are none of.
    pub fn failed(&self) -> u64 {
        self.warmed.failed.values().sum()
    }

    /// In few words.
    pub fn line(&self) -> String {
        let Warmed { created, present, .. } = &self.warmed;
        format!("{created} created, {present} present, {} failed", self.failed())
    }

    /// Notes the time that it took, in whole milliseconds.
    pub fn took(&mut self, time: Duration) {
        self.seconds = (time.as_secs_f64() * 1e3).round() / 1e3;
    }

    /// For whoever reads it.
    pub fn report(&self) -> Lines {
        let mut lines = Lines::default();
        lines.add(format_args!("{} images in {:.1} s: {}", self.images, self.seconds, self.line()));
        for (reason, count) in &self.warmed.failed {
            lines.add(format_args!("{count:>8}  {reason}"));
        }
        let told = &self.warmed.failures;
        for Failure { reference, spec, reason, says } in told {
            let spec = spec.as_deref().map(|spec| format!(" {spec}")).unwrap_or_default();
            lines.add(format_args!("  {reason}: {reference}{spec}: {says}"));
        }
        if told.len() >= Warmed::MOST_FAILURES {
            lines.add(format_args!("  only {} are listed, at least one of each reason", Warmed::MOST_FAILURES));
        }
        if self.interrupted {
            lines.add("cut short: run it again to go on; what is there is passed quickly");
        }
        lines
    }
}
