//! The format of one profile file, before anything is merged.
//!
//! Every key that a file may hold stands here; a file is checked against these types alone, so that an
//! error can name its file, line and column. See `profiles/README.md` for the same as prose.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::types::RootFormat;

/// One file of a profile tree.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileFile {
    /// One line for people.
    pub description: Option<String>,
    /// Other files merged before this one: `parts/docker`.
    pub extends: Vec<String>,
    /// Files that no role may have together with this one: `parts/docker-standalone`.
    pub conflicts: Vec<String>,
    /// The base to build on unless `--base` names another: `ubuntu-24.04`.
    pub default_base: Option<String>,
    /// Set by files in `base/` only.
    pub base: Option<BaseFile>,
    /// Repositories by name.
    pub repositories: BTreeMap<String, RepositoryFile>,
    /// Packages.
    pub packages: PackagesFile,
    /// Kernel.
    pub kernel: KernelFile,
    /// Kernel modules that are built.
    pub dkms: DkmsFile,
    /// Names below `overlays/`, or paths beginning with `./` or `/`.
    pub overlays: Vec<String>,
    /// Units.
    pub units: UnitsFile,
    /// Files by path in the image.
    pub files: BTreeMap<String, FileFile>,
    /// Artifacts by path in the image.
    pub artifacts: BTreeMap<String, ArtifactFile>,
    /// Container images by name.
    pub containers: BTreeMap<String, ContainerFile>,
    /// Paths that outlive an upgrade.
    pub persist: Vec<String>,
    /// Open ports.
    pub firewall: FirewallFile,
    /// Defaults of the node's configuration.
    pub config: toml::Table,
    /// Image.
    pub image: ImageFile,
    /// Tests in QEMU.
    pub qemu: QemuFile,
    /// The same keys again, for one base (`ubuntu-24.04`) or distribution (`debian`) only.
    pub when: BTreeMap<String, ProfileFile>,
}

/// `[base]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)] // the same fields as `types::Base`
pub struct BaseFile {
    pub distribution: Option<String>,
    pub codename: Option<String>,
    pub version: Option<String>,
    pub architecture: Option<String>,
    pub repositories: Vec<String>,
}

/// `[repositories.NAME]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)] // the same fields as `types::Repository`
pub struct RepositoryFile {
    pub url: Option<String>,
    pub host_mirror: Option<HostMirrorFile>,
    pub suites: Vec<String>,
    pub components: Vec<String>,
    pub keyring: Option<String>,
    pub priority: Option<i32>,
    pub snapshot: Option<String>,
    pub snapshot_url: Option<String>,
}

/// `[repositories.NAME.host_mirror]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the same fields as `types::HostMirror`
pub struct HostMirrorFile {
    pub distribution: String,
    pub archive: String,
}

/// `[packages]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)] // the same fields as `types::Packages`
pub struct PackagesFile {
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub pins: BTreeMap<String, String>,
    pub recommends: Option<bool>,
    pub phased: Option<bool>,
    pub provided: Vec<String>,
    pub path_exclude: Vec<String>,
    pub path_include: Vec<String>,
}

/// `[kernel]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)] // the same fields as `types::Kernel`
pub struct KernelFile {
    pub package: Option<String>,
    pub cmdline: Vec<String>,
    pub sysctl: BTreeMap<String, toml::Value>,
    pub modules: Vec<String>,
    pub initrd_modules: Vec<String>,
}

/// `[dkms]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DkmsFile {
    /// Packages whose modules are built, and what building them takes.
    pub packages: Vec<String>,
}

/// `[units]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)] // the same fields as `types::Units`
pub struct UnitsFile {
    pub enable: Vec<String>,
    pub disable: Vec<String>,
    pub mask: Vec<String>,
}

/// `[files."/path"]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FileFile {
    /// The content itself.
    pub content: Option<String>,
    /// The file that has it, relative to the profile file.
    pub source: Option<String>,
    /// Permission bits as octal digits; `0644` unless given.
    pub mode: Option<String>,
}

/// `[artifacts."/path"]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactFile {
    /// Where to fetch it.
    #[serde(default)]
    pub url: Option<String>,
    /// Or where it lies, relative to the profile file.
    #[serde(default)]
    pub path: Option<String>,
    /// SHA-256, hex.
    pub sha256: String,
    /// Permission bits as octal digits; `0644` unless given.
    #[serde(default)]
    pub mode: Option<String>,
}

/// `[containers.NAME]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerFile {
    /// The reference it is known by on the node.
    pub reference: String,
    /// An OCI layout or docker-archive, relative to the profile file.
    #[serde(default)]
    pub path: Option<String>,
    /// Its digest.
    #[serde(default)]
    pub digest: Option<String>,
    /// Or the packages it is made from.
    #[serde(default)]
    pub packages: Vec<String>,
    /// What such a container runs.
    #[serde(default)]
    pub command: Vec<String>,
    /// Files written into such a container.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
}

/// `[firewall]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FirewallFile {
    /// `2377/tcp`, `4789/udp`.
    pub open: Vec<String>,
}

/// `[image]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)] // the same fields as `types::ImageOptions`
pub struct ImageFile {
    pub format: Option<RootFormat>,
    pub compression: Option<String>,
    pub esp_mib: Option<u64>,
    pub slot_mib: Option<u64>,
    pub uki_budget_mib: Option<u64>,
    pub sector_size: Option<u32>,
}

/// `[qemu]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)] // the same fields as `types::QemuFacts`
pub struct QemuFile {
    pub memory_mib: Option<u64>,
    pub cpus: Option<u32>,
    pub disk_gib: Option<u64>,
}
