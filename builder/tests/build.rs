//! A build from the first to the last step, what of it is done again and when, and what other programs say of the image.

use std::fs;
use std::path::Path;

use crate::context::{FORMS, TestContext, program};

/// Names of the steps that are to be done.
fn to_do(context: &TestContext, more: &[&str]) -> Vec<String> {
    let plan = context.build(&[&["--plan", "--json"], more].concat()).succeeded().json();
    let steps = plan[0]["steps"].as_array().unwrap();
    steps.iter().filter(|step| step["cached"] == false).map(|step| step["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_role_is_built_once_and_then_only_what_changed() {
    let Some(context) = TestContext::small() else { return };
    insta::assert_snapshot!("plan", context.filtered(&context.build(&["--plan"]).succeeded().stdout));
    let plan = context.build(&["--plan", "--json"]).succeeded().stdout;
    insta::assert_snapshot!("plan_json", context.filtered(&plan));
    assert_eq!(to_do(&context, &FORMS), ["tools", "install", "seal", "kernel", "image", "publish"]);

    let first = context.build(&FORMS).succeeded();
    assert!(first.stdout.starts_with("built  out/small.raw  sha256:"), "{}", first.stdout);
    let hash = first.stdout.trim().rsplit(':').next().unwrap().to_owned();
    let files: Vec<String> = names(&context.path("out"));
    assert_eq!(files, ["small.manifest.json", "small.qcow2", "small.raw", "small.raw.bmap", "small.raw.zst"]);
    assert_eq!(to_do(&context, &FORMS), [""; 0]);
    peers_accept(&context);

    // Nothing changed: no step runs, and no file is written.
    let before = modified(&context.path("out/small.raw"));
    let second = context.build(&FORMS).succeeded();
    assert_eq!(second.stdout, first.stdout.replace("built", "unchanged"));
    assert_eq!(second.stderr, "", "no step runs");
    assert_eq!(modified(&context.path("out/small.raw")), before);

    // Another directory: the image is written from the cache, without a network.
    let other = context.build(&["--offline", "--out", "other"]).succeeded();
    assert!(other.stdout.ends_with(&format!("sha256:{hash}\n")), "{}", other.stdout);
    assert_eq!(other.stderr, "assembling the image\n");

    // One file of an overlay.
    let file = "overlays/node/etc/hosts";
    let old = context.read(file);
    context.write(file, format!("{old}10.0.0.1 registry\n"));
    assert_eq!(to_do(&context, &[]), ["seal", "kernel", "image", "publish"]);
    let changed = context.build(&[]).succeeded();
    assert!(!changed.stdout.contains(&hash), "{}", changed.stdout);
    let steps = [
        "sealing the root",
        "writing the root file system",
        "hashing the root file system",
        "packing the initrd",
        "assembling the image",
    ];
    assert_eq!(changed.stderr.lines().collect::<Vec<_>>(), steps);

    // And back again.
    context.write(file, old);
    assert_eq!(to_do(&context, &FORMS), ["image", "publish"]);
    let back = context.build(&FORMS).succeeded();
    assert_eq!(back.stdout, first.stdout);

    // A file of the result that is gone, or was cut short, is made again.
    fs::remove_file(context.path("out/small.qcow2")).unwrap();
    fs::File::options().write(true).open(context.path("out/small.raw")).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(context.build(&FORMS).succeeded().stdout, first.stdout);
}

fn modified(path: &Path) -> std::time::SystemTime {
    path.metadata().unwrap().modified().unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

/// The programs that others check such things with find nothing wrong.
fn peers_accept(context: &TestContext) {
    let manifest: serde_json::Value = serde_json::from_str(&context.read("out/small.manifest.json")).unwrap();
    let raw = context.path("out/small.raw");
    let part = |name: &str| {
        let partitions = manifest["layout"]["partitions"].as_array().unwrap();
        let part = partitions.iter().find(|part| part["name"] == name).unwrap();
        let number = |key: &str| part[key].as_u64().unwrap();
        let target = context.path(&format!("{name}.img"));
        copy_range(&raw, number("start"), number("size"), &target);
        target
    };
    if let Some(mut sfdisk) = program("sfdisk") {
        accepted(sfdisk.arg("--verify").arg(&raw));
    }
    if let Some(mut fsck) = program("fsck.fat") {
        accepted(fsck.arg("-n").arg(part("esp")));
    }
    let (root, tree) = (part("root-a"), part("verity-a"));
    let hash = manifest["root"]["root_hash"].as_str().unwrap();
    if let Some(mut veritysetup) = program("veritysetup") {
        accepted(veritysetup.arg("verify").args([&root, &tree]).arg(hash));
    }
    if let Some(mut dissect) = program("systemd-dissect") {
        // Older versions cannot check without mounting.
        if dissect.arg("--help").output().is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("--validate")) {
            accepted(program("systemd-dissect").unwrap().arg("--validate").arg(&raw));
        }
    }
    if let Some(mut qemu_img) = program("qemu-img") {
        accepted(qemu_img.args(["compare", "-f", "raw", "-F", "qcow2"]).arg(&raw).arg(context.path("out/small.qcow2")));
    }
    if let Some(mut zstd) = program("zstd") {
        let unpacked = context.path("unpacked.raw");
        accepted(zstd.args(["-q", "-d", "-o"]).arg(&unpacked).arg(context.path("out/small.raw.zst")));
        assert!(fs::read(&unpacked).unwrap() == fs::read(&raw).unwrap(), "the compressed image is not the raw one");
    }
    accepted(context.tool("fsck.erofs").arg(&root));
    let files = context.extract_root();
    assert!(files.join("usr/lib/ingot/firstboot").is_file());
    assert_eq!(fs::read_to_string(files.join("etc/machine-id")).unwrap(), "");
}

fn accepted(command: &mut std::process::Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} says:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn copy_range(from: &Path, start: u64, size: u64, to: &Path) {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = fs::File::open(from).unwrap();
    file.seek(SeekFrom::Start(start)).unwrap();
    std::io::copy(&mut file.take(size), &mut fs::File::create(to).unwrap()).unwrap();
}

#[test]
fn a_profile_is_explained_with_the_place_of_every_value() {
    let Some(context) = TestContext::small() else { return };
    let text = context.build(&["--explain-profile"]).succeeded().stdout;
    for line in ["profiles/small.toml:5", "profiles/parts/node.toml", "profiles/base/debian-13.toml"] {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
    let kernel = text.lines().find(|line| line.starts_with("kernel.package ")).unwrap();
    let words: Vec<&str> = kernel.split_whitespace().collect();
    assert_eq!(words, ["kernel.package", "=", "\"linux-image-cloud-amd64\"", "#", "profiles/small.toml:5"]);
}
