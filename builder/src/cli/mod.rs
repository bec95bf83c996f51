//! The command line: arguments, output and exit codes; no logic.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or bad input.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::sandbox::{self, inside, user};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(status) = hidden(&arguments) {
        return exit_code(status);
    }
    ExitCode::SUCCESS
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
        _ => None,
    }
}
