//! The directories of the read-only root that a role wants writable: each is bound from `var`, where it is made once
//! with the mode, owner and content that it has in the image.
//!
//! Done here and not by units of the system: the mounts are there before anything runs, and wait for no device.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Component, Path, PathBuf};

use rustix::mount::mount_bind;

use super::node_state::{Bring, NodeStateError, failed, make_directories};

/// The image's list: one absolute path a line, parents before children.
const LIST: &str = "usr/lib/ingot/persist";
/// Where the directories lie on `var`.
const STATE: &str = "var/lib/ingot/persist";

/// Binds every directory of the list. `var` is mounted below `root`.
pub fn bind_persistent(root: &Path) -> Result<(), NodeStateError> {
    let list = root.join(LIST);
    let text = match fs::read_to_string(&list) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("reading", &list)(error)),
    };
    for line in text.lines() {
        let place = inside(root, line).map_err(failed("binding", Path::new(line)))?;
        let state = root.join(STATE).join(line.trim_start_matches('/'));
        if !state.is_dir() {
            make(&place, &state)?;
        }
        mount_bind(&state, &place).map_err(|error| failed("binding", &place)(error.into()))?;
    }
    Ok(())
}

/// The directory `path` of the system. A symbolic link on the way would lead into the initrd.
fn inside(root: &Path, path: &str) -> io::Result<PathBuf> {
    let mut place = root.to_owned();
    for component in Path::new(path).components() {
        match component {
            Component::RootDir => {}
            Component::Normal(name) => place.push(name),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain absolute path")),
        }
        if !place.symlink_metadata()?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{} is no directory", place.display())));
        }
    }
    Ok(place)
}

/// Copies the image's directory to a name of its own, and gives it its name when all of it is on the disk.
fn make(image: &Path, state: &Path) -> Result<(), NodeStateError> {
    let parent = state.parent().unwrap_or(state);
    make_directories(parent)?;
    let mut name = std::ffi::OsString::from(".ingot-new-");
    name.push(state.file_name().unwrap_or_default());
    let new = parent.join(name);
    let step = || failed("making", state);
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(step()(error)),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&new).map_err(step())?;
    let mut bring = Bring::default();
    bring.merge(image, &new)?;
    bring.rename()?;
    let finish = || -> io::Result<()> {
        let metadata = image.metadata()?;
        lchown(&new, Some(metadata.uid()), Some(metadata.gid()))?;
        fs::set_permissions(&new, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
        rustix::fs::syncfs(File::open(&new)?)?;
        fs::rename(&new, state)?;
        File::open(parent)?.sync_all()
    };
    finish().map_err(step())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_with_mode_and_content_and_left_alone_afterwards() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("root");
        fs::create_dir_all(image.join(".ssh")).unwrap();
        fs::write(image.join(".bashrc"), "x").unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(0o750)).unwrap();
        let state = directory.path().join("state/deep/root");
        // What an interrupted boot left.
        fs::create_dir_all(directory.path().join("state/deep/.ingot-new-root/half")).unwrap();
        make(&image, &state).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o7777, 0o750);
        assert_eq!(fs::read_to_string(state.join(".bashrc")).unwrap(), "x");
        assert!(state.join(".ssh").is_dir());
        let names: Vec<_> = fs::read_dir(state.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn links_and_files_are_no_place_for_a_mount() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("srv/data")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        assert_eq!(inside(root, "/srv/data").unwrap(), root.join("srv/data"));
        assert!(inside(root, "/link").is_err());
        assert!(inside(root, "/srv/../../etc").is_err());
        assert!(inside(root, "/absent").is_err());
    }
}
