//! Unpacking a package's files below a directory, as `dpkg-deb --extract` does: for the first packages of a root,
//! before it has a dpkg, and for trees of tools that are run and never upgraded.
//!
//! The archive is not trusted. Every path is resolved by the kernel with the directory as its root (`openat2` with
//! `RESOLVE_IN_ROOT`), so that neither `..` nor a symbolic link, absolute or planted by an earlier entry or
//! package, leads outside; links between directories (`/bin` to `usr/bin`) are followed within.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::StoreError;
use super::deb::Deb;

/// What of an entry's metadata is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Owner and group of the archive: needs to be root, at least in a namespace.
    Archive,
    /// Everything belongs to whoever unpacks.
    Own,
}

impl Deb {
    /// Unpacks `data.tar` below `root`, which must exist. Files that are there already are replaced; directories, and
    /// symbolic links to directories, are kept.
    pub fn unpack(&self, root: &Path, owners: Owners) -> Result<(), StoreError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| StoreError::Io {
            action: "open",
            path: root.to_owned(),
            source: e.into(),
        })?;
        let mut tree = Tree { root: fd, owners, last: None, directories: Vec::new() };
        self.for_each(|entry| {
            let path = entry.path().map(std::borrow::Cow::into_owned).unwrap_or_default();
            tree.place(entry, &path).map_err(|source| StoreError::Io {
                action: "unpack",
                path: root.join(&path),
                source,
            })
        })?;
        // Times of directories last: putting something into one changes its time.
        for (path, times) in std::mem::take(&mut tree.directories).iter().rev() {
            tree.set_times(path, times).map_err(|source| StoreError::Io {
                action: "set the time of",
                path: root.join(path),
                source,
            })?;
        }
        Ok(())
    }
}

struct Tree {
    root: OwnedFd,
    owners: Owners,
    /// The directory of the entry before: archives list a directory's files together.
    last: Option<(PathBuf, OwnedFd)>,
    /// Directories of the archive, with the times they are to have.
    directories: Vec<(PathBuf, Timestamps)>,
}

impl Tree {
    fn place<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &Path) -> io::Result<()> {
        let header = entry.header();
        let kind = header.entry_type();
        let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
        let times = times(header.mtime()?);
        let owner = match self.owners {
            Owners::Archive => Some((owner_id(header.uid()?)?, owner_id(header.gid()?)?)),
            Owners::Own => None,
        };
        let link = entry.link_name()?.map(std::borrow::Cow::into_owned);
        let path = inside(path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            // The directory itself: `./`.
            return Ok(());
        };
        let directory = self.directory(parent)?;
        if kind.is_dir() {
            return self.place_directory(&directory, &path, name, mode, owner, times);
        }
        remove_file(&directory, name)?;
        if kind.is_hard_link() {
            let target = inside(&link.ok_or_else(|| invalid("a hard link without a target"))?)?;
            let (Some(parent), Some(target)) = (target.parent(), target.file_name()) else {
                return Err(invalid("a hard link to the root"));
            };
            let from = self.directory(parent)?;
            return Ok(rustix::fs::linkat(&from, target, &directory, name, AtFlags::empty())?);
        }
        if kind.is_symlink() {
            let target = link.ok_or_else(|| invalid("a symbolic link without a target"))?;
            rustix::fs::symlinkat(target.as_os_str().as_bytes(), &directory, name)?;
            if let Some((uid, gid)) = owner {
                rustix::fs::chownat(&directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            return Ok(rustix::fs::utimensat(&directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)?);
        }
        if kind.is_fifo() {
            rustix::fs::mknodat(&directory, name, FileType::Fifo, mode, 0)?;
            return Ok(());
        }
        if !kind.is_file() && !kind.is_contiguous() {
            return Err(invalid("an entry that is no file, directory, link or pipe"));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = std::fs::File::from(rustix::fs::openat(&directory, name, flags, Mode::RUSR | Mode::WUSR)?);
        io::copy(entry, &mut file)?;
        // The owner before the mode: changing the owner takes set-user-ID bits away.
        if let Some((uid, gid)) = owner {
            rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(&file, mode)?;
        Ok(rustix::fs::futimens(&file, &times)?)
    }

    fn place_directory(
        &mut self,
        parent: &OwnedFd,
        path: &Path,
        name: &std::ffi::OsStr,
        mode: Mode,
        owner: Option<(Uid, Gid)>,
        times: Timestamps,
    ) -> io::Result<()> {
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(directory) => directory,
            // A link to a directory stays as it is; anything else stands in the way.
            Err(Errno::LOOP | Errno::NOTDIR) => return self.resolve(path).map(drop),
            Err(error) => return Err(error.into()),
        };
        if let Some((uid, gid)) = owner {
            rustix::fs::fchown(&directory, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(&directory, mode)?;
        self.directories.push((path.to_owned(), times));
        Ok(())
    }

    fn set_times(&mut self, path: &Path, times: &Timestamps) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let parent = self.directory(parent)?;
        Ok(rustix::fs::utimensat(&parent, name, times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// A directory below the root, made with its parents where it is not there.
    fn directory(&mut self, path: &Path) -> io::Result<OwnedFd> {
        if let Some((_, fd)) = self.last.as_ref().filter(|(known, _)| known == path) {
            return fd.try_clone();
        }
        let fd = match self.resolve(path) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(error) };
                let parent = self.directory(parent)?;
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => self.resolve(path)?,
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error),
        };
        self.last = Some((path.to_owned(), fd.try_clone()?));
        Ok(fd)
    }

    fn resolve(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(&self.root, path, flags, Mode::empty(), how)?)
    }
}

/// A path as one below the root; one that climbs is refused, for it can only be meant badly.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(invalid("a path that climbs out with `..`")),
        }
    }
    Ok(clean)
}

fn remove_file(directory: &OwnedFd, name: &std::ffi::OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn times(seconds: u64) -> Timestamps {
    let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(0), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn owner_id<T: From32>(id: u64) -> io::Result<T> {
    // The largest number is the kernel's word for `no change`.
    let id = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    id.map(T::from_32).ok_or_else(|| invalid("an owner whose number is too large"))
}

trait From32 {
    fn from_32(id: u32) -> Self;
}

impl From32 for Uid {
    fn from_32(id: u32) -> Self {
        Self::from_raw(id)
    }
}

impl From32 for Gid {
    fn from_32(id: u32) -> Self {
        Self::from_raw(id)
    }
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
