//! What runs on an Ingot node: the initrd's init, the first-boot service, and the types that the builder shares.

pub mod cli;
pub mod clock;
pub mod config;
mod der;
pub mod disk;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod glob;
pub mod host;
pub mod http;
pub mod join;
pub mod journal;
pub mod plan;
pub mod process;
pub mod provider;
pub mod rendezvous;
pub mod report;
pub mod service;
pub mod stage1;
pub mod status;
pub mod step;
pub mod sys;
pub mod tuning;
