//! Many downloads at once: resumed, tried again, hashed while they stream, admitted only when right.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use super::http::{Failure, MAXIMUM_JOBS};
use super::{Store, StoreError, io_error, open_locked};
use crate::archive::release::{hex, is_sha256};
use crate::progress::{Progress, Task};

/// One file that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// Size in bytes; a server that sends more is cut off. 0 where it is not known: then the server is asked.
    pub size: u64,
    /// Where it can be had, tried in this order.
    pub urls: Vec<String>,
    /// What people call it: `docker.io 27.5.1-1`.
    pub name: String,
}

impl Store {
    /// Sees to it that every file is in the store: fetches those that are not, `jobs` at a time.
    ///
    /// With `offline` nothing is fetched, and missing files are an error that names them. The first error stops
    /// the rest after what they are doing; what was fetched so far stays.
    pub fn ensure(
        &self,
        wanted: &[Fetch],
        jobs: usize,
        offline: bool,
        progress: &dyn Progress,
    ) -> Result<(), StoreError> {
        if let Some(bad) = wanted.iter().find(|f| !is_sha256(&f.sha256)) {
            return Err(StoreError::BadHash { name: bad.name.clone(), hash: bad.sha256.clone() });
        }
        // One entry per content, in a fixed order; big files first, so that none of them is left for the end.
        let unique: BTreeMap<&str, &Fetch> = wanted.iter().map(|f| (f.sha256.as_str(), f)).collect();
        let mut missing: Vec<&Fetch> = unique.into_values().filter(|f| !self.has(&f.sha256, Some(f.size))).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if offline {
            let mut names: Vec<String> = missing.iter().map(|f| f.name.clone()).collect();
            names.sort();
            return Err(StoreError::Missing { names });
        }
        missing.sort_by_key(|f| std::cmp::Reverse(f.size));
        let present = |f: &&Fetch| fs::metadata(self.partial(&f.sha256)).map_or(0, |m| m.len().min(f.size));
        let needed: u64 = missing.iter().map(|f| f.size - present(f)).sum();
        let available = self.available();
        if available < needed {
            return Err(StoreError::Full { path: self.root.clone(), needed, available });
        }
        let total = missing.iter().map(|f| f.size).sum();
        let label = match &missing[..] {
            [one] => format!("fetching {}", one.name),
            more => format!("fetching {} files", more.len()),
        };
        let task = progress.start(&label, Some(total));
        let workers = jobs.clamp(1, MAXIMUM_JOBS).min(missing.len());
        let queue = Mutex::new(VecDeque::from(missing));
        let failed = AtomicBool::new(false);
        let error = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while !failed.load(Ordering::Relaxed) {
                        let Some(fetch) = lock(&queue).pop_front() else { break };
                        if let Err(e) = self.fetch(fetch, task.as_ref()) {
                            failed.store(true, Ordering::Relaxed);
                            lock(&error).get_or_insert(e);
                        }
                    }
                });
            }
        });
        lock(&error).take().map_or(Ok(()), Err)
    }

    fn partial(&self, sha256: &str) -> std::path::PathBuf {
        self.root.join("partial").join(sha256)
    }

    /// The same file with its size, as the first server that answers says it.
    fn sized(&self, fetch: &Fetch) -> Result<Fetch, StoreError> {
        let (mut attempts, mut answered) = (Vec::new(), false);
        for url in &fetch.urls {
            let mut attempt = 0;
            let (problem, silent) = loop {
                attempt += 1;
                match self.http.open(url, 0) {
                    Ok(response) => match response.length {
                        Some(size) => return Ok(Fetch { size, ..fetch.clone() }),
                        None => break ("the server does not say how large it is".to_owned(), false),
                    },
                    Err(Failure::Passing(_, asked)) if attempt < self.http.retries.attempts => {
                        self.http.pause(attempt, asked);
                    }
                    Err(Failure::Passing(problem, _)) => break (problem, true),
                    Err(Failure::Lasting(problem)) => break (problem, false),
                }
            };
            answered |= !silent;
            attempts.push((url.clone(), problem));
        }
        Err(StoreError::Fetch { name: fetch.name.clone(), attempts, answered })
    }

    /// Fetches one file, from whichever URL gives it first.
    fn fetch(&self, fetch: &Fetch, task: &dyn Task) -> Result<(), StoreError> {
        let sized;
        let fetch = if fetch.size == 0 && fetch.sha256 != hex(&Sha256::digest([])) {
            sized = self.sized(fetch)?;
            if sized.size == 0 {
                let problem = "it is empty, and should not be".to_owned();
                let attempts = fetch.urls.iter().map(|url| (url.clone(), problem.clone())).collect();
                return Err(StoreError::Fetch { name: fetch.name.clone(), attempts, answered: true });
            }
            &sized
        } else {
            fetch
        };
        let path = self.partial(&fetch.sha256);
        let file = loop {
            // Waits while another process or thread fetches the same content.
            if let Some(file) = open_locked(&path).map_err(io_error("open", &path))? {
                break file;
            }
        };
        if self.has(&fetch.sha256, Some(fetch.size)) {
            let _ = fs::remove_file(&path);
            task.advance(fetch.size);
            return Ok(());
        }
        let mut download = Download { store: self, fetch, path: &path, file, hasher: Sha256::new(), length: 0, task };
        download.take_up()?;
        let (mut attempts, mut answered) = (Vec::new(), false);
        for url in &fetch.urls {
            match download.try_url(url) {
                Ok(()) => {
                    self.admit(&download.file, &path, &fetch.sha256)?;
                    return Ok(());
                }
                Err(Stop::Silent(problem)) => attempts.push((url.clone(), problem)),
                Err(Stop::Url(problem)) => {
                    answered = true;
                    attempts.push((url.clone(), problem));
                }
                Err(Stop::Store(error)) => return Err(error),
            }
        }
        Err(StoreError::Fetch { name: fetch.name.clone(), attempts, answered })
    }
}

/// Why a URL was given up.
enum Stop {
    /// The server has no such file, or another one; another URL may do.
    Url(String),
    /// The server could not be asked, or did not come to an end; another URL may do.
    Silent(String),
    /// No URL will do: the store itself has a problem.
    Store(StoreError),
}

/// A file on its way in. `hasher` and `length` always match what is in `file`.
struct Download<'a> {
    store: &'a Store,
    fetch: &'a Fetch,
    path: &'a Path,
    file: File,
    hasher: Sha256,
    length: u64,
    task: &'a dyn Task,
}

impl Download<'_> {
    /// Hashes what an earlier attempt left.
    fn take_up(&mut self) -> Result<(), StoreError> {
        let present = self.file.metadata().map_err(io_error("read", self.path))?.len();
        if present > self.fetch.size {
            return self.restart();
        }
        self.file.seek(SeekFrom::Start(0)).map_err(io_error("read", self.path))?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = self.file.read(&mut buffer).map_err(io_error("read", self.path))?;
            if count == 0 {
                break;
            }
            self.hasher.update(&buffer[..count]);
            self.length += count as u64;
        }
        self.task.advance(self.length);
        Ok(())
    }

    fn restart(&mut self) -> Result<(), StoreError> {
        self.file.set_len(0).map_err(io_error("truncate", self.path))?;
        self.hasher = Sha256::new();
        self.length = 0;
        Ok(())
    }

    fn try_url(&mut self, url: &str) -> Result<(), Stop> {
        let mut attempt = 0;
        // What an earlier run or another mirror left may be wrong; then this URL gets one clean start.
        let mut clean = self.length == 0;
        let mut furthest = self.length;
        loop {
            attempt += 1;
            let failure = if self.length == self.fetch.size { Ok(()) } else { self.stream(url)? };
            match failure {
                Ok(()) => {
                    let actual = hex(&self.hasher.clone().finalize());
                    if actual == self.fetch.sha256 {
                        return Ok(());
                    }
                    self.restart().map_err(Stop::Store)?;
                    if clean {
                        return Err(Stop::Url(format!(
                            "its SHA-256 is {actual} instead of {}; the file was changed, or the mirror is out of step",
                            self.fetch.sha256
                        )));
                    }
                    clean = true;
                    attempt = 0;
                }
                Err(Failure::Lasting(problem)) => return Err(Stop::Url(problem)),
                Err(Failure::Passing(problem, asked)) => {
                    if self.length > furthest {
                        furthest = self.length;
                        attempt = 1;
                    }
                    if attempt >= self.store.http.retries.attempts {
                        return Err(Stop::Silent(format!("{problem} ({attempt} attempts)")));
                    }
                    self.store.http.pause(attempt, asked);
                }
            }
        }
    }

    /// Reads one response to its end. The outer error ends everything, the inner one this attempt.
    fn stream(&mut self, url: &str) -> Result<Result<(), Failure>, Stop> {
        let mut response = match self.store.http.open(url, self.length) {
            Ok(response) => response,
            Err(Failure::Lasting(problem)) if self.length > 0 && problem.starts_with("416") => {
                // The server's file is shorter than what is here: one of the two is wrong, so start over.
                self.restart().map_err(Stop::Store)?;
                return Ok(Err(Failure::Passing(problem, None)));
            }
            Err(failure) => return Ok(Err(failure)),
        };
        if !response.partial && self.length > 0 {
            self.restart().map_err(Stop::Store)?;
        }
        if let Some(total) = response.length.map(|l| l.saturating_add(self.length)).filter(|t| *t != self.fetch.size) {
            // Not a transfer that broke off, but another file: waiting does not help.
            self.restart().map_err(Stop::Store)?;
            let problem = format!("it has {total} bytes instead of {}; the mirror is out of step", self.fetch.size);
            return Ok(Err(Failure::Lasting(problem)));
        }
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = match response.body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Ok(Err(Failure::Passing(format!("broken off at byte {}: {e}", self.length), None))),
            };
            if self.length + count as u64 > self.fetch.size {
                self.restart().map_err(Stop::Store)?;
                return Ok(Err(Failure::Lasting(format!("it is larger than the {} bytes expected", self.fetch.size))));
            }
            let missing = self.fetch.size - self.length;
            self.file
                .write_all(&buffer[..count])
                .map_err(|e| Stop::Store(self.store.write_error(e, self.path, missing)))?;
            self.hasher.update(&buffer[..count]);
            self.length += count as u64;
            self.task.advance(count as u64);
        }
        if self.length < self.fetch.size {
            let problem = format!("it ends at byte {} of {}", self.length, self.fetch.size);
            return Ok(Err(Failure::Passing(problem, None)));
        }
        Ok(Ok(()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The data are plain values that no panic can leave half changed.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
