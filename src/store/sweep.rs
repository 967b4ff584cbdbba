//! Leftovers of crashed processes: which temporary files are nobody's any more.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use super::owner::{Lives, Owner};

/// Older than any render may take: whoever made such a file has given it up.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);
/// What the names of unfinished files begin with; their maker's mark follows.
const DRAFT: &str = ".tmp-";
/// What the names of leases begin with. A living one is touched all the time.
pub(crate) const LEASE: &str = ".lease-";

/// The name of an unfinished file.
pub(crate) fn draft_name(owner: &Owner, number: u64) -> String {
    format!("{DRAFT}{}", owner.mark(number))
}

/// Whether what has this name is an unfinished file or a lease.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.starts_with(DRAFT) || name.starts_with(LEASE)
}

/// Whether a file of this name and age is nobody's: made on this host by a process that is gone, or simply too old.
fn is_abandoned(owner: &Owner, name: &str, changed: SystemTime, lives: &mut Lives) -> bool {
    let gone = name.strip_prefix(DRAFT).is_some_and(|mark| owner.is_gone(mark, lives));
    gone || changed.elapsed().is_ok_and(|age| age > ABANDONED_AFTER)
}

/// Removes abandoned temporary files from the folder of drafts, or with `dry_run` only counts them: how many.
pub(super) fn sweep(folder: &Path, owner: &Owner, dry_run: bool) -> io::Result<u64> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let (mut removed, mut lives) = (0, Lives::new());
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_unfinished(name)) else { continue };
        // A file that vanishes meanwhile was published or swept by somebody else.
        let Ok(metadata) = entry.metadata() else { continue };
        // Not when it was modified: a rendition that is about to be published has been given a date in the past.
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(metadata.ctime().try_into().unwrap_or(0));
        let is_left = metadata.is_file() && is_abandoned(owner, name, changed, &mut lives);
        if is_left && (dry_run || fs::remove_file(entry.path()).is_ok()) {
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
        let dead = Owner::like(None, u32::MAX - 1, None);
        let alive = Owner::like(None, parent, None);
        let elsewhere = Owner::like(Some("elsewhere"), 1, None);
        let earlier_life = Owner::like(None, std::process::id(), Some("1"));
        // After a power cut another process has the pid.
        let earlier_boot = Owner::like(None, parent, Some(&format!("0{}", alive.life())));
        let [mine, theirs, orphan, far] = [&owner, &alive, &dead, &elsewhere].map(|owner| draft_name(owner, 1));
        for name in [&mine, &theirs, &orphan, &far] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        // About to be published: dated back, and touched just now.
        let dated = folder.path().join(draft_name(&elsewhere, 2));
        fs::File::create(&dated).unwrap().set_modified(SystemTime::now() - ABANDONED_AFTER * 2).unwrap();
        let earlier = [earlier_life, earlier_boot].map(|owner| folder.path().join(draft_name(&owner, 9)));
        earlier.iter().for_each(|path| fs::write(path, "x").unwrap());
        fs::write(folder.path().join("other"), "x").unwrap();
        let lease = folder.path().join(".lease-abc.webp");
        fs::write(&lease, "x").unwrap();

        assert_eq!(sweep(folder.path(), &owner, true).unwrap(), 3);
        assert_eq!(sweep(folder.path(), &owner, false).unwrap(), 3, "they were only counted");
        for name in [&mine, &theirs, &far, &"other".to_owned()] {
            assert!(folder.path().join(name).exists(), "{name}");
        }
        assert!(!folder.path().join(orphan).exists() && dated.exists() && earlier.iter().all(|path| !path.exists()));
        assert!(lease.exists());
    }

    #[test]
    fn what_is_too_old_is_abandoned_whoever_made_it() {
        let owner = Owner::this_process();
        let elsewhere = Owner::like(Some("elsewhere"), 1, Some("1"));
        let mut lives = Lives::new();
        for name in [draft_name(&owner, 1), draft_name(&elsewhere, 1), ".tmp-odd".into(), ".lease-abc.webp".into()] {
            let age = |age| SystemTime::now() - age;
            assert!(!is_abandoned(&owner, &name, age(ABANDONED_AFTER / 2), &mut lives), "{name}");
            assert!(is_abandoned(&owner, &name, age(ABANDONED_AFTER * 2), &mut lives), "{name}");
        }
    }

    #[test]
    fn no_folder_no_leftovers() {
        assert_eq!(sweep(Path::new("/nonexistent/drafts"), &Owner::this_process(), false).unwrap(), 0);
    }
}
