//! The clock: a machine without a battery begins in 1970, or in 2080, and no certificate is valid then.
//!
//! Takes the time at which the image was built; the clock is never before it, nor more than 20 years after it: where
//! it is, the real-time clock's chip is asked, and else the build's time is taken. Time servers (`ntp`), a manager's
//! proven clock at the rendezvous, or the `Date` of an `https` server that the configuration names do the rest. What
//! they say goes into the chip too, so the next boot begins right.
//!
//! Every `https` server that the node talks to anyway can be asked: those of `[time]` and `[report]`, the server that the
//! configuration is fetched from, gates and controllers of the join. An API server whose authority only the join knows
//! is asked last ([`Vouch::Nobody`]).
//!
//! A `Date` is asked for only while no time server has set the clock, and only where the clock is doubtful (it was
//! outside those 20 years) or something failed before, so a healthy boot costs no question. What it may change:
//!
//! - Never beyond the 20 years, and never outside the validity of the server's certificates (see [`https`]).
//! - Forward, always. An attacker who could do that without the server's key could only bring about what a dead
//!   battery does: that certificates do not fit.
//! - By a server for which nobody vouches, forward only, never into the chip, and only while the clock is known to be
//!   wrong. Whoever stands in the way of a node and its cluster can keep it from joining anyway, and no longer than he
//!   stands there.
//! - Backward only where the clock lies outside the validity of the server's certificates. Then either the clock is
//!   wrong or a trusted server's certificate is, and a clock is wrong more often. Who has stolen the key of an expired
//!   certificate gains by it what a dead battery gives to anyone, a node in the time after its image's build.
//!
//! The time is no proof of anything: tokens, pins and the cluster secret are judged without it.

pub mod civil;
pub mod https;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use serde::Deserialize;

use crate::config::{Gate, NodeConfig, System, Url};
use crate::host::{Host, HostError};
use civil::Civil;
use https::ServerDate;
#[cfg(any(test, fuzzing))]
pub(crate) use https::validity;

/// What the image says about itself.
pub const IMAGE_FACTS: &str = "/usr/lib/ingot/image.json";

/// The facts of the image (`/usr/lib/ingot/image.json`) that the service needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ImageFacts {
    /// The role: `quickstart/worker`.
    pub role: String,
    /// The version.
    pub version: String,
    /// The identity of the image's content.
    pub id: String,
    /// When it was built (the lock's date), in seconds since 1970.
    pub build_time: u64,
}

/// Reads the image's facts; empty ones where the image has none.
///
/// # Errors
/// The file is there and cannot be read.
pub fn image_facts(host: &dyn Host) -> Result<ImageFacts, HostError> {
    let bytes = host.read(IMAGE_FACTS, 1024 * 1024)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
}

/// How long after its build an image may still be in use, in seconds: 20 years.
const YEARS_20: u64 = 20 * 31_556_952;
/// A clock that is off by less is right enough for certificates.
const TOLERANCE_SECONDS: u64 = 30;

/// The times that a clock can have on an image of this build; any where that is not known.
pub fn plausible(build_time: u64) -> RangeInclusive<u64> {
    if build_time == 0 { 0..=u64::MAX } else { build_time..=build_time.saturating_add(YEARS_20) }
}

/// A clock that was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it said before, in seconds since 1970.
    pub from: u64,
    /// What it says now.
    pub to: u64,
    /// Who says so.
    pub by: String,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it said {}; {} says {}", Civil::of(self.from), self.by, Civil::of(self.to))
    }
}

/// Brings a clock that cannot be right into the plausible time.
///
/// # Errors
/// The clock cannot be set.
pub fn bound(host: &dyn Host, build_time: u64) -> Result<Option<Change>, HostError> {
    let (from, plausible) = (host.now(), plausible(build_time));
    if plausible.contains(&from) {
        return Ok(None);
    }
    let (to, by) = match host.rtc().filter(|time| plausible.contains(time)) {
        Some(time) => (time, "the real-time clock's chip"),
        None => (build_time, "the image's build"),
    };
    host.set_clock(to)?;
    Ok(Some(Change { from, to, by: by.to_owned() }))
}

/// Sets the clock to a time that someone who can know it has said, and the real-time clock's chip with it. A machine
/// without such a chip, or with one that cannot be set, is no failure: its clock is right until it is switched off.
///
/// # Errors
/// The clock cannot be set.
pub fn correct(host: &dyn Host, seconds: u64) -> Result<(), HostError> {
    host.set_clock(seconds)?;
    let _ = host.set_rtc(seconds);
    Ok(())
}

/// True where systemd-timesyncd has set the clock by a time server in this boot.
pub fn is_synchronised(host: &dyn Host) -> bool {
    host.exists("/run/systemd/timesync/synchronized")
}

/// Who may vouch for a server that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vouch {
    /// The image's authorities.
    Image,
    /// These, in PEM.
    These(String),
    /// Nobody that the node can ask: what a cluster's own authority has signed is pinned only in its join. Such a server
    /// is asked only where the clock is known to be wrong, and what it says only moves the clock forward, and does not
    /// go into the chip.
    Nobody,
}

impl Vouch {
    fn of(ca: Option<&String>) -> Self {
        ca.map_or(Vouch::Image, |ca| Vouch::These(ca.clone()))
    }
}

/// Whom to ask for the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub url: Url,
    /// Who vouches for it.
    pub vouch: Vouch,
}

/// The `https` servers of a configuration, those that are named for it first: of `time.https`, of the report, those that
/// the join waits for or talks to.
pub fn endpoints(config: &NodeConfig) -> Vec<Endpoint> {
    let mut all: Vec<Endpoint> = Vec::new();
    let mut add = |url: Url, vouch: Vouch| {
        if url.is_https() && !all.iter().any(|known| known.url == url) {
            all.push(Endpoint { url, vouch });
        }
    };
    config.time.https.iter().for_each(|url| add(url.clone(), Vouch::of(config.time.ca.as_ref())));
    config.report.iter().for_each(|report| add(report.url.clone(), Vouch::of(report.ca.as_ref())));
    let Some(join) = &config.join else { return all };
    for gate in &join.after {
        if let Gate::Http { url, ca } = gate
            && let Ok(url) = url.to_string().parse()
        {
            add(url, Vouch::of(ca.as_ref()));
        }
    }
    let api = |endpoint: &dyn std::fmt::Display| format!("https://{endpoint}/version").parse::<Url>();
    match &join.system {
        System::Aiware(aiware) => {
            if let Some(url) = aiware.controller.as_ref().and_then(|url| url.to_string().parse().ok()) {
                add(url, Vouch::Image);
            }
        }
        System::Kubeadm(kubeadm) => {
            if let Ok(url) = api(&kubeadm.endpoint) {
                add(url, Vouch::Nobody);
            }
        }
        System::K3s(k3s) => {
            for host in &k3s.servers {
                let endpoint = crate::config::Endpoint { host: host.clone(), port: crate::join::K3S_API_PORT };
                if let Ok(url) = api(&endpoint) {
                    add(url, Vouch::Nobody);
                }
            }
        }
        _ => {}
    }
    all
}

/// Asks the server at `url` for the time where its certificate did not fit the node's clock; gives what was changed.
pub fn learn_from(host: &dyn Host, url: &str) -> Option<Change> {
    let url: Url = url.parse().ok()?;
    let build_time = image_facts(host).ok()?.build_time;
    match ask(host, &[Endpoint { url, vouch: Vouch::Image }], build_time, false) {
        Ok(Asked::Set(change)) => Some(change),
        _ => None,
    }
}

/// What asking for the time has given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// The clock was wrong and is set.
    Set(Change),
    /// The clock is nearer to what a server says for which nobody vouches.
    Moved(Change),
    /// The clock is right, or may not be changed by what was said.
    Kept,
    /// Nobody answered; why.
    Nobody(String),
}

/// Asks one endpoint after the other for the time until one answers. One for which nobody vouches is asked only where
/// the clock is `doubtful`, and only after all others.
///
/// # Errors
/// The clock cannot be set.
pub fn ask(host: &dyn Host, endpoints: &[Endpoint], build_time: u64, doubtful: bool) -> Result<Asked, HostError> {
    let mut reasons = Vec::new();
    let (unknown, vouched): (Vec<&Endpoint>, Vec<&Endpoint>) =
        endpoints.iter().partition(|endpoint| endpoint.vouch == Vouch::Nobody);
    for Endpoint { url, vouch } in vouched.into_iter().chain(unknown.into_iter().filter(|_| doubtful)) {
        match host.https_date(url, vouch) {
            Ok(answer) => {
                let from = host.now();
                let to = judge(from, &plausible(build_time), answer);
                if *vouch == Vouch::Nobody {
                    // It confirms nothing: a server that can be believed is asked again with the next attempt.
                    let Some(to) = to.filter(|to| *to > from) else { continue };
                    host.set_clock(to)?;
                    return Ok(Asked::Moved(Change { from, to, by: format!("{url}, unproven,") }));
                }
                let Some(to) = to else { return Ok(Asked::Kept) };
                correct(host, to)?;
                return Ok(Asked::Set(Change { from, to, by: url.to_string() }));
            }
            Err(reason) => reasons.push(format!("{url}: {reason}")),
        }
    }
    Ok(Asked::Nobody(reasons.join("; ")))
}

/// The time that the clock is to be set to, if it is to be set at all.
pub fn judge(now: u64, plausible: &RangeInclusive<u64>, answer: ServerDate) -> Option<u64> {
    let ServerDate { date, valid: (from, until) } = answer;
    let credible = plausible.contains(&date) && (from..=until).contains(&date);
    let ahead = date > now.saturating_add(TOLERANCE_SECONDS);
    let behind = date.saturating_add(TOLERANCE_SECONDS) < now && !(from..=until).contains(&now);
    (credible && (ahead || behind)).then_some(date)
}
