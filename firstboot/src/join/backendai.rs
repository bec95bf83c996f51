//! Backend.AI: manager and agent, each a TOML file and a unit.
//!
//! An agent needs only etcd: it waits there for a manager by itself. The database's schema is made once for each
//! cluster, by the manager that the configuration names (`founds = true`), under a lock in the cluster's own etcd:
//! a key that is created only where it is not there yet, by etcd's transaction over its JSON gateway
//! (`/v3/kv/txn`). A manager that was cut off in the middle finds its own key and goes on.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::gate::reach;
use super::unit::{self, UnitState};
use super::{Driver, JoinError, Joiner, Membership, NodeFacts, RenderedFile, START_DOCKER, call};
use crate::config::{BackendAi, BackendAiRole, Secret};
use crate::host::Host;
use crate::http::{HttpRequest, Method, Trust};
use crate::step::Effect;

const MANAGER: &str = "/etc/backend.ai/manager.toml";
const AGENT: &str = "/etc/backend.ai/agent.toml";
const MANAGER_UNIT: &str = "backendai-manager.service";
const AGENT_UNIT: &str = "backendai-agent.service";
const MANAGER_PORT: u16 = 8081;
const AGENT_PORT: u16 = 6001;
/// The key of the lock, and what it holds in the end.
const LOCK: &str = "ingot/schema";
const DONE: &str = "done";

/// Makes a node part of a Backend.AI cluster.
pub struct BackendAiDriver {
    backend: BackendAi,
    node: NodeFacts,
}

impl BackendAiDriver {
    /// For this configuration, on this node.
    pub fn new(backend: BackendAi, node: NodeFacts) -> Self {
        Self { backend, node }
    }

    fn unit(&self) -> &'static str {
        if self.backend.role == BackendAiRole::Manager { MANAGER_UNIT } else { AGENT_UNIT }
    }

    fn agent_id(&self) -> String {
        format!("i-{}", self.node.hostname)
    }

    /// The address that the manager reaches this agent by; Backend.AI takes no name and no wildcard here.
    fn own_address(&self) -> Result<std::net::IpAddr, JoinError> {
        let found = match (self.backend.advertise, &self.node.addresses[..]) {
            (Some(address), _) => Some(address),
            (None, [only]) => Some(*only),
            (None, several) => {
                let v4: Vec<_> = several.iter().filter(|address| address.is_ipv4()).collect();
                if let [only] = v4[..] { Some(*only) } else { None }
            }
        };
        found.ok_or_else(|| {
            JoinError::Contradiction(
                "this node has no or several addresses; say with join.advertise which the manager reaches it by".into(),
            )
        })
    }

    fn etcd_section(&self) -> toml::Table {
        let etcd = &self.backend.etcd;
        let mut section = toml::Table::new();
        section.insert("namespace".into(), etcd.namespace.clone().into());
        section.insert("addr".into(), endpoint_table(&etcd.address).into());
        section.insert("user".into(), etcd.user.clone().unwrap_or_default().into());
        let password = etcd.password.as_ref().map_or("", Secret::expose);
        section.insert("password".into(), password.into());
        section
    }

    fn manager_file(&self) -> Result<String, JoinError> {
        let db = self.backend.db.as_ref().ok_or_else(|| JoinError::Contradiction("a manager needs join.db".into()))?;
        let mut database = toml::Table::new();
        database.insert("type".into(), "postgresql".into());
        database.insert("addr".into(), endpoint_table(&db.address).into());
        database.insert("name".into(), db.name.clone().into());
        database.insert("user".into(), db.user.clone().into());
        database.insert("password".into(), db.password.expose().into());
        let mut manager = toml::Table::new();
        let mut listen = toml::Table::new();
        let address = self.backend.advertise.map_or_else(|| "0.0.0.0".to_owned(), |address| address.to_string());
        listen.insert("host".into(), address.into());
        listen.insert("port".into(), i64::from(MANAGER_PORT).into());
        manager.insert("service-addr".into(), listen.into());
        let mut file = toml::Table::new();
        file.insert("etcd".into(), self.etcd_section().into());
        file.insert("db".into(), database.into());
        file.insert("manager".into(), manager.into());
        Ok(file.to_string())
    }

    fn agent_file(&self) -> Result<String, JoinError> {
        let mut listen = toml::Table::new();
        listen.insert("host".into(), self.own_address()?.to_string().into());
        listen.insert("port".into(), i64::from(AGENT_PORT).into());
        let mut agent = toml::Table::new();
        agent.insert("mode".into(), "docker".into());
        // Backend.AI would make it of whatever the host is called at the moment.
        agent.insert("id".into(), self.agent_id().into());
        agent.insert("rpc-listen-addr".into(), listen.into());
        if let Some(group) = &self.backend.group {
            agent.insert("scaling-group".into(), group.clone().into());
        }
        let mut container = toml::Table::new();
        container.insert("scratch-type".into(), "hostdir".into());
        container.insert("scratch-root".into(), self.backend.scratch.as_str().into());
        let mut file = toml::Table::new();
        file.insert("etcd".into(), self.etcd_section().into());
        file.insert("agent".into(), agent.into());
        file.insert("container".into(), container.into());
        Ok(file.to_string())
    }

    fn etcd(&self, host: &dyn Host, path: &str, token: Option<&str>, body: &Value) -> Result<Value, JoinError> {
        let url = format!("http://{}{path}", self.backend.etcd.address);
        let body = body.to_string();
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(token.map(|token| ("Authorization", token)));
        let request = HttpRequest {
            method: Method::Post,
            url: &url,
            headers: &headers,
            body: body.as_bytes(),
            trust: Trust::System,
            timeout: Duration::from_secs(10),
            limit: 1024 * 1024,
        };
        let response = host.http(&request).map_err(|error| JoinError::NoManagerYet(format!("etcd {url}: {error}")))?;
        match response.status {
            200..=299 => serde_json::from_slice(&response.body)
                .map_err(|_| JoinError::Contradiction(format!("{url} does not answer as etcd does"))),
            401 | 403 => Err(JoinError::TokenRefused(format!("etcd {url} does not accept the user or the password"))),
            status => Err(JoinError::Contradiction(format!("etcd {url}: HTTP {status}"))),
        }
    }

    /// Logs in where etcd has users.
    fn log_in(&self, host: &dyn Host) -> Result<Option<String>, JoinError> {
        let (Some(user), Some(password)) = (&self.backend.etcd.user, &self.backend.etcd.password) else {
            return Ok(None);
        };
        let answer =
            self.etcd(host, "/v3/auth/authenticate", None, &json!({ "name": user, "password": password.expose() }))?;
        Ok(answer["token"].as_str().map(str::to_owned))
    }

    /// Makes the database's schema, once for each cluster.
    fn found(&self, host: &dyn Host) -> Result<(), JoinError> {
        let login = self.log_in(host)?;
        let key = STANDARD.encode(format!("/sorna/{}/{LOCK}", self.backend.etcd.namespace));
        let own = STANDARD.encode(&self.node.hostname);
        let transaction = json!({
            "compare": [{ "key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0" }],
            "success": [{ "request_put": { "key": key, "value": own } }],
            "failure": [{ "request_range": { "key": key } }],
        });
        let answer = self.etcd(host, "/v3/kv/txn", login.as_deref(), &transaction)?;
        if answer["succeeded"] != json!(true) {
            let holder = answer["responses"][0]["response_range"]["kvs"][0]["value"]
                .as_str()
                .and_then(|value| STANDARD.decode(value).ok());
            let holder = holder.map_or_else(String::new, |bytes| String::from_utf8_lossy(&bytes).into_owned());
            if holder == DONE {
                return Ok(());
            }
            if holder != self.node.hostname {
                return Err(JoinError::NoManagerYet(format!("{holder} is making the database's schema")));
            }
        }
        // The program reads database and password from the manager's file.
        host.run("backend.ai", &["mgr", "schema", "oneshot"], Duration::from_mins(10))?;
        let put = json!({ "key": key, "value": STANDARD.encode(DONE) });
        self.etcd(host, "/v3/kv/put", login.as_deref(), &put)?;
        Ok(())
    }
}

fn endpoint_table(endpoint: &crate::config::Endpoint) -> toml::Table {
    let mut table = toml::Table::new();
    table.insert("host".into(), endpoint.host.to_string().into());
    table.insert("port".into(), i64::from(endpoint.port).into());
    table
}

impl Driver for BackendAiDriver {
    fn name(&self) -> &'static str {
        "backendai"
    }

    fn describe(&self) -> String {
        let etcd = &self.backend.etcd;
        match self.backend.role {
            BackendAiRole::Manager if self.backend.founds => {
                format!(
                    "backendai manager of {} that makes the database's schema, etcd {}",
                    etcd.namespace, etcd.address
                )
            }
            BackendAiRole::Manager => format!("backendai manager of {}, etcd {}", etcd.namespace, etcd.address),
            BackendAiRole::Agent => {
                format!("backendai agent {} of {}, etcd {}", self.agent_id(), etcd.namespace, etcd.address)
            }
        }
    }

    fn actions(&self) -> Vec<Effect> {
        let mut actions = Vec::new();
        if self.backend.role == BackendAiRole::Agent {
            actions.push(Effect::run(START_DOCKER));
        } else if self.backend.founds {
            actions.push(call("etcd", format!("the lock {LOCK}, once for each cluster; then")));
            actions.push(Effect::run(["backend.ai", "mgr", "schema", "oneshot"]));
        }
        actions.extend(unit::starting(self.unit()));
        actions
    }

    fn render(&self) -> Result<Vec<RenderedFile>, JoinError> {
        Ok(vec![match self.backend.role {
            BackendAiRole::Manager => RenderedFile::secret(MANAGER, self.manager_file()?),
            BackendAiRole::Agent => RenderedFile::secret(AGENT, self.agent_file()?),
        }])
    }

    fn preflight(&self, host: &dyn Host) -> Result<(), JoinError> {
        match self.backend.role {
            BackendAiRole::Agent => super::start_docker(host),
            BackendAiRole::Manager => Ok(()),
        }
    }

    fn probe(&self, host: &dyn Host) -> Result<Option<Membership>, JoinError> {
        if unit::state(host, self.unit())? != UnitState::Active {
            return Ok(None);
        }
        // A manager serves its API; an agent opens its port when it has found its manager.
        let (address, port) = match self.backend.role {
            BackendAiRole::Manager => (self.backend.advertise.unwrap_or([127, 0, 0, 1].into()), MANAGER_PORT),
            BackendAiRole::Agent => (self.own_address()?, AGENT_PORT),
        };
        if host.connect((address, port).into(), Duration::from_secs(5)).is_err() {
            return Ok(None);
        }
        let identity = match self.backend.role {
            BackendAiRole::Manager => self.node.hostname.clone(),
            BackendAiRole::Agent => self.agent_id(),
        };
        Ok(Some(Membership { text: self.describe(), identity }))
    }

    fn start(&self, joiner: &Joiner<'_>) -> Result<(), JoinError> {
        let host = joiner.host;
        let etcd = &self.backend.etcd.address;
        reach(host, etcd).map_err(|reason| JoinError::NoManagerYet(format!("etcd {etcd}: {reason}")))?;
        if let Some(db) = self.backend.db.as_ref().filter(|_| self.backend.role == BackendAiRole::Manager) {
            reach(host, &db.address)
                .map_err(|reason| JoinError::NoManagerYet(format!("the database {}: {reason}", db.address)))?;
            if self.backend.founds && !joiner.member {
                self.found(host)?;
            }
        }
        match unit::state(host, self.unit())? {
            UnitState::Active | UnitState::Activating => Ok(()),
            _ => unit::start(host, self.unit()),
        }
    }

    fn diagnose(&self, host: &dyn Host) -> Option<JoinError> {
        unit::diagnose(&unit::last_words(host, self.unit()))
    }

    fn leave(&self, host: &dyn Host) -> Result<(), JoinError> {
        // The manager drops an agent that sends no heartbeats any more.
        unit::stop(host, self.unit())?;
        host.remove(if self.backend.role == BackendAiRole::Manager { MANAGER } else { AGENT })?;
        Ok(())
    }

    fn secrets(&self) -> Vec<&Secret> {
        self.backend.etcd.password.iter().chain(self.backend.db.as_ref().map(|db| &db.password)).collect()
    }
}
