//! The sources of images as something to hand over: everything a lock needs, so that a build needs no archive at all.
//!
//! [`export()`] takes a site and roles, and writes a directory or a tar archive; [`import()`] takes that and puts it into
//! the store of another machine, where `ingot build --offline` then makes the same image. Every byte is
//! hashed on its way, out and in. Two exports of one lock are the same files, and two archives the same bytes.
//!
//! ```text
//! index.json                   what there is: see [`Index`]
//! ingot.lock                   the lock, with the sets of these roles
//! objects/sha256/aa/aa…        packages and artifacts, by their content
//! releases/aa…/InRelease       release files with their signatures, by the hash that the lock has
//! ```
//!
//! Profiles, the files that they name, overlays and keyrings are no part of it: they are in the repository that has the
//! lock, and the index names the keyrings with their hashes.

use std::io::Read;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::archive::index;
use crate::archive::release::hex;
use crate::build::BuildError;
use crate::lock::{Lock, Release};
use crate::store::{Store, StoreError};

mod export;
mod import;
mod write;

pub use export::{Exported, export};
pub use import::{Imported, import};

const VERSION: u32 = 1;
const INDEX: &str = "index.json";
const LOCK: &str = "ingot.lock";

/// A bundle cannot be written or read.
#[derive(Debug, Error)]
pub enum BundleError {
    /// The file system said no.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The place to write to is taken.
    #[error("{} is there already; remove it, or name another place", path.display())]
    Taken {
        /// The place.
        path: PathBuf,
    },
    /// A file holds something else than its name says.
    #[error("{what} is damaged: its SHA-256 is {actual} instead of {expected}")]
    Damaged {
        /// The file.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// What is to be imported is no bundle, or not a whole one.
    #[error("{} is not a whole bundle: {problem}; export it anew", path.display())]
    Content {
        /// The directory or archive.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Profiles or the lock are wrong, or something cannot be fetched.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The store has a problem.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BundleError {
    fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// What a bundle holds. Everything is sorted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// The form of the bundle: 1.
    pub version: u32,
    /// The release of Ingot that wrote it. Another one may build another image.
    pub ingot: String,
    /// SHA-256 of the lock in it.
    pub lock: String,
    /// The sets whose packages are in it.
    pub sets: Vec<String>,
    /// Packages and artifacts.
    pub objects: Vec<Object>,
    /// The release files that the lock was made from.
    pub releases: Vec<ReleaseFiles>,
    /// The keyrings that the signatures are to be checked with.
    pub keyrings: Vec<Keyring>,
}

/// A file that goes by its content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// SHA-256.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// What people call it: `docker.io 27.5.1-1`.
    pub name: String,
}

/// A release file and its signature.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseFiles {
    /// As the lock has it.
    #[serde(flatten)]
    pub release: Release,
    /// `InRelease`, or `Release` and `Release.gpg`; none where the store of whoever exported it does not have them any
    /// more. They are evidence: a build does not read them.
    pub files: Vec<ReleaseFile>,
}

/// One file of a release.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseFile {
    /// `InRelease`
    pub name: String,
    /// SHA-256.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// A keyring, which stays in the repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyring {
    /// The repository that it is for.
    pub repository: String,
    /// Its path below the profiles, or the whole path where it is elsewhere.
    pub path: String,
    /// SHA-256.
    pub sha256: String,
}

fn object_path(sha256: &str) -> String {
    format!("objects/sha256/{}/{sha256}", sha256.get(..2).unwrap_or_default())
}

fn release_path(sha256: &str, name: &str) -> String {
    format!("releases/{sha256}/{name}")
}

/// Where a store keeps a release file for as long as locks may refer to it.
fn kept_path(sha256: &str, name: &str) -> String {
    format!("releases/by-hash/{sha256}/{name}")
}

const RELEASE_NAMES: [&[&str]; 2] = [&["InRelease"], &["Release", "Release.gpg"]];

/// Keeps the release files that a lock was just made from beyond the next time that they are fetched.
pub fn keep_releases(store: &Store, lock: &Lock) -> Result<(), StoreError> {
    for release in lock.releases() {
        if kept_release(store, release)?.is_some() {
            continue;
        }
        for (name, content) in latest_release(store, release)?.unwrap_or_default() {
            store.keep(&kept_path(&release.sha256, name), &content)?;
        }
    }
    Ok(())
}

/// Names and contents of a release's files.
type Contents = Vec<(&'static str, Vec<u8>)>;

/// The files of a release as the lock has it, if the store has them.
fn release_files(store: &Store, release: &Release) -> Result<Option<Contents>, StoreError> {
    Ok(match kept_release(store, release)? {
        Some(files) => Some(files),
        None => latest_release(store, release)?,
    })
}

fn kept_release(store: &Store, release: &Release) -> Result<Option<Contents>, StoreError> {
    files_at(store, release, |name| kept_path(&release.sha256, name))
}

fn latest_release(store: &Store, release: &Release) -> Result<Option<Contents>, StoreError> {
    let place = index::release_place(&release.repository, &release.suite, release.snapshot.as_ref());
    files_at(store, release, |name| format!("{place}/{name}"))
}

fn files_at(store: &Store, release: &Release, path: impl Fn(&str) -> String) -> Result<Option<Contents>, StoreError> {
    for names in RELEASE_NAMES {
        let mut files = Vec::new();
        for name in names {
            files.extend(store.kept(&path(name))?.map(|content| (*name, content)));
        }
        let right = |(_, content): &(&str, Vec<u8>)| hex(&Sha256::digest(content)) == release.sha256;
        if files.len() == names.len() && files.first().is_some_and(right) {
            return Ok(Some(files));
        }
    }
    Ok(None)
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    length: u64,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), length: 0 }
    }

    fn finish(self) -> (String, u64) {
        (hex(&self.hash.finalize()), self.length)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.length += count as u64;
        Ok(count)
    }
}
