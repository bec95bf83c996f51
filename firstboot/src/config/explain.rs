//! Where each value of a configuration comes from, and which values lost against it.
//!
//! Takes the layers of a configuration, the one that wins last, and what they were merged to. Secrets are left out.

use std::collections::BTreeMap;

use serde::Serialize;

use super::schema::{is_secret, shown};
use super::secret::REDACTED;
use super::tree::{Node, Origin, Value};

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The key with its tables.
    pub key: String,
    /// The value; `(secret)` for secrets.
    pub value: String,
    /// Where it was written.
    pub origin: Origin,
}

/// A value that another one replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Overridden {
    /// The value that has no effect.
    #[serde(flatten)]
    pub value: Explained,
    /// Where the value stands that replaced it, or the list that it is no longer in.
    pub by: Origin,
}

/// All values of a tree.
pub fn explained(tree: &Node) -> Vec<Explained> {
    let mut all = Vec::new();
    collect(tree, "", &mut all);
    all
}

/// The values of the layers that are not in the tree that these were merged to, by key and then in the order of the
/// layers.
pub fn overridden<'a>(layers: impl Iterator<Item = &'a Node>, tree: &Node) -> Vec<Overridden> {
    let mut places = BTreeMap::new();
    places_of(tree, "", &mut places);
    let mut lost = Vec::new();
    for layer in layers {
        for value in explained(layer) {
            if let Some(by) = winner(&value.key, &places)
                && *by != value.origin
                && value.key != "version"
            {
                lost.push(Overridden { by: by.clone(), value });
            }
        }
    }
    lost.sort_by(|a, b| a.value.key.cmp(&b.value.key));
    lost.dedup();
    lost
}

/// The place of what stands at the key now: the value itself, or the list or value that took the place of its table.
fn winner<'a>(key: &str, places: &'a BTreeMap<String, Origin>) -> Option<&'a Origin> {
    let mut path = key;
    loop {
        if let Some(place) = places.get(path) {
            return Some(place);
        }
        path = &path[..path.rfind(['.', '['])?];
    }
}

fn places_of(node: &Node, path: &str, into: &mut BTreeMap<String, Origin>) {
    match &node.value {
        Value::Table(table) => table.iter().for_each(|(key, entry)| places_of(&entry.node, &join(path, key), into)),
        value => {
            if let Some(items) = tables(value) {
                for (index, item) in items.iter().enumerate() {
                    places_of(item, &format!("{path}[{index}]"), into);
                }
            }
            into.insert(path.to_owned(), node.origin.clone());
        }
    }
}

fn tables(value: &Value) -> Option<&[Node]> {
    match value {
        Value::Array(items) if items.iter().any(|item| matches!(item.value, Value::Table(_))) => Some(items),
        _ => None,
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn collect(node: &Node, path: &str, into: &mut Vec<Explained>) {
    if let Value::Table(table) = &node.value {
        for (key, entry) in table {
            collect(&entry.node, &join(path, key), into);
        }
    } else if let Some(items) = tables(&node.value) {
        for (index, item) in items.iter().enumerate() {
            collect(item, &format!("{path}[{index}]"), into);
        }
    } else {
        let value = if is_secret(path) { REDACTED.to_owned() } else { show_at(path, &node.value) };
        into.push(Explained { key: path.to_owned(), value, origin: node.origin.clone() });
    }
}

/// Shows a value; of an address only what is not secret in it.
fn show_at(path: &str, value: &Value) -> String {
    match value {
        Value::Text(text) => shown(path, text).map_or_else(|| show(value), |text| format!("{text:?}")),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(|item| show_at(path, &item.value)).collect::<Vec<_>>().join(", "))
        }
        other => show(other),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("{text:?}"),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(boolean) => boolean.to_string(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(|item| show(&item.value)).collect::<Vec<_>>().join(", "))
        }
        Value::Table(_) => "{...}".to_owned(),
        Value::Other(kind) => (*kind).to_owned(),
    }
}
