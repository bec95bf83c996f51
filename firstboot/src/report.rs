//! Tells everyone where the node is: every console, the journal, `/run/ingot/status.json`, systemd.
//!
//! Takes a [`Code`] and a text; each report is one status line. Three others follow the states by themselves, so that
//! nothing waits for them: the screen at the rack ([`screen`]), the result on the stick ([`stick`]) and the report over
//! HTTP ([`post`]). What they come to is in the status too.
//!
//! Each report is one status line. The kernel's command line names several consoles
//! (serial and screen) and `/dev/console` is only the last of them, so the line is written to each by itself, and
//! never waits: a serial port with flow control and nothing behind it must not stop a boot.

mod beside;
pub mod post;
pub mod screen;
pub mod stick;

pub use beside::Beside;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::clock::image_facts;
use crate::config::{NodeConfig, ReportTo};
use crate::host::Host;
use crate::status::Code;

/// Where the current status lies.
pub const STATUS_FILE: &str = "/run/ingot/status.json";
/// How many past states are kept.
const HISTORY: usize = 200;

/// A place where states are reported.
pub trait Report: Sync {
    /// The node is in this state; the text has no secrets.
    fn report(&self, code: Code, text: &str);
    /// A line for the journal only.
    fn note(&self, line: &str);
    /// Nothing happens before the next attempt, so long from now.
    fn next_try(&self, _pause: Duration) {}
    /// A configuration medium was read, or tried, in this boot: the result goes back to it.
    fn medium_seen(&self) {}
    /// A valid configuration says where results go.
    fn configured(&self, _config: &NodeConfig) {}
}

/// The content of `/run/ingot/status.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The code: `FB-500`.
    pub code: Code,
    /// The code's name: `joined`.
    pub name: String,
    /// What is to be said about it.
    pub text: String,
    /// Since when the node is in this state, in seconds since 1970 by its own clock.
    pub since: u64,
    /// All states of this boot, this one too, the oldest first.
    pub history: Vec<Moment>,
    /// When the next attempt begins, in milliseconds since the kernel started; absent where none is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_uptime_ms: Option<u64>,
    /// What became of the result on the `stick` and of the `report` over HTTP.
    #[serde(default)]
    pub delivered: BTreeMap<String, String>,
    /// Which machine this is.
    #[serde(default)]
    pub node: Node,
}

/// Which machine says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its name, once it has one.
    pub hostname: String,
    /// The image's role.
    pub role: String,
    /// The image's version.
    pub version: String,
    /// The identity of the image's content.
    pub image: String,
    /// The hardware addresses of its physical interfaces.
    pub macs: Vec<String>,
    /// The serial number in the firmware's tables.
    pub serial: Option<String>,
    /// The UUID in the firmware's tables.
    pub uuid: Option<String>,
}

impl Node {
    /// The facts of this machine.
    pub fn of(host: &dyn Host) -> Self {
        let facts = image_facts(host).unwrap_or_default();
        let name = host.read("/etc/hostname", 4096).ok().flatten().unwrap_or_default();
        let hostname = String::from_utf8_lossy(&name).trim().to_owned();
        let (role, version, image) = (facts.role, facts.version, facts.id);
        let mut node = Self { hostname, role, version, image, ..Self::default() };
        node.set_machine(&host.machine());
        node
    }
}

/// Where results go.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A configuration medium was read, or tried, in this boot.
    pub medium: bool,
    /// Results go back to the stick. Without a valid configuration they do.
    pub write_back: bool,
    /// Where states are sent.
    pub report: Option<ReportTo>,
}

/// What a follower sees.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Differs from that of every other change.
    pub number: u64,
    /// The present state; absent before the first one.
    pub status: Option<Status>,
    /// Where results go.
    pub settings: Settings,
    /// Nothing more will change; what is open is still to be delivered.
    pub closed: bool,
    /// There is no time left for anything.
    pub abandoned: bool,
}

/// A state and when it was reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// The code.
    pub code: Code,
    /// The code's name.
    pub name: String,
    /// What was said about it.
    pub text: String,
    /// When, in seconds since 1970 by the node's clock at that time.
    pub at: u64,
    /// When, in milliseconds since the kernel started: this clock never jumps.
    pub uptime_ms: u64,
}

/// The node's own reporter.
pub struct Reporter<'a> {
    host: &'a dyn Host,
    present: Mutex<Snapshot>,
    changed: Condvar,
    consoles: bool,
}

impl<'a> Reporter<'a> {
    /// A reporter that goes on with the history of this boot. Without `consoles` only the file and standard output
    /// are written.
    pub fn new(host: &'a dyn Host, consoles: bool) -> Self {
        let settings = Settings { medium: false, write_back: true, report: None };
        let snapshot = Snapshot { number: 1, status: read_status(host), settings, closed: false, abandoned: false };
        Self { host, present: Mutex::new(snapshot), changed: Condvar::new(), consoles }
    }

    /// Waits for a change after the one with this number, at most so long.
    pub fn follow(&self, seen: u64, wait: Duration) -> Snapshot {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |present: &mut Snapshot| present.number == seen && !present.abandoned;
        let (present, _) = self.changed.wait_timeout_while(present, wait, same).unwrap_or_else(PoisonError::into_inner);
        present.clone()
    }

    /// What became of a result; goes into the status and the journal.
    pub fn delivered(&self, way: &str, text: &str) {
        self.note(&format!("{way}: {text}"));
        self.change(|present| {
            if let Some(status) = &mut present.status {
                status.delivered.insert(way.to_owned(), text.to_owned());
            }
        });
        self.write_file();
    }

    /// Nothing more will change. Followers deliver what is open.
    pub fn close(&self) {
        self.change(|present| present.closed = true);
    }

    /// Followers end at once.
    pub fn abandon(&self) {
        self.change(|present| present.abandoned = true);
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut present: MutexGuard<'_, Snapshot> = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut present);
        present.number += 1;
        self.changed.notify_all();
    }

    fn update(&self, code: Code, text: &str) {
        let (at, node) = (self.host.now(), Node::of(self.host));
        self.change(|present| {
            let before = present.status.take();
            let same = before.as_ref().filter(|status| status.code == code);
            let since = same.map_or(at, |status| status.since);
            let repeated = same.is_some_and(|status| status.text == text);
            let (mut history, delivered) =
                before.map_or_else(Default::default, |status| (status.history, status.delivered));
            let (name, text) = (code.name().to_owned(), text.to_owned());
            // A state that is only repeated makes no history.
            if !repeated {
                history.push(Moment { code, name: name.clone(), text: text.clone(), at, uptime_ms: uptime_ms() });
                let surplus = history.len().saturating_sub(HISTORY);
                history.drain(..surplus);
            }
            let next_try_uptime_ms = None;
            present.status = Some(Status { code, name, text, since, history, next_try_uptime_ms, delivered, node });
        });
    }

    fn write_file(&self) {
        let status = self.present.lock().unwrap_or_else(PoisonError::into_inner).status.clone();
        let Some(Ok(mut json)) = status.map(|status| serde_json::to_vec_pretty(&status)) else { return };
        json.push(b'\n');
        // The file is a convenience for others; a full /run must not stop the node.
        if let Err(error) = self.host.write(STATUS_FILE, &json, 0o644) {
            self.note(&error.to_string());
        }
    }
}

impl Report for Reporter<'_> {
    fn report(&self, code: Code, text: &str) {
        let line = code.line(text);
        self.note(&line);
        if self.consoles {
            write_to_consoles(&line);
        }
        self.update(code, text);
        self.write_file();
        notify(&format!("STATUS={}", line.trim_start_matches("ingot: ")));
    }

    fn note(&self, line: &str) {
        // Standard output is the journal; there is nowhere to complain when it is closed.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }

    fn next_try(&self, pause: Duration) {
        let at = uptime_ms().saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        self.change(|present| {
            if let Some(status) = &mut present.status {
                status.next_try_uptime_ms = Some(at);
            }
        });
        self.write_file();
    }

    fn medium_seen(&self) {
        let known = self.present.lock().unwrap_or_else(PoisonError::into_inner).settings.medium;
        if !known {
            self.change(|present| present.settings.medium = true);
        }
    }

    fn configured(&self, config: &NodeConfig) {
        self.change(|present| {
            present.settings.write_back = config.write_back;
            present.settings.report.clone_from(&config.report);
        });
    }
}

/// The status that the service left in this boot.
pub fn read_status(host: &dyn Host) -> Option<Status> {
    serde_json::from_slice(&host.read(STATUS_FILE, 4 * 1024 * 1024).ok()??).ok()
}

/// Milliseconds since the kernel started; this clock never jumps.
pub fn uptime_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(time.tv_sec * 1000 + time.tv_nsec / 1_000_000).unwrap_or(0)
}

/// Writes a line to every console of the kernel.
fn write_to_consoles(line: &str) {
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let mut names: Vec<&str> = active.split_whitespace().collect();
    if names.is_empty() {
        names.push("console");
    }
    // The screen shows the same, and more; lines would only be drawn over.
    names.retain(|name| !(screen::exists() && matches!(*name, "tty0" | "tty1")));
    for name in names {
        let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if let Ok(console) = rustix::fs::open(format!("/dev/{name}"), flags, Mode::empty()) {
            // One write, so that it stays one line among those of others.
            let _ = rustix::io::write(&console, format!("{line}\r\n").as_bytes());
        }
    }
}

/// Tells systemd (`sd_notify(3)`); without systemd it does nothing.
pub fn notify(message: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    if let (Ok(socket), Ok(address)) = (UnixDatagram::unbound(), address) {
        let _ = socket.send_to_addr(message.as_bytes(), &address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::RealHost;

    #[test]
    fn the_file_has_the_state_and_the_history_of_the_boot() {
        let directory = tempfile::tempdir().unwrap();
        let host = RealHost::new(directory.path());
        let reporter = Reporter::new(&host, false);
        reporter.report(Code::WaitingForConfig, "no medium");
        reporter.report(Code::WaitingForConfig, "no medium");
        let first = read_status(&host).unwrap();
        assert_eq!(
            (first.code, first.name.as_str(), first.history.len()),
            (Code::WaitingForConfig, "waiting-for-config", 1)
        );
        // Another process in the same boot goes on.
        Reporter::new(&host, false).report(Code::Joined, "worker");
        let status = read_status(&host).unwrap();
        assert_eq!((status.code, status.text.as_str(), status.history.len()), (Code::Joined, "worker", 2));
        assert!(status.history[0].uptime_ms <= status.history[1].uptime_ms && status.since > 0);
    }

    #[test]
    fn history_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let host = RealHost::new(directory.path());
        let reporter = Reporter::new(&host, false);
        for number in 0..HISTORY + 5 {
            reporter.report(Code::Joining, &number.to_string());
        }
        let history = read_status(&host).unwrap().history;
        assert_eq!((history.len(), history[0].text.as_str()), (HISTORY, "5"));
    }

    #[test]
    fn followers_deliver_what_is_open_and_end() {
        use crate::config::{Document, Format, Machine, load};
        use crate::host::simulated::{SimulatedHost, stick::Stick};
        let url = "https://status.site/n";
        let text = format!("version = 1\n[report]\nurl = \"{url}\"\n");
        let document = Document { name: "f".into(), format: Format::NodeToml, bytes: text.into_bytes() };
        let config = load(&[document], &Machine::default()).unwrap().config;
        let host = SimulatedHost::default();
        host.state().stick = Some(Stick::default());
        let accepted = crate::http::HttpResponse { status: 200, headers: Vec::new(), body: Vec::new() };
        host.state().answers.insert(url.into(), vec![Ok(accepted)]);
        let reporter = Reporter::new(&host, false);
        std::thread::scope(|scope| {
            scope.spawn(|| stick::follow(&reporter, &host));
            scope.spawn(|| post::follow(&reporter, &host));
            reporter.medium_seen();
            reporter.configured(&config);
            reporter.report(Code::Joined, "worker");
            reporter.next_try(Duration::from_secs(5));
            reporter.close();
        });
        let delivered = reporter.follow(0, Duration::ZERO).status.unwrap().delivered;
        assert!(delivered["stick"].contains("it may be pulled out") && delivered["report"].contains("is reported to"));
        let state = host.state();
        assert_eq!((state.stick.as_ref().unwrap().written, state.requests.len()), (2, 1));
    }
}
