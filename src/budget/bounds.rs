//! What the config allows a store to hold, and how far it is from that.

use std::time::Duration;

use super::index::Totals;
use crate::{
    config::{Share, StoreConfig},
    store::Space,
};

/// Longest time between two notes of one rendition's uses, in seconds.
const LONGEST_INTERVAL: u32 = 60;
/// Longest time that a note waits to be written down.
const LONGEST_FLUSH: Duration = Duration::from_secs(5);

/// The bounds of a store.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Bounds {
    max_bytes: Option<u64>,
    max_files: Option<u64>,
    min_free: Share,
    min_free_inodes: Share,
    max_idle: Option<u32>,
    grace: Duration,
}

/// Why renditions go: the label of `sendimage_store_evictions_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    MaxBytes,
    MaxFiles,
    MinFree,
    MinFreeInodes,
    MaxIdle,
    /// A write has failed for want of room.
    NoSpace,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxBytes => "max_bytes",
            Self::MaxFiles => "max_files",
            Self::MinFree => "min_free",
            Self::MinFreeInodes => "min_free_inodes",
            Self::MaxIdle => "max_idle",
            Self::NoSpace => "no_space",
        }
    }
}

/// What has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Excess {
    pub reason: Reason,
    pub bytes: u64,
    pub files: u64,
}

impl From<&StoreConfig> for Bounds {
    fn from(config: &StoreConfig) -> Self {
        Self {
            max_bytes: config.max_bytes.map(|bytes| bytes.0),
            max_files: config.max_files,
            min_free: config.min_free,
            min_free_inodes: config.min_free_inodes,
            max_idle: (config.max_idle.0 > 0).then(|| u32::try_from(config.max_idle.0).unwrap_or(u32::MAX)),
            grace: Duration::from_secs_f64(config.eviction_grace_seconds),
        }
    }
}

impl Bounds {
    /// Whether anything is ever to go.
    pub fn are_any(&self) -> bool {
        let of_totals = self.max_bytes.is_some() || self.max_files.is_some() || self.max_idle.is_some();
        of_totals || !self.min_free.is_zero() || !self.min_free_inodes.is_zero()
    }

    /// The first bound that is overstepped, and what has to go for it. Each begins a little early and ends a little late, so that
    /// it is not stepped on with every write: at 95 % of what may be stored down to 90 %, and below what is to stay free up to an
    /// eighth more.
    pub fn excess(&self, totals: Totals, space: Option<Space>) -> Option<Excess> {
        let above = |held: u64, most: Option<u64>| {
            let most = most?;
            (held > most - most / 20).then(|| held - (most - most / 10))
        };
        let below = |free: u64, least: u64| (free < least).then(|| least + least / 8 - free);
        let (files, bytes) = (0, 0);
        let of_totals = [
            above(totals.bytes, self.max_bytes).map(|bytes| Excess { reason: Reason::MaxBytes, bytes, files }),
            above(totals.files, self.max_files).map(|files| Excess { reason: Reason::MaxFiles, bytes, files }),
        ];
        let of_space = space.map(|space| {
            let least = self.min_free.of(space.bytes);
            let least_inodes = self.min_free_inodes.of(space.inodes);
            // A file system that makes inodes as they are needed says that it has none at all.
            let inodes = below(space.free_inodes, least_inodes).filter(|_| space.inodes > 0);
            [
                below(space.free_bytes, least).map(|bytes| Excess { reason: Reason::MinFree, bytes, files }),
                inodes.map(|files| Excess { reason: Reason::MinFreeInodes, bytes, files }),
            ]
        });
        of_totals.into_iter().chain(of_space.into_iter().flatten()).flatten().next()
    }

    /// What goes when a write has failed for want of room: a 64th of the file system, within bounds.
    pub fn room(space: Option<Space>) -> Excess {
        let bytes = space.map_or(0, |space| space.bytes / 64).clamp(1 << 20, 64 << 20);
        Excess { reason: Reason::NoSpace, bytes, files: 16 }
    }

    /// After how many seconds without a use a rendition goes whatever the room.
    pub fn max_idle(&self) -> Option<u32> {
        // What the grace period protects stays.
        self.max_idle.map(|seconds| seconds.max(self.protected()))
    }

    /// Seconds between two notes of one rendition's uses: short beside the grace period, so that what is asked for all the time is
    /// known to be.
    pub fn interval(&self) -> u32 {
        ((self.grace.as_secs() / 4) as u32).min(LONGEST_INTERVAL)
    }

    /// How long notes wait to be written down together.
    pub fn flush(&self) -> Duration {
        (self.grace / 4).clamp(Duration::from_millis(250), LONGEST_FLUSH)
    }

    /// Seconds since the last use that is written down after which a rendition may go: the grace period, and what may have happened
    /// since without being written down.
    pub fn protected(&self) -> u32 {
        let late = Duration::from_secs(self.interval().into()) + self.flush();
        (self.grace + late).as_secs_f64().ceil() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Bytes, Span};

    const SPACE: Space = Space { bytes: 1000, free_bytes: 500, inodes: 100, free_inodes: 50 };

    fn excess(edit: impl FnOnce(&mut StoreConfig), totals: (u64, u64), space: Space) -> Option<(Reason, u64, u64)> {
        let mut config = StoreConfig::default();
        edit(&mut config);
        let totals = Totals { files: totals.0, bytes: totals.1 };
        let excess = Bounds::from(&config).excess(totals, Some(space));
        excess.map(|Excess { reason, bytes, files }| (reason, bytes, files))
    }

    #[test]
    fn each_bound_begins_at_its_high_mark_and_ends_at_its_low_one() {
        let of_bytes = |held| excess(|config| config.max_bytes = Some(Bytes(1000)), (1, held), SPACE);
        assert_eq!([of_bytes(950), of_bytes(951)], [None, Some((Reason::MaxBytes, 51, 0))]);
        let of_files = |held| excess(|config| config.max_files = Some(100), (held, 1), SPACE);
        assert_eq!([of_files(95), of_files(96)], [None, Some((Reason::MaxFiles, 0, 6))]);
        let of_free =
            |free_bytes| excess(|config| config.min_free = Share::Percent(20.0), (1, 1), Space { free_bytes, ..SPACE });
        assert_eq!([of_free(200), of_free(199)], [None, Some((Reason::MinFree, 26, 0))]);
        let of_inodes = |inodes, free_inodes| {
            let space = Space { inodes, free_inodes, ..SPACE };
            excess(|config| config.min_free_inodes = Share::Amount(16), (1, 1), space)
        };
        assert_eq!(of_inodes(100, 16), None);
        assert_eq!(of_inodes(100, 15), Some((Reason::MinFreeInodes, 0, 3)));
        assert_eq!(of_inodes(0, 0), None, "a file system without a number of inodes");
    }

    #[test]
    fn without_bounds_nothing_goes() {
        assert_eq!(excess(|_| {}, (u64::MAX / 2, u64::MAX / 2), Space { free_bytes: 0, ..SPACE }), None);
        assert!(!Bounds::from(&StoreConfig::default()).are_any());
        let idle = StoreConfig { max_idle: Span(60), ..StoreConfig::default() };
        assert!(Bounds::from(&idle).are_any());
        assert!(Bounds::from(&idle).max_idle() > Some(300), "the grace period comes first");
    }

    #[test]
    fn what_is_asked_for_all_the_time_is_written_down_within_the_grace_period() {
        for grace in [2.0, 5.0, 60.0, 300.0, 86_400.0] {
            let bounds = Bounds::from(&StoreConfig { eviction_grace_seconds: grace, ..StoreConfig::default() });
            let late = f64::from(bounds.interval()) + bounds.flush().as_secs_f64();
            assert!(late <= grace / 2.0, "{grace}: {late}");
            assert!(f64::from(bounds.protected()) >= grace + late, "{grace}");
        }
    }
}
