use super::*;
use crate::config::{Document, Format, Machine, load};
use crate::host::simulated::SimulatedHost;
use crate::step::Step;
use crate::step::pulled::{at_every_point, does_what_it_says};

fn ssh(text: &str) -> Ssh {
    let documents = [Document { name: "f".into(), format: Format::PartToml, bytes: text.as_bytes().to_vec() }];
    load(&documents, &Machine::default()).unwrap().config.ssh
}

fn keys() -> Ssh {
    let key =
        |body: &str| format!("\"-----BEGIN OPENSSH PRIVATE KEY-----\\n{body}\\n-----END OPENSSH PRIVATE KEY-----\"");
    ssh(&format!(
        "[ssh]\nroot_login = false\n[ssh.host_keys]\ned25519_private = {}\nrsa_private = {}\n\
         ed25519_public = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDI2sNZwkdbcFhWEiUQbY2Dtz0J+EHqO1sUVUyTMaHuB\"\n",
        key("QQ"),
        key("Qg")
    ))
}

fn machine() -> SimulatedHost {
    let host = SimulatedHost::default();
    host.put("/usr/bin/ssh-keygen", "");
    host
}

#[test]
fn host_keys_and_roots_login_are_set_and_undone() {
    let host = machine();
    let before = host.disk();
    apply(&host, &keys()).unwrap();
    assert_eq!(
        host.text(SETTINGS),
        "# Written by Ingot's first boot.\nPermitRootLogin no\nHostKey /etc/ssh/ssh_host_rsa_key\n"
    );
    let disk = host.disk();
    assert_eq!(disk.files["/etc/ssh/ssh_host_ed25519_key"].1, 0o600);
    assert_eq!(disk.files["/etc/ssh/ssh_host_ed25519_key.pub"].1, 0o644);
    assert!(host.state().commands.contains(&"systemctl --no-block try-reload-or-restart ssh.service".into()));
    assert!(!format!("{:?}", host.state().commands).contains("PRIVATE"), "no key is an argument");
    apply(&host, &Ssh::default()).unwrap();
    assert_eq!(host.disk(), before);
    let commands = host.state().commands.len();
    apply(&host, &Ssh::default()).unwrap();
    assert_eq!(host.state().commands.len(), commands, "nothing is run when there is nothing to undo");
}

#[test]
fn a_key_that_cannot_be_read_does_not_stay() {
    let host = machine();
    host.state().failing = vec!["ssh-keygen"];
    let error = apply(&host, &keys()).unwrap_err().to_string();
    assert!(error.contains("ssh.host_keys.ed25519_private: ssh-keygen cannot read it"), "{error}");
    assert!(!host.exists("/etc/ssh/ssh_host_ed25519_key"));
}

#[test]
fn it_does_what_its_effects_say() {
    does_what_it_says(&machine(), &Step::Ssh(keys()));
}

#[test]
fn the_plug_is_pulled_at_every_point() {
    // The simulated disk counts each operation: a file that is written is 5 (create, write, flush, rename, flush its
    // directory), a removal 2, and none where nothing is there; a program is 3 (before, in the middle, after).
    const WRITE: u64 = 5;
    const REMOVE: u64 = 2;
    const RUN: u64 = 3;
    // The list, two private keys that ssh-keygen reads, a public one, the settings, two programs, the list.
    let set = at_every_point(machine, &[Step::Ssh(keys())]);
    assert_eq!(set, WRITE + 2 * (WRITE + RUN) + WRITE + WRITE + 2 * RUN + WRITE);
    // The list, two private keys and a public one, the settings, two programs, the list.
    let undone = at_every_point(machine, &[Step::Ssh(keys()), Step::Ssh(Ssh::default())]);
    assert_eq!(undone, WRITE + 3 * REMOVE + REMOVE + 2 * RUN + REMOVE);
}

#[test]
fn a_real_key_is_read_by_the_real_program() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key").to_string_lossy().into_owned();
    if crate::process::run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", &file], PATIENCE).is_err() {
        println!("skipped: there is no ssh-keygen");
        return;
    }
    let (private, public) =
        (std::fs::read_to_string(&file).unwrap(), std::fs::read_to_string(format!("{file}.pub")).unwrap());
    let ssh =
        ssh(&format!("[ssh.host_keys]\ned25519_private = '''{private}'''\ned25519_public = \"{}\"\n", public.trim()));
    let key = &ssh.host_keys[&HostKeyType::Ed25519];
    std::fs::write(&file, key.private.expose()).unwrap();
    let output = crate::process::run("ssh-keygen", &["-y", "-P", "", "-f", &file], PATIENCE).unwrap();
    let words = |text: &str| text.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&String::from_utf8_lossy(&output)), words(&key.public.as_ref().unwrap().to_string()));
}
