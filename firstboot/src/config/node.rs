//! The node's configuration as types, read from the merged tree.

use serde::Serialize;

use super::fields::Fields;
use super::join::{self, Join};
use super::problem::Findings;
use super::tree::{Node, Value};
use super::values::{Cidr, HostAddress, Hostname, InterfaceName, Mac, SshKey, Timezone};

/// The keys of a document.
pub const DOCUMENT_KEYS: &[&str] =
    &["version", "hostname", "timezone", "ntp", "strict", "ssh", "network", "join", "machine"];

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
    /// Interfaces that get something else than DHCP.
    pub networks: Vec<Network>,
    /// The cluster that the node joins; `None` for a role that joins none.
    pub join: Option<Join>,
}

/// One interface, or several alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Network {
    /// Which.
    pub matches: InterfaceMatch,
    /// Whether it asks a DHCP server.
    pub dhcp: bool,
    /// Static addresses.
    pub addresses: Vec<Cidr>,
    /// The default gateway.
    pub gateway: Option<std::net::IpAddr>,
    /// Name servers.
    pub dns: Vec<std::net::IpAddr>,
}

/// Which interface is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InterfaceMatch {
    /// The one with this hardware address.
    Mac(Mac),
    /// Those with this name, or a name that matches this pattern.
    Name(InterfaceName),
}

/// Whether what is read must be enough to set a node up, or is a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Keys may be missing: another document has them.
    Part,
    /// Nothing may be missing.
    Whole,
}

/// Reads a tree. Everything wrong is added to `findings`; `None` where that leaves nothing to give.
pub fn read(tree: &Node, extent: Extent, findings: &mut Findings) -> Option<NodeConfig> {
    let fields = Fields::new(tree, "", DOCUMENT_KEYS, findings)?;
    if let Some(entry) = fields.entry("version")
        && !matches!(entry.node.value, Value::Integer(1))
    {
        fields.error("version", "this Ingot reads version 1", "write `version = 1`", findings);
    }
    let ssh_keys = fields.entry("ssh").map_or_else(Vec::new, |entry| {
        Fields::new(&entry.node, "ssh", &["authorized_keys"], findings)
            .map_or_else(Vec::new, |ssh| ssh.parsed_list("authorized_keys", findings))
    });
    let networks = fields
        .list("network", findings)
        .iter()
        .enumerate()
        .filter_map(|(index, node)| read_network(node, &format!("network[{index}]"), findings))
        .collect();
    let join = fields.entry("join").and_then(|entry| join::read(&entry.node, extent, findings));
    let config = NodeConfig {
        hostname: fields.parsed("hostname", findings),
        timezone: fields.parsed("timezone", findings),
        ntp: fields.parsed_list("ntp", findings),
        strict: fields.boolean("strict", findings).unwrap_or(false),
        ssh_keys,
        networks,
        join,
    };
    Some(config)
}

fn read_network(node: &Node, path: &str, findings: &mut Findings) -> Option<Network> {
    let fields = Fields::new(node, path, &["match", "dhcp", "addresses", "gateway", "dns"], findings)?;
    let errors_before = findings.errors.len();
    let matches = if let Some(entry) = fields.entry("match") {
        read_match(&entry.node, &fields.path_of("match"), findings)
    } else {
        fields.missing("match", "say which interface: match = { name = \"en*\" } or { mac = \"...\" }", findings);
        None
    };
    let addresses: Vec<Cidr> = fields.parsed_list("addresses", findings);
    let dhcp = fields.boolean("dhcp", findings).unwrap_or(addresses.is_empty());
    let gateway: Option<std::net::IpAddr> = fields.parsed("gateway", findings);
    let dns = fields.parsed_list("dns", findings);
    if findings.errors.len() > errors_before {
        return None;
    }
    if !dhcp && addresses.is_empty() {
        fields.error("dhcp", "is off, and there is no static address", "give addresses, or set dhcp = true", findings);
    }
    if let Some(gateway) = gateway {
        // A link-local IPv6 gateway is reached on the link itself.
        let on_link = matches!(gateway, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
        if !on_link && !addresses.is_empty() && !addresses.iter().any(|cidr| cidr.contains(gateway)) {
            fields.error("gateway", "is in none of the networks of addresses", "check the prefix lengths", findings);
        }
        if addresses.iter().any(|cidr| cidr.address == gateway) {
            fields.error("gateway", "is this node's own address", "", findings);
        }
    }
    Some(Network { matches: matches?, dhcp, addresses, gateway, dns })
}

fn read_match(node: &Node, path: &str, findings: &mut Findings) -> Option<InterfaceMatch> {
    let fields = Fields::new(node, path, &["mac", "name"], findings)?;
    let mac = fields.parsed("mac", findings).map(InterfaceMatch::Mac);
    let name = fields.parsed("name", findings).map(InterfaceMatch::Name);
    if fields.entry("mac").is_some() == fields.entry("name").is_some() {
        findings.error(&node.origin, path, "needs either mac or name", "");
        return None;
    }
    mac.or(name)
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
        assert!(!config.networks[0].dhcp, "addresses without dhcp mean static");
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
    fn network_errors() {
        refused("[[network]]\naddresses = [\"10.0.0.1/24\"]\n", &["network[0].match: is missing"]);
        refused("[[network]]\nmatch = { name = \"a\", mac = \"52:54:00:00:00:01\" }\n", &["either mac or name"]);
        refused("[[network]]\nmatch = { name = \"en*\" }\ndhcp = false\n", &["no static address"]);
        refused(
            "[[network]]\nmatch = { name = \"en*\" }\naddresses = [\"10.0.0.2/24\"]\ngateway = \"10.0.1.1\"\n",
            &["f:4:11: network[0].gateway: is in none"],
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
