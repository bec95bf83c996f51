//! From a lock and a store to a bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::write::Target;
use super::{
    BundleError, INDEX, Index, Keyring, LOCK, Object, ReleaseFile, ReleaseFiles, VERSION, object_path, release_files,
    release_path,
};
use crate::archive::release::hex;
use crate::build::{self, Site, sets};
use crate::lock::{Lock, LockedSet};
use crate::profile::Profile;
use crate::progress::Progress;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// The sets whose packages are in it.
    pub sets: Vec<String>,
    /// Packages and artifacts.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Release files, as `repository suite`, that the store does not have any more.
    pub missing_releases: Vec<String>,
}

/// Writes the sources of `roles` to a directory, or to an archive if the path ends in `.tar`. What the store does not
/// have is fetched first, unless the site is offline.
///
/// # Errors
/// The lock does not fit the profiles, something cannot be fetched, an object of the store is damaged, or there is
/// something at `to` already. Nothing is left at `to` then.
pub fn export(site: &Site, roles: &[String], to: &Path, progress: &dyn Progress) -> Result<Exported, BundleError> {
    let lock = site.lock()?;
    let mut sources = Sources::default();
    for role in roles {
        sources.add_role(site, &lock, role)?;
    }
    build::ensure(site, &sources.fetches, progress)?;

    let selected = lock.only(&sources.sets);
    let text_of_lock = selected.to_text();
    let mut objects = Vec::new();
    for (sha256, name) in &sources.objects {
        let path = site.store.path(sha256);
        let length = std::fs::metadata(&path).map_err(BundleError::io("read", &path))?.len();
        objects.push(Object { sha256: sha256.clone(), size: length, name: name.clone() });
    }
    let (mut releases, mut release_texts, mut missing_releases) = (Vec::new(), Vec::new(), Vec::new());
    for release in selected.releases() {
        let found = release_files(&site.store, release)?.unwrap_or_default();
        if found.is_empty() {
            missing_releases.push(format!("{} {}", release.repository, release.suite));
        }
        let mut files = Vec::new();
        for (name, content) in found {
            let sha256 = hex(&Sha256::digest(&content));
            files.push(ReleaseFile { name: name.to_owned(), sha256: sha256.clone(), size: content.len() as u64 });
            release_texts.push((release_path(&release.sha256, name), sha256, content));
        }
        releases.push(ReleaseFiles { release: release.clone(), files });
    }
    // Suites of one repository may be the same file under two names.
    release_texts.sort();
    release_texts.dedup();
    let listed = Index {
        version: VERSION,
        ingot: env!("CARGO_PKG_VERSION").to_owned(),
        lock: hex(&Sha256::digest(&text_of_lock)),
        sets: selected.set_names().map(str::to_owned).collect(),
        objects,
        releases,
        keyrings: sources.keyrings.into_iter().collect(),
    };
    let date = selected.releases().iter().map(|release| release.date).max().unwrap_or(0);
    // Strings and numbers: JSON can express them all.
    let listing = serde_json::to_string_pretty(&listed).unwrap_or_default() + "\n";

    let mut target = Target::new(to, date)?;
    let bytes = listed.objects.iter().map(|object| object.size).sum();
    let task = progress.start("writing the sources", Some(bytes));
    for (name, text) in [(INDEX, &listing), (LOCK, &text_of_lock)] {
        target.add(name, text.len() as u64, &hex(&Sha256::digest(text)), text.as_bytes())?;
    }
    for object in &listed.objects {
        let path = site.store.path(&object.sha256);
        let file = File::open(&path).map_err(BundleError::io("read", &path))?;
        let added = target.add(&object_path(&object.sha256), object.size, &object.sha256, file);
        if let Err(BundleError::Damaged { .. }) = added {
            site.store.verify(&object.sha256)?; // removes it, and says so
        }
        added?;
        task.advance(object.size);
    }
    for (path, sha256, content) in &release_texts {
        target.add(path, content.len() as u64, sha256, &content[..])?;
    }
    target.finish()?;
    Ok(Exported { sets: listed.sets, objects: listed.objects.len(), bytes, missing_releases })
}

/// What roles are made of.
#[derive(Default)]
struct Sources {
    sets: BTreeSet<String>,
    fetches: Vec<crate::store::Fetch>,
    /// Names by hash.
    objects: BTreeMap<String, String>,
    keyrings: BTreeSet<Keyring>,
}

impl Sources {
    fn add_role(&mut self, site: &Site, lock: &Lock, role: &str) -> Result<(), BundleError> {
        let locked = sets::locked(site, lock, sets::load(site, role)?.profile)?;
        self.add_set(site, &locked.packages, &locked.profile)?;
        for set in locked.containers.values().chain(&locked.dkms) {
            self.add_set(site, set, &locked.profile)?;
        }
        self.add_set(site, &locked.tools, &locked.tools_profile)?;
        self.fetches.extend(build::of_artifacts(site, &locked.profile));
        for (path, artifact) in locked.profile.artifacts.iter().filter(|(_, artifact)| build::is_remote(artifact)) {
            let name = path.rsplit('/').next().unwrap_or(path).to_owned();
            self.objects.entry(artifact.sha256.clone()).or_insert(name);
        }
        Ok(())
    }

    fn add_set(&mut self, site: &Site, set: &LockedSet, profile: &Profile) -> Result<(), BundleError> {
        self.sets.insert(set.name.clone());
        self.fetches.extend(build::of_set(site, set, profile)?);
        for package in &set.packages {
            self.objects.insert(package.sha256.clone(), format!("{} {}", package.name, package.version));
        }
        let used: BTreeSet<&str> = set.packages.iter().map(|p| p.repository.as_str()).collect();
        for repository in used.into_iter().filter_map(|name| profile.repositories.get(name)) {
            let path = &repository.keyring;
            let content = std::fs::read(path).map_err(BundleError::io("read", path))?;
            let below = path.strip_prefix(site.tree.root()).unwrap_or(path);
            self.keyrings.insert(Keyring {
                repository: repository.name.clone(),
                path: below.display().to_string(),
                sha256: hex(&Sha256::digest(&content)),
            });
        }
        Ok(())
    }
}
