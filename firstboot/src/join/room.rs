//! Whether the node that bears an asking node's name may be removed from the cluster.
//!
//! Any holder of the cluster secret can ask under any name, by mistake too. So what is removed is only what cannot be
//! the victim of one: a node that has been down for longer than a machine takes to start again, and for a worker's
//! seat never one that keeps the cluster's state.

use super::JoinError;
use crate::rendezvous::{NodeIdentity, Seat};

/// How long a node has been down before it makes room, in seconds. A machine that is flashed is away for as long as
/// one that starts again, so its own new self seldom waits for this.
pub const DEAD_AFTER_SECONDS: u64 = 180;

/// What the cluster knows of the node with the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bearer {
    /// Whether the cluster counts it as down. One of which it knows nothing at the moment is not.
    pub down: bool,
    /// Since when at the latest, in seconds since 1970, where the cluster's API tells.
    pub since: Option<u64>,
    /// Whether it keeps the cluster's state: manager, server, control plane.
    pub keeps_state: bool,
}

/// Judges by the clock `now`, in seconds since 1970.
///
/// # Errors
/// [`JoinError::DuplicateName`] with what is to be done.
pub fn may_go(asker: &NodeIdentity, bearer: Bearer, now: u64) -> Result<(), JoinError> {
    let name = &asker.hostname;
    let refused = |text: String| Err(JoinError::DuplicateName(text));
    if bearer.keeps_state && asker.seat == Seat::Worker {
        return refused(format!(
            "{name} is a manager of the cluster, and no worker takes a manager's name; give this machine another \
             hostname. If that manager is gone for good, remove it there by hand"
        ));
    }
    if !bearer.down {
        return refused(format!(
            "a living machine named {name} is already in the cluster; give this one another hostname. \
             If it is this machine before it was flashed, it is removed some minutes after the cluster has seen it go down"
        ));
    }
    match bearer.since.map(|since| now.saturating_sub(since)) {
        Some(gone) if gone < DEAD_AFTER_SECONDS => refused(format!(
            "a machine named {name} went down {gone} s ago and may come back; if it is this one before it was flashed, \
             it is let in {DEAD_AFTER_SECONDS} s after that"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_been_down_for_long_goes_and_no_manager_for_a_worker() {
        let asker = |seat| NodeIdentity { hostname: "n1".into(), id: "1".into(), seat };
        let dead = Bearer { down: true, since: Some(1000), keeps_state: false };
        let late = 1000 + DEAD_AFTER_SECONDS;
        for (seat, bearer, now, expected) in [
            (Seat::Worker, dead, late, None),
            (Seat::Worker, Bearer { since: None, ..dead }, 0, None),
            (Seat::Worker, dead, late - 1, Some("went down 179 s ago")),
            (Seat::Worker, dead, 0, Some("went down 0 s ago")),
            (Seat::Worker, Bearer { down: false, ..dead }, late, Some("a living machine named n1")),
            (Seat::Worker, Bearer { keeps_state: true, ..dead }, late, Some("n1 is a manager")),
            (Seat::Manager, Bearer { keeps_state: true, ..dead }, late, None),
            (Seat::Manager, Bearer { keeps_state: true, ..dead }, late - 1, Some("went down 179 s ago")),
        ] {
            let said = may_go(&asker(seat), bearer, now).err().map(|error| error.to_string());
            let as_expected = match (&said, expected) {
                (Some(said), Some(expected)) => said.contains(expected),
                (said, expected) => said.is_none() && expected.is_none(),
            };
            assert!(as_expected, "{bearer:?} at {now}: {said:?}");
        }
    }
}
