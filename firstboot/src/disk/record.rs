//! What the node knows of the disks that it claims: `/var/lib/ingot/disks.json`.
//!
//! A claim is written here, whole and for good, before anything is written to its disk, and again when the disk is
//! finished. So after a power cut an unfinished disk is known as the node's own, and a finished one is never made anew.
//! That a disk was finished once is kept for itself: `wipe` stays in the configuration for ever and means what the disk
//! held before.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::host::{Host, HostError};

/// Where it lies.
pub const RECORD: &str = "/var/lib/ingot/disks.json";
const LIMIT: u64 = 4 << 20;

/// How far a claim has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its content may be half written; nothing of value is on it.
    Making,
    /// It is finished and may hold data.
    Ready,
}

/// A claimed disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The name of the rule.
    pub rule: String,
    /// The disk's number within the rule.
    pub number: usize,
    /// What the disk is known by.
    pub identity: String,
    /// For people: `sdb (4.00 TB, serial X)`.
    pub disk: String,
    /// What is on it: `xfs`, `ext4`, `swap`.
    pub filesystem: String,
    /// The UUID of that.
    pub uuid: Uuid,
    /// How it is encrypted: `tpm2`, `key-file`; empty where it is not.
    #[serde(default)]
    pub encrypted: String,
    /// Where it is mounted; empty for swap.
    #[serde(default)]
    pub mount: String,
    /// How far it has come.
    pub state: State,
}

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The claims, in no order that means anything.
    pub claims: Vec<Claim>,
    /// What each disk that was finished once is known by, also when another took its number since. Its `wipe` is used up.
    pub finished: BTreeSet<String>,
    /// What each disk is known by that somebody gave up and that is not in use again. Its `wipe` counts once more, whatever
    /// is on it.
    pub given_up: BTreeSet<String>,
    /// The size of the swap file that was made; 0 for none.
    pub swap_file_bytes: u64,
    /// The files that were written for all of it.
    pub files: Vec<String>,
}

impl Record {
    /// Reads it; an empty one where there is none.
    ///
    /// # Errors
    /// It is there and cannot be read, or has been changed by hand: what is on the disks is then not known.
    pub fn load(host: &dyn Host) -> Result<Self, HostError> {
        let Some(bytes) = host.read(RECORD, LIMIT)? else { return Ok(Self::default()) };
        serde_json::from_slice(&bytes).map_err(|error| HostError::file("understand", RECORD)(error.into()))
    }

    /// Writes it, whole and for good.
    ///
    /// # Errors
    /// It could not be written.
    pub fn save(&self, host: &dyn Host) -> Result<(), HostError> {
        let mut bytes =
            serde_json::to_vec_pretty(self).map_err(|error| HostError::file("write", RECORD)(error.into()))?;
        bytes.push(b'\n');
        host.write(RECORD, &bytes, 0o600)
    }

    /// The claim of a disk.
    pub fn of(&self, identity: &str) -> Option<&Claim> {
        self.claims.iter().find(|claim| claim.identity == identity)
    }

    /// Whether a disk was finished once and not given up since: it may hold this node's data, whatever it looks like.
    pub fn was_finished(&self, identity: &str) -> bool {
        self.finished.contains(identity) || self.of(identity).is_some_and(|claim| claim.state == State::Ready)
    }

    /// Forgets a disk: its data is given up. False where it was none of this node's.
    pub fn forget(&mut self, identity: &str) -> bool {
        let before = self.claims.len();
        self.claims.retain(|claim| claim.identity != identity);
        let known = self.finished.remove(identity) || self.claims.len() < before;
        if known {
            self.given_up.insert(identity.to_owned());
        }
        known
    }

    /// A disk is about to be used, so nothing on it is given up any more.
    ///
    /// # Errors
    /// The record could not be written.
    pub fn keep(&mut self, host: &dyn Host, identity: &str) -> Result<(), HostError> {
        if self.given_up.remove(identity) { self.save(host) } else { Ok(()) }
    }

    /// Puts a claim in the place of what was known of its disk and of its number.
    pub fn put(&mut self, claim: Claim) {
        self.claims
            .retain(|old| old.identity != claim.identity && (old.rule != claim.rule || old.number != claim.number));
        if claim.state == State::Ready {
            self.finished.insert(claim.identity.clone());
        }
        self.claims.push(claim);
    }
}
