//! What a long life leaves behind: nothing.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use crate::{
    harness::{Site, children_of, wait_for},
    report::Row,
    tools::{random, scale},
};

/// What a process group holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    children: usize,
    /// Memory that is nobody else's, of the gate and of its workers together.
    private_kib: u64,
}

impl Held {
    fn by(site: &Site) -> Self {
        let gate = site.service_pid() as i32;
        let workers = children_of(gate);
        let count = |what: &str| std::fs::read_dir(format!("/proc/{gate}/{what}")).unwrap().count();
        let private_kib = workers.iter().chain([&gate]).map(|pid| private_kib(*pid)).sum();
        Self { descriptors: count("fd"), threads: count("task"), children: workers.len(), private_kib }
    }
}

fn private_kib(pid: i32) -> u64 {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { return 0 };
    text.lines()
        .filter(|line| line.starts_with("Private_Dirty:"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

/// Requests of every kind, good and bad, and the same again: nothing has grown.
#[test]
fn a_long_life() {
    let row = Row::begin("leaks", "-");
    let site = Site::new("[render]\nworkers = 2\n[cache]\nmax_age_seconds = 60\n").serve();
    for (vector, name) in [("photo_land.jpg", "a.jpg"), ("static.gif", "b.gif"), ("tiny_3x2.png", "c.png")] {
        site.add(vector, name);
    }
    std::fs::write(site.path("media/broken.jpg"), b"\xFF\xD8\xFF\xE0 not a photo").unwrap();
    let requests = Requests::of(&site);
    let mut random = random("leaks");
    let count = scale(4_000, 100_000);
    let warm = requests.ask(&site, count / 4, &mut random);
    settle(&site);
    let before = Held::by(&site);
    let asked = requests.ask(&site, count, &mut random);
    settle(&site);
    let after = Held::by(&site);
    let grown = |after: u64, before: u64, spare: u64| after > before + before / 10 + spare;
    // Connections come and go one at a time; the pools of threads that read files fill up to their bound and shrink again.
    assert!(!grown(after.descriptors as u64, before.descriptors as u64, 2), "{before:?}, then {after:?}");
    assert!(!grown(after.threads as u64, before.threads as u64, 2), "{before:?}, then {after:?}");
    assert_eq!(after.children, before.children);
    // A page here and there: the selection is too short for the caches to be full.
    let spare = scale(4096, 1024) as u64;
    assert!(!grown(after.private_kib, before.private_kib, spare), "{before:?}, then {after:?}");
    row.passed(&format!(
        "after {warm} requests {} descriptors, {} threads, {} children, {} KiB; after {asked} more {}, {}, {}, {}",
        before.descriptors,
        before.threads,
        before.children,
        before.private_kib,
        after.descriptors,
        after.threads,
        after.children,
        after.private_kib,
    ));
}

/// Until nothing is under way: connections closed, idle threads ended, workers' spare memory given back.
fn settle(site: &Site) {
    wait_for(std::time::Duration::from_secs(5), || site.metric("sendimage_render_queue_depth") == 0.0).expect("idle");
    std::thread::sleep(std::time::Duration::from_secs(if Path::new("/proc/self/smaps_rollup").exists() {
        12
    } else {
        0
    }));
}

struct Requests {
    /// What is asked, and what it is answered with.
    good: Vec<String>,
    bad: Vec<(String, u16)>,
}

impl Requests {
    fn of(site: &Site) -> Self {
        let mut good = Vec::new();
        for name in ["a.jpg", "b.gif", "c.png"] {
            for spec in ["width-30", "fill-20x20|format-webp", "height-25|format-png", "max-40x40|format-auto"] {
                good.push(site.sign(&[&format!("media/{name}"), spec]));
            }
        }
        let mut altered = good[0].clone();
        altered.push('x');
        let bad = vec![
            (altered, 403),
            (site.sign(&["media/broken.jpg", "width-30"]), 422),
            (site.sign(&["media/absent.jpg", "width-30"]), 404),
            ("/images/nothing".into(), 404),
            ("/images/a/../b".into(), 400),
        ];
        Self { good, bad }
    }

    /// Asks `count` of them over one connection after another. Now and then a stored rendition goes, and is made again.
    fn ask(&self, site: &Site, count: usize, random: &mut fastrand::Rng) -> usize {
        let mut stream = site.gate_stream();
        let mut asked = 0;
        for number in 0..count {
            if number % 50 == 49 {
                stream = site.gate_stream();
            }
            if number % 100 == 99 {
                let stored = site.stored();
                if let Some(path) = stored.get(random.usize(..stored.len().max(1))) {
                    std::fs::remove_file(path).unwrap();
                }
            }
            let (url, wanted) = if random.u8(..10) < 8 {
                (&self.good[random.usize(..self.good.len())], 200)
            } else {
                let (url, status) = &self.bad[random.usize(..self.bad.len())];
                (url, *status)
            };
            if number % 40 == 39 {
                // One that does not wait for its answer.
                let mut gone = site.gate_stream();
                write!(gone, "GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
                continue;
            }
            let status = exchange(&mut stream, url).unwrap_or_else(|| {
                stream = site.gate_stream();
                exchange(&mut stream, url).expect("an answer on a fresh connection")
            });
            assert_eq!(status, wanted, "{url}\n{}", site.log());
            asked += 1;
        }
        asked
    }
}

/// The status of one answer on a connection that stays; `None` where the service has closed it.
fn exchange(stream: &mut UnixStream, url: &str) -> Option<u16> {
    write!(stream, "GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(&buffer[..length]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse::<usize>().ok()?;
        if bytes.len() == end + 4 + length {
            return head.get(9..12)?.parse().ok();
        }
    }
}
