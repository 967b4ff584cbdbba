//! Index and keeper on a real folder.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Budget, Index, Totals,
    bounds::{Excess, Reason},
    index::{Place, discard},
    keeper::evict,
    name::Name,
    uses::{Moment, Note, now},
};
use crate::{
    config::Config,
    metrics::Metrics,
    model::key::LAYOUT,
    store::{FsStore, Store},
};

fn name(folder: u64, number: u64) -> Name {
    let directory = format!("{LAYOUT}/{:02x}/{:02x}{folder:030x}", folder % 256, folder % 256);
    Name::parse(&format!(
        "{directory}/00000000000a-{:016x}{number:016x}.webp",
        number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    ))
    .unwrap()
}

fn used(name: Name, at: Moment, preset: u16) -> Note {
    Note::Used { name, bytes: 100, at, preset }
}

fn place(folder: &Path) -> Place {
    let presets = vec![("width-1".to_owned(), true), ("width-2".to_owned(), false)];
    Place { file: folder.join("index"), root: folder.join("r"), presets }
}

async fn open(place: &Place) -> Index {
    Index::open(place).await.unwrap().0
}

async fn idle(index: &mut Index, before: Moment) -> Vec<Name> {
    index.idle(before, 100).await.unwrap().into_iter().map(|entry| entry.name).collect()
}

/// Names compared without being shown.
fn are(found: &[Name], expected: &[Name]) -> bool {
    found == expected
}

#[tokio::test]
async fn uses_are_kept_in_their_order_and_sums_as_they_change() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path());
    let mut index = open(&place).await;
    let names = [name(1, 1), name(1, 2), name(2, 3), name(3, 4)];
    let notes: Vec<Note> = names.iter().zip([40, 10, 30, 20]).map(|(name, at)| used(*name, at, 0)).collect();
    index.write(&notes).await.unwrap();
    assert!(are(&idle(&mut index, 100).await, &[names[1], names[3], names[2], names[0]]));
    assert!(are(&idle(&mut index, 20).await, &[names[1]]));
    assert_eq!(index.totals().await, Ok(Totals { files: 4, bytes: 400 }));
    // Asked for again, by another gate a moment earlier too, and with another length.
    let again = Note::Used { name: names[1], bytes: 150, at: 50, preset: 0 };
    index.write(&[again, used(names[1], 45, 0)]).await.unwrap();
    assert!(are(&idle(&mut index, 100).await, &[names[3], names[2], names[0], names[1]]));
    assert_eq!(index.totals().await, Ok(Totals { files: 4, bytes: 400 }));
    // A restart, and then an image that is purged and rendered again.
    index.close().await;
    let mut index = open(&place).await;
    index.write(&[used(names[0], 60, 0), Note::Emptied(names[0].folder()), used(names[0], 70, 0)]).await.unwrap();
    assert!(are(&idle(&mut index, 100).await, &[names[3], names[2], names[0]]));
    index.write(&[Note::Removed(names[3])]).await.unwrap();
    assert_eq!(index.totals().await, Ok(Totals { files: 2, bytes: 200 }));
}

#[tokio::test]
async fn what_a_pinned_preset_asks_for_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = place(folder.path());
    let mut index = open(&place).await;
    let names = [name(1, 1), name(1, 2), name(1, 3)];
    index.write(&[used(names[0], 1, 1), used(names[1], 2, 2), used(names[2], 3, 0)]).await.unwrap();
    assert!(are(&idle(&mut index, 100).await, &names[1..]));
    // Whoever else asks for it.
    index.write(&[used(names[0], 1, 2), used(names[0], 1, 0)]).await.unwrap();
    assert!(are(&idle(&mut index, 100).await, &names[1..]));
    index.close().await;
    // Another set is pinned now, and what it asked for is known already.
    place.presets = vec![("width-2".to_owned(), true)];
    let mut index = open(&place).await;
    assert!(are(&idle(&mut index, 100).await, &[names[0], names[2]]));
}

#[tokio::test]
async fn whatever_is_no_index_of_this_store_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path());
    let fill = async || {
        discard(&place.file).unwrap();
        let mut index = open(&place).await;
        let notes: Vec<Note> = (0..2000).map(|number| used(name(number % 50, number), number as Moment, 0)).collect();
        index.write(&notes).await.unwrap();
        assert_eq!(index.totals().await.unwrap().files, 2000);
        index.close().await;
    };
    let damages: [(&str, &dyn Fn()); 4] = [
        ("gone", &|| discard(&place.file).unwrap()),
        ("no database", &|| fs::write(&place.file, "this is no database, whatever its name says".repeat(50)).unwrap()),
        ("cut short", &|| fs::File::options().write(true).open(&place.file).unwrap().set_len(9000).unwrap()),
        ("empty", &|| fs::write(&place.file, "").unwrap()),
    ];
    for (what, damage) in damages {
        fill().await;
        damage();
        // Damage may show only when it is come upon.
        let index = async || {
            let mut index = Index::open(&place).await?.0;
            index.write(&[used(name(1, 1), 1, 0)]).await?;
            index.idle(Moment::MAX, 5000).await.map(|idle| idle.len())
        };
        if index().await.is_err() {
            discard(&place.file).unwrap();
        }
        assert_eq!(index().await, Ok(1), "{what}");
    }
    fill().await;
    let other = Place { root: "/elsewhere".into(), ..place.clone() };
    assert_eq!(open(&other).await.totals().await, Ok(Totals::default()));
    let index = open(&place).await;
    assert!(index.is_there());
    discard(&place.file).unwrap();
    assert!(!index.is_there());
}

#[tokio::test]
async fn several_gates_write_one_index() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path());
    let gates = (0..4).map(|gate| {
        let place = place.clone();
        tokio::spawn(async move {
            let mut index = open(&place).await;
            for round in 0..20 {
                let notes: Vec<Note> = (0..50).map(|number| used(name(gate, number), round, 0)).collect();
                index.write(&notes).await.unwrap();
            }
        })
    });
    for gate in gates.collect::<Vec<_>>() {
        gate.await.unwrap();
    }
    let mut index = open(&place).await;
    assert_eq!(index.totals().await, Ok(Totals { files: 200, bytes: 20_000 }));
    // One of them walks at a time, until it gives its turn back or is silent for too long.
    assert_eq!(index.take_turn(0, 10, 70).await, Ok(true));
    assert_eq!(open(&place).await.take_turn(0, 20, 80).await, Ok(false));
    assert_eq!(index.take_turn(70, 30, 90).await, Ok(true));
    assert_eq!(open(&place).await.take_turn(0, 91, 151).await, Ok(true));
    assert_eq!(index.take_turn(90, 100, 160).await, Ok(false));
    index.end_turn(Some(7)).await.unwrap();
    assert_eq!((index.walked_at().await, index.take_turn(0, 100, 160).await), (Ok(7), Ok(true)));
}

/// A store with files in it, and its budget.
fn store(folder: &Path, edit: impl FnOnce(&mut Config)) -> (Config, Arc<Budget>) {
    let mut config = Config::default();
    config.store.root = folder.join("r");
    config.store.index = Some(folder.join("index"));
    edit(&mut config);
    let store: Arc<dyn Store> = Arc::new(FsStore::new(&config.store));
    let budget = Budget::new(&config, store, Arc::new(Metrics::new()));
    (config, budget)
}

fn put(folder: &Path, name: Name) -> PathBuf {
    let path = folder.join("r").join(name.path());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path.with_file_name(".source.json"), "{}").unwrap();
    fs::write(&path, [1; 100]).unwrap();
    path
}

#[tokio::test]
async fn the_longest_unused_go_and_their_folders_when_they_were_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let (_, budget) = store(folder.path(), |_| {});
    let mut index = open(budget.place.as_ref().unwrap()).await;
    let names = [name(1, 1), name(1, 2), name(2, 3), name(3, 4), name(4, 5)];
    let files = names.map(|name| put(folder.path(), name));
    let notes: Vec<Note> = names.iter().zip([1, 5, 2, 3, 4]).map(|(name, at)| used(*name, at, 0)).collect();
    index.write(&notes).await.unwrap();
    // Somebody else was quicker with one of them.
    fs::remove_file(&files[2]).unwrap();
    let excess = |files, bytes| Excess { reason: Reason::MaxFiles, bytes, files };
    assert_eq!(evict(&budget, &mut index, excess(2, 0), now() + 60).await, Ok(2));
    assert_eq!(files.clone().map(|file| file.exists()), [false, true, false, false, true]);
    assert!(files[1].parent().unwrap().exists() && !files[3].parent().unwrap().exists());
    assert_eq!(index.totals().await.unwrap().files, 2);
    assert!(budget.steps() > 0);
    // As many as are needed for the bytes, and no more.
    assert_eq!(evict(&budget, &mut index, excess(0, 1), now() + 60).await, Ok(1));
    assert_eq!(files.map(|file| file.exists()), [false, true, false, false, false]);
    let text = budget.metrics.expose();
    assert!(text.contains("sendimage_store_evictions_total{reason=\"max_files\"} 3"), "{text}");
    assert!(text.contains("sendimage_store_evicted_bytes_total{reason=\"max_files\"} 300"), "{text}");
}

#[tokio::test]
async fn what_was_made_a_moment_ago_stays_whatever_the_index_says() {
    let folder = tempfile::tempdir().unwrap();
    let (_, budget) = store(folder.path(), |_| {});
    let mut index = open(budget.place.as_ref().unwrap()).await;
    let file = put(folder.path(), name(1, 1));
    index.write(&[used(name(1, 1), 1, 0)]).await.unwrap();
    let excess = Excess { reason: Reason::NoSpace, bytes: 1 << 20, files: 16 };
    assert_eq!(evict(&budget, &mut index, excess, now() - 60).await, Ok(0));
    assert!(file.exists());
    assert_eq!(idle(&mut index, now() - 60).await.len(), 0, "it has its turn later");
}

/// Waits until something is so.
async fn until(is_so: impl AsyncFn() -> bool) {
    for _ in 0..500 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it is never so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_index_is_filled_from_the_disk_and_notes_are_written_down_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (config, budget) = store(folder.path(), |_| {});
    (0..1500).for_each(|number| drop(put(folder.path(), name(number % 40, number))));
    budget.start(&config);
    let metrics = budget.metrics.clone();
    until(async || metrics.store_index_complete.get() == 1 && metrics.store_files.get() == 1500).await;
    assert_eq!(metrics.store_bytes.get(), 150_000);
    budget.uses.put(used(name(5, 7777), now(), 0));
    budget.uses.put(Note::Emptied(name(6, 1).folder()));
    budget.stop().await;
    let mut index = open(budget.place.as_ref().unwrap()).await;
    let of_six = (0..1500).filter(|number| number % 40 == 6).count() as u64;
    assert_eq!(index.totals().await.unwrap().files, 1501 - of_six);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_is_made_for_whoever_has_none_if_there_are_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let (config, without) = store(folder.path(), |_| {});
    without.start(&config);
    assert!(!without.make_room(deadline).await);
    without.stop().await;
    let (config, budget) = store(folder.path(), |config| {
        config.store.max_files = Some(1_000_000);
        config.store.eviction_grace_seconds = 1.5;
    });
    let files: Vec<PathBuf> = (0..40).map(|number| put(folder.path(), name(number, number))).collect();
    let notes: Vec<Note> = (0..40).map(|number| used(name(number, number), 1, 0)).collect();
    open(budget.place.as_ref().unwrap()).await.write(&notes).await.unwrap();
    budget.start(&config);
    assert!(!budget.make_room(deadline).await, "all were made a moment ago");
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert!(budget.make_room(deadline).await);
    assert!(files.iter().filter(|file| !file.exists()).count() >= 16);
    budget.stop().await;
}
