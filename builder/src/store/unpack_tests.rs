use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::super::deb::tests::deb_with;
use super::*;

enum Kind<'a> {
    File(&'a [u8]),
    Directory,
    Link(&'a str),
    Hard(&'a str),
    Device,
}

/// A package with these entries, whose names are put into the headers unchecked.
fn package(entries: &[(&str, u32, Kind<'_>)]) -> tempfile::NamedTempFile {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, mode, kind) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(*mode);
        header.set_mtime(1_000_000_000);
        let mut content: &[u8] = &[];
        let mut link = "";
        header.set_entry_type(match kind {
            Kind::File(bytes) => {
                content = bytes;
                tar::EntryType::Regular
            }
            Kind::Directory => tar::EntryType::Directory,
            Kind::Link(to) => {
                link = to;
                tar::EntryType::Symlink
            }
            Kind::Hard(to) => {
                link = to;
                tar::EntryType::Link
            }
            Kind::Device => tar::EntryType::Char,
        });
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), deb_with(".xz", &builder.into_inner().unwrap())).unwrap();
    file
}

fn unpack(root: &Path, entries: &[(&str, u32, Kind<'_>)]) -> Result<(), StoreError> {
    Deb::open(package(entries).path()).unwrap().unpack(root, Owners::Own)
}

#[test]
fn files_links_modes_and_times_arrive() {
    let root = tempfile::tempdir().unwrap();
    let entries = [
        ("./", 0o755, Kind::Directory),
        ("./usr/", 0o755, Kind::Directory),
        ("./usr/bin/", 0o750, Kind::Directory),
        ("./usr/bin/su", 0o4755, Kind::File(b"su")),
        ("./usr/bin/same", 0o4755, Kind::Hard("./usr/bin/su")),
        ("./usr/bin/link", 0o777, Kind::Link("/usr/bin/su")),
        ("./usr/share/doc/made/on/the/way", 0o644, Kind::File(b"x")),
    ];
    unpack(root.path(), &entries).unwrap();
    unpack(root.path(), &entries).unwrap();
    let at = |path: &str| fs::symlink_metadata(root.path().join(path)).unwrap();
    assert_eq!(at("usr/bin/su").mode() & 0o7777, 0o4755);
    assert_eq!(at("usr/bin/su").ino(), at("usr/bin/same").ino());
    assert_eq!(at("usr/bin").permissions().mode() & 0o7777, 0o750);
    for path in ["usr", "usr/bin", "usr/bin/su", "usr/bin/link"] {
        assert_eq!(at(path).mtime(), if path == "usr" { at("usr").mtime() } else { 1_000_000_000 }, "{path}");
    }
    assert_eq!(fs::read_link(root.path().join("usr/bin/link")).unwrap(), Path::new("/usr/bin/su"));
}

#[test]
fn links_between_directories_are_followed_within_the_root_and_never_out_of_it() {
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(root.path().join("usr/bin")).unwrap();
    symlink("usr/bin", root.path().join("bin")).unwrap();
    unpack(root.path(), &[("bin/", 0o755, Kind::Directory), ("bin/sh", 0o755, Kind::File(b"sh"))]).unwrap();
    assert!(root.path().join("usr/bin/sh").exists());
    assert!(fs::symlink_metadata(root.path().join("bin")).unwrap().is_symlink());

    // A planted link to the outside leads to the same path inside, or nowhere.
    let target = outside.path().to_str().unwrap();
    let result = unpack(root.path(), &[("out", 0o777, Kind::Link(target)), ("out/evil", 0o644, Kind::File(b"x"))]);
    assert!(result.is_err() || root.path().join(target.trim_start_matches('/')).join("evil").exists());
    let up = [("up", 0o777, Kind::Link("../../../../../../../..")), ("up/evil", 0o644, Kind::File(b"x"))];
    unpack(root.path(), &up).unwrap();
    assert!(root.path().join("evil").exists());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn paths_that_climb_devices_and_foreign_hard_links_are_refused() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(outer.path().join("secret"), "s").unwrap();
    for entries in [
        [("../evil", 0o644, Kind::File(b"x"))],
        [("a/../../evil", 0o644, Kind::File(b"x"))],
        [("copy", 0o644, Kind::Hard("../secret"))],
        [("copy", 0o644, Kind::Hard("/etc/passwd"))],
        [("null", 0o666, Kind::Device)],
    ] {
        assert!(unpack(&root, &entries).is_err());
    }
    // An absolute path is one below the root.
    unpack(&root, &[("/etc/hostname", 0o644, Kind::File(b"x"))]).unwrap();
    assert!(root.join("etc/hostname").exists());
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
}

#[test]
fn a_file_replaces_a_link_and_is_not_written_through_it() {
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let victim = outside.path().join("victim");
    fs::write(&victim, "old").unwrap();
    symlink(&victim, root.path().join("conf")).unwrap();
    unpack(root.path(), &[("conf", 0o644, Kind::File(b"new"))]).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "old");
    assert_eq!(fs::read_to_string(root.path().join("conf")).unwrap(), "new");
}
