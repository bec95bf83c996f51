//! The `store` stage: everything fetched, by the hash of its content.
//!
//! Takes lists of files with their SHA-256, size and possible URLs ([`Fetch`]) and gives them as paths. A path that
//! [`Store::path`] gives holds exactly the bytes that its name says: content is hashed while it streams in, and
//! gets its name by an atomic rename only when size and hash are right. A download that breaks off stays as a
//! partial file and is taken up again where it stopped. Several builds may use one store at once: a partial
//! file is locked by the one who writes it, and the others wait and find the object finished.
//!
//! ```text
//! objects/sha256/aa/aa…    content, read-only
//! partial/aa…              downloads under way or broken off
//! releases/<repository>/…  release files as last fetched, for working offline (verified at every use)
//! debs/aa….deb             packages with uncompressed members, by the hash of the original (see [`deb`])
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::archive::release::{hex, is_sha256};

pub(crate) mod ar;
pub mod deb;
mod download;
pub mod http;
mod names;
mod normalize;
#[cfg(test)]
pub(crate) mod test_server;
mod unpack;

pub use download::Fetch;
pub use normalize::{normalize, normalize_all, normalized_path};
pub use unpack::Owners;

/// The store cannot do what was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no room.
    #[error(
        "the file system of {} is full: at least {} more needed, {} free; make room there, or put the cache elsewhere with --cache DIR",
        path.display(), mib(*needed), mib(*available)
    )]
    Full {
        /// The store's directory.
        path: PathBuf,
        /// Bytes still to be written.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
    /// A hash in a request is no SHA-256.
    #[error("`{hash}` of {name} is no SHA-256 in lower-case hex")]
    BadHash {
        /// What the hash is for.
        name: String,
        /// The text given.
        hash: String,
    },
    /// An object is not there and may not be fetched.
    #[error("{}{} not in the store, and --offline forbids fetching", list(names), if names.len() == 1 { " is" } else { " are" })]
    Missing {
        /// Names of the missing files.
        names: Vec<String>,
    },
    /// No URL gave the file.
    #[error("cannot fetch {name}:{}", each(attempts))]
    Fetch {
        /// The file's name.
        name: String,
        /// URL and what went wrong, for each that was tried.
        attempts: Vec<(String, String)>,
        /// Whether a server answered, only not with this file: it has another one, or none.
        answered: bool,
    },
    /// An object's content is not what its name says.
    #[error("{} is damaged: its SHA-256 is {actual}; it was removed, run again to fetch it anew", path.display())]
    Damaged {
        /// The object.
        path: PathBuf,
        /// What it really holds.
        actual: String,
    },
    /// A package cannot be read.
    #[error("{}: {problem}", path.display())]
    Deb {
        /// The package file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

fn each(attempts: &[(String, String)]) -> String {
    if attempts.is_empty() {
        return " no URL is known for it".into();
    }
    attempts.iter().flat_map(|(url, problem)| ["\n  ", url, ": ", problem]).collect()
}

/// A content-addressed store in a directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    http: http::Client,
}

impl Store {
    /// Opens a store, and makes it if it is not there.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        for directory in ["objects/sha256", "partial", "releases", "debs"] {
            let path = root.join(directory);
            fs::create_dir_all(&path).map_err(|source| StoreError::Io { action: "make directory", path, source })?;
        }
        let root = fs::canonicalize(root).map_err(io_error("open store", root))?;
        Ok(Self { root, http: http::Client::new() })
    }

    /// The same store with another HTTP client: other retries or timeouts.
    #[must_use]
    pub fn with_client(mut self, http: http::Client) -> Self {
        self.http = http;
        self
    }

    /// The client that fetches for this store.
    pub fn client(&self) -> &http::Client {
        &self.http
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the object with this hash is or would be.
    pub fn path(&self, sha256: &str) -> PathBuf {
        // A hash that is none gives a path that does not exist, never one outside of the store.
        let sound = if is_sha256(sha256) { sha256 } else { "no-hash" };
        self.root.join("objects/sha256").join(&sound[..2]).join(sound)
    }

    /// Whether an object is there, with the right size.
    pub fn has(&self, sha256: &str, size: Option<u64>) -> bool {
        fs::metadata(self.path(sha256)).is_ok_and(|m| m.is_file() && size.is_none_or(|s| s == m.len()))
    }

    /// Reads the whole object again and compares its hash; a damaged one is removed.
    pub fn verify(&self, sha256: &str) -> Result<(), StoreError> {
        let path = self.path(sha256);
        let mut file = File::open(&path).map_err(io_error("open", &path))?;
        let actual = hash_reader(&mut file).map_err(io_error("read", &path))?;
        if actual == sha256 {
            return Ok(());
        }
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
        Err(StoreError::Damaged { path, actual })
    }

    /// Puts bytes in and gives their hash.
    pub fn put(&self, content: &mut dyn Read) -> Result<String, StoreError> {
        let directory = self.root.join("partial");
        let mut temporary = tempfile::NamedTempFile::new_in(&directory).map_err(io_error("write in", &directory))?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = content.read(&mut buffer).map_err(io_error("read for", &directory))?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            temporary.write_all(&buffer[..count]).map_err(|e| self.write_error(e, temporary.path(), 0))?;
        }
        let sha256 = hex(&hasher.finalize());
        self.admit(temporary.as_file(), temporary.path(), &sha256)?;
        // The name is gone by the rename; nothing is left to delete.
        let _ = temporary.keep();
        Ok(sha256)
    }

    /// Gives a finished, checked file its final name.
    fn admit(&self, file: &File, from: &Path, sha256: &str) -> Result<PathBuf, StoreError> {
        use std::os::unix::fs::PermissionsExt;
        let to = self.path(sha256);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(io_error("make directory", parent))?;
        }
        file.set_permissions(fs::Permissions::from_mode(0o444)).map_err(io_error("change", from))?;
        // After a power cut a name must not stand for content that never reached the disk.
        file.sync_data().map_err(|e| self.write_error(e, from, 0))?;
        fs::rename(from, &to).map_err(io_error("rename", from))?;
        Ok(to)
    }

    /// Tells a full disk from other write errors.
    fn write_error(&self, source: io::Error, path: &Path, missing: u64) -> StoreError {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return StoreError::Full { path: self.root.clone(), needed: missing.max(1), available: self.available() };
        }
        StoreError::Io { action: "write", path: path.to_owned(), source }
    }

    /// Bytes that can still be written.
    fn available(&self) -> u64 {
        rustix::fs::statvfs(&self.root).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize))
    }

    /// Keeps a small file that is not addressed by its content, such as a release file.
    pub(crate) fn keep(&self, relative: &str, content: &[u8]) -> Result<(), StoreError> {
        let path = self.root.join(relative);
        let directory = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(directory).map_err(io_error("make directory", directory))?;
        let mut temporary = tempfile::NamedTempFile::new_in(directory).map_err(io_error("write in", directory))?;
        temporary.write_all(content).map_err(|e| self.write_error(e, &path, 0))?;
        temporary.persist(&path).map_err(|e| StoreError::Io { action: "write", path, source: e.error })?;
        Ok(())
    }

    /// Removes a small file that was kept, if it is there.
    pub(crate) fn forget(&self, relative: &str) -> Result<(), StoreError> {
        let path = self.root.join(relative);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// A small file that was kept; `None` if there is none.
    pub(crate) fn kept(&self, relative: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.root.join(relative);
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io { action: "read", path, source }),
        }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

fn hash_reader(reader: &mut dyn Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
    }
}

/// Opens a file for appending and reading, made if it is not there, and locks it for this process alone. Gives
/// `None` if the name has come to stand for another file while waiting for the lock.
fn open_locked(path: &Path) -> io::Result<Option<File>> {
    use std::os::unix::fs::MetadataExt;
    let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    file.lock()?;
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) if named.ino() == ours.ino() && named.dev() == ours.dev() => Ok(Some(file)),
        Ok(_) => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests;
