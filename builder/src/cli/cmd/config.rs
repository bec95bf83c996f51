//! `ingot config`
use crate::cli::Failure;
use crate::cli::args::{ConfigCommand, Global};
use crate::cli::printer::Printer;

pub fn run(_global: &Global, _command: &ConfigCommand, _printer: &Printer) -> Result<(), Failure> {
    Err(Failure::failed("not built in"))
}
