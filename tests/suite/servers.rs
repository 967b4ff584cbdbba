//! Real servers that gates meet in, each private to its test: started and stopped, frozen and killed by it.

use std::{
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    databases,
    harness::{free_port, system_path, wait_for},
};

/// A server process that a test may do anything to.
pub trait Server {
    /// Where it is reached.
    fn url(&self) -> String;
    /// Starts it, and waits until it answers.
    fn start(&self);
    /// Stops it at once, as a crash does.
    fn stop(&self);
    /// Freezes it: connections stay open, and nobody answers.
    fn pause(&self);
    /// Goes on after [`Self::pause`].
    fn resume(&self);
}

/// A fresh server; `None` if this machine has none.
pub fn start(name: &str) -> Option<Box<dyn Server>> {
    match name {
        "redis" => Redis::new().map(|server| Box::new(server) as Box<dyn Server>),
        "postgres" => Postgres::new().map(|server| Box::new(server) as Box<dyn Server>),
        _ => None,
    }
}

/// Whether a program is installed.
pub fn has(program: &str) -> bool {
    std::env::split_paths(&system_path()).any(|folder| folder.join(program).is_file())
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Postgres, by the catalogues' own server.
struct Postgres(Mutex<databases::Server>);

impl Postgres {
    fn new() -> Option<Self> {
        let kind = databases::Kind::Postgres;
        kind.is_installed().then(|| Self(Mutex::new(databases::Server::at(kind, "127.0.0.1", 20))))
    }
}

impl Server for Postgres {
    fn url(&self) -> String {
        self.0.lock().unwrap().url()
    }

    fn start(&self) {
        self.0.lock().unwrap().start();
    }

    fn stop(&self) {
        self.0.lock().unwrap().kill();
    }

    fn pause(&self) {
        self.0.lock().unwrap().freeze();
    }

    fn resume(&self) {
        self.0.lock().unwrap().thaw();
    }
}

struct Redis {
    folder: TempDir,
    port: u16,
    child: Mutex<Option<Child>>,
}

impl Redis {
    fn new() -> Option<Self> {
        has("redis-server").then(|| {
            let server = Self { folder: tempfile::tempdir().unwrap(), port: free_port(), child: Mutex::default() };
            server.start();
            server
        })
    }
}

impl Server for Redis {
    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    fn start(&self) {
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

    fn stop(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn pause(&self) {
        signal(self.child.lock().unwrap().as_ref().unwrap(), Signal::STOP);
    }

    fn resume(&self) {
        signal(self.child.lock().unwrap().as_ref().unwrap(), Signal::CONT);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
