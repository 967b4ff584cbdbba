//! What is taken out of the store, and what never is: the real binary, on a real store, beside a service at work.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

use crate::{
    harness::{OPS_TOKEN, Site, files},
    stub::{Stub, answer},
};

/// What is out of date need not wait.
const AT_ONCE: &str = "[store]\ngc_grace_seconds = 0\n";

fn json_of(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// What a command says as JSON, and its exit code.
fn said(site: &Site, arguments: &[&str]) -> (Value, i32) {
    let output = site.run(&[arguments, &["--json"]].concat());
    (json_of(&output), output.status.code().unwrap())
}

/// Has the gate make renditions: their files.
fn make(site: &Site, image: &str, specs: &[&str]) -> Vec<PathBuf> {
    let made = specs.iter().map(|spec| {
        let answer = site.gate("GET", &site.sign(&[image, spec]), "");
        assert_eq!(answer.status, 200, "{image} {spec}: {}", site.log());
        let path = answer.header("x-accel-redirect").unwrap();
        site.path("renditions").join(path.strip_prefix("/_renditions/").unwrap())
    });
    made.collect()
}

fn are_there(paths: &[PathBuf]) -> bool {
    paths.iter().all(|path| path.exists())
}

#[test]
fn what_it_is_warned_of_is_said() {
    let site = Site::new("[store]\nmax_bytes = \"1GiB\"\nindex = \"{dir}/index\"\n");
    fs::write(site.path("index"), "no database").unwrap();
    let output = site.run(&["gc"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("WARN") && said.contains("the store's index"), "{said:?}");
}

#[test]
fn renditions_of_a_replaced_original_go_and_nothing_else() {
    let site = Site::new("").serve();
    site.add("photo_land.jpg", "a.jpg");
    site.add("photo_land.jpg", "b.jpg");
    let beside = make(&site, "media/b.jpg", &["width-60"]);
    let old = make(&site, "media/a.jpg", &["width-60", "width-70|format-webp"]);
    site.add("photo_port.jpg", "a.jpg");
    let new = make(&site, "media/a.jpg", &["width-60"]);
    let generation = |path: &Path| path.file_name().unwrap().to_str().unwrap().split_once('-').unwrap().0.to_owned();
    assert_eq!(generation(&old[0]), generation(&old[1]));
    assert_ne!(generation(&old[0]), generation(&new[0]));
    // Not ours, wherever it lies.
    let foreign = old[0].with_file_name("thumb.jpg");
    fs::write(&foreign, "x").unwrap();

    let (waits, code) = said(&site, &["gc"]);
    assert_eq!((&waits["waiting"]["files"], &waits["found"], code), (&2.into(), &json!({}), 0), "an hour's grace");
    site.configure(AT_ONCE);
    let (dry, code) = said(&site, &["gc", "--dry-run"]);
    let bytes: u64 = old.iter().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!(dry["found"], json!({"old_generation": {"files": 2, "bytes": bytes}}), "{dry}");
    assert_eq!((&dry["removed"], &dry["stored"]["files"], code), (&json!({}), &4.into(), 0));
    assert!(are_there(&old));

    let (done, code) = said(&site, &["gc"]);
    assert_eq!((&done["removed"], code), (&dry["found"], 0), "{done}");
    assert_eq!((&done["images"], &done["foreign"]), (&2.into(), &1.into()));
    assert!(!old[0].exists() && !old[1].exists() && are_there(&new) && are_there(&beside) && foreign.exists());
    assert_eq!(site.metric("sendimage_requests_total{outcome=\"rendered\"}"), 4.0);
    make(&site, "media/a.jpg", &["width-60"]);
    assert_eq!(site.metric("sendimage_requests_total{outcome=\"hit\"}"), 1.0);
    assert_eq!(said(&site, &["gc"]).0["removed"], json!({}), "nothing twice");

    // A replaced original that nobody has asked for since; a record without renditions; a crashed process's file.
    site.add("photo_land.jpg", "b.jpg");
    new.iter().for_each(|path| fs::remove_file(path).unwrap());
    fs::remove_file(&foreign).unwrap();
    fs::write(site.path("renditions/r1/.tmp-drafts/.tmp-nohost-1-1-1"), "half").unwrap();
    let text = String::from_utf8(site.run(&["gc"]).stdout).unwrap();
    assert!(text.contains("removed: of originals that were replaced"), "{text}");
    assert!(text.contains("removed: records without renditions"), "{text}");
    assert!(!beside[0].exists() && !new[0].parent().unwrap().exists());
    let left = files(&site.path("renditions"));
    assert!(left.iter().all(|path| path.to_str().unwrap().contains(".tmp-")), "{left:?}");
}

#[test]
fn what_is_gone_keeps_its_renditions_until_orphans_are_asked_for() {
    let rest = "[sources.other]\nkind = \"fs\"\nroot = \"{dir}/other\"\n";
    let site = Site::new(&format!("{AT_ONCE}{rest}"));
    fs::create_dir(site.path("other")).unwrap();
    fs::write(site.path("other/stays"), "x").unwrap();
    let site = site.serve();
    ["a.jpg", "b.jpg"].iter().for_each(|name| site.add("photo_land.jpg", name));
    fs::copy(site.path("media/a.jpg"), site.path("other/c.jpg")).unwrap();
    let gone = make(&site, "media/a.jpg", &["width-60", "width-61"]);
    let stays = make(&site, "media/b.jpg", &["width-60"]);
    let other = make(&site, "other/c.jpg", &["width-60"]);

    // A root that is missing, or empty as one that is not mounted, says nothing about its files.
    fs::rename(site.path("media"), site.path("away")).unwrap();
    for _ in 0..2 {
        let (away, code) = said(&site, &["gc", "--orphans", "--force"]);
        assert_eq!((&away["removed"], &away["unjudged"]["files"], code), (&json!({}), &3.into(), 0), "{away}");
        assert!(away["sources_away"]["media"].is_string());
        let _ = fs::create_dir(site.path("media"));
    }
    fs::remove_dir(site.path("media")).unwrap();
    fs::rename(site.path("away"), site.path("media")).unwrap();
    assert!(are_there(&gone) && are_there(&stays) && are_there(&other));

    fs::remove_file(site.path("media/a.jpg")).unwrap();
    let (kept, _) = said(&site, &["gc"]);
    assert_eq!(kept["removed"], json!({}), "{kept}");
    make(&site, "media/a.jpg", &["width-60"]);
    let (dry, _) = said(&site, &["gc", "--orphans", "--dry-run"]);
    assert_eq!(dry["found"]["original_gone"]["files"], 2, "{dry}");
    assert!(are_there(&gone));
    let (done, code) = said(&site, &["gc", "--orphans"]);
    assert_eq!((&done["removed"], code), (&dry["found"], 0), "{done}");
    assert!(!gone[0].parent().unwrap().exists() && are_there(&stays) && are_there(&other));
    let url = site.sign(&["media/a.jpg", "width-60"]);
    assert_eq!(site.gate("GET", &url, "X-Sendimage-Again: 1\r\n").status, 404, "no such path in a source");

    // The config no longer has the source.
    site.configure(AT_ONCE);
    assert_eq!(said(&site, &["gc"]).0["unjudged"]["files"], 1);
    assert!(are_there(&other));
    let (done, _) = said(&site, &["gc", "--orphans"]);
    assert_eq!(done["removed"]["source_not_configured"]["files"], 1, "{done}");
    assert!(!other[0].exists() && are_there(&stays));
}

/// A site that refuses some of its files is there all the same.
#[test]
fn one_files_trouble_is_not_its_sources() {
    let is_changed = Arc::new(AtomicBool::new(false));
    let changed = is_changed.clone();
    let stub = Stub::start(move |asked, _, stream| {
        let number: usize = asked.parts()[0].trim_end_matches(".jpg").parse().unwrap();
        match (changed.load(Ordering::SeqCst), number % 2) {
            (false, _) => {
                answer(stream, "200 OK", "", &fs::read(crate::vectors::folder().join("images/photo_land.jpg")).unwrap())
            }
            (true, 0) => answer(stream, "403 Forbidden", "", b""),
            (true, _) => answer(stream, "404 Not Found", "", b""),
        }
    });
    let web = format!(
        "{AT_ONCE}[sources.web]\nkind = \"http\"\n[sources.web.http]\nbase_url = \"http://{}/\"\n\
         allow_addresses = [\"127.0.0.1\"]\n",
        stub.address
    );
    let site = Site::new(&web).serve();
    site.add("photo_land.jpg", "a.jpg");
    let made: Vec<PathBuf> =
        (0..8).flat_map(|number| make(&site, &format!("web/{number}.jpg"), &["width-60"])).collect();
    is_changed.store(true, Ordering::SeqCst);
    let (done, code) = said(&site, &["gc", "--orphans"]);
    assert_eq!(
        (&done["removed"]["original_gone"]["files"], &done["unjudged"]["files"], code),
        (&4.into(), &4.into(), 0),
        "{done}"
    );
    assert_eq!(done["sources_away"], json!({}), "{done}");
    for (number, path) in made.iter().enumerate() {
        assert_eq!(path.exists(), number % 2 == 0, "{number}");
    }
}

#[test]
fn too_much_at_once_is_not_removed_unless_it_is_meant() {
    let site = Site::new(AT_ONCE).serve();
    site.add("photo_land.jpg", "a.jpg");
    let made = make(&site, "media/a.jpg", &["width-60"]);
    for number in 0..150 {
        fs::copy(&made[0], made[0].with_file_name(format!("00000000000a-{number:032x}.jpg"))).unwrap();
    }
    for arguments in [&["gc"][..], &["gc", "--dry-run"], &["gc", "--max-share", "90"]] {
        let (stopped, code) = said(&site, arguments);
        assert!(stopped["stopped"].as_str().unwrap().contains("150 of 151"), "{stopped}");
        assert_eq!((&stopped["removed"], code), (&json!({}), 1));
    }
    assert_eq!(site.stored().len(), 151);
    let (done, code) = said(&site, &["gc", "--force"]);
    assert_eq!((&done["removed"]["old_generation"]["files"], code), (&150.into(), 0), "{done}");
    assert_eq!(site.stored(), made);
    assert_eq!(site.run(&["gc", "--force", "--max-share", "10"]).status.code(), Some(2));
    assert_eq!(site.run(&["gc", "--repair"]).status.code(), Some(2), "without --verify");
}

/// Two at once, while originals are replaced and asked for: nothing that is asked for is ever missing, and each file is removed by
/// one of them.
#[test]
fn two_gcs_beside_renders_remove_each_file_once() {
    const ROUNDS: usize = 8;
    const SPECS: [&str; 3] = ["width-40", "width-50|format-webp", "width-60"];
    let site = Site::new(AT_ONCE).serve();
    let removed = |found: &Value| found["removed"]["old_generation"]["files"].as_u64().unwrap_or(0);
    let mut all = 0;
    for round in 0..ROUNDS {
        site.add(["photo_land.jpg", "photo_port.jpg"][round % 2], "a.jpg");
        all += thread::scope(|scope| {
            let gcs = [0, 1].map(|_| scope.spawn(|| said(&site, &["gc", "--force"])));
            let made = make(&site, "media/a.jpg", &SPECS);
            let collected = gcs.map(|gc| gc.join().unwrap());
            assert!(are_there(&made), "what is asked for stays");
            collected.iter().for_each(|(found, code)| assert_eq!(*code, 0, "{found}"));
            collected.iter().map(|(found, _)| removed(found)).sum::<u64>()
        });
    }
    all += removed(&said(&site, &["gc", "--force"]).0);
    assert_eq!(all, ((ROUNDS - 1) * SPECS.len()) as u64);
    assert_eq!(site.stored().len(), SPECS.len());
    assert_eq!(site.metric("sendimage_requests_total{outcome=\"rendered\"}"), (ROUNDS * SPECS.len()) as f64);
}

#[test]
fn damaged_files_of_every_format_are_found_and_made_again() {
    let site = Site::new("").serve();
    site.add("photo_land.jpg", "a.jpg");
    site.add("anim.gif", "moving.gif");
    let formats = ["jpeg", "png", "webp", "webp-lossless", "avif", "gif", "ico"];
    let specs = |width: u32| formats.map(|format| format!("width-{width}|format-{format}"));
    let stills = |width: u32| make(&site, "media/a.jpg", &specs(width).each_ref().map(String::as_str));
    let moving = make(&site, "media/moving.gif", &["width-30", "width-31|format-webp", "width-32"]);
    let (whole, cut, short, empty, holed) = (stills(40), stills(41), stills(42), stills(43), stills(44));
    let (found, code) = said(&site, &["gc", "--verify"]);
    assert_eq!((&found["damaged"], code), (&json!([]), 0), "{found}");
    assert_eq!(found["unverified"], Value::Null);

    let bytes = |path: &PathBuf| fs::read(path).unwrap();
    for path in cut.iter().chain(&moving[..2]) {
        let all = bytes(path);
        fs::write(path, &all[..all.len() * 3 / 4]).unwrap();
    }
    for path in &short {
        let all = bytes(path);
        fs::write(path, &all[..all.len() - 1]).unwrap();
    }
    empty.iter().for_each(|path| fs::write(path, "").unwrap());
    // As a crash of the machine leaves it. What is wrong within the data of a WebP or an AVIF no decoder can tell.
    let holed = [&holed[0], &holed[1], &holed[5]];
    for path in holed {
        let mut all = bytes(path);
        let half = all.len() / 2;
        all[half..].fill(0);
        fs::write(path, all).unwrap();
    }
    let mine: Vec<&PathBuf> = cut.iter().chain(&moving[..2]).chain(&short).chain(&empty).chain(holed).collect();
    let (found, code) = said(&site, &["gc", "--verify"]);
    let damaged: BTreeSet<PathBuf> = found["damaged"]
        .as_array()
        .unwrap()
        .iter()
        .map(|damaged| {
            assert!(!damaged["problem"].as_str().unwrap().is_empty(), "{damaged}");
            site.path("renditions").join(damaged["path"].as_str().unwrap())
        })
        .collect();
    assert_eq!(damaged, mine.iter().copied().cloned().collect(), "{found}");
    assert_eq!(code, 1, "they are still there");
    assert!(mine.iter().all(|path| path.exists()));

    let (done, code) = said(&site, &["gc", "--verify", "--repair"]);
    assert_eq!((&done["removed"]["damaged"]["files"], code), (&mine.len().into(), 0), "{done}");
    assert!(mine.iter().all(|path| !path.exists()) && are_there(&whole) && moving[2].exists());
    assert_eq!(stills(41), cut, "the next request makes them again");
    assert!(cut.iter().all(|path| path.metadata().unwrap().len() > 0));
    assert_eq!(said(&site, &["gc", "--verify"]).1, 0);
}

const PRESETS: &str = "[presets]\nhero = \"fill-60x30\"\nlist = \"width-50|format-auto\"\n";
const CATALOGUE: &str = "[catalogue]\nkind = \"manifest\"\nfile = \"{dir}/images.json\"\nsource = \"media\"\n";

#[test]
fn what_is_stored_is_told_by_source_preset_and_format() {
    let config = format!("[store]\nexistence = \"assume\"\n{CATALOGUE}[ops]\ntoken = \"{OPS_TOKEN}\"\n{PRESETS}");
    let site = Site::new(&config);
    let rows = r#"[{"id": 7, "file": "a.jpg", "focal_point_x": 10, "focal_point_y": 10, "focal_point_width": 20,
                    "focal_point_height": 20}]"#;
    fs::write(site.path("images.json"), rows).unwrap();
    let site = site.serve();
    ["a.jpg", "b.jpg"].iter().for_each(|name| site.add("photo_land.jpg", name));
    // With a focal point, and without one.
    let heroes =
        [make(&site, "7", &["hero"]), make(&site, "media/a.jpg", &["hero"]), make(&site, "media/b.jpg", &["hero"])];
    assert_ne!(heroes[0], heroes[1]);
    make(&site, "media/b.jpg", &["list", "width-61"]);
    let (usage, code) = said(&site, &["du", "--by", "preset"]);
    let count = |preset: &str| usage["by_preset"][preset]["files"].as_u64();
    assert_eq!((count("hero"), count("list"), count("(other)"), code), (Some(3), Some(1), Some(1), 0), "{usage}");
    let bytes: u64 = site.stored().iter().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!((&usage["stored"], &usage["images"]), (&json!({"files": 5, "bytes": bytes}), &2.into()));
    assert_eq!(usage["by_source"], json!({"media": {"files": 5, "bytes": bytes}}));
    assert_eq!(usage["by_format"]["jpeg"]["files"], 5);
    assert_eq!(usage["largest"][0]["image"], "media/b.jpg");
    let text = String::from_utf8(site.run(&["du"]).stdout).unwrap();
    assert!(
        text.contains("renditions of 2 images") && text.contains("by source") && text.contains("media/a.jpg"),
        "{text}"
    );

    // One preset, by the running service: what it remembered it believes no more.
    let output = site.run(&["purge", "--preset", "hero"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("3 renditions of 2 images removed") && text.contains("for 1 s"), "{text}");
    assert!(heroes.iter().flatten().all(|path| !path.exists()) && site.stored().len() == 2);
    assert_eq!(make(&site, "7", &["hero"]), heroes[0]);
    assert!(are_there(&heroes[0]));
    site.assert_logs("call=\"purge\"");
}

#[test]
fn a_purge_may_mean_a_source_a_folder_or_everything() {
    let rest = "[sources.other]\nkind = \"fs\"\nroot = \"{dir}/media\"\n[ops]\n";
    let config = format!("[store]\nexistence = \"assume\"\n{rest}token = \"{OPS_TOKEN}\"\n");
    let mut site = Site::new(&config).serve();
    for name in ["2024/a.jpg", "2024/b.jpg", "2025/c.jpg"] {
        site.add("photo_land.jpg", name);
    }
    let all = |site: &Site| {
        let images = ["media/2024/a.jpg", "media/2024/b.jpg", "media/2025/c.jpg", "other/2024/a.jpg"];
        images.map(|image| make(site, image, &["width-40"]).remove(0))
    };
    let rounds = |site: &Site| {
        for (arguments, left) in [
            (&["purge", "--prefix", "media/2024/"][..], &[false, false, true, true][..]),
            (&["purge", "--prefix", "media/2024/a"], &[false, true, true, true]),
            (&["purge", "--source", "media"], &[false, false, false, true]),
            (&["purge", "media/2024/a.jpg", "other/2024/a.jpg"], &[false, true, true, false]),
            (&["purge", "--all", "--yes"], &[false; 4]),
        ] {
            let made = all(site);
            let (purged, code) = said(site, arguments);
            let gone = left.iter().filter(|left| !**left).count();
            assert_eq!((&purged["files"], &purged["images"], code), (&gone.into(), &gone.into(), 0), "{arguments:?}");
            assert_eq!(made.each_ref().map(|path| path.exists()), left, "{arguments:?} {purged}");
        }
    };
    rounds(&site);
    let calls = site.metric("sendimage_ops_calls_total{call=\"purge\",outcome=\"done\"}");
    assert_eq!(calls, 5.0, "the running service did it");
    assert_eq!(said(&site, &["purge", "nope/a.jpg"]).0["unknown"], json!(["nope/a.jpg"]));
    for (body, field) in [
        (json!({}), "refs"),
        (json!({"refs": ["7"], "all": true}), "Give one"),
        (json!({"source": "media", "preset": "hero"}), "Give one"),
        (json!({"preset": "none"}), "preset"),
        (json!({"prefix": "media"}), "prefix"),
        (json!({"all": false}), "all"),
    ] {
        let answer = site.call("/purge", &body.to_string());
        assert!(answer.status == 400 && answer.text().contains(field), "{body}: {}", answer.text());
    }
    for wrong in [&["purge"][..], &["purge", "--all"], &["purge", "7", "--source", "media"]] {
        assert_eq!(site.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(site.run(&["purge", "--preset", "none"]).status.code(), Some(1));

    // Another service's token, and no service at all.
    let made = all(&site);
    site.configure(&config.replace(OPS_TOKEN, "another-token-of-the-tests"));
    assert_eq!(site.run(&["purge", "--all", "--yes"]).status.code(), Some(1));
    assert!(are_there(&made));
    site.signal(rustix::process::Signal::TERM);
    site.wait();
    let (purged, code) = said(&site, &["purge", "--all", "--yes"]);
    assert_eq!((&purged["files"], code), (&4.into(), 0), "{purged}");
    assert!(site.stored().is_empty());
}
