//! From profiles' requests to a lock.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{Lock, LockError, LockedPackage, LockedSet, Release, Set};
use crate::archive::index::{self, Access, Suite};
use crate::archive::release::{hex, is_sha256};
use crate::profile::{Repository, Snapshot};
use crate::solve::{Kept, PackageId, Request, Universe, solve, solve_keeping};

/// One set that is to be locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetRequest {
    /// `quickstart/worker@debian-13`
    pub name: String,
    /// What is asked for.
    pub request: Request,
    /// Names of the repositories that its packages may come from; of equal priority, the earlier wins.
    pub repositories: Vec<String>,
}

impl SetRequest {
    /// SHA-256 over everything in the profile that the resolution depends on: the request, and the repositories with
    /// their suites, components, priorities, keyrings and moments, but not where they are fetched from.
    pub fn inputs_hash(&self, repositories: &BTreeMap<String, Repository>) -> Result<String, LockError> {
        #[derive(Serialize)]
        struct Source<'a> {
            name: &'a str,
            suites: &'a [String],
            components: &'a [String],
            priority: i32,
            keyring: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            snapshot: Option<&'a str>,
        }
        let mut sources = Vec::new();
        for repository in self.repositories(repositories)? {
            let keyring = std::fs::read(&repository.keyring).map_err(|source| LockError::Io {
                action: "read",
                path: repository.keyring.clone(),
                source,
            })?;
            sources.push(Source {
                name: &repository.name,
                suites: &repository.suites,
                components: &repository.components,
                priority: repository.priority,
                keyring: hex(&Sha256::digest(&keyring)),
                snapshot: repository.snapshot.as_ref().map(Snapshot::id),
            });
        }
        // Strings, numbers and lists of them: JSON can express them all.
        let text = serde_json::to_string(&(1, &self.request, sources)).unwrap_or_default();
        Ok(hex(&Sha256::digest(text.as_bytes())))
    }

    fn repositories<'r>(&self, known: &'r BTreeMap<String, Repository>) -> Result<Vec<&'r Repository>, LockError> {
        let find = |name: &String| {
            let unknown = || LockError::UnknownRepository { set: self.name.clone(), repository: name.clone() };
            known.get(name).ok_or_else(unknown)
        };
        self.repositories.iter().map(find).collect()
    }
}

/// What resolving needs beside the requests.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Repositories by name.
    pub repositories: &'a BTreeMap<String, Repository>,
    /// How their indexes are fetched.
    pub access: Access<'a>,
}

/// An update of some packages of a lock; everything else stays as it is locked where it can.
#[derive(Clone, Copy)]
pub struct Update<'a> {
    /// What is locked.
    pub old: &'a Lock,
    /// Names, or patterns of names, of the packages that may change.
    pub packages: &'a [String],
}

impl Update<'_> {
    /// Fails if a name is of no package that `sets` have or ask for.
    pub fn check(&self, sets: &[SetRequest]) -> Result<(), LockError> {
        let locked = sets.iter().filter_map(|set| self.old.set(&set.name).ok()).flat_map(|set| set.packages);
        let mut known: BTreeSet<String> = locked.map(|package| package.name).collect();
        known.extend(sets.iter().flat_map(|set| set.request.include.iter().cloned()));
        let unknown = |wanted: &&String| !known.iter().any(|name| crate::solve::matches(wanted, name));
        match self.packages.iter().find(unknown) {
            None => Ok(()),
            Some(name) => Err(LockError::NoPackage {
                name: name.clone(),
                similar: crate::solve::similar(name, known.iter().map(String::as_str)),
            }),
        }
    }
}

/// Sets that were resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The sets, with their packages and releases.
    pub lock: Lock,
    /// With an [`Update`]: packages, as `name version`, that were to stay, and that no repository has any more.
    pub gone: BTreeSet<String>,
}

/// Resolves the sets. Each index is fetched and read once, whatever the number of sets.
pub fn resolve(sets: &[SetRequest], context: Context<'_>, update: Option<Update<'_>>) -> Result<Resolved, LockError> {
    let mut used: BTreeSet<&str> = BTreeSet::new();
    for set in sets {
        used.extend(set.repositories(context.repositories)?.iter().map(|r| r.name.as_str()));
    }
    let wanted: Vec<&Repository> = used.iter().filter_map(|name| context.repositories.get(*name)).collect();
    let suites = index::load(&wanted, context.access)?;

    let mut universes: BTreeMap<&[String], Universe<'_>> = BTreeMap::new();
    let mut lock = Lock::default();
    let mut gone = BTreeSet::new();
    let task = context.access.progress.start("resolving packages", Some(sets.len() as u64));
    for set in sets {
        let own: Vec<&Suite> =
            set.repositories.iter().flat_map(|name| suites.iter().filter(move |s| s.repository == *name)).collect();
        if !universes.contains_key(&set.repositories[..]) {
            universes.insert(&set.repositories, Universe::new(&own, context.access.architecture)?);
        }
        let Some(universe) = universes.get_mut(&set.repositories[..]) else { continue }; // it was put in above
        let failed = |source| LockError::Solve { set: set.name.clone(), source };
        let chosen = match update.and_then(|update| Some((update, update.old.set(&set.name).ok()?))) {
            None => solve(universe, &set.request).map_err(failed)?,
            Some((update, old)) => {
                let version_of = |p: &'_ LockedPackage| format!("{} {}", p.name, p.version);
                let (chosen, lost) =
                    solve_keeping(universe, &set.request, &kept(&old, update.packages)).map_err(failed)?;
                gone.extend(lost.iter().filter_map(|name| old.package(name)).map(version_of));
                chosen
            }
        };
        let mut references = Vec::new();
        for id in chosen {
            let package = locked(universe, id)?;
            let reference = package.reference();
            lock.packages.insert(reference.clone(), package);
            references.push(reference);
        }
        references.sort();
        let profile = set.inputs_hash(context.repositories)?;
        let date = own.iter().map(|s| s.release.date).max().unwrap_or(0);
        let snapshots = own.iter().filter_map(|s| Some((s.repository.clone(), s.snapshot.clone()?))).collect();
        let name = set.name.clone();
        lock.sets.insert(name.clone(), Set { name, profile, date, snapshots, packages: references });
        task.advance(1);
    }
    for set in sets {
        lock.check_gpu(&set.name)?;
    }
    lock.releases = suites.iter().map(release_of).collect();
    lock.releases.sort();
    Ok(Resolved { lock, gone })
}

fn kept<'a>(old: &'a LockedSet, update: &'a [String]) -> Kept<'a> {
    let packages = old.packages.iter();
    Kept {
        packages: packages.map(|p| (p.name.as_str(), (p.version.as_str(), p.architecture.as_str()))).collect(),
        update: update.iter().map(String::as_str).collect(),
    }
}

fn release_of(suite: &Suite) -> Release {
    Release {
        repository: suite.repository.clone(),
        suite: suite.suite.clone(),
        sha256: suite.release.sha256.clone(),
        date: suite.release.date,
        signer: suite.release.signer.clone(),
        snapshot: suite.snapshot.clone(),
    }
}

fn locked(universe: &Universe<'_>, id: PackageId) -> Result<LockedPackage, LockError> {
    let package = universe.package(id);
    let repository = universe.repository(id).to_owned();
    if !is_sha256(package.sha256) {
        let package = format!("{} {}", package.name, package.version);
        return Err(LockError::NoDigest { package, repository });
    }
    // A folded field becomes one line.
    let flat = |field: &str| field.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(LockedPackage {
        name: package.name.to_owned(),
        version: package.version.to_owned(),
        architecture: package.architecture.to_owned(),
        repository,
        filename: package.filename.strip_prefix("./").unwrap_or(package.filename).to_owned(),
        size: package.size,
        sha256: package.sha256.to_owned(),
        essential: package.essential,
        installed_size: package.installed_size,
        source: package.source.to_owned(),
        pre_depends: flat(package.pre_depends),
        depends: flat(package.depends),
        provides: flat(package.provides),
    })
}
