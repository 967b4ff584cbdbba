//! Disks that are full, out of inodes, read-only or somebody else's, and too few descriptors. Hits are served, misses are told
//! to come again, nothing is left behind, and when the trouble is over so is its effect.

use std::{
    io::{Read as _, Write as _},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    harness::{Site, exchange, wait_for},
    mounts::Mount,
    renders::{self, CONFIG, Reference, handed_over, leftovers, stored, try_ask},
    report::Row,
    tools::{is_root, random, scale},
};

/// A service in trouble: hits and misses counted.
struct Patient<'a> {
    site: &'a Site,
    pid: u32,
    /// What was rendered before the trouble.
    hits: Vec<String>,
    asked: usize,
    refused: usize,
}

impl<'a> Patient<'a> {
    fn new(site: &'a Site, hits: Vec<String>) -> Self {
        let patient = Self { site, pid: site.service_pid(), hits, asked: 0, refused: 0 };
        patient.hits.iter().for_each(|url| assert_eq!(try_ask(site, url).unwrap().status, 200));
        patient
    }

    /// Every hit is served.
    fn assert_hits(&mut self) {
        for url in &self.hits {
            let answer = try_ask(self.site, url).unwrap();
            assert_eq!(answer.status, 200, "{url}\n{}", self.site.log());
            self.asked += 1;
        }
    }

    /// A miss is told to come again, and the disk's reason is counted.
    fn assert_refused(&mut self, url: &str, kind: &str) {
        let metric = format!("sendimage_store_errors_total{{kind=\"{kind}\"}}");
        let before = self.site.metric(&metric);
        let answer = try_ask(self.site, url).unwrap_or_else(|| panic!("no answer\n{}", self.site.log()));
        assert_eq!(answer.status, 503, "{url}\n{}", self.site.log());
        assert!(answer.header("retry-after").is_some());
        assert!(self.site.metric(&metric) > before, "{kind}\n{}", self.site.log());
        self.assert_clean();
        self.refused += 1;
    }

    fn assert_clean(&self) {
        let left = leftovers(&self.site.path("renditions"));
        assert!(left.is_empty(), "{left:?}");
    }

    /// The trouble is over: these are served now, by the same process.
    fn assert_recovered(&self, urls: &[String]) {
        for url in urls {
            assert_eq!(try_ask(self.site, url).unwrap().status, 200, "{url}\n{}", self.site.log());
        }
        assert_eq!(self.site.service_pid(), self.pid);
        assert!(self.site.ops("/health/live").is_some_and(|answer| answer.status == 200));
        self.assert_clean();
    }

    fn sentence(&self) -> String {
        format!("{} of {} hits served, {} misses answered 503", self.asked, self.asked, self.refused)
    }
}

/// Fills a file system but for so many bytes. Removed, there is room again.
fn ballast(folder: &Path, leave: u64) -> PathBuf {
    let path = folder.join("ballast");
    let mut file = std::fs::File::create(&path).unwrap();
    let page = [1; 4096];
    while file.write_all(&page).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(leave)).unwrap();
    path
}

/// F04: however few bytes are left, and so wherever in the file the disk is full.
#[test]
fn full() {
    let row = Row::begin("a full disk", "F04 F36 T25");
    let mut site = Site::new(CONFIG);
    let store = site.path("renditions");
    let _mount = match Mount::tmpfs(&store, "size=3m") {
        Ok(mount) => mount,
        Err(reason) => return row.skipped(&reason),
    };
    renders::furnish(&site);
    let pages = scale(6, 60);
    let hits = renders::urls([30]);
    let misses: Vec<String> =
        (0..pages).map(|index| renders::url("media/photo.jpg", &format!("width-{}|format-png", 500 + index))).collect();
    let reference = Reference::of(&[&hits[..], &misses[..]].concat());
    site.start();
    let mut patient = Patient::new(&site, hits);
    for (page, url) in misses.iter().enumerate() {
        // Fewer pages than the rendition needs: the record may still fit, and some of the picture.
        let ballast = ballast(&store, 4096 * page as u64);
        patient.assert_hits();
        patient.assert_refused(url, "enospc");
        reference.check_all_but(&store, &["ballast"]);
        std::fs::remove_file(ballast).unwrap();
        patient.assert_recovered(std::slice::from_ref(url));
        reference.check(&store);
        let path = handed_over(&try_ask(&site, url).unwrap());
        std::fs::remove_file(store.join(path)).unwrap();
    }
    row.passed(&format!(
        "{}, with 0 to {pages} pages left; each served by the same process once there was room",
        patient.sentence()
    ));
}

/// F06: bytes in plenty, no inodes.
#[test]
fn without_inodes() {
    let row = Row::begin("a disk without inodes", "F06");
    let mut site = Site::new(CONFIG);
    let store = site.path("renditions");
    let _mount = match Mount::tmpfs(&store, "size=50m,nr_inodes=200") {
        Ok(mount) => mount,
        Err(reason) => return row.skipped(&reason),
    };
    renders::furnish(&site);
    site.start();
    let mut patient = Patient::new(&site, renders::urls([30]));
    let litter = store.join("litter");
    let rounds = scale(4, 30);
    for left in 0..rounds {
        std::fs::create_dir(&litter).unwrap();
        let mut made = 0;
        while std::fs::write(litter.join(made.to_string()), "").is_ok() {
            made += 1;
        }
        // One inode, of the draft, is all that a known source image needs; a new one needs its folders too.
        let left = left % 3;
        (0..left).for_each(|number| std::fs::remove_file(litter.join(number.to_string())).unwrap());
        patient.assert_hits();
        let name = format!("{left}-{made}-{}.jpg", patient.refused);
        renders::add(&site, "photo.jpg", &name);
        let url = renders::url(&format!("media/{name}"), "width-50");
        patient.assert_refused(&url, "enospc");
        std::fs::remove_dir_all(&litter).unwrap();
        // The kernel may take its time.
        let free = || rustix::fs::statvfs(&store).unwrap().f_ffree;
        wait_for(Duration::from_secs(5), || free() > 50).expect("there are inodes again");
        patient.assert_recovered(&[url]);
        let _ = std::fs::remove_dir_all(store.join("r1"));
        patient.hits.iter().for_each(|url| assert_eq!(try_ask(&site, url).unwrap().status, 200));
    }
    row.passed(&format!("{}; each served by the same process once there were some", patient.sentence()));
}

/// F08: a file system that turns read-only, and a service that is started on one.
#[test]
fn read_only() {
    let row = Row::begin("a read-only disk", "F08");
    let mut site = Site::new(CONFIG);
    let store = site.path("renditions");
    let mount = match Mount::tmpfs(&store, "size=50m") {
        Ok(mount) => mount,
        Err(reason) => return row.skipped(&reason),
    };
    renders::furnish(&site);
    site.start();
    let misses = renders::urls([41, 42]);
    let mut patient = Patient::new(&site, renders::urls([30]));
    mount.remount("ro");
    patient.assert_hits();
    misses.iter().for_each(|url| patient.assert_refused(url, "erofs"));
    mount.remount("rw");
    patient.assert_recovered(&misses);
    let sentence = patient.sentence();

    // Started on it: hits at once, and readiness says what is the matter.
    mount.remount("ro");
    site.signal(rustix::process::Signal::TERM);
    site.wait();
    site.start();
    let mut patient = Patient::new(&site, renders::urls([30]));
    patient.assert_hits();
    let says = site.ops("/health/ready").unwrap();
    let says: serde_json::Value = serde_json::from_slice(&says.body).unwrap();
    assert_eq!((&says["ready"], &says["store"]["ok"]), (&true.into(), &false.into()), "{says}");
    assert!(says["store"]["says"].as_str().unwrap().contains("Read-only"), "{says}");
    site.assert_logs("Read-only");
    let misses = renders::urls([43]);
    misses.iter().for_each(|url| patient.assert_refused(url, "erofs"));
    mount.remount("rw");
    patient.assert_recovered(&misses);
    row.passed(&format!("{sentence}; started on it: {}; both served again without a restart", patient.sentence()));
}

/// A folder that nobody may change, root included.
struct Immutable(PathBuf);

impl Immutable {
    fn new(folder: &Path) -> Option<Self> {
        let done = Command::new("chattr").arg("+i").arg(folder).output().is_ok_and(|output| output.status.success());
        done.then(|| Self(folder.to_owned()))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).output();
    }
}

/// F08: folders of the store that cannot be changed, whoever asks.
#[test]
fn immutable() {
    let row = Row::begin("immutable folders", "F08");
    let site = Site::new(CONFIG);
    renders::furnish(&site);
    let site = site.serve();
    let mut patient = Patient::new(&site, renders::urls([30]));
    let path = handed_over(&try_ask(&site, &patient.hits[0]).unwrap());
    let mut served = Vec::new();
    for (number, folder) in ["r1/.tmp-drafts", "r1", path.rsplit_once('/').unwrap().0].iter().enumerate() {
        let Some(guard) = Immutable::new(&site.path("renditions").join(folder)) else {
            return row.skipped("this file system has no immutable folders, or this user may not make them");
        };
        patient.assert_hits();
        // A new source image needs a folder in `r1`; the first one's own takes only its renditions.
        let url = match number {
            1 => {
                renders::add(&site, "photo.jpg", "new.jpg");
                renders::url("media/new.jpg", "width-50")
            }
            _ => renders::url("media/photo.jpg", &format!("width-{}|format-jpeg", 60 + number)),
        };
        let folders = std::fs::read_dir(site.path("renditions/r1")).unwrap().count();
        if number == 1 && try_ask(&site, &url).unwrap().status == 200 {
            // Its digest begins like another's.
            assert_eq!(std::fs::read_dir(site.path("renditions/r1")).unwrap().count(), folders);
        } else {
            patient.assert_refused(&url, "eperm");
        }
        drop(guard);
        served.push(url);
        patient.assert_recovered(&served);
    }
    row.passed(&format!("{}; each served once they were mutable", patient.sentence()));
}

/// F10: a store that belongs to somebody else.
#[test]
fn wrong_owner() {
    let row = Row::begin("a store of another owner", "F10");
    if !is_root() {
        return row.skipped("needs root, to be somebody else");
    }
    let mut site = Site::new(CONFIG);
    renders::furnish(&site);
    let store = site.path("renditions");
    std::fs::set_permissions(site.folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    site.start();
    let hits = renders::urls([30]);
    drop(Patient::new(&site, hits.clone()));
    site.signal(rustix::process::Signal::TERM);
    site.wait();
    // Readable, as a store made by root is, and not to be written to.
    renders::start_by(&mut site, &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    let mut patient = Patient::new(&site, hits);
    patient.assert_hits();
    let misses = renders::urls([41, 42]);
    misses.iter().for_each(|url| patient.assert_refused(url, "eacces"));
    // Not even readable: nobody can say what is stored.
    let r1 = store.join("r1");
    std::fs::set_permissions(&r1, std::fs::Permissions::from_mode(0o700)).unwrap();
    patient.assert_refused(&patient.hits[0].clone(), "eacces");
    std::fs::set_permissions(&r1, std::fs::Permissions::from_mode(0o755)).unwrap();
    patient.assert_hits();
    assert!(Command::new("chown").args(["-R", "65534:65534"]).arg(&store).status().unwrap().success());
    patient.assert_recovered(&misses);
    row.passed(&format!("{}; all served once it was ours", patient.sentence()));
}

/// The length that a process's files may have, changed; what it was before.
fn limit_length(pid: i32, bytes: &str) -> String {
    let prlimit = |arguments: &[&str]| {
        let output = Command::new("prlimit").arg(format!("--pid={pid}")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let before = prlimit(&["--fsize", "--output=SOFT", "--noheadings", "--raw"]);
    // The soft limit alone.
    prlimit(&[&format!("--fsize={bytes}:")]);
    before
}

/// F05: a limit on the length of files. The signal that the kernel sends with it ends nobody.
#[test]
fn file_length_limit() {
    let row = Row::begin("a limit on the length of files", "F05");
    let site = Site::new(CONFIG);
    renders::furnish(&site);
    let site = site.serve();
    let mut patient = Patient::new(&site, renders::urls([30]));
    let mut refused = Vec::new();
    for (round, bytes) in [20_000, 300, 64, 0].into_iter().enumerate() {
        // The log is a file too: what does not fit is lost, and nothing else.
        let processes = site.workers().into_iter().chain([site.service_pid() as i32]);
        let before: Vec<_> = processes.map(|pid| (pid, limit_length(pid, &format!("{bytes}")))).collect();
        let name = format!("{round}.jpg");
        renders::add(&site, "photo.jpg", &name);
        patient.assert_hits();
        let url = renders::url(&format!("media/{name}"), "width-300|format-png");
        patient.assert_refused(&url, "efbig");
        refused.push(url);
        for (pid, bytes) in before {
            limit_length(pid, &bytes);
        }
        patient.assert_recovered(&refused);
    }
    row.passed(&format!("{}; each served once the limit was lifted", patient.sentence()));
}

/// Processor time of a process so far.
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// F09: more connections than descriptors. Those that were accepted are served, and the loop that cannot accept any more does
/// not spin.
#[test]
fn without_descriptors() {
    let row = Row::begin("no descriptors left", "F09");
    let mut site = Site::new("[server]\nheader_timeout_seconds = 20\n");
    renders::furnish(&site);
    renders::start_by(&mut site, &["prlimit", "--nofile=64", "--"]);
    let url = renders::url("media/photo.jpg", "width-50");
    assert_eq!(try_ask(&site, &url).unwrap().status, 200);
    let head = format!("GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    // Kept alive since before the flood.
    let mut early = site.gate_stream();
    early.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut hit = || {
        early.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 4096];
        let length = early.read(&mut answer).unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..length]));
    };
    hit();
    let flood: Vec<_> = (0..200).map(|_| site.gate_stream()).collect();
    std::thread::sleep(Duration::from_millis(300));
    let (began, used) = (Instant::now(), cpu_time(site.service_pid()));
    let window = Duration::from_secs(scale(2, 10) as u64);
    let mut hits = 0;
    while began.elapsed() < window {
        hit();
        hits += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    let share = (cpu_time(site.service_pid()) - used).as_secs_f64() / began.elapsed().as_secs_f64();
    site.assert_logs("could not be accepted");
    assert!(share < 0.10, "{:.0} % of a processor while starved", share * 100.0);
    let lines = site.log().lines().filter(|line| line.contains("could not be accepted")).count();
    assert!(lines <= 2, "{lines} lines in the log in {:.0?}", began.elapsed());
    drop(flood);
    // The line of those who wait is gone through, and the next one is served.
    let answer =
        exchange(site.gate_stream(), format!("{}Connection: close\r\n\r\n", &head[..head.len() - 2]).as_bytes());
    assert_eq!(answer.status, 200);
    let other = renders::url("media/photo.jpg", "width-51");
    assert_eq!(try_ask(&site, &other).unwrap().status, 200);
    row.passed(&format!(
        "64 descriptors, 201 connections: {hits} of {hits} hits on one accepted before, {:.1} % of a processor, {lines} lines \
         in the log in {:.0?}; served again when they left",
        share * 100.0,
        began.elapsed()
    ));
}

/// F37: what many crashes have left holds up neither the start nor the answers.
#[test]
fn litter() {
    let row = Row::begin("litter of crashes", "F37");
    let count = scale(10_000, 100_000);
    let mut site = Site::new(CONFIG);
    renders::furnish(&site);
    site.start();
    let url = renders::url("media/photo.jpg", "width-50");
    assert_eq!(try_ask(&site, &url).unwrap().status, 200);
    site.signal(rustix::process::Signal::KILL);
    site.wait();
    let drafts = site.path("renditions/r1/.tmp-drafts");
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let host: String = host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' }).collect();
    for number in 0..count {
        // No process has a number beyond 2^22.
        std::fs::write(drafts.join(format!(".tmp-{host}-4194305-1a2b3c-{number:x}")), "half").unwrap();
    }
    // Nor does what only looks like it hold anything up.
    std::fs::create_dir(drafts.join(format!(".tmp-{host}-4194305-1a2b3c-folder"))).unwrap();
    symlink("/etc/passwd", drafts.join(format!(".tmp-{host}-4194305-1a2b3c-link"))).unwrap();
    let began = Instant::now();
    site.start();
    assert_eq!(try_ask(&site, &url).unwrap().status, 200);
    let started = began.elapsed();
    assert!(started < Duration::from_secs(5), "{started:?}");
    let other = renders::url("media/photo.jpg", "width-51");
    assert_eq!(try_ask(&site, &other).unwrap().status, 200);
    let plain = |site: &Site| leftovers(&site.path("renditions")).iter().filter(|path| !path.ends_with('k')).count();
    wait_for(Duration::from_secs(60), || plain(&site) == 0).expect("the sweep removes them all");
    let swept = began.elapsed();
    assert!(Path::new("/etc/passwd").exists());
    row.passed(&format!(
        "{count} temporary files: first hit {started:.2?} after the start, all swept after {swept:.1?}"
    ));
}

/// F38: something that is no rendition has the name of one.
#[test]
fn odd_things_under_final_names() {
    let row = Row::begin("odd things under final names", "F38");
    let site = Site::new(CONFIG);
    renders::furnish(&site);
    let urls = renders::urls([40]);
    let reference = Reference::of(&urls);
    let site = site.serve();
    let store = site.path("renditions");
    let mut patient = Patient::new(&site, Vec::new());
    let mut repaired = 0;
    for url in &urls {
        let path = handed_over(&try_ask(&site, url).unwrap());
        let file = store.join(&path);
        let remove = || std::fs::remove_file(&file).unwrap();
        let odd: [(&str, &dyn Fn()); 4] = [
            ("an empty file", &|| std::fs::write(&file, "").unwrap()),
            ("a FIFO", &|| {
                remove();
                rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RUSR).unwrap();
            }),
            ("a socket", &|| {
                remove();
                // The path of a socket is short.
                let there = std::env::temp_dir().join(format!("sendimage-{}.sock", std::process::id()));
                let _ = std::fs::remove_file(&there);
                drop(UnixListener::bind(&there).unwrap());
                std::fs::rename(&there, &file).unwrap();
            }),
            ("a link", &|| {
                remove();
                symlink("/etc/passwd", &file).unwrap();
            }),
        ];
        for (what, put) in odd {
            put();
            let answer = try_ask(&site, url).unwrap();
            assert_eq!(answer.status, 200, "{what}");
            reference.check(&store);
            assert!(std::fs::symlink_metadata(&file).unwrap().is_file(), "{what}");
            repaired += 1;
        }
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        patient.assert_refused(url, "eisdir");
        std::fs::remove_dir(&file).unwrap();
        patient.assert_recovered(std::slice::from_ref(url));
    }
    assert_eq!(reference.check(&store), urls.len());
    row.passed(&format!(
        "{repaired} replaced by the rendition, {} folders answered 503 until they were gone",
        patient.refused
    ));
}

/// F21: two processes, one store, and the same rendition asked of both.
#[test]
fn two_processes_one_store() {
    let row = Row::begin("two processes and one store", "F21");
    let rounds = scale(3, 30);
    let (one, other) = (Site::new(CONFIG), Site::new(CONFIG));
    [&one, &other].into_iter().for_each(renders::furnish);
    std::fs::create_dir(one.path("renditions")).unwrap();
    symlink(one.path("renditions"), other.path("renditions")).unwrap();
    let urls = renders::urls((0..rounds).map(|round| 60 + round));
    let reference = Reference::of(&urls);
    let (one, other) = (one.serve(), other.serve());
    let (mut answers, mut renders) = (0, 0.0);
    for url in &urls {
        let metric = |site: &Site| {
            let text = site.ops("/metrics").unwrap().text();
            let lines = text.lines().filter(|line| line.starts_with("sendimage_renders_total{outcome=\"rendered\""));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
        };
        let before = metric(&one) + metric(&other);
        std::thread::scope(|scope| {
            for site in [&one, &other] {
                for _ in 0..10 {
                    scope.spawn(move || {
                        for _ in 0..10 {
                            assert_eq!(try_ask(site, url).unwrap().status, 200);
                        }
                    });
                }
            }
        });
        answers += 200;
        let made = metric(&one) + metric(&other) - before;
        assert!((1.0..=2.0).contains(&made), "{made} renders");
        renders += made;
    }
    let store = one.path("renditions");
    assert_eq!(reference.check(&store), urls.len());
    assert!(leftovers(&store).is_empty());
    row.passed(&format!(
        "{} renditions, {answers} of {answers} answers 200, {renders} renders, one whole file each",
        urls.len()
    ));
}

/// F40: what another version of the layout keeps in the same store is none of our business.
#[test]
fn another_layout_in_the_same_store() {
    let row = Row::begin("another layout in the same store", "F40");
    let mut site = Site::new(CONFIG);
    renders::furnish(&site);
    let store = site.path("renditions");
    let mut random = random("another layout");
    let mut theirs = Vec::new();
    for number in 0..scale(50, 500) {
        let layout = ["r0", "r2", "r10", "other"][random.usize(0..4)];
        let name = [".tmp-vm-1-1-1", ".lease-x", "a.jpg", ".source.json"][random.usize(0..4)];
        let path =
            store.join(layout).join(if random.bool() { ".tmp-drafts" } else { "3f" }).join(format!("{name}{number}"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, number.to_string()).unwrap();
        theirs.push((path, number.to_string()));
    }
    site.start();
    let urls = renders::urls([40]);
    urls.iter().for_each(|url| assert_eq!(try_ask(&site, url).unwrap().status, 200));
    std::thread::sleep(Duration::from_millis(200));
    for (path, text) in &theirs {
        assert_eq!(std::fs::read_to_string(path).unwrap(), *text);
    }
    let ours = stored(&store).iter().filter(|path| path.starts_with("r1/")).count();
    assert_eq!(ours, urls.len());
    row.passed(&format!("{} files of four other layouts untouched beside {ours} renditions of ours", theirs.len()));
}
