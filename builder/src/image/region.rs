//! A window onto part of a file that behaves like a whole device.
//!
//! The file system writers want a device of their own that begins at byte 0; a partition is a range of the
//! image file. [`Region`] is that range as a reader and writer that cannot leave it. It remembers how far it was
//! written, so that a block map needs to carry no more than that.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

/// A range of a file, readable and writable like a device of its own.
#[derive(Debug)]
pub struct Region<'a> {
    file: &'a File,
    start: u64,
    length: u64,
    position: u64,
    high_water: u64,
}

impl<'a> Region<'a> {
    /// The `length` bytes of `file` that begin at byte `start`. The file must be at least that long, or be
    /// growable by writing.
    pub fn new(file: &'a File, start: u64, length: u64) -> Self {
        Self { file, start, length, position: 0, high_water: 0 }
    }

    /// One past the last byte that was written, relative to the region.
    pub fn high_water(&self) -> u64 {
        self.high_water
    }

    /// Size of the region in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn room(&self, wanted: usize) -> usize {
        let left = self.length.saturating_sub(self.position);
        usize::try_from(left).map_or(wanted, |left| left.min(wanted))
    }
}

impl Read for Region<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.room(buffer.len());
        let count = self.file.read_at(&mut buffer[..room], self.start + self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Write for Region<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let room = self.room(buffer.len());
        let count = self.file.write_at(&buffer[..room], self.start + self.position)?;
        self.position += count as u64;
        self.high_water = self.high_water.max(self.position);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Region<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position
            .filter(|p| *p <= self.length)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek outside the region"))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_stay_inside() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(30).unwrap();
        let mut region = Region::new(&file, 10, 10);
        assert_eq!(region.write(&[1; 20]).unwrap(), 10);
        assert_eq!(region.write(&[1; 1]).unwrap(), 0);
        assert_eq!(region.high_water(), 10);
        assert!(region.seek(SeekFrom::Start(11)).is_err());
        assert!(region.seek(SeekFrom::Current(-11)).is_err());
        assert_eq!(region.seek(SeekFrom::End(-1)).unwrap(), 9);
        let mut whole = vec![0; 30];
        file.read_exact_at(&mut whole, 0).unwrap();
        assert_eq!(whole, [[0; 10], [1; 10], [0; 10]].concat());
    }

    #[test]
    fn reads_end_at_the_end_of_the_region() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 30], 0).unwrap();
        let mut bytes = Vec::new();
        Region::new(&file, 5, 12).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 12]);
    }
}
