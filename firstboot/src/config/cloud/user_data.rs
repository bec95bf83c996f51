//! From `#cloud-config` to the tree that `node.toml` gives.
//!
//! Takes user-data or vendor-data with all its parts. Gives one tree; [`KEYS`](super::keys::KEYS) says what becomes of
//! each key. Parts are laid over each other as cloud-init does it by default: a key of a later part replaces that of an
//! earlier one, whole. A `#ingot-config` part is a `node.toml` and wins over every `#cloud-config` of its document.

use std::sync::Arc;

use super::keys::applies;
use super::unpack::{Kind, unpack};
use super::yaml::{NULL, entries, items, yaml_tree};
use super::{disks, files, power, users};
use crate::config::parse::toml_tree;
use crate::config::problem::Findings;
use crate::config::run::quoted;
use crate::config::tree::{Entry, Node, Origin, Table, Value};

/// Reads a document. `None` after errors were added to `findings`; an empty one is an empty table.
pub fn user_data(document: &Arc<str>, bytes: &[u8], findings: &mut Findings) -> Option<Node> {
    let whole = Origin::document(document);
    let parts = unpack(document, bytes, findings)?;
    let errors = findings.errors.len();
    let mut cloud = Table::new();
    let mut over = Vec::new();
    for part in &parts {
        match part.kind {
            Kind::IngotConfig => over.extend(toml_tree(&part.document, part.text.as_bytes(), findings)),
            Kind::CloudConfig => {
                let Some(tree) = yaml_tree(&part.document, &part.text, findings) else { continue };
                for (key, place, node) in entries(tree, "", &Origin::document(&part.document), findings) {
                    cloud.insert(key, Entry { key: place, node });
                }
            }
        }
    }
    if findings.errors.len() > errors {
        return None;
    }
    let mut tree = carry_over(cloud, &whole, findings);
    for node in over {
        tree.merge(node);
    }
    Some(tree)
}

/// The names that a document gives the node.
#[derive(Default)]
struct Names {
    short: Option<Node>,
    full: Option<Node>,
    prefer_full: Option<bool>,
    preserve: bool,
}

fn carry_over(cloud: Table, whole: &Origin, findings: &mut Findings) -> Node {
    let mut tree = Node::table(whole.clone());
    let cloud = Node { origin: whole.clone(), value: Value::Table(cloud) };
    tree.merge(disks::map(&cloud, findings));
    let mut names = Names::default();
    let mut accounts = users::Accounts::default();
    for (key, place, node) in entries(cloud, "", whole, findings) {
        if !applies("", &key, &place, &node, findings) || is_null(&node) {
            continue;
        }
        match key.as_str() {
            "hostname" => names.short = Some(node),
            "fqdn" => names.full = Some(node),
            "prefer_fqdn_over_hostname" => names.prefer_full = boolean(&node, &key, findings),
            "preserve_hostname" => names.preserve = boolean(&node, &key, findings) == Some(true),
            "timezone" => tree.set(&["timezone"], node),
            "ntp" => ntp(node, &mut tree, findings),
            "ca_certs" | "ca-certs" => ca_certs(node, &key, &mut tree, findings),
            "phone_home" => phone_home(node, &mut tree, findings),
            "power_state" => power::power_state(node, &mut tree, findings),
            "disable_root" => {
                if let Some(disable) = boolean(&node, &key, findings) {
                    let value = Value::Boolean(!disable);
                    tree.set(&["ssh", "root_login"], Node { origin: node.origin, value });
                }
            }
            "ssh_keys" => host_keys(node, &mut tree, findings),
            "ssh_authorized_keys" => accounts.root_keys.extend(items(node, &key, findings)),
            "users" => accounts.users(node, findings),
            "user" => accounts.user(node, findings),
            "groups" => accounts.groups = Some(node),
            "write_files" => files::write_files(node, &mut tree, findings),
            "runcmd" => commands("first", node, &mut tree, findings),
            "bootcmd" => commands("boot", node, &mut tree, findings),
            key if disks::KEYS.contains(&key) => {}
            // Every key that applies has its arm; a test goes through the table.
            _ => findings.error(&place, &key, "is not carried over", "report this"),
        }
    }
    accounts.carry_over(&mut tree, findings);
    if !names.preserve {
        let prefer_full = names.prefer_full != Some(false);
        let name = if prefer_full { names.full.or(names.short) } else { names.short.or(names.full.map(first_label)) };
        if let Some(name) = name {
            tree.set(&["hostname"], name);
        }
    }
    tree
}

/// The short name of a full one, as cloud-init makes it.
fn first_label(mut node: Node) -> Node {
    if let Value::Text(text) = &mut node.value {
        text.truncate(text.find('.').unwrap_or(text.len()));
    }
    node
}

/// True where a key has no value: cloud-init counts it as absent.
pub fn is_null(node: &Node) -> bool {
    matches!(node.value, Value::Other(NULL))
}

/// True or false; cloud-init takes texts too.
pub fn boolean(node: &Node, path: &str, findings: &mut Findings) -> Option<bool> {
    match &node.value {
        Value::Boolean(value) => Some(*value),
        Value::Text(text) if ["true", "yes", "on", "1"].contains(&text.to_ascii_lowercase().as_str()) => Some(true),
        Value::Text(text) if ["false", "no", "off", "0"].contains(&text.to_ascii_lowercase().as_str()) => Some(false),
        other => {
            findings.error(&node.origin, path, format!("is {}, not true or false", other.kind()), "");
            None
        }
    }
}

/// A list at a place.
pub fn list(origin: Origin, items: Vec<Node>) -> Node {
    Node { origin, value: Value::Array(items) }
}

fn ntp(node: Node, tree: &mut Node, findings: &mut Findings) {
    let origin = node.origin.clone();
    let (mut servers, mut pools) = (Vec::new(), Vec::new());
    for (key, place, node) in entries(node, "ntp", &origin, findings) {
        if !applies("ntp.", &key, &place, &node, findings) {
            continue;
        }
        let found = if key == "servers" { &mut servers } else { &mut pools };
        found.extend(items(node, &format!("ntp.{key}"), findings));
    }
    servers.append(&mut pools);
    if !servers.is_empty() {
        tree.set(&["ntp"], list(origin, servers));
    }
}

fn ca_certs(node: Node, path: &str, tree: &mut Node, findings: &mut Findings) {
    let origin = node.origin.clone();
    for (key, place, node) in entries(node, path, &origin, findings) {
        if !applies("ca_certs.", &key, &place, &node, findings) {
            continue;
        }
        let full = format!("{path}.{key}");
        if key == "trusted" {
            // cloud-init takes one text too.
            let items = if let Value::Text(_) = node.value { vec![node] } else { items(node, &full, findings) };
            tree.set(&["ca", "certificates"], list(place, items));
        } else if let Some(only) = boolean(&node, &full, findings) {
            tree.set(&["ca", "only"], Node { origin: node.origin, value: Value::Boolean(only) });
        }
    }
}

fn phone_home(node: Node, tree: &mut Node, findings: &mut Findings) {
    let origin = node.origin.clone();
    for (key, place, node) in entries(node, "phone_home", &origin, findings) {
        if !applies("phone_home.", &key, &place, &node, findings) {
            continue;
        }
        if matches!(&node.value, Value::Text(url) if url.contains('$')) {
            let help = "leave it out: the report itself has the machine's name, serial number and addresses";
            findings.error(&node.origin, "phone_home.url", "has a variable, which is not replaced", help);
        }
        tree.set(&["report", "url"], node);
    }
}

fn host_keys(node: Node, tree: &mut Node, findings: &mut Findings) {
    let origin = node.origin.clone();
    for (key, place, node) in entries(node, "ssh_keys", &origin, findings) {
        if applies("ssh_keys.", &key, &place, &node, findings) {
            tree.set(&["ssh", "host_keys", &key], node);
        }
    }
}

/// Commands: each a text for the shell, or a list of arguments. As with cloud-init all of them are one script, a line
/// for each, so a `cd` or a variable of one holds for those after it, and one that fails does not end it.
fn commands(when: &str, node: Node, tree: &mut Node, findings: &mut Findings) {
    let path = if when == "first" { "runcmd" } else { "bootcmd" };
    let origin = node.origin.clone();
    let mut lines = Vec::new();
    for (index, command) in items(node, path, findings).into_iter().enumerate() {
        match command.value {
            Value::Other(NULL) => {}
            Value::Text(text) => lines.push(text),
            Value::Array(arguments) => match line(arguments) {
                Ok(line) => lines.push(line),
                Err(what) => findings.error(&command.origin, &format!("{path}[{index}]"), what, COMMAND_HELP),
            },
            other => {
                let what = format!("is {}", other.kind());
                findings.error(&command.origin, &format!("{path}[{index}]"), what, COMMAND_HELP);
            }
        }
    }
    let script = Node { origin: origin.clone(), value: Value::Text(lines.join("\n")) };
    let scripts = if lines.is_empty() { Vec::new() } else { vec![script] };
    tree.set(&["run", when], list(origin, scripts));
}

const COMMAND_HELP: &str = "write a text for the shell, or a list of a program and its arguments";

/// The shell's line for a program and its arguments.
fn line(arguments: Vec<Node>) -> Result<String, String> {
    let word = |mut argument: Node| {
        number_as_text(&mut argument);
        match argument.value {
            Value::Text(text) => Ok(quoted(&text)),
            other => Err(format!("has {} as an argument", other.kind())),
        }
    };
    let words = arguments.into_iter().map(word).collect::<Result<Vec<_>, _>>()?;
    if words.is_empty() { Err("is an empty list".into()) } else { Ok(words.join(" ")) }
}

/// cloud-init takes numbers where a text is meant.
pub fn number_as_text(node: &mut Node) {
    if let Value::Integer(number) = node.value {
        node.value = Value::Text(number.to_string());
    }
}

#[cfg(test)]
#[path = "user_data_tests.rs"]
mod tests;
