//! A configuration medium, mounted where nothing else can see it.
//!
//! The filesystem is mounted read-only without devices, set-uid and programs, detached from every directory tree
//! (`fsmount(2)`), and read through its file descriptor; it is gone when the [`Volume`] is dropped, also when the
//! service is killed. Symbolic links and everything that leads out of the volume are refused by the kernel
//! (`openat2(2)`), and files are read up to 1 MiB.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use thiserror::Error;

use crate::config::MAXIMUM_DOCUMENT_BYTES;

/// Filesystems that a medium may have, with the options that keep the kernel from writing to it.
const FILESYSTEMS: [(&str, &[&str]); 3] = [("vfat", &[]), ("iso9660", &[]), ("ext4", &["noload"])];

/// More entries than this in its top directory, and it is no configuration medium.
const MAXIMUM_ENTRIES: usize = 10_000;

/// A medium cannot be read.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// None of the filesystems fits.
    #[error("it cannot be mounted as FAT, ISO 9660 or ext4 ({0})")]
    Mount(String),
    /// A file is not a plain one.
    #[error("{0} is not a regular file; symbolic links and the like are refused")]
    NotAFile(String),
    /// A file is too large.
    #[error("{0} is larger than 1 MiB")]
    TooLarge(String),
    /// There is too much on it.
    #[error("it has more than {MAXIMUM_ENTRIES} files; is it the right medium?")]
    TooMany,
    /// Reading failed.
    #[error("cannot read {name}: {source}")]
    Read {
        /// The file.
        name: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A medium's top directory.
#[derive(Debug)]
pub struct Volume {
    root: OwnedFd,
    /// Keeps the mount: the kernel dissolves it when this is closed.
    _mount: Option<OwnedFd>,
    /// Held until the mount is gone.
    _turn: Option<MutexGuard<'static, ()>>,
}

impl VolumeError {
    /// True where the medium itself failed, such as one that was pulled out: reading it again may help.
    pub fn is_broken_medium(&self) -> bool {
        matches!(self, VolumeError::Read { source, .. } if source.kind() != std::io::ErrorKind::NotFound)
    }
}
/// Held while a medium is mounted: it cannot be mounted read-only and writable at once.
pub(super) static MOUNTING: Mutex<()> = Mutex::new(());

impl Volume {
    /// Mounts a device.
    ///
    /// # Errors
    /// [`VolumeError::Mount`].
    pub fn open_device(device: &Path) -> Result<Self, VolumeError> {
        let turn = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reasons = Vec::new();
        for (filesystem, options) in FILESYSTEMS {
            match mount(device, filesystem, options) {
                Ok((root, mount)) => return Ok(Self { root, _mount: Some(mount), _turn: Some(turn) }),
                Err(error) => reasons.push(format!("{filesystem}: {error}")),
            }
        }
        Err(VolumeError::Mount(reasons.join("; ")))
    }

    /// Takes a directory as a medium.
    ///
    /// # Errors
    /// [`VolumeError::Read`].
    pub fn open_directory(directory: &Path) -> Result<Self, VolumeError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty()).map_err(failed("."))?;
        Ok(Self { root, _mount: None, _turn: None })
    }

    /// The names in the top directory, sorted.
    ///
    /// # Errors
    /// [`VolumeError::Read`] and [`VolumeError::TooMany`].
    pub fn names(&self) -> Result<Vec<String>, VolumeError> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.root).map_err(failed("."))? {
            let entry = entry.map_err(failed("."))?;
            if names.len() >= MAXIMUM_ENTRIES {
                return Err(VolumeError::TooMany);
            }
            if let Ok(name) = entry.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Reads a file, where there is one at this path.
    ///
    /// # Errors
    /// All of [`VolumeError`] but the mount's.
    pub fn find(&self, path: &str) -> Result<Option<Vec<u8>>, VolumeError> {
        match self.read(path) {
            Err(VolumeError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

    /// Reads a file by its path from the top directory.
    ///
    /// # Errors
    /// All of [`VolumeError`] but the mount's.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, VolumeError> {
        // Looked at before it is opened: opening a device or a pipe can have effects of its own.
        let stat = statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed(name))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(VolumeError::NotAFile(name.to_owned()));
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let file = openat2(&self.root, name, flags, Mode::empty(), resolve).map_err(failed(name))?;
        let mut bytes = Vec::new();
        let limit = MAXIMUM_DOCUMENT_BYTES as u64 + 1;
        let read = |source| VolumeError::Read { name: name.to_owned(), source };
        File::from(file).take(limit).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() > MAXIMUM_DOCUMENT_BYTES {
            return Err(VolumeError::TooLarge(name.to_owned()));
        }
        Ok(bytes)
    }
}

fn failed(name: &str) -> impl FnOnce(Errno) -> VolumeError {
    let name = name.to_owned();
    move |errno| VolumeError::Read { name, source: errno.into() }
}

/// The top directory, opened, and the mount.
fn mount(device: &Path, filesystem: &str, options: &[&str]) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let context = fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", device)?;
    fsconfig_set_flag(&context, "ro")?;
    for option in options {
        fsconfig_set_flag(&context, *option)?;
    }
    fsconfig_create(&context)?;
    let safe = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    // Linux 5.14 can refuse links for the whole mount too; openat2 refuses them in any case.
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, safe | MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW)
        .or_else(|_| fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, safe))?;
    // What fsmount gives is a mere path (O_PATH), which cannot be listed.
    let root = rustix::fs::openat(&mounted, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((root, mounted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_pipes_directories_and_large_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("node.toml"), "version = 1").unwrap();
        std::os::unix::fs::symlink("node.toml", at("inner")).unwrap();
        std::os::unix::fs::symlink("/etc/shadow", at("outer")).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        File::create(at("large")).unwrap().set_len(MAXIMUM_DOCUMENT_BYTES as u64 + 1).unwrap();
        let volume = Volume::open_directory(directory.path()).unwrap();
        assert_eq!(volume.read("node.toml").unwrap(), b"version = 1");
        for name in ["inner", "outer", "directory", "pipe"] {
            assert!(matches!(volume.read(name), Err(VolumeError::NotAFile(_))), "{name}");
        }
        assert!(matches!(volume.read("large"), Err(VolumeError::TooLarge(_))));
        assert!(matches!(volume.read("../etc/passwd"), Err(VolumeError::Read { .. })));
        assert!(matches!(volume.read("none"), Err(VolumeError::Read { .. })));
        assert!(volume.names().unwrap().contains(&"node.toml".to_owned()));
    }

    #[test]
    fn a_file_in_a_directory_is_found_and_its_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("openstack/latest")).unwrap();
        std::fs::write(directory.path().join("openstack/latest/user_data"), "x").unwrap();
        std::os::unix::fs::symlink("openstack", directory.path().join("other")).unwrap();
        let volume = Volume::open_directory(directory.path()).unwrap();
        assert_eq!(volume.find("openstack/latest/user_data").unwrap().unwrap(), b"x");
        assert_eq!(volume.find("openstack/latest/none").unwrap(), None);
        assert_eq!(volume.find("none/latest/user_data").unwrap(), None);
        assert!(volume.find("other/latest/user_data").is_err());
    }

    #[test]
    fn a_medium_that_fails_while_it_is_read_is_told_apart() {
        // The kernel refuses to read the first page of a process's memory: EIO, as from a stick that is gone.
        let volume = Volume::open_directory(Path::new("/proc/self")).unwrap();
        let error = volume.read("mem").unwrap_err();
        assert!(error.is_broken_medium() && error.to_string().contains("Input/output error"), "{error}");
        assert!(!volume.read("no-such-file").unwrap_err().is_broken_medium());
        assert!(!VolumeError::TooLarge("x".into()).is_broken_medium());
    }

    #[test]
    fn what_is_no_filesystem_is_explained() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Volume::open_device(file.path()).unwrap_err().to_string();
        assert!(error.starts_with("it cannot be mounted as FAT, ISO 9660 or ext4"), "{error}");
    }
}
