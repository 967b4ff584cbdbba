//! Our own operations through the built binary: what only a whole service shows.

use std::fs;

use crate::{harness::Site, pictures::Pixels};

const MARKED: &str = "[watermarks.logo]\nfile = \"logo.png\"\nplace = \"top-left\"\nopacity_percent = 100\n\
                      width_percent = 50\nmargin_percent = 0\n[presets]\nstamped = \"width-100|watermark-logo\"\n";

/// A PNG of one colour.
fn plain(width: u32, height: u32, pixel: [u8; 4]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let image = image::RgbaImage::from_pixel(width, height, image::Rgba(pixel));
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header().unwrap().write_image_data(image.as_raw()).unwrap();
    bytes
}

fn pixel(pixels: &Pixels, x: u32, y: u32) -> [u8; 4] {
    let at = ((y * pixels.width + x) * 4) as usize;
    pixels.rgba[at..at + 4].try_into().unwrap()
}

#[test]
fn a_watermark_is_laid_on_and_its_content_is_part_of_the_name() {
    let mut site = Site::new(MARKED);
    fs::write(site.path("logo.png"), plain(10, 10, [255, 0, 0, 255])).unwrap();
    fs::write(site.path("media/a.png"), plain(200, 100, [0, 0, 255, 255])).unwrap();
    site.start();
    let site = site.with_nginx();
    let url = site.sign(&["media/a.png", "stamped"]);
    let answer = site.nginx("GET", &url, "");
    assert_eq!(answer.status, 200, "{}", site.log());
    let made = Pixels::decode(&answer.body);
    assert_eq!((made.width, made.height), (100, 50));
    assert_eq!((pixel(&made, 10, 10), pixel(&made, 90, 40)), ([255, 0, 0, 255], [0, 0, 255, 255]));
    let before = site.stored();

    // Another logo is another rendition, from the next reload on.
    fs::write(site.path("logo.png"), plain(10, 10, [0, 255, 0, 255])).unwrap();
    assert_eq!(pixel(&Pixels::decode(&site.nginx("GET", &url, "").body), 10, 10), [255, 0, 0, 255]);
    site.signal(rustix::process::Signal::HUP);
    let green = || pixel(&Pixels::decode(&site.nginx("GET", &url, "").body), 10, 10) == [0, 255, 0, 255];
    crate::harness::wait_for(std::time::Duration::from_secs(10), green).expect("the new logo is seen");
    assert_eq!(site.stored().len(), before.len() + 1);

    let unknown = site.gate("GET", &site.sign(&["media/a.png", "stamped"]).replace("stamped", "nothing"), "");
    assert_eq!(unknown.status, 403);
    let unsigned = site.run(&["sign", "media/a.png", "watermark-none"]);
    let url = String::from_utf8(unsigned.stdout).unwrap();
    if let Some(path) = url.trim().find("/images/").map(|at| url.trim()[at..].to_owned()) {
        let answer = site.gate("GET", &path, "");
        assert_eq!((answer.status, answer.text().contains("watermark")), (400, true));
    }
}

#[test]
fn a_watermark_that_cannot_be_used_is_said_at_start() {
    let site = Site::new("[watermarks.logo]\nfile = \"nowhere.png\"\n");
    let output = site.run(&["serve"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("watermarks.logo.file") && text.contains("nowhere.png"), "{text}");
}

#[test]
fn looks_are_taken_once_and_remembered() {
    let mut site = Site::new("");
    // A red square on white, not in the middle.
    let mut scene = image::RgbaImage::from_pixel(300, 200, image::Rgba([255; 4]));
    for (x, y) in (200..260).flat_map(|x| (20..80).map(move |y| (x, y))) {
        scene.put_pixel(x, y, image::Rgba([200, 30, 30, 255]));
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 300, 200);
    encoder.set_color(png::ColorType::Rgba);
    encoder.write_header().unwrap().write_image_data(scene.as_raw()).unwrap();
    fs::write(site.path("media/a.png"), &bytes).unwrap();
    site.start();
    let looks = |site: &Site| site.metric("sendimage_render_seconds_count{stage=\"look\"}");

    let get = |site: &Site, spec: &str| {
        let answer = site.gate("GET", &site.sign(&["media/a.png", spec]), "");
        assert_eq!(answer.status, 200, "{spec}: {}", answer.text());
        let path = answer.header("x-accel-redirect").unwrap();
        Pixels::open(&site.path("renditions").join(path.strip_prefix("/_renditions/").unwrap()))
    };
    let trimmed = get(&site, "trim-10");
    assert_eq!((trimmed.width, trimmed.height, pixel(&trimmed, 0, 0)), (60, 60, [200, 30, 30, 255]));
    get(&site, "trim-10|width-30");
    assert_eq!(looks(&site), 1.0);
    let smart = get(&site, "fill-100x100|smart");
    assert_eq!(pixel(&smart, 50, 10), pixel(&smart, 50, 10));
    assert!((0..100).any(|x| pixel(&smart, x, 25) == [200, 30, 30, 255]), "the square is in the picture");
    get(&site, "fill-50x50|smart");
    assert_eq!(looks(&site), 2.0);

    // The store remembers what was found, over a restart and without the original.
    site.signal(rustix::process::Signal::TERM);
    site.wait();
    fs::rename(site.path("media/a.png"), site.path("media/b.png")).unwrap();
    site.start();
    assert_eq!(site.gate("GET", &site.sign(&["media/a.png", "trim-10"]), "").status, 200);
    assert_eq!(site.gate("GET", &site.sign(&["media/a.png", "trim-11"]), "").status, 404);
    assert_eq!(looks(&site), 0.0);
}

#[test]
fn errors_of_our_operations_say_where() {
    let site = Site::new("").serve();
    site.add("photo_land.jpg", "a.jpg");
    for (spec, column) in [("width-10|rotate-45", 16), ("pad-9x9|width-3", 8), ("blur-0.1", 5)] {
        let refused = site.run(&["sign", "media/a.jpg", spec]);
        assert!(!refused.status.success());
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        // The caret stands below the place, two columns in.
        let caret = format!("\n{}^", " ".repeat(2 + column));
        assert!(text.contains(&caret), "{spec}: {text}");
    }
}

#[test]
fn a_watermark_that_is_no_picture_is_found_by_check_and_not_the_images_fault() {
    let mut site = Site::new(MARKED);
    fs::write(site.path("logo.png"), "not a picture").unwrap();
    site.add("photo_land.jpg", "a.jpg");
    let output = site.run(&["check"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text.lines().find(|line| line.contains("watermark logo")).unwrap();
    assert!(line.starts_with("FAIL") && line.contains("not an image"), "{line}");
    site.start();
    let url = site.sign(&["media/a.jpg", "stamped"]);
    let answer = site.gate("GET", &url, "");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    // Mended, it is used at once: nothing of the failure was remembered.
    fs::write(site.path("logo.png"), plain(10, 10, [255, 0, 0, 255])).unwrap();
    site.signal(rustix::process::Signal::HUP);
    let served = || site.gate("GET", &url, "").status == 200;
    crate::harness::wait_for(std::time::Duration::from_secs(10), served).expect("the mended logo is used");
}
