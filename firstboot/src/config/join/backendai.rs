//! `[join]` with `driver = "backendai"`.

use std::net::IpAddr;

use serde::Serialize;

use super::values::{AbsolutePath, Endpoint};
use super::{choice, credential, plain_text, unpinned};
use crate::config::fields::Fields;
use crate::config::node::Extent;
use crate::config::problem::Findings;
use crate::config::secret::Secret;
use crate::config::values::HostAddress;

/// What a node is in a Backend.AI cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackendAi {
    /// Manager or agent.
    pub role: BackendAiRole,
    /// The cluster's etcd.
    pub etcd: Etcd,
    /// The manager's database.
    pub db: Option<Database>,
    /// The address that the others reach this node by.
    pub advertise: Option<IpAddr>,
    /// The resource group of an agent.
    pub group: Option<String>,
    /// Where an agent keeps its sessions' files.
    pub scratch: AbsolutePath,
    /// Whether this manager makes the database's schema where there is none.
    pub founds: bool,
}

/// A node's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendAiRole {
    /// Serves the API.
    Manager,
    /// Runs sessions.
    Agent,
}

/// How etcd is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Etcd {
    /// Where.
    pub address: Endpoint,
    /// The cluster's name in it.
    pub namespace: String,
    /// The user.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
}

/// How the manager reaches its database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Database {
    /// Where.
    pub address: Endpoint,
    /// The database's name.
    pub name: String,
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: Secret,
}

pub fn read(fields: &Fields<'_>, extent: Extent, findings: &mut Findings) -> Option<BackendAi> {
    let errors_before = findings.errors.len();
    let roles = [("manager", BackendAiRole::Manager), ("agent", BackendAiRole::Agent)];
    let role = choice(fields, "role", &roles, extent, findings);
    let allow_unpinned = fields.boolean("allow_unpinned", findings).unwrap_or(false);
    let etcd = fields.entry("etcd").and_then(|entry| {
        let etcd = Fields::new(&entry.node, "join.etcd", findings)?;
        let (user, password) = (plain_text(&etcd, "user", findings), credential(&etcd, "password", findings));
        if etcd.entry("user").is_some() != etcd.entry("password").is_some() {
            etcd.error("user", "user and password belong together", "", findings);
        }
        let address: Option<Endpoint> = etcd.parsed("address", findings);
        let here = |endpoint: &Endpoint| matches!(endpoint.host, HostAddress::Ip(ip) if ip.is_loopback());
        if extent == Extent::Whole && password.is_some() && !address.as_ref().is_some_and(here) {
            let why = "goes over the network in plain HTTP, to whoever answers at etcd's address";
            let help = "Backend.AI speaks no TLS with etcd: keep both on an isolated or encrypted network";
            unpinned(&etcd, "password", allow_unpinned, why, help, findings);
        }
        if extent == Extent::Whole && etcd.entry("address").is_none() {
            etcd.missing("address", "where etcd is: \"10.77.0.10:2379\"", findings);
        }
        let namespace = plain_text(&etcd, "namespace", findings).unwrap_or_else(|| "local".into());
        Some(Etcd { address: address?, namespace, user, password })
    });
    let db = fields.entry("db").and_then(|entry| {
        let db = Fields::new(&entry.node, "join.db", findings)?;
        let (name, user) = (plain_text(&db, "name", findings), plain_text(&db, "user", findings));
        let password = credential(&db, "password", findings);
        let address = db.parsed("address", findings);
        if extent == Extent::Whole {
            for key in ["address", "name", "user", "password"].into_iter().filter(|key| db.entry(key).is_none()) {
                db.missing(key, "the manager needs it", findings);
            }
        }
        Some(Database { address: address?, name: name?, user: user?, password: password? })
    });
    let advertise = fields.parsed("advertise", findings);
    let group = plain_text(fields, "group", findings);
    let scratch = fields.parsed("scratch", findings);
    let founds = fields.boolean("founds", findings).unwrap_or(false);
    if extent == Extent::Whole {
        if fields.entry("etcd").is_none() {
            fields.missing("etcd", "etcd = { address = \"10.77.0.10:2379\", namespace = \"site\" }", findings);
        }
        if role == Some(BackendAiRole::Manager) && fields.entry("db").is_none() {
            fields.missing("db", "the manager's PostgreSQL: address, name, user, password", findings);
        }
    }
    if extent == Extent::Part || findings.errors.len() > errors_before {
        return None;
    }
    let scratch = match scratch {
        Some(scratch) => scratch,
        None => "/var/cache/scratches".parse().ok()?,
    };
    Some(BackendAi { role: role?, etcd: etcd?, db, advertise, group, scratch, founds })
}
