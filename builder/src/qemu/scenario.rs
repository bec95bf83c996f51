//! The scenario file: which guests, with which disks and configuration, and the steps to take in order.
//!
//! TOML; an unknown key is an error. Sizes are in the unit that the key names. `tests/scenarios/` has examples.
//!
//! ```toml
//! name = "quickstart"
//! timeout_seconds = 600            # for everything; times are four times as long where KVM does not work
//! networks = ["cluster"]           # virtual Ethernets that guests can be on
//!
//! [[guest]]
//! name = "manager"
//! role = "quickstart/manager"      # or image = "PATH" of a raw image, relative to this file
//! networks = ["cluster"]
//! medium = "usb"                   # how the configuration reaches the node
//! config = { version = 1, hostname = "manager" }
//!
//! [[step]]
//! name = "the manager joins"
//! guest = "manager"
//! state = "FB-500"
//! within_seconds = 300
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use super::run::ImageKey;

mod check;
mod display;
mod step;
#[cfg(test)]
mod tests;

pub use check::FW_CFG;
pub use display::Display;
pub use step::{Between, Check, OtherStick, Power, PowerCuts, Step, Stick};

/// What is wrong with a scenario file.
#[derive(Debug, Error)]
pub enum ScenarioError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It is not TOML, has a key or a type that is not expected, or a value that makes no sense.
    #[error("{}:{line}:{column}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong, and what to write instead.
        problem: String,
    },
}

/// A scenario, checked: names are unique and exist, every step is of exactly one kind.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name, as in the report.
    pub name: String,
    /// The file it was read from.
    pub path: PathBuf,
    /// The longest that everything may take under KVM.
    pub timeout_seconds: u64,
    /// The virtual Ethernets.
    pub networks: BTreeSet<String>,
    /// HTTP servers that guests reach, in the order of the file.
    pub servers: Vec<Server>,
    /// The machines, in the order of the file.
    pub guests: Vec<Guest>,
    /// What happens, in this order.
    pub steps: Vec<Step>,
}

/// A machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Its name in this file and the report: letters, digits and dashes.
    pub name: String,
    /// The role whose image it boots.
    pub role: Option<String>,
    /// A raw image to boot instead of a role's, relative to the scenario file.
    pub image: Option<PathBuf>,
    /// Memory in MiB; where not given, what the role's profile says.
    pub memory_mib: Option<u64>,
    /// Virtual processors; where not given, what the role's profile says.
    pub cpus: Option<u32>,
    /// Size of the disk in GiB; where not given, what the role's profile says.
    pub disk_gib: Option<u64>,
    /// What the disk is attached to.
    #[serde(default)]
    pub bus: Bus,
    /// The disk's logical sector size in bytes: 512 or 4096.
    #[serde(default = "default_sector")]
    pub sector: u32,
    /// Whether it has a TPM 2.0, a blank one at first.
    #[serde(default)]
    pub tpm: bool,
    /// A screen; none where not given.
    pub display: Option<Display>,
    /// More disks, empty ones, beside the one that it boots from.
    #[serde(default)]
    pub data_disks: Vec<DataDisk>,
    /// The volume that brings the configuration; none at all where not given.
    pub medium: Option<Medium>,
    /// The node configuration: the keys of `node.toml`, with variables.
    pub config: Option<toml::Table>,
    /// A file with the node configuration instead, relative to the scenario file, with variables.
    pub config_file: Option<PathBuf>,
    /// Files on the medium by name, with variables: for cloud-init documents, and for broken configuration.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// systemd credentials by name, with variables: they come as OEM strings of SMBIOS.
    #[serde(default)]
    pub credentials: BTreeMap<String, String>,
    /// The same, but they come by QEMU's `fw_cfg`.
    #[serde(default)]
    pub fw_cfg: BTreeMap<String, String>,
    /// More parameters of the kernel, with variables: systemd-stub takes them from SMBIOS.
    #[serde(default)]
    pub kernel_arguments: Vec<String>,
    /// Networks that it has a card on, beside the one that only carries ssh; one that is named again is another card.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Hardware addresses by card, where the derived one will not do.
    #[serde(default)]
    pub macs: BTreeMap<String, String>,
    /// The serial number in SMBIOS, with variables; where not given, `ingot-` and the guest's name.
    pub smbios_serial: Option<String>,
    /// Bits to flip on the disk before the first boot.
    #[serde(default)]
    pub flip_bit: Vec<FlipBit>,
    /// Whether the USB medium is in from the start; otherwise a step with `stick = "in"` puts it in.
    #[serde(default = "default_true")]
    pub stick: bool,
    /// Whether it runs from the start; otherwise a step with `power = "on"` starts it.
    #[serde(default = "default_true")]
    pub start: bool,
}

/// An HTTP server that guests reach.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Its name in this file: letters, digits and dashes.
    pub name: String,
    /// Whether it speaks HTTPS, with a certificate of its own.
    #[serde(default)]
    pub tls: bool,
    /// What it serves, by path, with variables.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// What it answers badly before it answers well.
    #[serde(default)]
    pub bad: Vec<Bad>,
}

/// Answers that a server gives in the place of a good one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bad {
    /// Which path is asked for.
    pub path: String,
    /// How often.
    pub count: u32,
    /// The status.
    pub status: u16,
    /// Headers that go along.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// What a disk is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bus {
    /// virtio block device.
    #[default]
    VirtioBlk,
    /// Disk on a virtio SCSI controller.
    VirtioScsi,
    /// `NVMe` namespace.
    Nvme,
    /// SATA disk on an AHCI controller.
    Ahci,
    /// USB mass storage on xHCI.
    Usb,
}

/// A disk for data, on virtio.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataDisk {
    /// Its serial number: up to 20 letters and digits.
    pub serial: String,
    /// Its size in MiB.
    pub size_mib: u64,
}

/// The volume that hands the configuration to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Medium {
    /// A USB stick with a FAT volume `INGOT` and `node.toml` on it.
    Usb,
    /// A disk with a FAT volume `CIDATA`, as `NoCloud` has it: the configuration is its `user-data`.
    Cidata,
}

/// A bit that is flipped on the disk before the first boot.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlipBit {
    /// The partition by its name.
    pub partition: String,
    /// Offset of the byte in the partition.
    pub offset: u64,
}

fn default_sector() -> u32 {
    512
}

fn default_true() -> bool {
    true
}

/// The network card that only carries ssh goes by this name among the hardware addresses.
pub const SSH_NETWORK: &str = "ssh";

impl Scenario {
    /// Reads and checks a scenario file.
    ///
    /// # Errors
    /// See [`ScenarioError`].
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Checks the text of a scenario; relative paths in it are taken from the directory of `path`.
    ///
    /// # Errors
    /// [`ScenarioError::Invalid`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ScenarioError> {
        check::parse(text, path)
    }

    /// The guest of that name.
    pub fn guest(&self, name: &str) -> Option<&Guest> {
        self.guests.iter().find(|guest| guest.name == name)
    }

    /// The images that are needed: roles with the sector size of the disk they go on.
    pub fn images(&self) -> BTreeSet<ImageKey> {
        self.guests.iter().filter_map(Guest::image_key).collect()
    }
}

impl Guest {
    /// Its cards beside the one for ssh: the network of each, and the card's name, which is that of the network and, from
    /// the second card there on, its number: `lan`, `lan.2`.
    pub fn cards(&self) -> Vec<(&str, String)> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut cards = Vec::new();
        for network in &self.networks {
            let count = counts.entry(network).or_default();
            *count += 1;
            let card = if *count == 1 { network.clone() } else { format!("{network}.{count}") };
            cards.push((network.as_str(), card));
        }
        cards
    }

    /// The image it needs, unless it names a file.
    pub fn image_key(&self) -> Option<ImageKey> {
        self.role.as_ref().map(|role| ImageKey { role: role.clone(), sector: self.sector })
    }

    /// The hardware address of a card: the given one, or one derived from both names (in QEMU's range).
    pub fn mac(&self, card: &str) -> String {
        use sha2::Digest;
        if let Some(given) = self.macs.get(card) {
            return given.clone();
        }
        let hash = sha2::Sha256::digest(format!("ingot-mac\0{}\0{card}", self.name));
        format!("52:54:00:{:02x}:{:02x}:{:02x}", hash[0], hash[1], hash[2])
    }

    /// The serial number in SMBIOS.
    pub fn serial(&self) -> String {
        self.smbios_serial.clone().unwrap_or_else(|| format!("ingot-{}", self.name))
    }
}
