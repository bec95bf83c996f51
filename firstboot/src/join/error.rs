//! Why an attempt to join did not succeed, and the status code for it.

use thiserror::Error;

use super::backoff::Retry;
use super::engine::EngineError;
use crate::host::HostError;
use crate::rendezvous::RendezvousError;
use crate::status::Code;

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
    /// Nobody answers at all.
    #[error("{0}")]
    Silence(String),
    /// A manager has too much to do and says when to ask again.
    #[error("{what}")]
    Busy {
        /// Who, and what it said.
        what: String,
        /// When to ask again.
        retry: Retry,
    },
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
    /// The cluster does not accept the token: it has expired, was revoked, or is another cluster's.
    #[error("{0}")]
    TokenRefused(String),
    /// What answers is not the cluster that the configuration pins.
    #[error("{0}")]
    WrongAuthority(String),
    /// Another living machine has this node's name.
    #[error("{0}")]
    DuplicateName(String),
    /// A node asks to be a manager that the configuration does not make one.
    #[error("{0}")]
    NotListed(String),
}

impl JoinError {
    /// The status code.
    pub fn code(&self) -> Code {
        if let JoinError::Host(error) = self
            && let Some(code) = error.storage()
        {
            return code;
        }
        match self {
            JoinError::Host(HostError::Resolve { .. }) | JoinError::NoManagerYet(_) | JoinError::Silence(_) => {
                Code::WaitingForManager
            }
            JoinError::Busy { .. } => Code::ClusterBusy,
            JoinError::Host(_) | JoinError::Preflight(_) | JoinError::Engine(EngineError::Socket(_)) => {
                Code::PreflightFailed
            }
            JoinError::Engine(_) | JoinError::Contradiction(_) | JoinError::NotListed(_) => Code::JoinFailed,
            JoinError::Rendezvous { .. } => Code::RendezvousRefused,
            JoinError::TokenRefused(_) => Code::TokenRefused,
            JoinError::WrongAuthority(_) => Code::ClusterAuthorityWrong,
            JoinError::DuplicateName(_) => Code::DuplicateName,
        }
    }

    /// When the other side wants to be asked again.
    pub fn retry(&self) -> Retry {
        match self {
            JoinError::Busy { retry, .. } => *retry,
            _ => Retry::Unsaid,
        }
    }

    /// True where nobody answered: not even to say no.
    pub fn is_silence(&self) -> bool {
        matches!(self, JoinError::Silence(_) | JoinError::Host(HostError::Resolve { .. }))
    }

    /// Of two managers' answers the one that says more: a wrong secret over a busy manager, that over one that gives
    /// nothing yet, and that over an unreachable one.
    #[must_use]
    pub fn or_worse(self, other: Self) -> Self {
        let weight = |error: &Self| match error {
            JoinError::Rendezvous { .. } | JoinError::DuplicateName(_) | JoinError::NotListed(_) => 3,
            JoinError::Busy { .. } => 2,
            error if error.is_silence() => 0,
            _ => 1,
        };
        if weight(&self) > weight(&other) { self } else { other }
    }
}
