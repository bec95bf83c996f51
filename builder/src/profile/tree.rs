//! Merging: a tree of values in which every leaf knows the file and line it came from.
//!
//! The rules are few, so that a reader can tell the outcome: tables are merged key by key; lists are joined, an
//! element that is there already is not added twice; of two other values the later one wins.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::line_and_column;

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A merged value.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// A table.
    Table(BTreeMap<String, Node>),
    /// A list; each element with its place.
    List(Vec<(toml::Value, Place)>),
    /// Anything else.
    Leaf(toml::Value, Place),
}

impl Default for Node {
    fn default() -> Self {
        Self::Table(BTreeMap::new())
    }
}

/// A list whose elements replace those of earlier files where the key is one of these: an argument vector
/// or an ordered command is one value.
const WHOLE_LISTS: [&str; 2] = ["command", "suites"];

impl Node {
    /// The tree of one file. `text` is the file's content, for the lines.
    pub fn from_table(table: &DeTable<'_>, text: &str, file: &Path) -> Self {
        let entries = table.iter().map(|(key, value)| {
            let key = key.get_ref().as_ref().to_owned();
            (key, Self::from_value(value.get_ref(), value.span().start, text, file))
        });
        Self::Table(entries.collect())
    }

    fn from_value(value: &DeValue<'_>, offset: usize, text: &str, file: &Path) -> Self {
        let place = |offset| Place { file: file.to_owned(), line: line_and_column(text, offset).0 };
        match value {
            DeValue::Table(table) => Self::from_table(table, text, file),
            DeValue::Array(array) => Self::List(
                array.iter().map(|element| (plain(element.get_ref()), place(element.span().start))).collect(),
            ),
            other => Self::Leaf(plain(other), place(offset)),
        }
    }

    /// Puts `later` over this tree.
    pub fn merge(&mut self, later: Node) {
        self.merge_as("", later);
    }

    fn merge_as(&mut self, key: &str, later: Node) {
        match (self, later) {
            (Self::Table(mine), Self::Table(theirs)) => {
                for (key, value) in theirs {
                    match mine.get_mut(&key) {
                        Some(existing) => existing.merge_as(&key, value),
                        None => {
                            mine.insert(key, value);
                        }
                    }
                }
            }
            (Self::List(mine), Self::List(theirs)) if !WHOLE_LISTS.contains(&key) => {
                for (value, place) in theirs {
                    if !mine.iter().any(|(existing, _)| *existing == value) {
                        mine.push((value, place));
                    }
                }
            }
            (mine, theirs) => *mine = theirs,
        }
    }

    /// Takes a key out of a table.
    pub fn take(&mut self, key: &str) -> Option<Node> {
        match self {
            Self::Table(entries) => entries.remove(key),
            _ => None,
        }
    }

    /// The node at a path of keys.
    pub fn get_mut(&mut self, path: &[&str]) -> Option<&mut Node> {
        path.iter().try_fold(self, |node, key| match node {
            Self::Table(entries) => entries.get_mut(*key),
            _ => None,
        })
    }

    /// The entries of a table.
    pub fn entries_mut(&mut self) -> impl Iterator<Item = (&String, &mut Node)> {
        let entries = match self {
            Self::Table(entries) => Some(entries.iter_mut()),
            _ => None,
        };
        entries.into_iter().flatten()
    }

    /// The value without the places.
    pub fn value(&self) -> toml::Value {
        match self {
            Self::Table(entries) => {
                toml::Value::Table(entries.iter().map(|(key, node)| (key.clone(), node.value())).collect())
            }
            Self::List(elements) => toml::Value::Array(elements.iter().map(|(value, _)| value.clone()).collect()),
            Self::Leaf(value, _) => value.clone(),
        }
    }

    /// Every leaf and every list element with its dotted key and its place, in order of the keys.
    pub fn leaves(&self) -> Vec<(String, toml::Value, Place)> {
        let mut found = Vec::new();
        self.collect(String::new(), &mut found);
        found
    }

    fn collect(&self, key: String, found: &mut Vec<(String, toml::Value, Place)>) {
        match self {
            Self::Table(entries) => {
                for (name, node) in entries {
                    let name = quoted(name);
                    node.collect(if key.is_empty() { name } else { format!("{key}.{name}") }, found);
                }
            }
            Self::List(elements) => {
                for (value, place) in elements {
                    found.push((format!("{key}[]"), value.clone(), place.clone()));
                }
            }
            Self::Leaf(value, place) => found.push((key, value.clone(), place.clone())),
        }
    }
}

/// A key as TOML wants it: quoted where it is not bare.
fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare { key.to_owned() } else { toml::Value::String(key.to_owned()).to_string() }
}

fn plain(value: &DeValue<'_>) -> toml::Value {
    match value {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            i64::from_str_radix(&digits, number.radix())
                .map_or_else(|_| toml::Value::String(digits), toml::Value::Integer)
        }
        DeValue::Float(number) => {
            let digits = number.as_str().replace('_', "");
            digits.parse().map_or_else(|_| toml::Value::String(digits), toml::Value::Float)
        }
        DeValue::Boolean(value) => toml::Value::Boolean(*value),
        DeValue::Datetime(time) => toml::Value::Datetime(*time),
        DeValue::Array(array) => toml::Value::Array(array.iter().map(|e| plain(e.get_ref())).collect()),
        DeValue::Table(table) => toml::Value::Table(
            table.iter().map(|(key, value)| (key.get_ref().as_ref().to_owned(), plain(value.get_ref()))).collect(),
        ),
    }
}
