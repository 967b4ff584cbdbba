//! One worker's keeper: a task that always has a worker ready, gives it one job after the other, and decides what a death
//! means for the job it happened in.
#![forbid(unsafe_code)]

use std::{
    os::fd::AsFd,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::warn;

use super::{
    job::{Answer, Decode, Job, JobError, Reply, Task, plain, stages},
    pool::Shared,
    process::{AskError, Death, WorkerProcess},
    queue::{Granted, Work},
};

/// Pauses between attempts to start a worker: the first, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Numbers jobs, over all workers.
static NEXT_JOB: AtomicU64 = AtomicU64::new(1);

pub(super) struct Keeper {
    shared: Arc<Shared>,
    slot: usize,
    worker: Option<WorkerProcess>,
}

/// What came of handing a job to one worker.
enum Attempt {
    Answered(Result<Answer, JobError>),
    Died(Death),
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, slot: usize, worker: WorkerProcess) -> Self {
        shared.note_worker(slot, Some(&worker));
        Self { shared, slot, worker: Some(worker) }
    }

    /// Works until the queue is closed. Takes the worker along when it ends.
    pub(super) async fn run(mut self) {
        let mut turn = None;
        while let Some(granted) = self.next_job(turn.take()).await {
            let answer = {
                let mut done = pin!(self.complete(&granted));
                tokio::select! {
                    answer = &mut done => answer,
                    () = granted.late() => done.await,
                }
            };
            let recycle_after = self.shared.config.recycle_after_jobs;
            let is_worn = |worker: &WorkerProcess| recycle_after > 0 && worker.jobs >= recycle_after;
            match &self.worker {
                Some(worker) if !is_worn(worker) => turn = Some(granted.finish_and_turn(answer, worker.holds.clone())),
                Some(_) => {
                    granted.finish(answer);
                    self.shared.metrics.worker_died("recycled");
                    self.discard();
                }
                None => granted.finish(answer),
            }
        }
        self.discard();
    }

    /// Waits for a job with a worker at hand, in the turn that it has taken already or in a new one; `None` once the queue is
    /// closed.
    async fn next_job(&mut self, mut taken: Option<oneshot::Receiver<Granted>>) -> Option<Granted> {
        let shared = self.shared.clone();
        loop {
            let closing = shared.closing();
            let worker = tokio::select! {
                biased;
                worker = self.ready_worker() => worker,
                () = closing => return None,
            };
            let mut turn = taken.take().unwrap_or_else(|| shared.admission.turn(worker.holds.iter().copied()));
            tokio::select! {
                biased;
                granted = &mut turn => return granted.ok(),
                () = worker.stirs() => {}
            }
            self.mourn().await;
            // A job may have been granted meanwhile. It is lucky: the next worker is a fresh one.
            turn.close();
            if let Ok(granted) = turn.try_recv() {
                return Some(granted);
            }
        }
    }

    /// Does a job, if need be twice: the second time on a fresh worker, and without what it would decode for others.
    async fn complete(&mut self, granted: &Granted) -> Result<Answer, JobError> {
        let work = granted.work();
        let mut first: Option<Death> = None;
        loop {
            let started = first.is_some();
            let ready = tokio::time::timeout_at(work.deadline.into(), self.ready_worker()).await;
            if ready.is_err() {
                return Err(JobError::TimedOut { started });
            }
            let holds = granted.holds().iter().copied().filter(|held| !started || Some(*held) == work.decode).collect();
            let death = match self.attempt(work, granted.memory_bytes(), holds).await {
                Attempt::Answered(answer) => return answer,
                Attempt::Died(death) => death,
            };
            first = match first {
                None => Some(death),
                Some(first) if first.own_making && death.own_making => {
                    return Err(JobError::Poison { cause: death.cause });
                }
                Some(_) => return Err(JobError::Lost),
            };
        }
    }

    /// Hands a job to the worker, which is to hold `holds` when it is done.
    async fn attempt(&mut self, work: &Work, memory_bytes: u64, holds: Vec<Decode>) -> Attempt {
        let Some(worker) = self.worker.as_mut() else {
            return Attempt::Died(Death { own_making: false, ..Death::by_job("spawn") });
        };
        let number = NEXT_JOB.fetch_add(1, Ordering::Relaxed);
        let left = work.deadline.saturating_duration_since(Instant::now());
        let job = Job {
            number,
            max_source_bytes: work.max_source_bytes,
            memory_bytes,
            // Wall time ends a job first; this is for the time in which the gate itself is stopped.
            cpu_seconds: left.as_secs() + 2,
            task: work.task.clone(),
            decode: work.decode.map(|decode| decode.key),
            also: holds.iter().filter(|held| Some(**held) != work.decode).map(|held| held.key.reduction).collect(),
        };
        let descriptors: Vec<_> = [Some(&work.source), work.output.as_ref(), work.mark.as_ref()]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
            .collect();
        let began = Instant::now();
        let asked = worker.ask(&job, &descriptors, work.deadline).await;
        worker.holds = match &asked {
            Ok(Reply { answer: Answer::Rendered(_), .. }) => holds,
            _ => Vec::new(),
        };
        match asked {
            Ok(reply) => match reply.answer {
                Answer::Panicked { message } => {
                    self.end("panic", Some(&plain(&message)));
                    Attempt::Died(Death::by_job("panic"))
                }
                answer => match self.check(work, answer, began) {
                    Some(answer) => Attempt::Answered(answer),
                    None => {
                        self.end("protocol", None);
                        Attempt::Died(Death::by_job("protocol"))
                    }
                },
            },
            Err(AskError::TimedOut) => {
                self.end("deadline", None);
                Attempt::Answered(Err(JobError::TimedOut { started: true }))
            }
            Err(AskError::Protocol) => {
                self.end("protocol", None);
                Attempt::Died(Death::by_job("protocol"))
            }
            Err(AskError::Gone) => Attempt::Died(self.mourn().await),
        }
    }

    /// What an answer means; `None` if an honest worker would not give it to this job.
    fn check(&self, work: &Work, answer: Answer, began: Instant) -> Option<Result<Answer, JobError>> {
        let metrics = &self.shared.metrics;
        let answer = match (answer, &work.output) {
            (Answer::Probed(facts), None) if facts.is_plausible() && matches!(work.task, Task::Probe) => {
                metrics.render_stage("probe", began.elapsed());
                Ok(Answer::Probed(facts))
            }
            (Answer::Inspected(found), None) if found.is_plausible() && matches!(work.task, Task::Inspect { .. }) => {
                Ok(Answer::Inspected(found.with_name(plain)))
            }
            (Answer::Looked(found), None) => match &work.task {
                Task::Look { plan, .. } if found.is_within(plan.source.upright_size()) => {
                    metrics.render_stage("look", began.elapsed());
                    Ok(Answer::Looked(found))
                }
                _ => return None,
            },
            (Answer::Verified, None) if matches!(work.task, Task::Verify { .. }) => Ok(Answer::Verified),
            (Answer::Rendered(report), Some(output)) => {
                // What it claims to have written is there, and nothing else. A disk that cannot say is no fault of the worker's.
                let written = match rustix::io::retry_on_intr(|| rustix::fs::fstat(output)) {
                    Ok(stat) => u64::try_from(stat.st_size).ok(),
                    Err(errno) => return Some(Err(JobError::Output(errno.into()))),
                };
                if written != Some(report.bytes) || report.bytes == 0 {
                    return None;
                }
                for (stage, time) in stages(&report.times) {
                    metrics.render_stage(stage, time.min(began.elapsed()));
                }
                Ok(Answer::Rendered(report))
            }
            // A hijacked worker may say anything, and what it says is logged and remembered.
            (Answer::Failed(error), _) => Err(JobError::Render(error.with_detail(plain))),
            (Answer::Source(errno), _) => Err(JobError::Source(errno)),
            (Answer::SourceChanged, _) => Err(JobError::SourceChanged),
            (Answer::Output(errno), Some(_)) => Err(JobError::Output(errno)),
            (
                Answer::Probed(_)
                | Answer::Looked(_)
                | Answer::Verified
                | Answer::Inspected(_)
                | Answer::Rendered(_)
                | Answer::Output(_)
                | Answer::Panicked { .. },
                _,
            ) => return None,
        };
        Some(answer)
    }

    /// The worker at hand, or a new one; tries until there is one.
    async fn ready_worker(&mut self) -> &mut WorkerProcess {
        let (mut pause, longest) = BACK_OFF;
        while self.worker.is_none() {
            match self.shared.launcher.launch().await {
                Ok(worker) => {
                    self.shared.note_worker(self.slot, Some(&worker));
                    self.worker = Some(worker);
                }
                Err(error) => {
                    warn!(%error, retry_ms = pause.as_millis() as u64, "a render worker could not be started");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(longest);
                }
            }
        }
        match &mut self.worker {
            Some(worker) => worker,
            None => unreachable!("the loop above ends with a worker"),
        }
    }

    /// Finds out how a worker that closed its socket ended.
    async fn mourn(&mut self) -> Death {
        self.shared.note_worker(self.slot, None);
        let Some(worker) = self.worker.take() else { return Death::by_job("exit") };
        let pid = worker.pid();
        let death = worker.bury().await;
        self.shared.metrics.worker_died(&death.cause);
        warn!(worker.pid = pid, cause = death.cause, words = death.words, "a render worker died");
        death
    }

    /// Kills the worker for a reason of the gate's own.
    fn end(&mut self, cause: &'static str, message: Option<&str>) {
        self.shared.metrics.worker_died(cause);
        let pid = self.worker.as_ref().map_or(0, WorkerProcess::pid);
        warn!(worker.pid = pid, cause, message, "a render worker was ended");
        self.discard();
    }

    fn discard(&mut self) {
        self.shared.note_worker(self.slot, None);
        self.worker = None;
    }
}
