//! An archive's past: which moment of it is taken, and that it does not go backwards unasked.
//!
//! An old release file has a good signature. A mirror that serves one, by mistake or on purpose, would take updates
//! away without a word. So a release file must be no older than the one that the lock was made from, and no older
//! than the one that this host saw last. Who wants to go back says so, by a snapshot or by an option.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use super::ArchiveError;
use super::release::VerifiedRelease;
use crate::profile::{Repository, Snapshot};

/// What is known of the past of archives, and what may be taken from it.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Dates of the release files that the lock was made from, in seconds since 1970, by repository and suite.
    pub locked: BTreeMap<(String, String), u64>,
    /// Takes release files that are older than known ones.
    pub allow_rollback: bool,
    /// The moment at which every repository is read that says where its snapshots are; wins over the profile's.
    pub snapshot: Option<Snapshot>,
}

impl History {
    /// The repository at the moment that is wanted.
    pub fn at_its_moment(&self, repository: &Repository) -> Repository {
        let mut repository = repository.clone();
        if self.snapshot.is_some() && repository.snapshot_url.is_some() {
            repository.snapshot.clone_from(&self.snapshot);
        }
        repository
    }

    /// Fails if a release file is older than a known one, or newer than the snapshot that it is to be from.
    ///
    /// `seen` is the date of the release file that this host saw last.
    pub(super) fn check(
        &self,
        repository: &Repository,
        suite: &str,
        release: &VerifiedRelease,
        seen: Option<u64>,
    ) -> Result<(), ArchiveError> {
        let (what, date) = (release.what.clone(), release.date);
        if let Some(snapshot) = &repository.snapshot {
            if date > snapshot.seconds() {
                return Err(ArchiveError::NotTheSnapshot { what, date: text(date), snapshot: snapshot.clone() });
            }
            return Ok(());
        }
        let locked = self.locked.get(&(repository.name.clone(), suite.to_owned())).copied();
        let known = [(locked, "the lock was made from"), (seen, "this host saw last")];
        let newest = known.into_iter().filter_map(|(date, whose)| Some((date?, whose))).max_by_key(|(date, _)| *date);
        match newest {
            Some((known, whose)) if known > date && !self.allow_rollback => Err(ArchiveError::Rollback {
                what,
                date: text(date),
                known: text(known),
                whose,
                repository: repository.name.clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// `Sun, 01 Nov 2026 00:00:00 GMT`
fn text(seconds: u64) -> String {
    // Beyond the year 9999 no date can be written, and none is read.
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799)))
}
