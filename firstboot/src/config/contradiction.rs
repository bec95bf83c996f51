//! Sources that contradict each other.
//!
//! Takes what each document says about one machine, in the order of precedence; gives a warning for every key to which
//! two sources of different kinds (a stick and a URL, a hypervisor's credential and a NoCloud disk) give different
//! values. The later one counts, as always; but that somebody has forgotten the other is more likely than that it was
//! meant so. What lies above the role's defaults, and the files of one medium, contradict nothing: they are made to be
//! laid over each other.

use std::collections::BTreeMap;

use super::problem::Findings;
use super::source::SourceKind;
use super::tree::{Node, Origin, Value};

/// Adds a warning for each contradiction.
pub fn name_contradictions<'a>(documents: impl Iterator<Item = &'a Node>, findings: &mut Findings) {
    // The last value of each key so far, and where it is from.
    let mut before: BTreeMap<String, (&'a Value, &'a Origin)> = BTreeMap::new();
    for tree in documents {
        let Some(kind) = SourceKind::of_document(&tree.origin.document) else { continue };
        let mut values = Vec::new();
        leaves(tree, "", &mut values);
        for (key, node) in values {
            if let Some((value, origin)) = before.get(&key)
                && SourceKind::of_document(&origin.document) != Some(kind)
                && !same(value, &node.value)
            {
                let message = format!("is given another value by {origin}; this one counts");
                findings.warning(&node.origin, &key, message, "take it out of one of the two");
            }
            before.insert(key, (&node.value, &node.origin));
        }
    }
}

fn leaves<'a>(node: &'a Node, path: &str, into: &mut Vec<(String, &'a Node)>) {
    match node.as_table() {
        Some(table) => {
            for (key, entry) in table {
                leaves(&entry.node, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, into);
            }
        }
        None => into.push((path.to_owned(), node)),
    }
}

/// Whether two values are the same, wherever they were written.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(&one.value, &other.value))
        }
        (Value::Table(one), Value::Table(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| one.0 == other.0 && same(&one.1.node.value, &other.1.node.value))
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Document, Format, Machine, load};

    fn warnings(documents: &[(&str, &str)]) -> Vec<String> {
        let document = |(name, text): &(&str, &str)| Document {
            name: (*name).into(),
            format: Format::PartToml,
            bytes: text.as_bytes().to_vec(),
        };
        let documents: Vec<_> = documents.iter().map(document).collect();
        load(&documents, &Machine::default()).unwrap().warnings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn two_kinds_of_sources_that_differ_are_both_named() {
        let found = warnings(&[
            ("CIDATA:node.toml", "hostname = \"a\"\ntimezone = \"UTC\"\nntp = [\"10.0.0.1\"]\n"),
            ("INGOT:node.toml", "timezone = \"UTC\"\nhostname = \"b\"\nntp = [\n  \"10.0.0.1\",\n]\n"),
        ]);
        assert_eq!(
            found,
            [
                "INGOT:node.toml:2:12: hostname: is given another value by CIDATA:node.toml:1:12; this one counts (take it \
              out of one of the two)"
            ]
        );
    }

    #[test]
    fn layers_that_are_meant_so_are_no_contradiction() {
        let pair = |one, other| warnings(&[(one, "hostname = \"a\"\n"), (other, "hostname = \"b\"\n")]);
        assert!(pair("/usr/lib/ingot/role.toml", "INGOT:node.toml").is_empty());
        assert!(pair("INGOT:node.toml", "INGOT:ab.toml").is_empty());
        assert!(pair("INGOT:node.toml", "ingot:ab.toml").is_empty());
        assert!(pair("node.toml", "m1.toml").is_empty());
        assert_eq!(pair("credential:ingot.node.toml", "INGOT:ab.toml").len(), 1);
    }
}
