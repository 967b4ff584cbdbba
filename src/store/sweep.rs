//! Leftovers of crashed processes: which temporary files are nobody's any more.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

/// Older than any render may take: whoever made such a file has given it up.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// Who makes temporary files: part of their names, so that several processes and hosts can share a folder.
pub(super) struct Owner {
    host: String,
    pid: u32,
    /// Which of the processes that have ever had this pid: see [`life`].
    life: String,
}

/// Tells the lives of one pid apart, by the boot and the process's start in clock ticks since: in a container the pid is 1
/// every time, and after a power cut somebody else has it. `None` if there is no such process.
fn life(pid: u32) -> Option<String> {
    static BOOT: LazyLock<String> = LazyLock::new(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.chars().filter(char::is_ascii_hexdigit).take(8).collect()
    });
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; `starttime` is the 22nd field, proc(5).
    let start = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse::<u64>().ok()?;
    Some(format!("{}.{start:x}", *BOOT))
}

impl Owner {
    pub fn this_process() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        // Hyphens part the fields of a name; "app-1-1" and "app-11" must stay two hosts.
        let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
        let host = host.chars().map(safe).take(64).collect();
        let pid = std::process::id();
        // Without `/proc` all lives look alike, and age alone tells what is abandoned.
        Self { host, pid, life: life(pid).unwrap_or_default() }
    }

    /// `.tmp-HOST-PID-LIFE-NUMBER`.
    pub fn name(&self, number: u64) -> String {
        format!(".tmp-{}-{}-{}-{number:x}", self.host, self.pid, self.life)
    }

    /// Whether a file of this name and age is nobody's: made on this host by a process that is gone, or simply too old.
    /// `lives` are those that were looked up before.
    fn is_abandoned(&self, name: &str, changed: SystemTime, lives: &mut HashMap<u32, Option<String>>) -> bool {
        let mut parts = name.strip_prefix(".tmp-").unwrap_or_default().split('-');
        let (host, pid, of) = (parts.next(), parts.next().and_then(|pid| pid.parse::<u32>().ok()), parts.next());
        let gone = match (host, pid, of) {
            (Some(host), Some(pid), Some(of)) if host == self.host && !self.life.is_empty() => {
                lives.entry(pid).or_insert_with(|| life(pid)).as_deref() != Some(of)
            }
            _ => false,
        };
        gone || changed.elapsed().is_ok_and(|age| age > ABANDONED_AFTER)
    }
}

/// Removes abandoned temporary files from the folder of drafts: how many.
pub(super) fn sweep(folder: &Path, owner: &Owner) -> io::Result<u64> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let (mut removed, mut lives) = (0, HashMap::new());
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(".tmp-")) else { continue };
        // A file that vanishes meanwhile was published or swept by somebody else.
        let Ok(metadata) = entry.metadata() else { continue };
        // Not when it was modified: a rendition that is about to be published has been given a date in the past.
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(metadata.ctime().try_into().unwrap_or(0));
        if metadata.is_file() && owner.is_abandoned(name, changed, &mut lives) && fs::remove_file(entry.path()).is_ok()
        {
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
        let parent = std::os::unix::process::parent_id();
        let like = |host: &str, pid| Owner { host: host.to_owned(), pid, life: life(pid).unwrap_or("1".into()) };
        let dead = like(&owner.host, u32::MAX - 1);
        let alive = like(&owner.host, parent);
        let elsewhere = like("elsewhere", 1);
        let earlier_life = Owner { host: owner.host.clone(), pid: owner.pid, life: "1".into() };
        // After a power cut another process has the pid.
        let earlier_boot = Owner { life: format!("0{}", alive.life), ..like(&owner.host, parent) };
        let (mine, theirs, orphan, far) = (owner.name(1), alive.name(1), dead.name(1), elsewhere.name(1));
        for name in [&mine, &theirs, &orphan, &far] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        // About to be published: dated back, and touched just now.
        let dated = folder.path().join(elsewhere.name(2));
        fs::File::create(&dated).unwrap().set_modified(SystemTime::now() - ABANDONED_AFTER * 2).unwrap();
        let earlier = [earlier_life, earlier_boot].map(|owner| folder.path().join(owner.name(9)));
        earlier.iter().for_each(|path| fs::write(path, "x").unwrap());
        fs::write(folder.path().join("other"), "x").unwrap();

        assert_eq!(sweep(folder.path(), &owner).unwrap(), 3);
        for name in [&mine, &theirs, &far, &"other".to_owned()] {
            assert!(folder.path().join(name).exists(), "{name}");
        }
        assert!(!folder.path().join(orphan).exists() && dated.exists() && earlier.iter().all(|path| !path.exists()));
    }

    #[test]
    fn what_is_too_old_is_abandoned_whoever_made_it() {
        let owner = Owner::this_process();
        let elsewhere = Owner { host: "elsewhere".into(), pid: 1, life: "1".into() };
        let mut lives = HashMap::new();
        for name in [owner.name(1), elsewhere.name(1), ".tmp-odd".into()] {
            let age = |age| SystemTime::now() - age;
            assert!(!owner.is_abandoned(&name, age(ABANDONED_AFTER / 2), &mut lives), "{name}");
            assert!(owner.is_abandoned(&name, age(ABANDONED_AFTER * 2), &mut lives), "{name}");
        }
    }

    #[test]
    fn no_folder_no_leftovers() {
        assert_eq!(sweep(Path::new("/nonexistent/drafts"), &Owner::this_process()).unwrap(), 0);
    }
}
