//! Admission: which job runs next, how many may wait, and how much memory they may hold together.
//!
//! All decisions are made under one lock that is never held across an `.await`; both gauges are set under it too, so they
//! are always true. A job enters by [`Admission::enter`], a worker's keeper asks by [`Admission::turn`], and whatever makes a
//! job startable (it came, a worker got free, memory was given back, a waiter left) calls `dispatch`.
#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::oneshot;

use super::job::{Answer, JobError, Lane, Task};
use crate::{metrics::Metrics, render::limits::OverLimit};

/// How often a job at the head of its lane may be passed over before it goes first. A large job so waits for a bounded
/// number of small ones, and a warm one for a bounded number of clients.
const PATIENCE: [u32; Lane::COUNT] = [8, 16, 64];

/// What a worker needs to do a job.
pub struct Work {
    pub task: Task,
    pub source: OwnedFd,
    pub output: Option<OwnedFd>,
    /// What a render lays on top.
    pub mark: Option<OwnedFd>,
    pub max_source_bytes: u64,
    /// What to reserve of the budget.
    pub memory_bytes: u64,
    pub deadline: Instant,
}

type Answerer = oneshot::Sender<Result<Answer, JobError>>;

struct Waiting {
    ticket: u64,
    work: Work,
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
}

#[derive(Default)]
struct State {
    lanes: [VecDeque<Waiting>; Lane::COUNT],
    idle: VecDeque<oneshot::Sender<Granted>>,
    next_ticket: u64,
    reserved: u64,
    running: usize,
    closed: bool,
}

impl State {
    fn waiting(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    /// The lane whose head goes next: the best lane's, unless a head elsewhere has been passed over often enough. A head
    /// that does not fit the memory left is passed over too, until its patience ends: then all wait for it.
    fn next_lane(&self, budget: u64) -> Option<usize> {
        let head = |lane: &usize| self.lanes[*lane].front().map(|head| (*lane, head));
        let fits = |head: &Waiting| self.reserved + head.work.memory_bytes <= budget;
        let impatient =
            (0..Lane::COUNT).filter_map(|lane| head(&lane)).find(|(lane, head)| head.passed_over >= PATIENCE[*lane]);
        if let Some((lane, head)) = impatient {
            return fits(head).then_some(lane);
        }
        (0..Lane::COUNT).filter_map(|lane| head(&lane)).find(|(_, head)| fits(head)).map(|(lane, _)| lane)
    }
}

impl Admission {
    pub fn new(queue_depth: usize, budget: u64, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), metrics, queue_depth, budget })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock; if it ever did, the counters would still be the best there are.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job; the place is given back when the returned [`Place`] is dropped before the job has begun.
    ///
    /// # Errors
    /// At once when the job could never fit the budget, when the queue is full or closed. A client's job takes the place of
    /// the youngest warm one rather than be refused.
    pub fn enter(self: &Arc<Self>, lane: Lane, work: Work) -> Result<Place, JobError> {
        if work.memory_bytes > self.budget {
            return Err(OverLimit::Memory { needed: work.memory_bytes, limit: self.budget }.into());
        }
        let (sender, answer) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(JobError::ShuttingDown);
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let deadline = work.deadline;
        let waiting = Waiting { ticket, work, answer: sender, since: Instant::now(), passed_over: 0 };
        state.lanes[lane as usize].push_back(waiting);
        self.dispatch(&mut state);
        if state.waiting() > self.queue_depth {
            let displaced = if lane == Lane::Warm { None } else { state.lanes[Lane::Warm as usize].pop_back() };
            match displaced {
                Some(warm) => drop(warm.answer.send(Err(JobError::QueueFull))),
                None => {
                    state.lanes[lane as usize].pop_back();
                    self.publish(&state);
                    return Err(JobError::QueueFull);
                }
            }
        }
        self.publish(&state);
        Ok(Place { admission: self.clone(), lane, ticket, deadline, answer })
    }

    /// Registers an idle worker; the receiver gets its next job, or an error once the queue is closed.
    pub fn turn(self: &Arc<Self>) -> oneshot::Receiver<Granted> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        if !state.closed {
            state.idle.push_back(sender);
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
        (state.waiting(), state.running, state.reserved)
    }

    /// Brings jobs and idle workers together as long as both are there and the memory lasts.
    fn dispatch(self: &Arc<Self>, state: &mut State) {
        while let Some(turn) = state.idle.pop_front() {
            if turn.is_closed() {
                continue; // that worker died while it was idle
            }
            let now = Instant::now();
            let Some(lane) = state.next_lane(self.budget) else {
                state.idle.push_front(turn);
                return;
            };
            let Some(waiting) = state.lanes[lane].pop_front() else { return };
            if waiting.work.deadline <= now || waiting.answer.is_closed() {
                state.idle.push_front(turn);
                drop(waiting.answer.send(Err(JobError::TimedOut { started: false })));
                continue;
            }
            for other in (0..Lane::COUNT).filter(|other| *other != lane) {
                if let Some(head) = state.lanes[other].front_mut() {
                    head.passed_over += 1;
                }
            }
            self.metrics.render_stage("queue", now - waiting.since);
            let bytes = waiting.work.memory_bytes;
            state.reserved += bytes;
            state.running += 1;
            let reservation = Reservation { admission: Some(self.clone()), bytes };
            if let Err(mut refused) = turn.send(Granted { waiting, reservation }) {
                // The worker died since it was asked. The lock is held, so the reservation must not give itself back.
                refused.reservation.admission = None;
                state.reserved -= bytes;
                state.running -= 1;
                state.lanes[lane].push_front(refused.waiting);
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
    answer: oneshot::Receiver<Result<Answer, JobError>>,
}

impl Place {
    /// Waits for the answer. The deadline ends a job that still waits; one that runs is ended by its worker's keeper.
    pub async fn answer(mut self) -> Result<Answer, JobError> {
        let deadline = tokio::time::Instant::from_std(self.deadline);
        let answered = match tokio::time::timeout_at(deadline, &mut self.answer).await {
            Ok(answered) => answered,
            Err(_) if self.leave() => return Err(JobError::TimedOut { started: false }),
            Err(_) => (&mut self.answer).await,
        };
        answered.unwrap_or(Err(JobError::ShuttingDown)) // the pool's tasks are gone
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
    reservation: Reservation,
}

impl Granted {
    pub fn work(&self) -> &Work {
        &self.waiting.work
    }

    /// Gives the memory and the descriptors back, then answers.
    pub fn finish(self, answer: Result<Answer, JobError>) {
        let Self { waiting: Waiting { work, answer: answerer, .. }, reservation } = self;
        drop(reservation);
        drop(work);
        drop(answerer.send(answer)); // nobody may be left to hear it
    }
}

/// A share of the memory budget, given back however its job ends.
struct Reservation {
    admission: Option<Arc<Admission>>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(admission) = &self.admission {
            let mut state = admission.lock();
            state.reserved -= self.bytes;
            state.running -= 1;
            admission.dispatch(&mut state);
            admission.publish(&state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, time::Duration};

    use super::*;

    fn work(memory_bytes: u64) -> Work {
        Work {
            task: Task::Probe,
            source: File::open("/dev/null").unwrap().into(),
            output: None,
            mark: None,
            max_source_bytes: 1,
            memory_bytes,
            deadline: Instant::now() + Duration::from_secs(60),
        }
    }

    fn admission(queue_depth: usize, budget: u64) -> Arc<Admission> {
        Admission::new(queue_depth, budget, Arc::new(Metrics::new()))
    }

    /// One worker that takes what comes next and says how large it was.
    fn take(admission: &Arc<Admission>) -> Option<u64> {
        let granted = admission.turn().try_recv().ok()?;
        let bytes = granted.work().memory_bytes;
        granted.finish(Err(JobError::Lost));
        Some(bytes)
    }

    #[test]
    fn lanes_go_in_order_and_each_is_first_come_first_served() {
        let queue = admission(10, 100);
        let _places = [(Lane::Warm, 1), (Lane::Costly, 2), (Lane::Cheap, 3), (Lane::Costly, 4), (Lane::Cheap, 5)]
            .map(|(lane, bytes)| queue.enter(lane, work(bytes)).ok().unwrap());
        let order: Vec<u64> = std::iter::from_fn(|| take(&queue)).collect();
        assert_eq!(order, [3, 5, 2, 4, 1]);
    }

    #[test]
    fn a_stream_of_cheap_jobs_starves_nobody() {
        let queue = admission(1_000, 100);
        let _costly = queue.enter(Lane::Costly, work(50)).ok().unwrap();
        let _warm = queue.enter(Lane::Warm, work(60)).ok().unwrap();
        let mut places = Vec::new();
        let mut order = Vec::new();
        for _ in 0..80 {
            places.push(queue.enter(Lane::Cheap, work(1)).ok().unwrap());
            order.extend(take(&queue));
        }
        assert_eq!(order.iter().position(|bytes| *bytes == 50), Some(PATIENCE[1] as usize));
        assert_eq!(order.iter().position(|bytes| *bytes == 60), Some(PATIENCE[2] as usize));
    }

    #[test]
    fn a_job_that_does_not_fit_is_passed_over_only_so_often() {
        let queue = admission(1_000, 100);
        let _first = queue.enter(Lane::Cheap, work(60)).ok().unwrap();
        let running = queue.turn().try_recv().unwrap();
        let _large = queue.enter(Lane::Cheap, work(70)).ok().unwrap();
        let mut places = Vec::new();
        let mut passed = 0;
        for _ in 0..50 {
            places.push(queue.enter(Lane::Costly, work(10)).ok().unwrap());
            passed += u32::from(take(&queue).is_some());
        }
        assert_eq!(passed, PATIENCE[0]);
        running.finish(Err(JobError::Lost));
        assert_eq!(take(&queue), Some(70));
    }

    #[test]
    fn a_full_queue_refuses_at_once_and_a_client_displaces_a_warm_job() {
        let queue = admission(2, 100);
        let _one = queue.enter(Lane::Warm, work(1)).ok().unwrap();
        let mut warm = queue.enter(Lane::Warm, work(2)).ok().unwrap();
        assert_eq!(queue.enter(Lane::Warm, work(3)).err(), Some(JobError::QueueFull));
        let _client = queue.enter(Lane::Cheap, work(4)).ok().unwrap();
        assert_eq!(warm.answer.try_recv().unwrap().unwrap_err(), JobError::QueueFull);
        assert_eq!(queue.load().0, 2);
        let impossible = queue.enter(Lane::Cheap, work(101)).err();
        assert_eq!(impossible, Some(OverLimit::Memory { needed: 101, limit: 100 }.into()));
    }

    #[test]
    fn gauges_are_true_and_dropped_places_leave() {
        let queue = admission(5, 100);
        let gauges = || (queue.metrics.render_queue_depth.get(), queue.metrics.render_memory_bytes.get());
        let first = queue.enter(Lane::Cheap, work(60)).ok().unwrap();
        let second = queue.enter(Lane::Cheap, work(60)).ok().unwrap();
        assert_eq!(gauges(), (2, 0));
        let granted = queue.turn().try_recv().unwrap();
        assert_eq!(gauges(), (1, 60));
        drop(second);
        assert_eq!(gauges(), (0, 60));
        drop(first); // its job runs: the worker goes on
        assert_eq!(gauges(), (0, 60));
        drop(granted);
        assert_eq!(gauges(), (0, 0));
    }

    #[test]
    fn a_worker_that_died_idle_gets_no_job_and_one_in_flight_is_not_lost() {
        let queue = admission(5, 100);
        drop(queue.turn());
        let _place = queue.enter(Lane::Cheap, work(7)).ok().unwrap();
        assert_eq!(queue.load(), (1, 0, 0));
        assert_eq!(take(&queue), Some(7));
    }
}
