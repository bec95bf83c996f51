//! Sealed secrets inside documents: opening them on the way to the types, and sealing those of a file.

use std::ops::Range;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::parse::{text_of, toml_tree};
use super::problem::{ConfigError, Findings};
use super::schema::{find_for, generic, is_secret};
use super::sealed::{ConfigKey, PublicKey, SealError, check_form, is_sealed, open, seal};
use super::secret::Secret;
use super::tree::{Node, Origin, Value};

/// Who reads a configuration, and so what becomes of its sealed secrets.
#[derive(Debug, Clone, Copy)]
pub enum Opener<'a> {
    /// A node with these keys, perhaps none: what they do not open is an error.
    Node(&'a [ConfigKey]),
    /// Somebody who checks a file and has no key: a sealed secret of the right form is taken to be a valid one. What is
    /// loaded this way has examples in place of these secrets and must not be applied.
    Author,
}

/// Opens every sealed secret of a document, each bound to its path.
pub fn open_all(document: &mut Node, opener: Opener<'_>, findings: &mut Findings) {
    let driver = driver_of(document).unwrap_or_default().to_owned();
    open_below(document, "", &driver, opener, findings);
}

/// Which driver the document names: what a valid secret looks like depends on it.
fn driver_of(document: &Node) -> Option<&str> {
    let mut node = document;
    for key in ["join", "driver"] {
        let Value::Table(table) = &node.value else { return None };
        node = &table.get(key)?.node;
    }
    if let Value::Text(text) = &node.value { Some(text) } else { None }
}

fn open_below(node: &mut Node, path: &str, driver: &str, opener: Opener<'_>, findings: &mut Findings) {
    match &mut node.value {
        Value::Table(table) => {
            for (key, entry) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                open_below(&mut entry.node, &path, driver, opener, findings);
            }
        }
        Value::Array(items) => items.iter_mut().enumerate().for_each(|(index, item)| {
            open_below(item, &format!("{path}[{index}]"), driver, opener, findings);
        }),
        Value::Text(text) if is_sealed(text) => match opened(text, path, driver, opener) {
            Ok(plain) => *text = plain,
            Err((message, help)) => {
                let origin = node.origin.clone();
                findings.error(&origin, path, message, help);
                // The value must not be read for what it is not.
                node.value = Value::Other("a sealed value");
            }
        },
        _ => {}
    }
}

fn opened(text: &str, path: &str, driver: &str, opener: Opener<'_>) -> Result<String, (String, String)> {
    if !is_secret(path) {
        let help = "write the value itself; `ingot config seal` seals secrets only";
        return Err(("is sealed, and this key holds no secret".into(), help.into()));
    }
    let result = match opener {
        Opener::Node(keys) => open(&generic(path), text, keys).map(|secret| secret.expose().to_owned()),
        Opener::Author => check_form(text).map(|()| stand_in(path, driver)),
    };
    result.map_err(|error| (error.to_string(), help(error).to_owned()))
}

/// A valid value for a secret that cannot be opened here.
fn stand_in(path: &str, driver: &str) -> String {
    let example = find_for(path, driver).map(|key| format!("x = {}", key.example)).unwrap_or_default();
    let table = toml::from_str::<toml::Table>(&example).unwrap_or_default();
    // One of a table's many names has no example of its own.
    table.get("x").and_then(toml::Value::as_str).unwrap_or("a sealed value").to_owned()
}

fn help(error: SealError) -> &'static str {
    match error {
        SealError::NoKey => {
            "give it the site's key as config.key on an INGOT volume, or as the credential ingot.config-key"
        }
        SealError::OtherKey => "seal it again with `ingot config seal --to` this site's .pub file",
        _ => "seal it again with `ingot config seal`",
    }
}

/// A `node.toml` with its secrets sealed to `recipients`; everything else, comments too, stays as it is. Gives the text
/// and the number of secrets that were sealed now; those that are sealed already stay as they are.
///
/// # Errors
/// The document is not TOML, or cannot be sealed to these recipients.
pub fn seal_document(name: &str, bytes: &[u8], recipients: &[PublicKey]) -> Result<(String, usize), ConfigError> {
    let document: Arc<str> = Arc::from(name);
    let mut findings = Findings::default();
    // The same reading as everywhere gives the same errors; the spans are only in TOML's own tree.
    let text = toml_tree(&document, bytes, &mut findings).and_then(|_| text_of(&document, bytes, &mut findings));
    let table = text.and_then(|text| DeTable::parse(text).ok());
    let (Some(text), Some(table)) = (text, table) else {
        return findings.into_result::<(String, usize)>(None).map(|(sealed, _)| sealed);
    };
    let mut secrets = Vec::new();
    collect(table.get_ref(), "", &mut secrets);
    secrets.sort_by_key(|(range, _, _)| std::cmp::Reverse(range.start));
    let mut sealed = text.to_owned();
    for (range, path, secret) in &secrets {
        match seal(path, secret, recipients) {
            Ok(value) => sealed.replace_range(range.clone(), &format!("\"{value}\"")),
            Err(error) => findings.error(&Origin::at(&document, text, range.start), path, error.to_string(), ""),
        }
    }
    findings.into_result(Some((sealed, secrets.len()))).map(|(sealed, _)| sealed)
}

fn collect(table: &DeTable<'_>, path: &str, into: &mut Vec<(Range<usize>, String, Secret)>) {
    for (key, value) in table {
        let path = if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
        collect_value(value.get_ref(), value.span(), &path, into);
    }
}

fn collect_value(value: &DeValue<'_>, span: Range<usize>, path: &str, into: &mut Vec<(Range<usize>, String, Secret)>) {
    match value {
        DeValue::Table(inner) => collect(inner, path, into),
        DeValue::Array(items) => {
            items.iter().for_each(|item| collect_value(item.get_ref(), item.span(), &format!("{path}[]"), into));
        }
        DeValue::String(text) if is_secret(path) && !is_sealed(text) => {
            // A part for one machine is laid over the document: its keys are the document's.
            let bound = path.strip_prefix("machine[].").unwrap_or(path);
            into.push((span, bound.to_owned(), Secret::new(text.as_ref())));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Document, Format, Machine, System, check, load, load_with};

    const SECRET: &str = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=";
    const OTHER: &str = "ZXhhbXCp0bGUgb3RoZXIgY2x1c3RlciBrZXkh0a1S7qw=";

    fn site() -> String {
        format!(
            "version = 1 # kept\n[join]\ndriver = \"docker-swarm\"\nrole = \"worker\"\nmanagers = [\"10.77.0.10\"]\n\
             secret = '''{SECRET}''' # the cluster's\n\n[[machine]]\nmatch = {{ serial = \"x\" }}\n\
             join = {{ secret = \"{OTHER}\", role = \"worker\" }}\n"
        )
    }

    fn document(text: &str) -> [Document; 1] {
        [Document { name: "f".into(), format: Format::NodeToml, bytes: text.as_bytes().to_vec() }]
    }

    fn secret_of(text: &str, machine: &Machine, keys: &[ConfigKey]) -> Result<String, String> {
        let loaded = load_with(&document(text), machine, Opener::Node(keys)).map_err(|error| error.to_string())?;
        assert!(!format!("{loaded:?}").contains(SECRET));
        let Some(System::DockerSwarm(swarm)) = loaded.config.join.map(|join| join.system) else { panic!() };
        Ok(swarm.secret.unwrap().expose().to_owned())
    }

    #[test]
    fn a_sealed_file_is_the_same_configuration_for_who_has_the_key() {
        let (key, other) = (ConfigKey::generate().unwrap(), ConfigKey::generate().unwrap());
        let (sealed, number) = seal_document("f", site().as_bytes(), &[key.public()]).unwrap();
        assert_eq!(number, 2);
        assert!(!sealed.contains(SECRET) && !sealed.contains(OTHER), "{sealed}");
        assert!(sealed.starts_with("version = 1 # kept\n") && sealed.contains("\" # the cluster's\n"), "{sealed}");
        let machine = Machine { serial: Some("x".into()), ..Machine::default() };
        assert_eq!(secret_of(&sealed, &Machine::default(), std::slice::from_ref(&key)).unwrap(), SECRET);
        assert_eq!(secret_of(&sealed, &machine, &[other.clone(), key.clone()]).unwrap(), OTHER);
        let error = secret_of(&sealed, &machine, &[other]).unwrap_err();
        assert!(error.starts_with("f:10:19: join.secret: is sealed to another config key"), "{error}");
        let error = load(&document(&sealed), &Machine::default()).unwrap_err().to_string();
        assert!(error.starts_with("f:6:10: join.secret: is sealed, and this machine has no config key"), "{error}");
        // Who has no key can still check everything else.
        assert_eq!(check(&document(&sealed)).unwrap().machines.len(), 1);
        assert_eq!(seal_document("f", sealed.as_bytes(), &[key.public()]).unwrap(), (sealed, 0));
    }

    #[test]
    fn a_value_that_was_moved_or_cut_is_refused_where_it_stands() {
        let key = ConfigKey::generate().unwrap();
        let (sealed, _) = seal_document("f", site().as_bytes(), &[key.public()]).unwrap();
        let refused = |text: &str, expected: &str| {
            let error = secret_of(text, &Machine::default(), std::slice::from_ref(&key)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        refused(
            &sealed.replacen("secret = \"enc", "token = \"enc", 1),
            "f:6:9: join.token: was sealed for another key",
        );
        refused(&sealed.replacen("role = \"worker\"", &format!("role = \"{}\"", "enc:v1:AAAA"), 1), "holds no secret");
        refused(&sealed.replacen("enc:v1:A", "enc:v1:", 1), "f:6:10: join.secret: is not a whole sealed value");
        let error = check(&document(&sealed.replacen("enc:v1:A", "enc:v1:", 1))).unwrap_err().to_string();
        assert!(error.starts_with("f:6:10: join.secret: is not a whole sealed value"), "{error}");
    }

    #[test]
    fn what_is_no_toml_is_not_sealed() {
        let key = ConfigKey::generate().unwrap();
        let error = seal_document("f", b"[join\n", &[key.public()]).unwrap_err().to_string();
        assert!(error.starts_with("f:1:"), "{error}");
        assert!(seal_document("f", site().as_bytes(), &[]).unwrap_err().to_string().contains("from 1 to 16"));
    }
}
