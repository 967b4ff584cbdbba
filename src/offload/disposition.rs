//! `Content-Disposition` with any file name (RFC 6266, RFC 8187).

use hyper::header::{HeaderValue, InvalidHeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::model::ImageFormat;

/// RFC 8187's attr-char: everything else is percent-encoded in `filename*`.
const EXTENDED_VALUE: AsciiSet = NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Longest name sent, in characters. What the file systems of browsers' machines take.
const MAX_CHARACTERS: usize = 200;

/// The name of a rendition: the original's stem, the output's extension.
pub fn file_name(stem: &str, format: ImageFormat) -> String {
    format!("{stem}.{}", format.extension())
}

/// `inline`, or `attachment` for a download, with a name.
///
/// Names of printable ASCII go into `filename`, with quotes escaped; others, and those with a slash, a backslash or a percent
/// sign, get a stand-in there and the real name in `filename*`, which every browser prefers. Control characters never leave the
/// service, and a name that is too long loses the end of its stem.
///
/// # Errors
/// Never for a text without control characters; the type is hyper's.
pub fn content_disposition(name: &str, download: bool) -> Result<HeaderValue, InvalidHeaderValue> {
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    let name = shortened(&name);
    let kind = if download { "attachment" } else { "inline" };
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii() { c } else { '_' })
        // A browser would take what follows a slash or a percent escape for something else.
        .map(|c| if matches!(c, '/' | '\\' | '%') { '_' } else { c })
        .collect();
    let quoted = plain.replace('"', "\\\"");
    if plain == name {
        return HeaderValue::try_from(format!("{kind}; filename=\"{quoted}\""));
    }
    let extended = utf8_percent_encode(&name, &EXTENDED_VALUE);
    HeaderValue::try_from(format!("{kind}; filename=\"{quoted}\"; filename*=UTF-8''{extended}"))
}

/// The name with [`MAX_CHARACTERS`] at most, its extension among them.
fn shortened(name: &str) -> String {
    /// Longest extension; what is longer is no extension but a sentence with a full stop.
    const MAX_EXTENSION: usize = 16;
    let length = |text: &str| text.chars().count();
    if length(name) <= MAX_CHARACTERS {
        return name.to_owned();
    }
    let extension = name.rfind('.').map_or("", |at| &name[at..]);
    let extension = if length(extension) <= MAX_EXTENSION { extension } else { "" };
    name.chars().take(MAX_CHARACTERS - length(extension)).chain(extension.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_quoted_and_extended_names() {
        for (name, expected) in [
            ("photo.jpg", "inline; filename=\"photo.jpg\""),
            ("My Photo.webp", "inline; filename=\"My Photo.webp\""),
            ("a\"b.jpg", "inline; filename=\"a\\\"b.jpg\""),
            ("café.jpg", "inline; filename=\"caf_.jpg\"; filename*=UTF-8''caf%C3%A9.jpg"),
            ("a/b%41.jpg", "inline; filename=\"a_b_41.jpg\"; filename*=UTF-8''a%2Fb%2541.jpg"),
            ("a\r\nSet-Cookie: x", "inline; filename=\"aSet-Cookie: x\""),
        ] {
            assert_eq!(content_disposition(name, false).expect("a value"), expected, "{name:?}");
        }
        assert_eq!(content_disposition("x", true).expect("a value"), "attachment; filename=\"x\"");
    }

    #[test]
    fn a_long_name_keeps_its_extension() {
        let long = "é".repeat(300);
        for (name, expected) in [
            (file_name(&long, ImageFormat::Webp), format!("{}.webp", "é".repeat(195))),
            (format!("{long}.{long}"), "é".repeat(200)),
            (format!("{}.webp", "a".repeat(195)), format!("{}.webp", "a".repeat(195))),
            (long, "é".repeat(200)),
        ] {
            assert_eq!(shortened(&name), expected);
        }
    }

    proptest! {
        #[test]
        fn any_name_makes_one_safe_header(name in "\\PC{0,300}|.{0,40}", download: bool) {
            let value = content_disposition(&name, download).expect("a value");
            let text = value.to_str().expect("visible ASCII only");
            prop_assert!(!text.contains(['\r', '\n']));
        }
    }
}
