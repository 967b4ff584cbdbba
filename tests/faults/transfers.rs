//! Reads and writes that transfer less than was asked for, as the kernel may at any time.
//!
//! strace can only pretend that a call was short; here the length itself is cut before the kernel sees it.

#[cfg(target_arch = "x86_64")]
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use crate::report::Row;

/// Traces a process with one thread, and has it read and write at most so many bytes at once.
#[cfg(target_arch = "x86_64")]
struct Miser {
    cut: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

#[cfg(target_arch = "x86_64")]
impl Miser {
    fn attach(pid: i32, most: u64) -> Result<Self, io::Error> {
        let cut = Arc::new(AtomicUsize::new(0));
        let (ready, attached) = mpsc::channel();
        let counter = cut.clone();
        // Only the thread that attached may say anything to the process. It ends with it.
        let thread = thread::spawn(move || {
            let seized = seize(pid);
            let failed = seized.is_err();
            ready.send(seized).unwrap();
            if !failed {
                follow(pid, most, &counter);
            }
        });
        attached.recv().unwrap()?;
        Ok(Self { cut, thread })
    }

    /// Waits for the process to end: how many transfers were cut.
    fn end(self) -> usize {
        self.thread.join().unwrap();
        self.cut.load(Ordering::Relaxed)
    }
}

#[cfg(target_arch = "x86_64")]
fn seize(pid: i32) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD as usize;
    // SAFETY: neither call touches memory of ours.
    let done = unsafe {
        libc::ptrace(libc::PTRACE_SEIZE, pid, 0_usize, options) == 0
            && libc::ptrace(libc::PTRACE_INTERRUPT, pid, 0_usize, 0_usize) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// From stop to stop, until the process is gone.
#[cfg(target_arch = "x86_64")]
fn follow(pid: i32, most: u64, cut: &AtomicUsize) {
    const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
    loop {
        let mut status = 0;
        // SAFETY: the kernel writes one status, which lives until the call returns.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        if waited != pid || !libc::WIFSTOPPED(status) {
            return;
        }
        let signal = libc::WSTOPSIG(status);
        if signal == SYSCALL_STOP {
            // SAFETY: the process is stopped and ours to trace; the kernel writes and reads one set of registers, for which
            // all zeros is a valid value.
            unsafe {
                let mut registers: libc::user_regs_struct = std::mem::zeroed();
                if libc::ptrace(libc::PTRACE_GETREGS, pid, 0_usize, &raw mut registers) == 0 {
                    let entering = registers.rax.cast_signed() == -i64::from(libc::ENOSYS);
                    let transfer = [libc::SYS_pread64, libc::SYS_pwrite64].contains(&registers.orig_rax.cast_signed());
                    if entering && transfer && registers.rdx > most {
                        registers.rdx = most;
                        libc::ptrace(libc::PTRACE_SETREGS, pid, 0_usize, &raw const registers);
                        cut.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
        // A signal is delivered; the stops of our own making are not signals.
        let deliver = if signal == SYSCALL_STOP || status >> 16 != 0 { 0 } else { signal as usize };
        // SAFETY: the call touches no memory of ours.
        unsafe { libc::ptrace(libc::PTRACE_SYSCALL, pid, 0_usize, deliver) };
    }
}

/// F36: whatever a read or a write is cut to, the rendition is whole.
#[test]
fn short_ones() {
    let row = Row::begin("short reads and writes", "F36");
    #[cfg(not(target_arch = "x86_64"))]
    return row.skipped("written for the registers of x86-64");
    #[cfg(target_arch = "x86_64")]
    {
        use crate::{
            harness::Site,
            renders::{self, CONFIG, Reference, try_ask},
            tools::scale,
        };
        let urls = renders::urls([90]);
        let reference = Reference::of(&urls);
        let sizes = [100, 4095, 7, 511, 65_537, 13];
        let (mut cut, mut asked) = (0, 0);
        for most in &sizes[..scale(2, sizes.len())] {
            let site = Site::new(&format!("{CONFIG}[render]\nworkers = 1\n"));
            renders::furnish(&site);
            let mut site = site.serve();
            let miser = match Miser::attach(site.workers()[0], *most) {
                Ok(miser) => miser,
                Err(error) => return row.skipped(&format!("this user may not trace: {error}")),
            };
            for url in &urls {
                assert_eq!(try_ask(&site, url).unwrap().status, 200, "{most}\n{}", site.log());
                asked += 1;
            }
            assert_eq!(reference.check(&site.path("renditions")), urls.len());
            site.signal(rustix::process::Signal::TERM);
            site.wait();
            cut += miser.end();
        }
        assert!(cut > asked, "{cut} transfers were cut");
        row.passed(&format!("{cut} transfers cut, to 7 to 65,537 bytes: {asked} of {asked} renditions whole"));
    }
}
