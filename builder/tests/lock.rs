//! What `ingot lock` changes, what it leaves alone, and how it says so.

use std::path::Path;

use crate::context::TestContext;
use crate::context::archive::{Archive, Package};

fn packages(hello: &[&str], docker: &[&str]) -> Vec<Package> {
    let mut all = vec![Package::kernel("kernel", "1.0"), Package::new("tools", "1")];
    all.extend(hello.iter().map(|version| Package::new("hello", version)));
    all.extend(docker.iter().map(|version| {
        let package = Package::new("docker-engine", version);
        if *version == "3" { package.field("Depends", "hello (>= 3)") } else { package }
    }));
    all
}

#[test]
fn an_update_changes_what_is_named_and_says_what_else_had_to() {
    let mut archive = Archive::new(packages(&["1"], &["1"]));
    let context = TestContext::on(&archive, &["hello", "docker-engine"]);
    context.ingot(&["lock", "--update", "hello", "site/node"]).failed(2, &["there is no lock at"]);
    context.lock().succeeded();
    let version = |name: &str| -> String {
        let lock: toml::Value = toml::from_str(&context.read("ingot.lock")).unwrap();
        let found = lock["package"].as_array().unwrap().iter().find(|p| p["name"].as_str() == Some(name));
        found.unwrap()["version"].as_str().unwrap().to_owned()
    };

    // More came, and what there was is still there.
    archive.replace(packages(&["1", "2"], &["1", "2"]));
    context.ingot(&["lock", "--check", "site/node"]).failed(1, &["ingot.lock is out of date; run `ingot lock`"]);
    let outcome = context.ingot(&["lock", "--update", "docker-engine", "--dry-run", "site/node"]).succeeded();
    insta::assert_snapshot!(outcome.stdout, @r"
    docker
      docker-engine  1 -> 2
    sets
      site/node@debian-13: 1 of 3 packages changed, installed 0.0 MiB
    download 0.1 MiB, installed 0.0 MiB
    ");
    assert_eq!(version("docker-engine"), "1", "a dry run writes nothing");
    context.ingot(&["lock", "--update", "docker-*", "site/node"]).succeeded();
    assert_eq!((version("docker-engine"), version("hello")), ("2".into(), "1".into()));

    // It forces something else; and something else is gone.
    archive.replace(packages(&["2", "3"], &["2", "3"]));
    let json = context.ingot(&["lock", "--update", "docker-engine", "--json", "site/node"]).succeeded().json();
    assert_eq!(json["docker"][0]["to"]["version"], "3");
    assert_eq!(json["upgraded"][0]["to"]["version"], "3");
    assert_eq!(json["upgraded"][0]["sets"], serde_json::json!(["site/node@debian-13"]));
    assert_eq!(json["gone"], serde_json::json!(["hello 1"]));
    assert_eq!((version("docker-engine"), version("hello")), ("3".into(), "3".into()));

    context
        .ingot(&["lock", "--update", "docker-engin", "site/node"])
        .failed(2, &["no set of these roles has a package `docker-engin`", "did you mean docker-engine?"]);
    context.ingot(&["lock", "--check", "site/node"]).succeeded();
}

#[test]
fn an_archive_that_is_signed_anew_leaves_the_lock_alone() {
    let archive = Archive::new(packages(&["1"], &[]));
    let context = TestContext::on(&archive, &["hello"]);
    context.lock().succeeded();
    let lock = context.read("ingot.lock");
    archive.publish(&crate::context::archive::Release { valid_for: Some(1000), ..Default::default() });
    context.ingot(&["lock", "--check", "site/node"]).succeeded();
    assert_eq!(context.lock().succeeded().stdout, "nothing changed\n");
    assert_eq!(context.read("ingot.lock"), lock);
}

/// Files of the repository's own profiles and overlays.
fn own(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

#[test]
fn docker_comes_from_its_own_repository_in_exact_versions() {
    let base = Archive::new(
        packages(&[], &[]).into_iter().chain(
            ["docker.io", "docker-cli", "containerd", "runc", "iptables", "docker-compose-plugin"]
                .map(|name| Package::new(name, "9")),
        ),
    );
    let engine = |release: &str, containerd: &str, buildx: &str, compose: &str| {
        let versioned = |name: &str, version: &str| Package::new(name, &format!("{version}-1~ubuntu.24.04~noble"));
        [
            versioned("docker-ce", &format!("5:{release}"))
                .field("Depends", "containerd.io (>= 1.7.27), docker-ce-cli"),
            versioned("docker-ce-cli", &format!("5:{release}")),
            Package::new("containerd.io", &format!("{containerd}-1"))
                .field("Conflicts", "containerd, runc")
                .field("Provides", "containerd, runc"),
            versioned("docker-buildx-plugin", buildx),
            versioned("docker-compose-plugin", compose),
        ]
    };
    let old = engine("28.3.3", "1.7.27", "0.26.1", "2.39.1");
    let mut docker = Archive::new(old.clone().into_iter().chain(engine("29.0.1", "2.1.5", "0.30.1", "2.40.3")));
    let context = TestContext::on(&base, &[]);
    for part in ["docker", "docker-ce", "docker-settings", "swarm"] {
        let text = own(&format!("profiles/parts/{part}.toml"));
        // The archive of this test has one component.
        context.write(&format!("profiles/parts/{part}.toml"), text.replace("[\"stable\"]", "[\"main\"]"));
    }
    context.write("overlays/docker/etc/docker/daemon.json", own("overlays/docker/etc/docker/daemon.json"));
    // The other choice is made where another part has chosen already.
    context.write_role("extends = [\"parts/swarm\", \"parts/docker-ce\"]\n");
    let mirror = format!("docker={}", docker.url());
    let lock = || context.ingot(&["lock", "--mirror", &mirror, "--json", "site/node"]);
    lock().failed(2, &["docker-ce.toml:", "repositories.docker.keyring", "keyrings/docker.pgp", "its fingerprint"]);

    context.write("profiles/parts/keyrings/docker.pgp", docker.keyring());
    let json = lock().succeeded().json();
    let locked = |list: &str| -> Vec<String> {
        let side = |change: &serde_json::Value, key: &str| change["to"][key].as_str().unwrap().to_owned();
        let changes = json[list].as_array().unwrap().iter();
        changes.map(|c| format!("{} {} {}", side(c, "repository"), side(c, "package"), side(c, "version"))).collect()
    };
    assert_eq!(
        locked("docker"),
        [
            "docker containerd.io 1.7.27-1",
            "docker docker-buildx-plugin 0.26.1-1~ubuntu.24.04~noble",
            "docker docker-ce 5:28.3.3-1~ubuntu.24.04~noble",
            "docker docker-ce-cli 5:28.3.3-1~ubuntu.24.04~noble",
            "docker docker-compose-plugin 2.39.1-1~ubuntu.24.04~noble",
        ]
    );
    assert_eq!(locked("new"), ["vendor iptables 9", "vendor kernel 1", "vendor tools 1"]);

    // A release that is gone from the archive is an error, not another release.
    docker.replace(engine("29.0.1", "2.1.5", "0.30.1", "2.40.3"));
    lock().failed(2, &["`containerd.io` is pinned to `1.7.27-1`, but there is only 2.1.5-1 (docker)"]);
}

#[test]
fn docker_settings_suit_every_cluster() {
    let overlay = own("overlays/docker/etc/docker/daemon.json");
    let part: toml::Value = toml::from_str(&own("profiles/parts/docker-standalone.toml")).unwrap();
    let alone = part["files"]["/etc/docker/daemon.json"]["content"].as_str().unwrap();
    let mut settings = [overlay.as_str(), alone].map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
    // Swarm refuses to start with it, and is what the overlay is for too.
    assert_eq!(settings[0].get("live-restore"), None);
    assert_eq!(settings[1].as_object_mut().unwrap().remove("live-restore"), Some(true.into()));
    assert_eq!(settings[0], settings[1], "in all else they are the same");
    let pools = settings[0]["default-address-pools"].as_array().unwrap().iter().map(|pool| &pool["base"]);
    for address in pools.chain([&settings[0]["bip"]]) {
        let address = address.as_str().unwrap();
        assert!(!address.starts_with("172."), "{address}: some systems refuse all of 172.0.0.0/8");
    }
    assert!(settings[0]["log-opts"]["max-size"].is_string() && settings[0]["log-opts"]["max-file"].is_string());
    assert!(!overlay.contains("nvidia"), "the runtime comes with the part that has the driver");
}
