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
    disks::list().into_iter().map(|disk| look_at(&disk, root_hash, loader)).collect()
}

fn look_at(disk: &Disk, root_hash: [u8; 32], loader: Option<Uuid>) -> Look {
    let mebibytes = (disk.geometry.sectors * disk.geometry.sector_bytes) >> 20;
    let model = if disk.model.is_empty() { String::new() } else { format!(" {}", disk.model) };
    let title = format!("{} ({mebibytes} MiB{model})", disk.name);
    let verdict = match disk.open() {
        Ok(file) => examine(&file, disk, root_hash, loader),
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
            Verdict::Match(slot) => Some((look, slot.as_ref())),
            _ => None,
        })
    };
    let on_boot_disk: Vec<_> = matches().filter(|(_, slot)| slot.is_boot_disk).collect();
    // One that is already a node's comes before one that was never booted.
    let mut all: Vec<_> = matches().collect();
    all.sort_by_key(|(_, slot)| slot.found.table.named("var").is_none());
    let list = |of: &[(&Look, &Slot)]| of.iter().map(|(look, _)| look.title.as_str()).collect::<Vec<_>>().join(", ");
    match (on_boot_disk.as_slice(), all.as_slice()) {
        ([(_, slot)], _) => return Choice::Boot(Box::new((*slot).clone()), None),
        ([(_, slot), ..], _) => {
            let warning = format!("several disks hold this image and the id of the boot disk: {}", list(&on_boot_disk));
            return Choice::Boot(Box::new((*slot).clone()), Some(warning));
        }
        ([], [(_, slot), rest @ ..]) if !firmware_named_one || patience == Patience::Settled => {
            let warning = match (firmware_named_one, rest.is_empty()) {
                (true, _) => {
                    Some("the disk that the firmware names is not there; taking another with this image".to_owned())
                }
                (false, false) => Some(format!("several disks hold this image: {}", list(&all))),
                (false, true) => None,
            };
            return Choice::Boot(Box::new((*slot).clone()), warning);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage1::gpt::tests::flashed_disk;
    use crate::stage1::verity;

    /// A flashed disk with a root; also its root hash and the id of its ESP.
    fn disk_with_root() -> (Vec<u8>, Disk, [u8; 32], Uuid) {
        let (mut content, table, geometry) = flashed_disk(512, 60);
        let data: Vec<u8> = (0..300 * 4096).map(|at| u8::try_from(at % 241).unwrap()).collect();
        let (hashes, root_hash) = verity::tests::format(&data, &[7; 32]);
        for (name, bytes) in [("root-a", &data), ("verity-a", &hashes)] {
            let start = usize::try_from(table.named(name).unwrap().1.first * 512).unwrap();
            content[start..start + bytes.len()].copy_from_slice(bytes);
        }
        let esp = table.named("esp").unwrap().1.id;
        (content, Disk::imaginary("vda", geometry), root_hash, esp)
    }

    fn looks(verdicts: Vec<(&str, Verdict)>) -> Vec<Look> {
        verdicts.into_iter().map(|(title, verdict)| Look { title: title.to_owned(), verdict }).collect()
    }

    #[test]
    fn a_slot_is_found_by_its_content() {
        let (mut content, disk, root_hash, esp) = disk_with_root();
        let Verdict::Match(slot) = examine(&content, &disk, root_hash, Some(esp)) else { panic!("no match") };
        assert_eq!((slot.letter, slot.root, slot.verity, slot.is_boot_disk), ('a', 3, 2, true));
        assert_eq!(slot.superblock.data_blocks, 300);
        assert!(matches!(
            examine(&content, &disk, [1; 32], None),
            Verdict::Corrupt { is_boot_disk: false, reason } if reason.contains("root hash")
        ));
        let start = usize::try_from(slot.found.table.named("verity-a").unwrap().1.first * 512).unwrap();
        // A tree that is larger than its partition.
        content[start + 72 + 5] = 1;
        assert!(matches!(
            examine(&content, &disk, root_hash, None),
            Verdict::Corrupt { reason, .. } if reason.contains("more than its partitions hold")
        ));
        content[start] = 0;
        assert!(matches!(
            examine(&content, &disk, root_hash, None),
            Verdict::Corrupt { reason, .. } if reason.contains("no dm-verity superblock")
        ));
        assert!(matches!(examine(&vec![0; 60 << 20], &disk, root_hash, None), Verdict::Other(_)));
    }

    #[test]
    fn the_firmwares_disk_is_waited_for_and_a_corrupt_one_is_told() {
        let (content, disk, root_hash, esp) = disk_with_root();
        let on = |loader| examine(&content, &disk, root_hash, loader);
        let corrupt = |is_boot_disk| Verdict::Corrupt { is_boot_disk, reason: "bad".to_owned() };
        let other = Verdict::Other("empty".to_owned());

        let only_another = looks(vec![("vdb", on(Some(Uuid::nil()))), ("sda", other.clone())]);
        assert!(matches!(choose(&only_another, true, Patience::Waiting), Choice::LookAgain));
        assert!(matches!(choose(&only_another, true, Patience::Settled), Choice::Boot(_, Some(_))));
        assert!(matches!(choose(&only_another, false, Patience::Waiting), Choice::Boot(_, None)));

        let both = looks(vec![("vda", on(None)), ("vdb", on(Some(esp)))]);
        let Choice::Boot(slot, None) = choose(&both, true, Patience::Waiting) else { panic!("not chosen") };
        assert!(slot.is_boot_disk);
        let twins = looks(vec![("vda", on(Some(esp))), ("vdb", on(Some(esp)))]);
        assert!(matches!(choose(&twins, true, Patience::Waiting), Choice::Boot(_, Some(_))));

        let bad_boot_disk = looks(vec![("vda", corrupt(true))]);
        assert!(matches!(choose(&bad_boot_disk, true, Patience::Waiting), Choice::Refuse(text) if text == "vda: bad"));
        let bad = looks(vec![("vda", corrupt(false)), ("vdb", other)]);
        assert!(matches!(choose(&bad, false, Patience::Waiting), Choice::LookAgain));
        assert!(matches!(choose(&bad, false, Patience::Settled), Choice::Refuse(_)));
        assert!(matches!(choose(&[], false, Patience::Settled), Choice::LookAgain));
    }

    #[test]
    fn the_loaders_variable_is_read() {
        let text = "2084F1F3-E18C-4C81-B7EB-523A90BE33CD\0";
        let mut bytes = vec![6, 0, 0, 0];
        bytes.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
        let id = parse_loader_partition(&bytes).unwrap();
        assert_eq!(id.to_string(), "2084f1f3-e18c-4c81-b7eb-523a90be33cd");
        assert_eq!(parse_loader_partition(&bytes[..2]), None);
        assert_eq!(parse_loader_partition(&[6, 0, 0, 0, 0xd8, 0xd8]), None);
    }
}
