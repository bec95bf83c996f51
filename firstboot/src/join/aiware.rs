//! aiWARE: an environment file, Docker, the vendor's agent as a unit.
//!
//! The agent takes everything from `/etc/systemd/system/aiware-agent.service.env`, which its own unit reads. It is
//! expected on the image, installed at build time: nothing is downloaded on a node. The order of the cluster is
//! kept: a controller waits for its database; every other mode waits for the controller, and for the registry
//! where one is named.
//!
//! aiWARE has no pin of the controller's authority. Over plain HTTP the node cannot know whom it speaks with, so
//! the configuration has to accept that.

use std::time::Duration;

use super::gate::reach;
use super::unit::{self, UnitState};
use super::{Driver, JoinError, Joiner, Membership, NodeFacts, RenderedFile, Retry, START_DOCKER, start_docker};
use crate::config::{Aiware, HttpUrl, Secret};
use crate::host::Host;
use crate::http::{HttpReason, HttpRequest, Method, Trust, shown};
use crate::step::Effect;

const ENVIRONMENT: &str = "/etc/systemd/system/aiware-agent.service.env";
const UNIT: &str = "aiware-agent.service";
const PROGRAM: &str = "/usr/local/bin/aiware-agent";
/// A controller's own address.
const OWN_CONTROLLER: &str = "http://127.0.0.1:9000/edge/v1";

/// Makes a node part of an aiWARE cluster.
pub struct AiwareDriver {
    aiware: Aiware,
    node: NodeFacts,
}

impl AiwareDriver {
    /// For this configuration, on this node.
    pub fn new(aiware: Aiware, node: NodeFacts) -> Self {
        Self { aiware, node }
    }

    fn environment(&self) -> String {
        let aiware = &self.aiware;
        let mut text = String::from("# Written by Ingot from [join].\n");
        // EnvironmentFile= of systemd.exec(5): double quotes, in which only these characters are special.
        let mut set = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                let escaped: String =
                    value.chars().flat_map(|c| "\"\\`$".contains(c).then_some('\\').into_iter().chain([c])).collect();
                text.push_str(&format!("AIWARE_{key}=\"{escaped}\"\n"));
            }
        };
        let modes = aiware.modes.join(",");
        set("MODE", Some(&modes));
        set("CONTROLLER", aiware.controller.as_ref().map(HttpUrl::expose));
        set("INIT_TOKEN", aiware.token.as_ref().map(Secret::expose));
        set("LICENSE", aiware.license.as_ref().map(Secret::expose));
        // The vendor's default lets a host expire after a day.
        set("HOST_EXPIRE", Some("false"));
        let own = aiware.advertise.map(|address| address.to_string());
        set("HOST_IP", own.as_deref());
        set("REGION", aiware.region.as_deref());
        if aiware.is("controller") || aiware.is("db") {
            let host = aiware.db.as_ref().map(|db| db.host.to_string());
            let port = aiware.db.as_ref().map(|db| db.port.to_string());
            set("DB_HOST", host.as_deref());
            set("DB_PORT", port.as_deref().or(Some("5432")));
            set("DB_USERNAME", aiware.db_user.as_deref());
            set("DB_PASSWORD", aiware.db_password.as_ref().map(Secret::expose));
            set("DB_MIGRATE", Some(if aiware.db_migrate { "true" } else { "false" }));
        }
        let permitted = aiware.nfs_permitted.map(|subnet| subnet.to_string());
        set("NFS_PERMITTED", permitted.as_deref());
        text
    }

    fn controller(&self) -> &str {
        self.aiware.controller.as_ref().map_or(OWN_CONTROLLER, HttpUrl::expose)
    }

    /// Asks the controller for its version, which it gives without a token.
    fn controller_answers(&self, host: &dyn Host) -> Result<(), JoinError> {
        let url = format!("{}/version", self.controller().trim_end_matches('/'));
        let request = HttpRequest {
            method: Method::Get,
            url: &url,
            headers: &[],
            body: &[],
            trust: Trust::System,
            timeout: Duration::from_secs(10),
            limit: 64 * 1024,
        };
        let shown = shown(&url);
        let response = host.http(&request).map_err(|error| {
            let text = format!("the controller {shown}: {error}");
            // Waiting does not mend that; a clock that no certificate fits is set meanwhile.
            if matches!(error.reason, HttpReason::Certificate(_)) {
                JoinError::WrongAuthority(text)
            } else {
                JoinError::NoManagerYet(text)
            }
        })?;
        match response.status {
            200..=299 => Ok(()),
            401 | 403 => Err(JoinError::TokenRefused(format!("the controller {shown}: HTTP {}", response.status))),
            429 | 503 => Err(match response.retry_after() {
                Some(after) => JoinError::Busy {
                    what: format!("the controller {shown}: HTTP {}", response.status),
                    retry: Retry::NotBefore(after),
                },
                None => JoinError::NoManagerYet(format!("the controller {shown}: HTTP {}", response.status)),
            }),
            status => Err(JoinError::NoManagerYet(format!("the controller {shown}: HTTP {status}"))),
        }
    }
}

impl Driver for AiwareDriver {
    fn name(&self) -> &'static str {
        "aiware"
    }

    fn describe(&self) -> String {
        format!("aiware {}, controller {}", self.aiware.modes.join(" "), shown(self.controller()))
    }

    fn actions(&self) -> Vec<Effect> {
        [Effect::run(START_DOCKER)].into_iter().chain(unit::starting(UNIT)).collect()
    }

    fn render(&self) -> Result<Vec<RenderedFile>, JoinError> {
        Ok(vec![RenderedFile::secret(ENVIRONMENT, self.environment())])
    }

    fn preflight(&self, host: &dyn Host) -> Result<(), JoinError> {
        if !host.exists(PROGRAM) {
            return Err(JoinError::Preflight(format!(
                "the image has no {PROGRAM}; its profile installs it at build time"
            )));
        }
        start_docker(host)
    }

    fn probe(&self, host: &dyn Host) -> Result<Option<Membership>, JoinError> {
        if unit::state(host, UNIT)? != UnitState::Active || self.controller_answers(host).is_err() {
            return Ok(None);
        }
        // The controller knows a node by its address or, without one, by what the agent finds out.
        let identity = self.aiware.advertise.map_or_else(|| self.node.hostname.clone(), |address| address.to_string());
        Ok(Some(Membership { text: format!("{}, as {identity}", self.describe()), identity }))
    }

    fn start(&self, joiner: &Joiner<'_>) -> Result<(), JoinError> {
        let host = joiner.host;
        if self.aiware.is("controller") {
            // A controller that starts before its database ends with an error; its own one starts with it.
            if let Some(db) = self.aiware.db.as_ref().filter(|_| !self.aiware.is("db")) {
                reach(host, db).map_err(|reason| JoinError::NoManagerYet(format!("the database {db}: {reason}")))?;
            }
        } else {
            self.controller_answers(host)?;
        }
        if let Some(registry) = self.aiware.registry.as_ref().filter(|_| !self.aiware.is("registry")) {
            reach(host, registry)
                .map_err(|reason| JoinError::NoManagerYet(format!("the registry {registry}: {reason}")))?;
        }
        match unit::state(host, UNIT)? {
            UnitState::Active | UnitState::Activating => Ok(()),
            _ => unit::start(host, UNIT),
        }
    }

    fn diagnose(&self, host: &dyn Host) -> Option<JoinError> {
        self.controller_answers(host).err().or_else(|| unit::diagnose(&unit::last_words(host, UNIT)))
    }

    fn leave(&self, host: &dyn Host) -> Result<(), JoinError> {
        unit::stop(host, UNIT)?;
        host.remove(ENVIRONMENT)?;
        Ok(())
    }

    fn secrets(&self) -> Vec<&Secret> {
        [&self.aiware.token, &self.aiware.license, &self.aiware.db_password].into_iter().flatten().collect()
    }
}
