use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::super::test_archive::{NOW, TestArchive, gz, xz, zst};
use super::*;
use crate::progress::Silent;
use crate::store::http::{Client, Retries};
use crate::store::test_server::Server;

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
    snapshots: BTreeSet<String>,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let retries = Retries { attempts: 2, base: Duration::ZERO, cap: Duration::ZERO, patience: Duration::ZERO };
        let client = Client::with(retries, Duration::from_secs(5));
        let store = Store::open(directory.path()).unwrap().with_client(client);
        Self { _directory: directory, store, snapshots: BTreeSet::new() }
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
            snapshots: &self.snapshots,
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
