//! What of `[store]` bounds it, and what has to fit together for that.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{Config, Existence, OffloadMode, StoreConfig, StoreKind};
use crate::spec::FilterSpec;

/// The index's name in the store's root: it begins with a dot, as nothing does that a web server is ever sent to.
const INDEX: &str = ".sendimage-index.sqlite3";
/// Its name in a folder of the service's own.
const INDEX_IN_STATE: &str = "store-index.sqlite3";
/// For how long nginx, in the config that we print, serves a file that it has open without looking for it.
pub const OPEN_FILE_SECONDS: u64 = 1;
/// For how long it holds one open that nobody asks for: the file's room on the disk is not free before that.
pub const IDLE_FILE_SECONDS: u64 = 60;

impl StoreConfig {
    /// Whether anything bounds what is kept.
    pub fn is_bounded(&self) -> bool {
        let of_totals = self.max_bytes.is_some() || self.max_files.is_some() || self.max_idle.0 > 0;
        of_totals || !self.min_free.is_zero() || !self.min_free_inodes.is_zero()
    }
}

impl Config {
    /// The file of the store's index; `None` where the store keeps none: a bucket, and a folder that has no bounds and whose config
    /// names no index. `state` is systemd's `STATE_DIRECTORY`: folders, by colons.
    pub fn index_file(&self, state: Option<&Path>) -> Option<PathBuf> {
        let store = &self.store;
        if store.kind != StoreKind::Fs || !(store.is_bounded() || store.index.is_some()) {
            return None;
        }
        let first = |folders: &Path| folders.to_string_lossy().split(':').next().map(PathBuf::from);
        let in_state = state.and_then(first).filter(|folder| folder.is_absolute());
        let usual = || in_state.map_or_else(|| self.store.root.join(INDEX), |folder| folder.join(INDEX_IN_STATE));
        Some(self.store.index.clone().unwrap_or_else(usual))
    }

    /// The filter specs that presets stand for, in one spelling, and whether they are pinned.
    pub fn preset_specs(&self) -> BTreeMap<String, bool> {
        let canonical = |entry: &String| {
            let text = self.presets.get(entry).unwrap_or(entry);
            FilterSpec::parse(text).ok().map(|spec| spec.canonical())
        };
        let pinned = self.store.pinned.iter().filter_map(|set| self.preset_sets.get(set)).flatten();
        let pinned: BTreeSet<String> = pinned.filter_map(canonical).collect();
        let all = self.presets.keys().chain(self.preset_sets.values().flatten());
        all.filter_map(canonical).map(|spec| (spec.clone(), pinned.contains(&spec))).collect()
    }

    /// How sure sendimage makes that a rendition exists, by filter spec in one spelling, where that is not the usual way.
    pub fn existence_by_spec(&self) -> BTreeMap<String, Existence> {
        let by_preset = self.store.existence_by_preset.iter();
        let by_spec = by_preset.filter_map(|(name, existence)| {
            let spec = FilterSpec::parse(self.presets.get(name)?).ok()?;
            Some((spec.canonical(), *existence))
        });
        by_spec.collect()
    }

    /// For how long nginx, set up as `proxy-conf` says, may go on sending a file that was removed: it holds what it has opened.
    pub fn held_open_seconds(&self) -> u64 {
        let of = |mode| match mode {
            OffloadMode::Accel if self.store.kind == StoreKind::Fs => OPEN_FILE_SECONDS,
            OffloadMode::AuthRequest => self.offload.verdict_cache_seconds.max(OPEN_FILE_SECONDS),
            OffloadMode::Accel | OffloadMode::Sendfile | OffloadMode::Redirect | OffloadMode::Direct => 0,
        };
        self.effective_routes().values().map(|route| of(route.offload)).max().unwrap_or(0)
    }

    pub(super) fn check_budget(&self, problem: &mut impl FnMut(&str, String)) {
        let store = &self.store;
        if store.kind == StoreKind::S3 {
            for (key, is_set) in [
                ("store.max_bytes", store.max_bytes.is_some()),
                ("store.max_files", store.max_files.is_some()),
                ("store.min_free", !store.min_free.is_zero()),
                ("store.min_free_inodes", !store.min_free_inodes.is_zero()),
                ("store.max_idle", store.max_idle.0 > 0),
                ("store.pinned", !store.pinned.is_empty()),
                ("store.index", store.index.is_some()),
            ] {
                if is_set {
                    let says = "is for a folder (kind = \"fs\"): how much a bucket holds, and for how long, is for its own lifecycle \
                                rules to say";
                    problem(key, says.into());
                }
            }
        }
        if store.max_bytes.is_some_and(|bytes| bytes.0 == 0) {
            problem("store.max_bytes", "must be more than 0; without the key there is no bound".into());
        }
        if store.max_files == Some(0) {
            problem("store.max_files", "must be more than 0; without the key there is no bound".into());
        }
        for set in store.pinned.iter().filter(|set| !self.preset_sets.contains_key(*set)) {
            problem("store.pinned", format!("there is no set {set:?} under [preset_sets]"));
        }
        let open = self.held_open_seconds().max(OPEN_FILE_SECONDS);
        if store.eviction_grace_seconds <= open as f64 {
            let says = format!("must be longer than nginx serves what it has open, which is {open} s");
            problem("store.eviction_grace_seconds", says);
        }
        if store.max_idle.0 > 0 && (store.max_idle.0 as f64) < store.eviction_grace_seconds {
            problem("store.max_idle", "is shorter than store.eviction_grace_seconds, which comes first".into());
        }
        self.check_existence(problem);
    }

    fn check_existence(&self, problem: &mut impl FnMut(&str, String)) {
        let mut by_spec = BTreeMap::new();
        for (name, existence) in &self.store.existence_by_preset {
            let key = format!("store.existence_by_preset.{name}");
            let Some(spec) = self.presets.get(name) else {
                problem(&key, "there is no such preset".into());
                continue;
            };
            let Ok(spec) = FilterSpec::parse(spec) else { continue };
            let before = by_spec.insert(spec.canonical(), existence);
            if before.is_some_and(|before| before != existence) {
                problem(&key, "another preset is the same filter spec, and has another existence".into());
            }
        }
    }
}
