//! Reads the keys of one table of the merged tree into types, and says everything that is wrong on the way.
//!
//! Which keys a table may have the schema alone says ([`schema::names_in`]).

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::problem::{Findings, nearest};
use super::schema;
use super::tree::{Entry, Node, Origin, Table, Value};

/// One table that is being read.
pub struct Fields<'a> {
    table: &'a Table,
    /// Where the table stands.
    pub origin: &'a Origin,
    path: String,
}

impl<'a> Fields<'a> {
    /// Begins to read a table at `path` (empty for the document itself) that may only have the keys that the schema
    /// describes there. `None` where it is no table.
    pub fn new(node: &'a Node, path: &str, findings: &mut Findings) -> Option<Self> {
        Self::with(node, path, &schema::names_in(path, None), findings)
    }

    /// The same for a table whose keys depend on the driver, where that is known.
    pub fn of_driver(node: &'a Node, path: &str, driver: Option<&str>, findings: &mut Findings) -> Option<Self> {
        Self::with(node, path, &schema::names_in(path, driver), findings)
    }

    /// The same for a table that is written like the one that is described at `like`.
    pub fn like(node: &'a Node, path: &str, like: &str, findings: &mut Findings) -> Option<Self> {
        Self::with(node, path, &schema::names_in(like, None), findings)
    }

    /// The same for a table whose names are not Ingot's: any is known. Gives them too.
    pub fn free(node: &'a Node, path: &str, findings: &mut Findings) -> Option<(Self, Vec<&'a str>)> {
        let names: Vec<&str> = node.as_table().map(|table| table.keys().map(String::as_str).collect())?;
        Some((Self::with(node, path, &names, findings)?, names))
    }

    fn with(node: &'a Node, path: &str, known: &[&str], findings: &mut Findings) -> Option<Self> {
        let Value::Table(table) = &node.value else {
            findings.error(&node.origin, path, format!("is {}, not a table", node.value.kind()), "");
            return None;
        };
        let fields = Self { table, origin: &node.origin, path: path.to_owned() };
        for (key, entry) in table {
            if !known.contains(&key.as_str()) {
                let help = match nearest(key, known.iter().copied()) {
                    Some(near) => format!("did you mean {near:?}?"),
                    None => format!("known here: {}", known.join(", ")),
                };
                findings.error(&entry.key, &fields.path_of(key), "unknown key", help);
            }
        }
        Some(fields)
    }

    /// The full name of a key of this table.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A key's entry.
    pub fn entry(&self, key: &str) -> Option<&'a Entry> {
        #[cfg(test)]
        record::asked(&self.path_of(key));
        self.table.get(key)
    }

    /// Where a key's value stands, or else where the table does.
    pub fn place(&self, key: &str) -> &'a Origin {
        self.table.get(key).map_or(self.origin, |entry| &entry.node.origin)
    }

    /// Adds an error at a key.
    pub fn error(&self, key: &str, message: impl Into<String>, help: impl Into<String>, findings: &mut Findings) {
        findings.error(self.place(key), &self.path_of(key), message, help);
    }

    /// Adds a warning at a key.
    pub fn warning(&self, key: &str, message: impl Into<String>, help: impl Into<String>, findings: &mut Findings) {
        findings.warning(self.place(key), &self.path_of(key), message, help);
    }

    /// Adds the error that a key is missing.
    pub fn missing(&self, key: &str, help: impl Into<String>, findings: &mut Findings) {
        findings.error(self.origin, &self.path_of(key), "is missing", help);
    }

    /// A text.
    pub fn text(&self, key: &str, findings: &mut Findings) -> Option<&'a str> {
        let entry = self.entry(key)?;
        text_of(&entry.node, &self.path_of(key), findings)
    }

    /// A text that is read into a type.
    pub fn parsed<T: FromStr<Err: Display>>(&self, key: &str, findings: &mut Findings) -> Option<T> {
        let entry = self.entry(key)?;
        parse(&entry.node, &self.path_of(key), findings)
    }

    /// A list of texts that are read into a type; empty where the key is absent. What cannot be read is left out
    /// after its error was added.
    pub fn parsed_list<T: FromStr<Err: Display>>(&self, key: &str, findings: &mut Findings) -> Vec<T> {
        let path = self.path_of(key);
        self.list(key, findings).iter().filter_map(|node| parse(node, &path, findings)).collect()
    }

    /// A list; empty where the key is absent.
    pub fn list(&self, key: &str, findings: &mut Findings) -> &'a [Node] {
        match self.entry(key).map(|entry| &entry.node) {
            None => &[],
            Some(Node { value: Value::Array(items), .. }) => items,
            Some(other) => {
                let message = format!("is {}, not a list", other.value.kind());
                findings.error(&other.origin, &self.path_of(key), message, "write it in [brackets]");
                &[]
            }
        }
    }

    /// True or false; `None` where the key is absent.
    pub fn boolean(&self, key: &str, findings: &mut Findings) -> Option<bool> {
        match self.entry(key)?.node.value {
            Value::Boolean(value) => Some(value),
            ref other => {
                let message = format!("is {}, not true or false", other.kind());
                self.error(key, message, "write true or false without quotes", findings);
                None
            }
        }
    }

    /// A whole number within a range; `None` where the key is absent.
    pub fn integer(&self, key: &str, range: RangeInclusive<i64>, findings: &mut Findings) -> Option<i64> {
        match self.entry(key)?.node.value {
            Value::Integer(value) if range.contains(&value) => Some(value),
            ref other => {
                let message = match other {
                    Value::Integer(value) => {
                        format!("is {value}; it must be from {} to {}", range.start(), range.end())
                    }
                    other => format!("is {}, not a whole number", other.kind()),
                };
                self.error(key, message, "", findings);
                None
            }
        }
    }
}

fn text_of<'a>(node: &'a Node, path: &str, findings: &mut Findings) -> Option<&'a str> {
    if let Value::Text(text) = &node.value {
        return Some(text);
    }
    findings.error(&node.origin, path, format!("is {}, not a text", node.value.kind()), "write it in \"quotes\"");
    None
}

fn parse<T: FromStr<Err: Display>>(node: &Node, path: &str, findings: &mut Findings) -> Option<T> {
    let text = text_of(node, path, findings)?;
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            let shown: String = text.chars().take(60).collect();
            let dots = if shown.len() < text.len() { "..." } else { "" };
            // A private key pasted where a public one belongs is not for the log.
            let shown = if text.contains("PRIVATE KEY") { "it".into() } else { format!("{:?}", shown + dots) };
            findings.error(&node.origin, path, format!("{shown}: {error}"), "");
            None
        }
    }
}

/// Which keys the reading code asks for: a test compares them with the descriptions.
#[cfg(test)]
pub mod record {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use crate::config::schema::generic;

    thread_local! {
        static ASKED: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
    }

    pub fn asked(path: &str) {
        ASKED.with_borrow_mut(|asked| asked.insert(generic(path)));
    }

    /// The paths that this thread's reading asked for.
    pub fn take() -> BTreeSet<String> {
        ASKED.take()
    }
}
