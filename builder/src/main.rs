//! The `ingot` command: hands its arguments on.

use std::process::ExitCode;

fn main() -> ExitCode {
    ingot::cli::main()
}
