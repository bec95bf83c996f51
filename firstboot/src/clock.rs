//! The clock: a machine without a battery begins in 1970, or in 2080, and no certificate is valid then.
//!
//! Takes the time at which the image was built; the clock is never before it, nor more than 20 years after it: where
//! it is, the real-time clock's chip is asked, and else the build's time is taken. Time servers (`ntp`), a manager's
//! proven clock at the rendezvous, or the `Date` of an `https` server that the configuration names do the rest. What
//! they say goes into the chip too, so the next boot begins right.
//!
//! A `Date` is asked for only while no time server has set the clock, and only where the clock is doubtful (it was
//! outside those 20 years) or something failed before, so a healthy boot costs no question. What it may change:
//!
//! - Never beyond the 20 years, and never outside the validity of the server's certificates (see [`https`]).
//! - Forward, always. An attacker who could do that without the server's key could only bring about what a dead
//!   battery does: that certificates do not fit.
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

use crate::config::{NodeConfig, Url};
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

/// Whom to ask for the time: an address, and the authorities that may vouch for it.
pub type Endpoint<'a> = (&'a Url, Option<&'a str>);

/// The endpoints of a configuration: those of `time.https`, then the report's.
pub fn endpoints(config: &NodeConfig) -> Vec<Endpoint<'_>> {
    let time = config.time.https.iter().map(|url| (url, config.time.ca.as_deref()));
    let report = config.report.iter().map(|report| (&report.url, report.ca.as_deref()));
    time.chain(report.filter(|(url, _)| url.is_https())).collect()
}

/// What asking for the time has given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// The clock was wrong and is set.
    Set(Change),
    /// The clock is right, or may not be changed by what was said.
    Kept,
    /// Nobody answered; why.
    Nobody(String),
}

/// Asks one endpoint after the other for the time until one answers.
///
/// # Errors
/// The clock cannot be set.
pub fn ask(host: &dyn Host, endpoints: &[Endpoint<'_>], build_time: u64) -> Result<Asked, HostError> {
    let mut reasons = Vec::new();
    for (url, ca) in endpoints {
        match host.https_date(url, *ca) {
            Ok(answer) => {
                let from = host.now();
                let Some(to) = judge(from, &plausible(build_time), answer) else { return Ok(Asked::Kept) };
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
