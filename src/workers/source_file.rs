//! A source as a worker has it: a descriptor of a file that others may write to meanwhile.
#![forbid(unsafe_code)]

use std::{cell::RefCell, io, os::fd::BorrowedFd};

use rustix::{
    buffer::spare_capacity,
    fs::{FileType, Stat, fstat},
    io::{Errno, pread, retry_on_intr},
};

use super::job::Answer;
use crate::render::source::ReadAt;

/// A regular file, of the length that it had when it was opened. Never mapped: one that shrinks meanwhile would be a
/// `SIGBUS`.
pub struct SourceFile<'a> {
    descriptor: BorrowedFd<'a>,
    length: u64,
    version: Version,
    /// The first thing that went wrong with reading it.
    failure: RefCell<Option<Answer>>,
}

/// Length, and the time of the last change of content.
type Version = (i128, i128, i128);

impl<'a> SourceFile<'a> {
    /// # Errors
    /// [`Answer::Source`] of what is no regular file, [`Answer::SourceChanged`] of a longer one.
    pub fn open(descriptor: BorrowedFd<'a>, max_bytes: u64) -> Result<Self, Answer> {
        let refused = |errno: Errno| Answer::Source(errno.into());
        let stat = retry_on_intr(|| fstat(descriptor)).map_err(refused)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(refused(Errno::INVAL));
        }
        let length = u64::try_from(stat.st_size).ok().filter(|length| *length <= max_bytes);
        let length = length.ok_or(Answer::SourceChanged)?;
        Ok(Self { descriptor, length, version: version(&stat), failure: RefCell::default() })
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// When it cannot be read, or has another length by now.
    pub fn whole(&self) -> Result<Vec<u8>, Answer> {
        let length = usize::try_from(self.length).map_err(|_| Answer::SourceChanged)?;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let offset = bytes.len() as u64;
            match pread(self.descriptor, spare_capacity(&mut bytes), offset) {
                Ok(0) => return Err(Answer::SourceChanged),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Answer::Source(errno.into())),
            }
        }
        // It grew meanwhile, and the allocator gave more room than was asked for.
        if bytes.len() > length {
            return Err(Answer::SourceChanged);
        }
        Ok(bytes)
    }

    /// What was made of its pieces, if they all were of one file.
    ///
    /// # Errors
    /// When a piece could not be read, or the file is another one by now: whatever was made of it, or thought wrong with it,
    /// says nothing then.
    pub fn said<T>(&self, made: T) -> Result<T, Answer> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let stat = retry_on_intr(|| fstat(self.descriptor)).map_err(|errno| Answer::Source(errno.into()))?;
        if version(&stat) == self.version { Ok(made) } else { Err(Answer::SourceChanged) }
    }
}

impl ReadAt for SourceFile<'_> {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(rest);
        let failed = |answer: Answer, error: io::Error| {
            self.failure.borrow_mut().get_or_insert(answer);
            Err(error)
        };
        match retry_on_intr(|| pread(self.descriptor, &mut buffer[..wanted], offset)) {
            Ok(0) if wanted > 0 => failed(Answer::SourceChanged, io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(count),
            Err(errno) => failed(Answer::Source(errno.into()), errno.into()),
        }
    }
}

fn version(stat: &Stat) -> Version {
    (stat.st_size.into(), stat.st_mtime.into(), stat.st_mtime_nsec.into())
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::fd::AsFd as _};

    use super::*;

    #[test]
    fn a_file_is_read_as_it_was_when_it_was_opened_or_not_at_all() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        assert!(matches!(SourceFile::open(file.as_fd(), 9), Err(Answer::SourceChanged)));
        let open = || SourceFile::open(file.as_fd(), 10).unwrap_or_else(|_| panic!("it is not longer"));
        let mut four = [0; 4];
        let source = open();
        assert_eq!(source.whole().ok(), Some(b"0123456789".to_vec()));
        assert_eq!((source.read_at(8, &mut four).ok(), &four[..2]), (Some(2), &b"89"[..]));
        assert_eq!(source.read_at(10, &mut four).ok(), Some(0));
        assert!(matches!(source.said("made"), Ok("made")));
        file.set_len(5).unwrap();
        assert!(source.read_at(4, &mut four).is_ok_and(|count| count == 1));
        assert!(matches!(source.said("made"), Err(Answer::SourceChanged)));
        let source = open();
        file.set_len(2).unwrap();
        assert!(source.read_at(4, &mut four).is_err());
        assert!(source.whole().is_err());
        file.set_len(5).unwrap();
        // A piece was missing for a moment.
        assert!(matches!(source.said("made"), Err(Answer::SourceChanged)));
    }

    #[test]
    fn a_device_is_no_source() {
        let zero = std::fs::File::open("/dev/zero").unwrap();
        assert!(matches!(SourceFile::open(zero.as_fd(), 100), Err(Answer::Source(_))));
    }
}
