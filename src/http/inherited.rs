//! Sockets that the service manager holds open for us (systemd's socket activation: `LISTEN_FDS`).
//!
//! The socket outlives the process: during a restart connections wait in it until the next process takes them, and none is
//! refused.

use std::{io, net, os::unix};

use listenfd::ListenFd;

use crate::config::ListenAddress;

/// The sockets that this process was started with, and has not used yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Socket>);

/// A bound socket that is not ours to remove.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(net::TcpListener),
    /// A unix socket.
    Unix(unix::net::UnixListener),
}

impl Inherited {
    /// Takes what the environment names, and marks it as not for child processes. To be called before there are threads: it
    /// clears the environment's word for it.
    ///
    /// # Errors
    /// When one of them is no listening stream socket.
    pub fn take() -> io::Result<Self> {
        let mut given = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..given.len() {
            let socket = match given.take_unix_listener(index) {
                Ok(socket) => socket.map(Socket::Unix),
                Err(_) => given.take_tcp_listener(index)?.map(Socket::Tcp),
            };
            sockets.extend(socket);
        }
        for socket in &sockets {
            match socket {
                Socket::Tcp(listener) => listener.set_nonblocking(true)?,
                Socket::Unix(listener) => listener.set_nonblocking(true)?,
            }
        }
        Ok(Self(sockets))
    }

    /// The socket that is bound to this address, if there is one.
    pub fn of(&mut self, address: &ListenAddress) -> Option<Socket> {
        let index = self.0.iter().position(|socket| socket.is_at(address))?;
        Some(self.0.swap_remove(index))
    }

    /// Where the sockets listen that nobody has asked for.
    pub fn unused(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|socket| match socket {
            Socket::Tcp(listener) => listener.local_addr().map_or_else(|_| "?".into(), |address| address.to_string()),
            Socket::Unix(listener) => {
                listener.local_addr().map_or_else(|_| "?".into(), |address| format!("{address:?}"))
            }
        })
    }
}

impl Socket {
    fn is_at(&self, wanted: &ListenAddress) -> bool {
        match (self, wanted) {
            (Self::Tcp(listener), ListenAddress::Tcp(address)) => {
                listener.local_addr().is_ok_and(|own| own == *address)
            }
            (Self::Unix(listener), ListenAddress::Unix(path)) => {
                listener.local_addr().is_ok_and(|own| own.as_pathname() == Some(path))
            }
            _ => false,
        }
    }
}
