//! What the node keeps on `var` for the system itself: the upper layer of `/etc`, the machine id, and what the
//! image brings for `/var`.
//!
//! All writes are atomic (a new file, flushed, renamed, its directory flushed): after a power cut there is the old
//! state or the new one.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};
use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;
use uuid::{Builder, Uuid};

use super::shared;

/// The state could not be written.
#[derive(Debug, Error)]
#[error("{step} {}: {source}", .path.display())]
pub struct NodeStateError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

pub(super) fn failed<'a>(step: &'static str, path: &'a Path) -> impl Fn(io::Error) -> NodeStateError + 'a {
    move |source| NodeStateError { step, path: path.to_owned(), source }
}

/// A random UUID (version 4). Waits until the kernel has entropy.
pub fn random_id() -> Uuid {
    let mut bytes = [0; 16];
    loop {
        // Requests of up to 256 bytes are always answered whole; the only failure is an interrupting signal.
        if matches!(getrandom(&mut bytes, GetRandomFlags::empty()), Ok(16)) {
            return Builder::from_random_bytes(bytes).into_uuid();
        }
    }
}

/// Lays the node's own layer over the image's `/etc`. `var` is mounted below `root`. Gives in words what of the node had
/// to give way to the image.
pub fn overlay_etc(root: &Path) -> Result<Vec<String>, NodeStateError> {
    let base = root.join("var/lib/ingot/etc");
    let (upper, work) = (base.join("upper"), base.join("work"));
    for directory in [&upper, &work] {
        make_directories(directory)?;
    }
    give_machine_id(&upper)?;
    let etc = root.join("etc");
    // A disk that cannot be written is no reason not to start: the node's files are then as they were.
    let gave_way = shared::settle(&etc, &base).unwrap_or_else(|error| vec![error.to_string()]);
    // Nothing that ties the upper layer to one image: an upgrade puts another image's /etc below it.
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=off,metacopy=off,redirect_dir=off,xino=off",
        etc.display(),
        upper.display(),
        work.display()
    );
    let options = std::ffi::CString::new(options).map_err(|error| failed("laying over", &etc)(error.into()))?;
    mount("overlay", &etc, "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(|error| failed("laying a layer over", &etc)(error.into()))?;
    Ok(gave_way)
}

/// Creates a directory with its parents, and has them on the disk.
pub(super) fn make_directories(directory: &Path) -> Result<(), NodeStateError> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().unwrap_or(directory);
    make_directories(parent)?;
    let made = DirBuilder::new().mode(0o755).create(directory).and_then(|()| File::open(parent)?.sync_all());
    made.map_err(failed("making", directory))
}

/// Gives the node a machine id, unless it has one.
fn give_machine_id(upper: &Path) -> Result<(), NodeStateError> {
    let path = upper.join("machine-id");
    let has_one = fs::read_to_string(&path).is_ok_and(|text| {
        let text = text.trim_end();
        text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    if has_one {
        return Ok(());
    }
    write_atomically(&path, format!("{}\n", random_id().simple()).as_bytes(), 0o444)
}

/// Replaces a file.
pub(super) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), NodeStateError> {
    let new = path.with_extension("new");
    let written = || -> io::Result<()> {
        let _ = fs::remove_file(&new);
        let mut file = File::options().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(path.parent().unwrap_or(path))?.sync_all()
    };
    written().map_err(failed("writing", path))
}

/// Brings what the image has below `/var` and the node has not: `var` is mounted over it and starts empty.
///
/// Once per image (its id is noted on `var`), and only what is missing: nothing of the node is overwritten. Gives the
/// number of files and directories made.
pub fn bring_image_state(image_var: &Path, var: &Path, image_id: &str) -> Result<u64, NodeStateError> {
    let note = var.join("lib/ingot/image-state");
    if fs::read_to_string(&note).is_ok_and(|id| id == image_id) {
        return Ok(0);
    }
    let sync = || {
        let synced = File::open(var).and_then(|file| rustix::fs::syncfs(file).map_err(io::Error::from));
        synced.map_err(failed("writing", var))
    };
    // Files get their names when all contents are on the disk, and the note is written when all have their names.
    let mut bring = Bring::default();
    bring.merge(image_var, var)?;
    sync()?;
    bring.rename()?;
    sync()?;
    make_directories(&var.join("lib/ingot"))?;
    write_atomically(&note, image_id.as_bytes(), 0o644)?;
    Ok(bring.made)
}

/// A copy of a tree of the image under way.
#[derive(Default)]
pub(super) struct Bring {
    made: u64,
    to_rename: Vec<(PathBuf, PathBuf)>,
}

impl Bring {
    /// Gives the files that were copied their names; their contents must be on the disk.
    pub(super) fn rename(&self) -> Result<(), NodeStateError> {
        for (new, path) in &self.to_rename {
            fs::rename(new, path).map_err(failed("writing", path))?;
        }
        Ok(())
    }

    /// Copies what is missing in `to`.
    pub(super) fn merge(&mut self, from: &Path, to: &Path) -> Result<(), NodeStateError> {
        for entry in fs::read_dir(from).map_err(failed("reading", from))? {
            let entry = entry.map_err(failed("reading", from))?;
            let (from, name) = (entry.path(), entry.file_name());
            let target = to.join(&name);
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            match target.symlink_metadata() {
                Ok(existing) if is_directory && existing.is_dir() => {}
                Ok(_) => continue,
                Err(_) => self.copy(&from, to, &name).map_err(failed("bringing", &from))?,
            }
            if is_directory {
                self.merge(&from, &target)?;
            }
        }
        Ok(())
    }

    /// Copies a file, link or empty directory with owner and mode. Devices and sockets have no place in an image's
    /// `/var`.
    fn copy(&mut self, from: &Path, to: &Path, name: &OsStr) -> io::Result<()> {
        let metadata = from.symlink_metadata()?;
        let kind = metadata.file_type();
        let mut path = to.join(name);
        if kind.is_dir() {
            DirBuilder::new().mode(0o700).create(&path)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(from)?, &path)?;
        } else if kind.is_file() {
            let mut new = OsString::from(".ingot-new-");
            new.push(name);
            let new = to.join(new);
            fs::copy(from, &new)?;
            self.to_rename.push((new.clone(), path));
            path = new;
        } else {
            return Ok(());
        }
        self.made += 1;
        lchown(&path, Some(metadata.uid()), Some(metadata.gid()))?;
        if !kind.is_symlink() {
            // After the owner, a change of which clears the set-id bits.
            fs::set_permissions(&path, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_id_is_made_once() {
        let upper = tempfile::tempdir().unwrap();
        let path = upper.path().join("machine-id");
        fs::write(&path, "uninitialized\n").unwrap();
        give_machine_id(upper.path()).unwrap();
        let first = fs::read_to_string(&path).unwrap();
        assert_eq!(first.len(), 33);
        give_machine_id(upper.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
    }

    #[test]
    fn brings_what_is_missing_once_per_image() {
        let directory = tempfile::tempdir().unwrap();
        let (image, var) = (directory.path().join("image"), directory.path().join("var"));
        fs::create_dir_all(image.join("lib/docker/x")).unwrap();
        fs::create_dir_all(&var).unwrap();
        fs::write(image.join("lib/docker/x/file"), "1").unwrap();
        fs::set_permissions(image.join("lib/docker"), fs::Permissions::from_mode(0o710)).unwrap();
        symlink("/run", image.join("run")).unwrap();
        assert_eq!(bring_image_state(&image, &var, "one").unwrap(), 5);
        assert_eq!(fs::metadata(var.join("lib/docker")).unwrap().mode() & 0o7777, 0o710);
        assert_eq!(fs::read_link(var.join("run")).unwrap(), Path::new("/run"));

        fs::write(var.join("lib/docker/x/file"), "changed").unwrap();
        fs::write(image.join("lib/new"), "2").unwrap();
        assert_eq!(bring_image_state(&image, &var, "one").unwrap(), 0);
        assert_eq!(bring_image_state(&image, &var, "two").unwrap(), 1);
        assert_eq!(fs::read_to_string(var.join("lib/docker/x/file")).unwrap(), "changed");
        let names: Vec<_> = fs::read_dir(var.join("lib")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| !name.to_string_lossy().starts_with(".ingot")));
    }
}
