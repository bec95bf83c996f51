use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::config::{Document, Format, Machine, load};

/// Documents that are accepted without a word, and use every key that is applied.
const ACCEPTED: &[&str] = &[
    "hostname: w1\nfqdn: w1.example.org\nprefer_fqdn_over_hostname: true\npreserve_hostname: false\ntimezone: Europe/Berlin\n",
    "ntp:\n  enabled: true\n  servers: [10.77.0.1]\n  pools: [pool.example.org]\n  ntp_client: auto\n",
    "ssh_authorized_keys:\n- ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDI2sNZwkdbcFhWEiUQbY2Dtz0J+EHqO1sUVUyTMaHuB a\n\
     ssh_pwauth: false\ndisable_root: false\n",
    "users:\n- default\n- name: ops\n  gecos: Ops\n  groups: docker, adm\n  homedir: /home/ops\n  lock_passwd: true\n  \
     shell: /bin/bash\n  sudo: ALL=(ALL) NOPASSWD:ALL\n  uid: 1500\n  ssh_authorized_keys:\n  \
     - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDI2sNZwkdbcFhWEiUQbY2Dtz0J+EHqO1sUVUyTMaHuB a\n\
     groups:\n- gpu: [ops]\n",
    "user: ops\n",
    "write_files:\n- path: /etc/a.conf\n  content: hi\n  owner: root:root\n  permissions: '0640'\n  append: true\n\
     - path: /etc/b.conf\n  content: aGk=\n  encoding: b64\n",
    "fs_setup:\n- label: data\n  filesystem: xfs\n  device: /dev/disk/by-id/ata-ST4000-A1\n  partition: none\n  extra_opts: -i size=512\n\
     mounts:\n- [LABEL=data, /data, auto, 'defaults,noatime', '0', '2']\nswap:\n  size: 4G\n\
     disk_setup:\n  /dev/disk/by-id/ata-ST4000-A1:\n    layout: false\n",
    "runcmd:\n- [echo, hi]\n- echo hi\nbootcmd:\n- echo hi\n",
    "ssh_keys:\n  ed25519_private: |\n    -----BEGIN OPENSSH PRIVATE KEY-----\n    AAAA\n    -----END OPENSSH PRIVATE KEY-----\n  \
     ed25519_public: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDI2sNZwkdbcFhWEiUQbY2Dtz0J+EHqO1sUVUyTMaHuB a\n",
];

fn ca_document(key: &str, defaults: &str) -> String {
    let pem = crate::config::ca::tests::pem(1).replace('\n', "\n    ");
    format!("{key}:\n  {defaults}: true\n  trusted:\n  - |\n    {pem}\n")
}

fn accepted() -> Vec<String> {
    let mut all: Vec<String> = ACCEPTED.iter().map(ToString::to_string).collect();
    all.push("power_state:\n  mode: reboot\n  delay: now\n  condition: true\n".into());
    all.push("phone_home:\n  url: https://status.site/nodes\n".into());
    all.push(ca_document("ca_certs", "remove_defaults"));
    all.push(ca_document("ca-certs", "remove-defaults"));
    all.into_iter().map(|text| format!("#cloud-config\n{text}")).collect()
}

/// cloud-init's own schema, where there is one: `INGOT_CLOUD_INIT_SCHEMA`, or that of an installed cloud-init.
fn schema() -> Option<(String, serde_json::Value)> {
    let installed = "/usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json";
    let path = std::env::var("INGOT_CLOUD_INIT_SCHEMA").unwrap_or_else(|_| installed.to_owned());
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!(
            "skipped: there is no {path}; set INGOT_CLOUD_INIT_SCHEMA to cloud-init's schema-cloud-config-v1.json"
        );
        return None;
    };
    Some((path, serde_json::from_str(&text).unwrap()))
}

/// The properties that a schema admits at this level, through references and alternatives.
fn properties(schema: &serde_json::Value, at: &serde_json::Value, into: &mut BTreeMap<String, serde_json::Value>) {
    if let Some(reference) = at["$ref"].as_str() {
        let target = reference.trim_start_matches("#/").split('/').fold(schema, |node, part| &node[part]);
        properties(schema, target, into);
    }
    for (key, value) in at["properties"].as_object().into_iter().flatten() {
        into.insert(key.clone(), value.clone());
    }
    for alternative in ["allOf", "oneOf", "anyOf"] {
        for part in at[alternative].as_array().into_iter().flatten() {
            properties(schema, part, into);
        }
    }
}

fn of_items(schema: &serde_json::Value, at: &serde_json::Value) -> BTreeMap<String, serde_json::Value> {
    let mut found = BTreeMap::new();
    properties(schema, &at["items"], &mut found);
    found
}

#[test]
fn the_table_is_sorted_and_says_something() {
    assert!(KEYS.windows(2).all(|pair| pair[0].name < pair[1].name), "sorted, each once");
    for key in KEYS {
        assert!(!key.note.is_empty() && !key.note.contains('|'), "{key:?}");
        assert!(key.same.is_empty() || matches!(key.treatment, Treatment::Refused | Treatment::Error), "{key:?}");
    }
}

#[test]
fn the_documents_table_is_this_one() {
    let page = include_str!("../../../../docs/cloud-init.md");
    let section = page.split("\n## ").find(|section| section.starts_with("Keys\n")).unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    let wanted: Vec<String> = KEYS
        .iter()
        .map(|key| {
            let treatment = match key.treatment {
                Treatment::Applied => "applied".to_owned(),
                Treatment::NoOp => "no-op".to_owned(),
                Treatment::Error if key.same.is_empty() => "error".to_owned(),
                Treatment::Error => format!("error, but for {}", key.same.join(", ")),
                Treatment::Refused if key.same.is_empty() => "refused".to_owned(),
                Treatment::Refused => format!("refused, but for {}", key.same.join(", ").replace('"', "")),
            };
            format!("| `{}` | {treatment} | {} |", key.name, key.note)
        })
        .collect();
    if rows != wanted {
        println!("{}", wanted.join("\n"));
    }
    assert!(
        rows == wanted,
        "docs/cloud-init.md has the table of firstboot/src/config/cloud/keys.rs; it is printed above"
    );
}

#[test]
fn every_applied_key_is_carried_over_by_some_document() {
    let used: BTreeSet<String> =
        accepted().iter().flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let named = |key: &str| used.iter().any(|line| line.trim_start_matches([' ', '-']).starts_with(&format!("{key}:")));
    for key in KEYS.iter().filter(|key| key.treatment == Treatment::Applied) {
        let last = key.name.rsplit('.').next().unwrap();
        // Old spellings and further kinds of host keys go the same way.
        if ["ecdsa", "rsa", "ssh-authorized-keys", "ed25519_certificate"].iter().any(|old| last.starts_with(old)) {
            continue;
        }
        if key.name == "ca_certs.remove-defaults" {
            assert!(named("remove-defaults"));
        } else {
            assert!(named(last), "no document has {}", key.name);
        }
    }
}

#[test]
fn accepted_documents_are_accepted_without_a_word() {
    let role =
        Document { name: "role".into(), format: Format::RoleToml, bytes: b"[run]\nallow_commands = true\n".to_vec() };
    for text in accepted() {
        let document = Document { name: "u".into(), format: Format::UserData, bytes: text.clone().into_bytes() };
        let loaded = load(&[role.clone(), document], &Machine::default()).unwrap_or_else(|e| panic!("{text}\n{e}"));
        assert!(loaded.warnings.is_empty() && loaded.notes.is_empty(), "{text}\n{:?}", loaded.warnings);
    }
}

#[test]
fn every_key_of_cloud_inits_schema_is_in_the_table() {
    let Some((path, schema)) = schema() else { return };
    let mut top = BTreeMap::new();
    properties(&schema, &schema, &mut top);
    assert!(top.len() > 80, "{path} is no schema of cloud-config: {} keys", top.len());
    let known: BTreeSet<&str> = KEYS.iter().map(|key| key.name).collect();
    let mut missing: Vec<String> = top.keys().filter(|key| !known.contains(key.as_str())).cloned().collect();
    for (parent, list) in [
        ("ntp", false),
        ("ca_certs", false),
        ("phone_home", false),
        ("power_state", false),
        ("swap", false),
        ("users", true),
        ("write_files", true),
        ("fs_setup", true),
    ] {
        let mut inner = BTreeMap::new();
        if list {
            inner = of_items(&schema, &top[parent]);
        } else {
            properties(&schema, &top[parent], &mut inner);
        }
        assert!(inner.len() >= 3, "{parent}: {inner:?}");
        let name = |key: &String| format!("{parent}{}.{key}", if list { "[]" } else { "" });
        missing.extend(inner.keys().map(name).filter(|name| !known.contains(name.as_str())));
    }
    assert!(missing.is_empty(), "of {path} the table lacks {missing:?}");
}

#[test]
fn cloud_inits_schema_accepts_the_same_documents() {
    let Some((path, _)) = schema() else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut arguments = Vec::new();
    for (index, text) in accepted().iter().enumerate() {
        let file = directory.path().join(format!("{index}.yaml"));
        std::fs::write(&file, text).unwrap();
        arguments.push(file.to_string_lossy().into_owned());
    }
    let script = "import json, sys, warnings\n\
                  warnings.simplefilter('ignore')\n\
                  try:\n import jsonschema, yaml\n\
                  except ImportError as e:\n print('skipped', e); sys.exit(0)\n\
                  schema = json.load(open(sys.argv[1]))\n\
                  for name in sys.argv[2:]:\n jsonschema.Draft4Validator(schema).validate(yaml.safe_load(open(name)))\n\
                  print('valid')\n";
    let mut all = vec!["-c", script, &path];
    all.extend(arguments.iter().map(String::as_str));
    match crate::process::run("python3", &all, Duration::from_mins(1)) {
        Ok(output) => println!("{}", String::from_utf8_lossy(&output).trim()),
        Err(crate::process::ProcessError::Start { .. }) => println!("skipped: there is no python3"),
        Err(error) => panic!("{error}"),
    }
}

/// cloud-init's documented examples, where they are: `INGOT_CLOUD_INIT_EXAMPLES` is a directory with them.
#[test]
fn the_documented_examples_have_no_key_that_is_not_in_the_table() {
    let Ok(directory) = std::env::var("INGOT_CLOUD_INIT_EXAMPLES") else {
        println!("skipped: INGOT_CLOUD_INIT_EXAMPLES is not set");
        return;
    };
    let mut directories = vec![std::path::PathBuf::from(directory)];
    let (mut accepted, mut refused, mut unknown) = (0, 0, BTreeSet::new());
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let mut findings = Findings::default();
            match super::super::user_data(&name.as_str().into(), &bytes, &mut findings) {
                Some(_) => accepted += 1,
                None => refused += 1,
            }
            for problem in &findings.errors {
                println!("{problem}");
                assert!(!problem.message.is_empty() && problem.origin.document.starts_with(&name), "{problem}");
            }
            let named = findings.warnings.iter().filter(|warning| warning.message.contains("is no key"));
            unknown.extend(named.map(|warning| warning.key.clone()));
        }
    }
    println!("{accepted} read, {refused} refused");
    assert!(accepted > 10, "there are no examples");
    // Of examples older than the schema: spelling mistakes, and keys that are none any more.
    let gone = "debconf_selections def_log_file manual_cache_clean packages_update packages_upgrade ssh_keys.dsa_private \
                ssh_keys.dsa_public syslog_fix_perms";
    for key in gone.split(' ') {
        unknown.remove(key);
    }
    assert!(unknown.is_empty(), "the table lacks {unknown:?}");
}
