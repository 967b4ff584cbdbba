//! A download's name, which is any text that was signed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendimage::{
    model::ImageFormat,
    offload::{content_disposition, file_name},
};

fuzz_target!(|name: &str| {
    for (name, download) in [(name.to_owned(), true), (file_name(name, ImageFormat::Webp), false)] {
        let value = content_disposition(&name, download).expect("a value for any name");
        let text = value.to_str().expect("visible ASCII");
        // One parameter, or two: a quote or a semicolon of the name's own never begins another.
        let rest = text.split_once("; filename=\"").expect("a name").1;
        let end = closing_quote(rest).expect("a closing quote");
        assert!(!rest[..end].contains(['/', '%']), "{text}");
        match rest[end + 1..].strip_prefix("; filename*=UTF-8''") {
            Some(extended) => assert!(!extended.contains([';', '"', ' ', ',', '\'']), "{text}"),
            None => assert_eq!(&rest[end + 1..], "", "{text}"),
        }
        assert!(text.len() < 8 << 10, "longer than a web server's header buffer");
    }
});

/// Where a quoted string ends (RFC 9110, 5.6.4).
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}
