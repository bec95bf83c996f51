//! Where an export is written: a directory or a tar archive, complete or not there at all.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{BundleError, Hashing};

/// A bundle under way. Dropped before [`Target::finish`], it leaves nothing behind.
pub(super) enum Target {
    Directory { at: PathBuf, temporary: tempfile::TempDir },
    Archive { at: PathBuf, temporary: Box<tar::Builder<BufWriter<tempfile::NamedTempFile>>>, date: u64 },
}

impl Target {
    /// A path that ends in `.tar` becomes an archive, in which everything has the time `date` (seconds since 1970).
    pub fn new(path: &Path, date: u64) -> Result<Self, BundleError> {
        if path.symlink_metadata().is_ok() && !is_empty_directory(path) {
            return Err(BundleError::Taken { path: path.to_owned() });
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(BundleError::io("make directory", parent))?;
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix(".ingot-bundle.");
        let at = path.to_owned();
        if path.extension().is_some_and(|extension| extension == "tar") {
            let file = builder.tempfile_in(parent).map_err(BundleError::io("write in", parent))?;
            let temporary = Box::new(tar::Builder::new(BufWriter::with_capacity(1 << 18, file)));
            return Ok(Self::Archive { at, temporary, date });
        }
        let temporary = builder.tempdir_in(parent).map_err(BundleError::io("write in", parent))?;
        Ok(Self::Directory { at, temporary })
    }

    /// Adds a file of which size and SHA-256 are known; fails if its content is something else.
    pub fn add(&mut self, path: &str, size: u64, sha256: &str, content: impl Read) -> Result<(), BundleError> {
        let mut content = Hashing::new(content);
        match self {
            Self::Directory { temporary, .. } => {
                let to = temporary.path().join(path);
                let parent = to.parent().unwrap_or(temporary.path());
                fs::create_dir_all(parent).map_err(BundleError::io("make directory", parent))?;
                let mut file = File::create_new(&to).map_err(BundleError::io("write", &to))?;
                std::io::copy(&mut content, &mut file).map_err(BundleError::io("write", &to))?;
                file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(BundleError::io("change", &to))?;
            }
            Self::Archive { at, temporary, date } => {
                let mut header = tar::Header::new_ustar();
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(size);
                header.set_mode(0o644);
                header.set_mtime(*date);
                header.set_uid(0);
                header.set_gid(0);
                let added = temporary.append_data(&mut header, path, (&mut content).take(size));
                added.map_err(BundleError::io("write", at))?;
            }
        }
        let (actual, length) = content.finish();
        if actual != sha256 || length != size {
            return Err(BundleError::Damaged { what: path.to_owned(), expected: sha256.to_owned(), actual });
        }
        Ok(())
    }

    /// Gives the bundle its name.
    pub fn finish(self) -> Result<(), BundleError> {
        match self {
            Self::Directory { at, temporary } => {
                let directory = temporary.path().to_owned();
                let permissions = fs::Permissions::from_mode(0o755);
                fs::set_permissions(&directory, permissions).map_err(BundleError::io("change", &directory))?;
                fs::rename(&directory, &at).map_err(BundleError::io("write", &at))?;
                // It has another name now, under which it is to stay.
                let _ = temporary.keep();
            }
            Self::Archive { at, temporary, .. } => {
                let failed = || BundleError::io("write", &at);
                let mut writer = temporary.into_inner().map_err(failed())?;
                writer.flush().map_err(failed())?;
                let file = writer.into_inner().map_err(|error| failed()(error.into_error()))?;
                let mode = fs::Permissions::from_mode(0o644);
                file.as_file().set_permissions(mode).map_err(failed())?;
                file.as_file().sync_all().map_err(failed())?;
                file.persist(&at).map_err(|error| failed()(error.error))?;
            }
        }
        Ok(())
    }
}

fn is_empty_directory(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}
