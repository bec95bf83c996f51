//! An apt that knows nothing but the indexes given to it and an empty system.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::archive::index::Suite;
use crate::process::{ProcessError, Tool};

/// The package that stands for the names that a request takes as provided.
const PROVIDED: &str = "ingot-provided";

/// apt with its indexes read and cached. It may be asked from several threads.
pub(super) struct Apt {
    directory: tempfile::TempDir,
}

impl Apt {
    /// `provided` can be had as a package, which apt does not choose by itself.
    pub fn new(suites: &[Suite], provided: &BTreeSet<String>) -> Result<Self, ProcessError> {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for path in ["etc/apt/preferences.d", "lists/partial", "cache/archives/partial", "dpkg"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        std::fs::write(root.join("dpkg/status"), "").unwrap();
        let provided = format!(
            "Package: {PROVIDED}\nVersion: 1\nArchitecture: all\nFilename: p.deb\nSize: 1\nSHA256: {}\nProvides: {}\n",
            "0".repeat(64),
            provided.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
        );
        let mut sources = String::new();
        for (n, text) in suites.iter().flat_map(Suite::texts).chain([&provided[..]]).enumerate() {
            let repository = root.join(format!("repository-{n}"));
            std::fs::create_dir(&repository).unwrap();
            std::fs::write(repository.join("Packages"), text).unwrap();
            writeln!(sources, "deb [trusted=yes] file:{} ./", repository.display()).unwrap();
        }
        std::fs::write(root.join("etc/apt/sources.list"), sources).unwrap();
        let preferences = format!("Package: {PROVIDED}\nPin: version *\nPin-Priority: -1\n");
        std::fs::write(root.join("etc/apt/preferences"), preferences).unwrap();
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

    /// What apt would install, each as `name version`; `Err` with its words where it finds no way.
    ///
    /// Asked by `--print-uris`: what apt decides is the same as with `--simulate`, which then computes the order of
    /// unpacking as well and takes ten times as long.
    pub fn install(&self, arguments: &[String], with_provided: bool) -> Result<BTreeSet<String>, String> {
        let provided = format!("{PROVIDED}=1");
        let tool = self.tool().args(["--yes", "--print-uris", "--no-install-recommends", "install"]).args(arguments);
        let output = match tool.args(with_provided.then_some(provided)).run() {
            Ok(output) => output,
            // What is unmet it says on standard output; the error is always the same.
            Err(ProcessError::Failed { tail, .. }) if tail.contains("Unable to") || tail.contains("unmet") => {
                return Err(tail);
            }
            Err(error) => panic!("{error}"),
        };
        let text = String::from_utf8(output.stdout).unwrap();
        // 'file:/…' docker.io_26.1.5%2bdfsg1_amd64.deb SIZE DIGEST
        let files = text.lines().filter(|line| line.starts_with('\'')).map(|line| line.split(' ').nth(1).unwrap());
        let packages = files.map(|file| {
            let (name, rest) = file.split_once('_').unwrap();
            let (version, _) = rest.rsplit_once('_').unwrap();
            format!("{name} {}", unquoted(version))
        });
        Ok(packages.filter(|package| !package.starts_with(PROVIDED)).collect())
    }
}

/// `%3a` is a colon, and so on.
fn unquoted(text: &str) -> String {
    let mut parts = text.split('%');
    let mut result = parts.next().unwrap().to_owned();
    for part in parts {
        result.push(char::from(u8::from_str_radix(&part[..2], 16).unwrap()));
        result.push_str(&part[2..]);
    }
    result
}
