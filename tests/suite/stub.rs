//! A web site that behaves in every bad way: raw TCP, a connection for each request, and what was asked.

use std::{
    io::{Read as _, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// A request of which the head was read.
#[derive(Clone, Debug)]
pub struct Asked {
    /// As sent, with the query.
    pub target: String,
    /// All of it, in lower case.
    pub head: String,
}

impl Asked {
    /// The parts of the path.
    pub fn parts(&self) -> Vec<&str> {
        self.target.trim_start_matches('/').split('/').collect()
    }
}

/// The site. It ends when it is dropped, but for connections that are still being answered.
pub struct Stub {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    is_over: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Stub {
    /// A site on a port of its own.
    pub fn start(answer: impl Fn(&Asked, usize, &mut TcpStream) + Send + Sync + 'static) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), answer)
    }

    /// A site at an address. `answer` is told the request, and how many there have been for the same target before.
    pub fn at(address: SocketAddr, answer: impl Fn(&Asked, usize, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::<Asked>::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (list, over, answer) = (asked.clone(), is_over.clone(), Arc::new(answer));
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (list, answer) = (list.clone(), answer.clone());
                let Ok(mut stream) = stream else { continue };
                std::thread::spawn(move || {
                    let Some(request) = read_head(&mut stream) else { return };
                    let before = {
                        let mut list = list.lock().unwrap();
                        let before = list.iter().filter(|earlier| earlier.target == request.target).count();
                        list.push(request.clone());
                        before
                    };
                    answer(&request, before, &mut stream);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, asked, is_over, accepting: Some(accepting) }
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How often something was asked for.
    pub fn count(&self, target: &str) -> usize {
        self.asked().iter().filter(|asked| asked.target == target).count()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(IpAddr::from([127, 0, 0, 1]));
        }
        let _ = TcpStream::connect(address);
        let _ = self.accepting.take().unwrap().join();
    }
}

fn read_head(stream: &mut TcpStream) -> Option<Asked> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
    let head = String::from_utf8(bytes).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    Some(Asked { target, head: head.to_ascii_lowercase() })
}

/// An answer with a length; `headers` have their line breaks.
pub fn answer(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    // Whoever asked may have gone.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}
