//! `firstboot leave`: the node leaves its cluster, and stays out.
//!
//! What it leaves with is in the journal: the service does not join again with that configuration. Another one, on
//! a medium, makes it join again: a node that has left is no longer sealed. The service must not run meanwhile; the
//! command stops it before and starts it afterwards.

use thiserror::Error;

use super::{Failure, Service, configuration_inputs};
use crate::host::Host;
use crate::join::{NodeFacts, driver, scrub};
use crate::journal::{Event, Journal};
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
    driver.leave(host).map_err(|error| LeaveError::Failed(scrub(&error.to_string(), &driver.secrets())))?;
    let inputs = configuration_inputs(&obtained.documents);
    journal.record(Event::Left { inputs }).map_err(Failure::from)?;
    report.report(Code::Left, &format!("{}, by command", driver.name()));
    Ok(())
}
