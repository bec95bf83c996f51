//! Gates: what must be up before the join begins.
//!
//! Takes the list of `join.after`; gives the first that is not open yet, with the reason. Looking costs little and
//! changes nothing; repeating and reporting are the service's work.

use std::net::SocketAddr;
use std::time::Duration;

use super::Retry;
use super::unit::{UnitState, state};
use crate::config::{Endpoint, Gate};
use crate::host::Host;
use crate::http::{HttpRequest, Method, Trust};

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A gate that is not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// What is waited for.
    pub gate: String,
    /// Why it counts as closed.
    pub reason: String,
    /// When it asked to be looked at again.
    pub retry: Retry,
}

/// The first gate that is not open.
pub fn first_closed(host: &dyn Host, gates: &[Gate]) -> Option<Closed> {
    gates.iter().find_map(|gate| {
        let (reason, retry) = look(host, gate).err()?;
        Some(Closed { gate: gate.to_string(), reason, retry })
    })
}

fn look(host: &dyn Host, gate: &Gate) -> Result<(), (String, Retry)> {
    let plain = |reason: String| (reason, Retry::Unsaid);
    match gate {
        Gate::Tcp(endpoint) => reach(host, endpoint).map_err(plain),
        Gate::Http { url, ca } => {
            let trust = ca.as_deref().map_or(Trust::System, Trust::Pinned);
            let request = HttpRequest {
                method: Method::Get,
                url: url.expose(),
                headers: &[],
                body: &[],
                trust,
                timeout: PATIENCE,
                limit: 64 * 1024,
            };
            let response = host.http(&request).map_err(|error| plain(error.to_string()))?;
            if (200..300).contains(&response.status) {
                return Ok(());
            }
            Err((format!("HTTP {}", response.status), response.retry_after().map_or(Retry::Unsaid, Retry::NotBefore)))
        }
        Gate::Mount(path) => match mounted(host, path.as_str()) {
            Some(_) => Ok(()),
            None => Err(plain("nothing is mounted there".into())),
        },
        Gate::Unit(unit) => match state(host, unit.as_str()) {
            Ok(UnitState::Active) => Ok(()),
            Ok(other) => Err(plain(format!("it is {}", format!("{other:?}").to_lowercase()))),
            Err(error) => Err(plain(error.to_string())),
        },
        Gate::TimeSynced => time_synced(host).then_some(()).ok_or_else(|| plain("no time server has answered".into())),
    }
}

/// Whether something accepts connections; the reason where not.
pub fn reach(host: &dyn Host, endpoint: &Endpoint) -> Result<(), String> {
    let mut reason = String::from("it has no address");
    for address in host.resolve(&endpoint.host).map_err(|error| error.to_string())? {
        match host.connect(SocketAddr::new(address, endpoint.port), PATIENCE) {
            Ok(()) => return Ok(()),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

/// What is mounted at `path`: its source and the type of its file system (`/proc/self/mountinfo`, proc(5)).
pub fn mounted(host: &dyn Host, path: &str) -> Option<(String, String)> {
    let bytes = host.read("/proc/self/mountinfo", 4 * 1024 * 1024).ok()??;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // The last one lies on top.
    text.lines().rev().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let target = before.split(' ').nth(4)?;
        let mut after = after.split(' ');
        let (kind, source) = (after.next()?, after.next()?);
        (unescape(target) == path).then(|| (unescape(source), kind.to_owned()))
    })
}

/// Undoes the octal escapes of blanks, tabs, line ends and backslashes.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, character)| text.replace(escape, character))
}

/// True once a time server has set the clock: timesyncd's own sign, or the kernel's as `timedatectl` reads it, which
/// chrony sets too.
pub fn time_synced(host: &dyn Host) -> bool {
    host.exists("/run/systemd/timesync/synchronized")
        || host
            .run("timedatectl", &["show", "--property=NTPSynchronized", "--value"], PATIENCE)
            .is_ok_and(|output| output.starts_with(b"yes"))
}
