//! One render however many ask; workers that die or hang; files that vanish.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Site, wait_for};

fn kill(pid: i32, signal: Signal) {
    // A worker may be gone already; the test's own assertions say whether that was right.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

#[test]
fn five_hundred_ask_for_one_missing_rendition() {
    let site = Site::new("").serve().with_nginx();
    site.add("photo_land.jpg", "a.jpg");
    let url = site.sign(&["media/a.jpg", "scale-200|format-webp-lossless"]);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asks: Vec<_> = (0..500).map(|_| scope.spawn(|| site.nginx("GET", &url, "").status)).collect();
        asks.into_iter().map(|ask| ask.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 500, "{}", site.log());
    assert_eq!(site.metric("sendimage_renders_total{outcome=\"rendered\",format=\"webp\"}"), 1.0);
    assert_eq!(site.metric("sendimage_requests_total{outcome=\"rendered\"}"), 1.0);
    let joined = site.metric("sendimage_requests_total{outcome=\"joined\"}");
    let hits = site.metric("sendimage_requests_total{outcome=\"hit\"}");
    assert_eq!(joined + hits, 499.0);
    assert!(joined > 0.0, "some must have come while it was rendered");
    assert_eq!(site.stored().len(), 1);
}

/// Starts a request, waits until a worker is at work on it, and hands its pid to `act`.
fn while_rendering(site: &Site, url: &str, act: impl FnOnce(i32)) -> (u16, Duration) {
    std::thread::scope(|scope| {
        let started = Instant::now();
        let ask = scope.spawn(|| site.gate("GET", url, "").status);
        let mut busy = None;
        let found = wait_for(Duration::from_secs(10), || {
            busy = site.workers().into_iter().find(|pid| is_running(*pid));
            busy.is_some() && started.elapsed() > Duration::from_millis(60)
        });
        found.expect("a worker at work");
        act(busy.unwrap());
        (ask.join().unwrap(), started.elapsed())
    })
}

fn is_running(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R')))
}

#[test]
fn a_worker_killed_in_mid_render_costs_a_retry_and_nothing_else() {
    let site = Site::new("[render]\nworkers = 2\ndeadline_seconds = 120\n").serve();
    site.add("photo_land.jpg", "a.jpg");
    site.gate("GET", &site.sign(&["media/a.jpg", "width-10"]), ""); // probed
    let service = site.service_pid();
    let url = site.sign(&["media/a.jpg", "scale-250|format-webp-lossless"]);
    let before = site.workers();
    let (status, _) = while_rendering(&site, &url, |pid| kill(pid, Signal::KILL));
    assert_eq!(status, 200, "{}", site.log());
    assert_eq!(site.service_pid(), service);
    assert_eq!(site.metric("sendimage_workers_died_total{cause=\"SIGKILL\"}"), 1.0);
    wait_for(Duration::from_secs(5), || site.workers().len() == 2).expect("a fresh worker");
    assert_ne!(site.workers(), before);
    assert_eq!(site.gate("GET", &site.sign(&["media/a.jpg", "width-20"]), "").status, 200, "the next one renders");
    // The lease is given back behind the answer.
    let drafts = || crate::harness::files(&site.path("renditions/r1/.tmp-drafts"));
    wait_for(Duration::from_secs(5), || drafts().is_empty()).unwrap_or_else(|()| panic!("{:?}", drafts()));
}

#[test]
fn a_crashing_image_is_poison_for_a_moment_and_its_neighbours_are_not() {
    let site = Site::new("[render]\nworkers = 1\ndeadline_seconds = 120\n").serve();
    site.add("photo_land.jpg", "a.jpg");
    site.gate("GET", &site.sign(&["media/a.jpg", "width-10"]), "");
    let url = site.sign(&["media/a.jpg", "scale-250|format-webp-lossless"]);
    let (status, _) = while_rendering(&site, &url, |pid| {
        kill(pid, Signal::SEGV);
        // The retry meets the same fate.
        let second = || site.workers().into_iter().find(|other| *other != pid && is_running(*other));
        wait_for(Duration::from_secs(10), || second().is_some()).expect("a retry");
        std::thread::sleep(Duration::from_millis(50));
        kill(second().unwrap(), Signal::SEGV);
    });
    assert_eq!(status, 422, "{}", site.log());
    let started = Instant::now();
    assert_eq!(site.gate("GET", &url, "").status, 422, "remembered");
    assert!(started.elapsed() < Duration::from_millis(500));
    assert_eq!(site.gate("GET", &site.sign(&["media/a.jpg", "width-20"]), "").status, 200);
    assert_eq!(site.metric("sendimage_workers_died_total{cause=\"SIGSEGV\"}"), 2.0);
}

#[test]
fn a_stop_waits_for_a_render_as_long_as_it_drains_and_after_a_second_signal_not_at_all() {
    for (drain_seconds, signals) in [(1, 1), (60, 2)] {
        let config =
            format!("[server]\ndrain_seconds = {drain_seconds}\n[render]\nworkers = 1\ndeadline_seconds = 120\n");
        let mut site = Site::new(&config).serve();
        site.add("photo_land.jpg", "a.jpg");
        site.gate("GET", &site.sign(&["media/a.jpg", "width-10"]), "");
        let url = site.sign(&["media/a.jpg", "scale-250|format-webp-lossless"]);
        let mut stream = site.gate_stream();
        stream.write_all(format!("GET {url} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
        let worker = site.workers()[0];
        wait_for(Duration::from_secs(10), || is_running(worker)).expect("a worker at work");
        kill(worker, Signal::STOP);
        let began = Instant::now();
        for _ in 0..signals {
            site.signal(Signal::TERM);
            site.assert_logs("stopping: requests in flight");
        }
        assert_eq!(site.wait().code(), Some(0));
        assert!(began.elapsed() < Duration::from_secs(8), "{signals} signal(s): {:?}", began.elapsed());
        let drafts = crate::harness::files(&site.path("renditions/r1/.tmp-drafts"));
        assert!(drafts.is_empty(), "no draft is left, and no lease: {drafts:?}");
    }
}

#[test]
fn a_stopped_worker_is_killed_at_the_deadline() {
    let site = Site::new("[render]\nworkers = 1\ndeadline_seconds = 2\n").serve();
    site.add("photo_land.jpg", "a.jpg");
    site.gate("GET", &site.sign(&["media/a.jpg", "width-10"]), "");
    let url = site.sign(&["media/a.jpg", "scale-250|format-webp-lossless"]);
    let (status, elapsed) = while_rendering(&site, &url, |pid| kill(pid, Signal::STOP));
    assert_eq!(status, 504, "{}", site.log());
    assert!(elapsed < Duration::from_millis(2600), "{elapsed:?}");
    assert_eq!(site.metric("sendimage_workers_died_total{cause=\"deadline\"}"), 1.0);
    assert_eq!(site.gate("GET", &site.sign(&["media/a.jpg", "width-20"]), "").status, 200, "the slot is free");
    assert!(site.stored().iter().all(|path| path.metadata().unwrap().len() > 0));
}

#[test]
fn clients_that_leave_do_not_cancel_the_render() {
    use std::io::Write;
    let site = Site::new("").serve();
    site.add("photo_land.jpg", "a.jpg");
    let url = site.sign(&["media/a.jpg", "scale-200|format-webp-lossless"]);
    let mut stream = site.gate_stream();
    stream.write_all(format!("GET {url} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(80));
    drop(stream);
    wait_for(Duration::from_secs(60), || site.stored().len() == 1).expect("the render ends");
    assert_eq!(site.gate("GET", &url, "").status, 200);
    assert_eq!(site.metric("sendimage_render_queue_depth"), 0.0);
}

#[test]
fn a_file_that_vanishes_under_nginx_is_there_again_in_the_same_request() {
    let site = Site::new("").serve().with_nginx_before("between.sock");
    site.add("photo_land.jpg", "a.jpg");
    let url = site.sign(&["media/a.jpg", "width-100"]);
    let first = site.gate("GET", &url, "");
    assert_eq!((first.status, site.stored().len()), (200, 1));
    // Somebody stands between nginx and the gate, and removes the file once the gate has promised it.
    let listener = std::os::unix::net::UnixListener::bind(site.path("between.sock")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(site.path("between.sock"), mode).unwrap();
    let image = std::thread::scope(|scope| {
        let between = scope.spawn(|| {
            let rounds: Vec<(String, String)> = (0..2).map(|round| pass_on(&site, &listener, round == 0)).collect();
            rounds
        });
        let image = site.nginx("GET", &url, "");
        let rounds = between.join().unwrap();
        assert!(rounds.iter().all(|(_, answer)| answer.starts_with("HTTP/1.1 200")), "{rounds:?}");
        assert!(!rounds[0].0.contains("x-sendimage-again: 1") && rounds[1].0.contains("x-sendimage-again: 1"));
        assert!(rounds[1].0.starts_with(&format!("get {}", url.to_lowercase())), "the browser's own target");
        image
    });
    assert_eq!((image.status, image.body.get(..3)), (200, Some(&[0xFF, 0xD8, 0xFF][..])), "{}", site.log());
    assert_eq!(image.header("cache-control").as_deref(), Some("max-age=3600, public"), "said once");
    assert_eq!(image.header("content-disposition").as_deref(), Some("inline; filename=\"a.jpg\""), "said once");
    assert_eq!(site.metric("sendimage_requests_total{outcome=\"rendered\"}"), 2.0);
}

/// Hands one request on to the gate and its answer back: the request's head in lower case, and the answer.
fn pass_on(site: &Site, listener: &std::os::unix::net::UnixListener, remove: bool) -> (String, String) {
    use std::io::{Read, Write};
    let (mut nginx, _) = listener.accept().unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        nginx.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
    let head = String::from_utf8(request).unwrap();
    let closing = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let mut gate = site.gate_stream();
    gate.write_all(closing.as_bytes()).unwrap();
    let mut answer = Vec::new();
    gate.read_to_end(&mut answer).unwrap();
    if remove {
        site.stored().iter().for_each(|file| std::fs::remove_file(file).unwrap());
    }
    nginx.write_all(&answer).unwrap();
    (head.to_lowercase(), String::from_utf8(answer).unwrap())
}

#[test]
fn a_removed_rendition_is_made_again_with_the_same_validators() {
    let site = Site::new("").serve().with_nginx();
    site.add("photo_land.jpg", "a.jpg");
    let url = site.sign(&["media/a.jpg", "width-100"]);
    let first = site.nginx("GET", &url, "");
    assert_eq!(first.status, 200);
    site.stored().iter().for_each(|file| std::fs::remove_file(file).unwrap());
    let again = site.nginx("GET", &url, "");
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(again.header("etag"), first.header("etag"));
    assert_eq!(again.header("last-modified"), first.header("last-modified"));
}

#[test]
fn head_range_and_conditions_work_through_nginx() {
    let site = Site::new("").serve().with_nginx();
    site.add("photo_land.jpg", "a.jpg");
    let url = site.sign(&["media/a.jpg", "width-100"]);
    let whole = site.nginx("GET", &url, "");
    let etag = whole.header("etag").unwrap();
    let modified = whole.header("last-modified").unwrap();
    assert_eq!(whole.header("content-length"), Some(whole.body.len().to_string()));
    assert_eq!(whole.header("cache-control").as_deref(), Some("max-age=3600, public"));

    let head = site.nginx("HEAD", &url, "");
    assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, whole.header("content-length")));
    let part = site.nginx("GET", &url, "Range: bytes=10-19\r\n");
    assert_eq!((part.status, part.body.as_slice()), (206, &whole.body[10..20]));
    let beyond = site.nginx("GET", &url, "Range: bytes=999999-\r\n");
    assert_eq!(beyond.status, 416);
    for condition in [format!("If-None-Match: {etag}\r\n"), format!("If-Modified-Since: {modified}\r\n")] {
        let not_modified = site.nginx("GET", &url, &condition);
        assert_eq!((not_modified.status, not_modified.body.len()), (304, 0), "{condition}");
        assert_eq!(not_modified.header("etag").as_deref(), Some(etag.as_str()));
    }
    assert_eq!(site.nginx("GET", &url, "If-None-Match: \"other\"\r\n").status, 200);
    let if_range = format!("Range: bytes=0-4\r\nIf-Range: {etag}\r\n");
    assert_eq!(site.nginx("GET", &url, &if_range).status, 206);
    // A condition is answered after the proof, not instead of it.
    let forged = url.replace("width-100", "width-101");
    assert_eq!(site.nginx("GET", &forged, &format!("If-None-Match: {etag}\r\n")).status, 403);
}

#[test]
fn a_full_queue_answers_at_once_and_hits_do_not_wait() {
    let site = Site::new("[render]\nworkers = 1\nqueue_depth = 1\ndeadline_seconds = 120\n").serve();
    site.add("photo_land.jpg", "a.jpg");
    let hit = site.sign(&["media/a.jpg", "width-10"]);
    assert_eq!(site.gate("GET", &hit, "").status, 200);
    let urls: Vec<String> =
        (0..6).map(|i| site.sign(&["media/a.jpg", &format!("scale-{}|format-webp-lossless", 250 + i)])).collect();
    let results: Vec<(u16, Duration, Option<String>)> = std::thread::scope(|scope| {
        let asks: Vec<_> = urls
            .iter()
            .map(|url| {
                let site = &site;
                scope.spawn(move || {
                    let started = Instant::now();
                    let response = site.gate("GET", url, "");
                    (response.status, started.elapsed(), response.header("retry-after"))
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(100));
        let started = Instant::now();
        assert_eq!(site.gate("GET", &hit, "").status, 200);
        assert!(started.elapsed() < Duration::from_millis(200), "a hit waits behind no render");
        asks.into_iter().map(|ask| ask.join().unwrap()).collect()
    });
    let refused: Vec<_> = results.iter().filter(|(status, _, _)| *status == 503).collect();
    assert!(refused.len() >= 3 && results.iter().any(|(status, _, _)| *status == 200), "{results:?}");
    for (_, elapsed, retry_after) in refused {
        assert!(retry_after.is_some());
        assert!(*elapsed < Duration::from_millis(500), "{elapsed:?}");
    }
    assert_eq!(site.metric("sendimage_render_queue_depth"), 0.0);
}

/// A page's sizes of a new photo, all at once, are what each is alone, and fewer decodes than there are scales to decode to.
#[test]
fn six_sizes_asked_for_at_once_share_decodes_and_are_what_each_is_alone() {
    const SPECS: [&str; 6] = ["width-160", "width-240", "width-400", "width-600", "width-800", "width-1100"];
    // One worker: those who come too late to be begun with find it at work, and wait for it together.
    let site = Site::new("[render]\nworkers = 1\n").serve().with_nginx();
    let photo = crate::render_cost::jpeg(2_400, 1_800, false);
    let write = |name: &str| std::fs::write(site.path("media").join(name), &photo).unwrap();
    let sign = |name: &str, spec: &str| site.sign(&[&format!("media/{name}"), spec]);
    // A file of its own for each, which has nothing to share with another.
    let alone = SPECS.map(|spec| (format!("{spec}.jpg"), sign(&format!("{spec}.jpg"), spec)));
    let together = SPECS.map(|spec| sign("all.jpg", spec));
    let ask = |url: &str| {
        let response = site.nginx("GET", url, "");
        assert_eq!(response.status, 200, "{}", site.log());
        response.body
    };
    let alone = alone.map(|(name, url)| {
        write(&name);
        ask(&url)
    });
    // The first bucket is for those that found their decode made.
    let decodes = || {
        let stage =
            |of: &str, more: &str| site.metric(&format!("sendimage_render_seconds_{of}{{{more}stage=\"decode\"}}"));
        stage("count", "") - stage("bucket", "le=\"0.0005\",")
    };
    let before = decodes();
    assert_eq!(before, 6.0);
    let all_there = std::sync::Barrier::new(SPECS.len());
    let found = std::thread::scope(|scope| {
        let asks = together.each_ref().map(|url| {
            let (all_there, ask, write) = (&all_there, &ask, &write);
            scope.spawn(move || {
                // What was written just now is left to settle before it is probed: all six are there by then.
                if all_there.wait().is_leader() {
                    write("all.jpg");
                }
                all_there.wait();
                ask(url)
            })
        });
        asks.map(|ask| ask.join().unwrap())
    });
    for ((spec, found), alone) in SPECS.iter().zip(found).zip(alone) {
        assert!(found == alone, "{spec}: other bytes than alone");
    }
    let made = decodes() - before;
    assert!((1.0..=3.0).contains(&made), "{made} decodes");
}
