//! Documents, and how several of them become the configuration of one machine.
//!
//! Each document is first flattened for the machine: its own keys, then every `[[machine]]` part that matches, in
//! the order they are written. The flattened documents are then laid over each other, a later one over an earlier
//! one. So a `[[machine]]` part wins over the rest of its own document, and any later document wins over both.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::cloud;
use super::contradiction::name_contradictions;
use super::explain::{Explained, Overridden, explained, overridden};
use super::fields::Fields;
use super::node::{Extent, NodeConfig, read, read_media_wait};
use super::opening::{Opener, open_all};
use super::parse::toml_tree;
use super::problem::{ConfigError, Findings, Problem};
use super::role_only::refuse_what_only_roles_say;
use super::seal::{Seal, read_seal};
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
    /// The role's defaults in the image: a part that may also say what no other document can.
    RoleToml,
    /// cloud-init's `user-data`.
    UserData,
    /// cloud-init's `vendor-data`: the same as user-data, from someone else.
    VendorData,
    /// `OpenStack`'s `vendor_data.json`, which holds the same.
    VendorDataJson,
    /// cloud-init's `meta-data`, or `meta_data.json` of a `ConfigDrive`.
    MetaData,
    /// cloud-init's `network-config`.
    NetworkConfig,
    /// `OpenStack`'s `network_data.json`.
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
    /// The values that others replaced.
    pub overridden: Vec<Overridden>,
    /// How many machines the documents name: how many may join at the same moment.
    pub machines: usize,
    /// The SHA-256 of what the documents outside the image say about the join.
    pub join_hash: [u8; 32],
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

impl std::str::FromStr for MachineMatch {
    type Err = String;

    /// Reads `mac=52:54:00:12:34:56`, `serial=...`, `uuid=...`, or several of them with commas between.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut matches = Self::default();
        for item in text.split(',') {
            match item.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
                Some(("mac", mac)) => matches.mac = Some(mac.parse()?),
                Some(("serial", serial)) if !serial.is_empty() => matches.serial = Some(serial.to_owned()),
                Some(("uuid", uuid)) if !uuid.is_empty() => matches.uuid = Some(uuid.to_owned()),
                _ => return Err(format!("{item:?}: write mac=ADDRESS, serial=NUMBER or uuid=UUID")),
            }
        }
        Ok(matches)
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
    of_role: bool,
    shared: Node,
    parts: Vec<(MachineMatch, Node)>,
}

fn parse(document: &Document, findings: &mut Findings) -> Option<Parsed> {
    let name: Arc<str> = Arc::from(document.name.as_str());
    let mut shared = match document.format {
        Format::NodeToml | Format::PartToml | Format::RoleToml => toml_tree(&name, &document.bytes, findings)?,
        Format::UserData | Format::VendorData => cloud::user_data(&name, &document.bytes, findings)?,
        Format::VendorDataJson => cloud::vendor_data_json(&name, &document.bytes, findings)?,
        Format::MetaData => cloud::meta_data(&name, &document.bytes, findings)?,
        Format::NetworkConfig => cloud::network::network_config(&name, &document.bytes, findings)?,
        Format::NetworkData => cloud::network::network_data(&name, &document.bytes, findings)?,
    };
    if document.format == Format::NodeToml && shared.as_table().is_some_and(|table| !table.contains_key("version")) {
        findings.error(&shared.origin, "version", "is missing", "write `version = 1` as the first line");
    }
    if document.format != Format::RoleToml {
        refuse_what_only_roles_say(&shared, findings);
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
    Some(Parsed { of_role: document.format == Format::RoleToml, shared, parts })
}

fn machine_part(mut part: Node, path: &str, findings: &mut Findings) -> Option<(MachineMatch, Node)> {
    for key in ["version", "machine"] {
        if let Some(entry) = part.remove(key) {
            findings.error(&entry.key, &format!("{path}.{key}"), "does not belong into a [[machine]]", "");
        }
    }
    refuse_what_only_roles_say(&part, findings);
    let Some(entry) = part.remove("match") else {
        let help = "say which machine: match = { mac = \"...\" }, { serial = \"...\" } or { uuid = \"...\" }";
        findings.error(&part.origin, &format!("{path}.match"), "is missing", help);
        return None;
    };
    let match_path = format!("{path}.match");
    let fields = Fields::new(&entry.node, &match_path, findings)?;
    let mut text = |key| fields.text(key, findings).map(str::to_owned).filter(|text| !text.trim().is_empty());
    let (serial, uuid) = (text("serial"), text("uuid"));
    let matches = MachineMatch { mac: fields.parsed("mac", findings), serial, uuid };
    if matches == MachineMatch::default() {
        findings.error(fields.origin, &match_path, "matches no machine", "give mac, serial or uuid");
        return None;
    }
    Some((matches, part))
}

/// What holds for a machine, the layer that wins last.
fn layers<'a>(parsed: &'a [Parsed], machine: &'a Machine) -> impl Iterator<Item = &'a Node> {
    parsed.iter().flat_map(move |document| {
        let parts = document.parts.iter().filter(|(matches, _)| matches.matches(machine)).map(|(_, part)| part);
        std::iter::once(&document.shared).chain(parts)
    })
}

/// What one document says about a machine.
fn for_machine(document: &Parsed, machine: &Machine) -> Node {
    let mut tree = document.shared.clone();
    for (_, part) in document.parts.iter().filter(|(matches, _)| matches.matches(machine)) {
        tree.merge(part.clone());
    }
    tree
}

fn flatten(documents: &[Node]) -> Node {
    let mut tree = Node::table(Origin::document(&Arc::from("configuration")));
    for document in documents {
        tree.merge(document.clone());
    }
    // What is missing is missing from the document that has the last word.
    if let Some(last) = documents.last() {
        tree.origin = last.origin.clone();
    }
    tree
}

/// What the documents say about the seal for every machine, whatever else is wrong with them; `None` where just that
/// cannot be read.
pub fn seal_of(documents: &[Document]) -> Option<Seal> {
    let Some(entry) = shared_by_all(documents)?.remove("seal") else { return Some(Seal::default()) };
    let mut findings = Findings::default();
    let seal = read_seal(&entry.node, &mut findings);
    findings.errors.is_empty().then_some(seal)
}

/// How long late media are waited for, as a role's defaults say it, whatever else they lack.
pub fn media_wait_of(role: &[Document]) -> Option<Duration> {
    let tree = shared_by_all(role)?;
    let mut unheard = Findings::default();
    let fields = Fields::new(&tree, "", &mut unheard)?;
    read_media_wait(&fields, &mut unheard)
}

/// What documents say about every machine; `None` where one cannot be read.
fn shared_by_all(documents: &[Document]) -> Option<Node> {
    let mut unheard = Findings::default();
    let parsed: Vec<Node> = documents
        .iter()
        .map(|document| parse(document, &mut unheard).map(|parsed| parsed.shared))
        .collect::<Option<_>>()?;
    Some(flatten(&parsed))
}

/// True where documents say at most what a node may do and what it accepts, and nothing of what it becomes: no node can
/// be made of them alone.
pub fn only_permits(documents: &[Document]) -> bool {
    let mut unheard = Findings::default();
    let permits = |key: &str| {
        key.starts_with("seal.") || matches!(key, "version" | "strict" | "write_back" | "run.allow_commands")
    };
    let parsed = documents.iter().filter_map(|document| parse(document, &mut unheard));
    parsed.into_iter().all(|parsed| explained(&parsed.shared).iter().all(|value| permits(&value.key)))
}

fn loaded(
    parsed: &[Parsed],
    machine: &Machine,
    opener: Opener<'_>,
    mut findings: Findings,
) -> Result<Loaded, ConfigError> {
    let documents: Vec<Node> = parsed.iter().map(|document| for_machine(document, machine)).collect();
    name_contradictions(documents.iter(), &mut findings);
    let mut tree = flatten(&documents);
    open_all(&mut tree, opener, &mut findings);
    let config = read(&tree, Extent::Whole, &mut findings);
    if config.as_ref().is_some_and(|config| config.strict) {
        findings.errors.append(&mut findings.warnings);
    }
    let notes = std::mem::take(&mut findings.notes);
    let (config, warnings) = findings.into_result(config)?;
    let outside: Vec<Node> =
        parsed.iter().zip(documents).filter(|(parsed, _)| !parsed.of_role).map(|(_, tree)| tree).collect();
    let mut join_hash = Sha256::new();
    if let Some(entry) = flatten(&outside).remove("join") {
        entry.node.add_to(&mut join_hash);
    }
    Ok(Loaded {
        config,
        warnings,
        notes,
        origins: explained(&tree),
        overridden: overridden(layers(parsed, machine), &tree),
        machines: parsed.iter().map(|document| document.parts.len()).sum(),
        join_hash: join_hash.finalize().into(),
    })
}

/// Makes the configuration of one machine from documents in order, the highest precedence last. A sealed secret is an
/// error: [`load_with`] opens them.
///
/// # Errors
/// Everything that is wrong in the documents themselves and in what they say about this machine; what they say
/// about others is not looked at.
pub fn load(documents: &[Document], machine: &Machine) -> Result<Loaded, ConfigError> {
    load_with(documents, machine, Opener::Node(&[]))
}

/// The same, and sealed secrets are opened.
///
/// # Errors
/// The same as [`load`], and what cannot be opened.
pub fn load_with(documents: &[Document], machine: &Machine, opener: Opener<'_>) -> Result<Loaded, ConfigError> {
    let mut findings = Findings::default();
    let parsed: Vec<Parsed> = documents.iter().filter_map(|document| parse(document, &mut findings)).collect();
    if parsed.len() < documents.len() {
        return Err(findings.into_result::<()>(None).err().unwrap_or(ConfigError { problems: Vec::new() }));
    }
    loaded(&parsed, machine, opener, findings)
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
/// Sealed secrets of the right form are taken to be valid. Without any `[[machine]]` the documents may leave things to the role's defaults in the image; what they leave
/// open is in [`Checked::others`].
///
/// # Errors
/// Everything that is wrong.
pub fn check(documents: &[Document]) -> Result<Checked, ConfigError> {
    let mut findings = Findings::default();
    let parsed: Vec<Parsed> = documents.iter().filter_map(|document| parse(document, &mut findings)).collect();
    for document in &parsed {
        for tree in std::iter::once(&document.shared).chain(document.parts.iter().map(|(_, part)| part)) {
            let mut tree = tree.clone();
            open_all(&mut tree, Opener::Author, &mut findings);
            read(&tree, Extent::Part, &mut findings);
        }
    }
    let mut machines = Vec::new();
    for (matches, _) in parsed.iter().flat_map(|document| &document.parts) {
        match loaded(&parsed, &matches.machine(), Opener::Author, Findings::default()) {
            Ok(machine) => machines.push((matches.clone(), machine)),
            Err(error) => findings.errors.extend(error.problems),
        }
    }
    let notes = std::mem::take(&mut findings.notes);
    let ((), warnings) = findings.into_result(Some(()))?;
    Ok(Checked {
        warnings,
        notes,
        machines,
        others: loaded(&parsed, &Machine::default(), Opener::Author, Findings::default()),
    })
}

/// What the `[[machine]]` parts of documents match, as far as these can be read.
pub fn machines_of(documents: &[Document]) -> Vec<MachineMatch> {
    let mut findings = Findings::default();
    let parsed = documents.iter().filter_map(|document| parse(document, &mut findings));
    parsed.flat_map(|document| document.parts).map(|(matches, _)| matches).collect()
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
