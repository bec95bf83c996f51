//! `firstboot`: what makes a machine that just started a member of its cluster. See `firstboot --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ingot_firstboot::cli::main()
}
