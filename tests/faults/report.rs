//! The table that a run leaves behind: one row for each test, in `target/faults/fast` or `target/faults/long`.

use std::{path::PathBuf, time::Instant};

use crate::tools;

/// A test that is under way.
pub struct Row {
    name: &'static str,
    rows: &'static str,
    began: Instant,
}

impl Row {
    /// Begins a test. `rows` names the threats and faults that it shows to hold, such as `"F01 F21"`.
    pub fn begin(name: &'static str, rows: &'static str) -> Self {
        eprintln!("{name} ({rows}): seed {}", tools::seed());
        Self { name, rows, began: Instant::now() }
    }

    /// Ends it well: what was counted, in words. A test that fails leaves no row.
    pub fn passed(self, counted: &str) {
        self.write("passed", counted);
    }

    /// Says, aloud and in the table, that this machine cannot run it.
    pub fn skipped(self, reason: &str) {
        eprintln!("SKIPPED: {}: {reason}", self.name);
        self.write("SKIPPED", reason);
    }

    fn write(self, verdict: &str, counted: &str) {
        let folder = folder();
        std::fs::create_dir_all(&folder).unwrap();
        let seconds = self.began.elapsed().as_secs_f64();
        let line = format!("| {} | {} | {verdict} | {counted} | {seconds:.0} |\n", self.name, self.rows);
        eprint!("{line}");
        std::fs::write(folder.join(self.name.replace(' ', "-")), line).unwrap();
    }
}

/// Beside the binaries that cargo built.
fn folder() -> PathBuf {
    let binary = PathBuf::from(crate::harness::SENDIMAGE);
    let target = binary.ancestors().nth(2).unwrap();
    target.join("faults").join(if tools::is_long() { "long" } else { "fast" })
}
