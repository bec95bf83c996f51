//! What every key of a node's configuration is: one description from which everything else about keys comes.
//!
//! A [`Key`] has the path, the kind, the default, whether it is a secret, which drivers and roles need it, a sentence
//! and an example. From these come the JSON Schema ([`json_schema`]), the key tables of the documentation
//! ([`markdown`]), which values are never shown ([`is_secret`]), and the commented sample of a role ([`sample`]).
//! The reading code has no list of its own: what a table may hold is what is described here ([`names_in`]), so a key
//! that is not described is refused. That each one that is described is read, and none is asked for in vain, tests say.

mod json;
mod keys;
mod markdown;
mod sample;
#[cfg(test)]
mod tests;

use super::secret::REDACTED;
pub use json::json_schema;
pub use keys::KEYS;
pub use markdown::markdown;
pub use sample::{RoleValue, sample};

/// One key, as all drivers know it or as those of `only` do.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its tables and its name: `network[].match.mac`, where `[]` stands for any element of a list. The list
    /// itself is `network`.
    pub path: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What holds where it is not given, in words or as a value; empty where there is nothing to say.
    pub default: &'static str,
    /// Whether its value, and all below it, is never shown.
    pub secret: bool,
    /// The drivers that know it, `k3s`, or a role of one, `docker-swarm/worker`; empty: it does not depend on them.
    pub only: &'static [&'static str],
    /// Who must have it.
    pub need: Need,
    /// Who of these need not have it.
    pub unless: &'static [&'static str],
    /// What it means, in a sentence of Markdown.
    pub doc: &'static str,
    /// A valid value, in TOML.
    pub example: &'static str,
    /// What must stand in the document beside it for it to have a meaning, in TOML.
    pub beside: &'static str,
}

/// Who must have a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nobody.
    Optional,
    /// Whoever has its table.
    Required,
    /// These drivers (`k3s`), roles of drivers (`docker-swarm/worker`), or, of aiWARE, modes (`aiware/db`), from one
    /// document or another.
    By(&'static [&'static str]),
}

/// What a key holds.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A text of a form.
    Text(Form),
    /// A list of such texts.
    Texts(Form),
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A whole number from the first to the second.
    Integer(i64, i64),
    /// True or false.
    Boolean,
    /// A table whose keys have their own descriptions.
    Table,
    /// A list of such tables.
    Tables,
    /// A table of names that are not Ingot's, each with a text, a number, or true or false.
    Map,
    /// A whole number or a text of a form.
    IntegerOrText(Form),
    /// True, false, or a text of a form.
    BooleanOrText(Form),
    /// True, false, or a list of texts of a form.
    BooleanOrTexts(Form),
    /// A text of a form, or a list of them.
    OneOrMore(Form),
    /// A list of whole numbers and texts of a form.
    IntegersOrTexts(Form),
    /// An interface: its name, or a table that matches it.
    Reference,
    /// A list of interfaces.
    References,
    /// A list of lists of texts: commands with their arguments.
    Commands,
}

/// The form of a text.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// What it is, with its article: `a MAC address`.
    pub name: &'static str,
    /// A pattern that every valid text matches (ECMA 262); texts that match may be refused for other reasons. Empty:
    /// any text.
    pub pattern: &'static str,
}

impl Key {
    const fn new(path: &'static str, kind: Kind, example: &'static str, doc: &'static str) -> Self {
        Self {
            path,
            kind,
            default: "",
            secret: false,
            only: &[],
            need: Need::Optional,
            unless: &[],
            doc,
            example,
            beside: "",
        }
    }

    const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    const fn required(mut self) -> Self {
        self.need = Need::Required;
        self
    }

    const fn needed_by(mut self, who: &'static [&'static str]) -> Self {
        self.need = Need::By(who);
        self
    }

    const fn unless(mut self, who: &'static [&'static str]) -> Self {
        self.unless = who;
        self
    }

    const fn only(mut self, who: &'static [&'static str]) -> Self {
        self.only = who;
        self
    }

    const fn beside(mut self, beside: &'static str) -> Self {
        self.beside = beside;
        self
    }

    /// The path of its table; empty for a key of the document itself.
    pub fn table(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(table, _)| table)
    }

    /// Its own name.
    pub fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }

    /// True where this driver and role know it.
    pub fn is_for(&self, driver: &str, role: &str) -> bool {
        self.only.is_empty() || names(self.only, driver, role)
    }

    /// True where a node of this driver with these roles (several of aiWARE's modes, else one) must have it.
    pub fn is_needed(&self, driver: &str, roles: &[&str]) -> bool {
        let any = |who: &[&str]| roles.iter().any(|role| names(who, driver, role));
        match self.need {
            Need::Optional => false,
            Need::Required => roles.iter().any(|role| self.is_for(driver, role)),
            Need::By(who) => any(who) && !any(self.unless),
        }
    }

    /// Whose it is, for people: empty, or `docker-swarm workers`.
    pub fn whose(&self) -> String {
        self.only.join(", ")
    }
}

fn names(who: &[&str], driver: &str, role: &str) -> bool {
    who.iter().any(|name| match name.split_once('/') {
        Some((of, wanted)) => of == driver && wanted == role,
        None => *name == driver,
    })
}

/// All keys, tables before what is in them.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().copied().flatten()
}

/// A path without the numbers of list elements: `network[0].match.mac` is `network[].match.mac`.
pub fn generic(path: &str) -> String {
    let mut result = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('[') {
        result.push_str(before);
        match after.split_once(']') {
            Some((number, after)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                result.push_str("[]");
                rest = after;
            }
            _ => {
                result.push('[');
                rest = after;
            }
        }
    }
    result + rest
}

/// A key by its path, with or without numbers of list elements: the first description that it has.
pub fn find(path: &str) -> Option<&'static Key> {
    let path = generic(path);
    keys().find(|key| key.path == path)
}

/// A key by its path, as this driver knows it; where the driver is not known, as the first one does.
pub fn find_for(path: &str, driver: &str) -> Option<&'static Key> {
    let path = generic(path);
    keys().find(|key| key.path == path && key.is_for(driver, "")).or_else(|| find(&path))
}

/// The names of the keys that a table may have, with or without numbers of list elements in its path; those of one
/// driver where it is given, else those of all. Empty for a table that is not described.
pub fn names_in(table: &str, driver: Option<&str>) -> Vec<&'static str> {
    let table = generic(table);
    let its = |key: &Key| driver.is_none_or(|driver| key.only.is_empty() || of_driver(key.only, driver));
    let mut names: Vec<&str> = Vec::new();
    for key in keys().filter(|key| key.table() == table && its(key)) {
        if !names.contains(&key.name()) {
            names.push(key.name());
        }
    }
    names
}

/// True where a driver is named, for all its roles or for one.
fn of_driver(who: &[&str], driver: &str) -> bool {
    who.iter().any(|name| name.split('/').next() == Some(driver))
}

/// The path of a document's key; a part for one machine is laid over the document, so its keys are the document's.
fn of_document(path: &str) -> String {
    let path = generic(path);
    path.strip_prefix("machine[].").map(str::to_owned).unwrap_or(path)
}

/// True where the value at a path must never be shown: it is a secret, or part of one.
pub fn is_secret(path: &str) -> bool {
    let path = of_document(path);
    keys().filter(|key| key.secret).any(|key| {
        path.strip_prefix(key.path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with('['))
    })
}

/// A text at a path as it may be shown: nothing of a secret, of an address nothing that may be a password or a token.
/// `None` where it may be shown as it is.
pub fn shown(path: &str, text: &str) -> Option<String> {
    if is_secret(path) {
        return Some(REDACTED.to_owned());
    }
    (is_address(path) && text.contains("://")).then(|| crate::http::shown(text))
}

/// True where a key holds addresses of HTTP.
pub fn is_address(path: &str) -> bool {
    let path = of_document(path);
    keys().any(|key| match key.kind {
        Kind::Text(form) | Kind::Texts(form) => key.path == path && form.pattern == keys::URL.pattern,
        _ => false,
    })
}
