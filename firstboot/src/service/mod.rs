//! The first-boot service: from a machine that just started to a member of its cluster.
//!
//! ```text
//! obtain configuration → plan → steps → network → preflight → images → join → sealed
//! ```
//!
//! The whole is one loop. Every attempt goes from the beginning; the journal makes what is done already cost
//! nothing. So a failure, a changed medium and a power cut are the same case: the next attempt. Nothing is ever
//! given up; every wait is visible in the status.

mod accepted;
mod commands;
mod config_keys;
mod hardware;
mod layers;
mod leave;
mod network;
mod obtain;
mod offer;
mod power;
mod seal;
mod sealed;
#[cfg(test)]
mod tests;
mod time;

pub use leave::{LeaveError, leave};
pub use offer::serve;
pub use seal::{Closing, Open};
pub use sealed::{look_at_plugged_medium, unseal};

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::{ImageFacts, image_facts};
use crate::config::{Document, Loaded, Machine, SourceKind};
use crate::host::{Host, HostError};
use crate::join::engine::Request;
use crate::join::gate::first_closed;
use crate::join::{
    Backoff, Driver, JoinError, Joiner, Membership, NodeFacts, RenderedFile, Retry, driver, scrub, start_docker,
};
use crate::journal::{Event, Inputs, Journal, JournalError};
use crate::plan::{Plan, hostname};
use crate::provider::{SignatureError, Sources};
use crate::rendezvous::{NodeIdentity, Seat};
use crate::report::Report;
use crate::status::Code;
use crate::step::{Archive, Engine, Step, StepError, images};

/// How long systemd may take to accept a job.
const RELEASE_PATIENCE: Duration = Duration::from_secs(30);
/// How long the cluster may take to accept a node after it was asked, in seconds.
const MEMBERSHIP_SECONDS: u64 = 60;
/// The window, for each machine of the site, over which first attempts are spread: 50 a minute.
pub(crate) const SPLAY_PER_MACHINE: Duration = Duration::from_millis(1200);

/// What the journal calls the driver of a node that joins nothing.
const NO_DRIVER: &str = "none";

/// Units that an unconfigured node holds back have a condition on this file.
const CONFIGURED: &str = "/var/lib/ingot/configured";

/// An attempt ended without the goal.
#[derive(Debug)]
struct Failure {
    code: Code,
    text: String,
    /// When the other side wants to be asked again.
    retry: Retry,
}

impl Failure {
    fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), retry: Retry::Unsaid }
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        // A gate or a program may know the secrets of the join only as forms; the driver's own are cleaned there.
        Self { code: error.code(), text: scrub(&error.to_string(), &[]), retry: error.retry() }
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Self::new(error.storage().unwrap_or(Code::Internal), error.to_string())
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        Self::new(error.storage().unwrap_or(Code::Internal), error.to_string())
    }
}

/// The goal: what the node has become.
pub struct Arrived {
    /// The driver of its cluster; `None` for a role that joins nothing.
    pub driver: Option<Box<dyn Driver>>,
    /// What is still to be sealed, where something keeps the seal open.
    pub open: Option<Open>,
}

/// The service.
pub struct Service<'a> {
    host: &'a dyn Host,
    report: &'a dyn Report,
    sources: &'a dyn Sources,
    /// What was already said about the present configuration.
    said: BTreeSet<Code>,
    /// Media that a sealed node has ignored and named.
    ignored: BTreeSet<String>,
    /// Media whose signatures were refused, as they were named last.
    said_unsigned: Vec<(String, SignatureError)>,
    current: Vec<Document>,
    /// The identity of the image that runs.
    image: String,
    /// Why the present configuration may not be what is meant, so that it is not sealed.
    unsure: Vec<String>,
    backoff: Backoff,
    /// What is known of the clock.
    clock: time::Knowledge,
    /// Since when a gate of the join has been found closed, in seconds since 1970.
    waiting_since: BTreeMap<String, u64>,
    /// Whether something was held back in this boot, and whether it has been started.
    to_release: bool,
    released: bool,
    /// How often the network of the present configuration did not come up.
    network_failures: u32,
}

impl<'a> Service<'a> {
    /// A service on a machine.
    pub fn new(host: &'a dyn Host, report: &'a dyn Report, sources: &'a dyn Sources) -> Self {
        Self {
            host,
            report,
            sources,
            said: BTreeSet::new(),
            ignored: BTreeSet::new(),
            said_unsigned: Vec::new(),
            current: Vec::new(),
            image: String::new(),
            unsure: Vec::new(),
            backoff: Backoff::default(),
            clock: time::Knowledge::default(),
            waiting_since: BTreeMap::new(),
            to_release: false,
            released: false,
            network_failures: 0,
        }
    }

    /// Works until the node is what its configuration says.
    pub fn run(&mut self) -> Arrived {
        loop {
            match self.attempt() {
                Ok(arrived) => return arrived,
                Err(failure) => {
                    // A node that has left said so, and there is nothing to add.
                    if failure.code != Code::Left {
                        self.report.report(failure.code, &failure.text);
                    }
                    let waiting = matches!(failure.code, Code::WaitingForManager | Code::WaitingForGate);
                    let pause = self.backoff.next(self.host, waiting, failure.retry);
                    self.report.next_try(pause);
                    self.host.sleep(pause);
                }
            }
        }
    }

    fn attempt(&mut self) -> Result<Arrived, Failure> {
        let facts = image_facts(self.host)?;
        self.bound_clock(facts.build_time);
        self.image.clone_from(&facts.id);
        let mut journal = Journal::open(self.host)?;
        if journal.cut_off > 0 {
            self.report.note(&format!("the journal's last {} bytes were unfinished and are cut off", journal.cut_off));
        }
        let machine = self.host.machine();
        let obtained = self.obtain(&journal, &machine)?;
        if obtained.documents != self.current {
            self.current = obtained.documents;
            self.said.clear();
            self.network_failures = 0;
            self.backoff.reset();
        }
        let loaded = obtained.loaded;
        self.report.configured(&loaded.config);
        if self.first_time(Code::ConfigFound) {
            self.report.report(Code::ConfigFound, &obtained.from);
            loaded.warnings.iter().for_each(|warning| self.report.note(&format!("warning: {warning}")));
            loaded.notes.iter().for_each(|note| self.report.note(&note.to_string()));
        }
        self.finish_leaving(&loaded, &machine, &mut journal)?;
        let inputs = membership_inputs(&self.current, &loaded);
        if journal.has_left(&inputs) {
            // What makes it a member again may come on a stick.
            sealed::let_usb_be(self.host)?;
            if self.first_time(Code::Left) {
                self.report.report(Code::Left, "by command; another configuration makes it join again");
            }
            return Err(Failure::new(Code::Left, ""));
        }
        let plan = Plan::new(&loaded.config, &machine, archives(self.host, &facts)?);
        if self.first_time(Code::Applying) {
            self.report.report(Code::Applying, &plan.describe().join("; "));
        }
        self.hold_back_for_disks(&loaded)?;
        self.tune(&loaded)?;
        let held_back = !self.host.exists(CONFIGURED);
        if held_back {
            self.host.write(CONFIGURED, b"", 0o644)?;
        }
        // A node that has joined is started by systemd alone, unless an image that knew of no such file made it join.
        self.to_release |= held_back || journal.joined().is_none();
        self.carry_out(&plan.steps, &mut journal)?;
        // Behind the network, so that a node whose disks are wrong can be reached; before all that may write where a
        // disk is going to be mounted. Files and users are not there: the configuration would be invalid.
        self.settle_disks(&loaded, &machine, journal.joined().is_some())?;
        self.run_at_boot(&plan.run)?;
        if self.to_release && !self.released {
            self.host.run("systemctl", &["start", "--no-block", "multi-user.target"], RELEASE_PATIENCE)?;
            self.released = true;
        }
        self.bring_up_network(&plan, &loaded, &machine, &mut journal)?;
        self.ask_the_time(&loaded.config, facts.build_time);
        self.run_first(&plan.run, &mut journal)?;
        self.join(&plan, &loaded, &machine, &mut journal)
    }

    fn first_time(&mut self, code: Code) -> bool {
        self.said.insert(code)
    }

    fn carry_out(&self, steps: &[Step], journal: &mut Journal<'_>) -> Result<(), Failure> {
        for step in steps {
            let (name, inputs) = (step.name().to_owned(), step.inputs(&self.image));
            if journal.is_done(&name, &inputs) || step.sets_nothing() && !journal.knows(&name) {
                continue;
            }
            journal.begin(&name, &inputs)?;
            step.apply(self.host).map_err(|error: StepError| {
                Failure::new(error.storage().unwrap_or_else(|| step.failure()), format!("{name}: {error}"))
            })?;
            journal.record(Event::Done { step: name, inputs })?;
        }
        Ok(())
    }

    fn join(
        &mut self,
        plan: &Plan,
        loaded: &Loaded,
        machine: &Machine,
        journal: &mut Journal<'_>,
    ) -> Result<Arrived, Failure> {
        let driver = match &plan.join {
            Some(join) => {
                let addresses = self.host.addresses()?.into_iter().map(|found| found.address).collect();
                Some(driver(join, NodeFacts { hostname: plan.hostname.to_string(), addresses }))
            }
            None => None,
        };
        let result = self.join_with(driver.as_deref(), plan, loaded, machine, journal);
        match (result, driver) {
            (Ok(open), driver) => Ok(Arrived { driver, open }),
            (Err(failure), Some(driver)) => Err(Failure { text: scrub(&failure.text, &driver.secrets()), ..failure }),
            (Err(failure), None) => Err(failure),
        }
    }

    fn join_with(
        &mut self,
        driver: Option<&dyn Driver>,
        plan: &Plan,
        loaded: &Loaded,
        machine: &Machine,
        journal: &mut Journal<'_>,
    ) -> Result<Option<Open>, Failure> {
        let new = driver.map_or(NO_DRIVER, Driver::name);
        if let Some((member, _)) = journal.joined().filter(|(member, _)| *member != NO_DRIVER && *member != new) {
            let text = format!(
                "this node is a member by {member}, and its configuration now says {new}; go back to the configuration or \
                 the image that it joined with and say `firstboot leave` there"
            );
            return Err(Failure::new(Code::JoinFailed, text));
        }
        for file in driver.map_or_else(|| Ok(Vec::new()), Driver::render)? {
            self.write_rendered(&file)?;
        }
        if let Some(driver) = driver {
            if self.first_time(Code::Preflight) {
                self.report.report(Code::Preflight, driver.name());
            }
            driver.preflight(self.host)?;
        }
        // Not every driver needs Docker, and images may be there for another engine.
        let for_docker = |step: &Step| matches!(step, Step::LoadImages(Engine::Docker, _));
        if plan.engine_steps.iter().any(for_docker) && self.host.engine(&Request::get("/_ping")).is_err() {
            start_docker(self.host)?;
        }
        self.carry_out(&plan.engine_steps, journal)?;
        if !plan.engine_steps.is_empty() && self.first_time(Code::ImagesLoaded) {
            self.report.report(Code::ImagesLoaded, &plan.engine_steps.iter().map(Step::describe).collect::<String>());
        }
        let Some(driver) = driver else {
            let goal = (Code::ReadyNoJoin, "everything is applied");
            let open = self.seal((NO_DRIVER, ""), goal, loaded, machine, journal)?;
            self.power(loaded.config.power, journal)?;
            return Ok(open);
        };
        let membership = match driver.probe(self.host)? {
            Some(membership) => membership,
            None => self.become_member(driver, plan, loaded, machine, journal)?,
        };
        let member = (driver.name(), membership.identity.as_str());
        let open = self.seal(member, (Code::Joined, &membership.text), loaded, machine, journal)?;
        self.power(loaded.config.power, journal)?;
        Ok(open)
    }

    /// Writes a file of the join; one that has its content already is left alone, so that a node that starts again
    /// writes nothing.
    fn write_rendered(&self, file: &RenderedFile) -> Result<(), HostError> {
        let content = file.content.expose().as_bytes();
        if self.host.read(&file.path, content.len() as u64 + 1024 * 1024)?.as_deref() == Some(content) {
            return Ok(());
        }
        self.host.write(&file.path, content, file.mode)
    }

    /// Ends the attempt while a gate is closed, and says since when it has been.
    fn pass_gates(&mut self, plan: &Plan) -> Result<(), Failure> {
        let gates = plan.join.as_ref().map_or(&[][..], |join| &join.after);
        let Some(closed) = first_closed(self.host, gates) else {
            self.waiting_since.clear();
            return Ok(());
        };
        let since = *self.waiting_since.entry(closed.gate.clone()).or_insert_with(|| self.host.now());
        let waited = self.host.now().saturating_sub(since);
        let text = format!("{}: {}; waiting for {waited} s, looked at again within 8 s", closed.gate, closed.reason);
        Err(Failure { retry: closed.retry, ..Failure::new(Code::WaitingForGate, text) })
    }

    fn become_member(
        &mut self,
        driver: &dyn Driver,
        plan: &Plan,
        loaded: &Loaded,
        machine: &Machine,
        journal: &Journal<'_>,
    ) -> Result<Membership, Failure> {
        self.pass_gates(plan)?;
        let identity = identity(self.host, machine, loaded)?;
        let member = journal.joined().is_some_and(|(name, _)| name == driver.name());
        if self.first_time(Code::Joining) {
            self.report.report(Code::Joining, &driver.describe());
            if !member {
                let machines = u32::try_from(loaded.machines).unwrap_or(u32::MAX);
                let given = plan.join.as_ref().and_then(|join| join.splay);
                let window = given.unwrap_or_else(|| SPLAY_PER_MACHINE.saturating_mul(machines));
                self.host.sleep(splay(&identity.id, window));
            }
        }
        driver.start(&Joiner { host: self.host, identity, member })?;
        for _ in 0..MEMBERSHIP_SECONDS {
            if let Some(membership) = driver.probe(self.host)? {
                return Ok(membership);
            }
            self.host.sleep(Duration::from_secs(1));
        }
        if let Some(error) = driver.diagnose(self.host) {
            return Err(error.into());
        }
        let text = format!("the cluster has not accepted this node within {MEMBERSHIP_SECONDS} s");
        Err(Failure::new(Code::WaitingForManager, text))
    }
}

/// What a membership is known by: what the documents outside the image say about the join, and what somebody has
/// plugged in. Neither a newer image nor a server that says something else about the time zone makes it another one.
fn membership_inputs(documents: &[Document], loaded: &Loaded) -> Inputs {
    let plugged =
        documents.iter().filter(|document| SourceKind::of_document(&document.name).is_some_and(SourceKind::is_medium));
    let plugged = plugged.flat_map(|document| [document.name.as_bytes(), &document.bytes[..]]);
    Inputs::of(std::iter::once(&loaded.join_hash[..]).chain(plugged))
}

/// The moment of the first attempt within the window: a fixed one for each node, so that a fleet that is switched on
/// at once spreads out.
pub(crate) fn splay(id: &str, window: Duration) -> Duration {
    let hash = id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(if window == 0 { 0 } else { hash % window })
}

fn identity(host: &dyn Host, machine: &Machine, loaded: &Loaded) -> Result<NodeIdentity, HostError> {
    let machine_id = host.read("/etc/machine-id", 4096)?;
    let id = machine_id.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).filter(|id| !id.is_empty());
    let mac = machine.macs.first().map(ToString::to_string).unwrap_or_default();
    let hostname = hostname(&loaded.config, machine).to_string();
    Ok(NodeIdentity { hostname, id: id.unwrap_or(mac), seat: Seat::Worker })
}

/// The archives of container images that the image brings, in the order of their names.
fn archives(host: &dyn Host, facts: &ImageFacts) -> Result<Vec<Archive>, HostError> {
    let brought = images::brought(host)?.into_iter();
    Ok(brought.map(|(name, bytes)| Archive { name, bytes, image: facts.id.clone() }).collect())
}
