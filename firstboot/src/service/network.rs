//! Whether the configured network works, and what happens where it does not.
//!
//! A network works once the node has the static addresses that it was told, or any address where it was told none.
//! Files that have worked are kept. Where a cable is in and the addresses do not come, the node falls back to what
//! worked last, or to DHCP on every wired interface, so that it can be reached and corrected; it tries the configured
//! network again when a medium or a cable changes, and now and then. Nothing is joined over a network that is not the
//! configured one. A node that has joined had a network that worked, and only waits for it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::{Failure, Service};
use crate::config::network::Interface;
use crate::config::{Loaded, Machine, Network};
use crate::host::{HostError, InterfaceAddress};
use crate::journal::Journal;
use crate::plan::Plan;
use crate::status::Code;
use crate::step::network::{Facts, Files, forget_default_route, install, keep, kept, means, present};
use crate::step::{Step, StepError};

/// How long the addresses may take, in seconds.
const SECONDS: u64 = 90;
/// How often the addresses are looked at in a second.
const LOOKS: u64 = 5;
/// The same for a role that joins nothing: it works without a network too.
const SECONDS_ALONE: u64 = 20;
/// How long what is fallen back to may take.
const FALLBACK_SECONDS: u64 = 30;
/// How often media are looked at meanwhile, in seconds.
const MEDIA_SECONDS: u64 = 5;
/// How long a fallback lasts the first time, in seconds; each time twice as long as before, up to 16 minutes.
const HOLD_SECONDS: u64 = 60;

/// How waiting ended.
enum Outcome {
    Up(Vec<InterfaceAddress>),
    /// Why not.
    Missing(String),
    /// A medium with another configuration is there.
    Changed,
}

impl Service<'_> {
    /// Waits for the network, and falls back where it does not come up.
    pub(super) fn bring_up_network(
        &mut self,
        plan: &Plan,
        loaded: &Loaded,
        machine: &Machine,
        journal: &mut Journal<'_>,
    ) -> Result<(), Failure> {
        let networks = &loaded.config.networks;
        let (needed, sealed) = (plan.join.is_some(), journal.joined().is_some());
        let missing = match self.wait_for_addresses(networks, needed, sealed, machine)? {
            Outcome::Up(have) => {
                self.network_failures = 0;
                if !self.said.contains(&Code::NetworkUp) {
                    // Before it is said: what could not be kept is kept by the next attempt. A member goes on without.
                    match keep(self.host).map_err(failed) {
                        Err(failure) if sealed => self.report.note(&format!("{} (going on)", failure.text)),
                        kept => kept?,
                    }
                    self.said.insert(Code::NetworkUp);
                    self.report.report(Code::NetworkUp, &list(&have));
                    self.note_doubts(networks)?;
                }
                return Ok(());
            }
            Outcome::Changed => {
                let text = "the addresses are not there yet, and a medium with another configuration is".to_owned();
                return Err(Failure::new(Code::NetworkFailed, text));
            }
            Outcome::Missing(missing) => missing,
        };
        let others = if sealed || !self.may_be_cabled()? { Vec::new() } else { self.fallbacks()? };
        if !others.is_empty() {
            self.fall_back(others, &missing, plan, machine, journal)?;
        } else if !needed {
            self.report.report(Code::NetworkFailed, &format!("{missing} (going on: the role joins nothing)"));
            return Ok(());
        }
        Err(Failure::new(Code::NetworkFailed, missing))
    }

    /// Waits until the static addresses are there, or any address where there are none.
    fn wait_for_addresses(
        &self,
        networks: &[Network],
        needed: bool,
        sealed: bool,
        machine: &Machine,
    ) -> Result<Outcome, Failure> {
        let counting = networks.iter().filter(|network| !network.optional);
        let wanted: Vec<IpAddr> = counting.flat_map(|network| &network.addresses).map(|cidr| cidr.address).collect();
        let mut missing = String::new();
        for look in 0..SECONDS * LOOKS {
            if look > 0 {
                self.host.sleep(Duration::from_secs(1) / u32::try_from(LOOKS).unwrap_or(1));
            }
            // A static address may be link-local; of the others only those that reach beyond the link make a network.
            let mut have = self.host.addresses()?;
            let all = if wanted.is_empty() { Vec::new() } else { self.host.all_addresses()? };
            have.extend(all.into_iter().filter(|found| wanted.contains(&found.address)));
            have.sort();
            have.dedup();
            let absent: Vec<_> = wanted.iter().filter(|want| !have.iter().any(|have| have.address == **want)).collect();
            if absent.is_empty() && !have.is_empty() {
                return Ok(Outcome::Up(have));
            }
            missing = match &absent[..] {
                [] => "no interface has an address; is a cable in, does the DHCP server answer?".to_owned(),
                absent => format!(
                    "no interface has {}; does [[network]] match one that has a link?",
                    absent.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                ),
            };
            if look + 1 == SECONDS_ALONE * LOOKS && !needed && (networks.is_empty() || !self.may_be_cabled()?) {
                break;
            }
            if look % (MEDIA_SECONDS * LOOKS) == MEDIA_SECONDS * LOOKS - 1 && !sealed && self.sources_changed(machine) {
                return Ok(Outcome::Changed);
            }
        }
        Ok(Outcome::Missing(missing))
    }

    /// The files to fall back to, the best first.
    fn fallbacks(&self) -> Result<Vec<(&'static str, Files)>, Failure> {
        let now = present(self.host).map_err(failed)?;
        let mut others = Vec::new();
        others.extend(kept(self.host).map_err(failed)?.map(|files| ("the network that worked last", files)));
        others.push(("DHCP on every wired interface", Files::new()));
        others.retain(|(_, files)| *files != now);
        if let [(_, kept), _] = &others[..]
            && kept.is_empty()
        {
            others.remove(0);
        }
        Ok(others)
    }

    fn fall_back(
        &mut self,
        others: Vec<(&'static str, Files)>,
        missing: &str,
        plan: &Plan,
        machine: &Machine,
        journal: &mut Journal<'_>,
    ) -> Result<(), Failure> {
        // First of all the step counts as undone: whatever happens from here on, the next attempt begins it again.
        for step in plan.steps.iter().filter(|step| matches!(step, Step::Network(_))) {
            journal.begin(step.name(), &step.inputs(&self.image))?;
        }
        forget_default_route(self.host).map_err(failed)?;
        for (what, files) in others {
            install(self.host, &files).map_err(failed)?;
            for _ in 0..FALLBACK_SECONDS {
                self.host.sleep(Duration::from_secs(1));
                let have = self.host.addresses()?;
                if !have.is_empty() {
                    let text = format!("{missing} Meanwhile {what}: {}", list(&have));
                    self.report.report(Code::NetworkFallback, &text);
                    return self.hold(machine);
                }
            }
        }
        self.report.note("the network that worked last and DHCP on every wired interface give no address either");
        Ok(())
    }

    /// Stays with what was fallen back to for a while.
    fn hold(&mut self, machine: &Machine) -> Result<(), Failure> {
        let seconds = HOLD_SECONDS << self.network_failures.min(4);
        self.network_failures += 1;
        let before = self.carriers()?;
        for _ in 0..seconds {
            self.host.sleep(Duration::from_secs(1));
            if self.sources_changed(machine) || self.carriers()? != before {
                break;
            }
        }
        Ok(())
    }

    /// The interfaces of the machine with something at the other end of the cable.
    fn carriers(&self) -> Result<BTreeSet<String>, HostError> {
        let links = self.host.links()?.into_iter();
        Ok(links.filter(|link| link.physical && link.carrier).map(|link| link.name).collect())
    }

    /// Whether a cable is in, as far as anybody can know: an interface that no configuration means is never brought up, and
    /// shows no carrier.
    fn may_be_cabled(&self) -> Result<bool, HostError> {
        Ok(self.host.links()?.into_iter().any(|link| link.physical && (link.carrier || link.idle)))
    }

    /// What works, but perhaps not as it was meant.
    fn note_doubts(&self, networks: &[Network]) -> Result<(), Failure> {
        let links = self.host.links()?;
        for network in networks {
            let Interface::Ethernet(ethernet) = &network.interface else { continue };
            if ethernet.matches.default_route || links.is_empty() {
                continue;
            }
            let facts = Facts { links: &links, default_route: None };
            let found: Vec<_> = links.iter().filter(|link| means(&ethernet.matches, link, &facts)).collect();
            let names = |links: &[&crate::host::Link]| {
                links.iter().map(|link| link.name.clone()).collect::<Vec<_>>().join(", ")
            };
            if found.is_empty() {
                let all: Vec<_> = links.iter().filter(|link| link.physical).collect();
                let matches = &ethernet.matches;
                self.report
                    .note(&format!("[[network]] for {matches} is for no interface here: there are {}", names(&all)));
            } else if found.len() > 1 && !network.addresses.is_empty() {
                let all = names(&found);
                self.report.note(&format!("[[network]] for {} gives {all} the same addresses", ethernet.matches));
            }
        }
        Ok(())
    }
}

fn list(addresses: &[InterfaceAddress]) -> String {
    addresses.iter().map(|have| format!("{} {}", have.interface, have.address)).collect::<Vec<_>>().join(", ")
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn failed(error: StepError) -> Failure {
    Failure::new(error.storage().unwrap_or(Code::NetworkFailed), error.to_string())
}
