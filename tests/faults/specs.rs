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

/// T05, T06, T26: whoever holds signatures gets bounded work, one file for one rendition, and no series of a metric.
#[test]
fn specs_and_names_without_end() {
    let row = Row::begin("specs and names without end", "T05 T06 T26");
    let site = Site::new("[render]\nworkers = 2\ndeadline_seconds = 10.0\n[log]\nlevel = \"error\"\n").serve();
    site.add("tiny_3x2.png", "t.png");
    site.add("photo_land.jpg", "a.jpg");
    std::fs::write(site.path("images.csv"), "id,file\n42,t.png\n").unwrap();
    let mut gate = Client::gate(&site);
    // T06: the trailing name of an id URL is decoration... of the path shape it is signed. So an id it is.
    let catalogue = Site::new(
        "[catalogue]\nkind = \"manifest\"\nfile = \"{dir}/images.csv\"\nsource = \"media\"\n[log]\nlevel = \"error\"\n",
    );
    catalogue.add("tiny_3x2.png", "t.png");
    std::fs::write(catalogue.path("images.csv"), "id,file\n42,t.png\n").unwrap();
    let catalogue = catalogue.serve();
    let url = native_url(KEYS, &Fields { subject: "42".into(), spec: "width-2".into(), ..Fields::default() });
    let mut random = random("specs and names without end");
    let names = scale(1_000, 20_000);
    let mut other = Client::gate(&catalogue);
    for number in 0..names {
        let name: String = (0..random.usize(0..60)).map(|_| char::from(random.u8(b'a'..=b'z'))).collect();
        let response = other.get(
            format!("{url}{name}{number}.{}", random.choice(["jpg", "php", "exe", "%20", "png%7Cx"]).unwrap())
                .as_bytes(),
        );
        assert_eq!(response.status, 200);
    }
    assert_eq!(catalogue.stored().len(), 1);
    assert_eq!(catalogue.metric("sendimage_requests_total{outcome=\"rendered\"}"), 1.0);
    drop(other);
    drop(catalogue);

    // T05: specs of every shape that the grammar has a word for, at its bounds and beyond.
    let spec = |random: &mut fastrand::Rng| -> String {
        let number = |random: &mut fastrand::Rng| -> String {
            random
                .choice([
                    "0",
                    "1",
                    "2",
                    "3",
                    "7",
                    "50",
                    "100",
                    "9999",
                    "65535",
                    "2147483647",
                    "4294967296",
                    "18446744073709551616",
                    "-1",
                    "1e9",
                    "00001",
                    "١",
                ])
                .unwrap()
                .to_string()
        };
        let one = |random: &mut fastrand::Rng| match random.u8(0..20) {
            0 => "original".into(),
            1 => format!("width-{}", number(random)),
            2 => format!("height-{}", number(random)),
            3 => format!("max-{}x{}", number(random), number(random)),
            4 => format!("min-{}x{}", number(random), number(random)),
            5 => format!("fill-{}x{}", number(random), number(random)),
            6 => format!("fill-{}x{}-c{}", number(random), number(random), number(random)),
            7 => format!("scale-{}", number(random)),
            8 => format!(
                "format-{}",
                random.choice(["jpeg", "png", "webp", "avif", "gif", "ico", "webp-lossless", "bmp"]).unwrap()
            ),
            9 => format!("jpegquality-{}", number(random)),
            10 => format!("webpquality-{}", number(random)),
            11 => format!("bgcolor-{}", random.choice(["fff", "123456", "xyz", "ffffffff"]).unwrap()),
            12 => format!("rotate-{}", random.choice(["90", "180", "270", "45"]).unwrap()),
            13 => format!("crop-{},{},{},{}", number(random), number(random), number(random), number(random)),
            14 => format!("pad-{}x{}", number(random), number(random)),
            15 => format!("blur-{}", number(random)),
            16 => format!("sharpen-{}", number(random)),
            17 => format!("trim-{}", number(random)),
            18 => format!("dpr-{}", number(random)),
            _ => random
                .choice([
                    "grayscale",
                    "invert",
                    "flip-h",
                    "flip-v",
                    "smart",
                    "keep-meta",
                    "preserve-svg",
                    "watermark-x",
                ])
                .unwrap()
                .to_string(),
        };
        let most = if random.u8(..) < 20 { 40 } else { 4 };
        let operations = random.usize(1..most);
        let parts: Vec<String> = (0..operations).map(|_| one(random)).collect();
        parts.join("|")
    };
    let (mut told, mut slowest, mut before) = (BTreeMap::<u16, usize>::new(), Duration::ZERO, None);
    let mut specs = BTreeSet::new();
    let count = scale(400, 10_000);
    while specs.len() < count {
        let text = spec(&mut random);
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
    assert!(slowest < Duration::from_secs(11), "{slowest:?}");
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
    row.passed(&format!("{names} trailing names: 1 file, 1 render; {count} distinct specs: {told:?}, {} files, the slowest {slowest:.1?}; {} series of metrics, none new", site.stored().len(), after.len()));
}

/// The size of a rendition.
fn size_of(path: &std::path::Path) -> (u32, u32) {
    let facts = sendimage::render::probe(&std::fs::read(path).unwrap()).unwrap();
    (facts.stored_size.width, facts.stored_size.height)
}
