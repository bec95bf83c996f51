//! Reports over HTTP: each state that the node is in, as JSON, to the address under `[report]`.
//!
//! There is no queue: what is sent is the present state with its history, so a state that could not be sent in time
//! is in the history of the next one. Attempts are repeated with full jitter up to a minute, a server's
//! `Retry-After` is honoured, and nothing of the node's work waits for them.

use std::time::Duration;

use super::{Reporter, Snapshot, Status, uptime_ms};
use crate::config::ReportTo;
use crate::host::Host;
use crate::http::{HttpRequest, Method, Trust};
use crate::join::{Backoff, Retry};
use crate::status::{Code, Severity};

/// How many states of the history go along.
const HISTORY: usize = 50;
/// How long one attempt may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// States on the way to another come in rows; so long is waited for the next one, at most.
const GATHER_MS: u64 = 2_000;
/// How long after the end the last state is still tried, in milliseconds: a day.
const PATIENCE_MS: u64 = 86_400_000;
/// How long after a refusal the report of success is tried again.
const REFUSED_PAUSE: Duration = Duration::from_mins(10);

/// Sends each state once.
#[derive(Default)]
pub struct Sender {
    sent: Option<(Code, String)>,
    backoff: Backoff,
    not_before: u64,
    /// The state that is being gathered for, and until when.
    gathering: Option<(Code, u64)>,
    ended: Option<u64>,
}

/// What a step of the sender came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// There is nothing to send.
    Idle,
    /// There is, in so many milliseconds.
    Later(u64),
    /// What a person should know.
    Said(String),
    /// Nothing more will be sent.
    Over,
}

impl Sender {
    /// Sends if it is time to.
    pub fn step(&mut self, snapshot: &Snapshot, host: &dyn Host, now: u64) -> Step {
        let late = snapshot.closed && now >= self.ended.get_or_insert(now).saturating_add(PATIENCE_MS);
        if snapshot.abandoned || late {
            return Step::Over;
        }
        let idle = if snapshot.closed { Step::Over } else { Step::Idle };
        let (Some(status), Some(to)) = (&snapshot.status, &snapshot.settings.report) else { return idle };
        let key = (status.code, status.text.clone());
        if self.sent.as_ref() == Some(&key) {
            return idle;
        }
        if now < self.not_before {
            return Step::Later(self.not_before - now);
        }
        let final_state = matches!(status.code.severity(), Severity::Success | Severity::Failure);
        if !final_state {
            let until = match self.gathering {
                Some((code, until)) if code == status.code => until,
                _ => now + host.random_below(GATHER_MS),
            };
            self.gathering = Some((status.code, until));
            if now < until {
                return Step::Later(until - now);
            }
        }
        self.send(status, to, host, now, key)
    }

    fn send(&mut self, status: &Status, to: &ReportTo, host: &dyn Host, now: u64, key: (Code, String)) -> Step {
        let mut status = status.clone();
        let surplus = status.history.len().saturating_sub(HISTORY);
        status.history.drain(..surplus);
        // What became of reports is for the node's own screen.
        status.delivered.clear();
        // Plain data becomes JSON in any case.
        let body = serde_json::to_vec(&status).unwrap_or_default();
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(to.headers.iter().map(|(name, value)| (name.as_str(), value.expose())));
        let request = HttpRequest {
            method: Method::Post,
            url: to.url.expose(),
            headers: &headers,
            body: &body,
            trust: to.ca.as_deref().map_or(Trust::System, Trust::Pinned),
            timeout: TIMEOUT,
            limit: 64 * 1024,
        };
        let (why, wait) = match host.http(&request) {
            Ok(answer) if answer.is_success() => {
                self.sent = Some(key);
                self.backoff.reset();
                return Step::Said(format!("{} is reported to {}", status.code, to.url));
            }
            Ok(answer) if answer.is_passing() => (format!("it answers {}", answer.status), answer.retry_after()),
            // It is the last word and nothing comes after it, and the refusal may be one of a server that is just being set
            // up. So it is tried again, if slowly.
            Ok(answer) if status.code.severity() == Severity::Success => {
                let why = format!("it refuses reports with status {}", answer.status);
                (why, Some(answer.retry_after().unwrap_or_default().max(REFUSED_PAUSE)))
            }
            Ok(answer) => {
                // Asking again would give the same answer; the next state is tried anew.
                self.sent = Some(key);
                return Step::Said(format!("{} refuses reports with status {}", to.url, answer.status));
            }
            // The error names the address itself, without what is secret in it.
            Err(error) => (error.reason.to_string(), None),
        };
        // A server's wish is the least; jitter on top of it keeps a fleet from coming back at once.
        let pause = wait.unwrap_or_default() + self.backoff.next(host, false, Retry::Unsaid);
        self.not_before = now + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        Step::Said(format!("{} is not reported to {} yet: {why}", status.code, to.url))
    }
}

/// Follows the states until the end.
pub fn follow(reporter: &Reporter<'_>, host: &dyn Host) {
    let mut sender = Sender::default();
    let mut seen = 0;
    let mut wait = Duration::from_mins(1);
    loop {
        let snapshot = reporter.follow(seen, wait);
        seen = snapshot.number;
        wait = Duration::from_mins(1);
        match sender.step(&snapshot, host, uptime_ms()) {
            Step::Idle => {}
            Step::Later(milliseconds) => wait = Duration::from_millis(milliseconds.min(60_000)),
            Step::Said(text) => {
                reporter.delivered("report", &text);
                wait = Duration::from_millis(100);
            }
            Step::Over => return,
        }
    }
}

#[cfg(test)]
#[path = "post_tests.rs"]
mod tests;
