//! Docker Swarm, over the Engine API: `/info`, `/swarm`, `/swarm/init`, `/swarm/join`, `/swarm/leave`.
//!
//! The first manager founds the cluster; its tokens come into being there and go to the others by the rendezvous: the
//! worker's to every node that proves the secret, the manager's only to addresses that the configuration lists as
//! managers. A token pins the cluster's certificate authority, so a node cannot be lured into another cluster.
//!
//! A first manager that has lost what it knew joins the cluster that the others still have.
//!
//! The engine keeps the node's identity on the state partition. Where that was lost, a manager removes the dead node
//! of the same name when the new one asks.

mod nodes;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::engine::{Body, EngineError, Request, Response};
use super::founding::living_cluster;
use super::{
    Driver, JoinError, Joiner, Membership, NodeFacts, Offer, START_DOCKER, ask_managers, call, check_seat, start_docker,
};
use crate::config::{Advertise, DockerSwarm, HostAddress, Secret, SwarmRole};
use crate::host::Host;
use crate::rendezvous::{Asker, Seat};
use crate::step::Effect;

/// The port of Swarm's managers.
const SWARM_PORT: u16 = 2377;
const INIT: &str = "/swarm/init";
const JOIN: &str = "/swarm/join";
/// How long a pending join may stay pending before it is given up, in seconds.
const PENDING_SECONDS: u32 = 60;

/// Joins or founds a Docker Swarm.
pub struct SwarmDriver {
    swarm: DockerSwarm,
    node: NodeFacts,
}

#[derive(Deserialize)]
struct Info {
    #[serde(rename = "Swarm")]
    swarm: SwarmInfo,
}

/// The node's own view of its swarm (`SwarmInfo` of the Engine API).
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct SwarmInfo {
    #[serde(rename = "NodeID")]
    node_id: String,
    node_addr: String,
    local_node_state: String,
    control_available: bool,
    error: String,
    remote_managers: Option<Vec<RemoteManager>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RemoteManager {
    addr: String,
}

impl SwarmDriver {
    /// For this configuration, on this node.
    pub fn new(swarm: DockerSwarm, node: NodeFacts) -> Self {
        Self { swarm, node }
    }

    fn info(host: &dyn Host) -> Result<SwarmInfo, JoinError> {
        let answer = host.engine(&Request::get("/info"))?.accepted("to say what it is")?;
        Ok(decode::<Info>(&answer)?.swarm)
    }

    /// Founds the cluster.
    fn found(&self, joiner: &Joiner<'_>) -> Result<(), JoinError> {
        let own = own_addresses(joiner.host)?;
        let advertise = self.advertise(joiner.host, &own)?;
        let v6 = matches!(advertise, Advertise::Ip(IpAddr::V6(_)));
        let answer = post(joiner.host, INIT, &init_body(v6, &advertise.to_string()))?;
        if is_already_member(&answer) {
            return Ok(());
        }
        answer.accepted("to found a swarm")?;
        Ok(())
    }

    /// Two managers with one configuration must not become two clusters: the first one named founds it.
    fn is_first(&self, host: &dyn Host) -> Result<bool, JoinError> {
        let Some(first) = self.swarm.managers.first() else { return Ok(true) };
        let advertised = matches!((&self.swarm.advertise, first),
            (Some(Advertise::Ip(own)), HostAddress::Ip(first)) if own == first);
        // The node's own name leads to a loopback address, by the hosts file.
        if advertised || self.node.is_own(first) {
            return Ok(true);
        }
        let own = own_addresses(host)?;
        Ok(host.resolve(first)?.iter().any(|address| own.contains(address)))
    }

    /// Founds the cluster, unless the other managers have it already.
    fn found_or_join(&self, joiner: &Joiner<'_>) -> Result<(), JoinError> {
        let swarm = &self.swarm;
        let living = match swarm.manager_secret.as_ref().or(swarm.secret.as_ref()) {
            Some(secret) => living_cluster(joiner, &self.node, &swarm.managers, swarm.rendezvous_port, secret)?,
            None => None,
        };
        match living {
            Some((manager, token)) => self.join(joiner, &[(manager, SWARM_PORT).into()], &token),
            None => self.found(joiner),
        }
    }

    /// What the others reach this manager by.
    fn advertise(&self, host: &dyn Host, own: &[IpAddr]) -> Result<Advertise, JoinError> {
        if let Some(advertise) = &self.swarm.advertise {
            if let Advertise::Ip(address) = advertise
                && !own.contains(address)
            {
                return Err(JoinError::Contradiction(format!(
                    "join.advertise {address} is not an address of this node"
                )));
            }
            return Ok(advertise.clone());
        }
        for manager in &self.swarm.managers {
            // The own name may stand for the loopback alone, and another manager's may be unknown as yet.
            let known = host.resolve(manager).unwrap_or_default();
            if let Some(address) = known.into_iter().find(|address| own.contains(address)) {
                return Ok(Advertise::Ip(address));
            }
        }
        let v4: Vec<IpAddr> = own.iter().copied().filter(IpAddr::is_ipv4).collect();
        match (&v4[..], own) {
            ([only], _) | ([], [only]) => Ok(Advertise::Ip(*only)),
            _ => Err(JoinError::Contradiction(
                "this node has several addresses; say with join.advertise which the others reach it by".into(),
            )),
        }
    }

    /// Joins with the token that a manager gives.
    fn join_by_rendezvous(&self, joiner: &Joiner<'_>) -> Result<(), JoinError> {
        let (seat, secret) = match self.swarm.role {
            SwarmRole::Manager => (Seat::Manager, self.swarm.manager_secret.as_ref().or(self.swarm.secret.as_ref())),
            SwarmRole::Worker => (Seat::Worker, self.swarm.secret.as_ref()),
        };
        let secret =
            secret.ok_or_else(|| JoinError::Contradiction("joining needs join.secret or join.token".into()))?;
        let (manager, token) = ask_managers(joiner, &self.swarm.managers, self.swarm.rendezvous_port, secret, seat)?;
        self.join(joiner, &[(manager, SWARM_PORT).into()], &token)
    }

    fn join(&self, joiner: &Joiner<'_>, managers: &[SocketAddr], token: &Secret) -> Result<(), JoinError> {
        // The address by which this node reaches the manager is the one by which the manager reaches it.
        let advertise = match &self.swarm.advertise {
            Some(advertise) => advertise.to_string(),
            None => managers
                .first()
                .and_then(|manager| joiner.host.source_address(manager.ip()))
                .map_or_else(String::new, |address| address.to_string()),
        };
        let v6 = managers.first().is_some_and(SocketAddr::is_ipv6);
        let remote: Vec<String> = managers.iter().map(ToString::to_string).collect();
        let answer = post(joiner.host, JOIN, &join_body(v6, &advertise, &remote, token.expose()))?;
        if is_already_member(&answer) {
            return Ok(());
        }
        let message = answer.message();
        match answer.accepted("to join the swarm") {
            Ok(_) => Ok(()),
            // The engine goes on trying in the background; the probe sees how it ends.
            Err(_) if message.contains("Timeout was reached") => Ok(()),
            Err(_) if is_unreachable(&message) => Err(JoinError::NoManagerYet(message)),
            // The messages are those of swarmkit (ca/config.go, ca/server.go, ca/certificates.go).
            Err(_) if message.contains("join token") => Err(JoinError::TokenRefused(message)),
            Err(_) if message.contains("remote CA does not match fingerprint") => {
                Err(JoinError::WrongAuthority(message))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Driver for SwarmDriver {
    fn name(&self) -> &'static str {
        "docker-swarm"
    }

    fn describe(&self) -> String {
        let managers = self.swarm.managers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match (self.swarm.role, &self.swarm.token) {
            (SwarmRole::Manager, None) if self.swarm.managers.len() > 1 => {
                format!("docker-swarm manager of {managers}, the first of which founds the cluster")
            }
            (SwarmRole::Manager, None) => "docker-swarm manager that founds the cluster".into(),
            (SwarmRole::Manager, Some(_)) => format!("docker-swarm manager, joins {managers} with a token"),
            (SwarmRole::Worker, Some(_)) => format!("docker-swarm worker, joins {managers} with a token"),
            (SwarmRole::Worker, None) => format!("docker-swarm worker, asks {managers} for a token"),
        }
    }

    fn preflight(&self, host: &dyn Host) -> Result<(), JoinError> {
        start_docker(host)
    }

    fn probe(&self, host: &dyn Host) -> Result<Option<Membership>, JoinError> {
        let info = Self::info(host)?;
        if info.local_node_state != "active" {
            return Ok(None);
        }
        if self.swarm.role == SwarmRole::Manager && !info.control_available {
            return Err(JoinError::Contradiction(
                "this node is a worker of a swarm, and its configuration makes it a manager; \
                 promote it on a manager: docker node promote"
                    .into(),
            ));
        }
        let managers: Vec<String> = info.remote_managers.unwrap_or_default().into_iter().map(|m| m.addr).collect();
        let role = if info.control_available { "manager" } else { "worker" };
        let address = &info.node_addr;
        let text =
            format!("docker-swarm {role}, node {}, address {address}, managers {}", info.node_id, managers.join(" "));
        Ok(Some(Membership { identity: info.node_id, text }))
    }

    fn start(&self, joiner: &Joiner<'_>) -> Result<(), JoinError> {
        let host = joiner.host;
        let mut info = Self::info(host)?;
        for _ in 0..PENDING_SECONDS {
            if info.local_node_state != "pending" {
                break;
            }
            host.sleep(Duration::from_secs(1));
            info = Self::info(host)?;
        }
        match info.local_node_state.as_str() {
            "active" => return Ok(()),
            "" | "inactive" => {}
            "locked" => {
                return Err(JoinError::Contradiction("the swarm is locked; unlock it: docker swarm unlock".into()));
            }
            // A member does not leave by itself: its manager may only be away for a while.
            state if joiner.member => {
                let why = if info.error.is_empty() { "no manager answers" } else { &info.error };
                return Err(JoinError::NoManagerYet(format!("this node's membership is {state}: {why}")));
            }
            // What never came to be is given up, so that the next attempt has a fresh token and fresh addresses.
            _ => self.leave(host)?,
        }
        match (&self.swarm.token, self.swarm.role) {
            (Some(token), _) => {
                let mut managers = Vec::new();
                for manager in &self.swarm.managers {
                    managers
                        .extend(host.resolve(manager)?.into_iter().map(|address| SocketAddr::new(address, SWARM_PORT)));
                }
                self.join(joiner, &managers, token)
            }
            (None, SwarmRole::Manager) if self.is_first(host)? => self.found_or_join(joiner),
            (None, _) => self.join_by_rendezvous(joiner),
        }
    }

    fn leave(&self, host: &dyn Host) -> Result<(), JoinError> {
        let info = Self::info(host)?;
        if info.local_node_state == "active" && info.control_available {
            Self::step_down(host, &info.node_id)?;
        }
        let answer = host.engine(&Request::post("/swarm/leave?force=true", Body::Empty))?;
        if answer.message().contains("not part of a swarm") {
            return Ok(());
        }
        answer.accepted("to leave the swarm")?;
        Ok(())
    }

    fn actions(&self) -> Vec<Effect> {
        let swarm = &self.swarm;
        let mut effects = vec![Effect::run(START_DOCKER)];
        let given = swarm.advertise.as_ref().map(ToString::to_string);
        if swarm.token.is_none() && swarm.role == SwarmRole::Manager && swarm.managers.len() < 2 {
            let v6 = matches!(swarm.advertise, Some(Advertise::Ip(IpAddr::V6(_))));
            let first = swarm.managers.first().map(ToString::to_string);
            let advertise = given.or(first).unwrap_or_else(|| "(this node's only address)".into());
            effects.push(call("docker", format!("POST {INIT} {}", init_body(v6, &advertise))));
            return effects;
        }
        if swarm.token.is_none() {
            let managers = swarm.managers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
            let role = if swarm.role == SwarmRole::Manager { "manager" } else { "worker" };
            let request = format!("the {role} token, from {managers} port {}", swarm.rendezvous_port);
            effects.push(call("rendezvous", request));
        }
        let v6 = matches!(swarm.managers.first(), Some(HostAddress::Ip(IpAddr::V6(_))));
        let managers: Vec<String> = swarm
            .managers
            .iter()
            .map(|manager| match manager {
                HostAddress::Ip(address) => SocketAddr::new(*address, SWARM_PORT).to_string(),
                HostAddress::Name(name) => format!("{name}:{SWARM_PORT}"),
            })
            .collect();
        let advertise = given.unwrap_or_else(|| "(the address towards the manager)".into());
        let body = join_body(v6, &advertise, &managers, "(secret)");
        effects.push(call("docker", format!("POST {JOIN} {body}")));
        effects
    }

    fn secrets(&self) -> Vec<&Secret> {
        [&self.swarm.token, &self.swarm.secret, &self.swarm.manager_secret].into_iter().flatten().collect()
    }

    fn offer(&self) -> Option<Offer> {
        let secret = self.swarm.secret.clone().filter(|_| self.swarm.role == SwarmRole::Manager)?;
        Some(Offer { port: self.swarm.rendezvous_port, secret, manager_secret: self.swarm.manager_secret.clone() })
    }

    fn admit(&self, host: &dyn Host, asker: &Asker) -> Result<Secret, JoinError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Swarm {
            join_tokens: JoinTokens,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct JoinTokens {
            worker: String,
            manager: String,
        }
        check_seat(host, &self.swarm.managers, asker)?;
        let answer = host.engine(&Request::get("/swarm"))?.accepted("to show the swarm")?;
        let tokens = decode::<Swarm>(&answer)?.join_tokens;
        Self::make_room(host, &asker.identity)?;
        Ok(Secret::new(if asker.identity.seat == Seat::Manager { tokens.manager } else { tokens.worker }))
    }
}

fn own_addresses(host: &dyn Host) -> Result<Vec<IpAddr>, JoinError> {
    Ok(host.addresses()?.into_iter().map(|found| found.address).collect())
}

/// Where the engine listens for the other nodes.
fn listen(v6: bool) -> String {
    let address = if v6 { SocketAddr::from((Ipv6Addr::UNSPECIFIED, SWARM_PORT)) } else { ([0; 4], SWARM_PORT).into() };
    address.to_string()
}

fn init_body(v6: bool, advertise: &str) -> serde_json::Value {
    json!({ "ListenAddr": listen(v6), "AdvertiseAddr": advertise, "Spec": {} })
}

fn join_body(v6: bool, advertise: &str, managers: &[String], token: &str) -> serde_json::Value {
    json!({ "ListenAddr": listen(v6), "AdvertiseAddr": advertise, "RemoteAddrs": managers, "JoinToken": token })
}

fn post(host: &dyn Host, path: &str, body: &serde_json::Value) -> Result<Response, JoinError> {
    Ok(host.engine(&Request::post(path, Body::Json(body.to_string().as_bytes())))?)
}

fn decode<T: for<'de> Deserialize<'de>>(answer: &Response) -> Result<T, JoinError> {
    serde_json::from_slice(&answer.body).map_err(|_| EngineError::Answer("it is not the JSON of its API").into())
}

fn is_already_member(answer: &Response) -> bool {
    matches!(answer.status, 406 | 503) && answer.message().contains("already part of a swarm")
}

fn is_unreachable(message: &str) -> bool {
    [
        "connection refused",
        "no route to host",
        "network is unreachable",
        "i/o timeout",
        "deadline exceeded",
        "Unavailable",
    ]
    .iter()
    .any(|sign| message.contains(sign))
}
