//! How a node gets its join token: it proves the cluster secret to a manager, and the manager to it.
//!
//! A Swarm's token comes into being only when its first manager founds it. The manager's first-boot service then
//! listens on TCP port 7390, and every node that has the same `join.secret` can ask it for the token. Model:
//! `AIStore`'s authenticated node join (mutual HMAC with separate domains).
//!
//! ```text
//! node    → Hello     { version, nonce N (32 random bytes), identity, time }
//! manager → Challenge { nonce M, name, time, proof = HMAC(K, "ingot-rendezvous-v1-server" ‖ transcript) }
//! node    → Answer    { proof = HMAC(K, "ingot-rendezvous-v1-node" ‖ transcript) }
//! manager → Grant     { ChaCha20-Poly1305 under HMAC(K, "ingot-rendezvous-v1-key" ‖ transcript) }
//! ```
//!
//! K is `join.secret`; the transcript is every field of Hello and Challenge but the proof, each with its length.
//! At every point the manager may say `Refused` instead; before the node has proved itself, a refusal is only a hint.
//!
//! **Freshness** comes from the nonces alone: each side answers only for a nonce that it drew for this very
//! connection and forgets with it, and a connection lives 10 seconds at most. Clocks do not count: a node on its
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

use std::io;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use client::request;
pub(crate) use message::to_hex;
pub use message::{MAXIMUM_MESSAGE_BYTES, Refusal};
pub use server::{Server, TokenSource, TokenUnavailable};

use crate::config::Secret;

/// Who asks for a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeIdentity {
    /// The host name.
    pub hostname: String,
    /// What outlives a new name: the machine id, or a hardware address.
    pub id: String,
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
}
