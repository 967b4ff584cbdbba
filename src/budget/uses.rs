//! What requests leave for the index: which renditions were asked for, made and removed.
//!
//! A hit notes its rendition once in a while, by a number in what it holds anyway, and puts the note into a queue of fixed size
//! that no hit ever waits for. When the queue is full the note is lost, and the rendition's next hit tries again.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU32, Ordering},
    mpsc::{Receiver, SyncSender, sync_channel},
};

use rustix::time::{ClockId, clock_gettime};

use super::name::{Folder, Name};

/// Notes that wait at most; some 80 bytes each.
const PLACES: usize = 1 << 15;
/// 2020-01-01T00:00:00Z: seconds from then on fit four bytes for a long time.
const BEGINNING: i64 = 1_577_836_800;

/// Seconds since 2020.
pub(super) type Moment = u32;

/// This moment, to some milliseconds: the clock that costs least.
pub(super) fn now() -> Moment {
    moment(clock_gettime(ClockId::RealtimeCoarse).tv_sec)
}

/// A Unix time as a moment; the nearest one if it is none.
pub(super) fn moment(unix_seconds: i64) -> Moment {
    Moment::try_from((unix_seconds - BEGINNING).max(0)).unwrap_or(Moment::MAX)
}

/// A moment as Unix time.
pub(super) fn unix_seconds(moment: Moment) -> i64 {
    BEGINNING + i64::from(moment)
}

/// When a rendition's last use was noted.
#[derive(Debug, Default)]
pub struct LastNoted(AtomicU32);

impl LastNoted {
    /// Whether this use is to be noted: `false` for all but one in `interval` seconds.
    fn begin(&self, now: Moment, interval: u32) -> Option<Moment> {
        let last = self.0.load(Ordering::Relaxed);
        if last != 0 && now.saturating_sub(last) < interval {
            return None;
        }
        self.0.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).ok()
    }
}

/// One thing to write down.
pub(super) enum Note {
    /// It was asked for, or made.
    Used { name: Name, bytes: u64, at: Moment, preset: u16 },
    /// Everything of a source image was removed.
    Emptied(Folder),
    /// This one was.
    Removed(Name),
}

/// The queue.
pub(super) struct Uses {
    sender: SyncSender<Note>,
    receiver: Mutex<Receiver<Note>>,
}

impl Default for Uses {
    fn default() -> Self {
        let (sender, receiver) = sync_channel(PLACES);
        Self { sender, receiver: Mutex::new(receiver) }
    }
}

impl Uses {
    /// Notes a use, unless that was done less than `interval` seconds ago.
    pub fn note(&self, last: &LastNoted, interval: u32, note: impl FnOnce(Moment) -> Option<Note>) {
        let now = now();
        let Some(before) = last.begin(now, interval) else { return };
        let Some(note) = note(now) else { return };
        if !self.put(note) {
            last.0.store(before, Ordering::Relaxed);
        }
    }

    /// Notes anything. `false` if there was no place.
    pub fn put(&self, note: Note) -> bool {
        self.sender.try_send(note).is_ok()
    }

    /// Takes up to so many notes, in the order in which they came.
    pub fn take(&self, most: usize) -> Vec<Note> {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        receiver.try_iter().take(most).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, atomic::AtomicUsize};

    fn used(at: Moment) -> Option<Note> {
        let digest = "0123456789abcdef0123456789abcdef";
        let name = Name::parse(&format!("{}/01/{digest}/abcdef012345-{digest}.webp", crate::model::key::LAYOUT));
        name.map(|name| Note::Used { name, bytes: 1, at, preset: 0 })
    }

    #[test]
    fn one_use_in_an_interval_is_noted_however_many_there_are() {
        let (uses, last) = (Arc::new(Uses::default()), Arc::new(LastNoted::default()));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| uses.note(&last, 3600, used)));
            }
        });
        assert_eq!(uses.take(usize::MAX).len(), 1);
        uses.note(&last, 0, used);
        assert_eq!(uses.take(usize::MAX).len(), 1);
    }

    #[test]
    fn a_full_queue_loses_notes_and_their_next_use_is_noted_again() {
        let (uses, lost) = (Uses::default(), AtomicUsize::new(0));
        for _ in 0..PLACES + 10 {
            if !uses.put(used(1).unwrap()) {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        assert_eq!(lost.into_inner(), 10);
        let last = LastNoted::default();
        uses.note(&last, 3600, used);
        assert_eq!(uses.take(PLACES).len(), PLACES);
        uses.note(&last, 3600, used);
        assert_eq!(uses.take(10).len(), 1);
    }

    #[test]
    fn moments_are_seconds_since_2020() {
        assert_eq!(moment(BEGINNING + 5), 5);
        assert_eq!(moment(0), 0);
        assert_eq!(unix_seconds(moment(1_800_000_000)), 1_800_000_000);
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        assert!((unix_seconds(now()) - clock).abs() <= 1);
    }
}
