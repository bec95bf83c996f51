use super::*;
use crate::config::{Document, Format, Machine, load};
use crate::host::RealHost;
use crate::host::simulated::SimulatedHost;
use crate::step::Step;
use crate::step::pulled::{at_every_point, does_what_it_says};

fn files(text: &str) -> Vec<NodeFile> {
    let documents = [Document { name: "f".into(), format: Format::PartToml, bytes: text.as_bytes().to_vec() }];
    load(&documents, &Machine::default()).unwrap().config.files
}

fn machine() -> SimulatedHost {
    let host = SimulatedHost::default();
    host.put("/etc/motd", "the image's\n");
    host.put("/etc/passwd", "root:x:0:0::/root:/bin/sh\nops:x:1000:1001::/home/ops:/bin/sh\n");
    host.put("/etc/group", "root:x:0:\nadm:x:4:\n");
    host.link("/etc/resolv.conf", "../run/stub").unwrap();
    host
}

fn some() -> Vec<NodeFile> {
    files(
        "[[file]]\npath = \"/etc/motd\"\ncontent = \"more\\n\"\nappend = true\n\
         [[file]]\npath = \"/home/ops/new\"\ncontent = \"hunter2\"\nmode = \"0600\"\nowner = \"ops\"\n\
         [[file]]\npath = \"/etc/resolv.conf\"\ncontent = \"nameserver 10.0.0.1\\n\"\nowner = \"root:adm\"\n",
    )
}

#[test]
fn files_are_written_with_owner_and_mode_and_go_again() {
    let host = machine();
    let before = host.disk();
    for _ in 0..3 {
        apply(&host, &some()).unwrap();
        assert_eq!(host.text("/etc/motd"), "the image's\nmore\n", "appending is done once");
    }
    let disk = host.disk();
    assert_eq!((disk.files["/home/ops/new"].1, disk.owners["/home/ops/new"]), (0o600, Ids { uid: 1000, gid: 1001 }));
    assert_eq!(disk.owners["/etc/resolv.conf"], Ids { uid: 0, gid: 4 });
    assert!(!disk.links.contains_key("/etc/resolv.conf"));
    // Appending something else adds to the image's text, not to the former one.
    apply(&host, &files("[[file]]\npath = \"/etc/motd\"\ncontent = \"other\\n\"\nappend = true\n")).unwrap();
    assert_eq!(host.text("/etc/motd"), "the image's\nother\n");
    assert!(!host.exists("/home/ops/new"));
    assert_eq!(host.disk().links["/etc/resolv.conf"], "../run/stub");
    apply(&host, &[]).unwrap();
    assert_eq!(host.disk(), before, "nothing is left");
}

#[test]
fn a_file_of_the_image_is_that_of_the_image_that_runs() {
    const REVEAL: &str = "/var/lib/ingot/etc/reveal";
    let host = machine();
    host.state().image.insert("/etc/motd".into(), "the image's\n".into());
    apply(&host, &some()).unwrap();
    // An upgrade: the node's file hides the newer one.
    host.state().image.insert("/etc/motd".into(), "the newer image's\n".into());
    apply(&host, &some()).unwrap();
    assert_eq!(host.text("/etc/motd"), "the newer image's\nmore\n");
    apply(&host, &[]).unwrap();
    assert_eq!((host.text("/etc/motd").as_str(), host.text(REVEAL).as_str()), ("the newer image's\n", "motd\n"));
    apply(&host, &some()).unwrap();
    assert!(!host.exists(REVEAL), "the node's file stays in the layer");
    // An image without the file.
    host.state().image.clear();
    apply(&host, &[]).unwrap();
    assert!(!host.exists("/etc/motd"));
    let image = || {
        let host = machine();
        host.state().image.insert("/etc/motd".into(), "the image's\n".into());
        host
    };
    at_every_point(image, &[Step::Files(some())]);
    at_every_point(image, &[Step::Files(some()), Step::Files(Vec::new())]);
}

#[test]
fn it_does_what_its_effects_say() {
    does_what_it_says(&machine(), &Step::Files(some()));
}

#[test]
fn the_plug_is_pulled_at_every_point() {
    // The simulated disk counts each operation: a file that is written is 5 (create, write, flush, rename, flush its
    // directory), a link 3, a removal 2. Each of the three files has a record, which is written before.
    const WRITE: u64 = 5;
    const LINK: u64 = 3;
    const REMOVE: u64 = 2;
    assert_eq!(at_every_point(machine, &[Step::Files(some())]), 3 * (WRITE + WRITE));
    let other = files("[[file]]\npath = \"/etc/motd\"\ncontent = \"other\\n\"\nappend = true\n");
    // The new file goes, the link comes back, both with their records; the motd is written again.
    let other = at_every_point(machine, &[Step::Files(some()), Step::Files(other)]);
    assert_eq!(other, (REMOVE + REMOVE) + (LINK + REMOVE) + WRITE);
    let none = at_every_point(machine, &[Step::Files(some()), Step::Files(Vec::new())]);
    assert_eq!(none, (REMOVE + REMOVE) + (LINK + REMOVE) + (WRITE + REMOVE), "the motd is written as it was");
}

#[test]
fn who_does_not_exist_owns_nothing() {
    let host = machine();
    for (owner, expected) in [("web", "there is no user web"), ("ops:gpu", "there is no group gpu")] {
        let text = format!("[[file]]\npath = \"/etc/x\"\ncontent = \"\"\nowner = \"{owner}\"\n");
        let error = apply(&host, &files(&text)).unwrap_err().to_string();
        assert!(error.contains("file /etc/x: ") && error.contains(expected), "{error}");
    }
    assert!(!host.exists("/etc/x"));
}

#[test]
fn a_link_on_the_way_and_a_directory_in_the_place_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let host = RealHost::new(directory.path());
    let me = format!("me:x:{}:{}::/:/bin/sh\n", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    host.write("/etc/passwd", me.as_bytes(), 0o644).unwrap();
    host.write("/srv/kept/x", b"kept", 0o644).unwrap();
    std::os::unix::fs::symlink(directory.path().join("srv/kept"), directory.path().join("home")).unwrap();
    let text = |path: &str| format!("[[file]]\npath = \"{path}\"\ncontent = \"new\"\nowner = \"me\"\n");
    let error = apply(&host, &files(&text("/home/x"))).unwrap_err().to_string();
    assert!(error.contains("/home/x"), "{error}");
    assert_eq!(host.read("/srv/kept/x", 9).unwrap().unwrap(), b"kept");
    let error = apply(&host, &files(&text("/srv/kept"))).unwrap_err().to_string();
    assert!(error.contains("there is a directory"), "{error}");
    apply(&host, &files(&text("/etc/deep/er/x"))).unwrap();
    assert_eq!(host.read("/etc/deep/er/x", 9).unwrap().unwrap(), b"new");
    apply(&host, &[]).unwrap();
    assert!(!host.exists("/etc/deep/er/x"));
}

#[test]
fn a_damaged_record_is_said_and_nothing_is_written() {
    let host = machine();
    apply(&host, &some()).unwrap();
    host.put(&record_of("/etc/motd"), "{");
    let error = apply(&host, &[]).unwrap_err().to_string();
    assert!(error.contains("is damaged"), "{error}");
    assert_eq!(host.text("/etc/motd"), "the image's\nmore\n");
}
