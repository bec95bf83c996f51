//! What is on a disk: nothing, something of ours, or something that must not be lost.
//!
//! Takes the first and the last MiB. A disk is blank only where every byte of both is zero: all that keeps a
//! signature (partition tables, filesystems, LVM, md and firmware RAID, LUKS, ZFS, Ceph) keeps it there, and what is
//! not known here is data all the same. So whether a disk is blank depends on no list of formats and on no program;
//! the list below only names what was seen. Layouts are those of the kernel's headers and of libblkid.

use uuid::Uuid;

/// How much is looked at, at either end.
pub const LOOKED_AT: u64 = 1 << 20;

/// What is on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Blank,
    /// Something that carries a UUID.
    Marked {
        /// What it is: `xfs`, `ext4`, `swap`, `luks`.
        kind: &'static str,
        /// Its UUID.
        uuid: Uuid,
        /// What stands at the disk's end besides; a file's content may look like it.
        beside: Option<&'static str>,
    },
    /// Something else, in words.
    Other(String),
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Content::Blank => f.write_str("nothing"),
            Content::Marked { kind, uuid, beside: None } => write!(f, "{kind} {uuid}"),
            Content::Marked { kind, uuid, beside: Some(what) } => write!(f, "{kind} {uuid} and {what}"),
            Content::Other(what) => f.write_str(what),
        }
    }
}

/// Says what is on a device of `size` bytes whose bytes `read` gives (offset, length).
///
/// # Errors
/// Those of `read`.
pub fn inspect<E>(size: u64, mut read: impl FnMut(u64, u64) -> Result<Vec<u8>, E>) -> Result<Content, E> {
    let length = size.min(LOOKED_AT);
    let head = read(0, length)?;
    let tail = read(size - length, length)?;
    let beside = at_the_end(&tail, size);
    let marked = |kind, uuid: Option<Uuid>| uuid.map(|uuid| Content::Marked { kind, uuid, beside });
    let other = |what: &str| Content::Other(what.to_owned());
    let known = marked("luks", luks(&head))
        .or_else(|| at_the_beginning(&head).map(other))
        .or_else(|| marked("xfs", at(&head, 0, b"XFSB").then(|| binary_uuid(&head, 32)).flatten()))
        .or_else(|| marked("ext4", at(&head, 1080, &[0x53, 0xef]).then(|| binary_uuid(&head, 1128)).flatten()))
        .or_else(|| marked("swap", at(&head, 4086, b"SWAPSPACE2").then(|| binary_uuid(&head, 1036)).flatten()))
        .or_else(|| beside.map(other))
        .or_else(|| has_mbr(&head).then(|| other("an MBR partition table")));
    Ok(known.unwrap_or_else(|| match (first_byte(&head), first_byte(&tail)) {
        (None, None) => Content::Blank,
        (Some(offset), _) => Content::Other(format!("data of an unknown kind (from byte {offset})")),
        (None, Some(offset)) => {
            let offset = size - length + offset as u64;
            Content::Other(format!("data of an unknown kind (from byte {offset}, in its last MiB)"))
        }
    }))
}

/// Where the first byte stands that is not zero.
fn first_byte(bytes: &[u8]) -> Option<usize> {
    const PIECE: usize = 4096;
    // Whole pieces are compared at once: there are a million bytes on each side of every disk.
    let piece = bytes.chunks(PIECE).position(|piece| piece != &[0; PIECE][..piece.len()])?;
    bytes.iter().skip(piece * PIECE).position(|byte| *byte != 0).map(|place| piece * PIECE + place)
}

fn at(bytes: &[u8], offset: usize, magic: &[u8]) -> bool {
    bytes.get(offset..offset + magic.len()) == Some(magic)
}

fn binary_uuid(bytes: &[u8], offset: usize) -> Option<Uuid> {
    bytes.get(offset..offset + 16).and_then(|bytes| Uuid::from_slice(bytes).ok())
}

/// The UUID of a LUKS header, version 1 or 2: a text of 40 bytes, filled with zeros.
fn luks(head: &[u8]) -> Option<Uuid> {
    if !at(head, 0, b"LUKS\xba\xbe") {
        return None;
    }
    let text = head.get(168..208)?;
    let text = text.split(|byte| *byte == 0).next()?;
    Uuid::try_parse_ascii(text).ok()
}

/// What is there instead of what Ingot makes.
fn at_the_beginning(head: &[u8]) -> Option<&'static str> {
    const HEADS: &[(usize, &[u8], &str)] = &[
        (512, b"EFI PART", "a GPT partition table"),
        (4096, b"EFI PART", "a GPT partition table"),
        (24, b"LVM2 001", "an LVM physical volume"),
        (536, b"LVM2 001", "an LVM physical volume"),
        (1048, b"LVM2 001", "an LVM physical volume"),
        (1560, b"LVM2 001", "an LVM physical volume"),
        (0, &[0xfc, 0x4e, 0x2b, 0xa9], "a member of a Linux RAID (md)"),
        (4096, &[0xfc, 0x4e, 0x2b, 0xa9], "a member of a Linux RAID (md)"),
        (0, b"LUKS\xba\xbe", "a LUKS header without a UUID"),
        (65600, b"_BHRfS_M", "btrfs"),
        (0, b"bluestore block device", "a Ceph OSD (bluestore)"),
        (3, b"NTFS    ", "NTFS"),
        (3, b"EXFAT   ", "exFAT"),
        (54, b"FAT", "a FAT filesystem"),
        (82, b"FAT32", "a FAT filesystem"),
        (32769, b"CD001", "ISO 9660"),
        (0, b"hsqs", "squashfs"),
        (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "erofs"),
        (1024, &[0x10, 0x20, 0xf5, 0xf2], "f2fs"),
        (
            4120,
            &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81],
            "bcache or bcachefs",
        ),
        (0, b"dmvdo001", "VDO"),
    ];
    if let Some((_, _, what)) = HEADS.iter().find(|(offset, magic, _)| at(head, *offset, magic)) {
        return Some(what);
    }
    // An uberblock of ZFS in the first label, in either byte order.
    let zfs = |block: &[u8]| {
        block.starts_with(&[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0]) || block.starts_with(&[0, 0, 0, 0, 0, 0xba, 0xb1, 0x0c])
    };
    if head.get(128 << 10..256 << 10).is_some_and(|labels| labels.chunks(1024).any(zfs)) {
        return Some("a member of a ZFS pool");
    }
    None
}

/// What keeps its signature at the end of a disk.
fn at_the_end(tail: &[u8], size: u64) -> Option<&'static str> {
    let base = size - tail.len() as u64;
    let behind = |offset: Option<u64>, magic: &[u8]| {
        let place = offset.and_then(|offset| offset.checked_sub(base)).and_then(|place| usize::try_from(place).ok());
        place.is_some_and(|place| at(tail, place, magic))
    };
    let md = [0xfc, 0x4e, 0x2b, 0xa9];
    // Superblocks 0.90 and 1.0 of md stand at the end.
    let old = (size & !0xffff).checked_sub(0x10000);
    let new = size.checked_sub(8192).map(|end| end & !0xfff);
    if behind(old, &md) || behind(new, &md) {
        return Some("a member of a Linux RAID (md)");
    }
    if behind(size.checked_sub(1024), b"Intel Raid ISM Cfg Sig.")
        || behind(size.checked_sub(512), &[0xde, 0x11, 0xde, 0x11])
    {
        return Some("a member of a RAID that the firmware manages");
    }
    if behind(size.checked_sub(512), b"EFI PART") || behind(size.checked_sub(4096), b"EFI PART") {
        return Some("the second copy of a GPT partition table");
    }
    None
}

/// Asked last: filesystems may have this mark in their boot sector.
fn has_mbr(head: &[u8]) -> bool {
    let used = |entry: &[u8]| entry[4] != 0 && entry[0] & 0x7f == 0;
    at(head, 510, &[0x55, 0xaa]) && head.get(446..510).is_some_and(|entries| entries.chunks(16).any(used))
}

#[cfg(test)]
#[path = "content_tests.rs"]
mod tests;
