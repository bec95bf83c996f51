//! `ingot config` and `ingot keys`: on the repository's own profiles.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

const SECRET: &str = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=";
const SITE: &str = "version = 1
timezone = \"UTC\"
[join]
managers = [\"10.77.0.10\"]
secret = \"kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=\"

[[machine]]
match = { serial = \"ABC\" }
hostname = \"w1\"
timezone = \"Europe/Berlin\"
";

struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        site.write("node.toml", SITE);
        site
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    /// The exit code, standard output and standard error.
    fn ingot(&self, arguments: &[&str]) -> (i32, String, String) {
        #[allow(clippy::disallowed_methods)] // the program under test
        let output = Command::new(env!("CARGO_BIN_EXE_ingot"))
            .args(arguments)
            .current_dir(self.0.path())
            .env("INGOT_PROFILES", Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiles"))
            .env("INGOT_CACHE", self.0.path().join("cache"))
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    fn good(&self, arguments: &[&str]) -> String {
        let (code, output, errors) = self.ingot(arguments);
        assert_eq!(code, 0, "{arguments:?}: {output}{errors}");
        assert!(!output.contains(SECRET) && !errors.contains(SECRET), "{arguments:?} shows the secret");
        output
    }

    fn bad(&self, arguments: &[&str], expected: &str) {
        let (code, output, errors) = self.ingot(arguments);
        assert_eq!(code, 2, "{arguments:?}: {output}{errors}");
        assert!(errors.contains(expected), "{arguments:?}: {errors:?} lacks {expected:?}");
    }
}

#[test]
fn each_value_is_explained_with_its_place_and_what_it_overrides() {
    let site = Site::new();
    let text = site.good(&["config", "explain", "node.toml", "--role", "quickstart/worker", "--machine", "serial=abc"]);
    for expected in [
        "hostname = \"w1\"",
        "# node.toml:9:12",
        "join.secret = (secret)",
        "profiles/quickstart/worker.toml:",
        "overridden:\ntimezone = \"UTC\"",
        "# node.toml:2:12, by node.toml:10:12",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
    let json = site.good(&["--json", "config", "explain", "node.toml", "--role", "quickstart/worker"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["overridden"], serde_json::json!([]));
    site.bad(&["config", "explain", "node.toml"], "join.driver: is missing");
    site.bad(&["config", "explain", "node.toml", "--machine", "name=x"], "write mac=ADDRESS");
    site.bad(&["config", "explain", "absent.toml"], "absent.toml: No such file");
}

#[test]
fn a_plan_shows_files_units_and_join_requests_of_one_machine() {
    let site = Site::new();
    let text = site.good(&["config", "plan", "node.toml", "--role", "quickstart/worker", "--machine", "serial=ABC"]);
    for expected in [
        "write /etc/hostname (mode 0644)\n        w1\n",
        "link /etc/localtime -> ../usr/share/zoneinfo/Europe/Berlin",
        "run systemctl start docker.service",
        "POST /swarm/join",
        "\"JoinToken\":\"(secret)\"",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
    let json = site.good(&["--json", "config", "plan", "node.toml", "--role", "quickstart/worker"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["steps"][0]["name"], "hostname");
    assert!(json["steps"][0]["effects"].as_array().unwrap().iter().any(|effect| effect["path"] == "/etc/hostname"));
    site.bad(&["config", "plan", "node.toml", "--role", "quickstart/workr"], "quickstart/worker");
}

#[test]
fn cloud_inits_documents_are_checked_with_file_line_and_column() {
    let site = Site::new();
    site.write("network-config", "version: 2\nethernets:\n  eth0:\n    dhcp4: true\n");
    site.write("my-user-data.yaml", "#cloud-config\ntimezone: Europe/Rome\n");
    site.write("vendor_data.json", "{\"cloud-init\": \"#cloud-config\\nntp: {servers: [10.0.0.9]}\\n\"}");
    site.write("meta_data.json", "{\"hostname\": \"w8\"}");
    site.write("network_data.json", "{\"links\": [], \"networks\": [], \"services\": []}");
    let files = ["vendor_data.json", "meta_data.json", "my-user-data.yaml"];
    let text = site.good(&[&["config", "explain", "node.toml"][..], &files, &["--role", "quickstart/worker"]].concat());
    for expected in ["hostname = \"w8\"", "timezone = \"Europe/Rome\"", "10.0.0.9"] {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
    for file in ["network-config", "network_data.json"] {
        site.good(&["config", "check", file]);
    }
    site.write("network-config", "version: 2\nethernets:\n  eth0:\n    dhcp9: true\n");
    let (_, output, errors) = site.ingot(&["config", "check", "network-config"]);
    assert!(errors.contains("network-config:4:5"), "{output}{errors}");
}

#[test]
fn what_is_read_is_bounded_and_never_waited_for() {
    let site = Site::new();
    let fifo = site.0.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    for file in ["fifo", "/dev/zero", "."] {
        site.bad(&["config", "check", file], "is no regular file; give a file, or - for standard input");
    }
    std::fs::File::create(site.0.path().join("huge")).unwrap().set_len(1 << 40).unwrap();
    site.bad(&["config", "check", "huge"], "is larger than 1 MiB");
}

#[test]
fn a_machine_that_nothing_names_is_said_and_gates_are_in_the_plan() {
    let site = Site::new();
    let arguments = ["config", "plan", "node.toml", "--role", "quickstart/worker", "--machine", "serial=ABD"];
    let (code, _, errors) = site.ingot(&arguments);
    assert_eq!(code, 0, "{errors}");
    assert!(errors.contains("no [[machine]] matches serial ABD") && errors.contains("serial ABC"), "{errors}");
    let (_, _, errors) = site.ingot(&[&arguments[..6], &["serial=abc"]].concat());
    assert!(!errors.contains("no [[machine]]"), "{errors}");
    site.write("gates.toml", "[join]\nafter = [{ tcp = \"10.77.0.20:5432\" }]\n");
    let text = site.good(&["config", "plan", "node.toml", "gates.toml", "--role", "quickstart/worker"]);
    let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what:?} is not in:\n{text}"));
    assert!(place("gate: waits for tcp 10.77.0.20:5432") < place("\njoin: "), "{text}");
}

#[test]
fn a_sample_is_for_its_role_and_refused_until_it_is_filled_in() {
    let site = Site::new();
    let sample = site.good(&["config", "sample", "quickstart/worker"]);
    assert!(sample.contains("# role = \"worker\"    # the role's own: profiles/quickstart/worker.toml:"), "{sample}");
    site.write("sample.toml", &sample);
    site.bad(&["config", "check", "sample.toml", "--role", "quickstart/worker"], "join.secret: is a sample");
    let line = sample.lines().find(|line| line.starts_with("secret = ")).unwrap();
    site.write("sample.toml", &sample.replace(line, &format!("secret = \"{SECRET}\"")));
    assert_eq!(site.good(&["config", "check", "sample.toml", "--role", "quickstart/worker"]), "sample.toml is valid\n");
}

#[test]
fn the_schema_is_the_published_one() {
    let site = Site::new();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let published = |name: &str| std::fs::read_to_string(docs.join(name)).unwrap();
    assert_eq!(site.good(&["config", "schema"]), published("node.schema.json"));
    assert_eq!(site.good(&["config", "schema", "--markdown"]), published("node-keys.md"));
}

#[test]
fn secrets_are_sealed_to_a_site_and_checked_without_its_key() {
    let site = Site::new();
    let printed = site.good(&["keys", "generate", "berlin", "--kind", "config"]);
    assert_eq!(printed, "./berlin.key\n./berlin.pub\n");
    let permissions = std::fs::metadata(site.0.path().join("berlin.key")).unwrap().permissions().mode();
    assert_eq!(permissions & 0o777, 0o600);
    let public = site.good(&["keys", "show", "berlin.key"]);
    assert!(public.starts_with("ingot-config-public-v1:"), "{public}");
    assert_eq!(site.good(&["keys", "show", "berlin.pub"]), public);
    site.bad(&["keys", "generate", "berlin", "--kind", "config"], "never written over");
    site.bad(&["keys", "generate", "../x", "--kind", "config"], "a name has letters");
    site.bad(&["keys", "show", "node.toml"], "is not a config key");

    site.bad(
        &["config", "seal", "node.toml", "--role", "quickstart/worker", "--to", "berlin.key"],
        "is not a config key",
    );
    site.bad(&["config", "seal", "node.toml", "--to", "berlin.pub"], "node.toml:3:1: join.driver: is missing");
    let role = ["--role", "quickstart/worker"];
    let sealed = site
        .good(&[&["config", "seal", "node.toml"], &role[..], &["--to", "berlin.pub", "--out", "sealed.toml"]].concat());
    assert_eq!(sealed, "sealed.toml: 1 secrets sealed\n");
    let text = std::fs::read_to_string(site.0.path().join("sealed.toml")).unwrap();
    assert!(text.contains("secret = \"enc:v1:") && !text.contains(SECRET), "{text}");
    assert!(text.contains("timezone = \"UTC\"\n[join]\n"), "the rest stays as it is: {text}");
    assert_eq!(site.good(&["config", "check", "sealed.toml", "--role", "quickstart/worker"]), "sealed.toml is valid\n");
    site.good(&["config", "plan", "sealed.toml", "--role", "quickstart/worker"]);
    site.write("cut.toml", &text.replacen("enc:v1:A", "enc:v1:", 1));
    site.bad(&["config", "check", "cut.toml"], "cut.toml:5:10: join.secret: is not a whole sealed value");
}
