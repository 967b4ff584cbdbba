//! Where a source's bytes are: in memory, or in a file that is read in pieces.

use std::io::{self, Read, Seek, SeekFrom};

/// Bytes that can be read anywhere, and whose number is known.
pub trait ReadAt {
    /// How many there are.
    fn length(&self) -> u64;

    /// Reads some of those from `offset` on; none at the end.
    ///
    /// # Errors
    /// When they cannot be read, or are fewer than was said.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

impl ReadAt for [u8] {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

/// Reads from a place on.
#[derive(Debug)]
pub struct Reader<'a, S: ?Sized> {
    source: &'a S,
    offset: u64,
}

impl<'a, S: ReadAt + ?Sized> Reader<'a, S> {
    /// From the beginning.
    pub fn new(source: &'a S) -> Self {
        Self { source, offset: 0 }
    }
}

impl<S: ReadAt + ?Sized> Read for Reader<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read_at(self.offset, buffer)?;
        self.offset += count as u64;
        Ok(count)
    }
}

impl<S: ReadAt + ?Sized> Seek for Reader<'_, S> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let offset = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(from) => self.source.length().checked_add_signed(from),
            SeekFrom::Current(from) => self.offset.checked_add_signed(from),
        };
        self.offset = offset.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.offset)
    }
}

/// A small part of the source at a time, for a walk along headers that lie far apart or close together.
#[derive(Debug)]
pub struct Window<'a, S: ?Sized> {
    source: &'a S,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a, S: ReadAt + ?Sized> Window<'a, S> {
    const BYTES: usize = 4096;

    /// Of which nothing is read yet.
    pub fn new(source: &'a S) -> Self {
        Self { source, start: 0, bytes: Vec::new() }
    }

    /// How many bytes the source has.
    pub fn length(&self) -> u64 {
        self.source.length()
    }

    /// As many bytes as there are from `offset` on, at most `count`.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`].
    pub fn get(&mut self, offset: u64, count: usize) -> io::Result<&[u8]> {
        let count = usize::try_from(self.source.length().saturating_sub(offset)).unwrap_or(usize::MAX).min(count);
        let is_within = offset >= self.start && offset + count as u64 <= self.start + self.bytes.len() as u64;
        if !is_within {
            self.start = offset;
            self.bytes.resize(count.max(Self::BYTES), 0);
            let mut found = 0;
            while found < count {
                match self.source.read_at(offset + found as u64, &mut self.bytes[found..])? {
                    0 => break,
                    more => found += more,
                }
            }
            self.bytes.truncate(found);
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(from..).map_or(&[], |bytes| &bytes[..count.min(bytes.len())]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_shows_what_is_there() {
        let bytes: Vec<u8> = (0..20_000_u32).map(|index| (index * 7 % 251) as u8).collect();
        let mut window = Window::new(&bytes[..]);
        // Forwards, backwards, across a window's end, past the end of all, and more than a window at once.
        for (offset, count) in
            [(0, 8), (8, 13), (4090, 12), (100, 4), (12_000, 9_000), (19_998, 8), (20_000, 1), (1, 20_000)]
        {
            let expected = &bytes[offset..(offset + count).min(bytes.len())];
            assert_eq!(window.get(offset as u64, count).unwrap(), expected, "{offset} {count}");
        }
        assert_eq!(window.get(u64::MAX, 8).unwrap(), b"");
    }

    #[test]
    fn a_reader_goes_where_it_is_sent() {
        let bytes = *b"0123456789";
        let mut reader = Reader::new(&bytes[..]);
        let mut two = [0; 2];
        for (to, expected) in [
            (SeekFrom::Start(3), b"34"),
            (SeekFrom::Current(1), b"67"),
            (SeekFrom::Current(-8), b"01"),
            (SeekFrom::End(-2), b"89"),
        ] {
            reader.seek(to).unwrap();
            reader.read_exact(&mut two).unwrap();
            assert_eq!(&two, expected);
        }
        assert_eq!(reader.read(&mut two).unwrap(), 0);
        assert!(reader.seek(SeekFrom::Current(-11)).is_err());
    }
}
