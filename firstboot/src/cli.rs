//! The `firstboot` command: `run` (the service), `status`, `check`.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or wrong input.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Document, Format, Loaded, MachineMatch, check};
use crate::host::RealHost;
use crate::provider::{LabelledMedia, ROLE_DEFAULTS};
use crate::report::{Report, Reporter, STATUS_FILE, Status, notify, read_status};
use crate::service::{Service, serve};

/// Makes this machine what its node.toml says, and joins it to its cluster.
#[derive(Parser)]
#[command(name = "firstboot", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the service: configuration, steps, join; a manager then serves the rendezvous
    Run {
        /// Do not write to the consoles
        #[arg(long)]
        quiet: bool,
    },
    /// Shows where this node is
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Checks configuration files and says what they make of this or other machines
    Check {
        /// node.toml files, the one that wins last
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The role's defaults below them [default: the image's, where there is one]
        #[arg(long, value_name = "FILE")]
        role: Option<PathBuf>,
    },
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let code = match Arguments::parse().command {
        Command::Run { quiet } => run(quiet),
        Command::Status { json } => status(json),
        Command::Check { files, role } => check_files(&files, role.as_deref()),
    };
    ExitCode::from(code)
}

fn say(line: &str) {
    // A closed pipe is the reader's choice.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn run(quiet: bool) -> u8 {
    let host = RealHost::default();
    let reporter = Reporter::new(&host, !quiet);
    // The boot must not wait for a cluster: what depends on it asks the status.
    notify("READY=1");
    let arrived = Service::new(&host, &reporter, &LabelledMedia).run();
    if let Some(driver) = arrived.driver {
        serve(&host, &reporter, &*driver);
    }
    reporter.note("nothing more to do");
    0
}

fn status(json: bool) -> u8 {
    let host = RealHost::default();
    let Some(status) = read_status(&host) else {
        complain(&format!(
            "there is no {STATUS_FILE}: the service has not run in this boot; see `systemctl status ingot-firstboot`"
        ));
        return 1;
    };
    if json {
        say(&serde_json::to_string_pretty(&status).unwrap_or_default());
    } else {
        show(&status);
    }
    u8::from(status.code.is_failure())
}

fn show(status: &Status) {
    say(&status.code.line(&status.text));
    if !status.code.remedy().is_empty() {
        say(&format!("  cause:  {}\n  remedy: {}", status.code.cause(), status.code.remedy()));
    }
    say("\nhistory of this boot (seconds after the kernel started):");
    for moment in &status.history {
        let seconds = format!("{}.{:03}", moment.uptime_ms / 1000, moment.uptime_ms % 1000);
        say(&format!("{seconds:>10}  {} {}: {}", moment.code, moment.name, moment.text));
    }
}

fn check_files(files: &[PathBuf], role: Option<&Path>) -> u8 {
    let mut documents = Vec::new();
    let role = role.map(Path::to_owned).or_else(|| Some(PathBuf::from(ROLE_DEFAULTS)).filter(|path| path.exists()));
    let all = role.iter().map(|path| (path, Format::RoleToml)).chain(files.iter().map(|path| (path, Format::NodeToml)));
    for (path, format) in all {
        match std::fs::read(path) {
            Ok(bytes) => documents.push(Document { name: path.display().to_string(), format, bytes }),
            Err(error) => {
                complain(&format!("{}: cannot be read: {error}", path.display()));
                return 2;
            }
        }
    }
    let checked = match check(&documents) {
        Ok(checked) => checked,
        Err(error) => {
            complain(&error.to_string());
            return 2;
        }
    };
    checked.warnings.iter().for_each(|warning| complain(&format!("warning: {warning}")));
    checked.notes.iter().for_each(|note| complain(&format!("note: {note}")));
    for (matches, loaded) in &checked.machines {
        describe(&format!("machine {matches}"), matches, loaded);
    }
    match &checked.others {
        Ok(loaded) => describe("every other machine", &MachineMatch::default(), loaded),
        Err(error) => {
            say("valid; for a machine that no [[machine]] names, these must come from the role's defaults:");
            error.problems.iter().for_each(|problem| say(&format!("  {}", problem.key)));
        }
    }
    0
}

fn describe(title: &str, matches: &MachineMatch, loaded: &Loaded) {
    say(&format!("{title}:"));
    for line in crate::plan::Plan::new(&loaded.config, &matches.machine(), Vec::new()).describe() {
        say(&format!("  {line}"));
    }
}
