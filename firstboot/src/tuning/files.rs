//! The files that set all of it early in every boot, and the limits of services, which are nothing but a file.

use std::collections::BTreeMap;

use super::settings::Setting;
use super::{Outcome, PATIENCE, Taken};
use crate::config::{DiskTuning, Tuning};
use crate::host::{Host, HostError};
use crate::step::Effect;

/// Not `90-ingot.conf`: that name is the role's own, and this one comes after it.
const SYSCTL: &str = "/etc/sysctl.d/95-ingot-node.conf";
const TMPFILES: &str = "/etc/tmpfiles.d/95-ingot-node.conf";
const UDEV: &str = "/etc/udev/rules.d/95-ingot-node.rules";
const LIMITS: &str = "/etc/systemd/system.conf.d/95-ingot-node.conf";
/// All files that this module writes.
pub const ALL: [&str; 4] = [SYSCTL, TMPFILES, UDEV, LIMITS];
const HEADER: &str = "# Written by Ingot's first boot from [tuning] of node.toml.\n";
const LIMIT: u64 = 1 << 20;
const READ_RULES: [&str; 3] = ["udevadm", "control", "--reload"];
const READ_UNITS: [&str; 2] = ["systemctl", "daemon-reload"];

/// The content of each file; none for one that is not needed.
pub fn texts(tuning: &Tuning, settings: &[Setting]) -> BTreeMap<&'static str, String> {
    let mut texts: BTreeMap<&str, String> = BTreeMap::new();
    for setting in settings {
        if let Some(name) = setting.name.strip_prefix("sysctl ") {
            *texts.entry(SYSCTL).or_default() += &format!("{name} = {}\n", setting.value);
        } else if setting.path.starts_with("/sys/") && !setting.path.starts_with("/sys/block/") {
            // `w` of tmpfiles.d(5) writes into a file that is there.
            *texts.entry(TMPFILES).or_default() += &format!("w {} - - - - {}\n", setting.path, setting.value);
        }
    }
    for rule in &tuning.disks {
        *texts.entry(UDEV).or_default() += &udev_rule(rule);
    }
    for (name, (soft, hard)) in &tuning.limits {
        let text = texts.entry(LIMITS).or_insert_with(|| "[Manager]\n".to_owned());
        *text += &format!("{}={}\n", directive(name), shown(*soft, *hard));
    }
    for text in texts.values_mut() {
        text.insert_str(0, HEADER);
    }
    texts
}

/// Writes what differs and removes what is empty.
pub fn write(host: &dyn Host, tuning: &Tuning, settings: &[Setting]) -> Result<(), HostError> {
    let texts = texts(tuning, settings);
    let mut reload = false;
    for path in ALL {
        let old = host.read(path, LIMIT)?;
        match texts.get(path) {
            Some(new) if old.as_deref() != Some(new.as_bytes()) => host.write(path, new.as_bytes(), 0o644)?,
            None if old.is_some() => host.remove(path)?,
            _ => continue,
        }
        reload |= path == LIMITS;
        if path == UDEV {
            host.run(READ_RULES[0], &READ_RULES[1..], PATIENCE)?;
        }
    }
    if reload {
        host.run(READ_UNITS[0], &READ_UNITS[1..], PATIENCE)?;
    }
    Ok(())
}

/// The same without a machine.
pub fn effects(tuning: &Tuning, settings: &[Setting]) -> Vec<Effect> {
    let mut effects = Vec::new();
    for (path, text) in texts(tuning, settings) {
        effects.push(Effect::text(path, text));
        match path {
            UDEV => effects.push(Effect::run(READ_RULES)),
            LIMITS => effects.push(Effect::run(READ_UNITS)),
            _ => {}
        }
    }
    effects
}

/// A rule of udev(7); what it assigns is set from left to right.
fn udev_rule(rule: &DiskTuning) -> String {
    let mut line = String::from("ACTION==\"add|change\", SUBSYSTEM==\"block\", ENV{DEVTYPE}==\"disk\"");
    if let Some(name) = &rule.matches.name {
        line += &format!(", KERNEL==\"{name}\"");
    }
    if let Some(model) = &rule.matches.model {
        line += &format!(", ATTR{{device/model}}==\"{model}\"");
    }
    if let Some(turns) = rule.matches.rotational {
        line += &format!(", ATTR{{queue/rotational}}==\"{}\"", u8::from(turns));
    }
    for (key, value) in &rule.settings {
        line += &format!(", ATTR{{queue/{key}}}=\"{value}\"");
    }
    line + "\n"
}

/// The name in systemd-system.conf(5).
fn directive(limit: &str) -> String {
    match limit {
        "tasks" => "DefaultTasksMax".to_owned(),
        other => format!("DefaultLimit{}", other.to_uppercase()),
    }
}

fn shown(soft: Option<u64>, hard: Option<u64>) -> String {
    let one = |limit: Option<u64>| limit.map_or_else(|| "infinity".to_owned(), |limit| limit.to_string());
    if soft == hard { one(hard) } else { format!("{}:{}", one(soft), one(hard)) }
}

/// What systemd gives to services that start from now on.
pub fn limits(host: &dyn Host, tuning: &Tuning) -> Result<Vec<Outcome>, HostError> {
    if tuning.limits.is_empty() {
        return Ok(Vec::new());
    }
    let said = host.run("systemctl", &["show"], PATIENCE)?;
    let said = String::from_utf8_lossy(&said).into_owned();
    let get = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned));
    let outcome = |(name, (soft, hard)): (&String, &(Option<u64>, Option<u64>))| {
        let (key, requested) = (directive(name), shown(*soft, *hard));
        let effective = match (get(&format!("{key}Soft")), get(&key)) {
            (Some(soft), Some(hard)) if soft != hard => format!("{soft}:{hard}"),
            (_, hard) => hard.unwrap_or_default(),
        };
        let taken = if effective == requested { Taken::Whole } else { Taken::Clamped };
        let why = if taken == Taken::Whole { "" } else { "systemd has made this of it" };
        Outcome { name: format!("limit {name}"), requested, effective, taken, why: why.to_owned() }
    };
    Ok(tuning.limits.iter().map(outcome).collect())
}
