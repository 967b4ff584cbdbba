//! Two gates on one store, and a history of what was asked of them: each version of an image has a colour of its own, so that
//! each answer tells which version it is of.

use std::{
    collections::HashMap,
    fs,
    io::Cursor,
    net::TcpStream,
    path::PathBuf,
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use rustix::process::Signal;

use crate::{
    buckets::{self, Hands, ObjectServer},
    gate::Gate,
    harness::{OPS_TOKEN, Response, Site, exchange},
    redis_server::Redis,
    report::Row,
    tools::{is_long, random, scale},
};

const IMAGES: usize = 4;
const SPECS: [&str; 3] =
    ["fill-16x16|format-png", "width-12|format-png", "max-20x20|format-png|grayscale|invert|grayscale"];
/// Specs whose renditions show the colour itself.
const COLOURED: usize = 2;
const CLIENTS: usize = 6;
/// Between two writes of one file: the tick of the clock that dates files, twice.
const TICK: Duration = Duration::from_millis(25);
/// Of a remote source: longer than news of a purge take, so that a purge makes a difference.
const FRESH: Duration = Duration::from_secs(3);

/// What is promised of answers.
#[derive(Clone, Copy)]
struct Promise {
    /// How long before the ask an answer was current at least.
    staleness: Duration,
    /// After so long a purge by one gate is heard by the other.
    heard: Duration,
}

const LOCAL: Promise = Promise { staleness: Duration::ZERO, heard: Duration::ZERO };
const REMOTE: Promise = Promise { staleness: FRESH, heard: Duration::from_secs(1) };

/// Where originals are put in place.
enum Media {
    Folder(PathBuf),
    Bucket(Box<Hands>),
}

impl Media {
    /// Returns what puts a new version in place at once, as editors and deployments do.
    fn prepared<'a>(&'a self, image: usize, bytes: Vec<u8>) -> Box<dyn FnOnce() + 'a> {
        match self {
            Self::Folder(folder) => {
                thread::sleep(TICK);
                let beside = folder.join(format!(".new{image}"));
                fs::write(&beside, bytes).unwrap();
                Box::new(move || fs::rename(beside, folder.join(name(image))).unwrap())
            }
            Self::Bucket(hands) => {
                let put = move || hands.run(hands.bucket.put(&name(image), bytes.into(), "image/png")).unwrap();
                Box::new(put)
            }
        }
    }
}

pub type Colour = [u8; 3];

/// A version of an image, and when it was put in place: current from then on, until the next one is.
struct Version {
    colour: Colour,
    begun: Instant,
    done: Option<Instant>,
}

/// One image: its versions, the last one current. The lock is the writer's, held while a file is put in place.
struct Image {
    writing: Mutex<()>,
    versions: RwLock<Vec<Version>>,
}

/// An answer that is one.
struct Seen {
    image: usize,
    gate: usize,
    asked: Instant,
    answered: Instant,
    colour: Colour,
}

/// A purge of an image by a gate, and when it had ended.
struct Purge {
    image: usize,
    gate: usize,
    ended: Instant,
}

struct History {
    images: Vec<Image>,
    colours: AtomicU32,
    seen: Mutex<Vec<Seen>>,
    purges: Mutex<Vec<Purge>>,
    failed: Mutex<HashMap<u16, usize>>,
    unanswered: AtomicUsize,
    kills: AtomicUsize,
    /// Runs of `gc`, and the renditions that they have removed.
    collections: (AtomicUsize, AtomicUsize),
    operations: AtomicUsize,
}

/// A picture of one colour.
pub fn png(colour: Colour) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 40, 30);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&colour.repeat(40 * 30)).unwrap();
    bytes
}

/// Its colour.
pub fn colour_of(bytes: &[u8]) -> Colour {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().unwrap();
    let mut data = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut data).unwrap();
    assert_eq!(frame.color_type, png::ColorType::Rgb);
    assert!(data.chunks_exact(3).all(|pixel| pixel == &data[..3]), "one image, one colour");
    [data[0], data[1], data[2]]
}

fn name(image: usize) -> String {
    format!("picture{image}.png")
}

/// The answer itself, or what the object store has at the address that it names; `None` for what was purged in between.
fn followed(answer: Response) -> Option<Response> {
    let Some(location) = answer.header("location") else { return Some(answer) };
    let (host, target) = location.strip_prefix("http://")?.split_once('/')?;
    let head = format!("GET /{target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let fetched = exchange(TcpStream::connect(host).ok()?, head.as_bytes());
    (fetched.status != 404).then_some(fetched)
}

impl History {
    fn new(media: &Media) -> Self {
        let history = Self {
            images: (0..IMAGES).map(|_| Image { writing: Mutex::new(()), versions: RwLock::default() }).collect(),
            colours: AtomicU32::new(1),
            seen: Mutex::default(),
            purges: Mutex::default(),
            failed: Mutex::default(),
            unanswered: AtomicUsize::new(0),
            kills: AtomicUsize::new(0),
            collections: Default::default(),
            operations: AtomicUsize::new(0),
        };
        (0..IMAGES).for_each(|image| history.replace(media, image));
        history
    }

    /// Puts a new version in place.
    fn replace(&self, media: &Media, image: usize) {
        let _writing = self.images[image].writing.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.colours.fetch_add(1, SeqCst).wrapping_mul(0x9e_37_79) & 0xff_ff_ff;
        let [_, colour @ ..] = number.to_be_bytes();
        let put = media.prepared(image, png(colour));
        self.images[image].versions.write().unwrap().push(Version { colour, begun: Instant::now(), done: None });
        put();
        self.images[image].versions.write().unwrap().last_mut().unwrap().done = Some(Instant::now());
    }

    fn get(&self, gates: &[RwLock<Gate>], targets: &[Vec<String>], random: &mut Rng) {
        let (image, spec) = (random.usize(..IMAGES), random.usize(..SPECS.len()));
        let number = random.usize(..gates.len());
        let asked = Instant::now();
        let answer = {
            let gate = gates[number].read().unwrap();
            gate.try_get(&targets[image][spec])
        };
        let answer = answer.and_then(followed);
        let answered = Instant::now();
        match answer {
            Some(answer) if answer.status == 200 => {
                // A gate that is killed breaks its answer off: nothing that a client would take for an image.
                let length = answer.header("content-length").and_then(|length| length.parse::<usize>().ok());
                if length != Some(answer.body.len()) {
                    self.unanswered.fetch_add(1, SeqCst);
                } else if spec < COLOURED {
                    let colour = colour_of(&answer.body);
                    self.seen.lock().unwrap().push(Seen { image, gate: number, asked, answered, colour });
                }
            }
            Some(answer) if answer.status != 0 => *self.failed.lock().unwrap().entry(answer.status).or_default() += 1,
            _ => _ = self.unanswered.fetch_add(1, SeqCst),
        }
    }

    fn purge(&self, gates: &[RwLock<Gate>], source: &str, random: &mut Rng) {
        let image = random.usize(..IMAGES);
        let body = format!(r#"{{"refs": ["{source}/{}"]}}"#, name(image));
        let number = random.usize(..gates.len());
        let gate = gates[number].read().unwrap();
        if gate.ops("POST", "/purge", &body).is_some_and(|answer| answer.status == 200) {
            self.purges.lock().unwrap().push(Purge { image, gate: number, ended: Instant::now() });
        }
    }

    /// Removes what is out of date, beside everything else: without grace, so that it meets what has just been asked for.
    fn collect(&self, site: &Site) {
        let output = site.run(&["gc", "--force", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let removed = said["removed"]["old_generation"]["files"].as_u64().unwrap_or_default();
        self.collections.0.fetch_add(1, SeqCst);
        self.collections.1.fetch_add(removed as usize, SeqCst);
    }

    /// What contradicts what was promised: an answer must have been current at some moment from `staleness` before it was asked
    /// for until it was given, and not have been replaced already when a purge ended of which the gate had heard before the ask.
    fn contradictions(&self, Promise { staleness, heard }: Promise) -> Vec<String> {
        let mut wrong = Vec::new();
        let purges = self.purges.lock().unwrap();
        for seen in self.seen.lock().unwrap().iter() {
            let versions = self.images[seen.image].versions.read().unwrap();
            let Some(at) = versions.iter().position(|version| version.colour == seen.colour) else {
                wrong.push(format!("image {}: a colour that it never had: {:?}", seen.image, seen.colour));
                continue;
            };
            if versions[at].begun > seen.answered {
                wrong.push(format!("image {}: answered before it was there", seen.image));
            }
            let replaced = versions.get(at + 1).and_then(|next| next.done);
            let of = format!("image {}: version {at} of {}", seen.image, versions.len());
            if let Some(replaced) = replaced.filter(|replaced| *replaced + staleness < seen.asked) {
                wrong.push(format!("{of} was replaced {:?} before it was asked for", seen.asked - replaced));
            }
            let has_heard = |purge: &&Purge| {
                let after = if purge.gate == seen.gate { Duration::ZERO } else { heard };
                purge.image == seen.image && purge.ended + after < seen.asked
            };
            let purged = purges.iter().filter(has_heard).map(|purge| purge.ended).max();
            if replaced.zip(purged).is_some_and(|(replaced, purged)| replaced < purged) {
                wrong.push(format!("{of} was replaced before a purge that had ended"));
            }
        }
        wrong
    }
}

#[test]
fn every_answer_was_current() {
    let row = Row::begin("history of two gates", "F14 F21 F37");
    let site = Site::new(&format!(
        "[store]\ngc_grace_seconds = 0\n[offload]\nmode = \"direct\"\n[ops]\ntoken = \"{OPS_TOKEN}\"\n"
    ));
    let media = Media::Folder(site.path("media"));
    row.passed(&recorded(&site, &media, "media", LOCAL));
}

/// The same with originals and renditions in an object store, and gates that tell each other by Redis.
#[test]
fn every_answer_of_a_remote_source_was_current_enough() {
    let row = Row::begin("history of two gates, an object store and Redis", "F14 F21 F37");
    if !buckets::is_there("s3s-fs") {
        return row.skipped("there is no s3s-fs");
    }
    let Some(redis) = Redis::new() else { return row.skipped("there is no Redis") };
    let folder = tempfile::tempdir().unwrap();
    let server = ObjectServer::start("s3s-fs", folder.path(), &["originals", "renditions"]);
    let fresh = format!("fresh_seconds = {}\nstale_seconds = 0\n", FRESH.as_secs_f64());
    let site = Site::new(&format!(
        "[store]\nkind = \"s3\"\ngc_grace_seconds = 0\n[store.s3]\n{}[sources.far]\nkind = \"s3\"\n[sources.far.s3]\n{}\
         [coordination]\nkind = \"redis\"\nurl = \"{}\"\nlease_seconds = 2\n[offload]\nmode = \"redirect\"\n\
         [ops]\ntoken = \"{OPS_TOKEN}\"\n",
        buckets::lines(server.port, "renditions", ""),
        buckets::lines(server.port, "originals", &fresh),
        redis.url(),
    ));
    // The source that every site of the tests has is not taken for a file system that is not mounted.
    site.add("photo_land.jpg", "here.jpg");
    let media = Media::Bucket(Box::new(Hands::new(server.port, "originals")));
    row.passed(&recorded(&site, &media, "far", REMOTE));
}

/// Clients that ask, replace and purge, on two gates that die now and then: what was counted, if nothing contradicts the promise.
fn recorded(site: &Site, media: &Media, source: &str, promise: Promise) -> String {
    let operations = scale(1_000, 10_000);
    let history = History::new(media);
    let targets: Vec<Vec<String>> = (0..IMAGES)
        .map(|image| SPECS.iter().map(|spec| site.sign(&[&format!("{source}/{}", name(image)), spec])).collect())
        .collect();
    let gates: Vec<RwLock<Gate>> = (0..2).map(|number| RwLock::new(Gate::start(site, number))).collect();
    let seeds: Vec<u64> = {
        let mut random = random("history of two gates");
        (0..=CLIENTS).map(|_| random.u64(..)).collect()
    };
    thread::scope(|scope| {
        let mut clients = Vec::new();
        for seed in &seeds[1..] {
            let (history, gates, targets) = (&history, &gates, &targets);
            clients.push(scope.spawn(move || {
                let mut random = Rng::with_seed(*seed);
                while history.operations.fetch_add(1, SeqCst) < operations {
                    match random.u32(..100) {
                        0..12 => history.replace(media, random.usize(..IMAGES)),
                        12..18 => history.purge(gates, source, &mut random),
                        18 => history.collect(site),
                        _ => history.get(gates, targets, &mut random),
                    }
                }
            }));
        }
        // Now and then one of them dies in the middle of everything.
        let mut random = Rng::with_seed(seeds[0]);
        let mut next = operations / 8;
        // A client that finds something impossible ends there, and the test with the last of them.
        while history.operations.load(SeqCst) < operations && !clients.iter().all(|client| client.is_finished()) {
            if history.operations.load(SeqCst) >= next {
                let number = random.usize(..gates.len());
                gates[number].read().unwrap().signal(Signal::KILL);
                *gates[number].write().unwrap() = Gate::start(site, number);
                history.kills.fetch_add(1, SeqCst);
                next += if is_long() { operations / 40 } else { operations / 5 };
            }
            thread::sleep(Duration::from_millis(2));
        }
    });
    let wrong = history.contradictions(promise);
    assert!(wrong.is_empty(), "{} answers were wrong:\n{}", wrong.len(), wrong.join("\n"));
    let failed = history.failed.lock().unwrap();
    // Replaced twice while it was rendered: said so, and not served.
    let log = |number: usize| fs::read_to_string(site.path(&format!("log{number}"))).unwrap_or_default();
    let complaints = || {
        (log(0) + &log(1))
            .lines()
            .filter(|line| line.contains("not served"))
            .map(|line| line.to_owned() + "\n")
            .collect::<String>()
    };
    assert!(failed.keys().all(|status| *status == 503), "{failed:?}\n{}", complaints());
    let (seen, purges) = (history.seen.lock().unwrap().len(), history.purges.lock().unwrap().len());
    let versions: usize = history.images.iter().map(|image| image.versions.read().unwrap().len()).sum();
    let (collections, collected) = (history.collections.0.load(SeqCst), history.collections.1.load(SeqCst));
    assert!(seen > operations / 4 && purges > 0 && history.kills.load(SeqCst) > 0, "{seen} {purges}");
    assert!(collected > 0, "{collections} runs of gc have removed nothing");
    format!(
        "{operations} operations, {versions} versions, {purges} purges, {collections} runs of gc that removed {collected}, {} kills: {seen} answers compared, 0 out of date, {} \
         unanswered (by a gate that died, or purged before they were fetched), {} times 503",
        history.kills.load(SeqCst),
        history.unanswered.load(SeqCst),
        failed.values().sum::<usize>()
    )
}

/// The checker itself: it must find what it looks for.
#[test]
fn a_contradiction_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let media = Media::Folder(folder.path().to_owned());
    let history = History::new(&media);
    let colour = |at: usize| history.images[0].versions.read().unwrap()[at].colour;
    let saw = |colour| {
        let now = Instant::now();
        history.seen.lock().unwrap().push(Seen { image: 0, gate: 0, asked: now, answered: now, colour });
    };
    let late = Promise { staleness: Duration::from_secs(60), heard: Duration::from_secs(1) };
    saw(colour(0));
    assert_eq!(history.contradictions(LOCAL), [""; 0]);
    history.replace(&media, 0);
    saw(colour(1));
    assert_eq!(history.contradictions(LOCAL), [""; 0]);
    thread::sleep(TICK);
    saw(colour(0));
    assert_eq!(history.contradictions(LOCAL).len(), 1);
    assert_eq!(history.contradictions(late), [""; 0], "out of date by less than is allowed");
    let purged = |gate| history.purges.lock().unwrap().push(Purge { image: 0, gate, ended: Instant::now() });
    purged(1);
    thread::sleep(TICK);
    saw(colour(0));
    assert_eq!(history.contradictions(late), [""; 0], "the other gate's purge has not been heard yet");
    purged(0);
    thread::sleep(TICK);
    saw(colour(0));
    assert_eq!(history.contradictions(late).len(), 1, "but never across a purge");
    saw([1, 2, 3]);
    assert_eq!(history.contradictions(late).len(), 2);
}
