//! Tuning: settings of the kernel and of services' limits, applied and read back.
//!
//! Takes `[tuning]`; gives for each setting what was asked for and what the machine has now. A setting that the kernel
//! rounds, or does not have, stops nothing and is said.
//!
//! Settings are kept in two ways. Files for systemd-sysctl, systemd-tmpfiles, udev and systemd itself set them early in
//! every boot, and on a disk that is plugged in later. The service sets all of them again when it starts, in an order in
//! which each can be taken (a disk's scheduler before its queue), and reads them back: only that can be reported.

pub mod facts;
mod files;
mod links;
pub mod plan;
mod settings;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{LinkMatch, PageCount, Tuning};
use crate::host::{Host, HostError};
use facts::Interface;

/// Where the report lies.
pub const REPORT: &str = "/run/ingot/tuning.json";
const PATIENCE: Duration = Duration::from_mins(1);

/// What became of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Taken {
    /// It is as it was asked for.
    Whole,
    /// The kernel took it and made another value of it: rounded, or bounded by what the hardware can.
    Clamped,
    /// The kernel refused it.
    Refused,
    /// This machine or kernel has no such setting.
    Absent,
}

/// A setting, as it was asked for and as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name: `sysctl vm.swappiness`, `sda queue/nr_requests`.
    pub name: String,
    /// What was asked for.
    pub requested: String,
    /// What it is; empty where it is not known.
    pub effective: String,
    /// What became of it.
    pub taken: Taken,
    /// Why, where it is not as it was asked for.
    pub why: String,
}

/// The content of [`REPORT`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TuningReport {
    /// Every setting.
    pub settings: Vec<Outcome>,
    /// The interfaces as they are, with the MTU that the network's configuration gave them.
    pub interfaces: Vec<Interface>,
}

impl TuningReport {
    /// One line for each setting that is not as it was asked for.
    pub fn notes(&self) -> Vec<String> {
        let others = self.settings.iter().filter(|setting| setting.taken != Taken::Whole);
        others
            .map(|setting| {
                let Outcome { name, requested, effective, why, .. } = setting;
                let now = if effective.is_empty() { String::new() } else { format!(", now {effective}") };
                format!("tuning: {name}: {requested} was asked for{now}: {why}")
            })
            .collect()
    }

    /// What was not taken at all, in one text; `None` where all was.
    pub fn refused(&self) -> Option<String> {
        let not = |setting: &&Outcome| matches!(setting.taken, Taken::Refused | Taken::Absent);
        let names: Vec<String> =
            self.settings.iter().filter(not).map(|setting| format!("{} ({})", setting.name, setting.why)).collect();
        (!names.is_empty())
            .then(|| format!("{} of {} not taken: {}", names.len(), self.settings.len(), names.join("; ")))
    }
}

/// Whether there is anything to set, or to undo.
pub fn is_needed(host: &dyn Host, tuning: &Tuning) -> bool {
    *tuning != Tuning::default() || files::ALL.iter().any(|path| host.exists(path))
}

/// Applies all settings and reads them back. What an earlier configuration set in files is removed; its values last
/// until the next boot.
///
/// # Errors
/// The machine cannot be asked, or the files cannot be written. That a setting is refused is no error.
pub fn apply(host: &dyn Host, tuning: &Tuning) -> Result<TuningReport, HostError> {
    let settings = settings::of(host, tuning)?;
    files::write(host, tuning, &settings)?;
    let mut report = TuningReport::default();
    for setting in &settings {
        report.settings.push(settings::apply(host, setting)?);
    }
    report.settings.extend(files::limits(host, tuning)?);
    report.interfaces = facts::interfaces(host)?;
    report.settings.extend(links::apply(host, &tuning.interfaces, &report.interfaces)?);
    if let Ok(mut json) = serde_json::to_vec_pretty(&report) {
        json.push(b'\n');
        host.write(REPORT, &json, 0o644)?;
    }
    Ok(report)
}

/// What is tuned, in words, before anything is done.
pub fn describe(tuning: &Tuning) -> Vec<String> {
    let mut lines = Vec::new();
    if !tuning.sysctl.is_empty() {
        let names: Vec<&str> = tuning.sysctl.keys().map(String::as_str).collect();
        lines.push(format!("tuning: sysctl {}", names.join(", ")));
    }
    lines.extend(tuning.governor.as_ref().map(|governor| format!("tuning: governor {governor}")));
    for (size, count) in &tuning.hugepages {
        let mib = size >> 20;
        lines.push(match count {
            PageCount::Count(count) => format!("tuning: {count} huge pages of {mib} MiB"),
            PageCount::Share(share) => format!("tuning: huge pages of {mib} MiB, {share}"),
        });
    }
    lines.extend(tuning.transparent_hugepages.as_ref().map(|mode| format!("tuning: transparent huge pages {mode}")));
    if !tuning.limits.is_empty() {
        let names: Vec<&str> = tuning.limits.keys().map(String::as_str).collect();
        lines.push(format!("tuning: limits of services: {}", names.join(", ")));
    }
    for rule in &tuning.disks {
        let values: Vec<String> = rule.settings.iter().map(|(key, value)| format!("{key} {value}")).collect();
        lines.push(format!("tuning: disks with {}: {}", rule.matches, values.join(", ")));
    }
    lines.extend(tuning.interfaces.iter().map(|rule| format!("tuning: interfaces with {}", rule.matches)));
    lines
}

/// Whether a rule means an interface.
fn is_meant(matches: &LinkMatch, interface: &Interface) -> bool {
    match matches {
        LinkMatch::Name(name) => crate::glob::matches(&name.to_string(), &interface.name),
        LinkMatch::Mac(mac) => mac.to_string() == interface.mac,
        LinkMatch::Driver(driver) => crate::glob::matches(driver.as_str(), &interface.driver),
    }
}
