//! What is remembered against an image: only what the image itself decides, for a minute, for that version of it, and never
//! more than a bounded number.

use std::{
    fs::{self, File},
    io::Write,
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    client::{Client, Fields, native_url, path_url},
    harness::{KEY, Site, wait_for},
    mounts::Mount,
    report::Row,
    tools::{self, scale},
    vectors,
};

const KEYS: &[u8] = KEY.as_bytes();

fn url(path: &str, spec: &str) -> String {
    path_url(KEYS, path, spec)
}

fn ask(site: &Site, path: &str, spec: &str) -> u16 {
    Client::gate(site).get(url(path, spec).as_bytes()).status
}

/// Jobs that workers were given.
fn jobs(site: &Site) -> f64 {
    site.metric("sendimage_render_seconds_count{stage=\"queue\"}")
}

fn died(site: &Site, cause: &str) -> f64 {
    site.metric(&format!("sendimage_workers_died_total{{cause=\"{cause}\"}}"))
}

fn signal(site: &Site, signal: Signal) {
    for pid in site.workers() {
        // It may have ended meanwhile.
        let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
    }
}

/// Long enough for a worker to be met at work.
const SLOW: &str = "width-640|format-avif";

/// Ends both workers that a render is given to, with this signal: the answer is `status`. Says which image it was.
fn hunted(site: &Site, ending: Signal, cause: &str, status: u16) -> String {
    // Who came too late tries again, with another image.
    for number in 0..20 {
        let name = format!("victim-{number}.jpg");
        site.add("photo_land.jpg", &name);
        assert_eq!(ask(site, &name, "width-10"), 200, "its header is known");
        let before = died(site, cause);
        let answer = std::thread::scope(|scope| {
            let answer = scope.spawn(|| ask(site, &name, SLOW));
            let mut ended = Vec::new();
            while !answer.is_finished() && ended.len() < 2 {
                for pid in site.workers() {
                    // With a source and an output it is at work.
                    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
                    if !ended.contains(&pid) && descriptors > 4 {
                        let _ = kill_process(Pid::from_raw(pid).unwrap(), ending);
                        ended.push(pid);
                    }
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            answer.join().unwrap()
        });
        if died(site, cause) == before + 2.0 && answer != 200 {
            assert_eq!(answer, status, "{}", site.log());
            return name;
        }
    }
    panic!("nobody was met at work: {}", site.log());
}

/// T24: what the image decides is remembered for its version, and a file that was mended is served at once.
#[test]
fn failures_of_the_image_are_remembered() {
    let row = Row::begin("failures of the image are remembered", "T24 F28 F29");
    let site = Site::new("[render]\nworkers = 1\ndeadline_seconds = 5.0\n[log]\nlevel = \"error\"\n").serve();
    let good = fs::read(vectors::folder().join("images/photo_land.jpg")).unwrap();
    for name in ["not.jpg", "cut.jpg", "slow.jpg"] {
        let vector = match name {
            "not.jpg" => "notimage.jpg",
            "cut.jpg" => "truncated.jpg",
            _ => "photo_land.jpg",
        };
        site.add(vector, name);
    }
    let mut told = Vec::new();
    let mut again = |what: &str, path: &str, spec: &str, status: u16| {
        let before = jobs(&site);
        let times = scale(20, 2_000);
        for _ in 0..times {
            assert_eq!(ask(&site, path, spec), status, "{what}");
        }
        assert_eq!(jobs(&site), before, "{what}: tried again");
        // What lies there now is another file, under the same name.
        fs::write(site.path("media").join(path), &good).unwrap();
        assert_eq!(ask(&site, path, spec), 200, "{what}, mended: {}", site.log());
        told.push(what.to_owned());
    };
    // No image, and no whole one.
    assert_eq!(ask(&site, "not.jpg", "width-50"), 422);
    again("no image", "not.jpg", "width-60", 422);
    assert_eq!(ask(&site, "cut.jpg", "width-50"), 422);
    again("a broken image", "cut.jpg", "width-50", 422);
    // One that kills two workers.
    if tools::is_root() {
        let killer = hunted(&site, Signal::SEGV, "SIGSEGV", 422);
        again("one that killed two workers", &killer, SLOW, 422);
    }
    // Two missed deadlines.
    assert_eq!(ask(&site, "slow.jpg", "width-10"), 200, "its header is known");
    for time in 0..2 {
        signal(&site, Signal::STOP);
        assert_eq!(ask(&site, "slow.jpg", "width-70"), 504, "{time}");
        signal(&site, Signal::CONT);
        // A worker that is only just starting would have been stopped before it has begun anything.
        assert_eq!(ask(&site, "slow.jpg", &format!("width-{}", 80 + time)), 200, "{}", site.log());
    }
    again("two missed deadlines", "slow.jpg", "width-70", 504);
    // A minute, and no longer.
    let mut minute = "";
    if tools::is_long() {
        site.add("notimage.jpg", "minute.jpg");
        assert_eq!(ask(&site, "minute.jpg", "width-50"), 422);
        let (before, began) = (jobs(&site), Instant::now());
        let tried = || {
            let _ = ask(&site, "minute.jpg", "width-50");
            jobs(&site) > before
        };
        wait_for(Duration::from_secs(70), tried).expect("tried again");
        let kept = began.elapsed();
        assert!(kept > Duration::from_secs(55), "{kept:?}");
        minute = "; forgotten after a minute";
    }
    row.passed(&format!("remembered, and mended at once with the file: {}{minute}", told.join(", ")));
}

/// T24: what the disk, the queue, the clock or somebody's signal did is over when it is over.
#[test]
fn failures_of_the_machine_are_not() {
    let row = Row::begin("failures of the machine are not remembered", "T24 F04 F06 F13 F15 F23 F30");
    let config = "[catalogue]\nkind = \"sqlite\"\nurl = \"sqlite://{dir}/images.sqlite3\"\nsource = \"media\"\n\
                  query = \"SELECT file FROM images WHERE id = ?\"\ncache_seconds = 0.0\ntimeout_seconds = 0.5\n\
                  [render]\nworkers = 1\nqueue_depth = 1\ndeadline_seconds = 5.0\n[log]\nlevel = \"error\"\n";
    let mut site = Site::new(config);
    site.add("photo_land.jpg", "a.jpg");
    tools::database(&site.path("images.sqlite3"), &[(42, "a.jpg".into())]);
    let mut told = Vec::new();
    let mounted = tools::is_root().then(|| {
        fs::create_dir_all(site.path("renditions")).unwrap();
        Mount::tmpfs(&site.path("renditions"), "size=8m,nr_inodes=1000").unwrap()
    });
    site.start();
    // However it ends, the mount goes first.
    let (site, mounted) = (&site, mounted);
    assert_eq!(ask(site, "a.jpg", "width-10"), 200, "{}", site.log());
    let mut width = 100;
    // Each: a fault, what it is answered with, and its end.
    let mut fault = |what: &str, begin: &dyn Fn(), statuses: &[u16], end: &dyn Fn()| {
        for _ in 0..scale(1, 10) {
            width += 1;
            let spec = format!("width-{width}");
            begin();
            for _ in 0..2 {
                let status = ask(site, "a.jpg", &spec);
                assert!(statuses.contains(&status), "{what}: {status}\n{}", site.log());
            }
            end();
            assert_eq!(ask(site, "a.jpg", &spec), 200, "{what}, afterwards: {}", site.log());
        }
        told.push(what.to_owned());
    };
    let filler = site.path("renditions/filler");
    if mounted.is_some() {
        let fill = || {
            let mut file = File::create(&filler).unwrap();
            while file.write(&[0; 4096]).is_ok_and(|length| length > 0) {}
        };
        fault("a full disk", &fill, &[503], &|| fs::remove_file(&filler).unwrap());
        let folder = site.path("renditions/inodes");
        let crowd = || {
            fs::create_dir(&folder).unwrap();
            let mut number = 0;
            while File::create(folder.join(number.to_string())).is_ok() {
                number += 1;
            }
        };
        fault("no inodes", &crowd, &[503], &|| fs::remove_dir_all(&folder).unwrap());
    }
    let mut fault = |what: &str, begin: &dyn Fn(), statuses: &[u16], end: &dyn Fn()| {
        width += 1;
        let spec = format!("width-{width}");
        begin();
        let status = ask(site, "a.jpg", &spec);
        assert!(statuses.contains(&status), "{what}: {status}\n{}", site.log());
        end();
        assert_eq!(ask(site, "a.jpg", &spec), 200, "{what}, afterwards: {}", site.log());
        told.push(what.to_owned());
    };
    let (media, away) = (site.path("media"), site.path("away"));
    fault("a source that is away", &|| fs::rename(&media, &away).unwrap(), &[503], &|| {
        fs::rename(&away, &media).unwrap()
    });
    let (file, gone) = (media.join("a.jpg"), media.join("b.jpg"));
    fault("a file that is away", &|| fs::rename(&file, &gone).unwrap(), &[404, 410], &|| {
        fs::rename(&gone, &file).unwrap()
    });
    let (stop, go) = (|| signal(site, Signal::STOP), || signal(site, Signal::CONT));
    fault("one missed deadline", &stop, &[504], &go);
    // The catalogue, by an id.
    let by_id = |width: usize| {
        native_url(KEYS, &Fields { subject: "42".into(), spec: format!("width-{width}"), ..Fields::default() })
    };
    let get = |url: &str| Client::gate(site).get(url.as_bytes()).status;
    tools::locked(&site.path("images.sqlite3"), || assert_eq!(get(&by_id(300)), 503));
    assert_eq!(get(&by_id(300)), 200, "{}", site.log());
    told.push("a catalogue that is locked".into());
    // Somebody who leaves, from the queue and from a render.
    for width in 310..310 + scale(3, 60) {
        let spec = format!("width-{width}");
        signal(site, Signal::STOP);
        let mut stream = site.gate_stream();
        stream
            .write_all(format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", url("a.jpg", &spec)).as_bytes())
            .unwrap();
        std::thread::sleep(Duration::from_millis(15));
        drop(stream);
        signal(site, Signal::CONT);
        assert_eq!(ask(site, "a.jpg", &spec), 200, "{}", site.log());
    }
    told.push("a client that leaves".into());
    // A full queue.
    signal(site, Signal::STOP);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asks: Vec<_> =
            (0..6).map(|number| scope.spawn(move || ask(site, "a.jpg", &format!("width-{}", 400 + number)))).collect();
        std::thread::sleep(Duration::from_millis(300));
        signal(site, Signal::CONT);
        asks.into_iter().map(|ask| ask.join().unwrap()).collect()
    });
    assert!(statuses.contains(&503) && statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    for number in 0..6 {
        assert_eq!(ask(site, "a.jpg", &format!("width-{}", 400 + number)), 200);
    }
    told.push("a full queue".into());
    // Two workers killed by hand, in one job.
    if tools::is_root() {
        let victim = hunted(site, Signal::KILL, "SIGKILL", 503);
        assert_eq!(ask(site, &victim, SLOW), 200, "{}", site.log());
        told.push("two workers killed by hand".into());
    }
    row.passed(&format!("over when they are over: {}", told.join(", ")));
}

/// However many images fail, the memory of their failures stays bounded.
#[test]
fn many_failures_take_bounded_memory() {
    let row = Row::begin("many failures take bounded memory", "T24");
    let site = Site::new("[render]\nworkers = 2\n[log]\nlevel = \"error\"\n").serve();
    site.add("notimage.jpg", "not.jpg");
    let file = File::options().write(true).open(site.path("media/not.jpg")).unwrap();
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", site.service_pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
    };
    let count = scale(2_000, 50_000) as u64;
    let target = url("not.jpg", "width-50");
    let mut client = Client::gate(&site);
    let (began, mut settled) = (jobs(&site), 0);
    for number in 0..count {
        // Another version each time: another failure to remember.
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + number)).unwrap();
        assert_eq!(client.get(target.as_bytes()).status, 422, "{}", site.log());
        if number == count / 4 {
            settled = resident();
        }
    }
    let grown = resident().saturating_sub(settled);
    assert_eq!(jobs(&site) - began, count as f64, "each was tried once");
    assert!(grown < 12 << 20, "{grown} bytes more after {count} failures than after a quarter of them");
    row.passed(&format!(
        "{count} distinct failures; the gate holds {} KiB more than after the first quarter of them, {} MiB in all",
        grown >> 10,
        resident() >> 20
    ));
}
