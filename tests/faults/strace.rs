//! System calls seen, failed and fatal, by strace.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Site, wait_for};

/// Whether there is one, and it may trace what it did not start.
pub fn is_possible() -> bool {
    crate::tools::is_root() && Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok()
}

/// A strace at work on a running service and its workers. Dropped, it lets them go on untraced.
pub struct Strace {
    child: Child,
    output: PathBuf,
}

impl Strace {
    /// Attaches to the service and its workers, with `rules` such as `-e inject=fsync:error=EIO:when=1`.
    pub fn attach(site: &Site, rules: &[&str]) -> Self {
        let mut pids = vec![site.service_pid() as i32];
        pids.extend(site.workers());
        Self::attach_to(&pids, &site.path("strace"), rules)
    }

    /// Attaches to these processes, all their threads and their children.
    pub fn attach_to(pids: &[i32], output: &Path, rules: &[&str]) -> Self {
        let _ = std::fs::remove_file(output);
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-o"]).arg(output).args(rules);
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().expect("strace is installed (tests/run does it)");
        // It says so for each process once all its threads are attached.
        let said = BufReader::new(child.stderr.take().unwrap());
        let mut waiting = pids.len();
        let mut lines = said.lines();
        while waiting > 0 {
            let line = lines.next().expect("strace has attached").unwrap();
            // What else it says is about threads that end just now.
            waiting -= usize::from(line.contains(" attached"));
        }
        // Nobody reads on; what it says later must not hold it up.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, output: output.to_owned() }
    }

    /// Detaches: the lines that it has written.
    pub fn end(mut self) -> Vec<String> {
        self.detach();
        let text = std::fs::read(&self.output).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }

    /// Ends it at once, for those whose processes are dead: it may wait for their last word for ever.
    pub fn abandon(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn detach(&mut self) {
        let pid = Pid::from_child(&self.child);
        let _ = kill_process(pid, Signal::INT);
        if wait_for(Duration::from_secs(10), || matches!(self.child.try_wait(), Ok(Some(_)))).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.detach();
        }
    }
}

/// The highest number of each call's occurrences in one thread: what `when=` counts. Calls that `matters` says no to, by
/// their lines, are counted but do not raise the number.
pub fn occurrences(lines: &[String], matters: impl Fn(&str) -> bool) -> std::collections::BTreeMap<String, usize> {
    let mut by_thread = std::collections::BTreeMap::<(String, String), usize>::new();
    let mut highest = std::collections::BTreeMap::<String, usize>::new();
    for line in lines {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if !call.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
            continue; // a signal, an exit, or the end of a call that another's line has cut in two
        }
        let count = by_thread.entry((thread.to_owned(), call.to_owned())).or_default();
        *count += 1;
        if matters(line) {
            let highest = highest.entry(call.to_owned()).or_default();
            *highest = (*highest).max(*count);
        }
    }
    highest
}
