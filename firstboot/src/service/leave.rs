//! `firstboot leave`: the node leaves its cluster, and stays out.
//!
//! What it leaves with is in the journal: the service does not join again with that membership, whatever image it starts
//! from. Another one makes it join again: another medium, or another `[join]` from elsewhere. A node that has left is no
//! longer sealed. That it leaves is in the journal before it does, so a power cut in between does not bring it back. The
//! service must not run meanwhile; the command stops it before and starts it afterwards.

use thiserror::Error;

use super::{Failure, Service, membership_inputs};
use crate::config::{Loaded, Machine};
use crate::host::Host;
use crate::join::{NodeFacts, driver, scrub};
use crate::journal::{Event, Journal, LEAVING};
use crate::plan::Plan;
use crate::provider::{Found, Sources};
use crate::report::Report;
use crate::status::Code;

/// The node could not leave.
#[derive(Debug, Error)]
pub enum LeaveError {
    /// It has no configuration, or one without a cluster.
    #[error("this node is configured for no cluster, so there is none to leave")]
    NoCluster,
    /// The cluster or the machine did not do what it was told.
    #[error("{0}; the node has not left: correct what is named and say it again")]
    Failed(String),
}

impl From<Failure> for LeaveError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure.text)
    }
}

/// There is nothing to look at: what counts is what was kept.
struct NoMedia;

impl Sources for NoMedia {
    fn look(&self, _: &crate::config::Machine) -> Found {
        Found::default()
    }
}

/// Leaves the cluster.
///
/// # Errors
/// [`LeaveError`]; then the node is still configured as before, and leaving can be tried again.
pub fn leave(host: &dyn Host, report: &dyn Report) -> Result<(), LeaveError> {
    let machine = host.machine();
    let mut journal = Journal::open(host).map_err(Failure::from)?;
    let service = Service::new(host, report, &NoMedia);
    let obtained = service.kept_configuration(&machine)?.ok_or(LeaveError::NoCluster)?;
    let plan = Plan::new(&obtained.loaded.config, &machine, Vec::new());
    let join = plan.join.as_ref().ok_or(LeaveError::NoCluster)?;
    let addresses = host.addresses().map_err(Failure::from)?.into_iter().map(|found| found.address).collect();
    let driver = driver(join, NodeFacts { hostname: plan.hostname.to_string(), addresses });
    let inputs = membership_inputs(&obtained.documents, &obtained.loaded);
    journal.begin(LEAVING, &inputs).map_err(Failure::from)?;
    if let Err(error) = driver.leave(host) {
        journal.record(Event::Done { step: LEAVING.to_owned(), inputs }).map_err(Failure::from)?;
        return Err(LeaveError::Failed(scrub(&error.to_string(), &driver.secrets())));
    }
    journal.record(Event::Left { inputs }).map_err(Failure::from)?;
    report.report(Code::Left, &format!("{}, by command", driver.name()));
    Ok(())
}

impl Service<'_> {
    /// Ends what a power cut has interrupted: a node that was told to leave does not join again instead.
    pub(super) fn finish_leaving(
        &self,
        loaded: &Loaded,
        machine: &Machine,
        journal: &mut Journal<'_>,
    ) -> Result<(), Failure> {
        let plan = Plan::new(&loaded.config, machine, Vec::new());
        let Some(join) = plan.join.as_ref().filter(|_| journal.is_leaving()) else { return Ok(()) };
        let addresses = self.host.addresses()?.into_iter().map(|found| found.address).collect();
        let driver = driver(join, NodeFacts { hostname: plan.hostname.to_string(), addresses });
        // What it talks to may not run yet in this boot; where that cannot be started, leaving says so itself.
        let _ = driver.preflight(self.host);
        driver.leave(self.host).map_err(|error| {
            let error = scrub(&error.to_string(), &driver.secrets());
            Failure::new(Code::JoinFailed, format!("leaving the cluster was cut short and is not done yet: {error}"))
        })?;
        let inputs = membership_inputs(&self.current, loaded);
        Ok(journal.record(Event::Left { inputs })?)
    }
}
