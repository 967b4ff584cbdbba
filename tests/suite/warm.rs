//! Renditions made ahead of time: each way to name images, beside a service and alone, to the end and cut short.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
    str::FromStr as _,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::harness::{OPS_TOKEN, SENDIMAGE, Site, system_path, wait_for};

pub const PRESETS: &str = "[presets]\nhero = \"fill-60x40|format-webp\"\n\
                           [preset_sets]\narticle = [\"width-50\", \"hero\", \"fill-20x20\"]\n";

/// A catalogue of a table with ids and files.
pub const CATALOGUE: &str = "[catalogue]\nkind = \"sqlite\"\nurl = \"sqlite://{dir}/db.sqlite3\"\nsource = \"media\"\n\
                             query = \"SELECT file FROM images WHERE id = ?\"\n";
pub const LISTED: &str =
    "list_query = \"SELECT id, file FROM images WHERE id > ? ORDER BY id LIMIT 2\"\ncache_seconds = 60\n";

pub fn sql(site: &Site, statements: &[&str]) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let url = format!("sqlite://{}", site.path("db.sqlite3").display());
        let options = SqliteConnectOptions::from_str(&url).unwrap().create_if_missing(true);
        let mut database = SqliteConnection::connect_with(&options).await.unwrap();
        for statement in statements {
            sqlx::query(AssertSqlSafe(*statement)).execute(&mut database).await.unwrap();
        }
        database.close().await.unwrap();
    });
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ops(more: &str) -> String {
    format!("{more}[ops]\ntoken = \"{OPS_TOKEN}\"\n")
}

/// The summary of a run, and its exit code.
fn warm(site: &Site, arguments: &[&str]) -> (Value, i32) {
    let output = site.run(&[&["warm", "--json"], arguments].concat());
    (summary(&output), output.status.code().unwrap())
}

fn summary(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// What was created, what was there, and what failed.
fn counts(summary: &Value) -> (u64, u64, &Value) {
    (summary["created"].as_u64().unwrap(), summary["present"].as_u64().unwrap(), &summary["failed"])
}

fn none() -> Value {
    json!({})
}

#[test]
fn images_are_named_one_by_one_by_a_file_or_all_at_once() {
    let site = Site::new(&format!("{CATALOGUE}{LISTED}{PRESETS}"));
    for (vector, name) in [("photo_land.jpg", "a.jpg"), ("photo_port.jpg", "b.jpg"), ("rgba.png", "deep/c.PNG")] {
        site.add(vector, name);
    }
    std::fs::write(site.path("media/notes.txt"), "no image, and none by its name").unwrap();
    std::fs::write(site.path("media/.hidden.jpg"), "half a file").unwrap();
    let rows = "INSERT INTO images VALUES (1, 'a.jpg'), (2, 'b.jpg'), (3, 'deep/c.PNG'), (-7, 'a.jpg')";
    sql(&site, &["CREATE TABLE images (id INTEGER PRIMARY KEY, file TEXT)", rows]);

    let (done, code) =
        warm(&site, &["1", "media/b.jpg", "--spec", "width-10", "--spec", "width-11", "--spec", "width-10"]);
    assert_eq!((counts(&done), code, &done["by"]), ((4, 0, &none()), 0, &json!("itself")), "{done}");
    assert_eq!((&done["images"], &done["interrupted"]), (&json!(2), &json!(false)));
    let (done, _) = warm(&site, &["1", "2", "--preset-set", "article", "--preset", "hero", "--spec", "width-10"]);
    assert_eq!(counts(&done), (6, 2, &none()), "a preset named twice is one");

    std::fs::write(site.path("refs"), "# picked by hand\n\n1\n  media/deep/c.PNG\n").unwrap();
    let file = site.path("refs");
    let (done, _) = warm(&site, &["--from", file.to_str().unwrap(), "--spec", "width-12"]);
    assert_eq!(counts(&done), (2, 0, &none()), "{done}");
    let mut child = Command::new(SENDIMAGE)
        .args(["warm", "--json", "--from", "-", "--spec", "width-12", "-c"])
        .arg(site.config())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"1\n2\n3").unwrap();
    assert_eq!(counts(&summary(&child.wait_with_output().unwrap())), (1, 2, &none()));

    // Two rows a page; the row with a negative id is nobody's.
    let (done, _) = warm(&site, &["--all", "--spec", "width-13"]);
    assert_eq!((counts(&done), &done["images"]), ((3, 0, &none()), &json!(3)), "{done}");
    let (done, _) = warm(&site, &["--all", "--source", "media", "--spec", "width-13", "--spec", "width-14"]);
    assert_eq!((counts(&done), &done["images"]), ((3, 3, &none()), &json!(3)), "the same files by their paths: {done}");

    site.configure(&format!("{CATALOGUE}{PRESETS}"));
    let output = site.run(&["warm", "--all", "--spec", "width-13"]);
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("catalogue.list_query"), "{output:?}");
    site.configure(&format!("{CATALOGUE}list_query = \"SELECT id, file FROM images WHERE id <> ?\"\n{PRESETS}"));
    let (done, code) = warm(&site, &["--all", "--spec", "width-13"]);
    let says = done["failures"][0]["says"].as_str().unwrap();
    assert!(code == 1 && says.contains("in the order of id"), "a walk in circles ends: {done}");
    site.configure("[sources.web]\nkind = \"http\"\nhttp = { base_url = \"https://images.example/\" }\n");
    let output = site.run(&["warm", "--all", "--source", "web", "--spec", "width-13"]);
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("nobody can tell"), "{output:?}");
    // Without a catalogue: all sources whose files can be listed.
    let (done, _) = warm(&site, &["--all", "--spec", "width-13"]);
    assert_eq!(counts(&done), (0, 3, &none()), "{done}");
}

#[test]
fn wrong_usage_is_2_and_what_the_config_lacks_is_named() {
    let site = Site::new(PRESETS);
    for arguments in [
        &["warm"][..],
        &["warm", "42"],
        &["warm", "--spec", "width-5"],
        &["warm", "no reference", "--spec", "width-5"],
        &["warm", "--watch", "--spec", "width-5", "--interval", "0"],
    ] {
        let output = site.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
    for (arguments, needle) in [
        (["--spec", "widht-5"], "not a filter spec"),
        (["--preset", "width-5"], "there is no preset \"width-5\"; the config has: hero"),
        (["--preset-set", "hero"], "there is no preset set \"hero\"; the config has: article"),
        (["--source", "nope"], "there is no [sources.nope]"),
    ] {
        let more = if arguments[0] == "--source" { &["--all", "--spec", "width-5"][..] } else { &["42"] };
        let output = site.run(&[&["warm"], &arguments[..], more].concat());
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains(needle), "{needle}: {error}");
    }
}

#[test]
fn what_fails_is_counted_by_reason_and_the_first_are_listed() {
    let site = Site::new("[render]\nmax_source_pixels = 300000\n");
    site.add("photo_land.jpg", "good.jpg");
    site.add("notimage.jpg", "bad.jpg");
    site.add("vector.svg", "drawing.svg");
    let sample = Command::new(SENDIMAGE)
        .args(["sample-photo", "--size", "700x500"])
        .arg(site.path("media/large.jpg"))
        .output()
        .unwrap();
    assert!(sample.status.success(), "{sample:?}");
    let mut references =
        ["media/good.jpg", "media/bad.jpg", "media/drawing.svg", "media/large.jpg", "7", "far/a.jpg"].to_vec();
    let gone: Vec<String> = (0..30).map(|number| format!("media/gone{number}.jpg")).collect();
    references.extend(gone.iter().map(String::as_str));
    let arguments = [&references[..], &["--spec", "width-5"]].concat();
    let (done, code) = warm(&site, &arguments);
    let failed = json!({"gone": 30, "impossible": 1, "not_an_image": 1, "over_limit": 1, "unknown": 2});
    assert_eq!((counts(&done), code), ((1, 0, &failed), 1), "{done}");
    let failures = done["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 20);
    let bad = failures.iter().find(|failure| failure["ref"] == "media/bad.jpg").unwrap();
    assert_eq!(
        bad,
        &json!({"ref": "media/bad.jpg", "spec": "width-5", "reason": "not_an_image", "says": "the file is not an image"})
    );
    // The keys that programs read.
    let keys: Vec<&String> = done.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["by", "created", "failed", "failures", "images", "interrupted", "present", "seconds"]);

    // For people: the same, on standard output, without a control character where there is no terminal.
    let lines = site.path("refs");
    std::fs::write(&lines, "media/good.jpg\nmedia/bad.jpg\nmedia/\x1b[31mred.jpg\n").unwrap();
    let output = site.run(&["warm", "--from", lines.to_str().unwrap(), "--spec", "width-5"]);
    let (said, how) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    assert!(said.starts_with("3 images in ") && said.contains("s: 0 created, 1 present, 2 failed\n"), "{said}");
    assert!(said.contains("       1  not_an_image\n       1  unknown\n"), "{said}");
    assert!(said.contains("  not_an_image: media/bad.jpg width-5: the file is not an image\n"), "{said}");
    assert!(how.starts_with("rendering ahead by itself, at low priority (the config has no ops.token"), "{how}");
    assert!(!format!("{said}{how}").chars().any(|c| c.is_control() && c != '\n'), "{said:?} {how:?}");
}

#[test]
fn beside_a_service_it_works_through_it() {
    let site = Site::new(&ops(&format!("{CATALOGUE}{LISTED}{PRESETS}")));
    sql(&site, &["CREATE TABLE images (id INTEGER PRIMARY KEY, file TEXT)"]);
    for number in 1..=40 {
        site.add("photo_land.jpg", &format!("{number}.jpg"));
        sql(&site, &[&format!("INSERT INTO images VALUES ({number}, '{number}.jpg')")]);
    }
    let site = site.serve();
    let (done, code) = warm(&site, &["--all", "--preset-set", "article"]);
    assert_eq!((counts(&done), code), ((120, 0, &none()), 0), "{done}");
    assert_eq!((&done["by"], &done["images"]), (&json!("service"), &json!(40)));
    assert_eq!(site.metric("sendimage_warmed_total{outcome=\"created\"}"), 120.0);
    let output = site.run(&["warm", "1", "nope/a.jpg", "--preset", "hero"]);
    let (said, how) = (text(&output.stdout), text(&output.stderr));
    assert!(how.contains(&format!("through the service at {}", site.ops)), "{how}");
    assert!(said.contains("0 created, 1 present, 1 failed") && said.contains("unknown: nope/a.jpg: neither"), "{said}");
    assert!(!format!("{said}{how}").contains(OPS_TOKEN));

    // Who may not ask it, and who is told not to, renders without it.
    let alone = site.run(&["warm", "1", "--preset", "hero", "--alone", "--json"]);
    assert_eq!(summary(&alone)["by"], "itself");
    let other = Command::new(SENDIMAGE)
        .args(["warm", "1", "--preset", "hero", "-c"])
        .arg(site.config())
        .env("SENDIMAGE_OPS__TOKEN", "another token of sixteen".replace(' ', "-"))
        .output()
        .unwrap();
    assert!(text(&other.stderr).contains("does not take this config's ops.token"), "{other:?}");
    assert!(other.status.success());

    // A preset that it does not have yet.
    site.configure(&ops(&format!("{CATALOGUE}{LISTED}[presets]\nnew = \"width-7\"\n")));
    let output = site.run(&["warm", "1", "--preset", "new"]);
    let error = text(&output.stderr);
    assert!(
        output.status.code() == Some(1) && error.contains("\"new\" is no preset") && error.contains("SIGHUP"),
        "{error}"
    );
}

#[test]
fn a_service_by_a_socket_and_one_that_is_restarted() {
    let site = Site::new("");
    // The harness asks by TCP whether a service is ready; its own config is left as it is.
    let own = std::fs::read_to_string(site.config()).unwrap();
    let ops_line = own.lines().find(|line| line.starts_with("ops_listen")).unwrap().to_owned();
    let socket = format!("ops_listen = \"unix:{}\"", site.path("ops.sock").display());
    std::fs::write(site.config(), own.replace(&ops_line, &socket) + &ops("")).unwrap();
    site.add("photo_land.jpg", "a.jpg");
    let start =
        || Command::new(SENDIMAGE).args(["serve", "-c"]).arg(site.config()).stderr(Stdio::null()).spawn().unwrap();
    let mut service = start();
    wait_for(Duration::from_secs(20), || site.path("ops.sock").exists()).unwrap();
    let (done, code) = warm(&site, &["media/a.jpg", "--spec", "width-30"]);
    assert_eq!((&done["by"], counts(&done), code), (&json!("service"), (1, 0, &none()), 0), "{done}");

    // It goes away after it was found, and comes back: the run waits for it.
    let mut run = Command::new(SENDIMAGE)
        .args(["warm", "--json", "--from", "-", "--spec", "width-31", "-c"])
        .arg(site.config())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut references = run.stdin.take().unwrap();
    references.write_all(b"media/a.jpg\n").unwrap();
    wait_for(Duration::from_secs(20), || site.stored().len() == 2).unwrap();
    service.kill().unwrap();
    service.wait().unwrap();
    references.write_all(b"media/gone.jpg\nmedia/a.jpg\n").unwrap();
    drop(references);
    std::thread::sleep(Duration::from_millis(400));
    let mut service = start();
    let done = summary(&run.wait_with_output().unwrap());
    assert_eq!((&done["by"], counts(&done)), (&json!("service"), (1, 1, &json!({"gone": 1}))), "{done}");
    service.kill().unwrap();
    service.wait().unwrap();
}

#[test]
fn a_run_that_was_cut_short_says_so_and_the_next_one_goes_on() {
    let site = Site::new("[render]\nworkers = 1\n");
    const IMAGES: u64 = 30;
    for number in 0..IMAGES {
        site.add("photo_land.jpg", &format!("{number}.jpg"));
    }
    let arguments = ["warm", "--all", "--json", "--spec", "width-150|format-avif", "--spec", "width-20"];
    let child = Command::new(SENDIMAGE)
        .args(arguments)
        .arg("-c")
        .arg(site.config())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(Duration::from_secs(60), || site.stored().len() >= 4).unwrap();
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let cut = summary(&output);
    assert_eq!((output.status.code(), &cut["interrupted"]), (Some(1), &json!(true)), "{cut}");
    assert!(text(&output.stderr).contains("SIGINT"), "{output:?}");
    let (created, _, failed) = counts(&cut);
    let stored = site.stored().len() as u64;
    assert!(created <= stored && stored < 2 * IMAGES && failed == &none(), "{stored} stored: {cut}");

    let output = site.run(&arguments);
    let done = summary(&output);
    let (created, present, _) = counts(&done);
    assert_eq!((created + present, present), (2 * IMAGES, stored), "{done}");
    assert_eq!((output.status.code(), site.stored().len() as u64), (Some(0), 2 * IMAGES));
}

#[test]
fn on_a_terminal_there_is_a_bar() {
    if !std::env::split_paths(&system_path()).any(|folder| folder.join("script").is_file()) {
        eprintln!("SKIPPED: script (util-linux) is not installed, and makes the terminal");
        return;
    }
    let site = Site::new("[render]\nworkers = 1\n");
    for number in 0..30 {
        site.add("photo_land.jpg", &format!("{number}.jpg"));
    }
    let command =
        format!("stty cols 120; {SENDIMAGE} warm --all --spec width-250\\|format-avif -c {}", site.config().display());
    let output = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("PATH", system_path())
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("/30 images") && shown.contains(" left") && shown.contains("/s"), "{shown:?}");
    assert!(shown.contains('\u{1b}') && shown.contains("30 images in "), "{shown:?}");
}
