//! What is in a render worker's reach: nothing that is worth having. And what its death costs: nothing that somebody notices.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::{
        fs::{FileExt, MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::process::{Pid, Signal, kill_process};
use sendimage::workers::self_test::{Layer, self_test};

use crate::{
    client::{Client, Fields, native, path_url, wagtail},
    harness::{KEY, SENDIMAGE, Site, children_of, wait_for},
    report::Row,
    tools::{self, scale},
};

/// Every form of every secret of the config below.
struct Secret {
    name: &'static str,
    bytes: Vec<u8>,
}

const TEXT: &[u8] = b"canary of the key given as text!";
const BINARY: &[u8] = b"\x01canary of the key in base64\xFE\xFF";
const FILED: &[u8] = b"canary of the key in a file.....";
const SITES: &[u8] = b"canary of the site's SECRET_KEY!";
const ENVIRONMENT: &str = "canary of the gate's environment";
const COOKIE: &str = "canary-of-a-session-cookie";

fn config() -> String {
    format!(
        "[signing]\nkeys = [{{ id = \"a\", secret = \"{}\" }}, {{ id = \"b\", secret_base64 = \"{}\" }}, \
         {{ id = \"c\", secret_file = \"{{dir}}/key\" }}]\nwagtail_keys = [\"{}\"]\n[log]\nlevel = \"trace\"\n\
         [catalogue]\nkind = \"manifest\"\nfile = \"{{dir}}/images.csv\"\nsource = \"media\"\n[render]\nworkers = 2\n",
        String::from_utf8_lossy(TEXT),
        STANDARD.encode(BINARY),
        String::from_utf8_lossy(SITES),
    )
}

/// The keys as they are written, and what HMAC makes of them: padded, and absorbed into the hash's state.
fn secrets() -> Vec<Secret> {
    let mut secrets = Vec::new();
    for (name, key) in [("text", TEXT), ("base64", BINARY), ("file", FILED), ("wagtail", SITES)] {
        secrets.push(Secret { name, bytes: key.to_vec() });
        secrets.push(Secret { name, bytes: STANDARD.encode(key).into_bytes() });
        for pad in [0x36_u8, 0x5C] {
            let mut block = [pad; 64];
            block.iter_mut().zip(key).for_each(|(place, byte)| *place ^= byte);
            secrets.push(Secret { name, bytes: block[..key.len()].to_vec() });
            // FIPS 180-4, 5.3: where both hashes begin.
            let mut state: Vec<u32> = if name == "wagtail" {
                let mut state = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0];
                sha1::block_api::compress(&mut state, &[block]);
                state.to_vec()
            } else {
                let mut state = [
                    0x6A09_E667,
                    0xBB67_AE85,
                    0x3C6E_F372,
                    0xA54F_F53A,
                    0x510E_527F,
                    0x9B05_688C,
                    0x1F83_D9AB,
                    0x5BE0_CD19,
                ];
                sha2::block_api::compress256(&mut state, &[block]);
                state.to_vec()
            };
            state.truncate(5);
            let name = if name == "wagtail" { "state, wagtail" } else { "state, native" };
            secrets.push(Secret { name, bytes: state.iter().flat_map(|word| word.to_ne_bytes()).collect() });
            secrets.push(Secret {
                name: "state in order",
                bytes: state.iter().flat_map(|word| word.to_be_bytes()).collect(),
            });
        }
    }
    let said = Fields { subject: "media".into(), spec: "width-40".into(), path: "a.jpg".into(), ..Fields::default() };
    secrets.push(Secret { name: "signature", bytes: native(TEXT, &said).into_bytes() });
    secrets.push(Secret { name: "signature", bytes: wagtail(SITES, "42", "width-41").into_bytes() });
    secrets.push(Secret { name: "environment", bytes: ENVIRONMENT.into() });
    secrets.push(Secret { name: "cookie", bytes: COOKIE.into() });
    secrets
}

/// The names of the secrets that are somewhere in these bytes.
fn found_in(bytes: &[u8], secrets: &[Secret]) -> Vec<&'static str> {
    let mut by_start = vec![Vec::new(); 1 << 16];
    for secret in secrets {
        by_start[usize::from(u16::from_ne_bytes([secret.bytes[0], secret.bytes[1]]))].push(secret);
    }
    let mut found = Vec::new();
    for (at, pair) in bytes.windows(2).enumerate() {
        for secret in &by_start[usize::from(u16::from_ne_bytes([pair[0], pair[1]]))] {
            if bytes[at..].starts_with(&secret.bytes) {
                found.push(secret.name);
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Every byte that a process has mapped and may read, in one piece for each mapping.
fn mapped(pid: i32) -> Vec<Vec<u8>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut pieces = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        if !rights.starts_with('r')
            || line.ends_with("[vvar]")
            || line.ends_with("[vsyscall]")
            || line.contains("[vvar_")
        {
            continue;
        }
        let mut bytes = vec![0; (end - start) as usize];
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            pieces.push(bytes);
        }
    }
    pieces
}

/// T31: a worker holds no key in any form, no signature, no cookie and nothing of the gate's environment.
#[test]
fn no_secret_reaches_a_worker() {
    let row = Row::begin("no secret reaches a worker", "T31");
    if !tools::is_root() {
        return row.skipped("reading the memory of workers takes root");
    }
    let mut site = Site::new(&config());
    fs::write(site.path("key"), FILED).unwrap();
    fs::write(site.path("images.csv"), "id,file\n42,a.jpg\n").unwrap();
    for (image, name) in
        [("photo_land.jpg", "a.jpg"), ("photo.avif", "b.avif"), ("anim.gif", "c.gif"), ("alpha.webp", "d.webp")]
    {
        site.add(image, name);
    }
    site.start_by(SENDIMAGE.as_ref(), |command| {
        command.env("SITE_PASSWORD", ENVIRONMENT);
    });
    let secrets = secrets();
    let (mut bytes, mut looked) = (0, 0);
    let mut check = |site: &Site, when: &str| {
        let workers = site.workers();
        assert_eq!(workers.len(), 2, "{when}");
        for pid in workers {
            let pieces = mapped(pid);
            for piece in &pieces {
                assert_eq!(found_in(piece, &secrets), [""; 0], "{when}: in the memory of a worker");
            }
            bytes += pieces.iter().map(Vec::len).sum::<usize>();
            looked += 1;
            for name in ["environ", "cmdline", "auxv", "status"] {
                let told = fs::read(format!("/proc/{pid}/{name}")).unwrap();
                assert_eq!(found_in(&told, &secrets), [""; 0], "{when}: {name}");
                assert!(name != "environ" || told.is_empty(), "{when}: {}", String::from_utf8_lossy(&told));
            }
            let descriptors = descriptors(pid);
            let known = |(number, name): (&i32, &PathBuf)| {
                let name = name.display().to_string();
                match number {
                    0 => name.starts_with("socket:"),
                    1 => name == "/dev/null",
                    2 => name.starts_with("pipe:"),
                    // A job's: the source, the output, a watermark.
                    3..=5 => name.contains("/media/") || name.contains("/renditions/"),
                    _ => false,
                }
            };
            assert!(descriptors.iter().all(known), "{when}: {descriptors:?}");
            let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            assert!(limits.contains("Max core file size        0                    0"), "{limits}");
        }
    };
    check(&site, "before the first job");
    let cookie = format!("Cookie: session={COOKIE}\r\nAuthorization: Bearer {COOKIE}\r\n");
    let ask = |target: &str| Client::gate(&site).get_with(target.as_bytes(), &cookie).status;
    let urls = |width: usize| -> Vec<String> {
        let paths = ["a.jpg", "b.avif", "c.gif", "d.webp"];
        let mut urls: Vec<String> = paths.iter().map(|path| path_url(TEXT, path, &format!("width-{width}"))).collect();
        urls.push(path_url(BINARY, "a.jpg", &format!("width-{}|format-webp", width)));
        urls.push(path_url(FILED, "a.jpg", &format!("width-{}|format-avif", width)));
        urls.push(format!("/images/{}/42/width-{}/", wagtail(SITES, "42", &format!("width-{}", width + 1)), width + 1));
        urls
    };
    let rounds = scale(2, 40);
    for round in 0..rounds {
        for url in urls(40 + 2 * round) {
            assert_eq!(ask(&url), 200, "{}", site.log());
        }
        if round % 10 == 0 {
            check(&site, "after jobs");
        }
    }
    // In the middle of jobs: both workers are stopped with one at hand.
    std::thread::scope(|scope| {
        let large = [
            path_url(TEXT, "a.jpg", "scale-350|format-webp"),
            path_url(TEXT, "b.avif", "scale-350|format-webp-lossless"),
        ];
        let jobs: Vec<_> = large
            .map(|url| {
                scope.spawn({
                    let site = &site;
                    move || Client::gate(site).get(url.as_bytes()).status
                })
            })
            .into();
        let busy = || site.workers().iter().all(|pid| descriptors(*pid).len() > 3);
        let met = wait_for(Duration::from_secs(10), busy);
        site.workers().iter().for_each(|pid| send(*pid, Signal::STOP));
        check(&site, "in the middle of jobs");
        site.workers().iter().for_each(|pid| send(*pid, Signal::CONT));
        assert!(met.is_ok(), "both workers were at work");
        for job in jobs {
            assert_eq!(job.join().unwrap(), 200);
        }
    });
    // The control: the same search finds the keys where they have to be.
    let gate = site.service_pid() as i32;
    let held: Vec<_> = mapped(gate).iter().flat_map(|piece| found_in(piece, &secrets)).collect();
    for name in ["state, native", "state, wagtail", "environment"] {
        assert!(held.contains(&name), "the search finds nothing in the gate itself: {held:?}");
    }
    // And the gate tells nobody.
    let cmdline = fs::read(format!("/proc/{gate}/cmdline")).unwrap();
    assert_eq!(found_in(&cmdline, &secrets), [""; 0]);
    site.assert_logs("served");
    assert_eq!(found_in(site.log().as_bytes(), &secrets), [""; 0]);
    let metrics = site.ops("/metrics").unwrap().body;
    assert_eq!(found_in(&metrics, &secrets), [""; 0]);
    row.passed(&format!(
        "{} forms of 4 keys, 2 signatures, a cookie, the environment: not in {} MiB of worker memory (looked at {looked} times, \
         also in the middle of jobs), environment, arguments, descriptors; nor in the gate's arguments, log and metrics; the \
         same search finds them in the gate",
        secrets.len(),
        bytes >> 20
    ));
}

fn send(pid: i32, signal: Signal) {
    // It may have ended meanwhile.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

fn descriptors(pid: i32) -> BTreeMap<i32, PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeMap::new() };
    let name =
        |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, fs::read_link(entry.path()).ok()?));
    entries.flatten().filter_map(name).collect()
}

/// T31: run as a user like any other, the gate's memory is closed to that user's other processes, and to core files.
#[test]
fn the_gates_memory_is_its_own() {
    let row = Row::begin("the gate's memory is its own", "T31");
    if !tools::is_root() {
        return row.skipped("running the service as another user takes root");
    }
    const NOBODY: u32 = 65_534;
    let mut site = Site::new("[render]\nworkers = 1\n");
    site.add("photo_land.jpg", "a.jpg");
    let program = site.path("sendimage");
    fs::copy(SENDIMAGE, &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(site.config(), fs::Permissions::from_mode(0o644)).unwrap();
    chown(site.folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    site.start_by(&program, |command| {
        command.uid(NOBODY).gid(NOBODY);
    });
    let url = path_url(KEY.as_bytes(), "a.jpg", "width-50");
    assert_eq!(Client::gate(&site).get(url.as_bytes()).status, 200, "{}", site.log());
    let gate = site.service_pid();
    let reads = |pid: u32, name: &str| {
        let mut command = Command::new("cat");
        command.arg(format!("/proc/{pid}/{name}")).uid(NOBODY).gid(NOBODY).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap().success()
    };
    // The control: a process of that user that hides nothing.
    let mut other = Command::new("sleep").arg("30").uid(NOBODY).gid(NOBODY).spawn().unwrap();
    let control = wait_for(Duration::from_secs(5), || reads(other.id(), "environ") && reads(other.id(), "auxv"));
    let worker = site.workers()[0] as u32;
    let hidden: Vec<bool> =
        [gate, worker].into_iter().flat_map(|pid| ["environ", "auxv", "maps"].map(|name| reads(pid, name))).collect();
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(control.is_ok());
    assert_eq!(hidden, [false; 6], "a process of the same user reads the gate or a worker");
    assert_eq!(fs::metadata(format!("/proc/{gate}/environ")).unwrap().uid(), 0);
    for pid in [gate, worker] {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        assert!(limits.contains("Max core file size        0                    0"), "{limits}");
    }
    row.passed("run as nobody: nobody's own processes read neither the gate's nor a worker's memory; core files: none");
}

/// Whatever ends a worker ends nothing else: the request is answered by the next one.
#[test]
fn a_worker_that_dies_costs_nobody_an_answer() {
    let row = Row::begin("a worker that dies costs nobody an answer", "F02 F28 F29 F30");
    let site = Site::new("[render]\nworkers = 2\ndeadline_seconds = 3.0\n[log]\nlevel = \"warn\"\n").serve();
    site.add("photo_land.jpg", "a.jpg");
    let died = |cause: &str| site.metric(&format!("sendimage_workers_died_total{{cause=\"{cause}\"}}"));
    // Both are in their sandbox: one that dies before that was never a worker.
    let ready = || site.ops("/health/ready").unwrap().text().contains("\"workers\": 2,") && site.workers().len() == 2;
    let mut width = 20;
    let mut deaths = 0;
    let gate = site.service_pid() as i32;
    let rounds = scale(1, 25);
    for (signal, cause) in [
        (Signal::KILL, "SIGKILL"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::ILL, "SIGILL"),
        (Signal::FPE, "SIGFPE"),
        (Signal::SYS, "SIGSYS"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::TRAP, "SIGTRAP"),
    ] {
        for _ in 0..rounds {
            wait_for(Duration::from_secs(10), ready).expect("two workers");
            let (before, victims) = (died(cause), site.workers());
            victims.iter().for_each(|pid| send(*pid, Signal::STOP));
            width += 1;
            let url = path_url(KEY.as_bytes(), "a.jpg", &format!("width-{width}"));
            std::thread::scope(|scope| {
                let answer = scope.spawn(|| Client::gate(&site).get(url.as_bytes()).status);
                std::thread::sleep(Duration::from_millis(30));
                for pid in &victims {
                    send(*pid, signal);
                    send(*pid, Signal::CONT);
                }
                assert_eq!(answer.join().unwrap(), 200, "{cause}: {}", site.log());
            });
            wait_for(Duration::from_secs(5), || died(cause) == before + 2.0)
                .unwrap_or_else(|()| panic!("{cause}: {}", died(cause)));
            deaths += 2;
        }
    }
    // One that hangs is killed at the deadline; that request is told so, and the next is served.
    for _ in 0..rounds.min(3) {
        wait_for(Duration::from_secs(10), ready).expect("two workers");
        let before = died("deadline");
        site.workers().iter().for_each(|pid| send(*pid, Signal::STOP));
        width += 1;
        let url = path_url(KEY.as_bytes(), "a.jpg", &format!("width-{width}"));
        let began = Instant::now();
        assert_eq!(Client::gate(&site).get(url.as_bytes()).status, 504);
        assert!(began.elapsed() < Duration::from_millis(3_300), "{:?}", began.elapsed());
        assert_eq!(died("deadline"), before + 1.0);
        site.workers().iter().for_each(|pid| send(*pid, Signal::CONT));
        assert_eq!(Client::gate(&site).get(url.as_bytes()).status, 200, "{}", site.log());
    }
    assert_eq!(site.service_pid() as i32, gate);
    wait_for(Duration::from_secs(10), || children_of(gate).len() == 2).expect("no zombie, no orphan");
    row.passed(&format!(
        "{deaths} deaths by 9 signals in the middle of a job: every request answered 200, every cause counted; stopped workers: \
         504 at the deadline, then 200"
    ));
}

/// A memory control group of the test's own, removed at its end.
struct Group(PathBuf);

impl Group {
    /// `None` where groups cannot be made.
    fn new() -> Option<Self> {
        let name = format!("sendimage-test-{}", std::process::id());
        let (v1, v2) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let folder = if v1.join("memory.limit_in_bytes").exists() || v1.join("memory.oom_control").exists() {
            v1.join(name)
        } else if v2.join("cgroup.controllers").exists() {
            let _ = fs::write(v2.join("cgroup.subtree_control"), "+memory");
            v2.join(name)
        } else {
            return None;
        };
        fs::create_dir(&folder).ok()?;
        let group = Self(folder);
        (group.limit_file().exists()).then_some(group)
    }

    fn limit_file(&self) -> PathBuf {
        let v1 = self.0.join("memory.limit_in_bytes");
        if v1.exists() { v1 } else { self.0.join("memory.max") }
    }

    /// Sets the limit, as soon as what is above it has been given back: a worker keeps some of its memory for a second.
    fn limit(&self, bytes: u64) {
        let set = || fs::write(self.limit_file(), bytes.to_string()).is_ok() && self.used() <= bytes;
        wait_for(Duration::from_secs(10), set).expect("the limit can be set");
    }

    fn used(&self) -> u64 {
        let read = |name: &str| fs::read_to_string(self.0.join(name)).ok()?.trim().parse().ok();
        read("memory.usage_in_bytes").or_else(|| read("memory.current")).unwrap()
    }

    fn add(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes end with the site, a moment before or after.
        let _ = wait_for(Duration::from_secs(5), || fs::remove_dir(&self.0).is_ok());
    }
}

/// F27: short of memory, the kernel takes a worker, and the metric says why it went.
#[test]
fn short_of_memory_a_worker_goes_and_it_is_told_why() {
    let row = Row::begin("short of memory a worker goes", "F27");
    let Some(group) = Group::new().filter(|_| tools::is_root()) else {
        return row.skipped("a memory control group takes root, and a kernel that has them");
    };
    let site = Site::new("[render]\nworkers = 1\n[log]\nlevel = \"warn\"\n").serve();
    site.add("photo_land.jpg", "a.jpg");
    let died = |cause: &str| site.metric(&format!("sendimage_workers_died_total{{cause=\"{cause}\"}}"));
    let gate = site.service_pid() as i32;
    group.add(gate);
    // Successors are born in the group.
    let old = site.workers();
    old.iter().for_each(|pid| send(*pid, Signal::KILL));
    wait_for(Duration::from_secs(10), || site.workers().first().is_some_and(|pid| !old.contains(pid)))
        .expect("a worker");
    let ask = |spec: &str| Client::gate(&site).get(path_url(KEY.as_bytes(), "a.jpg", spec).as_bytes()).status;
    assert_eq!(ask("width-50"), 200, "{}", site.log());
    assert_eq!((died("SIGKILL"), died("oom")), (1.0, 0.0), "killed by hand");
    let (rounds, enough) = (scale(1, 5), group.used() + (8 << 20));
    for round in 0..rounds {
        group.limit(enough);
        let large = format!("scale-{}|format-webp", 400 + round);
        let status = ask(&large);
        assert_eq!(status, 503, "{}", site.log());
        assert_eq!(ask("width-50"), 200, "a hit is not hindered");
        assert_eq!(died("oom"), 2.0 * (round + 1) as f64, "{}", site.log());
        // With room again the same request is served: nothing was remembered against it.
        group.limit(4 << 30);
        assert_eq!(ask(&large), 200, "{}", site.log());
    }
    let worker = site.workers()[0];
    send(worker, Signal::KILL);
    wait_for(Duration::from_secs(5), || died("SIGKILL") == 2.0).expect("by hand again, and counted so");
    assert_eq!((died("oom"), site.service_pid() as i32), (2.0 * rounds as f64, gate));
    drop(site);
    drop(group);
    row.passed(&format!(
        "{rounds} times: 2 workers killed by the kernel's OOM killer, counted as oom; the gate lives, 503, then 200 with room; a \
         kill by hand is still SIGKILL"
    ));
}

/// Arbitrary code in a worker: each layer refuses what it should, each tried for real.
#[test]
fn each_layer_holds() {
    let row = Row::begin("each layer of the sandbox holds", "T07 T31");
    let attempts = self_test(Path::new(SENDIMAGE)).unwrap();
    let bad: Vec<_> = attempts.iter().filter(|attempt| !attempt.is_good()).map(ToString::to_string).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let of = |layer: Layer| attempts.iter().filter(|attempt| attempt.layer == layer).count();
    row.passed(&format!(
        "{} attempts in children of their own: {} without a layer succeed; limits {}, Landlock {}, seccomp {}, all together {} \
         refused",
        attempts.len(),
        of(Layer::Control),
        of(Layer::Limits),
        of(Layer::Landlock),
        of(Layer::Seccomp),
        of(Layer::Whole)
    ));
}
