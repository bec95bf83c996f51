//! The `sandbox`: runs a program of an image's root or of the tools tree in namespaces of its own.
//!
//! A program run here sees the given root and the given binds and nothing else of the host: a new
//! mount, process, IPC and host-name namespace, no network unless asked for, no capability beyond
//! what unpacking and configuring packages takes, a clean environment. It dies when we die.
//!
//! Ingot starts itself again for that, twice. The first instance ([`inside::enter`]) leaves the
//! host's namespaces; its child is process 1 of the new ones ([`inside::initialise`]), builds the
//! mounts, drops capabilities and runs the program. The instances read a [`Spec`] from their
//! command line, which therefore never holds a secret.
//!
//! As an ordinary user the whole of Ingot runs in a user namespace first: see [`user`].

pub mod inside;
#[allow(unsafe_code)] // the crate's one place for system calls that have no safe wrapper
mod sys;
pub mod user;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::process::Tool;

/// The hidden command of the first instance.
pub const ENTER_COMMAND: &str = "__sandbox";
/// The hidden command of the second instance.
pub const INIT_COMMAND: &str = "__sandbox-init";

/// Where programs are looked for inside.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static LAUNCHER: OnceLock<PathBuf> = OnceLock::new();

/// Says which executable is the `ingot` command, where it is not the running one (in tests).
pub fn set_launcher(path: PathBuf) {
    // The first caller wins; a second one names the same executable.
    let _ = LAUNCHER.set(path);
}

fn launcher() -> PathBuf {
    LAUNCHER.get_or_init(|| std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"))).clone()
}

/// What is mounted into a sandbox, beyond its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mount {
    /// A file or directory of the host.
    Bind {
        /// Where it is on the host.
        host: PathBuf,
        /// Where it is inside.
        inside: PathBuf,
        /// Whether it can be written.
        read_only: bool,
    },
    /// An overlay of directories of the host.
    Overlay {
        /// Lower layers, the topmost first.
        lower: Vec<PathBuf>,
        /// The layer that is written.
        upper: PathBuf,
        /// The empty directory that overlayfs needs on the same file system as `upper`.
        work: PathBuf,
        /// Where it is inside; `/` makes it the root.
        inside: PathBuf,
        /// Whether the kernel may skip every `fsync`: a crash then leaves rubbish in `upper`, so this is
        /// for trees that are thrown away unless the whole work on them succeeds.
        volatile: bool,
    },
}

/// A sandbox, written down for the instances that make it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The tree that becomes `/`.
    pub root: PathBuf,
    /// Whether `root` itself is `/` and can be written; otherwise its entries are bound read-only.
    pub writable: bool,
    /// What is mounted besides, in this order.
    pub mounts: Vec<Mount>,
    /// Whether the host's network is seen.
    pub network: bool,
    /// Whether the host's devices are seen.
    pub devices: bool,
    /// The whole environment of the program.
    pub environment: Vec<(String, String)>,
}

/// A root with its mounts, in which programs can be run.
#[derive(Debug, Clone)]
pub struct Sandbox {
    spec: Spec,
}

impl Sandbox {
    /// A sandbox with the tree `root` as `/`, read-only.
    pub fn new(root: &Path) -> Self {
        let environment = [("PATH", PATH), ("HOME", "/root"), ("LC_ALL", "C.UTF-8"), ("TZ", "UTC")];
        Self {
            spec: Spec {
                root: root.to_owned(),
                writable: false,
                mounts: Vec::new(),
                network: false,
                devices: false,
                environment: environment.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
            },
        }
    }

    /// The root can be written.
    #[must_use]
    pub fn writable(mut self) -> Self {
        self.spec.writable = true;
        self
    }

    /// A file or directory of the host, writable.
    #[must_use]
    pub fn bind(self, host: &Path, inside: &Path) -> Self {
        self.mount(Mount::Bind { host: host.to_owned(), inside: inside.to_owned(), read_only: false })
    }

    /// A file or directory of the host, read-only.
    #[must_use]
    pub fn bind_read_only(self, host: &Path, inside: &Path) -> Self {
        self.mount(Mount::Bind { host: host.to_owned(), inside: inside.to_owned(), read_only: true })
    }

    /// One more mount.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.spec.mounts.push(mount);
        self
    }

    /// The host's network is seen.
    #[must_use]
    pub fn share_network(mut self) -> Self {
        self.spec.network = true;
        self
    }

    /// The host's devices are seen (`/dev/kvm`).
    #[must_use]
    pub fn share_devices(mut self) -> Self {
        self.spec.devices = true;
        self
    }

    /// One more variable of the program's environment.
    #[must_use]
    pub fn environment(mut self, key: &str, value: &str) -> Self {
        self.spec.environment.retain(|(k, _)| k != key);
        self.spec.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    /// A program that runs inside; its arguments are added to what this gives.
    pub fn tool(&self, program: &str) -> Tool {
        // A struct of strings, paths that came in as UTF-8 or not, and flags: the only value that JSON
        // cannot hold is a path that is not UTF-8, which then fails inside with a clear "not found".
        let spec = serde_json::to_string(&self.spec).unwrap_or_default();
        Tool::new(launcher()).named(program).args([
            OsString::from(ENTER_COMMAND),
            OsString::from(spec),
            OsString::from(program),
        ])
    }
}
