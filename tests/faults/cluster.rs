//! A small cluster: three gates, two nginx, an object store and Postgres, each on a host of its own. Gates die, hosts are cut off,
//! the store and the database are started again, and the clients notice as little as can be.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    buckets::{self, Hands, ObjectServer},
    client::{Fields, native_url},
    database_servers::{self, Kind},
    harness::{KEY, OPS_TOKEN, Response, SENDIMAGE, Site, ops_request, parse, request, system_path, wait_for},
    history::{colour_of, png},
    hosts::Network,
    report::Row,
    tools::{is_long, is_root},
};

const HOSTS: [&str; 8] = ["store", "database", "gate0", "gate1", "gate2", "nginx0", "nginx1", "client"];
const GATES: [&str; 3] = ["gate0", "gate1", "gate2"];
const FRONTS: [&str; 2] = ["nginx0", "nginx1"];
const GATE_PORT: u16 = 8480;
const OPS_PORT: u16 = 8481;
/// For so long an error may outlive its cause.
const AFTER: Duration = Duration::from_secs(2);

/// What runs, in the order that it has to end in.
struct Cluster {
    processes: Mutex<BTreeMap<&'static str, Child>>,
    site: Site,
    database: Mutex<database_servers::Server>,
    store: Mutex<ObjectServer>,
    store_port: u16,
    network: Network,
}

impl Cluster {
    /// Starts everything; why not, where this machine cannot.
    fn start(kind: &'static str) -> Result<Self, String> {
        let network = Network::new(&HOSTS)?;
        let (store_at, database_at) = (network.address("store"), network.address("database"));
        let folder = tempfile::tempdir().unwrap().keep();
        let all = ["originals", "renditions"];
        let store = network.on("store", || ObjectServer::start_at(kind, &folder, &all, &store_at));
        let database = network.on("database", || database_servers::Server::at(Kind::Postgres, &database_at, 40));
        let url = database.url();
        let bucket = |name: &str, more: &str| buckets::lines_at(&store_at, store.port, name, more);
        let site = Site::new(&format!(
            "[server]\nlisten = \"0.0.0.0:{GATE_PORT}\"\n[store]\nkind = \"s3\"\nexistence = \"remember\"\n[store.s3]\n{}\
             [sources.far]\nkind = \"s3\"\n[sources.far.s3]\n{}[catalogue]\nkind = \"postgres\"\nurl = \"{url}\"\nsource = \"far\"\n\
             query = \"SELECT file FROM images WHERE id = $1\"\n[coordination]\nkind = \"postgres\"\nurl = \"{url}\"\n\
             lease_seconds = 2\ntimeout_seconds = 0.5\n[ops]\ntoken = \"{OPS_TOKEN}\"\n",
            bucket("renditions", "timeout_seconds = 2\n"),
            bucket("originals", "timeout_seconds = 2\nfresh_seconds = 0.5\n"),
        ));
        // One line of each in the harness's own sections; here they are on hosts.
        let config = std::fs::read_to_string(site.config()).unwrap();
        let own = |line: &&str| {
            !(line.starts_with("listen = \"unix:") || line.starts_with("ops_listen") || line.starts_with("listen_mode"))
        };
        let config = config.lines().filter(own).collect::<Vec<_>>().join("\n");
        let config = config.replacen("[server]\n", &format!("[server]\nops_listen = \"0.0.0.0:{OPS_PORT}\"\n"), 1);
        std::fs::write(site.config(), config).unwrap();
        network.on("database", || {
            database.execute(&[
                "CREATE TABLE images (id INTEGER PRIMARY KEY, file TEXT NOT NULL)",
                "INSERT INTO images SELECT n, 'p' || n || '.png' FROM generate_series(0, 999) n",
                "GRANT SELECT ON images TO site",
            ]);
        });
        let (store_port, processes) = (store.port, Mutex::default());
        let (store, database) = (Mutex::new(store), Mutex::new(database));
        let cluster = Self { processes, site, database, store, store_port, network };
        GATES.iter().for_each(|gate| cluster.start_gate(gate));
        FRONTS.iter().for_each(|front| cluster.start_front(front));
        Ok(cluster)
    }

    fn start_gate(&self, gate: &'static str) {
        let log = std::fs::File::options().create(true).append(true).open(self.site.path(gate)).unwrap();
        let config = self.site.config();
        let serve = || {
            let mut command = Command::new(SENDIMAGE);
            command.args(["serve", "-c"]).arg(config).env("SENDIMAGE_RENDER__WORKERS", "1");
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
        };
        let child = self.network.on(gate, serve);
        self.processes.lock().unwrap().insert(gate, child);
        let ready = || self.ops(gate, "GET", "/health/ready", "").is_some_and(|answer| answer.status == 200);
        wait_for(Duration::from_secs(20), ready).unwrap_or_else(|()| panic!("{gate}:\n{}", self.log(gate)));
    }

    fn start_front(&self, front: &'static str) {
        let directory = self.site.path(&format!("{front}.d"));
        std::fs::create_dir(&directory).unwrap();
        let at = |gate: &str| format!("{}:{GATE_PORT}", self.network.address(gate));
        let listen = format!("{}:80", self.network.address(front));
        let mut print = Command::new(SENDIMAGE);
        print.args([
            "proxy-conf",
            "--whole",
            "--listen",
            &listen,
            "--upstream",
            &at("gate1"),
            "--upstream",
            &at("gate2"),
        ]);
        print.arg("--directory").arg(&directory).arg("-c").arg(self.site.config());
        let output = print.env("SENDIMAGE_SERVER__LISTEN", at("gate0")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let conf: PathBuf = directory.join("nginx.conf");
        std::fs::write(&conf, &output.stdout).unwrap();
        let log = std::fs::File::create(self.site.path(front)).unwrap();
        let serve = || {
            let mut command = Command::new("nginx");
            command.env("PATH", system_path()).args(["-g", "daemon off;", "-e", "stderr", "-p"]).arg(&directory);
            command.arg("-c").arg(&conf).stdout(Stdio::null()).stderr(log).spawn().unwrap()
        };
        let child = self.network.on(front, serve);
        self.processes.lock().unwrap().insert(front, child);
        let to = self.network.address(front);
        wait_for(Duration::from_secs(10), || self.network.connect("client", &to, 80).is_some())
            .unwrap_or_else(|()| panic!("{front}:\n{}", self.log(front)));
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.site.path(name)).unwrap_or_default()
    }

    fn signal(&self, name: &str, signal: Signal) {
        kill_process(Pid::from_child(&self.processes.lock().unwrap()[name]), signal).unwrap();
    }

    fn exchange(&self, to: &str, port: u16, request: &str) -> Option<Response> {
        let mut stream = self.network.connect("client", &self.network.address(to), port)?;
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        let mut bytes = Vec::new();
        let _ = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut bytes).map(|_| ()));
        Some(parse(&bytes))
    }

    fn ops(&self, gate: &str, method: &str, target: &str, body: &str) -> Option<Response> {
        self.exchange(gate, OPS_PORT, &ops_request(method, target, body))
    }

    fn get(&self, front: &str, target: &str) -> Option<Response> {
        self.exchange(front, 80, &request("GET", target, ""))
    }

    fn metric(&self, gate: &str, line: &str) -> f64 {
        self.ops(gate, "GET", "/metrics", "").map_or(0.0, |response| response.metric(line))
    }

    fn rendered_by(&self, gate: &str) -> f64 {
        self.metric(gate, "sendimage_renders_total{outcome=\"rendered\",format=\"png\"}")
    }

    fn rendered(&self) -> f64 {
        GATES.iter().map(|gate| self.rendered_by(gate)).sum()
    }

    fn hands(&self) -> Hands {
        Hands::at(&self.network.address("store"), self.store_port, "originals")
    }

    /// Puts an original of one colour there, for this id.
    fn put(&self, id: usize, colour: [u8; 3]) {
        self.network.on("client", || {
            let hands = self.hands();
            hands.run(hands.bucket.put(&format!("p{id}.png"), png(colour).into(), "image/png")).unwrap();
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.processes.get_mut().unwrap().values_mut() {
            // A killed nginx would leave its workers behind.
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
            let _ = wait_for(Duration::from_secs(3), || matches!(child.try_wait(), Ok(Some(_))));
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The first of the widths that the load asks for; the pictures are 40 wide.
const FIRST_WIDTH: usize = 4;

/// The URL of an image by its id.
fn signed(id: usize, width: usize) -> String {
    let spec = format!("width-{width}|format-png");
    native_url(KEY.as_bytes(), &Fields { subject: id.to_string(), spec, ..Fields::default() })
}

/// A colour of its own for each image.
fn colour(id: usize) -> [u8; 3] {
    [(id % 251) as u8, 7 + (id / 251) as u8, (id * 37 % 241) as u8]
}

/// What a client saw.
struct Seen {
    at: Instant,
    took: Duration,
    /// 0: no answer.
    status: u16,
}

/// Clients that ask both nginx for known and for new images, until told to stop.
struct Load<'a> {
    cluster: &'a Cluster,
    images: usize,
    next: AtomicUsize,
    stop: AtomicBool,
    seen: Mutex<Vec<Seen>>,
    wrong: AtomicUsize,
}

impl Load<'_> {
    fn client(&self, number: usize) {
        while !self.stop.load(SeqCst) {
            let turn = self.next.fetch_add(1, SeqCst);
            // Every fourth is one that nobody has asked for before; the others are known.
            let (id, width) = match turn % 4 {
                0 => (turn / 4 % self.images, FIRST_WIDTH + turn / 4 / self.images),
                _ => (turn % 40, FIRST_WIDTH),
            };
            let target = signed(id, width);
            let at = Instant::now();
            let answer = self.cluster.get(FRONTS[(turn + number) % 2], &target);
            let status = answer.as_ref().map_or(0, |answer| answer.status);
            if let Some(answer) = answer.filter(|answer| answer.status == 200) {
                let whole =
                    answer.header("content-length").and_then(|length| length.parse().ok()) == Some(answer.body.len());
                if whole && colour_of(&answer.body) != colour(id) {
                    self.wrong.fetch_add(1, SeqCst);
                }
            }
            self.seen.lock().unwrap().push(Seen { at, took: at.elapsed(), status });
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Lets a fault happen and end, and then the clients go on for a while: a sentence about it. No error may begin later than
    /// [`AFTER`] the fault's end.
    fn during(&self, what: &str, fault: impl FnOnce()) -> String {
        let began = Instant::now();
        fault();
        let ended = Instant::now();
        thread::sleep(AFTER + Duration::from_secs(3));
        let seen = self.seen.lock().unwrap();
        let now: Vec<&Seen> = seen.iter().filter(|seen| seen.at >= began).collect();
        let errors: Vec<&&Seen> = now.iter().filter(|seen| seen.status != 200).collect();
        let last = errors.iter().map(|seen| seen.at.saturating_duration_since(ended)).max().unwrap_or_default();
        let slowest = now.iter().map(|seen| seen.took).max().unwrap_or_default();
        let late: Vec<u16> = errors.iter().filter(|seen| seen.at > ended + AFTER).map(|seen| seen.status).collect();
        assert!(late.is_empty(), "{what}: errors that outlive it: {late:?}");
        assert!(
            now.iter().any(|seen| seen.at > ended + AFTER && seen.status == 200),
            "{what}: nobody is served after it"
        );
        format!(
            "{what} for {:.1} s: {} asks, {} errors, the last {last:.1?} after its end, slowest {slowest:.1?}",
            (ended - began).as_secs_f64(),
            now.len(),
            errors.len()
        )
    }
}

#[test]
fn a_cluster_in_network_namespaces() {
    let row = Row::begin("cluster", "F16 F18");
    let kind = if is_long() { "garage" } else { "s3s-fs" };
    if !is_root() || !buckets::is_there(kind) || !Kind::Postgres.is_installed() {
        return row.skipped("needs root for network namespaces, an object store and Postgres");
    }
    let cluster = match Cluster::start(kind) {
        Ok(cluster) => cluster,
        Err(why) => return row.skipped(&format!("no network namespaces here: {why}")),
    };
    let images = if is_long() { 400 } else { 250 };
    (0..images).for_each(|id| cluster.put(id, colour(id)));
    let sign = |id: usize, spec: &str| cluster.site.sign(&[&id.to_string(), spec]);

    // Five hundred ask for one image, at both nginx.
    let herd = sign(1, "width-30|format-png");
    let answers: Vec<Option<Response>> = thread::scope(|scope| {
        let ask = |number: usize| cluster.get(FRONTS[number % 2], &herd);
        let asks: Vec<_> = (0..500).map(|number| scope.spawn(move || ask(number))).collect();
        asks.into_iter().map(|ask| ask.join().unwrap()).collect()
    });
    let served = answers.iter().flatten().filter(|answer| answer.status == 200);
    assert_eq!(served.clone().count(), 500, "{}", cluster.log("gate0"));
    assert!(served.clone().all(|answer| colour_of(&answer.body) == colour(1)));
    let herd_renders = cluster.rendered();
    assert!(herd_renders <= 2.0, "{herd_renders} renders");

    // What one gate purges is seen by all: each has seen a rendition that nobody else asks for, and stops believing in it.
    let own: Vec<String> = (0..GATES.len()).map(|gate| sign(1, &format!("width-{}|format-png", 24 + gate))).collect();
    let ask = |gate: usize| cluster.exchange(GATES[gate], GATE_PORT, &request("GET", &own[gate], "")).unwrap().status;
    let mut slowest = Duration::ZERO;
    for round in 0..6 {
        let before: Vec<f64> = (0..GATES.len())
            .map(|gate| {
                assert_eq!((ask(gate), ask(gate)), (200, 200));
                cluster.rendered_by(GATES[gate])
            })
            .collect();
        let purged = cluster.ops(GATES[round % 3], "POST", "/purge", r#"{"refs": ["1"]}"#).unwrap();
        // The first finds what the five hundred asked for, too.
        let files = if round == 0 { 4 } else { 3 };
        assert!(purged.text().contains(&format!("\"files\":{files}")), "{} {}", purged.status, purged.text());
        let ended = Instant::now();
        for gate in 0..GATES.len() {
            wait_for(Duration::from_secs(1), || ask(gate) == 200 && cluster.rendered_by(GATES[gate]) > before[gate])
                .unwrap_or_else(|()| panic!("{} has not heard within a second", GATES[gate]));
        }
        slowest = slowest.max(ended.elapsed());
    }

    let mut said = Vec::new();
    let load = Load {
        cluster: &cluster,
        images,
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        seen: Mutex::default(),
        wrong: AtomicUsize::new(0),
    };
    thread::scope(|scope| {
        (0..6).for_each(|number| {
            _ = scope.spawn({
                let load = &load;
                move || load.client(number)
            })
        });
        thread::sleep(Duration::from_secs(1));
        said.push(load.during("a gate killed", || {
            cluster.signal("gate0", Signal::KILL);
            let mut dead = cluster.processes.lock().unwrap().remove("gate0").unwrap();
            dead.wait().unwrap();
            thread::sleep(Duration::from_secs(1));
        }));
        cluster.start_gate("gate0");
        said.push(load.during("a gate's host cut off", || {
            cluster.network.cut("gate1");
            thread::sleep(Duration::from_secs(3));
            cluster.network.mend("gate1");
        }));
        said.push(load.during("the database frozen", || {
            cluster.database.lock().unwrap().freeze();
            thread::sleep(Duration::from_secs(2));
            cluster.database.lock().unwrap().thaw();
        }));
        said.push(load.during("the database killed", || {
            cluster.network.on("database", || {
                let mut database = cluster.database.lock().unwrap();
                database.kill();
                thread::sleep(Duration::from_secs(1));
                database.start();
            });
        }));
        said.push(load.during("the object store frozen", || {
            cluster.store.lock().unwrap().signal(Signal::STOP);
            thread::sleep(Duration::from_secs(2));
            cluster.store.lock().unwrap().signal(Signal::CONT);
        }));
        said.push(load.during("the object store killed", || {
            cluster.network.on("store", || {
                let mut store = cluster.store.lock().unwrap();
                store.kill();
                thread::sleep(Duration::from_secs(1));
                store.run();
            });
        }));
        load.stop.store(true, SeqCst);
    });
    let (asked, wrong) = (load.seen.into_inner().unwrap().len(), load.wrong.into_inner());
    assert_eq!(wrong, 0, "images of another colour");
    said.iter().for_each(|line| println!("{kind}: {line}"));
    row.passed(&format!(
        "{kind}: 500 asks at two nginx and three gates: {herd_renders} renders; a purge seen by all within {slowest:.2?}; {asked} asks under \
         faults, 0 wrong images; {}",
        said.join("; ")
    ));
}
