//! What a simulated disk forgets when the power goes, and when it refuses to be written.
//!
//! The model is as weak as POSIX allows. Until a file is flushed, each write to it may be there, be lost, be there
//! only up to some byte, or have made the file longer with zeros in its place, each independently of the others.
//! Until a directory is flushed, any number of the last changes of its names may be lost; one change, also a
//! rename, is there as a whole or not at all, and earlier ones are not lost before later ones. What was flushed
//! stays. Every operation is a point at which the plug can be pulled, and one at which the disk can refuse.
#![allow(clippy::missing_panics_doc)] // a test wants to know

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use super::{Killed, SimulatedHost, State};
use crate::host::files::Filesystem;

/// A name's meaning.
#[derive(Debug, Clone)]
enum Meaning {
    Nothing,
    File { id: u64, bytes: Vec<u8>, mode: u32 },
    Link(String),
}

/// A change that was not flushed yet.
#[derive(Debug, Clone)]
enum Unflushed {
    /// Names in a directory, with what they meant before; all of one entry change at once.
    Names { directory: String, before: Vec<(String, Meaning)> },
    /// Bytes at the end of a file that was `length` long.
    Bytes { id: u64, length: usize, bytes: Vec<u8> },
    /// A file cut to this length.
    Cut { id: u64, length: usize },
}

/// Writes fail from one operation on, until the machine has slept so long.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub errno: Errno,
    pub from: u64,
    pub until: Duration,
}

#[derive(Default)]
pub struct Power {
    /// What chance is drawn from.
    pub seed: u64,
    pub fault: Option<Fault>,
    /// Operations on the disk so far.
    pub operations: u64,
    /// The last thing that was begun, for reports of tests.
    pub doing: String,
    /// The plug is pulled before something that begins so.
    pub plug_at: Option<&'static str>,
    ids: BTreeMap<String, u64>,
    last_id: u64,
    unflushed: Vec<Unflushed>,
}

impl Power {
    fn id(&mut self, path: &str) -> u64 {
        let last = &mut self.last_id;
        *self.ids.entry(path.to_owned()).or_insert_with(|| {
            *last += 1;
            *last
        })
    }

    pub fn pulled_now(&self) -> bool {
        self.plug_at.is_some_and(|begin| self.doing.starts_with(begin))
    }

    /// A number below `bound` (splitmix64).
    pub fn chance(&mut self, bound: usize) -> usize {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound.max(1) as u64).unwrap()
    }
}

fn parent(path: &Path) -> String {
    path.parent().unwrap().to_str().unwrap().to_owned()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

impl State {
    fn meaning(&mut self, path: &str) -> Meaning {
        if let Some(target) = self.disk.links.get(path) {
            return Meaning::Link(target.clone());
        }
        match self.disk.files.get(path).cloned() {
            Some((bytes, mode)) => Meaning::File { id: self.power.id(path), bytes, mode },
            None => Meaning::Nothing,
        }
    }

    fn set_meaning(&mut self, path: &str, meaning: Meaning) {
        self.disk.files.remove(path);
        self.disk.links.remove(path);
        self.power.ids.remove(path);
        match meaning {
            Meaning::Nothing => {}
            Meaning::Link(target) => drop(self.disk.links.insert(path.to_owned(), target)),
            Meaning::File { id, bytes, mode } => {
                self.power.ids.insert(path.to_owned(), id);
                self.disk.files.insert(path.to_owned(), (bytes, mode));
            }
        }
    }

    /// Changes names of one directory, at once.
    fn rename_all(&mut self, changes: Vec<(String, Meaning)>) {
        let directory = parent(Path::new(&changes[0].0));
        let before = changes.iter().map(|(path, _)| (path.clone(), self.meaning(path))).collect();
        self.power.unflushed.push(Unflushed::Names { directory, before });
        for (path, meaning) in changes {
            self.set_meaning(&path, meaning);
        }
    }

    fn path_of(&self, id: u64) -> Option<String> {
        self.power.ids.iter().find(|(_, other)| **other == id).map(|(path, _)| path.clone())
    }

    fn bytes_of(&mut self, id: u64) -> &mut Vec<u8> {
        let path = self.path_of(id).expect("an open file has a name here");
        &mut self.disk.files.get_mut(&path).unwrap().0
    }

    /// The power is gone: takes away what was not flushed, as far as chance wants it.
    pub fn lose_unflushed(&mut self) {
        let unflushed = std::mem::take(&mut self.power.unflushed);
        let directories: BTreeSet<&String> = unflushed.iter().filter_map(Unflushed::directory).collect();
        for directory in directories {
            let changes: Vec<_> = unflushed.iter().filter(|change| change.directory() == Some(directory)).collect();
            let kept = self.power.chance(changes.len() + 1);
            for change in changes[kept..].iter().rev() {
                if let Unflushed::Names { before, .. } = change {
                    before.iter().rev().for_each(|(path, meaning)| self.set_meaning(path, meaning.clone()));
                }
            }
        }
        let ids: BTreeSet<u64> = unflushed.iter().filter_map(Unflushed::file).collect();
        for id in ids {
            let changes: Vec<_> = unflushed.iter().filter(|change| change.file() == Some(id)).collect();
            let Some(path) = self.path_of(id) else { continue };
            let mut content = self.disk.files[&path].0.clone();
            content.truncate(changes.iter().map(|change| change.length()).min().unwrap());
            for change in changes {
                self.replay(change, &mut content);
            }
            self.disk.files.get_mut(&path).unwrap().0 = content;
        }
    }

    fn replay(&mut self, change: &Unflushed, content: &mut Vec<u8>) {
        match change {
            Unflushed::Names { .. } => {}
            Unflushed::Cut { length, .. } => {
                if self.power.chance(2) == 0 {
                    content.truncate(*length);
                }
            }
            Unflushed::Bytes { length, bytes, .. } => {
                let whole = length + bytes.len();
                let arrived = match self.power.chance(4) {
                    0 => 0,
                    1 => bytes.len(),
                    _ => self.power.chance(bytes.len() + 1),
                };
                let longer = self.power.chance(2) == 0;
                if content.len() < *length && arrived > 0 {
                    content.resize(*length, 0);
                }
                content.extend_from_slice(&bytes[..arrived]);
                if longer && content.len() < whole {
                    content.resize(whole, 0);
                }
            }
        }
    }
}

impl Unflushed {
    fn directory(&self) -> Option<&String> {
        if let Self::Names { directory, .. } = self { Some(directory) } else { None }
    }
    fn file(&self) -> Option<u64> {
        match self {
            Self::Names { .. } => None,
            Self::Bytes { id, .. } | Self::Cut { id, .. } => Some(*id),
        }
    }
    fn length(&self) -> usize {
        match self {
            Self::Names { .. } => usize::MAX,
            Self::Bytes { length, .. } | Self::Cut { length, .. } => *length,
        }
    }
}

impl SimulatedHost {
    /// The service is killed, the machine runs on: nothing that was written is lost.
    pub fn restart(&self) {
        let mut state = self.state();
        state.plug = None;
        state.power.plug_at = None;
    }

    /// The disk refuses to be written from its `from`th operation on, until the service has slept so long.
    pub fn refuse(&self, errno: Errno, from: u64, until: Duration) {
        self.state().power.fault = Some(Fault { errno, from, until });
    }

    fn operation<R>(
        &self,
        what: &str,
        path: &str,
        takes_space: bool,
        act: impl FnOnce(&mut State, bool) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut state = self.state();
        let point = state.points;
        state.points += 1;
        state.power.doing = format!("{what} {path}");
        if state.plug == Some(point) || state.power.pulled_now() {
            std::panic::resume_unwind(Box::new(Killed));
        }
        let number = state.power.operations;
        state.power.operations += 1;
        let fault = state.power.fault.filter(|fault| number >= fault.from);
        let fault = fault.filter(|fault| takes_space || fault.errno != Errno::NOSPC);
        let result = act(&mut state, fault.is_some());
        fault.map_or(result, |fault| Err(fault.errno.into()))
    }
}

impl Filesystem for SimulatedHost {
    type File = (u64, String);

    fn make_directories(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn length(&self, path: &Path) -> Option<u64> {
        self.state().disk.files.get(&text(path)).map(|(bytes, _)| bytes.len() as u64)
    }

    fn create(&self, path: &Path, mode: u32) -> io::Result<Self::File> {
        let path = text(path);
        self.operation("create", &path, true, |state, refused| {
            if refused {
                return Ok((0, String::new()));
            }
            if !matches!(state.meaning(&path), Meaning::Nothing) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.power.last_id += 1;
            let id = state.power.last_id;
            state.rename_all(vec![(path.clone(), Meaning::File { id, bytes: Vec::new(), mode })]);
            Ok((id, path.clone()))
        })
    }

    fn open(&self, path: &Path, mode: Option<u32>) -> io::Result<Self::File> {
        match (self.length(path), mode) {
            (None, Some(mode)) => self.create(path, mode),
            (None, None) => Err(io::ErrorKind::NotFound.into()),
            (Some(_), _) => Ok((self.state().power.id(&text(path)), text(path))),
        }
    }

    fn write(&self, (id, path): &mut Self::File, bytes: &[u8]) -> io::Result<()> {
        self.operation("write", path, true, |state, refused| {
            // A disk that is full takes what fits; one that is read-only takes nothing.
            let full = state.power.fault.is_some_and(|fault| fault.errno == Errno::NOSPC);
            let taken = match (refused, full) {
                (false, _) => bytes.len(),
                (true, true) => state.power.chance(bytes.len() + 1),
                (true, false) => 0,
            };
            let length = state.bytes_of(*id).len();
            state.bytes_of(*id).extend_from_slice(&bytes[..taken]);
            state.power.unflushed.push(Unflushed::Bytes { id: *id, length, bytes: bytes[..taken].to_vec() });
            Ok(())
        })
    }

    fn shorten(&self, (id, path): &mut Self::File, length: u64) -> io::Result<()> {
        self.operation("shorten", path, false, |state, refused| {
            if !refused {
                let length = usize::try_from(length).unwrap();
                state.bytes_of(*id).truncate(length);
                state.power.unflushed.push(Unflushed::Cut { id: *id, length });
            }
            Ok(())
        })
    }

    fn flush(&self, (id, path): &Self::File) -> io::Result<()> {
        self.operation("flush", path, false, |state, refused| {
            if !refused {
                state.power.unflushed.retain(|change| change.file() != Some(*id));
            }
            Ok(())
        })
    }

    fn flush_directory(&self, path: &Path) -> io::Result<()> {
        let path = text(path);
        self.operation("flush", &path, false, |state, refused| {
            if !refused {
                state.power.unflushed.retain(|change| change.directory() != Some(&path));
            }
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        assert_eq!(parent(from), parent(to), "a rename within one directory is atomic");
        self.operation("rename to", &text(to), false, |state, refused| {
            if !refused {
                let meaning = state.meaning(&text(from));
                state.rename_all(vec![(text(from), Meaning::Nothing), (text(to), meaning)]);
            }
            Ok(())
        })
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let path = text(path);
        let (there, read_only) = {
            let mut state = self.state();
            let fault = state.power.fault.filter(|fault| state.power.operations >= fault.from);
            let there = !matches!(state.meaning(&path), Meaning::Nothing);
            (there, fault.is_some_and(|fault| fault.errno == Errno::ROFS))
        };
        // The kernel says that a filesystem is read-only before it looks for the name.
        if !there && !read_only {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.operation("remove", &path, false, |state, refused| {
            if !refused {
                state.rename_all(vec![(path.clone(), Meaning::Nothing)]);
            }
            Ok(())
        })
    }

    fn symlink(&self, target: &str, path: &Path) -> io::Result<()> {
        let path = text(path);
        self.operation("link", &path, true, |state, refused| {
            if !refused {
                state.rename_all(vec![(path.clone(), Meaning::Link(target.to_owned()))]);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::files;

    /// What `path` may hold after a power cut, over many draws of chance.
    fn outcomes(prepare: impl Fn(&SimulatedHost)) -> BTreeSet<Option<Vec<u8>>> {
        (0..200)
            .map(|seed| {
                let host = SimulatedHost::default();
                host.put("/d/file", "old");
                host.state().power.seed = seed;
                prepare(&host);
                host.reboot();
                host.state().disk.files.get("/d/file").map(|(bytes, _)| bytes.clone())
            })
            .collect()
    }

    #[test]
    fn what_is_not_flushed_may_be_lost_torn_or_zero() {
        let found = outcomes(|host| {
            let mut file = host.open(Path::new("/d/file"), None).unwrap();
            host.write(&mut file, b"new").unwrap();
            host.write(&mut file, b"er").unwrap();
        });
        for expected in [&b"old"[..], b"oldnewer", b"oldne", b"oldnew", b"old\0\0\0", b"old\0\0\0er"] {
            assert!(found.contains(&Some(expected.to_vec())), "{expected:?} is not in {found:?}");
        }
        assert!(found.iter().flatten().all(|bytes| bytes.starts_with(b"old")));
    }

    #[test]
    fn a_careless_way_to_replace_a_file_is_caught_and_the_durable_one_is_not() {
        let careless = outcomes(|host| {
            let mut file = host.create(Path::new("/d/.new"), 0o644).unwrap();
            host.write(&mut file, b"new").unwrap();
            host.rename(Path::new("/d/.new"), Path::new("/d/file")).unwrap();
            host.flush_directory(Path::new("/d")).unwrap();
        });
        assert!(careless.len() > 2, "a rename before the content is flushed: {careless:?}");
        let not_for_good = outcomes(|host| {
            let mut file = host.create(Path::new("/d/.new"), 0o644).unwrap();
            host.write(&mut file, b"new").unwrap();
            host.flush(&file).unwrap();
            host.rename(Path::new("/d/.new"), Path::new("/d/file")).unwrap();
        });
        assert_eq!(not_for_good, [Some(b"old".to_vec()), Some(b"new".to_vec())].into());
        let durable = outcomes(|host| files::write_durable(host, Path::new("/d/file"), b"new", 0o644).unwrap());
        assert_eq!(durable, [Some(b"new".to_vec())].into());
    }

    #[test]
    fn a_full_disk_takes_a_part_and_a_read_only_one_nothing() {
        let host = SimulatedHost::default();
        host.put("/d/file", "old");
        host.state().power.seed = 3;
        host.refuse(Errno::NOSPC, 0, Duration::from_secs(5));
        assert!(files::append_durable(&host, Path::new("/d/file"), b"0123456789").is_err());
        assert!(host.text("/d/file").starts_with("old"));
        crate::host::Host::sleep(&host, Duration::from_secs(6));
        files::write_durable(&host, Path::new("/d/file"), b"new", 0o644).unwrap();
        host.refuse(Errno::ROFS, 0, Duration::MAX);
        assert!(files::write_durable(&host, Path::new("/d/file"), b"newer", 0o644).is_err());
        assert!(files::remove_durable(&host, Path::new("/d/file")).is_err());
        assert_eq!(host.text("/d/file"), "new");
    }
}
