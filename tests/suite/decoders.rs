//! Every pair of formats, opened by decoders that have nothing to do with ours: Pillow, libvips and Chromium. Part of
//! `tests/run --long`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use sendimage::{
    app,
    config::RenderConfig,
    model::Size,
    render::{self, Plan},
    spec::FilterSpec,
    workers::Marks,
};
use serde_json::{Value, json};

use crate::{browser, vectors};

const SOURCES: [&str; 14] = [
    "photo_land.jpg",
    "gray8.jpg",
    "cmyk.jpg",
    "wide_gamut.jpg",
    "rgba.png",
    "gray16.png",
    "palette_trns.png",
    "anim.gif",
    "anim.webp",
    "alpha.webp",
    "photo.avif",
    "photo.bmp",
    "photo.tiff",
    "icon.ico",
];
const FORMATS: [&str; 8] = ["jpeg", "png", "webp", "webp-lossless", "avif", "avif-lossless", "gif", "ico"];

/// One file of ours, and what it should be.
struct Made {
    name: String,
    bytes: Vec<u8>,
    path: PathBuf,
    size: Size,
    frames: u32,
    format: &'static str,
    media_type: &'static str,
}

fn every_pair(folder: &Path) -> Vec<Made> {
    let defaults = app::defaults(&RenderConfig::default(), &Marks::default());
    let mut made = Vec::new();
    for source_name in SOURCES {
        let source = std::fs::read(vectors::folder().join("images").join(source_name)).unwrap();
        let facts = render::probe(&source).unwrap();
        for format in FORMATS {
            let spec = FilterSpec::parse(&format!("max-60x50|format-{format}")).unwrap();
            let plan = Plan::new(&facts, &spec, None, &defaults).unwrap();
            let bytes = render::render(&source, &plan).unwrap().bytes;
            let output = plan.encoding.format();
            let path = folder.join(format!("{source_name}-{format}.{}", output.extension()));
            std::fs::write(&path, &bytes).unwrap();
            made.push(Made {
                name: format!("{source_name} to {format}"),
                bytes,
                path,
                size: plan.rendition_size(),
                frames: plan.frames,
                format: output.name(),
                media_type: output.media_type(),
            });
        }
    }
    made
}

const PILLOW: &str = "
import json, sys
from PIL import Image
rows = []
for path in sys.argv[1:]:
    image = Image.open(path)
    frames = getattr(image, 'n_frames', 1)
    for frame in range(frames):
        image.seek(frame)
        image.load()
    rows.append([image.format.lower(), image.width, image.height, frames])
print(json.dumps(rows))
";

/// Pillow in an environment of its own; `None` where it cannot be installed.
fn python_with_pillow() -> Option<PathBuf> {
    let environment = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pillow");
    let python = environment.join("bin/python");
    let succeeded = |command: &mut Command| command.status().is_ok_and(|status| status.success());
    let there = || succeeded(Command::new(&python).args(["-c", "import PIL"]).stderr(Stdio::null()));
    let install = || {
        succeeded(Command::new("python3").args(["-m", "venv"]).arg(&environment))
            && succeeded(Command::new(&python).args(["-m", "pip", "install", "-q", "pillow>=12"]))
    };
    (there() || install()).then_some(python)
}

#[test]
#[ignore = "needs Pillow, libvips and Chromium: tests/run --long"]
fn every_pair_of_formats_is_what_it_says_to_independent_decoders() {
    let folder = tempfile::tempdir().unwrap();
    let made = every_pair(folder.path());
    let paths: Vec<&Path> = made.iter().map(|made| made.path.as_path()).collect();

    match python_with_pillow() {
        None => eprintln!("SKIPPED: Pillow cannot be installed here"),
        Some(python) => {
            let output = Command::new(python).args(["-c", PILLOW]).args(&paths).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
            for (made, row) in made.iter().zip(&rows) {
                assert_eq!(*row, json!([made.format, made.size.width, made.size.height, made.frames]), "{}", made.name);
            }
            println!("Pillow opened all {} files: format, size and frames are right", rows.len());
        }
    }

    if Command::new("vips").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no libvips");
    } else {
        let mut opened = 0;
        // Debian's libvips reads icons only by way of ImageMagick.
        for made in made.iter().filter(|made| made.format != "ico") {
            let field = |name: &str| {
                let output = Command::new("vipsheader").args(["-f", name]).arg(&made.path).output().unwrap();
                assert!(output.status.success(), "{}: {}", made.name, String::from_utf8_lossy(&output.stderr));
                String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().unwrap()
            };
            assert_eq!((field("width"), field("height")), (made.size.width, made.size.height), "{}", made.name);
            // To the last pixel.
            let average = Command::new("vips").arg("avg").arg(&made.path).output().unwrap();
            assert!(average.status.success(), "{}: {}", made.name, String::from_utf8_lossy(&average.stderr));
            opened += 1;
        }
        println!("libvips opened all {opened} files that are no icons");
    }

    if browser::is_there() {
        let listed: Vec<Value> = made
            .iter()
            .map(|made| json!(format!("data:{};base64,{}", made.media_type, BASE64_STANDARD.encode(&made.bytes))))
            .collect();
        let found = browser::ask(&PAGE.replace("FILES", &serde_json::to_string(&listed).unwrap()));
        for (made, row) in made.iter().zip(found.as_array().unwrap()) {
            assert_eq!(*row, json!([made.size.width, made.size.height]), "{}", made.name);
        }
        println!("Chromium showed all {} files", made.len());
    }
}

/// Shows every file as an image.
const PAGE: &str = r#"<!doctype html><body><script>
const files = FILES;
async function size(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return [image.naturalWidth, image.naturalHeight];
}
(async () => {
  const found = [];
  for (const file of files) found.push(await size(file).catch(error => String(error)));
  await fetch("/found", { method: "POST", body: JSON.stringify(found) });
})();
</script></body>"#;
