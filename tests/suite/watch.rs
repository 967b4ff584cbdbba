//! `warm --watch`: what appears or changes is rendered before anybody asks for it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    databases::{Kind, Server},
    harness::{OPS_TOKEN, SENDIMAGE, Site, wait_for},
    vectors,
    warm::{CATALOGUE, LISTED, sql},
};

/// Long enough for a slow machine.
const LONG: Duration = Duration::from_secs(30);

/// A watching process, with its log.
struct Watch {
    child: Child,
    log: PathBuf,
}

impl Watch {
    fn start(site: &Site, arguments: &[&str]) -> Self {
        let log = site.path("watch.log");
        let child = Command::new(SENDIMAGE)
            .args(["warm", "--watch"])
            .args(arguments)
            .arg("-c")
            .arg(site.config())
            .stdin(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    fn logs(&self, text: &str) {
        assert!(wait_for(LONG, || self.log().contains(text)).is_ok(), "no {text:?} in\n{}", self.log());
    }

    #[track_caller]
    fn stores(&self, site: &Site, count: usize) {
        let seen = wait_for(LONG, || site.stored().len() == count);
        assert!(seen.is_ok(), "{} stored, not {count}:\n{}", site.stored().len(), self.log());
    }

    /// Ends it as a service manager does.
    fn stop(mut self) -> String {
        kill_process(Pid::from_raw(self.child.id() as i32).unwrap(), Signal::TERM).unwrap();
        wait_for(LONG, || self.child.try_wait().unwrap().is_some()).expect("it ends");
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{}", self.log());
        self.logs("stopped");
        self.log()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn copy(vector: &str, to: &Path) {
    fs::copy(vectors::folder().join("images").join(vector), to).unwrap();
}

#[test]
fn files_that_come_in_any_way_are_rendered() {
    // The store lies below the originals, as it may.
    let site = Site::new("");
    let config = fs::read_to_string(site.config()).unwrap();
    let within = config.replace("/renditions\"", "/media/renditions\"");
    fs::write(site.config(), within).unwrap();
    let stored = || {
        let below = site.path("media/renditions");
        let files = crate::harness::files(&below);
        files.iter().filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.')).count()
    };
    let media = site.path("media");
    copy("photo_land.jpg", &media.join("old.jpg"));
    let watch = Watch::start(&site, &["--spec", "width-40"]);
    watch.logs("watching files");
    let stores = |count: usize| {
        assert!(wait_for(LONG, || stored() == count).is_ok(), "{} stored, not {count}:\n{}", stored(), watch.log());
    };
    copy("photo_port.jpg", &media.join("copied.jpg"));
    stores(1);
    copy("photo_land.jpg", &media.join("copied.jpg"));
    stores(2);
    copy("gray8.jpg", &media.join(".copied.jpg.part"));
    fs::rename(media.join(".copied.jpg.part"), media.join("copied.jpg")).unwrap();
    stores(3);
    copy("rgba.png", &site.path("outside.png"));
    fs::rename(site.path("outside.png"), media.join("inside.png")).unwrap();
    stores(4);
    fs::create_dir_all(site.path("album/2026")).unwrap();
    copy("photo_land.jpg", &site.path("album/2026/1.jpg"));
    copy("photo_port.jpg", &site.path("album/2.jpg"));
    fs::rename(site.path("album"), media.join("album")).unwrap();
    stores(6);
    copy("photo_port.jpg", &media.join("album/2026/3.jpg"));
    stores(7);
    fs::remove_file(media.join("copied.jpg")).unwrap();
    fs::write(media.join("notes.txt"), "no image").unwrap();
    copy("notimage.jpg", &media.join("broken.jpg"));
    copy("gray8.png", &media.join("last.png"));
    stores(8);
    let log = watch.stop();
    assert!(log.contains("rendered ahead") && !log.contains("renditions/"), "its own files are no originals:\n{log}");
}

#[test]
fn everything_first_and_then_what_comes() {
    let site = Site::new(&format!("[ops]\ntoken = \"{OPS_TOKEN}\"\n"));
    site.add("photo_land.jpg", "a.jpg");
    site.add("photo_port.jpg", "b/c.jpg");
    let site = site.serve();
    let watch = Watch::start(&site, &["--all", "--spec", "width-40"]);
    watch.stores(&site, 2);
    site.add("gray8.jpg", "d.jpg");
    watch.stores(&site, 3);
    assert!(watch.stop().contains("through the service"));
    assert_eq!(site.metric("sendimage_warmed_total{outcome=\"created\"}"), 3.0);
}

#[test]
fn rows_that_appear_or_change_are_rendered() {
    let site = Site::new(&format!("{CATALOGUE}{LISTED}"));
    for name in ["a.jpg", "b.jpg", "c.jpg"] {
        site.add(if name == "b.jpg" { "photo_port.jpg" } else { "photo_land.jpg" }, name);
    }
    sql(&site, &["CREATE TABLE images (id INTEGER PRIMARY KEY, file TEXT)", "INSERT INTO images VALUES (1, 'a.jpg')"]);
    let watch = Watch::start(&site, &["--spec", "width-40", "--interval", "0.2"]);
    watch.logs("watching rows");
    // Whether the first walk met it as old or the second as new, it is not rendered twice.
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(site.stored().len(), 0, "what was there before is nobody's news");
    sql(&site, &["INSERT INTO images VALUES (2, 'b.jpg')"]);
    watch.stores(&site, 1);
    sql(&site, &["UPDATE images SET file = 'c.jpg' WHERE id = 1", "DELETE FROM images WHERE id = 2"]);
    watch.stores(&site, 2);
    // The row comes before its file.
    sql(&site, &["INSERT INTO images VALUES (3, 'late.jpg')"]);
    std::thread::sleep(Duration::from_millis(500));
    site.add("gray8.jpg", "late.jpg");
    watch.stores(&site, 3);
    watch.stop();
}

#[test]
fn rows_that_postgres_tells_of_are_rendered_at_once() {
    if !Kind::Postgres.is_installed() {
        eprintln!("SKIPPED: Postgres is not installed");
        return;
    }
    let server = Server::new(Kind::Postgres);
    server.execute(&[
        "CREATE TABLE wagtailimages_image (id SERIAL PRIMARY KEY, title TEXT, file VARCHAR(200), file_hash VARCHAR(40), \
         focal_point_x INTEGER, focal_point_y INTEGER, focal_point_width INTEGER, focal_point_height INTEGER)",
        "INSERT INTO wagtailimages_image (file, file_hash) VALUES ('a.jpg', 'x')",
        &sendimage::catalogue::trigger("changed"),
    ]);
    let site = Site::new(&format!(
        "[catalogue]\nkind = \"postgres\"\nurl = \"{}\"\nsource = \"media\"\nlisten = \"changed\"\n",
        server.url()
    ));
    site.add("photo_land.jpg", "a.jpg");
    site.add("photo_port.jpg", "b.jpg");
    // An hour between walks: whatever is rendered, it was told of.
    let watch = Watch::start(&site, &["--all", "--spec", "width-40", "--interval", "3600"]);
    watch.stores(&site, 1);
    server.execute(&["INSERT INTO wagtailimages_image (file, file_hash) VALUES ('b.jpg', 'y')"]);
    watch.stores(&site, 2);
    server.execute(&["UPDATE wagtailimages_image SET file_hash = 'z' WHERE id = 1"]);
    watch.stores(&site, 3);
    // What changes while nobody can listen is found when the session is back.
    server.end_sessions();
    server.execute(&["UPDATE wagtailimages_image SET file_hash = 'w' WHERE id = 2"]);
    watch.stores(&site, 4);
    watch.stop();
}
