//! k3s: server, agent, several servers with the embedded etcd.
//!
//! The first of `join.servers` founds the cluster. Every other node joins with a token that holds the hash of the
//! cluster's authority, either from the configuration or, by the rendezvous, from a server; k3s itself compares the
//! authority with the hash before it believes anyone. Settings: `/etc/rancher/k3s/config.yaml`, whose keys are the
//! flags of `k3s server` and `k3s agent`; tokens lie in files beside it. Which server is joined through is in a file
//! of its own below `config.yaml.d`, whose values count before those of `config.yaml` (k3s 1.21 and later): it is the
//! one that answered, and not the first one of the list, which may be the one that is down.
//!
//! The first server asks the others before it founds: see [`super::founding`]. What it has begun as is noted.
//!
//! What survives another image as long as the state partition does: the node's password
//! (`/etc/rancher/node/password`) and everything below `/var/lib/rancher`. Where it did not survive, a server
//! removes the dead node of the same name, with its password, when the new one proves the cluster secret.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::founding::living_cluster;
use super::gate::reach;
use super::kubernetes::{Kubectl, NodeState};
use super::unit::{self, UnitState, diagnose, last_words};
use super::{
    Driver, JoinError, Joiner, Membership, NodeFacts, Offer, RenderedFile, ask_managers, call, check_seat, yaml,
};
use crate::config::{Endpoint, HostAddress, K3s, K3sRole, Secret};
use crate::host::Host;
use crate::rendezvous::{Asker, Seat, derive_hex};
use crate::step::{Effect, images};

const CONFIG: &str = "/etc/rancher/k3s/config.yaml";
const TOKEN: &str = "/etc/rancher/k3s/token";
const AGENT_TOKEN: &str = "/etc/rancher/k3s/agent-token";
/// Which server the node joins through.
const THROUGH: &str = "/etc/rancher/k3s/config.yaml.d/50-ingot-server.yaml";
/// The token that the first server joins with where it found its cluster living.
const GIVEN_TOKEN: &str = "/etc/rancher/k3s/given-token";
/// What the first server has begun as: `founds` or `joins`.
const FIRST: &str = "/var/lib/ingot/k3s-first";
const FOUNDS: &str = "founds";
const JOINS: &str = "joins";
/// Where a server keeps the tokens that others join with.
const SERVER_TOKEN: &str = "/var/lib/rancher/k3s/server/token";
const SERVER_AGENT_TOKEN: &str = "/var/lib/rancher/k3s/server/agent-token";
const PROGRAMS: &[&str] = &["/usr/local/bin/k3s", "/usr/bin/k3s"];
/// Where servers answer: the Kubernetes API, and k3s itself.
pub const API_PORT: u16 = 6443;
/// What ends the pods of a k3s that was stopped: upstream's installer brings it.
const KILL_ALL: &[&str] = &["/usr/local/bin/k3s-killall.sh", "/usr/bin/k3s-killall.sh"];
/// What makes a node the member that it was. With a database that is initialised k3s asks nobody and goes on with the
/// old cluster, whatever its settings say (pkg/cluster/bootstrap.go); the rest are keys, certificates and tokens of it.
/// Manifests that the image brings stay.
const STATE: [&str; 8] = [
    "/var/lib/rancher/k3s/agent",
    "/var/lib/rancher/k3s/server/db",
    "/var/lib/rancher/k3s/server/tls",
    "/var/lib/rancher/k3s/server/cred",
    "/var/lib/rancher/k3s/server/etc",
    "/var/lib/rancher/k3s/server/token",
    "/var/lib/rancher/k3s/server/agent-token",
    "/var/lib/rancher/k3s/server/node-token",
];
const CLEANING_PATIENCE: Duration = Duration::from_mins(5);

/// Joins or founds a k3s cluster.
pub struct K3sDriver {
    k3s: K3s,
    node: NodeFacts,
}

impl K3sDriver {
    /// For this configuration, on this node.
    pub fn new(k3s: K3s, node: NodeFacts) -> Self {
        Self { k3s, node }
    }

    /// The first server founds the cluster; by configuration, so that two servers never become two clusters.
    fn founds(&self) -> bool {
        self.k3s.role == K3sRole::Server && self.k3s.servers.first().is_some_and(|first| self.node.is_own(first))
    }

    fn unit(&self) -> &'static str {
        match self.k3s.role {
            K3sRole::Server => "k3s.service",
            K3sRole::Agent => "k3s-agent.service",
        }
    }

    /// A server that is not this node.
    fn server(&self) -> Option<&HostAddress> {
        self.k3s.servers.iter().find(|server| !self.node.is_own(server))
    }

    fn settings(&self) -> Result<Value, JoinError> {
        let k3s = &self.k3s;
        let mut all = Map::new();
        let mut set = |key: &str, value: Value| {
            if !matches!(&value, Value::Null) && value.as_array().is_none_or(|list| !list.is_empty()) {
                all.insert(key.to_owned(), value);
            }
        };
        set("node-name", json!(self.node.hostname));
        set("node-ip", json!(k3s.advertise.map(|address| address.to_string())));
        set("flannel-iface", json!(k3s.interface.as_ref().map(ToString::to_string)));
        set("node-label", json!(k3s.labels.iter().map(ToString::to_string).collect::<Vec<_>>()));
        set("node-taint", json!(k3s.taints));
        if !self.founds() {
            let server = self.server().ok_or_else(|| {
                JoinError::Contradiction("join.servers names only this node, and it does not found the cluster".into())
            })?;
            set("server", json!(format!("https://{}:{API_PORT}", bracketed(server))));
        }
        if k3s.token.is_some() || !self.founds() {
            set("token-file", json!(TOKEN));
        }
        if k3s.role == K3sRole::Server {
            set("cluster-init", (self.founds() && k3s.cluster_init).then_some(true).into());
            set("agent-token-file", json!(k3s.secret.as_ref().map(|_| AGENT_TOKEN)));
            set("tls-san", json!(k3s.servers.iter().map(ToString::to_string).collect::<Vec<_>>()));
            set("disable", json!(k3s.disable));
            set("cluster-cidr", json!(k3s.pod_subnet.map(|subnet| subnet.to_string())));
            set("service-cidr", json!(k3s.service_subnet.map(|subnet| subnet.to_string())));
            set("write-kubeconfig-mode", json!("0600"));
        }
        Ok(Value::Object(all))
    }

    fn kubectl(&self) -> Kubectl<'static> {
        let before: &[&str] = match self.k3s.role {
            K3sRole::Server => &["kubectl", "--kubeconfig", "/etc/rancher/k3s/k3s.yaml"],
            // With the kubelet's own certificate an agent may look at its own node.
            K3sRole::Agent => &["kubectl", "--kubeconfig", "/var/lib/rancher/k3s/agent/kubelet.kubeconfig"],
        };
        Kubectl { program: "k3s", before }
    }

    fn secret(&self) -> Option<(Seat, &Secret)> {
        let k3s = &self.k3s;
        match k3s.role {
            K3sRole::Server => Some((Seat::Manager, k3s.manager_secret.as_ref().or(k3s.secret.as_ref())?)),
            K3sRole::Agent => Some((Seat::Worker, k3s.secret.as_ref()?)),
        }
    }

    /// Makes ready what the unit starts with; true where it is something else than before.
    fn make_ready(&self, joiner: &Joiner<'_>) -> Result<bool, JoinError> {
        let host = joiner.host;
        if self.founds() {
            return self.make_first_ready(joiner);
        }
        if self.k3s.token.is_some() {
            // Nobody is asked for anything, so the first one that listens is taken; without one, the first of all.
            if let Some(server) = self.first_that_listens(host) {
                return keep(host, THROUGH, &through(server));
            }
            // One of an earlier configuration must not count.
            host.remove(THROUGH)?;
            return Ok(false);
        }
        let (seat, secret) = self
            .secret()
            .ok_or_else(|| JoinError::Contradiction("there is neither join.secret nor join.token".into()))?;
        let (address, token) = ask_managers(joiner, &self.k3s.servers, self.k3s.rendezvous_port, secret, seat)?;
        let token = keep(host, TOKEN, &format!("{}\n", token.expose().trim()))?;
        Ok(keep(host, THROUGH, &through(&self.server_at(host, address)))? || token)
    }

    /// The same for the first server, which founds unless the others have the cluster already.
    fn make_first_ready(&self, joiner: &Joiner<'_>) -> Result<bool, JoinError> {
        let (host, k3s) = (joiner.host, &self.k3s);
        let begun = host.read(FIRST, 100)?.map_or_else(String::new, |bytes| String::from_utf8_lossy(&bytes).into());
        let joins = begun.trim() == JOINS;
        // Before there was a note, a server that had founded was known by the token that it gives.
        let founded = begun.trim() == FOUNDS || begun.is_empty() && host.exists(SERVER_TOKEN);
        let Some((seat, secret)) = self.secret().filter(|_| !founded) else { return Ok(false) };
        let living = if joins {
            Some(ask_managers(joiner, &k3s.servers, k3s.rendezvous_port, secret, seat)?)
        } else {
            living_cluster(joiner, &self.node, &k3s.servers, k3s.rendezvous_port, secret)?
        };
        let Some((address, token)) = living else {
            // What an earlier configuration left would make it join.
            host.remove(THROUGH)?;
            host.write(FIRST, format!("{FOUNDS}\n").as_bytes(), 0o600)?;
            return Ok(false);
        };
        let token = keep(host, GIVEN_TOKEN, &format!("{}\n", token.expose().trim()))?;
        let server = format!("https://{}:{API_PORT}", bracketed(&self.server_at(host, address)));
        let settings = json!({ "server": server, "token-file": GIVEN_TOKEN, "cluster-init": false });
        host.write(FIRST, format!("{JOINS}\n").as_bytes(), 0o600)?;
        Ok(keep(host, THROUGH, &yaml::document(&settings))? || token)
    }

    /// The server with this address, as the configuration calls it.
    fn server_at(&self, host: &dyn Host, address: IpAddr) -> HostAddress {
        let is_it = |server: &&HostAddress| host.resolve(server).is_ok_and(|known| known.contains(&address));
        self.k3s.servers.iter().find(is_it).cloned().unwrap_or(HostAddress::Ip(address))
    }

    fn first_that_listens(&self, host: &dyn Host) -> Option<&HostAddress> {
        let listens = |server: &&HostAddress| {
            let endpoint = Endpoint { host: (*server).clone(), port: API_PORT };
            !self.node.is_own(server) && reach(host, &endpoint).is_ok()
        };
        self.k3s.servers.iter().find(listens)
    }
}

/// The file that says which server is joined through.
fn through(server: &HostAddress) -> String {
    yaml::document(&json!({ "server": format!("https://{}:{API_PORT}", bracketed(server)) }))
}

/// Writes a file where it has another content; true where it had.
fn keep(host: &dyn Host, path: &str, text: &str) -> Result<bool, JoinError> {
    if host.read(path, 64 * 1024)?.as_deref() == Some(text.as_bytes()) {
        return Ok(false);
    }
    host.write(path, text.as_bytes(), 0o600)?;
    Ok(true)
}

fn bracketed(host: &HostAddress) -> String {
    match host {
        HostAddress::Ip(IpAddr::V6(address)) => format!("[{address}]"),
        other => other.to_string(),
    }
}

impl Driver for K3sDriver {
    fn name(&self) -> &'static str {
        "k3s"
    }

    fn describe(&self) -> String {
        let servers = self.k3s.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let how = if self.k3s.token.is_some() { "with a token" } else { "with a token that a server gives" };
        match (self.k3s.role, self.founds()) {
            (K3sRole::Server, true) if self.k3s.cluster_init => {
                "k3s server that founds the cluster, embedded etcd".into()
            }
            (K3sRole::Server, true) => "k3s server that founds the cluster".into(),
            (K3sRole::Server, false) => format!("k3s server, joins {servers} {how}"),
            (K3sRole::Agent, _) => format!("k3s agent, joins {servers} {how}"),
        }
    }

    fn actions(&self) -> Vec<Effect> {
        let mut actions = Vec::new();
        if self.k3s.token.is_none() && !self.founds() {
            let servers = self.k3s.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
            let request = format!("the token, from {servers} port {}, for {TOKEN}", self.k3s.rendezvous_port);
            actions.push(call("rendezvous", request));
        }
        actions.extend(unit::starting(self.unit()));
        actions
    }

    fn render(&self) -> Result<Vec<RenderedFile>, JoinError> {
        let mut files = vec![RenderedFile::private(CONFIG, yaml::document(&self.settings()?))];
        if let Some(token) = &self.k3s.token {
            files.push(RenderedFile::secret(TOKEN, format!("{}\n", token.expose())));
        }
        // Agents get a token of their own, so that none of them can become a server with it. All servers must have
        // the same one, so it is made of what they all have.
        if let (K3sRole::Server, Some(secret)) = (self.k3s.role, &self.k3s.secret) {
            files.push(RenderedFile::secret(
                AGENT_TOKEN,
                format!("{}\n", derive_hex(secret, "ingot-k3s-agent-token-v1")),
            ));
        }
        Ok(files)
    }

    fn preflight(&self, host: &dyn Host) -> Result<(), JoinError> {
        if !PROGRAMS.iter().any(|path| host.exists(path)) {
            return Err(JoinError::Preflight(
                "the image has no k3s; its profile needs the k3s binary and units".into(),
            ));
        }
        // Without a default route k3s does not find its own address, unless it is told.
        let routes = host.read("/proc/net/route", 1024 * 1024)?.unwrap_or_default();
        let has_default =
            String::from_utf8_lossy(&routes).lines().any(|line| line.split_whitespace().nth(1) == Some("00000000"));
        if !routes.is_empty() && !has_default && self.k3s.advertise.is_none() {
            let text =
                "there is no default route, so k3s cannot find its address; give join.advertise and join.interface";
            return Err(JoinError::Preflight(text.into()));
        }
        Ok(())
    }

    fn probe(&self, host: &dyn Host) -> Result<Option<Membership>, JoinError> {
        if unit::state(host, self.unit())? != UnitState::Active {
            return Ok(None);
        }
        // While its unit starts up, the API may not answer yet.
        let Ok(Some(NodeState { uid, ready: true, .. })) = self.kubectl().node(host, &self.node.hostname) else {
            return Ok(None);
        };
        let role = if self.k3s.role == K3sRole::Server { "server" } else { "agent" };
        Ok(Some(Membership { text: format!("k3s {role}, node {}, {uid}", self.node.hostname), identity: uid }))
    }

    fn start(&self, joiner: &Joiner<'_>) -> Result<(), JoinError> {
        // A member that comes back needs nobody's leave: k3s knows its cluster.
        let changed = if joiner.member { false } else { self.make_ready(joiner)? };
        match (unit::state(joiner.host, self.unit())?, changed) {
            (UnitState::Active | UnitState::Activating, false) => Ok(()),
            (_, true) => unit::restart(joiner.host, self.unit()),
            _ => unit::start(joiner.host, self.unit()),
        }
    }

    fn diagnose(&self, host: &dyn Host) -> Option<JoinError> {
        if let Ok(Some(NodeState { ready: false, reason, .. })) = self.kubectl().node(host, &self.node.hostname) {
            return Some(JoinError::NoManagerYet(format!("the node is in the cluster but not ready: {reason}")));
        }
        diagnose(&last_words(host, self.unit()))
    }

    fn leave(&self, host: &dyn Host) -> Result<(), JoinError> {
        if self.k3s.role == K3sRole::Server && (!self.founds() || self.k3s.servers.len() > 1) {
            // The other servers take the member out of etcd when its node is deleted.
            let name = &self.node.hostname;
            self.kubectl().run(host, &["delete", "node", name, "--ignore-not-found", "--wait=false"])?;
        }
        unit::stop(host, self.unit())?;
        // The unit's pods run on without it (KillMode=process).
        if let Some(program) = KILL_ALL.iter().find(|path| host.exists(path)) {
            host.run(program, &[], CLEANING_PATIENCE)?;
        }
        let mut remove = vec!["-rf", "--one-file-system", "--"];
        remove.extend(STATE);
        host.run("rm", &remove, CLEANING_PATIENCE)?;
        for path in [TOKEN, AGENT_TOKEN, GIVEN_TOKEN, THROUGH, FIRST, CONFIG] {
            host.remove(path)?;
        }
        // The image's own images are not the cluster's.
        images::give_to_k3s(host)?;
        Ok(())
    }

    fn secrets(&self) -> Vec<&Secret> {
        [&self.k3s.token, &self.k3s.secret, &self.k3s.manager_secret].into_iter().flatten().collect()
    }

    fn offer(&self) -> Option<Offer> {
        let secret = self.k3s.secret.clone().filter(|_| self.k3s.role == K3sRole::Server)?;
        Some(Offer { port: self.k3s.rendezvous_port, secret, manager_secret: self.k3s.manager_secret.clone() })
    }

    fn admit(&self, host: &dyn Host, asker: &Asker) -> Result<Secret, JoinError> {
        check_seat(host, &self.k3s.servers, asker)?;
        let name = &asker.identity.hostname;
        self.kubectl().make_room(host, &asker.identity)?;
        // A node without its password is refused for as long as the cluster remembers the old one.
        let password = format!("{name}.node-password.k3s");
        self.kubectl().run(host, &["--namespace=kube-system", "delete", "secret", &password, "--ignore-not-found"])?;
        let path = if asker.identity.seat == Seat::Manager { SERVER_TOKEN } else { SERVER_AGENT_TOKEN };
        let bytes =
            host.read(path, 64 * 1024)?.ok_or_else(|| JoinError::NoManagerYet(format!("{path} is not there yet")))?;
        let token = String::from_utf8_lossy(&bytes).trim().to_owned();
        if !token.starts_with("K10") {
            return Err(JoinError::Contradiction(format!("{path} has no hash of the cluster's authority")));
        }
        Ok(Secret::new(token))
    }
}
