//! Leftovers of crashed processes: which temporary files are nobody's any more.

use std::{
    fs, io,
    path::Path,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

/// Older than any render may take: whoever made such a file has given it up.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// Who makes temporary files: part of their names, so that several processes and hosts can share a folder.
pub(super) struct Owner {
    host: String,
    pid: u32,
    /// Milliseconds of the process's first use of a store, in hex. It keeps the lives of one pid apart: in a container it
    /// is 1 every time.
    life: String,
}

impl Owner {
    pub fn this_process() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        // Hyphens part the fields of a name; "app-1-1" and "app-11" must stay two hosts.
        let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
        let host = host.chars().map(safe).take(64).collect();
        static LIFE: OnceLock<u128> = OnceLock::new();
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        Self { host, pid: std::process::id(), life: format!("{:x}", LIFE.get_or_init(now)) }
    }

    /// `.tmp-HOST-PID-LIFE-NUMBER`.
    pub fn name(&self, number: u64) -> String {
        format!(".tmp-{}-{}-{}-{number:x}", self.host, self.pid, self.life)
    }

    /// Whether a file of this name and age is nobody's: made on this host by a process that is gone, or by an earlier life
    /// of our own pid, or simply too old.
    fn is_abandoned(&self, name: &str, modified: SystemTime) -> bool {
        let mut parts = name.strip_prefix(".tmp-").unwrap_or_default().split('-');
        let (host, pid, life) = (parts.next(), parts.next().and_then(|pid| pid.parse::<u32>().ok()), parts.next());
        match (host, pid) {
            (Some(host), Some(pid)) if host == self.host => {
                if pid == self.pid {
                    life != Some(&self.life)
                } else {
                    !Path::new(&format!("/proc/{pid}")).exists()
                }
            }
            _ => modified.elapsed().is_ok_and(|age| age > ABANDONED_AFTER),
        }
    }
}

/// Removes abandoned temporary files from the folder of drafts: how many.
pub(super) fn sweep(folder: &Path, owner: &Owner) -> io::Result<u64> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(".tmp-")) else { continue };
        // A file that vanishes meanwhile was published or swept by somebody else.
        let Ok(metadata) = entry.metadata() else { continue };
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if metadata.is_file() && owner.is_abandoned(name, modified) && fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_abandoned_files_go() {
        let folder = tempfile::tempdir().unwrap();
        let owner = Owner::this_process();
        let like = |host: &str, pid| Owner { host: host.to_owned(), pid, life: owner.life.clone() };
        let dead = like(&owner.host, u32::MAX - 1);
        let alive = like(&owner.host, std::os::unix::process::parent_id());
        let elsewhere = like("elsewhere", 1);
        let earlier_life = Owner { host: owner.host.clone(), pid: owner.pid, life: "1".into() };
        let (mine, theirs, orphan, far) = (owner.name(1), alive.name(1), dead.name(1), elsewhere.name(1));
        for name in [&mine, &theirs, &orphan, &far] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let old = folder.path().join(elsewhere.name(2));
        let file = fs::File::create(&old).unwrap();
        file.set_modified(SystemTime::now() - ABANDONED_AFTER * 2).unwrap();
        let earlier = folder.path().join(earlier_life.name(9));
        fs::write(&earlier, "x").unwrap();
        fs::write(folder.path().join("other"), "x").unwrap();

        assert_eq!(sweep(folder.path(), &owner).unwrap(), 3);
        for name in [&mine, &theirs, &far, &"other".to_owned()] {
            assert!(folder.path().join(name).exists(), "{name}");
        }
        assert!(!folder.path().join(orphan).exists() && !old.exists() && !earlier.exists());
    }

    #[test]
    fn no_folder_no_leftovers() {
        assert_eq!(sweep(Path::new("/nonexistent/drafts"), &Owner::this_process()).unwrap(), 0);
    }
}
