//! The part of cloud-init's documents that an appliance needs, read natively.
//!
//! Takes `user-data` and `meta-data` of a NoCloud medium. Gives the same tree as `node.toml` does, with these keys
//! carried over: `hostname`, `fqdn`, `ssh_authorized_keys`, `timezone`, `ntp.servers` of a `#cloud-config`;
//! `local-hostname` of the meta-data. Every other key is named in a warning (an error with `strict = true`).
//! A user-data that begins with `#ingot-config` is a `node.toml`. Everything else that cloud-init accepts there
//! (scripts, MIME archives, includes, templates) would be lost silently, and is refused.

pub mod network;

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::parse::{text_of, toml_tree};
use super::problem::Findings;
use super::tree::{Node, Origin, Value};

/// Reads a `user-data` file. `None` after errors were added to `findings`; an empty one is an empty table.
pub fn user_data(document: &Arc<str>, bytes: &[u8], findings: &mut Findings) -> Option<Node> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        findings.error(&Origin::document(document), "", "is compressed", "give user-data as plain text");
        return None;
    }
    let text = text_of(document, bytes, findings)?;
    let whole = Origin::at(document, text, 0);
    let first = text.lines().next().unwrap_or_default().trim_end();
    if text.trim().is_empty() {
        return Some(Node::table(whole));
    }
    if first == "#ingot-config" {
        return toml_tree(document, bytes, findings);
    }
    if first == "#cloud-config" {
        let yaml = yaml_tree(document, text, findings)?;
        return Some(carry_over(yaml, &whole, findings));
    }
    let what = match first {
        line if line.starts_with("#!") => "is a script",
        line if line.starts_with("#include") => "is a list of addresses to include",
        line if line.starts_with("## template:") => "is a template",
        line if line.to_ascii_lowercase().starts_with("content-type:") => "is a MIME archive",
        line if line.starts_with("#cloud-") => "is of a kind of cloud-init that an appliance does not run",
        _ => "does not say what it is",
    };
    findings.error(&whole, "", what, "the first line must be #cloud-config, or #ingot-config followed by node.toml");
    None
}

/// Reads a `meta-data` file. `None` after errors were added to `findings`.
pub fn meta_data(document: &Arc<str>, bytes: &[u8], findings: &mut Findings) -> Option<Node> {
    let text = text_of(document, bytes, findings)?;
    let whole = Origin::at(document, text, 0);
    let mut tree = Node::table(whole.clone());
    if text.trim().is_empty() {
        return Some(tree);
    }
    let yaml = yaml_tree(document, text, findings)?;
    for (key, key_place, node) in entries(yaml, &whole, findings) {
        match key.as_str() {
            "local-hostname" => tree.set(&["hostname"], node),
            // What names the instance, the cloud and its stages: nothing here depends on them.
            "instance-id" | "dsmode" | "platform" | "cloud-name" => {}
            _ => unsupported(&key_place, &key, findings),
        }
    }
    Some(tree)
}

fn unsupported(place: &Origin, key: &str, findings: &mut Findings) {
    findings.warning(place, key, "is not supported and has no effect", "write it as node.toml, or leave it out");
}

fn carry_over(yaml: Node, whole: &Origin, findings: &mut Findings) -> Node {
    let mut tree = Node::table(whole.clone());
    let (mut short, mut full) = (None, None);
    for (key, key_place, node) in entries(yaml, whole, findings) {
        match key.as_str() {
            "hostname" => short = Some(node),
            "fqdn" => full = Some(node),
            "timezone" => tree.set(&["timezone"], node),
            "ssh_authorized_keys" => tree.set(&["ssh", "authorized_keys"], node),
            "ntp" => {
                for (inner, inner_place, node) in entries(node, whole, findings) {
                    match inner.as_str() {
                        "servers" => tree.set(&["ntp"], node),
                        "enabled" => {}
                        _ => unsupported(&inner_place, &format!("ntp.{inner}"), findings),
                    }
                }
            }
            _ => unsupported(&key_place, &key, findings),
        }
    }
    // As in cloud-init, the full name wins where both are there.
    if let Some(name) = full.or(short) {
        tree.set(&["hostname"], name);
    }
    tree
}

/// The keys of what must be a mapping.
fn entries(node: Node, whole: &Origin, findings: &mut Findings) -> Vec<(String, Origin, Node)> {
    match node.value {
        Value::Table(table) => table.into_iter().map(|(key, entry)| (key, entry.key, entry.node)).collect(),
        Value::Other(NULL) => Vec::new(),
        other => {
            let place = if node.origin.line == 0 { whole } else { &node.origin };
            findings.error(place, "", format!("is {}, not a mapping", other.kind()), "");
            Vec::new()
        }
    }
}

const NULL: &str = "nothing";

fn yaml_tree(document: &Arc<str>, text: &str, findings: &mut Findings) -> Option<Node> {
    match serde_saphyr::from_str::<Spanned<Yaml>>(text) {
        Ok(yaml) => Some(yaml.value.into_node(document, place(document, yaml.referenced))),
        Err(error) => {
            let at = error.location().map_or_else(|| Origin::document(document), |location| place(document, location));
            // The library's own text may quote the line, and the line may hold a secret.
            findings.error(&at, "", "is not valid YAML", "check indentation, colons and quotes there");
            None
        }
    }
}

fn place(document: &Arc<str>, location: serde_saphyr::Location) -> Origin {
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Origin { document: document.clone(), line: small(location.line()), column: small(location.column()) }
}

/// Any YAML value with the places of keys and values.
enum Yaml {
    Map(Vec<(Spanned<String>, Spanned<Yaml>)>),
    List(Vec<Spanned<Yaml>>),
    Scalar(Value),
}

impl Yaml {
    fn into_node(self, document: &Arc<str>, origin: Origin) -> Node {
        let value = match self {
            Yaml::Scalar(value) => value,
            Yaml::List(items) => Value::Array(
                items
                    .into_iter()
                    .map(|item| item.value.into_node(document, place(document, item.referenced)))
                    .collect(),
            ),
            Yaml::Map(pairs) => {
                let mut table = super::tree::Table::new();
                for (key, value) in pairs {
                    let node = value.value.into_node(document, place(document, value.referenced));
                    table.insert(key.value, super::tree::Entry { key: place(document, key.referenced), node });
                }
                Value::Table(table)
            }
        };
        Node { origin, value }
    }
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(YamlVisitor)
    }
}

struct YamlVisitor;

impl<'de> Visitor<'de> for YamlVisitor {
    type Value = Yaml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::Boolean(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::Integer(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(i64::try_from(value).map_or(Value::Other("a number that is too large"), Value::Integer)))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::Other("a number with a fraction")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::Other(NULL)))
    }

    fn visit_none<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::Other(NULL)))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
        Yaml::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Yaml, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Yaml::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Yaml, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Yaml::Map(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Reader = fn(&Arc<str>, &[u8], &mut Findings) -> Option<Node>;

    fn read(reader: Reader, text: &str) -> (Option<Node>, Findings) {
        let mut findings = Findings::default();
        let tree = reader(&Arc::from("user-data"), text.as_bytes(), &mut findings);
        (tree, findings)
    }

    #[test]
    fn the_supported_keys_are_carried_over_with_their_places() {
        let (tree, findings) = read(
            user_data,
            "#cloud-config\nhostname: w1\nfqdn: w1.lan\nssh_authorized_keys:\n  - ssh-ed25519 AAAA\nntp:\n  servers: [10.0.0.1]\n",
        );
        let tree = tree.unwrap_or_else(|| panic!("{:?}", findings.errors));
        assert!(findings.warnings.is_empty(), "{:?}", findings.warnings);
        let table = tree.as_table().unwrap();
        assert!(matches!(&table["hostname"].node.value, Value::Text(name) if name == "w1.lan"));
        assert_eq!(table["hostname"].node.origin.to_string(), "user-data:3:7");
        assert!(matches!(&table["ntp"].node.value, Value::Array(items) if items.len() == 1));
        let keys = &table["ssh"].node.as_table().unwrap()["authorized_keys"].node;
        assert!(matches!(&keys.value, Value::Array(items) if items[0].origin.to_string() == "user-data:5:5"));
    }

    #[test]
    fn every_other_key_is_named() {
        let (tree, findings) =
            read(user_data, "#cloud-config\npackages: [vim]\nruncmd:\n  - reboot\nntp: {pools: [x]}\n");
        assert!(tree.is_some() && findings.errors.is_empty());
        let named: Vec<_> = findings.warnings.iter().map(ToString::to_string).collect();
        assert!(named[0].starts_with("user-data:5:7: ntp.pools: is not supported"), "{named:?}");
        assert!(named[1].starts_with("user-data:2:1: packages: "), "{named:?}");
        assert!(named[2].starts_with("user-data:3:1: runcmd: "), "{named:?}");
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        for (text, expected) in [
            ("#!/bin/sh\nreboot\n", "is a script"),
            ("hostname: w1\n", "does not say what it is"),
            ("#cloud-boothook\n", "kind of cloud-init"),
            ("Content-Type: multipart/mixed\n", "MIME"),
            ("## template: jinja\n#cloud-config\n", "template"),
            ("#cloud-config\nhostname: [\n", "is not valid YAML"),
            ("#cloud-config\n- a\n", "is a list, not a mapping"),
        ] {
            let (_, findings) = read(user_data, text);
            let errors: Vec<_> = findings.errors.iter().map(ToString::to_string).collect();
            assert!(errors.iter().any(|e| e.contains(expected)), "{text:?}: {errors:?}");
        }
        let mut findings = Findings::default();
        assert!(user_data(&Arc::from("u"), &[0x1f, 0x8b, 8], &mut findings).is_none());
    }

    #[test]
    fn meta_data_gives_the_name() {
        let (tree, findings) = read(meta_data, "instance-id: i-1\nlocal-hostname: w7\npublic-keys: [x]\n");
        assert!(matches!(&tree.unwrap().as_table().unwrap()["hostname"].node.value, Value::Text(n) if n == "w7"));
        assert_eq!(findings.warnings.len(), 1);
        assert!(read(meta_data, "{\"instance-id\": \"x\", \"local-hostname\": \"w8\"}").0.is_some());
        assert!(read(meta_data, "").0.is_some());
    }

    #[test]
    fn an_ingot_config_is_a_node_toml() {
        let (tree, _) = read(user_data, "#ingot-config\nversion = 1\nhostname = \"w1\"\n");
        assert_eq!(tree.unwrap().as_table().unwrap()["hostname"].node.origin.to_string(), "user-data:3:12");
    }

    #[test]
    fn a_bomb_of_aliases_does_not_explode() {
        let mut text = String::from("#cloud-config\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let row = vec![format!("*a{}", level - 1); 10].join(",");
            text += &["a", &level.to_string(), ": &a", &level.to_string(), " [", &row, "]\n"].concat();
        }
        let (tree, findings) = read(user_data, &text);
        assert!(tree.is_none() && !findings.errors.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_text_gives_a_tree_or_errors(text in "[a-c:\\-\\[\\]{}&*!|>\"'#, \n0-9]{0,60}") {
            let (tree, findings) = read(user_data, &format!("#cloud-config\n{text}"));
            proptest::prop_assert!(tree.is_some() || !findings.errors.is_empty());
        }
    }
}
