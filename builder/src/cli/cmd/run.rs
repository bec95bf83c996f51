//! `ingot run`
use crate::cli::Failure;
use crate::cli::args::{Global, RunArgs};
use crate::cli::printer::Printer;

pub fn run(_global: &Global, _arguments: &RunArgs, _printer: &Printer) -> Result<(), Failure> {
    Err(Failure::failed("not built in"))
}
