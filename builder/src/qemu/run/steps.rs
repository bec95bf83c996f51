//! The steps of a scenario, one after another, each with its own time limit inside that of the whole run.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use regex::Regex;

use super::node::Node;
use crate::progress::Progress;
use crate::qemu::console::{Seen, Status};
use crate::qemu::launcher::Launcher;
use crate::qemu::report::{Outcome, StepReport};
use crate::qemu::scenario::{Between, Check, Power, PowerCuts, Step};
use crate::qemu::server::{Asked, Server};
use crate::qemu::site_key::SiteKey;
use crate::qemu::ssh::{Ended, Key, Ssh};
use crate::qemu::{QemuError, interrupt};

/// Between two looks at a console.
const LOOK: Duration = Duration::from_millis(100);

/// Between two tries of a command.
pub(super) const RETRY: Duration = Duration::from_secs(2);

/// How long a node that reported a failure may take to report something better, under KVM.
const GRACE: Duration = Duration::from_secs(20);

pub(super) struct Run<'a> {
    pub launcher: &'a dyn Launcher,
    pub key: &'a Key,
    pub site_key: SiteKey,
    /// Where logs and pictures go.
    pub work: &'a Path,
    pub progress: &'a dyn Progress,
    pub nodes: Vec<Node<'a>>,
    /// The servers by name.
    pub servers: BTreeMap<String, Server>,
    /// When the whole run must be over.
    pub deadline: Instant,
    pub patience: u32,
    /// How many states of each node were told to the user.
    pub told: BTreeMap<String, usize>,
}

/// How one step came out.
pub(super) struct Found {
    output: String,
    /// Why it failed, if it did.
    failure: Option<String>,
}

impl Found {
    pub fn good(output: impl Into<String>) -> Self {
        Self { output: output.into(), failure: None }
    }
    pub fn bad(output: impl Into<String>, why: impl Into<String>) -> Self {
        Self { output: output.into(), failure: Some(why.into()) }
    }
}

impl Run<'_> {
    /// Takes the steps; after one that fails, the others are skipped.
    pub fn take(&mut self, steps: &[Step]) -> Result<Vec<StepReport>, QemuError> {
        let mut reports: Vec<StepReport> = Vec::new();
        for step in steps {
            let begun = Instant::now();
            let over = reports.iter().any(|report| report.outcome != Outcome::Passed);
            let (outcome, found) = if over {
                (Outcome::Skipped, Found::good(""))
            } else {
                self.progress.note(&format!("… {}: {}", step.guest, step.name));
                let found = self.step(step)?;
                let outcome = match &found.failure {
                    None => Outcome::Passed,
                    Some(_) if interrupt::requested() => Outcome::Interrupted,
                    Some(_) => Outcome::Failed,
                };
                (outcome, found)
            };
            reports.push(StepReport {
                name: step.name.clone(),
                guest: step.guest.clone(),
                outcome,
                seconds: (begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
                output: found.output,
                reason: found.failure,
            });
        }
        Ok(reports)
    }

    fn step(&mut self, step: &Step) -> Result<Found, QemuError> {
        let limit = Duration::from_secs(step.within_seconds) * self.patience;
        let deadline = (Instant::now() + limit).min(self.deadline);
        let late = if deadline == self.deadline {
            "the scenario's time is over".to_owned()
        } else {
            format!("not within {} s", limit.as_secs())
        };
        if matches!(step.check, Check::Requests { .. }) {
            return Ok(self.requests(step, deadline, &late));
        }
        // The scenario's reader made sure that the guest exists.
        let Some(index) = self.nodes.iter().position(|node| node.guest.name == step.guest) else {
            return Ok(Found::bad("", format!("there is no guest {}", step.guest)));
        };
        match &step.check {
            // A guest that cannot be acted on is a finding, with its log in the report, as one that does not answer.
            Check::Power { power, between } => {
                self.power(index, *power, *between).or_else(|error| Ok(Found::bad("", error.to_string())))
            }
            Check::PowerCuts(cuts) => {
                self.power_cuts(index, cuts, limit).or_else(|error| Ok(Found::bad("", error.to_string())))
            }
            // Looked at above.
            Check::Requests { .. } => Ok(Found::good("")),
            Check::Stick { stick, other } => Ok(self.stick(index, *stick, other.as_ref())),
            Check::OnStick { path, expect, matches } => {
                let right = |text: &str| wrong_with(0, text, 0, expect.as_deref(), matches.as_ref());
                Ok(self.on_stick(index, path, &right, deadline, &late))
            }
            Check::Screen(name) => Ok(self.screen(index, name)),
            Check::Run { command, user, status, expect, matches } => {
                let right = |got: i32, output: &str| {
                    wrong_with(got, output, *status, expect.as_deref(), matches.as_ref()).map_or(Ok(()), Err)
                };
                self.command(index, (user, command), &right, deadline, &late)
            }
            Check::Console { pattern, without } => {
                let find = |seen: &Seen| {
                    let unfinished = seen.unfinished();
                    let line = seen.recent_lines().iter().chain([&unfinished]).find(|line| pattern.is_match(line));
                    line.cloned()
                };
                let found = self.look(index, &find, deadline, &late, None);
                Ok(self.reject(index, found, without))
            }
            Check::State { code, without, holds_seconds } => {
                let find =
                    |seen: &Seen| Some(seen.recent_states().iter().find(|status| status.code == *code)?.to_string());
                let mut found = self.look(index, &find, deadline, &late, Some(*code));
                if found.failure.is_none() && *holds_seconds > 0 {
                    found = self.holds(index, *code, Duration::from_secs(*holds_seconds));
                }
                Ok(self.reject(index, found, without))
            }
        }
    }

    fn power(&mut self, index: usize, power: Power, between: Between) -> Result<Found, QemuError> {
        let launcher = self.launcher;
        let node = &mut self.nodes[index];
        if matches!(power, Power::Cut | Power::Cycle) {
            node.switch_off()?;
        }
        if between != Between::default() && node.running.is_some() {
            return Ok(Found::bad("", "the disk and the TPM cannot be changed while the guest is on"));
        }
        if let Some(gib) = between.disk_gib {
            node.grow_disk(launcher, gib)?;
        }
        if between.new_tpm {
            node.replace_tpm()?;
        }
        if matches!(power, Power::On | Power::Cycle) {
            node.switch_on(launcher)?;
        }
        Ok(Found::good(""))
    }

    /// Cuts the power again and again, each time so long after the guest has come to where it may be cut; `limit` is
    /// how long it may take to come there. At the end the power is on.
    fn power_cuts(&mut self, index: usize, cuts: &PowerCuts, limit: Duration) -> Result<Found, QemuError> {
        let launcher = self.launcher;
        let mut reached = 0;
        for (number, moment) in moments(cuts).into_iter().enumerate() {
            self.nodes[index].switch_on(launcher)?;
            if let Some(code) = cuts.from {
                let deadline = (Instant::now() + limit).min(self.deadline);
                let find =
                    |seen: &Seen| Some(seen.recent_states().iter().find(|status| status.code == code)?.to_string());
                let late = format!("not within {} s after power cut {number}", limit.as_secs());
                let found = self.look(index, &find, deadline, &late, None);
                if found.failure.is_some() {
                    return Ok(found);
                }
            }
            let until = Instant::now() + moment * self.patience;
            while Instant::now() < until.min(self.deadline) {
                self.tell();
                if let Some(dead) = self.give_up(index) {
                    return Ok(Found::bad("", dead));
                }
                std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
            }
            if Instant::now() >= self.deadline {
                return Ok(Found::bad("", format!("the scenario's time is over after {number} power cuts")));
            }
            let joined = self.nodes[index].console.seen().recent_states().iter().any(|status| status.code == 500);
            reached += usize::from(joined);
            self.nodes[index].switch_off()?;
        }
        self.nodes[index].switch_on(launcher)?;
        Ok(Found::good(format!("{} power cuts, {reached} of them after the node had joined", cuts.count)))
    }

    /// Runs a command again and again until it gives what is wanted.
    fn command(
        &mut self,
        index: usize,
        (user, command): (&str, &str),
        right: &dyn Fn(i32, &str) -> Result<(), String>,
        deadline: Instant,
        late: &str,
    ) -> Result<Found, QemuError> {
        let mut last = Found::bad("", "was never run");
        let mut judged = false;
        loop {
            self.tell();
            if let Some(dead) = self.give_up(index) {
                return Ok(Found::bad(last.output, dead));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = last.failure.unwrap_or_default();
                return Ok(Found::bad(last.output, format!("{late}; the last time {why}")));
            }
            let node = &self.nodes[index];
            let on = || node.running.as_ref().is_some_and(crate::qemu::guest::Running::is_on);
            let ssh = Ssh::new(self.launcher, self.key, &node.guest.name, node.port).with_user(user);
            last = match ssh.run(command, left, &|| interrupt::requested() || !on())? {
                Ended::Exited(status, output) => match right(status, &output) {
                    Ok(()) => return Ok(Found::good(output)),
                    Err(why) => {
                        judged = true;
                        Found::bad(output, why)
                    }
                },
                Ended::Unreachable(output) => {
                    let why = if output.trim().is_empty() {
                        "ssh failed and said nothing; a signal may have ended the command".to_owned()
                    } else {
                        format!("ssh did not get through: {}", output.trim())
                    };
                    Found::bad(last.output, why)
                }
                // The time was over in the middle of one more try: what the one before gave says more.
                Ended::Stopped(_) if judged => last,
                Ended::Stopped(output) => Found::bad(output, "the command did not end"),
            };
            std::thread::sleep(RETRY.min(deadline.saturating_duration_since(Instant::now())));
        }
    }

    /// Looks at what a server was asked until there is what is wanted.
    fn requests(&mut self, step: &Step, deadline: Instant, late: &str) -> Found {
        loop {
            self.tell();
            let Some(asked) = self.servers.get(&step.guest).map(Server::requests) else {
                return Found::bad("", format!("there is no server {}", step.guest));
            };
            let why = match judge(&asked, &step.check) {
                Judgement::Good(output) => return Found::good(output),
                Judgement::Bad(output, why) => return Found::bad(output, why),
                Judgement::NotYet(why) => why,
            };
            if interrupt::requested() {
                return Found::bad("", "interrupted");
            }
            if Instant::now() >= deadline {
                return Found::bad(first_lines(&asked.iter().collect::<Vec<_>>()), format!("{late}; {why}"));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Looks at a console until there is what is wanted.
    fn look(
        &mut self,
        index: usize,
        find: &dyn Fn(&Seen) -> Option<String>,
        deadline: Instant,
        late: &str,
        code: Option<u16>,
    ) -> Found {
        let mut failing: Option<(Status, Instant)> = None;
        loop {
            self.tell();
            // Asked before looking: what a guest wrote before it died counts.
            let dead = self.give_up(index);
            if let Some(found) = find(&self.nodes[index].console.seen()) {
                return Found::good(found);
            }
            if let Some(dead) = dead {
                return Found::bad("", dead);
            }
            if Instant::now() >= deadline {
                return Found::bad("", format!("{late}; {}", self.last_status(index)));
            }
            // A node may recover from a failure by itself, but it should say so soon.
            let last = self.nodes[index].console.seen().recent_states().last().filter(|s| s.is_failure()).cloned();
            match (last, &failing) {
                (Some(status), Some((since, when))) if status == *since => {
                    if code.is_some() && when.elapsed() > GRACE * self.patience {
                        return Found::bad("", format!("the node reported a failure and nothing since: {status}"));
                    }
                }
                (last, _) => failing = last.map(|status| (status, Instant::now())),
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Whether a state stays the last one.
    fn holds(&mut self, index: usize, code: u16, time: Duration) -> Found {
        let until = Instant::now() + time;
        loop {
            self.tell();
            if let Some(dead) = self.give_up(index) {
                return Found::bad("", dead);
            }
            let last = self.nodes[index].console.seen().recent_states().last().cloned();
            match last {
                Some(status) if status.code == code => {
                    if Instant::now() >= until {
                        return Found::good(status.to_string());
                    }
                }
                Some(status) => return Found::bad("", format!("it did not stay: then came {status}")),
                None => return Found::bad("", "it did not stay"),
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Turns a good find into a bad one where a code was reported that must not have been.
    fn reject(&self, index: usize, found: Found, without: &[u16]) -> Found {
        let seen = self.nodes[index].console.seen();
        match seen.recent_states().iter().find(|status| without.contains(&status.code)) {
            Some(status) if found.failure.is_none() => {
                Found::bad(found.output, format!("the node also reported {status}"))
            }
            _ => found,
        }
    }

    /// Why waiting for this guest is pointless, if it is.
    pub fn give_up(&mut self, index: usize) -> Option<String> {
        if interrupt::requested() {
            return Some("interrupted".into());
        }
        let node = &mut self.nodes[index];
        let dead = node.dead();
        if dead.is_none() && node.running.is_none() {
            return Some("the guest is switched off".into());
        }
        dead
    }

    fn last_status(&self, index: usize) -> String {
        match self.nodes[index].console.seen().recent_states().last() {
            Some(status) => format!("the last status was {status}, after {:.1} s", status.seconds),
            None => "the node never reported a status".into(),
        }
    }

    /// Tells the user what nodes reported since the last time.
    pub fn tell(&mut self) {
        for node in &self.nodes {
            let told = self.told.entry(node.guest.name.clone()).or_default();
            let seen = node.console.seen();
            for status in &seen.states[*told..] {
                self.progress.note(&format!("{:>7.1} s  {:<12} {status}", status.seconds, node.guest.name));
            }
            *told = seen.states.len();
        }
    }
}

/// What there is to say about what a server was asked.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Good(String),
    /// It will not become good: what was asked, and why.
    Bad(String, String),
    NotYet(String),
}

/// Judges requests by a step that is about them.
fn judge(asked: &[Asked], check: &Check) -> Judgement {
    let Check::Requests { pattern, at_least, apart, never } = check else { return Judgement::Good(String::new()) };
    if let Some(request) = never.as_ref().and_then(|never| asked.iter().find(|asked| never.is_match(&asked.text))) {
        return Judgement::Bad(first_lines(&[request]), "this request has what none may have".into());
    }
    let Some(pattern) = pattern else { return Judgement::Good(String::new()) };
    let found: Vec<&Asked> = asked.iter().filter(|asked| pattern.is_match(&asked.text)).collect();
    let pauses = found.windows(2).map(|two| two[1].at.duration_since(two[0].at));
    if let Some(pause) = pauses.min().filter(|pause| pause < apart) {
        let why = format!("two of them came {:.1} s apart, and not {:.1} s", pause.as_secs_f64(), apart.as_secs_f64());
        return Judgement::Bad(first_lines(&found), why);
    }
    if found.len() < *at_least {
        return Judgement::NotYet(format!("{} of {} requests match, {at_least} must", found.len(), asked.len()));
    }
    Judgement::Good(first_lines(&found))
}

fn first_lines(asked: &[&Asked]) -> String {
    asked.iter().filter_map(|asked| asked.text.lines().next()).collect::<Vec<_>>().join("\n")
}

/// The moments of the cuts, evenly drawn over the time in which power may be cut (splitmix64).
fn moments(cuts: &PowerCuts) -> Vec<Duration> {
    let mut state = cuts.seed;
    let draw = |_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let thousandth = u32::try_from((mixed ^ (mixed >> 31)) % 1000).unwrap_or_default();
        cuts.spread * thousandth / 1000
    };
    (0..cuts.count).map(draw).collect()
}

/// What is wrong with what a command gave, if anything.
fn wrong_with(got: i32, output: &str, status: i32, expect: Option<&str>, matches: Option<&Regex>) -> Option<String> {
    if got != status {
        return Some(format!("its exit status was {got}, not {status}"));
    }
    if let Some(text) = expect.filter(|text| !output.contains(*text)) {
        return Some(format!("its output did not contain {text:?}"));
    }
    let pattern = matches.filter(|pattern| !pattern.is_match(output))?;
    Some(format!("its output did not match {}", pattern.as_str().trim_start_matches("(?m)")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_judged_by_number_distance_and_what_none_may_have() {
        let begun = Instant::now();
        let asked: Vec<Asked> = [(0, "GET /a\n\n"), (1, "GET /b\n\n"), (5, "GET /a\n\nbody")]
            .map(|(second, text)| Asked { at: begun + Duration::from_secs(second), text: text.into() })
            .into();
        let check = |at_least, apart, never: &str| Check::Requests {
            pattern: Regex::new("GET /a").ok(),
            at_least,
            apart: Duration::from_secs(apart),
            never: Regex::new(never).ok(),
        };
        assert_eq!(judge(&asked, &check(2, 5, "secret")), Judgement::Good("GET /a\nGET /a".into()));
        let Judgement::NotYet(why) = judge(&asked, &check(3, 5, "secret")) else { panic!() };
        assert_eq!(why, "2 of 3 requests match, 3 must");
        let Judgement::Bad(_, why) = judge(&asked, &check(3, 6, "secret")) else { panic!() };
        assert_eq!(why, "two of them came 5.0 s apart, and not 6.0 s");
        assert!(matches!(judge(&asked, &check(1, 0, "body")), Judgement::Bad(line, _) if line == "GET /a"));
    }

    #[test]
    fn power_cuts_are_the_same_for_a_seed_and_spread_out() {
        let cuts = |seed| PowerCuts { count: 40, seed, from: None, spread: Duration::from_secs(10) };
        let drawn = moments(&cuts(7));
        assert_eq!(drawn, moments(&cuts(7)));
        assert_ne!(drawn, moments(&cuts(8)));
        assert!(drawn.iter().all(|moment| *moment < Duration::from_secs(10)));
        for third in 0..3 {
            let within = |moment: &&Duration| moment.as_millis() / 3334 == third;
            assert!(drawn.iter().filter(within).count() > 5, "third {third}");
        }
    }
}
