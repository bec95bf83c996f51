//! Whether a node that would found a cluster finds it living.
//!
//! By configuration one node founds. Where that node has lost what it knew, the cluster may live on with the other
//! managers, and founding would make a second one beside it. So the others are asked at the rendezvous first, and a
//! token that one of them gives is joined with.
//!
//! - **Nobody answers** in three rounds: there is no cluster. A rendezvous is served by members alone, so nodes that
//!   are all switched on together do not wait for each other: none of them serves one, and the first founds.
//! - **Somebody answers, without giving anything**, whatever the reason: there is a member, so there is a cluster. It
//!   is asked again, and nothing is founded until it gives a token or is gone. A cluster without its quorum needs its
//!   operator in any case.
//!
//! Who has founded notes it, and is not asked to look again: a founder that is cut off from the others stays what it
//! is.

use std::net::IpAddr;
use std::time::Duration;

use super::{JoinError, Joiner, NodeFacts, ask_managers};
use crate::config::{HostAddress, Secret};
use crate::rendezvous::Seat;

/// How often the others are asked before their silence counts, and how long is waited in between: a switch that has
/// just learned of a link takes its time, and so does a manager that starts in the same minute.
const ROUNDS: u32 = 3;
const BETWEEN: Duration = Duration::from_secs(10);

/// Asks the managers that are not this node; gives the address of the one that gave something, and what it gave.
///
/// # Errors
/// All of [`ask_managers`] but silence: a member is there and gives nothing yet.
pub fn living_cluster(
    joiner: &Joiner<'_>,
    node: &NodeFacts,
    managers: &[HostAddress],
    port: u16,
    secret: &Secret,
) -> Result<Option<(IpAddr, Secret)>, JoinError> {
    let others: Vec<HostAddress> = managers.iter().filter(|manager| !node.is_own(manager)).cloned().collect();
    if others.is_empty() {
        return Ok(None);
    }
    for round in 0..ROUNDS {
        if round > 0 {
            joiner.host.sleep(BETWEEN);
        }
        match ask_managers(joiner, &others, port, secret, Seat::Manager) {
            Ok(given) => return Ok(Some(given)),
            Err(error) if error.is_silence() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
