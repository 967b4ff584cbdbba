//! A Python that has Django.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::OnceLock,
};

const DJANGO: &str = "django==5.2.*";

/// A Python that has Django, from its package registry; `None`, with the reason on standard error, where there is none.
pub fn python() -> Option<PathBuf> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    PYTHON.get_or_init(install).clone()
}

fn install() -> Option<PathBuf> {
    let environment = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/django");
    let python = environment.join("bin/python");
    let succeeded = |command: &mut Command| command.stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    let has_django = || succeeded(Command::new(&python).args(["-c", "import django"]).stderr(Stdio::null()));
    if !has_django() {
        let made = succeeded(Command::new("python3").args(["-m", "venv"]).arg(&environment))
            && succeeded(Command::new(&python).args(["-m", "pip", "install", "-q", DJANGO]));
        if !made {
            eprintln!("SKIPPED: {DJANGO} cannot be installed here, so a real site's login is not tested");
            return None;
        }
    }
    Some(python)
}
