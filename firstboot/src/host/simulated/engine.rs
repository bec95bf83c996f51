//! The container engine of a simulated machine: what its socket answers.

use super::*;

/// A node of a swarm, as its managers know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownNode {
    pub id: String,
    pub hostname: String,
    /// `ready`, `down`, `unknown`, `disconnected`.
    pub state: &'static str,
    /// What it is to be, and whether it still counts for the quorum.
    pub manager: bool,
    pub in_quorum: bool,
    /// When its entry was last changed.
    pub updated: &'static str,
}

impl KnownNode {
    fn json(&self) -> String {
        format!(
            "{{\"ID\":\"{}\",\"Version\":{{\"Index\":7}},\"UpdatedAt\":\"{}\",\"Spec\":{{\"Role\":\"{}\"}},\
             \"Description\":{{\"Hostname\":\"{}\"}},\"Status\":{{\"State\":\"{}\"}}}}",
            self.id,
            self.updated,
            if self.manager { "manager" } else { "worker" },
            self.hostname,
            self.state
        )
    }
}

impl SimulatedHost {
    /// One request.
    pub(super) fn answer(&self, request: &Request<'_>) -> Result<Response, EngineError> {
        self.state().power.doing = format!("engine {} {}", request.method, request.path);
        let answer = |status, body: &str| Ok(Response { status, body: body.as_bytes().to_vec() });
        if !self.state().docker_runs {
            return Err(EngineError::Socket(std::io::ErrorKind::ConnectionRefused.into()));
        }
        match (request.method, request.path, request.body) {
            ("GET", "/_ping", _) => answer(200, "OK"),
            ("GET", "/info", _) => answer(200, &Self::info(&self.state())),
            ("GET", "/swarm", _) => {
                answer(200, "{\"JoinTokens\":{\"Worker\":\"SWMTKN-1-w\",\"Manager\":\"SWMTKN-1-m\"}}")
            }
            ("GET", "/nodes", _) => answer(200, &Self::nodes(&self.state())),
            ("GET", "/nodes/node1", _) => answer(200, &Self::this_node(&self.state()).json()),
            ("DELETE", path, _) => Ok(self.delete(path)),
            ("GET", path, _) if path.starts_with("/images/") => {
                let tag = path.trim_start_matches("/images/").trim_end_matches("/json");
                let loaded = self.state().disk.images.iter().any(|image| image == tag);
                let id = format!("{{\"Id\":\"sha256:{}\"}}", "a".repeat(64));
                answer(if loaded { 200 } else { 404 }, &id)
            }
            ("POST", "/images/load?quiet=1", Body::Archive(_)) => self.act(
                |_| {},
                |state| {
                    state.disk.loads += 1;
                    state.disk.images = vec!["demo:1".into()];
                    answer(200, "{\"stream\":\"Loaded image: demo:1\"}")
                },
            ),
            ("POST", path, Body::Json(json)) => Ok(self.post(path, &String::from_utf8_lossy(json))),
            ("POST", path, _) => Ok(self.post(path, "")),
            _ => answer(404, "{\"message\":\"page not found\"}"),
        }
    }

    fn info(state: &State) -> String {
        format!(
            "{{\"Name\":\"x\",\"Swarm\":{{\"NodeID\":\"{}\",\"NodeAddr\":\"10.77.0.11\",\"LocalNodeState\":\"{}\",\
             \"ControlAvailable\":{},\"Error\":\"\",\"RemoteManagers\":null}}}}",
            if state.disk.swarm == "active" { "node1" } else { "" },
            if state.disk.swarm.is_empty() { "inactive" } else { &state.disk.swarm },
            state.disk.manager,
        )
    }

    /// Removes a node from the swarm that this machine is a manager of.
    fn delete(&self, path: &str) -> Response {
        let id = path.trim_start_matches("/nodes/").trim_end_matches("?force=true").to_owned();
        self.act(
            |_| {},
            |state| {
                if let Some(node) = state.nodes.iter_mut().find(|node| node.id == id && node.in_quorum) {
                    // The leader gets round to it while the caller waits.
                    node.in_quorum = node.manager;
                    let message =
                        "{\"message\":\"node is a member of the raft cluster. It must be demoted to worker\"}";
                    return Response { status: 400, body: message.into() };
                }
                let before = state.nodes.len();
                state.nodes.retain(|node| node.id != id);
                Response { status: if state.nodes.len() < before { 200 } else { 404 }, body: Vec::new() }
            },
        )
    }

    fn nodes(state: &State) -> String {
        format!("[{}]", state.nodes.iter().map(KnownNode::json).collect::<Vec<_>>().join(","))
    }

    fn this_node(state: &State) -> KnownNode {
        KnownNode {
            id: "node1".into(),
            hostname: state.hostname.clone(),
            state: "ready",
            manager: state.disk.manager,
            in_quorum: state.disk.manager,
            updated: "2026-01-01T00:00:00Z",
        }
    }

    /// Changes a node's role.
    fn update(state: &mut State, id: &str, body: &str) -> Response {
        let manager = body.contains("\"manager\"");
        if id != "node1" {
            state.nodes.iter_mut().filter(|node| node.id == id).for_each(|node| node.manager = manager);
            return Response { status: 200, body: Vec::new() };
        }
        if !manager && !state.nodes.iter().any(|node| node.manager) {
            let message = "{\"message\":\"attempting to demote the last manager of the swarm\"}";
            return Response { status: 412, body: message.into() };
        }
        state.disk.manager = manager;
        Response { status: 200, body: Vec::new() }
    }

    fn post(&self, path: &str, body: &str) -> Response {
        let answer = |status, body: &str| Response { status, body: body.as_bytes().to_vec() };
        if let Some(id) = path.strip_prefix("/nodes/").and_then(|rest| rest.strip_suffix("/update?version=7")) {
            return self.act(|_| {}, |state| Self::update(state, id, body));
        }
        match path {
            "/swarm/init" => self.act(
                |_| {},
                |state| {
                    if state.disk.swarm == "active" {
                        return answer(503, "{\"message\":\"This node is already part of a swarm.\"}");
                    }
                    state.disk.swarm = "active".into();
                    state.disk.manager = true;
                    state.disk.founded += 1;
                    answer(200, "\"node1\"")
                },
            ),
            "/swarm/join" => self.act(
                |_| {},
                |state| {
                    assert!(body.contains("SWMTKN-1-"), "a token is given");
                    if state.disk.swarm == "active" {
                        return answer(503, "{\"message\":\"This node is already part of a swarm.\"}");
                    }
                    if let Some(reason) = state.join_refusal {
                        return answer(500, &format!("{{\"message\":\"{reason}\"}}"));
                    }
                    let end = state.join_leads_to.unwrap_or("active");
                    state.disk.swarm = end.into();
                    state.disk.joined += 1;
                    if end == "active" {
                        answer(200, "")
                    } else {
                        answer(503, "{\"message\":\"Timeout was reached before node joined.\"}")
                    }
                },
            ),
            "/swarm/leave?force=true" => self.act(
                |_| {},
                |state| {
                    state.disk.swarm = "inactive".into();
                    state.disk.left += 1;
                    answer(200, "")
                },
            ),
            _ => answer(404, "{\"message\":\"page not found\"}"),
        }
    }
}
