//! Several gates that share a store: one of them renders, a dead one is not waited for, and what one purges is gone for all.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    buckets::{self, Hands, ObjectServer},
    gate::Gate,
    harness::{OPS_TOKEN, Response, Site, wait_for},
    servers::{self, Server},
};

/// How long a silent gate keeps a lease in these tests.
const LEASE: Duration = Duration::from_secs(2);

/// A way to agree, and the server that it needs.
struct Way {
    name: &'static str,
    server: Option<Box<dyn Server>>,
    bucket: Option<(ObjectServer, TempDir)>,
    store: String,
    config: String,
}

impl Way {
    /// Renditions in the store.
    fn stored(&self, site: &Site) -> usize {
        match &self.bucket {
            None => site.stored().len(),
            Some((server, _)) => Hands::new(server.port, BUCKET).stored("").len(),
        }
    }
}

const BUCKET: &str = "renditions";

/// Those that this machine can run.
fn ways() -> Vec<Way> {
    let config = |kind: &str, url: &str| {
        format!("[coordination]\nkind = \"{kind}\"\n{url}lease_seconds = {}\ntimeout_seconds = 0.5\n", LEASE.as_secs())
    };
    let way = |name, config| Way { name, server: None, bucket: None, store: String::new(), config };
    let mut ways = vec![way("store", config("store", ""))];
    // The other store overwrites what it is asked to create.
    if buckets::is_there("s3s-fs") {
        let folder = tempfile::tempdir().unwrap();
        let server = ObjectServer::start("s3s-fs", folder.path(), &[BUCKET]);
        let store = format!("kind = \"s3\"\n[store.s3]\n{}", buckets::lines(server.port, BUCKET, ""));
        ways.push(Way { store, bucket: Some((server, folder)), ..way("bucket", config("store", "")) });
    }
    for name in ["redis", "postgres"] {
        match servers::start(name) {
            Some(server) => {
                let config = config(name, &format!("url = \"{}\"\n", server.url()));
                ways.push(Way { server: Some(server), ..way(name, config) });
            }
            None => println!("SKIPPED: no {name} on this machine"),
        }
    }
    ways
}

fn site(way: &Way, more: &str) -> Site {
    let site = Site::new(&format!("[store]\n{more}{}{}[ops]\ntoken = \"{OPS_TOKEN}\"\n", way.store, way.config));
    // Slow enough to die in.
    std::fs::write(site.path("media/slow.bmp"), bmp(3000, 2000)).unwrap();
    site.add("photo_land.jpg", "quick.jpg");
    site
}

/// A picture that no encoder finds easy: each pixel follows from its place.
fn bmp(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"BM".to_vec();
    let row = (width * 3).next_multiple_of(4);
    for number in [54 + row * height, 0, 54, 40, width, height, 1 | 24 << 16, 0, 0, 0, 0, 0, 0] {
        bytes.extend(number.to_le_bytes());
    }
    for y in 0..height {
        let start = bytes.len();
        for x in 0..width {
            let noise = (x ^ y.wrapping_mul(2_654_435_761)).wrapping_mul(2_246_822_519) >> 24;
            bytes.extend([(x / 12) as u8, (y / 8) as u8, (noise / 2 + x / 24) as u8]);
        }
        bytes.resize(start + row as usize, 0);
    }
    bytes
}

/// Asks gates in turn, all at the same time: the answers in the order of the asks.
fn ask_all(gates: &[&Gate], target: &str, asks: usize) -> Vec<(Response, Duration)> {
    thread::scope(|scope| {
        let asks: Vec<_> = (0..asks)
            .map(|number| {
                let gate = gates[number % gates.len()];
                scope.spawn(move || {
                    let started = Instant::now();
                    (gate.get(target), started.elapsed())
                })
            })
            .collect();
        asks.into_iter().map(|ask| ask.join().unwrap()).collect()
    })
}

/// What the gates had to say.
fn logs(site: &Site) -> String {
    let read = |number| std::fs::read_to_string(site.path(&format!("log{number}"))).unwrap_or_default();
    (0..3).map(read).collect()
}

/// Asks a gate, and returns when it has begun to render.
fn ask_first(gate: &Gate, target: &str) -> thread::JoinHandle<Response> {
    let led = || gate.metric("sendimage_leases_total{outcome=\"led\"}");
    let (before, asker, target) = (led(), gate.asker(), target.to_owned());
    let asked = thread::spawn(move || asker(&target));
    wait_for(Duration::from_secs(5), || led() > before).expect("it renders");
    asked
}

#[test]
fn three_gates_render_once() {
    for way in ways() {
        let site = site(&way, "");
        let gates: Vec<Gate> = (0..3).map(|number| Gate::start(&site, number)).collect();
        let gates: Vec<&Gate> = gates.iter().collect();
        for round in 0..5 {
            let target = site.sign(&["media/slow.bmp", &format!("width-{}|format-webp", 800 + round)]);
            // This bucket's server looks and then writes: of those that create at the very same moment, all do.
            let first = way.bucket.as_ref().map(|_| ask_first(gates[round as usize % 3], &target));
            let answers = ask_all(&gates, &target, 60);
            assert!(first.is_none_or(|first| first.join().unwrap().status == 200), "{}", way.name);
            assert!(answers.iter().all(|(answer, _)| answer.status == 200), "{}: {:?}", way.name, answers[0]);
        }
        let rendered: f64 = gates.iter().map(|gate| gate.rendered("webp")).sum();
        assert_eq!(rendered, 5.0, "{}\n{}", way.name, logs(&site));
        assert_eq!(way.stored(&site), 5);
        let outcomes = |outcome: &str| -> f64 {
            gates.iter().map(|gate| gate.metric(&format!("sendimage_requests_total{{outcome=\"{outcome}\"}}"))).sum()
        };
        assert_eq!(outcomes("rendered"), 5.0, "{}", way.name);
        let asked = if way.bucket.is_some() { 305.0 } else { 300.0 };
        assert_eq!(outcomes("rendered") + outcomes("joined") + outcomes("hit"), asked);
    }
}

/// The gate that is rendering, once one is.
fn leader<'a>(gates: &[&'a Gate]) -> &'a Gate {
    let mut found = None;
    wait_for(Duration::from_secs(10), || {
        found = gates.iter().copied().find(|gate| gate.metric("sendimage_leases_total{outcome=\"led\"}") > 0.0);
        found.is_some()
    })
    .expect("one of them renders");
    found.unwrap()
}

#[test]
fn a_gate_that_dies_or_freezes_is_taken_over() {
    for way in ways() {
        for (signal, limit) in [(Signal::KILL, LEASE + Duration::from_secs(2)), (Signal::STOP, LEASE * 2)] {
            let site = site(&way, "");
            let before = way.stored(&site);
            let gates: Vec<Gate> = (0..2).map(|number| Gate::start(&site, number)).collect();
            let target = site.sign(&["media/slow.bmp", "width-2000|format-avif"]);
            let both: Vec<&Gate> = gates.iter().collect();
            let took = thread::scope(|scope| {
                // Whoever asks the gate that dies has no answer from it; through nginx it would have the other's.
                for gate in &both {
                    let target = &target;
                    scope.spawn(move || gate.get(target));
                }
                let leader = leader(&both);
                leader.signal(signal);
                let struck = Instant::now();
                let other = both.iter().find(|gate| !std::ptr::eq(**gate, leader)).unwrap();
                let begun = || {
                    other.metric("sendimage_leases_total{outcome=\"taken_over\"}")
                        + other.metric("sendimage_leases_total{outcome=\"led\"}")
                };
                wait_for(limit, || begun() > 0.0)
                    .unwrap_or_else(|()| panic!("{} {signal:?}: nobody took over within {limit:?}", way.name));
                let took = struck.elapsed();
                assert_eq!(other.get(&target).status, 200, "{}", way.name);
                leader.signal(Signal::CONT);
                took
            });
            println!("{}: after {signal:?} another gate took over within {took:?}", way.name);
            assert_eq!(way.stored(&site) - before, 1);
        }
    }
}

#[test]
fn without_the_coordinator_every_image_is_served_all_the_same() {
    for way in ways() {
        let Some(server) = &way.server else { continue };
        let site = site(&way, "");
        let gates: Vec<Gate> = (0..2).map(|number| Gate::start(&site, number)).collect();
        let both: Vec<&Gate> = gates.iter().collect();
        let ask = |name: &str, width: u32| {
            let target = site.sign(&["media/quick.jpg", &format!("width-{width}|format-webp")]);
            let answers = ask_all(&both, &target, 10);
            assert!(answers.iter().all(|(answer, _)| answer.status == 200), "{} {name}", way.name);
            answers.iter().map(|(_, took)| *took).max().unwrap()
        };
        ask("there", 100);
        server.pause();
        let frozen = ask("frozen", 101);
        let soon_after = ask("frozen still", 102);
        server.resume();
        println!("{}: frozen, the first render took {frozen:?}, the next {soon_after:?}", way.name);
        assert!(frozen < Duration::from_secs(4) && soon_after < Duration::from_secs(4));
        server.stop();
        ask("gone", 103);
        for gate in &both {
            let ready = gate.ops("GET", "/health/ready", "").unwrap();
            assert_eq!(ready.status, 200, "a gate that must go alone is ready");
        }
        assert!(gates.iter().all(|gate| gate.metric("sendimage_coordination_up") == 0.0), "{}", way.name);
        server.start();
        let back = Instant::now();
        wait_for(Duration::from_secs(5), || {
            let probed =
                |gate: &Gate| gate.ops("GET", "/health/ready", "").map(|_| gate.metric("sendimage_coordination_up"));
            gates.iter().all(|gate| probed(gate) == Some(1.0))
        })
        .unwrap_or_else(|()| panic!("{}: not met again", way.name));
        println!("{}: met again within {:?}", way.name, back.elapsed());
        let before: f64 = gates.iter().map(|gate| gate.rendered("webp")).sum();
        thread::sleep(Duration::from_millis(2100));
        ask("there again", 104);
        let after: f64 = gates.iter().map(|gate| gate.rendered("webp")).sum();
        assert_eq!(after - before, 1.0, "{}", way.name);
    }
}

#[test]
fn what_one_gate_purges_is_gone_for_all_within_a_second() {
    for way in ways() {
        // Lease files carry no news: gates that share nothing else must look each time, as they do by default.
        let Some(_) = &way.server else { continue };
        let site = site(&way, "existence = \"assume\"\n");
        let gates: Vec<Gate> = (0..2).map(|number| Gate::start(&site, number)).collect();
        let hears = |gate: &Gate| gate.ops("GET", "/health/ready", "").is_some();
        assert!(gates.iter().all(hears));
        let target = site.sign(&["media/quick.jpg", "width-90|format-webp"]);
        let mut slowest = Duration::ZERO;
        for round in 0..10 {
            for gate in &gates {
                assert_eq!(gate.get(&target).status, 200);
                assert_eq!(gate.get(&target).status, 200);
            }
            let (here, there) = (&gates[round % 2], &gates[(round + 1) % 2]);
            let renders = there.rendered("webp");
            let purged = here.ops("POST", "/purge", r#"{"refs": ["media/quick.jpg"]}"#).unwrap();
            assert_eq!(purged.status, 200, "{}", purged.text());
            let ended = Instant::now();
            // Until it has heard, it hands over what is not there.
            wait_for(Duration::from_secs(1), || {
                assert_eq!(there.get(&target).status, 200);
                there.rendered("webp") > renders
            })
            .unwrap_or_else(|()| panic!("{}: not within a second", way.name));
            slowest = slowest.max(ended.elapsed());
        }
        println!("{}: a purge was seen by the other gate within {slowest:?} (10 rounds)", way.name);
    }
}
