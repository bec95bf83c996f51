//! Entry points of the fuzz targets: one function for each parser of what comes from outside.
//!
//! Each takes any bytes and gives nothing. It panics where a parser breaks a promise, such as that what was written
//! reads back; that is how a fuzzer notices. Only fuzzers and tests see this module: `tests/fuzz` drives the
//! functions with ever new bytes, and the test below runs them over the committed corpus, in which every input that
//! was ever a finding stays.
#![allow(clippy::missing_panics_doc)] // every function may panic: see above

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::archive::index::Suite;
use crate::archive::release::{Dates, InRelease, hex};
use crate::archive::{apt_sources, packages, relation, release, version};
use crate::boot::pe::{DATA, Pe};
use crate::boot::uki;
use crate::image::bmap::Bmap;
use crate::lock::Lock;
use crate::profile::{self, Tree};
use crate::root::containers::pinned::Pinned;
use crate::solve::{Request, Universe, solve};
use crate::store::StoreError;
use crate::store::deb::Deb;

/// A function to feed with any bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its directory in the corpus.
pub const TARGETS: [(&str, Target); 13] = [
    ("apt_sources", apt_sources),
    ("bmap", bmap),
    ("deb", deb),
    ("docker_archive", docker_archive),
    ("inrelease", inrelease),
    ("lock", lock),
    ("packages", packages),
    ("pe", pe),
    ("profile", profile),
    ("relation", relation),
    ("release", release),
    ("solve", solve_any),
    ("version", version),
];

/// Nothing read from an input of some kilobytes needs more than this of it.
const ENOUGH: u64 = 4 << 20;

/// The bytes as a file with a path, without a disk.
struct Memory {
    file: File,
}

impl Memory {
    fn with(bytes: &[u8]) -> Option<Self> {
        let file = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
        let mut memory = Self { file: file.into() };
        memory.file.write_all(bytes).ok()?;
        Some(memory)
    }

    fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// The host's `sources.list` and `*.sources`.
pub fn apt_sources(bytes: &[u8]) {
    apt_sources::fuzz(&String::from_utf8_lossy(bytes));
}

/// A block map: what was read reads back.
pub fn bmap(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(map) = Bmap::parse(text) {
        assert_eq!(Bmap::parse(&map.to_xml()).ok().as_ref(), Some(&map));
    }
}

/// A binary package: the ar container, its compressed members and the tar archives in them.
pub fn deb(bytes: &[u8]) {
    let Some(memory) = Memory::with(bytes) else { return };
    let Ok(deb) = Deb::open(&memory.path()) else { return };
    if let Ok(control) = deb.control() {
        assert!(control.fields().keys().all(|name| control.get(name).is_some()));
    }
    // A few bytes can stand for gigabytes, which are read in pieces and never held; a fuzzer has no time for them.
    let mut left = ENOUGH;
    let _ = deb.for_each::<Stop, _>(|entry| {
        let _ = (entry.path().map(std::borrow::Cow::into_owned), entry.link_name());
        left -= io::copy(&mut entry.take(left), &mut io::sink()).map_err(|_| Stop)?;
        if left == 0 { Err(Stop) } else { Ok(()) }
    });
}

/// Why reading a package's files ended early.
struct Stop;

impl From<StoreError> for Stop {
    fn from(_: StoreError) -> Self {
        Self
    }
}

/// A container image as a docker-archive, plain or compressed.
pub fn docker_archive(bytes: &[u8]) {
    let Some(memory) = Memory::with(bytes) else { return };
    let digest = format!("sha256:{}", hex(&Sha256::digest(bytes)));
    let image = Pinned { reference: "fuzz/image:1", path: &memory.path(), digest: &digest };
    let Some(out) = Memory::with(b"") else { return };
    if image.write(&out.path()).is_ok() {
        // What comes out is an archive of one image, and reads as one.
        let mut written = Vec::new();
        assert!(File::open(out.path()).and_then(|mut file| file.read_to_end(&mut written)).is_ok());
        let digest = format!("sha256:{}", hex(&Sha256::digest(&written)));
        let again = Pinned { reference: "fuzz/image:1", path: &out.path(), digest: &digest };
        let result = again.write(Path::new("/dev/null"));
        assert!(result.is_ok(), "{result:?}");
    }
}

/// When the key that signs the seeds is good, in seconds since 1970.
const NOW: u64 = 1_767_225_600;

/// A clear-signed release file, against a keyring that signed some of the seeds.
pub fn inrelease(bytes: &[u8]) {
    let keyring = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/keyring.pgp"));
    let dates = Dates { now: NOW, accept_stale: false };
    match InRelease::new("fuzz", bytes.to_vec()).verify(keyring, dates) {
        Ok(release) => assert!(!release.signer.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The fields of a release file, as if the signature were good.
pub fn release(bytes: &[u8]) {
    release::fuzz(bytes);
}

/// A lock: what was read reads back, and every set has all of its packages.
pub fn lock(bytes: &[u8]) {
    let Some(memory) = Memory::with(bytes) else { return };
    let lock = match Lock::read(&memory.path()) {
        Ok(lock) => lock,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let Some(again) = Memory::with(lock.to_text().as_bytes()) else { return };
    assert_eq!(Lock::read(&again.path()).ok().as_ref(), Some(&lock));
    for name in lock.set_names() {
        assert!(lock.set(name).is_ok());
    }
}

/// A `Packages` file, and the relations in it.
pub fn packages(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(packages) = packages::parse(text, "amd64") else { return };
    for package in &packages {
        assert!(!package.name.is_empty() && !package.version.is_empty() && !package.filename.is_empty());
        assert!(matches!(package.architecture, "amd64" | "all") && package.phased <= 100);
        for field in [package.depends, package.pre_depends, package.provides, package.conflicts, package.breaks] {
            let _ = relation::parse(field);
        }
    }
}

/// A PE file: a section that was added is there, and the file is still one.
pub fn pe(bytes: &[u8]) {
    let Ok(mut pe) = Pe::parse(bytes.to_vec()) else { return };
    let names: Vec<String> = pe.sections().iter().map(|section| section.name.clone()).collect();
    assert!(names.iter().all(|name| pe.content(name).is_none_or(|content| content.len() <= bytes.len())));
    let _ = uki::read(bytes.to_vec());
    let _ = (uki::dump(&pe), pe.dump(), pe.nx_compatible());
    pe.clear_nx_compatible();
    let _ = pe.replace(".sbat", b"sbat,1\n");
    if pe.prepare().is_ok() && pe.section(".fuzz").is_none() && pe.append(".fuzz", &[7; 700], DATA).is_ok() {
        assert_eq!(pe.content(".fuzz"), Some(&[7; 700][..]));
        let again = Pe::parse(pe.into_bytes());
        assert!(again.as_ref().is_ok_and(|pe| pe.content(".fuzz") == Some(&[7; 700][..])), "{again:?}");
    }
}

const BASE: &str = "[base]\ndistribution = \"debian\"\ncodename = \"trixie\"\nversion = \"13\"\nrepositories = [\"debian\"]\n\
    [repositories.debian]\nsuites = [\"${codename}\"]\ncomponents = [\"main\"]\nkeyring = \"key.pgp\"\n\
    [kernel]\npackage = \"linux-image-amd64\"\n[packages]\ninclude = [\"systemd\"]\n";

/// A role's profile on a base that is in order.
pub fn profile(bytes: &[u8]) {
    static TREE: OnceLock<Option<(tempfile::TempDir, Tree)>> = OnceLock::new();
    let tree = TREE.get_or_init(|| {
        let directory = tempfile::tempdir().ok()?;
        std::fs::create_dir_all(directory.path().join("profiles/base")).ok()?;
        std::fs::write(directory.path().join("profiles/base/debian-13.toml"), BASE).ok()?;
        std::fs::write(directory.path().join("profiles/base/key.pgp"), "").ok()?;
        let tree = Tree::open(&directory.path().join("profiles")).ok()?;
        Some((directory, tree))
    });
    let Some((directory, tree)) = tree else { return };
    if std::fs::write(directory.path().join("profiles/role.toml"), bytes).is_err() {
        return;
    }
    match profile::load(tree, "role", Some("debian-13")) {
        Ok(explained) => assert!(!profile::explain(&explained, directory.path()).is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A relation field: what was read reads back.
pub fn relation(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(groups) = relation::parse(text) else { return };
    let written: Vec<String> =
        groups.iter().map(|group| group.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")).collect();
    assert_eq!(relation::parse(&written.join(", ")).as_ref(), Ok(&groups));
    for relation in groups.iter().flatten() {
        assert_eq!(relation.accepts("1.0-1"), relation.accepts_provided(Some("1.0-1")));
    }
}

/// Packages of a hostile index are chosen, or there is a reason why not.
pub fn solve_any(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let suite = Suite::of_text("fuzz", 500, text);
    let Ok(universe) = Universe::new(&[&suite], "amd64") else { return };
    let Ok(packages) = packages::parse(text, "amd64") else { return };
    let include: BTreeSet<String> = packages.iter().take(2).map(|package| package.name.to_owned()).collect();
    let request = Request { include, recommends: bytes.len().is_multiple_of(2), ..Request::default() };
    match solve(&universe, &request) {
        Ok(chosen) => {
            let names: BTreeSet<&str> = chosen.iter().map(|id| universe.package(*id).name).collect();
            assert_eq!(names.len(), chosen.len(), "a package is there twice");
            assert!(request.include.iter().all(|name| names.contains(name.as_str())), "a package is missing");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The laws of a total order, for three versions, one a line.
pub fn version(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let (a, b, c) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let order = version::compare;
    for (left, right) in [(a, b), (b, c), (a, c)] {
        assert!(order(left, left).is_eq());
        assert_eq!(order(left, right), order(right, left).reverse(), "{left:?} {right:?}");
    }
    let mut sorted = [a, b, c];
    sorted.sort_by(|x, y| order(x, y));
    assert!(order(sorted[0], sorted[2]).is_le(), "{sorted:?} goes round in a circle");
    if order(a, b).is_eq() {
        assert_eq!(order(a, c), order(b, c), "{a:?} and {b:?} are equal, but not to {c:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_read() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
        for (name, target) in TARGETS {
            let mut seeds: Vec<PathBuf> =
                std::fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
            seeds.sort();
            assert!(!seeds.is_empty(), "target {name} has no seed");
            for seed in seeds {
                println!("{}", seed.display());
                target(&std::fs::read(&seed).unwrap());
            }
        }
    }
}
