//! `[power]`: the machine is switched off, starts again or halts, once, when it has reached its goal.
//!
//! The journal has it as done before it happens, so a machine never starts again and again: if the power fails in between,
//! it is left at that. A transient unit of systemd waits and then does it, because the service of a manager goes on; half a
//! minute at least, in which the results reach the stick and the site.

use std::time::Duration;

use super::{Failure, Service};
use crate::config::Power;
use crate::journal::{Event, Inputs, Journal};
use crate::status::Code;

/// The name in the journal.
const STEP: &str = "power";
const UNIT: &str = "ingot-power";
const SCRIPT: &str = "/run/ingot/power";
/// How long results may take to be delivered.
const GRACE: Duration = Duration::from_secs(30);
/// How long systemd may take to accept it.
const PATIENCE: Duration = Duration::from_secs(30);

impl Service<'_> {
    /// Has it done, where it was not.
    pub(super) fn power(&self, power: Option<Power>, journal: &mut Journal<'_>) -> Result<(), Failure> {
        let Some(power) = power else { return Ok(()) };
        let inputs = Inputs::of([power.to_string().as_bytes()]);
        if journal.is_done(STEP, &inputs) {
            return Ok(());
        }
        journal.begin(STEP, &inputs)?;
        let seconds = GRACE.max(Duration::from_mins(power.delay.into())).as_secs();
        let script = format!("sleep {seconds}\nexec systemctl {}\n", power.mode);
        self.host.write(SCRIPT, script.as_bytes(), 0o600)?;
        let unit = format!("--unit={UNIT}");
        let arguments = ["--collect", "--quiet", &unit, "sh", SCRIPT];
        let failed = |error| Failure::new(Code::StepFailed, format!("power: {error}"));
        self.host.run("systemd-run", &arguments, PATIENCE).map_err(failed)?;
        journal.record(Event::Done { step: STEP.to_owned(), inputs })?;
        self.report.note(&format!("power: {} in {seconds} s; `systemctl stop {UNIT}` prevents it", power.mode));
        Ok(())
    }
}
