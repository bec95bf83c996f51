//! The partition table: a typed layout that is planned and checked here, and written by the `gpt` crate.
//!
//! A [`Layout`] counts in bytes, so that it reads the same for 512- and 4096-byte sectors. Partitions begin and end
//! on whole MiB, are numbered densely from 1 in the order of the disk, and lie between the two copies of the table.
//! The crate would accept partitions past the end of the disk, cut long names and renumber entries; [`Layout::check`]
//! therefore runs before it sees anything.
//!
//! Types and attribute bits are those of the Discoverable Partitions Specification.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition as Entry;
use gpt::partition_types::{OperatingSystem, Type};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::{Uuid, uuid};

/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// Attribute bit 60 of the Discoverable Partitions Specification: mounted read-only.
pub const READ_ONLY: u64 = 1 << 60;
/// Entries in a partition table.
const MAX_PARTITIONS: usize = 128;
/// UTF-16 units in a partition's name.
const MAX_NAME: usize = 36;

/// A layout is impossible, or a table could not be read or written.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// A sector size other than 512 and 4096.
    #[error("sectors of {0} bytes are not supported; a disk has sectors of 512 or 4096 bytes")]
    SectorSize(u32),
    /// The layout breaks a rule.
    #[error("partition {name}: {problem}")]
    Partition {
        /// The partition's name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// More partitions than the table has room for.
    #[error("{0} partitions, but a table has room for {MAX_PARTITIONS}")]
    TooMany(usize),
    /// The disk's size is not a whole number of sectors, or too small for a table.
    #[error("a disk of {0} bytes cannot carry a partition table of this kind")]
    DiskSize(u64),
    /// The table could not be read or written.
    #[error("cannot {doing} the partition table: {problem}")]
    Table {
        /// `read` or `write`.
        doing: &'static str,
        /// What the library or the kernel said.
        problem: String,
    },
}

/// The logical sector size of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub enum SectorSize {
    /// 512 bytes: nearly every disk.
    B512,
    /// 4096 bytes: some disks, and many formats of `NVMe`.
    B4096,
}

impl SectorSize {
    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }
}

impl From<SectorSize> for u32 {
    fn from(size: SectorSize) -> Self {
        match size {
            SectorSize::B512 => 512,
            SectorSize::B4096 => 4096,
        }
    }
}

impl TryFrom<u32> for SectorSize {
    type Error = LayoutError;

    fn try_from(bytes: u32) -> Result<Self, LayoutError> {
        match bytes {
            512 => Ok(Self::B512),
            4096 => Ok(Self::B4096),
            other => Err(LayoutError::SectorSize(other)),
        }
    }
}

impl From<SectorSize> for LogicalBlockSize {
    fn from(size: SectorSize) -> Self {
        match size {
            SectorSize::B512 => Self::Lb512,
            SectorSize::B4096 => Self::Lb4096,
        }
    }
}

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// EFI system partition.
    Esp,
    /// Root file system for x86-64.
    Root,
    /// Hash tree of such a root.
    RootVerity,
    /// Variable data.
    Var,
    /// A type that Ingot does not write.
    #[serde(untagged)]
    Other(Uuid),
}

const KINDS: [(Kind, Uuid, &str); 4] = [
    (Kind::Esp, uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"), "esp"),
    (Kind::Root, uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"), "root-x86-64"),
    (Kind::RootVerity, uuid!("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"), "root-x86-64-verity"),
    (Kind::Var, uuid!("4d21b016-b534-45c2-a9fb-5c16e091fd2d"), "var"),
];

impl Kind {
    /// The partition type's GUID.
    pub fn guid(self) -> Uuid {
        match self {
            Self::Other(guid) => guid,
            known => KINDS.iter().find(|(kind, ..)| *kind == known).map_or(Uuid::nil(), |(_, guid, _)| *guid),
        }
    }

    /// The kind that has this type GUID.
    pub fn from_guid(guid: Uuid) -> Self {
        KINDS.iter().find(|(_, known, _)| *known == guid).map_or(Self::Other(guid), |(kind, ..)| *kind)
    }

    /// The name that `systemd-repart` and `sfdisk` users know it by, or the GUID.
    pub fn label(self) -> String {
        KINDS
            .iter()
            .find(|(kind, ..)| *kind == self)
            .map_or_else(|| self.guid().to_string(), |(_, _, label)| (*label).to_owned())
    }
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Its name in the table (`PARTLABEL`): at most 36 UTF-16 units.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// Its own GUID (`PARTUUID`).
    pub guid: Uuid,
    /// First byte on the disk.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// Attribute bits.
    pub attributes: u64,
}

impl Partition {
    /// One past its last byte.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }
}

/// A partition that is asked for; [`Layout::plan`] places it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// See [`Partition::name`].
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// Its own GUID.
    pub guid: Uuid,
    /// How many bytes it must hold; rounded up to whole MiB.
    pub size: u64,
    /// Attribute bits.
    pub attributes: u64,
}

/// A disk and its partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Logical sector size.
    pub sector_size: SectorSize,
    /// The disk's GUID.
    pub disk_guid: Uuid,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Partitions in the order of the disk; number 1 is the first.
    pub partitions: Vec<Partition>,
}

impl Layout {
    /// Places the partitions one after another, each on whole MiB, and gives the smallest disk that holds them and
    /// both copies of the table.
    pub fn plan(sector_size: SectorSize, disk_guid: Uuid, requests: Vec<Request>) -> Result<Self, LayoutError> {
        let mut next = MIB;
        let mut partitions = Vec::with_capacity(requests.len());
        for Request { name, kind, guid, size, attributes } in requests {
            let size = size
                .checked_next_multiple_of(MIB)
                .filter(|size| *size > 0 && size.checked_add(next).is_some_and(|end| end < u64::MAX - MIB))
                .ok_or_else(|| problem(&name, format!("a size of {size} bytes is not possible")))?;
            partitions.push(Partition { name, kind, guid, start: next, size, attributes });
            next += size;
        }
        // The last MiB holds the second copy of the table.
        let layout = Self { sector_size, disk_guid, size: next + MIB, partitions };
        layout.check()?;
        Ok(layout)
    }

    /// The partition of this name.
    pub fn partition(&self, name: &str) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.name == name)
    }

    /// Sectors that one copy of the entries takes.
    fn entry_sectors(&self) -> u64 {
        (MAX_PARTITIONS as u64 * 128).div_ceil(self.sector_size.bytes())
    }

    /// First byte that a partition may use.
    pub fn first_usable(&self) -> u64 {
        (2 + self.entry_sectors()) * self.sector_size.bytes()
    }

    /// One past the last byte that a partition may use.
    pub fn end_usable(&self) -> u64 {
        self.size.saturating_sub((1 + self.entry_sectors()) * self.sector_size.bytes())
    }

    /// Refuses what a table cannot hold: partitions that overlap, are out of order, misaligned, outside the disk, or
    /// whose names or GUIDs cannot be told apart.
    pub fn check(&self) -> Result<(), LayoutError> {
        if !self.size.is_multiple_of(self.sector_size.bytes()) || self.end_usable() <= self.first_usable() {
            return Err(LayoutError::DiskSize(self.size));
        }
        if self.partitions.len() > MAX_PARTITIONS {
            return Err(LayoutError::TooMany(self.partitions.len()));
        }
        let mut free = self.first_usable();
        let mut names = BTreeSet::new();
        let mut guids = BTreeSet::from([self.disk_guid]);
        for partition in &self.partitions {
            let name = &partition.name;
            let units = name.encode_utf16().count();
            if units == 0 || units > MAX_NAME || name.chars().any(char::is_control) {
                return Err(problem(
                    name,
                    format!("a name has 1 to {MAX_NAME} UTF-16 units and no control characters"),
                ));
            }
            if !names.insert(name) {
                return Err(problem(name, "another partition has the same name".to_owned()));
            }
            if partition.guid.is_nil() || !guids.insert(partition.guid) {
                return Err(problem(name, format!("its GUID {} is nil or used twice", partition.guid)));
            }
            if partition.kind.guid().is_nil() {
                return Err(problem(name, "the type GUID is nil, which marks an unused entry".to_owned()));
            }
            if partition.size == 0 {
                return Err(problem(name, "it is empty".to_owned()));
            }
            let aligned = |bytes: u64| bytes.is_multiple_of(self.sector_size.bytes());
            if !partition.start.is_multiple_of(MIB) || !aligned(partition.size) {
                return Err(problem(name, "it does not begin on a whole MiB or end on a whole sector".to_owned()));
            }
            if partition.start < free {
                return Err(problem(
                    name,
                    format!("it begins at byte {}, before byte {free} is free", partition.start),
                ));
            }
            if partition.end() > self.end_usable() {
                let (end, limit) = (partition.end(), self.end_usable());
                return Err(problem(name, format!("it ends at byte {end}, past the last usable byte {limit}")));
            }
            free = partition.end();
        }
        Ok(())
    }

    /// Writes the protective MBR and both copies of the table. The file must have the layout's size.
    pub fn write(&self, file: &mut File) -> Result<(), LayoutError> {
        self.check()?;
        let failed = |problem: String| LayoutError::Table { doing: "write", problem };
        let length = file.metadata().map_err(|e| failed(e.to_string()))?.len();
        if length != self.size {
            return Err(failed(format!("the file has {length} bytes, the layout {}", self.size)));
        }
        let sector = self.sector_size.bytes();
        let sectors = u32::try_from(self.size / sector - 1).unwrap_or(u32::MAX);
        ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(file).map_err(|e| failed(e.to_string()))?;

        let mut disk = gpt::GptConfig::new()
            .writable(true)
            .logical_block_size(self.sector_size.into())
            .create_from_device(&mut *file, Some(self.disk_guid))
            .map_err(|e| failed(e.to_string()))?;
        let entries: BTreeMap<u32, Entry> = (1..)
            .zip(&self.partitions)
            .map(|(number, partition)| {
                let entry = Entry {
                    part_type_guid: Type { guid: partition.kind.guid(), os: OperatingSystem::None },
                    part_guid: partition.guid,
                    first_lba: partition.start / sector,
                    last_lba: partition.end() / sector - 1,
                    flags: partition.attributes,
                    name: partition.name.clone(),
                };
                (number, entry)
            })
            .collect();
        disk.update_partitions(entries).map_err(|e| failed(e.to_string()))?;
        disk.write().map_err(|e| failed(e.to_string()))?;
        Ok(())
    }

    /// Reads the table of a disk or an image. Both copies must be whole and agree, and the layout must pass
    /// [`Layout::check`] except for the alignment that other tools may have chosen.
    pub fn read(file: &mut File, sector_size: SectorSize) -> Result<Self, LayoutError> {
        let failed = |problem: String| LayoutError::Table { doing: "read", problem };
        let size = file.seek(SeekFrom::End(0)).map_err(|e| failed(e.to_string()))?;
        check_protective(file).map_err(|e| failed(e.to_string()))?;
        let disk = gpt::GptConfig::new()
            .writable(false)
            .only_valid_headers(true)
            .logical_block_size(sector_size.into())
            .open_from_device(&mut *file)
            .map_err(|e| failed(e.to_string()))?;
        let sector = sector_size.bytes();
        // The library checks both headers and the first copy's entries; the second copy's entries it never reads.
        let first = disk.primary_header().map_err(|e| failed(format!("first copy: {e}")))?;
        let second = disk.backup_header().map_err(|e| failed(format!("second copy: {e}")))?;
        let starts = [first.part_start, second.part_start];
        let length = u64::from(first.num_parts).saturating_mul(u64::from(first.part_size));
        if (first.num_parts, first.part_size, first.crc32_parts)
            != (second.num_parts, second.part_size, second.crc32_parts)
        {
            return Err(failed("the two copies differ".to_owned()));
        }
        let mut partitions = Vec::new();
        for entry in disk.partitions().values().filter(|entry| entry.is_used()) {
            let bounds = (entry.first_lba.checked_mul(sector))
                .zip(entry.last_lba.checked_add(1).and_then(|end| end.checked_mul(sector)));
            let (start, end) = bounds
                .filter(|(start, end)| start < end && *end <= size)
                .ok_or_else(|| problem(&entry.name, "it lies outside the disk".to_owned()))?;
            partitions.push(Partition {
                name: entry.name.clone(),
                kind: Kind::from_guid(entry.part_type_guid.guid),
                guid: entry.part_guid,
                start,
                size: end - start,
                attributes: entry.flags,
            });
        }
        let disk_guid = *disk.guid();
        drop(disk);
        let [first, second] = starts.map(|start| entries(file, start.saturating_mul(sector), length));
        if first.map_err(|e| failed(e.to_string()))? != second.map_err(|e| failed(format!("second copy: {e}")))? {
            return Err(failed("the two copies differ".to_owned()));
        }
        Ok(Self { sector_size, disk_guid, size, partitions })
    }

    /// The layout as text for people and for snapshots.
    pub fn dump(&self) -> String {
        let mut text =
            format!("disk {} bytes, sectors of {}, guid {}\n", self.size, self.sector_size.bytes(), self.disk_guid);
        for (number, partition) in (1..).zip(&self.partitions) {
            let Partition { name, guid, start, size, attributes, .. } = partition;
            let kind = partition.kind.label();
            // Writing to a String cannot fail.
            let _ =
                writeln!(text, "{number:>3} {name:<10} {kind:<20} {start:>12} +{size:<12} {attributes:#018x} {guid}");
        }
        text
    }
}

fn problem(name: &str, problem: String) -> LayoutError {
    LayoutError::Partition { name: name.to_owned(), problem }
}

/// The bytes of one copy of the entries; a table of more than 1 MiB is refused.
fn entries(file: &mut File, start: u64, length: u64) -> io::Result<Vec<u8>> {
    if length > MIB {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the table is larger than 1 MiB"));
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn check_protective(file: &mut File) -> io::Result<()> {
    let mut sector = [0; 512];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut sector)?;
    if sector[510..] != [0x55, 0xaa] || sector[450] != 0xee {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "there is no protective MBR"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
