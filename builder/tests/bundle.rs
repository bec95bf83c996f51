//! Sources that are handed over: what is in them, that they are the same each time, that nothing wrong gets in, and that a
//! build from them alone gives the same image.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::context::TestContext;
use crate::context::archive::{Archive, Package};

fn archive() -> Archive {
    Archive::new([Package::kernel("kernel", "1.0"), Package::new("tools", "1"), Package::new("hello", "1.0")])
}

fn files(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for path in fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                open.push(path);
            } else {
                found.push((path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A project with a lock, an artifact from a server and a file of its own, and its exported sources in `sources`.
fn exported(archive: &Archive) -> TestContext {
    let context = TestContext::on(archive, &["hello"]);
    context.lock().succeeded();
    let lock: toml::Value = toml::from_str(&context.read("ingot.lock")).unwrap();
    let hello = lock["package"].as_array().unwrap().iter().find(|p| p["name"].as_str() == Some("hello")).unwrap();
    context.write("profiles/site/local", "a file beside the profile");
    context.write_role(&format!(
        "[packages]\ninclude = [\"hello\"]\n\
         [artifacts.\"/remote\"]\nurl = \"{}/{}\"\nsha256 = {}\n\
         [artifacts.\"/local\"]\npath = \"local\"\nsha256 = \"{}\"\n",
        archive.url(),
        hello["filename"].as_str().unwrap(),
        hello["sha256"],
        hex(b"a file beside the profile")
    ));
    context.ingot(&["bundle", "export", "--sources", "sources", "site/node"]).succeeded();
    context
}

#[test]
fn an_export_has_everything_of_the_lock_and_is_the_same_each_time() {
    let archive = archive();
    let context = exported(&archive);
    let index: serde_json::Value = serde_json::from_str(&context.read("sources/index.json")).unwrap();
    let names: Vec<&str> = index["objects"].as_array().unwrap().iter().map(|o| o["name"].as_str().unwrap()).collect();
    // The artifact is the package itself. What lies beside the profile stays there.
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["hello 1.0", "kernel 1", "tools 1"]);
    assert_eq!(index["releases"][0]["files"][0]["name"], "InRelease");
    assert_eq!(index["keyrings"][0]["path"], "base/keyrings/vendor.pgp");
    assert_eq!(index["sets"], serde_json::json!(["site/node@debian-13", "tools@debian-13"]));
    for (path, content) in files(&context.path("sources/objects")) {
        assert_eq!(path.file_name().unwrap().to_str().unwrap(), hex(&content));
    }
    // The archive moves on, and the lock stays: the release files are those of the lock.
    archive.publish(&crate::context::archive::Release::default());
    context.ingot(&["lock", "--dry-run", "site/node"]).succeeded();
    archive.close();
    context.ingot(&["bundle", "export", "--sources", "again", "site/node"]).succeeded();
    assert_eq!(files(&context.path("sources")), files(&context.path("again")));
    for name in ["one.tar", "two.tar"] {
        context.ingot(&["bundle", "export", "--sources", name]).succeeded();
    }
    assert!(fs::read(context.path("one.tar")).unwrap() == fs::read(context.path("two.tar")).unwrap());
    context
        .ingot(&["bundle", "export", "--sources", "sources"])
        .failed(2, &["sources is there already", "remove it, or name another place"]);
}

#[test]
fn an_export_has_what_kernel_modules_are_built_with() {
    let packages = [Package::kernel("kernel", "1.0"), Package::new("tools", "1"), Package::new("hello", "1.0")];
    let archive = Archive::new(packages.into_iter().chain([Package::new("driver-dkms", "7")]));
    let context = TestContext::on(&archive, &["hello"]);
    context.write_role("[packages]\ninclude = [\"hello\"]\n[dkms]\npackages = [\"driver-dkms\"]\n");
    context.lock().succeeded();
    context.ingot(&["bundle", "export", "--sources", "sources", "site/node"]).succeeded();
    let index: serde_json::Value = serde_json::from_str(&context.read("sources/index.json")).unwrap();
    let sets = ["site/node@debian-13", "site/node@debian-13#dkms", "tools@debian-13"];
    assert_eq!(index["sets"], serde_json::json!(sets));
    let has = |name: &str| index["objects"].as_array().unwrap().iter().any(|object| object["name"] == name);
    assert!(has("driver-dkms 7") && has("hello 1.0"), "{index}");
    let taken = files(&context.path("sources/objects"));
    archive.close();
    context.ingot(&["bundle", "import", "sources", "--cache", "elsewhere"]).succeeded();
    assert_eq!(files(&context.path("elsewhere/store/objects")), taken);
}

#[test]
fn an_import_fills_an_empty_cache_and_takes_nothing_wrong() {
    let archive = archive();
    let context = exported(&archive);
    context.ingot(&["bundle", "export", "--sources", "sources.tar"]).succeeded();
    archive.close();
    let lock = context.read("ingot.lock");
    fs::remove_file(context.path("ingot.lock")).unwrap();
    let objects = files(&context.path("sources/objects"));
    for (from, cache) in [("sources", "a"), ("sources.tar", "b")] {
        context.ingot(&["bundle", "import", from, "--cache", cache]).succeeded();
        assert_eq!(files(&context.path(cache).join("store/objects")), objects);
        assert_eq!(context.read("ingot.lock"), lock);
        // What was exported can be exported again.
        let again = format!("{cache}-again");
        context
            .ingot(&["bundle", "export", "--offline", "--cache", cache, "--sources", &again, "site/node"])
            .succeeded();
        assert_eq!(files(&context.path(&again)), files(&context.path("sources")));
    }

    let import = |code, words: &[&str]| {
        drop(context.ingot(&["bundle", "import", "sources", "--cache", "c"]).failed(code, words));
    };
    let (name, bytes) = objects[0].clone();
    let path = context.path("sources/objects").join(&name);
    fs::write(&path, [&bytes[..], b"more"].concat()).unwrap();
    import(1, &["is damaged: its SHA-256 is", name.file_name().unwrap().to_str().unwrap()]);
    fs::remove_file(&path).unwrap();
    import(1, &["is not a whole bundle", "is missing", "export it anew"]);
    fs::write(&path, bytes).unwrap();
    let index = context.read("sources/index.json");
    context.write("sources/index.json", index.replacen("\"sha256\": \"", "\"sha256\": \"../", 1));
    import(1, &["is no SHA-256"]);
    context.write("sources/index.json", index.replacen("InRelease", "../../x", 1));
    import(1, &["`../../x` is no name of a release file"]);
    context.write("sources/index.json", "{}");
    import(1, &["index.json: missing field"]);

    // An archive with something that its index does not name, and one that ends too early.
    let mut tar = tar::Builder::new(fs::File::create(context.path("odd.tar")).unwrap());
    tar.append_path_with_name(context.path("sources.tar"), "index.json").unwrap();
    tar.finish().unwrap();
    context.ingot(&["bundle", "import", "odd.tar", "--cache", "c"]).failed(1, &["index.json: expected"]);
    let whole = fs::read(context.path("sources.tar")).unwrap();
    context.write("short.tar", &whole[..whole.len() / 2]);
    context.ingot(&["bundle", "import", "short.tar", "--cache", "c"]).failed(1, &["short.tar"]);
    assert!(!context.path("x").exists());
}

#[test]
fn a_build_from_exported_sources_alone_is_the_same_image() {
    let archive = Archive::new([Package::kernel("kernel", "1.0")]);
    let Some(context) = TestContext::bare(&archive, &[]) else { return };
    context.lock().succeeded();
    let with_archive = context.build(&["--json"]).succeeded().json();
    context.ingot(&["bundle", "export", "--sources", "sources", "site/node"]).succeeded();

    // A machine that never saw an archive: an empty cache, and no mirror that answers.
    archive.close();
    let fresh = context.path("fresh");
    let nowhere = "http://127.0.0.1:9/";
    let context = context
        .with_cache(&fresh)
        .with_environment("INGOT_MIRROR_DEBIAN", nowhere)
        .with_environment("INGOT_MIRROR_DEBIAN_SECURITY", nowhere);
    context.build(&["--offline", "--out", "other"]).failed(1, &["not in the store, and --offline forbids fetching"]);
    context.ingot(&["bundle", "import", "sources"]).succeeded();
    let without = context.build(&["--offline", "--out", "other", "--json"]).succeeded().json();
    assert_eq!(without[0]["unchanged"], false);
    assert_eq!(without[0]["sha256"], with_archive[0]["sha256"]);
}
