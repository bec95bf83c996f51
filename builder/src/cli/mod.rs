//! The command line: arguments, output and exit codes; no logic.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or bad input.

mod args;
mod cmd;
mod printer;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;

use crate::archive::mirror::Mirrors;
use crate::build::{BuildError, Site};
use crate::cache::Cache;
use crate::profile::Tree;
use crate::sandbox::{self, inside, user};
use crate::store::Store;
use args::{Cli, Command, Global};
use printer::Printer;

/// Why a command failed, and whether the input was at fault.
pub(crate) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// The work itself failed.
    fn failed(message: impl std::fmt::Display) -> Self {
        Self { message: message.to_string(), code: 1 }
    }

    /// What was asked for or given is wrong.
    fn input(message: impl std::fmt::Display) -> Self {
        Self { message: message.to_string(), code: 2 }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Profile(_) | BuildError::Input(_) | BuildError::Compression(_) => Self::input(error),
            BuildError::Lock(ref lock) => match lock {
                crate::lock::LockError::Archive(_) | crate::lock::LockError::Io { .. } => Self::failed(error),
                _ => Self::input(error),
            },
            _ => Self::failed(error),
        }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(status) = hidden(&arguments) {
        return exit_code(status);
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&arguments, &error),
    };
    if needs_root(&cli.command) {
        if !rustix::process::geteuid().is_root() {
            return match user::run_as_root(&arguments[1..]) {
                Ok(status) => exit_code(status),
                Err(error) => exit_code(report(&cli.global, &Failure::failed(error))),
            };
        }
        if let Err(error) = inside::private_mounts() {
            return exit_code(report(&cli.global, &Failure::failed(error)));
        }
    }
    exit_code(run(&cli))
}

/// What clap says: help, the version, or what is wrong with the arguments. Who asked for JSON gets JSON of that too.
fn usage(arguments: &[OsString], error: &clap::Error) -> ExitCode {
    if error.use_stderr() && arguments.iter().any(|a| a == "--json") {
        print_json(&serde_json::json!({ "error": error.to_string().trim_end(), "exit": 2 }));
    }
    // Nothing is left to do if standard error is gone.
    let _ = error.print();
    exit_code(error.exit_code())
}

fn run(cli: &Cli) -> i32 {
    let printer = Printer::new(cli.global.quiet);
    let result = match &cli.command {
        Command::Lock(arguments) => cmd::lock::run(&cli.global, arguments, &printer),
        Command::Build(arguments) => cmd::build::run(&cli.global, arguments, &printer),
        Command::Bundle { command } => cmd::bundle::run(&cli.global, command, &printer),
        Command::Test(arguments) => cmd::test::run(&cli.global, arguments, &printer),
        Command::Run(arguments) => cmd::run::run(&cli.global, arguments, &printer),
        Command::Config { command } => cmd::config::run(&cli.global, command, &printer),
        Command::Keys { command } => cmd::keys::run(&cli.global, command),
    };
    match result {
        Ok(()) => 0,
        Err(failure) => report(&cli.global, &failure),
    }
}

fn report(global: &Global, failure: &Failure) -> i32 {
    if global.json {
        print_json(&serde_json::json!({ "error": failure.message, "exit": failure.code }));
    }
    // Nothing is left to do if standard error is gone.
    let _ = writeln!(std::io::stderr(), "error: {}", failure.message);
    i32::from(failure.code)
}

/// Commands that make trees with owners, mounts or namespaces.
fn needs_root(command: &Command) -> bool {
    match command {
        Command::Build(arguments) => !arguments.plan && !arguments.explain_profile,
        Command::Test(_) | Command::Run(_) => true,
        Command::Lock(_) | Command::Bundle { .. } | Command::Config { .. } | Command::Keys { .. } => false,
    }
}

/// The site that the options describe.
fn site(global: &Global) -> Result<Site, Failure> {
    let cache = match &global.cache {
        Some(cache) => cache.clone(),
        None => default_cache()
            .ok_or_else(|| Failure::input("neither HOME nor XDG_CACHE_HOME is set; name a cache with --cache DIR"))?,
    };
    let jobs = global.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    Ok(Site {
        tree: Tree::open(&global.profiles).map_err(Failure::input)?,
        lock_file: global.lock_file.clone(),
        store: Store::open(&cache.join("store")).map_err(Failure::failed)?,
        cache: Cache::open(&cache).map_err(Failure::failed)?,
        mirrors: Mirrors::new(global.mirror.iter().cloned().collect()),
        base: global.base.clone(),
        offline: global.offline,
        jobs: jobs.max(1),
    })
}

fn default_cache() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache"))).map(|p| p.join("ingot"))
}

fn print(text: &str) {
    // A closed pipe (`ingot ... | head`) is the reader's choice, not a failure.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n'));
}

fn print_json(value: &impl serde::Serialize) {
    print(&serde_json::to_string_pretty(value).unwrap_or_default());
}

fn exit_code(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

/// The commands with which Ingot starts itself again (see [`sandbox`]).
fn hidden(arguments: &[OsString]) -> Option<i32> {
    let command = arguments.get(1)?.to_str()?;
    let rest = &arguments[2..];
    match command {
        sandbox::ENTER_COMMAND => Some(inside::enter(rest)),
        sandbox::INIT_COMMAND => Some(inside::initialise(rest)),
        user::COMMAND => Some(in_user_namespace(rest)),
        _ => None,
    }
}

fn in_user_namespace(arguments: &[OsString]) -> i32 {
    let result = user::become_root(arguments).and_then(|own| {
        inside::private_mounts()?;
        Ok(own)
    });
    match result {
        Ok(own) => {
            let cli = Cli::parse_from(std::iter::once(OsString::from("ingot")).chain(own));
            run(&cli)
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            1
        }
    }
}
