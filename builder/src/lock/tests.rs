use super::*;
use crate::archive::index::Access;
use crate::archive::mirror::Mirrors;
use crate::profile::{HostMirror, Repository};
use crate::progress::Silent;
use crate::solve::Request;

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

#[test]
fn a_real_archive_is_locked_and_again_offline_to_the_same_bytes() {
    let Some((repositories, mirrors)) = debian_13() else { return };
    let dir = std::env::var_os("INGOT_TEST_STORE").map(PathBuf::from);
    let temporary = tempfile::tempdir().unwrap();
    let store = Store::open(dir.as_deref().unwrap_or(temporary.path())).unwrap();
    let set = SetRequest {
        name: "worker@debian-13".into(),
        request: Request {
            include: ["linux-image-amd64", "systemd", "docker.io"].map(str::to_owned).into(),
            include_essential: true,
            ..Request::default()
        },
        repositories: vec!["debian-13-security".into(), "debian-13".into()],
    };
    let snapshots = BTreeSet::new();
    let mut access = Access {
        store: &store,
        mirrors: &mirrors,
        architecture: "amd64",
        now: now(),
        snapshots: &snapshots,
        offline: false,
        jobs: 8,
        progress: &Silent,
    };
    let sets = [set];
    let started = std::time::Instant::now();
    let lock = match resolve(&sets, Context { repositories: &repositories, access }) {
        Err(LockError::Archive(ArchiveError::Store(e))) => {
            println!("skipped: the archive cannot be reached: {e}");
            return;
        }
        other => other.unwrap(),
    };
    println!("locked in {:?}", started.elapsed());
    let set = lock.set("worker@debian-13").unwrap();
    println!("{} packages", set.packages.len());
    assert!(set.packages.len() > 100 && set.package("docker.io").is_some());
    assert_eq!(lock.releases().len(), 3);
    access.offline = true;
    let started = std::time::Instant::now();
    let again = resolve(&sets, Context { repositories: &repositories, access }).unwrap();
    println!("again, offline, in {:?}", started.elapsed());
    assert_eq!(lock, again);
    let path = temporary.path().join("ingot.lock");
    lock.write(&path).unwrap();
    assert_eq!(Lock::read(&path).unwrap(), lock);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), lock.to_text());
}
