//! Documents, and how several of them become the configuration of one machine.
//!
//! Each document is first flattened for the machine: its own keys, then every `[[machine]]` part that matches, in
//! the order they are written. The flattened documents are then laid over each other, a later one over an earlier
//! one. So a `[[machine]]` part wins over the rest of its own document, and any later document wins over both.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::cloud;
use super::fields::Fields;
use super::node::{Extent, NodeConfig, read};
use super::parse::toml_tree;
use super::problem::{ConfigError, Findings, Problem};
use super::run;
use super::secret::REDACTED;
use super::tree::{Node, Origin, Value};
use super::values::Mac;

/// What a document is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A whole `node.toml`; must have `version = 1`.
    NodeToml,
    /// The same keys, `version` optional: role defaults, and files for one machine.
    PartToml,
    /// The role's defaults in the image: a part that may also say `run.allow_commands`.
    RoleToml,
    /// cloud-init's `user-data`.
    UserData,
    /// cloud-init's `vendor-data`: the same as user-data, from someone else.
    VendorData,
    /// cloud-init's `meta-data`, or `meta_data.json` of a `ConfigDrive`.
    MetaData,
    /// cloud-init's `network-config`.
    NetworkConfig,
    /// OpenStack's `network_data.json`.
    NetworkData,
}

/// A document as it was found. It may hold secrets: its content is not printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Its name for people: `INGOT:node.toml`.
    pub name: String,
    /// What it is written in.
    pub format: Format,
    /// Its bytes.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub bytes: Vec<u8>,
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Document({:?}, {:?}, {} bytes)", self.name, self.format, self.bytes.len())
    }
}

/// What tells one machine from another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The hardware addresses of its physical interfaces.
    pub macs: BTreeSet<Mac>,
    /// The serial number in the firmware's tables.
    pub serial: Option<String>,
    /// The UUID in the firmware's tables.
    pub uuid: Option<String>,
}

/// A machine's configuration.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: NodeConfig,
    /// What a person should know.
    pub warnings: Vec<Problem>,
    /// What was asked for and needs nothing.
    pub notes: Vec<Problem>,
    /// Each value, as text with secrets left out, and where it comes from.
    pub origins: Vec<Explained>,
    /// How many machines the documents name: how many may join at the same moment.
    pub machines: usize,
}

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

/// Which machine a `[[machine]]` part is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MachineMatch {
    /// By hardware address of any of its interfaces.
    pub mac: Option<Mac>,
    /// By serial number; letter case does not matter.
    pub serial: Option<String>,
    /// By UUID; letter case does not matter.
    pub uuid: Option<String>,
}

impl MachineMatch {
    /// True where everything that is given is this machine's.
    pub fn matches(&self, machine: &Machine) -> bool {
        let same = |wanted: &Option<String>, real: &Option<String>| match (wanted, real) {
            (None, _) => true,
            (Some(wanted), Some(real)) => wanted.trim().eq_ignore_ascii_case(real.trim()),
            (Some(_), None) => false,
        };
        self.mac.is_none_or(|mac| machine.macs.contains(&mac))
            && same(&self.serial, &machine.serial)
            && same(&self.uuid, &machine.uuid)
    }

    /// A machine that it matches.
    pub fn machine(&self) -> Machine {
        Machine { macs: self.mac.into_iter().collect(), serial: self.serial.clone(), uuid: self.uuid.clone() }
    }
}

impl std::fmt::Display for MachineMatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mac = self.mac.map(|mac| format!("mac {mac}"));
        let serial = self.serial.as_ref().map(|serial| format!("serial {serial}"));
        let uuid = self.uuid.as_ref().map(|uuid| format!("uuid {uuid}"));
        f.write_str(&[mac, serial, uuid].into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// A document that was read: what holds for all machines, and the parts for single ones.
struct Parsed {
    shared: Node,
    parts: Vec<(MachineMatch, Node)>,
}

fn parse(document: &Document, findings: &mut Findings) -> Option<Parsed> {
    let name: Arc<str> = Arc::from(document.name.as_str());
    let mut shared = match document.format {
        Format::NodeToml | Format::PartToml | Format::RoleToml => toml_tree(&name, &document.bytes, findings)?,
        Format::UserData | Format::VendorData => cloud::user_data(&name, &document.bytes, findings)?,
        Format::MetaData => cloud::meta_data(&name, &document.bytes, findings)?,
        Format::NetworkConfig => cloud::network::network_config(&name, &document.bytes, findings)?,
        Format::NetworkData => cloud::network::network_data(&name, &document.bytes, findings)?,
    };
    if document.format == Format::NodeToml && shared.as_table().is_some_and(|table| !table.contains_key("version")) {
        findings.error(&shared.origin, "version", "is missing", "write `version = 1` as the first line");
    }
    if document.format != Format::RoleToml {
        run::only_roles_allow_commands(&shared, findings);
    }
    let mut parts = Vec::new();
    if let Some(entry) = shared.remove("machine") {
        let Value::Array(items) = entry.node.value else {
            findings.error(&entry.key, "machine", "is not a list of tables", "write [[machine]]");
            return None;
        };
        for (index, part) in items.into_iter().enumerate() {
            parts.extend(machine_part(part, &format!("machine[{index}]"), findings));
        }
    }
    Some(Parsed { shared, parts })
}

fn machine_part(mut part: Node, path: &str, findings: &mut Findings) -> Option<(MachineMatch, Node)> {
    for key in ["version", "machine"] {
        if let Some(entry) = part.remove(key) {
            findings.error(&entry.key, &format!("{path}.{key}"), "does not belong into a [[machine]]", "");
        }
    }
    run::only_roles_allow_commands(&part, findings);
    let Some(entry) = part.remove("match") else {
        let help = "say which machine: match = { mac = \"...\" }, { serial = \"...\" } or { uuid = \"...\" }";
        findings.error(&part.origin, &format!("{path}.match"), "is missing", help);
        return None;
    };
    let match_path = format!("{path}.match");
    let fields = Fields::new(&entry.node, &match_path, &["mac", "serial", "uuid"], findings)?;
    let mut text = |key| fields.text(key, findings).map(str::to_owned).filter(|text| !text.trim().is_empty());
    let (serial, uuid) = (text("serial"), text("uuid"));
    let matches = MachineMatch { mac: fields.parsed("mac", findings), serial, uuid };
    if matches == MachineMatch::default() {
        findings.error(fields.origin, &match_path, "matches no machine", "give mac, serial or uuid");
        return None;
    }
    Some((matches, part))
}

fn flatten(parsed: &[Parsed], machine: &Machine) -> Node {
    let mut tree = Node::table(Origin::document(&Arc::from("configuration")));
    for (index, document) in parsed.iter().enumerate() {
        if index == 0 {
            tree.origin = document.shared.origin.clone();
        }
        tree.merge(document.shared.clone());
        for (_, part) in document.parts.iter().filter(|(matches, _)| matches.matches(machine)) {
            tree.merge(part.clone());
        }
    }
    // What is missing is missing from the document that has the last word.
    if let Some(last) = parsed.last() {
        tree.origin = last.shared.origin.clone();
    }
    tree
}

fn loaded(parsed: &[Parsed], machine: &Machine, mut findings: Findings) -> Result<Loaded, ConfigError> {
    let tree = flatten(parsed, machine);
    let config = read(&tree, Extent::Whole, &mut findings);
    if config.as_ref().is_some_and(|config| config.strict) {
        findings.errors.append(&mut findings.warnings);
    }
    let notes = std::mem::take(&mut findings.notes);
    let (config, warnings) = findings.into_result(config)?;
    let mut origins = Vec::new();
    explain(&tree, "", &mut origins);
    Ok(Loaded { config, warnings, notes, origins, machines: parsed.iter().map(|document| document.parts.len()).sum() })
}

/// Makes the configuration of one machine from documents in order, the highest precedence last.
///
/// # Errors
/// Everything that is wrong in the documents themselves and in what they say about this machine; what they say
/// about others is not looked at.
pub fn load(documents: &[Document], machine: &Machine) -> Result<Loaded, ConfigError> {
    let mut findings = Findings::default();
    let parsed: Vec<Parsed> = documents.iter().filter_map(|document| parse(document, &mut findings)).collect();
    if parsed.len() < documents.len() {
        return Err(findings.into_result::<()>(None).err().unwrap_or(ConfigError { problems: Vec::new() }));
    }
    loaded(&parsed, machine, findings)
}

/// What [`check`] found out.
#[derive(Debug)]
pub struct Checked {
    /// What a person should know.
    pub warnings: Vec<Problem>,
    /// What was asked for and needs nothing.
    pub notes: Vec<Problem>,
    /// For each `[[machine]]` part, in order, what that machine becomes.
    pub machines: Vec<(MachineMatch, Loaded)>,
    /// What a machine becomes that no part names, where the documents are enough for it.
    pub others: Result<Loaded, ConfigError>,
}

/// Checks documents without a machine: every value, also in `[[machine]]` parts, must be right, and each machine
/// that a part names must get a whole configuration.
///
/// Without any `[[machine]]` the documents may leave things to the role's defaults in the image; what they leave
/// open is in [`Checked::others`].
///
/// # Errors
/// Everything that is wrong.
pub fn check(documents: &[Document]) -> Result<Checked, ConfigError> {
    let mut findings = Findings::default();
    let parsed: Vec<Parsed> = documents.iter().filter_map(|document| parse(document, &mut findings)).collect();
    for document in &parsed {
        read(&document.shared, Extent::Part, &mut findings);
        for (_, part) in &document.parts {
            read(part, Extent::Part, &mut findings);
        }
    }
    let mut machines = Vec::new();
    for (matches, _) in parsed.iter().flat_map(|document| &document.parts) {
        match loaded(&parsed, &matches.machine(), Findings::default()) {
            Ok(machine) => machines.push((matches.clone(), machine)),
            Err(error) => findings.errors.extend(error.problems),
        }
    }
    let notes = std::mem::take(&mut findings.notes);
    let ((), warnings) = findings.into_result(Some(()))?;
    Ok(Checked { warnings, notes, machines, others: loaded(&parsed, &Machine::default(), Findings::default()) })
}

fn explain(node: &Node, path: &str, into: &mut Vec<Explained>) {
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match &node.value {
        Value::Table(table) => table.iter().for_each(|(key, entry)| explain(&entry.node, &join(key), into)),
        Value::Array(items) if items.iter().any(|item| matches!(item.value, Value::Table(_))) => {
            for (index, item) in items.iter().enumerate() {
                explain(item, &format!("{path}[{index}]"), into);
            }
        }
        value => into.push(Explained {
            key: path.to_owned(),
            value: if is_secret(path) { REDACTED.to_owned() } else { show(value) },
            origin: node.origin.clone(),
        }),
    }
}

/// True for keys whose values are, or may hold, secrets.
fn is_secret(path: &str) -> bool {
    let contents = ["content", "content_base64"];
    matches!(path, "join.secret" | "join.token" | "proxy.http" | "proxy.https" | "run.first" | "run.boot")
        || path.starts_with("run.first[")
        || path.starts_with("run.boot[")
        || path.starts_with("ssh.host_keys.") && path.ends_with("_private")
        || path.starts_with("file[") && contents.iter().any(|key| path.ends_with(&format!("].{key}")))
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

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
