//! The power cut under load: loop-mounted file systems shut down without a flush, mounted again, served again.

use std::{
    io::Write as _,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    harness::{Site, wait_for},
    mounts::Disk,
    renders::{self, CONFIG, Reference, handed_over, leftovers, try_ask},
    report::Row,
    tools::{random, scale},
};

/// What becomes of a file that is renamed before its bytes are on the disk: shows that a cut is one.
fn unsynced(disk: &mut Disk, at: &Path) -> bool {
    let (temporary, name) = (at.join("temporary"), at.join("name"));
    std::fs::write(&temporary, [7; 4000]).unwrap();
    std::fs::rename(&temporary, &name).unwrap();
    // Another file's fsync writes the journal, and with it the rename.
    let mut other = std::fs::File::create(at.join("other")).unwrap();
    other.write_all(b"x").unwrap();
    other.sync_all().unwrap();
    drop(other);
    disk.cut_power();
    disk.restore_power();
    let lost = std::fs::read(&name).is_ok_and(|bytes| bytes != [7; 4000]);
    for path in [name, at.join("other"), temporary] {
        let _ = std::fs::remove_file(path);
    }
    lost
}

fn cuts(kind: &'static str, row: Row, cycles: usize) {
    let mut random = random(kind);
    let mut site = Site::new(CONFIG);
    let store = site.path("renditions");
    let mut disk = match Disk::new(kind, &site.path("disk"), &store) {
        Ok(disk) => disk,
        Err(reason) => return row.skipped(&reason),
    };
    assert!(unsynced(&mut disk, &store), "a file that was never synced came through: this cut is none");
    renders::furnish(&site);
    let mut urls = renders::urls((0..scale(5, 24)).map(|index| 45 + 7 * index));
    let reference = Reference::of(&urls);
    let (mut next, mut checked, mut served, mut litter, mut answered, mut refused) = (usize::MAX, 0, 0, 0, 0, 0);
    for _ in 0..cycles {
        if next >= urls.len() {
            let _ = std::fs::remove_dir_all(store.join("r1"));
            random.shuffle(&mut urls);
            next = 0;
        }
        site.start();
        wait_for(Duration::from_secs(5), || leftovers(&store).is_empty()).expect("the sweep leaves nothing");
        // What was asked for before the cut is there again, one way or the other.
        for _ in 0..4 {
            let answer = try_ask(&site, &urls[random.usize(0..next.clamp(1, urls.len()))]).unwrap();
            assert_eq!(answer.status, 200, "{}", site.log());
            let path = handed_over(&answer);
            assert!(std::fs::read(store.join(&path)).unwrap() == reference.bytes(&path), "{path}");
            served += 1;
        }
        let cursor = AtomicUsize::new(next);
        let stop = std::sync::atomic::AtomicBool::new(false);
        let moment = Duration::from_micros(random.u64(0..250_000));
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let load = || {
                let mut statuses = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let Some(url) = urls.get(cursor.fetch_add(1, Ordering::Relaxed)) else { break };
                    statuses.push(try_ask(&site, url).map_or(0, |answer| answer.status));
                }
                statuses
            };
            let clients = [scope.spawn(load), scope.spawn(load), scope.spawn(load)];
            std::thread::sleep(moment);
            disk.cut_power();
            // The service itself goes on, on a disk that answers EIO.
            std::thread::sleep(Duration::from_millis(20));
            stop.store(true, Ordering::Relaxed);
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}\n{}", site.log());
        answered += statuses.iter().filter(|status| **status == 200).count();
        refused += statuses.iter().filter(|status| **status == 503).count();
        next = cursor.into_inner();
        let workers = site.workers();
        site.signal(Signal::KILL);
        site.wait();
        let gone = || !workers.iter().any(|pid| crate::crash::is_alive(*pid as u32));
        wait_for(Duration::from_secs(5), gone).expect("workers die with the service");
        disk.restore_power();
        checked += reference.check(&store);
        litter += leftovers(&store).len();
    }
    row.passed(&format!(
        "{cycles} cuts among {answered} renders ({refused} more answered 503 by the dead disk): {checked} files compared after \
         the mount, 0 empty, NUL-filled or partial; {litter} temporary files left, 0 after the sweep; {served} served again"
    ));
}

#[test]
fn cut_on_ext4() {
    cuts("ext4", Row::begin("power cut on ext4", "F03"), scale(4, 120));
}

#[test]
fn cut_on_xfs() {
    cuts("xfs", Row::begin("power cut on xfs", "F03"), scale(3, 60));
}
