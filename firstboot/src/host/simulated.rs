//! A machine for tests: its disk, its container engine and its clock live in memory, and its plug can be pulled
//! before, in the middle of, or after any action that changes it.

#![allow(missing_docs)]

pub mod engine;
mod neighbours;
pub mod power;
mod programs;
pub mod stick;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::simulated_disks::{self, Device, Volatile};
use super::{Host, HostError, Ids, ImageFile, InterfaceAddress, Link, Standing, files};
use crate::clock::Vouch;
use crate::clock::https::ServerDate;
use crate::config::{HostAddress, Machine, Secret, Url};
use crate::http::{HttpError, HttpReason, HttpRequest, HttpResponse, Method};
use crate::join::engine::{Body, EngineError, Request, Response};
use crate::process::ProcessError;
use crate::provider::{StickError, WriteResults};
use crate::rendezvous::{Grant, NodeIdentity, Refusal, RendezvousError};
use crate::step::images::ArchiveImage;
use crate::sys::EthtoolRequest;

/// What a test's service runs into when the plug is pulled. It is thrown as a panic's payload: nothing of the
/// service runs after it.
pub struct Killed;

/// What lives on the disk, and with the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    pub files: BTreeMap<String, (Vec<u8>, u32)>,
    pub links: BTreeMap<String, String>,
    /// Directories that were made for someone, with their modes.
    pub directories: BTreeMap<String, (u32, Ids)>,
    /// Whose a file is, where it is not root's.
    pub owners: BTreeMap<String, Ids>,
    /// The scripts that were begun as commands of the configuration, in order; they have run to their end by then.
    pub scripts: Vec<String>,
    /// Block devices, by their path.
    pub devices: BTreeMap<String, Device>,
    /// `inactive`, `active`, `pending`, `error`; the engine keeps it on the disk.
    pub swarm: String,
    pub manager: bool,
    pub images: Vec<String>,
    /// How often the node founded, joined and left a swarm.
    pub founded: u32,
    pub joined: u32,
    pub left: u32,
    pub loads: u32,
    /// What the stand-ins of programs keep there.
    pub notes: BTreeMap<String, String>,
}

/// What a program that ended with an error leaves: its exit status and the end of what it printed.
pub type Ended = (i32, String);

/// What a program of the image sees of the machine.
pub struct Around<'a> {
    pub disk: &'a mut Disk,
    pub run_files: &'a mut BTreeMap<String, (Vec<u8>, u32)>,
}

impl Around<'_> {
    /// A file's text and mode, also of those below `/run`.
    pub fn file(&self, path: &str) -> Option<(String, u32)> {
        let (bytes, mode) = self.disk.files.get(path).or_else(|| self.run_files.get(path))?;
        Some((String::from_utf8_lossy(bytes).into_owned(), *mode))
    }
}

/// A stand-in for a program of the image, and for the cluster that it talks to.
pub trait Program: Send {
    /// Runs a command; `None` where it is not this program's.
    fn run(&mut self, command: &[&str], around: &mut Around<'_>) -> Option<Result<String, Ended>>;

    /// What a power cut in the middle of a command leaves.
    fn half(&mut self, _command: &[&str], _around: &mut Around<'_>) {}

    /// The power comes back.
    fn reboot(&mut self, _around: &mut Around<'_>) {}

    /// Time passes.
    fn sleep(&mut self, _duration: Duration) {}
}

/// The machine.
#[derive(Default)]
pub struct SimulatedHost {
    state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    pub disk: Disk,
    /// Lost at a reboot.
    pub hostname: String,
    /// The image's own files that those on the disk hide.
    pub image: BTreeMap<String, String>,
    pub docker_runs: bool,
    pub clock: u64,
    pub slept: Duration,
    pub commands: Vec<String>,
    /// The addresses that the interfaces get.
    pub addresses: Vec<InterfaceAddress>,
    /// The addresses as what is written on the disk gives them, in place of `addresses`.
    pub network: Option<fn(&Disk) -> Vec<InterfaceAddress>>,
    pub links: Vec<Link>,
    /// What the manager's rendezvous answers, in order; the last answer is repeated.
    pub rendezvous: Vec<Result<(&'static str, u64), Refusal>>,
    /// What is answered to requests, by their address: in order, the last answer repeated. What stands under the
    /// empty address is for all others.
    pub answers: BTreeMap<String, Vec<Result<HttpResponse, HttpReason>>>,
    /// The requests that were made, bodies included.
    pub requests: Vec<(Method, String, Vec<u8>)>,
    /// The machines at which nobody serves a rendezvous.
    pub silent: BTreeSet<IpAddr>,
    /// The nodes that the swarm's managers know, without this one.
    pub nodes: Vec<engine::KnownNode>,
    /// For how long the rendezvous sends the node away, before it answers.
    pub busy: Vec<Duration>,
    /// Why the engine refuses to join.
    pub join_refusal: Option<&'static str>,
    /// Commands that fail, by their beginning.
    pub failing: Vec<&'static str>,
    /// What the engine answers to a join: `active` by default.
    pub join_leads_to: Option<&'static str>,
    /// How many sleeps a `pending` join takes to become active.
    pub pending_sleeps: u32,
    /// Where something accepts connections.
    pub open_ports: BTreeSet<SocketAddr>,
    /// Files below `/run`; lost at a reboot.
    pub run_files: BTreeMap<String, (Vec<u8>, u32)>,
    pub programs: Vec<Box<dyn Program>>,
    /// Actions so far, and the point at which the plug is pulled: three points for each action.
    pub points: u64,
    pub plug: Option<u64>,
    pub volatile: Volatile,
    /// What the kernel makes of a setting instead of what was written, by path.
    pub clamped: BTreeMap<String, String>,
    /// The rings and channels of interfaces, as the driver answers.
    pub rings: BTreeMap<String, EthtoolRequest>,
    /// The stick that is plugged in, as far as results are written to it.
    pub stick: Option<stick::Stick>,
    /// The real-time clock's chip, and the `Date`s that servers give, by their address.
    pub time: Time,
    /// What the plug's pulling loses of what was not flushed, and which writes fail.
    pub power: power::Power,
}

#[derive(Default)]
pub struct Time {
    pub rtc: Option<u64>,
    pub dates: Vec<(String, Result<ServerDate, String>)>,
    /// How often a server was asked.
    pub asked: u32,
}

impl State {
    /// Asks the programs in turn until one has an answer.
    fn with_programs<R>(&mut self, mut ask: impl FnMut(&mut dyn Program, &mut Around<'_>) -> Option<R>) -> Option<R> {
        let mut programs = std::mem::take(&mut self.programs);
        let mut around = Around { disk: &mut self.disk, run_files: &mut self.run_files };
        let answer = programs.iter_mut().find_map(|program| ask(&mut **program, &mut around));
        self.programs = programs;
        answer
    }
}

impl SimulatedHost {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the disk.
    pub fn disk(&self) -> Disk {
        self.state().disk.clone()
    }

    /// How long the service has slept.
    pub fn slept(&self) -> Duration {
        self.state().slept
    }

    /// How many points at which the plug could have been pulled have passed.
    pub fn points(&self) -> u64 {
        self.state().points
    }

    /// The power comes back: what was flushed to the disk is still there; of the rest, what chance left.
    pub fn reboot(&self) {
        let mut state = self.state();
        state.lose_unflushed();
        state.docker_runs = false;
        state.plug = None;
        state.volatile = Volatile { read_only: state.volatile.read_only.clone(), ..Volatile::default() };
        state.power.plug_at = None;
        state.run_files.clear();
        state.with_programs(|program, around| {
            program.reboot(around);
            None::<()>
        });
        state.hostname = state
            .disk
            .files
            .get("/etc/hostname")
            .map_or_else(String::new, |(bytes, _)| String::from_utf8_lossy(bytes).trim().to_owned());
    }

    /// Adds a stand-in for a program.
    pub fn install(&self, program: impl Program + 'static) {
        self.state().programs.push(Box::new(program));
    }

    pub fn text(&self, path: &str) -> String {
        self.state().disk.files.get(path).map_or_else(String::new, |(bytes, _)| String::from_utf8_lossy(bytes).into())
    }

    pub fn put(&self, path: &str, text: &str) {
        self.state().disk.files.insert(path.into(), (text.as_bytes().to_vec(), 0o644));
    }

    pub fn put_bytes(&self, path: &str, bytes: &[u8]) {
        self.state().disk.files.insert(path.into(), (bytes.to_vec(), 0o644));
    }

    /// Does what changes the machine; `half` is what a power cut in the middle leaves.
    fn act<R>(&self, half: impl FnOnce(&mut State), whole: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let first = state.points;
        state.plug = state.plug.or_else(|| state.power.pulled_now().then_some(first));
        state.points += 3;
        let kill = |point| {
            if point {
                std::panic::resume_unwind(Box::new(Killed));
            }
        };
        kill(state.plug == Some(first));
        if state.plug == Some(first + 1) {
            half(&mut state);
            kill(true);
        }
        let result = whole(&mut state);
        kill(state.plug == Some(first + 2));
        result
    }
}

impl Host for SimulatedHost {
    fn read(&self, path: &str, _: u64) -> Result<Option<Vec<u8>>, HostError> {
        if self.state().volatile.unreadable.contains(path) {
            return Err(HostError::file("read", path)(std::io::Error::from_raw_os_error(6)));
        }
        let shown = match path {
            "/proc/self/mountinfo" => simulated_disks::mountinfo(&self.state()),
            "/proc/swaps" => simulated_disks::swaps(&self.state()),
            _ => String::new(),
        };
        if !shown.is_empty() {
            return Ok(Some([self.text(path).as_bytes(), shown.as_bytes()].concat()));
        }
        let state = self.state();
        let file = state.disk.files.get(path).or_else(|| state.run_files.get(path));
        Ok(file.map(|(bytes, _)| bytes.clone()))
    }

    fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<(), HostError> {
        if path.starts_with("/run/") {
            self.state().run_files.insert(path.into(), (bytes.to_vec(), mode));
            return Ok(());
        }
        files::write_durable(self, Path::new(path), bytes, mode).map_err(HostError::file("write", path))
    }

    fn write_as(&self, path: &str, bytes: &[u8], mode: u32, ids: Ids) -> Result<(), HostError> {
        files::write_durable(self, Path::new(path), bytes, mode).map_err(HostError::file("write", path))?;
        let mut state = self.state();
        state.disk.links.remove(path);
        // The real one gives it to its owner before it has its name.
        if ids == Ids::ROOT {
            state.disk.owners.remove(path);
        } else {
            state.disk.owners.insert(path.into(), ids);
        }
        Ok(())
    }

    fn make_directory_as(&self, path: &str, mode: u32, ids: Ids) -> Result<(), HostError> {
        self.act(|_| {}, |state| state.disk.directories.insert(path.into(), (mode, ids)));
        Ok(())
    }

    fn look(&self, path: &str) -> Result<Option<Standing>, HostError> {
        let state = self.state();
        if let Some((_, mode)) = state.disk.files.get(path) {
            let ids = state.disk.owners.get(path).copied().unwrap_or(Ids::ROOT);
            return Ok(Some(Standing::File { mode: *mode, ids }));
        }
        if let Some(target) = state.disk.links.get(path) {
            return Ok(Some(Standing::Link(target.clone())));
        }
        Ok(state.disk.directories.get(path).map(|(_, ids)| Standing::Directory { ids: *ids }))
    }

    fn image_file(&self, path: &str, _: u64) -> Result<Option<ImageFile>, HostError> {
        let file = |text: &String| ImageFile { bytes: text.as_bytes().to_vec(), mode: 0o644, ids: Ids::ROOT };
        Ok(self.state().image.get(path).map(file))
    }

    fn append(&self, path: &str, bytes: &[u8]) -> Result<(), HostError> {
        files::append_durable(self, Path::new(path), bytes).map_err(HostError::file("append to", path))
    }

    fn truncate(&self, path: &str, length: u64) -> Result<(), HostError> {
        files::truncate_durable(self, Path::new(path), length).map_err(HostError::file("shorten", path))
    }

    fn remove(&self, path: &str) -> Result<(), HostError> {
        if path.starts_with("/run/") {
            self.state().run_files.remove(path);
            return Ok(());
        }
        files::remove_durable(self, Path::new(path)).map_err(HostError::file("remove", path))?;
        self.state().disk.owners.remove(path);
        Ok(())
    }

    fn link(&self, path: &str, target: &str) -> Result<(), HostError> {
        files::link_durable(self, Path::new(path), target).map_err(HostError::file("link", path))?;
        self.state().disk.owners.remove(path);
        Ok(())
    }

    fn exists(&self, path: &str) -> bool {
        let state = self.state();
        let mapped = path.strip_prefix("/dev/mapper/").is_some_and(|name| state.volatile.mapped.contains(name));
        let mounts = state.run_files.get("/proc/self/mountinfo");
        let mounted = mounts.is_some_and(|(text, _)| String::from_utf8_lossy(text).contains(&format!(" {path} ")));
        mapped
            || mounted
            || state.run_files.contains_key(path)
            || state.disk.files.contains_key(path)
            || state.volatile.directories.contains(path)
    }

    fn names(&self, path: &str) -> Result<Vec<String>, HostError> {
        let prefix = format!("{path}/");
        let state = self.state();
        let names = state.disk.files.keys().filter_map(|name| name.strip_prefix(&prefix)?.split('/').next());
        let names: std::collections::BTreeSet<String> = names.map(str::to_owned).collect();
        Ok(names.into_iter().collect())
    }

    fn make_directory(&self, path: &str) -> Result<(), HostError> {
        if self.state().volatile.read_only.iter().any(|prefix| path.starts_with(prefix)) {
            return Err(HostError::file("make", path)(std::io::ErrorKind::ReadOnlyFilesystem.into()));
        }
        self.act(|_| {}, |state| state.volatile.directories.insert(path.to_owned()));
        Ok(())
    }

    fn set_kernel(&self, path: &str, value: &str) -> Result<(), HostError> {
        let taken = self.act(
            |_| {},
            |state| {
                let clamped = state.clamped.get(path).cloned();
                let file = state.disk.files.get_mut(path)?;
                if clamped.as_deref() != Some("EINVAL") {
                    file.0 = clamped.unwrap_or_else(|| value.to_owned()).into_bytes();
                    return Some(true);
                }
                Some(false)
            },
        );
        match taken {
            Some(true) => Ok(()),
            Some(false) => Err(HostError::file("set", path)(std::io::ErrorKind::InvalidInput.into())),
            None => Err(HostError::file("set", path)(std::io::ErrorKind::NotFound.into())),
        }
    }

    fn ethtool(&self, interface: &str, request: &mut EthtoolRequest) -> Result<(), HostError> {
        simulated_disks::ethtool(&mut self.state(), interface, request)
            .map_err(|kind| HostError::System { action: "ask the interface's driver", source: kind.into() })
    }

    fn read_device(&self, device: &str, offset: u64, length: u64) -> Result<Vec<u8>, HostError> {
        let state = self.state();
        let found = state.disk.devices.get(device);
        let found = found.ok_or_else(|| HostError::file("read", device)(std::io::ErrorKind::NotFound.into()))?;
        Ok(found.read(offset, length))
    }

    fn clear_device(&self, device: &str, offset: u64, length: u64) -> Result<(), HostError> {
        let clear = |state: &mut State, length| state.disk.devices.get_mut(device).unwrap().clear(offset, length);
        self.act(|state| clear(state, length / 2), |state| clear(state, length));
        Ok(())
    }

    fn is_busy(&self, device: &str) -> Result<bool, HostError> {
        Ok(self.state().volatile.busy.contains(device))
    }

    fn random_bytes(&self, count: usize) -> Result<Vec<u8>, HostError> {
        Ok(vec![7; count])
    }

    fn list(&self, path: &str) -> Result<Vec<(String, u64)>, HostError> {
        let prefix = format!("{path}/");
        let state = self.state();
        let files = state.disk.files.iter();
        Ok(files
            .filter_map(|(name, (bytes, _))| Some((name.strip_prefix(&prefix)?.to_owned(), bytes.len() as u64)))
            .collect())
    }

    fn run(&self, program: &str, arguments: &[&str], _: Duration) -> Result<Vec<u8>, HostError> {
        let command = format!("{program} {}", arguments.join(" "));
        self.state().power.doing.clone_from(&command);
        let words: Vec<&str> = std::iter::once(program).chain(arguments.iter().copied()).collect();
        self.act(
            |state| {
                programs::command_was_begun(state, program, arguments);
                drop(simulated_disks::run(state, program, arguments, false));
                state.with_programs(|program, around| {
                    program.half(&words, around);
                    None::<()>
                });
            },
            |state| {
                programs::command_was_begun(state, program, arguments);
                if state.failing.iter().any(|failing| command.starts_with(failing)) {
                    let failed = ProcessError::Failed { command, status: "exit status 1".into(), tail: "no".into() };
                    return Err(failed.into());
                }
                if program == "/usr/sbin/update-ca-certificates" {
                    programs::update_ca_certificates(&mut state.disk, arguments);
                }
                state.docker_runs |= command == "systemctl start docker.service";
                let said = simulated_disks::run(state, program, arguments, true);
                let answer = state.with_programs(|program, around| program.run(&words, around));
                state.commands.push(command.clone());
                let failed = |status: String, tail: String| ProcessError::Failed { command, status, tail }.into();
                match (said, answer) {
                    (Err(tail), _) => Err(failed("exit status 1".into(), tail)),
                    (Ok(said), None) => Ok(said),
                    (Ok(_), Some(Ok(output))) => Ok(output.into_bytes()),
                    (Ok(_), Some(Err((code, tail)))) => Err(failed(format!("exit status: {code}"), tail)),
                }
            },
        )
    }

    fn set_hostname(&self, name: &str) -> Result<(), HostError> {
        self.act(|_| {}, |state| name.clone_into(&mut state.hostname));
        Ok(())
    }

    fn machine(&self) -> Machine {
        Machine { macs: ["52:54:00:00:00:01".parse().unwrap()].into(), ..Machine::default() }
    }

    fn addresses(&self) -> Result<Vec<InterfaceAddress>, HostError> {
        Ok(self.all_addresses()?.into_iter().filter(simulated_disks::is_global).collect())
    }

    fn all_addresses(&self) -> Result<Vec<InterfaceAddress>, HostError> {
        let state = self.state();
        Ok(state.network.map_or_else(|| state.addresses.clone(), |network| network(&state.disk)))
    }

    fn links(&self) -> Result<Vec<Link>, HostError> {
        Ok(self.state().links.clone())
    }

    fn source_address(&self, _: IpAddr) -> Option<IpAddr> {
        self.state().addresses.first().map(|first| first.address)
    }

    fn resolve(&self, host: &HostAddress) -> Result<Vec<IpAddr>, HostError> {
        self.addresses_of(host)
    }

    fn http(&self, request: &HttpRequest<'_>) -> Result<HttpResponse, HttpError> {
        let mut state = self.state();
        state.requests.push((request.method, request.url.to_owned(), request.body.to_vec()));
        let unreachable = || Err(HttpReason::Connection("there is no such server".into()));
        let known = if state.answers.contains_key(request.url) { request.url } else { "" };
        let answer = match state.answers.get_mut(known) {
            Some(answers) if answers.len() > 1 => answers.remove(0),
            Some(answers) => answers.first().cloned().unwrap_or_else(unreachable),
            None => unreachable(),
        };
        match answer {
            Ok(answer) if answer.body.len() as u64 > request.limit => Err(HttpReason::TooLarge(request.limit)),
            answer => answer,
        }
        .map_err(|reason| HttpError::new(request.url, reason))
    }

    fn connect(&self, to: SocketAddr, _: Duration) -> std::io::Result<()> {
        if self.state().open_ports.contains(&to) { Ok(()) } else { Err(std::io::ErrorKind::ConnectionRefused.into()) }
    }

    fn engine(&self, request: &Request<'_>) -> Result<Response, EngineError> {
        self.answer(request)
    }

    fn rendezvous(&self, peer: IpAddr, _: u16, _: &Secret, _: &NodeIdentity) -> Result<Grant, RendezvousError> {
        self.ask(peer)
    }

    fn archive_images(&self, archive: &str) -> Result<Vec<ArchiveImage>, HostError> {
        assert!(Path::new(archive).is_absolute());
        Ok(vec![ArchiveImage { config: format!("{}.json", "a".repeat(64)), tags: Some(vec!["demo:1".into()]) }])
    }

    fn now(&self) -> u64 {
        self.state().clock
    }

    fn uptime(&self) -> Duration {
        self.slept()
    }

    fn set_clock(&self, seconds: u64) -> Result<(), HostError> {
        self.act(|_| {}, |state| state.clock = seconds);
        Ok(())
    }

    fn rtc(&self) -> Option<u64> {
        self.state().time.rtc
    }

    fn set_rtc(&self, seconds: u64) -> Result<(), HostError> {
        self.state().time.rtc = Some(seconds);
        Ok(())
    }

    fn https_date(&self, url: &Url, _: &Vouch) -> Result<ServerDate, String> {
        let mut state = self.state();
        state.time.asked += 1;
        let dates = state.time.dates.iter();
        let found = dates.filter(|(known, _)| *known == url.to_string()).map(|(_, answer)| answer.clone()).next();
        found.unwrap_or_else(|| Err("there is no such server".into()))
    }

    fn write_results(&self, write: WriteResults<'_>) -> Result<String, StickError> {
        let mut state = self.state();
        let stick = state.stick.as_mut().ok_or(StickError::NoStick)?;
        write(stick).map_err(|error| StickError::of("INGOT (/dev/sdb1)", error))?;
        Ok("INGOT (/dev/sdb1)".into())
    }

    fn random_below(&self, bound: u64) -> u64 {
        bound / 2
    }

    fn sleep(&self, duration: Duration) {
        let mut state = self.state();
        state.slept += duration;
        let slept = state.slept;
        state.power.fault.take_if(|fault| fault.until <= slept);
        state.with_programs(|program, _| {
            program.sleep(duration);
            None::<()>
        });
        assert!(state.slept < Duration::from_hours(24), "the service waits for something that never comes");
        if state.disk.swarm == "pending" && state.pending_sleeps > 0 {
            state.pending_sleeps -= 1;
            if state.pending_sleeps == 0 {
                state.disk.swarm = "active".into();
            }
        }
    }
}
