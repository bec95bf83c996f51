use super::*;
use crate::archive::history::History;
use crate::archive::index::Access;
use crate::archive::mirror::Mirrors;
use crate::process::{ProcessError, Tool};
use crate::profile::{HostMirror, Repository};
use crate::progress::Silent;
use crate::solve::Request;
use crate::store::deb::Deb;
use crate::store::{Owners, StoreError};

/// The repositories of Debian 13 as its base profile has them; `None`, with a line that says so, where this
/// host knows no mirror or has no keyring.
pub(crate) fn debian_13() -> Option<(BTreeMap<String, Repository>, Mirrors)> {
    let keyring = PathBuf::from("/usr/share/keyrings/debian-archive-keyring.gpg");
    let mirrors = Mirrors::new(BTreeMap::new());
    let repository = |name: &str, archive: &str, suites: &[&str]| Repository {
        name: name.into(),
        url: None,
        host_mirror: Some(HostMirror { distribution: "debian".into(), archive: archive.into() }),
        suites: suites.iter().map(|s| (*s).to_owned()).collect(),
        components: vec!["main".into()],
        keyring: keyring.clone(),
        priority: 500,
        snapshot: None,
        snapshot_url: None,
    };
    let all = [
        repository("debian-13", "debian", &["trixie", "trixie-updates"]),
        repository("debian-13-security", "debian-security", &["trixie-security"]),
    ];
    if !keyring.exists() || all.iter().any(|r| mirrors.resolve(r).is_err()) {
        println!("skipped: this host has no Debian mirror or no Debian keyring");
        return None;
    }
    Some((all.into_iter().map(|r| (r.name.clone(), r)).collect(), mirrors))
}

#[allow(clippy::disallowed_methods)] // signatures are checked at the time of the test
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// Whether not even a release file can be had: then there is nothing to test with. Anything later is a failure.
pub(crate) fn is_unreachable(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Store(StoreError::Fetch { name, .. }) if name.starts_with("the release file"))
}

/// A store that outlives the test where `INGOT_TEST_STORE` names one.
pub(crate) fn test_store() -> (tempfile::TempDir, Store) {
    let temporary = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("INGOT_TEST_STORE").map(PathBuf::from);
    let store = Store::open(kept.as_deref().unwrap_or(temporary.path())).unwrap();
    (temporary, store)
}

fn set_request(include: &[&str]) -> SetRequest {
    SetRequest {
        name: "worker@debian-13".into(),
        request: Request {
            include: include.iter().map(|n| (*n).to_owned()).collect(),
            include_essential: true,
            ..Request::default()
        },
        repositories: vec!["debian-13-security".into(), "debian-13".into()],
    }
}

/// Locks a set on the real archive; `None`, with a line that says so, where it cannot be reached.
fn really_locked(
    sets: &[SetRequest],
    repositories: &BTreeMap<String, Repository>,
    mirrors: &Mirrors,
    store: &Store,
    offline: bool,
) -> Option<Lock> {
    let history = History::default();
    let access = Access {
        store,
        mirrors,
        architecture: "amd64",
        now: now(),
        history: &history,
        offline,
        jobs: 8,
        progress: &Silent,
    };
    let started = std::time::Instant::now();
    match resolve(sets, Context { repositories, access }, None) {
        Err(LockError::Archive(error)) if is_unreachable(&error) => {
            println!("skipped: the archive cannot be reached: {error}");
            None
        }
        other => {
            println!("locked in {:?}", started.elapsed());
            Some(other.unwrap().lock)
        }
    }
}

#[test]
fn a_real_archive_is_locked_and_again_offline_to_the_same_bytes() {
    let Some((repositories, mirrors)) = debian_13() else { return };
    let (temporary, store) = test_store();
    let sets = [set_request(&["linux-image-amd64", "systemd", "docker.io"])];
    let Some(lock) = really_locked(&sets, &repositories, &mirrors, &store, false) else { return };
    let set = lock.set("worker@debian-13").unwrap();
    assert!(set.packages.len() > 100 && set.package("docker.io").is_some());
    assert_eq!(lock.releases().len(), 3);
    assert_eq!(really_locked(&sets, &repositories, &mirrors, &store, true).unwrap(), lock);
    let path = temporary.path().join("ingot.lock");
    lock.write(&path).unwrap();
    assert_eq!(Lock::read(&path).unwrap(), lock);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), lock.to_text());
}

/// Everything below a directory that unpacking decides, as text. Owners are left out: who runs the test matters.
fn listing(root: &Path) -> String {
    let format = "%P %y %m %s %l %n %T@\\n";
    let tool = Tool::new("find").args(["-P", ".", "-mindepth", "1", "-printf", format]).directory(root);
    let text = String::from_utf8(tool.run().unwrap().stdout).unwrap();
    // The size of a directory is the file system's business, and tar spoils the times of those with late links.
    let lines = text.lines().map(|l| match l.split(' ').collect::<Vec<_>>()[..] {
        [name, "d", mode, ..] => format!("{name} d {mode}"),
        _ => l.to_owned(),
    });
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    lines.join("\n")
}

#[test]
fn real_packages_are_fetched_and_read_as_dpkg_reads_them() {
    let Some((repositories, mirrors)) = debian_13() else { return };
    let (_temporary, store) = test_store();
    let sets = [set_request(&[])];
    let Some(lock) = really_locked(&sets, &repositories, &mirrors, &store, false) else { return };
    let mut set = lock.set("worker@debian-13").unwrap();
    // Links, hard links, set-user-ID bits and conffiles.
    set.packages
        .retain(|p| ["base-files", "gzip", "mount", "passwd", "sed", "sysvinit-utils"].contains(&p.name.as_str()));
    assert_eq!(set.packages.len(), 6);
    let fetches = set.fetches(&store, |name| mirrors.resolve(&repositories[name])).unwrap();
    store.ensure(&fetches, 4, false, &Silent).unwrap();
    let hashes: Vec<&str> = set.packages.iter().map(|p| p.sha256.as_str()).collect();
    let plain = crate::store::normalize_all(&store, &hashes, 2, &Silent).unwrap();
    for (package, plain) in set.packages.iter().zip(&plain) {
        let original = store.path(&package.sha256);
        let deb = Deb::open(plain).unwrap();
        assert_eq!(deb.control().unwrap().get("Version"), Some(package.version.as_str()));
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        deb.unpack(ours.path(), Owners::Own).unwrap();
        match Tool::new("dpkg-deb").arg("--extract").args([&original, theirs.path()]).run() {
            Err(ProcessError::Start { .. }) => return println!("skipped: this host has no dpkg-deb"),
            other => drop(other.unwrap()),
        }
        assert_eq!(listing(ours.path()), listing(theirs.path()), "{}", package.name);
        Tool::new("diff").args(["-r", "--no-dereference"]).args([ours.path(), theirs.path()]).run().unwrap();
        let tars = [&original, plain].map(|p| Tool::new("dpkg-deb").arg("--fsys-tarfile").arg(p).run().unwrap().stdout);
        assert!(tars[0] == tars[1], "{}", package.name);
    }
}

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn package(name: &str, version: &str) -> LockedPackage {
    LockedPackage {
        name: name.into(),
        version: version.into(),
        architecture: "amd64".into(),
        repository: "main".into(),
        filename: format!("pool/{name}_{version}.deb"),
        size: 7,
        sha256: A.into(),
        essential: name == "dpkg",
        installed_size: 0,
        source: String::new(),
        pre_depends: String::new(),
        depends: "libc6 (>= 2)".into(),
        provides: String::new(),
    }
}

fn lock_of(sets: &[(&str, &[(&str, &str)])]) -> Lock {
    let mut lock = Lock::default();
    for (name, packages) in sets {
        let packages: Vec<LockedPackage> = packages.iter().map(|(n, v)| package(n, v)).collect();
        let mut references: Vec<String> = packages.iter().map(LockedPackage::reference).collect();
        references.sort();
        let set = Set {
            name: (*name).into(),
            profile: A.into(),
            date: 1_700_000_000,
            snapshots: BTreeMap::new(),
            packages: references,
        };
        lock.sets.insert((*name).into(), set);
        lock.packages.extend(packages.into_iter().map(|p| (p.reference(), p)));
    }
    lock.releases.push(Release {
        repository: "main".into(),
        suite: "trixie".into(),
        sha256: A.into(),
        date: 1_700_000_000,
        signer: "F00D".into(),
        snapshot: None,
    });
    lock
}

fn parse(text: &str) -> Result<Lock, LockError> {
    file::parse(text, Path::new("ingot.lock"))
}

#[test]
fn the_file_is_readable_stable_and_reads_back() {
    let lock = lock_of(&[("b", &[("dpkg", "1"), ("apt", "2")]), ("a", &[("dpkg", "1")])]);
    insta::assert_snapshot!(lock.to_text().replace(A, "aa…"));
    assert_eq!(parse(&lock.to_text()).unwrap().to_text(), lock.to_text());
    let set = lock.set("b").unwrap();
    assert_eq!(set.package("apt").unwrap().version, "2");
    assert_eq!(set.package("none"), None);
    set.check(A).unwrap();
    let text = set.check("other").unwrap_err().to_string();
    assert!(text.starts_with("the lock is older than the profile of `b`"), "{text}");
    let text = lock.set("c").unwrap_err().to_string();
    assert_eq!(text, "`c` is not in the lock, which has a, b; add it with `ingot lock`");
}

#[test]
fn edits_that_break_it_are_found_with_their_line() {
    let text = lock_of(&[("b", &[("dpkg", "1"), ("apt", "2")])]).to_text();
    let message = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        parse(&text.replacen(from, to, 1)).unwrap_err().to_string()
    };
    let line_of = |needle: &str| text.lines().position(|l| l.contains(needle)).unwrap() + 1;
    let unknown = message("size = 7", "sise = 7");
    assert!(
        unknown.contains("unknown field `sise`") && unknown.starts_with(&format!("ingot.lock:{}:1:", line_of("size"))),
        "{unknown}"
    );
    let absent = message("\"dpkg=1:amd64@main\"", "\"dpkg=3:amd64@main\"");
    assert!(absent.contains("set `b` refers to dpkg=3:amd64@main, and there is no such [[package]]"), "{absent}");
    assert!(absent.starts_with(&format!("ingot.lock:{}:", line_of("\"dpkg=1:amd64@main\""))), "{absent}");
    let hex = message(A, "AAAA");
    assert!(hex.contains("`AAAA` is no SHA-256 in lower-case hex"), "{hex}");
    let outside = message("pool/dpkg_1.deb", "../../etc/passwd");
    assert!(outside.contains("leaves the repository"), "{outside}");
    assert!(message("version = 1", "version = 9").contains("this lock has version 9"));
    assert!(message("name = \"apt\"\nversion = \"2\"", "name = \"dpkg\"\nversion = \"1\"").contains("is there twice"));
    assert!(message("[[set]]", "[[sett]]").contains("unknown field"));
    assert!(message("size = 7", "size = -7").starts_with("ingot.lock:"));
    assert!(parse("").unwrap_err().to_string().contains("missing field `version`"));
    let absent = Lock::read(Path::new("/nonexistent/ingot.lock")).unwrap_err();
    assert!(matches!(absent, LockError::Absent { .. }));
}

#[test]
fn writing_replaces_the_file_in_one_step() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ingot.lock");
    std::fs::write(&path, "old").unwrap();
    let lock = lock_of(&[("a", &[("dpkg", "1")])]);
    lock.write(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), lock.to_text());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    assert!(matches!(lock.write(&directory.path().join("no/where")), Err(LockError::Io { action: "write", .. })));
}

#[test]
fn updating_keeps_other_sets_and_drops_what_nothing_uses() {
    let old = lock_of(&[("a", &[("dpkg", "1"), ("gone", "1")]), ("b", &[("apt", "1")])]);
    let new = lock_of(&[("a", &[("dpkg", "2")])]);
    let updated = old.updated(new);
    assert_eq!(updated.set_names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(updated.packages.keys().collect::<Vec<_>>(), ["apt=1:amd64@main", "dpkg=2:amd64@main"]);
    assert_eq!(updated.releases.len(), 1);
    assert_eq!(updated.without("b").set_names().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn that_an_archive_was_signed_anew_is_no_change() {
    let old = lock_of(&[("a", &[("dpkg", "1")]), ("b", &[("dpkg", "1"), ("apt", "1")])]);
    let later = |mut lock: Lock| {
        lock.releases[0].date += 86_400;
        lock.releases[0].sha256 = "b".repeat(64);
        lock.sets.values_mut().for_each(|set| set.date += 86_400);
        lock
    };
    assert_eq!(old.clone().updated(later(old.clone())), old);
    // A set that did not change keeps its date, and so its images.
    let new = later(lock_of(&[("a", &[("dpkg", "1")]), ("b", &[("dpkg", "1"), ("apt", "2")])]));
    let updated = old.clone().updated(new);
    assert_eq!(updated.set("a").unwrap(), old.set("a").unwrap());
    assert_eq!(updated.set("b").unwrap().date, old.set("b").unwrap().date + 86_400);
    assert_eq!(updated.releases[0].date, old.releases[0].date + 86_400);
    // Other inputs are a change, even where they lead to the same packages.
    let mut new = later(old.clone());
    new.sets.get_mut("a").unwrap().profile = "c".repeat(64);
    assert!(old.clone().updated(new) != old);
}

#[test]
fn differences_are_told_by_package_with_what_matters_first() {
    let before = [
        ("dpkg", "1"),
        ("gone", "1"),
        ("linux-image-6.12.1-amd64", "6.12.1-1"),
        ("linux-modules-nvidia-570-server-6.8.0-51-generic", "6.8.0-51.52"),
        ("docker.io", "27"),
        ("zlib", "2"),
    ];
    let after = [
        ("dpkg", "1"),
        ("linux-image-6.12.9-amd64", "6.12.9-1"),
        ("linux-modules-nvidia-580-server-6.8.0-52-generic", "6.8.0-52.53"),
        ("docker.io", "28~rc"),
        ("zlib", "1"),
        ("fresh", "1"),
    ];
    let old = lock_of(&[("a", &before), ("b", &before), ("c", &before[..1]), ("removed", &[("apt", "1")])]);
    let mut new = lock_of(&[("a", &after), ("b", &after[..5]), ("c", &after[..1]), ("new", &after)]);
    new.packages.get_mut("fresh=1:amd64@main").unwrap().installed_size = 2048;
    let found = diff(&old, &new);
    insta::assert_snapshot!(found.to_string(), @r"
    kernel
      linux-image-6.12.1-amd64 -> linux-image-6.12.9-amd64  6.12.1-1 -> 6.12.9-1  [a, b]
      linux-image-6.12.9-amd64  6.12.9-1 (new)  [new]
    driver
      linux-modules-nvidia-570-server-6.8.0-51-generic -> linux-modules-nvidia-580-server-6.8.0-52-generic  6.8.0-51.52 -> 6.8.0-52.53  [a, b]
      linux-modules-nvidia-580-server-6.8.0-52-generic  6.8.0-52.53 (new)  [new]
    docker
      docker.io  27 -> 28~rc  [a, b]
      docker.io  28~rc (new)  [new]
    new (1)
      fresh  1  [a]
    removed (1)
      gone  1  [a, b]
    downgraded (1)
      zlib  2 -> 1  [a, b]
    sets
      a: 6 of 6 packages changed, installed +2.0 MiB (2.0 MiB)
      b: 5 of 5 packages changed, installed 0.0 MiB
      new: new, 6 packages, installed 2.0 MiB
      removed: removed
    download 0.1 MiB, installed +2.0 MiB (2.0 MiB)
    ");
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["docker"][0]["kind"], "upgraded");
    assert_eq!(json["docker"][0]["from"]["version"], "27");
    assert_eq!(json["docker"][0]["sets"], serde_json::json!(["a", "b"]));
    assert_eq!(json["download"], 35);
    assert!(diff(&new, &new).is_empty());
    let before = new.clone();
    new.packages.get_mut("zlib=1:amd64@main").unwrap().sha256 = "b".repeat(64);
    let text = diff(&before, &new).to_string();
    assert!(text.contains("zlib  1, other content under the same version"), "{text}");
}

#[test]
fn a_change_without_a_package_is_told_too() {
    let old = lock_of(&[("a", &[("dpkg", "1")]), ("b", &[("dpkg", "1")])]);
    let mut new = old.clone();
    let set = new.sets.get_mut("a").unwrap();
    set.profile = "c".repeat(64);
    set.snapshots.insert("main".into(), "20261101T000000Z".parse().unwrap());
    new.releases[0].date -= 60;
    assert_eq!(
        diff(&old, &new).to_string(),
        "sets\n  a: the same 1 packages, main at 20261101T000000Z, the profile asks differently\n\
         older than before: main trixie\ndownload 0.0 MiB, installed 0.0 MiB\n"
    );
    let back = diff(&new, &old);
    assert_eq!(back.sets[0].moments, ["main at present"]);
    assert!(back.gone_back.is_empty() && !back.is_empty());
}

#[test]
fn only_what_is_missing_is_fetched_and_asks_for_its_mirror() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut set = lock_of(&[("a", &[("dpkg", "1"), ("g++", "1:2~x")])]).set("a").unwrap();
    set.packages[0].sha256 = store.put(&mut &b"present"[..]).unwrap();
    let mut asked = Vec::new();
    let fetches = set
        .fetches(&store, |repository| {
            asked.push(repository.to_owned());
            Ok::<_, LockError>("http://m.invalid/d".into())
        })
        .unwrap();
    assert_eq!(asked, ["main"]);
    assert_eq!(fetches.len(), 1);
    assert_eq!(fetches[0].urls, ["http://m.invalid/d/pool/g++_1:2~x.deb"]);
}

proptest::proptest! {
    #[test]
    fn reading_never_panics(at in 0usize..900, with in "\\PC{0,3}", cut in 0usize..4) {
        let mut text: Vec<char> = lock_of(&[("b", &[("dpkg", "1"), ("apt", "2")])]).to_text().chars().collect();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, with.chars());
        let _ = parse(&text.into_iter().collect::<String>());
    }
}
