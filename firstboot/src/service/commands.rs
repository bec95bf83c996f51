//! Commands of the configuration: `run.boot` at each start, `run.first` once in the life of the node.
//!
//! Each runs as a transient unit of systemd, so it is not bound by what the service itself may not do, and its output is
//! in the system's journal, not in a status line. The script lies in a file that only root can read: it may hold
//! secrets, and arguments are public.
//!
//! A command is not a step: nobody can say what a second run of it does. So one of `run.first` is begun at most once,
//! wherever it stands in later configurations.
//! The journal has it as begun before it runs and as done after it has ended, well or not. If the power fails in between,
//! nobody knows how far it came; the node says so and goes on. With `run.repeat = true` the configuration promises
//! that commands may be repeated: one that failed or was cut off is then run again until it succeeds, and the node
//! does not go on before.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Failure, Service};
use crate::config::{Command, MAXIMUM_COMMANDS, Run};
use crate::host::{Host, HostError};
use crate::journal::{Event, Inputs, Journal};
use crate::status::Code;

const DIRECTORY: &str = "/run/ingot/commands";
/// Says which commands of `run.boot` have run since the start; gone with the next one.
const RAN_AT_BOOT: &str = "/run/ingot/commands/boot";
/// How long one command may run.
const LIMIT: Duration = Duration::from_hours(1);

impl Service<'_> {
    /// Runs `run.boot`, once in each boot. What fails is said, and the rest goes on.
    pub(super) fn run_at_boot(&self, run: &Run) -> Result<(), Failure> {
        if run.boot.is_empty() {
            return Ok(());
        }
        let all = Inputs::of(run.boot.iter().map(|command| command.script().as_bytes()));
        let mark = format!("{all:?}");
        if self.host.read(RAN_AT_BOOT, 4096)?.is_some_and(|there| there == mark.as_bytes()) {
            return Ok(());
        }
        for (index, command) in run.boot.iter().enumerate() {
            if let Err(error) = start(self.host, "boot", index, command) {
                self.report.report(Code::CommandFailed, &failed("boot", index, &error));
            }
        }
        self.host.write(RAN_AT_BOOT, mark.as_bytes(), 0o600)?;
        Ok(())
    }

    /// Runs those of `run.first` that have not been run.
    pub(super) fn run_first(&self, run: &Run, journal: &mut Journal<'_>) -> Result<(), Failure> {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, command) in run.first.iter().enumerate() {
            let inputs = Inputs::of([command.script().as_bytes()]);
            let time = seen.entry(command.script()).or_default();
            *time += 1;
            let step = step_of(&inputs, *time);
            // An older image knew commands by their places.
            let old = |is: &dyn Fn(&str) -> bool| (0..MAXIMUM_COMMANDS).any(|index| is(&format!("run.first[{index}]")));
            if journal.is_done(&step, &inputs) || old(&|step| journal.is_done(step, &inputs)) {
                continue;
            }
            let open = journal.is_open(&step, &inputs) || old(&|step| journal.is_open(step, &inputs));
            if open && !run.repeat {
                let text = format!(
                    "run.first[{index}] was running when the power failed; it is not run again (run.repeat = true would)"
                );
                self.report.report(Code::CommandFailed, &text);
                journal.record(Event::Done { step, inputs })?;
                continue;
            }
            journal.begin(&step, &inputs)?;
            if let Err(error) = start(self.host, "first", index, command) {
                let text = failed("first", index, &error);
                if run.repeat {
                    return Err(Failure::new(Code::CommandFailed, text));
                }
                self.report.report(Code::CommandFailed, &text);
            }
            journal.record(Event::Done { step, inputs })?;
        }
        Ok(())
    }
}

/// What the journal knows a command by: what it says, and which time it says so. So one that stood elsewhere in an
/// earlier configuration is not run again.
fn step_of(inputs: &Inputs, time: usize) -> String {
    if time == 1 { format!("run.first {inputs}") } else { format!("run.first {inputs}, time {time}") }
}

fn unit(list: &str, index: usize) -> String {
    format!("ingot-run-{list}-{index}")
}

fn failed(list: &str, index: usize, error: &HostError) -> String {
    let unit = unit(list, index);
    match error {
        HostError::Process(crate::process::ProcessError::Failed { status, .. }) => {
            format!("run.{list}[{index}] failed ({status}); see `journalctl -u {unit}`")
        }
        other => format!("run.{list}[{index}]: {other}"),
    }
}

/// Runs a command to its end.
fn start(host: &dyn Host, list: &str, index: usize, command: &Command) -> Result<(), HostError> {
    let unit = unit(list, index);
    let script = format!("{DIRECTORY}/{unit}");
    host.write(&script, format!("{}\n", command.script()).as_bytes(), 0o600)?;
    let name = format!("--unit={unit}");
    let limit = format!("--property=RuntimeMaxSec={}", LIMIT.as_secs());
    let arguments = ["--wait", "--collect", "--quiet", "--setenv=HOME=/root", &limit, &name, "sh", &script];
    // systemd ends the command; should it not, waiting for it ends all the same.
    let result = host.run("systemd-run", &arguments, LIMIT + Duration::from_mins(1));
    host.remove(&script)?;
    result.map(|_| ())
}
