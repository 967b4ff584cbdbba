//! What can be seen on this machine without asking anybody: what makes a part fail that its own words do not tell.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{Cause, Finding, nginx::Front};
use crate::config::{CatalogueConfig, CatalogueKind, Config, OffloadMode, StoreKind};

/// 2026-01-01T00:00:00Z: no clock is right that says less.
const RELEASED: Duration = Duration::from_secs(1_767_225_600);
/// Bytes 18 and 19 of an SQLite file: 2 where it is in WAL mode (SQLite, "The Database File Format", 1.3.3).
const WAL: [u8; 2] = [2, 2];

/// A database in WAL mode that cannot be read here: readers of such a file write beside it.
///
/// `failed` is what the catalogue's own probe said.
pub fn sqlite(config: &CatalogueConfig, failed: &str) -> Option<Finding> {
    let file = sqlite_file(config)?;
    let mut head = [0; 20];
    std::fs::File::open(&file).ok()?.read_exact(&mut head).ok()?;
    if head[18..] != WAL {
        return None;
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = |suffix: &str| {
        let mut name = file.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    };
    let may = |path: &Path, access| rustix::fs::access(path, access).is_ok();
    let state = |path: &Path| match path.exists() {
        true if may(path, rustix::fs::Access::READ_OK) => "readable",
        true => "there, and not readable",
        false => "not there",
    };
    let folder_is_writable = may(folder, rustix::fs::Access::WRITE_OK);
    let says = "the SQLite file is in WAL mode, and this user cannot read it: readers need its -shm and -wal, or a folder \
                where they may make them";
    let fix = format!(
        "let sendimage's user write to {} (a group of the site's and sendimage's, chmod g+w), or turn WAL off: sqlite3 {} 'PRAGMA \
         journal_mode=DELETE'",
        folder.display(),
        file.display()
    );
    Some(
        Finding::error("catalogue", Cause::SqliteWal, says)
            .seen(failed)
            .seen(format!(
                "-shm is {}, -wal is {}, the folder is {}writable",
                state(&beside("-shm")),
                state(&beside("-wal")),
                if folder_is_writable { "" } else { "not " }
            ))
            .fix(fix),
    )
}

fn sqlite_file(config: &CatalogueConfig) -> Option<PathBuf> {
    let url = config.url.as_ref().filter(|_| config.kind == CatalogueKind::Sqlite)?;
    let options: sqlx::sqlite::SqliteConnectOptions = url.expose().parse().ok()?;
    Some(options.get_filename().to_owned())
}

/// Whether the nginx at `server.public_url`'s port, if it is on this machine, may enter the store's folder.
pub fn store(config: &Config) -> Option<Finding> {
    let opens_files = |mode| matches!(mode, OffloadMode::Accel | OffloadMode::AuthRequest | OffloadMode::Redirect);
    let is_read = config.effective_routes().values().any(|route| opens_files(route.offload));
    if config.store.kind != StoreKind::Fs || !is_read {
        return None;
    }
    let port = url::Url::parse(&config.server.public_url).ok()?.port_or_known_default();
    let obstacle = Front::on_this_machine(port, None).folder_obstacle(&config.store.root)?;
    let says = "nginx's user may not read the store";
    Some(Finding::warning("store", Cause::WrongUser, says).seen(obstacle.says).fix(obstacle.remedy))
}

/// A clock that cannot be right.
pub fn clock(now: SystemTime) -> Finding {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match since >= RELEASED {
        true => Finding::good("clock", "after this version's release"),
        false => {
            let says = "this machine's clock is before this version's release: links and tokens end at the wrong time";
            Finding::error("clock", Cause::WrongClock, says)
                .seen(format!("{} s since 1970", since.as_secs()))
                .fix("set it, and keep it so: chrony, systemd-timesyncd")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_of_1970_is_wrong() {
        assert_eq!(clock(SystemTime::UNIX_EPOCH).cause, Some(Cause::WrongClock));
        assert!(clock(SystemTime::now()).ok);
    }
}
