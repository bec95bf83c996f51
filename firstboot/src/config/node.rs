//! The node's configuration as types, read from the merged tree.

use std::time::Duration;

use serde::Serialize;

use super::ca::Ca;
use super::disk::{Disk, Swap, read_disks, read_swap};
use super::fields::Fields;
use super::file::NodeFile;
use super::join::{self, Join};
use super::network::{Network, read_networks};
use super::power::{self, Power};
use super::problem::Findings;
use super::proxy::{Proxy, read_proxy};
use super::reporting::{ReportTo, TimeFrom, read_report, read_time};
use super::run::Run;
use super::seal::{Seal, read_seal};
use super::ssh::Ssh;
use super::tree::{Node, Value};
use super::tuning::{Tuning, read_tuning};
use super::user::User;
use super::values::{HostAddress, Hostname, SshKey, Timezone};

/// What one node is to be: complete and valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeConfig {
    /// The host name; without one the node makes one of its MAC address.
    pub hostname: Option<Hostname>,
    /// The time zone; without one the image's stays.
    pub timezone: Option<Timezone>,
    /// NTP servers; without any, the image's stay.
    pub ntp: Vec<HostAddress>,
    /// Whether unsupported keys of foreign formats are errors.
    pub strict: bool,
    /// Keys that may log in as root.
    pub ssh_keys: Vec<SshKey>,
    /// The rest of what concerns SSH.
    pub ssh: Ssh,
    /// Accounts beside root.
    pub users: Vec<User>,
    /// Files that the configuration brings.
    pub files: Vec<NodeFile>,
    /// Whom the node trusts.
    pub ca: Ca,
    /// Commands, where the role allows them.
    pub run: Run,
    /// Interfaces that get something else than DHCP.
    pub networks: Vec<Network>,
    /// Over which proxies the world is reached.
    pub proxy: Option<Proxy>,
    /// Disks that the node claims for data.
    pub disks: Vec<Disk>,
    /// Swap space; without it there is none.
    pub swap: Option<Swap>,
    /// Settings of the kernel and of services' limits.
    pub tuning: Tuning,
    /// The cluster that the node joins; `None` for a role that joins none.
    pub join: Option<Join>,
    /// What the node accepts once it has joined.
    pub seal: Seal,
    /// Where its states are sent.
    pub report: Option<ReportTo>,
    /// Whom it asks for the time.
    pub time: TimeFrom,
    /// What becomes of the machine once it is at its goal; `None` where it runs on.
    pub power: Option<Power>,
    /// Whether its result is written to the stick that its configuration came from.
    pub write_back: bool,
    /// How long late media are waited for, where the role says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_wait: Option<Duration>,
}

/// Whether what is read must be enough to set a node up, or is a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Keys may be missing: another document has them.
    Part,
    /// Nothing may be missing.
    Whole,
}

/// Reads `media_wait`: whole seconds, at most an hour.
pub fn read_media_wait(fields: &Fields<'_>, findings: &mut Findings) -> Option<Duration> {
    let seconds = fields.integer("media_wait", 0..=3600, findings)?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// Reads a tree. Everything wrong is added to `findings`; `None` where that leaves nothing to give.
pub fn read(tree: &Node, extent: Extent, findings: &mut Findings) -> Option<NodeConfig> {
    let fields = Fields::new(tree, "", findings)?;
    if let Some(entry) = fields.entry("version")
        && !matches!(entry.node.value, Value::Integer(1))
    {
        fields.error("version", "this Ingot reads version 1", "write `version = 1`", findings);
    }
    let (ssh_keys, ssh) = fields.entry("ssh").map(|entry| super::ssh::read(&entry.node, findings)).unwrap_or_default();
    let users = super::user::read(fields.list("user", findings), findings);
    let files = super::file::read(fields.list("file", findings), findings);
    let ca = fields.entry("ca").map(|entry| super::ca::read(&entry.node, findings)).unwrap_or_default();
    let run = fields.entry("run").map(|entry| super::run::read(&entry.node, extent, findings)).unwrap_or_default();
    if extent == Extent::Whole && !ssh.root_login && users.iter().all(|user| user.authorized_keys.is_empty()) {
        let help = "give a user authorized_keys, or leave root its login";
        fields.warning("ssh", "nobody can log in: root may not, and no user has a key", help, findings);
    }
    let networks = read_networks(&fields, findings);
    let proxy = fields.entry("proxy").and_then(|entry| read_proxy(&entry.node, findings));
    let join = fields.entry("join").and_then(|entry| join::read(&entry.node, extent, findings));
    let disks = read_disks(&fields, findings);
    super::hidden::refuse(&fields, &disks, findings);
    let config = NodeConfig {
        hostname: fields.parsed("hostname", findings),
        timezone: fields.parsed("timezone", findings),
        ntp: fields.parsed_list("ntp", findings),
        strict: fields.boolean("strict", findings).unwrap_or(false),
        ssh_keys,
        ssh,
        users,
        files,
        ca,
        run,
        networks,
        proxy,
        disks,
        swap: fields.entry("swap").and_then(|entry| read_swap(&entry.node, findings)),
        tuning: fields.entry("tuning").and_then(|entry| read_tuning(&entry.node, findings)).unwrap_or_default(),
        join,
        seal: fields.entry("seal").map_or_else(Seal::default, |entry| read_seal(&entry.node, findings)),
        report: fields.entry("report").and_then(|entry| read_report(&entry.node, findings)),
        time: fields.entry("time").and_then(|entry| read_time(&entry.node, findings)).unwrap_or_default(),
        power: fields.entry("power").and_then(|entry| power::read(&entry.node, findings)),
        write_back: fields.boolean("write_back", findings).unwrap_or(true),
        media_wait: read_media_wait(&fields, findings),
    };
    Some(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse::toml_tree;

    const SECRET: &str = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=";

    fn whole(text: &str) -> Result<NodeConfig, String> {
        let mut findings = Findings::default();
        let config = toml_tree(&std::sync::Arc::from("f"), text.as_bytes(), &mut findings)
            .and_then(|tree| read(&tree, Extent::Whole, &mut findings));
        findings.into_result(config).map(|(config, _)| config).map_err(|error| error.to_string())
    }

    fn refused(text: &str, expected: &[&str]) {
        let error = whole(text).expect_err(text);
        for part in expected {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
        assert!(!error.contains(SECRET), "{error}");
    }

    #[test]
    fn a_worker_and_its_defaults() {
        let text = format!(
            "version = 1\n[[network]]\nmatch = {{ name = \"en*\" }}\naddresses = [\"10.77.0.11/24\"]\n\
             [join]\ndriver = \"docker-swarm\"\nrole = \"worker\"\nmanagers = [\"10.77.0.10\"]\nsecret = \"{SECRET}\"\n"
        );
        let config = whole(&text).unwrap();
        assert!(!config.networks[0].dhcp.any(), "addresses without dhcp mean static");
        assert!(config.join.is_some());
        assert!(!format!("{config:?} {}", serde_json::to_string(&config).unwrap()).contains(SECRET));
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        refused(
            "version = 2\nhostnme = \"x\"\nntp = \"10.0.0.1\"\nstrict = \"yes\"\nhostname = 7\n[shh]\n",
            &[
                "f:1:11: version: this Ingot reads version 1",
                "f:2:1: hostnme: unknown key (did you mean \"hostname\"?)",
                "f:3:7: ntp: is a text, not a list",
                "f:4:10: strict",
                "f:5:12: hostname: is a whole number, not a text",
                "shh: unknown key (did you mean \"ssh\"?)",
            ],
        );
    }

    #[test]
    fn a_part_may_lack_keys_but_not_be_wrong() {
        let mut findings = Findings::default();
        let tree = toml_tree(&std::sync::Arc::from("f"), b"[join]\ndriver = \"k3s\"\nrole = \"boss\"\n", &mut findings)
            .unwrap();
        read(&tree, Extent::Part, &mut findings);
        assert_eq!(findings.errors.len(), 1);
        let mut findings = Findings::default();
        let tree = toml_tree(&std::sync::Arc::from("f"), b"[join]\nrole = \"worker\"\n", &mut findings).unwrap();
        read(&tree, Extent::Part, &mut findings);
        assert!(findings.errors.is_empty());
    }
}
