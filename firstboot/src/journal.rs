//! The durable journal: what was begun and what was done, so that a power cut at any instant loses nothing and
//! repeats nothing that must not be repeated.
//!
//! One record per line: a checksum (the first 16 hex digits of the SHA-256 of the rest of the line), a blank, JSON
//! with a number that counts up by one. A record is flushed to the disk before what it announces is begun, and
//! after what it reports is done. Reading stops at the first record that is not whole, has a wrong checksum or a
//! number out of order, and the file is cut there: the steps behind are repeated, which every step allows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::host::{Host, HostError};
use crate::status::Code;

/// Where the journal lies.
pub const JOURNAL: &str = "/var/lib/ingot/journal";

/// The name under which leaving a cluster is announced, like a step, until the node has left.
pub const LEAVING: &str = "leave";

const MAXIMUM_BYTES: u64 = 64 * 1024 * 1024;

/// The journal cannot be kept.
#[derive(Debug, Error)]
#[error("the journal {JOURNAL}: {0}")]
pub struct JournalError(#[from] HostError);

impl JournalError {
    /// The status code that says more than that the journal cannot be kept.
    pub fn storage(&self) -> Option<Code> {
        self.0.storage()
    }
}

/// The hash of everything that a step depends on; the step is done again when it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs(String);

impl Inputs {
    /// Of a step's inputs, each with its length.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(crate::rendezvous::to_hex(&hash.finalize()))
    }
}

impl std::fmt::Display for Inputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A step begins.
    Begin {
        /// The step's name.
        step: String,
        /// What it depends on.
        inputs: Inputs,
    },
    /// A step is done.
    Done {
        /// The step's name.
        step: String,
        /// What it depended on.
        inputs: Inputs,
    },
    /// The node is a member of its cluster (or has none to join); from now on its configuration is sealed.
    Joined {
        /// The driver, or `none`.
        driver: String,
        /// The node's identity in the cluster.
        node: String,
        /// Whether the seal is left open, because a medium that may say something else cannot be read.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        open: bool,
    },
    /// Somebody who is root has lifted the seal; what the node has joined it stays in, and one that has left may join.
    Unsealed,
    /// The node has left its cluster by command. It does not join again with the configuration that it left with,
    /// and is no longer sealed against another. Announced before as the step [`LEAVING`].
    Left {
        /// The configuration.
        inputs: Inputs,
    },
}

impl Event {
    /// Whether the node is sealed after it; `None` where that stays as it is.
    fn seals(&self) -> Option<bool> {
        match self {
            Event::Joined { open, .. } => Some(!open),
            Event::Unsealed | Event::Left { .. } => Some(false),
            Event::Begin { .. } | Event::Done { .. } => None,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Record {
    number: u64,
    time: u64,
    #[serde(flatten)]
    event: Event,
}

/// The journal of this node.
pub struct Journal<'a> {
    host: &'a dyn Host,
    next: u64,
    length: u64,
    begun: Option<(String, Inputs)>,
    /// Steps that were begun and not done since.
    open: BTreeMap<String, Inputs>,
    done: BTreeMap<String, Inputs>,
    joined: Option<(String, String)>,
    sealed: bool,
    left: Option<Inputs>,
    /// How many bytes at the end could not be read and were cut off.
    pub cut_off: u64,
}

impl<'a> Journal<'a> {
    /// Reads the journal and cuts off what a power cut left unfinished.
    ///
    /// # Errors
    /// The file cannot be read or cut.
    pub fn open(host: &'a dyn Host) -> Result<Self, JournalError> {
        let bytes = host.read(JOURNAL, MAXIMUM_BYTES)?.unwrap_or_default();
        let (events, whole) = read(&bytes);
        let cut_off = bytes.len() as u64 - whole;
        if cut_off > 0 {
            host.truncate(JOURNAL, whole)?;
        }
        let mut journal = Self {
            host,
            next: events.len() as u64,
            length: whole,
            begun: None,
            open: BTreeMap::new(),
            done: BTreeMap::new(),
            joined: None,
            sealed: false,
            left: None,
            cut_off,
        };
        for event in events {
            journal.apply(event);
        }
        Ok(journal)
    }

    fn apply(&mut self, event: Event) {
        self.sealed = event.seals().unwrap_or(self.sealed);
        match event {
            // A step that was begun again is not done, whatever it was before.
            Event::Begin { step, inputs } => {
                self.done.remove(&step);
                self.open.insert(step.clone(), inputs.clone());
                self.begun = Some((step, inputs));
            }
            Event::Done { step, inputs } => {
                self.begun = None;
                self.open.remove(&step);
                self.done.insert(step, inputs);
            }
            Event::Joined { driver, node, .. } => {
                self.joined = Some((driver, node));
                self.left = None;
            }
            Event::Unsealed => self.left = None,
            Event::Left { inputs } => {
                self.open.remove(LEAVING);
                self.joined = None;
                self.left = Some(inputs);
            }
        }
    }

    /// Announces a step; when this returns, that is on the disk. A step that is tried again and again is announced
    /// once, so that the journal does not grow with every attempt.
    ///
    /// # Errors
    /// The record could not be written.
    pub fn begin(&mut self, step: &str, inputs: &Inputs) -> Result<(), JournalError> {
        if self.begun.as_ref().is_some_and(|begun| begun.0 == step && begun.1 == *inputs) {
            return Ok(());
        }
        self.record(Event::Begin { step: step.to_owned(), inputs: inputs.clone() })
    }

    /// Adds a record; when this returns, it is on the disk.
    ///
    /// # Errors
    /// The record could not be written.
    pub fn record(&mut self, event: Event) -> Result<(), JournalError> {
        let line = line(&Record { number: self.next, time: self.host.now(), event: event.clone() });
        if let Err(error) = self.host.append(JOURNAL, line.as_bytes()) {
            // A full disk may have taken a part of the record; the next one must not come after it.
            let _ = self.host.truncate(JOURNAL, self.length);
            return Err(error.into());
        }
        self.length += line.len() as u64;
        self.next += 1;
        self.apply(event);
        Ok(())
    }

    /// True where the step was done with these inputs and not begun since.
    pub fn is_done(&self, step: &str, inputs: &Inputs) -> bool {
        self.done.get(step) == Some(inputs)
    }

    /// True where leaving was announced, and the node has not left since: the power failed meanwhile.
    pub fn is_leaving(&self) -> bool {
        self.open.contains_key(LEAVING)
    }

    /// True where the node has left its cluster with this configuration.
    pub fn has_left(&self, inputs: &Inputs) -> bool {
        self.left.as_ref() == Some(inputs)
    }

    /// True where the node has left its cluster, and is to stay out.
    pub fn is_out(&self) -> bool {
        self.left.is_some()
    }

    /// True where the step was begun with these inputs and not done since: it was cut off, or it failed.
    pub fn is_open(&self, step: &str, inputs: &Inputs) -> bool {
        self.open.get(step) == Some(inputs)
    }

    /// True where the step was ever begun, with whatever inputs.
    pub fn knows(&self, step: &str) -> bool {
        self.done.contains_key(step) || self.open.contains_key(step)
    }

    /// The driver and the node's identity, once it has joined.
    pub fn joined(&self) -> Option<(&str, &str)> {
        self.joined.as_ref().map(|(driver, node)| (driver.as_str(), node.as_str()))
    }
}

impl Journal<'_> {
    /// True once the node has joined, until somebody lifts the seal.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// The same from the file alone, for a process beside the service: nothing is cut off, what the service is just
    /// writing is only not read yet.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn says_sealed(host: &dyn Host) -> Result<bool, JournalError> {
        let (events, _) = read(&host.read(JOURNAL, MAXIMUM_BYTES)?.unwrap_or_default());
        Ok(events.iter().rev().find_map(Event::seals).unwrap_or(false))
    }
}

fn checksum(text: &str) -> String {
    let mut digits = crate::rendezvous::to_hex(&Sha256::digest(text.as_bytes()));
    digits.truncate(16);
    digits
}

fn line(record: &Record) -> String {
    // A record is a number, a number and texts: nothing of it can fail to become JSON.
    #[allow(clippy::expect_used)]
    let json = serde_json::to_string(record).expect("a record is plain data");
    format!("{} {json}\n", checksum(&json))
}

/// The events of all whole records from the beginning, and how many bytes they take.
fn read(bytes: &[u8]) -> (Vec<Event>, u64) {
    let mut events = Vec::new();
    let mut whole = 0;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let parsed = line
            .strip_suffix(b"\n")
            .and_then(|line| std::str::from_utf8(line).ok())
            .and_then(|line| line.split_once(' '))
            .filter(|(sum, json)| checksum(json) == **sum)
            .and_then(|(_, json)| serde_json::from_str::<Record>(json).ok())
            .filter(|record| record.number == events.len() as u64);
        let Some(record) = parsed else { break };
        events.push(record.event);
        whole += line.len() as u64;
    }
    (events, whole)
}

/// Reads any bytes as a journal, for fuzzing: as they are, and with the checksums put right, which no fuzzer guesses.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let bodies = text.lines().map(|line| line.split_once(' ').map_or(line, |(_, json)| json));
    let summed: String = bodies.map(|json| format!("{} {json}\n", checksum(json))).collect();
    for bytes in [bytes, summed.as_bytes()] {
        let (events, whole) = read(bytes);
        let kept = usize::try_from(whole).ok().and_then(|end| bytes.get(..end));
        assert!(kept.is_some_and(|kept| kept.is_empty() || kept.ends_with(b"\n")));
        assert_eq!(read(kept.unwrap_or_default()), (events.clone(), whole));
        let records = (0..).zip(events).map(|(number, event)| line(&Record { number, time: 0, event }));
        let rewritten: String = records.collect();
        assert_eq!(read(rewritten.as_bytes()).1, rewritten.len() as u64, "{rewritten}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::RealHost;

    fn begin(step: &str) -> Event {
        Event::Begin { step: step.into(), inputs: Inputs::of([step.as_bytes()]) }
    }

    fn done(step: &str) -> Event {
        Event::Done { step: step.into(), inputs: Inputs::of([step.as_bytes()]) }
    }

    #[test]
    fn what_is_recorded_is_known_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let host = RealHost::new(directory.path());
        let mut journal = Journal::open(&host).unwrap();
        journal.record(begin("a")).unwrap();
        journal.record(done("a")).unwrap();
        journal.record(begin("b")).unwrap();
        journal.record(Event::Joined { driver: "docker-swarm".into(), node: "n1".into(), open: false }).unwrap();
        let inputs = Inputs::of([&b"c"[..]]);
        journal.record(Event::Left { inputs: inputs.clone() }).unwrap();
        assert!(journal.has_left(&inputs) && journal.joined().is_none());
        journal.record(Event::Joined { driver: "docker-swarm".into(), node: "n1".into(), open: false }).unwrap();
        let journal = Journal::open(&host).unwrap();
        assert!(!journal.has_left(&inputs));
        assert!(journal.is_done("a", &Inputs::of([&b"a"[..]])));
        assert!(!journal.is_done("a", &Inputs::of([&b"other"[..]])));
        assert!(!journal.is_done("b", &Inputs::of([&b"b"[..]])));
        assert_eq!(journal.joined(), Some(("docker-swarm", "n1")));
        assert_eq!(journal.cut_off, 0);
        assert!(journal.is_sealed() && Journal::says_sealed(&host).unwrap());
        Journal::open(&host).unwrap().record(Event::Unsealed).unwrap();
        let journal = Journal::open(&host).unwrap();
        assert!(!journal.is_sealed() && journal.joined().is_some() && !Journal::says_sealed(&host).unwrap());
        let joined = Event::Joined { driver: "docker-swarm".into(), node: "n1".into(), open: false };
        for event in [joined, Event::Left { inputs }] {
            Journal::open(&host).unwrap().record(event).unwrap();
        }
        assert!(!Journal::open(&host).unwrap().is_sealed() && !Journal::says_sealed(&host).unwrap());
    }

    #[test]
    fn repeated_attempts_are_announced_once() {
        let directory = tempfile::tempdir().unwrap();
        let host = RealHost::new(directory.path());
        let (one, two) = (Inputs::of([&b"1"[..]]), Inputs::of([&b"2"[..]]));
        for _ in 0..3 {
            Journal::open(&host).unwrap().begin("a", &one).unwrap();
        }
        let mut journal = Journal::open(&host).unwrap();
        assert_eq!(journal.next, 1);
        journal.begin("a", &two).unwrap();
        journal.record(Event::Done { step: "a".into(), inputs: two.clone() }).unwrap();
        journal.begin("a", &two).unwrap();
        assert_eq!(journal.next, 4);
    }

    #[test]
    fn a_torn_tail_of_every_length_is_cut_off_and_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let host = RealHost::new(directory.path());
        let mut journal = Journal::open(&host).unwrap();
        journal.record(done("a")).unwrap();
        let first = host.read(JOURNAL, 9999).unwrap().unwrap();
        journal.record(done("b")).unwrap();
        let whole = host.read(JOURNAL, 9999).unwrap().unwrap();
        for length in first.len()..whole.len() {
            host.write(JOURNAL, &whole[..length], 0o600).unwrap();
            let mut journal = Journal::open(&host).unwrap();
            assert!(journal.is_done("a", &Inputs::of([&b"a"[..]])) && !journal.is_done("b", &Inputs::of([&b"b"[..]])));
            journal.record(done("c")).unwrap();
            let journal = Journal::open(&host).unwrap();
            assert_eq!(journal.cut_off, 0);
            assert!(journal.is_done("c", &Inputs::of([&b"c"[..]])));
        }
    }

    proptest::proptest! {
        #[test]
        fn a_flipped_bit_costs_only_what_comes_after_it(position in 0_usize..400, bit in 0_u8..8) {
            let mut bytes = Vec::new();
            let mut ends = Vec::new();
            for (number, step) in ["a", "b", "c", "d"].into_iter().enumerate() {
                let record = Record { number: number as u64, time: 7, event: done(step) };
                bytes.extend_from_slice(line(&record).as_bytes());
                ends.push(bytes.len());
            }
            let position = position % bytes.len();
            bytes[position] ^= 1 << bit;
            let (events, whole) = read(&bytes);
            let untouched = ends.iter().filter(|end| **end <= position).count();
            proptest::prop_assert_eq!(events.len(), untouched);
            proptest::prop_assert!(whole <= position as u64);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            let (_, whole) = read(&bytes);
            proptest::prop_assert!(whole <= bytes.len() as u64);
        }
    }
}
