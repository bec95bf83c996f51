use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::test_archive::{NOW, TestArchive, gz, xz, zst};
use super::*;
use crate::progress::Silent;
use crate::store::http::{Client, Retries};
use crate::store::test_server::{Reply, Server};

const HEAD: &str = "Architectures: amd64 arm64\nComponents: main universe\n";

fn packages(name: &str) -> Vec<u8> {
    let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let stanza = |arch: &str| {
        format!(
            "Package: {name}\nVersion: 1\nArchitecture: {arch}\nFilename: pool/{name}.deb\nSize: 3\nSHA256: {digest}\n\n"
        )
    };
    format!("{}{}", stanza("amd64"), stanza("arm64")).into_bytes()
}

type Pack = fn(&[u8]) -> Vec<u8>;

struct Fixture {
    _directory: tempfile::TempDir,
    store: Store,
    history: History,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let retries = Retries { attempts: 2, base: Duration::ZERO, cap: Duration::ZERO, patience: Duration::ZERO };
        let client = Client::with(retries, Duration::from_secs(5));
        let store = Store::open(directory.path()).unwrap().with_client(client);
        Self { _directory: directory, store, history: History::default() }
    }

    /// Names of the packages in each suite.
    fn load(&self, repositories: &[&Repository], server: Option<&Server>) -> Result<Vec<Vec<String>>, ArchiveError> {
        let overrides: BTreeMap<String, String> =
            server.iter().flat_map(|s| repositories.iter().map(|r| (r.name.clone(), s.url("")))).collect();
        let mirrors = Mirrors::with_host(overrides, [], Path::new("/nonexistent"));
        let access = Access {
            store: &self.store,
            mirrors: &mirrors,
            architecture: "amd64",
            now: NOW,
            history: &self.history,
            offline: server.is_none(),
            jobs: 4,
            progress: &Silent,
        };
        let suites = load(repositories, access)?;
        suites.iter().map(|s| Ok(s.packages("amd64")?.iter().map(|p| p.name.to_owned()).collect())).collect()
    }
}

#[test]
fn every_form_of_index_is_read_and_kept_for_working_offline() {
    let mut archive = TestArchive::new();
    let forms: [(&str, Pack); 4] = [("xz", xz), ("zst", zst), ("gz", gz), ("", <[u8]>::to_vec)];
    let mut repositories = Vec::new();
    for (n, (suffix, pack)) in forms.into_iter().enumerate() {
        let suite = format!("suite{n}");
        let dot = if suffix.is_empty() { "" } else { "." };
        let plain = packages(&format!("main{n}"));
        let path = format!("main/binary-amd64/Packages{dot}{suffix}");
        let universe = pack(&packages(&format!("universe{n}")));
        let other = format!("universe/binary-amd64/Packages{dot}{suffix}");
        // The plain form is listed in half of the cases, as real archives do; where it is, only its hash counts.
        let mut indexes = vec![(path.as_str(), pack(&plain)), (other.as_str(), universe)];
        if n == 0 {
            indexes.push(("main/binary-amd64/Packages", plain));
        }
        archive.add_suite(&format!("dists/{suite}/"), HEAD, &indexes, n % 2 == 0);
        repositories.push(archive.repository(&format!("r{n}"), &[&suite], &["main", "universe"]));
    }
    archive.files.remove("dists/suite0/main/binary-amd64/Packages");
    let fixture = Fixture::new();
    let server = archive.serve();
    let all: Vec<&Repository> = repositories.iter().collect();
    let expected: Vec<Vec<String>> = (0..4).map(|n| vec![format!("main{n}"), format!("universe{n}")]).collect();
    assert_eq!(fixture.load(&all, Some(&server)).unwrap(), expected);
    let before = server.asked().len();
    assert_eq!(fixture.load(&all, Some(&server)).unwrap(), expected);
    assert_eq!(server.asked().len(), before + 4, "only the release files are fetched again");
    assert_eq!(fixture.load(&all, None).unwrap(), expected);
    let stranger = archive.repository("r9", &["suite0"], &["main"]);
    let error = fixture.load(&[&stranger], None).unwrap_err().to_string();
    assert_eq!(error, "r9 suite0 is not in the store and --offline forbids fetching it; run once without --offline");
}

#[test]
fn flat_repositories_have_no_components() {
    let mut archive = TestArchive::new();
    archive.add_suite("", "", &[("Packages.gz", gz(&packages("driver")))], false);
    archive.add_suite("amd64/", "", &[("./Packages", packages("toolkit"))], false);
    archive.files.insert("amd64/Packages".into(), packages("toolkit"));
    let repository = archive.repository("flat", &["/", "amd64/"], &[]);
    let loaded = Fixture::new().load(&[&repository], Some(&archive.serve())).unwrap();
    assert_eq!(loaded, [["driver"], ["toolkit"]]);
}

#[test]
fn packages_for_all_are_fetched_where_the_archive_keeps_them_apart() {
    let mut archive = TestArchive::new();
    let all = String::from_utf8(packages("shared")).unwrap().replace("amd64", "all").into_bytes();
    let indexes = [("main/binary-amd64/Packages", packages("own")), ("main/binary-all/Packages", all)];
    archive.add_suite("dists/apart/", "Architectures: all amd64\nComponents: main\n", &indexes, false);
    archive.add_suite("dists/within/", HEAD, &indexes, false);
    let repository = archive.repository("r", &["apart", "within"], &["main"]);
    let loaded = Fixture::new().load(&[&repository], Some(&archive.serve())).unwrap();
    assert_eq!(loaded[0], ["own", "shared"]);
    assert_eq!(loaded[1], ["own"]);
}

#[test]
fn release_with_a_detached_signature_is_taken_where_there_is_no_inrelease() {
    let mut archive = TestArchive::new();
    let missing = archive.repository("r", &["gone"], &["main"]);
    let error = Fixture::new().load(&[&missing], Some(&archive.serve())).unwrap_err().to_string();
    assert!(error.contains("cannot fetch the release file of r gone") && error.contains("404"), "{error}");
    // A Release without its signature is not looked into.
    archive.files.insert("dists/gone/Release".into(), b"Origin: Evil\n".to_vec());
    assert!(Fixture::new().load(&[&missing], Some(&archive.serve())).is_err());
}

/// An archive with one suite whose main index comes as given, and what loading it says.
fn failing(change: impl Fn(&mut TestArchive)) -> String {
    let mut archive = TestArchive::new();
    let plain = packages("a").repeat(50);
    let indexes = [("main/binary-amd64/Packages", plain.clone()), ("main/binary-amd64/Packages.xz", xz(&plain))];
    archive.add_suite("dists/s/", HEAD, &indexes, false);
    change(&mut archive);
    let repository = archive.repository("r", &["s"], &["main"]);
    Fixture::new().load(&[&repository], Some(&archive.serve())).unwrap_err().to_string()
}

#[test]
fn an_index_that_is_not_what_the_release_promises_is_refused() {
    let path = "dists/s/main/binary-amd64/Packages.xz";
    let text = failing(|a| a.files.get_mut(path).unwrap()[40] ^= 1);
    assert!(text.contains("Packages.xz of r s") && text.contains("its SHA-256 is"), "{text}");
    let text = failing(|a| drop(a.files.insert(path.into(), b"short".to_vec())));
    assert!(text.contains("it has 5 bytes instead of"), "{text}");
    let text = failing(|a| drop(a.files.remove(path)));
    assert!(text.contains("404 Not Found"), "{text}");
}

#[test]
fn an_index_that_uncompresses_to_more_or_to_something_else_is_refused() {
    let with = |plain: &[u8], packed: Vec<u8>| {
        failing(|archive| {
            let indexes =
                [("main/binary-amd64/Packages", plain.to_vec()), ("main/binary-amd64/Packages.xz", packed.clone())];
            archive.add_suite("dists/s/", HEAD, &indexes, false);
        })
    };
    let text = with(&packages("a").repeat(50), xz(&vec![b'\n'; 10 << 20]));
    assert!(text.contains("more than is plausible"), "{text}");
    let text = with(&packages("a").repeat(50), xz(&packages("b").repeat(50)));
    assert!(text.contains("uncompressed, its SHA-256 is"), "{text}");
    let text = with(&packages("a").repeat(50), b"no xz at all".to_vec());
    assert!(text.contains("index main/binary-amd64/Packages of r s"), "{text}");
    let text = with(&[0xff; 5000], xz(&[0xff; 5000]));
    assert!(text.contains("not UTF-8"), "{text}");
}

#[test]
fn what_the_profile_asks_for_must_be_listed() {
    let mut archive = TestArchive::new();
    archive.add_suite(
        "dists/s/",
        "Architectures: arm64\nComponents: main\n",
        &[("main/binary-arm64/Packages", packages("a"))],
        false,
    );
    archive.add_suite("dists/t/", HEAD, &[("main/binary-amd64/Packages.lzma", packages("a"))], false);
    let server = archive.serve();
    let load = |suite: &str, component: &str| {
        let repository = archive.repository("r", &[suite], &[component]);
        Fixture::new().load(&[&repository], Some(&server)).unwrap_err().to_string()
    };
    assert_eq!(load("s", "main"), "r s has no architecture `amd64`; it has arm64");
    assert_eq!(load("t", "extra"), "r t has no component `extra`; it has main, universe");
    assert!(load("t", "main").contains("lists no main/binary-amd64/Packages in a form that can be read"));
}

#[test]
fn suites_are_directories_and_flat_ones_are_paths() {
    assert_eq!(directory("trixie"), "dists/trixie/");
    assert_eq!(directory("trixie-security/updates"), "dists/trixie-security/updates/");
    assert_eq!(directory("/"), "");
    assert_eq!(directory("./"), "");
    assert_eq!(directory("amd64/"), "amd64/");
    assert_eq!(escape("../x y"), "%2e%2e%2fx%20y");
}

const INDEX: &str = "main/binary-amd64/Packages";

/// An archive of one suite `s` with this date and package.
fn dated(archive: &mut TestArchive, place: &str, date: &str, package: &str) {
    let head = format!("{HEAD}Valid-Until: Fri, 02 Jan 2026 12:00:00 UTC\n");
    archive.add_dated_suite(&format!("{place}dists/s/"), date, &head, &[(INDEX, packages(package))], false);
}

#[test]
fn an_archive_does_not_go_back_in_time_unasked() {
    let (monday, tuesday) = ("Mon, 29 Dec 2025 12:00:00 UTC", "Tue, 30 Dec 2025 12:00:00 UTC");
    let mut archive = TestArchive::new();
    let repository = archive.repository("r", &["s"], &["main"]);
    let mut fixture = Fixture::new();
    dated(&mut archive, "", tuesday, "new");
    fixture.load(&[&repository], Some(&archive.serve())).unwrap();
    dated(&mut archive, "", monday, "old");
    let back = archive.serve();
    let text = fixture.load(&[&repository], Some(&back)).unwrap_err().to_string();
    let dates =
        "r s is dated Mon, 29 Dec 2025 12:00:00 GMT, and the one that this host saw last Tue, 30 Dec 2025 12:00:00 GMT";
    assert!(text.starts_with(dates), "{text}");
    assert!(text.contains("--mirror r=URL") && text.contains("--allow-rollback"), "{text}");
    // What was known stays known.
    assert_eq!(fixture.load(&[&repository], None).unwrap(), [["new"]]);
    fixture.history.allow_rollback = true;
    assert_eq!(fixture.load(&[&repository], Some(&back)).unwrap(), [["old"]]);
    // Accepted once, it is what was seen last.
    fixture.history.allow_rollback = false;
    assert_eq!(fixture.load(&[&repository], Some(&back)).unwrap(), [["old"]]);
    // A lock knows it too, on a host that has seen nothing, and offline.
    fixture.history.locked.insert(("r".into(), "s".into()), NOW - 86_400);
    for server in [Some(&back), None] {
        let text = fixture.load(&[&repository], server).unwrap_err().to_string();
        assert!(text.contains("and the one that the lock was made from Wed, 31 Dec 2025 00:00:00 GMT"), "{text}");
    }
    let other = archive.repository("other", &["s"], &["main"]);
    assert_eq!(fixture.load(&[&other], Some(&back)).unwrap(), [["old"]]);
}

#[test]
fn a_snapshot_is_another_place_with_dates_of_its_own() {
    let mut archive = TestArchive::new();
    let mut repository = archive.repository("r", &["s"], &["main"]);
    dated(&mut archive, "", "Wed, 31 Dec 2025 12:00:00 UTC", "new");
    dated(&mut archive, "20251224T000000Z/", "Tue, 23 Dec 2025 12:00:00 UTC", "old");
    dated(&mut archive, "20251225T000000Z/", "Fri, 26 Dec 2025 12:00:00 UTC", "wrong");
    let server = archive.serve();
    let mut fixture = Fixture::new();
    let load = |fixture: &Fixture, repository: &Repository, now: u64, offline: bool| {
        let mut given = repository.clone();
        given.snapshot_url = Some(server.url("/${snapshot}"));
        given.url = Some(server.url(""));
        let mirrors = Mirrors::with_host(BTreeMap::new(), [], Path::new("/nonexistent"));
        let access = Access {
            store: &fixture.store,
            mirrors: &mirrors,
            architecture: "amd64",
            now,
            history: &fixture.history,
            offline,
            jobs: 4,
            progress: &Silent,
        };
        let suites = load(&[&given], access).map_err(|error| error.to_string())?;
        Ok::<_, String>(suites[0].packages("amd64").unwrap()[0].name.to_owned())
    };
    assert_eq!(load(&fixture, &repository, NOW, false).unwrap(), "new");
    repository.snapshot = Some("20251224T000000Z".parse().unwrap());
    // A year later it is as good as on its day, though it was valid for days only; the present is not.
    for now in [NOW, NOW + 365 * 86_400] {
        assert_eq!(load(&fixture, &repository, now, false).unwrap(), "old");
        assert_eq!(load(&fixture, &repository, now, true).unwrap(), "old");
    }
    let text = load(&fixture, &Repository { snapshot: None, ..repository.clone() }, NOW + 365 * 86_400, false);
    assert!(text.unwrap_err().contains("was valid until Fri, 02 Jan 2026"));
    // The option wins over the profile.
    fixture.history.snapshot = Some("20251225T000000Z".parse().unwrap());
    let text = load(&fixture, &repository, NOW, false).unwrap_err();
    assert!(text.contains("r s at 20251225T000000Z is dated Fri, 26 Dec 2025 12:00:00 GMT, which is after"), "{text}");
    fixture.history.snapshot = Some("20270101T000000Z".parse().unwrap());
    let text = load(&fixture, &repository, NOW, false).unwrap_err();
    assert!(text.contains("snapshot 20270101T000000Z of repository `r` lies in the future"), "{text}");
    // The signature of a snapshot counts like any other.
    fixture.history.snapshot = None;
    let stranger = TestArchive::new();
    let text = load(&fixture, &Repository { keyring: stranger.keyring(), ..repository }, NOW, false).unwrap_err();
    assert!(text.contains("none of which is in keyring"), "{text}");
    assert_eq!(load(&fixture, &archive.repository("r", &["s"], &["main"]), NOW, true).unwrap(), "new");
}

#[test]
fn a_mirror_in_the_middle_of_an_update_is_asked_again() {
    let (monday, tuesday) = ("Mon, 29 Dec 2025 12:00:00 UTC", "Tue, 30 Dec 2025 12:00:00 UTC");
    let mut archive = TestArchive::new();
    dated(&mut archive, "", monday, "old");
    let old = archive.files.clone();
    dated(&mut archive, "", tuesday, "new");
    let new = archive.files.clone();
    let repository = archive.repository("r", &["s"], &["main"]);
    // The index is replaced first, the release file after it has been asked for `late` times.
    let serve = |late: usize| {
        let (old, new, asked) = (old.clone(), new.clone(), AtomicUsize::new(0));
        Server::start(move |request| {
            let path = request.path.trim_start_matches('/');
            let late = path.ends_with("InRelease") && asked.fetch_add(1, Ordering::Relaxed) < late;
            match if late { old.get(path) } else { new.get(path) } {
                Some(content) => Reply::content(request, content),
                None => Reply::status(404),
            }
        })
    };
    assert_eq!(Fixture::new().load(&[&repository], Some(&serve(2))).unwrap(), [["new"]]);
    let server = serve(usize::MAX);
    let text = Fixture::new().load(&[&repository], Some(&server)).unwrap_err().to_string();
    assert!(text.contains("Packages of r s") && text.contains("SHA-256"), "{text}");
    assert!(text.contains("(tried 3 times)") && text.contains("in the middle of an update"), "{text}");
    assert_eq!(server.asked().iter().filter(|asked| asked.path.ends_with("InRelease")).count(), 3);
    // Where nothing answers, waiting for an update is of no use.
    let files = new.clone();
    let broken = Server::start(move |request| match files.get(request.path.trim_start_matches('/')) {
        Some(content) if request.path.ends_with("InRelease") => Reply::content(request, content),
        _ => Reply::status(503),
    });
    let text = Fixture::new().load(&[&repository], Some(&broken)).unwrap_err().to_string();
    assert!(text.contains("503 Service Unavailable (2 attempts)") && !text.contains("update"), "{text}");
}

#[test]
fn by_hash_gets_over_a_mirror_in_the_middle_of_an_update() {
    let mut archive = TestArchive::new();
    archive.add_suite("dists/s/", HEAD, &[(INDEX, packages("new"))], true);
    // Under its plain name there is still the old one.
    archive.files.insert(format!("dists/s/{INDEX}"), packages("old"));
    let repository = archive.repository("r", &["s"], &["main"]);
    let server = archive.serve();
    assert_eq!(Fixture::new().load(&[&repository], Some(&server)).unwrap(), [["new"]]);
    assert_eq!(server.asked().len(), 2);
}
