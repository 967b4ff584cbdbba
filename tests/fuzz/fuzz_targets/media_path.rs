//! A path from a URL or a catalogue.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use sendimage::model::{ImageFormat, MediaPath, RenditionKey, SourceRef, SourceVersion};

fuzz_target!(|text: &str| {
    let Ok(path) = MediaPath::parse(text) else { return };
    assert_eq!(path.as_str(), text, "refused rather than repaired");
    assert!(Path::new(text).components().all(|part| matches!(part, Component::Normal(_))), "{text:?}");
    assert!(!text.contains(|c: char| c == '\\' || c.is_control()));
    assert!(!path.stem().is_empty() && !path.stem().contains('/'), "{text:?}");
    let location = SourceRef { source: "media".into(), path };
    let version = SourceVersion { bytes: 1, modified_ns: 2, etag: None, file_hash: None };
    let key = RenditionKey::new(&location, &version, text, ImageFormat::Webp);
    assert!(key.path().starts_with(&key.source().directory()));
});
