//! Archives that cannot be trusted or do not have what is asked for, profiles and locks that are wrong: all of it is
//! said before anything is installed.

use crate::context::TestContext;
use crate::context::archive::{Archive, Package, Release};

fn archive(more: impl IntoIterator<Item = Package>) -> Archive {
    let basic = [Package::kernel("kernel", "1.0"), Package::new("tools", "1"), Package::new("hello", "1.0")];
    Archive::new(basic.into_iter().chain(more))
}

#[test]
fn a_lock_is_made_and_the_second_changes_nothing() {
    let archive = archive([]);
    let context = TestContext::on(&archive, &["hello"]);
    let outcome = context.lock().succeeded();
    assert!(outcome.stdout.contains("site/node@debian-13: new, 2 packages"), "{}", outcome.stdout);
    let lock = context.read("ingot.lock");
    context.lock().succeeded();
    assert_eq!(context.read("ingot.lock"), lock);
    context.ingot(&["lock", "--check", "site/node"]).succeeded();
}

#[test]
fn a_signature_of_a_stranger_is_refused() {
    let archive = archive([]);
    archive.publish(&Release { by_a_stranger: true, ..Release::default() });
    let context = TestContext::on(&archive, &["hello"]);
    context.lock().failed(1, &["vendor", "is signed by", "none of which is in keyring", "vendor.pgp"]);
    assert!(!context.path("ingot.lock").exists());
}

#[test]
fn a_changed_release_file_is_refused() {
    let archive = archive([]);
    archive.change("InRelease", |file| {
        let text = String::from_utf8(file.content.clone()).unwrap();
        file.content = text.replace("Origin: Test", "Origin: Evil").into_bytes();
    });
    TestContext::on(&archive, &["hello"]).lock().failed(1, &["the signature of", "vendor", "is wrong"]);
}

#[test]
fn an_expired_release_file_is_refused() {
    let archive = archive([]);
    archive.publish(&Release { valid_for: Some(3600), ..Release::default() });
    let context = TestContext::on(&archive, &["hello"]);
    context.lock().succeeded();
    archive.publish(&Release { valid_for: Some(-3600), ..Release::default() });
    context.lock().failed(1, &["vendor", "was valid until", "clock"]);
}

#[test]
fn an_archive_that_goes_back_in_time_is_refused_until_it_is_accepted() {
    let archive = archive([]);
    let context = TestContext::on(&archive, &["hello"]);
    archive.publish(&Release { days_old: 1, ..Release::default() });
    context.lock().succeeded();
    let lock = context.read("ingot.lock");
    archive.publish(&Release { days_old: 2, ..Release::default() });
    let words = ["vendor test is dated", "that this host saw last", "--mirror vendor=URL", "--allow-rollback"];
    context.lock().failed(1, &words);
    // The lock says so too, to a host that has seen nothing yet.
    std::fs::remove_dir_all(context.cache()).unwrap();
    context.lock().failed(1, &["vendor test is dated", "that the lock was made from", "--allow-rollback"]);
    assert_eq!(context.read("ingot.lock"), lock);
    context.ingot(&["lock", "--allow-rollback", "site/node"]).succeeded();
    assert_ne!(context.read("ingot.lock"), lock);
    context.lock().succeeded();
}

#[test]
fn a_release_file_with_weak_digests_is_refused() {
    let archive = archive([]);
    archive.publish(&Release { weak: true, ..Release::default() });
    TestContext::on(&archive, &["hello"])
        .lock()
        .failed(1, &["vendor", "no SHA256 section", "leave the repository out"]);
}

/// The path of a snapshot some days ago.
fn days_ago(days: u64) -> &'static str {
    #[allow(clippy::disallowed_methods)] // a snapshot must be later than what it holds
    let time = std::time::SystemTime::now() - std::time::Duration::from_hours(24 * days);
    format!("{}/", moment(time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs())).leak()
}

/// The id of the snapshot of a moment, in seconds since 1970.
fn moment(seconds: u64) -> String {
    let text = httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds));
    let words: Vec<&str> = text.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|month| *month == words[2]).unwrap() + 1;
    format!("{}{month:02}{}T{}Z", words[3], words[1], words[4].replace(':', ""))
}

#[test]
fn a_snapshot_is_locked_and_built_from_its_own_place() {
    let archive = archive([]);
    let context = TestContext::on(&archive, &["hello"]);
    context.lock().succeeded();
    let live = context.read("ingot.lock");
    let place = days_ago(10);
    let id = place.trim_end_matches('/');
    archive.publish(&Release { days_old: 11, valid_for: Some(-86_400), place, ..Release::default() });
    context.ingot(&["lock", "--snapshot", id, "site/node"]).failed(2, &[id, "no repository", "`snapshot_url`"]);
    context.ingot(&["lock", "--snapshot", "yesterday", "site/node"]).failed(2, &[]);
    let base = context.read("profiles/base/debian-13.toml");
    let with = |line: &str| {
        base.replacen("url = ", &format!("snapshot_url = \"{}/${{snapshot}}\"\n{line}url = ", archive.url()), 1)
    };
    context.write("profiles/base/debian-13.toml", with(""));
    // By the option, for once: older by intention, and expired since.
    context.ingot(&["lock", "--snapshot", id, "site/node"]).succeeded();
    let lock = context.read("ingot.lock");
    assert!(lock.contains(&format!("snapshot = \"{id}\"")) && lock.contains(&format!("vendor = \"{id}\"")), "{lock}");
    context.build(&["--plan"]).succeeded();
    context.ingot(&["lock", "--snapshot", id, "--check", "site/node"]).succeeded();
    context.lock().succeeded();
    assert_eq!(context.read("ingot.lock"), live, "a snapshot leaves nothing behind");
    // By the profile: the lock is of that profile.
    context.write("profiles/base/debian-13.toml", with(&format!("snapshot = \"{id}\"\n")));
    context.build(&["--plan"]).failed(2, &["the lock is older than the profile"]);
    context.lock().succeeded();
    context.build(&["--plan"]).succeeded();
    // An update stays at that moment, and sources that are handed over have its release files.
    context.ingot(&["lock", "--update", "hello", "site/node"]).succeeded();
    std::fs::remove_dir_all(context.path("cache/store/releases/by-hash")).unwrap();
    context.ingot(&["bundle", "export", "--sources", "sources", "site/node"]).succeeded();
    let index: serde_json::Value = serde_json::from_str(&context.read("sources/index.json")).unwrap();
    assert_eq!(
        (&index["releases"][0]["snapshot"], &index["releases"][0]["files"][0]["name"]),
        (&id.into(), &"InRelease".into())
    );
    // Packages come from there too.
    archive.close();
    archive.publish(&Release { days_old: 11, place, ..Release::default() });
    let outcome = context.build(&[]);
    assert!(!outcome.stderr.contains("cannot fetch"), "{}", outcome.stderr);
    let mirror = format!("vendor={}", archive.url());
    context.ingot(&["--mirror", &mirror, "lock", "site/node"]).failed(1, &[id, "has no ${snapshot} in it"]);
    context.write("profiles/base/debian-13.toml", with("snapshot = \"2026-11-01\"\n"));
    context.lock().failed(2, &["debian-13.toml", "repositories.vendor.snapshot", "YYYYMMDDTHHMMSSZ"]);
}

#[test]
fn an_unsigned_answer_is_no_release_file() {
    let archive = archive([]);
    archive.change("InRelease", |file| file.content = b"<html>Please log in</html>".to_vec());
    TestContext::on(&archive, &["hello"]).lock().failed(1, &["is not a signed release file", "login page"]);
}

#[test]
fn an_index_that_is_not_the_promised_one_is_refused() {
    let archive = archive([]);
    archive.change("by-hash", |file| file.content[40] ^= 1);
    archive.change("Packages.xz", |file| file.content[40] ^= 1);
    TestContext::on(&archive, &["hello"]).lock().failed(1, &["Packages", "SHA-256"]);
}

#[test]
fn a_package_that_is_not_there_is_named_with_the_nearest() {
    let archive = archive([]);
    let context = TestContext::on(&archive, &["helo"]);
    context.lock().failed(2, &["helo", "hello"]);
}

#[test]
fn packages_that_exclude_each_other_are_named_with_the_reason() {
    let archive = archive([
        Package::new("left", "1").field("Depends", "shared (= 1)"),
        Package::new("right", "1").field("Depends", "shared (= 2)"),
        Package::new("shared", "1"),
        Package::new("shared", "2"),
    ]);
    let context = TestContext::on(&archive, &["left", "right"]);
    context.lock().failed(2, &["left", "right", "shared (= 1)", "shared (= 2)"]);
}

#[test]
fn pins_that_cannot_be_met_are_named_with_the_reason() {
    let archive = archive([
        Package::new("engine", "2").field("Depends", "runtime (>= 2)"),
        Package::new("runtime", "1"),
        Package::new("runtime", "2"),
    ]);
    let context = TestContext::on(&archive, &["engine"]);
    context.write_role("[packages]\ninclude = [\"engine\"]\n[packages.pins]\nruntime = \"1\"\n");
    context.lock().failed(2, &["engine", "runtime (>= 2)", "pin"]);
    context.write_role("[packages]\ninclude = [\"engine\"]\n[packages.pins]\nruntime = \"3.*\"\n");
    context.lock().failed(2, &["runtime", "3.*"]);
}

#[test]
fn a_lock_older_than_the_profile_is_refused() {
    let archive = archive([Package::new("more", "1")]);
    let context = TestContext::on(&archive, &["hello"]);
    context.build(&["--plan"]).failed(2, &["there is no lock", "ingot lock"]);
    context.lock().succeeded();
    context.write_role("[packages]\ninclude = [\"hello\", \"more\"]\n");
    context
        .build(&["--plan"])
        .failed(2, &["the lock is older than the profile of `site/node@debian-13`", "ingot lock"]);
    context.ingot(&["lock", "--check", "site/node"]).failed(1, &["ingot.lock is out of date"]);
    context.lock().succeeded();
    context.build(&["--plan"]).succeeded();
}

#[test]
fn a_lock_changed_by_hand_is_refused_with_the_place() {
    let archive = archive([]);
    let context = TestContext::on(&archive, &["hello"]);
    context.lock().succeeded();
    let lock = context.read("ingot.lock");
    context.write("ingot.lock", lock.replacen("sha256 = \"", "sha256 = \"../", 1));
    let line = lock.lines().position(|line| line.starts_with("sha256")).unwrap() + 1;
    context.build(&["--plan"]).failed(2, &[&format!("ingot.lock:{line}:"), "ingot lock"]);
    context.write("ingot.lock", lock.replacen("size = ", "sizes = ", 1));
    context.build(&["--plan"]).failed(2, &["ingot.lock:", "unknown field `sizes`"]);
    // Another package under the same name: what is served no longer fits.
    context.write("ingot.lock", lock.replace("pool/hello_1.0_all.deb", "pool/tools_1_all.deb"));
    context.build(&[]).failed(1, &["hello", "bytes instead of"]);
}

#[test]
fn an_unknown_key_is_shown_with_place_and_nearest_key() {
    let archive = archive([]);
    let context = TestContext::on(&archive, &["hello"]);
    context.write_role("[packages]\ninclud = [\"hello\"]\n");
    let outcome = context.lock().failed(2, &["profiles/site/node.toml:3:1", "includ", "did you mean `include`?"]);
    insta::assert_snapshot!(context.filtered(&outcome.stderr));
    context.ingot(&["build", "site/nod"]).failed(2, &["there is no profile site/nod", "did you mean `site/node`?"]);
}

#[test]
fn a_package_changed_on_its_way_is_refused() {
    let archive = archive([]);
    let context = TestContext::on(&archive, &["hello"]);
    context.lock().succeeded();
    archive.change("pool/hello", |file| file.content[200] ^= 1);
    context.build(&[]).failed(1, &["hello", "its SHA-256 is", "the file was changed"]);
    // Put right, nothing of the wrong one is left.
    archive.change("pool/hello", |file| file.content[200] ^= 1);
    let outcome = context.build(&[]);
    assert!(!outcome.stderr.contains("SHA-256"), "{}", outcome.stderr);
}

#[test]
fn a_download_that_breaks_off_is_named_and_taken_up_again() {
    let archive = archive([]);
    let context = TestContext::on(&archive, &["hello"]);
    context.lock().succeeded();
    archive.change("pool/hello", |file| file.cut = Some(100));
    context.build(&[]).failed(1, &["hello", "byte 100", "attempts"]);
    let left = std::fs::read_dir(context.cache().join("store/partial")).unwrap().flatten();
    assert_eq!(left.map(|entry| entry.metadata().unwrap().len()).max(), Some(100), "the part that came is kept");
    archive.change("pool/hello", |file| file.cut = None);
    let outcome = context.build(&[]);
    assert!(!outcome.stderr.contains("cannot fetch"), "{}", outcome.stderr);
}

#[test]
fn a_package_gone_from_the_archive_is_named() {
    let archive = archive([]);
    let context = TestContext::on(&archive, &["hello"]);
    context.lock().succeeded();
    archive.close();
    context.build(&[]).failed(1, &["cannot fetch", "404", "Run `ingot lock`", "--mirror NAME=URL"]);
}

#[test]
fn a_package_gone_from_the_archive_is_fetched_from_its_past() {
    let archive = archive([]);
    let context = TestContext::on(&archive, &["hello"]);
    let base = context.read("profiles/base/debian-13.toml");
    let past = format!("snapshot_url = \"{}/past/${{snapshot}}\"\nurl = ", archive.url());
    context.write("profiles/base/debian-13.toml", base.replacen("url = ", &past, 1));
    context.lock().succeeded();
    let lock: toml::Table = context.read("ingot.lock").parse().unwrap();
    let date = u64::try_from(lock["release"][0]["date"].as_integer().unwrap()).unwrap();
    let place: &'static str = format!("past/{}/", moment(date + 3600)).leak();
    archive.close();
    archive.publish(&Release { place, ..Release::default() });
    let outcome = context.build(&[]);
    assert!(!outcome.stderr.contains("cannot fetch"), "{}", outcome.stderr);
    let objects = walkdir(&context.cache().join("store/objects"));
    for package in lock["package"].as_array().unwrap() {
        let hash = package["sha256"].as_str().unwrap();
        assert!(objects.iter().any(|name| name == hash), "{hash} was not fetched");
    }
}

/// Names of all files below a directory.
fn walkdir(directory: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        if entry.path().is_dir() {
            names.extend(walkdir(&entry.path()));
        } else {
            names.push(entry.file_name().into_string().unwrap());
        }
    }
    names
}

#[test]
fn offline_names_what_is_missing() {
    let archive = archive([]);
    let context = TestContext::on(&archive, &["hello"]);
    context.ingot(&["lock", "--offline", "site/node"]).failed(1, &["vendor", "--offline forbids"]);
    context.lock().succeeded();
    context.build(&["--offline"]).failed(1, &["hello", "kernel", "tools", "not in the store, and --offline forbids"]);
    // The indexes are there, so resolving again needs no network.
    archive.close();
    context.ingot(&["lock", "--offline", "--check", "site/node"]).succeeded();
}

#[test]
fn where_packages_come_from_must_be_known() {
    let archive = archive([]);
    let context = TestContext::on(&archive, &["hello"]);
    let base = context.read("profiles/base/debian-13.toml");
    context.write(
        "profiles/base/debian-13.toml",
        base.lines().filter(|line| !line.starts_with("url")).map(|line| format!("{line}\n")).collect::<String>(),
    );
    context.lock().failed(1, &["no mirror is known for repository `vendor`", "--mirror vendor=URL"]);
    let mirror = format!("vendor={}", archive.url());
    context.ingot(&["--mirror", &mirror, "lock", "site/node"]).succeeded();
}
