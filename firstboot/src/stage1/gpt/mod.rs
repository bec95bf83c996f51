//! GUID partition tables (UEFI specification 2.10, chapter 5): reading and writing them on a disk that may be hostile,
//! half written or larger than its table says.
//!
//! Own code, because a partition must keep its number, a table must never be believed beyond its disk, and the
//! order of the writes is what makes a power cut harmless: see [`write`].

mod read;
mod write;

pub use read::{Found, read};
pub use write::write;

use thiserror::Error;
use uuid::{Uuid, uuid};

/// EFI system partition.
pub const TYPE_ESP: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
/// Root file system, x86-64 (Discoverable Partitions Specification).
pub const TYPE_ROOT: Uuid = uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709");
/// dm-verity hashes of a root, x86-64.
pub const TYPE_ROOT_VERITY: Uuid = uuid!("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5");
/// Variable data.
pub const TYPE_VAR: Uuid = uuid!("4d21b016-b534-45c2-a9fb-5c16e091fd2d");
/// Attribute: not to be mounted by automatic discovery.
pub const ATTRIBUTE_NO_AUTO: u64 = 1 << 63;

/// One partition. Sector numbers count logical sectors of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The type.
    pub kind: Uuid,
    /// The partition's own id.
    pub id: Uuid,
    /// The first sector.
    pub first: u64,
    /// The last sector, part of the partition.
    pub last: u64,
    /// The attribute bits.
    pub attributes: u64,
    /// The name (`PARTLABEL`), at most 36 UTF-16 units.
    pub name: String,
}

impl Partition {
    /// The length in sectors.
    pub fn sectors(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The disk's id.
    pub disk_id: Uuid,
    /// The first sector that a partition may use.
    pub first_usable: u64,
    /// The last sector that a partition may use.
    pub last_usable: u64,
    /// The bytes of an entry on the disk: 128, or that times a power of two.
    pub entry_bytes: u32,
    /// The entries; partition `n` is entry `n - 1`.
    pub entries: Vec<Option<Partition>>,
}

impl Table {
    /// The used entries with their partition numbers.
    pub fn partitions(&self) -> impl Iterator<Item = (u32, &Partition)> {
        (1..).zip(&self.entries).filter_map(|(number, entry)| entry.as_ref().map(|partition| (number, partition)))
    }

    /// The first partition of this name, with its number.
    pub fn named(&self, name: &str) -> Option<(u32, &Partition)> {
        self.partitions().find(|(_, partition)| partition.name == name)
    }

    /// How many sectors the entries take on the disk.
    pub fn entry_sectors(&self, sector_bytes: u64) -> u64 {
        (self.entries.len() as u64 * u64::from(self.entry_bytes)).div_ceil(sector_bytes)
    }
}

/// The size of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a logical sector: 512 or 4096.
    pub sector_bytes: u64,
    /// Logical sectors of the disk.
    pub sectors: u64,
}

/// There is no usable partition table, or it could not be written.
#[derive(Debug, Error)]
pub enum GptError {
    /// The disk could not be read or written.
    #[error("{action} sector {sector}: {source}")]
    Io {
        /// `reading` or `writing`.
        action: &'static str,
        /// The first sector of the access.
        sector: u64,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// There is no table at this place.
    #[error("no GPT header in sector {0}")]
    NoHeader(u64),
    /// There is one, for sectors of another size.
    #[error(
        "its partition table is for sectors of {table} bytes, and the disk has sectors of {disk}: use the image that is made for them"
    )]
    OtherSectorSize {
        /// The disk's.
        disk: u64,
        /// The table's.
        table: u64,
    },
    /// There is one, and it is damaged or contradicts itself or the disk.
    #[error("GPT header in sector {sector}: {reason}")]
    Damaged {
        /// The sector of the header.
        sector: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// The table does not fit the disk.
    #[error("the partition table does not fit the disk: {0}")]
    DoesNotFit(&'static str),
}

/// CRC-32 as in IEEE 802.3, which GPT uses.
pub fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0_u32;
        while byte < 256 {
            let mut crc = byte;
            let mut bit = 0;
            while bit < 8 {
                crc = crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
                bit += 1;
            }
            table[byte as usize] = crc;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(u32::MAX, |crc, &byte| crc >> 8 ^ TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)])
}

#[cfg(test)]
pub(super) mod tests;
