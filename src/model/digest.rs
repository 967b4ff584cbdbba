//! Digests as names and keys: SHA-256 over parts that cannot run into each other, and hexadecimal digits.

use sha2::{Digest as _, Sha256};

/// SHA-256 over parts, the length of each before it: `("ab", "c")` and `("a", "bc")` are two things.
#[derive(Clone, Debug, Default)]
pub struct PartsDigest(Sha256);

impl PartsDigest {
    /// The digest of these parts so far.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut digest = Self::default();
        parts.into_iter().for_each(|part| digest.add(part));
        digest
    }

    /// Adds a part.
    pub fn add(&mut self, part: impl AsRef<[u8]>) {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    /// All 256 bits.
    pub fn bytes(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    /// The first 128 bits: enough for a name that nobody else has.
    pub fn half(self) -> [u8; 16] {
        let mut half = [0; 16];
        half.copy_from_slice(&self.bytes()[..16]);
        half
    }
}

/// Bytes as hexadecimal digits in lower case.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let of = |parts: &[&[u8]]| PartsDigest::of(parts.iter().copied()).bytes();
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_ne!(of(&[b"", b"a"]), of(&[b"a", b""]));
        // Names in stores are made of it: it never changes.
        let text = "0000000000000003616263";
        let bytes: Vec<u8> =
            (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..][..2], 16).unwrap()).collect();
        assert_eq!(of(&[b"abc"]), <[u8; 32]>::from(Sha256::digest(bytes)));
        assert_eq!(hex(&[0x00, 0x0f, 0xa0, 0xff]), "000fa0ff");
    }
}
