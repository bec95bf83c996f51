//! Files and directories with an owner, at paths from outside.
//!
//! A configuration names the path, and another user may own directories on the way. So no symbolic link is followed on
//! the way: whoever could place one would have root write elsewhere. Writing survives a power cut at any instant, as in
//! [`files`](super::files).

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::{Ids, ImageFile, Standing};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What stands at a path below `root`, links on the way not followed.
///
/// # Errors
/// What the kernel says; a link on the way is [`Errno::NOTDIR`].
pub fn look(root: &Path, path: &str) -> io::Result<Option<Standing>> {
    let walked = walk(root, path, None);
    let (directory, name) = match walked {
        Ok(walked) => walked,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let stat = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let ids = Ids { uid: stat.st_uid, gid: stat.st_gid };
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Standing::File { mode: stat.st_mode & 0o7777, ids },
        FileType::Directory => Standing::Directory { ids },
        FileType::Symlink => {
            let target = readlinkat(&directory, name, Vec::new())?;
            Standing::Link(target.to_string_lossy().into_owned())
        }
        _ => Standing::Other,
    }))
}

/// The file of the mounted root itself, below everything that is mounted over it.
///
/// # Errors
/// What the kernel says, such as that only root may ask.
pub fn image_file(path: &str, limit: u64) -> io::Result<Option<ImageFile>> {
    // A copy of the root's mount alone, without the layers over `/etc`; it is seen by nobody and goes with its handle.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let root = open_tree(rustix::fs::CWD, "/", flags)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut file = match openat2(&root, path.trim_start_matches('/'), flags, Mode::empty(), resolve) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    (&mut file).take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let ids = Ids { uid: metadata.uid(), gid: metadata.gid() };
    Ok(Some(ImageFile { bytes, mode: metadata.mode() & 0o7777, ids }))
}

/// Writes a file whole and for good. Directories on the way that are missing are made, with the same owner.
///
/// # Errors
/// What the kernel says; the old content is then still there.
pub fn write(root: &Path, path: &str, bytes: &[u8], mode: u32, ids: Ids) -> io::Result<()> {
    let (directory, name) = walk(root, path, Some(ids))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".ingot-new");
    match unlinkat(&directory, &temporary, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(&directory, &temporary, flags, Mode::RUSR | Mode::WUSR)?);
    let written = (|| {
        // The owner first: changing it may take bits from the mode.
        own(&file, ids)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        renameat(&directory, &temporary, &directory, name).map_err(io::Error::from)
    })();
    if written.is_err() {
        let _ = unlinkat(&directory, &temporary, AtFlags::empty());
    }
    written?;
    rustix::fs::fsync(&directory)?;
    Ok(())
}

/// Makes a directory, where it is not there, and gives it its mode and owner in any case. Those on the way are root's.
///
/// # Errors
/// What the kernel says.
pub fn make_directory(root: &Path, path: &str, mode: u32, ids: Ids) -> io::Result<()> {
    let (parent, name) = walk(root, path, Some(Ids::ROOT))?;
    match mkdirat(&parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = File::from(openat(&parent, name, DIRECTORY, Mode::empty())?);
    own(&directory, ids)?;
    directory.set_permissions(Permissions::from_mode(mode))?;
    directory.sync_all()?;
    rustix::fs::fsync(&parent)?;
    Ok(())
}

/// Only where it changes: a program that is not root may still write its own files.
fn own(file: &File, ids: Ids) -> io::Result<()> {
    let metadata = file.metadata()?;
    if (metadata.uid(), metadata.gid()) == (ids.uid, ids.gid) {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(ids.uid), Some(ids.gid))
}

/// Opens the directory that a path lies in, and gives the path's last part. With an owner, what is missing on the way
/// is made.
fn walk<'a>(root: &Path, path: &'a str, make: Option<Ids>) -> io::Result<(OwnedFd, &'a OsStr)> {
    let mut parts = Vec::new();
    for component in Path::new(path.trim_start_matches('/')).components() {
        match component {
            Component::Normal(part) => parts.push(part),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    let name = parts.pop().ok_or(io::ErrorKind::InvalidInput)?;
    let mut directory = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for part in parts {
        directory = match (openat(&directory, part, DIRECTORY, Mode::empty()), make) {
            (Ok(next), _) => next,
            (Err(Errno::NOENT), Some(ids)) => {
                mkdirat(&directory, part, Mode::from_raw_mode(0o755))?;
                let next = openat(&directory, part, DIRECTORY, Mode::empty())?;
                let opened = File::from(next);
                own(&opened, ids)?;
                // The umask took bits from the mode given to mkdir.
                opened.set_permissions(Permissions::from_mode(0o755))?;
                rustix::fs::fsync(&directory)?;
                OwnedFd::from(opened)
            }
            (Err(error), _) => return Err(error.into()),
        };
    }
    Ok((directory, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mine() -> Ids {
        Ids { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() }
    }

    #[test]
    fn the_roots_own_file_is_found_below_what_is_mounted_over_it() {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let covered = mounts.lines().any(|line| line.split(' ').nth(4) == Some("/etc"));
        match image_file("/etc/passwd", 1 << 20) {
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => println!("skipped: not root"),
            Err(error) => panic!("{error}"),
            Ok(found) if !covered => {
                assert_eq!(found.unwrap().bytes, std::fs::read("/etc/passwd").unwrap());
                assert_eq!(image_file("/etc/absent", 9).unwrap(), None);
                assert_eq!(image_file("/etc", 9).unwrap(), None);
                assert!(image_file("/etc/passwd", 1).is_err());
            }
            Ok(_) => {}
        }
    }

    #[test]
    fn a_file_is_written_with_what_is_missing_on_the_way() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "/home/ops/.config/x", b"one", 0o600, mine()).unwrap();
        write(root.path(), "/home/ops/.config/x", b"two", 0o640, mine()).unwrap();
        let file = root.path().join("home/ops/.config/x");
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(
            look(root.path(), "/home/ops/.config/x").unwrap(),
            Some(Standing::File { mode: 0o640, ids: mine() })
        );
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        assert_eq!(look(root.path(), "/home/ops").unwrap(), Some(Standing::Directory { ids: mine() }));
        assert_eq!(look(root.path(), "/home/none/x").unwrap(), None);
        assert_eq!(look(root.path(), "/none").unwrap(), None);
    }

    #[test]
    fn no_link_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("home")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("home/ops")).unwrap();
        for result in [
            write(root.path(), "/home/ops/x", b"", 0o600, mine()),
            make_directory(root.path(), "/home/ops", 0o700, mine()),
            make_directory(root.path(), "/home/ops/x", 0o700, mine()),
            look(root.path(), "/home/ops/x").map(|_| ()),
            write(root.path(), "/home/../x", b"", 0o600, mine()),
            write(root.path(), "/", b"", 0o600, mine()),
        ] {
            assert!(result.is_err());
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        let link = Standing::Link(outside.path().to_string_lossy().into_owned());
        assert_eq!(look(root.path(), "/home/ops").unwrap(), Some(link));
        // A link at the very place is replaced, not followed.
        std::fs::write(outside.path().join("kept"), "kept").unwrap();
        std::os::unix::fs::symlink(outside.path().join("kept"), root.path().join("home/link")).unwrap();
        write(root.path(), "/home/link", b"new", 0o600, mine()).unwrap();
        assert_eq!(std::fs::read(outside.path().join("kept")).unwrap(), b"kept");
        assert_eq!(std::fs::read(root.path().join("home/link")).unwrap(), b"new");
    }

    #[test]
    fn a_directory_gets_its_mode_also_when_it_is_there() {
        let root = tempfile::tempdir().unwrap();
        make_directory(root.path(), "/home/ops", 0o700, mine()).unwrap();
        make_directory(root.path(), "/home/ops", 0o750, mine()).unwrap();
        assert_eq!(root.path().join("home/ops").metadata().unwrap().permissions().mode() & 0o777, 0o750);
    }
}
