#![allow(missing_docs)]
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = sendimage::workers::run_as_child() {
        return code;
    }
    ExitCode::SUCCESS
}
