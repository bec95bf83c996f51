use std::fs;
use std::path::Path;

use super::*;

/// A profile tree in a temporary directory.
struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let fixture = Self { directory };
        fixture.write("profiles/base/debian-13.toml", BASE);
        fixture.write("profiles/base/key.asc", "");
        for (name, text) in files {
            fixture.write(name, text);
        }
        fixture
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn tree(&self) -> Tree {
        Tree::open(&self.directory.path().join("profiles")).unwrap()
    }

    fn load(&self, role: &str) -> Result<Explained, ProfileError> {
        load(&self.tree(), role, Some("debian-13"))
    }
}

const BASE: &str = r#"
[base]
distribution = "debian"
codename = "trixie"
version = "13"
repositories = ["debian"]
[repositories.debian]
suites = ["${codename}", "${codename}-updates"]
components = ["main"]
keyring = "key.asc"
[kernel]
package = "linux-image-amd64"
cmdline = ["console=ttyS0"]
[packages]
include = ["systemd"]
"#;

#[test]
fn parts_are_merged_before_the_role_and_after_the_base() {
    let fixture = Fixture::new(&[
        (
            "profiles/parts/docker.toml",
            "[packages]\ninclude=['docker.io','nano']\n[kernel.sysctl]\n'net.ipv4.ip_forward'=1\n'vm.swappiness'=60\n",
        ),
        (
            "profiles/site/worker.toml",
            "extends=['parts/docker']\n[kernel.sysctl]\n'vm.swappiness'=10\n[packages]\nexclude=['nano']\n[when.debian.packages]\ninclude=['only-debian']\n[when.ubuntu.packages]\ninclude=['only-ubuntu']\n",
        ),
    ]);
    let profile = fixture.load("site/worker").unwrap().profile;
    let include: Vec<&str> = profile.packages.include.iter().map(String::as_str).collect();
    assert_eq!(include, ["docker.io", "only-debian", "systemd"]);
    assert_eq!(profile.kernel.sysctl["vm.swappiness"], "10");
    assert_eq!(profile.kernel.sysctl["net.ipv4.ip_forward"], "1");
    assert_eq!(profile.repositories["debian"].suites, ["trixie", "trixie-updates"]);
}

#[test]
fn an_unknown_key_names_file_line_column_and_the_nearest_key() {
    let fixture = Fixture::new(&[("profiles/site/worker.toml", "[packages]\n  inclde = ['x']\n")]);
    let error = fixture.load("site/worker").unwrap_err().to_string();
    assert!(error.contains("worker.toml:2:3: unknown key `inclde`; did you mean `include`?"), "{error}");
}

#[test]
fn every_value_knows_where_it_came_from() {
    let fixture = Fixture::new(&[
        ("profiles/parts/a.toml", "[kernel.sysctl]\n'vm.swappiness'=60\n"),
        ("profiles/site/worker.toml", "extends=['parts/a']\n\n[kernel.sysctl]\n'vm.swappiness'=10\n"),
    ]);
    let explained = fixture.load("site/worker").unwrap();
    let text = explain(&explained, &fixture.directory.path().canonicalize().unwrap());
    let line = text.lines().find(|l| l.contains("vm.swappiness")).unwrap();
    assert!(line.starts_with("kernel.sysctl.\"vm.swappiness\" = 10"), "{line}");
    assert!(line.ends_with("# profiles/site/worker.toml:4"), "{line}");
    let include = text.lines().find(|l| l.contains("systemd")).unwrap();
    assert!(include.ends_with("# profiles/base/debian-13.toml:15"), "{include}");
}

#[test]
fn parts_that_exclude_each_other_are_refused() {
    let fixture = Fixture::new(&[
        ("profiles/parts/swarm.toml", "conflicts = ['parts/alone']\n"),
        ("profiles/parts/alone.toml", ""),
        ("profiles/parts/both.toml", "extends = ['parts/alone', 'parts/swarm']\n"),
        ("profiles/one.toml", "extends = ['parts/swarm']\n"),
        ("profiles/two.toml", "extends = ['parts/both']\n"),
        ("profiles/small.toml", "conflicts = ['parts/not-in-this-tree']\n"),
    ]);
    fixture.load("one").unwrap();
    assert_eq!(
        fixture.load("two").unwrap_err().to_string(),
        "two has both parts/swarm and parts/alone, which exclude each other; extend only one of them"
    );
    fixture.load("small").unwrap();
}

#[test]
fn circles_and_missing_files_are_said() {
    let fixture = Fixture::new(&[
        ("profiles/parts/a.toml", "extends=['parts/b']"),
        ("profiles/parts/b.toml", "extends=['parts/a']"),
        ("profiles/site/worker.toml", "extends=['parts/a']"),
    ]);
    let error = fixture.load("site/worker").unwrap_err().to_string();
    assert!(error.contains("parts/a -> parts/b -> parts/a"), "{error}");
    let error = fixture.load("site/wroker").unwrap_err().to_string();
    assert!(error.contains("did you mean `site/worker`?"), "{error}");
    assert!(fixture.load("../site/worker").is_err());
}

#[test]
fn values_that_make_no_sense_are_refused_with_their_place() {
    for (text, wanted) in [
        ("[files.\"/etc/../x\"]\ncontent='a'\n", "absolute, plain path"),
        ("[files.\"/etc/x\"]\ncontent='a'\nmode='888'\n", "is no mode"),
        ("[files.\"/etc/x\"]\n", "either `content` or `source`"),
        ("[artifacts.\"/opt/x\"]\nurl='ftp://x'\nsha256='00'\n", "http(s)"),
        ("[artifacts.\"/opt/x\"]\nurl='https://x/y'\nsha256='00'\n", "64 hexadecimal"),
        ("[firewall]\nopen=['0/tcp']\n", "is no port"),
        ("[firewall]\nopen=['20-10/tcp']\n", "is no port"),
        ("[kernel]\ncmdline=['roothash=00']\n", "roothash"),
        ("[image]\nsector_size=1024\n", "512 or 4096"),
        ("[image]\nesp_mib=64\n", "two slots"),
        ("[containers.x]\nreference='x:1'\n", "give either"),
        ("[repositories.x]\nsuites=['a']\ncomponents=['main']\n", "never trusted without"),
        ("[repositories.x]\nsuites=['/']\nkeyring='vendor.pgp'\n", "put the certificate there"),
        ("[containers.dkms]\nreference='x:1'\npackages=['x']\n", "the set that builds modules"),
        ("overlays=['nothing']\n", "no directory"),
    ] {
        let fixture = Fixture::new(&[("profiles/site/worker.toml", text)]);
        let error = fixture.load("site/worker").unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
        assert!(error.contains("worker.toml:") || error.contains("profile site/worker"), "{text}: {error}");
    }
}

#[test]
fn roles_are_listed_without_bases_and_parts() {
    let fixture = Fixture::new(&[("profiles/parts/a.toml", ""), ("profiles/site/worker.toml", "")]);
    assert_eq!(fixture.tree().roles(), ["site/worker"]);
    assert!(Tree::open(Path::new("/nonexistent")).is_err());
}

#[test]
fn defaults_for_nodes_are_checked_where_they_are_written() {
    let refused = |text: &str| {
        let fixture = Fixture::new(&[("profiles/site/worker.toml", text)]);
        fixture.load("site/worker").unwrap_err().to_string()
    };
    let error = refused("description = 'x'\n[config.join]\ndriver = 'docker-swam'\n");
    assert!(error.contains("profiles/site/worker.toml:3:10: config.join.driver: unknown driver"), "{error}");
    let error = refused("[when.debian.config]\nhostnme = 'x'\n");
    assert!(error.contains("worker.toml:2:1: when.debian.config.hostnme: unknown key"), "{error}");
    let error = refused("[config.join]\nsecret = 'kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s='\n");
    assert!(error.contains("worker.toml:2:10: config.join.secret: is a secret, and an image must not"), "{error}");
    // Keys of one table may come from several files.
    let fixture = Fixture::new(&[
        ("profiles/parts/a.toml", "[config.join]\ndriver = 'docker-swarm'\n"),
        ("profiles/site/worker.toml", "extends = ['parts/a']\n[config.join]\nrole = 'worker'\n"),
    ]);
    assert_eq!(fixture.load("site/worker").unwrap().profile.config["join"]["role"].as_str(), Some("worker"));
}
