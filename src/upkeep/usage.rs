//! What is stored, and whose it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::{gc::Tally, tasks};
use crate::{
    app::App,
    model::Generation,
    spec::FilterSpec,
    store::{Depth, ImageFolder, Walked},
};

/// The name of what belongs to no preset.
const OTHER: &str = "(other)";
/// The name of the source of what nothing says whose it is.
const UNKNOWN: &str = "(unknown)";

/// What is stored.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Usage {
    /// Source images that something is stored of.
    pub images: u64,
    /// Their renditions.
    pub stored: Tally,
    /// Those of originals that were replaced since: of another version than the last that was asked for.
    pub outdated: Tally,
    /// By source.
    pub by_source: BTreeMap<String, Tally>,
    /// By format.
    pub by_format: BTreeMap<&'static str, Tally>,
    /// By preset, if that was asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_preset: BTreeMap<String, Tally>,
    /// The source images with the most bytes, the largest first.
    pub largest: Vec<OfImage>,
    /// Files being written, and leases.
    pub unfinished: Tally,
    /// Files that sendimage never made.
    pub foreign: u64,
    /// Parts of the store that could not be read, and the first one's problem: what is above is not all.
    pub unreadable: Option<(u64, String)>,
}

/// What is stored of one source image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OfImage {
    /// `source/path`, or its folder.
    pub image: String,
    /// Its renditions.
    #[serde(flatten)]
    pub stored: Tally,
}

/// Counts what is stored: by preset too, which takes the plan of each preset for each image; and the `top` largest images.
///
/// A rendition is a preset's if that preset makes it of the version last asked for, with a focal point that was in use: two
/// presets with one plan share a file, which counts for the first by name. Everything else is of other specs, of presets before
/// they were changed, or of originals before they were replaced.
pub async fn usage(app: &App, by_preset: bool, top: usize) -> Usage {
    let presets = if by_preset { presets(app) } else { Vec::new() };
    let mut usage = Usage::default();
    // The smallest first, to be dropped first.
    let mut largest: BTreeSet<(u64, String, u64)> = BTreeSet::new();
    let mut walk = app.store.walk(Depth::Records);
    while let Some(found) = walk.next().await {
        let folder = match found {
            Ok(Walked::Image(folder)) => folder,
            Ok(Walked::Unfinished(file)) => {
                usage.unfinished.add(1, file.bytes);
                continue;
            }
            Ok(Walked::Foreign(_)) => {
                usage.foreign += 1;
                continue;
            }
            Err(error) => {
                usage.unreadable.get_or_insert((0, error.to_string())).0 += 1;
                continue;
            }
        };
        let of_image = usage.count(app, &folder, &presets);
        let location = folder.record.as_ref().and_then(|record| record.location.as_ref());
        let image = location.map_or_else(|| folder.key.directory(), ToString::to_string);
        largest.insert((of_image.bytes, image, of_image.files));
        if largest.len() > top {
            largest.pop_first();
        }
    }
    let of_image = |(bytes, image, files)| OfImage { image, stored: Tally { files, bytes } };
    usage.largest = largest.into_iter().rev().filter(|(bytes, ..)| *bytes > 0).map(of_image).collect();
    usage
}

/// The specs of each preset, one for each kind of client. What is no spec was said when the config was read.
pub(super) fn presets(app: &App) -> Vec<(String, Vec<FilterSpec>)> {
    let specs = |text: &str| {
        let spec = FilterSpec::parse(text).ok();
        spec.map_or_else(Vec::new, tasks)
    };
    app.config().presets.iter().map(|(name, text)| (name.clone(), specs(text))).collect()
}

impl Usage {
    fn count(&mut self, app: &App, folder: &ImageFolder, presets: &[(String, Vec<FilterSpec>)]) -> Tally {
        let record = folder.record.as_ref();
        let generation = record.map(|record| Generation::from(&record.version));
        let source = record.and_then(|record| record.location.as_ref()).map_or(UNKNOWN, |at| at.source.as_str());
        let mut owners: HashMap<String, &str> = HashMap::new();
        if let Some(record) = record.filter(|_| !folder.renditions.is_empty()) {
            for (name, specs) in presets {
                for path in specs.iter().flat_map(|spec| app.renditions.paths_of(record, spec)) {
                    owners.entry(path).or_insert(name);
                }
            }
        }
        let mut of_image = Tally::default();
        self.images += 1;
        for rendition in &folder.renditions {
            let bytes = rendition.bytes;
            of_image.add(1, bytes);
            self.stored.add(1, bytes);
            self.by_format.entry(rendition.format.name()).or_default().add(1, bytes);
            if generation.is_some_and(|generation| generation != rendition.generation) {
                self.outdated.add(1, bytes);
            }
            if !presets.is_empty() {
                let owner = owners.get(&rendition.path).copied().unwrap_or(OTHER);
                self.by_preset.entry(owner.to_owned()).or_default().add(1, bytes);
            }
        }
        self.by_source.entry(source.to_owned()).or_default().add(of_image.files, of_image.bytes);
        of_image
    }
}
