//! Indexes: from repositories to the text of their `Packages` files, verified and cached.
//!
//! Release files are fetched side by side, verified, and kept in the store for working offline. The index files
//! that they list are objects of the store like any other, fetched by hash where the archive offers it. An
//! index is kept uncompressed too, where the release file lists that form, so that the next run only reads it.

use std::io::Read;

use super::ArchiveError;
use super::history::History;
use super::mirror::Mirrors;
use super::packages::{self, Package};
use super::release::{Dates, InRelease, ListedFile, VerifiedRelease};
use crate::profile::{Repository, Snapshot};
use crate::progress::Progress;
use crate::store::deb::{Bounded, xz, zstd};
use crate::store::{Fetch, Store, StoreError};

/// The largest release file that is read, in bytes (Debian's has about 200 KB).
const RELEASE_LIMIT: u64 = 16 << 20;
/// The largest index where the release file does not say how large the uncompressed one is.
const INDEX_LIMIT: u64 = 1 << 30;

/// How indexes are fetched.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// Where fetched files are kept.
    pub store: &'a Store,
    /// Where repositories are fetched from.
    pub mirrors: &'a Mirrors,
    /// Debian architecture.
    pub architecture: &'a str,
    /// Seconds since 1970: what signatures and dates are checked against.
    pub now: u64,
    /// What is known of the archives' past.
    pub history: &'a History,
    /// Uses what the store has and fetches nothing.
    pub offline: bool,
    /// Downloads at a time.
    pub jobs: usize,
    /// Where to report.
    pub progress: &'a dyn Progress,
}

/// A suite of a repository with its indexes.
#[derive(Debug)]
pub struct Suite {
    /// The repository's name.
    pub repository: String,
    /// The suite as the profile names it.
    pub suite: String,
    /// The repository's priority.
    pub priority: i32,
    /// The moment that it was read at; `None` for what the archive has now.
    pub snapshot: Option<Snapshot>,
    /// What was verified.
    pub release: VerifiedRelease,
    indexes: Vec<Index>,
}

#[derive(Debug)]
struct Index {
    path: String,
    text: String,
}

impl Suite {
    /// Reads the packages of all its indexes that can be installed on `architecture`.
    pub fn packages(&self, architecture: &str) -> Result<Vec<Package<'_>>, ArchiveError> {
        let mut all = Vec::new();
        for index in &self.indexes {
            let packages = packages::parse(&index.text, architecture)
                .map_err(|e| index_error(&self.release, &index.path, e.to_string()))?;
            if all.is_empty() {
                all = packages;
            } else {
                all.extend(packages);
            }
        }
        Ok(all)
    }

    /// The text of the indexes, to give the same to apt in tests.
    #[cfg(test)]
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.indexes.iter().map(|i| i.text.as_str())
    }

    /// A suite made from the text of an index, for tests of the solver.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of_text(repository: &str, priority: i32, text: &str) -> Self {
        let release = VerifiedRelease {
            what: repository.to_owned(),
            origin: String::new(),
            suite: String::new(),
            codename: String::new(),
            date: 0,
            valid_until: None,
            acquire_by_hash: false,
            sha256: String::new(),
            signer: String::new(),
            components: Vec::new(),
            architectures: Vec::new(),
            all_is_included: true,
            files: std::collections::BTreeMap::new(),
        };
        let indexes = vec![Index { path: "Packages".into(), text: text.to_owned() }];
        Self { repository: repository.to_owned(), suite: String::new(), priority, snapshot: None, release, indexes }
    }
}

/// How often release files are fetched where the mirror does not have the indexes that they list.
const ATTEMPTS: u32 = 3;

/// Fetches, verifies and loads every suite of the repositories, in their order, at the moment that is wanted.
///
/// A mirror in the middle of an update has release files and indexes that do not belong together. Indexes by
/// hash get over that; where an archive has none, both are fetched again after a pause.
pub fn load(repositories: &[&Repository], access: Access<'_>) -> Result<Vec<Suite>, ArchiveError> {
    let repositories: Vec<Repository> = repositories.iter().map(|r| access.history.at_its_moment(r)).collect();
    let wanted: Vec<(&Repository, &str)> =
        repositories.iter().flat_map(|r| r.suites.iter().map(move |s| (r, s.as_str()))).collect();
    let mut attempt = 1;
    let (mut releases, plans) = loop {
        let (releases, plans) = fetch_releases(&wanted, access)?;
        let fetches: Vec<Fetch> = plans.iter().flatten().filter_map(|p| p.fetch.clone()).collect();
        match access.store.ensure(&fetches, access.jobs, access.offline, access.progress) {
            Ok(()) => break (releases, plans),
            Err(StoreError::Fetch { answered: true, .. }) if attempt < ATTEMPTS => {
                // Bounds of 2 and 4 seconds by default: long enough for a file that is just being replaced.
                access.store.client().pause(attempt + 2, None);
                attempt += 1;
            }
            Err(source @ StoreError::Fetch { answered: true, .. }) => {
                return Err(ArchiveError::OutOfStep { source, attempts: attempt });
            }
            Err(error) => return Err(error.into()),
        }
    };

    let jobs: Vec<(usize, &IndexPlan)> =
        plans.iter().enumerate().flat_map(|(i, p)| p.iter().map(move |p| (i, p))).collect();
    let texts = in_parallel(&jobs, access.jobs, |(i, plan)| read_index(plan, &releases[*i], access.store))?;
    let mut indexes: Vec<Vec<Index>> = wanted.iter().map(|_| Vec::new()).collect();
    for ((i, plan), text) in jobs.iter().zip(texts) {
        indexes[*i].push(Index { path: plan.path.clone(), text });
    }
    let parts = wanted.iter().zip(releases.drain(..)).zip(indexes);
    Ok(parts
        .map(|(((repository, suite), release), indexes)| Suite {
            repository: repository.name.clone(),
            suite: (*suite).to_owned(),
            priority: repository.priority,
            snapshot: repository.snapshot.clone(),
            release,
            indexes,
        })
        .collect())
}

/// Release files, and what to fetch for each.
type Planned = (Vec<VerifiedRelease>, Vec<Vec<IndexPlan>>);

fn fetch_releases(wanted: &[(&Repository, &str)], access: Access<'_>) -> Result<Planned, ArchiveError> {
    let task = access.progress.start("fetching release files", Some(wanted.len() as u64));
    let releases = in_parallel(wanted, access.jobs, |(repository, suite)| {
        let release = release(repository, suite, access);
        task.advance(1);
        release
    })?;
    drop(task);
    let mut plans = Vec::new();
    for ((repository, suite), release) in wanted.iter().zip(&releases) {
        plans.push(plan(repository, suite, release, access)?);
    }
    Ok((releases, plans))
}

/// Does `work` for all items, several at a time, and gives the results in order, or the first error in order.
fn in_parallel<T: Sync, R: Send, E: Send>(
    items: &[T],
    jobs: usize,
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let results: Vec<std::sync::Mutex<Option<Result<R, E>>>> = items.iter().map(|_| None.into()).collect();
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, 64).min(items.len()) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(item) = items.get(i) else { break };
                    let result = work(item);
                    if let Ok(mut slot) = results[i].lock() {
                        *slot = Some(result);
                    }
                }
            });
        }
    });
    // Every index below the length was taken by one thread, and the scope has waited for all of them.
    results.into_iter().filter_map(|slot| slot.into_inner().ok().flatten()).collect()
}

/// The directory of a suite below the repository's URL, with a slash at its end unless empty.
fn directory(suite: &str) -> String {
    match suite.strip_suffix('/') {
        // A flat repository: the suite is a path.
        Some(path) => match path.trim_start_matches("./").trim_matches('/') {
            "" | "." => String::new(),
            path => format!("{path}/"),
        },
        None => format!("dists/{suite}/"),
    }
}

fn release(repository: &Repository, suite: &str, access: Access<'_>) -> Result<VerifiedRelease, ArchiveError> {
    let mut what = format!("{} {suite}", repository.name);
    if let Some(snapshot) = &repository.snapshot {
        if snapshot.seconds() > access.now {
            let (repository, snapshot) = (repository.name.clone(), snapshot.clone());
            return Err(ArchiveError::SnapshotInTheFuture { repository, snapshot });
        }
        what = format!("{what} at {snapshot}");
    }
    let place = release_place(&repository.name, suite, repository.snapshot.as_ref());
    // The dates of a snapshot are long past by intention.
    let dates = Dates { now: access.now, accept_stale: repository.snapshot.is_some() };
    let known = kept_release(&what, &place, access.store)?;
    // What was valid when it was fetched may be used offline for as long as one likes.
    let verify_known = |message: &InRelease| message.verify(&repository.keyring, Dates { accept_stale: true, ..dates });
    if access.offline {
        let Some(message) = known else { return Err(ArchiveError::Offline { what }) };
        let verified = verify_known(&message)?;
        access.history.check(repository, suite, &verified, None)?;
        return Ok(verified);
    }
    let message = fetch_release(&what, repository, suite, access)?;
    let verified = message.verify(&repository.keyring, dates)?;
    // A kept file that the keyring no longer stands for says nothing about the archive.
    let seen = known.filter(|known| known.raw() != message.raw()).and_then(|known| verify_known(&known).ok());
    access.history.check(repository, suite, &verified, seen.map(|seen| seen.date))?;
    let (first, second) = message.raw();
    match second {
        None => access.store.keep(&format!("{place}/InRelease"), first)?,
        Some(signature) => {
            access.store.forget(&format!("{place}/InRelease"))?;
            access.store.keep(&format!("{place}/Release"), first)?;
            access.store.keep(&format!("{place}/Release.gpg"), signature)?;
        }
    }
    Ok(verified)
}

/// Where the store keeps the files of a release as last fetched. What is kept of a snapshot does not stand in the way of
/// what is kept of the archive as it is.
pub(crate) fn release_place(repository: &str, suite: &str, snapshot: Option<&Snapshot>) -> String {
    let moment = snapshot.map(|snapshot| format!("@{snapshot}")).unwrap_or_default();
    format!("releases/{}{moment}/{}", escape(repository), escape(suite))
}

/// The release file as last fetched.
fn kept_release(what: &str, place: &str, store: &Store) -> Result<Option<InRelease>, StoreError> {
    let kept = |name: &str| store.kept(&format!("{place}/{name}"));
    Ok(match (kept("InRelease")?, kept("Release")?, kept("Release.gpg")?) {
        (Some(message), ..) => Some(InRelease::new(what, message)),
        (None, Some(text), Some(signature)) => Some(InRelease::detached(what, text, signature)),
        _ => None,
    })
}

fn fetch_release(
    what: &str,
    repository: &Repository,
    suite: &str,
    access: Access<'_>,
) -> Result<InRelease, ArchiveError> {
    let base = format!("{}/{}", access.mirrors.resolve(repository)?, directory(suite));
    let error = |url: String, problem: String, answered: bool| StoreError::Fetch {
        name: format!("the release file of {what}"),
        attempts: vec![(url, problem)],
        answered,
    };
    let get = |name: &str| {
        let url = format!("{base}{name}");
        access.store.client().get(&url, RELEASE_LIMIT).map_err(|problem| error(url, problem, false))
    };
    if let Some(message) = get("InRelease")? {
        return Ok(InRelease::new(what, message));
    }
    let (Some(text), Some(signature)) = (get("Release")?, get("Release.gpg")?) else {
        let problem = "404 Not Found, and no Release with Release.gpg either";
        return Err(error(format!("{base}InRelease"), problem.into(), true).into());
    };
    Ok(InRelease::detached(what, text, signature))
}

/// A name as one path segment.
fn escape(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_+".contains(c);
    name.chars().map(|c| if plain(c) { c.to_string() } else { format!("%{:x}", u32::from(c)) }).collect()
}

#[derive(Debug)]
struct IndexPlan {
    /// Below the suite's directory, without suffix.
    path: String,
    /// The uncompressed form, where the release file lists it.
    plain: Option<ListedFile>,
    /// The form that is fetched, with its suffix.
    coded: (ListedFile, &'static str),
    /// `None` if the store has the uncompressed form.
    fetch: Option<Fetch>,
}

/// What to fetch for the components that the profile names.
fn plan(
    repository: &Repository,
    suite: &str,
    release: &VerifiedRelease,
    access: Access<'_>,
) -> Result<Vec<IndexPlan>, ArchiveError> {
    let flat = suite.ends_with('/');
    let mut stems = Vec::new();
    if flat {
        stems.push("Packages".to_owned());
    } else {
        release.require_architecture(access.architecture)?;
        for component in &repository.components {
            release.require_component(component)?;
            stems.push(format!("{component}/binary-{}/Packages", access.architecture));
            let all = format!("{component}/binary-all/Packages");
            if !release.all_is_included && SUFFIXES.iter().any(|s| release.files.contains_key(&format!("{all}{s}"))) {
                stems.push(all);
            }
        }
    }
    stems.into_iter().map(|stem| plan_index(repository, suite, release, stem, access)).collect()
}

const SUFFIXES: [&str; 4] = [".xz", ".zst", ".gz", ""];

fn plan_index(
    repository: &Repository,
    suite: &str,
    release: &VerifiedRelease,
    stem: String,
    access: Access<'_>,
) -> Result<IndexPlan, ArchiveError> {
    let plain = release.files.get(&stem).cloned();
    let listed = SUFFIXES.iter().filter_map(|s| Some((release.files.get(&format!("{stem}{s}"))?, *s)));
    // Of the forms that can be read, the one that is the least to fetch; the first of equals.
    let Some((file, suffix)) = listed.min_by_key(|(file, _)| file.size) else {
        return Err(ArchiveError::NoIndex { what: release.what.clone(), path: stem });
    };
    let present = plain.as_ref().is_some_and(|p| access.store.has(&p.sha256, Some(p.size)));
    let fetch = if present || access.store.has(&file.sha256, Some(file.size)) {
        None
    } else {
        let urls =
            if access.offline { Vec::new() } else { urls(repository, suite, release, &stem, file, suffix, access)? };
        let name = format!("{stem}{suffix} of {}", release.what);
        Some(Fetch { sha256: file.sha256.clone(), size: file.size, urls, name })
    };
    Ok(IndexPlan { path: stem, plain, coded: (file.clone(), suffix), fetch })
}

fn urls(
    repository: &Repository,
    suite: &str,
    release: &VerifiedRelease,
    stem: &str,
    file: &ListedFile,
    suffix: &str,
    access: Access<'_>,
) -> Result<Vec<String>, ArchiveError> {
    let base = format!("{}/{}", access.mirrors.resolve(repository)?, directory(suite));
    let plain_url = format!("{base}{stem}{suffix}");
    let parent = stem.strip_suffix("Packages").unwrap_or_default();
    let by_hash = format!("{base}{parent}by-hash/SHA256/{}", file.sha256);
    Ok(if release.acquire_by_hash { vec![by_hash, plain_url] } else { vec![plain_url] })
}

fn read_index(plan: &IndexPlan, release: &VerifiedRelease, store: &Store) -> Result<String, ArchiveError> {
    let error = |problem: String| index_error(release, &plan.path, problem);
    if let Some(plain) = plan.plain.as_ref().filter(|p| store.has(&p.sha256, Some(p.size))) {
        let text = std::fs::read(store.path(&plain.sha256)).map_err(|e| error(e.to_string()))?;
        return String::from_utf8(text).map_err(|_| error("it is not UTF-8".into()));
    }
    let (file, suffix) = &plan.coded;
    let path = store.path(&file.sha256);
    let reader = std::fs::File::open(&path).map_err(|e| error(e.to_string()))?;
    let reader = std::io::BufReader::with_capacity(1 << 18, reader);
    let limit = plan.plain.as_ref().map_or(INDEX_LIMIT, |p| p.size);
    let decoder: Box<dyn Read> = match *suffix {
        ".xz" => Box::new(xz(reader).map_err(|e| error(e.to_string()))?),
        ".zst" => Box::new(zstd(reader).map_err(|e| error(e.to_string()))?),
        ".gz" => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        _ => Box::new(reader),
    };
    let mut bounded = Bounded { inner: decoder, left: limit, what: format!("{}{suffix}", plan.path) };
    let mut text = Vec::with_capacity(usize::try_from(limit.min(128 << 20)).unwrap_or(0));
    bounded.read_to_end(&mut text).map_err(|e| error(e.to_string()))?;
    if let Some(plain) = &plan.plain {
        let actual = store.put(&mut &text[..])?;
        if actual != plain.sha256 {
            return Err(error(format!("uncompressed, its SHA-256 is {actual} instead of {}", plain.sha256)));
        }
    }
    String::from_utf8(text).map_err(|_| error("it is not UTF-8".into()))
}

fn index_error(release: &VerifiedRelease, path: &str, problem: String) -> ArchiveError {
    ArchiveError::Index { what: release.what.clone(), path: path.to_owned(), problem }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
