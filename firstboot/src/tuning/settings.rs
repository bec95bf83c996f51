//! Settings that are files of the kernel: made of the configuration, set, read back.

use super::facts::{memory, numbered, text};
use super::{Outcome, Taken};
use crate::config::{Amount, DiskTuning, PageCount, Tuning};
use crate::disk::inventory::{DiskInfo, disks};
use crate::glob;
use crate::host::{Host, HostError};

/// Where the frequency policies are.
pub const GOVERNORS: &str = "/sys/devices/system/cpu/cpufreq";
/// Where the nodes of the memory are.
pub const NODES: &str = "/sys/devices/system/node";
const PAGES: &str = "/sys/kernel/mm/hugepages";
/// Where the mode of transparent huge pages is.
pub const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// A file of the kernel and the value that it is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name for people.
    pub name: String,
    /// Where it is; empty where this machine has none.
    pub path: String,
    /// The value.
    pub value: String,
    /// Whether the file shows all choices, with the present one in brackets.
    pub is_choice: bool,
    /// What it means where there is no such file.
    pub absent: &'static str,
}

/// The files of all settings, in the order in which they are set.
pub fn of(host: &dyn Host, tuning: &Tuning) -> Result<Vec<Setting>, HostError> {
    let memory = memory(host)?.unwrap_or(0);
    // Before other memory is taken.
    let mut settings = hugepages(host, tuning, memory)?;
    if let Some(mode) = &tuning.transparent_hugepages {
        let (name, path, value) = ("transparent huge pages".into(), TRANSPARENT.into(), mode.clone());
        settings.push(Setting { name, path, value, is_choice: true, absent: "this kernel has none" });
    }
    for (name, amounts) in &tuning.sysctl {
        settings.push(Setting {
            name: format!("sysctl {name}"),
            path: sysctl_path(name),
            value: sysctl_value(amounts, memory),
            is_choice: false,
            absent: "this kernel has no such setting, or its module is not loaded",
        });
    }
    if let Some(governor) = &tuning.governor {
        let absent = "this machine lets nobody set the frequency of its processors (a virtual machine?)";
        let policies = numbered(host, GOVERNORS, "policy")?;
        let paths = policies.iter().map(|policy| (policy.clone(), format!("{GOVERNORS}/{policy}/scaling_governor")));
        let paths: Vec<(String, String)> = paths.collect();
        let none = vec![(String::new(), String::new())];
        for (policy, path) in if paths.is_empty() { none } else { paths } {
            let name = format!("governor {policy}").trim_end().to_owned();
            settings.push(Setting { name, path, value: governor.clone(), is_choice: false, absent });
        }
    }
    if !tuning.disks.is_empty() {
        let present = disks(host)?;
        for rule in &tuning.disks {
            settings.extend(queues(rule, &present));
        }
    }
    Ok(settings)
}

/// `net.ipv4.conf.eth0/1.rp_filter` is a file of `eth0.1`: as in sysctl.d(5), a slash stands for a dot of a name.
pub fn sysctl_path(name: &str) -> String {
    let path: String = name
        .chars()
        .map(|character| match character {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    format!("/proc/sys/{path}")
}

/// The value of a sysctl on a machine with so much memory.
pub fn sysctl_value(amounts: &[Amount], memory: u64) -> String {
    let one = |amount: &Amount| match amount {
        Amount::Plain(text) => text.clone(),
        Amount::Share(share, unit) => (share.of(memory) / unit.bytes()).to_string(),
    };
    amounts.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Huge pages, the same number on every node of the memory.
fn hugepages(host: &dyn Host, tuning: &Tuning, memory: u64) -> Result<Vec<Setting>, HostError> {
    let mut settings = Vec::new();
    for (size, count) in tuning.hugepages.iter().rev() {
        let total = match count {
            PageCount::Count(count) => *count,
            PageCount::Share(share) => share.of(memory) / size,
        };
        let directory = format!("hugepages-{}kB", size >> 10);
        let mut places = Vec::new();
        for node in numbered(host, NODES, "node")? {
            let path = format!("{NODES}/{node}/hugepages/{directory}/nr_hugepages");
            if host.exists(&path) {
                places.push((format!(" {node}"), path));
            }
        }
        if places.is_empty() {
            places.push((String::new(), format!("{PAGES}/{directory}/nr_hugepages")));
        }
        let nodes = places.len() as u64;
        for (index, (node, path)) in (0..).zip(places) {
            let share = total / nodes + u64::from(index < total % nodes);
            settings.push(Setting {
                name: format!("huge pages of {} MiB{node}", size >> 20),
                path,
                value: share.to_string(),
                is_choice: false,
                absent: "this processor has no pages of this size",
            });
        }
    }
    Ok(settings)
}

/// The queues that a rule means.
fn queues(rule: &DiskTuning, present: &[DiskInfo]) -> Vec<Setting> {
    let meant = |disk: &&DiskInfo| {
        rule.matches.name.as_ref().is_none_or(|name| glob::matches(name.as_str(), &disk.name))
            && rule.matches.rotational.is_none_or(|turns| turns == disk.rotational)
            && rule
                .matches
                .model
                .as_ref()
                .is_none_or(|model| glob::matches(model.as_str(), disk.model.as_deref().unwrap_or_default()))
    };
    let disks = present.iter().filter(meant);
    let of = |disk: &DiskInfo| {
        let directory = disk.name.replace('/', "!");
        let name = disk.name.clone();
        rule.settings.iter().map(move |(key, value)| Setting {
            name: format!("{name} {key}"),
            path: format!("/sys/block/{directory}/queue/{key}"),
            value: value.clone(),
            is_choice: key == "scheduler",
            absent: "this disk has no such setting",
        })
    };
    disks.flat_map(of).collect()
}

/// Sets one and reads it back.
pub fn apply(host: &dyn Host, setting: &Setting) -> Result<Outcome, HostError> {
    let mut outcome = Outcome {
        name: setting.name.clone(),
        requested: setting.value.clone(),
        effective: String::new(),
        taken: Taken::Absent,
        why: setting.absent.to_owned(),
    };
    let Some(before) = present(host, setting) else { return Ok(outcome) };
    // What is there already is not set again: a disk's queue stops for a moment when its scheduler is.
    let refusal = if before == setting.value { None } else { host.set_kernel(&setting.path, &setting.value).err() };
    outcome.effective = present(host, setting).unwrap_or_default();
    (outcome.taken, outcome.why) = match refusal {
        None if outcome.effective == setting.value => (Taken::Whole, String::new()),
        None if outcome.effective.is_empty() => (Taken::Whole, "the kernel took it and does not show it".to_owned()),
        None => (Taken::Clamped, "the kernel took it and made this of it".to_owned()),
        Some(HostError::File { source, .. }) => (Taken::Refused, format!("the kernel refused it: {source}")),
        Some(error) => return Err(error),
    };
    Ok(outcome)
}

/// The value that a setting has, with its blank space evened out; `None` where this machine has no such setting.
fn present(host: &dyn Host, setting: &Setting) -> Option<String> {
    if setting.path.is_empty() {
        return None;
    }
    // Some settings can only be written.
    let Ok(text) = text(host, &setting.path) else { return Some(String::new()) };
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let chosen = |text: &str| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned());
    text.map(|text| if setting.is_choice { chosen(&text).unwrap_or(words(text)) } else { words(text) })
}
