//! Render workers, through the real binary: what they may do, what becomes of a job when one dies, and who waits for whom.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use sendimage::{
    app,
    config::RenderConfig,
    metrics::Metrics,
    model::{ImageFormat, Size},
    render::{
        limits::OverLimit,
        plan::{Encoding, Plan},
    },
    spec::{FilterSpec, Quality},
    workers::{
        Files, JobError, Lane, Marks, Pool, PoolConfig,
        self_test::{Action, Layer, Outcome, self_test},
    },
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sendimage");

fn config(workers: usize) -> PoolConfig {
    PoolConfig { program: PROGRAM.into(), workers, ..PoolConfig::default() }
}

async fn pool(config: PoolConfig) -> (Arc<Pool>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    (Pool::start(config, metrics.clone()).await.unwrap(), metrics)
}

fn image(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/images").join(name)
}

fn open(name: &str) -> File {
    File::open(image(name)).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn in_ms(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

fn died(metrics: &Metrics, cause: &str) -> u64 {
    let wanted = format!("sendimage_workers_died_total{{cause=\"{cause}\"}} ");
    let text = metrics.expose();
    text.lines().find_map(|line| line.strip_prefix(&wanted)).map_or(0, |count| count.parse().unwrap())
}

/// Waits until something is so; the test fails if it never is.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = in_ms(10_000);
    while !is_so() {
        assert!(Instant::now() < end, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which may hold anything but ends in the last parenthesis.
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

async fn plan(pool: &Pool, name: &str, spec: &str) -> (File, u64, Plan) {
    let source = open(name);
    let facts = pool.probe(&source, soon()).await.unwrap();
    let defaults = app::defaults(&RenderConfig::default(), &Marks::default());
    let plan = Plan::new(&facts, &FilterSpec::parse(spec).unwrap(), None, &defaults).unwrap();
    let length = source.metadata().unwrap().len();
    (source, length, plan)
}

#[tokio::test]
async fn a_probe_and_a_render_go_through_a_worker() {
    let (pool, metrics) = pool(config(1)).await;
    let (source, length, plan) = plan(&pool, "rgba.png", "width-20|format-jpeg").await;
    assert_eq!(plan.source.format, ImageFormat::Png);
    let mut output = tempfile::tempfile().unwrap();
    output.set_len(1_000_000).unwrap(); // left over from an earlier attempt
    let report = pool.render(Files::new(&source, &output), &plan, length, Lane::of(&plan), soon()).await.unwrap();
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, report.bytes);
    assert!(bytes.starts_with(&[0xFF, 0xD8, 0xFF]));
    assert!(report.peak_rss_bytes > 1 << 20);
    assert_eq!((metrics.render_queue_depth.get(), metrics.render_memory_bytes.get()), (0, 0));
    assert!(metrics.expose().contains("sendimage_render_seconds_count{stage=\"encode\"} 1"));
}

/// A codec that makes a system call beyond the filter's list dies of it: here none does, in either direction.
#[tokio::test]
async fn every_format_is_read_and_written_inside_the_sandbox() {
    let (pool, metrics) = pool(config(1)).await;
    let worker = pool.worker_pids();
    for (name, spec) in [
        ("icon.ico", "original|format-png"),
        ("icon.ico", "original"),
        ("rgba.png", "width-180|format-ico"),
        ("photo.tiff", "original"),
        ("photo.tiff", "width-50|format-jpeg"),
        ("cmyk.jpg", "original"),
    ] {
        let (source, length, plan) = plan(&pool, name, spec).await;
        let mut output = tempfile::tempfile().unwrap();
        pool.render(Files::new(&source, &output), &plan, length, Lane::of(&plan), soon()).await.unwrap();
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).unwrap();
        assert_eq!(ImageFormat::detect(&bytes), Some(plan.encoding.format()), "{name} {spec}");
    }
    assert_eq!((pool.worker_pids(), died(&metrics, "SIGSYS")), (worker, 0));
}

#[tokio::test]
async fn what_is_no_image_is_an_error_and_costs_no_worker() {
    let (pool, metrics) = pool(config(1)).await;
    let before = pool.worker_pids();
    assert!(matches!(pool.probe(&open("notimage.jpg"), soon()).await, Err(JobError::Render(_))));
    assert_eq!(pool.probe(&File::open("/dev/zero").unwrap(), soon()).await, Err(JobError::NotAFile));
    assert_eq!(pool.probe(&File::open("/").unwrap(), soon()).await, Err(JobError::NotAFile));
    assert_eq!(pool.worker_pids(), before);
    assert_eq!(metrics.render_memory_bytes.get(), 0);
}

#[tokio::test]
async fn an_output_that_cannot_be_written_comes_back_with_its_number() {
    let (pool, _) = pool(config(1)).await;
    let (source, length, plan) = plan(&pool, "rgba.png", "width-20|format-jpeg").await;
    let read_only = tempfile::NamedTempFile::new().unwrap();
    let output = File::open(read_only.path()).unwrap();
    let error = pool.render(Files::new(&source, &output), &plan, length, Lane::Cheap, soon()).await.unwrap_err();
    let JobError::Output(errno) = error else { panic!("{error}") };
    assert_eq!(errno.raw(), libc::EINVAL); // what ftruncate says of a descriptor that is not open for writing
}

#[tokio::test]
async fn a_source_of_another_length_is_refused() {
    let (pool, metrics) = pool(config(1)).await;
    let (source, length, plan) = plan(&pool, "rgba.png", "width-20|format-jpeg").await;
    let output = tempfile::tempfile().unwrap();
    let changed = pool.render(Files::new(&source, &output), &plan, length - 1, Lane::Cheap, soon()).await;
    assert_eq!(changed.err(), Some(JobError::SourceChanged));
    assert_eq!(metrics.render_memory_bytes.get(), 0);
}

#[tokio::test]
async fn beyond_the_whole_budget_or_the_source_limit_is_said_at_once() {
    let (small, _) = pool(PoolConfig { memory_budget: 3 << 20, max_source_bytes: 60_000, ..config(1) }).await;
    let (source, length, mut plan) = plan(&small, "rgba.png", "width-20|format-jpeg").await;
    plan.output_size = Size::new(9_000, 9_000);
    let output = tempfile::tempfile().unwrap();
    let error = small.render(Files::new(&source, &output), &plan, length, Lane::Cheap, soon()).await.unwrap_err();
    assert!(matches!(error, JobError::OverLimit(OverLimit::Memory { limit, .. }) if limit == 3 << 20), "{error}");
    let large = tempfile::tempfile().unwrap();
    large.set_len(60_001).unwrap();
    let error = small.probe(&large, soon()).await.unwrap_err();
    assert_eq!(error, JobError::OverLimit(OverLimit::SourceBytes { found: 60_001, limit: 60_000 }));
}

#[tokio::test]
async fn a_job_whose_worker_is_killed_is_answered_by_a_fresh_one() {
    let (pool, metrics) = pool(config(1)).await;
    let victim = pool.worker_pids()[0];
    signal(victim, "-STOP");
    let job = tokio::spawn({
        let pool = pool.clone();
        async move { pool.probe(&open("rgba.png"), soon()).await }
    });
    until("a job at work", || pool.stats().running == 1).await;
    signal(victim, "-KILL");
    assert!(job.await.unwrap().is_ok());
    assert_eq!(died(&metrics, "SIGKILL"), 1);
    let now = pool.worker_pids();
    assert!(now.len() == 1 && now[0] != victim, "{now:?}");
}

/// Ends whichever worker has the job, by this signal, until the job is answered.
async fn hunted(name: &'static str) -> (JobError, Arc<Metrics>, usize) {
    let (pool, metrics) = pool(config(1)).await;
    let mut ended = Vec::new();
    signal(pool.worker_pids()[0], "-STOP");
    let job = tokio::spawn({
        let pool = pool.clone();
        async move { pool.probe(&open("rgba.png"), soon()).await }
    });
    until("a job at work", || pool.stats().running == 1).await;
    let hunter = {
        let pool = pool.clone();
        tokio::task::spawn_blocking(move || {
            while pool.stats().running == 1 {
                for pid in pool.worker_pids() {
                    if !ended.contains(&pid) {
                        // Not through a shell: the second worker answers within milliseconds.
                        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
                        let ending = if name == "SIGKILL" {
                            rustix::process::Signal::KILL
                        } else {
                            rustix::process::Signal::SEGV
                        };
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::STOP);
                        let _ = rustix::process::kill_process(pid, ending);
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
                        ended.push(pid.as_raw_nonzero().get() as u32);
                    }
                }
            }
            ended.len()
        })
    };
    let answer = job.await.unwrap();
    let count = hunter.await.unwrap();
    (answer.err().unwrap_or(JobError::ShuttingDown), metrics, count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_deaths_from_outside_are_a_loss_and_two_of_its_own_making_poison() {
    // The second worker is met in its first milliseconds; a hunter that came too late tries again.
    for (name, wanted) in [("SIGKILL", JobError::Lost), ("SIGSEGV", JobError::Poison { cause: "SIGSEGV".into() })] {
        let mut met = false;
        for _ in 0..20 {
            let (error, metrics, count) = hunted(name).await;
            if count == 2 && died(&metrics, name) == 2 && error != JobError::ShuttingDown {
                assert_eq!(error, wanted);
                met = true;
                break;
            }
        }
        assert!(met, "no hunter was fast enough for {name}");
    }
}

#[tokio::test]
async fn a_stopped_worker_is_killed_at_the_deadline_and_its_place_is_free() {
    let (pool, metrics) = pool(config(1)).await;
    let victim = pool.worker_pids()[0];
    signal(victim, "-STOP");
    let began = Instant::now();
    let answer = pool.probe(&open("rgba.png"), in_ms(300)).await;
    assert_eq!(answer, Err(JobError::TimedOut { started: true }));
    assert!((300..1_500).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!((metrics.render_memory_bytes.get(), died(&metrics, "deadline")), (0, 1));
    assert!(pool.probe(&open("rgba.png"), soon()).await.is_ok());
    until("the end of the stopped worker", || !alive(victim)).await;
}

#[tokio::test]
async fn the_queue_is_bounded_and_those_who_leave_free_their_places() {
    let (pool, metrics) = pool(PoolConfig { queue_depth: 2, ..config(1) }).await;
    let victim = pool.worker_pids()[0];
    signal(victim, "-STOP");
    let ask = |ms| {
        let pool = pool.clone();
        tokio::spawn(async move { pool.probe(&open("rgba.png"), in_ms(ms)).await })
    };
    let running = ask(8_000);
    until("a job at work", || pool.stats().running == 1).await;
    let (waits, leaves) = (ask(8_000), ask(8_000));
    until("two that wait", || pool.stats().waiting == 2).await;
    assert_eq!(metrics.render_queue_depth.get(), 2);
    let began = Instant::now();
    assert_eq!(pool.probe(&open("rgba.png"), soon()).await, Err(JobError::QueueFull));
    assert!(began.elapsed() < Duration::from_millis(50), "{:?}", began.elapsed());
    leaves.abort();
    until("a free place", || metrics.render_queue_depth.get() == 1).await;
    // Takes that place, and gives it back at its own deadline without ever having been started.
    assert_eq!(pool.probe(&open("rgba.png"), in_ms(50)).await, Err(JobError::TimedOut { started: false }));
    assert_eq!(pool.stats().waiting, 1);
    signal(victim, "-CONT");
    assert!(running.await.unwrap().is_ok());
    assert!(waits.await.unwrap().is_ok());
    assert_eq!(metrics.render_queue_depth.get(), 0);
}

#[tokio::test]
async fn a_caller_that_leaves_a_running_job_leaves_a_working_worker() {
    let (pool, metrics) = pool(config(1)).await;
    let worker = pool.worker_pids()[0];
    signal(worker, "-STOP");
    let job = tokio::spawn({
        let pool = pool.clone();
        async move { pool.probe(&open("rgba.png"), soon()).await }
    });
    until("a job at work", || pool.stats().running == 1).await;
    job.abort();
    signal(worker, "-CONT");
    until("the end of the job", || pool.stats().running == 0).await;
    assert_eq!(metrics.render_memory_bytes.get(), 0);
    assert!(pool.probe(&open("rgba.png"), soon()).await.is_ok());
    assert_eq!(pool.worker_pids(), [worker]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budget_holds_under_load() {
    let (first, _) = pool(config(1)).await;
    let (_, length, plan) = plan(&first, "rgba.png", "width-20|format-jpeg").await;
    let budget = plan.peak_bytes(length) * 5 / 2; // room for two of these renders at once, for three workers
    let (pool, metrics) = pool(PoolConfig { memory_budget: budget, ..config(3) }).await;
    let jobs: Vec<_> = (0..40)
        .map(|_| {
            let (pool, plan) = (pool.clone(), plan.clone());
            tokio::spawn(async move {
                let (source, output) = (open("rgba.png"), tempfile::tempfile().unwrap());
                pool.render(Files::new(&source, &output), &plan, length, Lane::Warm, soon()).await
            })
        })
        .collect();
    let mut most = 0;
    while !jobs.iter().all(|job| job.is_finished()) {
        most = most.max(metrics.render_memory_bytes.get());
        tokio::task::yield_now().await;
    }
    assert!(most > 0 && most as u64 <= budget, "{most} of {budget}");
    for job in jobs {
        assert!(job.await.unwrap().is_ok());
    }
    assert_eq!(metrics.render_memory_bytes.get(), 0);
}

#[tokio::test]
async fn a_worker_is_replaced_after_so_many_jobs_and_when_it_dies_idle() {
    let (pool, metrics) = pool(PoolConfig { recycle_after_jobs: 3, ..config(1) }).await;
    let mut seen = Vec::new();
    for _ in 0..7 {
        seen.extend(pool.worker_pids());
        pool.probe(&open("rgba.png"), soon()).await.unwrap();
        until("a worker", || pool.worker_pids().len() == 1).await;
    }
    seen.dedup();
    assert_eq!((seen.len(), died(&metrics, "recycled")), (3, 2));
    let idle = pool.worker_pids()[0];
    signal(idle, "-KILL");
    until("a successor", || pool.worker_pids().first().is_some_and(|pid| *pid != idle)).await;
    assert_eq!(died(&metrics, "SIGKILL"), 1);
    assert!(pool.probe(&open("rgba.png"), soon()).await.is_ok());
}

#[tokio::test]
async fn shutting_down_finishes_what_runs_and_leaves_nobody() {
    let (pool, _) = pool(config(2)).await;
    let pids = pool.worker_pids();
    // What a service manager sends to the whole group must not cut a render short.
    pids.iter().for_each(|pid| signal(*pid, "-TERM"));
    pids.iter().for_each(|pid| signal(*pid, "-STOP"));
    let job = tokio::spawn({
        let pool = pool.clone();
        async move { pool.probe(&open("rgba.png"), soon()).await }
    });
    until("a job at work", || pool.stats().running == 1).await;
    let closing = tokio::spawn({
        let pool = pool.clone();
        async move { pool.shutdown().await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(pool.probe(&open("rgba.png"), soon()).await, Err(JobError::ShuttingDown));
    for pid in &pids {
        // The idle one is gone already.
        drop(Command::new("kill").args(["-CONT", &pid.to_string()]).stderr(Stdio::null()).status());
    }
    assert!(job.await.unwrap().is_ok());
    closing.await.unwrap();
    until("the end of all workers", || pids.iter().all(|pid| !alive(*pid))).await;
}

/// Not a test of its own: the process whose death the next test is about. It says its workers' pids and waits.
#[test]
#[ignore = "started by workers_die_with_the_process_that_started_them"]
fn a_process_with_a_pool() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (pool, _) = runtime.block_on(pool(config(2)));
    let pids: Vec<String> = pool.worker_pids().iter().map(u32::to_string).collect();
    println!("\nPIDS {}", pids.join(" "));
    std::thread::sleep(Duration::from_secs(60));
}

#[tokio::test]
async fn workers_die_with_the_process_that_started_them() {
    use std::io::{BufRead, BufReader};
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "workers::a_process_with_a_pool"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let line = lines.find_map(|line| line.unwrap().strip_prefix("PIDS ").map(str::to_owned)).unwrap();
    let pids: Vec<u32> = line.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| alive(*pid)));
    signal(pids[0], "-STOP"); // one that cannot read the end of its socket
    parent.kill().unwrap();
    parent.wait().unwrap();
    until("the end of the orphans", || pids.iter().all(|pid| !alive(*pid))).await;
}

#[tokio::test]
async fn a_program_that_is_no_worker_is_a_clear_error() {
    for program in ["/bin/true", "/nonexistent/program"] {
        let config = PoolConfig { program: program.into(), ..config(1) };
        assert!(Pool::start(config, Arc::default()).await.is_err(), "{program}");
    }
}

#[tokio::test]
async fn every_worker_is_in_its_sandbox() {
    let (pool, _) = pool(config(2)).await;
    let has_seccomp = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").is_ok();
    for pid in pool.worker_pids() {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
        let status = read("status");
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(field("Threads:"), "1");
        if has_seccomp {
            assert_eq!(field("Seccomp:"), "2");
        }
        let limits = read("limits");
        let limit = |name: &str| limits.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        let hard = |name: &str| limit(name).split_whitespace().nth(1).unwrap().to_owned();
        assert_eq!(hard("Max core file size"), "0");
        assert_eq!(hard("Max open files"), "8");
        assert_eq!(hard("Max file size"), (512 << 20).to_string());
        let space: u64 = hard("Max address space").parse().unwrap();
        // Shared libraries are not mapped to the page alike in every process.
        assert!(space.abs_diff(pool.sandbox().address_space_bytes) < 1 << 20, "{space}");
        assert!(space < 2 << 30, "{space}");
        // Not dumpable: its memory, environment and descriptors are root's to read, and here empty.
        if rustix::process::geteuid().is_root() {
            assert_eq!(read("environ"), "");
            let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
            assert_eq!(descriptors, 3);
        }
        assert!(!read("cmdline").contains("images"));
    }
    let report = pool.sandbox();
    assert!(report.is_complete() || landlock_abi() < 6, "{report}");
    assert_eq!(i64::from(report.landlock_abi), landlock_abi().clamp(0, 9), "{report}");
}

/// What the kernel says, asked without the crate that the sandbox uses.
fn landlock_abi() -> i64 {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: a null attribute of size 0 with this flag only asks for the version.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    version.max(0)
}

#[test]
fn each_layer_of_the_sandbox_refuses_what_it_should() {
    let attempts = self_test(Path::new(PROGRAM)).unwrap();
    let has_seccomp = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").is_ok();
    let told = attempts.iter().map(|attempt| format!("{attempt}\n")).collect::<String>();
    for attempt in &attempts {
        let kernel_has_it = match attempt.layer {
            Layer::Control | Layer::Limits => true,
            Layer::Landlock => landlock_abi() >= 6,
            Layer::Seccomp => has_seccomp,
            Layer::Whole => has_seccomp && landlock_abi() >= 6,
        };
        let excused = !kernel_has_it && matches!(attempt.outcome, Outcome::Unavailable(_));
        assert!(attempt.is_good() || excused, "{attempt}\nin\n{told}");
    }
    let tried = |layer, action| attempts.iter().any(|attempt| attempt.layer == layer && attempt.action == action);
    for action in [Action::OpenFile, Action::ListDirectory, Action::ConnectTcp, Action::Execute, Action::Trace] {
        assert!(
            [Layer::Control, Layer::Landlock, Layer::Seccomp, Layer::Whole].iter().all(|layer| tried(*layer, action))
        );
    }
    assert!(tried(Layer::Seccomp, Action::Fork));
}

#[test]
fn lanes_follow_the_cost() {
    let facts = sendimage::model::SourceFacts {
        format: ImageFormat::Jpeg,
        stored_size: Size::new(4_000, 3_000),
        orientation: Default::default(),
        frames: 1,
        bytes_per_pixel: 3,
        progressive: false,
        document: None,
    };
    let encoding = Encoding::Jpeg { quality: Quality::new(76).unwrap(), progressive: false, rgb: false };
    let plan = |width: u32, reduction: u8| Plan {
        decode_reduction: reduction,
        output_size: Size::new(width, width * 3 / 4),
        ..Plan::whole(facts.clone(), encoding)
    };
    assert_eq!(Lane::of(&plan(400, 4)), Lane::Cheap);
    assert_eq!(Lane::of(&plan(4_000, 1)), Lane::Costly);
}

/// The gate never parses an image: in the whole program, only the worker's loop calls what touches image bytes.
#[test]
fn no_decoder_and_no_encoder_runs_outside_a_worker() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut callers: Vec<PathBuf> = crate::harness::files(&source)
        .into_iter()
        .filter(|path| !path.starts_with(source.join("render")) && !path.starts_with(source.join("pixels")))
        .filter(|path| {
            let text = fs::read_to_string(path).unwrap();
            ["render::render", "render::probe", "render::look(", "sendimage_pixels"]
                .iter()
                .any(|call| text.contains(call))
        })
        .collect();
    callers.sort();
    assert_eq!(callers, [source.join("workers/worker.rs")]);
    // And the render room's inner doors are closed to all others.
    let room = fs::read_to_string(source.join("render/mod.rs")).unwrap();
    assert!(room.contains("\nmod codec;") && !room.contains("pub mod codec"));
}
