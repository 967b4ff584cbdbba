//! More of everything than is decent: sockets, requests, renders.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use crate::{
    harness::{Site, wait_for},
    report::Row,
    tools::{is_long, scale},
};

/// T28: those who say nothing, and those who say it a byte at a time, are cut; meanwhile everybody else is served.
#[test]
fn slow_and_silent_sockets() {
    let row = Row::begin("slow and silent sockets", "T28");
    let site = Site::new("[server]\nheader_timeout_seconds = 2\n").serve();
    site.add("photo_land.jpg", "photo.jpg");
    let url = site.sign(&["media/photo.jpg", "width-100"]);
    assert_eq!(site.gate("GET", &url, "").status, 200);

    let count = scale(300, 1000);
    let mut sockets: Vec<UnixStream> = (0..count).map(|_| site.gate_stream()).collect();
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    // Two of three trickle a request that never ends.
    let request = format!("GET {url} HTTP/1.1\r\nHost: localhost\r\nX-Slow: ");
    let mut bytes = request.bytes().chain(std::iter::repeat(b'a'));
    while began.elapsed() < Duration::from_millis(2_500) {
        let byte = bytes.next().unwrap_or(b'a');
        for (index, socket) in sockets.iter_mut().enumerate() {
            if index % 3 != 0 {
                // It may have been cut already.
                let _ = socket.write_all(&[byte]);
            }
        }
        let asked = Instant::now();
        assert_eq!(site.gate("GET", &url, "").status, 200);
        slowest = slowest.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    for socket in &mut sockets {
        socket.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
        let mut answer = Vec::new();
        match socket.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "a socket is still open"),
        }
    }
    let cut = began.elapsed();
    assert!(cut < Duration::from_secs(6), "the last was cut after {cut:?}");
    assert!(slowest < Duration::from_secs(1), "a hit took {slowest:?}");
    row.passed(&format!("{count} sockets, the last cut after {cut:.1?}; the slowest hit meanwhile {slowest:.1?}"));
}

/// F22: a thousand ask for what is not there yet.
#[test]
fn a_thousand_ask_for_the_same() {
    let row = Row::begin("one render for a thousand", "F22");
    let site = Site::new("").serve();
    site.add("photo_land.jpg", "photo.jpg");
    let url = site.sign(&["media/photo.jpg", "width-321|format-webp"]);
    let count = scale(300, 1000);
    let statuses = at_once(&site, (0..count).map(|_| url.clone()));
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(site.metric("sendimage_renders_total{outcome=\"rendered\",format=\"webp\"}"), 1.0);
    assert_eq!(site.stored().len(), 1);
    row.passed(&format!("{count} requests at once, {count} answered with 200, 1 render, 1 file"));
}

/// T29, F23: clients that leave. What was waiting is not made; what had begun is, and is there for the next.
#[test]
fn clients_that_leave() {
    let row = Row::begin("clients that leave", "T29 F23");
    let site = Site::new("[render]\nworkers = 1\nqueue_depth = 500\n").serve();
    site.add("photo_land.jpg", "photo.jpg");
    let count = scale(60, 400);
    let specs: Vec<String> = (0..count).map(|i| format!("width-{}|format-avif", 100 + i)).collect();
    let urls: Vec<String> = specs.iter().map(|spec| site.sign(&["media/photo.jpg", spec])).collect();
    let followed = urls[count / 2].clone();
    let streams: Vec<UnixStream> = urls
        .iter()
        .map(|url| {
            let mut stream = site.gate_stream();
            write!(stream, "GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            stream
        })
        .collect();
    wait_for(Duration::from_secs(10), || site.metric("sendimage_render_queue_depth") > count as f64 / 2.0)
        .expect("a queue");
    // One of them is wanted by somebody else too, who stays.
    let follower = std::thread::scope(|scope| {
        let follower = scope.spawn(|| site.gate("GET", &followed, "").status);
        std::thread::sleep(Duration::from_millis(100));
        drop(streams);
        let began = Instant::now();
        wait_for(Duration::from_secs(10), || site.metric("sendimage_render_queue_depth") <= 1.0)
            .expect("an empty queue");
        assert!(began.elapsed() < Duration::from_secs(2), "the queue was emptied after {:?}", began.elapsed());
        follower.join().unwrap()
    });
    assert_eq!(follower, 200, "{}", site.log());
    let made = site.metric("sendimage_renders_total{outcome=\"rendered\",format=\"avif\"}");
    assert!(made < count as f64 / 2.0, "{made} renders were made for nobody");
    // Slots came back.
    let fresh = site.sign(&["media/photo.jpg", "width-77"]);
    assert_eq!(site.gate("GET", &fresh, "").status, 200);
    assert_eq!(site.metric("sendimage_render_memory_bytes"), 0.0);
    row.passed(&format!(
        "{count} clients left, {made} renders had begun, the queue was empty within 2 s, the one who stayed got 200"
    ));
}

/// T29: three times as many renders as this machine makes. Hits go on, refusals come at once, and nobody is lost.
#[test]
fn more_renders_than_the_machine_makes() {
    let row = Row::begin("overload", "T29");
    let site = Site::new("[render]\nworkers = 2\nqueue_depth = 16\n").serve();
    site.add("photo_land.jpg", "photo.jpg");
    let hit = site.sign(&["media/photo.jpg", "width-100"]);
    assert_eq!(site.gate("GET", &hit, "").status, 200);
    let count = scale(200, 1500);
    let urls: Vec<String> =
        (0..count).map(|i| site.sign(&["media/photo.jpg", &format!("width-{}|format-webp", 101 + i)])).collect();
    let mut hits = Vec::new();
    let answers = std::thread::scope(|scope| {
        let asked = scope.spawn(|| timed(&site, &urls));
        while !asked.is_finished() {
            let began = Instant::now();
            assert_eq!(site.gate("GET", &hit, "").status, 200);
            hits.push(began.elapsed());
            std::thread::sleep(Duration::from_millis(5));
        }
        asked.join().unwrap()
    });
    let of = |wanted: u16| {
        let mut times: Vec<Duration> =
            answers.iter().filter(|(status, _, _)| *status == wanted).map(|(_, took, _)| *took).collect();
        times.sort();
        times
    };
    let (served, refused) = (of(200), of(503));
    assert_eq!(served.len() + refused.len(), count, "{answers:?}");
    assert!(!refused.is_empty() && served.len() >= 16, "{} served, {} refused", served.len(), refused.len());
    assert!(answers.iter().all(|(status, _, retry)| (*status == 503) == *retry), "a refusal without Retry-After");
    assert_eq!(site.metric("sendimage_requests_total{outcome=\"overloaded\"}"), refused.len() as f64);
    hits.sort();
    let p99 = |times: &[Duration]| times[times.len() * 99 / 100];
    // Clients and servers share the cores here; the benchmark has the real figures.
    assert!(p99(&hits) < Duration::from_secs(1), "hits: {:?}", p99(&hits));
    let again: Vec<u16> = urls.iter().take(8).map(|url| site.gate("GET", url, "").status).collect();
    assert_eq!(again, [200; 8], "after the flood");
    row.passed(&format!(
        "{count} renders at once: {} made, {} refused with Retry-After (99 % within {:.0?}), hits meanwhile 99 % within {:.0?}",
        served.len(),
        refused.len(),
        p99(&refused),
        p99(&hits)
    ));
}

/// F32: nobody reads the log.
#[test]
fn a_log_that_nobody_reads() {
    let row = Row::begin("blocked log", "F32");
    let mut site = Site::new("[log]\nlevel = \"debug\"\n");
    site.add("photo_land.jpg", "photo.jpg");
    // A pipe of 64 KiB, and a reader that never reads.
    let (reader, writer) = std::io::pipe().unwrap();
    site.start_into(site.serve_command(&[crate::harness::SENDIMAGE]), writer.into());
    let url = site.sign(&["media/photo.jpg", "width-100"]);
    let count = scale(12_000, 40_000);
    let mut slowest = Duration::ZERO;
    let mut stream = site.gate_stream();
    let request = format!("GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    for _ in 0..count {
        let asked = Instant::now();
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = [0; 2048];
        let length = stream.read(&mut head).unwrap();
        assert!(head[..length].starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head[..length]));
        slowest = slowest.max(asked.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "an answer took {slowest:?}");
    let dropped = site.metric("sendimage_log_dropped_total");
    assert!(dropped > 0.0, "{count} lines cannot all have found room");
    // Closed altogether, it is no better and no worse.
    drop(reader);
    let fresh = site.sign(&["media/photo.jpg", "width-101"]);
    assert_eq!(site.gate("GET", &fresh, "").status, 200);
    site.signal(rustix::process::Signal::TERM);
    assert!(site.wait().success());
    row.passed(&format!(
        "{count} answers into a log that nobody reads, the slowest {slowest:.1?}; {dropped} lines dropped and counted"
    ));
}

/// What each of these is answered with, asked for at the same moment.
fn at_once(site: &Site, urls: impl Iterator<Item = String>) -> Vec<u16> {
    let urls: Vec<String> = urls.collect();
    timed(site, &urls).into_iter().map(|(status, _, _)| status).collect()
}

/// Status, time and whether there was a Retry-After, of requests sent at the same moment.
fn timed(site: &Site, urls: &[String]) -> Vec<(u16, Duration, bool)> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = urls
            .iter()
            .map(|url| {
                scope.spawn(move || {
                    let began = Instant::now();
                    let response = site.gate("GET", url, "");
                    (response.status, began.elapsed(), response.header("retry-after").is_some())
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

/// T30: work that is slow and legal ends at the deadline at the latest, and cheap work does not wait for it.
#[test]
fn slow_but_legal_work() {
    let row = Row::begin("slow but legal work", "T30");
    let deadline = Duration::from_secs(scale(4, 20) as u64);
    let site = Site::new(&format!(
        "[render]\nworkers = 2\nmemory_budget = \"4 GiB\"\ndeadline_seconds = {}.0\n",
        deadline.as_secs()
    ))
    .serve();
    let photo = site.path("media/photo.jpg").display().to_string();
    let sample = ["sample-photo", &photo, "--size", if is_long() { "6000x4000" } else { "3000x2000" }];
    let output = std::process::Command::new(crate::harness::SENDIMAGE).args(sample).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let hit = site.sign(&["media/photo.jpg", "width-100"]);
    assert_eq!(site.gate("GET", &hit, "").status, 200);
    let costly = [
        "original|format-avif-lossless",
        "original|format-avif",
        "original|format-webp-lossless",
        "original|format-gif",
        "scale-129|format-webp|webpquality-100",
        "original|blur-100|format-png",
        "rotate-90|sharpen-100|blur-100|sharpen-99|blur-98|format-avif",
        "pad-6300x6300|smart|format-png",
    ];
    let urls: Vec<String> =
        costly.iter().take(scale(2, costly.len())).map(|spec| site.sign(&["media/photo.jpg", spec])).collect();
    let cheap: Vec<String> =
        (0..urls.len() * 4).map(|i| site.sign(&["media/photo.jpg", &format!("width-{}", 60 + i)])).collect();
    let (mut slowest_hit, mut served, mut refused) = (Duration::ZERO, 0, 0);
    let answers = std::thread::scope(|scope| {
        let asked = scope.spawn(|| timed(&site, &urls));
        let mut cheap = cheap.iter();
        while !asked.is_finished() {
            let began = Instant::now();
            assert_eq!(site.gate("GET", &hit, "").status, 200);
            slowest_hit = began.elapsed().max(slowest_hit);
            // Where every worker is busy with the others, a cheap one waits its turn, or is told at once that there is none.
            if let Some(url) = cheap.next() {
                let response = site.gate("GET", url, "");
                match response.status {
                    200 => served += 1,
                    503 => refused += 1,
                    status => panic!("{status} for {url}\n{}", site.log()),
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        asked.join().unwrap()
    });
    for url in &cheap {
        assert_eq!(site.gate("GET", url, "").status, 200, "{url}, when the others are over\n{}", site.log());
    }
    let slowest = answers.iter().map(|(_, took, _)| *took).max().unwrap_or_default();
    assert!(answers.iter().all(|(status, ..)| [200, 503, 504].contains(status)), "{answers:?}\n{}", site.log());
    assert!(slowest <= deadline + deadline / 10, "{slowest:?}");
    assert!(slowest_hit < Duration::from_secs(1), "a hit waited {slowest_hit:?}");
    row.passed(&format!(
        "{} costly renders of a large photograph: {:?}, the slowest {slowest:.1?} of {deadline:?}; hits meanwhile {slowest_hit:.1?} at most, of the cheap renders {served} served, {refused} 503 and served afterwards",
        answers.len(),
        answers.iter().map(|(status, took, _)| format!("{status} after {:.1} s", took.as_secs_f64())).collect::<Vec<_>>(),
    ));
}
