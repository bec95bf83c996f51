//! Release files: what an archive promises about its indexes, believed only once its signature holds.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::ArchiveError;
use super::signature::{Keyring, Signed};
use crate::profile::snapshot::days_since_1970;

/// How far `Date` may lie ahead of this host's clock, in seconds, before it counts as being in the future.
const CLOCK_TOLERANCE: u64 = 600;

/// A release file as fetched. There is no way to its content but [`InRelease::verify`].
#[derive(Debug, Clone)]
pub struct InRelease {
    /// Repository and suite, for messages: `debian-13 trixie`.
    what: String,
    message: Vec<u8>,
    /// Present where the archive has `Release` and `Release.gpg` instead of `InRelease`.
    detached: Option<Vec<u8>>,
}

/// How strictly dates are taken.
#[derive(Debug, Clone, Copy)]
pub struct Dates {
    /// Seconds since 1970 on this host.
    pub now: u64,
    /// Accepts a release file whose `Valid-Until` has passed, or whose key has expired since it signed: for
    /// snapshots of an archive.
    pub accept_stale: bool,
}

/// SHA-256 and size of a file that a release file lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// Lower-case hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// The content of a release file whose signature, dates and digests are in order.
#[derive(Debug, Clone)]
pub struct VerifiedRelease {
    /// Repository and suite, for messages.
    pub what: String,
    /// `Debian`; empty where not given.
    pub origin: String,
    /// `stable`; empty where not given.
    pub suite: String,
    /// `trixie`; empty where not given.
    pub codename: String,
    /// Seconds since 1970.
    pub date: u64,
    /// Seconds since 1970.
    pub valid_until: Option<u64>,
    /// Whether indexes can be fetched by their hash.
    pub acquire_by_hash: bool,
    /// SHA-256 of the file as fetched, lower-case hex.
    pub sha256: String,
    /// Fingerprint of the certificate that signed it.
    pub signer: String,
    /// Components; empty for a flat repository.
    pub components: Vec<String>,
    /// Architectures; empty where not given.
    pub architectures: Vec<String>,
    /// Whether `binary-<arch>` indexes hold the packages for `all` too.
    pub all_is_included: bool,
    /// Listed files by path below the directory of the release file.
    pub files: BTreeMap<String, ListedFile>,
}

impl InRelease {
    /// A clear-signed `InRelease`.
    pub fn new(what: impl Into<String>, message: Vec<u8>) -> Self {
        Self { what: what.into(), message, detached: None }
    }

    /// `Release` with its `Release.gpg`.
    pub fn detached(what: impl Into<String>, text: Vec<u8>, signature: Vec<u8>) -> Self {
        Self { what: what.into(), message: text, detached: Some(signature) }
    }

    /// The bytes as fetched, and the detached signature if there is one: for keeping, not for reading.
    pub(super) fn raw(&self) -> (&[u8], Option<&[u8]>) {
        (&self.message, self.detached.as_deref())
    }

    /// Verifies it against one keyring, and reads it.
    pub fn verify(&self, keyring: &Path, dates: Dates) -> Result<VerifiedRelease, ArchiveError> {
        let keyring = Keyring::read(keyring)?;
        let signed = match &self.detached {
            None => keyring.verify(&self.what, &self.message, dates)?,
            Some(signature) => keyring.verify_detached(&self.what, &self.message, signature, dates)?,
        };
        let sha256 = hex(&Sha256::digest(&self.message));
        read(&self.what, &signed, sha256, dates)
    }
}

impl VerifiedRelease {
    /// Checks that a component is there; archives may list it with a prefix (`updates/main`).
    pub fn require_component(&self, wanted: &str) -> Result<(), ArchiveError> {
        let has = |c: &String| c == wanted || c.rsplit('/').next() == Some(wanted);
        if self.components.iter().any(has) {
            Ok(())
        } else {
            Err(self.not_listed("component", wanted, &self.components))
        }
    }

    /// Checks that an architecture is there, where the file says which there are.
    pub fn require_architecture(&self, wanted: &str) -> Result<(), ArchiveError> {
        let given = &self.architectures;
        if given.is_empty() || given.iter().any(|a| a == wanted) {
            return Ok(());
        }
        Err(self.not_listed("architecture", wanted, given))
    }

    fn not_listed(&self, kind: &'static str, wanted: &str, available: &[String]) -> ArchiveError {
        let available = if available.is_empty() { vec!["none".to_owned()] } else { available.to_vec() };
        ArchiveError::NotListed { what: self.what.clone(), kind, wanted: wanted.to_owned(), available }
    }
}

fn read(what: &str, signed: &Signed, sha256: String, dates: Dates) -> Result<VerifiedRelease, ArchiveError> {
    let error = |problem: String| ArchiveError::Release { what: what.to_owned(), problem };
    let text = std::str::from_utf8(&signed.text).map_err(|_| error("it is not UTF-8".into()))?;
    let paragraphs = deb822_fast::borrowed::BorrowedParser::new(text).parse_all().map_err(|e| error(e.to_string()))?;
    let [fields] = &paragraphs[..] else { return Err(error("it must hold exactly one paragraph".into())) };
    let text_of = |name: &str| fields.get_single(name).unwrap_or_default().trim().to_owned();
    let words_of = |name: &str| -> Vec<String> { text_of(name).split_whitespace().map(str::to_owned).collect() };
    let time_of = |name: &str| -> Result<Option<u64>, ArchiveError> {
        let given = text_of(name);
        if given.is_empty() {
            return Ok(None);
        }
        parse_date(&given).map(Some).ok_or_else(|| error(format!("its {name} `{given}` is no date")))
    };

    let date = time_of("Date")?.ok_or_else(|| error("it has no Date".into()))?;
    if date > dates.now.saturating_add(CLOCK_TOLERANCE) {
        return Err(ArchiveError::FromTheFuture { what: what.to_owned(), date: text_of("Date") });
    }
    let valid_until = time_of("Valid-Until")?;
    if valid_until.is_some_and(|until| until < dates.now) && !dates.accept_stale {
        return Err(ArchiveError::Stale { what: what.to_owned(), until: text_of("Valid-Until") });
    }
    let Some(lines) = fields.get("SHA256") else {
        return Err(ArchiveError::WeakDigests { what: what.to_owned() });
    };
    let mut files = BTreeMap::new();
    for line in lines.iter().filter(|l| !l.trim().is_empty()) {
        let (path, file) =
            listed_file(line).ok_or_else(|| error(format!("`{line}` is no line of a SHA256 section")))?;
        files.insert(path, file);
    }
    Ok(VerifiedRelease {
        what: what.to_owned(),
        origin: text_of("Origin"),
        suite: text_of("Suite"),
        codename: text_of("Codename"),
        date,
        valid_until,
        acquire_by_hash: text_of("Acquire-By-Hash") == "yes",
        sha256,
        signer: signed.signer.clone(),
        components: words_of("Components"),
        architectures: words_of("Architectures"),
        // Only an archive that lists `all` as an architecture, and does not say otherwise, keeps those packages apart.
        all_is_included: text_of("No-Support-for-Architecture-all") == "Packages"
            || !words_of("Architectures").iter().any(|a| a == "all"),
        files,
    })
}

/// `<sha256> <size> <path>`; a path that leaves the directory is refused, signed or not.
fn listed_file(line: &str) -> Option<(String, ListedFile)> {
    let mut words = line.split_whitespace();
    let (sha256, size, path) = (words.next()?, words.next()?, words.next()?);
    let path = path.strip_prefix("./").unwrap_or(path);
    let sound = is_sha256(sha256) && words.next().is_none() && !path.starts_with('/');
    let inside = path.split('/').all(|part| part != "..");
    (sound && inside).then_some((path.to_owned(), ListedFile { sha256: sha256.to_owned(), size: size.parse().ok()? }))
}

/// Whether a text is a SHA-256 in lower-case hex.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|n| char::from(DIGITS[usize::from(n)])).collect()
}

/// `Sat, 15 Nov 2025 10:10:10 UTC` (the day of the week may be missing) as seconds since 1970.
fn parse_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = text.split_once(',').map_or(text, |(_, rest)| rest);
    let mut words = text.split_whitespace();
    let day: i64 = words.next()?.parse().ok().filter(|d| (1..=31).contains(d))?;
    let name = words.next()?;
    let month = i64::try_from(MONTHS.iter().position(|m| *m == name)?).ok()? + 1;
    let year: i64 = words.next()?.parse().ok().filter(|y| (1970..=9999).contains(y))?;
    let mut clock = words.next()?.split(':').map(|n| n.parse::<i64>().ok().filter(|n| (0..=60).contains(n)));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let offset = match words.next()? {
        "UTC" | "GMT" | "Z" => 0,
        zone if zone.len() == 5 && zone.is_ascii() => {
            let sign = match &zone[..1] {
                "+" => 1,
                "-" => -1,
                _ => return None,
            };
            sign * (zone[1..3].parse::<i64>().ok()? * 3600 + zone[3..].parse::<i64>().ok()? * 60)
        }
        _ => return None,
    };
    let days = days_since_1970(year, month, day);
    u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second - offset).ok()
}

/// Reads any bytes as if they were signed, for fuzzing: no path leads out of the release file's directory.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let signed = Signed { text: bytes.to_vec(), signer: String::new() };
    let dates = Dates { now: 1_767_225_600, accept_stale: false };
    let Ok(release) = read("fuzz", &signed, String::new(), dates) else { return };
    assert!(release.date <= dates.now + CLOCK_TOLERANCE && release.valid_until.is_none_or(|until| until >= dates.now));
    for (path, file) in &release.files {
        let inside = !path.starts_with('/') && path.split('/').all(|part| part != "..");
        assert!(inside && is_sha256(&file.sha256), "{path}");
    }
}

#[cfg(test)]
#[path = "release_tests.rs"]
mod tests;
