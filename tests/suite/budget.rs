//! A store within bounds: what goes, what stays, and what is remembered of it over a restart. A disk that is filled under load is
//! among the faults (`tests/faults/budget.rs`).

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use rustix::process::Signal;

use crate::harness::{OPS_TOKEN, Site, wait_for};

/// Longer than the grace period of these tests, and what may have happened without being written down.
const IDLE: Duration = Duration::from_millis(4500);

/// A site whose store has these bounds, its index beside it.
fn site(store: &str, rest: &str) -> Site {
    let grace = if store.contains("grace") { "" } else { "eviction_grace_seconds = 2\n" };
    let site = Site::new(&format!(
        "[store]\nindex = \"{{dir}}/index\"\n{grace}{store}\n[ops]\ntoken = \"{OPS_TOKEN}\"\n{rest}"
    ));
    site.add("photo_land.jpg", "a.jpg");
    site.serve()
}

/// Asks for renditions of these widths: the files that were handed over.
fn ask(site: &Site, widths: impl IntoIterator<Item = u32>) -> Vec<PathBuf> {
    let path = |width: u32| {
        let response = site.gate("GET", &site.sign(&["media/a.jpg", &format!("width-{width}")]), "");
        assert_eq!(response.status, 200, "{width}: {}", response.text());
        let path = response.header("x-accel-redirect").expect("handed over");
        site.path("renditions").join(path.strip_prefix("/_renditions/").unwrap())
    };
    widths.into_iter().map(path).collect()
}

/// Waits until the index counts so many renditions, and the disk has as many.
#[track_caller]
fn assert_holds(site: &Site, files: usize) {
    let holds = || site.stored().len() == files && site.metric("sendimage_store_files") == files as f64;
    if wait_for(Duration::from_secs(20), holds).is_err() {
        let (disk, index) = (site.stored().len(), site.metric("sendimage_store_files"));
        panic!("{files} expected, {disk} on the disk, {index} in the index\n{}", site.log());
    }
}

fn restart(site: &mut Site) {
    site.signal(Signal::TERM);
    assert!(site.wait().success());
    site.start();
}

/// 20 may be kept: 19 are the high mark, 18 the low one, and between them it depends on what is written down together.
#[test]
fn the_longest_unused_go_and_last_uses_survive_a_restart() {
    let mut site = site("max_files = 20", "");
    let first = ask(&site, 20..36);
    assert_holds(&site, 16);
    std::thread::sleep(IDLE);
    // The oldest by birth are the latest by use, and that is all that tells them apart.
    ask(&site, 20..24);
    restart(&mut site);
    assert_holds(&site, 16);
    let second = ask(&site, 40..48);
    let settled = || site.stored().len() <= 19 && site.metric("sendimage_store_files") == site.stored().len() as f64;
    wait_for(Duration::from_secs(20), settled).unwrap_or_else(|()| panic!("{:#?}\n{}", site.stored(), site.log()));
    let left: BTreeSet<PathBuf> = site.stored().into_iter().collect();
    assert!(left.len() >= 18 && first[..4].iter().chain(&second).all(|file| left.contains(file)), "{left:#?}");
    let evicted = site.metric("sendimage_store_evictions_total{reason=\"max_files\"}");
    assert_eq!(evicted as usize, 24 - left.len());
    // What went is made again for whoever asks.
    assert!(ask(&site, 20..36).iter().all(|file| file.exists()));
}

/// `gc` sees to the bounds too, without a service, and finds what came and went by other hands.
#[test]
fn gc_enforces_the_budget() {
    let mut site = site("max_files = 20", "");
    ask(&site, 20..36);
    assert_holds(&site, 16);
    site.signal(Signal::TERM);
    site.wait();
    fs::remove_file(&site.stored()[0]).unwrap();
    std::thread::sleep(IDLE);
    site.configure("[store]\nindex = \"{dir}/index\"\neviction_grace_seconds = 2\nmax_files = 10\n");
    let gc = |arguments: &[&str]| {
        let output = site.run(&[&["gc", "--json"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        said["budget"].clone()
    };
    let dry = gc(&["--dry-run"]);
    assert_eq!((&dry["files"], &dry["stored_files"], site.stored().len()), (&6.into(), &15.into(), 15), "{dry}");
    let done = gc(&[]);
    assert_eq!((&done["files"], &done["stored_files"], site.stored().len()), (&6.into(), &9.into(), 9), "{done}");
    assert_eq!(done["is_over"], false);
}

#[test]
fn nothing_goes_within_the_grace_period() {
    let site = site("max_files = 5\neviction_grace_seconds = 600", "");
    ask(&site, 20..32);
    assert_holds(&site, 12);
    let over = || site.metric("sendimage_store_over_budget") == 1.0;
    wait_for(Duration::from_secs(10), over).expect("it is said");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(site.stored().len(), 12);
    assert_eq!(site.metric("sendimage_store_evictions_total{reason=\"max_files\"}"), 0.0);
    // A shorter one, by SIGHUP: the same index goes on.
    site.configure("[store]\nindex = \"{dir}/index\"\neviction_grace_seconds = 2\nmax_files = 5\n");
    site.signal(Signal::HUP);
    assert_holds(&site, 5);
}

#[test]
fn pinned_presets_and_purges() {
    let presets = "[presets]\nhero = \"width-21\"\n[preset_sets]\narticle = [\"hero\", \"width-22\"]\n";
    let site = site("max_idle = \"3s\"\npinned = [\"article\"]", presets);
    let pinned = ask(&site, 21..23);
    let others = ask(&site, 30..34);
    // Who spells the preset's name means the same file.
    let by_name = site.gate("GET", &site.sign(&["media/a.jpg", "hero"]), "").header("x-accel-redirect").unwrap();
    assert!(pinned[0].to_string_lossy().ends_with(by_name.strip_prefix("/_renditions/").unwrap()));
    assert_holds(&site, 2);
    assert!(pinned.iter().all(|file| file.exists()) && others.iter().all(|file| !file.exists()));
    assert_eq!(site.metric("sendimage_store_evictions_total{reason=\"max_idle\"}"), 4.0);
    // A purge is an order, and none of them stays.
    let purged = site.called("/purge", serde_json::json!({"refs": ["media/a.jpg"]}));
    assert_eq!(purged["files"], 2);
    assert_holds(&site, 0);
    assert_eq!(site.metric("sendimage_store_bytes"), 0.0);
}

#[test]
fn an_index_that_is_lost_or_damaged_is_made_anew_from_the_disk() {
    let mut site = site("max_files = 1000", "");
    ask(&site, 20..30);
    assert_holds(&site, 10);
    let complete = |site: &Site| {
        let complete = || site.metric("sendimage_store_index_complete") == 1.0;
        wait_for(Duration::from_secs(20), complete).unwrap_or_else(|()| panic!("{}", site.log()));
    };
    complete(&site);
    // Under a gate that runs.
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(site.path(&format!("index{end}")));
    }
    wait_for(Duration::from_secs(20), || site.path("index").exists()).expect("it is there again");
    complete(&site);
    assert_holds(&site, 10);
    // While none does: no database any more; and one whose middle is noise.
    for damage in ["nonsense", "noise"] {
        site.signal(Signal::TERM);
        site.wait();
        let mut bytes = fs::read(site.path("index")).unwrap();
        let from = if damage == "nonsense" { 0 } else { 4096 };
        bytes[from..].fill(0xA5);
        fs::write(site.path("index"), bytes).unwrap();
        site.start();
        ask(&site, 20..30);
        ask(&site, 40..42);
        assert_holds(&site, 12);
        complete(&site);
        fs::remove_dir_all(site.path("renditions/r1")).unwrap();
        ask(&site, 20..30);
    }
    site.assert_logs("made anew");
    // Nobody but the gates reads it, and the web server is never sent there.
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(site.path("index")).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Without `store.index`: in systemd's folder, or in the store itself, under a name that no purge and no web server sees.
#[test]
fn where_the_index_is() {
    let mut site = Site::new("[store]\nmax_files = 1000\n");
    site.add("photo_land.jpg", "a.jpg");
    site.start();
    ask(&site, 20..22);
    assert_holds(&site, 2);
    assert!(site.path("renditions/.sendimage-index.sqlite3").exists());
    site.signal(Signal::TERM);
    site.wait();
    fs::create_dir(site.path("state")).unwrap();
    let state = site.path("state");
    site.start_by(crate::harness::SENDIMAGE.as_ref(), |command| {
        command.env("STATE_DIRECTORY", &state);
    });
    assert_holds(&site, 2);
    assert!(site.path("state/store-index.sqlite3").exists());
    let checked = site.run(&["check"]);
    assert!(String::from_utf8_lossy(&checked.stdout).contains("sqlite3: 2 renditions"), "{checked:?}");
}

/// The file is removed behind our back under a real nginx, for presets that are looked for in each way, against the usual one.
#[test]
fn existence_by_preset_mends_itself() {
    let site = Site::new(
        "[store]\nexistence = \"assume\"\nremember_seconds = 1\n\
         existence_by_preset = { looked = \"check\", remembered = \"remember\", assumed = \"assume\" }\n\
         [presets]\nlooked = \"width-51\"\nremembered = \"width-52\"\nassumed = \"width-53\"\n",
    );
    let site = site.serve().with_nginx();
    site.add("photo_land.jpg", "a.jpg");
    let presets = ["looked", "remembered", "assumed"];
    let urls = presets.map(|preset| site.sign(&["media/a.jpg", preset]));
    let bodies: Vec<Vec<u8>> = urls.iter().map(|url| site.nginx("GET", url, "").body).collect();
    let file = |url: &str| {
        let path = site.gate("GET", url, "").header("x-accel-redirect").unwrap();
        site.path("renditions").join(path.strip_prefix("/_renditions/").unwrap())
    };
    let files = [0, 1, 2].map(|number| file(&urls[number]));
    let remove = || files.iter().for_each(|file| fs::remove_file(file).unwrap());
    let there = || [0, 1, 2].map(|number| files[number].exists());
    // Each in its way: looked for at once, after a second at the latest, and never.
    remove();
    urls.iter().for_each(|url| assert_eq!(site.gate("GET", url, "").status, 200));
    assert_eq!((there()[0], there()[2]), (true, false));
    std::thread::sleep(Duration::from_millis(2100));
    urls.iter().for_each(|url| assert_eq!(site.gate("GET", url, "").status, 200));
    assert_eq!(there(), [true, true, false]);
    // And through nginx all three are right within the request.
    let _ = fs::remove_file(&files[0]);
    let _ = fs::remove_file(&files[1]);
    for (url, body) in urls.iter().zip(&bodies) {
        let answer = site.nginx("GET", url, "");
        assert_eq!((answer.status, answer.body == *body), (200, true), "{url}");
    }
    assert_eq!(there(), [true; 3]);
}

/// What was believed to be there is looked for again when anything was evicted.
#[test]
fn memory_learns_of_evictions() {
    let site = site("max_files = 5\nexistence = \"assume\"", "");
    let old = ask(&site, 20..22);
    std::thread::sleep(IDLE);
    ask(&site, 30..36);
    wait_for(Duration::from_secs(10), || old.iter().all(|file| !file.exists())).expect("they are evicted");
    // Asked at the gate alone: no web server has missed anything.
    assert_eq!(ask(&site, 20..22), old);
    assert!(old.iter().all(|file| file.exists()));
}
