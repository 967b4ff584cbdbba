//! Real object stores that check signatures, and a connection to them that can be made to fail.
//!
//! s3s-fs is small, keeps objects as plain files and knows `If-None-Match` on PUT; Garage is a store that sites run, knows
//! conditional GETs and tells a missing bucket from a missing key, and does not know `If-None-Match` on PUT. `tests/run` builds
//! the former, and the latter with `--long`.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use sendimage::{
    config::{S3Config, Secret},
    remote::s3::Bucket,
};

use crate::harness::{free_port, wait_for};

/// Of the form that Garage's keys have.
pub const KEY_ID: &str = "GK31c2f218a2e44f485b94239e";
pub const SECRET: &str = "b892c0665f0ada8a4755dae98baa3b133590e11dae3bcc1f9d769d67f16c3835";

/// The stores that are installed.
pub fn kinds() -> Vec<&'static str> {
    let (there, missing): (Vec<_>, Vec<_>) = ["s3s-fs", "garage"].into_iter().partition(|kind| program(kind).is_some());
    for kind in &missing {
        eprintln!("SKIPPED with {kind}: it is not installed (tests/run builds s3s-fs, tests/run --long garage)");
    }
    there
}

/// Whether one is installed; says so where it is not.
pub fn is_there(kind: &'static str) -> bool {
    kinds().contains(&kind)
}

/// Of this checkout's tools, or of the system's.
fn program(kind: &str) -> Option<PathBuf> {
    let target = Path::new(crate::harness::SENDIMAGE).ancestors().nth(2).unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::iter::once(target.join("tools/bin")).chain(std::env::split_paths(&path));
    folders.find_map(|folder| Some(folder.join(kind)).filter(|file| file.is_file()))
}

/// Where stores are, but for those of a cluster.
const LOOPBACK: &str = "127.0.0.1";

/// A running store.
pub struct ObjectServer {
    kind: &'static str,
    folder: PathBuf,
    child: Option<Child>,
    address: String,
    pub port: u16,
}

impl ObjectServer {
    /// A store with these buckets. s3s-fs keeps a bucket's objects as files in a folder of its name.
    pub fn start(kind: &'static str, folder: &Path, buckets: &[&str]) -> Self {
        Self::start_at(kind, folder, buckets, LOOPBACK)
    }

    /// The same at an address of this machine.
    pub fn start_at(kind: &'static str, folder: &Path, buckets: &[&str], address: &str) -> Self {
        let address = address.to_owned();
        let mut server = Self { kind, folder: folder.to_owned(), child: None, address, port: free_port() };
        if kind == "garage" {
            let secret = SECRET;
            let (rpc, port) = (free_port(), server.port);
            std::fs::write(
                folder.join("garage.toml"),
                format!(
                    "metadata_dir = \"{dir}/garage-meta\"\ndata_dir = \"{dir}/garage-data\"\ndb_engine = \"sqlite\"\n\
                     replication_factor = 1\nrpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\n\
                     rpc_secret = \"{secret}\"\n[s3_api]\ns3_region = \"us-east-1\"\n\
                     api_bind_addr = \"{address}:{port}\"\n",
                    address = server.address,
                    dir = folder.display()
                ),
            )
            .unwrap();
        }
        for bucket in buckets.iter().filter(|_| kind == "s3s-fs") {
            std::fs::create_dir_all(folder.join(bucket)).unwrap();
        }
        server.run();
        if kind == "garage" {
            let node = server.garage(&["node", "id", "-q"]);
            let node = node.split('@').next().unwrap().to_owned();
            server.garage(&["layout", "assign", "-z", "z", "-c", "1G", &node]);
            server.garage(&["layout", "apply", "--version", "1"]);
            server.garage(&["key", "import", "--yes", KEY_ID, SECRET]);
            for bucket in buckets {
                server.garage(&["bucket", "create", bucket]);
                server.garage(&["bucket", "allow", "--read", "--write", bucket, "--key", KEY_ID]);
            }
        }
        server
    }

    /// Runs, or runs again.
    pub fn run(&mut self) {
        let program = program(self.kind).unwrap();
        let mut command = Command::new(program);
        match self.kind {
            "s3s-fs" => {
                let port = self.port.to_string();
                command.args([
                    "--host",
                    &self.address,
                    "--port",
                    &port,
                    "--access-key",
                    KEY_ID,
                    "--secret-key",
                    SECRET,
                ]);
                command.arg(&self.folder).env("RUST_LOG", "error");
            }
            _ => {
                command.arg("-c").arg(self.folder.join("garage.toml")).arg("server").env("RUST_LOG", "garage=warn");
            }
        }
        let log = std::fs::File::create(self.folder.join("store.log")).unwrap();
        let copy = log.try_clone().unwrap();
        self.child = Some(command.stdin(Stdio::null()).stdout(log).stderr(copy).spawn().unwrap());
        wait_for(Duration::from_secs(20), || TcpStream::connect((&*self.address, self.port)).is_ok())
            .unwrap_or_else(|()| panic!("{}", std::fs::read_to_string(self.folder.join("store.log")).unwrap()));
    }

    fn garage(&self, arguments: &[&str]) -> String {
        let run = || {
            let mut command = Command::new(program("garage").unwrap());
            command.arg("-c").arg(self.folder.join("garage.toml")).args(arguments).output().unwrap()
        };
        let mut output = run();
        // It takes a moment until it answers itself.
        let _ = wait_for(Duration::from_secs(10), || {
            if !output.status.success() {
                output = run();
            }
            output.status.success()
        });
        assert!(output.status.success(), "garage {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Stops it without a word, or lets it go on.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Ends it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The lines of a bucket's table.
pub fn lines(port: u16, bucket: &str, more: &str) -> String {
    lines_at(LOOPBACK, port, bucket, more)
}

/// The same for a store elsewhere.
pub fn lines_at(address: &str, port: u16, bucket: &str, more: &str) -> String {
    format!(
        "endpoint = \"http://{address}:{port}\"\nbucket = \"{bucket}\"\naccess_key_id = \"{KEY_ID}\"\n\
         secret_access_key = \"{SECRET}\"\n{more}"
    )
}

/// A client of a bucket, for what a test puts there and looks for.
pub struct Hands {
    runtime: tokio::runtime::Runtime,
    pub bucket: Bucket,
}

impl Hands {
    pub fn new(port: u16, bucket: &str) -> Self {
        Self::at(LOOPBACK, port, bucket)
    }

    /// The same for a store elsewhere.
    pub fn at(address: &str, port: u16, bucket: &str) -> Self {
        let config = S3Config {
            endpoint: format!("http://{address}:{port}"),
            bucket: bucket.into(),
            access_key_id: KEY_ID.into(),
            secret_access_key: Some(Secret::new(SECRET.into())),
            ..S3Config::default()
        };
        Self { runtime: tokio::runtime::Runtime::new().unwrap(), bucket: Bucket::new(&config).unwrap() }
    }

    pub fn run<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }

    /// Puts one of the vectors' images.
    pub fn add(&self, vector: &str, key: &str) {
        let bytes = std::fs::read(crate::vectors::folder().join("images").join(vector)).unwrap();
        self.run(self.bucket.put(key, bytes.into(), "application/octet-stream")).unwrap();
    }

    /// Keys of renditions below a folder; records are none.
    pub fn stored(&self, folder: &str) -> Vec<String> {
        let listed = self.run(self.bucket.list(folder)).unwrap();
        let is_rendition = |key: &String| !key.rsplit('/').next().unwrap().starts_with('.');
        listed.into_iter().map(|(key, _)| key).filter(is_rendition).collect()
    }
}

/// What becomes of requests on their way to the store.
#[derive(Clone, Debug, Default)]
pub enum Way {
    /// They arrive.
    #[default]
    Open,
    /// Connections are closed at once.
    Shut,
    /// Nobody answers.
    Silent,
    /// Requests that begin with these words are answered here, so often; the rest arrive.
    Answer(&'static str, &'static str, usize),
    /// Of the answers to requests that begin with these words so many bytes come through, then the connection is cut.
    Cut(&'static str, usize),
    /// Their answers come through byte by byte, with so long a pause after each.
    Drip(&'static str, Duration),
}

/// A stand-in for the store's address: it passes on, counts, and fails as it is told to.
#[derive(Clone)]
pub struct Relay {
    pub port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    way: Way,
    /// First lines of requests.
    seen: Vec<String>,
}

impl Relay {
    pub fn to(server: &ObjectServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        let (one, target) = (relay.clone(), server.port);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let one = one.clone();
                thread::spawn(move || one.pass_on(client, target));
            }
        });
        relay
    }

    pub fn set(&self, way: Way) {
        self.state.lock().unwrap().way = way;
    }

    /// First lines of the requests that came since the last time.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }

    fn pass_on(&self, mut client: TcpStream, target: u16) {
        if matches!(self.state.lock().unwrap().way, Way::Shut) {
            return;
        }
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)) else { return };
        // How the answers to the latest request come through.
        let answers: Arc<Mutex<Way>> = Arc::default();
        let (from, to, how) = (server.try_clone().unwrap(), client.try_clone().unwrap(), answers.clone());
        thread::spawn(move || answer(from, to, &how));
        let mut bytes = [0; 64 << 10];
        while let Ok(length @ 1..) = client.read(&mut bytes) {
            let part = &bytes[..length];
            if let Some(line) = first_line(part) {
                let way = self.way_of(&line);
                self.state.lock().unwrap().seen.push(line);
                match way {
                    Way::Shut => break,
                    Way::Silent => {
                        thread::sleep(Duration::from_secs(60));
                        break;
                    }
                    Way::Answer(_, said, _) => {
                        let _ = client.write_all(said.as_bytes());
                        break;
                    }
                    way => *answers.lock().unwrap() = way,
                }
            }
            if server.write_all(part).is_err() {
                break;
            }
        }
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    }

    fn way_of(&self, line: &str) -> Way {
        let mut state = self.state.lock().unwrap();
        let concerns = |words: &str| line.starts_with(words);
        match &mut state.way {
            Way::Answer(words, said, times) if concerns(words) && *times > 0 => {
                *times -= 1;
                Way::Answer(words, said, *times)
            }
            Way::Cut(words, _) | Way::Drip(words, _) if !concerns(words) => Way::Open,
            Way::Answer(..) => Way::Open,
            way => way.clone(),
        }
    }
}

/// Clients of ours begin a request with a write of its own.
fn first_line(bytes: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(bytes.split(|b| *b == b'\r').next()?).ok()?;
    let is_one = ["GET /", "HEAD /", "PUT /", "POST /", "DELETE /"].iter().any(|method| line.starts_with(method));
    (is_one && line.ends_with(" HTTP/1.1")).then(|| line.to_owned())
}

fn answer(mut from: TcpStream, mut to: TcpStream, how: &Mutex<Way>) {
    let (mut bytes, mut passed) = ([0; 16 << 10], 0);
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        let how = how.lock().unwrap().clone();
        let sent = match how {
            Way::Cut(_, most) if passed + length > most => {
                let _ = to.write_all(&bytes[..most.saturating_sub(passed)]);
                break;
            }
            Way::Drip(_, pause) => bytes[..length].iter().try_for_each(|byte| {
                thread::sleep(pause);
                to.write_all(&[*byte])
            }),
            _ => to.write_all(&bytes[..length]),
        };
        passed += length;
        if sent.is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
