//! Builds that are killed, and builds that run at the same time.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::context::TestContext;
use crate::context::archive::{Archive, Package};

/// What is left of a build: processes of its group, or with its cache in their command line.
fn left(context: &TestContext, group: u32) -> Vec<String> {
    let cache = context.cache().display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        if !entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        // A process may end while it is looked at.
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let status = String::from_utf8_lossy(&read("stat")).into_owned();
        let fields: Vec<&str> = status.rsplit_once(") ").map_or(vec![], |(_, rest)| rest.split(' ').collect());
        let zombie = fields.first() == Some(&"Z");
        let of_group = fields.get(2).is_some_and(|number| *number == group.to_string());
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        if !zombie && (of_group || command.contains(&cache)) {
            found.push(format!("{}: {command}", entry.file_name().display()));
        }
    }
    found
}

fn nothing_is_left(context: &TestContext, group: u32) {
    let start = Instant::now();
    while !left(context, group).is_empty() && start.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(left(context, group), [""; 0], "still running");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let project = context.root().display().to_string();
    assert!(!mounts.contains(&project), "mounts are left:\n{mounts}");
}

fn archive() -> Archive {
    // Configuring takes long enough to be interrupted.
    Archive::new([Package::kernel("kernel", "1.0"), Package::new("slow", "1").script("postinst", "sleep 1")])
}

fn hash(stdout: &str) -> String {
    stdout.trim().rsplit(':').next().unwrap().to_owned()
}

#[test]
fn after_a_killed_build_the_next_one_is_right() {
    let archive = archive();
    let Some(context) = TestContext::bare(&archive, &["slow"]) else { return };
    context.lock().succeeded();
    let Some(reference) = TestContext::bare(&archive, &["slow"]) else { return };
    fs::copy(context.path("ingot.lock"), reference.path("ingot.lock")).unwrap();
    let right = hash(&reference.build(&[]).succeeded().stdout);
    for line in [
        "unpacking packages",
        "extracting essential packages",
        "installing essential packages",
        "unpacking packages into the root",
        "sealing the root",
        "writing the root file system",
        "packing the initrd",
        "assembling the image",
    ] {
        let build = context.build_until(line);
        let group = build.group();
        build.signal(Signal::KILL, false);
        assert_eq!(build.wait().code, 128 + 9, "killed at `{line}`");
        nothing_is_left(&context, group);
        assert!(!context.path("out/site-node.manifest.json").exists());
    }
    assert_eq!(hash(&context.build(&[]).succeeded().stdout), right);
}

#[test]
fn an_old_manifest_does_not_vouch_for_a_half_written_image() {
    let archive = archive();
    let Some(context) = TestContext::bare(&archive, &[]) else { return };
    context.lock().succeeded();
    let first = context.build(&[]).succeeded();
    let role = context.read("profiles/site/node.toml");
    context.write("profiles/site/node.toml", format!("{role}cmdline = [\"debug\"]\n"));
    let build = context.build_until("assembling the image");
    // Somewhere between the new image and its manifest.
    std::thread::sleep(Duration::from_millis(150));
    build.signal(Signal::KILL, false);
    build.wait();
    context.write("profiles/site/node.toml", role);
    let again = context.build(&[]).succeeded();
    assert_eq!(hash(&again.stdout), hash(&first.stdout));
    let bytes = fs::read(context.path("out/site-node.raw")).unwrap();
    let found: String = sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(bytes))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(found, hash(&first.stdout), "the image is not what the command says it is");
}

#[test]
fn ctrl_c_leaves_nothing_running() {
    let archive = archive();
    let Some(context) = TestContext::bare(&archive, &["slow"]) else { return };
    context.lock().succeeded();
    for line in ["installing essential packages", "unpacking packages into the root"] {
        let build = context.build_until(line);
        std::thread::sleep(Duration::from_millis(300));
        let group = build.group();
        build.signal(Signal::INT, true);
        assert_ne!(build.wait().code, 0);
        nothing_is_left(&context, group);
    }
    context.build(&[]).succeeded();
}

#[test]
fn two_builds_at_once_share_one_cache_and_one_directory() {
    let archive = archive();
    let Some(context) = TestContext::bare(&archive, &["slow"]) else { return };
    context.lock().succeeded();
    let start = || context.command(&["build", "site/node"]).spawn().unwrap();
    let (one, two) = (start(), start());
    let (one, two) = (crate::context::finish(one).succeeded(), crate::context::finish(two).succeeded());
    assert_eq!(hash(&one.stdout), hash(&two.stdout));
    let installed = [&one, &two].iter().filter(|build| build.stderr.contains("installing essential packages")).count();
    assert_eq!(installed, 1, "the second waits for the first:\n{}\n{}", one.stderr, two.stderr);
    assert!(context.build(&[]).succeeded().stdout.starts_with("unchanged"));
}
