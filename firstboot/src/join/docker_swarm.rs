//! Docker Swarm, over the Engine API: `/info`, `/swarm`, `/swarm/init`, `/swarm/join`, `/swarm/leave`.
//!
//! The first manager founds the cluster; its token comes into being there and goes to the others by the rendezvous.
//! A token pins the cluster's certificate authority, so a node cannot be lured into another cluster.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::engine::{Body, EngineError, Request, Response};
use super::{Driver, JoinError, Joiner, Membership, Offer, START_DOCKER, start_docker};
use crate::config::{Advertise, DockerSwarm, HostAddress, Secret, SwarmRole};
use crate::host::{Host, HostError};
use crate::rendezvous::{Grant, Refusal, RendezvousError};
use crate::step::Effect;

/// The port of Swarm's managers.
const SWARM_PORT: u16 = 2377;
const INIT: &str = "/swarm/init";
const JOIN: &str = "/swarm/join";
/// A clock that is off by more is set to the manager's, unless a time server has set it.
const CLOCK_TOLERANCE_SECONDS: u64 = 30;
/// How long a pending join may stay pending before it is given up, in seconds.
const PENDING_SECONDS: u32 = 60;

/// Joins or founds a Docker Swarm.
pub struct SwarmDriver {
    swarm: DockerSwarm,
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
    /// For this configuration.
    pub fn new(swarm: DockerSwarm) -> Self {
        Self { swarm }
    }

    fn info(host: &dyn Host) -> Result<SwarmInfo, JoinError> {
        let answer = host.engine(&Request::get("/info"))?.accepted("to say what it is")?;
        Ok(decode::<Info>(&answer)?.swarm)
    }

    /// Founds the cluster, where this node is the one to do so.
    fn found(&self, joiner: &Joiner<'_>) -> Result<(), JoinError> {
        let own: Vec<IpAddr> = joiner.host.addresses()?.into_iter().map(|found| found.address).collect();
        // Two managers with one configuration must not become two clusters: the first one named founds it.
        if let Some(first) = self.swarm.managers.first() {
            let advertised = matches!((&self.swarm.advertise, first),
                (Some(Advertise::Ip(own)), HostAddress::Ip(first)) if own == first);
            let is_own = advertised || joiner.host.resolve(first)?.iter().any(|address| own.contains(address));
            if !is_own {
                return Err(JoinError::Contradiction(format!(
                    "{first}, the first of join.managers, founds the cluster, and is not an address of this node; \
                     give this manager a token of `docker swarm join-token -q manager`"
                )));
            }
        }
        let advertise = self.advertise(joiner.host, &own)?;
        let v6 = matches!(advertise, Advertise::Ip(IpAddr::V6(_)));
        let answer = post(joiner.host, INIT, &init_body(v6, &advertise.to_string()))?;
        if is_already_member(&answer) {
            return Ok(());
        }
        answer.accepted("to found a swarm")?;
        Ok(())
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
            if let Some(address) = host.resolve(manager)?.into_iter().find(|address| own.contains(address)) {
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

    /// Asks each manager in turn for a token. Nodes begin with different managers, so that they share the load.
    fn ask_for_token(&self, joiner: &Joiner<'_>, secret: &Secret) -> Result<(SocketAddr, Secret), JoinError> {
        let mut last = JoinError::NoManagerYet("join.managers names no manager".into());
        let spread = joiner.identity.id.bytes().map(usize::from).sum::<usize>() % self.swarm.managers.len().max(1);
        for manager in self.swarm.managers.iter().cycle().skip(spread).take(self.swarm.managers.len()) {
            let addresses = match joiner.host.resolve(manager) {
                Ok(addresses) => addresses,
                Err(error) => {
                    last = worse(last, error.into());
                    continue;
                }
            };
            for address in addresses {
                match joiner.host.rendezvous(address, self.swarm.rendezvous_port, secret, &joiner.identity) {
                    Ok(Grant { token, time }) => {
                        trust_clock(joiner.host, time)?;
                        return Ok(((address, SWARM_PORT).into(), token));
                    }
                    Err(error) => last = worse(last, rendezvous_error(manager, address, error)),
                }
            }
        }
        Err(last)
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
        let managers: Vec<String> = managers.iter().map(ToString::to_string).collect();
        let answer = post(joiner.host, JOIN, &join_body(v6, &advertise, &managers, token.expose()))?;
        if is_already_member(&answer) {
            return Ok(());
        }
        let message = answer.message();
        match answer.accepted("to join the swarm") {
            Ok(_) => Ok(()),
            // The engine goes on trying in the background; the probe sees how it ends.
            Err(_) if message.contains("Timeout was reached") => Ok(()),
            Err(_) if is_unreachable(&message) => Err(JoinError::NoManagerYet(message)),
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
            (SwarmRole::Manager, None) => "docker-swarm manager that founds the cluster".into(),
            (SwarmRole::Manager, Some(_)) => format!("docker-swarm manager, joins {managers} with a token"),
            (SwarmRole::Worker, Some(_)) => format!("docker-swarm worker, joins {managers} with a token"),
            (SwarmRole::Worker, None) => format!("docker-swarm worker, asks {managers} for a token"),
        }
    }

    fn effects(&self) -> Vec<Effect> {
        let swarm = &self.swarm;
        let call = |service: &str, request: String| Effect::Call { service: service.into(), request };
        let mut effects = vec![Effect::run(START_DOCKER)];
        let given = swarm.advertise.as_ref().map(ToString::to_string);
        if swarm.token.is_none() && swarm.role == SwarmRole::Manager {
            let v6 = matches!(swarm.advertise, Some(Advertise::Ip(IpAddr::V6(_))));
            let first = swarm.managers.first().map(ToString::to_string);
            let advertise = given.or(first).unwrap_or_else(|| "(this node's only address)".into());
            effects.push(call("docker", format!("POST {INIT} {}", init_body(v6, &advertise))));
            return effects;
        }
        if swarm.token.is_none() {
            let managers = swarm.managers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
            let request = format!("the worker token, from {managers} port {}", swarm.rendezvous_port);
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
        match (&self.swarm.token, self.swarm.role, &self.swarm.secret) {
            (Some(token), _, _) => {
                let mut managers = Vec::new();
                for manager in &self.swarm.managers {
                    managers
                        .extend(host.resolve(manager)?.into_iter().map(|address| SocketAddr::new(address, SWARM_PORT)));
                }
                self.join(joiner, &managers, token)
            }
            (None, SwarmRole::Manager, _) => self.found(joiner),
            (None, SwarmRole::Worker, Some(secret)) => {
                let (manager, token) = self.ask_for_token(joiner, secret)?;
                self.join(joiner, &[manager], &token)
            }
            (None, SwarmRole::Worker, None) => {
                Err(JoinError::Contradiction("a worker needs join.secret or join.token".into()))
            }
        }
    }

    fn leave(&self, host: &dyn Host) -> Result<(), JoinError> {
        let answer = host.engine(&Request::post("/swarm/leave?force=true", Body::Empty))?;
        if answer.message().contains("not part of a swarm") {
            return Ok(());
        }
        answer.accepted("to leave the swarm")?;
        Ok(())
    }

    fn offer(&self) -> Option<Offer> {
        let secret = self.swarm.secret.clone().filter(|_| self.swarm.role == SwarmRole::Manager)?;
        Some(Offer { port: self.swarm.rendezvous_port, secret })
    }

    fn token(&self, host: &dyn Host) -> Result<Secret, JoinError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Swarm {
            join_tokens: JoinTokens,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct JoinTokens {
            worker: String,
        }
        let answer = host.engine(&Request::get("/swarm"))?.accepted("to show the swarm")?;
        Ok(Secret::new(decode::<Swarm>(&answer)?.join_tokens.worker))
    }
}

/// All addresses of this node, of one family.
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

fn rendezvous_error(manager: &HostAddress, address: IpAddr, error: RendezvousError) -> JoinError {
    let name = match manager {
        HostAddress::Ip(_) => address.to_string(),
        HostAddress::Name(name) => format!("{name} ({address})"),
    };
    match error {
        RendezvousError::Unreachable(_) | RendezvousError::Refused(Refusal::NotReady | Refusal::Busy) => {
            JoinError::NoManagerYet(format!("{name}: {error}"))
        }
        source => JoinError::Rendezvous { manager: name, source },
    }
}

/// Of two managers' answers the one that says more: a wrong secret over an unreachable machine.
fn worse(a: JoinError, b: JoinError) -> JoinError {
    if matches!(a, JoinError::Rendezvous { .. }) { a } else { b }
}

/// Sets the clock to the manager's proven one where it is far off and no time server has set it: a certificate that
/// begins today is not valid for a node whose clock says last year.
fn trust_clock(host: &dyn Host, managers: u64) -> Result<(), HostError> {
    let own = host.now();
    let synchronised = host.exists("/run/systemd/timesync/synchronized");
    if !synchronised && own.abs_diff(managers) > CLOCK_TOLERANCE_SECONDS {
        host.set_clock(managers)?;
    }
    Ok(())
}
