//! A manifest's bytes, CSV or JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendimage::{catalogue::{Manifest, Sources}, model::MediaPath};

fuzz_target!(|bytes: &[u8]| {
    let Ok(images) = Manifest::parse(bytes, &Sources::local("media")) else { return };
    for image in images.values() {
        let path = image.location.path.as_str();
        assert!(MediaPath::parse(path).is_ok(), "{path:?}");
        if let Some(point) = image.focal_point {
            assert!([point.x, point.y, point.width, point.height].iter().all(|n| n.is_finite()), "{point:?}");
        }
    }
});
