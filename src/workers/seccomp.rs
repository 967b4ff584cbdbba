//! The system calls a render worker may make; any other kills it on the spot with `SIGSYS`.
//!
//! It holds descriptors already opened for it, so no call that opens, connects, looks a path up, starts or examines a
//! process is here. Memory can be had, but never executable and never from a file: a source that shrinks under a mapping
//! would be a `SIGBUS`, and new code is what an exploit wants first.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// Allowed with any arguments.
const ALLOWED: &[libc::c_long] = &[
    // The job's descriptors and the socket.
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev, // glibc's last words before an abort
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_close,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_ppoll,
    // Memory; `mmap` and `mprotect` are below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Time, randomness for hash maps, usage; glibc's `qsort` asks `sysinfo` how much memory there is.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_futex,
    // Dying properly: panics, aborts, stack overflows.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // A thread's first and last calls: see `threads`.
    #[cfg(feature = "heic")]
    libc::SYS_set_robust_list,
    #[cfg(feature = "heic")]
    libc::SYS_rseq,
    #[cfg(feature = "heic")]
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // aarch64 never had these.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

/// Installs the filter for the calling thread, the process's only one.
///
/// # Errors
/// In words, when the kernel has no seccomp filters or refuses this one.
pub(super) fn enter() -> Result<(), String> {
    #[cfg(feature = "heic")]
    threads::enter()?;
    let program = filter().map_err(|error| error.to_string())?;
    seccompiler::apply_filter(&program).map_err(|error| match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error.to_string(),
        other => other.to_string(),
    })
}

fn filter() -> Result<BpfProgram, BackendError> {
    let argument = |index: u8, is: Is, value: u64| SeccompCondition::new(index, Dword, is, value);
    let not_executable = || argument(2, Is::MaskedEq(libc::PROT_EXEC as u64), 0);
    let anonymous = || argument(3, Is::MaskedEq(libc::MAP_ANONYMOUS as u64), libc::MAP_ANONYMOUS as u64);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_mmap, vec![SeccompRule::new(vec![not_executable()?, anonymous()?])?]);
    rules.insert(libc::SYS_mprotect, vec![SeccompRule::new(vec![not_executable()?])?]);
    // A debug build asserts that a descriptor is open before it closes it.
    let get_flags = argument(1, Is::Eq, libc::F_GETFD as u64)?;
    rules.insert(libc::SYS_fcntl, vec![SeccompRule::new(vec![get_flags])?]);
    // Its own limits only, and signals to itself only.
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![argument(0, Is::Eq, 0)?])?]);
    #[cfg(feature = "heic")]
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![argument(0, Is::Eq, threads::FLAGS)?])?]);
    let own_pid = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![argument(0, Is::Eq, own_pid)?])?]);
    let refuse = SeccompAction::KillProcess;
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// Threads, which libde265 decodes HEIC on: it starts one whatever it is asked. Compiled in with that format only.
///
/// `clone` is allowed with just the flags of `pthread_create`: a thread of this process, under this filter, and no new
/// process. `clone3` keeps its flags in memory, where no filter sees them: it does not exist, and glibc uses `clone`.
#[cfg(feature = "heic")]
mod threads {
    use super::{BTreeMap, BpfProgram, SeccompAction, SeccompFilter};

    /// What glibc and musl pass but for the latter's `CLONE_DETACHED`, which does nothing.
    pub const FLAGS: u64 = (libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SETTLS
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID) as u64;

    /// Where two filters differ the stricter answer wins: the other one lets `clone3` pass.
    pub fn enter() -> Result<(), String> {
        let missing = || -> Result<BpfProgram, seccompiler::BackendError> {
            let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
            let answer = SeccompAction::Errno(libc::ENOSYS as u32);
            SeccompFilter::new(rules, SeccompAction::Allow, answer, std::env::consts::ARCH.try_into()?)?.try_into()
        };
        let program = missing().map_err(|error| error.to_string())?;
        seccompiler::apply_filter(&program).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every system call there is, and some that are not yet, made by a child under the filter: what is not on the list ends
    /// it before it is carried out.
    #[test]
    #[cfg(not(feature = "heic"))]
    fn whatever_is_not_on_the_list_kills() {
        /// Beyond the last one of Linux 6.18, and those of x32, which the same processor takes.
        const NUMBERS: [std::ops::Range<libc::c_long>; 2] = [0..500, 0x4000_0000..0x4000_0220];
        let program = filter().expect("a filter");
        let conditional = [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_fcntl, libc::SYS_prlimit64, libc::SYS_tgkill];
        // `uretprobe` and `uprobe` pass every filter, and are of use to nobody but the kernel's own trampolines.
        let probes = 335..=336;
        let mut tried = 0;
        for number in NUMBERS.into_iter().flatten() {
            if ALLOWED.contains(&number) || conditional.contains(&number) || probes.contains(&number) {
                continue;
            }
            // SAFETY: the child makes system calls only, takes no lock and runs no destructor.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let entered = seccompiler::apply_filter(&program).is_ok();
                // SAFETY: all arguments are null: no call finds anything to write to. And `_exit` runs nothing.
                unsafe {
                    if entered {
                        libc::syscall(number, 0, 0, 0, 0, 0, 0);
                    }
                    libc::_exit(i32::from(entered));
                }
            }
            assert!(child > 0);
            let mut status = 0;
            // SAFETY: waits for our own child, and writes to our own number.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS;
            assert!(killed, "{number}: {status:#x}");
            tried += 1;
        }
        assert!(tried > 900, "{tried}");
    }

    #[test]
    fn nothing_that_opens_connects_or_starts_is_allowed() {
        let forbidden = [
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_newfstatat,
            libc::SYS_statx,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_clone,
            #[cfg(not(feature = "heic"))]
            libc::SYS_clone3,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_kill,
            libc::SYS_prctl,
            libc::SYS_ioctl,
            libc::SYS_io_uring_setup,
        ];
        assert!(forbidden.iter().all(|call| !ALLOWED.contains(call)));
        assert!(filter().is_ok());
    }
}
