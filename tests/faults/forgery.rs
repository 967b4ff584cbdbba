//! Who has no key gets nothing: not by altering a URL, not by spelling it otherwise, not by measuring time.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Command, Stdio},
    time::Duration,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};

use crate::{
    client::{Client, Fields, hmac_sha256, native, native_url, path_url, wagtail},
    harness::{Response, Site, wait_for},
    report::Row,
    rule::{Asked, Route, verdict},
    tools::{self, random, scale},
};

const FIRST: &[u8] = b"0123456789abcdef";
const SECOND: &[u8] = b"the second key, only of /private/";
const SITES: &[u8] = b"conformance-secret-key";
/// A key that nobody configured.
const STRANGERS: &[u8] = b"a key that nobody configured";

const CONFIG: &str = r#"[signing]
keys = [{ id = "first", secret = "0123456789abcdef" }, { id = "second", secret = "the second key, only of /private/" }]
wagtail_keys = ["conformance-secret-key"]
[catalogue]
kind = "manifest"
file = "{dir}/images.csv"
source = "media"
[routes.images]
prefix = "/images/"
keys = ["first"]
[routes.private]
prefix = "/images/private/"
keys = ["second"]
wagtail_keys = []
[log]
level = "error"
"#;

fn routes() -> [Route; 2] {
    [
        Route { prefix: "/images/", native: vec![FIRST], wagtail: vec![SITES] },
        Route { prefix: "/images/private/", native: vec![SECOND], wagtail: vec![] },
    ]
}

fn fields(subject: &str, spec: &str, path: &str) -> Fields {
    Fields { subject: subject.into(), spec: spec.into(), path: path.into(), ..Fields::default() }
}

/// A service with two routes, and good URLs of every kind.
fn site(more: &str) -> (Site, Vec<Vec<u8>>) {
    let site = Site::new(&format!("{CONFIG}{more}"));
    site.add("photo_land.jpg", "2024/é+1.jpg");
    site.add("rgba.png", "a.png");
    std::fs::write(site.path("images.csv"), "id,file\n42,a.png\n7,2024/é+1.jpg\n").unwrap();
    let mut linked = fields("media", "fill-50x40|format-webp", "2024/é+1.jpg");
    (linked.expires, linked.download) = (Some("1893456000".into()), Some("My \"Photo\".webp".into()));
    let mut private = fields("media", "width-30", "a.png");
    private.expires = Some("1893456000".into());
    let good = [
        native_url(FIRST, &linked),
        path_url(FIRST, "a.png", "max-40x40|format-jpeg|jpegquality-40"),
        native_url(FIRST, &fields("42", "fill-50x50", "")) + "name.png",
        native_url(FIRST, &fields("7", "width-60|format-webp", "")),
        format!("/images/{}/7/width-50/photo.jpg?v=1&v=2", wagtail(SITES, "7", "width-50")),
        format!("/images/{}/42/max-30x30%7Cformat-jpeg/", wagtail(SITES, "42", "max-30x30|format-jpeg")),
        native_url(SECOND, &private).replace("/images/", "/images/private/"),
    ];
    (site, good.map(String::into_bytes).to_vec())
}

/// One body and one set of headers for each status: a refusal tells nothing.
#[derive(Default)]
struct Refusals(BTreeMap<u16, BTreeSet<String>>);

impl Refusals {
    fn note(&mut self, response: &Response, about: &[u8]) {
        for (name, value) in &response.headers {
            let name = name.to_lowercase();
            assert!(
                !name.starts_with("x-accel") && !name.starts_with("x-sendfile") && !name.starts_with("x-sendimage"),
                "{name}: {value} at {}",
                String::from_utf8_lossy(about)
            );
        }
        let mut plain = response.clone();
        plain.headers.retain(|(name, _)| !matches!(name.to_lowercase().as_str(), "date" | "x-request-id"));
        self.0.entry(response.status).or_default().insert(format!("{:?} {:?}", plain.headers, plain.text()));
    }

    /// A 400 may come from the HTTP library, and then has no body; all others have one face.
    fn check(&self) {
        for (status, faces) in &self.0 {
            let most = if *status == 400 { 3 } else { 1 };
            assert!(faces.len() <= most, "{status}: {faces:#?}");
        }
        crate::requests::assert_tells_nothing(self.0.values().flatten().map(String::as_str));
    }
}

/// T01 to T04, and FAULTS 2.2 as a rule: whatever a good URL is turned into, the service decides as the rule written from
/// the page's words does, and serves only what one of the keys has signed.
#[test]
fn altered_urls() {
    let row = Row::begin("altered URLs", "T01 T02 T03 T04 T23");
    let (site, good) = site("");
    let site = site.serve().with_nginx();
    let routes = routes();
    let signed: BTreeSet<String> = good
        .iter()
        .map(|url| {
            let (status, asked) = verdict(url, &routes);
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(url));
            key_of(&asked.unwrap())
        })
        .collect();
    let mut random = random("altered URLs");
    let (mut gate, mut nginx) = (Client::gate(&site), Client::nginx(&site));
    for url in &good {
        assert_eq!((gate.get(url).status, nginx.get(url).status), (200, 200), "{}", site.log());
    }
    let stored = site.stored();
    let (mut refusals, mut counts, mut spelled, mut other) =
        (Refusals::default(), BTreeMap::<u16, usize>::new(), BTreeSet::new(), 0);
    let count = scale(5_000, 150_000);
    let mut seen = BTreeSet::new();
    while seen.len() < count {
        let mut url = random.choice(&good).unwrap().clone();
        for _ in 0..random.usize(1..=3) {
            alter(&mut url, &good, &mut random);
        }
        if url.is_empty() || url.iter().any(|byte| matches!(byte, b'\r' | b'\n')) || !seen.insert(url.clone()) {
            continue;
        }
        let about = String::from_utf8_lossy(&url).into_owned();
        let (wanted, asked) = verdict(&url, &routes);
        let response = gate.get(&url);
        assert!(
            response.status == wanted || library_refuses(&url, &response),
            "{} for {wanted}: {about}",
            response.status
        );
        if response.status == 200 {
            assert!(signed.contains(&key_of(&asked.unwrap())), "accepted: {about}");
            spelled.insert(url.clone());
        } else {
            refusals.note(&response, &url);
        }
        *counts.entry(response.status).or_default() += 1;
        if seen.len() % 5 == 0 {
            let through = nginx.get(&url);
            other += 1;
            // nginx takes spaces around the target for more of those that end it, and hands on what is between them.
            let bare = url.trim_ascii();
            let both = through.status == response.status || through.status == verdict(bare, &routes).0;
            // nginx has refusals of its own, for what it cannot normalise and for URLs outside of the location.
            // And one answer: a prefix without its slash is shown the way.
            assert!(
                both || matches!(through.status, 301 | 400 | 404),
                "{} and {}: {about}",
                response.status,
                through.status
            );
        }
    }
    refusals.check();
    assert_eq!(site.stored(), stored, "no alteration has made a file");
    for (status, least) in [(200, count / 50), (400, count / 50), (403, count / 5), (404, count / 1_000)] {
        assert!(counts.get(&status).copied().unwrap_or(0) >= least, "{counts:?}");
    }
    row.passed(&format!(
        "{count} altered URLs, {other} of them through nginx too; answers {counts:?}; the {} served are other spellings of \
         what was signed, 0 are not; one answer for all 403",
        spelled.len()
    ));
}

/// The same where nginx keeps verdicts and serves files by itself: what it has a verdict on is exactly what was asked.
#[test]
fn altered_urls_before_kept_verdicts() {
    let row = Row::begin("altered URLs before kept verdicts", "T01 T03");
    let (site, good) = site("[offload]\nmode = \"auth_request\"\nverdict_cache_seconds = 60\n");
    let site = site.serve().with_nginx();
    let (routes, mut random) = (routes(), random("altered URLs before kept verdicts"));
    let mut nginx = Client::nginx(&site);
    // Rendered, then judged, then served from the verdict that was kept.
    for url in good.iter().chain(&good).chain(&good) {
        assert_eq!(nginx.get(url).status, 200, "{}", site.log());
    }
    let (count, mut seen, mut counts) = (scale(1_500, 40_000), BTreeSet::new(), BTreeMap::<u16, usize>::new());
    while seen.len() < count {
        let mut url = random.choice(&good).unwrap().clone();
        for _ in 0..random.usize(1..=2) {
            alter(&mut url, &good, &mut random);
        }
        if url.is_empty() || url.iter().any(|byte| matches!(byte, b'\r' | b'\n')) || !seen.insert(url.clone()) {
            continue;
        }
        let about = String::from_utf8_lossy(&url).into_owned();
        let (wanted, _) = verdict(url.trim_ascii(), &routes);
        let response = nginx.get(&url);
        // Bytes that no request line holds travel in a header here, where they are bytes like any other.
        let plain: Vec<u8> = url.iter().map(|byte| if b"<>` ".contains(byte) { b'~' } else { *byte }).collect();
        let wanted = [wanted, verdict(&plain, &routes).0];
        assert!(
            wanted.contains(&response.status) || matches!(response.status, 301 | 400 | 404),
            "{} for {wanted:?}: {about}",
            response.status
        );
        let is_image = response.header("content-type").is_some_and(|kind| kind.starts_with("image/"));
        assert_eq!(is_image, response.status == 200, "{about}");
        *counts.entry(response.status).or_default() += 1;
    }
    assert!(counts[&200] > 0 && counts[&403] > count / 10, "{counts:?}");
    assert_eq!(site.stored().len(), good.len());
    row.passed(&format!(
        "{count} altered URLs through nginx with auth_request: {counts:?}; only what was signed is served"
    ));
}

/// What is signed, whichever spelling it has.
fn key_of(asked: &Asked) -> String {
    match asked.signature.len() {
        28 => format!("{} {} {} {}", asked.prefix, asked.signature, asked.fields.subject, asked.fields.spec),
        _ => format!("{} {} {:?}", asked.prefix, asked.signature, asked.fields),
    }
}

/// The HTTP library has an opinion of its own about some bytes in a request's first line.
fn library_refuses(url: &[u8], response: &Response) -> bool {
    let odd = |byte: &u8| !(0x21..0x7F).contains(byte) || b"<>`\"{}^\\|".contains(byte);
    response.status == 400 && response.body.is_empty() && url.iter().any(odd)
}

/// Alters a URL in one of the ways that have ever worked on somebody.
fn alter(url: &mut Vec<u8>, good: &[Vec<u8>], random: &mut fastrand::Rng) {
    if url.len() < 2 {
        return;
    }
    let at = random.usize(1..url.len());
    let slashes: Vec<usize> = (0..url.len()).filter(|&at| url[at] == b'/').collect();
    let segments = |url: &[u8]| url.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
    match random.u8(0..26) {
        0 | 1 => url[at] = random.u8(0x21..0x7F),
        2 => url[at] = random.u8(..),
        3 => url[at] ^= 1 << random.u8(0..8),
        4 => url.truncate(at),
        5 => url.insert(at, random.u8(0x21..0x7F)),
        6 => drop(url.remove(at)),
        // Another spelling of the same.
        7 | 8 => {
            let byte = url[at];
            let text = if random.bool() { format!("%{byte:02X}") } else { format!("%{byte:02x}") };
            url.splice(at..=at, text.bytes());
        }
        9 => *url = String::from_utf8_lossy(url).replace("%7C", "|").into_bytes(),
        10 => *url = String::from_utf8_lossy(url).replace("%C3%A9", "é").into_bytes(),
        11 => *url = String::from_utf8_lossy(url).replace("%C3%A9", "e%CC%81").into_bytes(),
        12 => *url = String::from_utf8_lossy(url).replacen('%', "%25", 1).into_bytes(),
        // Shapes of paths.
        13 => {
            let shapes = ["/", "./", "../", "%2F", "%2e%2e/", "..%2f", "%00", "%0d%0aX:1", ";a", "+", " ", "%"];
            let put = random.choice(&shapes).unwrap();
            let slash = *random.choice(&slashes).unwrap_or(&0);
            url.splice(slash + 1..slash + 1, put.bytes());
        }
        // Fields of another URL, or in another order.
        14 | 15 => {
            let (mut ours, theirs) = (segments(url), segments(random.choice(good).unwrap()));
            let (place, from) = (random.usize(0..ours.len()), random.usize(0..theirs.len()));
            ours[place] = theirs[from].clone();
            *url = ours.join(&b'/');
        }
        16 => {
            let mut ours = segments(url);
            let (a, b) = (random.usize(0..ours.len()), random.usize(0..ours.len()));
            ours.swap(a, b);
            *url = ours.join(&b'/');
        }
        17 => {
            let mut ours = segments(url);
            let place = random.usize(0..ours.len());
            if random.bool() {
                drop(ours.remove(place))
            } else {
                ours.insert(place, ours[place].clone())
            }
            *url = ours.join(&b'/');
        }
        18 => {
            let ends =
                ["?", "?x=1", "&expires=1", "?expires=9999999999", "?download=a", "&", "#x", "?token=x", "&download="];
            url.extend(random.choice(&ends).unwrap().bytes());
        }
        19 => {
            let text = String::from_utf8_lossy(url).into_owned();
            if let Some((path, query)) = text.split_once('?') {
                let mut pairs: Vec<&str> = query.split('&').collect();
                random.shuffle(&mut pairs);
                *url = format!("{path}?{}", pairs.join("&")).into_bytes();
            }
        }
        // A path of anything.
        20 | 21 => {
            let words = [
                "images",
                "private",
                "42",
                "7",
                "٤٢",
                "media",
                "a.png",
                "width-30",
                "",
                ".",
                "..",
                "%2e",
                "%2E%2e",
                "%2F",
                "%00",
                "%",
                "%zz",
                "%E9",
                "%C3%A9",
                "é",
                "+",
                "x",
                "?",
                "#",
                "&expires=1",
                "%25",
                "\\",
                "|",
                "%7C",
                "<",
                "\u{85}",
                "%C2%85",
                "%0a",
                ";",
                "=",
            ];
            *url = b"/images".to_vec();
            for _ in 0..random.usize(1..9) {
                url.extend(if random.u8(..) < 200 { "/" } else { "" }.bytes());
                url.extend(random.choice(&words).unwrap().bytes());
            }
        }
        // The signature: its base64, its length, its maker.
        22..=24 => resign(url, random),
        _ => *url = if random.bool() { url.to_ascii_uppercase() } else { [b"/".as_slice(), url].concat() },
    }
}

/// Spells the signature otherwise, or puts another one in its place that somebody without the key could make.
fn resign(url: &mut Vec<u8>, random: &mut fastrand::Rng) {
    let text = String::from_utf8_lossy(url).into_owned();
    let (_, asked) = verdict(url, &routes());
    let Some(asked) = asked else { return };
    let Some((prefix, rest)) = asked.prefix.split_at_checked(asked.prefix.len()).filter(|_| text.is_ascii()) else {
        return;
    };
    debug_assert!(rest.is_empty());
    let Some((_, tail)) = text[prefix.len()..].split_once('/') else { return };
    let Fields { subject, spec, path, .. } = &asked.fields;
    let given = &asked.signature;
    let bytes = URL_SAFE.decode(given).or_else(|_| URL_SAFE_NO_PAD.decode(given)).unwrap_or_default();
    let symbols = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let signature = match random.u8(0..16) {
        0 => given.replace('-', "+").replace('_', "/"),
        1 => STANDARD.encode(&bytes),
        2 => STANDARD_NO_PAD.encode(&bytes),
        3 => URL_SAFE.encode(&bytes),
        4 => URL_SAFE_NO_PAD.encode(&bytes),
        5 => format!("{given}="),
        6 => given.replace('=', "%3D"),
        7 => given.trim_end_matches('=').to_owned(),
        // The last symbol has spare bits.
        8 => {
            let (kept, padding) = given.split_at(given.trim_end_matches('=').len());
            let last =
                kept.bytes().last().and_then(|last| symbols.iter().position(|symbol| *symbol == last)).unwrap_or(0);
            let other = char::from(symbols[last ^ random.usize(1..4)]);
            format!("{}{other}{padding}", &kept[..kept.len().saturating_sub(1)])
        }
        9 => native(STRANGERS, &asked.fields),
        10 => wagtail(STRANGERS, subject, spec),
        // The right key, for another route, scheme or text.
        11 => native(if random.bool() { FIRST } else { SECOND }, &fields(subject, spec, "other.png")),
        12 => wagtail(FIRST, subject, spec),
        13 => URL_SAFE_NO_PAD.encode(hmac_sha256(SITES, format!("{subject}/{spec}/").as_bytes())),
        14 => native(FIRST, &fields(path, spec, subject)),
        _ => native(FIRST, &fields("media", &format!("{spec}\n{path}"), "")),
    };
    *url = format!("{prefix}{signature}/{tail}").into_bytes();
}

/// No file is looked at and no catalogue asked for whoever has no signature: the system calls of the gate say so.
#[test]
fn a_forged_url_touches_nothing() {
    let row = Row::begin("a forged URL touches nothing", "T01 T23");
    if !tools::is_root() {
        return row.skipped("tracing another process takes root");
    }
    let (site, good) = site("");
    let site = site.serve();
    let mut gate = Client::gate(&site);
    for url in &good {
        assert_eq!(gate.get(url).status, 200, "{}", site.log());
    }
    let traced = |urls: &[Vec<u8>], status: u16| {
        let file = site.path("trace");
        let mut strace = Command::new("strace")
            .args(["-f", "-qq", "-p", &site.service_pid().to_string(), "-o"])
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is installed (tests/run does it)");
        let traced = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", site.service_pid())).unwrap();
            !status.contains("TracerPid:\t0")
        };
        wait_for(Duration::from_secs(10), traced).expect("strace attaches");
        // To every thread: the last one is attached when the first answers.
        std::thread::sleep(Duration::from_millis(300));
        let mut gate = Client::gate(&site);
        for url in urls {
            assert_eq!(gate.get(url).status, status, "{}", String::from_utf8_lossy(url));
        }
        let pid = rustix::process::Pid::from_raw(strace.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        strace.wait().unwrap();
        let trace = std::fs::read_to_string(&file).unwrap();
        let mut calls = BTreeMap::<String, usize>::new();
        for line in trace.lines() {
            let call = line.split_once(' ').map_or("", |(_, call)| call.trim_start());
            if let Some((name, _)) = call.split_once('(').filter(|_| !call.starts_with(['<', '-', '+'])) {
                *calls.entry(name.to_owned()).or_default() += 1;
            }
        }
        calls
    };
    let mut random = random("a forged URL touches nothing");
    let forged: Vec<Vec<u8>> = (0..scale(200, 2_000))
        .map(|number| {
            let mut url = random.choice(&good).unwrap().clone();
            match number % 3 {
                // Another key's, of images that exist and of some that do not.
                0 => native_url(
                    STRANGERS,
                    &fields("media", "width-30", if number % 2 == 0 { "a.png" } else { "no.png" }),
                )
                .into(),
                1 => {
                    format!("/images/{}/{number}/width-30/", wagtail(STRANGERS, &number.to_string(), "width-30")).into()
                }
                _ => {
                    // A character of the signature.
                    let at = if url.starts_with(b"/images/private/") { 20 } else { 12 };
                    url[at] = if url[at] == b'a' { b'b' } else { b'a' };
                    url
                }
            }
        })
        .collect();
    // The control: a hit looks at two files, and the trace has that.
    let control = traced(&good, 200);
    assert!(control.keys().any(|call| is_of_files(call)), "{control:?}");
    let calls = traced(&forged, 403);
    let harmless: Vec<&str> = "accept4 brk clock_gettime clock_nanosleep close epoll_ctl epoll_wait epoll_pwait \
        epoll_pwait2 fcntl futex getpeername getrandom getsockname getsockopt ioctl madvise mmap \
        mprotect munmap nanosleep read recvfrom restart_syscall rt_sigprocmask rt_sigreturn \
        sched_yield sendto setsockopt shutdown sigaltstack write writev gettid exit set_robust_list \
        rseq clone3 sched_getaffinity"
        .split(' ')
        .collect();
    let odd: Vec<_> = calls.iter().filter(|(call, _)| !harmless.contains(&call.as_str())).collect();
    assert!(odd.is_empty(), "{odd:?} of {calls:?}");
    let total: usize = calls.values().sum();
    row.passed(&format!(
        "{} forged URLs: {total} system calls, none that looks at a file, asks a catalogue or wakes a worker; the same trace \
         shows those of a hit",
        forged.len()
    ));
}

fn is_of_files(call: &str) -> bool {
    call.contains("stat") || call.starts_with("open") || call.contains("access")
}
