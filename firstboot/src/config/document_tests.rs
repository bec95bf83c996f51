use super::*;

const SECRET: &str = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=";

fn document(name: &str, format: Format, text: &str) -> Document {
    Document { name: name.into(), format, bytes: text.as_bytes().to_vec() }
}

fn machine(mac: &str) -> Machine {
    Machine { macs: [mac.parse().unwrap()].into(), serial: Some("SN-1".into()), uuid: None }
}

const SITE: &str = r#"version = 1
ntp = ["10.0.0.1"]
[join]
driver = "docker-swarm"
role = "worker"
managers = ["10.77.0.10"]
secret = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s="

[[machine]]
match = { mac = "52:54:00:00:00:01" }
hostname = "m1"
[machine.join]
role = "manager"

[[machine]]
match = { serial = "sn-1" }
timezone = "Europe/Berlin"
"#;

#[test]
fn machine_parts_are_laid_over_their_document() {
    let documents = [document("node.toml", Format::NodeToml, SITE)];
    let first = load(&documents, &machine("52:54:00:00:00:01")).unwrap();
    assert_eq!(first.config.hostname.unwrap().as_str(), "m1");
    assert_eq!(first.config.timezone.unwrap().as_str(), "Europe/Berlin");
    assert_eq!(first.machines, 2);
    let Some(crate::config::System::DockerSwarm(swarm)) = first.config.join.map(|join| join.system) else { panic!() };
    assert_eq!(swarm.role, crate::config::SwarmRole::Manager);
    assert_eq!(swarm.managers.len(), 1);
    let other = load(&documents, &machine("52:54:00:00:00:02")).unwrap();
    assert_eq!(other.config.hostname, None);
}

#[test]
fn later_documents_win_over_machine_parts_of_earlier_ones() {
    let documents = [
        document("role", Format::PartToml, "[join]\ndriver = \"docker-swarm\"\nrole = \"worker\"\n"),
        document("node.toml", Format::NodeToml, SITE),
        document("mac.toml", Format::PartToml, "hostname = \"over\"\n"),
    ];
    let loaded = load(&documents, &machine("52:54:00:00:00:01")).unwrap();
    assert_eq!(loaded.config.hostname.unwrap().as_str(), "over");
    let of = |key: &str| loaded.origins.iter().find(|explained| explained.key == key).unwrap();
    assert_eq!(of("hostname").origin.to_string(), "mac.toml:1:12");
    assert_eq!(of("join.driver").origin.to_string(), "node.toml:4:10");
    assert_eq!(of("join.role").origin.to_string(), "node.toml:13:8");
    assert_eq!(of("join.secret").value, "(secret)");
    assert!(!format!("{:?}", loaded.origins).contains(SECRET));
}

#[test]
fn what_lost_is_named_with_what_it_lost_against() {
    let documents = [
        document(
            "role",
            Format::PartToml,
            "timezone = \"UTC\"\n[join]\ndriver = \"docker-swarm\"\nrole = \"worker\"\n",
        ),
        document("node.toml", Format::NodeToml, SITE),
        document("more.toml", Format::PartToml, "[[network]]\nmatch = { name = \"en*\" }\n"),
        document(
            "mac.toml",
            Format::PartToml,
            "[[network]]\nmatch = { name = \"eth*\" }\n[join]\nsecret = \"ZXhhbXCp0bGUgb3RoZXIgY2x1c3RlciBrZXkh0a1S7qw=\"\n",
        ),
    ];
    let loaded = load(&documents, &machine("52:54:00:00:00:01")).unwrap();
    let lost: Vec<String> = loaded
        .overridden
        .iter()
        .map(|lost| format!("{} = {} ({}) < {}", lost.value.key, lost.value.value, lost.value.origin, lost.by))
        .collect();
    assert_eq!(
        lost,
        [
            "join.driver = \"docker-swarm\" (role:3:10) < node.toml:4:10",
            "join.role = \"worker\" (role:4:8) < node.toml:13:8",
            "join.role = \"worker\" (node.toml:5:8) < node.toml:13:8",
            "join.secret = (secret) (node.toml:7:10) < mac.toml:4:10",
            "network[0].match.name = \"en*\" (more.toml:2:18) < mac.toml:2:18",
            "timezone = \"UTC\" (role:1:12) < node.toml:17:12",
        ]
    );
    assert!(!format!("{:?}", loaded.overridden).contains(SECRET));
}

#[test]
fn a_machine_is_named_by_what_is_known_of_it() {
    let named: MachineMatch = "mac=52-54-00-00-00-01,serial=sn-1".parse().unwrap();
    assert!(named.matches(&machine("52:54:00:00:00:01")) && !named.matches(&machine("52:54:00:00:00:02")));
    for bad in ["", "mac", "mac=x", "serial=", "name=x", "mac=52:54:00:00:00:01,"] {
        assert!(bad.parse::<MachineMatch>().is_err(), "{bad}");
    }
}

#[test]
fn a_missing_version_is_an_error_in_node_toml_only() {
    let error =
        load(&[document("node.toml", Format::NodeToml, "hostname = \"a\"\n")], &Machine::default()).unwrap_err();
    assert!(error.to_string().contains("version: is missing (write `version = 1`"), "{error}");
    load(&[document("role", Format::PartToml, "hostname = \"a\"\n")], &Machine::default()).unwrap();
}

#[test]
fn errors_in_another_machines_part_do_not_stop_this_one_but_check_finds_them() {
    let text = "version = 1\n[[machine]]\nmatch = { serial = \"x\" }\nhostname = \"a_b\"\n";
    let documents = [document("node.toml", Format::NodeToml, text)];
    assert!(load(&documents, &machine("52:54:00:00:00:01")).is_ok());
    let error = check(&documents).unwrap_err();
    assert_eq!(error.problems.len(), 1, "said once: {error}");
    assert!(error.to_string().starts_with("node.toml:4:12: hostname: \"a_b\""), "{error}");
}

#[test]
fn machine_parts_must_say_for_whom() {
    for (part, expected) in [
        ("hostname = \"a\"", "machine[0].match: is missing"),
        ("match = {}", "matches no machine"),
        ("match = { mac = \"x\" }", "is not a MAC"),
        ("match = { mc = \"52:54:00:00:00:01\" }", "did you mean \"mac\"?"),
        ("match = { serial = \"a\" }\nversion = 1", "machine[0].version: does not belong"),
    ] {
        let text = format!("version = 1\n[[machine]]\n{part}\n");
        let error = check(&[document("f", Format::NodeToml, &text)]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
}

#[test]
fn check_accepts_a_part_and_says_what_it_leaves_open() {
    let text = format!("version = 1\n[join]\nmanagers = [\"10.77.0.10\"]\nsecret = \"{SECRET}\"\n");
    let documents = [document("node.toml", Format::NodeToml, &text)];
    let checked = check(&documents).unwrap();
    assert!(checked.others.unwrap_err().to_string().contains("join.driver: is missing"));
    let checked = check(&[document("node.toml", Format::NodeToml, SITE)]).unwrap();
    assert_eq!(checked.machines.len(), 2);
    assert!(checked.others.is_ok());
}

#[test]
fn strict_makes_warnings_errors() {
    let cloud = document("user-data", Format::UserData, "#cloud-config\npackages: [vim]\ngrowpart: {mode: auto}\n");
    let loaded = load(std::slice::from_ref(&cloud), &Machine::default()).unwrap();
    assert_eq!((loaded.warnings.len(), loaded.notes.len()), (1, 1));
    let strict = document("node.toml", Format::NodeToml, "version = 1\nstrict = true\n");
    let error = load(&[cloud, strict], &Machine::default()).unwrap_err();
    assert!(error.to_string().contains("packages: has no effect"), "{error}");
    assert_eq!(error.problems.len(), 1, "what needs nothing is no error: {error}");
}

#[test]
fn a_document_keeps_its_bytes_and_hides_them() {
    let document = document("f", Format::NodeToml, SITE);
    assert!(!format!("{document:?}").contains(SECRET));
    let text = serde_json::to_string(&document).unwrap();
    assert_eq!(serde_json::from_str::<Document>(&text).unwrap(), document);
}

proptest::proptest! {
    #[test]
    fn load_and_check_never_panic(
        lines in proptest::collection::vec(
            proptest::sample::select(vec![
                "version = 1", "hostname = \"a\"", "hostname = 3", "[join]", "driver = \"docker-swarm\"",
                "role = \"manager\"", "role = []", "secret = \"x\"", "[[machine]]", "match = { mac = \"52:54:00:00:00:01\" }",
                "match = 1", "[[network]]", "[[machine.network]]", "addresses = [\"10.0.0.2/24\"]", "network = 1",
                "[ssh]", "ssh = []", "authorized_keys = [1, \"x\"]", "ntp = [[]]", "strict = true", "machine = 4",
                "match = { name = \"en*\" }", "gateway = \"10.0.0.1\"", "[machine.join]", "token = \"SWMTKN\"",
            ]),
            0..14,
        )
    ) {
        let documents = [document("f", Format::NodeToml, &lines.join("\n"))];
        let loaded = load(&documents, &machine("52:54:00:00:00:01"));
        let checked = check(&documents);
        if let Err(error) = &loaded {
            proptest::prop_assert!(!error.problems.is_empty());
        }
        if checked.is_ok() && lines.iter().filter(|line| line.starts_with("[[machine]]")).count() == 1 {
            proptest::prop_assert!(loaded.is_ok() || lines.contains(&"[join]"), "{loaded:?}");
        }
    }
}
