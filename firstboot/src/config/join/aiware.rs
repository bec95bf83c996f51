//! `[join]` with `driver = "aiware"`.

use std::net::IpAddr;

use serde::Serialize;

use super::values::{Endpoint, HttpUrl, Subnet};
use super::{credential, plain_text, unpinned};
use crate::config::fields::Fields;
use crate::config::node::Extent;
use crate::config::problem::Findings;
use crate::config::secret::Secret;

/// The run modes of an aiWARE node.
const MODES: &[&str] = &[
    "api",
    "controller",
    "db",
    "elasticsearch",
    "engine",
    "lb",
    "minio",
    "nfs",
    "nsq",
    "prometheus",
    "redis",
    "registry",
];

/// What a node is in an aiWARE cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Aiware {
    /// Its run modes.
    pub modes: Vec<String>,
    /// The controller's address; a controller has none.
    pub controller: Option<HttpUrl>,
    /// The init token.
    pub token: Option<Secret>,
    /// The licence.
    pub license: Option<Secret>,
    /// The database, where it is another machine's.
    pub db: Option<Endpoint>,
    /// The database's user.
    pub db_user: Option<String>,
    /// The database's password.
    pub db_password: Option<Secret>,
    /// Whether this node brings the database's schema up to date.
    pub db_migrate: bool,
    /// Who may mount what the `nfs` mode exports.
    pub nfs_permitted: Option<Subnet>,
    /// The registry, waited for where it is given.
    pub registry: Option<Endpoint>,
    /// The address that the others reach this node by.
    pub advertise: Option<IpAddr>,
    /// A name for the region.
    pub region: Option<String>,
}

impl Aiware {
    /// True where the node has a run mode.
    pub fn is(&self, mode: &str) -> bool {
        self.modes.iter().any(|own| own == mode)
    }
}

pub fn read(fields: &Fields<'_>, extent: Extent, findings: &mut Findings) -> Option<Aiware> {
    let errors_before = findings.errors.len();
    let mut modes: Vec<String> = fields.parsed_list("modes", findings);
    for mode in modes.iter().filter(|mode| !MODES.contains(&mode.as_str())) {
        fields.error("modes", format!("{mode:?} is no run mode"), format!("known: {}", MODES.join(", ")), findings);
    }
    modes.sort();
    modes.dedup();
    let controller: Option<HttpUrl> = fields.parsed("controller", findings);
    let allow_unpinned = fields.boolean("allow_unpinned", findings).unwrap_or(false);
    let is_controller = modes.iter().any(|mode| mode == "controller");
    if let Some(url) = controller.as_ref().filter(|_| !is_controller) {
        let own = url.endpoint().is_some_and(|endpoint| {
            matches!(&endpoint.host, crate::config::HostAddress::Ip(ip) if ip.is_loopback())
                || endpoint.host.to_string() == "localhost"
        });
        if own {
            fields.error(
                "controller",
                "is this node itself; aiWARE needs an address that all nodes reach",
                "",
                findings,
            );
        }
        if !url.is_https() {
            let why = "is plain HTTP: the node cannot know that it speaks with the controller";
            let help = "put TLS in front of it, or keep the cluster on an isolated or encrypted network";
            unpinned(fields, "controller", allow_unpinned, why, help, findings);
        }
    }
    let token = credential(fields, "token", findings);
    let license = credential(fields, "license", findings);
    let db = fields.parsed("db", findings);
    let db_user = plain_text(fields, "db_user", findings);
    let db_password = credential(fields, "db_password", findings);
    let db_migrate = fields.boolean("db_migrate", findings).unwrap_or(is_controller);
    let nfs_permitted = fields.parsed("nfs_permitted", findings);
    let registry = fields.parsed("registry", findings);
    let advertise = fields.parsed("advertise", findings);
    let region = plain_text(fields, "region", findings);
    if extent == Extent::Whole {
        if modes.is_empty() {
            fields.missing("modes", format!("some of: {}", MODES.join(", ")), findings);
        }
        let has = |mode: &str| modes.iter().any(|own| own == mode);
        if !is_controller && fields.entry("controller").is_none() {
            fields.missing("controller", "the controller's address: \"https://10.77.0.10:9000/edge/v1\"", findings);
        }
        if is_controller && fields.entry("token").is_none() {
            fields.missing("token", "the init token, which is the administrator's: make one with `uuidgen`", findings);
        }
        if (is_controller || has("db")) && fields.entry("db_password").is_none() {
            fields.missing("db_password", "aiWARE's own default is known to everyone", findings);
        }
        if has("nfs") && fields.entry("nfs_permitted").is_none() {
            fields.missing("nfs_permitted", "who may mount the export; aiWARE's own default is everyone", findings);
        }
    }
    if extent == Extent::Part || findings.errors.len() > errors_before {
        return None;
    }
    Some(Aiware {
        modes,
        controller: controller.filter(|_| !is_controller),
        token,
        license,
        db,
        db_user,
        db_password,
        db_migrate,
        nfs_permitted,
        registry,
        advertise,
        region,
    })
}
