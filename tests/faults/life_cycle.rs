//! Starts, restarts, changed configs, clocks that jump.

use std::{
    os::{
        fd::OwnedFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixDatagram, UnixListener},
        },
    },
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    harness::{MINUTE, SENDIMAGE, Site, wait_for},
    load::Load,
    report::Row,
    tools::{is_long, random, scale},
};

/// Sockets that outlive the service, as a service manager holds them.
struct Sockets {
    gate: UnixListener,
    ops: std::net::TcpListener,
}

impl Sockets {
    fn of(site: &Site) -> Self {
        let path = site.path("gate.sock");
        let gate = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
        Self { gate, ops: std::net::TcpListener::bind(site.ops).unwrap() }
    }

    /// A command that becomes the service, with the sockets as descriptors 3 and 4 and its own process id in the environment.
    fn hand_to(&self, site: &Site) -> Command {
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "exec 3<&0 4<&1 0</dev/null 1>/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" serve -c \"$1\"",
            ])
            .arg(SENDIMAGE)
            .arg(site.config())
            .stdin(Stdio::from(OwnedFd::from(self.gate.try_clone().unwrap())))
            .stdout(Stdio::from(OwnedFd::from(self.ops.try_clone().unwrap())));
        command
    }
}

/// F25: with sockets that are handed over, a restart costs waiting and nothing else.
#[test]
fn restarts_under_load_through_nginx() {
    let row = Row::begin("restarts under load", "F25");
    let mut site = Site::new("[server]\ndrain_seconds = 20\n[render]\nqueue_depth = 256\n");
    let sockets = Sockets::of(&site);
    site.add("photo_land.jpg", "photo.jpg");
    site.start_as(sockets.hand_to(&site));
    let mut site = site.with_nginx();

    let restarts = scale(3, 20);
    let fresh: Vec<String> =
        (0..restarts * 40).map(|i| format!("width-{}|jpegquality-{}", 20 + i % 200, 30 + i / 200)).collect();
    let load = Load::begin(&site, &["width-100", "width-120|format-webp"], &fresh, 4);
    let mut slowest_stop = Duration::ZERO;
    for _ in 0..restarts {
        std::thread::sleep(Duration::from_millis(400));
        let began = Instant::now();
        site.signal(Signal::TERM);
        assert!(site.wait().success(), "{}", site.log());
        slowest_stop = slowest_stop.max(began.elapsed());
        site.start_as(sockets.hand_to(&site));
    }
    let told = load.end();
    assert_eq!(told.failures, Vec::<String>::new(), "{}", site.log());
    assert!(told.answers > restarts * 50, "{} answers", told.answers);
    let leftovers = || std::fs::read_dir(site.path("renditions/r1/.tmp-drafts")).map_or(0, Iterator::count);
    wait_for(Duration::from_secs(5), || leftovers() == 0).expect("nothing is left");
    row.passed(&format!(
        "{restarts} restarts, {} answers at nginx, 0 failed; the longest stop {slowest_stop:.1?}",
        told.answers
    ));
}

/// F25 without a service manager: who waits in our own socket is answered before it closes.
#[test]
fn who_waits_when_a_stop_begins_is_answered() {
    let row = Row::begin("waiting connections at a stop", "F25");
    let mut answered = 0;
    for _ in 0..scale(3, 20) {
        let mut site = Site::new("").serve();
        site.add("photo_land.jpg", "photo.jpg");
        let url = site.sign(&["media/photo.jpg", "width-100"]);
        assert_eq!(site.gate("GET", &url, "").status, 200);
        let pid = site.service_pid();
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        // While it sleeps, connections pile up; the signal waits as they do.
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        let request = format!("GET {url} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let streams: Vec<_> = (0..20)
            .map(|_| {
                let mut stream = site.gate_stream();
                std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
                stream
            })
            .collect();
        site.signal(Signal::TERM);
        rustix::process::kill_process(pid, Signal::CONT).unwrap();
        for stream in streams {
            assert_eq!(crate::harness::exchange(stream, b"").status, 200, "{}", site.log());
            answered += 1;
        }
        assert!(site.wait().success());
        assert!(!site.path("gate.sock").exists(), "our own socket goes with us");
    }
    row.passed(&format!("{answered} connections that waited at SIGTERM, {answered} answered"));
}

/// What the service manager hears, from start to stop.
#[test]
fn a_service_manager_is_told() {
    let row = Row::begin("service manager", "-");
    let mut site = Site::new("");
    let told = UnixDatagram::bind(site.path("notify.sock")).unwrap();
    told.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut command = site.serve_command(&[SENDIMAGE]);
    command.env("NOTIFY_SOCKET", site.path("notify.sock")).env("WATCHDOG_USEC", "200000");
    site.start_as(command);
    let next = || {
        let mut buffer = [0; 512];
        let length = told.recv(&mut buffer).expect("a word to the service manager");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let heard = |wanted: &str| {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if next().contains(wanted) {
                return;
            }
        }
        panic!("{wanted} was never said");
    };
    assert_eq!(next(), "READY=1\n");
    heard("WATCHDOG=1");
    let began = Instant::now();
    for _ in 0..10 {
        heard("WATCHDOG=1");
    }
    let pings = began.elapsed();
    assert!(pings > Duration::from_millis(500) && pings < Duration::from_secs(3), "10 pings in {pings:?}");
    site.signal(Signal::HUP);
    heard("RELOADING=1\nMONOTONIC_USEC=");
    heard("READY=1");
    site.signal(Signal::TERM);
    heard("STOPPING=1");
    assert!(site.wait().success());
    row.passed("READY, WATCHDOG twice a period, RELOADING and READY at SIGHUP, STOPPING at SIGTERM");
}

/// The unit files say what this binary does.
#[test]
fn the_unit_files_are_sound() {
    let row = Row::begin("unit files", "-");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    let config = std::fs::read_to_string(folder.join("../sendimage.toml")).unwrap();
    let socket = std::fs::read_to_string(folder.join("sendimage.socket")).unwrap();
    for line in socket.lines().filter_map(|line| line.strip_prefix("ListenStream=")) {
        let listens = format!("\"{line}\"").replace("\"/", "\"unix:/");
        assert!(config.contains(&listens), "{line} is not where deploy/sendimage.toml listens");
    }
    let Ok(verified) = Command::new("systemd-analyze").arg("--version").output() else {
        return row.skipped("no systemd-analyze");
    };
    assert!(verified.status.success());
    // The binary that the unit starts must exist to be verified: ours, in the place of the installed one.
    let copy = tempfile::tempdir().unwrap();
    let names = [
        "sendimage.service",
        "sendimage.socket",
        "sendimage-watch.service",
        "sendimage-gc.service",
        "sendimage-gc.timer",
    ];
    for name in names {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        std::fs::write(copy.path().join(name), text.replace("/usr/bin/sendimage", SENDIMAGE)).unwrap();
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(names.map(|name| copy.path().join(name)))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let about_us: Vec<&str> = said.lines().filter(|line| line.contains("sendimage")).collect();
    assert!(about_us.is_empty(), "{said}");
    row.passed("systemd-analyze verify: nothing to say");
}

/// F26, T35: a config that is not usable changes nothing, whatever is wrong with it.
#[test]
fn bad_configs_change_nothing() {
    let row = Row::begin("bad configs at SIGHUP", "F26 T35");
    let site = Site::new("").serve();
    site.add("photo_land.jpg", "a.jpg");
    let url = site.sign(&["media/a.jpg", "width-50"]);
    // Each is to be refused for what it says, and not for a section that the tests have added.
    let good = std::fs::read_to_string(site.config()).unwrap().replace(MINUTE, "");
    std::fs::write(site.path("empty.key"), "").unwrap();
    std::fs::write(site.path("short.key"), "0123456789abcde").unwrap();
    let replaced = |from: &str, to: &str| {
        assert!(good.contains(from));
        good.replace(from, to)
    };
    let key = "secret = \"0123456789abcdef\"";
    let dir = site.folder.path().display();
    let bad: Vec<(&str, String)> = vec![
        ("half a file", good[..good.len() / 2].to_owned() + "[sign"),
        ("no text", "\u{0}\u{1}\u{2}".into()),
        ("no table", "just words".into()),
        ("an unknown key", good.clone() + "\n[render]\nworkerz = 1\n"),
        ("an unknown section", good.clone() + "\n[rendering]\nworkers = 1\n"),
        ("a section twice", good.clone() + "\n[signing]\nsecret = \"0123456789abcdef\"\n"),
        ("text for a number", good.clone() + "\n[render]\ndeadline_seconds = \"soon\"\n"),
        ("a negative number", good.clone() + "\n[cache]\nmax_age_seconds = -1\n"),
        ("a deadline of nothing", good.clone() + "\n[render]\ndeadline_seconds = 0.0\n"),
        ("a number that is none", good.clone() + "\n[render]\ndeadline_seconds = nan\n"),
        ("a quality beyond 100", good.clone() + "\n[render]\njpeg_quality = 101\n"),
        ("a size without a unit", good.clone() + "\n[render]\nmax_source_bytes = \"12 parsecs\"\n"),
        ("an empty key", replaced(key, "secret = \"\"")),
        ("a short key", replaced(key, "secret = \"0123456789abcde\"")),
        ("no key", replaced(key, "keys = []")),
        (
            "a key id twice",
            replaced(
                key,
                "keys = [{ id = \"a\", secret = \"aaaaaaaaaaaaaaaa\" }, { id = \"a\", secret = \"bbbbbbbbbbbbbbbb\" }]",
            ),
        ),
        (
            "a key twice over",
            replaced(
                key,
                &format!("keys = [{{ id = \"a\", secret = \"aaaaaaaaaaaaaaaa\", secret_file = \"{dir}/short.key\" }}]"),
            ),
        ),
        ("a key file that is not there", replaced(key, &format!("secret_file = \"{dir}/absent.key\""))),
        ("an empty key file", replaced(key, &format!("secret_file = \"{dir}/empty.key\""))),
        ("a short key file", replaced(key, &format!("secret_file = \"{dir}/short.key\""))),
        ("a folder for a key file", replaced(key, &format!("secret_file = \"{dir}\""))),
        ("another listener", replaced("gate.sock", "other.sock")),
        ("a mode that is none", replaced("listen_mode = \"0666\"", "listen_mode = \"0999\"")),
        ("another number of workers", good.clone() + "\n[render]\nworkers = 7\n"),
        ("an address that is none", replaced("unix:", "unx:")),
        ("a prefix without slashes", good.clone() + "\n[offload]\ninternal_prefix = \"/x\"\n"),
        ("an unknown mode", good.clone() + "\n[offload]\nmode = \"teleport\"\n"),
        ("a preset that is no spec", good.clone() + "\n[presets]\nhero = \"fill-0x0x0\"\n"),
        ("a set of no presets", good.clone() + "\n[preset_sets]\npage = [\"fill-\"]\n"),
        (
            "a catalogue without a source",
            good.clone() + "\n[catalogue]\nkind = \"manifest\"\nfile = \"/dev/null\"\nsource = \"nowhere\"\n",
        ),
        ("a watermark that is not there", good.clone() + "\n[watermarks.logo]\nfile = \"/nonexistent.png\"\n"),
        (
            "a header that splits",
            good.clone() + "\n[headers]\naccess_control_allow_origin = \"a\\r\\nSet-Cookie: b\"\n",
        ),
    ];
    let count = bad.len();
    for (what, text) in &bad {
        let before = site.log().matches("the old one stays").count();
        std::fs::write(site.config(), text).unwrap();
        site.signal(Signal::HUP);
        wait_for(Duration::from_secs(5), || site.log().matches("the old one stays").count() > before)
            .unwrap_or_else(|()| panic!("{what} was not refused:\n{}", site.log()));
        let response = site.gate("GET", &url, "");
        let caching = response.header("x-sendimage-cache-control").unwrap();
        assert_eq!((response.status, caching.as_str()), (200, "max-age=3600, public"), "{what}");
        // At start it is refused with the exit code of a bad config, or of a failure where the config is sound and differs.
        let checked = site.run(&["explain", &url]);
        let differs = ["another listener", "another number of workers"].contains(what);
        assert_eq!(checked.status.code() == Some(78), !differs, "{what}: {checked:?}");
        assert!(!String::from_utf8_lossy(&checked.stderr).contains("aaaaaaaa"), "{what}: a secret in the message");
    }
    // A file that cannot be read, and one that is gone.
    std::fs::remove_file(site.config()).unwrap();
    std::fs::create_dir(site.config()).unwrap();
    site.signal(Signal::HUP);
    wait_for(Duration::from_secs(5), || site.log().matches("the old one stays").count() > count).expect("refused");
    std::fs::remove_dir(site.config()).unwrap();
    site.signal(Signal::HUP);
    wait_for(Duration::from_secs(5), || site.log().matches("the old one stays").count() > count + 1).expect("refused");
    assert_eq!(site.metric("sendimage_config_reload_failed_total"), count as f64 + 2.0);
    // A good one applies whole.
    std::fs::write(site.config(), good.clone() + "\n[cache]\nmax_age_seconds = 7\n").unwrap();
    site.signal(Signal::HUP);
    wait_for(Duration::from_secs(5), || site.log().contains("is applied")).expect("applied");
    let caching = site.gate("GET", &url, "").header("x-sendimage-cache-control").unwrap();
    assert_eq!(caching, "max-age=7, public");
    row.passed(&format!("{} unusable configs, 0 applied; the next good one whole", count + 2));
}

/// F24: expiry follows the wall clock; nothing else does.
#[test]
fn clocks_that_jump() {
    let row = Row::begin("clock jumps", "F24");
    let library = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|machine| format!("/usr/lib/{machine}/faketime/libfaketimeMT.so.1"))
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(library) = library else { return row.skipped("libfaketime is not installed") };
    let mut site = Site::new("");
    site.add("photo_land.jpg", "photo.jpg");
    let link = site.sign(&["media/photo.jpg", "width-90", "--expires", "1h"]);
    let plain = site.sign(&["media/photo.jpg", "width-91"]);
    let clock = site.path("clock");
    std::fs::write(&clock, "+0").unwrap();
    let mut command = site.serve_command(&[SENDIMAGE]);
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock);
    command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    site.start_as(command);
    assert_eq!((site.gate("GET", &link, "").status, site.gate("GET", &plain, "").status), (200, 200));
    let mut random = random("clocks");
    let hour = 3600_i64;
    let mut jumps = vec![0, 2 * hour, -2 * hour, 14 * 365 * 24 * hour, -57 * 365 * 24 * hour, 0];
    if is_long() {
        jumps.extend((0..200).map(|_| random.i64(-56 * 365 * 24 * hour..200 * 365 * 24 * hour)));
        jumps.push(0);
    }
    for (index, jump) in jumps.iter().enumerate() {
        std::fs::write(&clock, format!("{jump:+}")).unwrap();
        let expected = if *jump >= hour { 403 } else { 200 };
        assert_eq!(site.gate("GET", &link, "").status, expected, "{jump:+} s\n{}", site.log());
        assert_eq!(site.gate("GET", &plain, "").status, 200, "{jump:+} s\n{}", site.log());
        // Renders keep to the monotonic clock.
        let fresh = site.sign(&["media/photo.jpg", &format!("width-{}", 100 + index)]);
        assert_eq!(site.gate("GET", &fresh, "").status, 200, "{jump:+} s\n{}", site.log());
    }
    assert!(site.metric("sendimage_request_seconds_sum") >= 0.0);
    assert!(site.metric("sendimage_request_seconds_sum") < 60.0, "a jump was taken for time that passed");
    row.passed(&format!(
        "{} jumps between 1970 and 2226: expired links 403, all others 200, renders go on",
        jumps.len()
    ));
}

/// F33: nginx reloads under load.
#[test]
fn nginx_reloads_under_load() {
    let row = Row::begin("nginx reloads", "F33");
    let site = Site::new("").serve();
    site.add("photo_land.jpg", "photo.jpg");
    let site = site.with_nginx();
    let load = Load::begin(&site, &["width-100"], &[], 4);
    let reloads = scale(3, 20);
    for _ in 0..reloads {
        std::thread::sleep(Duration::from_millis(300));
        site.reload_nginx();
    }
    std::thread::sleep(Duration::from_millis(300));
    let told = load.end();
    // What nginx itself cuts when an old worker leaves is not ours; what it passes on is.
    let ours: Vec<&String> = told.failures.iter().filter(|failure| !failure.contains("cut")).collect();
    assert!(ours.is_empty(), "{ours:?}");
    row.passed(&format!("{reloads} reloads, {} answers, 0 failed", told.answers));
}

/// F35: a service that was stopped and goes on answers whoever still waits, and does not do what nobody waits for.
#[test]
fn a_stopped_service_goes_on() {
    let row = Row::begin("stopped and continued", "F35");
    let site = Site::new("[render]\nworkers = 1\ndeadline_seconds = 1.0\n").serve();
    site.add("photo_land.jpg", "photo.jpg");
    let known = site.sign(&["media/photo.jpg", "width-100"]);
    assert_eq!(site.gate("GET", &known, "").status, 200);
    let urls: Vec<String> = (0..40).map(|i| site.sign(&["media/photo.jpg", &format!("width-{}", 200 + i)])).collect();
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for url in &urls {
            scope.spawn(|| {
                let status = site.gate("GET", url, "").status;
                assert!([200, 503, 504].contains(&status), "{status}");
                answered.fetch_add(1, Relaxed);
            });
        }
        std::thread::sleep(Duration::from_millis(30));
        site.signal(Signal::STOP);
        std::thread::sleep(Duration::from_secs(scale(2, 10) as u64));
        site.signal(Signal::CONT);
    });
    let made = site.metric("sendimage_renders_total{outcome=\"rendered\",format=\"jpeg\"}");
    assert!(made < urls.len() as f64, "all were made, though their time was over");
    let began = Instant::now();
    assert_eq!(site.gate("GET", &known, "").status, 200);
    assert!(began.elapsed() < Duration::from_millis(500));
    wait_for(Duration::from_secs(2), || site.metric("sendimage_render_queue_depth") == 0.0).expect("an empty queue");
    let fresh = site.sign(&["media/photo.jpg", "width-99"]);
    assert_eq!(site.gate("GET", &fresh, "").status, 200, "{}", site.log());
    row.passed(&format!("{} requests during a stop, all answered, {made} renders made, the others dropped when their time was over; 200 at once afterwards", answered.into_inner()));
}

/// Nobody who may not connect ever could: not even between the socket's birth and its permissions.
#[test]
fn the_socket_is_never_open_to_others() {
    let row = Row::begin("socket permissions", "-");
    if Command::new("strace").arg("-V").output().is_err() {
        return row.skipped("no strace");
    }
    let mut site = Site::new("");
    let config = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), config.replace("listen_mode = \"0666\"", "listen_mode = \"0600\"")).unwrap();
    let calls = site.path("calls");
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask 0; exec strace -D -f -e trace=fchmod,bind,listen -o \"$0\" \"$1\" serve -c \"$2\""])
        .arg(&calls)
        .arg(SENDIMAGE)
        .arg(site.config())
        .stdin(Stdio::null());
    site.start_as(command);
    let mode = std::fs::metadata(site.path("gate.sock")).unwrap().permissions().mode() & 0o777;
    let text = std::fs::read_to_string(&calls).unwrap();
    let line =
        |what: &str| text.lines().position(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}:\n{text}"));
    assert_eq!(mode, 0o600);
    assert!(line(", 0600)") < line("gate.sock"), "{text}");
    row.passed("mode 0600 before bind, whatever the umask");
}
