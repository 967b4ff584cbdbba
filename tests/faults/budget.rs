//! A small disk, filled under load through nginx: never full, never a failed request, and what is asked for all the time stays.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{
    harness::{Site, has_front, wait_for},
    mounts::Mount,
    renders::{self, stored},
    report::Row,
    tools::scale,
};

/// What lets a store live on a disk of some megabytes: nothing else is written there.
const CONFIG: &str = "[store]\nindex = \"{dir}/index\"\neviction_grace_seconds = 1.5\n";

/// Source images that the renditions are of.
const IMAGES: u64 = 8;

/// A site whose store is a file system of its own.
fn site(bound: &str, options: &str) -> Result<(Site, Mount), String> {
    let mut site = Site::new(&format!("{CONFIG}{bound}"));
    let mount = Mount::tmpfs(&site.path("renditions"), options)?;
    renders::furnish(&site);
    (0..IMAGES).for_each(|number| renders::add(&site, "photo.jpg", &format!("{number}.jpg")));
    site.start();
    // nginx holds what it has opened for a minute, and a file that is held takes its room for as long: a real site's grace period is
    // longer than that, and this one's is not.
    Ok((site.with_nginx_edited("gate.sock", |conf| conf.replace("inactive=60s", "inactive=1s")), mount))
}

/// Asks for ever more renditions by `callers` at once, and for one of them all the time: answers, the least that was free, and the
/// longest that an answer to the hit took.
fn fill(
    site: &Site,
    ask: fn(&Site, &str) -> u16,
    (renditions, callers): (u64, u64),
    free: impl Fn() -> u64 + Sync,
) -> (u64, u64, Duration) {
    let hot = renders::url("media/photo.jpg", "width-33");
    let (next, least, hits) = (AtomicU64::new(0), AtomicU64::new(u64::MAX), AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..callers)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= renditions {
                            break;
                        }
                        // Some come for the second time, gone or not.
                        let number = if number % 5 == 0 { number / 2 } else { number };
                        let (image, width) = (number % IMAGES, 120 + number / IMAGES % 80);
                        let url = renders::url(&format!("media/{image}.jpg"), &format!("width-{width}|format-png"));
                        assert_eq!(ask(site, &url), 200, "{url}\n{}", site.log());
                        least.fetch_min(free(), Ordering::Relaxed);
                        // What was just made never goes: a disk that is full of it has no room for more.
                        std::thread::sleep(Duration::from_millis(50));
                    }
                })
            })
            .collect();
        let hit = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                assert_eq!(ask(site, &hot), 200, "{}", site.log());
                slowest = slowest.max(began.elapsed());
                hits.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
            slowest
        });
        let ends: Vec<_> = callers.into_iter().map(|caller| caller.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        slowest = hit.join().expect("every hit is served");
        assert!(ends.iter().all(Result::is_ok), "a request failed");
    });
    let made = site.metric("sendimage_renders_total{outcome=\"rendered\",format=\"jpeg\"}");
    assert_eq!(made, 1.0, "what is asked for all the time is never taken");
    (renditions + hits.into_inner(), least.into_inner(), slowest)
}

/// Bytes: the mark of `min_free`, through nginx; and no mark at all, but for what a write finds when it fails.
#[test]
fn a_small_disk_under_load() {
    let row = Row::begin("a small disk filled under load", "T25 F04");
    if !has_front("nginx") {
        return row.skipped("nginx is not installed (tests/run does that)");
    }
    let mut sentences = Vec::new();
    let through_nginx = |site: &Site, url: &str| site.nginx("GET", url, "").status;
    let at_the_gate = |site: &Site, url: &str| site.gate("GET", url, "").status;
    // A bound, whether it keeps the disk from being full, and who is asked.
    type Way = (&'static str, bool, fn(&Site, &str) -> u16);
    let ways: [Way; 2] = [("min_free = \"30%\"\n", true, through_nginx), ("max_files = 1000000\n", false, at_the_gate)];
    for (bound, is_kept_free, ask) in ways {
        let (site, _mount) = match site(bound, "size=5m") {
            Ok(site) => site,
            Err(reason) => return row.skipped(&reason),
        };
        let store = site.path("renditions");
        let free = || rustix::fs::statvfs(&store).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
        let (answers, least, slowest) = fill(&site, ask, (scale(360, 4000) as u64, 2), free);
        let evictions = |reason| site.metric(&format!("sendimage_store_evictions_total{{reason=\"{reason}\"}}"));
        let (by_mark, by_write) = (evictions("min_free"), evictions("no_space"));
        assert!(by_mark + by_write > 0.0, "the disk was too large to fill\n{}", site.log());
        assert!(!is_kept_free || (by_mark > 0.0 && least > 0), "{least} bytes left\n{}", site.log());
        assert!(!stored(&store).is_empty());
        sentences.push(format!(
            "{}: {answers} answers of 200, {by_mark} evicted by the mark and {by_write} by a write that failed, {least} bytes \
             free at least, the slowest hit {slowest:.2?}",
            bound.trim()
        ));
    }
    row.passed(&sentences.join("; "));
}

/// Inodes, of many source images: folders and records go with the last rendition.
#[test]
fn few_inodes_under_load() {
    let row = Row::begin("a disk of few inodes, filled under load", "T25 F06");
    if !has_front("nginx") {
        return row.skipped("nginx is not installed (tests/run does that)");
    }
    let (site, _mount) = match site("min_free_inodes = \"30%\"\n", "size=60m,nr_inodes=600") {
        Ok(site) => site,
        Err(reason) => return row.skipped(&reason),
    };
    let (images, store) = (scale(180, 3000), site.path("renditions"));
    let mut least = u64::MAX;
    for number in 0..images {
        let name = format!("{number}.jpg");
        renders::add(&site, "photo.jpg", &name);
        let answer = site.nginx("GET", &renders::url(&format!("media/{name}"), "width-24"), "");
        assert_eq!(answer.status, 200, "{number}\n{}", site.log());
        least = least.min(rustix::fs::statvfs(&store).unwrap().f_ffree);
        std::fs::remove_file(site.path("media").join(name)).unwrap();
        // Nothing goes within the grace period, and this disk is full after some seconds of it.
        std::thread::sleep(Duration::from_millis(25));
    }
    let evicted = site.metric("sendimage_store_evictions_total{reason=\"min_free_inodes\"}")
        + site.metric("sendimage_store_evictions_total{reason=\"no_space\"}");
    assert!(evicted > 0.0, "{}", site.log());
    row.passed(&format!("{images} source images, 600 inodes: {evicted} evicted, {least} inodes free at least"));
}

/// An index of so many renditions: rows alone, of the size that real ones have. What the gate holds and how fast it starts and answers
/// does not depend on it.
#[test]
fn an_index_of_many_renditions() {
    let row = Row::begin("an index of many renditions", "T25");
    let rows = scale(200_000, 10_000_000);
    let mut site = Site::new(&format!("{CONFIG}max_files = 100000000\n"));
    renders::furnish(&site);
    site.start();
    let url = renders::url("media/photo.jpg", "width-33");
    assert_eq!(site.gate("GET", &url, "").status, 200);
    let mut measure = |rows: usize| {
        site.signal(rustix::process::Signal::TERM);
        site.wait();
        if rows > 1 {
            fill_index(&site.path("index"), rows - 1);
        }
        let began = Instant::now();
        site.start();
        assert_eq!(site.gate("GET", &url, "").status, 200);
        let started = began.elapsed();
        let counted = || site.metric("sendimage_store_files") == rows as f64;
        wait_for(Duration::from_secs(20), counted).unwrap_or_else(|()| panic!("{}", site.log()));
        let hits = Instant::now();
        (0..500).for_each(|_| assert_eq!(site.gate("GET", &url, "").status, 200));
        let status = std::fs::read_to_string(format!("/proc/{}/status", site.service_pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kibibytes: u64 = line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap();
        (started, hits.elapsed() / 500, kibibytes / 1024)
    };
    let (empty, full) = (measure(1), measure(rows));
    let index_mib = std::fs::metadata(site.path("index")).unwrap().len() >> 20;
    assert!(full.2 <= empty.2 + 24, "{} MiB, and {} MiB with {rows} rows", empty.2, full.2);
    assert!(full.0 < empty.0 + Duration::from_secs(5), "{:?}, and {:?} with {rows} rows", empty.0, full.0);
    row.passed(&format!(
        "{rows} rows in {index_mib} MiB: first hit {:.2?} after the start ({:.2?} with one row), {:.0?} a hit ({:.0?}), the gate \
         holds {} MiB ({})",
        full.0, empty.0, full.1, empty.1, full.2, empty.2
    ));
}

/// Adds rows to an index that nobody has open.
fn fill_index(file: &Path, rows: usize) {
    use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut index = sqlx::sqlite::SqliteConnectOptions::new().filename(file).connect().await.unwrap();
        // In the order of their numbers, as a walk that sorts would add them; a random order leaves pages emptier.
        let sql = format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO rendition SELECT i * 900000000000 + 1, randomblob(39), 30000, i % 100000 + 1, 0 FROM n;
             UPDATE state SET walked_at = strftime('%s', 'now') - 1577836800;"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut index).await.unwrap();
        index.close().await.unwrap();
    });
}
