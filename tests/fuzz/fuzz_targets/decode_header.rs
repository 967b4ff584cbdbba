//! A source's header. The last byte chooses a magic to put in front: mutators seldom guess one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendimage::render;

const MAGIC: [&[u8]; 13] = [
    b"",
    b"\xFF\xD8\xFF",
    b"\x89PNG\r\n\x1A\n\0\0\0\rIHDR",
    b"GIF89a",
    b"RIFF\0\0\0\0WEBPVP8 ",
    b"RIFF\0\0\0\0WEBPVP8L",
    b"RIFF\0\0\0\0WEBPVP8X\x0A\0\0\0",
    b"BM",
    b"\0\0\0\x1Cftypavif\0\0\0\0avifmif1miaf\0\0",
    b"II*\0",
    b"MM\0*",
    b"\0\0\x01\0\x01\0",
    b"<svg ",
];

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_last() else { return };
    let source = [MAGIC[usize::from(*choice) % MAGIC.len()], bytes].concat();
    if let Ok(facts) = render::probe(&source) {
        assert!(facts.stored_size.pixels() > 0 && facts.frames > 0, "{facts:?}");
        assert!((1..=8).contains(&facts.bytes_per_pixel), "{facts:?}");
    }
});
