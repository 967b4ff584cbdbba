//! Files made to hurt, through a real service with real workers: bombs made here, and with `SENDIMAGE_HOSTILE_IMAGES` a
//! folder of others with a `manifest.json` that says what is to become of each.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{
    client::{Client, path_url},
    harness::{KEY, Site, wait_for},
    report::Row,
    tools::{self, scale},
    vectors,
};

const DEADLINE: Duration = Duration::from_secs(4);
/// What a file may be answered with: never 500, never nothing.
const STATUSES: [u16; 6] = [200, 400, 404, 422, 503, 504];
const SPEC: &str = "max-160x160|format-webp";
/// What gate and workers together may hold with [`BUDGET`] and two workers.
const MOST_BYTES: u64 = 512 << 20;
const BUDGET: &str = "256MiB";

fn site() -> Site {
    let (deadline, log) = (DEADLINE.as_secs(), "[log]\nlevel = \"warn\"\n");
    let render = format!("[render]\nworkers = 2\ndeadline_seconds = {deadline}.0\nmemory_budget = \"{BUDGET}\"\n");
    // The source of the tests' config comes first: its SVG files are served too.
    Site::new(&format!("svg = true\n[signing]\nsecret = \"{KEY}\"\n{render}{log}")).serve()
}

/// The resident memory of the gate and its workers, watched while something else happens.
struct Watch<'a> {
    site: &'a Site,
    over: AtomicBool,
    most: AtomicU64,
    samples: AtomicU64,
}

impl<'a> Watch<'a> {
    fn new(site: &'a Site) -> Self {
        Self { site, over: AtomicBool::new(false), most: AtomicU64::new(0), samples: AtomicU64::new(0) }
    }

    /// Runs `work` and samples meanwhile.
    fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !self.over.load(Ordering::Relaxed) {
                    let gate = self.site.service_pid() as i32;
                    let bytes = resident(gate) + self.site.workers().into_iter().map(resident).sum::<u64>();
                    self.most.fetch_max(bytes, Ordering::Relaxed);
                    self.samples.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(4));
                }
            });
            // However it ends: the other thread is waited for.
            let _over = Over(&self.over);
            work()
        })
    }

    fn check(&self) -> String {
        let (most, samples) = (self.most.load(Ordering::Relaxed), self.samples.load(Ordering::Relaxed));
        assert!(samples > 20 && most > 10 << 20, "{samples} samples, {most} bytes");
        assert!(most <= MOST_BYTES, "{} MiB resident of {} MiB", most >> 20, MOST_BYTES >> 20);
        format!("gate and 2 workers held {} MiB at most ({samples} samples) with memory_budget {BUDGET}", most >> 20)
    }
}

/// A process's resident bytes: its share of what is shared, or where only root may know that, all of it.
fn resident(pid: i32) -> u64 {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let kibibytes = |text: &str, field: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.trim().parse().ok())
    };
    kibibytes(&read("smaps_rollup"), "Pss:").or_else(|| kibibytes(&read("status"), "VmRSS:")).unwrap_or(0) << 10
}

/// Asks for a rendition of these bytes. An answer comes in time, whatever they are.
fn ask(site: &Site, name: &str, bytes: &[u8], spec: &str) -> u16 {
    let path = site.path("media").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let url = path_url(KEY.as_bytes(), name, spec);
    let began = Instant::now();
    let response = Client::gate(site).get(url.as_bytes());
    let took = began.elapsed();
    assert!(STATUSES.contains(&response.status), "{name}: {}\n{}", response.status, site.log());
    assert!(took <= DEADLINE + DEADLINE / 10, "{name}: {} after {took:?}", response.status);
    assert_eq!(response.header("x-accel-redirect").is_some(), response.status == 200, "{name}");
    if bytes.len() > 1 << 20 {
        std::fs::remove_file(path).unwrap();
    }
    response.status
}

/// The service has lost nothing: it is the same process, with all its workers, and still makes good renditions.
fn assert_unharmed(site: &Site, pid: u32) {
    assert_eq!(site.service_pid(), pid);
    wait_for(Duration::from_secs(10), || site.workers().len() >= 2).expect("all workers");
    let photo = std::fs::read(vectors::folder().join("images/photo_land.jpg")).unwrap();
    assert_eq!(ask(site, "good.jpg", &photo, SPEC), 200, "{}", site.log());
    assert_eq!(std::fs::read_dir(site.path("renditions/r1/.tmp-drafts")).map_or(0, Iterator::count), 0);
}

fn deaths(site: &Site) -> String {
    let text = site.ops("/metrics").unwrap().text();
    let causes: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("sendimage_workers_died_total")).collect();
    if causes.is_empty() { "none".into() } else { causes.join(", ") }
}

#[test]
fn bombs_made_here() {
    let row = Row::begin("bombs made here", "T07 T08 T09 T10 T11");
    let site = site();
    let pid = site.service_pid();
    let image = |name: &str| std::fs::read(vectors::folder().join("images").join(name)).unwrap();
    let (photo, static_gif, tiny, icon, avif) =
        (image("photo_land.jpg"), image("static.gif"), image("tiny_3x2.png"), image("icon.ico"), image("photo.avif"));
    let photo_tiff = image("photo.tiff");
    let refused: &[u16] = &[422];
    let served: &[u16] = &[200];
    let either: &[u16] = &[200, 422, 504];
    // What is too large for the budget is told so: by its header, or by the plan.
    let many = scale(300_000, 1_000_000);
    let bombs: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("pixels-30000.png", png_header(30_000, 30_000), refused),
        ("pixels-longest.png", png_header(i32::MAX as u32, i32::MAX as u32), refused),
        ("pixels-9900.png", white_png(9_900, None), either),
        ("pixels.gif", gif_header(65_535), refused),
        ("pixels.webp", vp8l_header(16_383), refused),
        ("pixels.jpg", jpeg_header(65_535), refused),
        ("pixels.bmp", bmp(30_000, 30_000, 24, 0, &[]), refused),
        ("pixels.avif", avif_of(&avif, 17_000), refused),
        ("pixels.ico", nested_icon(&png_header(30_000, 30_000)), refused),
        ("runs.bmp", bmp(8_000, 8_000, 8, 1, &[255, 1].repeat(many)), either),
        ("runs-back.bmp", bmp(100, 100, 8, 1, &[0, 2, 255, 255].repeat(many)), either),
        ("runs-lines.bmp", bmp(60_000, 1_600, 8, 1, &[0, 0].repeat(many)), either),
        ("scans.jpg", scans(8_000), refused),
        ("restarts.jpg", with_restarts(&photo, many), either),
        ("profile.png", white_png(16, Some(vec![0; 256 << 20])), either),
        ("texts.png", with_chunks(&tiny, &chunk(b"zTXt", &[b"a\0\0".as_slice(), &deflated(64 << 20)].concat()), 20), either),
        ("empty-idats.png", with_chunks(&tiny, &chunk(b"IDAT", b""), 400_000), either),
        ("unknown-chunks.png", with_chunks(&tiny, &chunk(b"abCd", b""), many), either),
        ("frames.png", moving_png(10_000), either),
        ("comments.jpg", with_segments(&photo, &[0xFF, 0xFE, 0, 2], many), served),
        ("profile-parts.jpg", with_segments(&photo, b"\xFF\xE2\0\x10ICC_PROFILE\0\x01\xFF", many), either),
        ("comments.gif", with_comments(&static_gif, 2 * many), served),
        ("directory-loop.jpg", with_segments(&photo, &looping_exif(), 1), served),
        ("directory-loops.jpg", with_segments(&photo, &looping_exif(), 50_000), served),
        ("directory-loop.tiff", looping_tiff(), refused),
        ("counts.tiff", tiff_with_counts(&photo_tiff), refused),
        ("strips.tiff", bomb_tiff(30_000, 30_000, 1), refused),
        ("strips-of-nothing.tiff", bomb_tiff(9_000, 9_000, 1), either),
        ("frames.gif", gif_of(1, 1, 100_000), either),
        ("frames-8x8.gif", gif_of(8, 8, 100_000), either),
        ("frames-300x300.gif", gif_of(300, 300, 1_000), either),
        ("entries.ico", icon_of_entries(&icon, 65_535), either),
        ("icon-in-icon.ico", nested_icon(&nested_icon(&icon)), refused),
        ("nested.svg", nested_svg("g", 60_000), refused),
        ("nested-wide.svg", wide_svg(many), either),
        ("entities.svg", entities_svg(), refused),
        ("file-entity.svg", b"<!DOCTYPE svg [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><svg xmlns=\"http://www.w3.org/2000/svg\" width=\"9\" height=\"9\"><text>&x;</text></svg>".to_vec(), refused),
        ("uses.svg", uses_svg(), either),
        ("pixels.svg", b"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1000000\" height=\"1000000\"/>".to_vec(), either),
        ("nothing.jpg", b"\xFF\xD8\xFF".to_vec(), refused),
    ];
    let (mut answers, mut slowest, count) = (BTreeMap::<u16, u32>::new(), (Duration::ZERO, ""), bombs.len());
    let watch = Watch::new(&site);
    let mut wrong = Vec::new();
    watch.during(|| {
        for (name, bytes, expected) in &bombs {
            let began = Instant::now();
            let status = ask(&site, name, bytes, SPEC);
            eprintln!("{name}: {} bytes, {status} after {:?}", bytes.len(), began.elapsed());
            slowest = slowest.max((began.elapsed(), name));
            *answers.entry(status).or_default() += 1;
            if !expected.contains(&status) {
                wrong.push(format!("{name}: {status}"));
            }
        }
    });
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", site.log());
    assert_unharmed(&site, pid);
    let held = watch.check();
    row.passed(&format!(
        "{count} bombs: {answers:?}, the slowest {:.1?} ({}); workers lost: {}; {held}",
        slowest.0,
        slowest.1,
        deaths(&site)
    ));
}

#[test]
fn a_folder_of_hostile_images() {
    let row = Row::begin("a folder of hostile images", "T07 T08 T09 T10 T11 T12");
    let Some(folder) = std::env::var_os("SENDIMAGE_HOSTILE_IMAGES").filter(|folder| !folder.is_empty()) else {
        return row.skipped("SENDIMAGE_HOSTILE_IMAGES names no folder of hostile images");
    };
    let folder = Path::new(&folder);
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let site = site();
    let pid = site.service_pid();
    let (mut answers, mut unread) = (BTreeMap::<_, u32>::new(), BTreeMap::<_, u32>::new());
    let mut wrong = Vec::new();
    let watch = Watch::new(&site);
    let specs: &[&str] = if tools::is_long() {
        &[SPEC, "width-100|format-gif", "original|format-png", "format-avif|max-64x64"]
    } else {
        &[SPEC]
    };
    watch.during(|| {
        for file in manifest["files"].as_array().unwrap() {
            let text = |field: &str| file[field].as_str().unwrap_or("unknown").to_owned();
            let (name, format, expected) = (text("file"), text("sniffed"), text("expect"));
            let bytes = std::fs::read(folder.join(&name)).unwrap();
            for (number, spec) in specs.iter().enumerate() {
                let status = ask(&site, &name, &bytes, spec);
                if number > 0 {
                    continue;
                }
                *answers.entry((expected.clone(), status)).or_default() += 1;
                let read = matches!(format.as_str(), "jpeg" | "png" | "gif" | "webp" | "bmp" | "avif");
                match (expected.as_str(), status) {
                    ("reject", 200) => wrong.push(format!("{name} was to be refused")),
                    ("accept", 200) => {}
                    // All of those are odd, and whole; a track of sound is beyond libavif 1.0.
                    ("either", found) if format == "avif" && found != 200 && !name.contains("audio") => {
                        wrong.push(format!("{name}: {found}"))
                    }
                    ("accept", _) if read => wrong.push(format!("{name} was to be rendered: {status}")),
                    ("accept", _) => *unread.entry(format.clone()).or_default() += 1,
                    _ => {}
                }
            }
        }
    });
    assert_unharmed(&site, pid);
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", site.log());
    let files: u32 = answers.values().sum();
    let held = watch.check();
    row.passed(&format!(
        "{files} files, {} specs each: {answers:?}; formats not read here {unread:?}; workers lost: {}; {held}",
        specs.len(),
        deaths(&site)
    ));
}

#[test]
fn a_slow_probe_takes_its_time_from_the_render() {
    let row = Row::begin("a slow probe takes its time from the render", "F30");
    let site = Site::new("[render]\nworkers = 1\ndeadline_seconds = 3.0\nmemory_budget = \"640 MiB\"\n").serve();
    std::fs::write(site.path("media/large.png"), white_png(9_900, None)).unwrap();
    let url = site.sign(&["media/large.png", SPEC]);
    let signal = |signal| {
        for pid in site.workers() {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal);
        }
    };
    signal(rustix::process::Signal::STOP);
    let began = Instant::now();
    let status = std::thread::scope(|scope| {
        let answer = scope.spawn(|| site.gate("GET", &url, "").status);
        std::thread::sleep(Duration::from_millis(2_000));
        signal(rustix::process::Signal::CONT);
        let probed = || site.metric("sendimage_render_seconds_count{stage=\"probe\"}") == 1.0;
        wait_for(Duration::from_secs(2), probed).expect("the probe's answer");
        signal(rustix::process::Signal::STOP);
        answer.join().unwrap()
    });
    assert_eq!(status, 504, "{}", site.log());
    let took = began.elapsed();
    assert!(took < Duration::from_millis(3_300), "{took:?}");
    row.passed(&format!("504 after {took:.1?} of 3 s"));
}

#[test]
fn a_lowered_limit_holds_for_sources_known_from_before() {
    let row = Row::begin("a lowered limit holds for sources known from before", "T07");
    let mut site = Site::new("").serve();
    site.add("photo_land.jpg", "a.jpg");
    let (made, new) = (site.sign(&["media/a.jpg", "width-50"]), site.sign(&["media/a.jpg", "width-60"]));
    assert_eq!(site.gate("GET", &made, "").status, 200);
    site.signal(rustix::process::Signal::TERM);
    site.wait();
    site.configure("[render]\nmax_source_pixels = 100\n");
    site.start();
    assert_eq!(site.gate("GET", &new, "").status, 422, "{}", site.log());
    assert_eq!(site.gate("GET", &made, "").status, 200, "what is stored is served");
    row.passed("422 for what is new, 200 for what is stored");
}

/// A PNG's chunk, with its checksum (PNG, third edition, annex D).
fn chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let covered = [kind.as_slice(), body].concat();
    let crc = !covered.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    });
    [&(body.len() as u32).to_be_bytes(), covered.as_slice(), &crc.to_be_bytes()].concat()
}

/// A black-and-white PNG of this size by its header; the data of one row.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let header = [&width.to_be_bytes(), &height.to_be_bytes(), [1, 0, 0, 0, 0].as_slice()].concat();
    let data = b"\x78\x9C\x03\x00\x00\x00\x00\x01";
    [b"\x89PNG\r\n\x1A\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", data), chunk(b"IEND", b"")].concat()
}

/// A whole black-and-white PNG, a thousandth of its pixels long.
fn white_png(side: u32, profile: Option<Vec<u8>>) -> Vec<u8> {
    let mut info = png::Info::with_size(side, side);
    (info.color_type, info.bit_depth) = (png::ColorType::Grayscale, png::BitDepth::One);
    info.icc_profile = profile.map(Into::into);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::with_info(&mut bytes, info).unwrap();
    encoder.set_compression(png::Compression::Fast);
    encoder.set_filter(png::Filter::NoFilter);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&vec![255; (side.div_ceil(8) * side) as usize]).unwrap();
    writer.finish().unwrap();
    bytes
}

/// Chunks put in before the data.
fn with_chunks(png: &[u8], chunk: &[u8], count: usize) -> Vec<u8> {
    let at = png.windows(4).position(|window| window == b"IDAT").unwrap() - 4;
    [&png[..at], &chunk.repeat(count), &png[at..]].concat()
}

/// So many zeros in zlib's format, by a PNG encoder's profile chunk.
fn deflated(length: usize) -> Vec<u8> {
    let png = white_png(16, Some(vec![0; length]));
    let at = png.windows(4).position(|window| window == b"iCCP").unwrap();
    let size = u32::from_be_bytes(png[at - 4..at].try_into().unwrap()) as usize;
    let body = &png[at + 4..at + 4 + size];
    let name = body.iter().position(|byte| *byte == 0).unwrap();
    body[name + 2..].to_vec()
}

/// An animated PNG of many frames of one pixel.
fn moving_png(frames: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
    encoder.set_animated(frames, 0).unwrap();
    let mut writer = encoder.write_header().unwrap();
    for _ in 0..frames {
        writer.write_image_data(&[0]).unwrap();
    }
    writer.finish().unwrap();
    bytes
}

fn gif_header(side: u16) -> Vec<u8> {
    let [low, high] = side.to_le_bytes();
    let size = [low, high, low, high];
    [b"GIF89a".as_slice(), &size, b"\0\0\0\x2C\0\0\0\0", &size, b"\0\x02\x02\x44\x01\0\x3B"].concat()
}

/// Empty comments before the first frame.
fn with_comments(gif: &[u8], count: usize) -> Vec<u8> {
    let colors = if gif[10] & 0x80 == 0 { 0 } else { 3 << ((gif[10] & 7) + 1) };
    let (head, rest) = gif.split_at(13 + colors);
    [head, &b"\x21\xFE\0".repeat(count), rest].concat()
}

fn vp8l_header(side: u32) -> Vec<u8> {
    let size = (side - 1) | (side - 1) << 14;
    let body = [[0x2F].as_slice(), &size.to_le_bytes(), &[0; 27]].concat();
    let chunk = [b"WEBPVP8L".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat();
    [b"RIFF".as_slice(), &(chunk.len() as u32).to_le_bytes(), &chunk].concat()
}

fn jpeg_header(side: u16) -> Vec<u8> {
    let [high, low] = side.to_be_bytes();
    let frame = [0xFF, 0xC0, 0, 11, 8, high, low, high, low, 1, 1, 0x11, 0];
    [b"\xFF\xD8".as_slice(), &frame, b"\xFF\xDA\0\x08\x01\x01\0\0\x3F\0", b"\xFF\xD9"].concat()
}

/// A progressive JPEG whose last scan comes again and again.
fn scans(count: usize) -> Vec<u8> {
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_progressive(true).unwrap();
    let (width, height) = (2_000, 2_000);
    let pixels = vec![90; width * height];
    let format = turbojpeg::PixelFormat::GRAY;
    compressor.set_subsamp(turbojpeg::Subsamp::Gray).unwrap();
    let image = turbojpeg::Image { pixels: &pixels[..], width, pitch: width, height, format };
    let jpeg = compressor.compress_to_vec(image).unwrap();
    let last = jpeg.windows(2).rposition(|window| window == [0xFF, 0xDA]).unwrap();
    let end = jpeg.len() - 2;
    [&jpeg[..last], &jpeg[last..end].repeat(count), &jpeg[end..]].concat()
}

/// Segments put in behind the JPEG's first two bytes.
fn with_segments(jpeg: &[u8], segment: &[u8], count: usize) -> Vec<u8> {
    [&jpeg[..2], &segment.repeat(count), &jpeg[2..]].concat()
}

/// An EXIF block whose only directory is its own sub-directory and its own successor.
fn looping_exif() -> Vec<u8> {
    let tiff = b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08";
    let body = [b"Exif\0\0".as_slice(), tiff].concat();
    [b"\xFF\xE1".as_slice(), &(body.len() as u16 + 2).to_be_bytes(), &body].concat()
}

/// A JPEG that restarts after every block, as often as bytes last.
fn with_restarts(jpeg: &[u8], count: usize) -> Vec<u8> {
    let scan = jpeg.windows(2).position(|window| window == [0xFF, 0xDA]).unwrap();
    let length = usize::from(u16::from_be_bytes([jpeg[scan + 2], jpeg[scan + 3]]));
    let interval = [0xFF, 0xDD, 0, 4, 0, 1];
    let marks: Vec<u8> = (0..count).flat_map(|number| [0xFF, 0xD0 | (number % 8) as u8]).collect();
    [&jpeg[..scan], &interval, &jpeg[scan..scan + 2 + length], &marks, &jpeg[scan + 2 + length..]].concat()
}

/// A bitmap of this size by its header.
fn bmp(width: i32, height: i32, bits: u16, compression: u32, data: &[u8]) -> Vec<u8> {
    let palette = if bits <= 8 { vec![0; 4 << bits] } else { Vec::new() };
    let start = 54 + palette.len() as u32;
    let mut file = b"BM".to_vec();
    file.extend((start + data.len() as u32).to_le_bytes());
    file.extend([0; 4]);
    file.extend(start.to_le_bytes());
    file.extend(40_u32.to_le_bytes());
    file.extend(width.to_le_bytes());
    file.extend(height.to_le_bytes());
    file.extend(1_u16.to_le_bytes());
    file.extend(bits.to_le_bytes());
    file.extend(compression.to_le_bytes());
    file.extend([0; 20]);
    [file, palette, data.to_vec(), vec![0, 1]].concat()
}

/// An AVIF that says everywhere that its picture has this side.
fn avif_of(avif: &[u8], side: u32) -> Vec<u8> {
    let mut bytes = avif.to_vec();
    let places: Vec<usize> = (0..bytes.len() - 16).filter(|&at| &bytes[at..at + 4] == b"ispe").collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at + 8..at + 12].copy_from_slice(&side.to_be_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&side.to_be_bytes());
    }
    bytes
}

/// An icon with one entry: this file.
fn nested_icon(inside: &[u8]) -> Vec<u8> {
    let entry =
        [&[0, 0, 0, 0, 1, 0, 32, 0], (inside.len() as u32).to_le_bytes().as_slice(), &22_u32.to_le_bytes()].concat();
    [&[0, 0, 1, 0, 1, 0], entry.as_slice(), inside].concat()
}

/// An icon whose every entry is the first one's picture.
fn icon_of_entries(icon: &[u8], count: u16) -> Vec<u8> {
    let old = usize::from(u16::from_le_bytes([icon[4], icon[5]]));
    let mut entry = icon[6..22].to_vec();
    let offset = u32::from_le_bytes(entry[12..16].try_into().unwrap()) as usize;
    let moved = (6 + 16 * usize::from(count) + offset - 6 - 16 * old) as u32;
    entry[12..16].copy_from_slice(&moved.to_le_bytes());
    [&icon[..4], &count.to_le_bytes(), &entry.repeat(count.into()), &icon[6 + 16 * old..]].concat()
}

/// A GIF of so many equal frames.
fn gif_of(width: u16, height: u16, frames: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = gif::Encoder::new(&mut bytes, width, height, &[240, 230, 200, 20, 60, 160]).unwrap();
    let buffer: Vec<u8> = (0..usize::from(width) * usize::from(height)).map(|at| u8::from(at % 7 == 0)).collect();
    encoder
        .write_frame(&gif::Frame { width, height, delay: 1, buffer: buffer.into(), ..gif::Frame::default() })
        .unwrap();
    drop(encoder);
    // Everything behind the palette but the end is the frame.
    let (head, frame) = (13 + 6, bytes.len() - 1);
    [&bytes[..head], &bytes[head..frame].repeat(frames), &[0x3B]].concat()
}

/// A TIFF whose only directory is its own successor.
fn looping_tiff() -> Vec<u8> {
    b"MM\0*\0\0\0\x08\0\x01\x01\0\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08".to_vec()
}

/// A TIFF whose every field of more than one value has 2^32-1 of them.
fn tiff_with_counts(tiff: &[u8]) -> Vec<u8> {
    let mut bytes = tiff.to_vec();
    let little = bytes.starts_with(b"II");
    let short = |at: usize| {
        if little { u16::from_le_bytes([tiff[at], tiff[at + 1]]) } else { u16::from_be_bytes([tiff[at], tiff[at + 1]]) }
    };
    let four: [u8; 4] = tiff[4..8].try_into().unwrap();
    let directory = (if little { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) }) as usize;
    for entry in 0..usize::from(short(directory)) {
        let at = directory + 2 + 12 * entry;
        if bytes[at + 4..at + 8].iter().map(|byte| u32::from(*byte)).sum::<u32>() > 1 {
            bytes[at + 4..at + 8].fill(0xFF);
        }
    }
    bytes
}

/// A TIFF of this size in strips of one row, all of them the same byte.
fn bomb_tiff(width: u32, height: u32, bits: u32) -> Vec<u8> {
    let mut fields: Vec<(u16, u16, u32, u32)> = vec![
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, bits),
        // PackBits: one byte says 128 pixels more.
        (259, 3, 1, 32_773),
        (262, 3, 1, 1),
        (273, 4, height, 0),
        (277, 3, 1, 1),
        (278, 4, 1, 1),
        (279, 4, height, 0),
    ];
    let directory = 8 + 2 + 12 * fields.len() as u32 + 4;
    let (offsets, counts) = (directory, directory + 4 * height);
    let data = counts + 4 * height;
    fields[5].3 = offsets;
    fields[8].3 = counts;
    let mut file = b"II*\0\x08\0\0\0".to_vec();
    file.extend((fields.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in fields {
        file.extend(tag.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend(count.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    file.extend([0; 4]);
    let row: Vec<u8> = [0x81, 0].repeat((width * bits).div_ceil(8).div_ceil(128) as usize);
    file.extend(data.to_le_bytes().repeat(height as usize));
    file.extend((row.len() as u32).to_le_bytes().repeat(height as usize));
    [file, row].concat()
}

fn svg(body: &str) -> Vec<u8> {
    format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"90\" height=\"60\">{body}</svg>").into_bytes()
}

fn nested_svg(name: &str, depth: usize) -> Vec<u8> {
    svg(&(format!("<{name}>").repeat(depth) + &format!("</{name}>").repeat(depth)))
}

/// Many elements side by side.
fn wide_svg(count: usize) -> Vec<u8> {
    svg(&"<path d=\"M0 0h9v9z\"/>".repeat(count))
}

/// Each entity is ten of the one before it.
fn entities_svg() -> Vec<u8> {
    let entity = |number: usize| format!("<!ENTITY e{number} \"{}\">", format!("&e{};", number - 1).repeat(10));
    let entities: String = (1..12).map(entity).collect();
    let body = String::from_utf8(svg("<text>&e11;</text>")).unwrap();
    format!("<!DOCTYPE svg [<!ENTITY e0 \"ha\">{entities}]>{body}").into_bytes()
}

/// Each group uses the one before it ten times.
fn uses_svg() -> Vec<u8> {
    let group =
        |number: usize| format!("<g id=\"g{number}\">{}</g>", format!("<use href=\"#g{}\"/>", number - 1).repeat(10));
    let groups: String = (1..12).map(group).collect();
    svg(&format!("<defs><g id=\"g0\"><rect width=\"9\" height=\"9\"/></g>{groups}</defs><use href=\"#g11\"/>"))
}
