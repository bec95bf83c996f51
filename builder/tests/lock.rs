//! What `ingot lock` changes, what it leaves alone, and how it says so.

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
