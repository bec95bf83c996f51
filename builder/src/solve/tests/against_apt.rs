//! The solver against `apt-get install --simulate` on the same indexes.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::super::*;
use crate::archive::history::History;
use crate::archive::index::{self, Access, Suite};
use crate::lock::tests::{debian_13, is_unreachable, now, test_store};
use crate::process::{ProcessError, Tool};
use crate::progress::Silent;

const SETS: [&[&str]; 7] = [
    &["systemd", "linux-image-amd64", "openssh-server", "containerd", "nftables", "exim4-daemon-light", "erofs-utils"],
    &["build-essential", "python3-dev", "default-jre"],
    &["docker.io", "qemu-system-x86", "libvirt-daemon-system"],
    &["gnome-core"],
    &["kde-plasma-desktop"],
    &["texlive-full"],
    &["docker.io", "linux-image-amd64", "systemd-boot", "openssh-server", "nvme-cli", "mdadm", "e2fsprogs"],
];

/// An apt that knows nothing but the given indexes and an empty system.
struct Apt {
    directory: tempfile::TempDir,
}

impl Apt {
    fn new(suites: &[Suite]) -> Result<Self, ProcessError> {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for path in ["etc/apt/preferences.d", "lists/partial", "cache/archives/partial", "dpkg"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        std::fs::write(root.join("dpkg/status"), "").unwrap();
        let mut sources = String::new();
        for (n, text) in suites.iter().flat_map(Suite::texts).enumerate() {
            let repository = root.join(format!("repository-{n}"));
            std::fs::create_dir(&repository).unwrap();
            std::fs::write(repository.join("Packages"), text).unwrap();
            writeln!(sources, "deb [trusted=yes] file:{} ./", repository.display()).unwrap();
        }
        std::fs::write(root.join("etc/apt/sources.list"), sources).unwrap();
        let configuration = format!(
            "Dir \"{0}\";\nDir::Etc \"{0}/etc/apt\";\nDir::Etc::Parts \"/nonexistent\";\nDir::State \"{0}\";\n\
             Dir::State::lists \"{0}/lists\";\nDir::State::status \"{0}/dpkg/status\";\nDir::Cache \"{0}/cache\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{\"amd64\";}};\nAPT::Sandbox::User \"root\";\n\
             Acquire::AllowInsecureRepositories \"true\";\nAcquire::Languages \"none\";\n\
             APT::Install-Recommends \"false\";\nAPT::Get::Always-Include-Phased-Updates \"true\";\n",
            root.display()
        );
        std::fs::write(root.join("apt.conf"), configuration).unwrap();
        let apt = Self { directory };
        apt.tool().arg("update").run()?;
        Ok(apt)
    }

    fn tool(&self) -> Tool {
        let configuration = self.directory.path().join("apt.conf");
        let path = std::env::var_os("PATH").unwrap();
        Tool::new("apt-get").environment([
            ("APT_CONFIG", configuration.as_os_str()),
            ("PATH", path.as_os_str()),
            ("LC_ALL", "C.UTF-8".as_ref()),
        ])
    }

    fn install(&self, names: &[&str]) -> BTreeSet<String> {
        let output = self.tool().args(["--simulate", "--no-install-recommends", "install"]).args(names).run().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let inst = text.lines().filter_map(|line| line.strip_prefix("Inst "));
        inst.map(|line| {
            let (name, rest) = line.split_once(' ').unwrap();
            let version = rest.trim_start_matches('(').split(' ').next().unwrap();
            format!("{name} {version}")
        })
        .collect()
    }
}

#[test]
fn chooses_what_apt_chooses() {
    let Some((repositories, mirrors)) = debian_13() else { return };
    let (_temporary, store) = test_store();
    let history = History::default();
    let access = Access {
        store: &store,
        mirrors: &mirrors,
        architecture: "amd64",
        now: now(),
        history: &history,
        offline: false,
        jobs: 8,
        progress: &Silent,
    };
    let suites = match index::load(&repositories.values().collect::<Vec<_>>(), access) {
        Ok(suites) => suites,
        Err(error) if is_unreachable(&error) => {
            println!("skipped: the archive cannot be reached: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let apt = match Apt::new(&suites) {
        Ok(apt) => apt,
        Err(ProcessError::Start { .. }) => {
            println!("skipped: this host has no apt-get");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let universe = Universe::new(&suites.iter().collect::<Vec<_>>(), "amd64").unwrap();
    let essential: Vec<&str> = universe.essential_names().collect();
    for set in SETS {
        let request = Request {
            include: set.iter().map(|n| (*n).to_owned()).collect(),
            include_essential: true,
            ..Request::default()
        };
        let started = std::time::Instant::now();
        let ours = solve(&universe, &request).unwrap();
        let took = started.elapsed();
        let ours: BTreeSet<String> = ours
            .into_iter()
            .map(|id| format!("{} {}", universe.package(id).name, universe.package(id).version))
            .collect();
        let theirs = apt.install(&[set, &essential[..]].concat());
        println!("{}: {} packages in {took:?}", set.join(" "), ours.len());
        let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>();
        assert!(
            ours == theirs,
            "{}: only ingot: {:?}; only apt: {:?}",
            set.join(" "),
            only(&ours, &theirs),
            only(&theirs, &ours)
        );
    }
}
