//! Tells everyone where the node is: every console, the journal, `/run/ingot/status.json`, systemd.
//!
//! Takes a [`Code`] and a text; each report is one status line. The kernel's command line names several consoles
//! (serial and screen) and `/dev/console` is only the last of them, so the line is written to each by itself, and
//! never waits: a serial port with flow control and nothing behind it must not stop a boot.

use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

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
    status: Mutex<Option<Status>>,
    consoles: bool,
}

impl<'a> Reporter<'a> {
    /// A reporter that goes on with the history of this boot. Without `consoles` only the file and standard output
    /// are written.
    pub fn new(host: &'a dyn Host, consoles: bool) -> Self {
        Self { host, status: Mutex::new(read_status(host)), consoles }
    }

    fn update(&self, code: Code, text: &str) -> Status {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.host.now();
        let mut history = status.as_ref().map_or_else(Vec::new, |status| status.history.clone());
        let same = status.as_ref().filter(|status| status.code == code);
        let since = same.map_or(at, |status| status.since);
        // A state that is only repeated makes no history.
        if same.is_none_or(|status| status.text != text) {
            history.push(Moment {
                code,
                name: code.name().to_owned(),
                text: text.to_owned(),
                at,
                uptime_ms: uptime_ms(),
            });
            let surplus = history.len().saturating_sub(HISTORY);
            history.drain(..surplus);
        }
        let new = Status { code, name: code.name().to_owned(), text: text.to_owned(), since, history };
        *status = Some(new.clone());
        new
    }
}

impl Report for Reporter<'_> {
    fn report(&self, code: Code, text: &str) {
        let line = code.line(text);
        self.note(&line);
        if self.consoles {
            write_to_consoles(&line);
        }
        let status = self.update(code, text);
        if let Ok(mut json) = serde_json::to_vec_pretty(&status) {
            json.push(b'\n');
            // The file is a convenience for others; a full /run must not stop the node.
            if let Err(error) = self.host.write(STATUS_FILE, &json, 0o644) {
                self.note(&error.to_string());
            }
        }
        notify(&format!("STATUS={}", line.trim_start_matches("ingot: ")));
    }

    fn note(&self, line: &str) {
        // Standard output is the journal; there is nowhere to complain when it is closed.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }
}

/// The status that the service left in this boot.
pub fn read_status(host: &dyn Host) -> Option<Status> {
    serde_json::from_slice(&host.read(STATUS_FILE, 4 * 1024 * 1024).ok()??).ok()
}

fn uptime_ms() -> u64 {
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
}
