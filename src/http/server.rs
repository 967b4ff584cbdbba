//! Sockets, connections and their limits.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};

use super::inherited::{Inherited, Socket};
use crate::{
    config::{ListenAddress, Mode},
    offload::Body,
};

/// Largest request head, in bytes: nginx sends 8 KiB at most.
const MAX_HEAD_BYTES: usize = 32 << 10;
const MAX_HEADERS: usize = 64;
/// Connections that wait in the kernel until they are accepted (the system's own bound, net.core.somaxconn, may be lower).
const UNIX_BACKLOG: i32 = 4096;
/// How long a stop waits for the first bytes of a connection that is just open.
const FIRST_WORD: Duration = Duration::from_millis(500);
/// After a failed accept (no descriptors left, say): without a pause the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// While accepting goes on failing, the log has a line this often, with a number.
const ACCEPT_SILENCE: Duration = Duration::from_secs(10);

/// A bound socket.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener, Owner),
    /// A unix socket.
    Unix(UnixListener, Owner),
}

/// Whose a bound socket is.
pub enum Owner {
    /// Ours: it ends with us, and so does its file.
    Us(Option<SocketFile>),
    /// The service manager's: whoever connects while we stop is answered by the next process.
    Manager,
}

/// A unix socket's file, removed when dropped.
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Bounds of a listener's connections.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For a request's head; bounds silent and idle connections too.
    pub header_timeout: Duration,
    /// Connections held at once.
    pub max_connections: usize,
    /// For requests in flight, once a shutdown has begun.
    pub drain: Duration,
}

impl Listener {
    /// Takes the inherited socket of an address, or binds one of our own.
    ///
    /// # Errors
    /// The system's, with the address in its text.
    pub async fn bind(address: &ListenAddress, mode: Mode, inherited: &mut Inherited) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
        match (inherited.of(address), address) {
            (Some(Socket::Tcp(listener)), _) => {
                Ok(Self::Tcp(TcpListener::from_std(listener).map_err(named)?, Owner::Manager))
            }
            (Some(Socket::Unix(listener)), _) => {
                Ok(Self::Unix(UnixListener::from_std(listener).map_err(named)?, Owner::Manager))
            }
            (None, ListenAddress::Tcp(address)) => {
                Ok(Self::Tcp(TcpListener::bind(address).await.map_err(named)?, Owner::Us(None)))
            }
            (None, ListenAddress::Unix(path)) => {
                remove_stale(path).map_err(named)?;
                let listener = bind_unix(path, mode).map_err(named)?;
                Ok(Self::Unix(listener, Owner::Us(Some(SocketFile(path.clone())))))
            }
        }
    }

    /// Where it listens, with the port that the system chose for port 0.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener, _) => listener.local_addr().map_or_else(|_| "?".into(), |address| address.to_string()),
            Self::Unix(listener, _) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                path.map_or_else(|| "?".into(), |path| format!("unix:{}", path.display()))
            }
        }
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener, _) => {
                let (stream, _) = listener.accept().await?;
                // Merely slower without it, and a peer that has hung up already is no reason to pause.
                let _ = stream.set_nodelay(true);
                Box::new(stream)
            }
            Self::Unix(listener, _) => Box::new(listener.accept().await?.0),
        })
    }

    /// Stops listening. Whoever waited in a socket of our own, up to `limit` of them, is still to be answered: nobody after us
    /// would.
    fn close(self, limit: usize) -> Vec<Box<dyn Stream>> {
        let accept: Box<Accept> = match self {
            Self::Tcp(_, Owner::Manager) | Self::Unix(_, Owner::Manager) => return Vec::new(),
            Self::Tcp(listener, Owner::Us(_)) => {
                let Ok(listener) = listener.into_std() else { return Vec::new() };
                Box::new(move || {
                    let (stream, _) = listener.accept()?;
                    Ok(stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)).ok().map(boxed))
                })
            }
            Self::Unix(listener, Owner::Us(file)) => {
                // Without its name nobody new finds it.
                drop(file);
                let Ok(listener) = listener.into_std() else { return Vec::new() };
                Box::new(move || {
                    let (stream, _) = listener.accept()?;
                    Ok(stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream)).ok().map(boxed))
                })
            }
        };
        std::iter::from_fn(|| accept().ok()).flatten().take(limit).collect()
    }

    /// Serves until `stop` turns true, then lets requests in flight end within the drain time.
    pub async fn serve<F, A>(self, bounds: Bounds, mut stop: watch::Receiver<bool>, answer: A)
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let places = Arc::new(Semaphore::new(bounds.max_connections));
        let stopping = stop.clone();
        let start = |stream: Box<dyn Stream>, place: OwnedSemaphorePermit| {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let has_spoken = Arc::new(AtomicBool::new(false));
            let stream = Watched { stream, has_spoken: has_spoken.clone() };
            // Without a timer hyper keeps no time limit at all, whatever the header timeout says.
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(bounds.header_timeout)
                .max_buf_size(MAX_HEAD_BYTES)
                .max_headers(MAX_HEADERS)
                // An answer is a head and nothing else: one buffer, which costs a plain send less than a vector of them.
                .writev(false)
                .serve_connection(TokioIo::new(stream), service);
            let mut stop = stopping.clone();
            tokio::spawn(async move {
                let _place = place;
                let mut connection = pin!(connection);
                let ended = tokio::select! {
                    biased;
                    ended = connection.as_mut() => Some(ended),
                    () = stopped(&mut stop) => None,
                };
                let ended = match ended {
                    Some(ended) => ended,
                    None => {
                        // hyper closes a connection that it has read nothing of, and its client's first request with it.
                        let first_word = poll_fn(|context| match connection.as_mut().poll(context) {
                            Poll::Ready(ended) => Poll::Ready(Some(ended)),
                            Poll::Pending if has_spoken.load(Relaxed) => Poll::Ready(None),
                            Poll::Pending => Poll::Pending,
                        });
                        match tokio::time::timeout(FIRST_WORD, first_word).await {
                            Ok(Some(ended)) => ended,
                            Ok(None) | Err(_) => {
                                connection.as_mut().graceful_shutdown();
                                connection.await
                            }
                        }
                    }
                };
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended badly");
                }
            });
        };
        let (mut failures, mut said) = (0_u32, None::<Instant>);
        loop {
            let accepted = async {
                let Ok(place) = places.clone().acquire_owned().await else { return Err(io::ErrorKind::Other.into()) };
                Ok::<_, io::Error>((self.accept().await?, place))
            };
            let accepted = tokio::select! {
                accepted = accepted => accepted,
                () = stopped(&mut stop) => break,
            };
            match accepted {
                Ok((stream, place)) => start(stream, place),
                Err(error) => {
                    failures += 1;
                    if said.is_none_or(|said| said.elapsed() >= ACCEPT_SILENCE) {
                        tracing::warn!(%error, times = failures, "connections could not be accepted");
                        (said, failures) = (Some(Instant::now()), 0);
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        for stream in self.close(places.available_permits()) {
            let Ok(place) = places.clone().try_acquire_owned() else { break };
            start(stream, place);
        }
        // Each connection holds its place to its end.
        let all = u32::try_from(bounds.max_connections).unwrap_or(u32::MAX);
        if tokio::time::timeout(bounds.drain, places.acquire_many(all)).await.is_err() {
            tracing::warn!("requests were still in flight when the drain time was over");
        }
    }
}

/// Ends when the flag turns true, or nobody is left who could turn it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Takes one connection that waits; `None` for one that is no use.
type Accept = dyn Fn() -> io::Result<Option<Box<dyn Stream>>>;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn boxed(stream: impl Stream + 'static) -> Box<dyn Stream> {
    Box::new(stream)
}

/// A stream that remembers whether anything was ever read from it.
struct Watched {
    stream: Box<dyn Stream>,
    has_spoken: Arc<AtomicBool>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.has_spoken.store(true, Relaxed);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A unix socket that nobody but those whom `mode` lets can ever have connected to.
fn bind_unix(path: &Path, mode: Mode) -> io::Result<UnixListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file is made with the socket's own mode, less the umask; a mode that is set afterwards would come too late.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(mode.0))?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode.0))?;
    listen(&socket, UNIX_BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// Removes the socket of a process that is gone. One that still answers is left alone, and so is whatever is no socket.
fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::{fs::FileTypeExt as _, net::UnixStream};
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => match UnixStream::connect(path) {
            Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
            Err(_) => std::fs::remove_file(path),
        },
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
