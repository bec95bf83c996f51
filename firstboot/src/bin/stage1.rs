//! The initrd's init; see [`ingot_firstboot::stage1`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ingot_firstboot::stage1::main()
}
