//! Which process made a file, among all that share a folder.

use std::{collections::HashMap, fs, sync::LazyLock};

/// Who makes temporary files and leases: part of what they say, so that several processes and hosts can share a folder.
pub(crate) struct Owner {
    host: String,
    pid: u32,
    /// Which of the processes that have ever had this pid: see [`life`].
    life: String,
}

/// Lives that were looked up before.
pub(crate) type Lives = HashMap<u32, Option<String>>;

/// Tells the lives of one pid apart, by the boot and the process's start in clock ticks since: in a container the pid is 1
/// every time, and after a power cut somebody else has it. `None` if there is no such process.
fn life(pid: u32) -> Option<String> {
    static BOOT: LazyLock<String> = LazyLock::new(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.chars().filter(char::is_ascii_hexdigit).take(8).collect()
    });
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; `state` is the third field and `starttime` the 22nd, proc(5).
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    // A zombie is dead, however long nobody asks what it died of.
    fields.next().filter(|state| !matches!(*state, "Z" | "X"))?;
    let start = fields.nth(18)?.parse::<u64>().ok()?;
    Some(format!("{}.{start:x}", *BOOT))
}

impl Owner {
    pub fn this_process() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        // Hyphens part the fields of a mark; "app-1-1" and "app-11" must stay two hosts.
        let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
        let host = host.chars().map(safe).take(64).collect();
        let pid = std::process::id();
        // Without `/proc` all lives look alike, and age alone tells what is abandoned.
        Self { host, pid, life: life(pid).unwrap_or_default() }
    }

    /// `HOST-PID-LIFE-NUMBER`.
    pub fn mark(&self, number: u64) -> String {
        format!("{}-{}-{}-{number:x}", self.host, self.pid, self.life)
    }

    /// Whether a mark is that of a process that was on this host and is gone.
    pub fn is_gone(&self, mark: &str, lives: &mut Lives) -> bool {
        let mut parts = mark.split('-');
        let (host, pid, of) = (parts.next(), parts.next().and_then(|pid| pid.parse::<u32>().ok()), parts.next());
        match (host, pid, of) {
            (Some(host), Some(pid), Some(of)) if host == self.host && !self.life.is_empty() => {
                lives.entry(pid).or_insert_with(|| life(pid)).as_deref() != Some(of)
            }
            _ => false,
        }
    }

    /// Another process's mark, for tests: of this host if `host` is `None`, and of the life that the pid has or had.
    #[cfg(test)]
    pub fn like(host: Option<&str>, pid: u32, of: Option<&str>) -> Self {
        let this = Self::this_process();
        let life = of.map_or_else(|| life(pid).unwrap_or("1".into()), str::to_owned);
        Self { host: host.map_or(this.host, str::to_owned), pid, life }
    }

    /// The life, for tests.
    #[cfg(test)]
    pub fn life(&self) -> &str {
        &self.life
    }
}
