//! A configuration document as a tree of values, each with the place where it was written.
//!
//! All formats (TOML, cloud-config) become this one tree; documents are merged as trees; only the merged tree is
//! read into types. So every error, whatever document it comes from, names file, line and column, and `explain`
//! can say where each value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Origin {
    /// The document: `INGOT:node.toml`.
    #[serde(serialize_with = "shared_text")]
    pub document: Arc<str>,
    /// The line, from 1; 0 where it is not known.
    pub line: u32,
    /// The column in characters, from 1; 0 where it is not known.
    pub column: u32,
}

fn shared_text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl Origin {
    /// The document as a whole.
    pub fn document(document: &Arc<str>) -> Self {
        Self { document: document.clone(), line: 0, column: 0 }
    }

    /// The place of a byte offset in a document's text.
    pub fn at(document: &Arc<str>, text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        Self {
            document: document.clone(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (0, _) => write!(f, "{}", self.document),
            (line, 0) => write!(f, "{}:{line}", self.document),
            (line, column) => write!(f, "{}:{line}:{column}", self.document),
        }
    }
}

/// A value and where it was written. It may hold secrets: it can be neither printed nor serialised.
#[derive(Clone, PartialEq)]
pub struct Node {
    /// Where it was written.
    pub origin: Origin,
    /// The value.
    pub value: Value,
}

/// A value.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// Keys and values.
    Table(Table),
    /// A list.
    Array(Vec<Node>),
    /// A text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Yes or no.
    Boolean(bool),
    /// Something that no key takes (a date, a float, a null), by its name.
    Other(&'static str),
}

/// Keys with the place of the key and its value.
pub type Table = BTreeMap<String, Entry>;

/// A key's place and its value.
#[derive(Clone, PartialEq)]
pub struct Entry {
    /// Where the key stands.
    pub key: Origin,
    /// Its value.
    pub node: Node,
}

impl Value {
    /// What kind of value it is, with its article.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Table(_) => "a table",
            Value::Array(_) => "a list",
            Value::Text(_) => "a text",
            Value::Integer(_) => "a whole number",
            Value::Boolean(_) => "true or false",
            Value::Other(kind) => kind,
        }
    }
}

impl Node {
    /// An empty table.
    pub fn table(origin: Origin) -> Self {
        Self { origin, value: Value::Table(Table::new()) }
    }

    /// The table, where it is one.
    pub fn as_table(&self) -> Option<&Table> {
        if let Value::Table(table) = &self.value { Some(table) } else { None }
    }

    /// Adds the value to a hash, without its places; two values are the same where they add the same.
    pub fn add_to(&self, hash: &mut sha2::Sha256) {
        use sha2::Digest as _;
        let mut begin = |kind: u8, length: usize| {
            hash.update([kind]);
            hash.update((length as u64).to_be_bytes());
        };
        match &self.value {
            Value::Table(table) => {
                begin(b't', table.len());
                for (key, entry) in table {
                    hash.update((key.len() as u64).to_be_bytes());
                    hash.update(key);
                    entry.node.add_to(hash);
                }
            }
            Value::Array(items) => {
                begin(b'a', items.len());
                for item in items {
                    item.add_to(hash);
                }
            }
            Value::Text(text) => {
                begin(b's', text.len());
                hash.update(text);
            }
            Value::Integer(number) => {
                begin(b'i', 8);
                hash.update(number.to_be_bytes());
            }
            Value::Boolean(value) => begin(b'b', usize::from(*value)),
            Value::Other(kind) => {
                begin(b'o', kind.len());
                hash.update(kind);
            }
        }
    }

    /// Takes a key out, where this is a table that has it.
    pub fn remove(&mut self, key: &str) -> Option<Entry> {
        if let Value::Table(table) = &mut self.value { table.remove(key) } else { None }
    }

    /// Sets the value at a path of keys, making the tables on the way.
    pub fn set(&mut self, path: &[&str], node: Node) {
        let Some((key, rest)) = path.split_first() else {
            *self = node;
            return;
        };
        if self.as_table().is_none() {
            self.value = Value::Table(Table::new());
        }
        if let Value::Table(table) = &mut self.value {
            let origin = node.origin.clone();
            let entry = table
                .entry((*key).to_owned())
                .or_insert_with(|| Entry { key: origin.clone(), node: Node::table(origin) });
            entry.node.set(rest, node);
        }
    }

    /// Lays `over` on top: tables are merged key by key; every other value, lists too, replaces what was there.
    pub fn merge(&mut self, over: Node) {
        match (&mut self.value, over.value) {
            (Value::Table(under), Value::Table(over)) => {
                for (key, entry) in over {
                    match under.get_mut(&key) {
                        Some(existing) => {
                            existing.key = entry.key;
                            existing.node.merge(entry.node);
                        }
                        None => {
                            under.insert(key, entry);
                        }
                    }
                }
            }
            (value, over_value) => {
                *value = over_value;
                self.origin = over.origin;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(document: &str, text: &str) -> Node {
        Node { origin: Origin::document(&Arc::from(document)), value: Value::Text(text.into()) }
    }

    #[test]
    fn a_place_is_counted_in_lines_and_characters() {
        let document: Arc<str> = Arc::from("f");
        let source = "a = 1\nüb = \"x\"\n";
        let offset = source.find('=').unwrap();
        assert_eq!(Origin::at(&document, source, offset).to_string(), "f:1:3");
        let offset = source.rfind('=').unwrap();
        assert_eq!(Origin::at(&document, source, offset).to_string(), "f:2:4");
        assert_eq!(Origin::at(&document, source, 999).to_string(), "f:3:1");
    }

    #[test]
    fn merging_is_deep_for_tables_and_replaces_the_rest() {
        let mut under = Node::table(Origin::document(&Arc::from("a")));
        under.set(&["join", "role"], text("a", "worker"));
        under.set(&["join", "secret"], text("a", "one"));
        let mut over = Node::table(Origin::document(&Arc::from("b")));
        over.set(&["join", "secret"], text("b", "two"));
        under.merge(over);
        let join = under.as_table().unwrap()["join"].node.as_table().unwrap();
        assert!(matches!(&join["role"].node.value, Value::Text(t) if t == "worker"));
        assert_eq!(join["role"].node.origin.to_string(), "a");
        assert!(matches!(&join["secret"].node.value, Value::Text(t) if t == "two"));
        assert_eq!(join["secret"].node.origin.to_string(), "b");
    }
}
