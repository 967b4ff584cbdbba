//! Tries to break the sandbox: each layer alone, in a fresh child that really makes the attempt.
//!
//! The same attempts are made without any layer first. One that fails even then (no loopback, say) proves nothing and is
//! reported as such; so a sandbox that holds only because the attempt was broken cannot pass.

use std::{
    ffi::{CString, OsString},
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde::Serialize;

use super::{
    process::Program,
    sandbox::{self, Level},
    seccomp,
};

pub(super) const SUBCOMMAND: &str = "sandbox-selftest";
/// The argument that makes a child wait to be attacked.
const VICTIM: &str = "victim";
/// How long one attempt may take.
const WITHIN: Duration = Duration::from_secs(10);
/// What the child says before it tries: everything up to there is set-up.
const PREPARED: &str = "prepared";
/// The bytes that one job may plan to hold, in the self-test.
const JOB_BYTES: u64 = 8 << 20;

/// What stands between the attempt and its aim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Nothing: the attempt must succeed.
    Control,
    /// Resource limits.
    Limits,
    /// Landlock.
    Landlock,
    /// The system call filter.
    Seccomp,
    /// All, as a worker has them.
    Whole,
}

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // each says what it does
pub enum Action {
    OpenFile,
    ListDirectory,
    ConnectTcp,
    Fork,
    Execute,
    Trace,
    Signal,
    MapCode,
    Allocate,
    OpenMany,
    WriteMuch,
    /// Not an attack: a panic must still be caught, with every layer in force.
    CatchPanic,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Refused; by what.
    Refused(String),
    /// It worked.
    Allowed,
    /// The kernel does not have this layer, or not in full: why.
    Unavailable(String),
    /// The attempt itself could not be made: why.
    Inconclusive(String),
}

/// One attempt and its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// What stood in the way.
    pub layer: Layer,
    /// What was tried.
    pub action: Action,
    /// What came of it.
    pub outcome: Outcome,
}

impl Attempt {
    /// Whether the outcome is the one that is wanted.
    pub fn is_good(&self) -> bool {
        let wanted = self.layer == Layer::Control || self.action == Action::CatchPanic;
        match self.outcome {
            Outcome::Allowed => wanted,
            Outcome::Refused(_) => !wanted,
            Outcome::Unavailable(_) | Outcome::Inconclusive(_) => false,
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?}: {:?}", self.layer, self.action, self.outcome)
    }
}

impl Layer {
    const ALL: [Self; 5] = [Self::Control, Self::Limits, Self::Landlock, Self::Seccomp, Self::Whole];

    /// What this layer, on its own, has to refuse.
    fn refuses(self) -> &'static [Action] {
        use Action::*;
        match self {
            Self::Limits => &[Allocate, OpenMany, WriteMuch],
            Self::Landlock => &[OpenFile, ListDirectory, ConnectTcp, Execute, Trace, Signal],
            Self::Seccomp => &[OpenFile, ListDirectory, ConnectTcp, Fork, Execute, Trace, Signal, MapCode],
            Self::Control | Self::Whole => &Action::ALL,
        }
    }

    fn enter(self) -> Result<(), String> {
        let full = |level: Level| match level {
            Level::Enforced => Ok(()),
            other => Err(other.to_string()),
        };
        match self {
            Self::Control => Ok(()),
            Self::Limits => sandbox::limit_resources(JOB_BYTES).0.map_err(|error| error.to_string()),
            Self::Landlock => full(sandbox::enter_landlock().0),
            Self::Seccomp => seccomp::enter(),
            Self::Whole => {
                let (report, _) = sandbox::enter(JOB_BYTES);
                if report.is_complete() { Ok(()) } else { Err(report.to_string()) }
            }
        }
    }
}

impl Action {
    const ALL: [Self; 12] = {
        use Action::*;
        [
            OpenFile,
            ListDirectory,
            ConnectTcp,
            Fork,
            Execute,
            Trace,
            Signal,
            MapCode,
            Allocate,
            OpenMany,
            WriteMuch,
            CatchPanic,
        ]
    };
}

/// Makes every attempt, each in its own child of `program`.
///
/// Blocks for about a second.
///
/// # Errors
/// When the program cannot be opened.
pub fn self_test(program: &Path) -> io::Result<Vec<Attempt>> {
    let program = Program::open(program)?;
    let attempt = |layer: Layer, action: Action| {
        let outcome = try_in_child(&program, layer, action)
            .unwrap_or_else(|error| Outcome::Inconclusive(format!("no child: {error}")));
        Attempt { layer, action, outcome }
    };
    Ok(Layer::ALL.iter().flat_map(|layer| layer.refuses().iter().map(|action| attempt(*layer, *action))).collect())
}

fn try_in_child(program: &Program, layer: Layer, action: Action) -> io::Result<Outcome> {
    let arguments = [(layer as u8).to_string().into(), (action as u8).to_string().into()];
    let mut child = program
        .command(SUBCOMMAND, &arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (said, status) = watch(&mut child)?;
    let mut words = said.lines();
    let prepared = words.next() == Some(PREPARED);
    let verdict = words.last().unwrap_or_default(); // the program that was executed speaks last
    Ok(match (verdict.split_once(' ').unwrap_or((verdict, "")), status.signal()) {
        (("allowed", _), _) => Outcome::Allowed,
        (("refused", by), _) => Outcome::Refused(by.into()),
        (("unavailable", why), _) => Outcome::Unavailable(why.into()),
        (_, Some(libc::SIGSYS)) if prepared => Outcome::Refused("SIGSYS".into()),
        _ => Outcome::Inconclusive(format!("{said:?}, {status}")),
    })
}

/// Everything the child says and how it ended; killed when that takes too long.
fn watch(child: &mut Child) -> io::Result<(String, std::process::ExitStatus)> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut said = String::new();
            let _ = stdout.read_to_string(&mut said);
            let _ = sender.send(said);
        });
    }
    let said = receiver.recv_timeout(WITHIN);
    if said.is_err() {
        let _ = child.kill();
    }
    Ok((said.unwrap_or_default(), child.wait()?))
}

/// The child's side.
pub(super) fn run(arguments: &[OsString]) -> ExitCode {
    sandbox::close_inherited();
    if arguments.first().is_some_and(|argument| argument == VICTIM) {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        return ExitCode::SUCCESS;
    }
    let number = |index: usize| arguments.get(index)?.to_str()?.parse::<usize>().ok();
    let layer = number(0).and_then(|index| Layer::ALL.get(index));
    let action = number(1).and_then(|index| Action::ALL.get(index));
    let (Some(layer), Some(action)) = (layer, action) else {
        eprintln!("{SUBCOMMAND} is started by the service itself");
        return ExitCode::from(2);
    };
    std::panic::set_hook(Box::new(|_| {}));
    let verdict = match prepare(*action) {
        Err(error) => format!("inconclusive {error}"),
        Ok(attempt) => {
            say(PREPARED);
            match layer.enter() {
                Err(why) => format!("unavailable {why}"),
                Ok(()) => match attempt() {
                    Ok(()) => "allowed".into(),
                    Err(error) => format!("refused {error}"),
                },
            }
        }
    };
    say(&verdict.replace('\n', " "));
    ExitCode::SUCCESS
}

/// One write: the pipe's reader sees the line whole or, if the attempt killed us, not at all.
fn say(line: &str) {
    let mut stdout = io::stdout();
    let _ = stdout.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdout.flush());
}

type Try = Box<dyn FnOnce() -> io::Result<()>>;

/// Does what may be done beforehand (a listener to connect to, a child to trace), and gives back the attempt itself.
fn prepare(action: Action) -> io::Result<Try> {
    Ok(match action {
        Action::OpenFile => Box::new(|| File::open("/proc/self/status").map(drop)),
        Action::ListDirectory => Box::new(|| fs::read_dir("/")?.next().transpose().map(drop)),
        Action::ConnectTcp => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let address = listener.local_addr()?;
            Box::new(move || {
                let connected = TcpStream::connect(address).map(drop);
                drop(listener);
                connected
            })
        }
        Action::Fork => Box::new(|| {
            // SAFETY: the child calls nothing but `_exit`, which is safe after a fork.
            match unsafe { libc::fork() } {
                -1 => Err(io::Error::last_os_error()),
                0 => unsafe_exit(),
                pid => {
                    // SAFETY: waits for our own child, and asks for no status.
                    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
                    Ok(())
                }
            }
        }),
        Action::Execute => {
            // It says "allowed" itself, being this very subcommand without a layer or an aim of its own.
            let program = CString::new("/proc/self/exe")?;
            let arguments =
                ["sendimage", SUBCOMMAND, &(Layer::Control as u8).to_string(), &(Action::MapCode as u8).to_string()]
                    .map(|text| CString::new(text).unwrap_or_default());
            let pointers: Vec<_> = arguments.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
            let environment = [std::ptr::null()];
            Box::new(move || {
                let _keep = &arguments;
                // SAFETY: both arrays end in a null pointer and their strings, kept above, live until the call returns.
                unsafe { libc::execve(program.as_ptr(), pointers.as_ptr(), environment.as_ptr()) };
                Err(io::Error::last_os_error())
            })
        }
        Action::Trace => {
            let victim = Victim::start()?;
            Box::new(move || {
                // SAFETY: takes no memory of ours; seizing does not stop the tracee, and our end releases it.
                let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, victim.pid(), 0, 0) };
                if seized == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
            })
        }
        Action::Signal => {
            let victim = Victim::start()?;
            Box::new(move || {
                // SAFETY: takes no memory of ours; signal 0 only asks whether one could be sent.
                let sent = unsafe { libc::kill(victim.pid(), 0) };
                if sent == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
            })
        }
        Action::MapCode => Box::new(|| {
            let (code, private) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a new mapping at a place of the kernel's choice, never read, run or unmapped.
            let mapped = unsafe { libc::mmap(std::ptr::null_mut(), 4096, code, private, -1, 0) };
            if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
        }),
        Action::Allocate => Box::new(|| {
            let mut bytes = Vec::<u8>::new();
            bytes.try_reserve_exact(1 << 30).map_err(|_| io::ErrorKind::OutOfMemory.into())
        }),
        Action::OpenMany => {
            let pipe = io::pipe()?;
            Box::new(move || {
                let copies: Result<Vec<_>, _> = (0..16).map(|_| pipe.0.try_clone()).collect();
                copies.map(drop)
            })
        }
        Action::WriteMuch => {
            // SIGXFSZ would end us before the error is seen; workers ignore it too.
            // SAFETY: SIG_IGN runs no code of ours, and no other thread exists.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            let file: File = rustix::fs::memfd_create(c"self-test", rustix::fs::MemfdFlags::CLOEXEC)?.into();
            Box::new(move || Ok(rustix::io::pwrite(&file, &[0], JOB_BYTES).map(drop)?))
        }
        Action::CatchPanic => Box::new(|| {
            let caught = std::panic::catch_unwind(|| panic!("a decoder's assertion"));
            if caught.is_err() { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
        }),
    })
}

fn unsafe_exit() -> ! {
    // SAFETY: ends this process at once and runs nothing.
    unsafe { libc::_exit(0) }
}

/// A child of the child's, started before the layer is entered: whom a hijacked worker would attack. It ends when its
/// standard input does, at the latest with us.
struct Victim(Child);

impl Victim {
    fn start() -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.args([SUBCOMMAND, VICTIM]).env_clear().stdin(Stdio::piped()).stdout(Stdio::null());
        Ok(Self(command.spawn()?))
    }

    fn pid(&self) -> libc::pid_t {
        self.0.id() as libc::pid_t
    }
}
