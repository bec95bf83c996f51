//! Packages rewritten with uncompressed members, once per package and store.
//!
//! dpkg then has nothing left to decompress, which is most of its unpacking time, and decompressing here runs on
//! every core. The result depends on the original alone: members in a fixed order, no times.

use std::collections::VecDeque;
use std::io::{self, BufWriter};
use std::path::PathBuf;
use std::sync::Mutex;

use super::deb::Deb;
use super::{Store, StoreError, ar, io_error};
use crate::archive::release::is_sha256;
use crate::progress::Progress;

/// The package with this hash, with uncompressed members; made if it is not there yet.
pub fn normalize(store: &Store, sha256: &str) -> Result<PathBuf, StoreError> {
    if !is_sha256(sha256) {
        return Err(StoreError::BadHash { name: "a package".into(), hash: sha256.to_owned() });
    }
    let directory = store.root().join("debs");
    let target = normalized_path(store, sha256);
    if target.exists() {
        return Ok(target);
    }
    let deb = Deb::open(&store.path(sha256))?;
    // Two builds may write the same package at once: each its own file, and both give it the same name.
    let temporary = tempfile::NamedTempFile::new_in(&directory).map_err(io_error("write in", &directory))?;
    write(&deb, &temporary).map_err(|error| match error {
        Stop::Store(error) => error,
        Stop::Io(e) if e.kind() == io::ErrorKind::StorageFull => store.write_error(e, &target, 0),
        Stop::Io(e) => StoreError::Deb { path: store.path(sha256), problem: e.to_string() },
    })?;
    temporary.persist(&target).map_err(|e| StoreError::Io {
        action: "write",
        path: target.clone(),
        source: e.error,
    })?;
    Ok(target)
}

/// Where [`normalize`] puts the package with this hash.
pub fn normalized_path(store: &Store, sha256: &str) -> PathBuf {
    store.root().join("debs").join(format!("{sha256}.deb"))
}

/// [`normalize`] for many packages, on `jobs` threads; the paths come in the order of the hashes.
pub fn normalize_all(
    store: &Store,
    hashes: &[&str],
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>, StoreError> {
    let task = progress.start("unpacking packages", Some(hashes.len() as u64));
    let results: Vec<Mutex<Option<Result<PathBuf, StoreError>>>> = hashes.iter().map(|_| Mutex::new(None)).collect();
    let size = |hash: &str| std::fs::metadata(store.path(hash)).map_or(0, |m| m.len());
    let mut order: Vec<usize> = (0..hashes.len()).collect();
    // The biggest first, so that no core is left alone with it at the end.
    order.sort_by_key(|i| std::cmp::Reverse(size(hashes[*i])));
    let queue = Mutex::new(VecDeque::from(order));
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, 64).min(hashes.len()) {
            scope.spawn(|| {
                while let Some(next) = queue.lock().ok().and_then(|mut q| q.pop_front()) {
                    let result = normalize(store, hashes[next]);
                    if result.is_err() {
                        // Nothing that follows can make the build succeed.
                        if let Ok(mut queue) = queue.lock() {
                            queue.clear();
                        }
                    }
                    if let Ok(mut slot) = results[next].lock() {
                        *slot = Some(result);
                    }
                    task.advance(1);
                }
            });
        }
    });
    let mut paths = Vec::with_capacity(hashes.len());
    let mut skipped = false;
    for slot in results {
        match slot.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(result) => paths.push(result?),
            None => skipped = true,
        }
    }
    debug_assert!(!skipped, "a package is left out only after an error, which was returned above");
    Ok(paths)
}

enum Stop {
    Store(StoreError),
    Io(io::Error),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn write(deb: &Deb, out: &tempfile::NamedTempFile) -> Result<(), Stop> {
    let mut writer = ar::Writer::new(BufWriter::with_capacity(1 << 18, out.as_file()))?;
    writer.append("debian-binary", &mut &b"2.0\n"[..])?;
    writer.append("control.tar", &mut deb.control_tar()?)?;
    writer.append("data.tar", &mut deb.data_tar()?)?;
    writer.finish()?;
    Ok(())
}
