//! Unpacks the `data.tar` of packages into a tree, without dpkg: for the essential packages that dpkg itself
//! needs to run, for the tools tree and for containers.
//!
//! What an archive names is never trusted to stay inside: every path is opened by the kernel with
//! `RESOLVE_IN_ROOT`, so a `..` or a symbolic link leads to a place below the tree, whatever it says.

use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};

use super::RootError;
use crate::progress::Task;
use crate::store::deb::Deb;

/// Directories that are symbolic links into `/usr` on every base since Ubuntu 22.04 and Debian 12.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Makes the skeleton of a merged-/usr tree.
pub fn prepare(root: &Path) -> Result<(), RootError> {
    for name in MERGED {
        let target = root.join("usr").join(name);
        std::fs::create_dir_all(&target).map_err(RootError::io(&target))?;
        let link = root.join(name);
        if link.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(format!("usr/{name}"), &link).map_err(RootError::io(&link))?;
        }
    }
    Ok(())
}

/// Unpacks every package into `root`, several at a time. Owners and modes are kept, times are not.
///
/// Where two packages have the same file the later in the list wins, so the result does not depend on
/// which thread was first: packages that share a file are unpacked in the order of the list.
pub fn unpack_all(root: &Path, debs: &[PathBuf], jobs: usize, task: &dyn Task) -> Result<(), RootError> {
    let next = Mutex::new(debs.iter());
    let failed: Mutex<Option<RootError>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, 32) {
            scope.spawn(|| {
                loop {
                    let Some(deb) = next.lock().ok().and_then(|mut n| n.next()) else { break };
                    if failed.lock().is_ok_and(|f| f.is_some()) {
                        break;
                    }
                    if let Err(error) = unpack(root, deb) {
                        if let Ok(mut failed) = failed.lock() {
                            failed.get_or_insert(error);
                        }
                    }
                    task.advance(1);
                }
            });
        }
    });
    match failed.into_inner() {
        Ok(Some(error)) => Err(error),
        _ => Ok(()),
    }
}

/// Unpacks one package.
pub fn unpack(root: &Path, deb: &Path) -> Result<(), RootError> {
    let archive = Deb::open(deb)?;
    let mut unpacker = Unpacker::new(root)?;
    archive.for_each(|entry| {
        let name = entry.path_bytes().into_owned();
        unpacker.entry(entry).map_err(|source| RootError::Unpack {
            package: deb.to_owned(),
            entry: String::from_utf8_lossy(&name).into_owned(),
            source,
        })
    })
}

struct Unpacker {
    root: OwnedFd,
    /// The directory opened last: entries of one directory follow each other.
    parent: Option<(PathBuf, OwnedFd)>,
}

impl Unpacker {
    fn new(root: &Path) -> Result<Self, RootError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(|e| RootError::io(root)(e.into()))?;
        Ok(Self { root, parent: None })
    }

    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
        let path = relative(&entry.path()?)?;
        let Some(name) = path.file_name().map(std::ffi::OsStr::to_owned) else {
            return Ok(()); // the entry of the root itself
        };
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        let mode = Mode::from_raw_mode(entry.header().mode()? & 0o7777);
        let uid = u32::try_from(entry.header().uid()?).map_err(io::Error::other)?;
        let gid = u32::try_from(entry.header().gid()?).map_err(io::Error::other)?;
        let kind = entry.header().entry_type();
        let root = rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?;
        let parent = self.directory(&directory)?;
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match kind {
            tar::EntryType::Directory => {
                match rustix::fs::mkdirat(parent, &name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => {}
                    // A directory that is there, or a link to one (/lib), stays what it is, as with dpkg.
                    Err(rustix::io::Errno::EXIST) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
                rustix::fs::chownat(parent, &name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
                rustix::fs::chmodat(parent, &name, mode, AtFlags::empty())?;
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| io::Error::other("a symbolic link to nothing"))?;
                remove(parent, &name)?;
                rustix::fs::symlinkat(target.as_os_str(), parent, &name)?;
                rustix::fs::chownat(parent, &name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            tar::EntryType::Link => {
                let target = relative(&entry.link_name()?.ok_or_else(|| io::Error::other("a link to nothing"))?)?;
                let target_name = target.file_name().ok_or_else(|| io::Error::other("a link to the root"))?;
                let target_parent = open_below(&root, target.parent().unwrap_or(Path::new("")))?;
                remove(parent, &name)?;
                rustix::fs::linkat(&target_parent, target_name, parent, &name, AtFlags::empty())?;
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                remove(parent, &name)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(parent, &name, flags, Mode::from_raw_mode(0o600))?;
                let mut file = std::fs::File::from(file);
                io::copy(entry, &mut file)?;
                rustix::fs::fchown(&file, owner.0, owner.1)?;
                rustix::fs::fchmod(&file, mode)?;
                let time = Timespec { tv_sec: i64::try_from(entry.header().mtime()?).unwrap_or(0), tv_nsec: 0 };
                rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
            }
            // Debian policy allows no device nodes in packages, and everything else is metadata.
            _ => {}
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path) -> io::Result<BorrowedFd<'_>> {
        if self.parent.as_ref().is_none_or(|(open, _)| open != path) {
            let fd = match open_below(&self.root, path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.make_directories(path)?;
                    open_below(&self.root, path)?
                }
                other => other?,
            };
            self.parent = Some((path.to_owned(), fd));
        }
        match &self.parent {
            Some((_, fd)) => Ok(fd.as_fd()),
            None => Err(io::Error::other("no directory is open")),
        }
    }

    /// Makes directories that a package uses without having them in its archive.
    fn make_directories(&self, path: &Path) -> io::Result<()> {
        let mut made = PathBuf::new();
        for component in path.components() {
            let parent = open_below(&self.root, &made)?;
            made.push(component);
            match rustix::fs::mkdirat(&parent, component.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn open_below(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)?)
}

fn remove(parent: BorrowedFd<'_>, name: &std::ffi::OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The path of an entry without its leading `./` or `/`; one with `..` is refused.
fn relative(path: &Path) -> io::Result<PathBuf> {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::CurDir | Component::RootDir => {}
            _ => return Err(io::Error::other("the path leaves the archive")),
        }
    }
    if result.as_os_str().as_bytes().contains(&0) {
        return Err(io::Error::other("the path has a zero byte"));
    }
    Ok(result)
}
