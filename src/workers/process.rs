//! One worker process from the gate's side: started, spoken to, killed, reaped.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::OpenOptionsExt,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
    },
    pipe::{PipeFlags, pipe_with},
};
use serde::de::DeserializeOwned;
use tokio::{io::unix::AsyncFd, sync::oneshot};

use super::{
    job::{Decode, Job, MAX_MESSAGE_BYTES, Ready, Reply, plain},
    oom::OomKills,
    sandbox::SandboxReport,
    worker,
};

/// How long a new worker may take to say that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// How long a worker whose socket closed may take to be gone; the kernel tears a large address space down first.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// The service's own program, held open: what is started years later is still this build, whatever an upgrade did to the
/// file's name since.
#[derive(Clone)]
pub struct Program(Arc<File>);

impl Program {
    pub fn open(path: &Path) -> io::Result<Self> {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
        Ok(Self(Arc::new(opened)))
    }

    /// A command that runs it with an empty environment, in a process group of its own: what a terminal sends to the
    /// service's group is not for its children.
    pub fn command(&self, subcommand: &str, arguments: &[OsString]) -> Command {
        // The child opens this name before its close-on-exec descriptors go.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        command.arg0("sendimage").arg(subcommand).args(arguments).env_clear().current_dir("/").process_group(0);
        command
    }
}

/// Starts workers, from one thread that lives as long as anybody may want one: the kernel sends the parent-death signal
/// when the *thread* that forked ends, and a runtime's threads come and go.
pub struct Launcher {
    requests: mpsc::Sender<oneshot::Sender<io::Result<Spawned>>>,
    oom_kills: Arc<OomKills>,
}

/// A child, the gate's end of its socket, and what it says on its standard error.
type Spawned = (Leash, OwnedFd, File);

impl Launcher {
    /// `job_bytes` is the most that one job may plan to hold.
    pub fn start(program: Program, job_bytes: u64) -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel::<oneshot::Sender<_>>();
        thread::Builder::new().name("worker-launcher".into()).spawn(move || {
            for request in inbox {
                drop(request.send(spawn(&program, job_bytes))); // an unwanted worker dies by its leash
            }
        })?;
        Ok(Self { requests, oom_kills: Arc::default() })
    }

    /// Starts a worker and waits until it is in its sandbox.
    pub async fn launch(&self) -> io::Result<WorkerProcess> {
        let (sender, receiver) = oneshot::channel();
        let gone = |_| io::Error::other("the thread that starts workers is gone");
        self.requests.send(sender).map_err(|_| gone(()))?;
        self.oom_kills.begin();
        let (leash, socket, words) = receiver.await.map_err(|_| gone(()))??;
        // SAFETY: the `AsyncFd` owns the socket, and an `OwnedFd` is the same open descriptor as long as it lives.
        let socket = unsafe { AsyncFd::register(socket) }?;
        let mut worker = WorkerProcess {
            leash,
            socket,
            words,
            oom_kills: self.oom_kills.clone(),
            buffer: vec![0; MAX_MESSAGE_BYTES],
            sandbox: None,
            jobs: 0,
            holds: Vec::new(),
        };
        let ready: Result<Ready, AskError> =
            tokio::time::timeout(READY_WITHIN, worker.receive()).await.unwrap_or(Err(AskError::TimedOut));
        match ready {
            Ok(Ready { sandbox }) => {
                worker.sandbox = Some(sandbox);
                Ok(worker)
            }
            Err(AskError::TimedOut) => Err(io::ErrorKind::TimedOut.into()),
            Err(AskError::Protocol) => Err(io::Error::other("the program answered, but not as a render worker")),
            Err(AskError::Gone) => {
                let Death { cause, words, .. } = worker.bury().await;
                Err(io::Error::other(format!("the program ended before it was ready ({cause}): {words}")))
            }
        }
    }
}

fn spawn(program: &Program, job_bytes: u64) -> io::Result<Spawned> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?; // ours alone: the worker's end blocks
    // Not the gate's own: whoever hijacks a worker must not write into the service's log. A full pipe takes no more, and
    // nobody waits for it to be read.
    let (words, mouth) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let arguments = [std::process::id().to_string().into(), job_bytes.to_string().into()];
    let child = program
        .command(worker::SUBCOMMAND, &arguments)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::from(mouth))
        .spawn()?;
    Ok((Leash(Some(child)), ours, words.into()))
}

/// A child that does not outlive its owner: killed and reaped when dropped.
struct Leash(Option<Child>);

impl Leash {
    /// Waits for the end on a thread of its own: a process that hangs in the kernel holds nobody up, and the end of the
    /// runtime leaves no zombie behind. After `grace` it is killed; the flag says whether it was.
    fn reap(mut self, grace: Duration) -> oneshot::Receiver<(ExitStatus, bool)> {
        let (sender, receiver) = oneshot::channel();
        if let Some(child) = self.0.take() {
            reap(child, grace, sender);
        }
        receiver
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill(); // it may be dead already; SIGKILL also ends a stopped process
            reap(child, Duration::ZERO, oneshot::channel().0);
        }
    }
}

fn reap(mut child: Child, grace: Duration, sender: oneshot::Sender<(ExitStatus, bool)>) {
    let wait = move || {
        let end = Instant::now() + grace;
        while Instant::now() < end {
            if let Ok(Some(status)) = child.try_wait() {
                let _ = sender.send((status, false));
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let _ = child.kill();
        if let Ok(status) = child.wait() {
            let _ = sender.send((status, true));
        }
    };
    // Without a thread the zombie stays until the service ends, which is the lesser harm.
    let _ = thread::Builder::new().name("worker-reaper".into()).spawn(wait);
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// A signal's name, `exit`, or one of the keeper's own causes. A metric label: from a fixed set.
    pub cause: String,
    /// Whether the job did it, rather than somebody from outside.
    pub own_making: bool,
    /// What it said last, for the log: an allocator's complaint, say.
    pub words: String,
}

impl Death {
    pub fn by_job(cause: &str) -> Self {
        Self { cause: cause.into(), own_making: true, words: String::new() }
    }

    fn of(status: ExitStatus) -> Self {
        match status.signal() {
            // An exit that nobody asked for: a decoder that called exit(), or a broken socket.
            None => Self::by_job("exit"),
            Some(signal) => {
                let name = signal_name(signal);
                Self { cause: name.into(), own_making: OWN_MAKING.contains(&signal), words: String::new() }
            }
        }
    }
}

/// Signals that a process earns by what it does.
const OWN_MAKING: [i32; 8] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGSYS,
    libc::SIGXCPU,
];

fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGBUS => "SIGBUS",
        libc::SIGILL => "SIGILL",
        libc::SIGFPE => "SIGFPE",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGSYS => "SIGSYS",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGKILL => "SIGKILL",
        libc::SIGTERM => "SIGTERM",
        libc::SIGINT => "SIGINT",
        libc::SIGHUP => "SIGHUP",
        libc::SIGQUIT => "SIGQUIT",
        _ => "signal",
    }
}

/// Why a worker gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskError {
    /// It closed its socket: it is dead, or about to be.
    Gone,
    /// It sent something that is no answer.
    Protocol,
    /// It did not answer in time.
    TimedOut,
}

/// A worker that is ready for jobs. Dropped, it is killed.
pub struct WorkerProcess {
    leash: Leash,
    socket: AsyncFd<OwnedFd>,
    words: File,
    oom_kills: Arc<OomKills>,
    buffer: Vec<u8>,
    sandbox: Option<SandboxReport>,
    /// Jobs done so far.
    pub jobs: u32,
    /// What its last job has left decoded.
    pub holds: Vec<Decode>,
}

impl WorkerProcess {
    pub fn pid(&self) -> u32 {
        self.leash.0.as_ref().map_or(0, Child::id)
    }

    /// What it reported when it started.
    pub fn sandbox(&self) -> Option<&SandboxReport> {
        self.sandbox.as_ref()
    }

    /// Sends a job with its descriptors and waits for the answer.
    pub async fn ask(
        &mut self,
        job: &Job,
        descriptors: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> Result<Reply, AskError> {
        let message = serde_json::to_vec(job).map_err(|_| AskError::Protocol)?;
        self.jobs += 1;
        let talk = async {
            self.send(&message, descriptors).await?;
            self.receive::<Reply>().await
        };
        let reply = tokio::time::timeout_at(deadline.into(), talk).await.unwrap_or(Err(AskError::TimedOut))?;
        if reply.number == job.number { Ok(reply) } else { Err(AskError::Protocol) }
    }

    /// Returns when an idle worker shows any sign of life, which it must not: it is dead, or up to something.
    pub async fn stirs(&self) {
        // An error means that the runtime is going down; the caller looks again and finds the queue closed.
        while let Ok(mut ready) = self.socket.readable().await {
            // The readiness may be left over from the last answer: look.
            let looked = ready.try_io(|socket| {
                Ok(recv(socket.get_ref(), &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT).map(drop)?)
            });
            if looked.is_ok() {
                return;
            }
        }
    }

    /// Waits for the end of a worker that closed its socket, and says what it was.
    pub async fn bury(self) -> Death {
        let mut death = match self.leash.reap(GONE_WITHIN).await {
            Ok((status, false)) => Death::of(status),
            // It closed the socket and lived on: whoever it was that did it came in by an image.
            Ok((_, true)) | Err(_) => Death::by_job("protocol"),
        };
        if death.cause == "SIGKILL" && self.oom_kills.claim() {
            // Which job has taken the memory cannot be told: the limit is one for all.
            death.cause = "oom".into();
        }
        death.words = last_words(self.words);
        death
    }

    async fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), AskError> {
        loop {
            let mut ready = self.socket.writable().await.map_err(|_| AskError::Gone)?;
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(AskError::Protocol);
            }
            let sent = ready.try_io(|socket| {
                Ok(sendmsg(socket.get_ref(), &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?)
            });
            match sent {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(_)) => return Err(AskError::Gone),
                Err(_would_block) => {}
            }
        }
    }

    async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, AskError> {
        loop {
            let mut ready = self.socket.readable().await.map_err(|_| AskError::Gone)?;
            let buffer = &mut self.buffer;
            let received = ready.try_io(|socket| {
                // No room for control messages: descriptors that a worker sends are dropped by the kernel.
                let mut control = RecvAncillaryBuffer::default();
                let mut parts = [IoSliceMut::new(buffer)];
                Ok(recvmsg(socket.get_ref().as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?)
            });
            match received {
                Ok(Ok(message)) if message.bytes == 0 => return Err(AskError::Gone),
                Ok(Ok(message)) => {
                    let cut = message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
                    let bytes = self.buffer.get(..message.bytes).filter(|_| !cut).ok_or(AskError::Protocol)?;
                    return serde_json::from_slice(bytes).map_err(|_| AskError::Protocol);
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(_)) => return Err(AskError::Gone),
                Err(_would_block) => {}
            }
        }
    }
}

/// What is left in the pipe, as text without control characters.
fn last_words(mut pipe: File) -> String {
    let mut bytes = vec![0; 64 << 10];
    // It never waits: what is not there now is not said.
    let length = io::Read::read(&mut pipe, &mut bytes).unwrap_or(0);
    plain(String::from_utf8_lossy(&bytes[..length]).trim())
}

/// Where the running program is, for [`Program::open`]: the very file that was started, even if it was replaced since.
pub fn own_program() -> &'static Path {
    Path::new(OsStr::new("/proc/self/exe"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_are_told_apart() {
        for (raw, cause, own_making) in [
            (libc::SIGSEGV, "SIGSEGV", true),
            (libc::SIGSYS | 0x80, "SIGSYS", true), // with a core dump
            (libc::SIGXCPU, "SIGXCPU", true),
            (libc::SIGKILL, "SIGKILL", false),
            (libc::SIGTERM, "SIGTERM", false),
            (libc::SIGUSR1, "signal", false),
            (1 << 8, "exit", true),
        ] {
            let death = Death { cause: cause.into(), own_making, words: String::new() };
            assert_eq!(Death::of(ExitStatus::from_raw(raw)), death);
        }
    }

    #[test]
    fn last_words_are_one_line_and_nobody_waits_for_them() {
        use std::io::Write as _;
        let pipe = || pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
        let (words, mouth) = pipe();
        File::from(mouth).write_all(b"free(): invalid pointer\n\x1b[2J forged\n").expect("room");
        assert_eq!(last_words(words.into()), "free(): invalid pointer  [2J forged");
        let (words, mouth) = pipe();
        let mut mouth = File::from(mouth);
        while mouth.write(&[b'a'; 4096]).is_ok() {}
        assert!(last_words(words.into()).len() <= 300, "a full pipe refuses, and does not wait");
        let (words, _silent) = pipe();
        assert_eq!(last_words(words.into()), "");
    }
}
