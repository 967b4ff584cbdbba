//! How a run gets on: a bar on a terminal, elsewhere a line now and then. All of it goes to standard error.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use super::summary::Summary;
use crate::command::say;

/// Between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What is shown while it runs.
pub enum Progress {
    /// A bar that is drawn over and over.
    Bar(ProgressBar),
    /// Lines: when it began, when the last one was written.
    Lines { began: Instant, last: Instant, total: Option<u64> },
    /// Nothing: a program reads the summary.
    Silent,
}

impl Progress {
    /// On standard error, if that is a terminal, a bar.
    pub fn begin(silent: bool, says: &str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        if silent && !terminal {
            return Self::Silent;
        }
        say(format_args!("rendering ahead {says}"));
        if !terminal {
            let now = Instant::now();
            return Self::Lines { began: now, last: now, total: None };
        }
        let bar = ProgressBar::no_length();
        bar.set_style(style("{spinner} {human_pos} images  {per_sec}  {msg}"));
        bar.enable_steady_tick(Duration::from_millis(250));
        Self::Bar(bar)
    }

    /// How many images there are in all has become known.
    pub fn set_total(&mut self, images: u64) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(images);
                bar.set_style(style("[{bar:30}] {human_pos}/{human_len} images  {per_sec}  {eta} left  {msg}"));
            }
            Self::Lines { total, .. } => *total = Some(images),
            Self::Silent => {}
        }
    }

    /// So much is done.
    pub fn update(&mut self, summary: &Summary) {
        match self {
            Self::Bar(bar) => {
                bar.set_position(summary.images);
                bar.set_message(summary.line());
            }
            Self::Lines { began, last, total } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                let rate = summary.images as f64 / began.elapsed().as_secs_f64().max(0.001);
                let of = total.map(|total| format!(" of {}", HumanCount(total))).unwrap_or_default();
                let left = total.filter(|_| rate > 0.0).map(|total| {
                    let seconds = total.saturating_sub(summary.images) as f64 / rate;
                    format!(", {} left", rough(seconds))
                });
                let (images, left) = (HumanCount(summary.images), left.unwrap_or_default());
                say(format_args!("{images}{of} images, {rate:.1}/s{left}: {}", summary.line()));
            }
            Self::Lines { .. } | Self::Silent => {}
        }
    }

    /// Leaves the line to what follows.
    pub fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates above are good: a test draws both.
    ProgressStyle::with_template(template)
        .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "))
}

fn rough(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 90.0 => format!("{seconds:.0} s"),
        seconds if seconds < 5400.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_good_and_times_are_rough() {
        for template in
            ["{spinner} {human_pos} images  {per_sec}  {msg}", "[{bar:30}] {human_pos}/{human_len} {eta} left"]
        {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
        assert_eq!([rough(3.2), rough(600.0), rough(9000.0)], ["3 s", "10 min", "2.5 h"]);
    }
}
