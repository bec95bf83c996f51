//! From the installed packages to the root as it is written into the image.

use std::fs;
use std::path::{Path, PathBuf};

use super::content::Content;
use super::{RootError, content, lint, scrub, units, var};

/// The kernel of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// The bootable file.
    pub image: PathBuf,
}

/// The one kernel that the packages installed into `root`.
pub fn kernel(root: &Path) -> Result<Kernel, RootError> {
    let modules = root.join("usr/lib/modules");
    let mut found: Vec<Kernel> = fs::read_dir(&modules)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .map(|release| Kernel { image: root.join("boot").join(format!("vmlinuz-{release}")), release })
        .filter(|kernel| kernel.image.is_file())
        .collect();
    found.sort_by(|a, b| a.release.cmp(&b.release));
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(RootError::Content(
            "no kernel is installed: there is no /boot/vmlinuz with its modules; is kernel.package right?".to_owned(),
        )),
        _ => {
            let names: Vec<&str> = found.iter().map(|k| k.release.as_str()).collect();
            Err(RootError::Content(format!("an image has one kernel, but {} are installed", names.join(" and "))))
        }
    }
}

/// Finishes the tree at `root`: the profile's content, unit states, scrubbing, `/var`, and the last check.
pub fn seal(root: &Path, content: &Content<'_>, epoch: u64) -> Result<(), RootError> {
    content::apply(root, content)?;
    units::apply(root, &content.profile.units)?;
    scrub::scrub(root, epoch)?;
    var::convert(root)?;
    lint::check(root)
}
