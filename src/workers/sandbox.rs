//! What a render worker gives up before it sees its first image, layer by layer, and how much of that the kernel granted.
//!
//! A layer that the kernel lacks is reported, never silently skipped: [`SandboxReport`] reaches the log, `check` and the
//! readiness page, and [`super::self_test`] tries to break each layer alone.

use std::{fmt, fs, io};

use landlock::{ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetStatus, Scope};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use serde::{Deserialize, Serialize};

/// Standard streams, a job's three descriptors, and two to spare.
const OPEN_FILES: u64 = 8;
/// Address space on top of what jobs are planned to hold: code, stack, decoder tables, the allocator's leftovers.
const SLACK_BYTES: u64 = 96 << 20;

/// How far a layer holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// All of it.
    Enforced,
    /// Some of it; what is missing.
    Partial(String),
    /// None of it; why.
    Absent(String),
}

/// What the kernel granted a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxReport {
    /// Nothing the process starts can gain privileges.
    pub no_new_privs: bool,
    /// The system call filter.
    pub seccomp: Level,
    /// No file system, no TCP, no signals to others.
    pub landlock: Level,
    /// The version of Landlock's interface that is in force; 0 without Landlock.
    pub landlock_abi: u8,
    /// Resource limits.
    pub limits: Level,
    /// The address space that no job can exceed, in bytes; 0 if that limit could not be set.
    pub address_space_bytes: u64,
}

impl SandboxReport {
    /// Whether every layer holds in full.
    pub fn is_complete(&self) -> bool {
        self.no_new_privs
            && [&self.seccomp, &self.landlock, &self.limits].iter().all(|level| **level == Level::Enforced)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enforced => f.write_str("enforced"),
            Self::Partial(missing) => write!(f, "partial (without {missing})"),
            Self::Absent(reason) => write!(f, "ABSENT ({reason})"),
        }
    }
}

impl fmt::Display for SandboxReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { no_new_privs, seccomp, landlock, landlock_abi, limits, address_space_bytes } = self;
        write!(f, "seccomp {seccomp}, Landlock {landlock}")?;
        if *landlock_abi > 0 {
            write!(f, " (ABI {landlock_abi})")?;
        }
        let megabytes = address_space_bytes >> 20;
        write!(f, ", limits {limits} ({megabytes} MiB of address space)")?;
        f.write_str(if *no_new_privs { ", no new privileges" } else { ", new privileges NOT ruled out" })
    }
}

/// The address space limits of one worker.
#[derive(Clone, Copy, Debug)]
pub struct AddressSpace {
    /// What the process had mapped before its first job.
    baseline: u64,
    /// The limit that holds whatever a job asks.
    pub most: u64,
}

/// Gives up everything a worker does not need. Irreversible, and for a process with a single thread.
///
/// `job_bytes` is the most that one job may plan to hold, which also bounds the length of what it writes.
pub fn enter(job_bytes: u64) -> (SandboxReport, AddressSpace) {
    let (limits, space) = limit_resources(job_bytes);
    // Core dumps and other processes of the same user must not read an image out of its memory.
    let dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let limits = match (limits, dumpable) {
        (Ok(()), Ok(())) => Level::Enforced,
        (Err(error), _) => Level::Partial(format!("a limit: {error}")),
        (_, Err(error)) => Level::Partial(format!("PR_SET_DUMPABLE: {error}")),
    };
    // A failure shows in the report, which asks the kernel.
    let _ = rustix::thread::set_no_new_privs(true);
    let (landlock, landlock_abi) = enter_landlock();
    let no_new_privs = rustix::thread::no_new_privs().unwrap_or(false);
    let seccomp = match super::seccomp::enter() {
        Ok(()) => Level::Enforced,
        Err(reason) => Level::Absent(reason),
    };
    let address_space_bytes = getrlimit(Resource::As).maximum.unwrap_or(0);
    (SandboxReport { no_new_privs, seccomp, landlock, landlock_abi, limits, address_space_bytes }, space)
}

/// Sets the resource limits that hold for the worker's life; those of each job come on top, see [`limit_job`].
pub(super) fn limit_resources(job_bytes: u64) -> (io::Result<()>, AddressSpace) {
    let baseline = mapped_bytes();
    // Twice: a bound on planned bytes is not one on address space, which fragments.
    let most = baseline.saturating_add(SLACK_BYTES).saturating_add(job_bytes.saturating_mul(2));
    let set = [
        (Resource::As, most),
        (Resource::Core, 0),
        (Resource::Nofile, OPEN_FILES),
        (Resource::Fsize, job_bytes),
        // Counted for the whole user, threads included: no use as a bound where one thread has to be possible. The filter of
        // system calls still allows no process.
        #[cfg(not(feature = "heic"))]
        (Resource::Nproc, 0),
    ]
    .into_iter()
    .try_for_each(|(resource, value)| lower(resource, value));
    (set, AddressSpace { baseline, most })
}

/// Lowers both the soft and the hard limit to `value`, or leaves a stricter one alone.
fn lower(resource: Resource, value: u64) -> io::Result<()> {
    let value = getrlimit(resource).maximum.map_or(value, |now| now.min(value));
    Ok(setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?)
}

/// Sets the limits of one job: the address space that its reservation allows, and processor time. The kernel counts the time
/// from the process's start, so the limit moves on with each job; `SIGXCPU` ends a job beyond it.
///
/// # Errors
/// When the kernel refuses, which it has no reason to.
pub fn limit_job(space: AddressSpace, memory_bytes: u64, cpu_seconds: u64, cpu_used_seconds: u64) -> io::Result<()> {
    let bytes = space.baseline.saturating_add(SLACK_BYTES).saturating_add(memory_bytes.saturating_mul(2));
    let hard = getrlimit(Resource::As).maximum;
    let soft = bytes.min(space.most).min(hard.unwrap_or(u64::MAX));
    setrlimit(Resource::As, Rlimit { current: Some(soft), maximum: hard })?;
    let hard = getrlimit(Resource::Cpu).maximum;
    let soft = cpu_used_seconds.saturating_add(cpu_seconds).min(hard.unwrap_or(u64::MAX));
    setrlimit(Resource::Cpu, Rlimit { current: Some(soft), maximum: hard })?;
    Ok(())
}

/// What the process has mapped, by the first field of `/proc/self/statm`.
fn mapped_bytes() -> u64 {
    /// Where there is no `/proc`: several times what the binary maps.
    const GUESS: u64 = 256 << 20;
    let pages = || fs::read_to_string("/proc/self/statm").ok()?.split(' ').next()?.parse::<u64>().ok();
    pages().map_or(GUESS, |pages| pages.saturating_mul(rustix::param::page_size() as u64))
}

/// Closes what a careless parent left open beyond the standard streams: the first thing a child does.
pub(super) fn close_inherited() {
    // SAFETY: the process has just started and holds no descriptor of its own but the standard streams, so none that some
    // owner would use or close later is closed here. Kernels before 5.9 answer ENOSYS; everything the gate opens is
    // close-on-exec, so this is a second line.
    unsafe { libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, 0 as libc::c_uint) };
}

/// Denies all that Landlock can deny: every file system access, TCP, signals and abstract sockets.
pub(super) fn enter_landlock() -> (Level, u8) {
    let restricted = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V9))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V9)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V9)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.restrict_self());
    let status = match restricted {
        Ok(status) => status,
        Err(error) => return (Level::Absent(error.to_string()), 0),
    };
    let abi = match status.landlock {
        LandlockStatus::NotImplemented => return (Level::Absent("not built into this kernel".into()), 0),
        LandlockStatus::NotEnabled => return (Level::Absent("not enabled when this kernel was booted".into()), 0),
        LandlockStatus::Available { effective_abi, .. } => effective_abi as u8,
    };
    if status.ruleset == RulesetStatus::NotEnforced {
        return (Level::Absent("the kernel did not enforce it".into()), 0);
    }
    // From which version on the kernel can deny what; see landlock(7).
    let missing: Vec<&str> = [(3, "truncation"), (4, "TCP"), (5, "device ioctls"), (6, "signals and abstract sockets")]
        .into_iter()
        .filter_map(|(since, what)| (abi < since).then_some(what))
        .collect();
    let level = if missing.is_empty() { Level::Enforced } else { Level::Partial(missing.join(", ")) };
    (level, abi)
}
