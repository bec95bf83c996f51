//! From the goal to the seal: from then on the configuration is the one that was applied, whatever is plugged in.
//!
//! A node is not sealed while it may have become something else than what somebody meant: while a medium that would win
//! cannot be read, two of them differ, or what replaces a part of its configuration is not valid. It is what it is all
//! the same, a member with a configuration that was good; it says what keeps the seal open, and closes it as soon as that
//! is gone. What becomes readable and says something else makes the service begin again.

use std::time::Duration;

use super::layers::{lay, outside_the_image};
use super::{Failure, Service};
use crate::config::{Loaded, Machine, SourceKind};
use crate::journal::{Event, Journal, JournalError};
use crate::status::Code;

/// How often it is looked whether the seal can be closed.
const LOOK: Duration = Duration::from_secs(5);

/// What is still to be sealed.
pub struct Open {
    driver: String,
    node: String,
    code: Code,
    text: String,
    block_usb: bool,
}

/// How waiting for the seal has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// The node is sealed.
    Sealed,
    /// The sources say something else now: the service has to begin again.
    Changed,
}

impl Service<'_> {
    /// Records the goal, and seals the node unless something keeps the seal open; then it gives what is to be sealed.
    pub(super) fn seal(
        &mut self,
        (driver, node): (&str, &str),
        (code, text): (Code, &str),
        loaded: &Loaded,
        machine: &Machine,
        journal: &mut Journal<'_>,
    ) -> Result<Option<Open>, Failure> {
        let why = if journal.is_sealed() { Vec::new() } else { self.what_keeps_it_open(machine) };
        let block_usb = loaded.config.seal.block_usb;
        let same = journal.joined() == Some((driver, node));
        if !same || why.is_empty() && !journal.is_sealed() {
            let (driver, node) = (driver.to_owned(), node.to_owned());
            journal.record(Event::Joined { driver, node, open: !why.is_empty() })?;
        }
        if why.is_empty() {
            self.block_usb(block_usb)?;
            self.report.report(code, text);
            return Ok(None);
        }
        self.report.report(code, &format!("{text}; not sealed until this is gone: {}", why.join("; ")));
        Ok(Some(Open { driver: driver.to_owned(), node: node.to_owned(), code, text: text.to_owned(), block_usb }))
    }

    fn what_keeps_it_open(&self, machine: &Machine) -> Vec<String> {
        let found = self.counting(self.sources.look_at_media(machine));
        let broken = lay(&found, &outside_the_image(&self.current), &[]).broken;
        let named = |line: &String| SourceKind::of_source(line).is_some_and(|kind| broken.contains(&kind));
        self.unsure.iter().cloned().chain(found.unreadable.into_iter().filter(named)).collect()
    }

    /// Waits until nothing keeps the seal open any more, for as long as that takes, and closes it.
    ///
    /// # Errors
    /// The journal cannot be read or written, or USB storage cannot be blocked.
    pub fn close(&mut self, open: &Open) -> Result<Closing, JournalError> {
        loop {
            self.host.sleep(LOOK);
            let machine = self.host.machine();
            let before = outside_the_image(&self.current);
            let layers = lay(&self.counting(self.sources.look(&machine)), &before, &[]);
            if self.could_be_applied(&layers, &machine) {
                return Ok(Closing::Changed);
            }
            if !layers.broken.is_empty() || layers.documents != before {
                continue;
            }
            let (driver, node) = (open.driver.clone(), open.node.clone());
            Journal::open(self.host)?.record(Event::Joined { driver, node, open: false })?;
            if let Err(failure) = self.block_usb(open.block_usb) {
                self.report.note(&failure.text);
            }
            self.report.report(open.code, &open.text);
            return Ok(Closing::Sealed);
        }
    }
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
