//! Tests of the `ingot` command from outside: what it prints, how it ends, what it leaves behind.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test says what is wrong by failing
#![allow(clippy::print_stdout, clippy::print_stderr)] // and why it was passed over by printing

mod archive;
mod build;
mod bundle;
mod config;
mod context;
mod determinism;
mod full_disk;
mod https;
mod install;
mod interruption;
mod json;
mod lock;
mod ubuntu;
