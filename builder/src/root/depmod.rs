//! Indexes the kernel modules of a tree: `modules.dep`, `modules.alias` and their siblings.
//!
//! A kernel's script calls depmod when it is configured, and so does every package that brings modules: seconds each,
//! with every other script waiting. Here [`stand_in`] answers those calls, and the tree's own depmod runs once,
//! beside the scripts, over everything that was unpacked. The files are the same.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::RootError;
use crate::sandbox::{Mount, Sandbox};

/// Where a tree has its kernels' modules.
const MODULES: &str = "usr/lib/modules";

/// Puts a `depmod` that does nothing into `directory`, which comes first in the scripts' `PATH`.
pub fn stand_in(directory: &Path) -> Result<(), RootError> {
    let path = directory.join("depmod");
    fs::write(&path, "#!/bin/sh\n# The tree's own depmod runs once, when all modules are there.\nexit 0\n")
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
        .map_err(RootError::io(&path))
}

/// The index files of every kernel, beside the tree that they are for.
#[derive(Debug)]
#[must_use]
pub struct Indexed {
    upper: PathBuf,
    releases: Vec<String>,
    scratch: PathBuf,
}

/// Runs the depmod of `root` for every kernel that has modules there. `root` is only read, so that scripts can go on in
/// it meanwhile, as long as they leave modules alone; `scratch` must not exist yet.
pub fn index(root: &Path, scratch: &Path) -> Result<Indexed, RootError> {
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    for path in [&upper, &work] {
        fs::create_dir_all(path).map_err(RootError::io(path))?;
    }
    let releases = releases(root)?;
    let sandbox = Sandbox::new(root).mount(Mount::Overlay {
        lower: vec![root.join(MODULES)],
        upper: upper.clone(),
        work,
        inside: Path::new("/").join(MODULES),
        volatile: true,
    });
    for release in &releases {
        sandbox
            .tool("depmod")
            .args(["-a", release])
            .run()
            .map_err(|source| RootError::Program { what: format!("indexing the modules of {release}"), source })?;
    }
    Ok(Indexed { upper, releases, scratch: scratch.to_owned() })
}

/// Kernels with modules: a directory without any is what a package of headers or of settings leaves.
fn releases(root: &Path) -> Result<Vec<String>, RootError> {
    let directory = root.join(MODULES);
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).map_err(RootError::io(&directory))? {
        let entry = entry.map_err(RootError::io(&directory))?;
        if entry.path().join("kernel").is_dir() {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    Ok(found)
}

impl Indexed {
    /// Moves the index files to their places.
    pub fn put_into(self, root: &Path) -> Result<(), RootError> {
        for release in &self.releases {
            let from = self.upper.join(release);
            for entry in fs::read_dir(&from).map_err(RootError::io(&from))? {
                let entry = entry.map_err(RootError::io(&from))?;
                let target = root.join(MODULES).join(release).join(entry.file_name());
                fs::rename(entry.path(), &target).map_err(RootError::io(&target))?;
            }
        }
        fs::remove_dir_all(&self.scratch).map_err(RootError::io(&self.scratch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_with_modules_are_kernels() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        assert!(releases(root).unwrap().is_empty());
        for path in ["6.12.1-b/kernel/fs", "6.12.1-a/kernel", "6.12.1-headers/build"] {
            fs::create_dir_all(root.join(MODULES).join(path)).unwrap();
        }
        assert_eq!(releases(root).unwrap(), ["6.12.1-a", "6.12.1-b"]);
    }
}
