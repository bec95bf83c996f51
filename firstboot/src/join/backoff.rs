//! How long to wait between attempts: full jitter over an exponentially growing window.

use std::time::Duration;

use crate::host::Host;

/// The window after the first attempt.
const BASE: Duration = Duration::from_secs(1);
/// The widest window.
pub const CAP: Duration = Duration::from_mins(1);
/// The widest window while a manager is only not there yet: asking costs one TCP connection, and the answer is what
/// the node's whole boot waits for.
pub const WAITING_CAP: Duration = Duration::from_secs(8);
/// No other side can send a node away for longer.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(10);
/// After so many attempts a missing manager is no longer a matter of moments.
const PATIENT_AFTER: u32 = 100;

/// What the other side said about when to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retry {
    /// Nothing.
    #[default]
    Unsaid,
    /// Not before so long, and the same to everyone.
    NotBefore(Duration),
    /// At this moment, which is this node's own turn.
    Turn(Duration),
}

/// Counts attempts and gives the time to wait.
#[derive(Debug, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// How long to wait now. `waiting` says that nothing is wrong but the other side is not there yet.
    ///
    /// What the other side asked for is waited first, and the jitter comes on top. Where it said the same to everyone,
    /// the window is as wide as what it said, so that those who were sent away together do not come back together.
    pub fn next(&mut self, host: &dyn Host, waiting: bool, retry: Retry) -> Duration {
        self.draw(&|bound| host.random_below(bound), waiting, retry)
    }

    /// The same with any source of chance: `below` gives a number from 0 up to, and without, its argument.
    pub fn draw(&mut self, below: &dyn Fn(u64) -> u64, waiting: bool, retry: Retry) -> Duration {
        let cap = if waiting && self.attempts < PATIENT_AFTER { WAITING_CAP } else { CAP };
        let window = BASE.saturating_mul(1 << self.attempts.min(16)).min(cap);
        self.attempts = self.attempts.saturating_add(1);
        let (told, window) = match retry {
            Retry::Unsaid => (Duration::ZERO, window),
            Retry::NotBefore(told) => (told.min(LONGEST_RETRY_AFTER), window.max(told.min(CAP))),
            Retry::Turn(told) => (told.min(LONGEST_RETRY_AFTER), window),
        };
        let milliseconds = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        // Not less than a tenth of a second, so that no draw of luck becomes a busy loop.
        told + Duration::from_millis(below(milliseconds).max(100))
    }

    /// Begins anew, after something has changed.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::RealHost;

    #[test]
    fn windows_grow_to_the_cap_and_are_used_in_full() {
        let host = RealHost::default();
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..400).map(|_| backoff.next(&host, false, Retry::Unsaid)).collect();
        assert!(waits[0] <= Duration::from_secs(1) && waits[1] <= Duration::from_secs(2));
        assert!(waits.iter().all(|wait| *wait <= CAP && *wait >= Duration::from_millis(100)));
        assert!(waits.iter().any(|wait| *wait > Duration::from_secs(45)));
        assert!(waits[20..].iter().any(|wait| *wait < Duration::from_secs(10)), "jitter is full");
        let mut backoff = Backoff::default();
        assert!((0..PATIENT_AFTER).all(|_| backoff.next(&host, true, Retry::Unsaid) <= WAITING_CAP));
        assert!((0..100).any(|_| backoff.next(&host, true, Retry::Unsaid) > WAITING_CAP));
        let told = Duration::from_secs(30);
        let waits: Vec<Duration> = (0..50).map(|_| backoff.next(&host, false, Retry::NotBefore(told))).collect();
        assert!(waits.iter().all(|wait| *wait > told && *wait <= told + CAP));
        assert!(backoff.next(&host, false, Retry::Turn(Duration::MAX)) <= LONGEST_RETRY_AFTER + CAP);
    }
}
