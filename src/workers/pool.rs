//! The pool: the one door from async code to work on pixels.
#![forbid(unsafe_code)]

use std::{
    fs::File,
    future::pending,
    hash::Hash,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::available_parallelism,
    time::Instant,
};

use rustix::{
    fs::{FileType, fstat},
    io::retry_on_intr,
};
use thiserror::Error;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    job::{Answer, Decode, FileId, JobError, Lane, RenderReport, Task, cost},
    keeper::Keeper,
    process::{Launcher, Program, WorkerProcess, own_program},
    queue::{Admission, Coming, Work},
    sandbox::SandboxReport,
};
use crate::{
    metrics::Metrics,
    model::{PixelRect, SourceFacts},
    render::{Inspection, limits::OverLimit, look::Look, plan::Plan},
};

/// What a probe holds beside the file itself.
const PROBE_BYTES: u64 = 1 << 20;
/// See [`cost`]: about three milliseconds.
const PROBE_COST: u64 = 300_000;

/// What the operator decides about workers.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// The program that workers run: this one.
    pub program: PathBuf,
    /// How many; 0 for one for each core.
    pub workers: usize,
    /// Jobs that may wait for a worker; the next one is refused at once.
    pub queue_depth: usize,
    /// Bytes that all running jobs together may plan to hold.
    pub memory_budget: u64,
    /// Longest source file, in bytes.
    pub max_source_bytes: u64,
    /// A worker is replaced after this many jobs, whatever it may have leaked; 0 for never.
    pub recycle_after_jobs: u32,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            program: own_program().to_owned(),
            workers: 0,
            queue_depth: 64,
            memory_budget: 512 << 20,
            max_source_bytes: 64 << 20,
            recycle_after_jobs: 1_000,
        }
    }
}

/// Why there is no pool.
#[derive(Debug, Error)]
pub enum StartError {
    /// The program cannot be opened.
    #[error("the program that render workers run, {path}, cannot be opened", path = path.display())]
    Program {
        /// [`PoolConfig::program`].
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The codecs are built for processors since 2008.
    #[error("this processor lacks SSE4.1, which the render workers need")]
    Processor,
    /// A worker did not start.
    #[error("a render worker could not be started")]
    Worker(#[source] io::Error),
}

/// The files of a render: regular ones, open for reading and, the output, for writing. Their positions do not matter.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The source image.
    pub source: &'a File,
    /// Where the rendition goes.
    pub output: &'a File,
    /// The watermark, where the plan has one.
    pub mark: Option<&'a File>,
}

impl<'a> Files<'a> {
    /// Without a watermark.
    pub fn new(source: &'a File, output: &'a File) -> Self {
        Self { source, output, mark: None }
    }
}

/// When a render is wanted.
#[derive(Debug)]
pub struct Wanted {
    /// How soon, among others.
    pub lane: Lane,
    /// When at the latest.
    pub deadline: Instant,
    /// That it was expected together with others.
    pub coming: Option<Coming>,
}

/// A file that a worker may be given.
struct Admitted {
    /// A descriptor to pass on.
    source: OwnedFd,
    /// What file it is.
    origin: FileId,
    /// Its length.
    bytes: u64,
}

/// What the pool is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// Workers that there should be.
    pub workers: usize,
    /// Workers that are ready or at work.
    pub alive: usize,
    /// Jobs at work.
    pub running: usize,
    /// Jobs that wait.
    pub waiting: usize,
    /// Bytes reserved by the jobs at work.
    pub reserved_bytes: u64,
}

/// Render workers, their queue and their budget.
pub struct Pool {
    shared: Arc<Shared>,
    keepers: Mutex<Vec<JoinHandle<()>>>,
}

/// What the keepers and the pool share.
pub(super) struct Shared {
    pub(super) config: PoolConfig,
    pub(super) metrics: Arc<Metrics>,
    pub(super) admission: Arc<Admission>,
    pub(super) launcher: Launcher,
    closing: watch::Sender<bool>,
    roster: Mutex<Roster>,
}

struct Roster {
    pids: Vec<Option<u32>>,
    sandbox: SandboxReport,
}

impl Shared {
    pub(super) fn note_worker(&self, slot: usize, worker: Option<&WorkerProcess>) {
        let mut roster = self.roster();
        if let Some(report) = worker.and_then(WorkerProcess::sandbox) {
            roster.sandbox = report.clone();
        }
        roster.pids[slot] = worker.map(WorkerProcess::pid);
    }

    /// Returns once the pool is being shut down.
    pub(super) fn closing(&self) -> impl Future<Output = ()> + use<> {
        let mut closing = self.closing.subscribe();
        async move { drop(closing.wait_for(|closing| *closing).await) }
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.closing.send_replace(true);
        self.admission.close();
    }
}

impl Pool {
    /// Starts all workers and waits until each is in its sandbox.
    ///
    /// # Errors
    /// When the program cannot be opened or a worker does not start.
    pub async fn start(mut config: PoolConfig, metrics: Arc<Metrics>) -> Result<Arc<Self>, StartError> {
        #[cfg(target_arch = "x86_64")]
        if !std::arch::is_x86_feature_detected!("sse4.1") {
            return Err(StartError::Processor);
        }
        if config.workers == 0 {
            config.workers = available_parallelism().map_or(1, usize::from);
        }
        let program = Program::open(&config.program)
            .map_err(|source| StartError::Program { path: config.program.clone(), source })?;
        let launcher = Launcher::start(program, config.memory_budget).map_err(StartError::Worker)?;
        let launched = futures_util::future::try_join_all((0..config.workers).map(|_| launcher.launch())).await;
        let workers = launched.map_err(StartError::Worker)?;
        let report = workers.first().and_then(WorkerProcess::sandbox).cloned();
        let sandbox = report.ok_or_else(|| StartError::Worker(io::Error::other("no worker reported its sandbox")))?;
        let shared = Arc::new(Shared {
            admission: Admission::new(config.queue_depth, config.memory_budget, config.workers, metrics.clone()),
            roster: Mutex::new(Roster { pids: vec![None; config.workers], sandbox }),
            closing: watch::Sender::new(false),
            config,
            metrics,
            launcher,
        });
        let keep = |(slot, worker)| tokio::spawn(Keeper::new(shared.clone(), slot, worker).run());
        let keepers = workers.into_iter().enumerate().map(keep).collect();
        Ok(Arc::new(Self { shared, keepers: Mutex::new(keepers) }))
    }

    /// Reads a source image's header.
    ///
    /// # Errors
    /// See [`JobError`].
    pub async fn probe(&self, source: &File, deadline: Instant) -> Result<SourceFacts, JobError> {
        let admitted = self.admit(source)?;
        let memory_bytes = admitted.bytes + PROBE_BYTES;
        let work = self.work(admitted, Task::Probe, memory_bytes, PROBE_COST, deadline);
        self.run(Lane::Cheap, work, pending(), |answer| match answer {
            Answer::Probed(facts) => Some(facts),
            _ => None,
        })
        .await
    }

    /// Looks for something in a source image's pixels: a rectangle within the upright picture.
    ///
    /// # Errors
    /// See [`JobError`].
    pub async fn look(
        &self,
        source: &File,
        facts: &SourceFacts,
        look: Look,
        deadline: Instant,
    ) -> Result<PixelRect, JobError> {
        let admitted = self.admit(source)?;
        let plan = Plan::to_look(facts, look);
        let (lane, memory_bytes, cost) = (Lane::of(&plan), plan.peak_bytes(admitted.bytes), cost(&plan));
        let work = self.work(admitted, Task::Look { plan, look }, memory_bytes, cost, deadline);
        self.run(lane, work, pending(), |answer| match answer {
            Answer::Looked(found) => Some(found),
            _ => None,
        })
        .await
    }

    /// Sees whether a rendition, of these facts, is whole: decodes all of it, behind everything that somebody waits for.
    ///
    /// # Errors
    /// See [`JobError`]; of a damaged file, [`JobError::Render`].
    pub async fn verify(&self, rendition: &File, facts: &SourceFacts, deadline: Instant) -> Result<(), JobError> {
        let admitted = self.admit(rendition)?;
        let plan = Plan::to_verify(facts);
        let (memory_bytes, cost) = (plan.verify_bytes(admitted.bytes), cost(&plan));
        let work = self.work(admitted, Task::Verify { plan }, memory_bytes, cost, deadline);
        self.run(Lane::Warm, work, pending(), |answer| matches!(answer, Answer::Verified).then_some(())).await
    }

    /// Whether the budget of memory is large enough for a render, of a source file of so many bytes, that is alone.
    pub fn has_room_for(&self, plan: &Plan, source_bytes: u64) -> bool {
        plan.peak_bytes(source_bytes) <= self.shared.config.memory_budget
    }

    /// Decodes a source image to its end: what it is.
    ///
    /// # Errors
    /// See [`JobError`].
    pub async fn inspect(&self, source: &File, facts: &SourceFacts, deadline: Instant) -> Result<Inspection, JobError> {
        let admitted = self.admit(source)?;
        let fits = |plan: &Plan| plan.peak_bytes_of_decoding(admitted.bytes) <= self.shared.config.memory_budget;
        let in_full = Plan::to_inspect(facts, 1);
        let plan = if fits(&in_full) { in_full } else { Plan::to_inspect(facts, 8) };
        let (memory_bytes, cost) = (plan.peak_bytes_of_decoding(admitted.bytes), cost(&plan));
        let work = self.work(admitted, Task::Inspect { plan }, memory_bytes, cost, deadline);
        self.run(Lane::Costly, work, pending(), |answer| match answer {
            Answer::Inspected(found) => Some(found),
            _ => None,
        })
        .await
    }

    /// Expects a render soon, together with all others that are expected for the same thing: the first of them to come is not
    /// begun before the last has, or two milliseconds are over. One that is dropped is not waited for.
    pub fn expect(&self, company: &impl Hash) -> Coming {
        self.shared.admission.expect(company)
    }

    /// Carries out a plan: reads the source, of `source_bytes` when it was planned, and makes the output hold the rendition
    /// and nothing else.
    ///
    /// When the returned future is dropped, a job that waits is forgotten, and one that runs goes on to its end: the output
    /// may still be written to until its deadline.
    ///
    /// # Errors
    /// See [`JobError`]. Whatever the output holds then is to be thrown away.
    pub async fn render(
        &self,
        files: Files<'_>,
        plan: &Plan,
        source_bytes: u64,
        lane: Lane,
        deadline: Instant,
    ) -> Result<RenderReport, JobError> {
        let wanted = Wanted { lane, deadline, coming: None };
        self.render_unless(files, plan, source_bytes, wanted, pending()).await
    }

    /// As [`Pool::render`]; a job that still waits when `unwanted` ends leaves the queue.
    ///
    /// # Errors
    /// See [`JobError`].
    pub async fn render_unless(
        &self,
        files: Files<'_>,
        plan: &Plan,
        source_bytes: u64,
        Wanted { lane, deadline, coming }: Wanted,
        unwanted: impl Future<Output = ()>,
    ) -> Result<RenderReport, JobError> {
        let Files { source, output, mark } = files;
        let admitted = self.admit(source)?;
        if admitted.bytes != source_bytes {
            return Err(JobError::SourceChanged);
        }
        let output = output.try_clone().map_err(|error| JobError::Output((&error).into()))?;
        let mark = mark.map(File::try_clone).transpose().map_err(|error| JobError::Source((&error).into()))?;
        let decode = Decode::of(plan, admitted.origin);
        let task = Task::Render { plan: plan.clone() };
        let work = Work {
            output: Some(output.into()),
            mark: mark.map(Into::into),
            max_source_bytes: source_bytes,
            decode,
            coming,
            ..self.work(admitted, task, plan.peak_bytes(source_bytes), cost(plan), deadline)
        };
        self.run(lane, work, unwanted, |answer| match answer {
            Answer::Rendered(report) => Some(report),
            _ => None,
        })
        .await
    }

    /// Work on an admitted file, without an output.
    fn work(&self, admitted: Admitted, task: Task, memory_bytes: u64, cost: u64, deadline: Instant) -> Work {
        Work {
            task,
            source: admitted.source,
            output: None,
            mark: None,
            max_source_bytes: self.shared.config.max_source_bytes,
            memory_bytes,
            deadline,
            origin: admitted.origin,
            decode: None,
            cost,
            coming: None,
        }
    }

    /// Has work done in its turn. `pick` takes the answer that is of its kind.
    async fn run<T>(
        &self,
        lane: Lane,
        work: Work,
        unwanted: impl Future<Output = ()>,
        pick: impl FnOnce(Answer) -> Option<T>,
    ) -> Result<T, JobError> {
        let answer = self.shared.admission.enter(lane, work)?.answer(unwanted).await?;
        pick(answer).ok_or(JobError::Lost) // its keeper lets no other kind pass
    }

    /// Only regular files within the limit get as far as a worker.
    fn admit(&self, source: &File) -> Result<Admitted, JobError> {
        let stat = retry_on_intr(|| fstat(source)).map_err(|errno| JobError::Source(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(JobError::NotAFile);
        }
        let (found, limit) = (stat.st_size.unsigned_abs(), self.shared.config.max_source_bytes);
        if found > limit {
            return Err(OverLimit::SourceBytes { found, limit }.into());
        }
        let source = source.try_clone().map_err(|error| JobError::Source((&error).into()))?;
        Ok(Admitted { source: source.into(), origin: FileId::from(&stat), bytes: found })
    }

    /// What the kernel granted the worker that was started last.
    pub fn sandbox(&self) -> SandboxReport {
        self.shared.roster().sandbox.clone()
    }

    /// What the pool is doing. It is ready as long as one worker is alive.
    pub fn stats(&self) -> PoolStats {
        let (waiting, running, reserved_bytes) = self.shared.admission.load();
        let alive = self.worker_pids().len();
        PoolStats { workers: self.shared.config.workers, alive, running, waiting, reserved_bytes }
    }

    /// The process ids of the workers alive.
    pub fn worker_pids(&self) -> Vec<u32> {
        self.shared.roster().pids.iter().flatten().copied().collect()
    }

    /// Refuses what waits and what comes, lets the jobs at work finish or meet their deadlines, and ends the workers.
    pub async fn shutdown(&self) {
        self.shutdown_until(pending()).await;
    }

    /// As [`Pool::shutdown`]; what is still at work when `enough` ends is cut off, and fails as [`JobError::ShuttingDown`].
    pub async fn shutdown_until(&self, enough: impl Future<Output = ()>) {
        self.shared.close();
        let mut keepers = std::mem::take(&mut *self.keepers.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = async {
            for keeper in &mut keepers {
                drop(keeper.await); // one that panicked took its worker along
            }
        };
        tokio::select! {
            () = ended => return,
            () = enough => {}
        }
        for keeper in keepers.into_iter().filter(|keeper| !keeper.is_finished()) {
            keeper.abort();
            drop(keeper.await);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.close();
    }
}
