//! Which disk becomes what: decided as a whole before anything is touched.
//!
//! Takes the rules, the disks and the record; gives one [`Assignment`] for each disk, or the reason why the node
//! touches none. A rule holds only where exactly as many disks match as it says; a disk with content that is not this
//! rule's own is taken only where its serial number is listed. A disk that this node finished once is never made again,
//! listed or not and whatever it looks like now, until someone gives it up by hand ([`super::release()`]).
//!
//! A claimed disk is recognised by the UUID of what is on it. That is a version 5 UUID of the rule's name, the disk's
//! number and the disk's own name (WWN or serial number), so that another image, without any record, recognises it too.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::DiskError;
use super::content::{Content, inspect};
use super::inventory::DiskInfo;
use super::record::{Record, State};
use crate::config::{Disk, DiskMatch, Machine, Serial};
use crate::host::Host;

/// Under which UUIDs of disks are made.
const NAMESPACE: Uuid = Uuid::from_u128(0x6fd1_4c0e_97a5_4d1c_9b1e_3c52_8e0a_74d9);

/// What a disk is claimed for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose<'a> {
    /// Data.
    Data(&'a Disk),
    /// Swap space.
    Swap,
}

/// A rule, whatever it is for.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// Its name.
    pub name: &'a str,
    /// Which disks.
    pub matches: &'a DiskMatch,
    /// How many.
    pub count: usize,
    /// Whose content may be destroyed.
    pub wipe: &'a [Serial],
    /// Whose content is taken over.
    pub adopt: &'a [Serial],
    /// What for.
    pub purpose: Purpose<'a>,
}

impl Rule<'_> {
    /// What its disks have on them.
    pub fn filesystem(&self) -> &'static str {
        match self.purpose {
            Purpose::Data(disk) => disk.filesystem.name(),
            Purpose::Swap => "swap",
        }
    }

    /// Whether its disks are encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.purpose, Purpose::Data(disk) if disk.encrypt.is_some())
    }
}

/// What is done with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it is the rule's own and finished.
    Use,
    /// It is made; `destroy` where something is on it.
    Make {
        /// Whether something is on it: the claim's own unfinished work, or what may be destroyed.
        destroy: bool,
    },
    /// Its filesystem is taken over.
    Adopt,
}

/// A disk and what becomes of it.
#[derive(Debug, Clone)]
pub struct Assignment<'a> {
    /// The rule.
    pub rule: Rule<'a>,
    /// The disk's number within the rule, from 0.
    pub number: usize,
    /// The disk.
    pub disk: DiskInfo,
    /// What it is known by.
    pub identity: String,
    /// The UUID of the filesystem or swap space.
    pub uuid: Uuid,
    /// What is done.
    pub action: Action,
}

/// The UUID of a disk's filesystem.
pub fn data_uuid(rule: &str, number: usize, identity: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, format!("data\n{rule}\n{number}\n{identity}").as_bytes())
}

/// The UUID of a disk's LUKS header.
pub fn luks_uuid(rule: &str, number: usize, identity: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, format!("luks\n{rule}\n{number}\n{identity}").as_bytes())
}

/// A matching disk, its number where it has one, and what is done with it.
struct Candidate {
    disk: DiskInfo,
    identity: String,
    number: Option<usize>,
    uuid: Option<Uuid>,
    action: Action,
}

/// Decides for all rules.
///
/// # Errors
/// The first rule that does not hold; nothing was touched.
pub fn decide<'a>(
    host: &dyn Host,
    rules: &[Rule<'a>],
    disks: &[DiskInfo],
    record: &Record,
    machine: &Machine,
) -> Result<Vec<Assignment<'a>>, DiskError> {
    let mut assignments: Vec<Assignment<'a>> = Vec::new();
    for rule in rules {
        let found = candidates(host, rule, disks, record, machine)?;
        for candidate in &found {
            let same = |other: &Assignment<'_>| other.disk.name == candidate.disk.name;
            if let Some(other) = assignments.iter().find(|other| same(other)) {
                let (first, second) = (other.rule.name.to_owned(), rule.name.to_owned());
                return Err(DiskError::Contested { disk: candidate.disk.to_string(), first, second });
            }
        }
        assignments.extend(number(rule, found)?);
    }
    Ok(assignments)
}

fn candidates(
    host: &dyn Host,
    rule: &Rule<'_>,
    disks: &[DiskInfo],
    record: &Record,
    machine: &Machine,
) -> Result<Vec<Candidate>, DiskError> {
    let (mut found, mut excluded) = (Vec::new(), Vec::new());
    let mut problems = Vec::new();
    for disk in disks.iter().filter(|disk| disk.is_meant(rule.matches)) {
        let (identity, strong) = disk.identity(machine);
        let content = inspect(disk.bytes, |offset, length| host.read_device(&disk.node(), offset, length))?;
        let own = own_number(rule, &identity, &content, record);
        // A claimed disk is in use by its own mount.
        if let (Some(reason), None) = (&disk.taken, own) {
            excluded.push(format!("{disk} not, because {reason}"));
            continue;
        }
        match judge(rule, disk, (&identity, strong), &content, own, record) {
            Ok((action, uuid)) => found.push(Candidate { disk: disk.clone(), identity, number: own, uuid, action }),
            // All that match count, also those that cannot be taken: a rule says how many there are.
            Err(problem) => {
                problems.push(problem);
                found.push(Candidate { disk: disk.clone(), identity, number: None, uuid: None, action: Action::Use });
            }
        }
    }
    let wanted = rule.count;
    if found.len() != wanted {
        let mut seen: Vec<String> = found.iter().map(|candidate| candidate.disk.to_string()).collect();
        seen.append(&mut excluded);
        let free = |disk: &&DiskInfo| !disk.is_meant(rule.matches) && disk.taken.is_none();
        let others: Vec<String> = disks.iter().filter(free).map(ToString::to_string).collect();
        if seen.is_empty() {
            seen.push("none".to_owned());
        }
        if !others.is_empty() {
            seen.push(format!("others that are free: {}", others.join("; ")));
        }
        let (rule, matches) = (rule.name.to_owned(), rule.matches.to_string());
        let (found, seen) = (found.len(), seen.join("; "));
        return Err(DiskError::Count { rule, matches, wanted, found, seen });
    }
    if let Some(problem) = problems.into_iter().next() {
        return Err(problem);
    }
    let mut names = BTreeMap::new();
    for candidate in &found {
        if let Some(other) = names.insert(candidate.identity.clone(), candidate.disk.to_string()) {
            return Err(DiskError::Twins { first: other, second: candidate.disk.to_string() });
        }
    }
    Ok(found)
}

/// The number of a disk that is this rule's already.
fn own_number(rule: &Rule<'_>, identity: &str, content: &Content, record: &Record) -> Option<usize> {
    let Content::Marked { uuid, .. } = content else { return None };
    let made = |number: &usize| {
        *uuid == data_uuid(rule.name, *number, identity) || *uuid == luks_uuid(rule.name, *number, identity)
    };
    let adopted = record.of(identity).filter(|claim| claim.rule == rule.name && claim.uuid == *uuid);
    (0..512).find(made).or(adopted.map(|claim| claim.number))
}

/// What is done with a disk that matches.
fn judge(
    rule: &Rule<'_>,
    disk: &DiskInfo,
    (identity, strong): (&str, bool),
    content: &Content,
    own: Option<usize>,
    record: &Record,
) -> Result<(Action, Option<Uuid>), DiskError> {
    let claim = record.of(identity);
    let unfinished = claim.is_some_and(|claim| claim.state == State::Making);
    let listed = |serials: &[Serial]| serials.iter().any(|serial| disk.has_serial(serial));
    let refused = |why: String| DiskError::Foreign { rule: rule.name.to_owned(), disk: disk.to_string(), why };
    // Known by its place alone it may be another disk by now; then only what is certainly worthless is taken.
    if unfinished && (strong || own.is_some() || *content == Content::Blank) {
        return Ok((Action::Make { destroy: *content != Content::Blank }, None));
    }
    // Somebody has said on the node that its data may go, and the list says that it may be destroyed: it need not be of
    // any use any more, such as one whose key went with the mainboard.
    if record.given_up.contains(identity) && listed(rule.wipe) && disk.taken.is_none() {
        return Ok((Action::Make { destroy: *content != Content::Blank }, None));
    }
    if own.is_some()
        && let Content::Marked { kind, uuid, .. } = content
    {
        let expected = if rule.is_encrypted() { "luks" } else { rule.filesystem() };
        if *kind == expected {
            return Ok((Action::Use, Some(*uuid).filter(|_| *kind != "luks")));
        }
        let why = format!(
            "holds this rule's data as {kind}, and the rule now says {expected}: write {kind} again; to begin anew, list the serial number under wipe and run `{}`",
            disk.release_command()
        );
        return Err(refused(why));
    }
    let finished = record.was_finished(identity);
    // A list stays in the configuration for ever; it means what the disk held before this node had it.
    if listed(rule.wipe) && !finished {
        return Ok((Action::Make { destroy: *content != Content::Blank }, None));
    }
    if listed(rule.adopt) {
        return match content {
            Content::Marked { kind, uuid, beside: None } if *kind == rule.filesystem() => {
                Ok((Action::Adopt, Some(*uuid)))
            }
            other => Err(refused(format!("is listed under adopt and holds {other}, not {}", rule.filesystem()))),
        };
    }
    let given_up = format!("if its data is given up, run `{}`", disk.release_command());
    match content {
        // One whose number another disk has since was replaced; empty, it is as good as any other.
        Content::Blank if claim.is_some_and(|claim| claim.state == State::Ready) => {
            Err(refused(format!("held this node's data and is empty now: find out why; {given_up}")))
        }
        Content::Blank => Ok((Action::Make { destroy: false }, None)),
        other if finished => {
            let of = claim.map(|claim| format!(" for [[disk]] {}", claim.rule)).unwrap_or_default();
            Err(refused(format!(
                "held this node's data{of} and holds {other} now: find out why; it is not made anew, also where wipe lists it; {given_up}, and list its serial number under wipe"
            )))
        }
        other => {
            let how = match disk.serial {
                Some(_) => "list its serial number under wipe",
                None => "clear it by hand (it has no serial number that could be listed under wipe)",
            };
            Err(refused(format!("holds {other}: if that may be destroyed, {how}")))
        }
    }
}

/// Gives every disk its number: its own where it has one, else the lowest free one, in the order of the rule's list or
/// of the places of the disks.
fn number<'a>(rule: &Rule<'a>, mut found: Vec<Candidate>) -> Result<Vec<Assignment<'a>>, DiskError> {
    let mut taken = BTreeMap::new();
    for candidate in &found {
        if let Some(number) = candidate.number
            && let Some(other) = taken.insert(number, candidate.disk.to_string())
        {
            let (first, second) = (other, candidate.disk.to_string());
            return Err(DiskError::SameNumber { rule: rule.name.to_owned(), number, first, second });
        }
    }
    let place = |disk: &DiskInfo| {
        let link = disk.links.iter().find(|link| link.starts_with("/dev/disk/by-path/")).cloned();
        (disk.place_in(rule.matches), link.unwrap_or_default(), disk.name.len(), disk.name.clone())
    };
    found.sort_by_key(|candidate| place(&candidate.disk));
    let mut free = (0..).filter(|number| !taken.contains_key(number));
    let assign = |candidate: Candidate| {
        let number = candidate.number.or_else(|| free.next()).unwrap_or_default();
        let uuid = candidate.uuid.unwrap_or_else(|| data_uuid(rule.name, number, &candidate.identity));
        let Candidate { disk, identity, action, .. } = candidate;
        Assignment { rule: *rule, number, disk, identity, uuid, action }
    };
    Ok(found.into_iter().map(assign).collect())
}
