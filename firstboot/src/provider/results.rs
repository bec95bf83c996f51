//! Writing to a configuration stick: the one moment in which a medium is mounted writable.
//!
//! Takes what writes the files; gives the device they are on. The stick is mounted as FAT or ext4 where nothing else
//! sees it, for as long as the writing takes; each file is written beside its place, flushed and renamed, and the
//! whole filesystem is flushed before the mount is dissolved. So a stick that is pulled out in between has the old
//! file or the new one, as far as FAT can promise that, and one that is pulled out afterwards has the new one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::PoisonError;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, mkdirat, openat2, renameat, syncfs, unlinkat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use thiserror::Error;

use super::volume::MOUNTING;

/// The directory of the results on the stick.
pub const DIRECTORY: &str = "ingot-results";
/// The labels of sticks that results are written to.
const LABELS: [&str; 2] = ["INGOT", "ingot"];
/// The largest file that is read back.
const MAXIMUM_BYTES: u64 = 1024 * 1024;

/// Nothing was written to a stick. None of this keeps the node from its work.
#[derive(Debug, Error)]
pub enum StickError {
    /// It is not there, or not any more.
    #[error("no stick labelled INGOT is plugged in")]
    NoStick,
    /// Its lock is on, or it is a medium that cannot be written.
    #[error("the stick {0} is write-protected; slide its lock, or set write_back = false")]
    Locked(String),
    /// There is no space.
    #[error("the stick {0} is full; remove files from it")]
    Full(String),
    /// It has another filesystem.
    #[error("the stick {0} cannot be mounted for writing as FAT or ext4 ({1})")]
    Mount(String, String),
    /// Writing failed, most often because it was pulled out.
    #[error("writing to the stick {0} failed: {1}; was it pulled out?")]
    Failed(String, io::Error),
}

/// The directory of the results.
pub trait ResultsDirectory {
    /// A file's content; `None` where there is none.
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Writes a file whole.
    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
}

/// What writes results.
pub type WriteResults<'a> = &'a mut dyn FnMut(&mut dyn ResultsDirectory) -> io::Result<()>;

impl StickError {
    /// What an error of writing means.
    pub fn of(device: &str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull => StickError::Full(device.to_owned()),
            io::ErrorKind::ReadOnlyFilesystem => StickError::Locked(device.to_owned()),
            _ => StickError::Failed(device.to_owned(), error),
        }
    }
}

/// Writes to the stick that is plugged in; gives its name for people.
///
/// # Errors
/// All of [`StickError`].
pub fn write_results(write: WriteResults<'_>) -> Result<String, StickError> {
    let found = LABELS.iter().find_map(|label| {
        let device = std::fs::canonicalize(format!("/dev/disk/by-label/{label}")).ok()?;
        let shown = format!("{label} ({})", device.display());
        Some((device, shown))
    });
    let (device, shown) = found.ok_or(StickError::NoStick)?;
    // The same medium cannot be mounted read-only and writable at once.
    let _turn = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    let (root, _mount) = mount(&device, &shown)?;
    write_below(&root, write).map_err(|error| StickError::of(&shown, error))?;
    Ok(shown)
}

/// The top directory, opened, and the mount.
fn mount(device: &Path, shown: &str) -> Result<(OwnedFd, OwnedFd), StickError> {
    let mut reasons = Vec::new();
    for filesystem in ["vfat", "ext4"] {
        match mount_as(device, filesystem) {
            Ok(mounted) => return Ok(mounted),
            Err(Errno::ROFS | Errno::ACCESS) => return Err(StickError::Locked(shown.to_owned())),
            Err(error) => reasons.push(format!("{filesystem}: {error}")),
        }
    }
    Err(StickError::Mount(shown.to_owned(), reasons.join("; ")))
}

fn mount_as(device: &Path, filesystem: &str) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let context = fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", device)?;
    fsconfig_create(&context)?;
    let safe = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, safe)?;
    let root = rustix::fs::openat(&mounted, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((root, mounted))
}

/// Nothing on a stick leads out of it.
const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

struct Below(OwnedFd);

impl ResultsDirectory for Below {
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match openat2(&self.0, name, flags, Mode::empty(), INSIDE) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        if file.metadata()?.is_file() {
            file.take(MAXIMUM_BYTES).read_to_end(&mut bytes)?;
        }
        Ok(Some(bytes))
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}.new");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOCTTY;
        let mut file = File::from(openat2(&self.0, &temporary, flags, Mode::from_raw_mode(0o644), INSIDE)?);
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        drop(file);
        match written.and_then(|()| Ok(renameat(&self.0, &temporary, &self.0, name)?)) {
            Ok(()) => Ok(rustix::fs::fsync(&self.0)?),
            Err(error) => {
                let _ = unlinkat(&self.0, &temporary, AtFlags::empty());
                Err(error)
            }
        }
    }
}

fn write_below(root: &OwnedFd, write: WriteResults<'_>) -> io::Result<()> {
    match mkdirat(root, DIRECTORY, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let written = write(&mut Below(openat2(root, DIRECTORY, flags, Mode::empty(), INSIDE)?));
    syncfs(root)?;
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_whole_and_nothing_leads_out() {
        let directory = tempfile::tempdir().unwrap();
        let open = || File::open(directory.path()).unwrap().into();
        let outside = directory.path().join("outside");
        std::fs::write(&outside, "keep").unwrap();
        for text in ["one", "two"] {
            write_below(&open(), &mut |results| results.write("SN1.json", text.as_bytes())).unwrap();
        }
        let results = directory.path().join(DIRECTORY);
        assert_eq!(std::fs::read_to_string(results.join("SN1.json")).unwrap(), "two");
        assert_eq!(std::fs::read_dir(&results).unwrap().count(), 1);
        std::os::unix::fs::symlink("../outside", results.join("link.json")).unwrap();
        let read = write_below(&open(), &mut |results| results.read("link.json").map(drop));
        assert!(read.is_err());
        std::os::unix::fs::symlink("../outside", results.join("x.json.new")).unwrap();
        assert!(write_below(&open(), &mut |results| results.write("x.json", b"x")).is_err());
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "keep");
        std::fs::remove_dir_all(&results).unwrap();
        std::os::unix::fs::symlink("/etc", &results).unwrap();
        assert!(write_below(&open(), &mut |_| Ok(())).is_err(), "the directory itself is a link");
    }

    /// A real stick, where the kernel lends one to the test.
    struct Loop(std::path::PathBuf);

    impl Loop {
        fn over(image: &Path, options: &[&str]) -> Option<Self> {
            #[allow(clippy::disallowed_methods)] // the test's own stick
            let output = std::process::Command::new("losetup").args(options).arg("--show").arg(image).output().ok()?;
            let device = String::from_utf8(output.stdout).ok()?;
            output.status.success().then(|| Self(device.trim().into()))
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            #[allow(clippy::disallowed_methods)] // the test's own stick
            let _ = std::process::Command::new("losetup").arg("-d").arg(&self.0).status();
        }
    }

    #[test]
    fn real_sticks_are_written_found_full_and_found_locked() {
        real_stick("mkfs.vfat", &["-n", "INGOT"]);
        real_stick("mkfs.ext4", &["-q", "-F", "-L", "INGOT", "-O", "^has_journal"]);
    }

    fn real_stick(program: &str, options: &[&str]) {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("stick");
        File::create(&image).unwrap().set_len(2 << 20).unwrap();
        #[allow(clippy::disallowed_methods)] // a peer of the test
        let made = std::process::Command::new(program).args(options).arg(&image).output();
        let stick = made.is_ok_and(|made| made.status.success()).then(|| Loop::over(&image, &["--find"])).flatten();
        let Some(stick) = stick else {
            eprintln!("skipped: no {program}, or no loop device for this user");
            return;
        };
        let write = |name: &str, bytes: &[u8]| {
            let (root, _mount) = mount(&stick.0, "INGOT")?;
            write_below(&root, &mut |results| results.write(name, bytes))
                .map_err(|error| StickError::of("INGOT", error))
        };
        match write("SN1.json", b"one") {
            Err(StickError::Mount(_, why)) => {
                eprintln!("skipped: what {program} makes cannot be mounted here: {why}");
                return;
            }
            result => result.unwrap(),
        }
        write("SN1.json", b"two").unwrap();
        assert!(matches!(write("SN2.json", &vec![0; 4 << 20]), Err(StickError::Full(_))));
        let read = |name: &str| {
            let (root, _mount) = mount(&stick.0, "INGOT").unwrap();
            let mut found = None;
            write_below(&root, &mut |results| {
                found = results.read(name)?;
                Ok(())
            })
            .unwrap();
            found
        };
        assert_eq!(read("SN1.json").unwrap(), b"two");
        // A file that did not fit leaves nothing.
        assert_eq!((read("SN2.json"), read("SN2.json.new")), (None, None));
        // The way that configuration is read.
        let volume = super::super::Volume::open_device(&stick.0).unwrap();
        assert!(volume.names().unwrap().contains(&DIRECTORY.to_owned()));
        drop(volume);
        drop(stick);
        let Some(locked) = Loop::over(&image, &["--find", "--read-only"]) else { return };
        assert!(matches!(mount(&locked.0, "INGOT"), Err(StickError::Locked(_))));
    }

    #[test]
    fn errors_say_what_to_do() {
        let of = |errno: Errno| StickError::of("INGOT (/dev/sdb1)", errno.into()).to_string();
        assert!(of(Errno::NOSPC).contains("full; remove files"));
        assert!(of(Errno::ROFS).contains("slide its lock"));
        assert!(of(Errno::IO).contains("pulled out"));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(mount(file.path(), "x").unwrap_err().to_string().contains("vfat"), "an empty file is no stick");
    }
}
