//! What changed between two locks, in terms of packages rather than of lines, and what an operator looks for first.
//!
//! Takes two locks, gives a [`Diff`]. A change that several sets share is there once, with the names of the sets. A
//! kernel, a driver or a Docker package that comes under another name than before (`linux-image-6.12.9-amd64` for
//! `linux-image-6.12.1-amd64`) is one change, not a package that is gone and another one that is new. The order of
//! everything is fixed.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Lock, LockedPackage};
use crate::archive::version;

#[path = "diff_text.rs"]
mod text;

/// The difference between two locks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Sets in which something changed, by name.
    pub sets: Vec<SetDiff>,
    /// Release files that are older than before: `debian trixie`. Newer ones are the normal course.
    pub gone_back: Vec<String>,
    /// The kernel and its modules.
    pub kernel: Vec<Change>,
    /// GPU drivers.
    pub driver: Vec<Change>,
    /// Docker and what runs its containers.
    pub docker: Vec<Change>,
    /// Other packages that have a later version.
    pub upgraded: Vec<Change>,
    /// Other packages that were not there before.
    pub new: Vec<Change>,
    /// Other packages that are not there any more.
    pub removed: Vec<Change>,
    /// Other packages that have an earlier version.
    pub downgraded: Vec<Change>,
    /// Other packages that have the same version from another repository or with other content.
    pub rebuilt: Vec<Change>,
    /// Bytes of the packages that the old lock does not have, each counted once.
    pub download: u64,
    /// Bytes that the packages of these sets took when installed, each counted once.
    pub installed_before: u64,
    /// Bytes that they take now.
    pub installed_after: u64,
}

/// The difference between two states of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetDiff {
    /// The set.
    pub set: String,
    /// Whether it is new, or gone altogether.
    pub state: SetState,
    /// Packages that it has now.
    pub packages: usize,
    /// Packages that changed.
    pub changed: usize,
    /// Whether what the profile asks for changed.
    pub profile_changed: bool,
    /// Repositories that are read at another moment than before: `ubuntu at 20261101T000000Z`.
    pub moments: Vec<String>,
    /// Bytes that its packages took when installed.
    pub installed_before: u64,
    /// Bytes that they take now.
    pub installed_after: u64,
}

/// What became of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SetState {
    /// It was not there before.
    New,
    /// It is not there any more.
    Removed,
    /// It is in both locks.
    Changed,
}

/// What became of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// In what way it changed.
    pub kind: Kind,
    /// What was there before.
    pub from: Option<Side>,
    /// What is there now.
    pub to: Option<Side>,
    /// The sets in which this happened, by name.
    pub sets: Vec<String>,
}

/// In what way a package changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It has a later version.
    Upgraded,
    /// It was not there before.
    New,
    /// It is not there any more.
    Removed,
    /// It has an earlier version.
    Downgraded,
    /// It has the same version, from another repository or with other content.
    Rebuilt,
}

/// A package on one side of a change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Side {
    /// Name.
    pub package: String,
    /// Version.
    pub version: String,
    /// The repository that has it.
    pub repository: String,
    /// SHA-256 of the package.
    pub sha256: String,
}

impl Change {
    /// The package's name; where it changed, the one that it has now.
    pub fn package(&self) -> &str {
        self.to.as_ref().or(self.from.as_ref()).map_or("", |side| side.package.as_str())
    }
}

/// What an operator asks for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topic {
    Kernel,
    Driver,
    Docker,
}

/// By how a name begins; the first that fits counts.
const TOPICS: [(Topic, &[&str]); 4] = [
    (Topic::Driver, &["linux-modules-nvidia-", "linux-objects-nvidia-", "linux-signatures-nvidia-"]),
    (Topic::Kernel, &["linux-image-", "linux-modules-"]),
    (Topic::Driver, &["nvidia-", "libnvidia-", "cuda-"]),
    (Topic::Docker, &["docker.io", "docker-", "containerd", "runc", "moby-"]),
];

fn topic(name: &str) -> Option<Topic> {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    TOPICS.iter().find(|(_, prefixes)| begins(prefixes)).map(|(topic, _)| *topic)
}

/// A name without the version in it: `linux-image-*-amd64`. `None` for packages whose names are not looked at so closely.
fn family(name: &str) -> Option<String> {
    topic(name)?;
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('-') {
        let part = if part.starts_with(|c: char| c.is_ascii_digit()) { "*" } else { part };
        if part != "*" || parts.last() != Some(&"*") {
            parts.push(part);
        }
    }
    Some(parts.join("-"))
}

/// Compares two locks.
pub fn diff(old: &Lock, new: &Lock) -> Diff {
    let mut diff = Diff::default();
    let mut changes: BTreeMap<Key, Vec<String>> = BTreeMap::new();
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    for name in old.set_names().chain(new.set_names()).collect::<BTreeSet<_>>() {
        let (old_set, new_set) = (old.set(name).ok(), new.set(name).ok());
        let state = match (&old_set, &new_set) {
            (None, _) => SetState::New,
            (_, None) => SetState::Removed,
            _ => SetState::Changed,
        };
        let (mut profile_changed, mut moments) = (false, Vec::new());
        if let (Some(old_set), Some(new_set)) = (&old_set, &new_set) {
            if old_set == new_set {
                continue;
            }
            profile_changed = old_set.profile != new_set.profile;
            moments = moved(old_set, new_set);
        }
        let packages = |set: Option<super::LockedSet>| set.map(|s| s.packages).unwrap_or_default();
        let (old_packages, new_packages) = (packages(old_set), packages(new_set));
        let pairs = pairs(&old_packages, &new_packages);
        diff.sets.push(SetDiff {
            set: name.to_owned(),
            state,
            packages: new_packages.len(),
            changed: pairs.len(),
            profile_changed,
            moments,
            installed_before: old_packages.iter().map(installed).sum(),
            installed_after: new_packages.iter().map(installed).sum(),
        });
        for (package, from, to) in pairs {
            let key = (package, state != SetState::Changed, from, to);
            changes.entry(key).or_default().push(name.to_owned());
        }
        before.extend(old_packages.iter().map(|p| (p.reference(), installed(p))));
        after.extend(new_packages.iter().map(|p| (p.reference(), installed(p))));
    }
    let dates = new.dates();
    for ((repository, suite), date) in old.dates() {
        if dates.get(&(repository.clone(), suite.clone())).is_some_and(|now| *now < date) {
            diff.gone_back.push(format!("{repository} {suite}"));
        }
    }
    diff.installed_before = before.values().sum();
    diff.installed_after = after.values().sum();
    let known = |(reference, package): &(&String, &LockedPackage)| {
        old.packages.get(*reference).is_some_and(|known| known.sha256 == package.sha256)
    };
    diff.download = new.packages.iter().filter(|entry| !known(entry)).map(|(_, package)| package.size).sum();
    for ((_, _, from, to), sets) in changes {
        diff.add(Change { kind: kind(from.as_ref(), to.as_ref()), from, to, sets });
    }
    diff
}

/// The repositories that two states of a set have at different moments.
fn moved(old: &super::LockedSet, new: &super::LockedSet) -> Vec<String> {
    let names: BTreeSet<&String> = old.snapshots.keys().chain(new.snapshots.keys()).collect();
    let moved = names.into_iter().filter(|name| old.snapshots.get(*name) != new.snapshots.get(*name));
    let at = |name: &String| new.snapshots.get(name).map_or("present".to_owned(), ToString::to_string);
    moved.map(|name| format!("{name} at {}", at(name))).collect()
}

fn installed(package: &LockedPackage) -> u64 {
    package.installed_size.saturating_mul(1024)
}

/// What a change is sorted by: the name; whether a whole set came or went, which says less of a package than its own
/// coming and going; and the package before and after.
type Key = (String, bool, Option<Side>, Option<Side>);

/// The name to sort by, and a package before and after.
type Sides = (String, Option<Side>, Option<Side>);

fn side(package: &LockedPackage) -> Side {
    Side {
        package: package.name.clone(),
        version: package.version.clone(),
        repository: package.repository.clone(),
        sha256: package.sha256.clone(),
    }
}

/// What changed between two states of a set.
fn pairs(old: &[LockedPackage], new: &[LockedPackage]) -> Vec<Sides> {
    let by_name = |packages: &[LockedPackage]| -> BTreeMap<String, Side> {
        packages.iter().map(|p| (p.name.clone(), side(p))).collect()
    };
    let (mut old, mut new) = (by_name(old), by_name(new));
    let mut pairs = Vec::new();
    for name in old.keys().filter(|name| new.contains_key(*name)).cloned().collect::<Vec<_>>() {
        let (from, to) = (old.remove(&name), new.remove(&name));
        let same = |a: &Side, b: &Side| a.version == b.version && a.sha256 == b.sha256;
        if !from.as_ref().zip(to.as_ref()).is_some_and(|(a, b)| same(a, b)) {
            pairs.push((name, from, to));
        }
    }
    // What is left came or went. One of a family that went and one that came are the same thing in another version.
    let families = |sides: &BTreeMap<String, Side>| {
        let mut families: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in sides.keys() {
            families.entry(family(name).unwrap_or_default()).or_default().push(name.clone());
        }
        families.remove("");
        families
    };
    let arrived = families(&new);
    for (family, gone) in families(&old) {
        if let ([gone], Some([come])) = (&gone[..], arrived.get(&family).map(Vec::as_slice)) {
            pairs.push((come.clone(), old.remove(gone), new.remove(come)));
        }
    }
    pairs.extend(old.into_iter().map(|(name, side)| (name, Some(side), None)));
    pairs.extend(new.into_iter().map(|(name, side)| (name, None, Some(side))));
    pairs
}

fn kind(from: Option<&Side>, to: Option<&Side>) -> Kind {
    match (from, to) {
        (None, _) => Kind::New,
        (_, None) => Kind::Removed,
        (Some(from), Some(to)) => match version::compare(&from.version, &to.version) {
            Ordering::Less => Kind::Upgraded,
            Ordering::Greater => Kind::Downgraded,
            Ordering::Equal => Kind::Rebuilt,
        },
    }
}

impl Diff {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.gone_back.is_empty()
    }

    fn add(&mut self, change: Change) {
        let list = match (topic(change.package()), change.kind) {
            (Some(Topic::Kernel), _) => &mut self.kernel,
            (Some(Topic::Driver), _) => &mut self.driver,
            (Some(Topic::Docker), _) => &mut self.docker,
            (None, Kind::Upgraded) => &mut self.upgraded,
            (None, Kind::New) => &mut self.new,
            (None, Kind::Removed) => &mut self.removed,
            (None, Kind::Downgraded) => &mut self.downgraded,
            (None, Kind::Rebuilt) => &mut self.rebuilt,
        };
        list.push(change);
    }
}
