//! The library behind the `ingot` command: one module per stage, in the order the data takes.
//!
//! ```text
//! profile -> archive -> solve -> lock -> store -> root -> boot -> image -> publish -> qemu
//! ```
//!
//! A stage takes the typed result of the stage before it and gives its own; no stage reaches back.
//! Beside the stages stand the two doors every stage uses to reach the outside: [`process`] starts
//! child processes, [`sandbox`] runs programs of an image or of the tools tree in namespaces.

pub mod archive;
pub mod boot;
pub mod build;
pub mod bundle;
pub mod cache;
pub mod cli;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod image;
pub mod lock;
pub mod process;
pub mod profile;
pub mod progress;
pub mod publish;
pub mod qemu;
pub mod root;
pub mod sandbox;
pub mod solve;
pub mod store;
pub mod tools;
