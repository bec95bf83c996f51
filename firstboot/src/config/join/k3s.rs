//! `[join]` with `driver = "k3s"`.

use std::net::IpAddr;

use serde::Serialize;

use super::values::{Label, Pinning, Subnet, judge_k3s_token};
use super::{choice, cluster_secret, credential, labels, rendezvous_port, unpinned};
use crate::config::fields::Fields;
use crate::config::node::Extent;
use crate::config::problem::Findings;
use crate::config::secret::Secret;
use crate::config::values::{HostAddress, InterfaceName};

/// What a node is in a k3s cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct K3s {
    /// Server or agent.
    pub role: K3sRole,
    /// The servers, the one that founds the cluster first.
    pub servers: Vec<HostAddress>,
    /// A join token.
    pub token: Option<Secret>,
    /// The cluster secret, which the rendezvous proves.
    pub secret: Option<Secret>,
    /// What servers prove to each other instead.
    pub manager_secret: Option<Secret>,
    /// The TCP port of the rendezvous.
    pub rendezvous_port: u16,
    /// Whether a token without the hash of the cluster's authority may be used.
    pub allow_unpinned: bool,
    /// Whether the first server keeps the state in an embedded etcd that others can join.
    pub cluster_init: bool,
    /// The address that the others reach this node by.
    pub advertise: Option<IpAddr>,
    /// The interface of the pods' network.
    pub interface: Option<InterfaceName>,
    /// Labels of the node.
    pub labels: Vec<Label>,
    /// Taints of the node: `key=value:NoSchedule`.
    pub taints: Vec<String>,
    /// Parts of k3s that the servers leave out: `traefik`.
    pub disable: Vec<String>,
    /// The pods' network.
    pub pod_subnet: Option<Subnet>,
    /// The services' network.
    pub service_subnet: Option<Subnet>,
}

/// A node's role in a k3s cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum K3sRole {
    /// Keeps the cluster's state and runs its control plane; the first one founds it.
    Server,
    /// Runs containers.
    Agent,
}

/// The parts that `disable` may name (`k3s server --help`).
const PARTS: &[&str] = &["coredns", "servicelb", "traefik", "local-storage", "metrics-server", "runtimes"];

pub fn read(fields: &Fields<'_>, extent: Extent, findings: &mut Findings) -> Option<K3s> {
    let errors_before = findings.errors.len();
    let role = choice(fields, "role", &[("server", K3sRole::Server), ("agent", K3sRole::Agent)], extent, findings);
    let servers: Vec<HostAddress> = fields.parsed_list("servers", findings);
    let allow_unpinned = fields.boolean("allow_unpinned", findings).unwrap_or(false);
    let token = credential(fields, "token", findings);
    match token.as_ref().map(|token| judge_k3s_token(token.expose())) {
        Some(Err(reason)) => {
            fields.error("token", reason, "it stands in /var/lib/rancher/k3s/server/token of a server", findings);
        }
        Some(Ok(Pinning::Unpinned)) => {
            let why = "has no hash of the cluster's authority, so whoever answers first is believed";
            let help = "use the whole token, K10...::server:..., or join.secret";
            unpinned(fields, "token", allow_unpinned, why, help, findings);
        }
        _ => {}
    }
    let secret = cluster_secret(fields, "secret", findings);
    let manager_secret = cluster_secret(fields, "manager_secret", findings);
    let rendezvous_port = rendezvous_port(fields, findings);
    let cluster_init = fields.boolean("cluster_init", findings).unwrap_or(servers.len() > 1);
    let advertise = fields.parsed("advertise", findings);
    let interface = fields.parsed("interface", findings);
    let labels = labels::read(fields, findings);
    let taints = texts(fields, "taints", findings, is_taint, "key=value:NoSchedule");
    let disable = texts(fields, "disable", findings, |text| PARTS.contains(&text), &PARTS.join(", "));
    let pod_subnet = fields.parsed("pod_subnet", findings);
    let service_subnet = fields.parsed("service_subnet", findings);
    if extent == Extent::Whole {
        if servers.is_empty() {
            fields.missing(
                "servers",
                "give the addresses of the servers, the one that founds the cluster first",
                findings,
            );
        }
        if fields.entry("token").is_none() && fields.entry("secret").is_none() {
            fields.missing("secret", "give the cluster's secret, or a server's whole token", findings);
        }
        if servers.len() > 1 && !cluster_init {
            fields.error("cluster_init", "several servers need the embedded etcd", "leave it out", findings);
        }
    }
    if extent == Extent::Part || findings.errors.len() > errors_before {
        return None;
    }
    Some(K3s {
        role: role?,
        servers,
        token,
        secret,
        manager_secret,
        rendezvous_port,
        allow_unpinned,
        cluster_init,
        advertise,
        interface,
        labels,
        taints,
        disable,
        pod_subnet,
        service_subnet,
    })
}

fn texts(
    fields: &Fields<'_>,
    key: &str,
    findings: &mut Findings,
    good: impl Fn(&str) -> bool,
    form: &str,
) -> Vec<String> {
    let texts: Vec<String> = fields.parsed_list(key, findings);
    for text in texts.iter().filter(|text| !good(text)) {
        fields.error(key, format!("{text:?} is not right here"), format!("expected: {form}"), findings);
    }
    texts
}

fn is_taint(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(label, effect)| {
        let label = if label.contains('=') { label.to_owned() } else { format!("{label}=") };
        ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) && label.parse::<Label>().is_ok()
    })
}
