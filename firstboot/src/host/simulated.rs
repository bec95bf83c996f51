//! A machine for tests: its disk, its container engine and its clock live in memory, and its plug can be pulled
//! before, in the middle of, or after any action that changes it.

#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Host, HostError, InterfaceAddress};
use crate::config::{HostAddress, Machine, Secret};
use crate::http::{HttpError, HttpReason, HttpRequest, HttpResponse, Method};
use crate::join::engine::{Body, EngineError, Request, Response};
use crate::process::ProcessError;
use crate::rendezvous::{Grant, NodeIdentity, Refusal, RendezvousError};
use crate::step::images::ArchiveImage;

/// What a test's service runs into when the plug is pulled. It is thrown as a panic's payload: nothing of the
/// service runs after it.
pub struct Killed;

/// What lives on the disk, and with the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    pub files: BTreeMap<String, (Vec<u8>, u32)>,
    pub links: BTreeMap<String, String>,
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
    pub docker_runs: bool,
    pub clock: u64,
    pub slept: Duration,
    pub commands: Vec<String>,
    /// The addresses that the interfaces get.
    pub addresses: Vec<InterfaceAddress>,
    /// What the manager's rendezvous answers, in order; the last answer is repeated.
    pub rendezvous: Vec<Result<(&'static str, u64), Refusal>>,
    /// What is answered to requests, by their address: in order, the last answer repeated.
    pub answers: BTreeMap<String, Vec<Result<HttpResponse, HttpReason>>>,
    /// The requests that were made, bodies included.
    pub requests: Vec<(Method, String, Vec<u8>)>,
    /// The nodes that the swarm's managers know: identity, host name, state.
    pub nodes: Vec<(String, String, &'static str)>,
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

    /// The power comes back: what is on the disk is still there, nothing else.
    pub fn reboot(&self) {
        let mut state = self.state();
        state.docker_runs = false;
        state.plug = None;
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

    /// Does what changes the machine; `half` is what a power cut in the middle leaves.
    fn act<R>(&self, half: impl FnOnce(&mut State), whole: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let first = state.points;
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

    fn info(state: &State) -> String {
        format!(
            "{{\"Name\":\"x\",\"Swarm\":{{\"NodeID\":\"{}\",\"NodeAddr\":\"10.77.0.11\",\"LocalNodeState\":\"{}\",\
             \"ControlAvailable\":{},\"Error\":\"\",\"RemoteManagers\":null}}}}",
            if state.disk.swarm == "active" { "node1" } else { "" },
            if state.disk.swarm.is_empty() { "inactive" } else { &state.disk.swarm },
            state.disk.manager,
        )
    }

    /// Removes a node from the swarm that this machine is a manager of.
    fn delete(&self, path: &str) -> Response {
        let id = path.trim_start_matches("/nodes/").trim_end_matches("?force=true").to_owned();
        self.act(
            |_| {},
            |state| {
                let before = state.nodes.len();
                state.nodes.retain(|node| node.0 != id);
                Response { status: if state.nodes.len() < before { 200 } else { 404 }, body: Vec::new() }
            },
        )
    }

    fn nodes(state: &State) -> String {
        let one = |(id, hostname, status): &(String, String, &str)| {
            format!(
                "{{\"ID\":\"{id}\",\"Version\":{{\"Index\":7}},\"Spec\":{{\"Role\":\"worker\"}},\
                 \"Description\":{{\"Hostname\":\"{hostname}\"}},\"Status\":{{\"State\":\"{status}\"}}}}"
            )
        };
        format!("[{}]", state.nodes.iter().map(one).collect::<Vec<_>>().join(","))
    }

    fn post(&self, path: &str, body: &str) -> Response {
        let answer = |status, body: &str| Response { status, body: body.as_bytes().to_vec() };
        match path {
            "/swarm/init" => self.act(
                |_| {},
                |state| {
                    if state.disk.swarm == "active" {
                        return answer(503, "{\"message\":\"This node is already part of a swarm.\"}");
                    }
                    state.disk.swarm = "active".into();
                    state.disk.manager = true;
                    state.disk.founded += 1;
                    answer(200, "\"node1\"")
                },
            ),
            "/swarm/join" => self.act(
                |_| {},
                |state| {
                    assert!(body.contains("SWMTKN-1-"), "a token is given");
                    if state.disk.swarm == "active" {
                        return answer(503, "{\"message\":\"This node is already part of a swarm.\"}");
                    }
                    if let Some(reason) = state.join_refusal {
                        return answer(500, &format!("{{\"message\":\"{reason}\"}}"));
                    }
                    let end = state.join_leads_to.unwrap_or("active");
                    state.disk.swarm = end.into();
                    state.disk.joined += 1;
                    if end == "active" {
                        answer(200, "")
                    } else {
                        answer(503, "{\"message\":\"Timeout was reached before node joined.\"}")
                    }
                },
            ),
            "/swarm/leave?force=true" => self.act(
                |_| {},
                |state| {
                    state.disk.swarm = "inactive".into();
                    state.disk.left += 1;
                    answer(200, "")
                },
            ),
            _ => answer(404, "{\"message\":\"page not found\"}"),
        }
    }
}

impl Host for SimulatedHost {
    fn read(&self, path: &str, _: u64) -> Result<Option<Vec<u8>>, HostError> {
        let state = self.state();
        let file = state.disk.files.get(path).or_else(|| state.run_files.get(path));
        Ok(file.map(|(bytes, _)| bytes.clone()))
    }

    fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<(), HostError> {
        if path.starts_with("/run/") {
            self.state().run_files.insert(path.into(), (bytes.to_vec(), mode));
            return Ok(());
        }
        self.act(|_| {}, |state| state.disk.files.insert(path.into(), (bytes.to_vec(), mode)));
        Ok(())
    }

    fn append(&self, path: &str, bytes: &[u8]) -> Result<(), HostError> {
        let add = |state: &mut State, bytes: &[u8]| {
            state.disk.files.entry(path.into()).or_insert((Vec::new(), 0o600)).0.extend_from_slice(bytes);
        };
        self.act(|state| add(state, &bytes[..bytes.len() / 2]), |state| add(state, bytes));
        Ok(())
    }

    fn truncate(&self, path: &str, length: u64) -> Result<(), HostError> {
        let length = usize::try_from(length).unwrap();
        self.act(|_| {}, |state| state.disk.files.get_mut(path).map(|(bytes, _)| bytes.truncate(length)));
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<(), HostError> {
        if path.starts_with("/run/") {
            self.state().run_files.remove(path);
            return Ok(());
        }
        self.act(|_| {}, |state| state.disk.files.remove(path));
        Ok(())
    }

    fn link(&self, path: &str, target: &str) -> Result<(), HostError> {
        self.act(|_| {}, |state| state.disk.links.insert(path.into(), target.into()));
        Ok(())
    }

    fn exists(&self, path: &str) -> bool {
        let state = self.state();
        state.disk.files.contains_key(path) || state.run_files.contains_key(path)
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
        let words: Vec<&str> = std::iter::once(program).chain(arguments.iter().copied()).collect();
        self.act(
            |state| {
                state.with_programs(|program, around| {
                    program.half(&words, around);
                    None::<()>
                });
            },
            |state| {
                if state.failing.iter().any(|failing| command.starts_with(failing)) {
                    let failed = ProcessError::Failed { command, status: "exit status 1".into(), tail: "no".into() };
                    return Err(failed.into());
                }
                state.docker_runs |= command == "systemctl start docker.service";
                let answer = state.with_programs(|program, around| program.run(&words, around));
                state.commands.push(command.clone());
                match answer {
                    None => Ok(Vec::new()),
                    Some(Ok(output)) => Ok(output.into_bytes()),
                    Some(Err((code, tail))) => {
                        Err(ProcessError::Failed { command, status: format!("exit status: {code}"), tail }.into())
                    }
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
        Ok(self.state().addresses.clone())
    }

    fn source_address(&self, _: IpAddr) -> Option<IpAddr> {
        self.state().addresses.first().map(|first| first.address)
    }

    fn resolve(&self, host: &HostAddress) -> Result<Vec<IpAddr>, HostError> {
        match host {
            HostAddress::Ip(address) => Ok(vec![*address]),
            HostAddress::Name(name) => Err(HostError::Resolve { name: name.clone(), reason: "no name server".into() }),
        }
    }

    fn http(&self, request: &HttpRequest<'_>) -> Result<HttpResponse, HttpError> {
        let mut state = self.state();
        state.requests.push((request.method, request.url.to_owned(), request.body.to_vec()));
        let unreachable = || Err(HttpReason::Connection("there is no such server".into()));
        let answer = match state.answers.get_mut(request.url) {
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
        let answer = |status, body: &str| Ok(Response { status, body: body.as_bytes().to_vec() });
        if !self.state().docker_runs {
            return Err(EngineError::Socket(std::io::ErrorKind::ConnectionRefused.into()));
        }
        match (request.method, request.path, request.body) {
            ("GET", "/_ping", _) => answer(200, "OK"),
            ("GET", "/info", _) => answer(200, &Self::info(&self.state())),
            ("GET", "/swarm", _) => {
                answer(200, "{\"JoinTokens\":{\"Worker\":\"SWMTKN-1-w\",\"Manager\":\"SWMTKN-1-m\"}}")
            }
            ("GET", "/nodes", _) => answer(200, &Self::nodes(&self.state())),
            ("DELETE", path, _) => Ok(self.delete(path)),
            ("GET", path, _) if path.starts_with("/images/") => {
                let tag = path.trim_start_matches("/images/").trim_end_matches("/json");
                let loaded = self.state().disk.images.iter().any(|image| image == tag);
                let id = format!("{{\"Id\":\"sha256:{}\"}}", "a".repeat(64));
                answer(if loaded { 200 } else { 404 }, &id)
            }
            ("POST", "/images/load?quiet=1", Body::Archive(_)) => self.act(
                |_| {},
                |state| {
                    state.disk.loads += 1;
                    state.disk.images = vec!["demo:1".into()];
                    answer(200, "{\"stream\":\"Loaded image: demo:1\"}")
                },
            ),
            ("POST", path, Body::Json(json)) => Ok(self.post(path, &String::from_utf8_lossy(json))),
            ("POST", path, _) => Ok(self.post(path, "")),
            _ => answer(404, "{\"message\":\"page not found\"}"),
        }
    }

    fn rendezvous(&self, _: IpAddr, _: u16, _: &Secret, _: &NodeIdentity) -> Result<Grant, RendezvousError> {
        let mut state = self.state();
        if !state.busy.is_empty() {
            return Err(RendezvousError::Busy(state.busy.remove(0)));
        }
        let answer = if state.rendezvous.len() > 1 { state.rendezvous.remove(0) } else { state.rendezvous[0] };
        answer.map(|(token, time)| Grant { token: Secret::new(token), time }).map_err(RendezvousError::Refused)
    }

    fn archive_images(&self, archive: &str) -> Result<Vec<ArchiveImage>, HostError> {
        assert!(Path::new(archive).is_absolute());
        Ok(vec![ArchiveImage { config: format!("{}.json", "a".repeat(64)), tags: Some(vec!["demo:1".into()]) }])
    }

    fn now(&self) -> u64 {
        self.state().clock
    }

    fn set_clock(&self, seconds: u64) -> Result<(), HostError> {
        self.act(|_| {}, |state| state.clock = seconds);
        Ok(())
    }

    fn random_below(&self, bound: u64) -> u64 {
        bound / 2
    }

    fn sleep(&self, duration: Duration) {
        let mut state = self.state();
        state.slept += duration;
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
