//! Connections to public addresses only.
//!
//! A name is looked up once, every address that comes of it is checked, and a connection goes to one of those very addresses:
//! there is no second look-up that could say something else (DNS rebinding). One forbidden address among good ones refuses
//! the name as a whole. Nobody's public site has one by intention; who mixes them wants to see which one we take.

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::Uri;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tower_service::Service;

use super::{Guard, guard::Forbidden};

/// Addresses of one name that are tried.
const MOST_TRIED: usize = 4;
/// Names that are looked up at a time. The system's resolver blocks a thread, for as long as it likes where DNS is down; other
/// work needs threads too.
const MAX_LOOKUPS: usize = 16;

/// A future in a box.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Names to addresses.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of a name.
    fn resolve(&self, host: String, port: u16) -> Boxed<io::Result<Vec<SocketAddr>>>;
}

/// The system's own resolver: `/etc/hosts`, DNS, whatever `nsswitch.conf` has.
pub struct SystemResolver(Arc<Semaphore>);

impl Default for SystemResolver {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LOOKUPS)))
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, host: String, port: u16) -> Boxed<io::Result<Vec<SocketAddr>>> {
        let turns = self.0.clone();
        Box::pin(async move {
            let turn = turns.acquire_owned().await.map_err(io::Error::other)?;
            let looked_up = tokio::task::spawn_blocking(move || {
                // Held by the thread: whoever gives up waiting does not free it.
                let _turn = turn;
                (host.as_str(), port).to_socket_addrs().map(Vec::from_iter)
            });
            looked_up.await.map_err(io::Error::other)?
        })
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, Error)]
pub enum ConnectError {
    /// The URL has no host, or no port is known for its scheme.
    #[error("the URL has no host")]
    Host,
    /// The host is, or has, an address that must not be connected to.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The name has no address, or nobody says which.
    #[error("its name cannot be looked up: {0}")]
    Lookup(String),
    /// Not in time, TLS included.
    #[error("no connection within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// No address could be connected to.
    #[error("cannot connect: {0}")]
    Refused(String),
}

fn refused(error: io::Error) -> ConnectError {
    ConnectError::Refused(error.to_string())
}

/// Connects by the rules above.
#[derive(Clone)]
pub struct Connector {
    guard: Arc<Guard>,
    resolver: Arc<dyn Resolve>,
    limit: Duration,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("guard", &self.guard).field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Connector {
    /// Connects to whom the guard lets, within `limit`.
    pub fn new(guard: Guard, resolver: Arc<dyn Resolve>, limit: Duration) -> Self {
        Self { guard: Arc::new(guard), resolver, limit }
    }

    /// The addresses of a URL's host: all of them may be connected to.
    async fn addresses(&self, url: &Uri) -> Result<Vec<SocketAddr>, ConnectError> {
        let host = url.host().filter(|host| !host.is_empty()).ok_or(ConnectError::Host)?;
        let known = match url.scheme_str() {
            Some("http") => Some(80),
            Some("https") => Some(443),
            _ => None,
        };
        let port = url.port_u16().or(known).ok_or(ConnectError::Host)?;
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let addresses = match literal.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => {
                let found = self.resolver.resolve(host.to_owned(), port).await;
                found.map_err(|error| ConnectError::Lookup(error.to_string()))?
            }
        };
        if addresses.is_empty() {
            return Err(ConnectError::Lookup("it has no address".into()));
        }
        for address in &addresses {
            self.guard.check(address.ip())?;
        }
        Ok(addresses)
    }

    async fn connect(self, url: Uri) -> Result<TokioIo<TcpStream>, ConnectError> {
        let end = Instant::now() + self.limit;
        let addresses =
            timeout_at(end, self.addresses(&url)).await.map_err(|_| ConnectError::TimedOut(self.limit))??;
        let mut failed = ConnectError::TimedOut(self.limit);
        let tried = addresses.len().min(MOST_TRIED);
        for (number, address) in addresses.into_iter().take(tried).enumerate() {
            // Each has its share of what is left: a first one that is silent leaves time for the second.
            let now = Instant::now();
            let share = end.saturating_duration_since(now) / (tried - number) as u32;
            match timeout_at(now + share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).map_err(refused)?;
                    return Ok(TokioIo::new(stream));
                }
                Ok(Err(error)) => failed = refused(error),
                Err(_) => {}
            }
        }
        Err(failed)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Boxed<Result<Self::Response, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        Box::pin(self.clone().connect(url))
    }
}

/// Another connector within a time: TLS takes its own.
#[derive(Clone, Debug)]
pub struct InTime<C> {
    /// The other.
    pub connector: C,
    /// All that it may take.
    pub limit: Duration,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<C> Service<Uri> for InTime<C>
where
    C: Service<Uri>,
    C::Response: Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Boxed<Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let (connecting, limit) = (self.connector.call(url), self.limit);
        Box::pin(async move {
            let connected = tokio::time::timeout(limit, connecting).await;
            connected.map_err(|_| ConnectError::TimedOut(limit))?.map_err(Into::into)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        collections::HashMap,
        net::TcpListener,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
    };

    /// Says in turn what it was given, for any name.
    struct Says(Vec<Vec<&'static str>>, AtomicUsize);

    impl Resolve for Says {
        fn resolve(&self, _: String, port: u16) -> Boxed<io::Result<Vec<SocketAddr>>> {
            let turn = self.1.fetch_add(1, SeqCst);
            let said = &self.0[turn.min(self.0.len() - 1)];
            let addresses = said.iter().map(|address| SocketAddr::new(address.parse().unwrap(), port)).collect();
            Box::pin(std::future::ready(Ok(addresses)))
        }
    }

    fn connector(says: &[&[&'static str]], allowed: &[&str]) -> (Connector, Arc<Says>) {
        let resolver = Arc::new(Says(says.iter().map(|turn| turn.to_vec()).collect(), AtomicUsize::new(0)));
        let guard = Guard::new(allowed.iter().map(|network| network.parse().unwrap()).collect());
        (Connector::new(guard, resolver.clone(), Duration::from_secs(2)), resolver)
    }

    #[tokio::test]
    async fn the_address_that_was_checked_is_the_one_that_is_connected_to() {
        let good = TcpListener::bind("127.0.0.2:0").unwrap();
        let url: Uri = format!("http://images.example:{}/a", good.local_addr().unwrap().port()).parse().unwrap();
        // The second answer is never asked for.
        let (mut connector, resolver) = connector(&[&["127.0.0.2"], &["127.0.0.1"]], &["127.0.0.2"]);
        let stream = connector.call(url.clone()).await.unwrap();
        assert_eq!(stream.inner().peer_addr().unwrap(), good.local_addr().unwrap());
        assert_eq!(resolver.1.load(SeqCst), 1);
        // The next connection asks anew, and is told the other one.
        assert!(matches!(connector.call(url).await, Err(ConnectError::Forbidden(_))));
    }

    #[tokio::test]
    async fn one_forbidden_address_refuses_the_name() {
        let good = TcpListener::bind("127.0.0.2:0").unwrap();
        good.set_nonblocking(true).unwrap();
        let url: Uri = format!("http://images.example:{}/a", good.local_addr().unwrap().port()).parse().unwrap();
        for bad in ["10.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.2", "fe80::1"] {
            for order in [[bad, "127.0.0.2"], ["127.0.0.2", bad]] {
                let (mut connector, _) = connector(&[&order], &["127.0.0.2"]);
                let error = connector.call(url.clone()).await.unwrap_err();
                assert!(matches!(&error, ConnectError::Forbidden(_)), "{order:?}: {error}");
            }
        }
        assert_eq!(good.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "nobody came");
        let (mut connector, _) = connector(&[&[]], &[]);
        assert!(matches!(connector.call(url).await, Err(ConnectError::Lookup(_))));
    }

    #[tokio::test]
    async fn a_silent_address_leaves_time_for_the_next() {
        let good = TcpListener::bind("127.0.0.2:0").unwrap();
        let port = good.local_addr().unwrap().port();
        let url: Uri = format!("http://images.example:{port}/a").parse().unwrap();
        // A listener whose backlog is full answers nobody.
        let full = socket_with_full_backlog(port);
        let (mut connector, _) = connector(&[&["127.0.0.3", "127.0.0.2"]], &["127.0.0.0/8"]);
        let began = std::time::Instant::now();
        let stream = connector.call(url.clone()).await.unwrap();
        assert_eq!(stream.inner().peer_addr().unwrap().ip().to_string(), "127.0.0.2");
        assert!(began.elapsed() < Duration::from_secs(2));
        let (mut connector, _) = self::connector(&[&["127.0.0.3"]], &["127.0.0.0/8"]);
        assert!(matches!(connector.call(url).await, Err(ConnectError::TimedOut(_))));
        drop(full);
    }

    fn socket_with_full_backlog(port: u16) -> (rustix::fd::OwnedFd, Vec<rustix::fd::OwnedFd>) {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with};
        let address: SocketAddr = ([127, 0, 0, 3], port).into();
        let stream = |flags| socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        let listener = stream(SocketFlags::empty());
        bind(&listener, &address).unwrap();
        listen(&listener, 0).unwrap();
        let fill = |_| {
            let caller = stream(SocketFlags::NONBLOCK);
            let _ = connect(&caller, &address);
            caller
        };
        (listener, (0..4).map(fill).collect())
    }

    #[tokio::test]
    async fn spellings_end_at_the_same_check() {
        // By the system's own resolver, as names: what the parser of URLs would have made plain already.
        let mut connector =
            Connector::new(Guard::default(), Arc::new(SystemResolver::default()), Duration::from_secs(5));
        let mut refused = HashMap::new();
        for host in [
            "localhost",
            "127.1",
            "0x7f.1",
            "0177.0.0.1",
            "2130706433",
            "0x7f000001",
            "0",
            "127.0.0.1",
            "[::1]",
            "[::]",
        ] {
            let url: Uri = format!("http://{host}:1/").parse().unwrap();
            refused.insert(host, connector.call(url).await.unwrap_err());
        }
        for (host, error) in refused {
            assert!(matches!(error, ConnectError::Forbidden(_)), "{host}: {error}");
        }
    }
}
