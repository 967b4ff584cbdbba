//! What crosses the process border, and what the gate's own callers see of it.
//!
//! One message is one datagram of JSON on a `SOCK_SEQPACKET` socket, at most [`MAX_MESSAGE_BYTES`] long; descriptors travel
//! beside it by `SCM_RIGHTS`, from gate to worker only. A hijacked worker may answer anything, so the gate parses strictly:
//! unknown fields, another job's number, an errno that is none or a message that was cut is a worker to be killed.
#![forbid(unsafe_code)]

use std::{fmt, io, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::sandbox::SandboxReport;
use crate::{
    model::{PixelRect, SourceFacts},
    render::{Inspection, RenderError, StageTimes, limits::OverLimit, look::Look, plan::Plan},
};

/// The longest message either way. A plan takes about one kilobyte.
pub const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// One job, as the gate sends it. The first descriptor beside it is the source; of a render, the second is the output and the
/// third, where the plan has one, the watermark.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Repeated in the reply, which so cannot be taken for another job's.
    pub number: u64,
    /// Longest source the worker may read.
    pub max_source_bytes: u64,
    /// What the gate reserved of the memory budget for this job.
    pub memory_bytes: u64,
    /// Processor time that the job may take, in seconds.
    pub cpu_seconds: u64,
    /// Which decode of its source it needs, where that can be of use to another job too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode: Option<DecodeKey>,
    /// The other reductions of the same file that the worker is to hold when the job is done: those that it holds are kept,
    /// and where it has to decode, they are decoded in the same pass. One that cannot be decoded is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<u8>,
    /// What to do.
    pub task: Task,
}

/// One version of one file, decoded one way. Two jobs with the same key decode the same bytes to the same samples, so that
/// no rendition depends on what was rendered beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodeKey {
    /// The file.
    pub file: FileId,
    /// [`Plan::decode_reduction`].
    pub reduction: u8,
}

/// One version of one file, as its descriptor tells: device, inode, length, and the times of its last change in
/// nanoseconds, of content and of anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileId(u64, u64, u64, i64, i64);

impl From<&rustix::fs::Stat> for FileId {
    fn from(stat: &rustix::fs::Stat) -> Self {
        let nanoseconds = |seconds: i64, part: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(part);
        #[allow(clippy::unnecessary_cast)] // the types differ between architectures
        Self(
            stat.st_dev as u64,
            stat.st_ino as u64,
            stat.st_size as u64,
            nanoseconds(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            nanoseconds(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        )
    }
}

/// A decode as the gate weighs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decode {
    /// What it is of.
    pub key: DecodeKey,
    /// What its planes take while they are held.
    pub bytes: u64,
    /// Its part of the job's [`cost`].
    pub cost: u64,
    /// Whether one pass over the file can make it together with others that say so: [`Plan::decodes_along`].
    pub goes_along: bool,
}

impl Decode {
    /// The decode of a plan for a file; `None` where what is decoded cannot be shared.
    pub fn of(plan: &Plan, file: FileId) -> Option<Self> {
        let reduction = plan.decode_reduction;
        (plan.in_planes && !plan.keep_metadata).then(|| Self {
            key: DecodeKey { file, reduction },
            bytes: plan.held_bytes(),
            cost: decoding_cost(plan),
            goes_along: plan.decodes_along(reduction),
        })
    }
}

/// What a worker can be asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Task {
    /// Read the header.
    Probe,
    /// Carry out a plan.
    Render {
        /// The plan.
        plan: Plan,
    },
    /// Decode all there is, and say what it is.
    Inspect {
        /// How to decode it.
        plan: Plan,
    },
    /// Find something in the pixels.
    Look {
        /// How to decode and shrink them.
        plan: Plan,
        /// What to look for.
        look: Look,
    },
    /// See whether a rendition is whole.
    Verify {
        /// How to decode it.
        plan: Plan,
    },
}

/// A worker's first message: it is in its sandbox and waits for jobs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// What the kernel granted.
    pub sandbox: SandboxReport,
}

/// A worker's answer to one job.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// [`Job::number`].
    pub number: u64,
    /// How it went.
    pub answer: Answer,
}

/// How a job went, in the worker's words.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Answer {
    /// The header's numbers.
    Probed(SourceFacts),
    /// What a look has found, in pixels of the upright source.
    Looked(PixelRect),
    /// The file is whole.
    Verified,
    /// What a whole file is.
    Inspected(Inspection),
    /// The output holds a rendition.
    Rendered(RenderReport),
    /// The source is no image, or not one that can be rendered.
    Failed(RenderError),
    /// The source could not be read.
    Source(Errno),
    /// The source is longer than it was, or shrank while it was read.
    SourceChanged,
    /// The output could not be written.
    Output(Errno),
    /// The decoder panicked; the worker ends after saying so.
    Panicked {
        /// Where and why: for the log.
        message: String,
    },
}

/// What a finished render reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenderReport {
    /// Length of the rendition.
    pub bytes: u64,
    /// Time of each stage.
    pub times: StageTimes,
    /// The worker's highest resident memory so far, over all its jobs.
    pub peak_rss_bytes: u64,
}

/// A system call's error number, known to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Errno(i32);

impl Errno {
    /// The number, as in `errno(3)`.
    pub fn raw(self) -> i32 {
        self.0
    }
}

impl TryFrom<i32> for Errno {
    type Error = String;

    fn try_from(raw: i32) -> Result<Self, String> {
        // The kernel's MAX_ERRNO.
        if (1..4096).contains(&raw) { Ok(Self(raw)) } else { Err(format!("{raw} is not an error number")) }
    }
}

impl From<Errno> for i32 {
    fn from(errno: Errno) -> i32 {
        errno.0
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl From<&io::Error> for Errno {
    /// An error without a number counts as `EIO`.
    fn from(error: &io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()))
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(*self).fmt(f)
    }
}

/// Which of the waiting jobs goes first. Within a lane it is first come, first served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Probes, and renders that somebody waits for and that take little.
    Cheap,
    /// Renders that somebody waits for and that take long.
    Costly,
    /// Renders ahead of time.
    Warm,
}

impl Lane {
    pub(super) const COUNT: usize = 3;

    /// The lane of a render that somebody waits for, by what it will cost.
    pub fn of(plan: &Plan) -> Self {
        /// About 80 ms.
        const CHEAP: u64 = 8_000_000;
        if cost(plan) <= CHEAP { Self::Cheap } else { Self::Costly }
    }
}

/// What a render will cost, in the time to decode and resample one pixel, about 10 ns (FIGURES, cold path).
///
/// Encoding a JPEG pixel takes about as long, a WebP pixel (libwebp, method 4) six times, lossless formats and GIF's palette
/// about four times, an AVIF pixel (rav1e, speed 10) thirty times. A JPEG decoded at reduced scale still has all its bytes
/// to go through, a sixth of the work for each stored pixel.
pub fn cost(plan: &Plan) -> u64 {
    use crate::render::plan::Encoding;
    let encoding = match plan.encoding {
        Encoding::Jpeg { progressive: false, .. } => 1,
        Encoding::Jpeg { progressive: true, .. } => 2,
        Encoding::Png | Encoding::Gif | Encoding::Ico => 4,
        Encoding::Webp { .. } => 6,
        Encoding::WebpLossless => 12,
        Encoding::Avif { .. } => 30,
        Encoding::AvifLossless => 500,
        Encoding::Svg => 0,
    };
    // A blur goes over the picture a dozen times.
    let effects = 8 * plan.effects.len() as u64;
    decoding_cost(plan)
        .saturating_add(plan.rendition_size().pixels().saturating_mul(encoding + effects))
        .saturating_mul(plan.frames.max(1).into())
}

/// What decoding one frame adds to [`cost`].
fn decoding_cost(plan: &Plan) -> u64 {
    plan.decoded_size().pixels().max(plan.source.stored_size.pixels() / 6)
}

/// Why there is no answer to a job. `Clone`: all who wait for one render share it.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum JobError {
    /// As many jobs as may wait are waiting.
    #[error("the render queue is full")]
    QueueFull,
    /// The job is beyond a configured bound, however long it would wait.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The source cannot be rendered, or not this way.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The output could not be written: `ENOSPC`, `EDQUOT`, `EIO` ...
    #[error("the rendition could not be written: {0}")]
    Output(Errno),
    /// The source could not be read.
    #[error("the source could not be read: {0}")]
    Source(Errno),
    /// The source is not a regular file.
    #[error("the source is not a regular file")]
    NotAFile,
    /// The source is not the file it was when the render was planned, or was written to while it was read.
    #[error("the source changed while it was read")]
    SourceChanged,
    /// The deadline passed.
    #[error("the deadline passed {}", if *started { "during the render" } else { "before a worker was free" })]
    TimedOut {
        /// Whether a worker had begun. Only then does it say anything about the image.
        started: bool,
    },
    /// Nobody waits for it any more, and it had not begun.
    #[error("nobody waits for the rendition any more")]
    Unwanted,
    /// The job killed two workers by its own doing.
    #[error("two workers died of this job, the second by {cause}")]
    Poison {
        /// The second death: a signal's name, `panic`, `exit` or `protocol`.
        cause: String,
    },
    /// Two workers died in this job, and not both by its own doing.
    #[error("two workers were lost in this job")]
    Lost,
    /// The pool is being shut down.
    #[error("the service is shutting down")]
    ShuttingDown,
}

/// The most characters of a text from a worker that are kept: it goes into the log, and waits in memory with others.
const MAX_WORDS_CHARS: usize = 300;

/// A text from a worker as the log may have it, on one line and not long.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WORDS_CHARS).collect()
}

/// One stage's name and time, as the metrics want them.
pub(super) fn stages(times: &StageTimes) -> [(&'static str, Duration); 3] {
    [("decode", times.decode), ("resample", times.resample), ("encode", times.encode)]
}
