//! The GPU invariant: a set with NVIDIA's driver is locked only if its parts belong together.
//!
//! Takes the packages of one set, gives nothing or the two packages that do not fit and what to pin. What holds
//! afterwards, or else the kernel or the driver would refuse its counterpart on the node:
//!
//! - prebuilt modules are those of the set's kernel, to the last digit of its ABI (`6.8.0-151-generic`), and modules that
//!   DKMS builds have the headers of that kernel;
//! - all parts are of one driver branch, so that no transitional package leads to another one unseen;
//! - modules, programs, libraries, fabric manager, NSCQ and GSP firmware are of one driver version;
//! - the container toolkit's packages are of one version.
//!
//! A set without NVIDIA's packages passes.

mod names;

use std::collections::BTreeMap;

use thiserror::Error;

pub use names::{DriverVersion, PrebuiltModules, branch_of, kernel_release};

use super::LockedPackage;
use crate::archive::relation::{self, Comparison};

/// The packages of NVIDIA's container toolkit, which is one program in four parts.
pub const TOOLKIT: [&str; 4] =
    ["libnvidia-container-tools", "libnvidia-container1", "nvidia-container-toolkit", "nvidia-container-toolkit-base"];

/// Two packages of a set that cannot work together on a node. Packages are written as `name version`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GpuError {
    /// Prebuilt modules of another kernel.
    #[error(
        "{modules} is built for kernel {built_for}, but the kernel is {kernel}: it would refuse them; include `{fitting}` \
         instead, or set kernel.package = \"linux-image-{built_for}\""
    )]
    Kernel {
        /// The modules.
        modules: String,
        /// The release that they are built for.
        built_for: String,
        /// The kernel.
        kernel: String,
        /// The package of modules that goes with that kernel.
        fitting: String,
    },
    /// Prebuilt modules, and no kernel at all.
    #[error(
        "{modules} is built for kernel {built_for}, and no kernel is in the set; set kernel.package = \"linux-image-{built_for}\""
    )]
    NoKernel {
        /// The modules.
        modules: String,
        /// The release that they are built for.
        built_for: String,
    },
    /// Modules that are to be built, and not the headers of the kernel.
    #[error(
        "{source_package} is built for kernel {kernel}, and the headers are {headers}; include `linux-headers-{release}`, \
         or the metapackages of kernel and headers from one version"
    )]
    Headers {
        /// The package that DKMS builds.
        source_package: String,
        /// The kernel.
        kernel: String,
        /// Its release.
        release: String,
        /// The headers that there are, or `missing`.
        headers: String,
    },
    /// Two driver branches.
    #[error(
        "{first} is of driver branch {first_branch} and {second} of branch {second_branch}; one of them is asked for by a \
         transitional package, which follows whatever branch is current: include the packages of one branch by their own names"
    )]
    Branch {
        /// One package.
        first: String,
        /// Its branch.
        first_branch: u32,
        /// The other package.
        second: String,
        /// Its branch.
        second_branch: u32,
    },
    /// Two driver versions.
    #[error(
        "{first} is of driver {first_driver} and {second} of driver {second_driver}: they refuse each other; pin \
         `{pinned}` = \"{first_driver}-*\", or choose modules of driver {second_driver}"
    )]
    Driver {
        /// What the others are measured by: the modules, where there are any.
        first: String,
        /// Its driver.
        first_driver: DriverVersion,
        /// The other package.
        second: String,
        /// Its driver.
        second_driver: DriverVersion,
        /// The other package's name.
        pinned: String,
    },
    /// Modules that do not say which driver they are of.
    #[error(
        "{modules} does not depend on a version of nvidia-kernel-common, so it cannot be told which driver it is; choose another \
         build of the modules"
    )]
    Undated {
        /// The modules.
        modules: String,
    },
    /// Two versions of the container toolkit.
    #[error("{first} and {second} are parts of one container toolkit; pin all four to one version: {}", toolkit_pins(.version))]
    Toolkit {
        /// One package.
        first: String,
        /// The other package.
        second: String,
        /// The version of the first.
        version: String,
    },
}

fn toolkit_pins(version: &str) -> String {
    TOOLKIT.map(|name| format!("`{name}` = \"{version}\"")).join(", ")
}

/// Checks one set, or a role's set together with that of the modules built for it.
pub fn check<'p>(packages: impl IntoIterator<Item = &'p LockedPackage>) -> Result<(), GpuError> {
    // In a fixed order, and once: the two sets of a role share most packages.
    let packages: BTreeMap<(&str, &str), &LockedPackage> =
        packages.into_iter().map(|p| ((p.name.as_str(), p.version.as_str()), p)).collect();
    let packages: Vec<&LockedPackage> = packages.into_values().collect();
    check_branches(&packages)?;
    check_kernel(&packages)?;
    check_headers(&packages)?;
    check_drivers(&packages)?;
    check_toolkit(&packages)
}

fn shown(package: &LockedPackage) -> String {
    format!("{} {}", package.name, package.version)
}

fn check_branches(packages: &[&LockedPackage]) -> Result<(), GpuError> {
    let mut first: Option<(&LockedPackage, u32)> = None;
    for package in packages {
        let Some(branch) = branch_of(&package.name) else { continue };
        match first {
            Some((one, one_branch)) if one_branch != branch => {
                return Err(GpuError::Branch {
                    first: shown(one),
                    first_branch: one_branch,
                    second: shown(package),
                    second_branch: branch,
                });
            }
            _ => first = Some((package, branch)),
        }
    }
    Ok(())
}

fn kernels<'p>(packages: &[&'p LockedPackage]) -> Vec<(&'p LockedPackage, &'p str)> {
    packages.iter().filter_map(|p| Some((*p, kernel_release(&p.name)?))).collect()
}

fn check_kernel(packages: &[&LockedPackage]) -> Result<(), GpuError> {
    let kernels = kernels(packages);
    for package in packages {
        let Some(modules) = PrebuiltModules::parse(&package.name) else { continue };
        if kernels.is_empty() {
            return Err(GpuError::NoKernel { modules: shown(package), built_for: modules.release });
        }
        // The modules' own dependency brings their kernel; then a second one shows that the profile wants another.
        if let Some((kernel, release)) = kernels.iter().find(|(_, release)| *release != modules.release) {
            let fitting = PrebuiltModules { release: (*release).to_owned(), ..modules.clone() }.to_string();
            return Err(GpuError::Kernel {
                modules: shown(package),
                built_for: modules.release,
                kernel: shown(kernel),
                fitting,
            });
        }
    }
    Ok(())
}

fn check_headers(packages: &[&LockedPackage]) -> Result<(), GpuError> {
    let dkms = |p: &&&LockedPackage| p.name.starts_with("nvidia") && p.name.split('-').any(|word| word == "dkms");
    let Some(source) = packages.iter().find(dkms) else { return Ok(()) };
    for (kernel, release) in kernels(packages) {
        let wanted = format!("linux-headers-{release}");
        if packages.iter().any(|p| p.name == wanted) {
            continue;
        }
        let others: Vec<String> = packages
            .iter()
            .filter(|p| p.name.starts_with("linux-headers-") && !p.name.ends_with("-common"))
            .map(|p| shown(p))
            .collect();
        return Err(GpuError::Headers {
            source_package: shown(source),
            kernel: shown(kernel),
            release: release.to_owned(),
            headers: if others.is_empty() { "missing".to_owned() } else { others.join(", ") },
        });
    }
    Ok(())
}

fn check_drivers(packages: &[&LockedPackage]) -> Result<(), GpuError> {
    // The modules are what the kernel runs, so they come first and the rest is measured by them.
    let mut parts: Vec<(&LockedPackage, DriverVersion)> = Vec::new();
    for package in packages.iter().filter(|p| PrebuiltModules::parse(&p.name).is_some()) {
        let driver = modules_driver(package).ok_or_else(|| GpuError::Undated { modules: shown(package) })?;
        parts.push((package, driver));
    }
    let built = |p: &LockedPackage| p.name.contains("-dkms");
    for wanted in [true, false] {
        for package in packages.iter().filter(|p| built(p) == wanted && names::has_driver_version(&p.name, &p.source)) {
            parts.extend(DriverVersion::of_package(&package.version).map(|driver| (*package, driver)));
        }
    }
    let Some(((first, first_driver), rest)) = parts.split_first() else { return Ok(()) };
    match rest.iter().find(|(_, driver)| driver != first_driver) {
        None => Ok(()),
        Some((second, second_driver)) => Err(GpuError::Driver {
            first: shown(first),
            first_driver: first_driver.clone(),
            second: shown(second),
            second_driver: second_driver.clone(),
            pinned: second.name.clone(),
        }),
    }
}

/// Which driver prebuilt modules are of. Their own version is the kernel's; the driver's is the least version that they
/// take of the kernel's other half, which the archive writes when it builds them:
/// `nvidia-kernel-common-580-server (>= 580.178.04)`.
fn modules_driver(package: &LockedPackage) -> Option<DriverVersion> {
    let groups = relation::parse(&package.depends).ok()?;
    groups.into_iter().flatten().find_map(|one| match one.condition {
        Some((Comparison::LaterOrEqual, least)) if one.name.starts_with("nvidia-kernel-common-") => {
            DriverVersion::of_package(least)
        }
        _ => None,
    })
}

fn check_toolkit(packages: &[&LockedPackage]) -> Result<(), GpuError> {
    let parts: Vec<&&LockedPackage> = packages.iter().filter(|p| TOOLKIT.contains(&p.name.as_str())).collect();
    let Some((first, rest)) = parts.split_first() else { return Ok(()) };
    match rest.iter().find(|p| p.version != first.version) {
        None => Ok(()),
        Some(second) => {
            Err(GpuError::Toolkit { first: shown(first), second: shown(second), version: first.version.clone() })
        }
    }
}

#[cfg(test)]
mod tests;
