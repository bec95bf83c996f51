//! Data disks and swap: claimed once, recognised for ever, never formatted twice.
//!
//! Takes the `[[disk]]` and `[swap]` of a valid configuration; gives mounted disks and a description of them. Works at
//! every boot from the beginning: a disk that is finished is only looked at, a blank one that took the place of a
//! broken one is made.
//!
//! ```text
//! inventory → decide (all rules, nothing touched) → record → make → verify → record → units → mounted
//! ```
//!
//! Everything may be cut at any instant. Before the first byte of a disk is written its claim is on the state
//! partition as unfinished; once its filesystem was read back it is there as finished. A finished disk is never made
//! again, also where `wipe` lists it and its content is damaged, until it is given up by hand; an unfinished one always.

pub mod claim;
pub mod content;
pub mod inventory;
mod make;
pub mod plan;
pub mod record;
mod release;
mod swap;
#[cfg(test)]
mod tests;
pub mod units;

pub use release::{ReleaseError, release};

use std::time::Duration;

use thiserror::Error;

use crate::config::{Disk, Machine, Swap};
use crate::host::{Host, HostError};

use claim::{Action, Assignment, Purpose, Rule, decide};
use record::{Claim, Record, State};

/// How long systemd may take to mount a disk: a large XFS that was not unmounted replays its log.
const MOUNT_PATIENCE: Duration = Duration::from_mins(5);
/// How long anything else may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// Disks are not what the configuration says.
#[derive(Debug, Error)]
pub enum DiskError {
    /// The machine did not do what it was told.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Another number of disks matches than the rule says.
    #[error("[[disk]] {rule}: {found} disks match ({matches}), and it must be {wanted}; seen: {seen}")]
    Count {
        /// The rule.
        rule: String,
        /// What it looks for.
        matches: String,
        /// How many there must be.
        wanted: usize,
        /// How many there are.
        found: usize,
        /// Which, which not and why, and what else is free.
        seen: String,
    },
    /// A disk holds something that is not the rule's.
    #[error("[[disk]] {rule}: {disk} {why}")]
    Foreign {
        /// The rule.
        rule: String,
        /// The disk.
        disk: String,
        /// What it holds, and what to do.
        why: String,
    },
    /// Two rules match one disk.
    #[error("{disk} matches both {first} and {second}: make the rules narrower")]
    Contested {
        /// The disk.
        disk: String,
        /// One rule.
        first: String,
        /// The other.
        second: String,
    },
    /// Two disks cannot be told apart.
    #[error(
        "{first} and {second} have the same name of their own: one disk on two paths is not supported, and equal serial numbers must be mended"
    )]
    Twins {
        /// One disk.
        first: String,
        /// The other.
        second: String,
    },
    /// Two disks of a rule have one number: one was replaced and came back.
    #[error("[[disk]] {rule}: {first} and {second} are both number {number}: take out the one that was replaced")]
    SameNumber {
        /// The rule.
        rule: String,
        /// The number.
        number: usize,
        /// One disk.
        first: String,
        /// The other.
        second: String,
    },
    /// The image lacks a program.
    #[error("the image has no {program}, which [[disk]] {rule} needs: put \"{}\" into the role's `extends`", make::part_of(.program))]
    NoProgram {
        /// The rule.
        rule: String,
        /// The program.
        program: &'static str,
    },
    /// Something began to use the disk.
    #[error("{0} is in use, though nothing shows by whom: look at `lsblk` and `dmsetup ls`")]
    Busy(String),
    /// What was made does not read back.
    #[error("{disk} was made and does not read back: it has {content}; the disk may be failing")]
    NotWritten {
        /// The disk.
        disk: String,
        /// What is on it.
        content: String,
    },
    /// There is no place to mount it.
    #[error(
        "[[disk]] {rule}: {path} cannot be made ({source}): the root is read-only; put its first directory into `persist` of the role, as parts/data-disks does for /data"
    )]
    NoMountPoint {
        /// The rule.
        rule: String,
        /// The path.
        path: String,
        /// What the kernel said.
        source: Box<HostError>,
    },
    /// The key of an encrypted disk is gone.
    #[error(
        "[[disk]] {rule}: {disk} is encrypted, and its key {path} is not on this state partition: put it back; to give its data up, list its serial number under wipe and run `{release}`"
    )]
    NoKey {
        /// The rule.
        rule: String,
        /// The disk.
        disk: String,
        /// Where its key was.
        path: String,
        /// What gives the disk up.
        release: String,
    },
    /// The TPM does not have the key of an encrypted disk, or does not give it.
    #[error(
        "[[disk]] {rule}: {disk} stays locked: the TPM does not give its key, as after a new mainboard, a cleared TPM or changed Secure Boot keys (`journalctl -b -u {unit}` says why; {source}); put back what was, or, to give its data up, list its serial number under wipe and run `{release}`"
    )]
    Locked {
        /// The rule.
        rule: String,
        /// The disk.
        disk: String,
        /// The unit that should have opened it.
        unit: String,
        /// What gives the disk up.
        release: String,
        /// What systemd said.
        source: Box<HostError>,
    },
    /// A disk does not mount.
    #[error(
        "[[disk]] {rule}: {disk} does not mount: {source}; `journalctl -b -u {unit}` says why; it is not made anew"
    )]
    Mount {
        /// The rule.
        rule: String,
        /// The disk and where it belongs.
        disk: String,
        /// The unit.
        unit: String,
        /// What systemd said.
        source: Box<HostError>,
    },
    /// The swap file has no room.
    #[error("[swap]: {0}")]
    Swap(String),
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// One line for each disk: what it is and where.
    pub disks: Vec<String>,
    /// How many were made just now.
    pub made: usize,
}

/// Whether there is anything to do, or to undo.
pub fn is_needed(host: &dyn Host, disks: &[Disk], swap: Option<&Swap>) -> bool {
    !disks.is_empty() || swap.is_some() || host.exists(record::RECORD)
}

/// The rules of a configuration.
pub fn rules<'a>(disks: &'a [Disk], swap: Option<&'a Swap>) -> Vec<Rule<'a>> {
    let data = disks.iter().map(|disk| Rule {
        name: disk.name.as_str(),
        matches: &disk.matches,
        count: disk.count,
        wipe: &disk.wipe,
        adopt: &disk.adopt,
        purpose: Purpose::Data(disk),
    });
    let swap = match swap {
        Some(Swap::Disk { matches, wipe }) => {
            Some(Rule { name: "swap", matches, count: 1, wipe, adopt: &[], purpose: Purpose::Swap })
        }
        _ => None,
    };
    data.chain(swap).collect()
}

/// Holds back the units that need the disks until the disks were settled once. In the next boots their mounts are enough.
/// Without this, a boot after a failed one would start them on empty directories.
///
/// # Errors
/// The files cannot be written.
pub fn hold_back(host: &dyn Host, disks: &[Disk]) -> Result<(), DiskError> {
    let rules = units::rules_text(disks);
    if host.exists(units::SETTLED) && host.read(units::SETTLED, 1 << 20)?.as_deref() != Some(rules.as_bytes()) {
        host.remove(units::SETTLED)?;
    }
    let gates = units::gates(disks);
    let mut record = Record::load(host)?;
    let missing: Vec<_> = gates.iter().filter(|(path, _)| !host.exists(path)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let unknown = gates.keys().filter(|path| !record.files.contains(path)).cloned().collect::<Vec<_>>();
    if !unknown.is_empty() {
        record.files.extend(unknown);
        record.save(host)?;
    }
    for (path, text) in missing {
        host.write(path, text.as_bytes(), 0o644)?;
    }
    host.run("systemctl", &["daemon-reload"], PATIENCE)?;
    Ok(())
}

/// What the rules mean for a machine, in words, before anything is done.
pub fn describe(disks: &[Disk], swap: Option<&Swap>) -> Vec<String> {
    let mut lines: Vec<String> = disks
        .iter()
        .map(|disk| {
            let encrypted = if disk.encrypt.is_some() { ", encrypted" } else { "" };
            let (count, name) = (disk.count, disk.filesystem.name());
            format!("disk {}: {count} with {}: {name}{encrypted} on {}", disk.name, disk.matches, disk.mount)
        })
        .collect();
    lines.extend(swap.map(|swap| match swap {
        Swap::File(crate::config::SwapSize::Bytes(bytes)) => format!("swap: a file of {bytes}"),
        Swap::File(crate::config::SwapSize::Share(share)) => format!("swap: a file of {share}"),
        Swap::Disk { matches, .. } => format!("swap: the disk with {matches}"),
    }));
    lines
}

/// Makes the machine's disks what the configuration says.
///
/// # Errors
/// All of [`DiskError`]. It may be called again, and then goes on where it was.
pub fn settle(host: &dyn Host, disks: &[Disk], swap: Option<&Swap>, machine: &Machine) -> Result<Settled, DiskError> {
    let mut record = Record::load(host)?;
    let rules = rules(disks, swap);
    let present = if rules.is_empty() { Vec::new() } else { inventory::disks(host)? };
    let assignments = decide(host, &rules, &present, &record, machine)?;
    prepare(host, &assignments)?;
    for assignment in assignments.iter().filter(|assignment| matches!(assignment.action, Action::Make { .. })) {
        make::make(host, &mut record, assignment)?;
    }
    let swap_file = swap::file(host, &mut record, swap)?;
    let before = record.clone();
    for assignment in &assignments {
        record.put(claim_of(assignment, State::Ready));
    }
    let named = |claim: &Claim| rules.iter().any(|rule| rule.name == claim.rule);
    // A claim whose disk is gone stays: should the disk come back empty, that is known. One without a rule goes only
    // as far as its units; its disk keeps its data and its UUID.
    record.claims.retain(|claim| named(claim) || claim.state == State::Ready);
    if record != before {
        record.save(host)?;
    }
    let mut wanted = units::files(host, &assignments, swap_file)?;
    wanted.extend(units::gates(disks));
    if units::write(host, &mut record, &wanted)? {
        host.run("systemctl", &["daemon-reload"], PATIENCE)?;
    }
    for assignment in &assignments {
        start(host, &mut record, assignment)?;
    }
    swap::start(host, swap_file)?;
    units::mark_settled(host, disks)?;
    let made = assignments.iter().filter(|assignment| matches!(assignment.action, Action::Make { .. })).count();
    Ok(Settled { disks: assignments.iter().map(line).collect(), made })
}

/// What can be known to fail is known before a disk is touched.
fn prepare(host: &dyn Host, assignments: &[Assignment<'_>]) -> Result<(), DiskError> {
    for assignment in assignments {
        let Rule { name, purpose, .. } = assignment.rule;
        let no_program = |program| DiskError::NoProgram { rule: name.to_owned(), program };
        if let Purpose::Data(disk) = purpose {
            let path = disk.mount.of(assignment.number);
            if !host.exists(&path) {
                let failed = |source| DiskError::NoMountPoint {
                    rule: name.to_owned(),
                    path: path.clone(),
                    source: Box::new(source),
                };
                host.make_directory(&path).map_err(failed)?;
            }
            make::tools_of(host, disk, assignment.action).map_err(no_program)?;
        }
        if let Action::Make { .. } = assignment.action {
            let busy = host.is_busy(&assignment.disk.node())? && !make::is_own_mapping(host, assignment);
            if busy {
                return Err(DiskError::Busy(assignment.disk.to_string()));
            }
        }
    }
    Ok(())
}

fn claim_of(assignment: &Assignment<'_>, state: State) -> Claim {
    let (encrypted, mount) = match assignment.rule.purpose {
        Purpose::Data(disk) => (make::encryption_name(disk), disk.mount.of(assignment.number)),
        Purpose::Swap => ("", String::new()),
    };
    Claim {
        rule: assignment.rule.name.to_owned(),
        number: assignment.number,
        identity: assignment.identity.clone(),
        disk: assignment.disk.to_string(),
        filesystem: assignment.rule.filesystem().to_owned(),
        uuid: assignment.uuid,
        encrypted: encrypted.to_owned(),
        mount,
        state,
    }
}

fn line(assignment: &Assignment<'_>) -> String {
    let place = match assignment.rule.purpose {
        Purpose::Data(disk) => disk.mount.of(assignment.number),
        Purpose::Swap => "swap".to_owned(),
    };
    let how = match assignment.action {
        Action::Use => "",
        Action::Make { .. } => ", made",
        Action::Adopt => ", taken over",
    };
    format!("{place}: {}{how}", assignment.disk)
}

/// Has a disk mounted, or swapped to.
fn start(host: &dyn Host, record: &mut Record, assignment: &Assignment<'_>) -> Result<(), DiskError> {
    let Rule { name, purpose, .. } = assignment.rule;
    let Purpose::Data(disk) = purpose else {
        record.keep(host, &assignment.identity)?;
        let device = units::device(assignment);
        let unit = units::escape_path(&device) + ".swap";
        if !swap::is_active(host, &[device, assignment.disk.node()])? {
            host.run("systemctl", &["start", &unit], PATIENCE)?;
        }
        return Ok(());
    };
    let path = disk.mount.of(assignment.number);
    if units::is_mounted(host, &path)? {
        record.keep(host, &assignment.identity)?;
        return Ok(());
    }
    let unit = units::escape_path(&path) + ".mount";
    let failed = |unit: &str| {
        let (rule, unit, disk) = (name.to_owned(), unit.to_owned(), format!("{} for {path}", assignment.disk));
        move |source| DiskError::Mount { rule, disk, unit, source: Box::new(source) }
    };
    if disk.encrypt.is_some() {
        make::unlock(host, assignment, disk, failed)?;
    }
    record.keep(host, &assignment.identity)?;
    host.run("systemctl", &["start", &unit], MOUNT_PATIENCE).map_err(failed(&unit))?;
    Ok(())
}
