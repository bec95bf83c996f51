//! Fetching what a lock names: from the archive, or from its past where the archive no longer has it.

use super::keys::date;
use super::{BuildError, Site};
use crate::lock::LockedSet;
use crate::profile::{Artifact, Profile, Repository, Snapshot};
use crate::progress::Progress;
use crate::store::{Fetch, StoreError};

/// How long after a release file's date a snapshot has what it lists, in seconds: archives date it before they publish.
const PUBLISHED: u64 = 3600;

/// What is missing of a set, each with every place where it may be.
pub(crate) fn of_set(site: &Site, set: &LockedSet, profile: &Profile) -> Result<Vec<Fetch>, BuildError> {
    // Where a repository lies now, and where its past of the lock's time lies.
    let mut pasts: Vec<(String, String)> = Vec::new();
    let mut fetches = set.fetches(&site.store, |name| -> Result<String, BuildError> {
        if site.offline {
            return Ok(String::new()); // the store names what is missing
        }
        let repository = profile.repositories.get(name).ok_or_else(|| {
            BuildError::Input(format!("the lock's packages come from {name}, which the profile does not define"))
        })?;
        let at = |snapshot| site.mirrors.resolve(&Repository { snapshot, ..repository.clone() });
        if let Some(locked) = set.snapshots.get(name) {
            return Ok(at(Some(locked.clone()))?);
        }
        let present = at(None)?;
        // A mirror without snapshots is no reason to fail: the present may have everything.
        if let Some(past) = moment(set.date.saturating_add(PUBLISHED)).and_then(|moment| at(Some(moment)).ok()) {
            pasts.push((format!("{present}/"), past));
        }
        Ok(present)
    })?;
    for fetch in &mut fetches {
        let in_past = |(present, past): &(String, String)| {
            fetch.urls.first().and_then(|url| url.strip_prefix(present)).map(|path| format!("{past}/{path}"))
        };
        let past = pasts.iter().find_map(in_past);
        fetch.urls.extend(past);
    }
    Ok(fetches)
}

fn moment(seconds: u64) -> Option<Snapshot> {
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{}T{hour:02}{minute:02}{second:02}Z", date(seconds)).parse().ok()
}

/// Whether it is fetched, and not a file of the profiles.
pub(crate) fn is_remote(artifact: &Artifact) -> bool {
    artifact.source.starts_with("http")
}

/// The artifacts that are fetched and that the store does not have.
pub(crate) fn of_artifacts(site: &Site, profile: &Profile) -> Vec<Fetch> {
    let missing = profile.artifacts.values().filter(|a| is_remote(a) && !site.store.has(&a.sha256, None));
    let fetch = |artifact: &Artifact| Fetch {
        sha256: artifact.sha256.clone(),
        size: 0,
        urls: vec![artifact.source.clone()],
        name: artifact.source.rsplit('/').next().unwrap_or(&artifact.source).to_owned(),
    };
    missing.map(fetch).collect()
}

/// Fetches.
pub(crate) fn ensure(site: &Site, fetches: &[Fetch], progress: &dyn Progress) -> Result<(), BuildError> {
    // Downloads wait for the network, not for a core.
    let outcome = site.store.ensure(fetches, site.jobs.max(8), site.offline, progress);
    outcome.map_err(|source| match source {
        StoreError::Fetch { answered: true, .. } => BuildError::Gone { source },
        other => other.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_that_of_the_seconds() {
        for seconds in [0, 1_709_251_199, 1_795_187_240] {
            assert_eq!(moment(seconds).unwrap().seconds(), seconds);
        }
        assert_eq!(moment(u64::MAX), None);
    }
}
