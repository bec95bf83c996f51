//! `join.after`: what must be up before the join begins.

use serde::Serialize;

use super::values::{AbsolutePath, Endpoint, HttpUrl, UnitName};
use crate::config::fields::Fields;
use crate::config::problem::Findings;

/// Something that must be up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Something accepts connections there.
    Tcp(Endpoint),
    /// Something answers there with a status from 200 to 299.
    Http {
        /// Where.
        url: HttpUrl,
        /// The certificate authorities to believe, as PEM; the image's without them.
        ca: Option<String>,
    },
    /// Something is mounted there.
    Mount(AbsolutePath),
    /// A unit is active.
    Unit(UnitName),
    /// A time server has set the clock.
    TimeSynced,
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Gate::Tcp(endpoint) => write!(f, "tcp {endpoint}"),
            Gate::Http { url, .. } => write!(f, "{url}"),
            Gate::Mount(path) => write!(f, "mount {path}"),
            Gate::Unit(unit) => write!(f, "unit {unit}"),
            Gate::TimeSynced => f.write_str("time synchronised"),
        }
    }
}

/// Reads the list.
pub fn read(fields: &Fields<'_>, findings: &mut Findings) -> Vec<Gate> {
    let list = fields.list("after", findings);
    let read = |(index, node)| {
        let path = format!("{}[{index}]", fields.path_of("after"));
        let gate = Fields::new(node, &path, findings)?;
        let kinds = ["tcp", "http", "mount", "unit", "time_synced"];
        if kinds.iter().filter(|kind| gate.entry(kind).is_some()).count() != 1 {
            let help = "{ tcp = \"host:port\" }, { http = \"https://...\" }, { mount = \"/path\" }, \
                        { unit = \"x.service\" } or { time_synced = true }";
            findings.error(gate.origin, &path, "must name exactly one thing to wait for", help);
            return None;
        }
        let ca = gate.text("ca", findings).map(str::to_owned);
        if let Some(ca) = &ca
            && (!ca.contains("-----BEGIN CERTIFICATE-----")
                || ca.contains("PRIVATE KEY")
                || gate.entry("http").is_none())
        {
            gate.error(
                "ca",
                "is not a certificate in PEM for an http gate",
                "give the authority's public part",
                findings,
            );
        }
        if let Some(false) = gate.boolean("time_synced", findings) {
            gate.error("time_synced", "waits for nothing", "leave it out", findings);
        }
        gate.parsed("tcp", findings)
            .map(Gate::Tcp)
            .or_else(|| Some(Gate::Http { url: gate.parsed("http", findings)?, ca }))
            .or_else(|| gate.parsed("mount", findings).map(Gate::Mount))
            .or_else(|| gate.parsed("unit", findings).map(Gate::Unit))
            .or_else(|| gate.entry("time_synced").map(|_| Gate::TimeSynced))
    };
    list.iter().enumerate().filter_map(read).collect()
}
