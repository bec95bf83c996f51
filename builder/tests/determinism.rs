//! One lock, one image: whoever builds it, where, and with what around.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::context::{FORMS, TestContext, copy_tree, finish, is_root, program, skip};

/// The user that a test becomes: an id that no system gives to anybody.
const USER: u32 = 61_937;

#[test]
fn two_builds_of_one_lock_are_the_same_files() {
    let Some(one) = TestContext::small() else { return };
    one.build(&[&FORMS[..], &["--jobs", "2"]].concat()).succeeded();

    // Another directory and cache, with all that differs between two users on two hosts.
    let Some(other) = TestContext::small() else { return };
    let other = other
        .with_environment("TZ", "Pacific/Auckland")
        .with_environment("LANG", "de_DE.UTF-8")
        .with_environment("LC_ALL", "tr_TR.UTF-8")
        .with_environment("USER", "somebody")
        .with_environment("TMPDIR", "/var/tmp");
    // What is made in a set-group-id directory belongs to its group.
    if rustix::process::geteuid().is_root() {
        chown(other.cache(), Some(0), Some(60)).unwrap();
    }
    fs::set_permissions(other.cache(), fs::Permissions::from_mode(0o2770)).unwrap();
    let arguments = [&["build", "small", "--jobs", "1"], &FORMS[..]].concat();
    let script = "umask 077; hostname another 2>/dev/null; exec \"$@\"";
    let wrapper: &[&str] = if rustix::process::geteuid().is_root() {
        &["unshare", "--uts", "sh", "-c", script, "-"]
    } else {
        &["sh", "-c", script, "-"]
    };
    finish(other.command_by(wrapper, &arguments).spawn().unwrap()).succeeded();
    same(&one, &other);
}

#[test]
fn an_ordinary_user_builds_the_same_files_as_root() {
    if !is_root() || program("newuidmap").is_none() {
        return;
    }
    let Some(one) = TestContext::small() else { return };
    one.build(&FORMS).succeeded();

    // Where the user can get to it, whatever the permissions of the repository.
    let Some(other) = TestContext::small_in(Path::new("/var/tmp")) else { return };
    let other = other.with_environment("INGOT_NODE_PROGRAMS", "programs");
    let programs =
        PathBuf::from(one.command(&[""]).get_envs().find(|(key, _)| *key == "INGOT_NODE_PROGRAMS").unwrap().1.unwrap());
    for name in ["stage1", "firstboot"] {
        fs::create_dir_all(other.path("programs")).unwrap();
        fs::copy(programs.join(name), other.path("programs").join(name)).unwrap();
    }
    fs::copy(env!("CARGO_BIN_EXE_ingot"), other.path("ingot")).unwrap();
    // The account exists for this process alone: nothing of the host is changed.
    for (file, line) in [
        ("passwd", format!("builder:x:{USER}:{USER}::/nonexistent:/bin/sh")),
        ("subuid", "builder:2000000:65536".to_owned()),
        ("subgid", "builder:2000000:65536".to_owned()),
    ] {
        let old = fs::read_to_string(Path::new("/etc").join(file)).unwrap_or_default();
        other.write(&format!("etc/{file}"), format!("{old}\n{line}\n"));
        if !Path::new("/etc").join(file).exists() {
            return skip(&format!("/etc/{file} is missing"));
        }
    }
    give_away(other.root());
    let script = format!(
        "set -e; for f in passwd subuid subgid; do mount --bind etc/$f /etc/$f; done\n\
         exec setpriv --reuid {USER} --regid {USER} --clear-groups ./ingot build small {}",
        FORMS.join(" ")
    );
    let mut command = other.command_by(&["unshare", "--mount", "sh", "-c", &script, "-"], &[""]);
    let outcome = finish(command.spawn().unwrap());
    if outcome.stderr.contains("kernel refuses") {
        return skip(&outcome.stderr);
    }
    outcome.succeeded();
    assert_eq!(other.path("out/small.raw").metadata().unwrap().uid(), USER, "the images are the user's own");
    same(&one, &other);

    // An error keeps its exit code through the user namespace.
    let script = script.replace("build small", "build smal");
    let mut command = other.command_by(&["unshare", "--mount", "sh", "-c", &script, "-"], &[""]);
    finish(command.spawn().unwrap()).failed(2, &["there is no profile smal", "did you mean `small`?"]);
}

fn give_away(path: &Path) {
    for entry in walk(path) {
        std::os::unix::fs::lchown(entry, Some(USER), Some(USER)).unwrap();
    }
    std::os::unix::fs::lchown(path, Some(USER), Some(USER)).unwrap();
}

/// Asserts that two projects have built the same files; says in what they differ otherwise.
fn same(one: &TestContext, other: &TestContext) {
    let files = ["small.raw", "small.raw.zst", "small.qcow2", "small.raw.bmap", "small.manifest.json"];
    let differ: Vec<&str> = files
        .into_iter()
        .filter(|name| hash(&one.path("out").join(name)) != hash(&other.path("out").join(name)))
        .collect();
    assert!(differ.is_empty(), "{} differ:\n{}", differ.join(", "), difference(one, other));
}

/// In what two builds differ: values of the manifests, and files of the root.
fn difference(one: &TestContext, other: &TestContext) -> String {
    let mut text = String::new();
    let manifest = |context: &TestContext| context.read("out/small.manifest.json");
    let (left, right) = (manifest(one), manifest(other));
    for (left, right) in left.lines().zip(right.lines()).filter(|(left, right)| left != right).take(20) {
        writeln!(text, "manifest: {} | {}", left.trim(), right.trim()).unwrap();
    }
    let (left, right) = (listing(&one.extract_root()), listing(&other.extract_root()));
    for path in left.keys().chain(right.keys().filter(|path| !left.contains_key(*path))) {
        let (left, right) = (left.get(path), right.get(path));
        if left != right {
            writeln!(text, "/{}: {left:?} | {right:?}", path.display()).unwrap();
        }
    }
    for context in [one, other] {
        copy_tree(&context.path("extracted"), &context.root().with_extension("kept"));
        writeln!(text, "its root is kept in {}", context.root().with_extension("kept").display()).unwrap();
    }
    text
}

/// Mode, owner, and content or target of every file.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let describe = |path: &PathBuf| {
        let metadata = path.symlink_metadata().unwrap();
        let content = if metadata.is_symlink() {
            fs::read_link(path).unwrap().display().to_string()
        } else if metadata.is_file() {
            hash(path)
        } else {
            String::new()
        };
        format!("{:o} {}:{} {content}", metadata.mode(), metadata.uid(), metadata.gid())
    };
    walk(root).iter().map(|path| (path.strip_prefix(root).unwrap().to_owned(), describe(path))).collect()
}

fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found
}

fn hash(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
