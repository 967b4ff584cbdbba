//! Admission: which job runs next, how many may wait, and how much memory they may hold together.
//!
//! All decisions are made under one lock that is never held across an `.await`; both gauges are set under it too, so they
//! are always true. A job is expected by [`Admission::expect`], if it comes with others, and enters by
//! [`Admission::enter`]; a worker's keeper asks by [`Admission::turn`] or [`Granted::finish_and_turn`], and whatever makes a
//! job startable (it came, a worker got free, memory was given back, a waiter left, a job is late, nobody is waited for any
//! more) calls `dispatch`.
#![forbid(unsafe_code)]

mod choice;
mod company;

use std::{
    collections::{VecDeque, hash_map::RandomState},
    os::fd::OwnedFd,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

pub use company::Coming;
use company::Companies;

use super::{
    job::{Answer, Decode, FileId, JobError, Lane, Task},
    worker,
};
use crate::{metrics::Metrics, render::limits::OverLimit};

/// How often a job at the head of its lane may be passed over before it goes first. A large job so waits for a bounded
/// number of small ones, and a warm one for a bounded number of clients.
const PATIENCE: [u32; Lane::COUNT] = [8, 16, 64];

/// When a job is so late that its decode is not waited for any more: after so long, and so many times what was expected.
const LATE: (Duration, u32) = (Duration::from_millis(50), 4);

/// What a worker needs to do a job.
pub struct Work {
    pub task: Task,
    pub source: OwnedFd,
    pub output: Option<OwnedFd>,
    /// What a render lays on top.
    pub mark: Option<OwnedFd>,
    pub max_source_bytes: u64,
    /// What to reserve of the budget for the job itself.
    pub memory_bytes: u64,
    pub deadline: Instant,
    /// The source image, which has its fair share and no more.
    pub origin: FileId,
    /// What other jobs may have in common with it.
    pub decode: Option<Decode>,
    /// See [`super::job::cost`].
    pub cost: u64,
    /// That it was expected, with others.
    pub coming: Option<Coming>,
}

impl Work {
    fn wants_one_of(&self, held: &[Decode]) -> bool {
        self.cost_beside(held).is_some()
    }

    /// What a job costs that wants one of these decodes, on a worker that holds them.
    fn cost_beside(&self, held: &[Decode]) -> Option<u64> {
        let decode = self.decode.filter(|wanted| held.iter().any(|held| held.key == wanted.key))?;
        Some(self.cost.saturating_sub(decode.cost))
    }
}

type Answerer = oneshot::Sender<Result<Answer, JobError>>;

struct Waiting {
    ticket: u64,
    /// Its place in the lane: the turn in which its source image would come to it if each in turn had one job done.
    round: u64,
    work: Work,
    /// Whom it waits for, if any of them is on the way.
    company: Option<u64>,
    answer: Answerer,
    since: Instant,
    passed_over: u32,
}

/// The queue. Cheap to share.
pub struct Admission {
    state: Mutex<State>,
    metrics: Arc<Metrics>,
    queue_depth: usize,
    budget: u64,
    /// A worker that was given more than this for a job holds nothing after it.
    keep_below: u64,
    workers: usize,
    hasher: RandomState,
}

#[derive(Default)]
struct State {
    /// Each in the order of rounds, then of tickets.
    lanes: [VecDeque<Waiting>; Lane::COUNT],
    /// The round that each lane is in.
    rounds: [u64; Lane::COUNT],
    idle: VecDeque<Idle>,
    next_ticket: u64,
    reserved: u64,
    running: Vec<Running>,
    companies: Companies,
    pace: Pace,
    closed: bool,
}

/// A worker without a job, and the decodes that it still holds.
struct Idle {
    turn: oneshot::Sender<Granted>,
    holds: Vec<Decode>,
    since: Instant,
}

impl Idle {
    fn new(holds: Vec<Decode>) -> (Self, oneshot::Receiver<Granted>) {
        let (turn, receiver) = oneshot::channel();
        (Self { turn, holds, since: Instant::now() }, receiver)
    }
}

/// A job at work.
struct Running {
    ticket: u64,
    lane: usize,
    /// What its worker decodes for it or holds, and will hold when it is done.
    holds: Vec<Decode>,
    cost: u64,
    since: Instant,
    /// It has taken so long that nobody counts on what its worker decodes.
    is_late: bool,
}

/// How long a unit of cost has taken of late, on one worker.
struct Pace {
    seconds_per_unit: f64,
}

impl Default for Pace {
    /// What the unit is meant to be, until it is known.
    fn default() -> Self {
        Self { seconds_per_unit: 1e-8 }
    }
}

impl Pace {
    fn note(&mut self, cost: u64, took: Duration) {
        /// Jobs that the mean is about.
        const MEMORY: f64 = 16.0;
        /// One job that hung says nothing about those behind it.
        const MOST: f64 = 4.0;
        let seconds = took.as_secs_f64() / cost.max(1) as f64;
        self.seconds_per_unit += (seconds.min(MOST * self.seconds_per_unit) - self.seconds_per_unit) / MEMORY;
    }

    fn of(&self, cost: u64) -> Duration {
        const LONGEST: f64 = 1e6;
        Duration::from_secs_f64((self.seconds_per_unit * cost as f64).min(LONGEST))
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    /// Puts a job into its lane, behind as many of other source images as it takes for each of them to have had its turn.
    fn queue(&mut self, lane: usize, mut waiting: Waiting) {
        let origin = waiting.work.origin;
        let lane_round = self.rounds[lane];
        let queue = &mut self.lanes[lane];
        // What a render is planned by takes a millisecond or two: whether it can be made is soon known.
        let is_probe = matches!(waiting.work.task, Task::Probe);
        let last = queue.iter().rev().find(|other| other.work.origin == origin).map(|other| other.round);
        waiting.round = if is_probe { lane_round } else { last.unwrap_or(lane_round).max(lane_round) + 1 };
        let place = queue.partition_point(|other| other.round <= waiting.round);
        queue.insert(place, waiting);
    }

    /// How long a job of a lane would wait for what goes before it, as far as can be told.
    fn wait(&self, lane: usize, now: Instant, workers: usize) -> Duration {
        let queued: u64 = self.lanes[..=lane].iter().flatten().map(|job| job.work.cost).sum();
        let running: Duration =
            self.running.iter().map(|job| self.pace.of(job.cost).saturating_sub(now - job.since)).sum();
        (self.pace.of(queued) + running) / u32::try_from(workers.max(1)).unwrap_or(u32::MAX)
    }
}

impl Admission {
    pub fn new(queue_depth: usize, budget: u64, workers: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        let keep_below = worker::keep_below(budget);
        let hasher = RandomState::new();
        Arc::new(Self { state: Mutex::default(), metrics, queue_depth, budget, keep_below, workers, hasher })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock; if it ever did, the counters would still be the best there are.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job; the place is given back when the returned [`Place`] is dropped before the job has begun.
    ///
    /// # Errors
    /// At once when the job could never fit the budget, when the queue is full or closed, or so long that the job's turn
    /// would come after its deadline. A client's job takes the place of the youngest warm one rather than be refused.
    pub fn enter(self: &Arc<Self>, lane: Lane, mut work: Work) -> Result<Place, JobError> {
        // Before the lock: one that is refused gives notice by being dropped after it.
        let coming = work.coming.take();
        if work.memory_bytes > self.budget {
            return Err(OverLimit::Memory { needed: work.memory_bytes, limit: self.budget }.into());
        }
        let (sender, answer) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(JobError::ShuttingDown);
        }
        let now = Instant::now();
        if now + state.wait(lane as usize, now, self.workers) > work.deadline {
            return Err(JobError::QueueFull);
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let deadline = work.deadline;
        // The render that follows a probe was let in with it: it shall not be refused after the wait because another's
        // probe has taken the place meanwhile.
        let is_probe = matches!(work.task, Task::Probe);
        let depth = if is_probe { self.queue_depth } else { self.queue_depth + self.queue_depth / 8 };
        let (company, goes_at) = coming.map(|coming| coming.arrive(&mut state.companies, now)).unzip();
        let waiting = Waiting { ticket, round: 0, work, company, answer: sender, since: now, passed_over: 0 };
        state.queue(lane as usize, waiting);
        self.dispatch(&mut state);
        if state.waiting() > depth {
            // No place is taken by one that only waits for company.
            state.companies.set_out(now);
            self.dispatch(&mut state);
        }
        if state.waiting() > depth {
            let displaced = if lane == Lane::Warm { None } else { state.lanes[Lane::Warm as usize].pop_back() };
            match displaced {
                Some(warm) => drop(warm.answer.send(Err(JobError::QueueFull))),
                None => {
                    state.lanes[lane as usize].retain(|waiting| waiting.ticket != ticket);
                    self.publish(&state);
                    return Err(JobError::QueueFull);
                }
            }
        }
        self.publish(&state);
        Ok(Place { admission: self.clone(), lane, ticket, deadline, goes_at: goes_at.flatten(), answer })
    }

    /// Registers an idle worker, and the decodes it still holds; the receiver gets its next job, or an error once the queue
    /// is closed.
    pub fn turn(self: &Arc<Self>, holds: impl IntoIterator<Item = Decode>) -> oneshot::Receiver<Granted> {
        let (idle, receiver) = Idle::new(holds.into_iter().collect());
        let mut state = self.lock();
        if !state.closed {
            state.idle.push_back(idle);
            self.dispatch(&mut state);
            self.publish(&state);
        }
        receiver
    }

    /// Refuses new jobs and those that wait; those that run go on.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.idle.clear();
        for waiting in state.lanes.iter_mut().flat_map(|lane| lane.drain(..)) {
            drop(waiting.answer.send(Err(JobError::ShuttingDown)));
        }
        self.publish(&state);
    }

    /// Jobs that wait, jobs that run, bytes reserved.
    pub fn load(&self) -> (usize, usize, u64) {
        let state = self.lock();
        (state.waiting(), state.running.len(), state.reserved)
    }

    /// Brings jobs and idle workers together as long as both are there and the memory lasts.
    fn dispatch(self: &Arc<Self>, state: &mut State) {
        loop {
            // Some may have died while they were idle.
            state.idle.retain(|idle| !idle.turn.is_closed());
            let now = Instant::now();
            let rested = state.idle.iter_mut().filter(|idle| now - idle.since >= worker::KEEP_FOR);
            rested.for_each(|idle| idle.holds.clear());
            let Some((at, (lane, index))) = state.pair(now, self.budget, self.workers) else { return };
            let was_head = state.head(lane, now).is_some_and(|(head, _)| head == index);
            let Some(waiting) = state.lanes[lane].remove(index) else { return };
            if waiting.work.deadline <= now || waiting.answer.is_closed() {
                drop(waiting.answer.send(Err(JobError::TimedOut { started: false })));
                continue;
            }
            let Some(idle) = state.idle.remove(at) else { return };
            // Within the lane too: a job that wants what the worker holds goes before the head.
            for other in (0..Lane::COUNT).filter(|&other| other != lane || !was_head) {
                let head = state.head(other, now).map(|(head, _)| head);
                head.and_then(|head| state.lanes[other].get_mut(head))
                    .into_iter()
                    .for_each(|head| head.passed_over += 1);
            }
            state.rounds[lane] = state.rounds[lane].max(waiting.round);
            self.metrics.render_stage("queue", now - waiting.since);
            let ticket = waiting.ticket;
            let cost = waiting.work.cost_beside(&idle.holds).unwrap_or(waiting.work.cost);
            let late_at = now + LATE.0 + LATE.1 * state.pace.of(cost);
            let most = self.keep_below.min(self.budget.saturating_sub(state.reserved));
            let (holds, bytes) = state.to_hold(lane, &waiting.work, &idle.holds, most);
            state.reserved += bytes;
            state.running.push(Running { ticket, lane, holds: holds.clone(), cost, since: now, is_late: false });
            let reservation = Reservation { admission: Some(self.clone()), ticket, bytes };
            if let Err(mut refused) = idle.turn.send(Granted { waiting, holds, late_at, reservation }) {
                // The worker died since it was asked. The lock is held, so the reservation must not give itself back.
                refused.reservation.admission = None;
                state.reserved -= bytes;
                state.running.retain(|job| job.ticket != ticket);
                state.lanes[lane].insert(index, refused.waiting);
            }
        }
    }

    fn publish(&self, state: &State) {
        self.metrics.render_queue_depth.set(i64::try_from(state.waiting()).unwrap_or(i64::MAX));
        self.metrics.render_memory_bytes.set(i64::try_from(state.reserved).unwrap_or(i64::MAX));
    }
}

/// A caller's place in the queue, and where its answer arrives.
pub struct Place {
    admission: Arc<Admission>,
    lane: Lane,
    ticket: u64,
    deadline: Instant,
    /// When it waits no longer for those who come with it.
    goes_at: Option<Instant>,
    answer: oneshot::Receiver<Result<Answer, JobError>>,
}

impl Place {
    /// Waits for the answer. The deadline ends a job that still waits, and so does `unwanted`; one that runs is ended by its
    /// worker's keeper, and goes on when it is unwanted: what is nearly done is soon asked for again.
    pub async fn answer(mut self, unwanted: impl Future<Output = ()>) -> Result<Answer, JobError> {
        let deadline = tokio::time::Instant::from_std(self.deadline);
        let mut unwanted = pin!(unwanted);
        let given_up = loop {
            let goes_at = self.goes_at.unwrap_or(self.deadline);
            tokio::select! {
                answered = &mut self.answer => return answered.unwrap_or(Err(JobError::ShuttingDown)),
                () = tokio::time::sleep_until(deadline) => break JobError::TimedOut { started: false },
                () = &mut unwanted => break JobError::Unwanted,
                () = tokio::time::sleep_until(goes_at.into()), if self.goes_at.is_some() => self.go(),
            }
        };
        if self.leave() {
            return Err(given_up);
        }
        let answered = (&mut self.answer).await;
        answered.unwrap_or(Err(JobError::ShuttingDown)) // the pool's tasks are gone
    }

    /// Has the job begin that has waited for company, if it still waits.
    fn go(&mut self) {
        self.goes_at = None;
        let mut state = self.admission.lock();
        self.admission.dispatch(&mut state);
        self.admission.publish(&state);
    }

    /// Takes the job out of the queue; false if it is not there any more.
    fn leave(&self) -> bool {
        let mut state = self.admission.lock();
        let lane = &mut state.lanes[self.lane as usize];
        let Some(index) = lane.iter().position(|waiting| waiting.ticket == self.ticket) else { return false };
        let left = lane.remove(index);
        // It may have been a large job that the others waited for.
        self.admission.dispatch(&mut state);
        self.admission.publish(&state);
        drop(state);
        drop(left); // closes descriptors: not under the lock
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A job that may start: its memory is reserved.
pub struct Granted {
    waiting: Waiting,
    holds: Vec<Decode>,
    late_at: Instant,
    reservation: Reservation,
}

impl Granted {
    pub fn work(&self) -> &Work {
        &self.waiting.work
    }

    /// What the worker is to hold when it is done: the job's own decode, and others of the same file.
    pub fn holds(&self) -> &[Decode] {
        &self.holds
    }

    /// What is reserved of the budget: the job's own, and the planes of the other decodes.
    pub fn memory_bytes(&self) -> u64 {
        self.reservation.bytes
    }

    /// Returns when the job is late: whoever wants what it decodes need not wait for it from then on.
    pub async fn late(&self) {
        tokio::time::sleep_until(self.late_at.into()).await;
        self.reservation.note_late();
    }

    /// Gives the memory and the descriptors back, then answers.
    pub fn finish(self, answer: Result<Answer, JobError>) {
        self.end(answer, None);
    }

    /// As [`Granted::finish`], and as [`Admission::turn`] in the same moment: what the worker can go on with is begun by nobody
    /// else in between.
    pub fn finish_and_turn(self, answer: Result<Answer, JobError>, holds: Vec<Decode>) -> oneshot::Receiver<Granted> {
        let (idle, receiver) = Idle::new(holds);
        self.end(answer, Some(idle));
        receiver
    }

    fn end(self, answer: Result<Answer, JobError>, idle: Option<Idle>) {
        let Self { waiting: Waiting { work, answer: answerer, .. }, mut reservation, .. } = self;
        reservation.give_back(idle);
        drop(work);
        drop(answerer.send(answer)); // nobody may be left to hear it
    }
}

/// A share of the memory budget, given back however its job ends.
struct Reservation {
    admission: Option<Arc<Admission>>,
    ticket: u64,
    bytes: u64,
}

impl Reservation {
    fn note_late(&self) {
        if let Some(admission) = &self.admission {
            let mut state = admission.lock();
            state.running.iter_mut().filter(|job| job.ticket == self.ticket).for_each(|job| job.is_late = true);
            admission.dispatch(&mut state);
            admission.publish(&state);
        }
    }

    /// Gives the memory back, once, and has the worker wait for its next job, if it shall.
    fn give_back(&mut self, idle: Option<Idle>) {
        if let Some(admission) = self.admission.take() {
            let mut state = admission.lock();
            state.reserved -= self.bytes;
            if let Some(at) = state.running.iter().position(|job| job.ticket == self.ticket) {
                let job = state.running.swap_remove(at);
                state.pace.note(job.cost, job.since.elapsed());
            }
            if !state.closed {
                state.idle.extend(idle);
            }
            admission.dispatch(&mut state);
            admission.publish(&state);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back(None);
    }
}

#[cfg(test)]
mod tests;
