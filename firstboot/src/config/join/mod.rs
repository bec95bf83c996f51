//! `[join]`: which cluster the node joins, how, and what must be up before.
//!
//! Takes the table; gives a [`Join`]. The keys that every driver has are read here, the rest by the driver's own
//! module. Every mistake is named with its place and what to do; texts of secrets are never repeated.

mod aiware;
mod backendai;
mod docker_swarm;
mod exec;
mod gates;
mod gluster;
mod k3s;
mod kubeadm;
mod labels;
mod nfs;
mod place;
#[cfg(test)]
mod tests;
mod values;

use std::time::Duration;

use serde::Serialize;

pub use aiware::Aiware;
pub use backendai::{BackendAi, BackendAiRole, Database, Etcd};
pub use docker_swarm::{DockerSwarm, SwarmRole};
pub use exec::{EXEC_SECRETS, Exec, ExecFile};
pub use gates::Gate;
pub use gluster::{Gluster, GlusterRole, Volume};
pub use k3s::{K3s, K3sRole};
pub use kubeadm::{Kubeadm, KubeadmRole};
pub use nfs::{Mount, Nfs};
pub use values::{
    AbsolutePath, Endpoint, HttpUrl, JOIN_PROGRAMS, Label, Pinning, ProgramName, Subnet, UnitName, is_spki_pin,
    judge_bootstrap_token, judge_k3s_token,
};

use super::fields::Fields;
use super::node::Extent;
use super::problem::{Findings, nearest};
use super::secret::{Secret, judge_cluster_secret, judge_credential};
use super::tree::Node;

/// The join drivers that this version has.
pub const DRIVERS: &[&str] = &["docker-swarm", "k3s", "kubeadm", "aiware", "backendai", "gluster", "nfs", "exec"];

/// The TCP port of the rendezvous, unless `join.rendezvous_port` says otherwise.
pub const RENDEZVOUS_PORT: u16 = 7390;

/// How the node joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Join {
    /// What must be up before the join begins, in this order.
    pub after: Vec<Gate>,
    /// The window over which first attempts are spread; without one it grows with the machines of the site.
    pub splay: Option<Duration>,
    /// The cluster.
    #[serde(flatten)]
    pub system: System,
}

/// One variant for each kind of cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum System {
    /// Docker Swarm.
    DockerSwarm(DockerSwarm),
    /// k3s.
    K3s(K3s),
    /// Kubernetes by kubeadm.
    Kubeadm(Kubeadm),
    /// aiWARE.
    Aiware(Aiware),
    /// Backend.AI.
    #[serde(rename = "backendai")]
    BackendAi(BackendAi),
    /// `GlusterFS`.
    Gluster(Gluster),
    /// An NFS client.
    Nfs(Nfs),
    /// A program of the image.
    Exec(Exec),
}

/// Reads `[join]`.
pub(super) fn read(node: &Node, extent: Extent, findings: &mut Findings) -> Option<Join> {
    // A part may leave the driver to another document: then it may have any driver's keys.
    let named = match &node.value {
        super::tree::Value::Table(table) => table.get("driver"),
        _ => None,
    };
    let driver = named.and_then(|entry| match &entry.node.value {
        super::tree::Value::Text(text) => Some(text.as_str()),
        _ => None,
    });
    let known_driver = driver.filter(|driver| DRIVERS.contains(driver));
    let fields = Fields::of_driver(node, "join", known_driver, findings)?;
    let after = gates::read(&fields, findings);
    let splay = fields.integer("splay", 0..=3600, findings);
    let Some(driver) = known_driver else {
        unknown_driver(&fields, extent, findings);
        if fields.entry("driver").is_none() {
            // What these are does not depend on the driver.
            cluster_secret(&fields, "secret", findings);
            cluster_secret(&fields, "manager_secret", findings);
            rendezvous_port(&fields, findings);
        }
        return None;
    };
    let system = match driver {
        "docker-swarm" => docker_swarm::read(&fields, extent, findings).map(System::DockerSwarm),
        "k3s" => k3s::read(&fields, extent, findings).map(System::K3s),
        "kubeadm" => kubeadm::read(&fields, extent, findings).map(System::Kubeadm),
        "aiware" => aiware::read(&fields, extent, findings).map(System::Aiware),
        "backendai" => backendai::read(&fields, extent, findings).map(System::BackendAi),
        "gluster" => gluster::read(&fields, extent, findings).map(System::Gluster),
        "nfs" => nfs::read(&fields, extent, findings).map(System::Nfs),
        _ => exec::read(&fields, extent, findings).map(System::Exec),
    }?;
    let splay = splay.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    Some(Join { after, splay, system })
}

fn unknown_driver(fields: &Fields<'_>, extent: Extent, findings: &mut Findings) {
    let known = format!("known drivers: {}", DRIVERS.join(", "));
    match fields.text("driver", findings) {
        Some(driver) => {
            let help = match nearest(driver, DRIVERS.iter().copied()) {
                Some(near) => format!("did you mean {near:?}? {known}"),
                None => known,
            };
            fields.error("driver", format!("unknown driver {driver:?}"), help, findings);
        }
        None if extent == Extent::Whole && fields.entry("driver").is_none() => {
            fields.missing("driver", known, findings);
        }
        None => {}
    }
}

/// One of several words, required where the document is whole.
fn choice<T: Copy>(
    fields: &Fields<'_>,
    key: &str,
    choices: &[(&str, T)],
    extent: Extent,
    findings: &mut Findings,
) -> Option<T> {
    let words = choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    if fields.entry(key).is_none() {
        if extent == Extent::Whole {
            fields.missing(key, format!("one of: {words}"), findings);
        }
        return None;
    }
    let text = fields.text(key, findings)?;
    let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    if found.is_none() {
        fields.error(key, format!("{text:?} is not one of: {words}"), "", findings);
    }
    found
}

/// A secret that is the cluster's own, so it must be random.
fn cluster_secret(fields: &Fields<'_>, key: &str, findings: &mut Findings) -> Option<Secret> {
    let secret = fields.text(key, findings).map(Secret::new)?;
    if let Err(reason) = judge_cluster_secret(secret.expose()) {
        let help = "make one with `openssl rand -base64 32` and use it on all nodes of the cluster";
        fields.error(key, reason, help, findings);
        return None;
    }
    Some(secret)
}

/// A password or key that something else made: no sample and no default.
fn credential(fields: &Fields<'_>, key: &str, findings: &mut Findings) -> Option<Secret> {
    let secret = fields.text(key, findings).map(Secret::new)?;
    if let Err(reason) = judge_credential(secret.expose()) {
        fields.error(key, reason, "give the real one", findings);
        return None;
    }
    Some(secret)
}

/// A text that goes into a file of settings: without control characters, of bounded length.
fn plain_text(fields: &Fields<'_>, key: &str, findings: &mut Findings) -> Option<String> {
    let text = fields.text(key, findings)?;
    if text.is_empty() || text.len() > 1000 || text.chars().any(char::is_control) {
        fields.error(key, "is empty, too long, or has line breaks or control characters", "", findings);
        return None;
    }
    Some(text.to_owned())
}

/// `rendezvous_port`.
fn rendezvous_port(fields: &Fields<'_>, findings: &mut Findings) -> u16 {
    let port = fields.integer("rendezvous_port", 1..=65535, findings);
    port.and_then(|port| u16::try_from(port).ok()).unwrap_or(RENDEZVOUS_PORT)
}

/// Says that a join without a pin was allowed, or refuses it.
fn unpinned(fields: &Fields<'_>, key: &str, allowed: bool, why: &str, help: &str, findings: &mut Findings) {
    if allowed {
        let message = format!("{why}; join.allow_unpinned accepts that");
        findings.warning(fields.place(key), &fields.path_of(key), message, help);
    } else {
        let help = format!("{help}; or accept the risk with allow_unpinned = true");
        fields.error(key, why, help, findings);
    }
}
