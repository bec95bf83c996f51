//! Joining a cluster: one driver for each kind.
//!
//! Takes the `[join]` of a valid configuration; gives a [`Driver`] whose parts the service calls in order: render
//! files, preflight, probe, start, probe again. A driver makes one attempt; repeating, waiting and reporting are
//! the service's work. Every part may be called again after a power cut and must do nothing twice.

mod aiware;
mod backendai;
mod backoff;
mod docker_swarm;
pub mod engine;
mod error;
mod exec;
mod founding;
pub mod gate;
mod gluster;
#[cfg(test)]
mod herd_tests;
mod k3s;
mod kubeadm;
mod kubernetes;
mod mounts;
mod nfs;
mod room;
mod scrub;
#[cfg(test)]
pub mod stand_ins;
#[cfg(test)]
mod tests;
mod unit;
mod yaml;

use std::net::IpAddr;
use std::time::Duration;

pub use backoff::{Backoff, Retry};
pub use error::JoinError;
pub use exec::EXEC_SECRETS;
pub use k3s::API_PORT as K3S_API_PORT;
#[cfg(any(test, fuzzing))]
pub(crate) use kubernetes::spki_pin;
pub use scrub::scrub;

use crate::clock;
use crate::config::{HostAddress, Join, Secret, System};
use crate::host::{Host, HostError};
use crate::rendezvous::{Asker, Grant, NodeIdentity, Refusal, RendezvousError, Seat};
use crate::step::{Content, Effect};

use engine::Request;

/// How often the engine's socket is tried after its unit is up, one second apart.
const ENGINE_TRIES: u32 = 60;
/// A clock that is off by more is set to the manager's, unless a time server has set it.
const CLOCK_TOLERANCE_SECONDS: u64 = 30;

/// A file that a driver needs before its units start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedFile {
    /// Its path on the node.
    pub path: String,
    /// Its content.
    pub content: Secret,
    /// Its permission bits.
    pub mode: u32,
    /// Whether its content may be shown: it holds no secret.
    pub public: bool,
}

impl RenderedFile {
    /// A file that anyone may read.
    pub fn public(path: impl Into<String>, content: impl Into<String>) -> Self {
        Self { path: path.into(), content: Secret::new(content), mode: 0o644, public: true }
    }

    /// A file for root alone, without a secret in it.
    pub fn private(path: impl Into<String>, content: impl Into<String>) -> Self {
        Self { path: path.into(), content: Secret::new(content), mode: 0o600, public: true }
    }

    /// A file for root alone, with a secret in it.
    pub fn secret(path: impl Into<String>, content: impl Into<String>) -> Self {
        Self { path: path.into(), content: Secret::new(content), mode: 0o600, public: false }
    }
}

impl From<RenderedFile> for Effect {
    fn from(file: RenderedFile) -> Self {
        let content =
            if file.public { Content::Text(file.content.expose().to_owned()) } else { Content::Secret(file.content) };
        Effect::File { path: file.path, mode: file.mode, content }
    }
}

/// A request to something that is no program: for the plan.
fn call(service: &str, request: impl Into<String>) -> Effect {
    Effect::Call { service: service.to_owned(), request: request.into() }
}

/// What starts the container engine.
const START_DOCKER: [&str; 3] = ["systemctl", "start", "docker.service"];

/// What the node is in its cluster, once it is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The node's identity there; it lives on the state partition and survives another image.
    pub identity: String,
    /// For people: `worker, manager 10.77.0.10:2377`.
    pub text: String,
}

/// What a driver knows of the node that it is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its host name.
    pub hostname: String,
    /// Its addresses, as far as they are known.
    pub addresses: Vec<IpAddr>,
}

impl NodeFacts {
    /// True where this is the node's own address or name.
    pub fn is_own(&self, host: &HostAddress) -> bool {
        match host {
            HostAddress::Ip(address) => self.addresses.contains(address),
            HostAddress::Name(name) => {
                let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
                *name == self.hostname || (!name.contains('.') && *name == short(&self.hostname))
            }
        }
    }
}

/// The node that joins.
pub struct Joiner<'a> {
    /// The machine.
    pub host: &'a dyn Host,
    /// Who it is, for the rendezvous.
    pub identity: NodeIdentity,
    /// True where it has been a member before: then it never leaves by itself.
    pub member: bool,
}

/// How a kind of cluster is joined.
pub trait Driver: Send + Sync {
    /// Its name in `join.driver`.
    fn name(&self) -> &'static str;

    /// What the node will be, in words without secrets.
    fn describe(&self) -> String;

    /// What the join starts, runs and asks for after its files are written, in order and without secrets: for the
    /// plan. What only the machine can say stands in parentheses.
    fn actions(&self) -> Vec<Effect>;

    /// What joining does to the machine, without a machine and in order: the files of [`Driver::render`], then
    /// [`Driver::actions`].
    fn effects(&self) -> Vec<Effect> {
        // What cannot be rendered yet for want of the machine is an error of the join on the machine.
        let files = self.render().unwrap_or_default().into_iter().map(Effect::from);
        files.chain(self.actions()).collect()
    }

    /// Files that must be there before its units start.
    fn render(&self) -> Result<Vec<RenderedFile>, JoinError> {
        Ok(Vec::new())
    }

    /// Starts what the join needs and checks that it works.
    fn preflight(&self, host: &dyn Host) -> Result<(), JoinError>;

    /// What the node is in its cluster now; `None` while it is not an active member.
    fn probe(&self, host: &dyn Host) -> Result<Option<Membership>, JoinError>;

    /// One attempt to join or to found the cluster. Success means that it is under way; [`Driver::probe`] says when
    /// it is there.
    fn start(&self, joiner: &Joiner<'_>) -> Result<(), JoinError>;

    /// Why a join that is under way does not come to its end, where that can be found out.
    fn diagnose(&self, _host: &dyn Host) -> Option<JoinError> {
        None
    }

    /// Leaves the cluster, also one that it never quite joined.
    fn leave(&self, host: &dyn Host) -> Result<(), JoinError>;

    /// The secrets that it uses, so that what programs print can be cleaned of them.
    fn secrets(&self) -> Vec<&Secret> {
        Vec::new()
    }

    /// What a member offers to nodes that want to join; `None` where it offers nothing.
    fn offer(&self) -> Option<Offer> {
        None
    }

    /// Gives a node that proved the secret what it joins with, as the cluster has it now, after making room for it:
    /// what bears its name and is dead is removed.
    fn admit(&self, _host: &dyn Host, _asker: &Asker) -> Result<Secret, JoinError> {
        Err(JoinError::Contradiction(format!("a {} node gives no token", self.name())))
    }
}

/// What a member offers at the rendezvous.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The TCP port.
    pub port: u16,
    /// The secret that asking nodes must prove.
    pub secret: Secret,
    /// The secret that nodes which want to be managers must prove; the same where there is none of its own.
    pub manager_secret: Option<Secret>,
}

/// The driver for a configuration, on a node.
pub fn driver(join: &Join, node: NodeFacts) -> Box<dyn Driver> {
    match &join.system {
        System::DockerSwarm(swarm) => Box::new(docker_swarm::SwarmDriver::new(swarm.clone(), node)),
        System::K3s(k3s) => Box::new(k3s::K3sDriver::new(k3s.clone(), node)),
        System::Kubeadm(kubeadm) => Box::new(kubeadm::KubeadmDriver::new(kubeadm.clone(), node)),
        System::Aiware(aiware) => Box::new(aiware::AiwareDriver::new(aiware.clone(), node)),
        System::BackendAi(backend) => Box::new(backendai::BackendAiDriver::new(backend.clone(), node)),
        System::Gluster(gluster) => Box::new(gluster::GlusterDriver::new(gluster.clone(), node)),
        System::Nfs(nfs) => Box::new(nfs::NfsDriver::new(nfs.clone())),
        System::Exec(exec) => Box::new(exec::ExecDriver::new(exec.clone())),
    }
}

/// Starts the container engine and waits until it answers.
///
/// # Errors
/// [`JoinError::Preflight`] with the reason.
pub fn start_docker(host: &dyn Host) -> Result<(), JoinError> {
    let [program, arguments @ ..] = START_DOCKER;
    let started = host.run(program, &arguments, Duration::from_mins(5));
    started.map_err(|error| JoinError::Preflight(format!("docker.service does not start: {error}")))?;
    let mut last = None;
    for _ in 0..ENGINE_TRIES {
        match host.engine(&Request::get("/_ping")).and_then(|answer| answer.accepted("a ping")) {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
        host.sleep(Duration::from_secs(1));
    }
    Err(JoinError::Preflight(last.map_or_else(String::new, |error| error.to_string())))
}

/// Asks each manager in turn for what the node joins with; gives it and the manager's address. Nodes begin with
/// different managers, so that they share the load.
pub fn ask_managers(
    joiner: &Joiner<'_>,
    managers: &[HostAddress],
    port: u16,
    secret: &Secret,
    seat: Seat,
) -> Result<(IpAddr, Secret), JoinError> {
    let own: Vec<IpAddr> = joiner.host.addresses()?.into_iter().map(|found| found.address).collect();
    let identity = NodeIdentity { seat, ..joiner.identity.clone() };
    let mut last = JoinError::Silence("there is no other manager to ask".into());
    let spread = identity.id.bytes().map(usize::from).sum::<usize>() % managers.len().max(1);
    for manager in managers.iter().cycle().skip(spread).take(managers.len()) {
        let addresses = match joiner.host.resolve(manager) {
            Ok(addresses) => addresses,
            Err(error) => {
                last = last.or_worse(error.into());
                continue;
            }
        };
        // The node's own name leads to its loopback.
        let others = addresses.into_iter().filter(|address| !own.contains(address) && !address.is_loopback());
        for address in others {
            match joiner.host.rendezvous(address, port, secret, &identity) {
                Ok(Grant { token, time }) => {
                    trust_clock(joiner.host, time)?;
                    return Ok((address, token));
                }
                Err(error) => last = last.or_worse(rendezvous_error(manager, address, error)),
            }
        }
    }
    Err(last)
}

fn rendezvous_error(manager: &HostAddress, address: IpAddr, error: RendezvousError) -> JoinError {
    let name = match manager {
        HostAddress::Ip(_) => address.to_string(),
        HostAddress::Name(name) => format!("{name} ({address})"),
    };
    match error {
        RendezvousError::Busy(retry_after) => {
            JoinError::Busy { what: format!("{name}: {error}"), retry: Retry::Turn(retry_after) }
        }
        RendezvousError::Unreachable(_) => JoinError::Silence(format!("{name}: {error}")),
        RendezvousError::Refused(Refusal::NotReady | Refusal::Busy) => {
            JoinError::NoManagerYet(format!("{name}: {error}"))
        }
        RendezvousError::Refused(Refusal::DuplicateName) => JoinError::DuplicateName(format!("{name}: {error}")),
        // The secret was right.
        RendezvousError::Refused(Refusal::NotListed) => JoinError::NotListed(format!("{name}: {error}")),
        source => JoinError::Rendezvous { manager: name, source },
    }
}

/// Sets the clock to the manager's proven one where it is far off and no time server has set it: a certificate that
/// begins today is not valid for a node whose clock says last year.
fn trust_clock(host: &dyn Host, managers: u64) -> Result<(), HostError> {
    let own = host.now();
    if !clock::is_synchronised(host) && own.abs_diff(managers) > CLOCK_TOLERANCE_SECONDS {
        clock::correct(host, managers)?;
    }
    Ok(())
}

/// Whether an asking node may become a manager: its address must be one that this node's own configuration lists.
/// The list is the operator's word; without it, whoever has a worker's secret could make itself a manager.
///
/// # Errors
/// [`JoinError::NotListed`].
pub fn check_seat(host: &dyn Host, managers: &[HostAddress], asker: &Asker) -> Result<(), JoinError> {
    let peer = asker.peer.to_canonical();
    let listed = |manager: &HostAddress| host.resolve(manager).is_ok_and(|addresses| addresses.contains(&peer));
    if asker.identity.seat == Seat::Worker || managers.iter().any(listed) {
        return Ok(());
    }
    Err(JoinError::NotListed(format!("{peer} asks to be a manager and is not one of the configured managers")))
}
