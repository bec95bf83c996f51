//! From the text of a YAML document to the tree of a configuration.
//!
//! Takes YAML as cloud-init reads it: whole numbers with a leading zero are octal, as in its `permissions: 0644`.
//! Gives a [`Node`] with the place of every key and value. Aliases cannot make a small document a large tree, and
//! an error never repeats what the document says, for it may hold secrets.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::config::problem::Findings;
use crate::config::tree::{Entry, Node, Origin, Table, Value};

/// The kind of a YAML null.
pub const NULL: &str = "nothing";

/// The keys of what must be a mapping; nothing counts as an empty one.
pub fn entries(node: Node, path: &str, whole: &Origin, findings: &mut Findings) -> Vec<(String, Origin, Node)> {
    match node.value {
        Value::Table(table) => table.into_iter().map(|(key, entry)| (key, entry.key, entry.node)).collect(),
        Value::Other(NULL) => Vec::new(),
        other => {
            let place = if node.origin.line == 0 { whole } else { &node.origin };
            findings.error(place, path, format!("is {}, not a mapping", other.kind()), "");
            Vec::new()
        }
    }
}

/// The items of what must be a list; nothing counts as an empty one.
pub fn items(node: Node, path: &str, findings: &mut Findings) -> Vec<Node> {
    match node.value {
        Value::Array(items) => items,
        Value::Other(NULL) => Vec::new(),
        other => {
            findings.error(&node.origin, path, format!("is {}, not a list", other.kind()), "");
            Vec::new()
        }
    }
}

/// Reads a YAML document. `None` after an error was added to `findings`.
pub fn yaml_tree(document: &Arc<str>, text: &str, findings: &mut Findings) -> Option<Node> {
    let mut options = serde_saphyr::Options::default();
    options.legacy_octal_numbers = true;
    match serde_saphyr::from_str_with_options::<Spanned<Yaml>>(text, options) {
        Ok(yaml) => Some(yaml.value.into_node(document, place(document, yaml.referenced))),
        Err(error) => {
            let at = error.location().map_or_else(|| Origin::document(document), |location| place(document, location));
            let help = if text.contains("!!binary") {
                "check indentation, colons and quotes there; `!!binary` may only hold text: give other content as base64 \
                 in quotes, with its encoding"
            } else {
                "check indentation, colons and quotes there"
            };
            // The library's own text may quote the line, and the line may hold a secret.
            findings.error(&at, "", "is not valid YAML", help);
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
                let mut table = Table::new();
                for (key, value) in pairs {
                    let node = value.value.into_node(document, place(document, value.referenced));
                    table.insert(key.value, Entry { key: place(document, key.referenced), node });
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

    fn read(text: &str) -> (Option<Node>, Findings) {
        let mut findings = Findings::default();
        let tree = yaml_tree(&Arc::from("f"), text, &mut findings);
        (tree, findings)
    }

    #[test]
    fn numbers_and_booleans_are_those_of_cloud_init() {
        let (tree, _) = read("a: 0644\nb: '0644'\nc: yes\nd: ~\ne: !!binary aGVsbG8=\n");
        let tree = tree.unwrap();
        let table = tree.as_table().unwrap();
        assert!(matches!(table["a"].node.value, Value::Integer(0o644)));
        assert!(matches!(&table["b"].node.value, Value::Text(text) if text == "0644"));
        assert!(matches!(table["c"].node.value, Value::Boolean(true)));
        assert!(matches!(table["d"].node.value, Value::Other(NULL)));
        assert!(matches!(&table["e"].node.value, Value::Text(text) if text == "hello"));
    }

    #[test]
    fn an_error_says_where_and_not_what() {
        let (tree, findings) = read("password: 'kV0lmS1T\nb: [\n");
        assert!(tree.is_none());
        assert!(!findings.errors[0].to_string().contains("kV0l"), "{:?}", findings.errors);
        let (_, findings) = read("content: !!binary |\n  /w==\n");
        assert!(findings.errors[0].help.contains("!!binary"), "{:?}", findings.errors);
    }

    #[test]
    fn a_bomb_of_aliases_does_not_explode() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let row = vec![format!("*a{}", level - 1); 10].join(",");
            text += &["a", &level.to_string(), ": &a", &level.to_string(), " [", &row, "]\n"].concat();
        }
        let (tree, findings) = read(&text);
        assert!(tree.is_none() && !findings.errors.is_empty());
    }

    #[test]
    fn depth_is_bounded() {
        let (tree, findings) = read(&"[".repeat(100_000));
        assert!(tree.is_none() && findings.errors.len() == 1);
    }

    proptest::proptest! {
        #[test]
        fn any_text_gives_a_tree_or_errors(text in "[a-c:\\-\\[\\]{}&*!|>\"'#, \n0-9]{0,60}") {
            let (tree, findings) = read(&text);
            proptest::prop_assert!(tree.is_some() || !findings.errors.is_empty());
        }
    }
}
