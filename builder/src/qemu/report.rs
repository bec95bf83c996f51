//! What a run found: for machines as JSON, for people as a table.

use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::accel::Choice;
use super::console::Status;

/// The result of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// Whether everything was as it should be.
    pub outcome: Outcome,
    /// What was not, in one line.
    pub reason: Option<String>,
    /// What ran the guests, and why that.
    pub accelerator: Choice,
    /// Wall time of everything, in seconds.
    pub seconds: f64,
    /// From switching on to `FB-500`, the slowest guest, in seconds; only where every guest got there.
    pub boot_to_joined_seconds: Option<f64>,
    /// The machines, in the scenario's order.
    pub guests: Vec<GuestReport>,
    /// The steps, in the scenario's order.
    pub steps: Vec<StepReport>,
}

/// How a run, or a step of it, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not as it should.
    Failed,
    /// Not tried, because a step before it failed.
    Skipped,
    /// Stopped from outside.
    Interrupted,
}

/// One machine.
#[derive(Debug, Clone, Serialize)]
pub struct GuestReport {
    /// Its name.
    pub name: String,
    /// Its role, or the image that it booted.
    pub image: String,
    /// From switching on to `FB-500`, in seconds.
    pub boot_to_joined_seconds: Option<f64>,
    /// The status codes it reported, with their times.
    pub states: Vec<Status>,
    /// Why it cannot go on: a kernel panic, nothing to boot, QEMU ended.
    pub dead: Option<String>,
    /// Its serial log.
    pub console_log: PathBuf,
    /// What QEMU itself printed.
    pub qemu_log: PathBuf,
    /// The end of the serial log; only where the run did not pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub console_tail: Vec<String>,
}

/// One step.
#[derive(Debug, Clone, Serialize)]
pub struct StepReport {
    /// What it shows.
    pub name: String,
    /// The guest it is about.
    pub guest: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What the command printed, or the line that was waited for.
    pub output: String,
    /// Why it failed.
    pub reason: Option<String>,
}

impl Report {
    /// Whether everything was as it should be.
    pub fn passed(&self) -> bool {
        self.outcome == Outcome::Passed
    }

    /// For people: a table of the guests, one of the steps, and on failure the ends of the logs.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let joined = |seconds: Option<f64>| seconds.map_or("-".to_owned(), |s| format!("{s:.1} s"));
        let mut guests = vec![["GUEST", "IMAGE", "BOOT TO JOINED", "LAST STATUS"].map(str::to_owned).to_vec()];
        for guest in &self.guests {
            let last = guest.states.last().map_or("none".to_owned(), |status| {
                format!("FB-{:03} {} ({:.1} s)", status.code, status.name, status.seconds)
            });
            guests.push(vec![guest.name.clone(), guest.image.clone(), joined(guest.boot_to_joined_seconds), last]);
        }
        table(&mut out, &guests);
        if !self.steps.is_empty() {
            out.push('\n');
            let mut steps = vec![["STEP", "GUEST", "RESULT", "TIME"].map(str::to_owned).to_vec()];
            steps.extend(self.steps.iter().map(|step| {
                let outcome = format!("{:?}", step.outcome).to_lowercase();
                vec![step.name.clone(), step.guest.clone(), outcome, format!("{:.1} s", step.seconds)]
            }));
            table(&mut out, &steps);
        }
        out.push('\n');
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "{}: {} in {:.1} s ({}: {})",
            self.scenario,
            format!("{:?}", self.outcome).to_lowercase(),
            self.seconds,
            self.accelerator.accelerator.name(),
            self.accelerator.reason
        );
        if !self.passed() {
            self.failure(&mut out);
        }
        out
    }

    fn failure(&self, out: &mut String) {
        if let Some(reason) = &self.reason {
            let _ = writeln!(out, "{reason}");
        }
        for step in self.steps.iter().filter(|step| step.outcome == Outcome::Failed && !step.output.trim().is_empty()) {
            let _ = writeln!(out, "\nwhat the step gave last:\n{}", step.output.trim_end());
        }
        for guest in &self.guests {
            let _ = writeln!(out, "\n{}: console log {}", guest.name, guest.console_log.display());
            if let Some(dead) = &guest.dead {
                let _ = writeln!(out, "{}: {dead}", guest.name);
            }
            for line in &guest.console_tail {
                let _ = writeln!(out, "  | {line}");
            }
        }
    }
}

/// Columns as wide as their widest cell, two spaces apart.
fn table(out: &mut String, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::accel::Accelerator;

    fn report() -> Report {
        let joined = Status { code: 500, name: "joined".into(), text: "x".into(), seconds: 61.25 };
        Report {
            scenario: "quickstart".into(),
            outcome: Outcome::Failed,
            reason: Some("step \"two nodes\": not within 60 s".into()),
            accelerator: Choice { accelerator: Accelerator::Tcg, reason: "the host has no /dev/kvm".into() },
            seconds: 90.0,
            boot_to_joined_seconds: Some(61.25),
            guests: vec![GuestReport {
                name: "manager".into(),
                image: "quickstart/manager".into(),
                boot_to_joined_seconds: Some(61.25),
                states: vec![joined],
                dead: None,
                console_log: "/w/manager.console.log".into(),
                qemu_log: "/w/manager.qemu.log".into(),
                console_tail: vec!["login: ".into()],
            }],
            steps: vec![StepReport {
                name: "two nodes".into(),
                guest: "manager".into(),
                outcome: Outcome::Failed,
                seconds: 28.75,
                output: "1\n".into(),
                reason: Some("not within 60 s".into()),
            }],
        }
    }

    #[test]
    fn people_get_tables_and_the_reason() {
        assert_eq!(
            report().to_text(),
            "GUEST    IMAGE               BOOT TO JOINED  LAST STATUS\n\
             manager  quickstart/manager  61.2 s          FB-500 joined (61.2 s)\n\
             \n\
             STEP       GUEST    RESULT  TIME\n\
             two nodes  manager  failed  28.8 s\n\
             \n\
             quickstart: failed in 90.0 s (tcg: the host has no /dev/kvm)\n\
             step \"two nodes\": not within 60 s\n\
             \n\
             what the step gave last:\n1\n\
             \n\
             manager: console log /w/manager.console.log\n  | login: \n"
        );
    }

    #[test]
    fn machines_get_stable_keys() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["outcome"], "failed");
        assert_eq!(json["accelerator"]["accelerator"], "tcg");
        assert_eq!(json["guests"][0]["states"][0]["code"], 500);
        assert_eq!(json["boot_to_joined_seconds"], 61.25);
    }
}
