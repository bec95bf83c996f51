//! The node's configuration as types, read from the merged tree.

use serde::Serialize;

use super::ca::Ca;
use super::disk::{Disk, Swap, read_disks, read_swap};
use super::fields::Fields;
use super::file::NodeFile;
use super::network::{Network, read_networks};
use super::problem::{Findings, nearest};
use super::proxy::{Proxy, read_proxy};
use super::run::Run;
use super::secret::{Secret, judge_cluster_secret};
use super::ssh::Ssh;
use super::tree::{Node, Value};
use super::tuning::{Tuning, read_tuning};
use super::user::User;
use super::values::{Advertise, HostAddress, Hostname, SshKey, Timezone, is_swarm_token};

/// The keys of a document.
pub const DOCUMENT_KEYS: &[&str] = &[
    "version", "hostname", "timezone", "ntp", "strict", "ssh", "user", "file", "ca", "run", "network", "proxy", "disk",
    "swap", "tuning", "join", "machine",
];

/// The join drivers that this version has.
pub const DRIVERS: &[&str] = &["docker-swarm"];

const JOIN_KEYS: &[&str] = &["driver", "role", "advertise", "managers", "secret", "token", "rendezvous_port"];

/// The TCP port of the rendezvous, unless `join.rendezvous_port` says otherwise.
pub const RENDEZVOUS_PORT: u16 = 7390;

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
    /// Disks that the node claims for data.
    pub disks: Vec<Disk>,
    /// Swap space; without it there is none.
    pub swap: Option<Swap>,
    /// Settings of the kernel and of services' limits.
    pub tuning: Tuning,
    /// Over which proxies the world is reached.
    pub proxy: Option<Proxy>,
    /// The cluster that the node joins; `None` for a role that joins none.
    pub join: Option<Join>,
}

/// How the node joins: one variant for each kind of cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum Join {
    /// Docker Swarm.
    DockerSwarm(DockerSwarm),
}

/// What a node is in a Docker Swarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DockerSwarm {
    /// Manager or worker.
    pub role: SwarmRole,
    /// What the others reach this node by; found out where it is not given.
    pub advertise: Option<Advertise>,
    /// The managers, the one that founds the cluster first.
    pub managers: Vec<HostAddress>,
    /// The cluster secret, which the rendezvous proves.
    pub secret: Option<Secret>,
    /// A join token, instead of the rendezvous.
    pub token: Option<Secret>,
    /// The TCP port of the rendezvous.
    pub rendezvous_port: u16,
}

/// A node's role in a swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwarmRole {
    /// Keeps the cluster's state; the first one founds it.
    Manager,
    /// Runs containers.
    Worker,
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
    let join = fields.entry("join").and_then(|entry| read_join(&entry.node, extent, findings));
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
        disks: read_disks(&fields, findings),
        swap: fields.entry("swap").and_then(|entry| read_swap(&entry.node, findings)),
        tuning: fields.entry("tuning").and_then(|entry| read_tuning(&entry.node, findings)).unwrap_or_default(),
        proxy,
        join,
    };
    Some(config)
}

fn read_join(node: &Node, extent: Extent, findings: &mut Findings) -> Option<Join> {
    let fields = Fields::new(node, "join", JOIN_KEYS, findings)?;
    let driver = fields.text("driver", findings);
    match driver {
        Some(driver) if !DRIVERS.contains(&driver) => {
            let help = match nearest(driver, DRIVERS.iter().copied()) {
                Some(near) => format!("did you mean {near:?}? known drivers: {}", DRIVERS.join(", ")),
                None => format!("known drivers: {}", DRIVERS.join(", ")),
            };
            fields.error("driver", format!("unknown driver {driver:?}"), help, findings);
            return None;
        }
        None if extent == Extent::Whole && fields.entry("driver").is_none() => {
            fields.missing("driver", format!("known drivers: {}", DRIVERS.join(", ")), findings);
        }
        _ => {}
    }
    read_docker_swarm(&fields, extent, findings).map(Join::DockerSwarm)
}

fn read_docker_swarm(fields: &Fields<'_>, extent: Extent, findings: &mut Findings) -> Option<DockerSwarm> {
    let errors_before = findings.errors.len();
    let role = match fields.text("role", findings) {
        Some("manager") => Some(SwarmRole::Manager),
        Some("worker") => Some(SwarmRole::Worker),
        Some(other) => {
            fields.error("role", format!("{other:?} is not a role of docker-swarm"), "manager or worker", findings);
            None
        }
        None => None,
    };
    let advertise = fields.parsed("advertise", findings);
    let managers: Vec<HostAddress> = fields.parsed_list("managers", findings);
    let secret = fields.text("secret", findings).map(Secret::new);
    if let Some(Err(reason)) = secret.as_ref().map(|secret| judge_cluster_secret(secret.expose())) {
        let help = "make one with `openssl rand -base64 32` and use it on all nodes of the cluster";
        fields.error("secret", reason, help, findings);
    }
    let token = fields.text("token", findings).map(|token| Secret::new(token.trim()));
    if token.as_ref().is_some_and(|token| !is_swarm_token(token.expose())) {
        let help = "it is what `docker swarm join-token -q worker` prints: SWMTKN-1-...";
        fields.error("token", "is not a Swarm join token, or not a whole one", help, findings);
    }
    let port = fields.integer("rendezvous_port", 1..=65535, findings);
    if extent == Extent::Part || findings.errors.len() > errors_before {
        return None;
    }
    let swarm = DockerSwarm {
        role: role.or_else(|| {
            fields.missing("role", "manager or worker", findings);
            None
        })?,
        advertise,
        managers,
        secret,
        token,
        rendezvous_port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(RENDEZVOUS_PORT),
    };
    check_docker_swarm(&swarm, fields, findings);
    Some(swarm)
}

/// What the keys mean only together.
fn check_docker_swarm(swarm: &DockerSwarm, fields: &Fields<'_>, findings: &mut Findings) {
    if swarm.secret.is_none() && swarm.token.is_none() {
        let help = match swarm.role {
            SwarmRole::Manager => "the nodes that join it prove this secret; make one with `openssl rand -base64 32`",
            SwarmRole::Worker => "give the cluster's secret, or a token of `docker swarm join-token -q worker`",
        };
        fields.missing("secret", help, findings);
    }
    if swarm.managers.is_empty() && (swarm.role == SwarmRole::Worker || swarm.token.is_some()) {
        fields.missing("managers", "give the address of at least one manager", findings);
    }
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
        let Some(Join::DockerSwarm(swarm)) = &config.join else { panic!("{config:?}") };
        assert_eq!((swarm.role, swarm.rendezvous_port), (SwarmRole::Worker, 7390));
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
    fn join_errors_say_what_is_known() {
        refused("[join]\ndriver = \"docker-swam\"\n", &["f:2:10: join.driver", "did you mean \"docker-swarm\"?"]);
        refused("[join]\ndriver = \"nomad\"\n", &["unknown driver \"nomad\"", "known drivers: docker-swarm"]);
        refused("[join]\ndriver = \"docker-swarm\"\nrole = \"boss\"\n", &["manager or worker"]);
        refused("[join]\n", &["join.driver: is missing", "join.role: is missing"]);
        refused(
            "[join]\ndriver = \"docker-swarm\"\nrole = \"worker\"\n",
            &["join.secret: is missing", "join.managers: is missing"],
        );
        refused("[join]\ndriver = \"docker-swarm\"\nsecret = \"short\"\n", &["f:3:10: join.secret: is shorter"]);
        refused("[join]\ndriver = \"docker-swarm\"\ntoken = \"SWMTKN-1-x\"\n", &["not a Swarm join token"]);
        refused("[join]\ndriver = \"docker-swarm\"\nrendezvous_port = 70000\n", &["from 1 to 65535"]);
    }

    #[test]
    fn a_part_may_lack_keys_but_not_be_wrong() {
        let mut findings = Findings::default();
        let tree = toml_tree(&std::sync::Arc::from("f"), b"[join]\nrole = \"boss\"\n", &mut findings).unwrap();
        read(&tree, Extent::Part, &mut findings);
        assert_eq!(findings.errors.len(), 1);
        let mut findings = Findings::default();
        let tree = toml_tree(&std::sync::Arc::from("f"), b"[join]\nrole = \"worker\"\n", &mut findings).unwrap();
        read(&tree, Extent::Part, &mut findings);
        assert!(findings.errors.is_empty());
    }
}
