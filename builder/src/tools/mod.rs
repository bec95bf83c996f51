//! The `tools` tree: the few programs that a build needs and does not contain, taken from locked packages.
//!
//! Packages are unpacked into the cache and never configured; a program runs in a sandbox whose root is the tree. So
//! a build does not depend on what the host has installed, and two hosts give the same bytes.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::cache::{Cache, CacheError};
use crate::process::Tool;
use crate::progress::Progress;
use crate::qemu::Launcher;
use crate::root::{RootError, unpack};
use crate::sandbox::Sandbox;

/// The tools tree could not be made.
#[derive(Debug, Error)]
pub enum ToolsError {
    /// Its packages could not be unpacked.
    #[error("cannot prepare the tools tree: {0}")]
    Unpack(#[from] RootError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A file that must be there is not.
    #[error("the tools tree has no {}; are the packages of parts/tools right?", .0.display())]
    Missing(PathBuf),
}

/// The packages are not configured, so nobody has made the one account that programs look up (ssh does).
fn name_root(root: &Path) -> Result<(), RootError> {
    for (file, text) in [("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("etc/group", "root:x:0:\n")] {
        let path = root.join(file);
        std::fs::write(&path, text).map_err(RootError::io(&path))?;
    }
    Ok(())
}

/// A tools tree, ready to run programs.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// The tree of these packages (`key` names their exact set), made if the cache does not have it.
    pub fn prepare(
        cache: &Cache,
        key: &str,
        debs: impl FnOnce() -> Result<Vec<PathBuf>, RootError>,
        jobs: usize,
        progress: &dyn Progress,
    ) -> Result<Self, ToolsError> {
        let root = cache.produce("tools", key, |scratch| {
            let debs = debs()?;
            let task = progress.start("unpacking tools", Some(debs.len() as u64));
            unpack::prepare(scratch)?;
            unpack::unpack_all(scratch, &debs, jobs, &*task)?;
            name_root(scratch)?;
            Ok::<_, ToolsError>(())
        })?;
        Ok(Self { root })
    }

    /// A sandbox with the tree as its root.
    pub fn sandbox(&self) -> Sandbox {
        Sandbox::new(&self.root)
    }

    /// A file of the tree, by its absolute path inside.
    pub fn file(&self, inside: &str) -> Result<PathBuf, ToolsError> {
        let path = self.root.join(inside.trim_start_matches('/'));
        if path.is_file() { Ok(path) } else { Err(ToolsError::Missing(PathBuf::from(inside))) }
    }

    /// QEMU, ssh and the firmware of the tree, for [`crate::qemu`].
    pub fn launcher(&self) -> Result<ToolsLauncher, ToolsError> {
        Ok(ToolsLauncher {
            sandbox: self.sandbox().share_network().share_devices(),
            code: self.file("/usr/share/OVMF/OVMF_CODE_4M.fd")?,
            variables: self.file("/usr/share/OVMF/OVMF_VARS_4M.fd")?,
        })
    }

    /// The tree itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Runs the programs that virtual machines take from the tools tree, with the host's network and devices.
#[derive(Debug, Clone)]
pub struct ToolsLauncher {
    sandbox: Sandbox,
    code: PathBuf,
    variables: PathBuf,
}

impl Launcher for ToolsLauncher {
    fn command(&self, program: &str, arguments: &[String], binds: &[PathBuf]) -> Tool {
        // A bind below another one is made after it, so that it is not covered.
        let mut binds = binds.to_vec();
        binds.sort();
        let sandbox = binds.iter().fold(self.sandbox.clone(), |sandbox, path| sandbox.bind(path, path));
        sandbox.tool(program).args(arguments)
    }

    fn firmware(&self) -> (PathBuf, PathBuf) {
        (self.code.clone(), self.variables.clone())
    }
}
