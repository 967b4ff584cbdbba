//! A real Redis server, private to its test.

use std::{
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::{free_port, system_path, wait_for};

/// Whether a program is installed.
fn has(program: &str) -> bool {
    std::env::split_paths(&system_path()).any(|folder| folder.join(program).is_file())
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// A Redis server that keeps nothing.
pub struct Redis {
    folder: TempDir,
    port: u16,
    child: Mutex<Option<Child>>,
}

impl Redis {
    /// Runs one; `None` if this machine has none.
    pub fn new() -> Option<Self> {
        has("redis-server").then(|| {
            let server = Self { folder: tempfile::tempdir().unwrap(), port: free_port(), child: Mutex::default() };
            server.start();
            server
        })
    }

    /// Where it is reached.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Starts it, and waits until it answers.
    pub fn start(&self) {
        let child = Command::new("redis-server")
            .env("PATH", system_path())
            .args(["--bind", "127.0.0.1", "--save", "", "--port", &self.port.to_string(), "--dir"])
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        *self.child.lock().unwrap() = Some(child);
        let answers = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        wait_for(Duration::from_secs(10), answers).expect("redis answers");
    }

    /// Stops it at once, as a crash does.
    pub fn stop(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Freezes it: connections stay open, and nobody answers.
    pub fn pause(&self) {
        signal(self.child.lock().unwrap().as_ref().unwrap(), Signal::STOP);
    }

    /// Goes on after [`Self::pause`].
    pub fn resume(&self) {
        signal(self.child.lock().unwrap().as_ref().unwrap(), Signal::CONT);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
