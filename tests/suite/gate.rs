//! One of several services with the same config.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Response, SENDIMAGE, Site, free_port, ops_request, parse, request, wait_for};

/// Longer than any answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A service beside others, in the folder of a site.
pub struct Gate {
    child: Child,
    socket: PathBuf,
    ops: SocketAddr,
}

impl Gate {
    /// Starts it, and waits until it is ready.
    pub fn start(site: &Site, number: usize) -> Self {
        let socket = site.path(&format!("gate{number}.sock"));
        let ops: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let log = std::fs::File::options().create(true).append(true).open(site.path(&format!("log{number}"))).unwrap();
        let child = Command::new(SENDIMAGE)
            .args(["serve", "-c"])
            .arg(site.config())
            .env("SENDIMAGE_SERVER__LISTEN", format!("unix:{}", socket.display()))
            .env("SENDIMAGE_SERVER__OPS_LISTEN", ops.to_string())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let gate = Self { child, socket, ops };
        let is_ready = || gate.ops("GET", "/health/ready", "").is_some_and(|response| response.status == 200);
        wait_for(Duration::from_secs(20), is_ready).expect("the gate is ready");
        gate
    }

    pub fn get(&self, target: &str) -> Response {
        self.try_get(target).expect("the gate listens")
    }

    /// As [`Self::get`]; `None` where nobody listens. Status 0: the connection broke before there was an answer.
    pub fn try_get(&self, target: &str) -> Option<Response> {
        let stream = UnixStream::connect(&self.socket).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Some(ask(stream, &request("GET", target, "")))
    }

    /// What asks it from another thread.
    pub fn asker(&self) -> impl Fn(&str) -> Response + Send + 'static {
        let socket = self.socket.clone();
        move |target| ask(UnixStream::connect(&socket).unwrap(), &request("GET", target, ""))
    }

    pub fn ops(&self, method: &str, target: &str, body: &str) -> Option<Response> {
        let stream = TcpStream::connect(self.ops).ok()?;
        Some(ask(stream, &ops_request(method, target, body)))
    }

    pub fn metric(&self, line: &str) -> f64 {
        self.ops("GET", "/metrics", "").map_or(0.0, |response| response.metric(line))
    }

    pub fn rendered(&self, format: &str) -> f64 {
        self.metric(&format!("sendimage_renders_total{{outcome=\"rendered\",format=\"{format}\"}}"))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Kills it, and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What comes back, however little.
fn ask(mut stream: impl Read + Write, request: &str) -> Response {
    let mut bytes = Vec::new();
    let _ = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut bytes).map(|_| ()));
    parse(&bytes)
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.kill();
    }
}
