//! How a node gets its join token: it proves the cluster secret to a manager, and the manager to it.
//!
//! A Swarm's token comes into being only when its first manager founds it. The manager's first-boot service then
//! listens on TCP port 7390, and every node that has the same `join.secret` can ask it for the token. Model:
//! `AIStore`'s authenticated node join (mutual HMAC with separate domains).
//!
//! ```text
//! node    → Hello     { version, nonce N (32 random bytes), identity and seat, time }
//! manager → Challenge { nonce M, name, time, proof = HMAC(K, "ingot-rendezvous-v2-server" ‖ transcript) }
//! node    → Answer    { proof = HMAC(K, "ingot-rendezvous-v2-node" ‖ transcript) }
//! manager → Grant     { ChaCha20-Poly1305 under HMAC(K, "ingot-rendezvous-v2-key" ‖ transcript) }
//! ```
//!
//! K is `join.secret`, or `join.manager_secret` for a node that asks for a manager's seat where there is one; what
//! that seat takes is given only to the addresses that the manager's own configuration lists. The transcript is every field of Hello and Challenge but the proof, each with its length.
//! At every point the manager may say `Refused` instead; before the node has proved itself, a refusal is only a hint.
//! A manager with too much to do says `Busy` and when to come back, to each node another moment, before it reads
//! anything.
//!
//! **Freshness** comes from the nonces alone: each side answers only for a nonce that it drew for this very
//! connection and forgets with it, and a node has 10 seconds for its proof. Clocks do not count: a node on its
//! first boot may have none. The times are part of the transcript, so that once the proof is checked the node has a
//! trustworthy clock to compare its own with: Swarm's certificates need one.
//!
//! **Reflection** fails by the domains, and a node refuses a challenge that repeats its own nonce. **Guessing**: who
//! can reach a manager gets one HMAC per connection to try secrets against offline, which is why weak secrets are
//! refused when the configuration is read. There is no forward secrecy: who records an exchange and learns the
//! secret later can read the token; rotating the token (`docker swarm join-token --rotate`) ends that.

mod client;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod limit;
mod message;
mod proof;
mod server;
mod turns;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use client::request;
#[cfg(test)]
pub(crate) use limit::Limits;
pub(crate) use message::to_hex;
pub use message::{MAXIMUM_MESSAGE_BYTES, Refusal};
pub(crate) use proof::derive_hex;
pub use server::{Secrets, Server, TokenSource, TokenUnavailable};
pub use turns::Turns;

use crate::config::Secret;

/// Who asks for a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeIdentity {
    /// The host name.
    pub hostname: String,
    /// What outlives a new name: the machine id, or a hardware address.
    pub id: String,
    /// What it wants to be.
    pub seat: Seat,
}

/// What a node wants to be in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seat {
    /// One that works.
    Worker,
    /// One that keeps the cluster's state: manager, server, control plane.
    Manager,
}

impl Seat {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Seat::Worker => "worker",
            Seat::Manager => "manager",
        }
    }
}

/// A node that proved the secret.
#[derive(Debug, Clone)]
pub struct Asker {
    /// Who it says it is.
    pub identity: NodeIdentity,
    /// The address that it asks from.
    pub peer: IpAddr,
}

/// What a manager gives to a node that proved itself.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The join token.
    pub token: Secret,
    /// The manager's clock, in seconds since 1970.
    pub time: u64,
}

/// No token was obtained.
#[derive(Debug, Error)]
pub enum RendezvousError {
    /// The manager cannot be reached, or hung up.
    #[error("no answer: {0}")]
    Unreachable(#[from] io::Error),
    /// What answers does not speak the protocol.
    #[error("what answers is not a rendezvous: {0}")]
    Protocol(&'static str),
    /// What answers does not have the secret.
    #[error("what answers cannot prove the cluster secret")]
    NotAManager,
    /// The manager said no.
    #[error("the manager refused: {0}")]
    Refused(Refusal),
    /// The manager has too much to do.
    #[error("the manager is busy, and asks to come back after {} s", .0.as_secs())]
    Busy(Duration),
}
