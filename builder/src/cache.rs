//! Results by the hash of their inputs: a directory per kind, an entry per key.
//!
//! An entry is there completely or not at all. Two builds that want the same entry at once make it once: the second
//! waits. A build that was interrupted leaves a scratch directory, which the next build of that entry removes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The cache cannot be used.
#[derive(Debug, Error)]
pub enum CacheError {
    /// A file of it.
    #[error("cache: {}: {source}{}", .path.display(), full(.source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn full(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free space there, or put the cache elsewhere with --cache DIR"
        }
        _ => "",
    }
}

impl CacheError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// A cache in a directory.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the cache at `root`, and makes it if it is not there.
    pub fn open(root: &Path) -> Result<Self, CacheError> {
        fs::create_dir_all(root).map_err(CacheError::io(root))?;
        let root = root.canonicalize().map_err(CacheError::io(root))?;
        Ok(Self { root })
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where an entry is, or would be.
    pub fn path(&self, kind: &str, key: &str) -> PathBuf {
        self.root.join(kind).join(key)
    }

    /// Whether an entry is there.
    pub fn has(&self, kind: &str, key: &str) -> bool {
        self.path(kind, key).exists()
    }

    /// The entry, made by `make` in a scratch directory if it is not there.
    ///
    /// Where `make` fails its scratch directory stays, to be looked at.
    pub fn produce<E: From<CacheError>>(
        &self,
        kind: &str,
        key: &str,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let path = self.path(kind, key);
        if path.exists() {
            return Ok(path);
        }
        let directory = self.root.join(kind);
        fs::create_dir_all(&directory).map_err(CacheError::io(&directory))?;
        let _lock = lock(&directory.join(format!(".{key}.lock")))?;
        if path.exists() {
            return Ok(path); // made while we waited
        }
        let scratch = directory.join(format!(".{key}.new"));
        remove_tree(&scratch).map_err(CacheError::io(&scratch))?;
        fs::create_dir(&scratch).map_err(CacheError::io(&scratch))?;
        make(&scratch)?;
        fs::rename(&scratch, &path).map_err(CacheError::io(&path))?;
        Ok(path)
    }
}

/// Takes the lock in a file and holds it until the result is dropped. Waits for whoever has it.
pub fn lock(path: &Path) -> Result<File, CacheError> {
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(CacheError::io(path))?;
    flock(&file, FlockOperation::LockExclusive).map_err(|e| CacheError::io(path)(e.into()))?;
    Ok(file)
}

/// Removes a tree that may be there. The work directory of an overlay has mode 0, which root does not mind.
fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a key from named parts: the same parts in the same order give the same key.
#[derive(Debug, Clone, Default)]
pub struct Key {
    hash: Sha256,
}

impl Key {
    /// A key for a kind of result. `version` changes whenever the way that it is made changes.
    pub fn new(kind: &str, version: u32) -> Self {
        Self::default().part("kind", kind).part("version", version.to_string())
    }

    /// One more part.
    #[must_use]
    pub fn part(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        // Lengths keep `ab` + `c` and `a` + `bc` apart.
        self.hash.update((name.len() as u64).to_le_bytes());
        self.hash.update(name);
        self.hash.update((value.len() as u64).to_le_bytes());
        self.hash.update(value);
        self
    }

    /// The key: 64 hexadecimal digits.
    pub fn finish(self) -> String {
        self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn an_entry_is_made_once_even_by_two_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    cache
                        .produce("x", "k", |scratch| {
                            made.fetch_add(1, Ordering::SeqCst);
                            std::thread::sleep(std::time::Duration::from_millis(50));
                            fs::write(scratch.join("a"), "b").map_err(CacheError::io(scratch))
                        })
                        .unwrap();
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
        assert_eq!(fs::read_to_string(cache.path("x", "k").join("a")).unwrap(), "b");
    }

    #[test]
    fn what_an_interrupted_build_left_does_not_show() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let failed = cache.produce("x", "k", |scratch| {
            fs::write(scratch.join("half"), "").unwrap();
            Err(CacheError::io(scratch)(io::Error::other("stop")))
        });
        assert!(failed.is_err());
        assert!(!cache.has("x", "k"));
        let path = cache.produce("x", "k", |_| Ok::<_, CacheError>(())).unwrap();
        assert!(!path.join("half").exists());
    }

    #[test]
    fn keys_keep_parts_apart() {
        let key = |a: &str, b: &str| Key::new("t", 1).part("x", a).part("x", b).finish();
        assert_ne!(key("ab", "c"), key("a", "bc"));
        assert_eq!(key("a", "b"), key("a", "b"));
        assert_ne!(Key::new("t", 1).finish(), Key::new("t", 2).finish());
    }
}
