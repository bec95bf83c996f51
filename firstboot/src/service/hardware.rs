//! Disks, swap and tuning: looked at in every boot, because a disk can vanish and the kernel forgets its settings.

use super::{Failure, Service};
use crate::config::{Loaded, Machine};
use crate::disk;
use crate::status::Code;
use crate::tuning;

impl Service<'_> {
    /// Makes the disks what the configuration says. A node that has joined reports what is wrong and goes on: the
    /// units that need the disk wait for it, the others work.
    pub(super) fn settle_disks(&mut self, loaded: &Loaded, machine: &Machine, joined: bool) -> Result<(), Failure> {
        let config = &loaded.config;
        if !disk::is_needed(self.host, &config.disks, config.swap.as_ref()) {
            return Ok(());
        }
        match disk::settle(self.host, &config.disks, config.swap.as_ref(), machine) {
            Ok(settled) => {
                if self.first_time(Code::DisksReady) && !settled.disks.is_empty() {
                    self.report.report(Code::DisksReady, &settled.disks.join("; "));
                }
                Ok(())
            }
            Err(error) if joined => {
                self.report.report(Code::DisksFailed, &format!("{error} (going on: the node is set up)"));
                Ok(())
            }
            Err(error) => Err(Failure { code: Code::DisksFailed, text: error.to_string() }),
        }
    }

    /// Applies the tuning and says what the kernel made of it. Nothing of it stops a node.
    pub(super) fn tune(&mut self, loaded: &Loaded) -> Result<(), Failure> {
        if !self.first_time(Code::TuningPartial) || !tuning::is_needed(self.host, &loaded.config.tuning) {
            return Ok(());
        }
        let outcome = tuning::apply(self.host, &loaded.config.tuning)?;
        outcome.notes().iter().for_each(|note| self.report.note(note));
        if let Some(text) = outcome.refused() {
            self.report.report(Code::TuningPartial, &text);
        }
        Ok(())
    }
}
