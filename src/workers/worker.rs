//! The child's side: a loop that reads a job, does it, and says how it went.
//!
//! The process has one thread. Its socket is standard input; it ends when that closes, when its parent dies, or after a
//! panic. Nothing of the environment, the config or the file system reaches it.

use std::{
    cell::RefCell,
    ffi::OsString,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::ftruncate,
    io::{Errno as RawErrno, pwrite, retry_on_intr},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, recvmsg,
        sendmsg,
    },
    process::{Pid, Signal, getppid, set_parent_process_death_signal},
};

use super::{
    job::{Answer, FileId, Job, MAX_MESSAGE_BYTES, Ready, RenderReport, Reply, Task, plain},
    sandbox::{self, AddressSpace},
    source_file::SourceFile,
};
use crate::{
    model::Size,
    render::{
        self, RenderError, Rendered, Shareable,
        plan::{Encoding, MAX_WATERMARK_BYTES, Plan},
    },
    spec::Quality,
};

pub(super) const SUBCOMMAND: &str = "render-worker";

/// Jobs that reserved more than this give their memory back to the system at once. What smaller ones held is used again by
/// the next: a page that is returned and fetched anew is a fault and a page of zeros, a tenth of a large thumbnail's time.
const KEEP_BELOW_BYTES: u64 = 96 << 20;
/// A worker without a job for so long gives back what it kept: visitors of one page follow each other within it, and a site
/// without visitors holds nothing.
pub(super) const KEEP_FOR: Duration = Duration::from_secs(10);

/// The most that a job may reserve for its memory, and so what it has decoded, to be kept; `job_bytes` is the most that any
/// job may hold.
pub(super) fn keep_below(job_bytes: u64) -> u64 {
    KEEP_BELOW_BYTES.min(job_bytes / 4)
}

/// Runs a worker until its socket closes. Arguments: the parent's process id, and the most bytes a job may hold.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let number = |index: usize| arguments.get(index)?.to_str()?.parse::<u64>().ok();
    let (Some(parent), Some(job_bytes)) = (number(0), number(1)) else {
        eprintln!("render-worker is started by the service itself");
        return ExitCode::from(2);
    };
    // The parent may have died before the kernel was told to send the signal.
    let followed = set_parent_process_death_signal(Some(Signal::KILL));
    if followed.is_err()
        || getppid().map(Pid::as_raw_nonzero).map(|pid| pid.get().unsigned_abs().into()) != Some(parent)
    {
        return ExitCode::FAILURE;
    }
    prepare();
    let (report, space) = sandbox::enter(job_bytes);
    let socket = io::stdin();
    let socket = socket.as_fd();
    match send(socket, &Ready { sandbox: report }).and_then(|()| serve(socket, space, keep_below(job_bytes))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE, // the gate is gone or speaks another language: nobody to tell
    }
}

/// Everything that needs a file, a lock or a processor flag looked up once, done while that is still allowed.
fn prepare() {
    sandbox::close_inherited();
    let _ = rustix::thread::set_name(c"sendimage-rend");
    // When memory runs out, a worker is the one to lose. Without /proc it is merely as likely as others.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    // A drain outlives the signals that a terminal or a service manager sends to the whole group: workers end with their
    // socket. A file beyond the limit is an error to report (EFBIG), not a death.
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGXFSZ, libc::SIGPIPE] {
        // SAFETY: SIG_IGN runs no code of ours, and no other thread exists.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // Rust's own handlers swallow a fault signal sent from outside once, and turn a stack overflow into an abort.
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: SIG_DFL runs no code at all.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let message = format!("{}{place}", info.payload_as_str().unwrap_or("panic"));
        PANIC.with(|cell| cell.replace(message));
    }));
    keep_memory();
    warm_up();
}

/// Has the allocator take large buffers from the heap, where they stay when they are freed, rather than from the system
/// each: [`serve`] says when they go.
fn keep_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets numbers of the allocator's, before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_TOP_PAD, 1 << 20);
    }
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Renders two pixels into every format and back: codecs choose their SIMD code and build their tables on first use.
fn warm_up() {
    /// A PNG of 2x2 gray pixels.
    const PNG: &[u8] =
        b"\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x02\x00\x00\x00\x02\
        \x08\x00\x00\x00\x00\x57\xdd\x52\xf8\x00\x00\x00\x0e\x49\x44\x41\x54\x78\xda\x63\x70\x68\x60\x68\
        \xf8\x0f\x00\x05\x45\x02\x40\x5a\xb0\x12\xb7\x00\x00\x00\x00\x49\x45\x4e\x44\xae\x42\x60\x82";
    let quality = || Quality::new(80);
    let encodings = [
        quality().map(|quality| Encoding::Jpeg { quality, progressive: false, rgb: false }),
        quality().map(|quality| Encoding::Webp { quality }),
        Some(Encoding::Png),
        Some(Encoding::Gif),
        Some(Encoding::Ico),
        Some(Encoding::WebpLossless),
        quality().map(|quality| Encoding::Avif { quality }),
        Some(Encoding::AvifLossless),
    ];
    let attempt = |source: &[u8], encoding: Encoding| {
        let facts = render::probe(source).ok()?;
        let plan = Plan { output_size: Size::new(1, 1), ..Plan::whole(facts, encoding) };
        Some(render::render(source, &plan).ok()?.bytes)
    };
    // libheif loads its decoders when it is first asked for anything. Its threads share one heap: each of its own would be
    // 64 MiB of address space.
    #[cfg(feature = "heic")]
    {
        let _ = render::probe(b"\0\0\0\x10ftypheic\0\0\0\0");
        #[cfg(target_env = "gnu")]
        // SAFETY: sets a number of the allocator's, before any other thread exists.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
    // Whatever goes wrong here would go wrong in a job too, where it has an address.
    let _ = panic::catch_unwind(|| {
        for encoding in encodings.into_iter().flatten() {
            if let Some(bytes) = attempt(PNG, encoding) {
                attempt(&bytes, Encoding::Png);
            }
        }
    });
}

/// Answers jobs until the socket closes. Memory of jobs up to `keep_below` is kept for the next.
fn serve(socket: BorrowedFd<'_>, space: AddressSpace, keep_below: u64) -> io::Result<()> {
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    // The largest reservation since memory was last given back: so much of the address space may be taken.
    let mut kept = 0;
    let mut held = None;
    let keep_for = Timespec { tv_sec: KEEP_FOR.as_secs().cast_signed(), tv_nsec: 0 };
    loop {
        if kept > 0 && poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&keep_for)) == Ok(0) {
            held = None;
            trim();
            kept = 0;
        }
        let Some((job, descriptors)) = receive(socket, &mut buffer)? else { return Ok(()) };
        let (cpu_used_seconds, _) = usage();
        sandbox::limit_job(space, job.memory_bytes.max(kept), job.cpu_seconds, cpu_used_seconds)?;
        let answer = contain(|| work(&job, &descriptors, &mut held));
        drop(descriptors);
        let broken = matches!(answer, Answer::Panicked { .. });
        kept = kept.max(job.memory_bytes);
        if kept > keep_below {
            held = None;
            trim();
            kept = 0;
        }
        send(socket, &Reply { number: job.number, answer })?;
        if broken {
            return Ok(()); // unwinding through foreign code may have left anything behind
        }
    }
}

/// Turns a panic into an answer.
fn contain(work: impl FnOnce() -> Result<Answer, Answer>) -> Answer {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(answer) | Err(answer)) => answer,
        Err(_) => {
            let message = PANIC.with(RefCell::take);
            Answer::Panicked { message: plain(&message) }
        }
    }
}

/// A decoded source: those who ask for one size of a picture soon ask for another.
type Held = Option<(FileId, Shareable)>;

/// One job. `Err` is an answer too: the first thing that went wrong.
fn work(job: &Job, descriptors: &[OwnedFd], held: &mut Held) -> Result<Answer, Answer> {
    let failed = |error: RenderError| Answer::Failed(error);
    // Whatever happens, nothing is held on to but what this job decodes or is made of, and what the gate wants held beside it.
    let held_before = held.take();
    let shareable = match &job.task {
        Task::Render { plan } => job.decode.map(|key| (key, plan)),
        Task::Probe | Task::Look { .. } | Task::Verify { .. } | Task::Inspect { .. } => None,
    };
    if let (Some((key, plan)), Some((file, mut decoded))) = (shareable, held_before)
        && file == key.file
        && decoded.has(key.reduction)
    {
        decoded.keep(|reduction| reduction == key.reduction || job.also.contains(&reduction));
        let rendered = decoded.render(plan).map_err(failed)?;
        *held = Some((file, decoded));
        return write_rendered(&rendered, descriptors);
    }
    let source = descriptors.first().ok_or(Answer::Source(RawErrno::BADF.into()))?;
    let source = SourceFile::open(source.as_fd(), job.max_source_bytes)?;
    let mark = |plan: &Plan| match (&plan.watermark, descriptors.get(2)) {
        (Some(_), Some(mark)) => SourceFile::open(mark.as_fd(), MAX_WATERMARK_BYTES)?.whole().map(Some),
        _ => Ok(None),
    };
    match &job.task {
        Task::Probe => {
            if let Some(facts) = source.said(render::probe_in_pieces(&source))?.map_err(failed)? {
                return Ok(Answer::Probed(facts));
            }
        }
        Task::Render { plan } if plan.reads_in_pieces() => {
            let rendered = render::render_in_pieces(&source, mark(plan)?.as_deref(), plan);
            return write_rendered(&source.said(rendered)?.map_err(failed)?, descriptors);
        }
        Task::Render { plan } if shareable.is_some() && job.also.is_empty() => {
            let rendered = source.said(render::render_shareable_in_pieces(&source, plan))?.map_err(failed)?;
            if let Some(((key, _), (rendered, decoded))) = shareable.zip(rendered) {
                *held = Some((key.file, decoded));
                return write_rendered(&rendered, descriptors);
            }
        }
        _ => {}
    }
    let source = source.whole()?;
    if let Some((key, plan)) = shareable
        && let Some((rendered, decoded)) = render::render_shareable(&source, plan, &job.also).map_err(failed)?
    {
        *held = Some((key.file, decoded));
        return write_rendered(&rendered, descriptors);
    }
    match &job.task {
        Task::Probe => render::probe(&source).map(Answer::Probed).map_err(failed),
        Task::Look { plan, look } => render::look(&source, plan, *look).map(Answer::Looked).map_err(failed),
        Task::Verify { plan } => render::verify(&source, plan).map(|()| Answer::Verified).map_err(failed),
        Task::Inspect { plan } => render::inspect(&source, plan).map(Answer::Inspected).map_err(failed),
        Task::Render { plan } => {
            let rendered = render::render_marked(&source, mark(plan)?.as_deref(), plan).map_err(failed)?;
            drop(source);
            write_rendered(&rendered, descriptors)
        }
    }
}

fn write_rendered(rendered: &Rendered, descriptors: &[OwnedFd]) -> Result<Answer, Answer> {
    let output = descriptors.get(1).ok_or(Answer::Output(RawErrno::BADF.into()))?;
    write(output.as_fd(), &rendered.bytes).map_err(|errno| Answer::Output(errno.into()))?;
    let (_, peak_rss_bytes) = usage();
    let bytes = rendered.bytes.len() as u64;
    Ok(Answer::Rendered(RenderReport { bytes, times: rendered.times, peak_rss_bytes }))
}

/// Makes the output hold these bytes and nothing else.
fn write(output: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), RawErrno> {
    retry_on_intr(|| ftruncate(output, 0))?;
    let mut written = 0;
    while written < bytes.len() {
        match pwrite(output, &bytes[written..], written as u64) {
            Ok(0) => return Err(RawErrno::IO),
            Ok(count) => written += count,
            Err(RawErrno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn send(socket: BorrowedFd<'_>, message: &impl serde::Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    retry_on_intr(|| {
        sendmsg(socket, &[IoSlice::new(&bytes)], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// The next job and its descriptors; `None` when the gate has closed the socket.
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<(Job, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(RawErrno::INTR) => {}
            other => break other?,
        }
    };
    if message.bytes == 0 {
        return Ok(None);
    }
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    let whole = !message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    match buffer.get(..message.bytes) {
        Some(bytes) if whole => Ok(Some((serde_json::from_slice(bytes)?, descriptors))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Processor time used so far, in whole seconds rounded up, and the highest resident memory so far, in bytes.
fn usage() -> (u64, u64) {
    // SAFETY: all-zero is a valid `rusage`, and the kernel only writes into it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = usage.ru_utime.tv_sec.unsigned_abs() + usage.ru_stime.tv_sec.unsigned_abs() + 2;
    (seconds, usage.ru_maxrss.unsigned_abs() * 1024) // Linux counts kibibytes
}

/// Hands freed memory back to the system.
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes and gives no memory of ours; glibc only releases what it holds free.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_answer_of_plain_text() {
        panic::set_hook(Box::new(|info| {
            PANIC.with(|cell| cell.replace(info.payload_as_str().unwrap_or_default().to_owned()));
        }));
        let answer = contain(|| panic!("assertion\nfailed {}", "x".repeat(1_000)));
        let _ = panic::take_hook();
        let Answer::Panicked { message } = answer else { panic!("{answer:?}") };
        assert!(message.starts_with("assertion failed"));
        assert_eq!(message.len(), 300);
    }

    /// A job's renditions come from what is held where that has its decode: here there is no source to decode again.
    #[test]
    fn what_is_held_is_what_the_gate_wants_held() {
        use std::fs::File;

        use crate::{
            app,
            config::RenderConfig,
            render::plan::Defaults,
            spec::FilterSpec,
            workers::{Marks, job::DecodeKey},
        };
        let source = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/images/photo_land.jpg")).unwrap();
        let bytes = SourceFile::open(source.as_fd(), u64::MAX).ok().unwrap().whole().ok().unwrap();
        let facts = render::probe(&bytes).unwrap();
        let defaults = Defaults { full_decode_pixels: 0, ..app::defaults(&RenderConfig::default(), &Marks::default()) };
        let plan = |width: u32| {
            let spec = FilterSpec::parse(&format!("width-{width}")).unwrap();
            Plan::new(&facts, &spec, None, &defaults).unwrap()
        };
        let width = facts.stored_size.width;
        let file = |inode: u64| serde_json::from_str(&format!("[1, {inode}, 1, 1, 1]")).unwrap();
        let mut held = None;
        let mut run = |file, part: u32, also: &[u8], source: &File| {
            let plan = plan(width / part);
            let alone = render::render(&bytes, &plan).unwrap().bytes;
            let job = Job {
                number: 1,
                max_source_bytes: u64::MAX,
                memory_bytes: 1,
                cpu_seconds: 1,
                decode: Some(DecodeKey { file, reduction: plan.decode_reduction }),
                also: also.to_vec(),
                task: Task::Render { plan },
            };
            let output = tempfile::tempfile().unwrap();
            let descriptors = [source.try_clone().unwrap().into(), output.try_clone().unwrap().into()];
            let answer = work(&job, &descriptors, &mut held);
            if let Ok(Answer::Rendered(_)) = answer {
                assert_eq!(SourceFile::open(output.as_fd(), u64::MAX).ok().unwrap().whole().ok(), Some(alone));
            }
            let left = held.as_ref().map(|(_, held)| held.reductions().collect::<Vec<_>>()).unwrap_or_default();
            (matches!(answer, Ok(Answer::Rendered(_))), left)
        };
        let nothing = File::open("/dev/null").unwrap();
        assert_eq!(run(file(1), 3, &[8, 4], &source), (true, vec![2, 8, 4]));
        assert_eq!(run(file(1), 9, &[2, 4], &nothing), (true, vec![2, 8, 4]));
        assert_eq!(run(file(1), 5, &[8, 1], &nothing), (true, vec![8, 4]));
        assert_eq!(run(file(1), 3, &[8, 4], &nothing), (false, vec![]));
        assert_eq!(run(file(1), 9, &[], &source), (true, vec![8]));
        assert_eq!(run(file(2), 9, &[], &nothing), (false, vec![]));
    }

    #[test]
    fn the_output_is_cut_to_what_is_written() {
        use std::io::{Read, Seek, Write};
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"what an earlier attempt left here").unwrap();
        write(file.as_fd(), b"new").unwrap();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "new");
    }

    #[test]
    fn a_full_disk_is_an_error_with_a_number() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        // /dev/full takes no ftruncate, like any device.
        assert!(matches!(write(full.as_fd(), b"x"), Err(RawErrno::INVAL | RawErrno::NOSPC)));
    }
}
