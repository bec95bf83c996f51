//! The node as the first-boot service sees it: its files, programs, addresses, clock and container engine.
//!
//! Everything that the service does to the machine goes through [`Host`], so that a test can run the whole service
//! against a simulated machine and pull its plug between any two of its actions.

mod addresses;
mod devices;
pub mod files;
mod links;
mod owned;
mod real;
#[cfg(test)]
pub mod simulated;
#[cfg(test)]
pub mod simulated_disks;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thiserror::Error;

pub use real::RealHost;

use crate::clock::Vouch;
use crate::clock::https::ServerDate;
use crate::config::{HostAddress, Mac, Machine, Secret, Url};
use crate::http::{HttpError, HttpRequest, HttpResponse};
use crate::join::engine::{EngineError, Request, Response};
use crate::process::ProcessError;
use crate::provider::{StickError, WriteResults};
use crate::rendezvous::{Grant, NodeIdentity, RendezvousError};
use crate::status::Code;
use crate::step::images::ArchiveImage;
use crate::sys::EthtoolRequest;

/// The machine did not do what it was told.
#[derive(Debug, Error)]
pub enum HostError {
    /// A file.
    #[error("{action} {path}: {source}")]
    File {
        /// `write`, `read`.
        action: &'static str,
        /// The path on the node.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A program.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The kernel, for something that is no file.
    #[error("{action}: {source}")]
    System {
        /// What was asked.
        action: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A name has no address, for now.
    #[error("the name {name} cannot be resolved: {reason}")]
    Resolve {
        /// The name.
        name: String,
        /// Why.
        reason: String,
    },
}

/// An address of an interface that other machines can use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The interface.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
}

/// Who owns a file, by numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ids {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Ids {
    /// Root's.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A file with its permissions.
    File {
        /// The permission bits.
        mode: u32,
        /// Whose it is.
        ids: Ids,
    },
    /// A symbolic link to this.
    Link(String),
    /// A directory.
    Directory {
        /// Whose it is.
        ids: Ids,
    },
    /// A device or the like.
    Other,
}

/// A file as the image has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// Its content.
    pub bytes: Vec<u8>,
    /// The permission bits.
    pub mode: u32,
    /// Whose it is.
    pub ids: Ids,
}

/// An interface of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// The hardware address that it has now: a bond's members all have the bond's.
    pub mac: Option<Mac>,
    /// The one that it was made with, where the kernel knows it.
    pub permanent: Option<Mac>,
    /// Whether hardware, or a hypervisor's device, is behind it.
    pub physical: bool,
    /// Whether it is up and something is at the other end of the cable.
    pub carrier: bool,
    /// Whether it is wired and nothing has brought it up: most drivers then do not know whether a cable is in.
    pub idle: bool,
    /// The module that serves it.
    pub driver: Option<String>,
}

impl Link {
    /// What tells it from others for good.
    pub fn identity(&self) -> Option<Mac> {
        self.permanent.or(self.mac)
    }
}

/// A machine. All paths are absolute paths on the node.
pub trait Host: Sync {
    /// Reads a file of at most `limit` bytes; `None` where there is none.
    fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, HostError>;
    /// Writes a file whole: after a power cut it has the old content or the new one, and when this returns, the
    /// new one for good. Makes the directories above it.
    fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<(), HostError>;
    /// The same with an owner, and without following symbolic links on the way; directories that it makes have the same
    /// owner.
    fn write_as(&self, path: &str, bytes: &[u8], mode: u32, ids: Ids) -> Result<(), HostError>;
    /// Makes a directory where there is none, and gives it its mode and owner. Links on the way are not followed.
    fn make_directory_as(&self, path: &str, mode: u32, ids: Ids) -> Result<(), HostError>;
    /// What stands at a path; links are not followed, not even at its end.
    fn look(&self, path: &str) -> Result<Option<Standing>, HostError>;
    /// The image's own file at a path, of at most `limit` bytes, also where the node's hides it; `None` where the image
    /// has no regular file there.
    fn image_file(&self, path: &str, limit: u64) -> Result<Option<ImageFile>, HostError>;
    /// Adds to a file of mode 0600, for good when this returns; a power cut before may leave a part of it.
    fn append(&self, path: &str, bytes: &[u8]) -> Result<(), HostError>;
    /// Shortens a file to `length` bytes, for good.
    fn truncate(&self, path: &str, length: u64) -> Result<(), HostError>;
    /// Removes a file, for good; one that is not there is no error.
    fn remove(&self, path: &str) -> Result<(), HostError>;
    /// Makes `path` a symbolic link to `target`, replacing what is there, whole and for good.
    fn link(&self, path: &str, target: &str) -> Result<(), HostError>;
    /// True where something is at the path, following links.
    fn exists(&self, path: &str) -> bool;
    /// The names and sizes of the regular files in a directory, sorted; none where there is no such directory.
    fn list(&self, path: &str) -> Result<Vec<(String, u64)>, HostError>;
    /// The names of everything in a directory, sorted; none where there is no such directory.
    fn names(&self, path: &str) -> Result<Vec<String>, HostError>;
    /// Makes a directory, and those above it, where there is none.
    fn make_directory(&self, path: &str) -> Result<(), HostError>;
    /// Writes a setting of the kernel: a file below `/proc` or `/sys` that is there, in one write.
    fn set_kernel(&self, path: &str, value: &str) -> Result<(), HostError>;
    /// Asks the driver of an interface (`SIOCETHTOOL`); the request's first word is the command, the answer replaces it.
    fn ethtool(&self, interface: &str, request: &mut EthtoolRequest) -> Result<(), HostError>;
    /// Reads exactly `length` bytes of a block device.
    fn read_device(&self, device: &str, offset: u64, length: u64) -> Result<Vec<u8>, HostError>;
    /// Writes `length` zero bytes to a block device, for good.
    fn clear_device(&self, device: &str, offset: u64, length: u64) -> Result<(), HostError>;
    /// Whether the kernel has a block device, or a part of it, in use: mounted, swap, held by md, LVM or dm.
    fn is_busy(&self, device: &str) -> Result<bool, HostError>;
    /// Bytes that nobody can guess.
    fn random_bytes(&self, count: usize) -> Result<Vec<u8>, HostError>;
    /// Runs a program to its end and gives its standard output.
    fn run(&self, program: &str, arguments: &[&str], limit: Duration) -> Result<Vec<u8>, HostError>;
    /// Sets the kernel's host name.
    fn set_hostname(&self, name: &str) -> Result<(), HostError>;
    /// What tells this machine from others.
    fn machine(&self) -> Machine;
    /// The addresses of global scope, sorted, without those of container bridges.
    fn addresses(&self) -> Result<Vec<InterfaceAddress>, HostError>;
    /// The same with those of any scope: also link-local ones, over which nothing is joined.
    fn all_addresses(&self) -> Result<Vec<InterfaceAddress>, HostError>;
    /// The interfaces, sorted by name, without `lo` and those of containers.
    fn links(&self) -> Result<Vec<Link>, HostError>;
    /// The own address from which packets to `to` leave; `None` where there is no route.
    fn source_address(&self, to: IpAddr) -> Option<IpAddr>;
    /// The addresses of a machine.
    fn resolve(&self, host: &HostAddress) -> Result<Vec<IpAddr>, HostError>;
    /// Asks a server over HTTP, once.
    fn http(&self, request: &HttpRequest<'_>) -> Result<HttpResponse, HttpError>;
    /// Whether something accepts TCP connections there; the connection is closed at once.
    fn connect(&self, to: SocketAddr, limit: Duration) -> std::io::Result<()>;
    /// Asks the container engine.
    fn engine(&self, request: &Request<'_>) -> Result<Response, EngineError>;
    /// Asks a manager's rendezvous for a join token.
    fn rendezvous(
        &self,
        manager: IpAddr,
        port: u16,
        secret: &Secret,
        identity: &NodeIdentity,
    ) -> Result<Grant, RendezvousError>;
    /// The container images in an archive (`docker save`'s `manifest.json`).
    fn archive_images(&self, archive: &str) -> Result<Vec<ArchiveImage>, HostError>;
    /// Seconds since 1970 by the node's clock.
    fn now(&self) -> u64;
    /// How long the machine runs; this clock never jumps.
    fn uptime(&self) -> Duration;
    /// Sets the node's clock.
    fn set_clock(&self, seconds: u64) -> Result<(), HostError>;
    /// Seconds since 1970 by the real-time clock's chip, which is in UTC; `None` where there is none or it does not
    /// know.
    fn rtc(&self) -> Option<u64>;
    /// Sets the real-time clock's chip.
    fn set_rtc(&self, seconds: u64) -> Result<(), HostError>;
    /// Asks an `https` server for its time ([`crate::clock::https::ask`]); why not, where it does not say.
    fn https_date(&self, url: &Url, vouch: &Vouch) -> Result<ServerDate, String>;
    /// Writes results to the configuration stick; gives its name for people.
    fn write_results(&self, write: WriteResults<'_>) -> Result<String, StickError>;
    /// A random number below `bound` (1 or more).
    fn random_below(&self, bound: u64) -> u64;
    /// Waits.
    fn sleep(&self, duration: Duration);
}

impl<'a> HostError {
    /// The status code that says more than that something failed: the state partition is full or read-only.
    pub fn storage(&self) -> Option<Code> {
        let HostError::File { path, source, .. } = self else { return None };
        if path.starts_with("/run/") {
            return None;
        }
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Some(Code::VarFull),
            std::io::ErrorKind::ReadOnlyFilesystem => Some(Code::VarReadOnly),
            _ => None,
        }
    }

    /// Wraps an error about a file.
    pub fn file(action: &'static str, path: &'a str) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |source| HostError::File { action, path: path.to_owned(), source }
    }
}
