//! Unpacks packages into a tree without dpkg: the essential ones that dpkg itself needs to run, the tools tree and
//! containers.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::RootError;
use crate::progress::Task;
use crate::store::Owners;
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

/// Unpacks every package into `root`, `jobs` at a time, with the owners of the archive.
///
/// No two of the packages may have the same file, as in any set that dpkg installs without complaint: which
/// of them would win is not defined.
pub fn unpack_all(root: &Path, debs: &[PathBuf], jobs: usize, task: &dyn Task) -> Result<(), RootError> {
    let next = Mutex::new(debs.iter());
    let failed: Mutex<Option<RootError>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, 32) {
            scope.spawn(|| {
                while let Some(deb) = next.lock().ok().and_then(|mut next| next.next()) {
                    if failed.lock().is_ok_and(|failed| failed.is_some()) {
                        break;
                    }
                    let unpacked = Deb::open(deb).and_then(|archive| archive.unpack(root, Owners::Archive));
                    if let (Err(error), Ok(mut failed)) = (unpacked, failed.lock()) {
                        failed.get_or_insert(error.into());
                    }
                    task.advance(1);
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
}
