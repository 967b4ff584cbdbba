//! What whoever holds signatures can make the service do: bounded work, and bounded files.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    client::{Client, Fields, native_url, path_url},
    harness::{KEY, Site},
    report::Row,
    tools::{random, scale},
};

const KEYS: &[u8] = KEY.as_bytes();

/// Names and labels of all series.
fn series(site: &Site) -> BTreeSet<String> {
    let text = site.ops("/metrics").unwrap().text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ').map(|(name, _)| name.to_owned())).collect()
}

/// T06: the last part of an id URL is decoration, which nobody signs: whatever it is, there is one file.
#[test]
fn names_without_end() {
    let row = Row::begin("names without end", "T06");
    let site = Site::new(
        "[catalogue]\nkind = \"manifest\"\nfile = \"{dir}/images.csv\"\nsource = \"media\"\n[log]\nlevel = \"error\"\n",
    );
    site.add("tiny_3x2.png", "t.png");
    std::fs::write(site.path("images.csv"), "id,file\n42,t.png\n").unwrap();
    let site = site.serve();
    let url = native_url(KEYS, &Fields { subject: "42".into(), spec: "width-2".into(), ..Fields::default() });
    let mut random = random("names without end");
    let count = scale(1_000, 20_000);
    let mut gate = Client::gate(&site);
    for number in 0..count {
        let name: String = (0..random.usize(0..60)).map(|_| char::from(random.u8(b'a'..=b'z'))).collect();
        let extension = random.choice(["jpg", "php", "exe", "%20", "png%7Cx"]).unwrap();
        assert_eq!(gate.get(format!("{url}{name}{number}.{extension}").as_bytes()).status, 200);
    }
    assert_eq!(site.stored().len(), 1);
    assert_eq!(site.metric("sendimage_requests_total{outcome=\"rendered\"}"), 1.0);
    drop(gate);
    row.passed(&format!("{count} trailing names: 1 file, 1 render"));
}

/// A spec of any shape that the grammar has a word for, at its bounds and beyond.
fn random_spec(random: &mut fastrand::Rng) -> String {
    const NUMBERS: &str = "0 1 2 3 7 50 100 9999 65535 2147483647 4294967296 18446744073709551616 -1 1e9 00001 \u{661}";
    /// Each `N` is a number.
    const OPERATIONS: &str = "original width-N height-N max-NxN min-NxN fill-NxN fill-NxN-cN scale-N format-jpeg format-png \
        format-webp format-avif format-gif format-ico format-webp-lossless format-bmp jpegquality-N webpquality-N bgcolor-fff \
        bgcolor-123456 bgcolor-xyz rotate-90 rotate-45 crop-N,N,N,N pad-NxN blur-N sharpen-N trim-N dpr-N grayscale invert flip-h \
        flip-v smart keep-meta preserve-svg watermark-x";
    let numbers: Vec<&str> = NUMBERS.split(' ').collect();
    let operations: Vec<&str> = OPERATIONS.split_whitespace().collect();
    let most = if random.u8(..) < 20 { 40 } else { 4 };
    let parts: Vec<String> = (0..random.usize(1..most))
        .map(|_| {
            let mut text = (*random.choice(&operations).unwrap()).to_owned();
            while text.contains('N') {
                text = text.replacen('N', random.choice(&numbers).unwrap(), 1);
            }
            text
        })
        .collect();
    parts.join("|")
}

/// T05, T26: whoever holds signatures gets bounded work, and no series of a metric.
#[test]
fn specs_without_end() {
    let row = Row::begin("specs without end", "T05 T26");
    let site = Site::new("[render]\nworkers = 2\ndeadline_seconds = 30.0\n[log]\nlevel = \"error\"\n").serve();
    site.add("tiny_3x2.png", "t.png");
    site.add("photo_land.jpg", "a.jpg");
    let mut gate = Client::gate(&site);
    let mut random = random("specs without end");
    let (mut told, mut slowest, mut before) = (BTreeMap::<u16, usize>::new(), Duration::ZERO, None);
    let mut specs = BTreeSet::new();
    let count = scale(400, 10_000);
    while specs.len() < count {
        let text = random_spec(&mut random);
        if !specs.insert(text.clone()) {
            continue;
        }
        let source = if specs.len() % 8 == 0 { "a.jpg" } else { "t.png" };
        let began = Instant::now();
        let response = gate.get(path_url(KEYS, source, &text).as_bytes());
        slowest = slowest.max(began.elapsed());
        assert!(matches!(response.status, 200 | 400 | 422), "{}: {text}\n{}", response.status, site.log());
        let too_much = text.len() > 255 || text.split('|').count() > 16;
        assert!(!too_much || response.status == 400, "{}: {text}", response.status);
        *told.entry(response.status).or_default() += 1;
        if specs.len() == count / 2 {
            before = Some(series(&site));
        }
    }
    assert!(slowest < Duration::from_secs(31), "{slowest:?}");
    let (before, after) = (before.unwrap(), series(&site));
    let formats = |series: &BTreeSet<String>| {
        series.iter().filter(|name| !name.contains("format=")).cloned().collect::<BTreeSet<_>>()
    };
    assert_eq!(formats(&before), formats(&after), "distinct specs are distinct series");
    assert!(after.len() < 400, "{}", after.len());
    for stored in site.stored() {
        let (width, height) = size_of(&site.path("renditions").join(stored));
        assert!(u64::from(width) * u64::from(height) <= 40_000_000, "{width}x{height}");
    }
    row.passed(&format!(
        "{count} distinct specs: {told:?}, {} files, the slowest {slowest:.1?}; {} \
         series of metrics, none for a spec",
        site.stored().len(),
        after.len()
    ));
}

/// The size of a rendition.
fn size_of(path: &std::path::Path) -> (u32, u32) {
    let facts = sendimage::render::probe(&std::fs::read(path).unwrap()).unwrap();
    (facts.stored_size.width, facts.stored_size.height)
}
