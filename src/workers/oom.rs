//! Deaths for want of memory, told from other `SIGKILL`s.
//!
//! A wait status says `SIGKILL` either way. But the kernel counts whom it kills for want of memory, in the victim's own control
//! group and before the signal is sent, whether the group's limit was met or the whole machine was short: `oom_kill` in
//! `memory.events` (version 2) and in `memory.oom_control` (version 1). Workers share the gate's group, and of all processes
//! in it they are the ones to go (`oom_score_adj`). So a worker that was killed while the count rose by one was that one.
#![forbid(unsafe_code)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

const MOUNTED_AT: &str = "/sys/fs/cgroup";

/// The kernel's count for this process's control group, and how many of them are accounted for.
#[derive(Debug, Default)]
pub struct OomKills(Mutex<Option<(PathBuf, u64)>>);

impl OomKills {
    /// Takes note of the count as it is: what was killed before is nobody's business here.
    pub fn begin(&self) {
        if let Some((file, count)) = count() {
            drop(self.note(file, count));
        }
    }

    /// Whether the kernel has killed one more for want of memory than was claimed so far; that one is claimed.
    pub fn claim(&self) -> bool {
        count().is_some_and(|(file, count)| self.claim_of(file, count))
    }

    /// Begins with a group that is new, and leaves what is unclaimed in a known one to whoever waits for its worker's end.
    fn note(&self, file: PathBuf, count: u64) -> MutexGuard<'_, Option<(PathBuf, u64)>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|(of, _)| *of != file) {
            *known = Some((file, count));
        }
        known
    }

    fn claim_of(&self, file: PathBuf, count: u64) -> bool {
        match self.note(file, count).as_mut() {
            Some((_, claimed)) if count > *claimed => {
                *claimed += 1;
                true
            }
            _ => false,
        }
    }
}

/// The count's file and the count; `None` without control groups, or in the root group of version 2, which has none.
fn count() -> Option<(PathBuf, u64)> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    candidates(&groups).into_iter().find_map(|file| {
        let count = oom_kills(&fs::read_to_string(&file).ok()?)?;
        Some((file, count))
    })
}

/// Where the count may be, by the lines of `/proc/self/cgroup`. In a container the path may be the host's while the group
/// is mounted as the root.
fn candidates(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (mounts, file): (&[&str], _) = match controllers {
            "" => (&["", "unified"], "memory.events"),
            names if names.split(',').any(|name| name == "memory") => (&["memory"], "memory.oom_control"),
            _ => continue,
        };
        for mount in mounts {
            let mount = Path::new(MOUNTED_AT).join(mount);
            files.push(mount.join(path.trim_start_matches('/')).join(file));
            files.push(mount.join(file));
        }
    }
    files
}

fn oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_both_versions() {
        let found = |groups: &str| -> Vec<String> {
            candidates(groups).iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            found("0::/system.slice/sendimage.service\n")[..2],
            ["/sys/fs/cgroup/system.slice/sendimage.service/memory.events", "/sys/fs/cgroup/memory.events"]
        );
        assert_eq!(
            found("9:name=systemd:/\n4:cpu,memory:/a:b\n"),
            ["/sys/fs/cgroup/memory/a:b/memory.oom_control", "/sys/fs/cgroup/memory/memory.oom_control"]
        );
        assert_eq!(oom_kills("low 0\noom 3\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(oom_kills("oom_kill_disable 0\n"), None);
    }

    #[test]
    fn a_worker_that_starts_claims_no_others_death() {
        let kills = OomKills::default();
        let group = || PathBuf::from("group");
        drop(kills.note(group(), 3));
        // Two are killed; the first one's successor starts before the second is buried.
        assert!(kills.claim_of(group(), 5));
        drop(kills.note(group(), 5));
        assert!(kills.claim_of(group(), 5));
        assert!(!kills.claim_of(group(), 5), "a kill by hand");
        // Moved to another group, whose count is its own.
        drop(kills.note("other".into(), 9));
        assert!(!kills.claim_of("other".into(), 9));
    }

    #[test]
    fn nothing_is_claimed_where_nothing_was_killed() {
        let kills = OomKills::default();
        kills.begin();
        assert!(!kills.claim());
    }
}
