//! `ingot test`
use crate::cli::Failure;
use crate::cli::args::{Global, TestArgs};
use crate::cli::printer::Printer;

pub fn run(_global: &Global, _arguments: &TestArgs, _printer: &Printer) -> Result<(), Failure> {
    Err(Failure::failed("not built in"))
}
