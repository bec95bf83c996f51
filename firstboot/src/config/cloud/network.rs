//! cloud-init's `network-config`, version 1 and 2 (netplan's format), and OpenStack's `network_data.json`, as a tree of
//! `[[network]]`.
//!
//! Takes the YAML as it lies on a medium; gives the same tree that a `node.toml` would, with the places of the
//! original, so that what is wrong is found by the same checks and shown where it was written. What has no effect is
//! named in a warning; what would leave the node without an interface that is asked for is refused.
//! `docs/cloud-init.md` has the table of all keys.
//!
//! Formats: "Networking config Version 1" and "Version 2" of cloud-init's documentation, netplan-yaml(5).

mod openstack;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use std::sync::Arc;

use super::{NULL, entries, yaml_tree};
use crate::config::parse::text_of;
use crate::config::problem::Findings;
use crate::config::tree::{Entry, Node, Origin, Table, Value};

/// Reads a `network-config` file. `None` after errors were added to `findings`; an empty one says nothing.
pub fn network_config(document: &Arc<str>, bytes: &[u8], findings: &mut Findings) -> Option<Node> {
    let source = text_of(document, bytes, findings)?;
    let whole = Origin::at(document, source, 0);
    if source.trim().is_empty() {
        return Some(Node::table(whole));
    }
    let mut yaml = yaml_tree(document, source, findings)?;
    // netplan writes everything below `network`; cloud-init takes both.
    if let Some(entry) = yaml.remove("network") {
        for (key, entry) in yaml.as_table().into_iter().flatten() {
            unsupported(&entry.key, key, findings);
        }
        yaml = entry.node;
    }
    let errors_before = findings.errors.len();
    let version = yaml.as_table().and_then(|table| table.get("version")).map(|entry| number(&entry.node));
    let devices = match version.as_ref().map(|version| &version.value) {
        Some(Value::Integer(1)) => v1::devices(yaml, &whole, findings),
        Some(Value::Integer(2)) => v2::devices(yaml, &whole, findings),
        // The whole document may switch cloud-init's part off.
        None if matches!(yaml.as_table().and_then(|table| text(table, "config")), Some("disabled")) => Vec::new(),
        _ => {
            let place = version.map_or_else(|| whole.clone(), |version| version.origin);
            findings.error(&place, "version", "is neither 1 nor 2", "a network-config begins with its version");
            return None;
        }
    };
    let mut tree = Node::table(whole.clone());
    if !devices.is_empty() {
        tree.set(&["network"], Node { origin: whole, value: Value::Array(devices) });
    }
    (findings.errors.len() == errors_before).then_some(tree)
}

/// Reads a ConfigDrive's `network_data.json`. `None` after errors were added to `findings`.
pub fn network_data(document: &Arc<str>, bytes: &[u8], findings: &mut Findings) -> Option<Node> {
    let source = text_of(document, bytes, findings)?;
    let whole = Origin::at(document, source, 0);
    let mut tree = Node::table(whole.clone());
    if source.trim().is_empty() {
        return Some(tree);
    }
    // JSON is YAML.
    let json = yaml_tree(document, source, findings)?;
    let errors_before = findings.errors.len();
    let devices = openstack::devices(json, &whole, findings);
    if !devices.is_empty() {
        tree.set(&["network"], Node { origin: whole, value: Value::Array(devices) });
    }
    (findings.errors.len() == errors_before).then_some(tree)
}

fn unsupported(place: &Origin, key: &str, findings: &mut Findings) {
    findings.warning(place, key, "is not supported and has no effect", "leave it out, or write it as node.toml");
}

/// The text of a key.
fn text<'a>(table: &'a Table, key: &str) -> Option<&'a str> {
    match &table.get(key)?.node.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn at(origin: &Origin, value: Value) -> Node {
    Node { origin: origin.clone(), value }
}

fn text_at(origin: &Origin, text: impl Into<String>) -> Node {
    at(origin, Value::Text(text.into()))
}

fn is_null(node: &Node) -> bool {
    matches!(node.value, Value::Other(NULL))
}

/// `yes`, `on` and their like are true and false in cloud-init's YAML, as they were in YAML 1.1.
fn flag(node: &Node) -> Node {
    let value = match &node.value {
        Value::Text(text) => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "true" | "y" => Value::Boolean(true),
            "no" | "off" | "false" | "n" => Value::Boolean(false),
            _ => node.value.clone(),
        },
        Value::Integer(0) => Value::Boolean(false),
        Value::Integer(1) => Value::Boolean(true),
        other => other.clone(),
    };
    at(&node.origin, value)
}

fn is_true(node: &Node) -> bool {
    matches!(flag(node).value, Value::Boolean(true))
}

/// Numbers are often written as text.
fn number(node: &Node) -> Node {
    match &node.value {
        Value::Text(text) => at(&node.origin, text.trim().parse().map_or_else(|_| node.value.clone(), Value::Integer)),
        _ => node.clone(),
    }
}

/// A list, or a text with blanks or commas between its items.
fn list(node: &Node) -> Node {
    let items = match &node.value {
        Value::Array(_) => return node.clone(),
        Value::Text(text) => {
            let words = text.split([' ', ',']).filter(|word| !word.is_empty());
            words.map(|word| text_at(&node.origin, word)).collect()
        }
        Value::Other(NULL) => Vec::new(),
        _ => vec![node.clone()],
    };
    at(&node.origin, Value::Array(items))
}

/// What is still missing of one `[[network]]`.
struct Device {
    table: Node,
}

impl Device {
    fn new(origin: &Origin) -> Self {
        Self { table: Node::table(origin.clone()) }
    }

    /// Sets a key that was written at `key`.
    fn put(&mut self, name: &str, key: &Origin, node: Node) {
        if let Value::Table(table) = &mut self.table.value {
            table.insert(name.to_owned(), Entry { key: key.clone(), node });
        }
    }

    /// Adds to a list.
    fn push(&mut self, name: &str, key: &Origin, node: Node) {
        let Value::Table(table) = &mut self.table.value else { return };
        let empty = || Entry { key: key.clone(), node: at(&node.origin, Value::Array(Vec::new())) };
        if let Value::Array(items) = &mut table.entry(name.to_owned()).or_insert_with(empty).node.value {
            items.push(node);
        }
    }

    /// Adds a list to a list.
    fn extend(&mut self, name: &str, key: &Origin, node: &Node) {
        match list(node).value {
            Value::Array(items) => items.into_iter().for_each(|item| self.push(name, key, item)),
            _ => self.push(name, key, node.clone()),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.table.as_table().is_some_and(|table| table.contains_key(name))
    }

    /// Says what netplan and cloud-init mean by silence: no DHCP, and no addresses is fine.
    fn finish(mut self, v4: bool, v6: bool) -> Node {
        let origin = self.table.origin.clone();
        let dhcp = match (v4, v6) {
            (true, true) => Value::Boolean(true),
            (true, false) => Value::Text("v4".into()),
            (false, true) => Value::Text("v6".into()),
            (false, false) => Value::Boolean(false),
        };
        self.put("dhcp", &origin, at(&origin, dhcp));
        if !self.has("addresses") {
            self.put("addresses", &origin, at(&origin, Value::Array(Vec::new())));
        }
        self.table
    }
}

/// An address with its prefix length; the netmask may be written apart, as dots or as a length.
fn with_prefix(address: &Node, netmask: Option<&Node>) -> Node {
    let (Value::Text(plain), Some(netmask)) = (&address.value, netmask) else { return address.clone() };
    if plain.contains('/') {
        return address.clone();
    }
    let length = match &number(netmask).value {
        Value::Integer(length) => length.to_string(),
        Value::Text(mask) => match mask.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(mask)) if mask.to_bits().leading_ones() == mask.to_bits().count_ones() => {
                mask.to_bits().count_ones().to_string()
            }
            Ok(std::net::IpAddr::V6(mask)) if mask.to_bits().leading_ones() == mask.to_bits().count_ones() => {
                mask.to_bits().count_ones().to_string()
            }
            _ => mask.clone(),
        },
        _ => return address.clone(),
    };
    text_at(&address.origin, format!("{plain}/{length}"))
}
