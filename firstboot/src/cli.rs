//! The `firstboot` command: `run` (the service), `status`, `check`, `medium`, `unseal`, `leave` and
//! `release-disk`.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or wrong input; of `status` also 3: the node is on its way.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::{Document, Format, Loaded, MachineMatch, check};
use crate::host::{Host, RealHost};
use crate::provider::{BlockDevices, NodeSources, ROLE_DEFAULTS};
use crate::report::{
    Beside, Node, Report, Reporter, STATUS_FILE, Status, notify, post, read_status, screen, stick, uptime_ms,
};
use crate::service::{Closing, Service, leave, look_at_plugged_medium, serve, unseal};
use crate::status::Severity;

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
    /// Shows where this node is; the exit status is 0 at the goal, 1 in a failure, 3 on the way
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Looks at the media of a sealed node: names what is ignored, takes what is signed (a medium's event starts this)
    Medium,
    /// Lifts the seal of a node that has joined: the media that are plugged in now count, then it is sealed again
    Unseal {
        /// Forget the present configuration too, and wait for a new one
        #[arg(long)]
        forget: bool,
    },
    /// Prints what the screen at the machine shows
    Screen,
    /// Leaves the cluster, for good: another configuration makes the node join again
    Leave,
    /// Gives up what a disk of [[disk]] or [swap] holds: empty or listed under wipe, it is made anew
    ReleaseDisk {
        /// Its serial number, or its name of now: sdb
        disk: String,
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
        Command::Medium => medium(),
        Command::Unseal { forget } => lift_seal(forget),
        Command::Screen => draw(),
        Command::Leave => leave_cluster(),
        Command::ReleaseDisk { disk } => release_disk(&disk),
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
    let media = BlockDevices::default();
    std::thread::scope(|scope| {
        let ending = Ending(&reporter);
        if !quiet && screen::exists() {
            scope.spawn(|| screen::follow(&reporter, &host));
        }
        let delivering =
            [scope.spawn(|| stick::follow(&reporter, &host)), scope.spawn(|| post::follow(&reporter, &host))];
        let sources = NodeSources::new(&host, &media);
        let mut service = Service::new(&host, &reporter, &sources);
        let arrived = service.run();
        let serving = arrived.driver.map(|driver| {
            let (host, reporter) = (&host, &reporter);
            scope.spawn(move || serve(host, reporter, &*driver))
        });
        if let Some(open) = arrived.open {
            match service.close(&open) {
                Ok(Closing::Sealed) => {}
                Ok(Closing::Changed) => drop(restart_service(&host)),
                Err(error) => reporter.note(&format!("the node is not sealed: {error}")),
            }
        }
        if let Some(serving) = serving {
            // It ends where the member offers nothing; one that has failed has nothing more to offer.
            let _ = serving.join();
        }
        reporter.close();
        for thread in delivering {
            // One that has failed has nothing more to deliver.
            let _ = thread.join();
        }
        reporter.note("nothing more to do");
        drop(ending);
    });
    0
}

/// Ends the followers when the service ends, also when it ends by a defect: systemd then starts it anew at once.
struct Ending<'a>(&'a Reporter<'a>);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The service; `leave` and `release-disk` stop it, because it must not write what they write at the same time.
const SERVICE: &str = "ingot-firstboot.service";

fn restart_service(host: &RealHost) -> u8 {
    match host.run("systemctl", &["restart", "--no-block", SERVICE], std::time::Duration::from_secs(30)) {
        Ok(_) => 0,
        Err(error) => {
            complain(&error.to_string());
            1
        }
    }
}

fn medium() -> u8 {
    let host = RealHost::default();
    let (reporter, media) = (Beside::new(&host, true), BlockDevices::default());
    let sources = NodeSources::new(&host, &media);
    let taken = look_at_plugged_medium(&mut Service::new(&host, &reporter, &sources), &host);
    match taken {
        Ok(true) => restart_service(&host),
        Ok(false) => {
            reporter.take_back();
            0
        }
        Err(error) => {
            complain(&error.to_string());
            1
        }
    }
}

fn lift_seal(forget: bool) -> u8 {
    if !rustix::process::geteuid().is_root() {
        complain("only root may lift the seal");
        return 1;
    }
    let host = RealHost::default();
    if let Err(error) = unseal(&host, &Reporter::new(&host, false), forget) {
        complain(&error.to_string());
        return 1;
    }
    restart_service(&host)
}

fn leave_cluster() -> u8 {
    without_service("does not leave", "has left", |host| {
        leave(host, &Reporter::new(host, true)).map_err(|error| error.to_string())
    })
}

fn release_disk(disk: &str) -> u8 {
    without_service("gives nothing up", "has given the disk up", |host| {
        let released = crate::disk::release(host, &host.machine(), disk).map_err(|error| error.to_string())?;
        say(&format!("{released} is given up"));
        Ok(())
    })
}

/// Does something while the service is stopped, and starts it again.
fn without_service(undone: &str, done: &str, work: impl FnOnce(&RealHost) -> Result<(), String>) -> u8 {
    let host = RealHost::default();
    let systemctl = |arguments: &[&str]| host.run("systemctl", arguments, Duration::from_mins(1));
    if let Err(error) = systemctl(&["stop", SERVICE]) {
        complain(&format!("the service cannot be stopped, so the node {undone}: {error}"));
        return 1;
    }
    let result = work(&host);
    let started = systemctl(&["start", "--no-block", SERVICE]);
    match (result, started) {
        (Ok(()), Ok(_)) => 0,
        (Ok(()), Err(error)) => {
            complain(&format!("the node {done}, but its service does not start again: {error}"));
            1
        }
        (Err(error), _) => {
            complain(&error);
            1
        }
    }
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
    exit_status(&status)
}

/// 0 at the goal, 1 in a failure, 3 on the way.
fn exit_status(status: &Status) -> u8 {
    match status.code.severity() {
        Severity::Success => 0,
        Severity::Failure => 1,
        Severity::Progress | Severity::Waiting => 3,
    }
}

fn draw() -> u8 {
    let host = RealHost::default();
    let status = read_status(&host);
    let node = Node::of(&host);
    for line in screen::render(status.as_ref(), &node, &host.addresses().unwrap_or_default(), uptime_ms()) {
        say(&line);
    }
    u8::from(status.is_none())
}

fn show(status: &Status) {
    say(&status.code.line(&status.text));
    if !status.code.remedy().is_empty() {
        say(&format!("  cause:  {}\n  remedy: {}", status.code.cause(), status.code.remedy()));
    }
    status.delivered.iter().for_each(|(way, text)| say(&format!("  {way}: {text}")));
    if let Some(left) = status.next_try_uptime_ms.and_then(|at| at.checked_sub(uptime_ms())) {
        say(&format!("  next try in {} s", left.div_ceil(1000)));
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
    let plan = crate::plan::Plan::new(&loaded.config, &matches.machine(), Vec::new());
    for line in plan.effects().iter().flat_map(crate::plan::Planned::lines) {
        say(&format!("  {line}"));
    }
    if let Some(power) = loaded.config.power {
        say(&format!("  power: {power}"));
    }
    if plan.join.is_none() {
        say("  join: nothing");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Code;

    #[test]
    fn the_exit_status_tells_goal_failure_and_way() {
        let directory = tempfile::tempdir().unwrap();
        let host = RealHost::new(directory.path());
        for (code, expected) in [
            (Code::Joined, 0),
            (Code::ReadyNoJoin, 0),
            (Code::VarFull, 1),
            (Code::Joining, 3),
            (Code::WaitingForConfig, 3),
        ] {
            Reporter::new(&host, false).report(code, "");
            assert_eq!(exit_status(&read_status(&host).unwrap()), expected, "{code}");
        }
    }
}
