//! Kernel modules for the initrd.
//!
//! Takes the unpacked root's `/usr/lib/modules/UNAME` with the tables that depmod made there, and a list of module names
//! and globs; gives the modules with everything they depend on, uncompressed, together with the same tables cut
//! down to them. Soft dependencies are followed too, and in the tables they are resolved to module names, so that
//! stage1 needs no lookup to honour them.
//!
//! A name that the kernel does not have is an error with the nearest names. A module that is built into the kernel
//! counts as found. Firmware that the modules ask for comes along where the root has it.

mod file;
pub mod foreign;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::boot::inside;
use crate::profile::RootFormat;

pub use tables::{Tables, normal};

/// Modules for the initrd could not be gathered.
#[derive(Debug, Error)]
pub enum ModulesError {
    /// Reading failed.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The root has no kernel modules, or those of several kernels.
    #[error("{} holds modules of {}; a role has exactly one kernel package", path.display(), kernels(.found))]
    Kernels {
        /// The directory with one directory per kernel.
        path: PathBuf,
        /// What is there.
        found: Vec<String>,
    },
    /// depmod has not been run.
    #[error("{} is missing: run depmod for this kernel in the root (package kmod)", path.display())]
    NoTables {
        /// The table.
        path: PathBuf,
    },
    /// A table has a line that cannot be.
    #[error("{}, line {line}: {problem}", path.display())]
    Table {
        /// The table.
        path: PathBuf,
        /// Line number from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// The kernel has no such module.
    #[error("kernel {uname} has no module `{name}`{}", near(.nearest))]
    Unknown {
        /// The kernel.
        uname: String,
        /// The name asked for.
        name: String,
        /// Names like it.
        nearest: Vec<String>,
    },
    /// A glob that nothing matches.
    #[error(
        "kernel {uname} has no module whose path matches `{glob}` (paths begin below kernel/, as in drivers/nvme/host/*){}",
        near(.nearest)
    )]
    NoMatch {
        /// The kernel.
        uname: String,
        /// The glob.
        glob: String,
        /// Names like its last part.
        nearest: Vec<String>,
    },
    /// A module that was built for another kernel.
    #[error(
        "{} is built for kernel {built_for}, and the image's is {uname}: it would be refused as of invalid format; lock modules \
         and kernel of one version", path.display()
    )]
    OtherKernel {
        /// The module.
        path: PathBuf,
        /// The release in its vermagic.
        built_for: String,
        /// The kernel.
        uname: String,
    },
    /// A module that asks for what the kernel does not have.
    #[error(
        "{} cannot be loaded into kernel {uname}, which lacks {}; lock modules and kernel of one version, and take what the \
         modules need out of packages.path_exclude", path.display(), symbols.join(", ")
    )]
    Unresolved {
        /// The module.
        path: PathBuf,
        /// The kernel.
        uname: String,
        /// The symbols.
        symbols: Vec<String>,
    },
    /// There is nothing that says which symbols the kernel has.
    #[error(
        "the symbols of {} cannot be checked: kernel {uname} brings no System.map, and modules that come from packages bring no \
         Module.symvers; have them built with [dkms]", path.display()
    )]
    NoSymbols {
        /// The module.
        path: PathBuf,
        /// The kernel.
        uname: String,
    },
    /// depmod could not be run.
    #[error("checking the symbols of the modules of {uname}: {source}")]
    Depmod {
        /// The kernel.
        uname: String,
        /// How it failed.
        source: Box<crate::process::ProcessError>,
    },
    /// A module file that is not one.
    #[error("{}: {problem}", path.display())]
    Module {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

fn kernels(found: &[String]) -> String {
    match found {
        [] => "no kernel".to_owned(),
        _ => format!("{} kernels ({})", found.len(), found.join(", ")),
    }
}

fn near(nearest: &[String]) -> String {
    if nearest.is_empty() { String::new() } else { format!("; did you mean {}?", nearest.join(" or ")) }
}

/// Which modules are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Names and globs that the kernel must have.
    pub required: BTreeSet<String>,
    /// Names that are taken where the kernel has them: drivers come and go between kernels.
    pub optional: BTreeSet<String>,
}

impl Wanted {
    /// Adds what a profile asks for; there the user must hear of a wrong name.
    #[must_use]
    pub fn and(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.required.extend(names.into_iter().map(Into::into));
        self
    }
}

/// What stage1 cannot do without beside the root's own file system: verity, the overlay and `/var`.
const REQUIRED: [&str; 3] = ["dm-verity", "overlay", "ext4"];

/// Disks, buses and the like of servers and of QEMU. Taken where the kernel has them.
const OPTIONAL: &[&str] = &[
    // Virtual machines.
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_scsi",
    "xen-blkfront",
    "hv_storvsc",
    "hv_vmbus",
    "vmw_pvscsi",
    "mptspi",
    "qemu_fw_cfg",
    "dmi-sysfs",
    // NVMe and AHCI, also behind Intel's volume management.
    "nvme",
    "vmd",
    "ahci",
    "ata_piix",
    "ata_generic",
    "sd_mod",
    "ses",
    // RAID and SAS controllers of servers.
    "mpt3sas",
    "mptsas",
    "megaraid_sas",
    "aacraid",
    "hpsa",
    "smartpqi",
    "mpi3mr",
    "pm80xx",
    "isci",
    "arcmsr",
    "3w-sas",
    "mvsas",
    // USB disks: the image may run from one.
    "xhci_pci",
    "ehci_pci",
    "uhci_hcd",
    "ohci_pci",
    "usb_storage",
    "uas",
    // SD and eMMC.
    "mmc_block",
    "sdhci_pci",
    "sdhci_acpi",
    // Device mapper, file systems, and the checksums and hashes that they ask for by name at run time.
    "dm-mod",
    "efivarfs",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859-1",
    "nls_utf8",
    "sha256-ssse3",
    "sha256_generic",
    "crc32c_generic",
    "crc32c-intel",
    "crc32c_cryptoapi",
];

/// Modules that stage1 loads first, in this order, before it looks for devices.
const EARLY: [&str; 12] = [
    "sha256_generic",
    "sha256_ssse3",
    "crc32c_generic",
    "crc32c_intel",
    "dm_mod",
    "dm_verity",
    "erofs",
    "squashfs",
    "overlay",
    "ext4",
    "efivarfs",
    "vfat",
];

/// What stage1 needs on bare metal and in QEMU, whatever the role, for the default root format.
pub fn default_initrd_set() -> Wanted {
    initrd_set(RootFormat::Erofs)
}

/// What stage1 needs on bare metal and in QEMU, whatever the role, for this root format.
pub fn initrd_set(format: RootFormat) -> Wanted {
    let format = match format {
        RootFormat::Erofs => "erofs",
        RootFormat::Squashfs => "squashfs",
    };
    Wanted {
        required: REQUIRED.into_iter().chain([format]).map(str::to_owned).collect(),
        optional: OPTIONAL.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// The one kernel that the root has modules of.
pub fn kernel_of(root: &Path) -> Result<String, ModulesError> {
    let path = root.join("usr/lib/modules");
    let reading = |source| ModulesError::Read { path: path.clone(), source };
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ModulesError::Kernels { path, found }),
        entries => entries.map_err(reading)?,
    };
    for entry in entries {
        let entry = entry.map_err(reading)?;
        // A directory without a kernel/ is what a removed kernel's package left behind.
        if entry.path().join("kernel").is_dir() {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(ModulesError::Kernels { path, found }),
    }
}

/// The kernel image, from where its package puts it: `/boot/vmlinuz-UNAME`, or beside the modules.
pub fn kernel_image(root: &Path, uname: &str) -> Result<Vec<u8>, ModulesError> {
    let beside = Path::new("usr/lib/modules").join(uname).join("vmlinuz");
    let path = Path::new("boot").join(format!("vmlinuz-{uname}"));
    match inside::read(root, &path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => inside::read(root, &beside),
        read => read,
    }
    .map_err(|source| ModulesError::Read { path, source })
}

/// Modules and tables for an initrd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The kernel.
    pub uname: String,
    /// Uncompressed modules by path below `usr/lib/modules/UNAME` (`kernel/fs/erofs/erofs.ko`).
    pub modules: BTreeMap<String, Vec<u8>>,
    /// `modules.dep`, `modules.alias`, `modules.softdep` and `modules.builtin`, cut down to the modules.
    pub tables: BTreeMap<&'static str, String>,
    /// Firmware by path below `usr/lib/firmware`, as the root has it (perhaps compressed).
    pub firmware: BTreeMap<String, Vec<u8>>,
    /// Names of the modules that stage1 loads first, in order: those of them that are not built in.
    pub early: Vec<String>,
}

/// Gathers modules of the kernel `uname` from the unpacked root.
pub fn select(root: &Path, uname: &str, wanted: &Wanted) -> Result<Selection, ModulesError> {
    let directory = Path::new("usr/lib/modules").join(uname);
    let tables = Tables::read(root, &directory)?;
    let chosen = choose(&tables, uname, wanted)?;

    let mut modules = BTreeMap::new();
    let mut firmware = BTreeMap::new();
    for path in &chosen {
        let bytes = file::read(root, &directory.join(path))?;
        for name in file::firmware(&bytes) {
            if let Some((name, content)) = file::find_firmware(root, &name)? {
                firmware.insert(name, content);
            }
        }
        modules.insert(tables::plain(path).to_owned(), bytes);
    }
    let names: BTreeSet<String> = chosen.iter().map(|path| tables::name_of(path)).collect();
    let early = EARLY.iter().filter(|name| names.contains(**name)).map(|name| (*name).to_owned()).collect();
    Ok(Selection { uname: uname.to_owned(), modules, tables: tables.reduced(&chosen), firmware, early })
}

/// The paths of the wanted modules and of all that they depend on, as they are on disk.
fn choose<'t>(tables: &'t Tables, uname: &str, wanted: &Wanted) -> Result<BTreeSet<&'t str>, ModulesError> {
    let mut waiting = Vec::new();
    for name in &wanted.required {
        if name.contains(['*', '?', '/']) {
            let found = tables.matching(name);
            if found.is_empty() && !tables.builtin_matching(name) {
                let nearest = tables.nearest(name.rsplit('/').next().unwrap_or(name));
                return Err(ModulesError::NoMatch { uname: uname.to_owned(), glob: name.clone(), nearest });
            }
            waiting.extend(found);
            continue;
        }
        let found = tables.providers(name);
        if found.is_empty() && !tables.is_builtin(name) {
            let nearest = tables.nearest(name);
            return Err(ModulesError::Unknown { uname: uname.to_owned(), name: name.clone(), nearest });
        }
        waiting.extend(found);
    }
    waiting.extend(wanted.optional.iter().filter_map(|name| tables.path_of(name)));

    let mut chosen = BTreeSet::new();
    while let Some(path) = waiting.pop() {
        if !chosen.insert(path) {
            continue;
        }
        waiting.extend(tables.dependencies(path));
        waiting.extend(tables.soft_dependencies(&tables::name_of(path)));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests;
