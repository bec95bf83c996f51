//! Reading and writing a disk by byte offset, so that what writes a partition table or checks a hash tree can be
//! tested on an image file, in memory, and on a disk that loses power.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Something to read at byte offsets, from several threads.
pub trait Source: Sync {
    /// Fills the buffer from this offset, or fails.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// A disk.
pub trait Storage: Source {
    /// Writes all bytes at this offset. They are durable after [`flush`](Self::flush), and in any order before it.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes all that was written durable.
    fn flush(&mut self) -> io::Result<()>;
}

impl Source for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl Storage for File {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// A part of a source, as a partition is one of a disk. Reads beyond its end fail.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a, S: ?Sized> {
    source: &'a S,
    start: u64,
    length: u64,
}

impl<'a, S: Source + ?Sized> Section<'a, S> {
    /// The `length` bytes from `start`.
    pub fn new(source: &'a S, start: u64, length: u64) -> Self {
        Self { source, start, length }
    }

    /// The length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl<S: Source + ?Sized> Source for Section<'_, S> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        match (end, self.start.checked_add(offset)) {
            (Some(end), Some(start)) if end <= self.length => self.source.read_at(start, buffer),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Source for Vec<u8> {
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let bytes = start.checked_add(buffer.len()).and_then(|end| self.get(start..end));
            buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    #[test]
    fn a_section_ends_where_it_ends() {
        let disk: Vec<u8> = (0..100).collect();
        let section = Section::new(&disk, 10, 20);
        let mut two = [0; 2];
        section.read_at(18, &mut two).unwrap();
        assert_eq!(two, [28, 29]);
        assert!(section.read_at(19, &mut two).is_err());
        assert!(section.read_at(u64::MAX, &mut two).is_err());
        assert!(Section::new(&disk, 90, 20).read_at(15, &mut two).is_err());
    }
}
