//! Where a repository is fetched from.
//!
//! In this order: `--mirror NAME=URL`, the environment's `INGOT_MIRROR_<NAME>`, the host's own apt sources where
//! they serve the same archive of the same distribution, the URL in the profile. No mirror is named in
//! the program. Which mirror is used has no influence on the result: everything fetched is verified.
//!
//! A snapshot is another place: the profile's `snapshot_url`, or one of the first two with `${snapshot}` in it. The
//! host's own sources are of the present and are not asked for it.

use std::collections::BTreeMap;
use std::path::Path;

use super::ArchiveError;
use super::apt_sources::{self, Source};
use crate::profile::snapshot::VARIABLE;
use crate::profile::{HostMirror, Repository, Snapshot};

/// Suites that belong to a distribution, without their pocket (`-updates`, `-security`, …).
const SUITES: [(&str, &[&str]); 2] = [
    (
        "debian",
        &[
            "stable",
            "oldstable",
            "testing",
            "unstable",
            "sid",
            "experimental",
            "bullseye",
            "bookworm",
            "trixie",
            "forky",
            "duke",
        ],
    ),
    ("ubuntu", &["focal", "jammy", "noble", "oracular", "plucky", "questing", "resolute", "stonking", "devel"]),
];

/// What is known about mirrors.
#[derive(Debug, Clone)]
pub struct Mirrors {
    /// URL by repository name, from the command line.
    pub overrides: BTreeMap<String, String>,
    /// `INGOT_MIRROR_*` of the environment.
    environment: BTreeMap<String, String>,
    /// The host's apt sources.
    sources: Vec<Source>,
    /// `ID` of the host's os-release; empty where it has none.
    host: String,
}

impl Mirrors {
    /// Takes the environment of this process and the apt configuration of this host.
    pub fn new(overrides: BTreeMap<String, String>) -> Self {
        Self::with_host(
            overrides,
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
            Path::new("/"),
        )
    }

    /// As [`Mirrors::new`], with another environment, and with the host's configuration below `root`.
    pub fn with_host(
        overrides: BTreeMap<String, String>,
        environment: impl IntoIterator<Item = (String, String)>,
        root: &Path,
    ) -> Self {
        let os_release = std::fs::read_to_string(root.join("etc/os-release"))
            .or_else(|_| std::fs::read_to_string(root.join("usr/lib/os-release")))
            .unwrap_or_default();
        let id = os_release.lines().find_map(|l| l.strip_prefix("ID=")).unwrap_or_default();
        Self {
            overrides,
            environment: environment.into_iter().filter(|(k, _)| k.starts_with("INGOT_MIRROR_")).collect(),
            sources: apt_sources::read(root),
            host: id.trim_matches(['"', '\'', ' ']).to_owned(),
        }
    }

    /// The URL below which `dists/` and `pool/` of the repository lie at its moment, without a slash at its end.
    pub fn resolve(&self, repository: &Repository) -> Result<String, ArchiveError> {
        if let Some(snapshot) = &repository.snapshot {
            return self.resolve_snapshot(repository, snapshot);
        }
        // A URL of snapshots says nothing about the present.
        if let Some((url, origin)) = self.given(repository).filter(|(url, _)| !url.contains(VARIABLE)) {
            return checked(repository, url, &origin);
        }
        if let Some(url) = repository.host_mirror.as_ref().and_then(|wanted| self.host_mirror_url(wanted)) {
            return Ok(url);
        }
        if let Some(url) = &repository.url {
            return checked(repository, url, "the profile");
        }
        let wanted = repository.host_mirror.as_ref().map(|m| format!("archive `{}` of {}", m.archive, m.distribution));
        let variable = variable_name(&repository.name);
        Err(ArchiveError::NoMirror { repository: repository.name.clone(), wanted, variable })
    }

    fn resolve_snapshot(&self, repository: &Repository, snapshot: &Snapshot) -> Result<String, ArchiveError> {
        let (url, origin) = match (self.given(repository), &repository.snapshot_url) {
            (Some(given), _) => given,
            (None, Some(url)) => (url.as_str(), "the profile".to_owned()),
            (None, None) => {
                let (repository, snapshot) = (repository.name.clone(), snapshot.clone());
                return Err(ArchiveError::NoSnapshots { repository, snapshot });
            }
        };
        if !url.contains(VARIABLE) {
            return Err(ArchiveError::MirrorWithoutSnapshots {
                repository: repository.name.clone(),
                snapshot: snapshot.clone(),
                origin,
                url: url.to_owned(),
            });
        }
        checked(repository, &url.replace(VARIABLE, snapshot.id()), &origin)
    }

    /// The URL that the command line or the environment gives, and how it was given.
    fn given(&self, repository: &Repository) -> Option<(&str, String)> {
        let variable = variable_name(&repository.name);
        if let Some(url) = self.overrides.get(&repository.name) {
            return Some((url, format!("--mirror {}=", repository.name)));
        }
        self.environment.get(&variable).map(|url| (url.as_str(), format!("{variable}=")))
    }

    /// The host's mirror of an archive. Of several, the one whose path is nothing but the archive's name goes
    /// first: that is how distributions' mirrors look, while `…/linux/debian` is some vendor's repository.
    fn host_mirror_url(&self, wanted: &HostMirror) -> Option<String> {
        let of_archive = |archive: &str| {
            let end = format!("/{archive}");
            let matching = self.sources.iter().filter(|source| {
                let fetched = source.uri.starts_with("http://") || source.uri.starts_with("https://");
                fetched && source.uri.ends_with(&end) && self.is_of(source, &wanted.distribution)
            });
            matching.min_by_key(|source| source.uri.split('/').count()).map(|source| source.uri.clone())
        };
        of_archive(&wanted.archive).or_else(|| {
            // Mirrors carry `debian-security` beside `debian`; a host that has switched its own security
            // source off still says by the latter where both are.
            let main = of_archive("debian").filter(|_| wanted.archive == "debian-security")?;
            Some(format!("{main}-security"))
        })
    }

    fn is_of(&self, source: &Source, distribution: &str) -> bool {
        if !source.components.iter().any(|c| c == "main") {
            return false;
        }
        let known = |name: &str| SUITES.iter().find(|(d, _)| *d == name).map_or(&[][..], |(_, suites)| suites);
        let base = |suite: &str| suite.split(['-', '/']).next().unwrap_or_default().to_owned();
        let of = |name: &str| source.suites.iter().any(|s| known(name).contains(&base(s).as_str()));
        of(distribution) || (self.host == distribution && !SUITES.iter().any(|(d, _)| *d != distribution && of(d)))
    }
}

/// `INGOT_MIRROR_<NAME>`: upper case, with `_` for everything that a variable's name cannot have.
pub fn variable_name(repository: &str) -> String {
    let name = repository.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    format!("INGOT_MIRROR_{}", name.collect::<String>())
}

fn checked(repository: &Repository, url: &str, origin: &str) -> Result<String, ArchiveError> {
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    if host
        .is_none_or(|h| h.is_empty() || h.starts_with('/') || h.contains(|c: char| c.is_whitespace() || c.is_control()))
    {
        return Err(ArchiveError::BadMirror {
            repository: repository.name.clone(),
            url: url.to_owned(),
            origin: origin.to_owned(),
        });
    }
    Ok(url.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(archive: &str, url: Option<&str>) -> Repository {
        Repository {
            name: "debian-13".into(),
            url: url.map(Into::into),
            host_mirror: Some(HostMirror { distribution: "debian".into(), archive: archive.into() }),
            suites: vec!["trixie".into()],
            components: vec!["main".into()],
            keyring: "/k".into(),
            priority: 500,
            snapshot: None,
            snapshot_url: None,
        }
    }

    fn host(id: &str, sources: &[(&str, &str)]) -> (tempfile::TempDir, Mirrors) {
        let dir = tempfile::tempdir().unwrap();
        let apt = dir.path().join("etc/apt/sources.list.d");
        std::fs::create_dir_all(&apt).unwrap();
        std::fs::write(dir.path().join("etc/os-release"), format!("NAME=x\nID={id}\n")).unwrap();
        for (name, text) in sources {
            std::fs::write(apt.join(name), text).unwrap();
        }
        let mirrors = Mirrors::with_host(BTreeMap::new(), [], dir.path());
        (dir, mirrors)
    }

    const SOURCES: &str = "Types: deb\nURIs: http://vendor.invalid/linux/debian\nSuites: bookworm\nComponents: stable\n\n\
        Types: deb\nURIs: http://vendor.invalid/tools/debian\nSuites: bookworm\nComponents: main\n\n\
        Types: deb\nURIs: http://near.invalid/debian/\nSuites: bookworm bookworm-updates\nComponents: main\n";

    #[test]
    fn the_hosts_own_mirror_is_found_and_vendors_are_not_taken_for_it() {
        let (_dir, mirrors) = host("debian", &[("debian.sources", SOURCES)]);
        assert_eq!(mirrors.resolve(&repository("debian", None)).unwrap(), "http://near.invalid/debian");
        assert_eq!(
            mirrors.resolve(&repository("debian-security", None)).unwrap(),
            "http://near.invalid/debian-security"
        );
    }

    #[test]
    fn overrides_come_first_then_the_environment_then_the_host_then_the_profile() {
        let (dir, mut mirrors) = host("debian", &[("debian.sources", SOURCES)]);
        let repository = repository("debian", Some("http://profile.invalid/debian"));
        assert_eq!(mirrors.resolve(&repository).unwrap(), "http://near.invalid/debian");
        let variable = ("INGOT_MIRROR_DEBIAN_13".to_owned(), "http://env.invalid/d/".to_owned());
        mirrors = Mirrors::with_host(BTreeMap::new(), [variable], dir.path());
        assert_eq!(mirrors.resolve(&repository).unwrap(), "http://env.invalid/d");
        mirrors.overrides.insert("debian-13".into(), "http://option.invalid/d".into());
        assert_eq!(mirrors.resolve(&repository).unwrap(), "http://option.invalid/d");
        let (_dir, bare) = host("fedora", &[]);
        assert_eq!(bare.resolve(&repository).unwrap(), "http://profile.invalid/debian");
    }

    #[test]
    fn snapshots_come_from_where_they_are_and_from_no_mirror_of_the_present() {
        let (dir, mut mirrors) = host("debian", &[("debian.sources", SOURCES)]);
        let mut repository = repository("debian", Some("http://profile.invalid/debian"));
        repository.snapshot = Some("20261101T000000Z".parse().unwrap());
        let text = mirrors.resolve(&repository).unwrap_err().to_string();
        assert!(text.contains("snapshot 20261101T000000Z of repository `debian-13`"), "{text}");
        assert!(text.contains("it has no `snapshot_url`; give it one in the profile, with ${snapshot}"), "{text}");
        repository.snapshot_url = Some("https://past.invalid/debian/${snapshot}/".into());
        assert_eq!(mirrors.resolve(&repository).unwrap(), "https://past.invalid/debian/20261101T000000Z");
        let variable = |url: &str| [("INGOT_MIRROR_DEBIAN_13".to_owned(), url.to_owned())];
        mirrors = Mirrors::with_host(BTreeMap::new(), variable("http://env.invalid/d"), dir.path());
        let text = mirrors.resolve(&repository).unwrap_err().to_string();
        assert!(text.contains("INGOT_MIRROR_DEBIAN_13=http://env.invalid/d has no ${snapshot} in it"), "{text}");
        mirrors = Mirrors::with_host(BTreeMap::new(), variable("http://env.invalid/${snapshot}/d"), dir.path());
        assert_eq!(mirrors.resolve(&repository).unwrap(), "http://env.invalid/20261101T000000Z/d");
        // It is no mirror of the present.
        repository.snapshot = None;
        assert_eq!(mirrors.resolve(&repository).unwrap(), "http://near.invalid/debian");
    }

    #[test]
    fn a_foreign_host_serves_only_suites_it_is_known_for() {
        let ubuntu = "deb http://u.invalid/ubuntu noble main\ndeb http://d.invalid/debian trixie main\n";
        let (_dir, mirrors) = host("ubuntu", &[("a.list", ubuntu)]);
        assert_eq!(mirrors.resolve(&repository("debian", None)).unwrap(), "http://d.invalid/debian");
        let (_dir, other) = host("mint", &[("a.list", "deb http://m.invalid/debian virginia main\n")]);
        let error = other.resolve(&repository("debian", None)).unwrap_err().to_string();
        assert!(error.contains("--mirror debian-13=URL") && error.contains("INGOT_MIRROR_DEBIAN_13"), "{error}");
    }

    #[test]
    fn a_mirror_list_is_followed_and_a_bad_url_is_refused() {
        let (dir, _) = host("debian", &[]);
        std::fs::create_dir_all(dir.path().join("etc/apt/mirrors")).unwrap();
        std::fs::write(dir.path().join("etc/apt/mirrors/debian.list"), "http://cloud.invalid/debian\n").unwrap();
        std::fs::write(
            dir.path().join("etc/apt/sources.list"),
            "deb mirror+file:///etc/apt/mirrors/debian.list trixie main\n",
        )
        .unwrap();
        let mut mirrors = Mirrors::with_host(BTreeMap::new(), [], dir.path());
        assert_eq!(mirrors.resolve(&repository("debian", None)).unwrap(), "http://cloud.invalid/debian");
        mirrors.overrides.insert("debian-13".into(), "ftp://x".into());
        assert!(matches!(mirrors.resolve(&repository("debian", None)), Err(ArchiveError::BadMirror { .. })));
    }
}
