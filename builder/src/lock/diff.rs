//! What changed between two locks, in terms of packages rather than of lines.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::{Lock, LockedPackage};
use crate::archive::version;

/// The difference between two locks, by set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Sets in which something changed, by name.
    pub sets: Vec<SetDiff>,
}

/// The difference between two states of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetDiff {
    /// The set.
    pub set: String,
    /// Whether it is new, or gone altogether.
    pub state: SetState,
    /// Changed packages: kernels, container engines and drivers first, then by name.
    pub changes: Vec<Change>,
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
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Change {
    /// It was not there before.
    New {
        /// Name.
        package: String,
        /// Version.
        version: String,
    },
    /// It is not there any more.
    Removed {
        /// Name.
        package: String,
        /// Version that was there.
        version: String,
    },
    /// It has a later version.
    Upgraded {
        /// Name.
        package: String,
        /// Before.
        from: String,
        /// Now.
        to: String,
    },
    /// It has an earlier version.
    Downgraded {
        /// Name.
        package: String,
        /// Before.
        from: String,
        /// Now.
        to: String,
    },
    /// It has the same version from another repository or with other content.
    Rebuilt {
        /// Name.
        package: String,
        /// Version.
        version: String,
        /// Repository before.
        from: String,
        /// Repository now.
        to: String,
    },
}

impl Change {
    /// The package's name.
    pub fn package(&self) -> &str {
        match self {
            Self::New { package, .. }
            | Self::Removed { package, .. }
            | Self::Upgraded { package, .. }
            | Self::Downgraded { package, .. }
            | Self::Rebuilt { package, .. } => package,
        }
    }
}

/// Packages whose change can change how a node boots, runs containers or drives its GPUs, by how a name begins.
const NOTABLE: [&[&str]; 3] = [
    &["linux-image", "linux-modules", "systemd", "firmware-", "linux-firmware"],
    &["docker", "containerd", "runc", "moby"],
    &["nvidia", "libnvidia", "cuda"],
];

fn rank(name: &str) -> usize {
    NOTABLE.iter().position(|prefixes| prefixes.iter().any(|p| name.starts_with(p))).unwrap_or(NOTABLE.len())
}

/// Compares two locks.
pub fn diff(old: &Lock, new: &Lock) -> Diff {
    let names: BTreeSet<&str> = old.set_names().chain(new.set_names()).collect();
    let sets = names.into_iter().filter_map(|name| {
        let (before, after) = (old.set(name).ok(), new.set(name).ok());
        let state = match (&before, &after) {
            (None, _) => SetState::New,
            (_, None) => SetState::Removed,
            _ => SetState::Changed,
        };
        let packages = |set: Option<super::LockedSet>| -> BTreeMap<String, LockedPackage> {
            set.into_iter().flat_map(|s| s.packages).map(|p| (p.name.clone(), p)).collect()
        };
        let changes = changes(&packages(before), &packages(after));
        (state != SetState::Changed || !changes.is_empty()).then(|| SetDiff { set: name.to_owned(), state, changes })
    });
    Diff { sets: sets.collect() }
}

fn changes(old: &BTreeMap<String, LockedPackage>, new: &BTreeMap<String, LockedPackage>) -> Vec<Change> {
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect::<BTreeSet<_>>().into_iter().collect();
    names.sort_by_key(|name| (rank(name), *name));
    names.into_iter().filter_map(|name| change(name, old.get(name), new.get(name))).collect()
}

fn change(name: &str, old: Option<&LockedPackage>, new: Option<&LockedPackage>) -> Option<Change> {
    let package = name.to_owned();
    let (old, new) = match (old, new) {
        (None, None) => return None,
        (None, Some(new)) => return Some(Change::New { package, version: new.version.clone() }),
        (Some(old), None) => return Some(Change::Removed { package, version: old.version.clone() }),
        (Some(old), Some(new)) => (old, new),
    };
    let (from, to) = (old.version.clone(), new.version.clone());
    match version::compare(&from, &to) {
        Ordering::Less => Some(Change::Upgraded { package, from, to }),
        Ordering::Greater => Some(Change::Downgraded { package, from, to }),
        Ordering::Equal if old.sha256 == new.sha256 => None,
        Ordering::Equal => {
            Some(Change::Rebuilt { package, version: to, from: old.repository.clone(), to: new.repository.clone() })
        }
    }
}

impl Diff {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing changed");
        }
        for set in &self.sets {
            match set.state {
                SetState::New => {
                    writeln!(f, "{}: new, {} packages", set.set, set.changes.len())?;
                    // A list of everything says nothing; what a reader looks for first is shown.
                    for change in set.changes.iter().filter(|c| rank(c.package()) < NOTABLE.len()) {
                        writeln!(f, "  {change}")?;
                    }
                }
                SetState::Removed => writeln!(f, "{}: removed", set.set)?,
                SetState::Changed => {
                    writeln!(f, "{}: {} changed", set.set, set.changes.len())?;
                    for change in &set.changes {
                        writeln!(f, "  {change}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New { package, version } => write!(f, "+ {package} {version}"),
            Self::Removed { package, version } => write!(f, "- {package} {version}"),
            Self::Upgraded { package, from, to } => write!(f, "^ {package} {from} -> {to}"),
            Self::Downgraded { package, from, to } => write!(f, "v {package} {from} -> {to} (downgraded)"),
            Self::Rebuilt { package, version, from, to } if from == to => {
                write!(f, "! {package} {version} has other content under the same version")
            }
            Self::Rebuilt { package, version, from, to } => {
                write!(f, "= {package} {version} from {to}, before from {from}")
            }
        }
    }
}
