use super::*;
use crate::config::{Document, Format, Machine, load};
use crate::host::simulated::SimulatedHost;
use crate::step::Step;
use crate::step::pulled::{at_every_point, does_what_it_says};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDI2sNZwkdbcFhWEiUQbY2Dtz0J+EHqO1sUVUyTMaHuB a";

fn users(text: &str) -> Vec<User> {
    let documents = [Document { name: "f".into(), format: Format::PartToml, bytes: text.as_bytes().to_vec() }];
    load(&documents, &Machine::default()).unwrap().config.users
}

fn machine() -> SimulatedHost {
    let host = SimulatedHost::default();
    host.put("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\n");
    host.put("/etc/group", "root:x:0:\ndaemon:x:1:\nshadow:x:42:\ndocker:x:999:\n");
    host.put("/etc/shadow", "root:*:19000:0:99999:7:::\ndaemon:*:::::::\n");
    host.put("/etc/gshadow", "root:*::\ndaemon:!::\nshadow:!::\ndocker:!::\n");
    host.put("/etc/skel/.profile", "# profile\n");
    for program in ["/bin/bash", "/usr/bin/sudo"] {
        host.put(program, "");
    }
    host
}

fn two() -> Vec<User> {
    users(&format!(
        "[[user]]\nname = \"ops\"\ncomment = \"Ops\"\ngroups = [\"docker\", \"gpu\"]\nsudo = true\nauthorized_keys = [\"{KEY}\"]\n\
         [[user]]\nname = \"dev\"\nuid = 1000\nhome = \"/srv/dev\"\nshell = \"/bin/bash\"\n"
    ))
}

fn unfit(host: &SimulatedHost, text: &str, expected: &str) {
    let error = apply(host, &users(text)).unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
}

#[test]
fn users_can_log_in_with_keys_and_with_nothing_else() {
    let host = machine();
    apply(&host, &two()).unwrap();
    let passwd = host.text("/etc/passwd");
    assert!(
        passwd.ends_with("ops:x:1001:1001:Ops:/home/ops:/bin/bash\ndev:x:1000:1000::/srv/dev:/bin/bash\n"),
        "{passwd}"
    );
    assert!(host.text("/etc/group").contains("docker:x:999:ops\n"));
    assert!(host.text("/etc/group").ends_with("ops:x:1001:\ndev:x:1000:\ngpu:x:1002:ops\n"));
    assert!(host.text("/etc/shadow").ends_with("ops:*:::::::\ndev:*:::::::\n"));
    assert!(host.text("/etc/gshadow").contains("docker:!::ops\n"));
    assert_eq!(host.text("/etc/ssh/authorized_keys.d/ops"), format!("{KEY}\n"));
    assert!(host.text("/etc/sudoers.d/90-ingot").ends_with("ops ALL=(ALL:ALL) NOPASSWD:ALL\n"));
    let disk = host.disk();
    assert_eq!((disk.files["/etc/shadow"].1, disk.owners["/etc/shadow"]), (0o640, Ids { uid: 0, gid: 42 }));
    assert_eq!(disk.directories["/home/ops"], (0o750, Ids { uid: 1001, gid: 1001 }));
    assert_eq!(disk.owners["/srv/dev/.profile"], Ids { uid: 1000, gid: 1000 });
    assert_eq!(host.state().commands, ["visudo -c -q -f /run/ingot/sudoers"]);
}

#[test]
fn another_configuration_takes_out_what_the_first_put_in() {
    let host = machine();
    let before = host.disk();
    apply(&host, &two()).unwrap();
    // A user that stays keeps its number, whatever stands before it.
    apply(&host, &users("[[user]]\nname = \"aaa\"\n[[user]]\nname = \"ops\"\n")).unwrap();
    let passwd = host.text("/etc/passwd");
    assert!(passwd.contains("ops:x:1001:1001:") && !passwd.contains("dev:"), "{passwd}");
    assert!(!host.text("/etc/group").contains("gpu") && host.text("/etc/group").contains("docker:x:999:\n"));
    assert!(!host.exists("/etc/sudoers.d/90-ingot") && !host.exists("/etc/ssh/authorized_keys.d/ops"));
    apply(&host, &[]).unwrap();
    for file in ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"] {
        assert_eq!(host.text(file), String::from_utf8_lossy(&before.files[file].0), "{file}");
    }
    assert!(host.disk().directories.contains_key("/home/ops"), "people's data stay");
}

#[test]
fn another_image_costs_a_user_neither_its_number_nor_its_password() {
    let host = machine();
    apply(&host, &two()).unwrap();
    let by_hand = host.text("/etc/shadow").replace("ops:*:", "ops:$y$j9T$hash:");
    host.put("/etc/shadow", &by_hand);
    // A newer image has an account more; stage1 has put the node's own onto its files.
    let passwd = host.text("/etc/passwd").replace("daemon:", "prom:x:997:997::/:/usr/sbin/nologin\ndaemon:");
    host.put("/etc/passwd", &passwd);
    apply(&host, &two()).unwrap();
    let names = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(names(&host.text("/etc/passwd")), names(&passwd));
    assert_eq!(names(&host.text("/etc/shadow")), names(&by_hand));
    // An image whose own account has a number that was the user's.
    for (file, line, expected) in [
        ("/etc/passwd", "agent:x:1001:7::/:/bin/sh", "the number 1001 is that of agent; that was this user's before"),
        ("/etc/group", "agent:x:1001:", "the number 1001 of its group is that of another group"),
    ] {
        let host = machine();
        apply(&host, &two()).unwrap();
        let kept: String =
            host.text(file).lines().filter(|line| !line.starts_with("ops:")).map(|line| format!("{line}\n")).collect();
        host.put(file, &format!("{kept}{line}\n"));
        let before = host.disk();
        let error = apply(&host, &two()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(host.disk(), before, "nothing is written, and the former image's start puts it back");
    }
}

#[test]
fn what_does_not_fit_the_image_is_said_and_nothing_is_changed() {
    let host = machine();
    let before = host.disk();
    unfit(&host, "[[user]]\nname = \"daemon\"\n", "user daemon: the image has a user or a group of this name");
    unfit(&host, "[[user]]\nname = \"docker\"\n", "the image has a user or a group of this name");
    unfit(&host, "[[user]]\nname = \"ops\"\nshell = \"/bin/zsh\"\n", "the image has no shell /bin/zsh");
    assert_eq!(host.disk(), before);
    host.put("/etc/passwd", "a:x:1500:1:::\n");
    unfit(&host, "[[user]]\nname = \"ops\"\nuid = 1500\n", "the number 1500 is that of a");
    host.remove("/usr/bin/sudo").unwrap();
    unfit(&host, "[[user]]\nname = \"ops\"\nsudo = true\n", "add the package sudo");
    host.put("/usr/bin/sudo", "");
    host.state().failing = vec!["visudo"];
    unfit(&host, "[[user]]\nname = \"ops\"\nsudo = [\"ALL=ALL\"]\n", "visudo");
    assert!(!host.exists("/etc/sudoers.d/90-ingot"), "a rule that sudo does not take never goes live");
    host.state().failing.clear();
    host.make_directory_as("/home/dev", 0o755, Ids { uid: 4000, gid: 4000 }).unwrap();
    unfit(&host, "[[user]]\nname = \"dev\"\n", "/home/dev belongs to the number 4000");
    host.put("/home/web", "");
    unfit(&host, "[[user]]\nname = \"web\"\n", "/home/web is no directory");
}

#[test]
fn it_does_what_its_effects_say() {
    does_what_it_says(&machine(), &Step::Users(two()));
}

#[test]
fn the_plug_is_pulled_at_every_point() {
    assert!(at_every_point(machine, &[Step::Users(two())]) > 30);
    let other = users("[[user]]\nname = \"aaa\"\ngroups = [\"gpu\"]\n[[user]]\nname = \"ops\"\n");
    assert!(at_every_point(machine, &[Step::Users(two()), Step::Users(other)]) > 30);
    assert!(at_every_point(machine, &[Step::Users(two()), Step::Users(Vec::new())]) > 20);
}

#[test]
fn sudo_reads_the_rules() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sudoers");
    std::fs::write(&file, "ops ALL=(ALL:ALL) NOPASSWD:ALL\n").unwrap();
    match crate::process::run("visudo", &["-c", "-q", "-f", &file.to_string_lossy()], PATIENCE) {
        Ok(_) => {}
        Err(crate::process::ProcessError::Start { .. }) => println!("skipped: there is no visudo"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_systems_own_programs_read_the_accounts() {
    // `pwck` and `grpck` of the image's shadow tools judge the files.
    let host = machine();
    // Members are looked up among this machine's users, so there are none.
    apply(&host, &users("[[user]]\nname = \"ops\"\nsudo = true\n[[user]]\nname = \"dev\"\nuid = 1000\n")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    for name in ["passwd", "shadow", "group", "gshadow"] {
        std::fs::write(path(name), host.text(&format!("/etc/{name}"))).unwrap();
    }
    for (program, first, second) in [("pwck", "passwd", "shadow"), ("grpck", "group", "gshadow")] {
        // Home directories and shells of these accounts are not on this machine, which pwck only warns of.
        match crate::process::run(program, &["-r", "-q", &path(first), &path(second)], PATIENCE) {
            Ok(_) => {}
            Err(crate::process::ProcessError::Start { .. }) => println!("skipped: there is no {program}"),
            Err(error) => panic!("{error}"),
        }
    }
}
