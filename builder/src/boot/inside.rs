//! Opening files of an unpacked root.
//!
//! A root's symbolic links mean paths inside the root, and a package may have made them point anywhere. The kernel
//! resolves them against the root as if it were `/`, so that no link reads a file of the host.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// Opens a regular file by its path inside the root.
pub fn open(root: &Path, path: &Path) -> io::Result<File> {
    let root = File::open(root)?;
    // Without blocking: a pipe in the file's place must not stop the build.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

/// Reads a regular file by its path inside the root.
pub fn read(root: &Path, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(root, path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(dir.path().join("secret"), "host").unwrap();
        std::fs::write(root.join("etc/real"), "root").unwrap();
        symlink("/etc/real", root.join("absolute")).unwrap();
        symlink("../../secret", root.join("etc/up")).unwrap();
        symlink(dir.path().join("secret"), root.join("away")).unwrap();
        assert_eq!(read(&root, Path::new("absolute")).unwrap(), b"root");
        for path in ["etc/up", "away", "../secret", "etc"] {
            assert!(read(&root, Path::new(path)).is_err(), "{path}");
        }
    }
}
