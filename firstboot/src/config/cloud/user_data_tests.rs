use crate::config::{Document, Format, Loaded, Machine, load};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDI2sNZwkdbcFhWEiUQbY2Dtz0J+EHqO1sUVUyTMaHuB ops@site";

fn try_load(text: &str) -> Result<Loaded, String> {
    let role =
        Document { name: "role".into(), format: Format::RoleToml, bytes: b"[run]\nallow_commands = true\n".to_vec() };
    let document = Document { name: "user-data".into(), format: Format::UserData, bytes: text.as_bytes().to_vec() };
    load(&[role, document], &Machine::default()).map_err(|error| error.to_string())
}

fn read(text: &str) -> Loaded {
    try_load(&format!("#cloud-config\n{text}")).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn warnings(loaded: &Loaded) -> String {
    loaded.warnings.iter().map(|warning| format!("{warning}\n")).collect()
}

fn refuses(text: &str, expected: &str) {
    let error = try_load(&format!("#cloud-config\n{text}")).expect_err(text);
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
}

fn hostname(text: &str) -> Option<String> {
    read(text).config.hostname.map(|name| name.to_string())
}

#[test]
fn plain_keys_keep_their_places() {
    let loaded = read(&format!(
        "hostname: w1\nfqdn: w1.lan\ntimezone: Europe/Berlin\nssh_authorized_keys:\n  - {KEY}\nntp:\n  servers: [10.0.0.1]\n  \
         pools: [pool.example.org]\n  enabled: true\n"
    ));
    assert_eq!(warnings(&loaded), "");
    let config = &loaded.config;
    assert_eq!(config.hostname.as_ref().unwrap().as_str(), "w1.lan");
    assert_eq!(config.ntp.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1", "pool.example.org"]);
    assert_eq!(config.ssh_keys.len(), 1);
    let place = loaded.origins.iter().find(|value| value.key == "hostname").unwrap();
    assert_eq!(place.origin.to_string(), "user-data:3:7");
}

#[test]
fn names_follow_what_the_document_prefers() {
    assert_eq!(hostname("hostname: w1\nfqdn: w1.lan\n").unwrap(), "w1.lan");
    assert_eq!(hostname("hostname: w1\nfqdn: w1.lan\nprefer_fqdn_over_hostname: false\n").unwrap(), "w1");
    assert_eq!(hostname("fqdn: w2.lan\nprefer_fqdn_over_hostname: false\n").unwrap(), "w2");
    assert_eq!(hostname("fqdn: w2.lan\nprefer_fqdn_over_hostname: true\n").unwrap(), "w2.lan");
    assert_eq!(hostname("hostname: w1\npreserve_hostname: true\n"), None);
    assert_eq!(hostname("hostname: w1\npreserve_hostname: 'no'\n").unwrap(), "w1");
    assert_eq!(hostname("hostname:\n"), None, "nothing is no name");
    refuses("hostname: a_b\n", "user-data:2:11: hostname");
    refuses("preserve_hostname: 7\n", "not true or false");
}

#[test]
fn keys_without_effect_are_named_and_needless_ones_noted() {
    let loaded = read(
        "packages: [vim]\ngrowpart: {mode: auto}\nssh_pwauth: false\nlocale: C.UTF-8\nntp: {peers: [x]}\nhostnme: x\n",
    );
    let text = warnings(&loaded);
    assert!(text.contains("user-data:2:1: packages: has no effect (the image is immutable"), "{text}");
    assert!(text.contains("user-data:6:7: ntp.peers: has no effect"), "{text}");
    assert!(
        text.contains(
            "user-data:7:1: hostnme: is no key of cloud-config and has no effect (did you mean \"hostname\"?)"
        ),
        "{text}"
    );
    assert_eq!(loaded.warnings.len(), 3, "{text}");
    assert_eq!(loaded.notes.len(), 1);
    assert!(loaded.notes[0].to_string().contains("growpart: needs nothing"), "{:?}", loaded.notes);
    assert!(warnings(&read("ssh_pwauth: true\n")).contains("ssh_pwauth: has no effect (an appliance has no passwords"));
}

#[test]
fn users_become_users() {
    let loaded = read(&format!(
        "users:\n- default\n- name: ops\n  gecos: Ops\n  groups: docker, adm\n  sudo: ALL=(ALL) NOPASSWD:ALL\n  \
         shell: /bin/bash\n  uid: '1500'\n  homedir: /srv/ops\n  lock_passwd: true\n  ssh_authorized_keys: [{KEY}]\n- dev\n\
         - name: root\n  ssh_authorized_keys: [{KEY}]\n"
    ));
    assert_eq!(warnings(&loaded), "");
    let users = &loaded.config.users;
    assert_eq!(users.iter().map(|user| user.name.to_string()).collect::<Vec<_>>(), ["ops", "dev"]);
    let ops = &users[0];
    assert_eq!((ops.comment.as_str(), ops.uid, ops.home().as_str()), ("Ops", Some(1500), "/srv/ops"));
    assert_eq!(ops.groups.iter().map(ToString::to_string).collect::<Vec<_>>(), ["docker", "adm"]);
    assert_eq!(ops.sudo[0].to_string(), "ALL=(ALL) NOPASSWD:ALL");
    assert_eq!((ops.authorized_keys.len(), loaded.config.ssh_keys.len()), (1, 1));
}

#[test]
fn the_default_user_may_have_another_name() {
    for text in [
        format!("user: ops\nssh_authorized_keys: [{KEY}]\n"),
        format!("user: {{name: ops}}\nssh_authorized_keys: [{KEY}]\n"),
    ] {
        let config = read(&text).config;
        assert_eq!((config.users[0].name.as_str(), config.users[0].authorized_keys.len()), ("ops", 1));
        assert_eq!(config.ssh_keys.len(), 1);
    }
    let config = read("users: 'ops, dev'\ngroups:\n- gpu: [ops]\n- docker: ops, dev\n").config;
    assert_eq!(config.users.len(), 2);
    assert_eq!(config.users[0].groups.len(), 2);
    let loaded = read("users: [ops]\ngroups: [empty, {other: [nobody]}]\n");
    assert_eq!(warnings(&loaded).matches("names a group without such a member").count(), 2);
}

#[test]
fn passwords_are_refused_and_never_repeated() {
    for text in [
        "users: [{name: ops, plain_text_passwd: hunter2}]\n",
        "password: hunter2\n",
        "chpasswd: {list: ['ops:hunter2']}\n",
        "chpasswd: {users: [{name: ops, password: hunter2, type: text}]}\n",
    ] {
        let error = try_load(&format!("#cloud-config\n{text}")).expect_err(text);
        assert!(error.contains("no passwords") && !error.contains("hunter2"), "{error}");
    }
    let loaded = read("users: [{name: ops, passwd: $6$hunter2, lock_passwd: false}]\n");
    let text = warnings(&loaded);
    assert!(text.contains("users[].passwd: has no effect") && text.contains("users[].lock_passwd"), "{text}");
    assert!(!text.contains("hunter2"));
}

#[test]
fn wrong_users_are_named() {
    refuses("users: {ops: {}}\n", "is a mapping, not a list");
    refuses("users: [7]\n", "is a whole number, not a user");
    refuses("users: [{groups: a}]\n", "users[].name: is missing");
    refuses("users: [{name: 7}]\n", "users[].name: is missing, or no text");
    refuses("users: [{name: Ops}]\n", "is no name of a user");
    refuses("users: [{name: ops, uid: x}]\n", "uid: is a text, not a whole number");
    refuses("ssh_authorized_keys: x\n", "is a text, not a list");
    let text = warnings(&read("users: [{name: ops, nme: x}, {name: root, shell: /bin/sh}]\n"));
    assert!(
        text.contains("did you mean \"name\"?") && text.contains("users[].shell: has no effect for root"),
        "{text}"
    );
}

#[test]
fn files_are_written_in_every_encoding() {
    // `printf hi | gzip -n | base64`, and the same of cloud-init's names.
    let gz = "H4sIAAAAAAAAA8vIBACsKpPYAgAAAA==";
    let loaded = read(&format!(
        "write_files:\n- {{path: /etc/a, content: hi, owner: 'root:adm', permissions: '0600', append: true, defer: true}}\n\
         - {{path: /etc/b, content: aGk=, encoding: b64, permissions: 0640}}\n\
         - {{path: /etc/c, content: {gz}, encoding: gz+b64, permissions: '0o755'}}\n\
         - {{path: /etc/d, content: {gz}, encoding: gzip}}\n- {{path: /etc/e}}\n\
         - path: /etc/f\n  content: !!binary aGk=\n"
    ));
    assert_eq!(warnings(&loaded), "");
    let files = &loaded.config.files;
    let contents: Vec<_> = files.iter().map(|file| String::from_utf8_lossy(&file.content.0).into_owned()).collect();
    assert_eq!(contents, ["hi", "hi", "hi", "hi", "", "hi"]);
    let modes: Vec<_> = files.iter().map(|file| file.mode).collect();
    assert_eq!(modes, [0o600, 0o640, 0o755, 0o644, 0o644, 0o644]);
    assert!(files[0].append && files[0].owner.as_ref().unwrap().to_string() == "root:adm");
    assert!(!format!("{:?}", loaded.origins).contains("aGk="), "contents may be secret");
}

#[test]
fn wrong_files_are_named_and_their_contents_are_not() {
    refuses("write_files: [{path: /usr/bin/x}]\n", "/usr cannot be written");
    refuses("write_files: [{path: ../etc/x}]\n", "not an absolute path");
    refuses("write_files: [{content: hunter2}]\n", "path: is missing");
    refuses("write_files: [{path: /etc/x, content: '!', encoding: b64}]\n", "not valid base64");
    refuses("write_files: [{path: /etc/x, content: aGk=, encoding: gz}]\n", "not whole gzip");
    refuses("write_files: [{path: /etc/x, encoding: rot13}]\n", "an encoding that cloud-init does not have");
    refuses("write_files: [{path: /etc/x, permissions: [1]}]\n", "write it in quotes");
    refuses("write_files: [{path: /etc/x, permissions: '4755'}]\n", "set-user-id");
    refuses("write_files: [7]\n", "is a whole number, not a mapping");
    let error = try_load("#cloud-config\nwrite_files: [{path: /usr/x, content: hunter2}]\n").unwrap_err();
    assert!(!error.contains("hunter2"));
    assert!(
        warnings(&read("write_files: [{path: /etc/x, source: {uri: 'http://x/'}}]\n")).contains("nothing is fetched")
    );
}

#[test]
fn certificates_ssh_and_commands_are_carried_over() {
    let pem = crate::config::ca::tests::pem(1).replace('\n', "\n    ");
    let loaded = read(&format!(
        "ca_certs:\n  remove_defaults: true\n  trusted:\n  - |\n    {pem}\ndisable_root: true\nssh_keys:\n  ed25519_private: |\n    \
         -----BEGIN OPENSSH PRIVATE KEY-----\n    kV0lmS1T\n    -----END OPENSSH PRIVATE KEY-----\n\
         users: [{{name: ops, ssh_authorized_keys: [{KEY}]}}]\n\
         runcmd:\n- echo a\n- [echo, 7, \"it's\"]\n- null\nbootcmd: [[cloud-init-per, once, x, 'true']]\n"
    ));
    assert_eq!(warnings(&loaded), "");
    let config = &loaded.config;
    assert!(config.ca.only && config.ca.certificates.len() == 1);
    assert!(!config.ssh.root_login && config.ssh.host_keys.len() == 1);
    let scripts: Vec<_> = config.run.first.iter().map(crate::config::Command::script).collect();
    assert_eq!(scripts, ["echo a\n'echo' '7' 'it'\\''s'"], "one script, in which the first of them is not the last");
    assert_eq!(config.run.boot.len(), 1);
    assert!(!format!("{:?} {config:?}", loaded.origins).contains("kV0lmS1T"));
    assert!(!format!("{:?}", loaded.origins).contains("echo a"), "commands may hold secrets");
    assert!(warnings(&read("disable_root: true\n")).contains("nobody can log in"));
    let old = read(&format!(
        "ca-certs: {{remove-defaults: false, trusted: [\"{}\"]}}\n",
        crate::config::ca::tests::pem(2).replace('\n', "\\n")
    ));
    assert!(!old.config.ca.only && old.config.ca.certificates.len() == 1);
    // A role that allows nothing refuses them.
    let document =
        Document { name: "u".into(), format: Format::UserData, bytes: b"#cloud-config\nruncmd: [reboot]\n".to_vec() };
    let error = load(&[document], &Machine::default()).unwrap_err().to_string();
    assert!(error.contains("u:2:9: run.first: this role runs no commands of a configuration"), "{error}");
}

#[test]
fn a_list_of_commands_is_one_script_as_cloud_init_makes_it() {
    let script = |list: &str| read(&format!("runcmd:\n{list}")).config.run.first.remove(0).script().to_owned();
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display();
    // A directory, a variable and a failure hold for what comes after them, or do not.
    let text = script(&format!("- cd {place}\n- x=\"it's\"\n- 'false'\n- [mkdir, a b]\n- echo \"$x\" > 'a b/c'\n"));
    crate::process::run("sh", &["-c", &text], std::time::Duration::from_secs(10)).unwrap();
    assert_eq!(std::fs::read_to_string(directory.path().join("a b/c")).unwrap(), "it's\n");
    assert!(read("runcmd: []\nbootcmd: [null]\n").config.run.first.is_empty());
    for (list, expected) in [
        ("[7]", "runcmd[0]: is a whole number"),
        ("[echo a, []]", "runcmd[1]: is an empty list"),
        ("[[hunter2, true]]", "runcmd[0]: has true or false as an argument"),
        ("['']", "run.first[0]: is empty"),
    ] {
        let error = try_load(&format!("#cloud-config\nruncmd: {list}\n")).unwrap_err();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{error:?} lacks {expected:?}");
    }
}

#[test]
fn a_later_part_replaces_keys_and_a_node_toml_wins() {
    let text = "Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/cloud-config\n\n\
                ntp: {servers: [a], pools: [b]}\nhostname: one\ntimezone: UTC\n\
                --x\nContent-Type: text/cloud-config\n\nntp: {servers: [c]}\nhostname: two\n\
                --x\nContent-Type: text/plain\n\n#ingot-config\nhostname = \"three\"\n--x--\n";
    let loaded = try_load(text).unwrap();
    assert_eq!(loaded.config.ntp.iter().map(ToString::to_string).collect::<Vec<_>>(), ["c"]);
    assert_eq!(loaded.config.hostname.unwrap().as_str(), "three");
    assert_eq!(loaded.config.timezone.unwrap().as_str(), "UTC");
    let place = loaded.origins.iter().find(|value| value.key == "ntp").unwrap();
    assert_eq!(place.origin.to_string(), "user-data, part 2:1:6");
    refuses("merge_how: list(append)\n", "merge_how: is refused");
}

#[test]
fn user_data_lies_above_vendor_data_and_that_above_meta_data() {
    let document = |name: &str, format, text: &str| Document { name: name.into(), format, bytes: text.into() };
    let meta = document("m", Format::MetaData, "local-hostname: m\n");
    let vendor = document("v", Format::VendorData, "#cloud-config\nhostname: v\ntimezone: UTC\n");
    let user = document("u", Format::UserData, "#cloud-config\nhostname: u\n");
    let name =
        |documents: &[Document]| load(documents, &Machine::default()).unwrap().config.hostname.unwrap().to_string();
    assert_eq!(name(&[meta.clone(), vendor.clone()]), "v");
    assert_eq!(name(&[meta.clone(), vendor.clone(), user.clone()]), "u");
    let config = load(&[meta, vendor, user], &Machine::default()).unwrap().config;
    assert_eq!(config.timezone.unwrap().as_str(), "UTC");
}

#[test]
fn what_is_wrong_has_its_place() {
    for (text, expected) in [
        ("#cloud-config\nhostname: [\n", "is not valid YAML"),
        ("#cloud-config\n- a\n", "user-data:2:1: is a list, not a mapping"),
        ("#cloud-config\nntp: 7\n", "user-data:2:6: ntp: is a whole number, not a mapping"),
        ("#cloud-config\nntp: {servers: 7}\n", "ntp.servers: is a whole number, not a list"),
        ("#ingot-config\nhostnme = 1\n", "user-data:2:1: hostnme: unknown key"),
    ] {
        let error = try_load(text).expect_err(text);
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
}

proptest::proptest! {
    #[test]
    fn any_mapping_gives_a_configuration_or_errors(
        lines in proptest::collection::vec(
            proptest::sample::select(vec![
                "users:", "user:", "groups:", "write_files:", "ca_certs:", "ntp:", "runcmd:", "ssh_keys:", "ssh_authorized_keys:",
                "- a", "- name: a", "  groups: [a, b]", "  groups: {a: null}", "- path: /etc/a", "  content: a", "  encoding: gz",
                "  servers: [a]", "  trusted: [a]", "- [a, 1]", "  sudo: false", "  - a: [b]", "  a: b", "- null", "hostname: a",
                "disable_root: x", "fqdn: 7", "- default", "  uid: '7'", "swap: {size: 1}", "mounts: [[a, b]]",
            ]),
            0..12,
        )
    ) {
        let _ = try_load(&format!("#cloud-config\n{}\n", lines.join("\n")));
    }
}
