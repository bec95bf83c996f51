//! One step of a scenario: something to wait for and check, or something to do to a guest.

use std::collections::BTreeMap;
use std::time::Duration;

use regex::Regex;
use serde::Deserialize;

/// A step, of exactly one kind.
#[derive(Debug, Clone)]
pub struct Step {
    /// What it shows, in words.
    pub name: String,
    /// The guest it is about, or the server.
    pub guest: String,
    /// What is done or awaited.
    pub check: Check,
    /// How long it may take under KVM.
    pub within_seconds: u64,
}

/// What a step does or waits for.
#[derive(Debug, Clone)]
pub enum Check {
    /// A shell command in the guest, over ssh, repeated until it gives what is expected.
    Run {
        /// The command.
        command: String,
        /// Who runs it.
        user: String,
        /// The exit status it must have.
        status: i32,
        /// Text that its output must contain.
        expect: Option<String>,
        /// What its output must match (multi-line: `^` and `$` match at line ends).
        matches: Option<Regex>,
    },
    /// A line on the serial console, since the power came on last.
    Console {
        /// What a line must match.
        pattern: Regex,
        /// Codes that must not have been reported when it does.
        without: Vec<u16>,
    },
    /// A status code, reported since the power came on last.
    State {
        /// The code: 500 for `FB-500`.
        code: u16,
        /// Codes that must not have been reported when it is.
        without: Vec<u16>,
        /// How long it must then stay the last one reported, in seconds (not stretched where KVM does not work).
        holds_seconds: u64,
    },
    /// The configuration stick is put in or pulled out.
    Stick {
        /// What happens to it.
        stick: Stick,
        /// Another stick that is put in, in place of the one before.
        other: Option<OtherStick>,
    },
    /// A file on the stick, read from outside, as the person does who pulls it out.
    OnStick {
        /// The file: `ingot-results/NAME.json`.
        path: String,
        /// Text that it must contain.
        expect: Option<String>,
        /// What it must match (multi-line).
        matches: Option<Regex>,
    },
    /// A picture of the guest's screen is kept beside the logs.
    Screen(String),
    /// A server was asked for something.
    Requests {
        /// What a request must match: its first line, its headers, an empty line and its body (`.` matches newlines too).
        pattern: Option<Regex>,
        /// How many requests must.
        at_least: usize,
        /// How much time must at least be between one of them and the next.
        apart: Duration,
        /// What no request so far may match.
        never: Option<Regex>,
    },
    /// Power.
    Power {
        /// What happens to it.
        power: Power,
        /// What is changed in the machine before it is switched on.
        between: Between,
    },
    /// Power is cut again and again, and comes back each time.
    PowerCuts(PowerCuts),
}

/// What somebody does to a machine that is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Between {
    /// The size that the disk is grown to, in GiB.
    pub disk_gib: Option<u64>,
    /// Whether a blank TPM takes the place of the one before, as with another mainboard.
    pub new_tpm: bool,
}

/// Power cuts at moments that chance draws.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerCuts {
    /// How many.
    pub count: u32,
    /// What chance is drawn from: the same seed gives the same moments.
    pub seed: u64,
    /// The code that begins the time in which power may be cut; without it, that is when the power comes on.
    pub from: Option<u16>,
    /// How long that time is under KVM.
    pub spread: Duration,
}

/// Power cuts as the file has them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCuts {
    count: u32,
    seed: u64,
    from: Option<String>,
    spread_seconds: f64,
}

impl WrittenCuts {
    fn cuts(&self) -> Result<PowerCuts, String> {
        if !(1..=10_000).contains(&self.count) {
            return Err("power_cuts.count is from 1 to 10000".into());
        }
        if !(0.1..=600.0).contains(&self.spread_seconds) {
            return Err("power_cuts.spread_seconds is from 0.1 to 600".into());
        }
        Ok(PowerCuts {
            count: self.count,
            seed: self.seed,
            from: self.from.as_deref().map(parse_code).transpose()?,
            spread: Duration::from_secs_f64(self.spread_seconds),
        })
    }
}

/// What happens to a guest's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// It is switched on.
    On,
    /// It is cut, at once.
    Cut,
    /// It is cut and comes back.
    Cycle,
}

/// What happens to the configuration stick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stick {
    /// It is put in.
    In,
    /// It is pulled out.
    Out,
}

/// Another stick.
#[derive(Debug, Clone, PartialEq)]
pub struct OtherStick {
    /// The `node.toml` on it, with variables.
    pub config: Option<toml::Table>,
    /// The files on it by name, with variables.
    pub files: BTreeMap<String, String>,
    /// Whether each file has its signature beside it, made with the run's site key.
    pub sign: bool,
    /// Whether it is write-protected.
    pub read_only: bool,
}

/// A step as the file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    name: Option<String>,
    guest: Option<String>,
    server: Option<String>,
    run: Option<String>,
    user: Option<String>,
    status: Option<i32>,
    expect: Option<String>,
    matches: Option<String>,
    console: Option<String>,
    state: Option<String>,
    #[serde(default)]
    without: Vec<String>,
    holds_seconds: Option<u64>,
    stick: Option<Stick>,
    config: Option<toml::Table>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(default)]
    sign: bool,
    #[serde(default)]
    read_only: bool,
    on_stick: Option<String>,
    screen: Option<String>,
    requests: Option<String>,
    at_least: Option<usize>,
    apart_seconds: Option<u64>,
    never: Option<String>,
    power: Option<Power>,
    power_cuts: Option<WrittenCuts>,
    disk_gib: Option<u64>,
    #[serde(default)]
    new_tpm: bool,
    within_seconds: Option<u64>,
}

/// What is wrong with a step that has none of these, or several.
const KINDS: &str = "a step has exactly one of: run, console, state, stick, on_stick, screen, power, power_cuts, requests \
    (with never)";

/// How long a step may take where the file does not say.
const DEFAULT_WITHIN: u64 = 60;

impl Written {
    /// The step, or what is wrong with it.
    pub(super) fn step(mut self) -> Result<Step, String> {
        let kinds = [
            self.run.is_some(),
            self.console.is_some(),
            self.state.is_some(),
            self.stick.is_some(),
            self.on_stick.is_some(),
            self.screen.is_some(),
            self.power.is_some(),
            self.power_cuts.is_some(),
            self.requests.is_some() || self.never.is_some(),
        ];
        let acts = self.stick.is_some() || self.power.is_some() || self.screen.is_some();
        if kinds.iter().filter(|kind| **kind).count() != 1 {
            return Err(KINDS.into());
        }
        let of_server = self.requests.is_some() || self.never.is_some();
        let subject = match (self.guest.take(), self.server.take()) {
            (Some(guest), None) if !of_server => guest,
            (None, Some(server)) if of_server => server,
            _ if of_server => return Err("a step with requests or never has a server, and no guest".into()),
            _ => return Err("a step has a guest, and no server".into()),
        };
        let only = |key: &str, given: bool, of: &str, allowed: bool| {
            if given && !allowed { Err(format!("{key} belongs to a step with {of}")) } else { Ok(()) }
        };
        only("user", self.user.is_some(), "run", self.run.is_some())?;
        only("status", self.status.is_some(), "run", self.run.is_some())?;
        let reads = self.run.is_some() || self.on_stick.is_some();
        only("expect", self.expect.is_some(), "run or on_stick", reads)?;
        only("matches", self.matches.is_some(), "run or on_stick", reads)?;
        let other = self.other_stick()?;
        only("without", !self.without.is_empty(), "console or state", self.console.is_some() || self.state.is_some())?;
        only("holds_seconds", self.holds_seconds.is_some(), "state", self.state.is_some())?;
        only("disk_gib", self.disk_gib.is_some(), "power", self.power.is_some())?;
        only("new_tpm", self.new_tpm, "power", self.power.is_some())?;
        only("apart_seconds", self.apart_seconds.is_some(), "requests", self.requests.is_some())?;
        only("at_least", self.at_least.is_some(), "requests", self.requests.is_some())?;
        let looks = "run, console, state, on_stick, requests or power_cuts";
        only("within_seconds", self.within_seconds.is_some(), looks, !acts)?;
        let lines = |text: String| pattern(&format!("(?m){text}"));
        let without = self.without.iter().map(|code| parse_code(code)).collect::<Result<Vec<_>, _>>()?;
        let (what, check) = if let Some(command) = self.run {
            let matches = self.matches.map(lines).transpose()?;
            let (user, status) = (self.user.unwrap_or_else(|| "root".to_owned()), self.status.unwrap_or(0));
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            if user.is_empty() || user.starts_with('-') || !user.chars().all(plain) {
                return Err(format!("{user:?} is not the name of a user"));
            }
            let check = Check::Run { command: command.clone(), user, status, expect: self.expect, matches };
            (command, check)
        } else if let Some(text) = self.console {
            (format!("console: {text}"), Check::Console { pattern: pattern(&text)?, without })
        } else if let Some(code) = self.state {
            let holds_seconds = self.holds_seconds.unwrap_or(0);
            (code.clone(), Check::State { code: parse_code(&code)?, without, holds_seconds })
        } else if let Some(stick) = self.stick {
            (format!("stick {stick:?}").to_lowercase(), Check::Stick { stick, other })
        } else if let Some(path) = self.on_stick {
            let matches = self.matches.map(lines).transpose()?;
            (format!("on the stick: {path}"), Check::OnStick { path, expect: self.expect, matches })
        } else if let Some(name) = self.screen {
            if !super::check::is_name(&name) {
                return Err(format!("the picture {name:?} has other characters than letters, digits and dashes"));
            }
            (format!("screen {name}"), Check::Screen(name))
        } else if let Some(cuts) = self.power_cuts {
            let cuts = cuts.cuts()?;
            (format!("{} power cuts", cuts.count), Check::PowerCuts(cuts))
        } else if let Some(power) = self.power {
            let between = Between { disk_gib: self.disk_gib, new_tpm: self.new_tpm };
            if power == Power::Cut && between != Between::default() {
                return Err("disk_gib and new_tpm come before it is switched on: use them with on or cycle".into());
            }
            (format!("power {power:?}").to_lowercase(), Check::Power { power, between })
        } else {
            let whole = |text: &String| pattern(&format!("(?s){text}"));
            let what = match (&self.requests, &self.never) {
                (Some(text), _) => format!("requests: {text}"),
                (None, never) => format!("never: {}", never.as_deref().unwrap_or_default()),
            };
            let (requests, never) = (self.requests.as_ref().map(whole), self.never.as_ref().map(whole));
            let at_least = self.at_least.unwrap_or(1).max(1);
            let apart = Duration::from_secs(self.apart_seconds.unwrap_or(0));
            (what, Check::Requests { pattern: requests.transpose()?, at_least, apart, never: never.transpose()? })
        };
        Ok(Step {
            name: self.name.unwrap_or(what),
            guest: subject,
            check,
            within_seconds: self.within_seconds.unwrap_or(DEFAULT_WITHIN),
        })
    }

    /// The stick that is put in, where it is another one.
    fn other_stick(&mut self) -> Result<Option<OtherStick>, String> {
        let (config, files) = (self.config.take(), std::mem::take(&mut self.files));
        if config.is_none() && files.is_empty() {
            return if self.sign || self.read_only {
                Err("sign and read_only belong to config or files".into())
            } else {
                Ok(None)
            };
        }
        if self.stick != Some(Stick::In) {
            return Err("config and files belong to a step with stick = \"in\"".into());
        }
        if config.is_some() && files.contains_key("node.toml") {
            return Err("config and files say both what node.toml is".into());
        }
        super::check::file_names(files.keys())?;
        Ok(Some(OtherStick { config, files, sign: self.sign, read_only: self.read_only }))
    }
}

fn pattern(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| format!("not a regular expression: {error}"))
}

/// `FB-500` → 500.
fn parse_code(text: &str) -> Result<u16, String> {
    text.strip_prefix("FB-")
        .filter(|digits| digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| format!("{text:?} is not a status code; one looks like \"FB-500\""))
}
