//! More of everything than is decent: sockets, requests, renders.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use crate::{harness::Site, report::Row, tools::scale};

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
    assert!(slowest < Duration::from_millis(500), "a hit took {slowest:?}");
    row.passed(&format!("{count} sockets, the last cut after {cut:.1?}; the slowest hit meanwhile {slowest:.1?}"));
}
