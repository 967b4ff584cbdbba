//! The site's SQLite file busy, replaced, damaged and away.

use std::{
    path::Path,
    str::FromStr as _,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    harness::{Site, wait_for},
    renders::{self, try_ask},
    report::Row,
    tools::scale,
};

const CONFIG: &str = "[catalogue]\nkind = \"sqlite\"\nurl = \"sqlite://{dir}/db.sqlite3\"\nsource = \"media\"\n\
                      cache_seconds = 0.2\nstale_seconds = 60\ntimeout_seconds = 1\n\
                      query = \"SELECT file FROM pictures WHERE id = ?\"\n";

/// Runs statements on a database file, one connection for all.
fn execute(path: &Path, statements: &[String]) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut database = connect(path).await;
        for statement in statements {
            sqlx::query(AssertSqlSafe(statement.as_str())).execute(&mut database).await.unwrap();
        }
        database.close().await.unwrap();
    });
}

async fn connect(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::from_str(&format!("sqlite://{}", path.display())).unwrap();
    SqliteConnection::connect_with(&options.create_if_missing(true)).await.unwrap()
}

/// A database in which every id up to 200 is this picture.
fn fill(path: &Path, picture: &str) {
    let rows: Vec<String> = (1..=200).map(|id| format!("({id}, '{picture}')")).collect();
    let table = "CREATE TABLE pictures (id INTEGER PRIMARY KEY, file TEXT)".to_owned();
    execute(path, &[table, format!("INSERT INTO pictures VALUES {}", rows.join(", "))]);
}

fn site() -> Site {
    let site = Site::new(CONFIG);
    renders::add(&site, "photo.jpg", "a.jpg");
    renders::add(&site, "alpha.png", "b.png");
    fill(&site.path("db.sqlite3"), "a.jpg");
    site.serve()
}

fn ask(site: &Site, id: usize) -> u16 {
    try_ask(site, &renders::url(&id.to_string(), "width-40")).unwrap().status
}

/// The names of the files that ids are served from tell which database was asked.
fn extension(site: &Site, id: usize) -> String {
    let answer = try_ask(site, &renders::url(&id.to_string(), "width-40")).unwrap();
    assert_eq!(answer.status, 200);
    renders::handed_over(&answer).rsplit('.').next().unwrap().to_owned()
}

/// F14: somebody holds the database for longer than anybody may wait.
#[test]
fn busy() {
    let row = Row::begin("a busy database", "F14");
    let site = site();
    let rounds = scale(2, 15);
    assert_eq!(ask(&site, 1), 200);
    let (mut slowest, mut unknown) = (Duration::ZERO, 0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for round in 0..rounds {
        let holder = runtime.block_on(async {
            let mut holder = connect(&site.path("db.sqlite3")).await;
            sqlx::query("BEGIN EXCLUSIVE").execute(&mut holder).await.unwrap();
            holder
        });
        // Beyond the cache's time: a known row serves on, and nobody is told that an unknown one is not there.
        std::thread::sleep(Duration::from_millis(300));
        for (id, status) in [(1, 200), (100 + round, 503)] {
            let began = Instant::now();
            assert_eq!(ask(&site, id), status, "{}", site.log());
            slowest = slowest.max(began.elapsed());
        }
        unknown += 1;
        runtime.block_on(async { holder.close().await.unwrap() });
        assert_eq!(ask(&site, 100 + round), 200, "{}", site.log());
    }
    assert!(slowest < Duration::from_millis(1_900), "{slowest:?}");
    row.passed(&format!(
        "{rounds} times held: the known row served, {unknown} of {unknown} unknown ones 503 and at once 200 afterwards; the \
         slowest answer {slowest:.2?}"
    ));
}

/// F15: another file under its name, rubbish in it, nothing at all, and what a crash of the site leaves.
#[test]
fn replaced_damaged_and_away() {
    let row = Row::begin("a database replaced, damaged and away", "F15");
    let mut site = site();
    let path = site.path("db.sqlite3");
    let rounds = scale(2, 15);
    let settle = || std::thread::sleep(Duration::from_millis(300));
    for round in 0..rounds {
        let (old, new) = (1 + 4 * round, 2 + 4 * round);
        assert_eq!(extension(&site, old), "jpg");

        // Replaced, as by a backup that is restored: seen as fast as a changed row.
        fill(&site.path("other"), "b.png");
        std::fs::rename(site.path("other"), &path).unwrap();
        let replaced = Instant::now();
        wait_for(Duration::from_secs(5), || extension(&site, old) == "png").expect("the new file is asked");
        assert!(replaced.elapsed() < Duration::from_millis(1_500), "{:?}", replaced.elapsed());

        // Damaged: known rows serve on.
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[..4096].fill(0x55);
        std::fs::write(&path, &bad).unwrap();
        settle();
        assert_eq!((ask(&site, old), ask(&site, new)), (200, 503), "{}", site.log());
        assert!(std::fs::read(&path).unwrap() == bad, "it is never repaired");
        std::fs::write(&path, &good).unwrap();
        wait_for(Duration::from_secs(3), || ask(&site, new) == 200).expect("mended, it is asked again");

        // Away, and the service is started without it.
        std::fs::rename(&path, site.path("away")).unwrap();
        site.signal(Signal::TERM);
        site.wait();
        site.start();
        assert_eq!(ask(&site, new + 1), 503, "{}", site.log());
        assert!(!path.exists(), "it is never made");
        std::fs::rename(site.path("away"), &path).unwrap();
        wait_for(Duration::from_secs(3), || ask(&site, new + 1) == 200).expect("back, it is asked again");

        // The site was killed in the midst of writing: its log is beside the file.
        let crashed = [
            "PRAGMA journal_mode = WAL".to_owned(),
            format!("UPDATE pictures SET file = 'a.jpg' WHERE id = {}", new + 2),
        ];
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut database = connect(&path).await;
            for statement in &crashed {
                sqlx::query(AssertSqlSafe(statement.as_str())).execute(&mut database).await.unwrap();
            }
            let side = |suffix: &str| std::path::PathBuf::from(format!("{}{suffix}", path.display()));
            for suffix in ["", "-wal", "-shm"] {
                std::fs::copy(side(suffix), site.path("copy").with_extension(format!("x{suffix}"))).unwrap();
            }
            database.close().await.unwrap();
            for suffix in ["-wal", "-shm", ""] {
                std::fs::rename(site.path("copy").with_extension(format!("x{suffix}")), side(suffix)).unwrap();
            }
        });
        settle();
        assert_eq!(extension(&site, new + 2), "jpg", "what was committed to the log is read");

        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
        fill(&path, "a.jpg");
        settle();
    }
    row.passed(&format!(
        "{rounds} rounds: replaced, damaged, away at a start, and with the log of a crash; known rows served throughout, \
         others 503 and never 404, never written to, asked again without a restart"
    ));
}
