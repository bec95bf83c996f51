//! Runs a scenario: prepares guests, switches them on, takes the steps in order, and writes down what it saw.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::accel::{self, Choice};
use super::launcher::Launcher;
use super::report::{GuestReport, Outcome, Report, StepReport};
use super::scenario::Scenario;
use super::server::{Bound, Server};
use super::site_key::SiteKey;
use super::ssh::Key;
use super::variables::Variables;
use super::{QemuError, at, interrupt};
use crate::profile::QemuFacts;
use crate::progress::Progress;

pub(super) mod node;
mod steps;
mod stick;
#[cfg(test)]
mod tests;

use node::{Node, Wiring};

/// Lines of the serial log that a failure's report has.
const TAIL: usize = 60;

/// The code of a node that is part of its cluster.
const JOINED: u16 = 500;

/// An image that a scenario needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageKey {
    /// The role.
    pub role: String,
    /// Logical sector size that the image is made for, in bytes.
    pub sector: u32,
}

/// An image that was built.
#[derive(Debug, Clone)]
pub struct ImageRef {
    /// The raw image. It is not written.
    pub path: PathBuf,
    /// What its profile says about virtual machines.
    pub facts: QemuFacts,
}

/// Runs a scenario; logs are left in `work_dir`, disks are removed from it.
///
/// `Ok` also where a node did not do what it should: that is in the report. SIGINT and SIGTERM end the run early,
/// cleanly.
///
/// # Errors
/// What kept us from finding out: no image for a role, a variable that does not exist, QEMU that does not start.
pub fn run_scenario(
    scenario: &Scenario,
    launcher: &dyn Launcher,
    images: &BTreeMap<ImageKey, ImageRef>,
    work_dir: &Path,
    progress: &dyn Progress,
) -> Result<Report, QemuError> {
    let begun = Instant::now();
    interrupt::watch();
    std::fs::create_dir_all(work_dir).map_err(at("cannot make directory", work_dir))?;
    let work_dir = &work_dir.canonicalize().map_err(at("cannot find directory", work_dir))?;
    let _lock = lock(work_dir)?;
    let choice = accel::probe(launcher);
    let patience = choice.accelerator.patience();
    progress.note(&format!("{}: {}", choice.accelerator.name(), choice.reason));
    if patience > 1 {
        progress.note(&format!("guests may take {patience} times as long as the scenario says"));
    }
    let runtime = runtime_directory()?;
    let key = Key::generate(launcher, runtime.path())?;
    let wiring = Wiring::start(scenario, runtime.path())?;
    let place = node::Place { launcher, work: work_dir, runtime: runtime.path(), accelerator: choice.accelerator };
    let secret = super::variables::fresh_secret().map_err(at("no randomness for", work_dir))?;
    let site_key = SiteKey::generate()?;
    let common = Variables::default()
        .with("ssh_public_key", key.public())
        .with("secret", &secret)
        .with("site_key", &site_key.public());
    let (servers, common) = serve(scenario, common)?;
    let mut nodes = Vec::new();
    for guest in &scenario.guests {
        let image = node::image_of(guest, images)?;
        nodes.push(Node::prepare(&place, guest, image, &wiring, &common, !servers.is_empty())?);
    }
    let mut run = steps::Run {
        launcher,
        key: &key,
        site_key,
        work: work_dir,
        progress,
        nodes,
        servers,
        deadline: begun + Duration::from_secs(scenario.timeout_seconds) * patience,
        patience,
        told: BTreeMap::new(),
    };
    for node in run.nodes.iter_mut().filter(|node| node.guest.start) {
        node.switch_on(launcher)?;
    }
    let steps = run.take(&scenario.steps)?;
    let mut nodes = run.nodes;
    for node in &mut nodes {
        node.switch_off()?;
        node.console.finish();
    }
    for switch in wiring.switches.iter().filter(|switch| switch.dropped() > 0) {
        let (lost, all) = (switch.dropped(), switch.dropped() + switch.forwarded());
        progress.note(&format!("the virtual switch lost {lost} of {all} frames to guests that were off or busy"));
    }
    Ok(write_report(scenario, choice, begun, &nodes, steps))
}

/// Starts the servers, and adds where they are to the variables.
fn serve(scenario: &Scenario, common: Variables) -> Result<(BTreeMap<String, Server>, Variables), QemuError> {
    let mut common = common;
    let mut bound = Vec::new();
    for server in &scenario.servers {
        let found = Bound::new(server.tls)?;
        common = common.with(&format!("server.{}", server.name), &found.url());
        common = common.with(&format!("address.{}", server.name), &found.authority());
        if let Some(authority) = found.certificate() {
            common = common.with(&format!("ca.{}", server.name), &authority);
        }
        bound.push((server, found));
    }
    let mut servers = BTreeMap::new();
    for (server, bound) in bound {
        let wrong = |source| QemuError::Variable { guest: format!("server {}", server.name), source };
        let mut files = BTreeMap::new();
        for (path, text) in &server.files {
            files.insert(path.clone(), common.replace(text).map_err(wrong)?);
        }
        servers.insert(server.name.clone(), bound.serve(files, &server.bad)?);
    }
    Ok((servers, common))
}

fn write_report(
    scenario: &Scenario,
    accelerator: Choice,
    begun: Instant,
    nodes: &[Node<'_>],
    steps: Vec<StepReport>,
) -> Report {
    let failed = steps.iter().find(|step| matches!(step.outcome, Outcome::Failed | Outcome::Interrupted));
    let outcome = failed.map_or(Outcome::Passed, |step| step.outcome);
    let reason = failed.map(|step| format!("step {:?}: {}", step.name, step.reason.as_deref().unwrap_or("failed")));
    let guests: Vec<GuestReport> = nodes
        .iter()
        .map(|node| {
            let seen = node.console.seen();
            GuestReport {
                name: node.guest.name.clone(),
                image: node.image_name(),
                boot_to_joined_seconds: seen.states.iter().find(|s| s.code == JOINED).map(|s| s.seconds),
                states: seen.states.clone(),
                dead: seen.dead.clone().or_else(|| node.ended.clone()),
                console_log: node.console.path().to_owned(),
                qemu_log: node.messages.clone(),
                console_tail: if outcome == Outcome::Passed { Vec::new() } else { seen.tail(TAIL) },
            }
        })
        .collect();
    let times: Option<Vec<f64>> = guests.iter().map(|guest| guest.boot_to_joined_seconds).collect();
    Report {
        scenario: scenario.name.clone(),
        outcome,
        reason,
        accelerator,
        seconds: begun.elapsed().as_secs_f64(),
        boot_to_joined_seconds: times.and_then(|times| times.into_iter().reduce(f64::max)),
        guests,
        steps,
    }
}

/// Keeps a second run out of the directory as long as the file is open.
pub(super) fn lock(work_dir: &Path) -> Result<File, QemuError> {
    let path = work_dir.join(".lock");
    let file = File::create(&path).map_err(at("cannot write", &path))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| at("another run is using this directory; give this one its own:", work_dir)(error.into()))?;
    Ok(file)
}

/// A directory that only we can enter, for sockets (whose paths must be short), the key and the media.
pub(super) fn runtime_directory() -> Result<tempfile::TempDir, QemuError> {
    let preferred = std::env::temp_dir();
    let base = if preferred.as_os_str().len() <= 40 { preferred } else { PathBuf::from("/tmp") };
    tempfile::Builder::new().prefix("ingot-").tempdir_in(&base).map_err(at("cannot make a directory in", &base))
}
