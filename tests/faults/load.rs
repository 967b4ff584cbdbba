//! Clients that go on asking through nginx, on connections of their own, and keep count.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::harness::Site;

/// A load that is on.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

struct Shared {
    port: u16,
    hits: Vec<String>,
    fresh: Vec<String>,
    next_fresh: AtomicUsize,
    over: AtomicBool,
    answers: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

/// What came of it.
pub struct Told {
    /// Requests answered with 200 and a body.
    pub answers: usize,
    /// Everything else.
    pub failures: Vec<String>,
}

impl Load {
    /// Begins: `clients` ask for the renditions `hits` of `media/photo.jpg` (made first) over and over, and now and then for
    /// the next of `fresh`, each once.
    pub fn begin(site: &Site, hits: &[&str], fresh: &[String], clients: usize) -> Self {
        let sign = |spec: &str| site.sign(&["media/photo.jpg", spec]);
        let hits: Vec<String> = hits.iter().map(|spec| sign(spec)).collect();
        for url in &hits {
            assert_eq!(site.nginx("GET", url, "").status, 200, "{}", site.log());
        }
        let shared = Arc::new(Shared {
            port: site.nginx_port(),
            hits,
            fresh: fresh.iter().map(|spec| sign(spec)).collect(),
            next_fresh: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            answers: AtomicUsize::new(0),
            failures: Mutex::default(),
        });
        let clients = (0..clients)
            .map(|number| {
                let shared = shared.clone();
                std::thread::spawn(move || shared.ask(number))
            })
            .collect();
        Self { shared, clients }
    }

    /// Ends it.
    pub fn end(self) -> Told {
        self.shared.over.store(true, Relaxed);
        for client in self.clients {
            client.join().unwrap();
        }
        let failures = std::mem::take(&mut *self.shared.failures.lock().unwrap());
        Told { answers: self.shared.answers.load(Relaxed), failures }
    }
}

impl Shared {
    fn ask(&self, number: usize) {
        let mut asked = number;
        while !self.over.load(Relaxed) {
            asked += 1;
            // Every tenth is one that nobody has asked for yet.
            let fresh =
                if asked.is_multiple_of(10) { self.fresh.get(self.next_fresh.fetch_add(1, Relaxed)) } else { None };
            let url = fresh.unwrap_or(&self.hits[asked % self.hits.len()]);
            match self.once(url) {
                Ok(()) => drop(self.answers.fetch_add(1, Relaxed)),
                Err(problem) => self.failures.lock().unwrap().push(format!("{url}: {problem}")),
            }
        }
    }

    fn once(&self, url: &str) -> Result<(), String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(|error| format!("connect: {error}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(|error| error.to_string())?;
        let request = format!("GET {url} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(|error| format!("cut: {error}"))?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map_err(|error| format!("cut: {error}"))?;
        let response = crate::harness::parse(&bytes);
        let length = response.header("content-length").and_then(|text| text.parse::<usize>().ok());
        match (response.status, length) {
            (200, Some(length)) if length == response.body.len() && length > 0 => Ok(()),
            (0, _) => Err(format!("cut after {} bytes", bytes.len())),
            (status, length) => Err(format!("{status}, {length:?} promised, {} came", response.body.len())),
        }
    }
}
