//! What commands print: made as a whole, and written once.

use std::{
    fmt::{Display, Write as _},
    io::{self, Write as _},
};

use super::CommandResult;

/// A text that is made line by line.
#[derive(Default)]
pub(super) struct Lines(String);

impl Lines {
    /// Adds a line.
    pub fn add(&mut self, line: impl Display) {
        let _ = writeln!(self.0, "{line}"); // writing to a String cannot fail
    }

    /// Prints all of it.
    ///
    /// # Errors
    /// See [`print_bytes`].
    pub fn print(&self) -> CommandResult {
        print_bytes(self.0.as_bytes())
    }
}

/// Prints a line.
///
/// # Errors
/// See [`print_bytes`].
pub(super) fn print_line(line: impl Display) -> CommandResult {
    print_bytes(format!("{line}\n").as_bytes())
}

/// Prints a value as JSON.
///
/// # Errors
/// See [`print_bytes`].
pub(super) fn print_json(value: &impl serde::Serialize) -> CommandResult {
    print_line(serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?)
}

/// Prints text that was made elsewhere. A reader that has enough (`| head`) is no failure of ours.
///
/// # Errors
/// When it cannot be written, as on a full disk.
pub(super) fn print_bytes(text: &[u8]) -> CommandResult {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::from(error).context("cannot write to standard output").into())
        }
        _ => Ok(()),
    }
}

/// Says something on standard error, if anybody takes it: what a command does and returns is the same without.
pub(super) fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
