//! The result, back on the stick that the configuration came from.
//!
//! Each machine has two files in `ingot-results`: `NAME.json`, the status, and `NAME.log`, the histories of its last
//! boots. The name is the serial number of its firmware; where another machine has files of that name already, the
//! lowest MAC address. So one stick goes from machine to machine and comes back with a report of each.
//!
//! Only states in which the node stays are written: success, failure, waiting. A sealed node does not look at media,
//! so from its next boot on nothing is written.

use std::io;
use std::time::Duration;

use super::{Node, Reporter, Snapshot, Status, uptime_ms};
use crate::clock::civil::Civil;
use crate::config::Machine;
use crate::host::Host;
use crate::provider::{ResultsDirectory, StickError};
use crate::status::{Code, Severity};

/// Between two writes of different states that are not the goal.
const PAUSE_MS: u64 = 30_000;
/// How long after a medium was seen before a state that is no result is written: what is read from it comes first.
const SETTLE_MS: u64 = 5_000;
/// Between two writes of the same state with another text.
const PAUSE_SAME_MS: u64 = 300_000;
/// How long after the end a stick is waited for.
const PATIENCE_MS: u64 = 600_000;
/// How long a log may become; the oldest boots go first.
const MAXIMUM_LOG_BYTES: usize = 256 * 1024;

/// The beginning of each boot in a log.
const BOOT: &str = "=== boot ";

/// Writes each result once.
#[derive(Default)]
pub struct Writer {
    written: Option<(Code, String)>,
    medium_at: Option<u64>,
    not_before: u64,
    said: Option<String>,
    ended: Option<u64>,
}

/// What a step of the writer came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// There is nothing to write, or not yet.
    Idle,
    /// What a person should know.
    Said(String),
    /// It will not write any more.
    Over,
}

impl Writer {
    /// Writes if it is time to.
    pub fn step(&mut self, snapshot: &Snapshot, host: &dyn Host, now: u64) -> Step {
        if snapshot.settings.medium {
            self.medium_at.get_or_insert(now);
        }
        let over =
            snapshot.abandoned || snapshot.closed && now >= self.ended.get_or_insert(now).saturating_add(PATIENCE_MS);
        if over {
            return Step::Over;
        }
        let Some(status) = snapshot.status.as_ref().filter(|status| self.is_due(snapshot, status, now)) else {
            let settled = !snapshot.settings.medium || !snapshot.settings.write_back || self.is_written(snapshot);
            return if snapshot.closed && settled { Step::Over } else { Step::Idle };
        };
        self.not_before = now + PAUSE_MS;
        let mut name = String::new();
        let boot = boot_id(host);
        let result = host.write_results(&mut |results| {
            name = save(results, status, &boot)?;
            Ok(())
        });
        let said = match result {
            Ok(stick) => {
                self.written = Some((status.code, status.text.clone()));
                format!("{} is written to {stick} as {name}; it may be pulled out", status.code)
            }
            Err(StickError::NoStick) => return Step::Idle,
            Err(error) => error.to_string(),
        };
        if self.said.replace(said.clone()).is_some_and(|before| before == said) { Step::Idle } else { Step::Said(said) }
    }

    fn is_written(&self, snapshot: &Snapshot) -> bool {
        let status = snapshot.status.as_ref();
        status.is_none_or(|status| self.written.as_ref().is_some_and(|(code, _)| *code == status.code))
    }

    fn is_due(&self, snapshot: &Snapshot, status: &Status, now: u64) -> bool {
        let severity = status.code.severity();
        if !snapshot.settings.medium || !snapshot.settings.write_back || severity == Severity::Progress {
            return false;
        }
        match &self.written {
            Some((code, text)) if *code == status.code => {
                *text != status.text && now >= self.not_before.saturating_add(PAUSE_SAME_MS - PAUSE_MS)
            }
            // The goal is said at once, unless the stick has just failed.
            Some(_) if severity == Severity::Success => true,
            None if severity == Severity::Waiting => {
                now >= self.not_before.max(self.medium_at.unwrap_or(now).saturating_add(SETTLE_MS))
            }
            _ => now >= self.not_before,
        }
    }
}

/// Follows the states until the end.
pub fn follow(reporter: &Reporter<'_>, host: &dyn Host) {
    let mut writer = Writer::default();
    let mut seen = 0;
    loop {
        let snapshot = reporter.follow(seen, Duration::from_secs(10));
        seen = snapshot.number;
        match writer.step(&snapshot, host, uptime_ms()) {
            Step::Idle => {}
            Step::Said(text) => reporter.delivered("stick", &text),
            Step::Over => return,
        }
    }
}

fn boot_id(host: &dyn Host) -> String {
    let bytes = host.read("/proc/sys/kernel/random/boot_id", 64).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// Writes both files; gives the name of the first.
fn save(results: &mut dyn ResultsDirectory, status: &Status, boot: &str) -> io::Result<String> {
    let mut name = None;
    for candidate in names(&status.node) {
        let there = results.read(&format!("{candidate}.json"))?;
        let owner = there.and_then(|bytes| serde_json::from_slice::<Status>(&bytes).ok());
        if owner.is_none_or(|owner| owner.node.is_same_machine(&status.node)) {
            name = Some(candidate);
            break;
        }
    }
    let name = name.ok_or_else(|| io::Error::other("another machine has the same serial number and MAC address"))?;
    let log = results.read(&format!("{name}.log"))?.unwrap_or_default();
    results.write(&format!("{name}.log"), merged_log(&String::from_utf8_lossy(&log), status, boot).as_bytes())?;
    let mut json = serde_json::to_vec_pretty(status)?;
    json.push(b'\n');
    let file = format!("{name}.json");
    results.write(&file, &json)?;
    Ok(format!("{}/{file}", crate::provider::RESULTS_DIRECTORY))
}

/// The names that this machine's files may have.
fn names(node: &Node) -> Vec<String> {
    let plain = |text: &str| -> String {
        let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
        let name: String = text.trim().chars().take(64).map(safe).collect();
        name.trim_matches('.').to_owned()
    };
    let macs = node.macs.iter().map(|mac| mac.replace(':', ""));
    let all = node.serial.iter().cloned().chain(macs).chain(node.uuid.clone());
    let mut names: Vec<String> = all.map(|name| plain(&name)).filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        names.push("unknown-machine".to_owned());
    }
    names
}

/// The log with this boot's history as its last part.
fn merged_log(old: &str, status: &Status, boot: &str) -> String {
    let heading = format!("{BOOT}{boot} ===\n");
    let mut parts: Vec<&str> = Vec::new();
    let mut rest = old;
    while let Some(start) = rest.find(BOOT) {
        let part = &rest[start..];
        let end = part[BOOT.len()..].find(BOOT).map_or(part.len(), |end| end + BOOT.len());
        // What a stick that was pulled out has left of this boot is replaced.
        if !part.starts_with(&heading) {
            parts.push(&part[..end]);
        }
        rest = &part[end..];
    }
    let mut own = heading;
    for moment in &status.history {
        own.push_str(&format!("{}  {}\n", Civil::of(moment.at), moment.code.line(&moment.text)));
    }
    while own.len() + parts.iter().map(|part| part.len()).sum::<usize>() > MAXIMUM_LOG_BYTES && !parts.is_empty() {
        parts.remove(0);
    }
    parts.concat() + &own
}

impl Node {
    /// The facts of a machine.
    pub(super) fn set_machine(&mut self, machine: &Machine) {
        self.macs = machine.macs.iter().map(ToString::to_string).collect();
        self.serial.clone_from(&machine.serial);
        self.uuid.clone_from(&machine.uuid);
    }

    fn is_same_machine(&self, other: &Node) -> bool {
        // A card may be exchanged, or be slow to appear; the mainboard's UUID stays.
        let shared = self.macs.iter().any(|mac| other.macs.contains(mac));
        shared || self.macs.is_empty() && other.macs.is_empty() && self.uuid == other.uuid
    }
}

#[cfg(test)]
#[path = "stick_tests.rs"]
mod tests;
