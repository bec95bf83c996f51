//! The lock as a file: reading with every check, writing in one step.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Lock, LockError, LockedPackage, Release, Set};

const VERSION: u32 = 1;
const HEAD: &str = "# Written by `ingot lock`; not meant to be edited by hand. Commit it: builds use nothing else.\n";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    #[serde(default)]
    release: Vec<Release>,
    #[serde(default)]
    package: Vec<LockedPackage>,
    #[serde(default)]
    set: Vec<Set>,
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Lock, LockError> {
    let at = |offset: usize, problem: String| {
        let before = &text.as_bytes()[..offset.min(text.len())];
        let line = memchr::memchr_iter(b'\n', before).count() + 1;
        let column = before.len() - memchr::memrchr(b'\n', before).map_or(0, |n| n + 1) + 1;
        LockError::Content { path: path.to_owned(), line, column, problem }
    };
    // Places of things that are well-formed but wrong are found by their text; it is unique enough for that.
    let near = |needle: &str, nth: usize, problem: String| {
        at(text.match_indices(needle).nth(nth).map_or(0, |(offset, _)| offset), problem)
    };
    let document: Document = toml::from_str(text)
        .map_err(|e| at(e.span().map_or(0, |s| s.start), e.message().trim_end().replace('\n', ", ")))?;
    if document.version != VERSION {
        let problem = format!("this lock has version {}, and this ingot reads version {VERSION}", document.version);
        return Err(near("version", 0, problem));
    }
    let mut packages = BTreeMap::new();
    for package in document.package {
        let sound = !package.filename.starts_with('/') && package.filename.split('/').all(|part| part != "..");
        if !sound || package.filename.is_empty() {
            let problem = format!("file name `{}` leaves the repository", package.filename);
            return Err(near(&package.filename, 0, problem));
        }
        let reference = package.reference();
        if let Some(first) = packages.insert(reference.clone(), package) {
            let name = format!("name = \"{}\"", first.name);
            return Err(near(&name, 1, format!("package {reference} is there twice")));
        }
    }
    let mut sets: BTreeMap<String, Set> = BTreeMap::new();
    for mut set in document.set {
        if let Some(absent) = set.packages.iter().find(|reference| !packages.contains_key(*reference)) {
            let problem = format!("set `{}` refers to {absent}, and there is no such [[package]]", set.name);
            return Err(near(&format!("\"{absent}\""), 0, problem));
        }
        set.packages.sort();
        set.packages.dedup();
        if sets.contains_key(&set.name) {
            return Err(near(&format!("name = \"{}\"", set.name), 1, format!("set `{}` is there twice", set.name)));
        }
        sets.insert(set.name.clone(), set);
    }
    let mut releases = document.release;
    releases.sort();
    Ok(Lock { releases, packages, sets })
}

pub(super) fn text(lock: &Lock) -> String {
    let mut packages: Vec<LockedPackage> = lock.packages.values().cloned().collect();
    packages.sort();
    let document = Document {
        version: VERSION,
        release: lock.releases.clone(),
        package: packages,
        set: lock.sets.values().cloned().collect(),
    };
    // Every field is a string, a number, a truth value or a list of strings, which TOML can always express.
    let body = toml::to_string_pretty(&document).unwrap_or_default();
    format!("{HEAD}{body}")
}

pub(super) fn write(lock: &Lock, path: &Path) -> Result<(), LockError> {
    let error = |source| LockError::Io { action: "write", path: path.to_owned(), source };
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new().prefix(".ingot.lock.").tempfile_in(directory).map_err(error)?;
    temporary.write_all(text(lock).as_bytes()).map_err(error)?;
    temporary.as_file().sync_all().map_err(error)?;
    // Temporary files are private; a lock is for everyone who can read the profiles.
    temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(error)?;
    temporary.persist(path).map_err(|e| error(e.error))?;
    Ok(())
}
