//! The site's Postgres or MariaDB away, frozen, behind a dead network, full, and back again.

use std::time::{Duration, Instant};

use crate::{
    database_servers::{Kind, Network, PASSWORD, Server, time_until},
    harness::Site,
    renders::{self, try_ask},
    report::Row,
    tools::scale,
};

/// The bound on one look-up; an answer may take a little longer.
const BOUND: Duration = Duration::from_millis(1_000);
const SLACK: Duration = Duration::from_millis(400);
/// Within so long the service is itself again, when the server is.
const RECOVERY: Duration = Duration::from_secs(2);

fn server(kind: Kind) -> Server {
    let server = Server::new(kind);
    server.execute(&["CREATE TABLE pictures (id INTEGER PRIMARY KEY, file VARCHAR(100))"]);
    let rows: Vec<String> = (1..=2000).map(|id| format!("({id}, 'a.jpg')")).collect();
    server.execute(&[&format!("INSERT INTO pictures VALUES {}", rows.join(", "))]);
    server
}

fn site(server: &Server, port: u16) -> Site {
    let (kind, parameter) = match server.kind {
        Kind::Postgres => ("postgres", "$1"),
        Kind::MariaDb => ("mysql", "?"),
    };
    let site = Site::new(&format!(
        "[catalogue]\nkind = \"{kind}\"\nurl = \"{}\"\nsource = \"media\"\ncache_seconds = 0.1\nstale_seconds = 600\n\
         timeout_seconds = 1\nmax_connections = 3\nquery = \"SELECT file FROM pictures WHERE id = {parameter}\"\n",
        server.url_at(port)
    ));
    renders::add(&site, "photo.jpg", "a.jpg");
    site.serve()
}

/// Ids that nobody has asked for.
struct Fresh(usize);

impl Fresh {
    fn next(&mut self) -> usize {
        self.0 += 1;
        self.0
    }
}

/// Status and time of a request for an image's URL.
fn ask(site: &Site, id: usize) -> (u16, Duration) {
    let began = Instant::now();
    let answer = try_ask(site, &renders::url(&id.to_string(), "width-40")).unwrap();
    (answer.status, began.elapsed())
}

/// While the server is away: the known row serves, an unknown one is 503, both within the bound.
fn is_away(site: &Site, fresh: &mut Fresh) -> Duration {
    std::thread::sleep(Duration::from_millis(150));
    let mut slowest = Duration::ZERO;
    for _ in 0..4 {
        for (id, expected) in [(1, 200), (fresh.next(), 503)] {
            let (status, took) = ask(site, id);
            assert_eq!(status, expected, "{id}\n{}", site.log());
            assert!(took < BOUND + SLACK, "{took:?}");
            slowest = slowest.max(took);
        }
    }
    assert_eq!(site.metric("sendimage_catalogue_up"), 0.0);
    slowest
}

fn is_back(site: &Site, fresh: &mut Fresh) -> Duration {
    let took = time_until(Duration::from_secs(10), || ask(site, fresh.next()).0 == 200);
    assert!(took < RECOVERY, "{took:?}\n{}", site.log());
    assert_eq!(site.metric("sendimage_catalogue_up"), 1.0);
    took
}

fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

fn outages(name: &'static str, kind: Kind, row: Row) {
    if !kind.is_installed() {
        return row.skipped(&format!("{name} is not installed"));
    }
    let mut server = server(kind);
    let network = Network::before(server.port);
    let (site, behind) = (site(&server, server.port), site(&server, network.port));
    let mut fresh = Fresh(1);
    assert_eq!((ask(&site, 1).0, ask(&behind, 1).0), (200, 200), "{}", site.log());
    let rounds = scale(1, 10);
    let (mut away, mut back) = ([Duration::ZERO; 5], [Duration::ZERO; 5]);
    let note = |slot: &mut Duration, time: Duration| *slot = time.max(*slot);
    for _ in 0..rounds {
        // Stopped, and started again.
        server.stop();
        note(&mut away[0], is_away(&site, &mut fresh));
        server.start();
        note(&mut back[0], is_back(&site, &mut fresh));

        // Killed, as by a power cut.
        server.kill();
        note(&mut away[1], is_away(&site, &mut fresh));
        server.start();
        note(&mut back[1], is_back(&site, &mut fresh));

        // Frozen: connections are taken and nothing is ever said.
        server.freeze();
        note(&mut away[2], is_away(&site, &mut fresh));
        server.thaw();
        note(&mut back[2], is_back(&site, &mut fresh));

        // Every session ended: nobody sees anything of it.
        server.end_sessions();
        let (status, took) = ask(&site, fresh.next());
        assert_eq!(status, 200, "{}", site.log());
        note(&mut back[3], took);

        // The network forgets the connections there are, and takes new ones for a while without carrying anything.
        assert_eq!(ask(&behind, fresh.next()).0, 200, "{}", behind.log());
        network.cut();
        note(&mut away[4], is_away(&behind, &mut fresh));
        network.mend();
        note(&mut back[4], is_back(&behind, &mut fresh));

        // The same when it is over before anybody asks: the first request already has its answer.
        assert_eq!(ask(&behind, fresh.next()).0, 200);
        network.cut();
        network.mend();
        let (status, took) = ask(&behind, fresh.next());
        assert_eq!(status, 200, "{}", behind.log());
        note(&mut back[4], took);
    }
    assert!(!site.log().contains(PASSWORD) && !behind.log().contains(PASSWORD), "the password is in the log");
    row.passed(&format!(
        "{rounds} rounds; slowest answer while away, and time until itself again: stopped {}, {}; killed {}, {}; frozen {}, {}; \
         sessions ended: none failed, {}; network cut {}, {}; known rows served throughout",
        ms(away[0]),
        ms(back[0]),
        ms(away[1]),
        ms(back[1]),
        ms(away[2]),
        ms(back[2]),
        ms(back[3]),
        ms(away[4]),
        ms(back[4])
    ));
}

/// F16
#[test]
fn postgres_away() {
    outages("postgres", Kind::Postgres, Row::begin("Postgres away", "F16"));
}

/// F16, for the other server.
#[test]
fn mariadb_away() {
    outages("mariadb", Kind::MariaDb, Row::begin("MariaDB away", "F16"));
}

/// F16: the network forgets the session that listens for changed rows. Nobody is told; it is found out all the same.
#[test]
fn a_listener_that_is_lost() {
    let row = Row::begin("a listener cut off from Postgres", "F16");
    if !Kind::Postgres.is_installed() {
        return row.skipped("postgres is not installed");
    }
    let server = server(Kind::Postgres);
    let network = Network::before(server.port);
    let mut site = site(&server, network.port);
    let config = std::fs::read_to_string(site.config()).unwrap();
    let long = config.replace("cache_seconds = 0.1", "cache_seconds = 600\nlisten = \"images\"");
    std::fs::write(site.config(), long).unwrap();
    site.signal(rustix::process::Signal::TERM);
    site.wait();
    site.start();
    let heard = || site.log().matches("listening for changed rows").count();
    time_until(Duration::from_secs(5), || heard() == 1);
    assert_eq!(ask(&site, 1).0, 200);
    network.cut();
    network.mend();
    server.execute(&["UPDATE pictures SET file = 'gone.jpg' WHERE id = 1", "NOTIFY images, '1'"]);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(ask(&site, 1).0, 200, "the news is lost");
    let again = time_until(Duration::from_secs(15), || heard() == 2);
    let seen = time_until(Duration::from_secs(2), || ask(&site, 1).0 == 410);
    server.execute(&["UPDATE pictures SET file = 'a.jpg' WHERE id = 1", "NOTIFY images, '1'"]);
    time_until(Duration::from_secs(1), || ask(&site, 1).0 == 200);
    row.passed(&format!(
        "listening again after {:.1} s, the change that was missed seen {} later",
        again.as_secs_f64(),
        ms(seen)
    ));
}

fn full(name: &'static str, kind: Kind, row: Row) {
    if !kind.is_installed() {
        return row.skipped(&format!("{name} is not installed"));
    }
    let server = server(kind);
    let network = Network::before(server.port);
    let site = site(&server, network.port);
    let mut fresh = Fresh(1);

    // All of the server's sessions are somebody else's.
    server.end_sessions();
    let occupied = server.occupy(4);
    let (status, took) = ask(&site, fresh.next());
    assert_eq!(status, 503, "{}", site.log());
    assert!(took < BOUND + SLACK, "{took:?}");
    let waiting = std::thread::scope(|scope| {
        let (id, site) = (fresh.next(), &site);
        let request = scope.spawn(move || ask(site, id));
        std::thread::sleep(Duration::from_millis(300));
        drop(occupied);
        request.join().unwrap()
    });
    assert_eq!(waiting.0, 200, "one comes free while a request waits\n{}", site.log());

    // Fewer are left than the service would like: those it has serve everybody.
    server.end_sessions();
    let occupied = server.occupy(3);
    let ids: Vec<usize> = (0..40).map(|_| fresh.next()).collect();
    let served = flood(&site, &ids).into_iter().filter(|(status, _)| *status == 200).count();
    assert_eq!(served, ids.len(), "{}", site.log());
    drop(occupied);

    // A flood of unknown ids while nobody answers: no more connections than the pool may have, no stampede when it is over.
    network.most();
    network.cut();
    let before = network.accepted();
    let ids: Vec<usize> = (0..scale(200, 1000)).map(|_| fresh.next()).collect();
    let began = Instant::now();
    let answers = flood(&site, &ids);
    let lasted = began.elapsed();
    assert!(answers.iter().all(|(status, _)| *status == 503), "{}", site.log());
    let slowest = answers.iter().map(|(_, took)| *took).max().unwrap();
    assert!(slowest < BOUND + SLACK + Duration::from_millis(500), "{slowest:?}");
    let tried = network.accepted() - before;
    assert!(network.most() <= 3 + 3, "three lost ones, and three that took their places");
    assert!(tried as f64 <= 2.0 + 4.0 * lasted.as_secs_f64(), "{tried} connections in {lasted:?}");
    // The server was not told either: it still has the sessions that were lost.
    let lost = server.sessions();
    network.mend();
    let ids: Vec<usize> = (0..100).map(|_| fresh.next()).collect();
    std::thread::sleep(Duration::from_millis(500));
    flood(&site, &ids);
    let sessions = server.sessions() - lost;
    assert!((1..=3).contains(&sessions), "{sessions} sessions");
    row.passed(&format!(
        "all sessions taken: 503 after {}, 200 where one came free after 300 ms; one left: 40 of 40 served; {} unknown ids at a \
         dead network: all 503, the slowest after {}, {tried} connections tried in {}; never more sessions than \
         max_connections",
        ms(took),
        answers.len(),
        ms(slowest),
        ms(lasted)
    ));
}

/// Asks for all of these, forty at a time.
fn flood(site: &Site, ids: &[usize]) -> Vec<(u16, Duration)> {
    std::thread::scope(|scope| {
        let asking: Vec<_> = ids
            .chunks(ids.len().div_ceil(40))
            .map(|ids| scope.spawn(|| ids.iter().map(|id| ask(site, *id)).collect::<Vec<_>>()))
            .collect();
        asking.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// F17
#[test]
fn postgres_full() {
    full("postgres", Kind::Postgres, Row::begin("Postgres at its connection limit", "F17"));
}

/// F17, for the other server.
#[test]
fn mariadb_full() {
    full("mariadb", Kind::MariaDb, Row::begin("MariaDB at its connection limit", "F17"));
}
