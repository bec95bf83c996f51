//! `[join]` with `driver = "gluster"`.

use std::collections::BTreeSet;

use serde::Serialize;

use super::nfs::{Mount, is_option};
use super::values::AbsolutePath;
use super::{choice, plain_text};
use crate::config::fields::Fields;
use crate::config::node::Extent;
use crate::config::problem::Findings;
use crate::config::tree::{Node, Value};
use crate::config::values::HostAddress;

/// What a node is in a trusted pool of `GlusterFS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gluster {
    /// Server or client.
    pub role: GlusterRole,
    /// The pool's servers; the first one brings in the others and makes the volumes.
    pub servers: Vec<HostAddress>,
    /// The volumes, made once.
    pub volumes: Vec<Volume>,
    /// What this node mounts.
    pub mounts: Vec<Mount>,
}

/// A node's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GlusterRole {
    /// Has bricks.
    Server,
    /// Only mounts.
    Client,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// How many copies of a file there are.
    pub replica: u8,
    /// Whether the last copy of each set holds only names and attributes.
    pub arbiter: bool,
    /// Where its parts lie: server and directory.
    pub bricks: Vec<(HostAddress, AbsolutePath)>,
    /// Settings: `network.ping-timeout` and its value.
    pub options: Vec<(String, String)>,
}

pub fn read(fields: &Fields<'_>, extent: Extent, findings: &mut Findings) -> Option<Gluster> {
    let errors_before = findings.errors.len();
    let roles = [("server", GlusterRole::Server), ("client", GlusterRole::Client)];
    let role = choice(fields, "role", &roles, extent, findings);
    let servers: Vec<HostAddress> = fields.parsed_list("servers", findings);
    let unique: BTreeSet<String> = servers.iter().map(ToString::to_string).collect();
    if unique.len() < servers.len() {
        fields.error("servers", "names a server twice", "", findings);
    }
    let volumes: Vec<Volume> = fields
        .list("volume", findings)
        .iter()
        .enumerate()
        .filter_map(|(index, node)| volume(node, &format!("join.volume[{index}]"), &unique, findings))
        .collect();
    let mounts = super::nfs::mounts(fields, "volume", findings);
    if extent == Extent::Whole {
        if servers.is_empty() {
            fields.missing("servers", "the pool's servers, the one that makes the volumes first", findings);
        }
        if role == Some(GlusterRole::Client) && mounts.is_empty() {
            fields.missing("mount", "say what the client mounts: [[join.mount]] volume, target", findings);
        }
    }
    if extent == Extent::Part || findings.errors.len() > errors_before {
        return None;
    }
    Some(Gluster { role: role?, servers, volumes, mounts })
}

fn volume(node: &Node, path: &str, servers: &BTreeSet<String>, findings: &mut Findings) -> Option<Volume> {
    let fields = Fields::new(node, path, findings)?;
    for key in ["name", "bricks"].into_iter().filter(|key| fields.entry(key).is_none()) {
        fields.missing(key, "a volume has a name, and bricks as server:/directory", findings);
    }
    let name = plain_text(&fields, "name", findings);
    if name.as_ref().is_some_and(|name| !is_volume_name(name)) {
        fields.error("name", "is not the name of a volume: letters, digits, - and _", "", findings);
    }
    let arbiter = fields.boolean("arbiter", findings).unwrap_or(false);
    let replica = fields.integer("replica", 1..=7, findings).and_then(|replica| u8::try_from(replica).ok());
    let replica = replica.unwrap_or(3);
    let mut bricks = Vec::new();
    for text in fields.parsed_list::<String>("bricks", findings) {
        let parsed = text.rsplit_once(":/").and_then(|(server, directory)| {
            Some((server.parse::<HostAddress>().ok()?, format!("/{directory}").parse::<AbsolutePath>().ok()?))
        });
        match parsed {
            Some(brick) => {
                if !servers.is_empty() && !servers.contains(&brick.0.to_string()) {
                    fields.error("bricks", format!("{text:?}: the server is not in join.servers"), "", findings);
                }
                bricks.push(brick);
            }
            None => fields.error("bricks", format!("{text:?} is no brick"), "server:/data/brick", findings),
        }
    }
    if fields.entry("bricks").is_some() && (bricks.is_empty() || bricks.len() % usize::from(replica) != 0) {
        let message = format!("{} bricks cannot hold {replica} copies", bricks.len());
        fields.error("bricks", message, "their number is a multiple of replica (3 unless it says otherwise)", findings);
    }
    if arbiter && replica != 3 {
        fields.error("arbiter", "needs replica = 3", "", findings);
    }
    if replica == 2 && !arbiter {
        let help = "use replica = 3, with arbiter = true where a third copy is too much";
        findings.warning(
            fields.place("replica"),
            &fields.path_of("replica"),
            "two copies can contradict each other",
            help,
        );
    }
    let mut options = Vec::new();
    if let Some(Value::Table(table)) = fields.entry("options").map(|entry| &entry.node.value) {
        for (key, entry) in table {
            match &entry.node.value {
                Value::Text(value) if is_option(key) && is_option(value) => options.push((key.clone(), value.clone())),
                _ => findings.error(
                    &entry.key,
                    &format!("{path}.options.{key}"),
                    "is not a setting of a volume",
                    "write it as \"key\" = \"value\"",
                ),
            }
        }
    }
    Some(Volume { name: name?, replica, arbiter, bricks, options })
}

/// What `gluster volume create` takes as a name.
pub fn is_volume_name(text: &str) -> bool {
    text.len() <= 100
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}
