//! The `archive` stage: from a repository's name to indexes that can be trusted.
//!
//! Takes a [`Repository`](crate::profile::Repository) of the profile. Finds where to fetch it from ([`mirror`]),
//! verifies its `InRelease` against that repository's own keyring and nothing else ([`release`]), sees to it that the
//! archive does not go back in time ([`history`]), fetches the
//! `Packages` files that it lists, each checked by size and SHA-256 ([`index`]), and reads them
//! ([`packages`], [`relation`], [`version`]).
//!
//! States are types: an [`release::InRelease`] is bytes that nobody can look into; only verifying turns it into
//! a [`release::VerifiedRelease`], and only that can name index files to fetch.

use std::path::PathBuf;

use thiserror::Error;

use crate::profile::Snapshot;

pub(crate) mod apt_sources;
pub mod history;
pub mod index;
pub mod mirror;
pub mod packages;
pub mod relation;
pub mod release;
mod signature;
#[cfg(test)]
pub(crate) mod test_archive;
#[cfg(test)]
pub(crate) mod test_index;
pub mod version;

/// A repository cannot be used.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// No URL is known for the repository.
    #[error(
        "no mirror is known for repository `{repository}`: it names no URL of its own{}; \
         give one with `--mirror {repository}=URL` or {variable}=URL",
        looked_for(.wanted.as_ref())
    )]
    NoMirror {
        /// The repository's name.
        repository: String,
        /// The archive that was looked for in the host's apt sources, such as `debian-security of debian`.
        wanted: Option<String>,
        /// The environment variable that would give it.
        variable: String,
    },
    /// The URL given for a repository cannot be used.
    #[error(
        "`{url}` is no usable URL for repository `{repository}` (from {origin}): it must start with http:// or https://"
    )]
    BadMirror {
        /// The repository's name.
        repository: String,
        /// The URL.
        url: String,
        /// Where it was given.
        origin: String,
    },
    /// The keyring of a repository cannot be used.
    #[error("keyring {} cannot be used: {problem}", path.display())]
    Keyring {
        /// The keyring's path.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The bytes fetched are no signed message at all.
    #[error(
        "{what} is not a signed release file: {problem}; a login page or a broken mirror may have answered instead"
    )]
    NotSigned {
        /// Repository and suite.
        what: String,
        /// What the parser said.
        problem: String,
    },
    /// Signed, but by nobody in the keyring.
    #[error(
        "{what} is signed by {}, none of which is in keyring {}; refusing it. If the repository has a new key, \
         or a new sub-key, put that into the keyring, after checking its fingerprint",
        issuers.join(", "), keyring.display()
    )]
    WrongKey {
        /// Repository and suite.
        what: String,
        /// Fingerprints or key ids that signed.
        issuers: Vec<String>,
        /// The repository's keyring.
        keyring: PathBuf,
    },
    /// Signed by a key of the keyring that is expired, revoked or not meant for signing.
    #[error("{what} is signed by a key that is no longer good: {problem}; update keyring {}", keyring.display())]
    ExpiredKey {
        /// Repository and suite.
        what: String,
        /// Which key, and why.
        problem: String,
        /// The repository's keyring.
        keyring: PathBuf,
    },
    /// The signature does not match the text.
    #[error("the signature of {what} is wrong: {problem}; the file was changed on its way, refusing it")]
    BadSignature {
        /// Repository and suite.
        what: String,
        /// What the verifier said.
        problem: String,
    },
    /// A verified release file lacks something, or has it in a form that cannot be read.
    #[error("{what} cannot be used: {problem}")]
    Release {
        /// Repository and suite.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// The release file lists only MD5 or SHA-1.
    #[error(
        "{what} has no SHA256 section; weaker digests are not trusted. Ask whoever runs the repository to sign a \
         release file with SHA256, or leave the repository out"
    )]
    WeakDigests {
        /// Repository and suite.
        what: String,
    },
    /// `Valid-Until` has passed.
    #[error(
        "{what} was valid until {until} only; the mirror is out of date, or this host's clock is wrong. \
         Name another mirror with --mirror NAME=URL; for an archive's past, give its repository a `snapshot`"
    )]
    Stale {
        /// Repository and suite.
        what: String,
        /// The date as the file gives it.
        until: String,
    },
    /// `Date` lies in the future.
    #[error("{what} is dated {date}, which is in the future; check this host's clock")]
    FromTheFuture {
        /// Repository and suite.
        what: String,
        /// The date as the file gives it.
        date: String,
    },
    /// The release file is older than one that is known.
    #[error(
        "{what} is dated {date}, and the one that {whose} {known}: the mirror is behind, or someone replays an old \
         file. Wait, or name another mirror with --mirror {repository}=URL. To go back on purpose, give the repository \
         a `snapshot`, or accept it once with `ingot lock --allow-rollback`"
    )]
    Rollback {
        /// Repository and suite.
        what: String,
        /// Date of the file that was refused.
        date: String,
        /// Date of the known one.
        known: String,
        /// Where that is known from.
        whose: &'static str,
        /// The repository's name.
        repository: String,
    },
    /// The release file is newer than the snapshot that was asked for.
    #[error(
        "{what} is dated {date}, which is after snapshot {snapshot}: what answers there is no snapshot service; check \
         the repository's `snapshot_url`"
    )]
    NotTheSnapshot {
        /// Repository and suite.
        what: String,
        /// Date of the file.
        date: String,
        /// What was asked for.
        snapshot: Snapshot,
    },
    /// A snapshot of a moment that is still to come.
    #[error("snapshot {snapshot} of repository `{repository}` lies in the future; check it, and this host's clock")]
    SnapshotInTheFuture {
        /// The repository's name.
        repository: String,
        /// What was asked for.
        snapshot: Snapshot,
    },
    /// A snapshot is asked for, and no URL of snapshots is known.
    #[error(
        "snapshot {snapshot} of repository `{repository}` is asked for, and it has no `snapshot_url`; give it one in the \
         profile, with ${{snapshot}} where the moment goes"
    )]
    NoSnapshots {
        /// The repository's name.
        repository: String,
        /// What was asked for.
        snapshot: Snapshot,
    },
    /// A snapshot is asked for, and the mirror named for the repository has none.
    #[error(
        "snapshot {snapshot} of repository `{repository}` is asked for, and {origin}{url} has no ${{snapshot}} in it; \
         write that where the moment goes, or leave the mirror out, so that the profile's `snapshot_url` counts"
    )]
    MirrorWithoutSnapshots {
        /// The repository's name.
        repository: String,
        /// What was asked for.
        snapshot: Snapshot,
        /// `--mirror ubuntu=`
        origin: String,
        /// The URL given.
        url: String,
    },
    /// Release file and index do not belong together.
    #[error(
        "{source}\nthe mirror does not have what its own release file lists (tried {attempts} times): it is in the middle of an \
         update, or broken. Try again in some minutes, or name another mirror with --mirror NAME=URL"
    )]
    OutOfStep {
        /// What could not be fetched.
        source: crate::store::StoreError,
        /// How often the release file was fetched anew.
        attempts: u32,
    },
    /// A component or architecture that the profile names is not in the repository.
    #[error("{what} has no {kind} `{wanted}`; it has {}", available.join(", "))]
    NotListed {
        /// Repository and suite.
        what: String,
        /// `component` or `architecture`.
        kind: &'static str,
        /// What was asked for.
        wanted: String,
        /// What there is.
        available: Vec<String>,
    },
    /// No form of an index file that can be read is listed.
    #[error("{what} lists no {path} in a form that can be read (xz, zst, gz or plain)")]
    NoIndex {
        /// Repository and suite.
        what: String,
        /// The path without suffix.
        path: String,
    },
    /// An index does not have the content that its release file promises.
    #[error("index {path} of {what} is not what the release file promises: {problem}")]
    Index {
        /// Repository and suite.
        what: String,
        /// The index's path.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// Nothing is cached for the repository, and fetching is not allowed.
    #[error("{what} is not in the store and --offline forbids fetching it; run once without --offline")]
    Offline {
        /// Repository and suite.
        what: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

fn looked_for(wanted: Option<&String>) -> String {
    wanted.map_or_else(String::new, |w| format!(", and this host's apt sources have no {w}"))
}
