//! Which job goes next, on which worker, and what that worker shall hold when it has done it.

use std::time::Instant;

use super::{Idle, PATIENCE, Running, State, Waiting, Work};
use crate::workers::job::{Decode, DecodeKey, Lane};

/// A job that goes next.
struct Next {
    lane: usize,
    index: usize,
    /// Whether it is better left to a worker that is at work, and goes on no other.
    is_left: bool,
}

impl State {
    /// The idle worker and the job that go together next: a worker that holds a decode and the first job that wants it, of no
    /// worse a lane than that of [`State::next`]; else that job, and the worker that has been idle longest.
    pub(super) fn pair(&self, now: Instant, budget: u64, workers: usize) -> Option<(usize, (usize, usize))> {
        let Next { lane, index, is_left } = self.next(now, budget, workers)?;
        let is_impatient = self.lanes[lane][index].passed_over >= PATIENCE[lane];
        let places = || (0..=lane).flat_map(|lane| (0..self.lanes[lane].len()).map(move |index| (lane, index)));
        let shared_by = |idle: &Idle| {
            places().find(|&(lane, index)| {
                let job = &self.lanes[lane][index];
                let fits = self.reserved + job.work.memory_bytes <= budget;
                fits && job.work.wants_one_of(&idle.holds) && self.may_begin(job, now)
            })
        };
        let mut sharing = self.idle.iter().enumerate().filter_map(|(at, idle)| Some((at, shared_by(idle)?)));
        let sharing = if is_impatient { None } else { sharing.next() };
        sharing.or((!is_left && !self.idle.is_empty()).then_some((0, (lane, index))))
    }

    /// Whether a job waits for nobody who comes with it.
    fn may_begin(&self, job: &Waiting, now: Instant) -> bool {
        !job.company.is_some_and(|company| self.companies.waits(company, now))
    }

    /// The first of a lane that may begin: its head.
    pub(super) fn head(&self, lane: usize, now: Instant) -> Option<(usize, &Waiting)> {
        self.lanes[lane].iter().enumerate().find(|(_, job)| self.may_begin(job, now))
    }

    /// Whether a worker makes or has this decode for the job that it does.
    fn is_decoding(&self, key: DecodeKey) -> bool {
        self.decoding(key).is_some()
    }

    fn decoding(&self, key: DecodeKey) -> Option<&Running> {
        self.running.iter().find(|job| !job.is_late && job.holds.iter().any(|held| held.key == key))
    }

    /// Whether a job is sooner done by the worker that makes or has its decode, behind all that want something of the same,
    /// than by another one that decodes again.
    fn is_better_left(&self, job: &Waiting) -> bool {
        let Some(running) = job.work.decode.and_then(|decode| self.decoding(decode.key)) else { return false };
        let behind: u64 = self.lanes.iter().flatten().filter_map(|job| job.work.cost_beside(&running.holds)).sum();
        let rest = self.pace.of(running.cost).saturating_sub(running.since.elapsed());
        rest + self.pace.of(behind) <= self.pace.of(job.work.cost)
    }

    /// What a worker that holds `holds` shall hold when it has done a job: the job's own decode, and beside it, where it has
    /// that one, what else it has of the file; where it decodes, what one pass can make for other jobs that wait, unless
    /// another worker is at it. Jobs that nobody waits for are decoded for by their like only. As much as `most` bytes allow
    /// together with the job's own; nothing where they do not allow even that. With the bytes to reserve.
    pub(super) fn to_hold(&self, lane: usize, work: &Work, holds: &[Decode], most: u64) -> (Vec<Decode>, u64) {
        let mut bytes = work.memory_bytes;
        let Some(own) = work.decode.filter(|_| bytes <= most) else { return (Vec::new(), bytes) };
        let is_beside = |other: &Decode| other.key.file == own.key.file && other.key != own.key;
        let mut beside: Vec<Decode> = match work.wants_one_of(holds) {
            true => holds.iter().filter(|held| is_beside(held)).copied().collect(),
            false => {
                let lanes = &self.lanes[..=lane.max(Lane::Costly as usize)];
                let wanted =
                    lanes.iter().flatten().filter(|job| !job.answer.is_closed()).filter_map(|job| job.work.decode);
                let together = |other: &Decode| own.goes_along && other.goes_along && !self.is_decoding(other.key);
                wanted.filter(|other| is_beside(other) && together(other)).collect()
            }
        };
        beside.sort_by_key(|decode| (decode.bytes, decode.key.reduction));
        beside.dedup_by_key(|decode| decode.key);
        let mut all = vec![own];
        for decode in beside {
            if bytes.saturating_add(decode.bytes) <= most {
                bytes += decode.bytes;
                all.push(decode);
            }
        }
        (all, bytes)
    }

    /// The lane and place of the job that goes next: the head of the best lane, unless a head elsewhere has been passed over
    /// often enough. A head that does not fit the memory left is passed over too, until its patience ends: then all wait
    /// for it.
    fn next(&self, now: Instant, budget: u64, workers: usize) -> Option<Next> {
        let goes = |(lane, index)| Next { lane, index, is_left: false };
        let warm = Lane::Warm as usize;
        // One worker stays free for those that somebody waits for.
        let warm_may = self.running.iter().filter(|job| job.lane == warm).count() + 1 < workers.max(2);
        let lanes = || (0..Lane::COUNT).filter(|lane| *lane != warm || warm_may);
        let fits = |job: &Waiting| self.reserved + job.work.memory_bytes <= budget;
        let heads = || lanes().filter_map(|lane| self.head(lane, now).map(|(index, head)| (lane, index, head)));
        if let Some((lane, index, head)) = heads().find(|(lane, _, head)| head.passed_over >= PATIENCE[*lane]) {
            return fits(head).then_some(goes((lane, index)));
        }
        // What another worker decodes at this moment is better left to it, if there is anything else to do.
        let decoding = |job: &Waiting| job.work.decode.is_some_and(|decode| self.is_decoding(decode.key));
        let apart = || {
            let may = |job: &Waiting| !decoding(job) && self.may_begin(job, now);
            let place = |lane: usize| self.lanes[lane].iter().position(may).map(|at| (lane, at));
            lanes().filter(|lane| *lane != warm).filter_map(place).find(|&(lane, at)| fits(&self.lanes[lane][at]))
        };
        let (lane, index, head) = heads().find(|(.., head)| fits(head))?;
        // Nobody else waits: of one picture's sizes, which are one page's, the longest first, so that the last is ready
        // soonest.
        let clients = || (0..warm).flat_map(|lane| (0..self.lanes[lane].len()).map(move |at| (lane, at)));
        let job = |(lane, at): (usize, usize)| &self.lanes[lane][at];
        if lane != warm && clients().all(|place| job(place).work.origin == head.work.origin) {
            let may = |job: &Waiting| fits(job) && !decoding(job) && self.may_begin(job, now);
            let longest = clients().filter(|&place| may(job(place)));
            if let Some(place) = longest.max_by_key(|&place| (job(place).work.cost, std::cmp::Reverse(place))) {
                return Some(goes(place));
            }
        }
        match decoding(head) {
            true => apart().map(goes).or_else(|| Some(Next { lane, index, is_left: self.is_better_left(head) })),
            false => Some(goes((lane, index))),
        }
    }
}
