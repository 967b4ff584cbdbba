//! Every system call of the store and source path, failed by strace: each occurrence, with each error that a disk, a quota or a
//! network file system has to offer.

use std::collections::BTreeMap;

use crate::{
    harness::{Response, Site},
    renders::{self, CONFIG, handed_over, leftovers, stored, try_ask},
    report::Row,
    strace::{self, Strace},
    tools::{is_long, random},
};

const ERRORS: [&str; 9] = ["ENOSPC", "EIO", "EROFS", "EDQUOT", "EMFILE", "EACCES", "ESTALE", "EINTR", "EPERM"];
const SPEC: &str = "width-90|format-jpeg";

/// A service whose every request is a render of a source image that nobody has asked for yet: probe, record and rendition.
struct Bench {
    site: Site,
    bytes: Vec<u8>,
    pid: u32,
    workers: Vec<i32>,
    sources: usize,
}

/// What one case came to.
struct Outcome {
    status: u16,
    /// The calls that failed, in strace's words.
    injected: Vec<String>,
    /// All traced calls.
    traced: Vec<String>,
    /// Store errors that the service has counted, by kind.
    counted: BTreeMap<String, f64>,
}

impl Bench {
    fn new() -> Self {
        let mut site = Site::new(&format!("{CONFIG}[render]\nworkers = 1\nrecycle_after_jobs = 0\n"));
        renders::start_by(&mut site, &["env", "TOKIO_WORKER_THREADS=1"]);
        let (pid, workers) = (site.service_pid(), site.workers());
        let mut bench = Self { site, bytes: Vec::new(), pid, workers, sources: 0 };
        let (url, _) = bench.fresh();
        let path = handed_over(&try_ask(&bench.site, &url).unwrap());
        bench.bytes = std::fs::read(bench.site.path("renditions").join(path)).unwrap();
        bench
    }

    /// The URL of a rendition of a new source image, and the source's name. What came before is removed.
    fn fresh(&mut self) -> (String, String) {
        let _ = std::fs::remove_file(self.site.path(&format!("media/{}.jpg", self.sources)));
        self.sources += 1;
        let name = format!("{}.jpg", self.sources);
        renders::add(&self.site, "photo.jpg", &name);
        // Never empty: then it would look like a file system that is not mounted.
        renders::add(&self.site, "photo.jpg", "photo.jpg");
        (renders::url(&format!("media/{name}"), SPEC), name)
    }

    fn store_errors(&self) -> BTreeMap<String, f64> {
        let text = self.site.ops("/metrics").unwrap().text();
        let kinds = text.lines().filter_map(|line| line.strip_prefix("sendimage_store_errors_total{kind=\""));
        kinds
            .filter_map(|line| line.split_once("\"} "))
            .map(|(kind, n)| (kind.to_owned(), n.parse().unwrap()))
            .collect()
    }

    /// One request of a new source image under these rules, traced in this process; then the same again undisturbed.
    fn case(&mut self, traced: Process, rules: &[&str], what: &str) -> Outcome {
        let (url, _) = self.fresh();
        let before = self.store_errors();
        let pid = match traced {
            Process::Gate => self.pid as i32,
            Process::Worker => self.workers[0],
        };
        let strace = Strace::attach_to(&[pid], &self.site.path("strace"), rules);
        let answer = try_ask(&self.site, &url);
        let traced = strace.end();
        let answer = answer.unwrap_or_else(|| panic!("{what}: no answer\n{}", self.site.log()));
        let mut counted = self.store_errors();
        counted.retain(|kind, count| {
            *count -= before.get(kind).unwrap_or(&0.0);
            *count > 0.0
        });
        let injected = traced.iter().filter(|line| line.contains("(INJECTED)")).cloned().collect();
        self.check(&answer, what);
        // No restart and no pause: the fault is over, so is the trouble.
        let again = try_ask(&self.site, &url).unwrap();
        assert_eq!(again.status, 200, "{what}: afterwards\n{}", self.site.log());
        assert!(self.stored_bytes(&again) == self.bytes, "{what}: afterwards");
        Outcome { status: answer.status, injected, traced, counted }
    }

    /// The path of the next temporary file: they are numbered.
    fn next_temporary(&mut self) -> String {
        let traced = self.case(Process::Gate, &["-e", "trace=renameat"], "undisturbed").traced;
        let last = traced.last().expect("a rename");
        let from =
            last.find(".tmp-").filter(|_| !last.contains("unfinished")).and_then(|_| last.split('"').nth(1)).unwrap();
        let (name, number) = from.rsplit_once('-').unwrap();
        let number = u64::from_str_radix(number, 16).unwrap() + 1;
        self.site.path(&format!("renditions/r1/.tmp-drafts/{name}-{number:x}")).to_str().unwrap().to_owned()
    }

    fn stored_bytes(&self, answer: &Response) -> Vec<u8> {
        std::fs::read(self.site.path("renditions").join(handed_over(answer))).unwrap()
    }

    /// What holds whatever fails: the process lives, and no bad file has a final name.
    fn check(&self, answer: &Response, what: &str) {
        assert_eq!(self.site.workers(), self.workers, "{what}: a worker died\n{}", self.site.log());
        assert!(std::path::Path::new(&format!("/proc/{}", self.pid)).exists());
        match answer.status {
            200 => assert!(self.stored_bytes(answer) == self.bytes, "{what}: a wrong file was handed over"),
            503 => {
                assert!(answer.header("retry-after").is_some(), "{what}");
                assert!(answer.header("x-accel-redirect").is_none(), "{what}");
            }
            status => panic!("{what}: {status}\n{}", self.site.log()),
        }
        let store = self.site.path("renditions");
        for path in stored(&store) {
            assert!(std::fs::read(store.join(&path)).unwrap() == self.bytes, "{what}: {path}");
        }
        let left = leftovers(&store);
        assert!(left.is_empty(), "{what}: {left:?}");
    }

    /// The store starts anew, so that looking at all of it stays quick.
    fn forget(&self) {
        for entry in std::fs::read_dir(self.site.path("renditions/r1")).unwrap().flatten() {
            if entry.file_name() != ".tmp-drafts" {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    Gate,
    Worker,
}

/// Whether a call is one of the store or source path that can fail. An injected `close` would be a lie: the kernel closes the
/// descriptor whatever it says, and strace keeps it open. `sendmsg` and `recvmsg` merely pass descriptors on, and `F_GETFD` is a
/// debug build's own.
fn matters(line: &str) -> bool {
    (line.contains("/renditions") || line.contains("/media"))
        && !line.contains("F_GETFD")
        && !["close", "sendmsg", "recvmsg"].contains(&call_of(line))
}

fn call_of(line: &str) -> &str {
    line.split_once(' ').and_then(|(_, rest)| rest.trim_start().split_once('(')).map_or("", |(call, _)| call)
}

/// What must come of it, by the call that failed. `None`: it depends on whose call it was.
fn expected(line: &str, error: &str) -> Option<u16> {
    let of_source = line.contains("/media");
    match (call_of(line), error) {
        (_, "EINTR") => Some(200),
        // Stale once is no trouble: the second look finds what is there.
        ("openat2" | "statx", "ESTALE") if of_source => Some(200),
        ("openat2" | "pread64", _) if of_source => Some(503),
        ("fsync" | "fchmod" | "utimensat" | "pwrite64" | "ftruncate", _) => Some(503),
        ("renameat", _) if line.contains(".jpg") => Some(503),
        // A record is not needed to serve its image.
        ("renameat" | "write", _) => Some(200),
        _ => None,
    }
}

/// F04 F05 F07 F08 F10 F20 F36.
#[test]
fn each_fails_with_each_error() {
    let row = Row::begin("every call fails with every error", "F04 F05 F07 F08 F09 F10 F20 F36");
    if !strace::is_possible() {
        return row.skipped("needs root and strace");
    }
    let mut random = random("failing calls");
    let mut bench = Bench::new();
    let (mut cases, mut refused, mut served, mut missed) = (0, 0, 0, 0);
    let mut calls = BTreeMap::<String, usize>::new();
    for process in [Process::Gate, Process::Worker] {
        let undisturbed = bench.case(process, &[], "undisturbed");
        assert_eq!(undisturbed.status, 200);
        let counts = strace::occurrences(&undisturbed.traced, matters);
        for (call, count) in counts {
            let traced = format!("trace={call}");
            let count = if call == "write" { 1 } else { count };
            for number in 1..=count {
                let mut errors = ERRORS.to_vec();
                if !is_long() {
                    random.shuffle(&mut errors);
                    errors.truncate(1);
                }
                // No kernel breaks off the copying of a descriptor's number.
                errors.retain(|error| (call.as_str(), *error) != ("fcntl", "EINTR"));
                for error in errors {
                    let what = format!("{process:?} {call} {number} {error}");
                    // A worker's filter of system calls would kill it for the -1 that strace puts in a failed call's place.
                    let mut rules = vec!["-e".to_owned(), traced.clone(), "-e".to_owned()];
                    if call == "write" {
                        // The one of a record, and none to the descriptor by which threads wake each other.
                        rules.push(format!("inject={call}:error={error}:syscall=getpid:when=1"));
                        rules.extend(["-P".to_owned(), bench.next_temporary()]);
                    } else {
                        rules.push(format!("inject={call}:error={error}:syscall=getpid:when={number}"));
                    }
                    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
                    let outcome = bench.case(process, &rules, &what);
                    // Which thread takes what is not the same each time.
                    if outcome.injected.is_empty() {
                        missed += 1;
                        continue;
                    }
                    let log = bench.site.log();
                    let last = log.lines().last().unwrap_or_default();
                    let context = format!("{what}\n{}\n{last}", outcome.injected.join("\n"));
                    let expected: Vec<_> = outcome.injected.iter().filter_map(|line| expected(line, error)).collect();
                    if expected.contains(&503) {
                        assert_eq!(outcome.status, 503, "{context}");
                    } else if expected.len() == outcome.injected.len() {
                        assert_eq!(outcome.status, 200, "{context}");
                    }
                    if outcome.status == 503 && outcome.injected.iter().all(|line| line.contains("/renditions")) {
                        assert!(
                            outcome.counted.contains_key(&error.to_lowercase()),
                            "{context}\n{:?}",
                            outcome.counted
                        );
                    }
                    if call == "fsync" && error != "EINTR" {
                        assert_eq!(
                            outcome.traced.iter().filter(|line| line.contains("fsync(")).count(),
                            1,
                            "{context}"
                        );
                    }
                    cases += 1;
                    *calls.entry(call.clone()).or_default() += 1;
                    if outcome.status == 200 { served += 1 } else { refused += 1 }
                }
                bench.forget();
            }
        }
    }
    assert!(refused > 0 && served > 0 && cases > missed, "{cases} cases, {missed} missed: {calls:?}");
    row.passed(&format!(
        "{cases} cases of {} calls: {refused} answered 503, {served} served all the same; 0 deaths, 0 bad files, 0 temporary \
         files left; each the same request at once served ({missed} more cases met no call)",
        calls.len()
    ));
}
