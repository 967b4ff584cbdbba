//! Real database servers of our own: on a free port, in a temporary folder, as a user who may nothing else.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection, PgConnection};
use tempfile::TempDir;

use crate::harness::{children_of, free_port, system_path, wait_for};

/// Theirs who administers the server, and the service's.
pub const PASSWORD: &str = "canary-password";
/// Who runs it when the tests are root's: `nobody`, for Postgres refuses root.
const NOBODY: u32 = 65_534;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Postgres,
    MariaDb,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Postgres, Self::MariaDb];

    /// Whether the server is installed.
    pub fn is_installed(self) -> bool {
        self.program().is_some()
    }

    fn program(self) -> Option<PathBuf> {
        match self {
            Self::Postgres => postgres_folder().map(|folder| folder.join("postgres")),
            Self::MariaDb => find("mariadbd"),
        }
    }
}

/// The newest of those that Debian's packages have side by side.
fn postgres_folder() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let folders = versions.map(|entry| entry.path().join("bin")).filter(|folder| folder.join("initdb").exists());
    folders.max_by_key(|folder| folder.parent().and_then(Path::file_name)?.to_str()?.parse::<u32>().ok())
}

fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&system_path()).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// A server with a database `site` and a user `site` who may read.
pub struct Server {
    pub kind: Kind,
    pub port: u16,
    address: String,
    sessions: usize,
    folder: TempDir,
    child: Option<Child>,
}

/// Where servers are, but for those of a cluster.
const LOOPBACK: &str = "127.0.0.1";

impl Server {
    /// Makes one, and starts it.
    pub fn new(kind: Kind) -> Self {
        // Four for everybody, and one for who administers it.
        Self::at(kind, LOOPBACK, 5)
    }

    /// Makes one at an address of this machine, for so many sessions at once, and starts it.
    pub fn at(kind: Kind, address: &str, sessions: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = address.to_owned();
        let mut server = Self { kind, port: free_port(), address, sessions, folder, child: None };
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(server.folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        match kind {
            Kind::Postgres => {
                std::fs::write(server.path("password"), PASSWORD).unwrap();
                let mut initdb = Command::new(postgres_folder().unwrap().join("initdb"));
                initdb.args([
                    "-U",
                    "admin",
                    "-A",
                    "scram-sha-256",
                    "--no-sync",
                    "--no-instructions",
                    "-E",
                    "UTF8",
                    "-D",
                ]);
                initdb.arg(server.path("data")).arg("--pwfile").arg(server.path("password"));
                server.run(initdb);
                let rules = server.path("data/pg_hba.conf");
                let known = std::fs::read_to_string(&rules).unwrap();
                std::fs::write(&rules, format!("{known}host all all samenet scram-sha-256\n")).unwrap();
            }
            Kind::MariaDb => {
                let mut install = Command::new(find("mariadb-install-db").unwrap());
                install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
                install.arg(format!("--datadir={}", server.path("data").display()));
                server.run(install);
            }
        }
        server.start();
        match kind {
            Kind::Postgres => {
                server.execute_in(
                    "postgres",
                    &["CREATE DATABASE site", &format!("CREATE USER site PASSWORD '{PASSWORD}'")],
                );
                server.execute(&["ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO site"]);
            }
            Kind::MariaDb => server.execute_in(
                "mysql",
                &[
                    "CREATE DATABASE site CHARACTER SET utf8mb4",
                    // The user may write: that it does not is the service's own doing.
                    &format!("CREATE USER site@'%' IDENTIFIED BY '{PASSWORD}' WITH MAX_USER_CONNECTIONS 4"),
                    "GRANT ALL ON site.* TO site@'%'",
                ],
            ),
        }
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn unprivileged(&self, mut command: Command) -> Command {
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.current_dir(self.folder.path()).env("PATH", system_path()).env("HOME", self.folder.path());
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, command: Command) {
        let output = self.unprivileged(command).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts it, and waits until it answers.
    pub fn start(&mut self) {
        self.begin();
        wait_for(Duration::from_secs(30), || self.answers()).unwrap_or_else(|()| panic!("{}", self.log()));
    }

    /// Starts it without waiting.
    pub fn begin(&mut self) {
        let mut command = Command::new(self.kind.program().unwrap());
        match self.kind {
            Kind::Postgres => {
                command.arg("-D").arg(self.path("data"));
                let sockets = format!("unix_socket_directories={}", self.folder.path().display());
                for setting in [
                    &format!("port={}", self.port),
                    &sockets,
                    &format!("listen_addresses={}", self.address),
                    &format!("max_connections={}", self.sessions),
                    "superuser_reserved_connections=1",
                    "max_wal_senders=0",
                    "fsync=off",
                ] {
                    command.args(["-c", setting]);
                }
            }
            Kind::MariaDb => {
                command.args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve"]);
                command.args(["--innodb-buffer-pool-size=16M", "--innodb-flush-log-at-trx-commit=0"]);
                command.arg(format!("--datadir={}", self.path("data").display()));
                command.arg(format!("--port={}", self.port));
                command.arg(format!("--socket={}", self.path("socket").display()));
                command.arg(format!("--pid-file={}", self.path("pid").display()));
            }
        }
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = self.unprivileged(command);
        self.child = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn answers(&self) -> bool {
        block_on(async {
            match self.kind {
                Kind::Postgres => PgConnection::connect(&self.admin_url("postgres")).await.is_ok(),
                Kind::MariaDb => MySqlConnection::connect(&self.admin_url("mysql")).await.is_ok(),
            }
        })
    }

    /// Ends it as its administrator would.
    pub fn stop(&mut self) {
        let signal = match self.kind {
            Kind::Postgres => Signal::INT,
            Kind::MariaDb => Signal::TERM,
        };
        self.signal(signal);
        self.child.take().unwrap().wait().unwrap();
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.signal_all(Signal::KILL);
        self.child.take().unwrap().wait().unwrap();
    }

    /// Stops the time for it, and for its sessions.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().id() as i32
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    fn signal_all(&self, signal: Signal) {
        let children = children_of(self.pid());
        self.signal(signal);
        for child in children {
            let _ = kill_process(Pid::from_raw(child).unwrap(), signal);
        }
    }

    /// The URL of the service's user.
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The same through another port.
    pub fn url_at(&self, port: u16) -> String {
        let scheme = match self.kind {
            Kind::Postgres => "postgres",
            Kind::MariaDb => "mysql",
        };
        format!("{scheme}://site:{PASSWORD}@{}:{port}/site", self.address)
    }

    /// The same by the server's unix socket.
    pub fn socket_url(&self) -> String {
        let folder = self.folder.path().display();
        match self.kind {
            Kind::Postgres => {
                format!("postgres:///site?host={folder}&port={}&user=site&password={PASSWORD}", self.port)
            }
            Kind::MariaDb => format!("mysql://site:{PASSWORD}@localhost/site?socket={folder}/socket"),
        }
    }

    fn admin_url(&self, database: &str) -> String {
        match self.kind {
            Kind::Postgres => format!("postgres://admin:{PASSWORD}@{}:{}/{database}", self.address, self.port),
            Kind::MariaDb => {
                format!("mysql://root@localhost/{database}?socket={}", self.path("socket").display())
            }
        }
    }

    /// Runs statements in the site's database.
    pub fn execute(&self, statements: &[&str]) {
        self.execute_in("site", statements);
    }

    fn execute_in(&self, database: &str, statements: &[&str]) {
        let url = self.admin_url(database);
        block_on(async {
            match self.kind {
                Kind::Postgres => {
                    let mut admin = PgConnection::connect(&url).await.unwrap();
                    for statement in statements {
                        admin.execute(AssertSqlSafe(*statement)).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
                    }
                    admin.close().await.unwrap();
                }
                Kind::MariaDb => {
                    let mut admin = MySqlConnection::connect(&url).await.unwrap();
                    for statement in statements {
                        admin.execute(AssertSqlSafe(*statement)).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
                    }
                    admin.close().await.unwrap();
                }
            }
        });
    }

    /// Sessions that the service's user has.
    pub fn sessions(&self) -> i64 {
        let query = match self.kind {
            Kind::Postgres => "SELECT COUNT(*) FROM pg_stat_activity WHERE usename = 'site'",
            Kind::MariaDb => "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'site'",
        };
        block_on(async {
            match self.kind {
                Kind::Postgres => {
                    let mut admin = PgConnection::connect(&self.admin_url("site")).await.unwrap();
                    sqlx::query_scalar(query).fetch_one(&mut admin).await.unwrap()
                }
                Kind::MariaDb => {
                    let mut admin = MySqlConnection::connect(&self.admin_url("site")).await.unwrap();
                    sqlx::query_scalar(query).fetch_one(&mut admin).await.unwrap()
                }
            }
        })
    }

    /// Ends every session of the service's user.
    pub fn end_sessions(&self) {
        match self.kind {
            Kind::Postgres => {
                self.execute(&["SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'site'"]);
            }
            Kind::MariaDb => self.execute(&["KILL USER site"]),
        }
    }

    /// Takes so many sessions as the service's user, for as long as what it returns lives.
    pub fn occupy(&self, count: usize) -> Occupied {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let taken = runtime.block_on(async {
            let mut taken = Taken::default();
            let end = Instant::now() + Duration::from_secs(5);
            // Sessions that were just ended leave their places a moment later.
            while taken.postgres.len() + taken.mariadb.len() < count {
                let failed = match self.kind {
                    Kind::Postgres => {
                        PgConnection::connect(&self.url()).await.map(|one| taken.postgres.push(one)).err()
                    }
                    Kind::MariaDb => {
                        MySqlConnection::connect(&self.url()).await.map(|one| taken.mariadb.push(one)).err()
                    }
                };
                assert!(failed.is_none() || Instant::now() < end, "{failed:?}");
            }
            taken
        });
        Occupied { runtime, taken }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.thaw();
            self.kill();
        }
    }
}

#[derive(Default)]
struct Taken {
    postgres: Vec<PgConnection>,
    mariadb: Vec<MySqlConnection>,
}

/// Sessions that somebody else has.
pub struct Occupied {
    runtime: tokio::runtime::Runtime,
    taken: Taken,
}

impl Drop for Occupied {
    fn drop(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        self.runtime.block_on(async {
            for session in taken.postgres {
                let _ = session.close().await;
            }
            for session in taken.mariadb {
                let _ = session.close().await;
            }
        });
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A network between the service and a server: it can lose what is said in the connections there are, and in new ones.
pub struct Network {
    pub port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Connections that were opened when this many cuts had been made pass until the next one.
    cuts: AtomicUsize,
    swallows_new: AtomicBool,
    ends: AtomicBool,
    accepted: AtomicUsize,
    open: AtomicUsize,
    most: Mutex<usize>,
}

impl Network {
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let own = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.ends.load(SeqCst) {
                    return;
                }
                shared.accepted.fetch_add(1, SeqCst);
                let Ok(client) = stream else { continue };
                let state = shared.clone();
                std::thread::spawn(move || carry(client, port, &state));
            }
        });
        Self { port: own, state }
    }

    /// From now on nothing passes in the connections there are, nor in new ones; neither side is told.
    pub fn cut(&self) {
        self.state.swallows_new.store(true, SeqCst);
        self.state.cuts.fetch_add(1, SeqCst);
    }

    /// New connections pass again; the old ones stay lost.
    pub fn mend(&self) {
        self.state.swallows_new.store(false, SeqCst);
    }

    /// Connections that were tried.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(SeqCst)
    }

    /// The most that were open at once since this was last asked.
    pub fn most(&self) -> usize {
        std::mem::take(&mut *self.state.most.lock().unwrap())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.state.ends.store(true, SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn carry(client: TcpStream, port: u16, state: &State) {
    let open = state.open.fetch_add(1, SeqCst) + 1;
    {
        let mut most = state.most.lock().unwrap();
        *most = open.max(*most);
    }
    let born = state.cuts.load(SeqCst);
    let passes = || state.cuts.load(SeqCst) == born && !state.swallows_new.load(SeqCst);
    let server = if passes() { TcpStream::connect(("127.0.0.1", port)).ok() } else { None };
    let _ = client.set_nodelay(true);
    match &server {
        Some(server) => {
            let _ = server.set_nodelay(true);
            std::thread::scope(|scope| {
                scope.spawn(|| pump(&client, server, &passes, state));
                pump(server, &client, &passes, state);
            });
        }
        // Refused, when nobody listens behind; swallowed, when the network is cut.
        None if !passes() => pump(&client, &client, &|| false, state),
        None => {}
    }
    state.open.fetch_sub(1, SeqCst);
}

/// Carries bytes one way. What may not pass is read by nobody; that a side is gone is seen all the same.
fn pump(from: &TcpStream, to: &TcpStream, passes: &(dyn Fn() -> bool + Sync), state: &State) {
    let mut buffer = [0; 16 << 10];
    let (mut reader, mut writer) = (from, to);
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    while !state.ends.load(SeqCst) {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) if passes() => {
                if writer.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    // A network that is cut tells neither side.
    if passes() {
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// How long until something is so.
pub fn time_until(limit: Duration, done: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    wait_for(limit, done).unwrap_or_else(|()| panic!("not so after {limit:?}"));
    began.elapsed()
}
