//! The merged profile: what the later stages read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::Snapshot;

/// A role's profile with every `extends` followed and every path made absolute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Profile {
    /// The role's name as given on the command line: `quickstart/worker`.
    pub role: String,
    /// The base that the role is built on.
    pub base: Base,
    /// Repositories by name; the name is what a lock refers to.
    pub repositories: BTreeMap<String, Repository>,
    /// What is installed.
    pub packages: Packages,
    /// The kernel and what it is told.
    pub kernel: Kernel,
    /// Packages that are installed in a throw-away tree, where DKMS builds their modules for the image. Empty: none.
    pub dkms: BTreeSet<String>,
    /// Trees copied onto the root, in this order (a later one wins).
    pub overlays: Vec<PathBuf>,
    /// Units enabled, disabled and masked.
    pub units: Units,
    /// Single files written onto the root, by absolute path inside the image.
    pub files: BTreeMap<String, FileEntry>,
    /// Files fetched by URL or taken from a path, checked by SHA-256, by absolute path inside the image.
    pub artifacts: BTreeMap<String, Artifact>,
    /// Container images put onto the image, by name.
    pub containers: BTreeMap<String, Container>,
    /// Paths below `/var` or elsewhere that outlive an upgrade, beyond `/var` and `/etc`.
    pub persist: BTreeSet<String>,
    /// Ports that the firewall opens: `2377/tcp`.
    pub firewall: BTreeSet<String>,
    /// The role's defaults for node configuration (the same keys as `node.toml`).
    pub config: toml::Table,
    /// Sizes and formats of the image.
    pub image: ImageOptions,
    /// Facts for tests in QEMU.
    pub qemu: QemuFacts,
}

/// A base: a distribution's release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Base {
    /// `debian-13`, `ubuntu-24.04`.
    pub id: String,
    /// `debian` or `ubuntu`.
    pub distribution: String,
    /// `trixie`, `noble`.
    pub codename: String,
    /// `13`, `24.04`.
    pub version: String,
    /// The Debian architecture; `amd64`.
    pub architecture: String,
    /// The repositories that belong to the base, first the main one.
    pub repositories: Vec<String>,
}

/// An apt repository, as the profile names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repository {
    /// The name used in locks and in `--mirror NAME=URL`.
    pub name: String,
    /// The canonical URL, if the repository has one. The Debian base has none: its mirror is the host's.
    pub url: Option<String>,
    /// Which of the host's apt sources serve as its mirror: the distribution (`debian`, `ubuntu`) and the
    /// last path segment that tells archives of one distribution apart (`debian` or `debian-security`).
    pub host_mirror: Option<HostMirror>,
    /// Suites (`trixie`, `trixie-updates`); for a flat repository the one exact path, ending in `/`.
    pub suites: Vec<String>,
    /// Components; empty for a flat repository.
    pub components: Vec<String>,
    /// OpenPGP certificates that may sign it: absolute path of a keyring (armoured or binary).
    pub keyring: PathBuf,
    /// Higher wins over lower whatever the version, as apt's pin priorities do; the default is 500.
    pub priority: i32,
    /// The moment of the archive that is taken, in place of what it has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// Where such moments are found: a URL with `${snapshot}` in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_url: Option<String>,
}

/// How the host's apt configuration is matched to a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostMirror {
    /// `debian` or `ubuntu`: the host must run it, or have sources of it.
    pub distribution: String,
    /// The archive's last path segment: `debian`, `debian-security`, `ubuntu`.
    pub archive: String,
}

/// What is installed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Packages {
    /// Names asked for.
    pub include: BTreeSet<String>,
    /// Names that must not be installed.
    pub exclude: BTreeSet<String>,
    /// Version pins by package name; an exact version, or a glob (`5:29.*`).
    pub pins: BTreeMap<String, String>,
    /// Whether recommended packages are installed too.
    pub recommends: bool,
    /// Whether versions count that the archive is still phasing in.
    pub phased: bool,
    /// Virtual packages that Ingot itself provides (`linux-initramfs-tool`: stage1 stands in its place).
    pub provided: BTreeSet<String>,
    /// Paths that are not unpacked, as dpkg's `--path-exclude` takes them.
    pub path_exclude: Vec<String>,
    /// Paths that are unpacked after all, as dpkg's `--path-include` takes them.
    pub path_include: Vec<String>,
}

/// The kernel and what it is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// The package that brings the kernel: `linux-image-amd64`.
    pub package: String,
    /// Words of the kernel command line, in order.
    pub cmdline: Vec<String>,
    /// sysctl settings by key.
    pub sysctl: BTreeMap<String, String>,
    /// Modules loaded at boot from the root.
    pub modules: BTreeSet<String>,
    /// Modules put into the initrd with their dependencies: names, or globs of paths below `kernel/`.
    pub initrd_modules: BTreeSet<String>,
}

/// Units and their state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Units {
    /// Enabled.
    pub enable: BTreeSet<String>,
    /// Disabled.
    pub disable: BTreeSet<String>,
    /// Masked.
    pub mask: BTreeSet<String>,
}

/// A file written onto the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileEntry {
    /// Its content, or the file that has it.
    pub content: FileContent,
    /// Permission bits.
    pub mode: u32,
}

/// Where a file's content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileContent {
    /// Written in the profile.
    Inline(String),
    /// Read from this absolute path.
    Path(PathBuf),
}

/// A file from outside the archive, pinned by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Artifact {
    /// `http(s)://…`, or an absolute path on the build host.
    pub source: String,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// Permission bits.
    pub mode: u32,
}

/// A container image put onto the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Container {
    /// An OCI layout directory or a docker-archive file, pinned by digest.
    Archive {
        /// The reference it is known by on the node: `registry.example/app:1`.
        reference: String,
        /// Absolute path.
        path: PathBuf,
        /// `sha256:…` of the image's manifest (OCI layout) or of the archive file.
        digest: String,
    },
    /// Made from locked packages, unpacked and not configured.
    Packages {
        /// The reference it is known by on the node.
        reference: String,
        /// Packages whose dependency closure makes the root.
        packages: Vec<String>,
        /// The command that the container runs.
        command: Vec<String>,
        /// Files written into the container, by absolute path.
        files: BTreeMap<String, String>,
    },
}

/// Sizes and formats of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageOptions {
    /// `erofs` or `squashfs`.
    pub format: RootFormat,
    /// Compression as `mkfs.erofs -z` takes it.
    pub compression: String,
    /// Size of the EFI system partition in MiB.
    pub esp_mib: u64,
    /// Size of one root slot on the node in MiB; the image itself carries only what the root needs.
    pub slot_mib: u64,
    /// The largest UKI that is accepted, in MiB.
    pub uki_budget_mib: u64,
    /// Logical sector size of the disk that the image is for: 512 or 4096.
    pub sector_size: u32,
}

/// The root's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootFormat {
    /// Read-only, compressed, random access: the default.
    Erofs,
    /// For sites that want it.
    Squashfs,
}

/// Facts for tests in QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QemuFacts {
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual processors.
    pub cpus: u32,
    /// Size of the virtual disk in GiB.
    pub disk_gib: u64,
}
