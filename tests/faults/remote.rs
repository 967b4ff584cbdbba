//! Sources on other machines: what may be connected to, whoever says so, and what happens when names have no addresses.
//!
//! Names are looked up by the system's own resolver from a server of ours, in a mount namespace where `/etc/resolv.conf` names
//! it. The system calls are the oracle: no TCP connection to an address that is forbidden, whatever the answers say.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    harness::{SENDIMAGE, Site},
    renders::{try_ask, url},
    report::Row,
    strace::{self, Strace},
    stub::{Stub, answer},
};

/// Where names are asked for; nobody else is there.
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 53, 53, 53);
/// The one address that is allowed; not among those of the table.
const GOOD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);
/// Addresses and why they are forbidden; those that are public are left out here: a test asks nobody outside.
const ADDRESSES: &str = include_str!("../vectors/addresses.txt");

/// A name server: which addresses a name has, each time that it is asked; none is "no such name", `None` silence.
struct Names {
    is_over: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Names {
    fn start(addresses: impl Fn(&str, bool) -> Option<Vec<IpAddr>> + Send + 'static) -> std::io::Result<Self> {
        let socket = UdpSocket::bind((NAME_SERVER, 53))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let serving = std::thread::spawn(move || {
            let mut question = [0; 512];
            while !over.load(Ordering::SeqCst) {
                let Ok((length, client)) = socket.recv_from(&mut question) else { continue };
                if let Some(reply) = reply(&question[..length], &addresses) {
                    let _ = socket.send_to(&reply, client);
                }
            }
        });
        Ok(Self { is_over, serving: Some(serving) })
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.serving.take().unwrap().join().unwrap();
    }
}

/// The answer to a question (RFC 1035, 4): addresses of the kind that was asked for, good for no time at all.
fn reply(question: &[u8], addresses: &impl Fn(&str, bool) -> Option<Vec<IpAddr>>) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while *question.get(at)? != 0 {
        let length = usize::from(question[at]);
        labels.push(String::from_utf8_lossy(question.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let kind = u16::from_be_bytes([*question.get(at + 1)?, *question.get(at + 2)?]);
    let asks_v6 = kind == 28;
    let found = addresses(&labels.join("."), asks_v6)?;
    let is_known = !found.is_empty();
    let of_kind: Vec<_> = found.iter().filter(|address| address.is_ipv6() == asks_v6).collect();
    let mut reply = question[..2].to_vec();
    reply.extend([0x85, if is_known { 0x80 } else { 0x83 }, 0, 1, 0, of_kind.len() as u8, 0, 0, 0, 0]);
    reply.extend(question.get(12..at + 5)?);
    for address in of_kind {
        reply.extend([0xC0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 0]);
        match address {
            IpAddr::V4(address) => reply.extend([&[0, 4][..], &address.octets()].concat()),
            IpAddr::V6(address) => reply.extend([&[0, 16][..], &address.octets()].concat()),
        }
    }
    Some(reply)
}

/// Starts the service where names are asked for at [`NAME_SERVER`] alone.
fn start(site: &mut Site) {
    let (resolv, order) = (site.path("resolv.conf"), site.path("nsswitch.conf"));
    std::fs::write(&resolv, format!("nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n")).unwrap();
    std::fs::write(&order, "hosts: files dns\n").unwrap();
    let script = format!(
        "mount --bind {} /etc/resolv.conf && mount --bind {} /etc/nsswitch.conf && exec \"$0\" \"$@\"",
        resolv.display(),
        order.display()
    );
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, SENDIMAGE];
    site.start_as(site.serve_command(&words));
}

/// Whether this machine lets us have a name server and a tracer.
fn is_possible() -> Result<(), &'static str> {
    if !strace::is_possible() {
        return Err("it takes root and strace");
    }
    let unshared = std::process::Command::new("unshare").args(["--mount", "true"]).status();
    if !unshared.is_ok_and(|status| status.success()) {
        return Err("there are no mount namespaces here");
    }
    UdpSocket::bind((NAME_SERVER, 53)).map(drop).map_err(|_| "port 53 cannot be listened at")
}

/// Spellings of addresses that are forbidden, as hosts of URLs.
fn spellings() -> Vec<String> {
    let mut hosts: Vec<String> = [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "ip6-localhost",
        "0",
        "0.0.0.0",
        "0x0",
        "00.0.0.0",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "0x7f.1",
        "0x7f.0.0.1",
        "0x7F000001",
        "0X7f.0x0.0x0.0x1",
        "2130706433",
        "017700000001",
        "0177.0.0.01",
        "0177.1",
        "127.0.0.0x1",
        "%31%32%37.0.0.1",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "１２７.0.0.1",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::0001]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:FFFF:127.0.0.1]",
        "[::127.0.0.1]",
        "[::ffff:0:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "[fe80::5efe:127.0.0.1]",
        "[fe80::1%25lo]",
        "[fe80::1%lo]",
        "[::1%25lo]",
        "169.254.169.254",
        "169.254.43518",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "025177524776",
        "0xa9.0xfe.0xa9.0xfe",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[fd00:ec2::254]",
        "[fe80::a9fe:a9fe]",
        "100.100.100.200",
        "168.63.129.16",
        "192.168.1",
        "10.1",
        "172.16.1",
    ]
    .map(str::to_owned)
    .to_vec();
    for line in ADDRESSES.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" public")) {
        let address: IpAddr = line.split(' ').next().unwrap().parse().unwrap();
        hosts.push(if address.is_ipv6() { format!("[{address}]") } else { address.to_string() });
        // IPv4 as one number, in three bases.
        if let IpAddr::V4(address) = address {
            let number = address.to_bits();
            hosts.extend([number.to_string(), format!("{number:#x}"), format!("0{number:o}")]);
        }
    }
    hosts
}

/// The addresses of TCP connections that were tried, and how often.
fn connections(lines: &[String]) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for line in lines.iter().filter(|line| line.contains("connect(") && line.contains("<TCP")) {
        let after = |mark: &str| Some(line.split_once(mark)?.1.split('"').next().unwrap_or_default().to_owned());
        let address = after("inet_addr(\"").or_else(|| after("inet_pton(AF_INET6, \"")).unwrap_or_else(|| line.clone());
        *counted.entry(address).or_default() += 1;
    }
    counted
}

/// T15: URLs, names and redirects that lead to addresses that must not be connected to.
#[test]
fn no_forbidden_address_is_connected_to() {
    let row = Row::begin("addresses that are not public", "T15");
    if let Err(reason) = is_possible() {
        return row.skipped(reason);
    }
    let forbidden: Vec<IpAddr> = ADDRESSES
        .lines()
        .filter(|line| !line.starts_with('#') && !line.ends_with(" public"))
        .map(|line| line.split(' ').next().unwrap().parse().unwrap())
        .collect();
    let (turns, table) = (AtomicUsize::new(0), forbidden.clone());
    let names = Names::start(move |name, asks_v6| {
        let label = name.strip_suffix(".hosts.test")?.to_owned();
        let number = |prefix: &str| label.strip_prefix(prefix)?.parse::<usize>().ok();
        Some(match label.as_str() {
            "good" => vec![GOOD.into()],
            "mixed" => vec![GOOD.into(), Ipv4Addr::LOCALHOST.into()],
            "mixed6" => vec![GOOD.into(), "::1".parse().unwrap()],
            // The two questions of one look-up have one turn.
            "rebinding" if asks_v6 => vec![GOOD.into()],
            "rebinding" => {
                let is_good = turns.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
                vec![if is_good { GOOD } else { Ipv4Addr::LOCALHOST }.into()]
            }
            _ => number("n").map(|number| vec![table[number]]).unwrap_or_default(),
        })
    })
    .unwrap();

    let photo = std::fs::read(crate::vectors::folder().join("images/photo_land.jpg")).unwrap();
    let locations = Arc::new(OnceLock::<Vec<String>>::new());
    let to = locations.clone();
    let good = Stub::at((GOOD, 0).into(), move |asked, _, stream| match asked.parts()[..] {
        ["to", number] => {
            let location = &to.get().unwrap()[number.parse::<usize>().unwrap()];
            answer(stream, "302 Found", &format!("Location: {location}\r\n"), b"");
        }
        _ => answer(stream, "200 OK", "Content-Type: image/jpeg\r\n", &photo),
    });
    let port = good.address.port();
    // What must not be reached is there, and would be found out by itself.
    let trap =
        Stub::at((Ipv4Addr::LOCALHOST, port).into(), |_, _, stream| answer(stream, "200 OK", "", b"\xFF\xD8\xFF"));

    // The list admits every host of this test: the addresses alone decide.
    let hosts: Vec<String> = spellings();
    let mut allow: Vec<String> = vec![format!("http://*.hosts.test:{port}/")];
    allow.extend(hosts.iter().map(|host| format!("http://{host}:{port}/")));
    allow.retain(|entry| entry.parse::<sendimage::model::UrlPattern>().is_ok());
    let list = serde_json::to_string(&allow).unwrap();
    let mut site = Site::new(&format!(
        "[sources.web]\nkind = \"http\"\n[sources.web.http]\nallow = {list}\nallow_addresses = [\"{GOOD}\"]\n"
    ));
    start(&mut site);

    let names_of_table = (0..forbidden.len()).map(|number| format!("n{number}.hosts.test"));
    let mut all: Vec<String> = names_of_table.chain(hosts).map(|host| format!("http://{host}:{port}/a.jpg")).collect();
    all.extend(["mixed", "mixed6"].map(|name| format!("http://{name}.hosts.test:{port}/a.jpg")));
    all.extend(
        [
            "file:///etc/passwd",
            "gopher://127.0.0.1:70/1",
            "ftp://127.0.0.1/a",
            "dict://127.0.0.1:11211/",
            "http://127.0.0.1:22/",
        ]
        .map(str::to_owned),
    );
    all.push(format!("http://good.hosts.test:{port}@127.0.0.1:{port}/a.jpg"));
    all.push(format!("http://good.hosts.test:{port}\\@127.0.0.1:{port}/a.jpg"));
    all.push(format!("//127.0.0.1:{port}/a.jpg"));
    locations.set(all.clone()).unwrap();

    let strace = Strace::attach(&site, &["-yy", "-e", "trace=connect"]);
    let ask = |path: &str| try_ask(&site, &url(&format!("web/{path}"), "width-40")).unwrap().status;
    assert_eq!(ask(&format!("http/good.hosts.test:{port}/a.jpg")), 200, "{}", site.log());
    let (mut direct, mut redirected) = (BTreeMap::new(), BTreeMap::new());
    for (number, hostile) in all.iter().enumerate() {
        // As a URL of a catalogue or a signed path, where it is one.
        if let Ok(hostile) = sendimage::model::RemoteUrl::parse(hostile) {
            let status = ask(hostile.path().as_str());
            assert_ne!(status, 200, "{hostile}");
            *direct.entry(status).or_insert(0) += 1;
        }
        // And where another leads.
        let status = ask(&format!("http/good.hosts.test:{port}/to/{number}"));
        // Where a backslash is a slash, as for browsers, the host is the good one, and its own answer is what comes.
        assert!(status != 200 || hostile.contains('\\'), "{hostile}");
        *redirected.entry(status).or_insert(0) += 1;
    }
    // A name whose addresses change between one look-up and the next: each connection goes where its own look-up said.
    let mut rebound = BTreeMap::new();
    for number in 0..20 {
        *rebound.entry(ask(&format!("http/rebinding.hosts.test:{port}/{number}.jpg"))).or_insert(0) += 1;
    }
    let connected = connections(&strace.end());
    drop(names);
    assert_eq!(connected.keys().collect::<Vec<_>>(), [&GOOD.to_string()], "{connected:?}");
    assert!(connected[&GOOD.to_string()] > all.len(), "{connected:?}");
    assert_eq!(trap.asked().len(), 0);
    assert!(rebound.get(&200).is_some_and(|count| *count >= 5), "{rebound:?}");
    assert!(rebound.get(&502).is_some_and(|count| *count >= 5), "{rebound:?}");
    let asked: usize = direct.values().chain(redirected.values()).sum();
    assert!(
        direct.values().sum::<usize>() >= 200 && redirected.values().sum::<usize>() >= 200,
        "{direct:?} {redirected:?}"
    );
    row.passed(&format!(
        "{asked} hostile URLs and redirects, 20 of a name that changes: TCP connections to {connected:?} only; answers by \
         status {direct:?}, redirected {redirected:?}, rebinding {rebound:?}"
    ));
}

/// F31: nobody says which address a name has, at once or ever.
#[test]
fn names_without_addresses() {
    let row = Row::begin("names without addresses", "F31");
    if let Err(reason) = is_possible() {
        return row.skipped(reason);
    }
    let is_silent = Arc::new(AtomicBool::new(false));
    let silent = is_silent.clone();
    let names = Names::start(move |name, _| match name {
        _ if silent.load(Ordering::SeqCst) => None,
        "good.hosts.test" => Some(vec![GOOD.into()]),
        _ => Some(Vec::new()),
    })
    .unwrap();
    let photo = std::fs::read(crate::vectors::folder().join("images/photo_land.jpg")).unwrap();
    let good =
        Stub::at(SocketAddr::from((GOOD, 0)), move |_, _, stream| answer(stream, "200 OK", "ETag: \"1\"\r\n", &photo));
    let port = good.address.port();
    let mut site = Site::new(&format!(
        "[sources.web]\nkind = \"http\"\n[sources.web.http]\nallow = [\"http://*.hosts.test:{port}/\"]\n\
         allow_addresses = [\"{GOOD}\"]\nconnect_seconds = 0.5\nfresh_seconds = 0.1\n"
    ));
    start(&mut site);
    let ask = |host: &str, file: &str| {
        let began = Instant::now();
        let answer =
            try_ask(&site, &url(&format!("web/http/{host}.hosts.test:{port}/{file}.jpg"), "width-40")).unwrap();
        (answer.status, began.elapsed().as_secs_f64())
    };
    assert_eq!(ask("good", "a").0, 200, "{}", site.log());
    let (none, none_took) = ask("none", "a");
    assert_eq!(none, 502);
    assert!(none_took < 1.5, "{none_took}");
    is_silent.store(true, Ordering::SeqCst);
    // Three attempts of half a second each, and the pauses.
    let (away, away_took) = ask("silent", "a");
    assert_eq!(away, 504, "{}", site.log());
    assert!((1.4..2.6).contains(&away_took), "{away_took}");
    std::thread::sleep(Duration::from_millis(200));
    let (known, known_took) = ask("good", "a");
    assert_eq!(known, 200, "a known version serves on");
    assert!(known_took < 1.0, "{known_took}");
    is_silent.store(false, Ordering::SeqCst);
    let back = Instant::now();
    crate::harness::wait_for(Duration::from_secs(10), || ask("good", "b").0 == 200).expect("it is found again");
    let back = back.elapsed().as_secs_f64();
    drop(names);
    // Without a server at all the system says so at once.
    let (gone, gone_took) = ask("gone", "a");
    assert!(matches!(gone, 502 | 504), "{gone}");
    row.passed(&format!(
        "no such name {none} after {none_took:.1} s, a silent server {away} after {away_took:.1} s (a known file 200 after \
         {known_took:.1} s), none {gone} after {gone_took:.1} s; found again after {back:.1} s"
    ));
}
