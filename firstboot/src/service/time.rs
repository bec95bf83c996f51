//! The clock on the way to the cluster: into the plausible time at once, and by a server's `Date` before the join
//! where it is doubtful or something failed.

use super::Service;
use crate::clock::{Asked, Vouch, ask, bound, endpoints, is_synchronised};
use crate::config::NodeConfig;
use crate::status::Code;

/// What the service knows of the clock in this boot.
#[derive(Debug, Default)]
pub(super) struct Knowledge {
    /// It was outside the plausible time.
    doubtful: bool,
    /// A server has said that it is right, or has set it.
    confirmed: bool,
    /// How often a join was tried.
    attempts: u32,
}

impl Service<'_> {
    /// Brings a clock that cannot be right into the plausible time.
    pub(super) fn bound_clock(&mut self, build_time: u64) {
        match bound(self.host, build_time) {
            Ok(None) => {}
            Ok(Some(change)) => {
                self.clock.doubtful = true;
                self.clock.confirmed = false;
                self.report.report(Code::ClockSet, &change.to_string());
            }
            Err(error) => {
                self.clock.doubtful = true;
                if self.first_time(Code::ClockWrong) {
                    self.report.report(Code::ClockWrong, &error.to_string());
                }
            }
        }
    }

    /// Asks for the time where that may help. Nothing waits for an answer that does not come: the join may work
    /// without, and the next attempt asks again.
    pub(super) fn ask_the_time(&mut self, config: &NodeConfig, build_time: u64) {
        let needed = self.clock.doubtful || self.clock.attempts > 0;
        self.clock.attempts = self.clock.attempts.saturating_add(1);
        let mut endpoints = endpoints(config);
        endpoints.retain(|endpoint| self.clock.doubtful || endpoint.vouch != Vouch::Nobody);
        if !needed || self.clock.confirmed || endpoints.is_empty() || is_synchronised(self.host) {
            return;
        }
        match ask(self.host, &endpoints, build_time, self.clock.doubtful) {
            Ok(Asked::Kept) => self.clock.confirmed = true,
            Ok(Asked::Set(change)) => {
                self.clock.confirmed = true;
                self.report.report(Code::ClockSet, &change.to_string());
            }
            Ok(Asked::Moved(change)) => self.report.report(Code::ClockSet, &change.to_string()),
            // Only where it is known to be wrong is that a failure.
            Ok(Asked::Nobody(why)) if self.clock.doubtful => {
                if self.first_time(Code::ClockWrong) {
                    self.report.report(Code::ClockWrong, &format!("nobody says the time: {why}"));
                }
            }
            Ok(Asked::Nobody(why)) => self.report.note(&format!("the time: nobody says it: {why}")),
            Err(error) => {
                if self.first_time(Code::ClockWrong) {
                    self.report.report(Code::ClockWrong, &error.to_string());
                }
            }
        }
    }
}
