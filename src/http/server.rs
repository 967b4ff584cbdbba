//! Sockets, connections and their limits.

use std::{
    convert::Infallible,
    future::Future,
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
};

use crate::{
    config::{ListenAddress, Mode},
    offload::Body,
};

/// Largest request head, in bytes: nginx sends 8 KiB at most.
const MAX_HEAD_BYTES: usize = 32 << 10;
const MAX_HEADERS: usize = 64;
/// After a failed accept (no descriptors left, say): without a pause the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound socket.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket, and the file to remove at the end.
    Unix(UnixListener, SocketFile),
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
    /// Binds an address.
    ///
    /// # Errors
    /// The system's, with the address in its text.
    pub async fn bind(address: &ListenAddress, mode: Mode) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
        match address {
            ListenAddress::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await.map_err(named)?)),
            ListenAddress::Unix(path) => {
                remove_stale(path).map_err(named)?;
                let listener = UnixListener::bind(path).map_err(named)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode.0)).map_err(named)?;
                Ok(Self::Unix(listener, SocketFile(path.clone())))
            }
        }
    }

    /// Where it listens, with the port that the system chose for port 0.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(|_| "?".into(), |address| address.to_string()),
            Self::Unix(_, file) => format!("unix:{}", file.0.display()),
        }
    }

    /// Serves until `stop` turns true, then lets requests in flight end within the drain time.
    pub async fn serve<F, A>(self, bounds: Bounds, mut stop: watch::Receiver<bool>, answer: A)
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(bounds.max_connections));
        loop {
            let accepted = async {
                let Ok(place) = places.clone().acquire_owned().await else { return Err(io::ErrorKind::Other.into()) };
                let stream: Box<dyn Stream> = match &self {
                    Self::Tcp(listener) => {
                        let (stream, _) = listener.accept().await?;
                        // Merely slower without it, and a peer that has hung up already is no reason to pause.
                        let _ = stream.set_nodelay(true);
                        Box::new(stream)
                    }
                    Self::Unix(listener, _) => Box::new(listener.accept().await?.0),
                };
                Ok::<_, io::Error>((stream, place))
            };
            let accepted = tokio::select! {
                accepted = accepted => accepted,
                () = stopped(&mut stop) => break,
            };
            let (stream, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            // Without a timer hyper keeps no time limit at all, whatever the header timeout says.
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(bounds.header_timeout)
                .max_buf_size(MAX_HEAD_BYTES)
                .max_headers(MAX_HEADERS)
                // An answer is a head and nothing else: one buffer, which costs a plain send less than a vector of them.
                .writev(false)
                .serve_connection(TokioIo::new(stream), service);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                let _place = place;
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection ended badly");
                }
            });
        }
        let drained = pin!(graceful.shutdown());
        if tokio::time::timeout(bounds.drain, drained).await.is_err() {
            tracing::warn!("requests were still in flight when the drain time was over");
        }
    }
}

/// Ends when the flag turns true, or nobody is left who could turn it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

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
