//! From a bundle to a store.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{BundleError, INDEX, Index, LOCK, VERSION, kept_path, object_path, release_path};
use crate::archive::release::{hex, is_sha256};
use crate::progress::Progress;
use crate::store::Store;

/// The largest index, lock or release file that is read, in bytes.
const TEXT_LIMIT: u64 = 64 << 20;

/// What was taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// The sets whose packages are now in the store.
    pub sets: Vec<String>,
    /// Packages and artifacts.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The text of the lock.
    #[serde(skip)]
    pub lock: String,
}

/// Puts everything from a bundle, a directory or a tar archive, into the store.
///
/// # Errors
/// Something is missing, is not what its hash says, or does not belong there. What was right until then stays in the
/// store, where it does no harm.
pub fn import(store: &Store, from: &Path, progress: &dyn Progress) -> Result<Imported, BundleError> {
    let failed = |source| BundleError::Io { action: "read", path: from.to_owned(), source };
    if from.is_dir() {
        let open = |name: &str| {
            let path = from.join(name);
            match File::open(&path) {
                Ok(file) => Ok(file),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(content(from, format!("{name} is missing"))),
                Err(source) => Err(BundleError::Io { action: "read", path, source }),
            }
        };
        let mut import = Import::new(store, from, &mut open(INDEX)?, progress)?;
        for name in import.wanted.keys().cloned().collect::<Vec<_>>() {
            import.take(&name, &mut open(&name)?)?;
        }
        return import.finish();
    }
    let file = File::open(from).map_err(failed)?;
    let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 18, file));
    let mut import = None;
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        match &mut import {
            // The index is first, so that nothing is taken that it does not name.
            None if name == INDEX => import = Some(Import::new(store, from, &mut entry, progress)?),
            None => return Err(content(from, format!("it begins with `{name}`, not with {INDEX}"))),
            Some(import) => import.take(&name, &mut entry)?,
        }
    }
    import.ok_or_else(|| content(from, "it is empty".to_owned()))?.finish()
}

fn content(from: &Path, problem: String) -> BundleError {
    BundleError::Content { path: from.to_owned(), problem }
}

enum Kind {
    Object,
    /// Where the store keeps it.
    Release(String),
    Lock,
}

struct Wanted {
    kind: Kind,
    sha256: String,
    /// Not known of the lock.
    size: Option<u64>,
}

struct Import<'a> {
    store: &'a Store,
    from: &'a Path,
    index: Index,
    /// What is still to come, by path.
    wanted: BTreeMap<String, Wanted>,
    lock: String,
    task: Box<dyn crate::progress::Task>,
}

impl<'a> Import<'a> {
    fn new(
        store: &'a Store,
        from: &'a Path,
        index: &mut dyn Read,
        progress: &dyn Progress,
    ) -> Result<Self, BundleError> {
        let text = read(index, from)?;
        let wrong = |problem: String| content(from, format!("{INDEX}: {problem}"));
        let index: Index = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        if index.version != VERSION {
            return Err(wrong(format!("it has version {}, and this ingot reads version {VERSION}", index.version)));
        }
        let mut wanted = BTreeMap::new();
        wanted.insert(LOCK.to_owned(), Wanted { kind: Kind::Lock, sha256: index.lock.clone(), size: None });
        let mut hashes: BTreeSet<&str> = BTreeSet::from([index.lock.as_str()]);
        for object in &index.objects {
            hashes.insert(&object.sha256);
            let entry = Wanted { kind: Kind::Object, sha256: object.sha256.clone(), size: Some(object.size) };
            wanted.insert(object_path(&object.sha256), entry);
        }
        for release in &index.releases {
            hashes.insert(&release.release.sha256);
            for file in &release.files {
                if !["InRelease", "Release", "Release.gpg"].contains(&file.name.as_str()) {
                    return Err(wrong(format!("`{}` is no name of a release file", file.name)));
                }
                hashes.insert(&file.sha256);
                let kind = Kind::Release(kept_path(&release.release.sha256, &file.name));
                let entry = Wanted { kind, sha256: file.sha256.clone(), size: Some(file.size) };
                wanted.insert(release_path(&release.release.sha256, &file.name), entry);
            }
        }
        if let Some(bad) = hashes.into_iter().find(|hash| !is_sha256(hash)) {
            return Err(wrong(format!("`{bad}` is no SHA-256 in lower-case hex")));
        }
        let task = progress.start("reading the sources", Some(index.objects.iter().map(|o| o.size).sum()));
        Ok(Self { store, from, index, wanted, lock: String::new(), task })
    }

    fn take(&mut self, name: &str, input: &mut dyn Read) -> Result<(), BundleError> {
        let Some(wanted) = self.wanted.remove(name) else {
            return Err(content(self.from, format!("`{name}` is in it and not in its index")));
        };
        let what = format!("{} of {}", name, self.from.display());
        let check = |actual: String| {
            if actual == wanted.sha256 {
                return Ok(());
            }
            Err(BundleError::Damaged { what, expected: wanted.sha256.clone(), actual })
        };
        match (&wanted.kind, wanted.size) {
            (Kind::Object, Some(size)) if self.store.has(&wanted.sha256, Some(size)) => self.task.advance(size),
            (Kind::Object, size) => {
                // One byte more than there should be is enough to see that it is too many.
                let size = size.unwrap_or(0);
                check(self.store.put(&mut input.take(size.saturating_add(1)))?)?;
                self.task.advance(size);
            }
            (Kind::Release(path), _) => {
                let text = read(input, self.from)?;
                check(hex(&Sha256::digest(&text)))?;
                self.store.keep(path, &text)?;
            }
            (Kind::Lock, _) => {
                let text = read(input, self.from)?;
                check(hex(&Sha256::digest(&text)))?;
                self.lock = String::from_utf8(text).map_err(|_| content(self.from, format!("{LOCK} is not UTF-8")))?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Imported, BundleError> {
        if let Some(missing) = self.wanted.keys().next() {
            let rest = self.wanted.len() - 1;
            let more = if rest == 0 { String::new() } else { format!(" (and {rest} more)") };
            return Err(content(self.from, format!("{missing} is missing{more}")));
        }
        let bytes = self.index.objects.iter().map(|object| object.size).sum();
        Ok(Imported { sets: self.index.sets, objects: self.index.objects.len(), bytes, lock: self.lock })
    }
}

fn read(input: &mut dyn Read, from: &Path) -> Result<Vec<u8>, BundleError> {
    let mut text = Vec::new();
    input.take(TEXT_LIMIT).read_to_end(&mut text).map_err(BundleError::io("read", from))?;
    Ok(text)
}
