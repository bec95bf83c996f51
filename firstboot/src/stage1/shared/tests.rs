use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n";
const USER: &str = "ops:x:1000:1000::/home/ops:/bin/bash\n";

/// An image's `/etc`, and the node's state.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(machine.state().join("upper/ssl")).unwrap();
        machine
    }

    fn state(&self) -> std::path::PathBuf {
        self.0.path().join("state")
    }

    fn upper(&self, name: &str) -> std::path::PathBuf {
        self.state().join("upper").join(name)
    }

    /// Another image starts.
    fn boot(&self, image: &[(&str, &str)]) -> Vec<String> {
        let etc = self.0.path().join("etc");
        let _ = fs::remove_dir_all(&etc);
        fs::create_dir_all(&etc).unwrap();
        for (name, text) in image {
            fs::write(etc.join(name), text).unwrap();
        }
        settle(&etc, &self.state()).unwrap()
    }

    /// What programs see of a file.
    fn seen(&self, name: &str) -> String {
        let upper = self.upper(name);
        let shown = if upper.exists() { upper } else { self.0.path().join("etc").join(name) };
        fs::read_to_string(shown).unwrap_or_default()
    }
}

#[test]
fn an_account_of_a_newer_image_is_there_and_the_nodes_own_too() {
    let machine = Machine::new();
    let old = [("passwd", PASSWD), ("hosts", "127.0.0.1 localhost\n")];
    assert!(machine.boot(&old).is_empty());
    assert!(!machine.upper("passwd").exists(), "nothing is written where the node has nothing of its own");
    fs::write(machine.upper("passwd"), format!("{PASSWD}{USER}")).unwrap();
    fs::set_permissions(machine.upper("passwd"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(machine.upper("hosts"), "127.0.0.1 localhost\n# ingot: begin\n127.0.1.1 n1\n# ingot: end\n").unwrap();
    let record = |machine: &Machine| fs::metadata(machine.state().join(RECORD)).unwrap().ino();
    let before = record(&machine);
    machine.boot(&old);
    assert_eq!(record(&machine), before, "an ordinary start writes nothing");

    let new_passwd = format!("{PASSWD}prom:x:997:997::/:/usr/sbin/nologin\n");
    let new = [("passwd", new_passwd.as_str()), ("hosts", "127.0.0.1 localhost\nff02::1 all\n")];
    machine.boot(&new);
    assert_eq!(machine.seen("passwd"), format!("{new_passwd}{USER}"));
    assert_eq!(fs::metadata(machine.upper("passwd")).unwrap().mode() & 0o777, 0o640);
    assert!(machine.seen("hosts").starts_with("127.0.0.1 localhost\nff02::1 all\n# ingot: begin\n127.0.1.1 n1\n"));
    // The old slot again, and the user taken out: the image's own file shows.
    machine.boot(&old);
    assert_eq!(machine.seen("passwd"), format!("{PASSWD}{USER}"));
    fs::write(machine.upper("passwd"), PASSWD).unwrap();
    machine.boot(&new);
    assert!(!machine.upper("passwd").exists());
    assert_eq!(machine.seen("passwd"), new_passwd);
}

#[test]
fn what_hides_a_file_of_the_image_goes() {
    let machine = Machine::new();
    std::os::unix::fs::symlink("/dev/null", machine.upper("group")).unwrap();
    fs::create_dir(machine.upper("passwd")).unwrap();
    machine.boot(&[("passwd", PASSWD), ("group", "root:x:0:\n")]);
    assert!(machine.upper("group").symlink_metadata().is_err() && !machine.upper("passwd").exists());
}

#[test]
fn without_a_record_every_account_of_the_node_is_kept() {
    let machine = Machine::new();
    fs::write(machine.upper("passwd"), format!("{PASSWD}{USER}")).unwrap();
    fs::write(machine.state().join(RECORD), "{").unwrap();
    machine.boot(&[("passwd", &format!("{PASSWD}prom:x:997:997::/:/bin/false\n"))]);
    assert_eq!(machine.seen("passwd"), format!("{PASSWD}prom:x:997:997::/:/bin/false\n{USER}"));
}

#[test]
fn a_power_cut_in_the_middle_is_finished_by_either_image() {
    let old = [("passwd", PASSWD), ("group", "root:x:0:\n")];
    let new_passwd = format!("{PASSWD}prom:x:997:997::/:/usr/sbin/nologin\n");
    let new = [("passwd", new_passwd.as_str()), ("group", "root:x:0:\nprom:x:997:\n")];
    let prepared = || {
        let machine = Machine::new();
        machine.boot(&old);
        fs::write(machine.upper("passwd"), format!("{PASSWD}{USER}")).unwrap();
        fs::write(machine.upper("group"), "root:x:0:\nops:x:1000:\n").unwrap();
        machine
    };
    let (before, after) = (prepared(), prepared());
    after.boot(&new);
    // The record is written first, then the files one by one, then the record: each mix of them is what a cut leaves.
    let own = present(&before.state().join("upper")).unwrap();
    let unfinished = Record {
        image: serde_json::from_slice::<Record>(&fs::read(before.state().join(RECORD)).unwrap()).unwrap().image,
        node: Some(own),
    };
    for files in [&[][..], &["group"], &["group", "passwd"]] {
        for next in [&old, &new] {
            let machine = prepared();
            save(&machine.state().join(RECORD), &unfinished).unwrap();
            for name in files {
                fs::copy(after.upper(name), machine.upper(name)).unwrap();
            }
            fs::write(machine.upper("passwd.ingot-new"), "half").unwrap();
            machine.boot(next);
            let wanted = if next[0].1 == PASSWD { &before } else { &after };
            for name in ["passwd", "group"] {
                assert_eq!(machine.seen(name), wanted.seen(name), "{name} after {files:?}");
            }
            let record: Record = serde_json::from_slice(&fs::read(machine.state().join(RECORD)).unwrap()).unwrap();
            assert_eq!((record.node, record.image["passwd"].as_str()), (None, next[0].1));
        }
    }
    let mode = fs::metadata(after.state().join(RECORD)).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_was_given_back_shows_the_images_own_again() {
    let machine = Machine::new();
    fs::write(machine.upper("motd"), "the old image's").unwrap();
    fs::create_dir_all(machine.upper("ssl/certs")).unwrap();
    fs::write(machine.upper("ssl/certs/bundle"), "old").unwrap();
    let outside = machine.0.path().join("outside");
    fs::write(&outside, "kept").unwrap();
    std::os::unix::fs::symlink(machine.0.path(), machine.upper("link")).unwrap();
    fs::write(machine.state().join(REVEAL), "motd\nssl/certs\n../../outside\nlink/outside\n\nabsent\n").unwrap();
    machine.boot(&[("motd", "the new image's")]);
    assert_eq!(machine.seen("motd"), "the new image's");
    assert!(!machine.upper("ssl/certs").exists() && machine.upper("ssl").exists());
    assert!(outside.exists(), "nothing outside the layer is touched");
    assert!(!machine.state().join(REVEAL).exists());
}
