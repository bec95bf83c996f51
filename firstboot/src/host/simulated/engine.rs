//! The container engine of a simulated machine: what its socket answers.

use super::*;

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
                let before = state.nodes.len();
                state.nodes.retain(|node| node.0 != id);
                Response { status: if state.nodes.len() < before { 200 } else { 404 }, body: Vec::new() }
            },
        )
    }

    fn nodes(state: &State) -> String {
        let one = |(id, hostname, status): &(String, String, &str)| {
            format!(
                "{{\"ID\":\"{id}\",\"Version\":{{\"Index\":7}},\"Spec\":{{\"Role\":\"worker\"}},\
                 \"Description\":{{\"Hostname\":\"{hostname}\"}},\"Status\":{{\"State\":\"{status}\"}}}}"
            )
        };
        format!("[{}]", state.nodes.iter().map(one).collect::<Vec<_>>().join(","))
    }

    fn post(&self, path: &str, body: &str) -> Response {
        let answer = |status, body: &str| Response { status, body: body.as_bytes().to_vec() };
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
