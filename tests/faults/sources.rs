//! Originals that change, shrink, vanish or are swapped for something else while they are read; and folders of the store that
//! become links.

use std::{
    collections::BTreeMap,
    io::{Seek as _, Write as _},
    os::unix::fs::{FileExt as _, symlink},
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::{
    harness::Site,
    renders::{self, CONFIG, handed_over, leftovers, stored, try_ask},
    report::Row,
    tools::{random, scale},
};

/// An uncompressed picture of one color, 600 x 400: any mix of two of them is readable, and looks like one.
fn plain(color: u8) -> Vec<u8> {
    let (width, height) = (600_u32, 400_u32);
    let length = width * height * 3;
    let mut bytes = b"BM".to_vec();
    for number in [54 + length, 0, 54, 40, width, height] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend([1, 0, 24, 0]);
    for number in [0, length, 0, 0, 0, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.resize((54 + length) as usize, color);
    bytes
}

/// What is rendered of [`plain`] ones in a width, by their color, where nobody changes anything.
fn of_colors(widths: &[usize], colors: &[u8]) -> BTreeMap<Vec<u8>, u8> {
    let site = Site::new("");
    for color in colors {
        std::fs::write(site.path(&format!("media/{color}.bmp")), plain(*color)).unwrap();
    }
    let site = site.serve();
    let mut known = BTreeMap::new();
    for (color, width) in colors.iter().flat_map(|color| widths.iter().map(move |width| (*color, *width))) {
        let answer = try_ask(&site, &renders::url(&format!("media/{color}.bmp"), &spec(width))).unwrap();
        assert_eq!(answer.status, 200);
        known.insert(std::fs::read(site.path("renditions").join(handed_over(&answer))).unwrap(), color);
    }
    known
}

fn spec(width: usize) -> String {
    format!("width-{width}|format-png")
}

/// Asks for one rendition after the other while `disturb` is called again and again, with the number of the next: how the
/// answers were.
fn disturbed(site: &Site, urls: &[String], mut disturb: impl FnMut(usize) + Send) -> BTreeMap<u16, usize> {
    let (done, next) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                disturb(next.load(Ordering::Relaxed));
            }
        });
        let ask = || {
            let mut answers = BTreeMap::new();
            while let Some(url) = urls.get(next.fetch_add(1, Ordering::Relaxed)) {
                *answers.entry(try_ask(site, url).unwrap().status).or_insert(0) += 1;
            }
            answers
        };
        let (one, other) = (scope.spawn(ask), scope.spawn(ask));
        let mut answers = one.join().unwrap();
        for (status, count) in other.join().unwrap() {
            *answers.entry(status).or_insert(0) += count;
        }
        done.store(true, Ordering::Relaxed);
        answers
    })
}

/// How many of the stored renditions are of each color; none may be of two.
fn colors(store: &Path, known: &BTreeMap<Vec<u8>, u8>) -> BTreeMap<u8, usize> {
    let mut counts = BTreeMap::new();
    for path in stored(store) {
        let bytes = std::fs::read(store.join(&path)).unwrap();
        let color = known.get(&bytes).unwrap_or_else(|| panic!("{path} is neither the old picture nor the new one"));
        *counts.entry(*color).or_insert(0) += 1;
    }
    counts
}

/// F12: written in place, whole, by a program that gives the file its old date again; and replaced by a rename.
#[test]
fn replaced_and_written_in_place() {
    let row = Row::begin("originals replaced and written in place", "F12");
    let asks = scale(150, 1_500);
    // Few widths and many sources: what is known beforehand stays little.
    let widths = [50, 60, 70];
    let known = of_colors(&widths, &[40, 200]);
    let (dark, light) = (plain(40), plain(200));
    let mut counted = Vec::new();
    for way in ["written in place", "in place, with the date kept", "replaced by a rename"] {
        let site = Site::new("").serve();
        let sources = asks / widths.len();
        for source in 0..sources {
            std::fs::write(site.path(&format!("media/{source}.bmp")), &dark).unwrap();
        }
        let urls: Vec<String> = (0..sources)
            .flat_map(|source| widths.map(|width| renders::url(&format!("media/{source}.bmp"), &spec(width))))
            .collect();
        let (mut random, mut round) = (random(way), 0_u32);
        let answers = disturbed(&site, &urls, |next| {
            // One that is asked for just now, or soon.
            let source = (next.saturating_sub(2) / widths.len() + random.usize(0..2)).min(sources - 1);
            let path = site.path(&format!("media/{source}.bmp"));
            round += 1;
            let new = if round % 2 == 0 { &dark } else { &light };
            std::thread::sleep(Duration::from_micros(random.u64(0..10_000)));
            match way {
                "replaced by a rename" => {
                    std::fs::write(site.path("media/new"), new).unwrap();
                    std::fs::rename(site.path("media/new"), path).unwrap();
                }
                _ => {
                    let file = std::fs::File::options().write(true).open(path).unwrap();
                    let date = file.metadata().unwrap().modified().unwrap();
                    file.write_all_at(new, 0).unwrap();
                    if way.ends_with("kept") {
                        file.set_modified(date).unwrap();
                    }
                }
            }
        });
        assert!(answers.keys().all(|status| matches!(status, 200 | 503)), "{way}: {answers:?}\n{}", site.log());
        let store = site.path("renditions");
        let colors = colors(&store, &known);
        assert!(leftovers(&store).is_empty());
        counted.push(format!("{way}: {answers:?}, stored by color {colors:?}"));
        // At rest, everybody gets the picture that is there.
        for source in 0..sources.min(40) {
            let path = site.path(&format!("media/{source}.bmp"));
            std::fs::write(&path, if source % 2 == 0 { &dark } else { &light }).unwrap();
            let answer = try_ask(&site, &renders::url(&format!("media/{source}.bmp"), &spec(50))).unwrap();
            assert_eq!(answer.status, 200);
            let bytes = std::fs::read(store.join(handed_over(&answer))).unwrap();
            assert_eq!(known.get(&bytes), Some(if source % 2 == 0 { &40 } else { &200 }), "{way}");
        }
    }
    row.passed(&format!("{}; no mix of two pictures stored, and at rest the present one served", counted.join("; ")));
}

/// F11: cut short and completed again, over and over.
#[test]
fn truncated_while_read() {
    let row = Row::begin("originals truncated while they are read", "F11");
    let site = Site::new(CONFIG);
    renders::furnish(&site);
    let pictures = scale(150, 3_000);
    let whole = std::fs::read(site.path("media/photo.jpg")).unwrap();
    let formats = ["width-60|format-jpeg", "width-60|format-webp"];
    let site = site.serve();
    let store = site.path("renditions");
    let expected = formats.map(|spec| {
        let answer = try_ask(&site, &renders::url("media/photo.jpg", spec)).unwrap();
        std::fs::read(store.join(handed_over(&answer))).unwrap()
    });
    for number in 0..pictures / 2 {
        std::fs::write(site.path(&format!("media/{number}.jpg")), &whole).unwrap();
    }
    let urls: Vec<String> = (0..pictures / 2)
        .flat_map(|number| formats.map(|spec| renders::url(&format!("media/{number}.jpg"), spec)))
        .collect();
    let mut random = random("truncated");
    let answers = disturbed(&site, &urls, |next| {
        std::thread::sleep(Duration::from_micros(random.u64(0..5_000)));
        let number = (next.saturating_sub(2) / formats.len() + random.usize(0..2)).min(pictures / 2 - 1);
        let mut file = std::fs::File::options().write(true).open(site.path(&format!("media/{number}.jpg"))).unwrap();
        let length = random.usize(0..whole.len());
        file.set_len(length as u64).unwrap();
        if random.bool() {
            std::thread::sleep(Duration::from_micros(random.u64(0..3_000)));
        }
        file.rewind().unwrap();
        file.write_all(&whole).unwrap();
    });
    // A file that is cut short and at rest is not an image, or a damaged one.
    assert!(answers.keys().all(|status| matches!(status, 200 | 422 | 503)), "{answers:?}\n{}", site.log());
    assert!(!site.log().contains("worker"), "no worker dies of it\n{}", site.log());
    for path in stored(&store) {
        let bytes = std::fs::read(store.join(&path)).unwrap();
        assert!(expected.contains(&bytes), "{path} is made of half a picture");
    }
    assert!(leftovers(&store).is_empty());
    // At rest, and within the time that a failure may be remembered for: the version is another one.
    for number in 0..pictures / 2 {
        let file = std::fs::File::options().write(true).open(site.path(&format!("media/{number}.jpg"))).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(5)).unwrap();
    }
    urls.iter().for_each(|url| assert_eq!(try_ask(&site, url).unwrap().status, 200, "{}", site.log()));
    row.passed(&format!(
        "{} requests: {answers:?}; 0 renditions of half a picture among {}; all served at rest",
        urls.len(),
        stored(&store).len()
    ));
}

/// F13: an original that is gone keeps its renditions; a root that is gone says nothing about its files.
#[test]
fn deleted() {
    let row = Row::begin("originals and roots that vanish", "F13");
    let mut site = Site::new(CONFIG);
    renders::furnish(&site);
    site.start();
    let (old, new) = (renders::urls([40]), renders::urls([41]));
    old.iter().for_each(|url| assert_eq!(try_ask(&site, url).unwrap().status, 200));
    let rounds = scale(2, 20);
    for round in 0..rounds {
        for name in ["photo.jpg", "alpha.png", "drawing.svg"] {
            std::fs::remove_file(site.path("media").join(name)).unwrap();
        }
        std::fs::write(site.path("media/other"), "").unwrap();
        old.iter().for_each(|url| assert_eq!(try_ask(&site, url).unwrap().status, 200));
        // A URL with a path names a file, and there is none; 410 is for images that a catalogue knows.
        new.iter().for_each(|url| assert!(matches!(try_ask(&site, url).unwrap().status, 404 | 410)));
        std::fs::rename(site.path("media"), site.path("away")).unwrap();
        new.iter().for_each(|url| assert_eq!(try_ask(&site, url).unwrap().status, 503));
        if round % 2 == 1 {
            site.signal(rustix::process::Signal::KILL);
            site.wait();
            site.start();
            new.iter().for_each(|url| assert_eq!(try_ask(&site, url).unwrap().status, 503));
        }
        std::fs::rename(site.path("away"), site.path("media")).unwrap();
        renders::furnish(&site);
        new.iter().chain(&old).for_each(|url| assert_eq!(try_ask(&site, url).unwrap().status, 200));
        let _ = std::fs::remove_dir_all(site.path("renditions/r1"));
        old.iter().for_each(|url| assert_eq!(try_ask(&site, url).unwrap().status, 200));
    }
    row.passed(&format!(
        "{rounds} rounds of {} renditions: kept without their originals, 404 or 410 for new ones, 503 without the root",
        old.len()
    ));
}

/// T13: whoever can write to the media folder or the store swaps folders and files for links to what is outside, FIFOs and
/// hard links included, while everything is rendered and served. Nothing outside is read, written or handed out.
#[test]
fn links_swapped_in() {
    let row = Row::begin("links swapped in", "T13");
    let swaps = scale(600, 10_000);
    let widths = [50, 60];
    let known = of_colors(&widths, &[40, 255]);
    let site = Site::new("");
    let (media, outside, store) = (site.path("media"), site.path("outside"), site.path("renditions"));
    // The canary is white, and has the names that are asked for.
    for folder in [media.join("a"), outside.join("a")] {
        std::fs::create_dir_all(&folder).unwrap();
        let color = if folder.starts_with(&outside) { 255 } else { 40 };
        (0..20).for_each(|number| std::fs::write(folder.join(format!("{number}.bmp")), plain(color)).unwrap());
    }
    let canaries = || {
        let mut all: Vec<_> = crate::harness::files(&outside)
            .into_iter()
            .map(|path| {
                let metadata = std::fs::metadata(&path).unwrap();
                (path, metadata.len(), metadata.modified().unwrap())
            })
            .collect();
        all.sort();
        all
    };
    symlink(outside.join("a"), media.join("link")).unwrap();
    let site = site.serve().with_nginx();
    let urls: Vec<String> = (0..20)
        .flat_map(|number| widths.map(|width| renders::url(&format!("media/a/{number}.bmp"), &spec(width))))
        .collect();
    urls.iter().for_each(|url| assert_eq!(site.nginx("GET", url, "").status, 200));
    // The store's canary has the very names of renditions, and the link to its folder is swapped for the one above them.
    let levels: Vec<String> = std::fs::read_dir(store.join("r1"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    for level in &levels {
        for path in stored(&store.join("r1").join(level)) {
            let copy = outside.join("r1").join(level).join(path);
            std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
            std::fs::write(copy, "a canary, which is no picture").unwrap();
        }
        symlink(outside.join("r1").join(level), store.join("r1").join(format!(".link-{level}"))).unwrap();
    }
    let before = canaries();
    assert!(before.len() > 50);
    let done = AtomicBool::new(false);
    let mut random = random("links");
    let (answers, made) = std::thread::scope(|scope| {
        let swap = scope.spawn(|| {
            let exchange = |one: &Path, other: &Path| {
                renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
            };
            let began = Instant::now();
            let mut made = 0;
            for _ in 0..swaps {
                let level = &levels[random.usize(0..levels.len())];
                let (one, other) = match random.bool() {
                    true => (media.join("a"), media.join("link")),
                    false => (store.join("r1").join(level), store.join("r1").join(format!(".link-{level}"))),
                };
                exchange(&one, &other);
                std::thread::sleep(Duration::from_micros(random.u64(0..2_000)));
                exchange(&one, &other);
                std::thread::sleep(Duration::from_micros(random.u64(0..2_000)));
                made += 2;
                if began.elapsed() > Duration::from_secs(240) {
                    break;
                }
            }
            done.store(true, Ordering::Relaxed);
            made
        });
        // Renditions vanish all the time, so that they are made as often as they are found.
        scope.spawn(|| {
            let mut random = crate::tools::random("vanish");
            while !done.load(Ordering::Relaxed) {
                let level = &levels[random.usize(0..levels.len())];
                let folder = store.join("r1").join(level);
                // Not through a link: these are removed by the test itself.
                if std::fs::symlink_metadata(&folder).is_ok_and(|metadata| metadata.is_dir()) {
                    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW;
                    if let Ok(folder) = rustix::fs::open(&folder, flags, rustix::fs::Mode::empty()) {
                        empty(folder);
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let ask = |first: usize| {
            let (site, urls, done) = (&site, &urls, &done);
            move || {
                let mut answers = BTreeMap::<u16, usize>::new();
                for url in urls.iter().cycle().skip(first) {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let answer = site.nginx("GET", url, "");
                    *answers.entry(answer.status).or_default() += 1;
                    let text = String::from_utf8_lossy(&answer.body);
                    assert!(!text.contains("canary"), "the canary was served");
                    if answer.status == 200 {
                        // The worker may have been swapped the original, but never for the canary.
                        let whole = answer.body.starts_with(b"\x89PNG");
                        assert!(whole, "{url}: {} bytes that are no PNG", answer.body.len());
                    }
                }
                answers
            }
        };
        let clients = [scope.spawn(ask(0)), scope.spawn(ask(17))];
        let mut answers = BTreeMap::<u16, usize>::new();
        for client in clients {
            for (status, count) in client.join().unwrap() {
                *answers.entry(status).or_default() += count;
            }
        }
        (answers, swap.join().unwrap())
    });
    assert_eq!(canaries(), before, "something outside was written");
    assert!(answers.get(&200).is_some_and(|count| *count > 0), "{answers:?}");
    let allowed = |status: &u16| matches!(status, 200 | 403 | 404 | 410 | 503);
    assert!(answers.keys().all(allowed), "{answers:?}\n{}", site.log());
    let colors = colors(&store, &known);
    assert!(!colors.contains_key(&255), "the canary was read: {colors:?}");
    // At rest all is well.
    for url in &urls {
        assert_eq!(site.nginx("GET", url, "").status, 200, "{}", site.log());
    }
    row.passed(&format!(
        "{made} swaps, answers by status {answers:?}; the canary outside was not read, written or served"
    ));
}

/// Removes all files in the folders of a folder, following no link.
fn empty(folder: std::os::fd::OwnedFd) {
    use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, unlinkat};
    let Ok(entries) = Dir::read_from(&folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_owned();
        if name.to_bytes().starts_with(b".") && name.to_bytes() != b".source.json" {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
            if let Ok(inner) = openat(&folder, &name, flags, Mode::empty()) {
                empty(inner);
            }
        } else {
            let _ = unlinkat(&folder, &name, AtFlags::empty());
        }
    }
}

/// T13: FIFOs, devices and hard links under the names of originals.
#[test]
fn odd_originals() {
    let row = Row::begin("odd things under the names of originals", "T13");
    let site = Site::new("").serve();
    let media = site.path("media");
    std::fs::write(media.join("other"), "").unwrap();
    rustix::fs::mkfifoat(CWD, media.join("fifo.jpg"), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    drop(std::os::unix::net::UnixListener::bind(media.join("socket.jpg")).unwrap());
    std::fs::create_dir(media.join("folder.jpg")).unwrap();
    std::fs::write(media.join("empty.jpg"), "").unwrap();
    symlink("loop.jpg", media.join("loop.jpg")).unwrap();
    symlink("/dev/zero", media.join("zero.jpg")).unwrap();
    symlink("/proc/self/environ", media.join("environ.jpg")).unwrap();
    if crate::tools::is_root() {
        let device = rustix::fs::makedev(1, 5);
        let mode = rustix::fs::Mode::RUSR;
        // Where this user may make none there is none to fall for.
        let _ = rustix::fs::mknodat(CWD, media.join("device.jpg"), rustix::fs::FileType::CharacterDevice, mode, device);
    }
    let (mut asked, mut slowest) = (0, Duration::ZERO);
    for name in ["fifo", "socket", "folder", "empty", "loop", "zero", "environ", "device"] {
        for _ in 0..scale(3, 50) {
            let began = Instant::now();
            let answer = try_ask(&site, &renders::url(&format!("media/{name}.jpg"), "width-50")).unwrap();
            assert!(matches!(answer.status, 404 | 410 | 422), "{name}: {}\n{}", answer.status, site.log());
            slowest = slowest.max(began.elapsed());
            asked += 1;
        }
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!(stored(&site.path("renditions")).is_empty());
    row.passed(&format!("{asked} requests for 8 kinds of things, each refused, the slowest after {slowest:.2?}"));
}
