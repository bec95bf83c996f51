//! One file per command.

pub mod build;
pub mod bundle;
pub mod config;
pub mod keys;
pub mod lock;
pub mod run;
pub mod test;
