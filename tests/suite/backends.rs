//! One behaviour of every source and every store: where originals come from and where renditions go makes no difference to who
//! asks. What does differ is said in two tables, and nowhere else.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;

use crate::{
    buckets::{self, Hands, ObjectServer, Relay, Way, lines},
    harness::{OPS_TOKEN, Response, Site, files, wait_for},
    pictures::Pixels,
    web_server::WebServer,
};

/// What a source does otherwise than others.
struct SourceManners {
    /// A replaced original is seen after so long.
    staleness: Duration,
    /// The answer to what is not known while nobody can be asked; the second one, once it is not even asked any more.
    away: [u16; 2],
    /// Whether images that were served before go on being served then: by a version that was known.
    serves_on: bool,
}

/// A file's stat is asked for each time. A missing root says nothing about any file, not even that it is as it was.
const FOLDER: SourceManners = SourceManners { staleness: Duration::ZERO, away: [503, 503], serves_on: false };
const WEB: SourceManners = SourceManners { staleness: Duration::from_millis(300), away: [502, 503], serves_on: true };
const BUCKET: SourceManners = SourceManners { away: [503, 503], ..WEB };

/// What a store does otherwise than others.
struct StoreManners {
    /// Whether what is unfinished has a name, which a killed process leaves behind.
    has_drafts: bool,
    /// Whether the store can agree that one renders: what is counted then.
    lease: &'static str,
}

const FILES: StoreManners = StoreManners { has_drafts: true, lease: "led" };
const OBJECTS: StoreManners = StoreManners { has_drafts: false, lease: "led" };
/// It overwrites what it is asked to create.
const GARAGE: StoreManners = StoreManners { lease: "alone", ..OBJECTS };

/// Where originals are put by hand.
enum Originals {
    Folder(PathBuf),
    Web(WebServer),
    Bucket(Box<Hands>, Relay),
}

impl Originals {
    fn put(&self, bytes: &[u8], name: &str) {
        match self {
            Self::Folder(folder) => {
                // Beside it, then by a rename, as deployments do.
                let path = folder.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(folder.join(".new"), bytes).unwrap();
                std::fs::rename(folder.join(".new"), path).unwrap();
            }
            Self::Web(web) => web.put(bytes, name),
            Self::Bucket(hands, _) => {
                hands.run(hands.bucket.put(name, bytes.to_vec().into(), "application/octet-stream")).unwrap();
            }
        }
    }

    fn remove(&self, name: &str) {
        match self {
            Self::Folder(folder) => std::fs::remove_file(folder.join(name)).unwrap(),
            Self::Web(web) => web.remove(name),
            Self::Bucket(hands, _) => hands.run(hands.bucket.delete(name)).unwrap(),
        }
    }

    fn set_away(&mut self, is_away: bool) {
        match self {
            Self::Folder(folder) => {
                let elsewhere = folder.with_extension("away");
                let (from, to) = if is_away { (&*folder, &elsewhere) } else { (&elsewhere, &*folder) };
                std::fs::rename(from, to).unwrap();
            }
            Self::Web(web) => {
                if is_away {
                    web.stop();
                } else {
                    web.run();
                }
            }
            Self::Bucket(_, relay) => relay.set(if is_away { Way::Shut } else { Way::Open }),
        }
    }
}

/// Where renditions are looked for by hand.
enum Renditions {
    Folder(PathBuf),
    Bucket(Box<Hands>, Relay),
}

impl Renditions {
    /// Everything, by path: renditions, records, what is unfinished, leases.
    fn all(&self) -> Vec<String> {
        match self {
            Self::Folder(root) => {
                let below = |path: PathBuf| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files(root).into_iter().map(below).collect()
            }
            Self::Bucket(hands, _) => {
                hands.run(hands.bucket.list("r1")).unwrap().into_iter().map(|(key, _)| key).collect()
            }
        }
    }

    fn stored(&self) -> Vec<String> {
        let mut all = self.all();
        all.retain(|path| !path.rsplit('/').next().unwrap().starts_with('.'));
        all.sort_unstable();
        all
    }

    /// What a process that died may have left behind.
    fn unfinished(&self) -> Vec<String> {
        let mut all = self.all();
        all.retain(|path| path.contains("/.tmp-") && !path.contains("/.lease-"));
        all
    }

    fn remove(&self, path: &str) {
        match self {
            Self::Folder(root) => std::fs::remove_file(root.join(path)).unwrap(),
            Self::Bucket(hands, _) => hands.run(hands.bucket.delete(path)).unwrap(),
        }
    }

    /// Whether nothing new can be written; what is there can be read.
    fn set_refusing(&self, refuses: bool) {
        const DENIED: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        match self {
            Self::Folder(root) => {
                // Whoever runs the tests may write to what is read-only: but nobody makes a file below a file.
                let drafts = root.join("r1/.tmp-drafts");
                if refuses {
                    std::fs::remove_dir_all(&drafts).unwrap();
                    std::fs::write(&drafts, "").unwrap();
                } else {
                    std::fs::remove_file(&drafts).unwrap();
                }
            }
            Self::Bucket(_, relay) => {
                relay.set(if refuses { Way::Answer("PUT /", DENIED, usize::MAX) } else { Way::Open });
            }
        }
    }
}

/// A source and a store, a gate and an nginx before it.
struct Pair {
    name: String,
    site: Site,
    originals: Originals,
    renditions: Renditions,
    source: SourceManners,
    store: StoreManners,
    sections: String,
    /// It ends behind the rest.
    _server: Option<ObjectServer>,
}

/// What one answer is to be.
type Behaviour = fn(&mut Pair);

const BEHAVIOURS: [(&str, Behaviour); 13] = [
    ("found", found),
    ("odd names", odd_names),
    ("unknown and gone", unknown_and_gone),
    ("replaced", replaced),
    ("no image", no_image),
    ("replaced while read", replaced_while_read),
    ("purged", purged),
    ("warmed", warmed),
    ("asked for by many", asked_for_by_many),
    ("not written", not_written),
    ("away", away),
    ("believed to be there", believed_to_be_there),
    ("killed", killed),
];

fn image(vector: &str) -> Vec<u8> {
    std::fs::read(crate::vectors::folder().join("images").join(vector)).unwrap()
}

impl Pair {
    /// `None` where there is no such server on this machine; it has been said.
    fn start(source: &str, store: &'static str) -> Option<Self> {
        let site = Site::new("");
        // The source that every site of the tests has is not taken for a file system that is not mounted.
        site.add("photo_land.jpg", "here.jpg");
        let kind = if store == "garage" { store } else { "s3s-fs" };
        let needs_server = source == "bucket" || store != "folder";
        if needs_server && !buckets::is_there(kind) {
            return None;
        }
        let server = needs_server.then(|| {
            let folder = site.path("objects");
            std::fs::create_dir(&folder).unwrap();
            ObjectServer::start(kind, &folder, &["originals", "renditions"])
        });
        // Each has a way of its own, so that one can fail without the other.
        let bucket = |name: &str, more: &str| {
            let server = server.as_ref().unwrap();
            let relay = Relay::to(server);
            let section = lines(relay.port, name, more);
            (Box::new(Hands::new(server.port, name)), relay, section)
        };
        let (originals, manners, source_section) = match source {
            "folder" => {
                let folder = site.path("originals");
                std::fs::create_dir(&folder).unwrap();
                (Originals::Folder(folder), FOLDER, "kind = \"fs\"\nroot = \"{dir}/originals\"\n".to_owned())
            }
            "web" => {
                let web = WebServer::start();
                let section = format!(
                    "kind = \"http\"\n[sources.far.http]\nbase_url = \"http://127.0.0.1:{}/\"\n\
                     allow_addresses = [\"127.0.0.1\"]\nfresh_seconds = {}\n",
                    web.port,
                    WEB.staleness.as_secs_f64()
                );
                (Originals::Web(web), WEB, section)
            }
            _ => {
                let fresh = format!("fresh_seconds = {}\n", BUCKET.staleness.as_secs_f64());
                let (hands, relay, section) = bucket("originals", &fresh);
                (Originals::Bucket(hands, relay), BUCKET, format!("kind = \"s3\"\n[sources.far.s3]\n{section}"))
            }
        };
        let (renditions, store_manners, store_section) = match store {
            "folder" => (Renditions::Folder(site.path("renditions")), FILES, String::new()),
            _ => {
                let (hands, relay, section) = bucket("renditions", "");
                let manners = if store == "garage" { GARAGE } else { OBJECTS };
                (Renditions::Bucket(hands, relay), manners, format!("kind = \"s3\"\n[store.s3]\n{section}"))
            }
        };
        let sections = format!(
            "{store_section}[sources.far]\n{source_section}[render]\nmax_source_bytes = \"1MiB\"\n[ops]\ntoken = \"{OPS_TOKEN}\"\n\
             [catalogue]\nkind = \"manifest\"\nfile = \"{{dir}}/images.json\"\nsource = \"far\"\n"
        );
        let mut pair = Self {
            name: format!("{source} to {store}"),
            site,
            originals,
            renditions,
            source: manners,
            store: store_manners,
            sections,
            _server: server,
        };
        let rows = json!([{"id": 1, "file": "id/known.jpg"}, {"id": 2, "file": "id/never seen.jpg"}]);
        std::fs::write(pair.site.path("images.json"), rows.to_string()).unwrap();
        pair.configure("check");
        pair.site.start();
        pair.site = pair.site.with_nginx();
        Some(pair)
    }

    fn configure(&self, existence: &str) {
        self.site.configure(&format!("[store]\nexistence = \"{existence}\"\n{}", self.sections));
    }

    fn restart(&mut self) {
        self.site.signal(Signal::TERM);
        self.site.wait();
        self.site.start();
    }

    fn sign(&self, name: &str, spec: &str) -> String {
        self.site.sign(&[&format!("far/{name}"), spec])
    }

    /// Through nginx.
    fn get(&self, url: &str) -> Response {
        self.site.nginx("GET", url, "")
    }

    /// The same, which must be an image.
    #[track_caller]
    fn body(&self, url: &str) -> Vec<u8> {
        let answer = self.get(url);
        assert_eq!(answer.status, 200, "{}: {url}: {}", self.name, self.log());
        answer.body
    }

    #[track_caller]
    fn assert_status(&self, url: &str, status: u16) {
        assert_eq!(self.get(url).status, status, "{}: {url}: {}", self.name, self.log());
    }

    fn log(&self) -> String {
        let log = self.site.log();
        log.lines().rev().take(12).map(|line| format!("\n{line}")).collect()
    }

    fn asked(&self, outcome: &str) -> f64 {
        self.site.metric(&format!("sendimage_requests_total{{outcome=\"{outcome}\"}}"))
    }

    fn leases(&self) -> f64 {
        self.site.metric(&format!("sendimage_leases_total{{outcome=\"{}\"}}", self.store.lease))
    }

    /// Longer than a version is believed.
    fn settle(&self) {
        if !self.source.staleness.is_zero() {
            thread::sleep(self.source.staleness + Duration::from_millis(50));
        }
    }
}

/// What is there is rendered once, and handed over with all that belongs to it.
fn found(pair: &mut Pair) {
    pair.originals.put(&image("photo_land.jpg"), "a.jpg");
    let url = pair.sign("a.jpg", "width-60|format-webp");
    let first = pair.get(&url);
    assert_eq!((first.status, first.body.get(..4)), (200, Some(&b"RIFF"[..])), "{}", pair.log());
    for (name, value) in [
        ("content-type", "image/webp"),
        ("cache-control", "max-age=3600, public"),
        ("content-disposition", "inline; filename=\"a.webp\""),
        ("content-security-policy", "default-src 'none'; sandbox"),
        ("x-content-type-options", "nosniff"),
        ("accept-ranges", "bytes"),
    ] {
        assert_eq!(first.header(name).as_deref(), Some(value), "{}: {name}", pair.name);
    }
    for hidden in ["x-amz", "x-sendimage", "x-accel", "set-cookie"] {
        assert!(first.headers.iter().all(|(name, _)| !name.to_ascii_lowercase().starts_with(hidden)), "{first:?}");
    }
    assert_eq!(pair.body(&url), first.body);
    assert_eq!((pair.asked("rendered"), pair.asked("hit")), (1.0, 1.0), "{}", pair.name);
    let stored = pair.renditions.stored();
    let name = |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-');
    assert!(stored.len() == 1 && stored[0].starts_with("r1/") && stored[0].bytes().all(name), "{stored:?}");

    let etag = first.header("etag").expect("it has a validator");
    let head = pair.site.nginx("HEAD", &url, "");
    assert_eq!((head.status, head.body.len()), (200, 0), "{}", pair.name);
    assert_eq!(head.header("content-length"), Some(first.body.len().to_string()));
    let part = pair.site.nginx("GET", &url, "Range: bytes=5-14\r\n");
    assert_eq!((part.status, part.body.as_slice()), (206, &first.body[5..15]), "{}", pair.name);
    assert_eq!(pair.site.nginx("GET", &url, "Range: bytes=9999999-\r\n").status, 416, "{}", pair.name);
    let unchanged = pair.site.nginx("GET", &url, &format!("If-None-Match: {etag}\r\n"));
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0), "{}", pair.name);

    // What is stored outlives the process.
    pair.restart();
    assert_eq!(pair.body(&url), first.body);
    assert_eq!((pair.asked("rendered"), pair.asked("hit")), (0.0, 1.0), "{}", pair.name);
}

fn odd_names(pair: &mut Pair) {
    for name in ["2024/ünï %41 a+b&c.jpg", "日本/語.jpg", "a#b?c;d=e.jpg", "%2e%2e.jpg", "~x('y')!@$,.jpg", " a .jpg"]
    {
        pair.originals.put(&image("photo_land.jpg"), name);
        let url = pair.sign(name, "width-40");
        assert_eq!(pair.body(&url).get(..2), Some(&[0xFF, 0xD8][..]), "{name}");
        assert_eq!(pair.site.called("/purge", json!({"refs": [format!("far/{name}")]}))["files"], 1, "{name}");
    }
}

/// By its path an image without a file is unknown; by an id it is known to be gone. What was rendered of it stays.
fn unknown_and_gone(pair: &mut Pair) {
    pair.assert_status(&pair.sign("none.jpg", "width-60"), 404);
    pair.assert_status(&pair.site.sign(&["3", "width-60"]), 404);
    pair.assert_status(&pair.site.sign(&["2", "width-60"]), 410);
    pair.originals.put(&image("photo_land.jpg"), "id/known.jpg");
    let by_id = pair.site.sign(&["1", "width-60"]);
    let by_path = pair.sign("id/known.jpg", "width-60");
    let body = pair.body(&by_id);
    assert_eq!(pair.body(&by_path), body);
    pair.originals.remove("id/known.jpg");
    pair.settle();
    for url in [&by_id, &by_path] {
        assert_eq!(pair.body(url), body, "{}", pair.name);
    }
    pair.assert_status(&pair.site.sign(&["1", "width-61"]), 410);
    pair.assert_status(&pair.sign("id/known.jpg", "width-61"), 404);
    pair.restart();
    assert_eq!(pair.body(&by_id), body, "{}: the store remembers the last version", pair.name);
}

fn replaced(pair: &mut Pair) {
    pair.originals.put(&image("photo_land.jpg"), "replaced.jpg");
    let url = pair.sign("replaced.jpg", "width-60");
    let (before, stored) = (pair.body(&url), pair.renditions.stored().len());
    pair.originals.put(&image("photo_port.jpg"), "replaced.jpg");
    pair.settle();
    let after = pair.body(&url);
    assert_ne!(after, before, "{}", pair.name);
    assert_eq!(pair.body(&url), after, "{}", pair.name);
    assert_eq!(pair.renditions.stored().len(), stored + 1, "{}: under a name of its own", pair.name);
}

fn no_image(pair: &mut Pair) {
    let stored = pair.renditions.stored();
    let too_long = [image("photo_land.jpg"), vec![0; 2 << 20]].concat();
    for (name, bytes) in [
        ("notimage.jpg", image("notimage.jpg")),
        ("truncated.jpg", image("truncated.jpg")),
        ("empty.jpg", Vec::new()),
        ("too long.jpg", too_long),
    ] {
        pair.originals.put(&bytes, name);
        for _ in 0..2 {
            pair.assert_status(&pair.sign(name, "width-60"), 422);
        }
    }
    assert_eq!(pair.renditions.stored(), stored, "{}: nothing of it is stored", pair.name);
    // Once it is an image, it is one.
    pair.originals.put(&image("photo_land.jpg"), "notimage.jpg");
    pair.settle();
    pair.body(&pair.sign("notimage.jpg", "width-60"));
}

/// A picture of one colour; its length tells its version, for servers that date files by the second.
fn bmp(version: u8) -> Vec<u8> {
    let (width, height) = (200 + 4 * u32::from(version), 300_u32);
    let mut bytes = b"BM".to_vec();
    for number in [54 + width * 3 * height, 0, 54, 40, width, height, 1 | 24 << 16, 0, 0, 0, 0, 0, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.resize(54 + (width * 3 * height) as usize, 10 * version);
    bytes
}

/// Each picture is of one version, and never of one that was over when it was asked for.
fn replaced_while_read(pair: &mut Pair) {
    const VERSIONS: u8 = 10;
    pair.originals.put(&bmp(0), "busy.bmp");
    let urls: Vec<String> =
        (0..12).map(|number| pair.sign("busy.bmp", &format!("width-{}|format-png", 20 + number))).collect();
    let is_over = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let (pair, is_over) = (&*pair, &is_over);
        let asking = scope.spawn(move || {
            let mut seen = Vec::new();
            for url in urls.iter().cycle() {
                // On a slow machine each may have been replaced under every ask: the last one stays.
                if is_over.load(Relaxed) && !seen.is_empty() {
                    break;
                }
                let answer = pair.get(url);
                match answer.status {
                    200 => {
                        let pixels = Pixels::decode(&answer.body);
                        let colour = pixels.rgba[0];
                        assert!(pixels.rgba.chunks_exact(4).all(|pixel| pixel[..3] == [colour; 3]), "one version");
                        seen.push(colour / 10);
                    }
                    // Replaced twice meanwhile: said so, not served.
                    503 => {}
                    status => panic!("{}: {status}: {}", pair.name, pair.log()),
                }
            }
            seen
        });
        for version in 1..VERSIONS {
            pair.originals.put(&bmp(version), "busy.bmp");
            thread::sleep(Duration::from_millis(60));
        }
        is_over.store(true, Relaxed);
        asking.join().unwrap()
    });
    assert!(seen.is_sorted(), "{}: {seen:?}", pair.name);
    pair.settle();
    let last = Pixels::decode(&pair.body(&pair.sign("busy.bmp", "width-20|format-png")));
    assert_eq!(last.rgba[0], 10 * (VERSIONS - 1), "{}", pair.name);
}

fn purged(pair: &mut Pair) {
    pair.originals.put(&image("photo_land.jpg"), "purged.jpg");
    // Leases are given back behind the answers.
    let kept = |pair: &Pair| pair.renditions.all().iter().filter(|path| !path.contains("/.lease-")).count();
    let (before, all) = (pair.renditions.stored(), kept(pair));
    let urls = ["width-60", "width-70|format-webp"].map(|spec| pair.sign("purged.jpg", spec));
    let bodies = urls.clone().map(|url| pair.body(&url));
    let stored = pair.renditions.stored();
    let purged = pair.site.called("/purge", json!({"refs": ["far/purged.jpg", "far/nothing of it.jpg", "nope/a.jpg"]}));
    let bytes: usize = bodies.iter().map(Vec::len).sum();
    assert_eq!((&purged["files"], &purged["bytes"]), (&2.into(), &bytes.into()), "{}: {purged}", pair.name);
    assert_eq!(purged["unknown"], json!(["nope/a.jpg"]));
    assert_eq!(pair.renditions.stored(), before, "{}", pair.name);
    assert_eq!(kept(pair), all, "{}: the record as well: {:?}", pair.name, pair.renditions.all());
    for (url, body) in urls.iter().zip(bodies) {
        assert_eq!(pair.body(url), body, "{}", pair.name);
        assert_eq!(pair.site.gate("GET", url, "").status, 200);
    }
    assert_eq!(pair.renditions.stored(), stored, "{}: made again, under the same names", pair.name);
}

fn warmed(pair: &mut Pair) {
    pair.originals.put(&image("photo_land.jpg"), "warm.jpg");
    let specs = json!(["width-50", "fill-20x20|format-webp"]);
    let warm = |name: &str| pair.site.called("/warm", json!({"refs": [format!("far/{name}")], "specs": specs}));
    assert_eq!(warm("warm.jpg"), json!({"created": 2, "present": 0, "failed": {}}), "{}", pair.name);
    assert_eq!(warm("warm.jpg"), json!({"created": 0, "present": 2, "failed": {}}), "{}", pair.name);
    let hits = pair.asked("hit");
    pair.body(&pair.sign("warm.jpg", "width-50"));
    assert_eq!(pair.asked("hit"), hits + 1.0, "{}", pair.name);
    assert_eq!(warm("never there.jpg")["failed"], json!({"gone": 2}), "{}", pair.name);
}

fn asked_for_by_many(pair: &mut Pair) {
    const ASKS: usize = 500;
    pair.originals.put(&image("photo_land.jpg"), "busy.jpg");
    let url = pair.sign("busy.jpg", "width-160");
    let (renders, stored) = (pair.asked("rendered"), pair.renditions.stored().len());
    let answers: Vec<Response> = thread::scope(|scope| {
        let asks: Vec<_> = (0..ASKS).map(|_| scope.spawn(|| pair.get(&url))).collect();
        asks.into_iter().map(|ask| ask.join().unwrap()).collect()
    });
    let failed: Vec<u16> = answers.iter().map(|answer| answer.status).filter(|status| *status != 200).collect();
    assert!(failed.is_empty(), "{}: {failed:?} {}", pair.name, pair.log());
    assert!(answers.iter().all(|answer| answer.body == answers[0].body), "{}", pair.name);
    assert_eq!(pair.asked("rendered"), renders + 1.0, "{}", pair.name);
    assert_eq!(pair.renditions.stored().len(), stored + 1, "{}", pair.name);
}

/// A store that takes nothing new costs those who ask for something new an answer, and leaves nothing behind.
fn not_written(pair: &mut Pair) {
    pair.originals.put(&image("photo_land.jpg"), "unwritten.jpg");
    let (known, new) = (pair.sign("unwritten.jpg", "width-60"), pair.sign("unwritten.jpg", "width-61"));
    let body = pair.body(&known);
    let stored = pair.renditions.stored();
    pair.renditions.set_refusing(true);
    for _ in 0..3 {
        let refused = pair.get(&new);
        assert_eq!(refused.status, 503, "{}: {}", pair.name, pair.log());
        assert!(refused.header("retry-after").is_some());
        assert_eq!(refused.header("cache-control").as_deref(), Some("no-store"));
        assert_eq!(pair.body(&known), body, "{}: hits go on", pair.name);
    }
    assert_eq!(pair.renditions.stored(), stored, "{}", pair.name);
    let errors = pair.site.ops("/metrics").unwrap().text();
    assert!(errors.lines().any(|line| line.starts_with("sendimage_store_errors_total{") && !line.ends_with(" 0")));
    pair.renditions.set_refusing(false);
    pair.body(&new);
    assert_eq!(pair.renditions.stored().len(), stored.len() + 1, "{}", pair.name);
}

/// Where nobody can be asked, nothing is said about images, least of all that there are none.
fn away(pair: &mut Pair) {
    pair.originals.put(&image("photo_land.jpg"), "away.jpg");
    let known = pair.sign("away.jpg", "width-60");
    let body = pair.body(&known);
    pair.originals.set_away(true);
    pair.settle();
    let [at_once, left_alone] = pair.source.away;
    for number in 0..6 {
        let answer = pair.get(&pair.sign(&format!("away/{number}.jpg"), "width-60"));
        assert!([at_once, left_alone].contains(&answer.status), "{}: {} {}", pair.name, answer.status, pair.log());
        assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
        let answer = pair.get(&known);
        if pair.source.serves_on {
            assert_eq!((answer.status, &answer.body), (200, &body), "{}: {}", pair.name, pair.log());
        } else {
            assert_eq!(answer.status, left_alone, "{}", pair.name);
        }
    }
    pair.originals.set_away(false);
    let back = Instant::now();
    let new = pair.sign("away.jpg", "width-61");
    wait_for(Duration::from_secs(20), || pair.get(&new).status == 200)
        .unwrap_or_else(|()| panic!("{}: it is not found again: {}", pair.name, pair.log()));
    println!("{}: found again after {:.2} s", pair.name, back.elapsed().as_secs_f64());
    assert_eq!(pair.body(&known), body, "{}", pair.name);
}

/// A rendition that somebody removed is missed as late as the config lets it be, and never by who asks through nginx.
fn believed_to_be_there(pair: &mut Pair) {
    pair.originals.put(&image("photo_land.jpg"), "believed.jpg");
    for (number, existence) in ["check", "remember", "assume"].into_iter().enumerate() {
        pair.configure(existence);
        pair.restart();
        let url = pair.sign("believed.jpg", &format!("width-{}", 60 + number));
        let before = pair.renditions.stored();
        let hand_over = || assert_eq!(pair.site.gate("GET", &url, "").status, 200, "{existence} {}", pair.name);
        hand_over();
        hand_over();
        let stored = pair.renditions.stored();
        let made = stored.iter().find(|path| !before.contains(path)).unwrap();
        pair.renditions.remove(made);
        hand_over();
        let is_back = pair.renditions.stored().contains(made);
        assert_eq!(is_back, existence == "check", "{}: {existence}: believed, not looked for", pair.name);
        assert_eq!(pair.body(&url).get(..2), Some(&[0xFF, 0xD8][..]), "{existence}");
        assert_eq!(pair.renditions.stored(), stored, "{}: {existence}: made again", pair.name);
    }
    pair.configure("check");
    pair.restart();
}

/// Leases are given back behind the answers, a dead one's too when it was taken over.
fn all_given_back(pair: &Pair) {
    let leases = || {
        let mut all = pair.renditions.all();
        all.retain(|path| path.contains(".lease-"));
        all
    };
    let released = wait_for(Duration::from_secs(5), || leases().is_empty());
    assert!(released.is_ok(), "{}: {:?}", pair.name, leases());
}

/// A gate that is killed in the middle of a render leaves nothing that is served, and nothing that stays.
fn killed(pair: &mut Pair) {
    pair.originals.put(&image("photo_land.jpg"), "killed.jpg");
    pair.body(&pair.sign("killed.jpg", "width-60"));
    all_given_back(pair);
    let url = pair.sign("killed.jpg", "width-200|format-avif-lossless");
    let (stored, leases) = (pair.renditions.stored(), pair.leases());
    thread::scope(|scope| {
        let asking = scope.spawn(|| pair.get(&url));
        wait_for(Duration::from_secs(10), || pair.leases() > leases).expect("it is being rendered");
        if pair.store.has_drafts {
            wait_for(Duration::from_secs(10), || !pair.renditions.unfinished().is_empty()).expect("a draft");
        }
        pair.site.signal(Signal::KILL);
        assert_ne!(asking.join().unwrap().status, 200, "{}: it took long enough", pair.name);
    });
    pair.site.wait();
    assert_eq!(pair.renditions.stored(), stored, "{}", pair.name);
    assert_eq!(pair.renditions.unfinished().is_empty(), !pair.store.has_drafts, "{:?}", pair.renditions.all());
    pair.site.start();
    let swept = wait_for(Duration::from_secs(5), || pair.renditions.unfinished().is_empty());
    assert!(swept.is_ok(), "{}: {:?}", pair.name, pair.renditions.unfinished());
    pair.body(&url);
    assert_eq!(pair.renditions.stored().len(), stored.len() + 1, "{}", pair.name);
    all_given_back(pair);
}

fn behaves(source: &str, store: &'static str) {
    let Some(mut pair) = Pair::start(source, store) else { return };
    let mut took = String::new();
    for (name, behaviour) in BEHAVIOURS {
        let began = Instant::now();
        behaviour(&mut pair);
        took += &format!("{name} {:.1} s, ", began.elapsed().as_secs_f64());
    }
    println!("{}: {took}", pair.name);
}

#[test]
fn folder_to_folder() {
    behaves("folder", "folder");
}

#[test]
fn folder_to_bucket() {
    behaves("folder", "bucket");
}

#[test]
fn web_to_folder() {
    behaves("web", "folder");
}

#[test]
fn web_to_bucket() {
    behaves("web", "bucket");
}

#[test]
fn bucket_to_folder() {
    behaves("bucket", "folder");
}

#[test]
fn bucket_to_bucket() {
    behaves("bucket", "bucket");
}

#[test]
fn garage_to_garage() {
    behaves("bucket", "garage");
}
