//! What the names and versions of NVIDIA's packages say, in the archives of Ubuntu, of Debian and of NVIDIA.
//!
//! | Name | Says |
//! |---|---|
//! | `linux-image-6.8.0-151-generic` | the kernel's release |
//! | `linux-modules-nvidia-580-server-open-6.8.0-151-generic` | modules of branch 580 for that release |
//! | `linux-modules-nvidia-580-server-open-generic` | a metapackage: the branch, and whatever release is current |
//! | `nvidia-utils-580-server`, `libnvidia-nscq-580` | the branch; the driver is the version's upstream part |
//! | `nvidia-smi`, `libcuda1` (Debian) | nothing; that they are of the driver is known by their source |

use std::fmt;

/// The version of a driver, as `modinfo` and `nvidia-smi` say it: `580.178.04`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriverVersion(String);

impl DriverVersion {
    /// The upstream part of a package's version: `580.178.04` of `580.178.04-0ubuntu0.24.04.1`. `None` for what does not
    /// begin with a branch of three digits and a point.
    pub fn of_package(version: &str) -> Option<Self> {
        let version = version.split_once(':').map_or(version, |(_, rest)| rest);
        let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
        let upstream = version[..end].trim_end_matches('.');
        let mut numbers = upstream.split('.');
        branch(numbers.next()?)?;
        let (mut count, mut sound) = (0, true);
        for number in numbers {
            count += 1;
            sound &= !number.is_empty();
        }
        (sound && count > 0).then(|| Self(upstream.to_owned()))
    }
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Modules that the archive has built for one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrebuiltModules {
    /// `580`
    pub branch: u32,
    /// Of the `-server` series.
    pub server: bool,
    /// Of the open source.
    pub open: bool,
    /// The kernel's release: `6.8.0-151-generic`.
    pub release: String,
}

const MODULES: &str = "linux-modules-nvidia-";

impl PrebuiltModules {
    /// Reads the name of a package; `None` for anything else, and for the metapackages that follow a flavour.
    pub fn parse(name: &str) -> Option<Self> {
        let (word, rest) = name.strip_prefix(MODULES)?.split_once('-')?;
        let branch = branch(word)?;
        let (server, rest) = rest.strip_prefix("server-").map_or((false, rest), |rest| (true, rest));
        let (open, rest) = rest.strip_prefix("open-").map_or((false, rest), |rest| (true, rest));
        is_release(rest).then(|| Self { branch, server, open, release: rest.to_owned() })
    }
}

impl fmt::Display for PrebuiltModules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let series = match (self.server, self.open) {
            (false, false) => "",
            (true, false) => "-server",
            (false, true) => "-open",
            (true, true) => "-server-open",
        };
        write!(f, "{MODULES}{}{series}-{}", self.branch, self.release)
    }
}

/// The release of the kernel that a package brings, as `uname -r` says it; `None` for metapackages and all others.
pub fn kernel_release(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("linux-image-")?;
    let rest = rest.strip_prefix("unsigned-").unwrap_or(rest);
    is_release(rest).then_some(rest)
}

/// Whether this is a kernel's release: `6.8.0-151-generic`, `6.12.94+deb13-amd64`, but not `generic-6.8`.
fn is_release(text: &str) -> bool {
    let Some((version, flavour)) = text.split_once('-') else { return false };
    version.starts_with(|c: char| c.is_ascii_digit()) && version.contains('.') && !flavour.is_empty()
}

/// The driver branch in the name of a package: 580 of `nvidia-utils-580-server`, of
/// `linux-modules-nvidia-580-open-generic`, of `nvidia-tesla-535-driver`.
pub fn branch_of(name: &str) -> Option<u32> {
    // Those are named after a kernel, in which 151 is no branch.
    if name.starts_with("linux-signatures-") {
        return None;
    }
    let prefixes = ["nvidia-", "libnvidia-", "linux-modules-nvidia-", "linux-objects-nvidia-", "cuda-drivers-"];
    let more = ["xserver-xorg-video-nvidia-", "libnvsdm-"];
    let rest = prefixes.iter().chain(&more).find_map(|prefix| name.strip_prefix(prefix))?;
    rest.split('-').find_map(branch)
}

/// Whether the upstream part of the package's version is a driver's.
///
/// Tools around the driver have versions of their own (`nvidia-modprobe`, `nvidia-persistenced`, `nvidia-settings`).
pub(super) fn has_driver_version(name: &str, source: &str) -> bool {
    if name.starts_with("linux-") || name.starts_with("nvidia-settings") {
        return false;
    }
    let sources = ["nvidia-graphics-drivers", "nvidia-open-gpu-kernel-modules", "fabric-manager-"];
    let plain = ["nvidia-fabricmanager", "libnvidia-nscq", "nvidia-imex"];
    branch_of(name).is_some() || plain.contains(&name) || sources.iter().any(|known| source.starts_with(known))
}

/// A driver branch: three digits.
fn branch(word: &str) -> Option<u32> {
    if word.len() == 3 && word.bytes().all(|b| b.is_ascii_digit()) && !word.starts_with('0') {
        word.parse().ok()
    } else {
        None
    }
}
