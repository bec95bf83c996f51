//! Joining a cluster: one driver for each kind.
//!
//! Takes the `[join]` of a valid configuration; gives a [`Driver`] whose parts the service calls in order: render
//! files, preflight, probe, start, probe again. A driver makes one attempt; repeating, waiting and reporting are
//! the service's work. Every part may be called again after a power cut and must do nothing twice.

mod backoff;
mod docker_swarm;
pub mod engine;

use std::time::Duration;

use thiserror::Error;

pub use backoff::Backoff;

use crate::config::{Join, Secret};
use crate::host::{Host, HostError};
use crate::rendezvous::{NodeIdentity, RendezvousError};
use crate::status::Code;
use crate::step::{Content, Effect};

use engine::{EngineError, Request};

/// How often the engine's socket is tried after its unit is up, one second apart.
const ENGINE_TRIES: u32 = 60;

/// An attempt to join did not succeed.
#[derive(Debug, Error)]
pub enum JoinError {
    /// The machine did not do what it was told.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The container engine did not.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No manager can be asked yet.
    #[error("{0}")]
    NoManagerYet(String),
    /// No manager proved the cluster secret, or none accepted this node's proof.
    #[error("{manager}: {source}")]
    Rendezvous {
        /// The manager's address.
        manager: String,
        /// What happened.
        source: RendezvousError,
    },
    /// The machine lacks what the join needs.
    #[error("{0}")]
    Preflight(String),
    /// The cluster's state contradicts the configuration; trying again will not help by itself.
    #[error("{0}")]
    Contradiction(String),
}

impl JoinError {
    /// The status code.
    pub fn code(&self) -> Code {
        match self {
            JoinError::Host(HostError::Resolve { .. }) | JoinError::NoManagerYet(_) => Code::WaitingForManager,
            JoinError::Host(_) | JoinError::Preflight(_) | JoinError::Engine(EngineError::Socket(_)) => {
                Code::PreflightFailed
            }
            JoinError::Engine(_) | JoinError::Contradiction(_) => Code::JoinFailed,
            JoinError::Rendezvous { .. } => Code::RendezvousRefused,
        }
    }
}

/// A file that a driver needs before its units start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedFile {
    /// Its path on the node.
    pub path: &'static str,
    /// Its content.
    pub content: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

impl From<RenderedFile> for Effect {
    fn from(file: RenderedFile) -> Self {
        let content = match Content::from(file.content) {
            // What only its owner may read holds a secret.
            Content::Text(text) if file.mode & 0o077 == 0 => Content::Secret(Secret::new(text)),
            content => content,
        };
        Effect::File { path: file.path.into(), mode: file.mode, content }
    }
}

/// What the node is in its cluster, once it is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The node's identity there; it lives on the state partition and survives another image.
    pub identity: String,
    /// For people: `worker, manager 10.77.0.10:2377`.
    pub text: String,
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

    /// Files that must be there before its units start.
    fn render(&self) -> Vec<RenderedFile> {
        Vec::new()
    }

    /// What joining does to the machine, without a machine and in order: the files of [`Driver::render`], the units
    /// that are started, what the cluster's programs are asked for. Secrets are left out.
    fn effects(&self) -> Vec<Effect> {
        self.render().into_iter().map(Effect::from).collect()
    }

    /// Starts what the join needs and checks that it works.
    fn preflight(&self, host: &dyn Host) -> Result<(), JoinError>;

    /// What the node is in its cluster now; `None` while it is not an active member.
    fn probe(&self, host: &dyn Host) -> Result<Option<Membership>, JoinError>;

    /// One attempt to join or to found the cluster. Success means that it is under way; [`Driver::probe`] says when
    /// it is there.
    fn start(&self, joiner: &Joiner<'_>) -> Result<(), JoinError>;

    /// Leaves the cluster, also one that it never quite joined.
    fn leave(&self, host: &dyn Host) -> Result<(), JoinError>;

    /// What a member offers to nodes that want to join; `None` where it offers nothing.
    fn offer(&self) -> Option<Offer> {
        None
    }

    /// The token that the rendezvous gives to others, as the cluster has it now.
    fn token(&self, _host: &dyn Host) -> Result<Secret, JoinError> {
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
}

/// The driver for a configuration.
pub fn driver(join: &Join) -> Box<dyn Driver> {
    match join {
        Join::DockerSwarm(swarm) => Box::new(docker_swarm::SwarmDriver::new(swarm.clone())),
    }
}

/// What starts the container engine.
const START_DOCKER: [&str; 3] = ["systemctl", "start", "docker.service"];

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
