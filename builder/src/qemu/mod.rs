//! The `qemu` stage: boots images in virtual machines, and asserts what they do.
//!
//! Takes a [`scenario::Scenario`] (guests, disks, node configuration, steps in order) and the images of its
//! roles; gives a [`report::Report`] with the status codes each node reported, when, and what each step found.
//! Runs as an ordinary user: no bridge, tap device or loop device is needed. The image files are never
//! written, and nothing keeps running when it returns, fails, or is interrupted.
//!
//! ```text
//! accel     which accelerator really works here
//! scenario  the file format             variables  ${secret} and its like in node configuration
//! disk      a private disk per guest    medium     the volume that hands the configuration to the node
//! machine   the command line            guest      a running virtual machine, qmp its control channel
//! tpm       a TPM 2.0 per guest that has one
//! switch    Ethernet among the guests   console    the serial log, its status codes and panics
//! ssh       commands inside a guest     server     HTTP for guests, and what they asked
//! site_key  signs what sticks bring
//! run       all of it in order -> report
//! ```

pub mod accel;
pub mod console;
pub mod disk;
pub mod guest;
pub mod interactive;
pub mod interrupt;
pub mod launcher;
pub mod machine;
pub mod medium;
pub mod qmp;
pub mod report;
pub mod run;
pub mod scenario;
pub mod server;
mod site_key;
pub mod ssh;
pub mod switch;
pub mod tpm;
pub mod variables;

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::process::ProcessError;

pub use launcher::{HostLauncher, Launcher};
pub use report::Report;
pub use run::{ImageKey, ImageRef, run_scenario};
pub use scenario::Scenario;

/// Running virtual machines went wrong: not what a node did (that is in the report), but what we could not do.
#[derive(Debug, Error)]
pub enum QemuError {
    /// The scenario file is wrong.
    #[error(transparent)]
    Scenario(#[from] scenario::ScenarioError),
    /// A value of the node configuration names a variable that does not exist.
    #[error("{guest}: {source}")]
    Variable {
        /// The guest whose configuration it is, or the server that serves it.
        guest: String,
        /// What is wrong.
        source: variables::VariableError,
    },
    /// No image was given for a role that the scenario uses.
    #[error("the scenario needs an image of role {role} for {sector}-byte sectors, and none was given; build it first")]
    NoImage {
        /// The role.
        role: String,
        /// Logical sector size in bytes.
        sector: u32,
    },
    /// A file could not be read or written.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was tried: `cannot read`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A disk image is not what is needed.
    #[error("{}: {problem}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A program could not be run, or failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The virtual machine ended before it was asked to.
    #[error("the virtual machine of guest {guest} ended by itself{}", said(.tail))]
    Ended {
        /// The guest.
        guest: String,
        /// The last lines QEMU printed.
        tail: String,
    },
    /// QEMU's control channel failed.
    #[error("guest {guest}: QEMU's control channel: {source}")]
    Control {
        /// The guest.
        guest: String,
        /// What went wrong.
        source: qmp::QmpError,
    },
    /// The TPM of a guest does not start.
    #[error("the TPM of guest {guest} does not start; is swtpm there?{}", said(.tail))]
    Tpm {
        /// The guest.
        guest: String,
        /// The last lines that swtpm printed.
        tail: String,
    },
    /// No UEFI firmware was found on the host.
    #[error("no UEFI firmware for x86-64 found on this host; on Debian and Ubuntu install the package ovmf")]
    NoFirmware,
    /// The run's site key could not be made, or did not sign.
    #[error("the site key of this run: {0}")]
    SiteKey(String),
    /// The terminal could not be set up.
    #[error("cannot set up the terminal: {0}")]
    Terminal(std::io::Error),
}

fn said(tail: &str) -> String {
    if tail.trim().is_empty() { String::new() } else { format!("; the last it said:\n{tail}") }
}

/// An input or output error with the file it belongs to.
fn at(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> QemuError {
    let path = path.to_owned();
    move |source| QemuError::File { what, path, source }
}
