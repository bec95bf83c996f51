//! Block devices and the kernel's own files, which are not written like other files.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The largest piece that is read or cleared at once.
const PIECE: u64 = 1 << 20;

/// The names in a directory, sorted.
pub fn names(path: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// One write to a file that is there: nothing is made, cut or renamed.
pub fn set_kernel(path: &Path, value: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(value.as_bytes())
}

/// Exactly `length` bytes.
pub fn read(device: &Path, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let file = File::open(device)?;
    let length = usize::try_from(length.min(64 * PIECE)).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Zeros, flushed.
pub fn clear(device: &Path, offset: u64, length: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(device)?;
    let zeros = vec![0; usize::try_from(length.min(PIECE)).map_err(|_| io::ErrorKind::InvalidInput)?];
    let mut done = 0;
    while done < length {
        let piece = usize::try_from((length - done).min(PIECE)).map_err(|_| io::ErrorKind::InvalidInput)?;
        file.write_all_at(&zeros[..piece], offset + done)?;
        done += piece as u64;
    }
    file.sync_all()
}

/// The kernel gives a block device to one exclusive user: a mount, a RAID, a mapping, swap.
pub fn is_busy(device: &Path) -> io::Result<bool> {
    match rustix::fs::open(device, OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Ok(false),
        Err(Errno::BUSY) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_cleared_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk");
        std::fs::write(&disk, vec![7_u8; 5 << 20]).unwrap();
        clear(&disk, 0, PIECE).unwrap();
        clear(&disk, 3 << 20, 2 * PIECE).unwrap();
        let bytes = std::fs::read(&disk).unwrap();
        assert_eq!(bytes.len(), 5 << 20);
        let mib = |at: usize| bytes[at << 20..(at + 1) << 20].iter().map(|byte| u64::from(*byte)).sum::<u64>();
        assert_eq!([mib(0), mib(1), mib(2), mib(3), mib(4)], [0, 7 << 20, 7 << 20, 0, 0]);
        assert_eq!(read(&disk, PIECE - 1, 2).unwrap(), [0, 7]);
        assert!(read(&disk, 5 * PIECE, 1).is_err(), "what is not there is not invented");
        assert!(!is_busy(&disk).unwrap());
        assert_eq!(names(directory.path()).unwrap(), ["disk"]);
        assert!(names(&disk).unwrap().is_empty() && names(&directory.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn a_setting_that_the_kernel_lacks_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("setting");
        assert!(set_kernel(&path, "1").is_err() && !path.exists());
    }
}
