//! Nodes of a swarm as its managers know them: making room for one that comes back, and stepping down.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::{SwarmDriver, decode, post};
use crate::clock::civil::seconds_of;
use crate::host::Host;
use crate::join::JoinError;
use crate::join::engine::{Request, Response};
use crate::join::room::{Bearer, may_go};
use crate::rendezvous::NodeIdentity;

/// How long the leader may take to take a manager out of its quorum, in seconds.
const DEMOTION_SECONDS: u32 = 30;

/// A node as the managers know it (`Node` of the Engine API).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SwarmNode {
    #[serde(rename = "ID")]
    id: String,
    version: ObjectVersion,
    /// When its entry was last changed: by going down, at the latest.
    #[serde(default)]
    updated_at: String,
    spec: serde_json::Value,
    description: NodeDescription,
    status: NodeStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ObjectVersion {
    index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NodeDescription {
    #[serde(default)]
    hostname: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NodeStatus {
    state: String,
}

impl SwarmNode {
    fn is_manager(&self) -> bool {
        self.spec["Role"] == json!("manager")
    }

    fn bearer(&self) -> Bearer {
        // Managers say `unknown` of every node when a new one of them leads, and `disconnected` of one that moves.
        let down = self.status.state == "down";
        Bearer { down, since: seconds_of(&self.updated_at), keeps_state: self.is_manager() }
    }

    /// Makes it a worker, as far as the managers' list goes.
    fn demote(&self, host: &dyn Host) -> Result<Response, JoinError> {
        let mut spec = self.spec.clone();
        spec["Role"] = json!("worker");
        post(host, &format!("/nodes/{}/update?version={}", self.id, self.version.index), &spec)
    }
}

impl SwarmDriver {
    /// Removes the dead nodes of the asking node's name; none of them where one may not go.
    pub(super) fn make_room(host: &dyn Host, asker: &NodeIdentity) -> Result<(), JoinError> {
        let answer = host.engine(&Request::get("/nodes"))?.accepted("to list the nodes")?;
        let mut nodes: Vec<SwarmNode> = decode(&answer)?;
        nodes.retain(|node| node.description.hostname == asker.hostname);
        nodes.iter().try_for_each(|node| may_go(asker, node.bearer(), host.now()))?;
        for node in nodes {
            if node.is_manager() {
                // Only a worker can be removed, and a dead manager cannot step down by itself.
                node.demote(host)?.accepted("to make a dead manager a worker")?;
            }
            Self::remove(host, &node.id)?;
        }
        Ok(())
    }

    fn remove(host: &dyn Host, id: &str) -> Result<(), JoinError> {
        let mut seconds = 0;
        loop {
            let removed = host.engine(&Request::delete(&format!("/nodes/{id}?force=true")))?;
            // The leader takes who was made a worker out of its quorum a moment later.
            if removed.message().contains("must be demoted") && seconds < DEMOTION_SECONDS {
                seconds += 1;
                host.sleep(Duration::from_secs(1));
                continue;
            }
            if removed.status != 404 {
                removed.accepted("to remove a dead node")?;
            }
            return Ok(());
        }
    }

    /// Gives up this node's part in the managers' quorum, so that the others need not do without it.
    pub(super) fn step_down(host: &dyn Host, id: &str) -> Result<(), JoinError> {
        let answer = host.engine(&Request::get(&format!("/nodes/{id}")))?;
        // Without a quorum nobody can change anything, and there is none to protect.
        if answer.message().contains("does not have a leader") {
            return Ok(());
        }
        let node: SwarmNode = decode(&answer.accepted("to show this node")?)?;
        let answer = node.demote(host)?;
        let message = answer.message();
        // swarmkit (manager/controlapi/node.go): with the last manager the swarm ends.
        if message.contains("last manager") {
            return Ok(());
        }
        if message.contains("loss of quorum") {
            return Err(JoinError::Contradiction(format!(
                "without this manager the others would have no majority: {message}; bring the managers back that are \
                 down, or remove them with docker node demote and docker node rm"
            )));
        }
        answer.accepted("to make this manager a worker")?;
        for _ in 0..DEMOTION_SECONDS {
            if !Self::info(host)?.control_available {
                return Ok(());
            }
            host.sleep(Duration::from_secs(1));
        }
        Err(JoinError::NoManagerYet(format!(
            "this node is still a manager {DEMOTION_SECONDS} s after it was to be none"
        )))
    }
}
