//! The service and its workers killed with SIGKILL, at random moments and at every system call of a render.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    harness::{Site, wait_for},
    renders::{self, CONFIG, FORMATS, Reference, handed_over, leftovers, try_ask},
    report::Row,
    strace::{self, Strace},
    tools::{random, scale},
};

/// From the start of the process to the first rendition served.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// Kills the service and waits until it and its workers are gone.
fn kill(site: &mut Site) {
    let workers = site.workers();
    site.signal(Signal::KILL);
    site.wait();
    let gone = || !workers.iter().any(|pid| is_alive(*pid as u32));
    wait_for(Duration::from_secs(5), gone).expect("workers die with the service");
}

/// Starts the service again and asks it for what it owes: how long that took. Nothing temporary is left a moment later.
fn restart(site: &mut Site, program: &[&str], owed: &str) -> (Duration, crate::harness::Response) {
    let began = Instant::now();
    if program.is_empty() {
        site.start()
    } else {
        renders::start_by(site, program)
    }
    let answer = try_ask(site, owed).expect("an answer");
    let took = began.elapsed();
    assert_eq!(answer.status, 200, "{owed}\n{}", site.log());
    let store = site.path("renditions");
    if wait_for(Duration::from_secs(5), || leftovers(&store).is_empty()).is_err() {
        panic!("left after the sweep: {:?}", leftovers(&store));
    }
    (took, answer)
}

/// The restarts of a test: most must be quick, on a machine that has other things to do.
#[derive(Default)]
struct Restarts(Vec<Duration>);

impl Restarts {
    fn sentence(mut self) -> String {
        self.0.sort();
        let (median, last) = (self.0[self.0.len() / 2], self.0[self.0.len() - 1]);
        let within = self.0.iter().filter(|took| **took <= FIRST_ANSWER).count();
        assert!(median <= FIRST_ANSWER, "the first answer came after {median:?}");
        let all = self.0.len();
        format!("first 200 after {median:.2?} (median), {within} of {all} within 1 s, the slowest {last:.2?}")
    }
}

/// F01: whatever the moment, a file under a final name is whole.
#[test]
fn at_random_moments() {
    let row = Row::begin("killed at random moments", "F01 F37");
    let (kills, widths) = (scale(8, 400), scale(6, 24));
    let mut random = random("killed at random moments");
    let mut urls = renders::urls((0..widths).map(|index| 40 + 7 * index));
    let reference = Reference::of(&urls);
    let mut site = Site::new(CONFIG);
    renders::furnish(&site);
    let store = site.path("renditions");
    let mut restarts = Restarts::default();
    let (mut checked, mut litter, mut answered) = (0, 0, 0);
    let mut next = usize::MAX;
    let mut owed = urls[0].clone();
    for _ in 0..kills {
        if next >= urls.len() {
            // All are stored: from the beginning, in another order.
            let _ = std::fs::remove_dir_all(&store);
            random.shuffle(&mut urls);
            next = 0;
        }
        restarts.0.push(restart(&mut site, &[], &owed).0);
        let cursor = AtomicUsize::new(next);
        let unanswered = std::sync::Mutex::new(None);
        let moment = Duration::from_micros(random.u64(0..150_000));
        answered += std::thread::scope(|scope| {
            let load = || {
                let mut answered = 0;
                while let Some(url) = urls.get(cursor.fetch_add(1, Ordering::Relaxed)) {
                    let Some(answer) = try_ask(&site, url) else {
                        *unanswered.lock().unwrap() = Some(url.clone());
                        break;
                    };
                    assert_eq!(answer.status, 200, "{url}");
                    // What was handed over stays.
                    assert!(store.join(handed_over(&answer)).is_file());
                    answered += 1;
                }
                answered
            };
            let clients = [scope.spawn(load), scope.spawn(load), scope.spawn(load)];
            std::thread::sleep(moment);
            site.signal(Signal::KILL);
            clients.into_iter().map(|client| client.join().unwrap()).sum::<usize>()
        });
        kill(&mut site);
        next = cursor.into_inner();
        owed = unanswered.into_inner().unwrap().unwrap_or(owed);
        checked += reference.check(&store);
        litter += leftovers(&store).len();
    }
    restarts.0.push(restart(&mut site, &[], &owed).0);
    checked += reference.check(&store);
    row.passed(&format!(
        "{kills} kills among {answered} renders: {checked} files compared, 0 incomplete; {litter} temporary files left, 0 \
         after the sweep; {}",
        restarts.sentence()
    ));
}

/// F01: at each boundary between a render and the kernel. The service's umask would hide new folders from nginx, were it left
/// to decide.
#[test]
fn at_every_system_call() {
    let row = Row::begin("killed at every system call", "F01");
    if !strace::is_possible() {
        return row.skipped("needs root and strace");
    }
    let urls: Vec<String> = FORMATS.map(|(image, spec)| renders::url(image, &spec.replace("{}", "90"))).into();
    let reference = Reference::of(&urls);
    let shell = ["sh", "-c", "umask 077; exec \"$0\" \"$@\"", "env", "TOKIO_WORKER_THREADS=1"];
    let mut random = random("killed at every system call");
    let mut site = Site::new(&format!("{CONFIG}[render]\nworkers = 1\n"));
    renders::furnish(&site);
    let store = site.path("renditions");
    let mut restarts = Restarts::default();
    let mut kills = BTreeMap::<String, usize>::new();
    let mut litter = 0;
    renders::start_by(&mut site, &shell);
    for (index, url) in urls.iter().enumerate() {
        // What a render calls when nobody disturbs it.
        let forget = |site: &Site| {
            let _ = std::fs::remove_dir_all(site.path("renditions/r1"));
        };
        forget(&site);
        let strace = Strace::attach(&site, &[]);
        let path = handed_over(&try_ask(&site, url).unwrap());
        let gate = site.service_pid();
        let workers = site.workers();
        let lines: Vec<String> = strace.end();
        let threads: Vec<String> = workers.iter().map(|pid| pid.to_string()).collect();
        let of_gate = |line: &String| line.split(' ').next().is_some_and(|thread| !threads.iter().any(|t| t == thread));
        let lines: Vec<String> = lines.into_iter().filter(of_gate).collect();
        let counts = strace::occurrences(&lines, |_| true);
        let mut points: Vec<(String, usize)> =
            counts.into_iter().flat_map(|(call, count)| (1..=count).map(move |n| (call.clone(), n))).collect();
        if !crate::tools::is_long() {
            // A few of each format, and of the first one a few more.
            random.shuffle(&mut points);
            points.truncate(if index == 0 { 6 } else { 1 });
        }
        assert_eq!(gate, site.service_pid());
        for (call, number) in points {
            kill(&mut site);
            forget(&site);
            renders::start_by(&mut site, &shell);
            let traced = format!("trace={call}");
            let inject = format!("inject={call}:signal=KILL:when={number}");
            // The gate only: what becomes of a render whose worker dies is another test's.
            let strace =
                Strace::attach_to(&[site.service_pid() as i32], &site.path("strace"), &["-e", &traced, "-e", &inject]);
            let answer = try_ask(&site, url);
            let dead = wait_for(Duration::from_millis(if answer.is_none() { 5_000 } else { 50 }), || {
                !is_alive(site.service_pid())
            })
            .is_ok();
            if dead {
                strace.abandon()
            } else {
                drop(strace)
            }
            assert!(dead || answer.is_some(), "{call} {number}: neither dead nor an answer");
            if dead {
                *kills.entry(call.clone()).or_default() += 1;
                kill(&mut site);
                assert!(reference.check(&store) <= 1);
                litter += leftovers(&store).len();
                let (took, answer) = restart(&mut site, &shell, url);
                restarts.0.push(took);
                assert_eq!(handed_over(&answer), path);
            }
            assert_eq!(reference.check(&store), 1, "{call} {number}");
            assert_readable_by_nginx(&store, &format!("{call} {number}"));
        }
    }
    let total: usize = kills.values().sum();
    assert!(total > 0 && kills.len() > 3, "{kills:?}");
    row.passed(&format!(
        "{} formats, {total} kills at {} different calls: 0 incomplete files; {litter} temporary files left, 0 after the \
         sweep; {}",
        urls.len(),
        kills.len(),
        restarts.sentence()
    ));
}

/// Whether a process runs, or could: a zombie does not.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Folders and files have the modes of the config, whatever the service's umask is and whenever it was killed.
fn assert_readable_by_nginx(store: &std::path::Path, when: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for path in renders::stored(store) {
        let path = store.join(path);
        assert_eq!(mode(&path), 0o644, "{when}: {}", path.display());
        for folder in path.ancestors().skip(1).take(4) {
            assert_eq!(mode(folder), 0o755, "{when}: {}", folder.display());
        }
    }
}

/// Workers that are ready for jobs.
fn ready(site: &Site) -> u64 {
    let says: serde_json::Value = serde_json::from_slice(&site.ops("/health/ready").unwrap().body).unwrap();
    says["workers"].as_u64().unwrap()
}

/// F02: a worker that is killed costs a retry on another one. Everybody gets an answer, and nothing half is stored.
#[test]
fn a_worker_at_random_moments() {
    let row = Row::begin("a render worker killed at random moments", "F02");
    let kills = scale(15, 600);
    let mut random = random("a worker killed");
    let urls = renders::urls((0..scale(4, 40)).map(|index| 50 + 5 * index));
    let reference = Reference::of(&urls);
    let site = Site::new(&format!("{CONFIG}[render]\nworkers = 2\n"));
    renders::furnish(&site);
    let site = site.serve();
    let (pid, store) = (site.service_pid(), site.path("renditions"));
    let (mut hurt, mut answers, mut slowest) = (0, 0, Duration::ZERO);
    for kill in 0..kills {
        let url = &urls[kill % urls.len()];
        if kill % urls.len() == 0 {
            reference.check(&store);
            let _ = std::fs::remove_dir_all(&store);
        }
        let moment = Duration::from_micros(random.u64(0..40_000));
        let began = Instant::now();
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let ask = || try_ask(&site, url).map_or(0, |answer| answer.status);
            let clients: Vec<_> = (0..6).map(|_| scope.spawn(ask)).collect();
            std::thread::sleep(moment);
            let workers = site.workers();
            let worker = workers[random.usize(0..workers.len())];
            kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        slowest = slowest.max(began.elapsed());
        assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}\n{}", site.log());
        answers += statuses.len();
        // All six wait for the same render: it fails for all or for none.
        hurt += usize::from(statuses.contains(&503));
        assert_eq!(try_ask(&site, url).unwrap().status, 200);
        // One kill for each render, not two.
        let replaced = || site.metric("sendimage_workers_died_total{cause=\"SIGKILL\"}") > kill as f64;
        wait_for(Duration::from_secs(10), || replaced() && ready(&site) == 2).expect("the worker is replaced");
    }
    assert_eq!(pid, site.service_pid());
    assert!(is_alive(pid));
    reference.check(&store);
    assert_eq!(hurt, 0, "{hurt} of {kills} renders were lost to one killed worker");
    wait_for(Duration::from_secs(2), || leftovers(&store).is_empty()).expect("no temporary file is left");
    row.passed(&format!(
        "{kills} kills: {answers} of {answers} requests answered, {hurt} renders given up, 0 incomplete files; the slowest answer {slowest:.2?}"
    ));
}
