//! Which disk and slot to boot: the pair `root-X`, `verity-X` whose hash tree has the boot entry's root hash.
//!
//! Not by partition id: those are the same on every disk that was flashed from one image until its first boot. The
//! disk that the firmware booted from comes first, as far as the firmware says which one that was.

use std::fs;
use std::path::Path;

use uuid::Uuid;

use super::disks::{self, Disk};
use super::gpt::{self, Found};
use super::storage::{Section, Source};
use super::verity::{BLOCK, Checker, Superblock};

/// The loader's variable: the id of the ESP that it was started from, as UTF-16 text.
const LOADER_PARTITION: &str = "/sys/firmware/efi/efivars/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The slot to boot.
#[derive(Debug, Clone)]
pub struct Slot {
    /// The disk.
    pub disk: Disk,
    /// Its partition table.
    pub found: Found,
    /// `a` or `b`.
    pub letter: char,
    /// The number of the root partition.
    pub root: u32,
    /// The number of the partition with its hashes.
    pub verity: u32,
    /// The superblock.
    pub superblock: Superblock,
    /// Whether this is the disk that the firmware named.
    pub is_boot_disk: bool,
}

/// What a look at a disk gave.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It holds the root.
    Match(Box<Slot>),
    /// It has the partitions of an image, and none holds the root. Says what is wrong with each.
    Corrupt {
        /// Whether this is the disk that the firmware named.
        is_boot_disk: bool,
        /// What is wrong.
        reason: String,
    },
    /// It holds something else, which is said here.
    Other(String),
}

/// A disk with the verdict on it.
#[derive(Debug, Clone)]
pub struct Look {
    /// What to call the disk: name, size, model.
    pub title: String,
    /// The verdict.
    pub verdict: Verdict,
}

/// The id of the partition that the firmware started the boot loader from.
pub fn loader_partition() -> Option<Uuid> {
    parse_loader_partition(&fs::read(Path::new(LOADER_PARTITION)).ok()?)
}

/// Four bytes of attributes, then UTF-16 text with a terminating zero.
fn parse_loader_partition(bytes: &[u8]) -> Option<Uuid> {
    let units: Vec<u16> = bytes.get(4..)?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16(&units).ok()?.trim_end_matches('\0').trim().parse().ok()
}

/// Looks at every disk there is.
pub fn look_at_all(root_hash: [u8; 32], loader: Option<Uuid>) -> Vec<Look> {
    disks::list().into_iter().map(|disk| look_at(disk, root_hash, loader)).collect()
}

fn look_at(disk: Disk, root_hash: [u8; 32], loader: Option<Uuid>) -> Look {
    let mebibytes = (disk.geometry.sectors * disk.geometry.sector_bytes) >> 20;
    let model = if disk.model.is_empty() { String::new() } else { format!(" {}", disk.model) };
    let title = format!("{} ({mebibytes} MiB{model})", disk.name);
    let verdict = match disk.open() {
        Ok(file) => examine(&file, &disk, root_hash, loader),
        Err(error) => Verdict::Other(format!("cannot be opened: {error}")),
    };
    Look { title, verdict }
}

/// Examines the content of a disk.
fn examine(content: &impl Source, disk: &Disk, root_hash: [u8; 32], loader: Option<Uuid>) -> Verdict {
    let found = match gpt::read(content, disk.geometry) {
        Ok(found) => found,
        Err(error) => return Verdict::Other(error.to_string()),
    };
    let table = &found.table;
    let is_boot_disk = loader.is_some_and(|id| table.partitions().any(|(_, partition)| partition.id == id));
    let mut reasons = Vec::new();
    for letter in ['a', 'b'] {
        let pair = (table.named(&format!("root-{letter}")), table.named(&format!("verity-{letter}")));
        let (Some((root, data)), Some((verity, hashes))) = pair else { continue };
        let bytes = disk.geometry.sector_bytes;
        let data = Section::new(content, data.first * bytes, data.sectors() * bytes);
        let hashes = Section::new(content, hashes.first * bytes, hashes.sectors() * bytes);
        match superblock_of(&data, &hashes, root_hash) {
            Ok(superblock) => {
                return Verdict::Match(Box::new(Slot {
                    disk: disk.clone(),
                    letter,
                    root,
                    verity,
                    superblock,
                    is_boot_disk,
                    found,
                }));
            }
            Err(reason) => reasons.push(format!("slot {letter}: {reason}")),
        }
    }
    if reasons.is_empty() {
        let names: Vec<&str> = table.partitions().map(|(_, partition)| partition.name.as_str()).take(8).collect();
        Verdict::Other(format!("its partitions are not an image's: {}", names.join(", ")))
    } else {
        Verdict::Corrupt { is_boot_disk, reason: reasons.join("; ") }
    }
}

/// The superblock of a slot whose topmost hash block has the root hash; otherwise what is wrong.
fn superblock_of(
    data: &Section<'_, impl Source>,
    hashes: &Section<'_, impl Source>,
    root_hash: [u8; 32],
) -> Result<Superblock, String> {
    let mut bytes = [0; 512];
    hashes.read_at(0, &mut bytes).map_err(|error| format!("its hashes cannot be read: {error}"))?;
    let superblock = Superblock::parse(&bytes).map_err(|error| error.to_string())?;
    if superblock.hash_bytes() > hashes.length() || superblock.data_blocks * BLOCK > data.length() {
        return Err("its dm-verity superblock describes more than its partitions hold".to_owned());
    }
    match Checker::new(&superblock, data, hashes, root_hash).root_matches() {
        Ok(true) => Ok(superblock),
        Ok(false) => Err("its hash tree does not have the boot entry's root hash".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// How long the search has gone on, in the only terms that matter to the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Patience {
    /// Other disks may still appear.
    Waiting,
    /// What has been there for a while may be taken.
    Settled,
}

/// What to do after a look at all disks.
#[derive(Debug)]
pub enum Choice {
    /// Boot this slot. The text, if any, is a warning.
    Boot(Box<Slot>, Option<String>),
    /// The disk to boot is there, and its root is corrupt; says which and why.
    Refuse(String),
    /// Look again.
    LookAgain,
}

/// Chooses. When the firmware named a disk, only that one is taken while others may still appear.
pub fn choose(looks: &[Look], firmware_named_one: bool, patience: Patience) -> Choice {
    let matches = || {
        looks.iter().filter_map(|look| match &look.verdict {
            Verdict::Match(slot) => Some((look, slot)),
            _ => None,
        })
    };
    let on_boot_disk: Vec<_> = matches().filter(|(_, slot)| slot.is_boot_disk).collect();
    // One that is already a node's comes before one that was never booted.
    let mut all: Vec<_> = matches().collect();
    all.sort_by_key(|(_, slot)| slot.found.table.named("var").is_none());
    let list =
        |of: &[(&Look, &Box<Slot>)]| of.iter().map(|(look, _)| look.title.as_str()).collect::<Vec<_>>().join(", ");
    match (on_boot_disk.as_slice(), all.as_slice()) {
        ([(_, slot)], _) => return Choice::Boot((*slot).clone(), None),
        ([(_, slot), ..], _) => {
            let warning = format!("several disks hold this image and the id of the boot disk: {}", list(&on_boot_disk));
            return Choice::Boot((*slot).clone(), Some(warning));
        }
        ([], [(_, slot), rest @ ..]) if !firmware_named_one || patience == Patience::Settled => {
            let warning = match (firmware_named_one, rest.is_empty()) {
                (true, _) => {
                    Some("the disk that the firmware names is not there; taking another with this image".to_owned())
                }
                (false, false) => Some(format!("several disks hold this image: {}", list(&all))),
                (false, true) => None,
            };
            return Choice::Boot((*slot).clone(), warning);
        }
        _ => {}
    }
    let corrupt = looks.iter().find_map(|look| match &look.verdict {
        Verdict::Corrupt { is_boot_disk, reason } if *is_boot_disk || patience == Patience::Settled => {
            Some(format!("{}: {reason}", look.title))
        }
        _ => None,
    });
    match corrupt {
        Some(reason) if all.is_empty() => Choice::Refuse(reason),
        _ => Choice::LookAgain,
    }
}
