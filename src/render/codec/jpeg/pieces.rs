//! The data of a scan that is never in memory whole.

use super::huffman::{Bits, Place};
use crate::render::source::ReadAt;

/// Fetched at once: little beside a picture, and much beside a row of its blocks.
const PIECE_BYTES: usize = 256 << 10;
/// Rather than have a step fail for want of the rest, fetch it before.
const FEW_BYTES: usize = PIECE_BYTES / 4;
/// As many bytes are looked at together.
const AHEAD_BYTES: usize = 8;

/// A piece of a source, and how far it is read.
pub struct Pieces<'a, S: ?Sized> {
    source: &'a S,
    /// Of the first byte behind the piece.
    offset: u64,
    piece: Vec<u8>,
    place: Place,
}

impl<'a, S: ReadAt + ?Sized> Pieces<'a, S> {
    /// Begins at an offset.
    pub fn new(source: &'a S, offset: u64) -> Self {
        Self { source, offset, piece: Vec::new(), place: Place::default() }
    }

    /// Takes a step from where the last one ended. A step that fails at the end of what is there is taken again with more; so it
    /// must leave nothing behind but what it gives back, or would write once more.
    pub fn read<T>(&mut self, mut step: impl FnMut(&mut Bits<'_>) -> Option<T>) -> Option<T> {
        if self.piece.len() < self.place.at + FEW_BYTES {
            self.fetch();
        }
        loop {
            let mut bits = Bits::resumed(&self.piece, self.place);
            let found = step(&mut bits);
            let place = bits.place();
            if found.is_some() {
                self.place = place;
                return found;
            }
            let may_want_more = place.at + AHEAD_BYTES >= self.piece.len();
            if !may_want_more || !self.fetch() {
                return None;
            }
        }
    }

    /// Adds as much as there was, and a piece at least, to what is not read yet. Whether there was any more.
    fn fetch(&mut self) -> bool {
        let rest = usize::try_from(self.source.length().saturating_sub(self.offset)).unwrap_or(usize::MAX);
        if rest == 0 {
            return false;
        }
        self.piece.drain(..self.place.at);
        self.place.at = 0;
        let left = self.piece.len();
        self.piece.resize(left + left.max(PIECE_BYTES).min(rest), 0);
        let mut filled = left;
        while let Some(room) = self.piece.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.source.read_at(self.offset, room) {
                // Whose source it is knows why it cannot be read.
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    filled += count;
                    self.offset += count as u64;
                }
            }
        }
        self.piece.truncate(filled);
        filled > left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time.
    struct Slow<'a>(&'a [u8]);

    impl ReadAt for Slow<'_> {
        fn length(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
            let few = buffer.len().min(7_001);
            self.0.read_at(offset, &mut buffer[..few])
        }
    }

    #[test]
    fn steps_of_every_length_read_the_same_bits() {
        let mut random = fastrand::Rng::with_seed(11);
        // Every other byte of ones; behind it stands a zero (B.1.1.5).
        let data: Vec<u8> = (0..700_000).map(|_| if random.bool() { 0xFF } else { random.u8(..) }).collect();
        let bytes: Vec<u8> =
            data.iter().flat_map(|&byte| [byte, 0].into_iter().take(if byte == 0xFF { 2 } else { 1 })).collect();
        let mut whole = Bits::new(&bytes);
        let source = Slow(&bytes);
        let mut pieces = Pieces::new(&source, 0);
        let mut left = 8 * data.len();
        while left > 0 {
            // Some are longer than a piece.
            let count = random.usize(1..5_000_000).min(left);
            let ours = pieces
                .read(|bits| (0..count).try_fold(0_u32, |sum, _| Some(sum.rotate_left(1) ^ u32::from(bits.bit()?))));
            let plain = (0..count).try_fold(0_u32, |sum, _| Some(sum.rotate_left(1) ^ u32::from(whole.bit()?)));
            assert!(ours.is_some() && ours == plain, "{left}");
            left -= count;
        }
        assert!(pieces.read(|bits| bits.bit()).is_none());
    }
}
