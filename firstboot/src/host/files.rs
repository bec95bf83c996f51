//! Files that survive a power cut at any instant.
//!
//! A new content is written to a temporary file beside its place, flushed, renamed over it, and the directory is
//! flushed. So a reader, also one after a crash, finds the old content or the new one and nothing between.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What durable writing asks of a filesystem. The kernel's is [`Kernel`]; tests have one that forgets, at a power
/// cut, whatever was not flushed.
pub trait Filesystem {
    /// A file that is open for writing.
    type File;
    /// Makes the directories that are missing, for good.
    fn make_directories(&self, path: &Path) -> io::Result<()>;
    /// The length of the file at the path; `None` where there is none.
    fn length(&self, path: &Path) -> Option<u64>;
    /// Makes a file that must not be there yet.
    fn create(&self, path: &Path, mode: u32) -> io::Result<Self::File>;
    /// Opens a file to write at its end; makes it where there is none and `mode` is given.
    fn open(&self, path: &Path, mode: Option<u32>) -> io::Result<Self::File>;
    /// Writes at the file's end.
    fn write(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;
    /// Shortens a file.
    fn shorten(&self, file: &mut Self::File, length: u64) -> io::Result<()>;
    /// Flushes a file's content.
    fn flush(&self, file: &Self::File) -> io::Result<()>;
    /// Flushes the names in a directory.
    fn flush_directory(&self, path: &Path) -> io::Result<()>;
    /// Puts a file in another's place, at once.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Makes a symbolic link that must not be there yet.
    fn symlink(&self, target: &str, path: &Path) -> io::Result<()>;
}

/// The kernel's filesystems.
#[derive(Debug, Clone, Copy)]
pub struct Kernel;

impl Filesystem for Kernel {
    type File = File;

    fn make_directories(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.is_dir()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o755).create(path)?;
        // Each new name lies in the directory above it.
        missing.iter().filter_map(|path| path.parent()).try_for_each(|parent| self.flush_directory(parent))
    }

    fn length(&self, path: &Path) -> Option<u64> {
        path.metadata().ok().map(|metadata| metadata.len())
    }

    fn create(&self, path: &Path, mode: u32) -> io::Result<File> {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        // The umask took bits from the mode given to open.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        Ok(file)
    }

    fn open(&self, path: &Path, mode: Option<u32>) -> io::Result<File> {
        OpenOptions::new().append(true).create(mode.is_some()).mode(mode.unwrap_or(0)).open(path)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn shorten(&self, file: &mut File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    fn flush(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn flush_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn symlink(&self, target: &str, path: &Path) -> io::Result<()> {
        std::os::unix::fs::symlink(target, path)
    }
}

/// Writes a file whole and for good.
///
/// # Errors
/// What the kernel says; the old content is then still there.
pub fn write_durable<F: Filesystem>(disk: &F, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (parent, temporary) = beside(path)?;
    disk.make_directories(parent)?;
    remove_stale(disk, &temporary)?;
    let written = (|| {
        let mut file = disk.create(&temporary, mode)?;
        disk.write(&mut file, bytes)?;
        disk.flush(&file)?;
        disk.rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = disk.unlink(&temporary);
    }
    written?;
    disk.flush_directory(parent)
}

/// Makes `path` a symbolic link, whole and for good.
///
/// # Errors
/// What the kernel says; what was there before is then still there.
pub fn link_durable<F: Filesystem>(disk: &F, path: &Path, target: &str) -> io::Result<()> {
    let (parent, temporary) = beside(path)?;
    disk.make_directories(parent)?;
    remove_stale(disk, &temporary)?;
    disk.symlink(target, &temporary)?;
    disk.rename(&temporary, path)?;
    disk.flush_directory(parent)
}

/// Appends to a file of mode 0600 and flushes it, and its directory where the file is new.
///
/// # Errors
/// What the kernel says; a part may have been appended.
pub fn append_durable<F: Filesystem>(disk: &F, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    // An empty file may be what a process left that died before it had flushed the name.
    let new = disk.length(path).is_none_or(|length| length == 0);
    if new {
        disk.make_directories(parent)?;
    }
    let mut file = disk.open(path, Some(0o600))?;
    if new {
        disk.flush_directory(parent)?;
    }
    disk.write(&mut file, bytes)?;
    disk.flush(&file)
}

/// Shortens a file and flushes it.
///
/// # Errors
/// What the kernel says.
pub fn truncate_durable<F: Filesystem>(disk: &F, path: &Path, length: u64) -> io::Result<()> {
    let mut file = disk.open(path, None)?;
    disk.shorten(&mut file, length)?;
    disk.flush(&file)
}

/// Removes a file and flushes its directory; one that is not there is no error.
///
/// # Errors
/// What the kernel says.
pub fn remove_durable<F: Filesystem>(disk: &F, path: &Path) -> io::Result<()> {
    match disk.unlink(path) {
        Ok(()) => disk.flush_directory(path.parent().unwrap_or(Path::new("/"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn beside(path: &Path) -> io::Result<(&Path, PathBuf)> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let parent = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".ingot-new");
    Ok((parent, parent.join(temporary)))
}

/// What a power cut left behind.
fn remove_stale<F: Filesystem>(disk: &F, temporary: &Path) -> io::Result<()> {
    match disk.unlink(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_replaces_whole_with_the_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/file");
        write_durable(&Kernel, &path, b"one", 0o600).unwrap();
        // A crash left a temporary file, of another mode and longer.
        std::fs::write(path.with_file_name(".file.ingot-new"), "left over and longer").unwrap();
        write_durable(&Kernel, &path, b"two", 0o644).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn writing_over_a_link_replaces_the_link() {
        let directory = tempfile::tempdir().unwrap();
        let (outside, link) = (directory.path().join("outside"), directory.path().join("link"));
        std::fs::write(&outside, "keep").unwrap();
        link_durable(&Kernel, &link, outside.to_str().unwrap()).unwrap();
        link_durable(&Kernel, &link, outside.to_str().unwrap()).unwrap();
        write_durable(&Kernel, &link, b"new", 0o600).unwrap();
        assert_eq!(std::fs::read(&outside).unwrap(), b"keep");
        assert!(!link.is_symlink());
    }

    #[test]
    fn appending_shortening_removing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/journal");
        append_durable(&Kernel, &path, b"one").unwrap();
        append_durable(&Kernel, &path, b"two").unwrap();
        truncate_durable(&Kernel, &path, 4).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"onet");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        remove_durable(&Kernel, &path).unwrap();
        remove_durable(&Kernel, &path).unwrap();
        assert!(!path.exists());
    }
}
