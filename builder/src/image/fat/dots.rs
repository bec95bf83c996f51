//! Repairs the `.` and `..` entries of the directories that `fatfs` makes.
//!
//! `fatfs` 0.3.6 gives `.` and `..` long-name records as if they were ordinary names. FAT wants the two short entries
//! in the first two slots; `fsck.fat` calls every such directory damaged and would delete from it. After the volume is
//! complete, each directory's first four slots (long `.`, short `.`, long `..`, short `..`) become short `.`, short
//! `..` and two deleted slots. Nothing else on the volume changes.

use std::io::{self, Read, Seek, SeekFrom, Write};

const SLOT: usize = 32;
const DELETED: u8 = 0xe5;
const LONG_NAME: u8 = 0x0f;
const DIRECTORY: u8 = 0x10;
const DOT: &[u8; 11] = b".          ";
const DOT_DOT: &[u8; 11] = b"..         ";

/// Repairs every directory of the volume.
pub fn repair<D: Read + Write + Seek>(device: &mut D) -> io::Result<()> {
    let geometry = Geometry::read(device)?;
    let mut waiting = subdirectories(device, &geometry, None)?;
    let mut budget = geometry.clusters;
    while let Some((cluster, parent_is_root)) = waiting.pop() {
        // Every directory has a cluster of its own: more directories than clusters would be a loop.
        budget = budget.checked_sub(1).ok_or_else(|| damaged("directories form a loop"))?;
        rewrite(device, &geometry, cluster, parent_is_root)?;
        waiting.extend(subdirectories(device, &geometry, Some(cluster))?);
    }
    Ok(())
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected FAT structure: {what}"))
}

/// Where the parts of a volume are.
struct Geometry {
    bits: u8,
    cluster_size: u64,
    fat: u64,
    /// The fixed root directory of FAT12 and FAT16.
    root: u64,
    root_size: u64,
    /// The root directory's first cluster on FAT32.
    root_cluster: u32,
    data: u64,
    clusters: u64,
}

impl Geometry {
    fn read<D: Read + Seek>(device: &mut D) -> io::Result<Self> {
        let mut boot = [0; 512];
        device.seek(SeekFrom::Start(0))?;
        device.read_exact(&mut boot)?;
        let two = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let word = |at: usize| u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]);
        let four = |at: usize| u64::from(word(at));
        let or = |small: u64, large: u64| if small == 0 { large } else { small };

        let sector = two(11);
        let cluster_size = sector * u64::from(boot[13]);
        let root_size = two(17) * SLOT as u64;
        let fat = two(14) * sector;
        let root = fat + u64::from(boot[16]) * or(two(22), four(36)) * sector;
        let data = root + root_size;
        let total = or(two(19), four(32)) * sector;
        if sector == 0 || cluster_size == 0 || data > total {
            return Err(damaged("boot sector"));
        }
        let clusters = (total - data) / cluster_size;
        let bits = match clusters {
            0..4085 => 12,
            4085..65_525 => 16,
            _ => 32,
        };
        Ok(Self { bits, cluster_size, fat, root, root_size, root_cluster: word(44), data, clusters })
    }

    fn offset(&self, cluster: u32) -> io::Result<u64> {
        u64::from(cluster)
            .checked_sub(2)
            .filter(|index| *index < self.clusters)
            .map(|index| self.data + index * self.cluster_size)
            .ok_or_else(|| damaged("cluster number"))
    }

    /// The cluster after this one in its chain.
    fn next<D: Read + Seek>(&self, device: &mut D, cluster: u32) -> io::Result<Option<u32>> {
        let index = u64::from(cluster);
        let (at, length) = match self.bits {
            12 => (index * 3 / 2, 2),
            16 => (index * 2, 2),
            _ => (index * 4, 4),
        };
        let mut bytes = [0; 4];
        device.seek(SeekFrom::Start(self.fat + at))?;
        device.read_exact(&mut bytes[..length])?;
        let value = u32::from_le_bytes(bytes);
        let (value, end) = match self.bits {
            12 if cluster % 2 == 1 => (value >> 4, 0xff8),
            12 => (value & 0xfff, 0xff8),
            16 => (value, 0xfff8),
            _ => (value & 0x0fff_ffff, 0x0fff_fff8),
        };
        Ok((value < end).then_some(value))
    }
}

/// The first clusters of the directories in a directory (`None`: the root), each with whether its parent is the root.
fn subdirectories<D: Read + Seek>(
    device: &mut D,
    geometry: &Geometry,
    directory: Option<u32>,
) -> io::Result<Vec<(u32, bool)>> {
    let mut bytes = Vec::new();
    let first = directory.or((geometry.bits == 32).then_some(geometry.root_cluster));
    if let Some(mut cluster) = first {
        let mut budget = geometry.clusters;
        loop {
            device.seek(SeekFrom::Start(geometry.offset(cluster)?))?;
            device.by_ref().take(geometry.cluster_size).read_to_end(&mut bytes)?;
            budget = budget.checked_sub(1).ok_or_else(|| damaged("clusters form a loop"))?;
            match geometry.next(device, cluster)? {
                Some(next) => cluster = next,
                None => break,
            }
        }
    } else {
        device.seek(SeekFrom::Start(geometry.root))?;
        device.by_ref().take(geometry.root_size).read_to_end(&mut bytes)?;
    }
    let mut found = Vec::new();
    for slot in bytes.chunks_exact(SLOT) {
        match slot[0] {
            0 => break,
            DELETED | b'.' => {}
            _ if slot[11] & LONG_NAME == LONG_NAME || slot[11] & DIRECTORY == 0 => {}
            _ => found.push((first_cluster(slot), directory.is_none())),
        }
    }
    Ok(found)
}

fn first_cluster(slot: &[u8]) -> u32 {
    u32::from_le_bytes([slot[26], slot[27], slot[20], slot[21]])
}

fn rewrite<D: Read + Write + Seek>(
    device: &mut D,
    geometry: &Geometry,
    cluster: u32,
    parent_is_root: bool,
) -> io::Result<()> {
    let offset = geometry.offset(cluster)?;
    let mut slots = [0; 4 * SLOT];
    device.seek(SeekFrom::Start(offset))?;
    device.read_exact(&mut slots)?;
    let (dot, dot_dot) = (SLOT..2 * SLOT, 3 * SLOT..4 * SLOT);
    if slots[dot.clone()][..11] != *DOT || slots[dot_dot.clone()][..11] != *DOT_DOT {
        return Err(damaged("dot entries are not where fatfs 0.3 puts them"));
    }
    let mut repaired = [0; 4 * SLOT];
    repaired[..SLOT].copy_from_slice(&slots[dot]);
    repaired[SLOT..2 * SLOT].copy_from_slice(&slots[dot_dot]);
    if parent_is_root {
        // The root is cluster 0 here, whatever its real number.
        for at in [20, 21, 26, 27] {
            repaired[SLOT + at] = 0;
        }
    }
    repaired[2 * SLOT] = DELETED;
    repaired[3 * SLOT] = DELETED;
    device.seek(SeekFrom::Start(offset))?;
    device.write_all(&repaired)
}
