//! A network of our own: hosts as network namespaces, each with an address, on one bridge that a test can take them off.

use std::{
    fs::File,
    net::{SocketAddr, TcpStream},
    os::fd::AsFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::harness::system_path;

/// A bridge and what is on it. Nothing of the machine's own network is touched.
pub struct Network {
    name: String,
    hosts: Vec<&'static str>,
}

/// The address of a host by its place in the list.
pub fn address(place: usize) -> String {
    format!("10.77.0.{}", 10 + place)
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").env("PATH", system_path()).args(arguments).output();
    let output = output.map_err(|error| format!("ip (iproute2): {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

impl Network {
    /// A network with these hosts, or why this machine makes none.
    pub fn new(hosts: &[&'static str]) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("si{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let network = Self { name, hosts: hosts.to_vec() };
        let hub = network.space("hub");
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "bridge", "up"])?;
        for (place, host) in hosts.iter().enumerate() {
            let space = network.space(host);
            ip(&["netns", "add", &space])?;
            ip(&["-n", &hub, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
            ip(&["-n", &hub, "link", "set", host, "master", "bridge", "up"])?;
            ip(&["-n", &space, "address", "add", &format!("{}/24", address(place)), "dev", "eth0"])?;
            ip(&["-n", &space, "link", "set", "eth0", "up"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
        }
        Ok(network)
    }

    fn space(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    /// The address of a host.
    pub fn address(&self, host: &str) -> String {
        address(self.hosts.iter().position(|known| *known == host).unwrap())
    }

    /// Does something as a process on a host would: what it starts stays there.
    pub fn on<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let space = self.space(host);
        thread::scope(|scope| {
            let there = scope.spawn(move || {
                let space = File::open(format!("/run/netns/{space}")).unwrap();
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            there.join().unwrap()
        })
    }

    /// A connection from a host.
    pub fn connect(&self, host: &str, to: &str, port: u16) -> Option<TcpStream> {
        let to: SocketAddr = format!("{to}:{port}").parse().unwrap();
        self.on(host, || TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok())
    }

    /// Takes a host off the network, without a word to anybody.
    pub fn cut(&self, host: &str) {
        ip(&["-n", &self.space("hub"), "link", "set", host, "down"]).unwrap();
    }

    /// Puts it back.
    pub fn mend(&self, host: &str) {
        ip(&["-n", &self.space("hub"), "link", "set", host, "up"]).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in self.hosts.iter().chain(["hub"].iter()) {
            let _ = ip(&["netns", "delete", &self.space(host)]);
        }
    }
}
