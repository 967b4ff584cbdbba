//! A real service, a real web server, and a client that sends exactly the bytes it is given.

use std::{
    ffi::OsStr,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// The built binary.
pub const SENDIMAGE: &str = env!("CARGO_BIN_EXE_sendimage");
/// The native key of every site in the tests.
pub const KEY: &str = "0123456789abcdef";
/// The token of those that have one.
pub const OPS_TOKEN: &str = "the-token-of-the-tests";

/// A folder with a config, a media folder and a store; what runs in it ends with it.
pub struct Site {
    pub folder: TempDir,
    service: Option<Child>,
    front: Option<Child>,
    pub ops: SocketAddr,
    nginx_port: u16,
}

impl Site {
    /// A site whose config is `config` behind the sections that every test needs. `{dir}` stands for its folder.
    pub fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // nginx's workers may run as another user.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(folder.path().join("media")).unwrap();
        let ops: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let nginx_port = free_port();
        let site = Self { folder, service: None, front: None, ops, nginx_port };
        site.configure(config);
        site
    }

    /// Writes another config.
    pub fn configure(&self, config: &str) {
        let (dir, ops, port) = (self.folder.path().display(), self.ops, self.nginx_port);
        let (server, rest) = match config.strip_prefix("[server]\n") {
            Some(rest) => {
                let end = rest.find("\n[").map_or(rest.len(), |at| at + 1);
                rest.split_at(end)
            }
            None => ("", config),
        };
        // A table is opened once.
        let (store, rest) = match rest.split_once("[store]\n") {
            Some((before, after)) => {
                let end = after.find("\n[").map_or(after.len(), |at| at + 1);
                (&after[..end], format!("{before}{}", &after[end..]))
            }
            None => ("", rest.to_owned()),
        };
        let signing = if rest.contains("[signing]") { "" } else { "[signing]\nsecret = \"0123456789abcdef\"\n" };
        let text = format!(
            "[server]\nlisten = \"unix:{dir}/gate.sock\"\nlisten_mode = \"0666\"\nops_listen = \"{ops}\"\n\
             public_url = \"http://127.0.0.1:{port}\"\n{server}\n\
             [store]\nroot = \"{dir}/renditions\"\n{store}\
             [sources.media]\nkind = \"fs\"\nroot = \"{dir}/media\"\n{signing}{rest}"
        );
        std::fs::write(self.config(), patient(text.replace("{dir}", &dir.to_string()))).unwrap();
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    pub fn config(&self) -> PathBuf {
        self.path("sendimage.toml")
    }

    /// Copies one of the vectors' images into the media folder.
    pub fn add(&self, vector: &str, name: &str) {
        let target = self.path("media").join(name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(crate::vectors::folder().join("images").join(vector), target).unwrap();
    }

    /// Runs the binary with this site's config.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(SENDIMAGE).args(arguments).arg("-c").arg(self.config()).output().unwrap()
    }

    /// The path and query that `sendimage sign` prints.
    pub fn sign(&self, arguments: &[&str]) -> String {
        let output = self.run(&[&["sign"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let url = String::from_utf8(output.stdout).unwrap();
        let url = url.trim();
        url.strip_prefix(&format!("http://127.0.0.1:{}", self.nginx_port)).unwrap_or(url).to_owned()
    }

    /// Starts the service and waits until it is ready.
    pub fn serve(mut self) -> Self {
        self.start();
        self
    }

    pub fn start(&mut self) {
        self.start_by(SENDIMAGE.as_ref(), |_| {});
    }

    /// As [`Self::start`]: this program, and the command as `edit` leaves it.
    pub fn start_by(&mut self, program: &Path, edit: impl FnOnce(&mut Command)) {
        let mut command = self.serve_command(&[program]);
        edit(&mut command);
        self.start_as(command);
    }

    /// The command of the service, whose first words are these: the binary, and before it a program that becomes it.
    pub fn serve_command(&self, words: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["serve", "-c"]).arg(self.config()).stdin(Stdio::null());
        command
    }

    /// As [`Self::start`], by a command that becomes the service.
    pub fn start_as(&mut self, command: Command) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        self.start_into(command, log.into());
    }

    /// As [`Self::start_as`], with the log going elsewhere.
    pub fn start_into(&mut self, mut command: Command, log: Stdio) {
        self.service = Some(command.stderr(log).spawn().unwrap());
        let ready = |site: &Self| site.ops("/health/ready").is_some_and(|response| response.status == 200);
        wait_for(Duration::from_secs(20), || ready(self)).unwrap_or_else(|()| panic!("not ready:\n{}", self.log()));
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits for a text in the log, which a thread of its own writes.
    #[track_caller]
    pub fn assert_logs(&self, text: &str) {
        let seen = wait_for(Duration::from_secs(5), || self.log().contains(text));
        assert!(seen.is_ok(), "no {text:?} in the log:\n{}", self.log());
    }

    pub fn service_pid(&self) -> u32 {
        self.service.as_ref().unwrap().id()
    }

    /// Sends a signal to the service.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.service_pid() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the service to end.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let mut child = self.service.take().unwrap();
        wait_for(Duration::from_secs(40), || child.try_wait().unwrap().is_some()).expect("the service ends");
        child.wait().unwrap()
    }

    /// Starts nginx with the config that `proxy-conf` prints.
    pub fn with_nginx(self) -> Self {
        self.with_nginx_before("gate.sock")
    }

    /// As [`Self::with_nginx`], but nginx asks another socket in the site's folder than the gate's.
    pub fn with_nginx_before(self, socket: &str) -> Self {
        self.with_nginx_edited(socket, |conf| conf)
    }

    /// As [`Self::with_nginx_before`], with the config as somebody's hand left it.
    pub fn with_nginx_edited(mut self, socket: &str, edit: impl FnOnce(String) -> String) -> Self {
        let directory = self.path("nginx");
        std::fs::create_dir(&directory).unwrap();
        let conf = self.printed_conf(socket, &directory, &[]);
        std::fs::write(directory.join("nginx.conf"), edit(conf)).unwrap();
        let log = std::fs::File::create(self.path("nginx.log")).unwrap();
        let child = Command::new("nginx")
            .env("PATH", system_path())
            .args(["-g", "daemon off;", "-e", "stderr", "-p"])
            .arg(&directory)
            .arg("-c")
            .arg(directory.join("nginx.conf"))
            .stderr(log)
            .spawn()
            .expect("nginx is installed (tests/run does it)");
        self.front = Some(child);
        let port = self.nginx_port;
        wait_for(Duration::from_secs(10), || TcpStream::connect(("127.0.0.1", port)).is_ok())
            .unwrap_or_else(|()| panic!("nginx:\n{}", std::fs::read_to_string(self.path("nginx.log")).unwrap()));
        self
    }

    /// What `proxy-conf --whole` prints for a server that asks a socket in the site's folder.
    pub fn printed_conf(&self, socket: &str, directory: &Path, arguments: &[&str]) -> String {
        let listen = format!("127.0.0.1:{}", self.nginx_port);
        let output = Command::new(SENDIMAGE)
            .args(["proxy-conf", "--whole", "--listen", &listen, "--directory"])
            .arg(directory)
            .arg("-c")
            .arg(self.config())
            .args(arguments)
            .env("SENDIMAGE_SERVER__LISTEN", format!("unix:{}", self.path(socket).display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a web server with the config that `proxy-conf --server` prints. It works as its package has it: as another user
    /// than root, whoever runs the tests.
    pub fn with_front(self, server: &str, socket: &str) -> Self {
        match server {
            "nginx" => self.with_nginx_before(socket),
            other => self.with_front_told(other, socket, &[]),
        }
    }

    /// As [`Self::with_front`], with more arguments for `proxy-conf`; not for nginx.
    pub fn with_front_told(mut self, server: &str, socket: &str, arguments: &[&str]) -> Self {
        let directory = self.path(server);
        std::fs::create_dir(&directory).unwrap();
        let root = rustix::process::geteuid().is_root();
        // Caddy knows no user to change to.
        let user: &[&str] = if root && server != "caddy" { &["--user", "www-data"] } else { &[] };
        let conf = directory.join("conf");
        std::fs::write(
            &conf,
            self.printed_conf(socket, &directory, &[&["--server", server], user, arguments].concat()),
        )
        .unwrap();
        let mut command = Command::new(program_of(server));
        match server {
            "apache" => command.args(["-D", "FOREGROUND", "-f"]).arg(&conf),
            "lighttpd" => command.args(["-D", "-f"]).arg(&conf),
            "caddy" => command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&conf).env("HOME", &directory),
            other => panic!("no such server: {other}"),
        };
        if root {
            let (user, group) = user_ids("www-data");
            std::os::unix::fs::chown(&directory, Some(user), Some(group)).unwrap();
            if server == "caddy" {
                command.uid(user).gid(group);
            }
        }
        let log = std::fs::File::create(self.path("front.log")).unwrap();
        self.front = Some(command.env("PATH", system_path()).stderr(log).spawn().unwrap());
        let port = self.nginx_port;
        wait_for(Duration::from_secs(20), || TcpStream::connect(("127.0.0.1", port)).is_ok())
            .unwrap_or_else(|()| panic!("{server}:\n{}", self.front_log(server)));
        self
    }

    /// What a web server other than nginx had to say.
    pub fn front_log(&self, server: &str) -> String {
        let read = |path: &str| std::fs::read_to_string(self.path(path)).unwrap_or_default();
        read("front.log") + &read(&format!("{server}/error.log"))
    }

    /// Lets nginx read its config anew.
    pub fn reload_nginx(&self) {
        let pid = rustix::process::Pid::from_raw(self.front.as_ref().unwrap().id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// The path and query of a whole URL of this site's.
    pub fn target(&self, url: &serde_json::Value) -> String {
        let origin = format!("http://127.0.0.1:{}", self.nginx_port);
        url.as_str().and_then(|url| url.strip_prefix(&origin)).unwrap_or_else(|| panic!("{url}")).to_owned()
    }

    /// The port that nginx listens on.
    pub fn nginx_port(&self) -> u16 {
        self.nginx_port
    }

    /// A request straight to the gate's socket.
    pub fn gate(&self, method: &str, target: &str, headers: &str) -> Response {
        exchange(self.gate_stream(), request(method, target, headers).as_bytes())
    }

    pub fn gate_stream(&self) -> UnixStream {
        UnixStream::connect(self.path("gate.sock")).unwrap()
    }

    /// A request through the web server, whichever it is.
    pub fn front(&self, method: &str, target: &str, headers: &str) -> Response {
        self.nginx(method, target, headers)
    }

    /// A request through nginx.
    pub fn nginx(&self, method: &str, target: &str, headers: &str) -> Response {
        exchange(self.nginx_stream(), request(method, target, headers).as_bytes())
    }

    pub fn nginx_stream(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.nginx_port)).unwrap()
    }

    /// A request to the operations listener.
    pub fn ops(&self, target: &str) -> Option<Response> {
        let stream = TcpStream::connect(self.ops).ok()?;
        Some(exchange(stream, request("GET", target, "").as_bytes()))
    }

    /// A call to the operations listener, with the token.
    pub fn call(&self, path: &str, body: &str) -> Response {
        let stream = TcpStream::connect(self.ops).unwrap();
        exchange(stream, ops_request("POST", path, body).as_bytes())
    }

    /// The JSON that such a call answers.
    pub fn called(&self, path: &str, body: serde_json::Value) -> serde_json::Value {
        let response = self.call(path, &body.to_string());
        assert_eq!(response.status, 200, "{path} {body}: {}", response.text());
        serde_json::from_slice(&response.body).unwrap()
    }

    /// The value of a metric's line.
    pub fn metric(&self, line: &str) -> f64 {
        self.ops("/metrics").unwrap().metric(line)
    }

    /// Stored renditions, by path below the store's root.
    pub fn stored(&self) -> Vec<PathBuf> {
        renditions(&self.path("renditions"))
    }

    /// Process ids of the render workers.
    pub fn workers(&self) -> Vec<i32> {
        children_of(self.service_pid() as i32)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for mut child in [self.front.take(), self.service.take()].into_iter().flatten() {
            let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            if wait_for(Duration::from_secs(5), || matches!(child.try_wait(), Ok(Some(_)))).is_err() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Where servers are, which may not be on a user's own path.
pub fn system_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// The program of a web server that `proxy-conf` knows.
fn program_of(server: &str) -> &str {
    if server == "apache" { "apache2" } else { server }
}

/// Whether a web server is installed, and Apache's module with it.
pub fn has_front(server: &str) -> bool {
    let is_there = |program: &str| std::env::split_paths(&system_path()).any(|folder| folder.join(program).is_file());
    is_there(program_of(server))
        && (server != "apache" || Path::new("/usr/lib/apache2/modules/mod_xsendfile.so").is_file())
}

/// User and group of a name in `/etc/passwd`.
fn user_ids(name: &str) -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let fields: Vec<&str> =
        users.lines().map(|line| line.split(':').collect()).find(|f: &Vec<_>| f[0] == name).unwrap();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}

/// An answer, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value; several lines of one name are joined as HTTP allows.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> =
            self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a metric's line, in an answer that is a list of them; 0 where it is not there.
    pub fn metric(&self, line: &str) -> f64 {
        let text = self.text();
        let value = text.lines().find_map(|candidate| candidate.strip_prefix(line)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }
}

pub fn request(method: &str, target: &str, headers: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
}

/// A call to an operations listener, with the token.
pub fn ops_request(method: &str, target: &str, body: &str) -> String {
    let headers = format!(
        "Authorization: Bearer {OPS_TOKEN}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        body.len()
    );
    request(method, target, &headers) + body
}

/// Sends bytes and reads one answer.
pub fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Response {
    stream.write_all(request).unwrap();
    let mut bytes = Vec::new();
    // A server that refuses a body may reset the connection once it has answered.
    let _ = stream.read_to_end(&mut bytes);
    parse(&bytes)
}

/// Takes the bytes of an answer apart; status 0 where there is none.
pub fn parse(bytes: &[u8]) -> Response {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(end) = end else { return Response { status: 0, headers: Vec::new(), body: bytes.to_vec() } };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect();
    let chunked =
        headers.iter().any(|(name, value)| name.eq_ignore_ascii_case("transfer-encoding") && value == "chunked");
    let body = if chunked { dechunk(&bytes[end + 4..]) } else { bytes[end + 4..].to_vec() };
    Response { status, headers, body }
}

fn dechunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            break;
        }
        body.extend_from_slice(&bytes[end + 2..end + 2 + length]);
        bytes = &bytes[end + 4 + length..];
    }
    body
}

/// A port that was free a moment ago, that no other test of this process is given, and that is below those which the kernel gives to
/// outgoing connections (from 32768 on): one of these may be taken before a server that is only just starting binds it.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(97).wrapping_add(TAKEN.fetch_add(1, Relaxed));
        let port = 10_000 + (number % 22_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What [`patient`] adds.
pub const MINUTE: &str = "[render]\ndeadline_seconds = 60.0\n";

/// A config in which renders have a minute where it does not say for how long: no test fails for a machine that is busy.
fn patient(config: String) -> String {
    match config.contains("deadline_seconds") {
        true => config,
        false if config.contains("[render]\n") => config.replacen("[render]\n", MINUTE, 1),
        false => config + "\n" + MINUTE,
    }
}

/// Asks until the answer is yes or the time is over.
pub fn wait_for(limit: Duration, mut done: impl FnMut() -> bool) -> Result<(), ()> {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if done() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(())
}

/// The renditions below a store's root: no records, drafts or leases.
pub fn renditions(root: &Path) -> Vec<PathBuf> {
    let is_rendition = |path: &PathBuf| !path.file_name().unwrap().to_string_lossy().starts_with('.');
    files(root).into_iter().filter(is_rendition).collect()
}

/// All files below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// The direct children of a process.
pub fn children_of(parent: i32) -> Vec<i32> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let mut fields = after_name.split(' ');
        let state = fields.next().unwrap_or_default();
        if fields.next().and_then(|ppid| ppid.parse().ok()) == Some(parent) && state != "Z" {
            children.push(pid);
        }
    }
    children
}
