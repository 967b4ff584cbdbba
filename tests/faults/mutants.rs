//! Good files of every format, damaged in small ways, through real workers: a header that is nearly right leads further into
//! a decoder than any noise.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, Write},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use sendimage::{
    app,
    config::RenderConfig,
    metrics::Metrics,
    model::ImageFormat,
    render::{
        limits::Limits,
        look::Findings,
        plan::{Plan, PlanError},
    },
    spec::FilterSpec,
    workers::{Files, JobError, Lane, Marks, Pool, PoolConfig},
};

use crate::{
    harness::{self, SENDIMAGE},
    report::Row,
    tools::{random, scale},
    vectors,
};

const DEADLINE: Duration = Duration::from_secs(10);

/// Small renditions, by every way through the renderer.
const SPECS: [&str; 8] = [
    "max-24x24|format-webp",
    "width-16|format-jpeg",
    "max-9x9|format-png",
    "fill-20x10|format-gif",
    "max-12x12|keep-meta",
    "fill-9x9|smart|format-webp-lossless",
    "trim-10|width-20",
    "width-16|preserve-svg|format-ico",
];

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Refused by its header.
    Refused,
    /// Its header was read, and a limit or the plan refused it.
    Limited,
    /// Its header was read, its pixels were not.
    Broken,
    /// It became a rendition.
    Rendered,
    /// It took longer than the deadline.
    Late,
    /// It ended two workers.
    Poison,
}

/// Files to begin with: every format that is read, small ones more often.
fn originals() -> Vec<(String, Vec<u8>)> {
    let folder = vectors::folder().join("images");
    let mut found: Vec<_> = harness::files(&folder)
        .into_iter()
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .filter(|(_, bytes)| ImageFormat::detect(bytes).is_some() && bytes.len() < 200_000)
        .collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutants_of_good_files() {
    let row = Row::begin("mutants of good files", "T07 T08 T09 T10 F28 F29");
    let originals = Arc::new(originals());
    assert!(originals.len() > 30);
    let metrics = Arc::new(Metrics::new());
    let config =
        PoolConfig { program: SENDIMAGE.into(), workers: 2, memory_budget: 256 << 20, ..PoolConfig::default() };
    let pool = Pool::start(config, metrics.clone()).await.unwrap();
    let count = scale(3_000, 400_000);
    let began = Instant::now();
    let lines = (0..2).map(|line| {
        let (pool, originals) = (pool.clone(), originals.clone());
        tokio::spawn(async move {
            let mut fates = BTreeMap::<(Fate, ImageFormat), usize>::new();
            for number in (line..count).step_by(2) {
                let mut random = random(&format!("mutant {number}"));
                let (name, good) = random.choice(originals.as_slice()).unwrap();
                let mut bytes = good.clone();
                for _ in 0..random.usize(1..=4) {
                    mutate(&mut bytes, &originals, &mut random);
                }
                let spec = *random.choice(&SPECS).unwrap();
                let fate = try_one(&pool, &bytes, spec).await;
                let format = ImageFormat::detect(good).unwrap();
                if matches!(fate, Fate::Late | Fate::Poison) {
                    keep(&bytes, &format!("{fate:?}-{number}-{spec}-of-{name}").replace('|', "_"));
                }
                *fates.entry((fate, format)).or_default() += 1;
            }
            fates
        })
    });
    let mut fates = BTreeMap::<(Fate, ImageFormat), usize>::new();
    for line in lines.collect::<Vec<_>>() {
        for (key, number) in line.await.unwrap() {
            *fates.entry(key).or_default() += number;
        }
    }
    let of =
        |wanted: Fate| fates.iter().filter(|((fate, _), _)| *fate == wanted).map(|(_, number)| number).sum::<usize>();
    let beyond = count - of(Fate::Refused);
    let died: Vec<String> = metrics
        .expose()
        .lines()
        .filter_map(|line| line.strip_prefix("sendimage_workers_died_total").map(str::to_owned))
        .filter(|line| !line.contains("recycled"))
        .collect();
    let formats: std::collections::BTreeSet<_> =
        fates.keys().filter(|(fate, _)| *fate == Fate::Rendered).map(|(_, format)| format.name()).collect();
    // One may be being replaced at this moment: each is after a thousand jobs.
    let end = Instant::now() + Duration::from_secs(10);
    while pool.stats().alive < 2 {
        assert!(Instant::now() < end, "a worker has no successor");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(beyond * 10 >= count * 3, "only {beyond} of {count} got past the header");
    assert!(formats.len() >= 8, "{formats:?}");
    assert_eq!(metrics.render_memory_bytes.get(), 0);
    // What ended a worker is kept beside the table, to be looked at.
    assert!(
        died.is_empty() && of(Fate::Poison) == 0 && of(Fate::Late) == 0,
        "{died:?}, {fates:?}; see {}",
        found().display()
    );
    let rate = count as f64 / began.elapsed().as_secs_f64();
    pool.shutdown().await;
    row.passed(&format!(
        "{count} mutants of {} files ({rate:.0} a second): {} refused by the header, {beyond} ({} %) past it, of which {} \
         rendered; 0 workers died, 0 late; renditions of {formats:?}",
        originals.len(),
        of(Fate::Refused),
        beyond * 100 / count,
        of(Fate::Rendered),
    ));
}

async fn try_one(pool: &Pool, bytes: &[u8], spec: &str) -> Fate {
    let source = memory(bytes);
    let deadline = Instant::now() + DEADLINE;
    let fate = |error: &JobError, otherwise: Fate| match error {
        JobError::TimedOut { .. } => Fate::Late,
        JobError::Poison { .. } => Fate::Poison,
        JobError::OverLimit(_) => Fate::Limited,
        JobError::Render(_) => otherwise,
        other => panic!("{other}"),
    };
    let facts = match pool.probe(&source, deadline).await {
        Ok(facts) => facts,
        Err(error) => return fate(&error, Fate::Refused),
    };
    let config = RenderConfig::default();
    let limits = Limits {
        max_source_bytes: 64 << 20,
        max_source_pixels: 100_000_000,
        max_source_side: 65_535,
        max_output_pixels: 40_000_000,
    };
    if limits.check_source(&facts).is_err() {
        return Fate::Limited;
    }
    let (spec, defaults) = (FilterSpec::parse(spec).unwrap(), app::defaults(&config, &Marks::default()));
    let mut findings = Findings::default();
    let plan = loop {
        match Plan::seen(&facts, &findings, &spec, None, &defaults) {
            Ok(plan) if limits.check_output(&plan).is_ok() => break plan,
            // The content decides about the crop: a worker looks at it first.
            Err(PlanError::Unseen(look)) => match pool.look(&source, &facts, look, deadline).await {
                Ok(found) => findings.note(look, found),
                Err(error) => return fate(&error, Fate::Broken),
            },
            _ => return Fate::Limited,
        }
    };
    let mut output = memory(b"");
    match pool.render(Files::new(&source, &output), &plan, bytes.len() as u64, Lane::of(&plan), deadline).await {
        Ok(report) => {
            let mut made = Vec::new();
            output.rewind().unwrap();
            output.read_to_end(&mut made).unwrap();
            assert_eq!(made.len() as u64, report.bytes);
            assert_eq!(ImageFormat::detect(&made), Some(plan.encoding.format()));
            Fate::Rendered
        }
        Err(error) => fate(&error, Fate::Broken),
    }
}

/// A regular file without a name.
fn memory(bytes: &[u8]) -> File {
    let mut file: File = rustix::fs::memfd_create(c"mutant", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into();
    file.write_all(bytes).unwrap();
    file
}

/// Damages a file: bits, bytes, lengths, and whole parts of it, as formats have them.
fn mutate(bytes: &mut Vec<u8>, originals: &[(String, Vec<u8>)], random: &mut fastrand::Rng) {
    if bytes.len() < 16 {
        return;
    }
    let length = bytes.len();
    // Headers are where the interesting bytes are: half of all changes are near the beginning.
    let place = |random: &mut fastrand::Rng| {
        let most = if random.bool() { length.min(256) } else { length };
        random.usize(0..most)
    };
    let at = place(random);
    match random.u8(0..14) {
        0..=2 => bytes[at] ^= 1 << random.u8(0..8),
        3 => bytes[at] = *random.choice(&[0, 1, 0x7F, 0x80, 0xFE, 0xFF]).unwrap(),
        // A truncated file, and one whose end is missing a little.
        4 => bytes.truncate(random.usize(8..length)),
        5 => bytes.truncate(length - random.usize(1..length.min(32))),
        // A length or an offset of two or four bytes, in either order.
        6 | 7 => {
            let value =
                *random.choice(&[0_u32, 1, 0x7FFF, 0xFFFF, 0x10000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF]).unwrap();
            let near = random.u32(0..64).wrapping_add(length as u32);
            let value = if random.bool() { value } else { near };
            let field = match random.u8(0..4) {
                0 => value.to_be_bytes().to_vec(),
                1 => value.to_le_bytes().to_vec(),
                2 => (value as u16).to_be_bytes().to_vec(),
                _ => (value as u16).to_le_bytes().to_vec(),
            };
            for (offset, byte) in field.into_iter().enumerate() {
                if let Some(place) = bytes.get_mut(at + offset) {
                    *place = byte;
                }
            }
        }
        // Parts: one out, one twice, two changed over.
        8 => drop(bytes.drain(at..(at + random.usize(1..64)).min(length))),
        9 => {
            let part = bytes[at..(at + random.usize(1..400)).min(length)].to_vec();
            bytes.splice(at..at, part);
        }
        10 | 11 => {
            let parts = parts(bytes);
            if parts.len() > 2 {
                let (a, b) = (random.usize(1..parts.len()), random.usize(1..parts.len()));
                let (first, second) = (a.min(b), a.max(b));
                let part = |number: usize| bytes[parts[number].clone()].to_vec();
                let order = match random.u8(0..3) {
                    0 => (0..parts.len())
                        .map(|number| {
                            if number == a {
                                b
                            } else if number == b {
                                a
                            } else {
                                number
                            }
                        })
                        .collect::<Vec<_>>(),
                    1 => (0..parts.len()).filter(|number| *number != a).collect(),
                    _ => (0..parts.len()).chain([first, second]).collect(),
                };
                *bytes = order.into_iter().flat_map(part).collect();
            }
        }
        // The head of one and the tail of another.
        12 => {
            let (_, other) = random.choice(originals).unwrap();
            let cut = random.usize(0..other.len());
            bytes.truncate(at.max(8));
            bytes.extend_from_slice(&other[cut..]);
        }
        _ => {
            for place in &mut bytes[at..(at + 32).min(length)] {
                *place = random.u8(..);
            }
        }
    }
}

/// The parts that a file's format has it made of, as far as they can be told without decoding; the first is its head.
fn parts(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let number = |at: usize, little: bool| -> usize {
        let field: [u8; 4] = bytes.get(at..at + 4).map_or([0; 4], |field| field.try_into().unwrap());
        (if little { u32::from_le_bytes(field) } else { u32::from_be_bytes(field) }) as usize
    };
    let (mut at, step): (usize, Box<dyn Fn(usize) -> usize>) = if bytes.starts_with(b"\x89PNG") {
        (8, Box::new(|at| number(at, false).saturating_add(12)))
    } else if bytes.starts_with(b"RIFF") {
        (12, Box::new(|at| (number(at + 4, true).saturating_add(9)) & !1))
    } else if bytes.get(4..8) == Some(b"ftyp") {
        (0, Box::new(|at| number(at, false).max(8)))
    } else if bytes.starts_with(b"\xFF\xD8") {
        (2, Box::new(|at| 2 + (number(at, false) & 0xFFFF)))
    } else {
        // No format of chunks: sixteen slices.
        let step = bytes.len().div_ceil(16);
        (0, Box::new(move |_| step))
    };
    let mut parts: Vec<_> = std::iter::once(0..at).collect();
    while at < bytes.len() && parts.len() < 200 {
        let end = at.saturating_add(step(at)).min(bytes.len());
        parts.push(at..end);
        at = end;
    }
    parts.push(at..bytes.len());
    parts.retain(|part| !part.is_empty());
    parts
}

/// Where files go that ended a worker.
fn found() -> std::path::PathBuf {
    Path::new(SENDIMAGE).ancestors().nth(2).unwrap().join("faults/found")
}

fn keep(bytes: &[u8], name: &str) {
    std::fs::create_dir_all(found()).unwrap();
    std::fs::write(found().join(name), bytes).unwrap();
}
