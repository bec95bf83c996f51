//! Files that survive a power cut at any instant.
//!
//! A new content is written to a temporary file beside its place, flushed, renamed over it, and the directory is
//! flushed. So a reader, also one after a crash, finds the old content or the new one and nothing between.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Writes a file whole and for good.
///
/// # Errors
/// What the kernel says; the old content is then still there.
pub fn write_durable(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (parent, temporary) = beside(path)?;
    make_directories(parent)?;
    remove_stale(&temporary)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    let written = (|| {
        // The umask took bits from the mode given to open.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    sync_directory(parent)
}

/// Makes `path` a symbolic link, whole and for good.
///
/// # Errors
/// What the kernel says; what was there before is then still there.
pub fn link_durable(path: &Path, target: &str) -> io::Result<()> {
    let (parent, temporary) = beside(path)?;
    make_directories(parent)?;
    remove_stale(&temporary)?;
    std::os::unix::fs::symlink(target, &temporary)?;
    std::fs::rename(&temporary, path)?;
    sync_directory(parent)
}

/// Appends to a file of mode 0600 and flushes it, and its directory where the file is new.
///
/// # Errors
/// What the kernel says; a part may have been appended.
pub fn append_durable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let new = !path.exists();
    if new {
        make_directories(parent)?;
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    if new { sync_directory(parent) } else { Ok(()) }
}

/// Shortens a file and flushes it.
///
/// # Errors
/// What the kernel says.
pub fn truncate_durable(path: &Path, length: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(length)?;
    file.sync_all()
}

/// Removes a file and flushes its directory; one that is not there is no error.
///
/// # Errors
/// What the kernel says.
pub fn remove_durable(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_directory(path.parent().unwrap_or(Path::new("/"))),
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
fn remove_stale(temporary: &Path) -> io::Result<()> {
    match std::fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn make_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_replaces_whole_with_the_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/file");
        write_durable(&path, b"one", 0o600).unwrap();
        // A crash left a temporary file, of another mode and longer.
        std::fs::write(path.with_file_name(".file.ingot-new"), "left over and longer").unwrap();
        write_durable(&path, b"two", 0o644).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn writing_over_a_link_replaces_the_link() {
        let directory = tempfile::tempdir().unwrap();
        let (outside, link) = (directory.path().join("outside"), directory.path().join("link"));
        std::fs::write(&outside, "keep").unwrap();
        link_durable(&link, outside.to_str().unwrap()).unwrap();
        link_durable(&link, outside.to_str().unwrap()).unwrap();
        write_durable(&link, b"new", 0o600).unwrap();
        assert_eq!(std::fs::read(&outside).unwrap(), b"keep");
        assert!(!link.is_symlink());
    }

    #[test]
    fn appending_shortening_removing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/journal");
        append_durable(&path, b"one").unwrap();
        append_durable(&path, b"two").unwrap();
        truncate_durable(&path, 4).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"onet");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        remove_durable(&path).unwrap();
        remove_durable(&path).unwrap();
        assert!(!path.exists());
    }
}
