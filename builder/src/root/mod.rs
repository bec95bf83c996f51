//! The `root` stage: from locked packages to the tree that becomes the image's root.
//!
//! Takes packages of the store (uncompressed by [`crate::store`]) and a merged profile. Gives a tree with every package
//! configured ([`install`]), then the same tree with everything the profile adds and everything that would tell one
//! build from another taken away ([`seal`]).
//!
//! dpkg does what dpkg does: order, diversions, conffiles, triggers and maintainer scripts are those of the target's own
//! dpkg, run in a sandbox without network, without the host's files and with a clean environment.

pub mod containers;
pub mod content;
pub mod depmod;
pub mod dkms;
pub mod install;
pub mod lint;
pub mod order;
pub mod provided;
pub mod scrub;
pub mod seal;
pub mod units;
pub mod unpack;
pub mod var;

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::process::ProcessError;
use crate::store::StoreError;

/// Why a root could not be made.
#[derive(Debug, Error)]
pub enum RootError {
    /// A file of the build.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A package in the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image's dpkg failed, usually in a maintainer script.
    #[error("installing packages failed{}{action}:\n{tail}\nthe tree is kept in {}", in_package(.package.as_deref()), .tree.display())]
    Package {
        /// The package, if dpkg named one.
        package: Option<String>,
        /// What was being done: ` while configuring`.
        action: String,
        /// The last 30 lines.
        tail: String,
        /// The tree as it was left.
        tree: PathBuf,
    },
    /// DKMS could not build a module.
    #[error("building the kernel module {module} for {release} failed:\n{tail}\nthe tree is kept in {}", .tree.display())]
    Module {
        /// `nvidia-current/550.163.01`
        module: String,
        /// The kernel's release.
        release: String,
        /// The last 30 lines.
        tail: String,
        /// The tree as it was left.
        tree: PathBuf,
    },
    /// A program of the image.
    #[error("{what}: {source}")]
    Program {
        /// What was being done.
        what: String,
        /// How it failed.
        source: ProcessError,
    },
    /// Something of the profile cannot be put onto the root.
    #[error("{0}")]
    Content(String),
    /// The root holds what must never be in an image.
    #[error("the root holds what must never be in an image:\n{}", .0.join("\n"))]
    Lint(Vec<String>),
}

fn in_package(package: Option<&str>) -> String {
    package.map(|name| format!(" in package {name}")).unwrap_or_default()
}

impl RootError {
    /// Wraps an I/O error with the path it is about.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Makes a directory that will be the `/` of an image, or the layer over one.
///
/// Where it is made must not show: a set-group-id directory hands its group and that bit down to what is made in it.
pub fn make_root(path: &Path) -> Result<(), RootError> {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    std::fs::create_dir_all(path).map_err(RootError::io(path))?;
    chown(path, Some(0), Some(0)).map_err(RootError::io(path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(RootError::io(path))
}

/// A package to be installed.
#[derive(Debug, Clone)]
pub struct RootPackage {
    /// Its name.
    pub name: String,
    /// Whether dpkg itself may need it: `Essential: yes`, or needed by such a package.
    pub essential: bool,
    /// Its relations.
    pub relations: order::Relations,
    /// The package with uncompressed members.
    pub deb: PathBuf,
}
