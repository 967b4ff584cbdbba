//! `inspect`: what would be served, what would be refused, and why.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::{
    harness::{SENDIMAGE, Site},
    vectors,
};

fn inspect(arguments: &[&str], files: &[&Path]) -> (Vec<Value>, i32) {
    let output = Command::new(SENDIMAGE).args(["inspect", "--json"]).args(arguments).args(files).output().unwrap();
    (reports(&output), output.status.code().unwrap())
}

fn reports(output: &Output) -> Vec<Value> {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// What is refused of all vectors: no images, damaged ones, drawings where none are served, and what the build cannot read.
fn is_bad(name: &str) -> bool {
    name.starts_with("notimage") || name.starts_with("truncated") || name.ends_with(".svg") || name.ends_with(".heic")
}

#[test]
fn every_vector_is_what_it_is() {
    let folder = vectors::folder().join("images");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let paths: Vec<&Path> = files.iter().map(|path| path.as_path()).collect();
    let (found, code) = inspect(&[], &paths);
    assert_eq!((found.len(), code), (files.len(), 1));
    for (report, path) in found.iter().zip(&files) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_heic = name.ends_with(".heic") && cfg!(feature = "heic");
        assert_eq!(report["ok"], json!(!is_bad(name) || is_heic), "{name}: {report}");
        assert_eq!(report["refused"].is_null(), report["ok"] == json!(true), "{name}: {report}");
        if report["ok"] == json!(true) {
            assert_eq!(report["extension_fits"], json!(true), "{name}");
            let need = &report["needs"][0];
            assert!(need["spec"] == "width-800" && need["memory_bytes"].as_u64() > Some(0), "{name}: {need}");
            assert!(need["estimated_ms"].as_u64() > Some(0) && need["lane"].is_string(), "{name}: {need}");
        }
    }
    let of = |name: &str| {
        found.iter().find(|report| report["file"].as_str().unwrap().ends_with(&format!("/{name}"))).unwrap()
    };
    let turned = of("exif_6.jpg");
    assert_eq!(turned["orientation"], 6);
    assert_eq!(turned["stored_size"]["width"], turned["upright_size"]["height"]);
    assert_eq!((&of("cmyk.jpg")["colours"], &of("rgb16.png")["bits"]), (&json!("cmyk"), &json!(16)));
    assert_eq!((&of("anim.gif")["media_type"], &of("alpha.webp")["transparent"]), (&json!("image/gif"), &json!(true)));
    assert!(of("anim.gif")["frames"].as_u64() > Some(1));
    assert!(of("wide_gamut.jpg")["profile"].as_str().is_some_and(|name| !name.is_empty()));
    assert_eq!(of("notimage.jpg")["refused"]["reason"], "not_an_image");
    assert_eq!(of("vector.svg")["refused"], json!({"reason": "impossible", "says": "SVG sources are off"}));
    // The keys that programs read.
    let keys: Vec<&String> = turned.as_object().unwrap().keys().collect();
    let known = [
        "bits",
        "bytes",
        "colours",
        "extension_fits",
        "file",
        "format",
        "frames",
        "media_type",
        "metadata",
        "needs",
        "notes",
        "ok",
        "orientation",
        "profile",
        "progressive",
        "refused",
        "stored_size",
        "transparent",
        "upright_size",
    ];
    assert_eq!(keys, known);
}

#[test]
fn damaged_ones_are_refused_whatever_their_headers_say() {
    let folder = tempfile::tempdir().unwrap();
    let mut halves = Vec::new();
    for name in
        ["photo_land.jpg", "rgba.png", "lossy.webp", "anim.gif", "anim.webp", "photo.avif", "photo.bmp", "photo.tiff"]
    {
        let whole = fs::read(vectors::folder().join("images").join(name)).unwrap();
        let half = folder.path().join(name);
        fs::write(&half, &whole[..whole.len() / 2]).unwrap();
        halves.push(half);
    }
    let paths: Vec<&Path> = halves.iter().map(|path| path.as_path()).collect();
    let (found, code) = inspect(&[], &paths);
    assert_eq!(code, 1);
    for report in &found {
        assert_eq!(report["refused"]["reason"], "not_an_image", "{report}");
    }
    // A header of more pixels than may be: said before anything of that size is held.
    let mut bomb = fs::read(vectors::folder().join("images/rgba.png")).unwrap();
    bomb[16..24].copy_from_slice(&[0, 0, 0xFF, 0xFF, 0, 0, 0xFF, 0xFF]);
    let path = folder.path().join("bomb.png");
    fs::write(&path, &bomb).unwrap();
    let missing = folder.path().join("missing.jpg");
    let (found, _) = inspect(&[], &[&path, &missing, folder.path()]);
    let reasons: Vec<&Value> = found.iter().map(|report| &report["refused"]["reason"]).collect();
    assert_eq!(reasons, ["over_limit", "source", "source"], "{found:?}");
}

#[test]
fn limits_names_and_standard_input() {
    let site = Site::new(
        "[render]\nmax_source_bytes = 20000\nmax_source_pixels = 1000000\n[presets]\nhero = \"fill-60x40\"\n",
    );
    let config = site.config();
    let config = config.to_str().unwrap();
    let images = vectors::folder().join("images");
    let (found, code) = inspect(&["-c", config], &[&images.join("exif_6.png"), &images.join("photo.bmp")]);
    assert_eq!((&found[0]["ok"], &found[0]["needs"][0]["spec"], code), (&json!(true), &json!("hero"), 1), "{found:?}");
    assert_eq!(found[1]["refused"]["reason"], "over_limit", "{found:?}");

    let small = fs::read(images.join("exif_6.png")).unwrap();
    let piped = |bytes: &[u8], arguments: &[&str]| {
        let mut child = Command::new(SENDIMAGE)
            .args(["inspect", "--json", "-c", config])
            .args(arguments)
            .arg("-")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Longer than is read: it need not take it all.
        let _ = child.stdin.take().unwrap().write_all(bytes);
        let output = child.wait_with_output().unwrap();
        (reports(&output).remove(0), output.status.code().unwrap())
    };
    let (report, code) = piped(&small, &["--name", "holiday.jpg"]);
    assert_eq!((&report["ok"], &report["extension_fits"], code), (&json!(true), &json!(false), 0), "{report}");
    assert_eq!(report["notes"][0], "its name ends in .jpg, and it is a png file");
    let (report, code) = piped(&vec![0; 5_000_000], &[]);
    assert_eq!((&report["refused"]["reason"], code), (&json!("over_limit"), 1), "{report}");

    // SVG is a source's decision.
    site.configure("[sources.drawings]\nkind = \"fs\"\nroot = \"{dir}/media\"\nsvg = true\n");
    let svg = images.join("vector.svg");
    assert_eq!(inspect(&["-c", config, "--source", "drawings"], &[&svg]).1, 0);
    assert_eq!(inspect(&["-c", config, "--source", "media"], &[&svg]).1, 1);

    // For people.
    let file = images.join("exif_6.jpg");
    let output = site.run(&["inspect", "--spec", "width-50", file.to_str().unwrap()]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("exif_6.jpg: would be served\n  is        jpeg, ") && said.contains("(EXIF orientation 6)"),
        "{said}"
    );
    assert!(said.contains("  tells     EXIF\n") && said.contains("  needs     width-50: 50x"), "{said}");
    assert_eq!(Command::new(SENDIMAGE).arg("inspect").output().unwrap().status.code(), Some(2));
}
