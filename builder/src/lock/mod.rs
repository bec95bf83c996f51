//! The `lock` stage: what was resolved, written down so that a build resolves nothing.
//!
//! `ingot.lock` is TOML with three kinds of entries: a `[[release]]` for every suite that was verified, a
//! `[[package]]` for every exact package, and a `[[set]]` for every role (and the tools tree), which refers to packages.
//! Sets share package entries. The order of everything is fixed, so the file's changes read well in a review.
//!
//! [`resolve`] makes a lock from the archives, [`Lock::set`] gives a build its packages, [`diff`] says what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::archive::ArchiveError;
use crate::archive::release::is_sha256;
use crate::profile::Snapshot;
use crate::solve::SolveError;
use crate::store::{Fetch, Store};

mod diff;
mod file;
pub mod gpu;
mod resolve;

pub use diff::{Change, Diff, Kind, SetDiff, SetState, Side, diff};
pub use resolve::{Context, Resolved, SetRequest, Update, resolve};

/// A lock cannot be made, read or used.
#[derive(Debug, Error)]
pub enum LockError {
    /// The file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The lock.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file is not there.
    #[error("there is no lock at {}; make one with `ingot lock`", path.display())]
    Absent {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file's content is wrong.
    #[error("{}:{line}:{column}: {problem}; put it right, or make it anew with `ingot lock`", path.display())]
    Content {
        /// The lock.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong.
        problem: String,
    },
    /// The set is not in the lock.
    #[error("`{set}` is not in the lock{}; add it with `ingot lock`", known_sets(known))]
    NoSet {
        /// The set.
        set: String,
        /// Sets that are.
        known: Vec<String>,
    },
    /// The profile asks for something else than it did when the lock was made.
    #[error(
        "the lock is older than the profile of `{set}`: packages, pins or repositories have changed since; run `ingot lock`"
    )]
    Outdated {
        /// The set.
        set: String,
    },
    /// A package that is to be updated is in no set.
    #[error("no set of these roles has a package `{name}`{}", did_you_mean(similar))]
    NoPackage {
        /// The name, or the pattern of names.
        name: String,
        /// Names like it.
        similar: Vec<String>,
    },
    /// A set names a repository that is not among the given ones.
    #[error("`{set}` uses repository `{repository}`, which the profile does not define")]
    UnknownRepository {
        /// The set.
        set: String,
        /// The repository.
        repository: String,
    },
    /// A package's index entry has no SHA-256.
    #[error("{package} of repository `{repository}` has no SHA-256 in its index, so it cannot be pinned")]
    NoDigest {
        /// Name and version.
        package: String,
        /// The repository.
        repository: String,
    },
    /// The archive cannot be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// There is no set of packages.
    #[error("`{set}`: {source}")]
    Solve {
        /// The set.
        set: String,
        /// Why.
        source: SolveError,
    },
    /// The set's packages for NVIDIA's GPUs do not belong together.
    #[error("`{set}`: {source}")]
    Gpu {
        /// The set.
        set: String,
        /// Which, and what to pin.
        source: Box<gpu::GpuError>,
    },
}

fn did_you_mean(similar: &[String]) -> String {
    if similar.is_empty() { String::new() } else { format!("; did you mean {}?", similar.join(", ")) }
}

fn known_sets(known: &[String]) -> String {
    if known.is_empty() { String::new() } else { format!(", which has {}", known.join(", ")) }
}

/// A suite as it was when the lock was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The repository's name in the profile.
    pub repository: String,
    /// The suite as the profile names it.
    pub suite: String,
    /// SHA-256 of the release file.
    #[serde(deserialize_with = "sha256")]
    pub sha256: String,
    /// Its date, in seconds since 1970.
    pub date: u64,
    /// Fingerprint of the certificate that signed it.
    pub signer: String,
    /// The moment that it was read at; absent for what the archive had when the lock was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
}

/// An exact package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// `docker.io`
    pub name: String,
    /// Debian version number.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// The repository that has it.
    pub repository: String,
    /// Path below the repository's URL.
    pub filename: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the .deb.
    #[serde(deserialize_with = "sha256")]
    pub sha256: String,
    /// `Essential: yes`
    #[serde(default, skip_serializing_if = "is_false")]
    pub essential: bool,
    /// KiB once unpacked.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub installed_size: u64,
    /// The source package, where it has another name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Relation field as the package writes it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pre_depends: String,
    /// As `pre_depends`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub depends: String,
    /// As `pre_depends`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub provides: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde calls
fn is_false(value: &bool) -> bool {
    !*value
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde calls
fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn sha256<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if is_sha256(&text) {
        Ok(text)
    } else {
        Err(serde::de::Error::custom(format!("`{text}` is no SHA-256 in lower-case hex")))
    }
}

impl LockedPackage {
    /// `name=version:architecture@repository`, by which sets refer to it.
    pub fn reference(&self) -> String {
        format!("{}={}:{}@{}", self.name, self.version, self.architecture, self.repository)
    }
}

/// The packages of one role or of the tools tree, by reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Set {
    pub name: String,
    #[serde(deserialize_with = "sha256")]
    pub profile: String,
    pub date: u64,
    pub packages: Vec<String>,
    /// Of repositories that were read at a moment of their past: which one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub snapshots: BTreeMap<String, Snapshot>,
}

/// A lock in memory: sound, and in its fixed order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    /// Sorted by repository and suite.
    releases: Vec<Release>,
    /// By reference.
    packages: BTreeMap<String, LockedPackage>,
    /// By name.
    sets: BTreeMap<String, Set>,
}

/// The packages of one set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedSet {
    /// `quickstart/worker@debian-13`
    pub name: String,
    /// Hash of what was resolved: see [`SetRequest::inputs_hash`].
    pub profile: String,
    /// The newest date of the releases it was resolved from, in seconds since 1970: `SOURCE_DATE_EPOCH`.
    pub date: u64,
    /// Of repositories that were read at a moment of their past: which one.
    pub snapshots: BTreeMap<String, Snapshot>,
    /// Sorted by name.
    pub packages: Vec<LockedPackage>,
}

impl LockedSet {
    /// Fails if the set was made for other inputs than these.
    pub fn check(&self, inputs_hash: &str) -> Result<(), LockError> {
        if self.profile == inputs_hash { Ok(()) } else { Err(LockError::Outdated { set: self.name.clone() }) }
    }

    /// A package of the set by name.
    pub fn package(&self, name: &str) -> Option<&LockedPackage> {
        self.packages.binary_search_by(|p| p.name.as_str().cmp(name)).ok().map(|i| &self.packages[i])
    }

    /// What the store has to fetch for this set. `mirror` gives a repository's URL; it is asked only for
    /// repositories of which something is missing, so that a full store needs no mirror.
    pub fn fetches<E>(
        &self,
        store: &Store,
        mut mirror: impl FnMut(&str) -> Result<String, E>,
    ) -> Result<Vec<Fetch>, E> {
        let mut urls: BTreeMap<&str, String> = BTreeMap::new();
        let mut fetches = Vec::new();
        for package in self.packages.iter().filter(|p| !store.has(&p.sha256, Some(p.size))) {
            let base = match urls.get(package.repository.as_str()) {
                Some(url) => url.clone(),
                None => mirror(&package.repository)?,
            };
            urls.insert(&package.repository, base.clone());
            let path = package.filename.strip_prefix("./").unwrap_or(&package.filename);
            fetches.push(Fetch {
                sha256: package.sha256.clone(),
                size: package.size,
                urls: vec![format!("{base}/{}", url_path(path))],
                name: format!("{} {}", package.name, package.version),
            });
        }
        Ok(fetches)
    }
}

/// A file name as a URL's path: what a URL cannot carry is percent-encoded, as apt does.
fn url_path(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/+:@!$&'()*,;=%".contains(&b);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The set of packages that build a role's kernel modules: `gpu/worker@debian-13#dkms`.
pub fn dkms_set_name(role_set: &str) -> String {
    format!("{role_set}#dkms")
}

impl Lock {
    /// Reads and checks a lock.
    pub fn read(path: &Path) -> Result<Self, LockError> {
        match std::fs::read_to_string(path) {
            Ok(text) => file::parse(&text, path),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(LockError::Absent { path: path.to_owned() }),
            Err(source) => Err(LockError::Io { action: "read", path: path.to_owned(), source }),
        }
    }

    /// Writes it in one step: either the old file is there or the new one.
    pub fn write(&self, path: &Path) -> Result<(), LockError> {
        file::write(self, path)
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        file::text(self)
    }

    /// Names of the sets.
    pub fn set_names(&self) -> impl Iterator<Item = &str> {
        self.sets.keys().map(String::as_str)
    }

    /// Dates of the releases of the present that it was made from, by repository and suite: no archive goes back
    /// behind them unasked.
    pub fn dates(&self) -> BTreeMap<(String, String), u64> {
        let present = self.releases.iter().filter(|r| r.snapshot.is_none());
        present.map(|r| ((r.repository.clone(), r.suite.clone()), r.date)).collect()
    }

    /// The releases it was made from.
    pub fn releases(&self) -> &[Release] {
        &self.releases
    }

    /// A set with its packages.
    pub fn set(&self, name: &str) -> Result<LockedSet, LockError> {
        let Some(set) = self.sets.get(name) else {
            return Err(LockError::NoSet {
                set: name.to_owned(),
                known: self.set_names().map(str::to_owned).collect(),
            });
        };
        // A reference without its package does not get past reading or making a lock.
        let packages = set.packages.iter().filter_map(|reference| self.packages.get(reference)).cloned();
        let mut packages: Vec<LockedPackage> = packages.collect();
        packages.sort();
        let (name, profile, snapshots) = (set.name.clone(), set.profile.clone(), set.snapshots.clone());
        Ok(LockedSet { name, profile, date: set.date, snapshots, packages })
    }

    /// Fails if a set's packages for GPUs do not belong together. A role's set is looked at together with that of the
    /// modules that are built for it.
    pub fn check_gpu(&self, name: &str) -> Result<(), LockError> {
        let mut packages = self.set(name)?.packages;
        if let Ok(modules) = self.set(&dkms_set_name(name)) {
            packages.extend(modules.packages);
        }
        gpu::check(&packages).map_err(|source| LockError::Gpu { set: name.to_owned(), source: Box::new(source) })
    }

    /// This lock with the sets of `new` put in or replaced; packages that no set uses any more are left out.
    ///
    /// A set whose packages, inputs and moments are the same stays as it is with its date, so that its images stay the same; and
    /// where all are the same, the releases stay as well, unless one is older now. That an archive was signed anew is no
    /// change.
    #[must_use]
    pub fn updated(mut self, mut new: Lock) -> Self {
        let same = |set: &Set| {
            let equal = |old: &Set| {
                old.profile == set.profile && old.packages == set.packages && old.snapshots == set.snapshots
            };
            let content = |reference: &String| self.packages.get(reference) == new.packages.get(reference);
            self.sets.get(&set.name).is_some_and(equal) && set.packages.iter().all(content)
        };
        let same: BTreeSet<String> = new.sets.values().filter(|set| same(set)).map(|set| set.name.clone()).collect();
        new.sets.retain(|name, _| !same.contains(name));
        // An archive that was let go back must not be measured by what it had before.
        let dates = self.dates();
        let went_back = new.dates().into_iter().any(|(suite, date)| dates.get(&suite).is_some_and(|old| *old > date));
        if new.sets.is_empty() && !went_back {
            return self;
        }
        self.sets.extend(new.sets);
        self.packages.extend(new.packages);
        let mut releases: BTreeMap<_, Release> = BTreeMap::new();
        for release in self.releases.into_iter().chain(new.releases) {
            releases.insert((release.repository.clone(), release.suite.clone(), release.snapshot.clone()), release);
        }
        self.releases = releases.into_values().collect();
        self.drop_unused();
        self
    }

    /// This lock with these sets alone.
    #[must_use]
    pub fn only(&self, sets: &BTreeSet<String>) -> Self {
        let mut lock = self.clone();
        lock.sets.retain(|name, _| sets.contains(name));
        lock.drop_unused();
        lock
    }

    /// This lock without a set.
    #[must_use]
    pub fn without(mut self, set: &str) -> Self {
        self.sets.remove(set);
        self.drop_unused();
        self
    }

    fn drop_unused(&mut self) {
        let used: BTreeSet<&String> = self.sets.values().flat_map(|s| &s.packages).collect();
        self.packages.retain(|reference, _| used.contains(reference));
        // Repositories with the moments at which sets have read them.
        let mut read: BTreeSet<(&str, Option<&Snapshot>)> = BTreeSet::new();
        for set in self.sets.values() {
            let packages = set.packages.iter().filter_map(|reference| self.packages.get(reference));
            read.extend(packages.map(|p| (p.repository.as_str(), set.snapshots.get(&p.repository))));
        }
        self.releases.retain(|r| read.contains(&(r.repository.as_str(), r.snapshot.as_ref())));
    }
}

#[cfg(test)]
pub(crate) mod tests;
