//! Pythons with packages of their own, made where they are needed.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// A Python with these packages in `target/NAME`, made when it is first needed; `None`, said aloud, where that is impossible.
pub fn environment(name: &str, packages: &[&str], imports: &str) -> Option<PathBuf> {
    static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = MAKING.lock().unwrap();
    let environment = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target").join(name);
    let python = environment.join("bin/python");
    let succeeded = |command: &mut Command| command.status().is_ok_and(|status| status.success());
    let there = |python: &Path| succeeded(Command::new(python).args(["-c", imports]).stderr(Stdio::null()));
    if !there(&python) {
        let made = succeeded(Command::new("python3").args(["-m", "venv"]).arg(&environment))
            && succeeded(Command::new(&python).args(["-m", "pip", "install", "-q"]).args(packages));
        if !made || !there(&python) {
            eprintln!("SKIPPED: {} cannot be installed here, and what needs them is not tested", packages.join(", "));
            return None;
        }
    }
    Some(python)
}

/// A Python that has Django.
pub fn django() -> Option<PathBuf> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    PYTHON.get_or_init(|| environment("django", &["django>=4.2", "pillow"], "import django, PIL")).clone()
}
