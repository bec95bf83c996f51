//! `[join]` with `driver = "docker-swarm"`.

use serde::Serialize;

use super::{choice, cluster_secret, rendezvous_port};
use crate::config::fields::Fields;
use crate::config::node::Extent;
use crate::config::problem::Findings;
use crate::config::secret::Secret;
use crate::config::values::{Advertise, HostAddress, is_swarm_token};

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
    /// What managers prove to each other instead, so that a worker's secret makes no manager.
    pub manager_secret: Option<Secret>,
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

pub fn read(fields: &Fields<'_>, extent: Extent, findings: &mut Findings) -> Option<DockerSwarm> {
    let errors_before = findings.errors.len();
    let roles = [("manager", SwarmRole::Manager), ("worker", SwarmRole::Worker)];
    let role = choice(fields, "role", &roles, extent, findings);
    let advertise = fields.parsed("advertise", findings);
    let managers: Vec<HostAddress> = fields.parsed_list("managers", findings);
    let secret = cluster_secret(fields, "secret", findings);
    let manager_secret = cluster_secret(fields, "manager_secret", findings);
    let token = fields.text("token", findings).map(|token| Secret::new(token.trim()));
    if token.as_ref().is_some_and(|token| !is_swarm_token(token.expose())) {
        let help = "it is what `docker swarm join-token -q worker` prints: SWMTKN-1-...";
        fields.error("token", "is not a Swarm join token, or not a whole one", help, findings);
    }
    let rendezvous_port = rendezvous_port(fields, findings);
    if manager_secret.is_some() && manager_secret == secret {
        fields.error("manager_secret", "is the same as secret, so every worker has it", "make another one", findings);
    }
    // What is required is asked for even where the role is wrong; both are said at once.
    if extent == Extent::Whole {
        if fields.entry("secret").is_none() && fields.entry("token").is_none() {
            let help = match role {
                Some(SwarmRole::Manager) => {
                    "the nodes that join it prove this secret; make one with `openssl rand -base64 32`"
                }
                _ => "give the cluster's secret, or a token of `docker swarm join-token -q worker`",
            };
            fields.missing("secret", help, findings);
        }
        if managers.is_empty() && (role == Some(SwarmRole::Worker) || token.is_some()) {
            fields.missing("managers", "give the address of at least one manager", findings);
        }
    }
    if extent == Extent::Part || findings.errors.len() > errors_before {
        return None;
    }
    Some(DockerSwarm { role: role?, advertise, managers, secret, manager_secret, token, rendezvous_port })
}
