//! `meta-data` of `NoCloud` and `meta_data.json` of `ConfigDrive`.
//!
//! Takes either: JSON is YAML. Gives the tree with the host name and root's public keys; what names the instance, the
//! cloud and its stages changes nothing here. User-data and vendor-data lie above it, and lists of a higher document
//! replace those of a lower one, so keys of user-data stand in the place of these.

use std::sync::Arc;

use super::user_data::{is_null, list};
use super::yaml::{entries, yaml_tree};
use crate::config::parse::text_of;
use crate::config::problem::{Findings, nearest};
use crate::config::tree::{Node, Origin, Value};

/// Keys that change nothing on a node.
const SILENT: &[&str] = &[
    "availability_zone",
    "availability-zone",
    "cloud-name",
    "dedicated_cpus",
    "devices",
    "dsmode",
    "instance-id",
    "instance_id",
    "keys",
    "launch_index",
    "name",
    "platform",
    "project_id",
    "random_seed",
    "region",
    "uuid",
];

/// Keys that would change something, and why they do not.
const REFUSED: &[(&str, &str)] = &[
    ("admin_pass", "an appliance has no passwords; give SSH keys"),
    ("files", "write [[file]] of node.toml, or write_files of user-data"),
    ("meta", "nothing reads it"),
    ("network-interfaces", "write network-config"),
    ("network_config", "write network-config"),
];

const SEEDFROM_HELP: &str = "a document does not say where others are: write ds=nocloud;s=ADDRESS on the kernel command line \
                             or in the serial number, or ingot.config=URL on the kernel command line";

/// Reads a document. `None` after errors were added to `findings`.
pub fn meta_data(document: &Arc<str>, bytes: &[u8], findings: &mut Findings) -> Option<Node> {
    let text = text_of(document, bytes, findings)?;
    let whole = Origin::at(document, text, 0);
    let mut tree = Node::table(whole.clone());
    if text.trim().is_empty() {
        return Some(tree);
    }
    let yaml = yaml_tree(document, text, findings)?;
    let mut local = None;
    for (key, place, node) in entries(yaml, "", &whole, findings) {
        if is_null(&node) {
            continue;
        }
        match key.as_str() {
            "local-hostname" | "local_hostname" => local = Some(node),
            "hostname" => tree.set(&["hostname"], node),
            "public-keys" | "public_keys" => {
                let keys = public_keys(node, findings);
                if !keys.is_empty() {
                    tree.set(&["ssh", "authorized_keys"], list(place, keys));
                }
            }
            key if SILENT.contains(&key) => {}
            // Where the configuration is would be lost without a word.
            "seedfrom" => findings.error(&place, &key, "is refused", SEEDFROM_HELP),
            key => {
                let refused = REFUSED.iter().find(|(name, _)| *name == key);
                let known = ["local-hostname", "public-keys"].into_iter().chain(SILENT.iter().copied());
                let help = match (refused, nearest(key, known)) {
                    (Some((_, why)), _) => (*why).to_owned(),
                    (None, Some(near)) => format!("did you mean {near:?}?"),
                    (None, None) => "write it as node.toml, or leave it out".to_owned(),
                };
                findings.warning(&place, key, "has no effect", help);
            }
        }
    }
    if let Some(name) = local {
        tree.set(&["hostname"], name);
    }
    Some(tree)
}

/// Public keys: a text with one key a line, a list, or a mapping of names to keys, as the clouds have them.
fn public_keys(node: Node, findings: &mut Findings) -> Vec<Node> {
    let origin = node.origin.clone();
    match node.value {
        Value::Text(text) => {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.map(|line| Node { origin: origin.clone(), value: Value::Text(line.to_owned()) }).collect()
        }
        Value::Array(items) => items.into_iter().flat_map(|item| public_keys(item, findings)).collect(),
        Value::Table(mut table) => {
            // Amazon's form has the key one table further down.
            if let Some(entry) = table.remove("openssh-key") {
                return public_keys(entry.node, findings);
            }
            table.into_values().flat_map(|entry| public_keys(entry.node, findings)).collect()
        }
        other => {
            findings.error(&origin, "public-keys", format!("is {}, not a key", other.kind()), "");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Option<Node>, Findings) {
        let mut findings = Findings::default();
        let tree = meta_data(&Arc::from("meta-data"), text.as_bytes(), &mut findings);
        (tree, findings)
    }

    fn name(tree: &Node) -> &Value {
        &tree.as_table().unwrap()["hostname"].node.value
    }

    fn keys(tree: &Node) -> Vec<String> {
        let Value::Array(keys) =
            &tree.as_table().unwrap()["ssh"].node.as_table().unwrap()["authorized_keys"].node.value
        else {
            panic!()
        };
        keys.iter().map(|key| if let Value::Text(text) = &key.value { text.clone() } else { panic!() }).collect()
    }

    #[test]
    fn nocloud_gives_the_name_and_the_keys_in_every_form() {
        for (text, expected) in [
            ("public-keys: [a, b]", vec!["a", "b"]),
            ("public-keys: |\n  a\n  b\n", vec!["a", "b"]),
            ("public-keys: {x: a, y: [b]}", vec!["a", "b"]),
            ("public-keys: {0: {openssh-key: a}}", vec!["a"]),
        ] {
            let (tree, findings) = read(&format!("instance-id: i-1\nlocal-hostname: w7\n{text}\n"));
            let tree = tree.unwrap();
            assert!(findings.errors.is_empty() && findings.warnings.is_empty(), "{findings:?}");
            assert!(matches!(name(&tree), Value::Text(n) if n == "w7"));
            assert_eq!(keys(&tree), expected);
        }
        assert!(read("").0.is_some());
    }

    #[test]
    fn config_drive_gives_the_same() {
        let (tree, findings) = read(
            "{\"uuid\": \"u\", \"hostname\": \"w8.lan\", \"name\": \"w8\", \"public_keys\": {\"k\": \"a\"}, \
             \"admin_pass\": \"hunter2\", \"random_seed\": \"x\", \"launch_index\": 0}",
        );
        let tree = tree.unwrap();
        assert!(matches!(name(&tree), Value::Text(n) if n == "w8.lan"));
        assert_eq!(keys(&tree), ["a"]);
        assert_eq!(findings.warnings.len(), 1);
        assert!(findings.warnings[0].to_string().contains("admin_pass: has no effect"), "{findings:?}");
        assert!(!format!("{findings:?}").contains("hunter2"));
    }

    #[test]
    fn a_seed_elsewhere_is_refused_with_what_to_do() {
        let (_, findings) = read("instance-id: i\nseedfrom: http://10.0.0.1/\n");
        let error = findings.errors[0].to_string();
        assert!(error.contains("meta-data:2:1: seedfrom: is refused") && error.contains("ds=nocloud;s="), "{error}");
    }

    #[test]
    fn what_is_not_known_is_named() {
        let (_, findings) = read("local-hostnme: x\nquux: 1\npublic-keys: 7\n");
        assert!(findings.warnings[0].to_string().contains("did you mean \"local-hostname\"?"), "{findings:?}");
        assert!(findings.warnings[1].to_string().contains("meta-data:2:1: quux"), "{findings:?}");
        assert!(findings.errors[0].to_string().contains("is a whole number, not a key"));
    }
}
