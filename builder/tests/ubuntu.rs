//! Archives laid out as Ubuntu, Docker and NVIDIA lay theirs out: one lock over all of them, and a build from it.

use std::collections::BTreeMap;
use std::path::Path;

use ingot::archive::mirror::Mirrors;
use ingot::lock::Lock;
use ingot::profile::Tree;
use ingot::progress::Silent;
use ingot::store::Store;

use crate::context::TestContext;
use crate::context::archive::{Archive, Package};
use crate::context::ubuntu::{Entry, Suite, publish_flat, repacked_sets};

/// Made packages: name, version, what it depends on.
fn made(packages: &[(&str, &str, &str)]) -> Vec<Entry> {
    let one = |(name, version, depends): &(&str, &str, &str)| {
        let package = Package::new(name, version);
        Entry::made(&if depends.is_empty() { package } else { package.field("Depends", depends) })
    };
    packages.iter().map(one).collect()
}

/// Publishes the three pockets of noble below `place`, and the pockets that the tools come from.
fn publish(ubuntu: &Archive, place: &str, days_old: u32, release: &[Entry], updates: &[Entry], security: &[Entry]) {
    let kernels = made(&[
        ("linux-image-generic", "6.8.0-31.31", "linux-image-6.8.0-31-generic"),
        ("linux-image-6.8.0-31-generic", "6.8.0-31.31", ""),
        ("linux-image-generic-hwe-24.04", "6.17.0-8.8~24.04.1", "linux-image-6.17.0-8-generic"),
        ("linux-image-6.17.0-8-generic", "6.17.0-8.8~24.04.1", ""),
        (
            "linux-modules-nvidia-580-server-open-6.8.0-31-generic",
            "6.8.0-31.31",
            "linux-image-6.8.0-31-generic, nvidia-kernel-common-580-server (>= 580.95.05)",
        ),
        ("nvidia-kernel-common-580-server", "580.95.05-0ubuntu0.24.04.1", ""),
    ]);
    let tools = made(&[("tools", "1", "")]);
    let universe = made(&[("in-universe", "1", "")]);
    let suite = |name: &str, main: &[Entry], restricted: &[Entry]| {
        let components = [("main", main), ("restricted", restricted), ("universe", &universe[..])];
        Suite { place, name, components: &components, by_hash: true, days_old }.publish(ubuntu);
    };
    suite("noble", release, &kernels);
    suite("noble-updates", updates, &[]);
    suite("noble-security", security, &[]);
    suite("resolute", &tools, &[]);
    suite("resolute-updates", &[], &[]);
    suite("resolute-security", &[], &[]);
}

/// A project on the repository's own bases of Ubuntu, with the archive's key in place of Ubuntu's.
fn project(ubuntu: &Archive, role: &'static str) -> TestContext {
    let context = TestContext::empty(role);
    context.copy_profiles();
    context.write("profiles/base/keyrings/ubuntu-archive.pgp", ubuntu.keyring());
    let url = format!("{}/ubuntu", ubuntu.url());
    for base in ["ubuntu-22.04", "ubuntu-24.04", "ubuntu-26.04"] {
        let path = format!("profiles/base/{base}.toml");
        let mut text = context.read(&path).replace(", \"multiverse\"", "");
        for own in ["http://archive.ubuntu.com", "http://security.ubuntu.com", "https://snapshot.ubuntu.com"] {
            text = text.replace(&format!("{own}/ubuntu"), &url);
        }
        let own = |line: &&str| !line.starts_with("host_mirror");
        context.write(&path, text.lines().filter(own).map(|line| format!("{line}\n")).collect::<String>());
    }
    context
}

/// The same without the packages that every node has.
fn plain(ubuntu: &Archive) -> TestContext {
    let context = project(ubuntu, "site/node");
    context.write("profiles/parts/node.toml", "");
    context.write("profiles/parts/tools.toml", "[packages]\ninclude = [\"tools\"]\n");
    context
}

fn role(context: &TestContext, text: &str) {
    context.write("profiles/site/node.toml", format!("default_base = \"ubuntu-24.04\"\n{text}"));
}

/// `name version` of what the lock has.
#[track_caller]
fn locked(context: &TestContext, arguments: &[&str]) -> Vec<String> {
    context.ingot(&[&["lock", "site/node"], arguments].concat()).succeeded();
    let lock: toml::Table = context.read("ingot.lock").parse().unwrap();
    let text = |package: &toml::Value, key: &str| package[key].as_str().unwrap().to_owned();
    let all = lock["package"].as_array().unwrap();
    all.iter().map(|p| format!("{} {}", text(p, "name"), text(p, "version"))).filter(|p| p != "tools 1").collect()
}

#[test]
fn pockets_phasing_and_snapshots_lead_to_one_set() {
    let ubuntu = Archive::empty();
    let updates: Vec<Entry> = made(&[("app", "3", "library (>= 3)"), ("library", "3", "")]);
    let updates: Vec<Entry> = updates.into_iter().map(|entry| entry.phased(40)).collect();
    let release = made(&[("app", "1", "library"), ("library", "1", "")]);
    publish(&ubuntu, "ubuntu", 1, &release, &updates, &made(&[("app", "2", "library")]));
    let context = plain(&ubuntu);
    let kernel = ["linux-image-6.8.0-31-generic 6.8.0-31.31", "linux-image-generic 6.8.0-31.31"];
    role(&context, "[packages]\ninclude = [\"app\", \"in-universe\"]\n");
    let set = ["app 2", "in-universe 1", "library 1", kernel[0], kernel[1]];
    assert_eq!(locked(&context, &[]), set);
    role(&context, "[packages]\nphased = true\ninclude = [\"app\", \"in-universe\"]\n");
    assert_eq!(locked(&context, &[]), ["app 3", "in-universe 1", "library 3", kernel[0], kernel[1]]);
    // Half of what belongs together is not taken, and the message says why.
    role(&context, "[packages]\ninclude = [\"app\"]\npins = { app = \"3\" }\n");
    context.lock().failed(2, &["app", "library (>= 3)", "still phasing it in (40 %)", "`phased = true`"]);

    let id = "20261101T000000Z";
    publish(&ubuntu, &format!("ubuntu/{id}"), 400, &made(&[("app", "0", "")]), &[], &[]);
    let moment = format!("snapshot = \"{id}\"\n");
    let all = format!("[repositories.ubuntu]\n{moment}[repositories.ubuntu-security]\n{moment}");
    role(&context, &format!("{all}[packages]\ninclude = [\"app\"]\n"));
    assert_eq!(locked(&context, &[]), ["app 0", kernel[0], kernel[1]]);
    let lock = context.read("ingot.lock");
    for moment in
        [format!("snapshot = \"{id}\""), format!("[set.snapshots]\nubuntu = \"{id}\"\nubuntu-security = \"{id}\"")]
    {
        assert!(lock.contains(&moment), "{lock}");
    }
    // The present is what it was, and older by intention is no way back for it.
    role(&context, "[packages]\ninclude = [\"app\", \"in-universe\"]\n");
    assert_eq!(locked(&context, &[]), set);
    assert_eq!(locked(&context, &["--snapshot", id])[0], "app 0");
}

#[test]
fn a_kernel_is_chosen_by_release_by_newer_release_or_by_its_exact_abi() {
    let ubuntu = Archive::empty();
    publish(&ubuntu, "ubuntu", 1, &[], &[], &[]);
    let context = plain(&ubuntu);
    let kernel = |package: &str, more: &str| {
        role(&context, &format!("[kernel]\npackage = \"{package}\"\n[packages]\ninclude = [{more}]\n"));
        locked(&context, &[])
    };
    let hwe = "6.17.0-8.8~24.04.1";
    assert_eq!(
        kernel("linux-image-generic-hwe-24.04", ""),
        [format!("linux-image-6.17.0-8-generic {hwe}"), format!("linux-image-generic-hwe-24.04 {hwe}")]
    );
    assert_eq!(
        kernel("linux-image-6.8.0-31-generic", "\"linux-modules-nvidia-580-server-open-6.8.0-31-generic\""),
        [
            "linux-image-6.8.0-31-generic 6.8.0-31.31",
            "linux-modules-nvidia-580-server-open-6.8.0-31-generic 6.8.0-31.31",
            "nvidia-kernel-common-580-server 580.95.05-0ubuntu0.24.04.1"
        ]
    );
    role(&context, "[kernel]\npackage = \"linux-image-6.8.0-99-generic\"\n");
    context.lock().failed(2, &["linux-image-6.8.0-99-generic"]);
}

#[test]
fn one_lock_holds_packages_of_three_signers() {
    let (ubuntu, docker, nvidia) = (Archive::empty(), Archive::empty(), Archive::empty());
    publish(
        &ubuntu,
        "ubuntu",
        1,
        &made(&[("containerd", "2.2.1", ""), ("docker.io", "29.1.3", "containerd")]),
        &[],
        &[],
    );
    let engine = |version: &str| {
        let version = format!("5:{version}-1~ubuntu.24.04~noble");
        let made = made(&[
            ("docker-ce", &version, "containerd.io (>= 1.7.27), docker-ce-cli"),
            ("docker-ce-cli", &version, ""),
        ]);
        made.into_iter()
    };
    let runtime = Package::new("containerd.io", "2.2.1-1~ubuntu.24.04~noble").field("Conflicts", "containerd");
    let stable: Vec<Entry> = engine("29.1.2").chain(engine("29.1.3")).chain([Entry::made(&runtime)]).collect();
    let components = [("stable", &stable[..])];
    Suite { place: "linux/ubuntu", name: "noble", components: &components, by_hash: false, days_old: 3 }
        .publish(&docker);
    let toolkit = made(&[
        ("nvidia-container-toolkit", "1.19.0-1", "nvidia-container-toolkit-base (= 1.19.0-1)"),
        ("nvidia-container-toolkit-base", "1.19.0-1", ""),
    ]);
    publish_flat(&nvidia, "stable/deb/amd64", &toolkit);

    let context = plain(&ubuntu);
    context.write("profiles/site/docker.pgp", docker.keyring());
    context.write("profiles/site/nvidia.pgp", nvidia.keyring());
    let text = |docker_key: &str| {
        format!(
            "[repositories.docker]\nurl = \"{}/linux/ubuntu\"\nsuites = [\"${{codename}}\"]\ncomponents = [\"stable\"]\n\
             keyring = \"{docker_key}\"\n[repositories.nvidia-container]\nurl = \"{}/stable/deb\"\n\
             suites = [\"${{architecture}}/\"]\ncomponents = []\nkeyring = \"nvidia.pgp\"\n\
             [packages]\ninclude = [\"docker-ce\", \"nvidia-container-toolkit\"]\n\
             [packages.pins]\ndocker-ce = \"5:29.1.2-1~ubuntu.24.04~noble\"\ndocker-ce-cli = \"5:29.1.2-*\"\n",
            docker.url(),
            nvidia.url()
        )
    };
    role(&context, &text("docker.pgp"));
    let set = locked(&context, &[]);
    assert_eq!(
        set[..3],
        [
            "containerd.io 2.2.1-1~ubuntu.24.04~noble",
            "docker-ce 5:29.1.2-1~ubuntu.24.04~noble",
            "docker-ce-cli 5:29.1.2-1~ubuntu.24.04~noble"
        ]
    );
    assert!(set.contains(&"nvidia-container-toolkit-base 1.19.0-1".to_owned()), "{set:?}");
    let lock: toml::Table = context.read("ingot.lock").parse().unwrap();
    let of = |key: &str| {
        let releases = lock["release"].as_array().unwrap().iter();
        releases.map(|r| r[key].as_str().unwrap().to_owned()).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(of("signer").len(), 3, "{:?}", of("signer"));
    assert!(of("suite").contains("amd64/"), "{:?}", of("suite"));
    // Neither vendor can sign for the other.
    role(&context, &text("nvidia.pgp"));
    context.lock().failed(1, &["docker noble is signed by", "none of which is in keyring", "nvidia.pgp"]);
    // The distribution's engine and Docker's exclude each other, and the message names both.
    role(&context, &format!("{}\n", text("docker.pgp").replace("[\"docker-ce\", ", "[\"docker-ce\", \"docker.io\", ")));
    context.lock().failed(2, &["containerd.io", "containerd", "Conflicts"]);
}

/// Locks the worker on Debian 13 and fetches its packages into the shared store; the lock's text.
fn debian_worker(shared: &Path) -> String {
    let context = TestContext::empty("quickstart/worker").with_cache(shared);
    context.copy_profiles();
    take_all_tools(&context);
    context.ingot(&["lock", "--base", "debian-13", "quickstart/worker"]).succeeded();
    let tree = Tree::open(&context.path("profiles")).unwrap();
    let profile = ingot::profile::load(&tree, "quickstart/worker", Some("debian-13")).unwrap().profile;
    let store = Store::open(&shared.join("store")).unwrap();
    let lock = Lock::read(&context.path("ingot.lock")).unwrap();
    let mirrors = Mirrors::new(BTreeMap::new());
    for set in lock.set_names() {
        let resolve = |name: &str| mirrors.resolve(&profile.repositories[name]);
        let fetches = lock.set(set).unwrap().fetches(&store, resolve).unwrap();
        store.ensure(&fetches, 8, false, &Silent).unwrap();
    }
    context.read("ingot.lock")
}

/// True where virtual machines are wanted: they take minutes.
fn boots() -> bool {
    std::env::var_os("INGOT_TEST_BOOT").is_some()
}

/// The tools that start virtual machines too.
fn take_all_tools(context: &TestContext) {
    if boots() {
        let path = crate::context::repository().join("profiles/parts/tools.toml");
        context.write("profiles/parts/tools.toml", std::fs::read(path).unwrap());
    }
}

#[test]
fn the_worker_of_real_packages_in_ubuntus_layout_becomes_an_image() {
    let Some(shared) = crate::context::shared() else { return };
    let lock = debian_worker(shared);
    let packed = |set: &str| repacked_sets(&lock, &shared.join("store"), set);
    let mut node = packed("quickstart/worker@debian-13");
    node.extend(packed("quickstart/worker@debian-13#hello"));
    let ubuntu = Archive::empty();
    let kernels = made(&[
        ("linux-image-generic", "6.8.0-31.31", "linux-image-6.8.0-31-generic"),
        ("linux-image-6.8.0-31-generic", "6.8.0-31.31", "linux-image-amd64"),
    ]);
    // The first half is of the release, the second of its updates.
    let node: Vec<Entry> = node.into_values().collect();
    let tools: Vec<Entry> = packed("tools@debian-13").into_values().collect();
    let (first, second) = node.split_at(node.len() / 2);
    for (name, main, restricted) in [
        ("noble", first, &kernels[..]),
        ("noble-updates", second, &[]),
        ("noble-security", &[], &[]),
        ("resolute", &tools, &[]),
        ("resolute-updates", &[], &[]),
        ("resolute-security", &[], &[]),
    ] {
        let components = [("main", main), ("restricted", restricted), ("universe", &[])];
        Suite { place: "ubuntu", name, components: &components, by_hash: true, days_old: 0 }.publish(&ubuntu);
    }
    let context = project(&ubuntu, "quickstart/worker");
    take_all_tools(&context);
    let base = ["--base", "ubuntu-24.04"];
    context.ingot(&[&["lock", "quickstart/worker"], &base[..]].concat()).succeeded();
    let built = context.build(&base).succeeded();
    assert!(built.stdout.starts_with("built  out/quickstart-worker.raw"), "{}", built.stdout);
    // From here on no archive is needed, and the image is the same.
    ubuntu.close();
    std::fs::remove_dir_all(context.path("out")).unwrap();
    let again = context.build(&[&base[..], &["--offline"]].concat()).succeeded();
    assert_eq!(again.stdout, built.stdout);
    if boots() {
        let scenario = crate::context::repository().join("tests/scenarios/worker-boots.toml");
        let tested = context.ingot(&[&["test", scenario.to_str().unwrap(), "--offline"], &base[..]].concat());
        println!("{}", tested.succeeded().stdout);
    } else {
        println!("not booted: INGOT_TEST_BOOT is not set");
    }
}
