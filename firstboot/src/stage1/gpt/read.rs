//! Reading a table: everything on the disk is checked against the disk before it is used.

use uuid::Uuid;

use super::{Geometry, GptError, Partition, Table, crc32};
use crate::stage1::storage::Source;

/// More than any tool writes (128 entries of 128 bytes are 16 KiB), and small enough to read at once.
const MAX_ENTRIES_BYTES: u64 = 1 << 20;

/// A table and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The table.
    pub table: Table,
    /// False when the primary table is damaged and this is the backup.
    pub from_primary: bool,
    /// Whether the backup that the primary table names is whole and the same.
    pub backup_is_whole: bool,
}

/// Reads the disk's table: the primary one or, when it is damaged, the backup at the disk's end or, failing that,
/// the backup where the primary header says it is.
pub fn read(disk: &(impl Source + ?Sized), geometry: Geometry) -> Result<Found, GptError> {
    let primary = match read_at(disk, geometry, 1) {
        Ok((table, backup)) => {
            let backup_is_whole = read_at(disk, geometry, backup).is_ok_and(|(other, _)| other == table);
            return Ok(Found { table, from_primary: true, backup_is_whole });
        }
        Err(error) => error,
    };
    let end = geometry.sectors.saturating_sub(1);
    let elsewhere = header(disk, geometry, 1).map(|header| header.other);
    for sector in [Some(end), elsewhere.ok()].into_iter().flatten().filter(|&sector| sector > 1) {
        if let Ok((table, _)) = read_at(disk, geometry, sector) {
            return Ok(Found { table, from_primary: false, backup_is_whole: true });
        }
    }
    let mut signature = [0; 8];
    let table = if geometry.sector_bytes == 512 { 4096 } else { 512 };
    match primary {
        GptError::NoHeader(_) if disk.read_at(table, &mut signature).is_ok() && signature == *b"EFI PART" => {
            Err(GptError::OtherSectorSize { disk: geometry.sector_bytes, table })
        }
        primary => Err(primary),
    }
}

struct Header {
    other: u64,
    first_usable: u64,
    last_usable: u64,
    disk_id: Uuid,
    entries_at: u64,
    entry_count: u32,
    entry_bytes: u32,
    entries_crc: u32,
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

fn guid(bytes: &[u8], at: usize) -> Uuid {
    let mut guid = [0; 16];
    guid.copy_from_slice(&bytes[at..at + 16]);
    Uuid::from_bytes_le(guid)
}

/// Reads and checks the header in a sector.
fn header(disk: &(impl Source + ?Sized), geometry: Geometry, sector: u64) -> Result<Header, GptError> {
    let damaged = |reason| GptError::Damaged { sector, reason };
    let Geometry { sector_bytes, sectors } = geometry;
    if !matches!(sector_bytes, 512 | 1024 | 2048 | 4096) || sector >= sectors {
        return Err(GptError::NoHeader(sector));
    }
    let mut bytes = vec![0; usize::try_from(sector_bytes).unwrap_or(512)];
    disk.read_at(sector * sector_bytes, &mut bytes).map_err(|source| GptError::Io {
        action: "reading",
        sector,
        source,
    })?;
    if !bytes.starts_with(b"EFI PART") {
        return Err(GptError::NoHeader(sector));
    }
    let size = number32(&bytes, 12) as usize;
    if !(92..=bytes.len()).contains(&size) {
        return Err(damaged("its size is out of range"));
    }
    let crc = number32(&bytes, 16);
    bytes[16..20].fill(0);
    if crc32(&bytes[..size]) != crc {
        return Err(damaged("its checksum is wrong"));
    }
    if number64(&bytes, 24) != sector {
        return Err(damaged("it says that it is in another sector"));
    }
    let header = Header {
        other: number64(&bytes, 32),
        first_usable: number64(&bytes, 40),
        last_usable: number64(&bytes, 48),
        disk_id: guid(&bytes, 56),
        entries_at: number64(&bytes, 72),
        entry_count: number32(&bytes, 80),
        entry_bytes: number32(&bytes, 84),
        entries_crc: number32(&bytes, 88),
    };
    let in_disk = header.first_usable >= 2 && header.last_usable < sectors && header.other < sectors;
    if !in_disk || header.first_usable > header.last_usable {
        return Err(damaged("its sectors are not on the disk"));
    }
    let entry_size_is_legal = header.entry_bytes >= 128 && header.entry_bytes.is_power_of_two();
    let entries_bytes = u64::from(header.entry_count) * u64::from(header.entry_bytes);
    if !entry_size_is_legal || !(1..=MAX_ENTRIES_BYTES).contains(&entries_bytes) {
        return Err(damaged("the size of its entries is out of range"));
    }
    let entries_end = header.entries_at.checked_add(entries_bytes.div_ceil(sector_bytes));
    if header.entries_at < 2 || entries_end.is_none_or(|end| end > sectors) {
        return Err(damaged("its entries are not on the disk"));
    }
    Ok(header)
}

/// Reads and checks a whole table; also gives the sector of the other header.
fn read_at(disk: &(impl Source + ?Sized), geometry: Geometry, sector: u64) -> Result<(Table, u64), GptError> {
    let damaged = |reason| GptError::Damaged { sector, reason };
    let header = header(disk, geometry, sector)?;
    let entry_bytes = header.entry_bytes as usize;
    let mut bytes = vec![0; header.entry_count as usize * entry_bytes];
    disk.read_at(header.entries_at * geometry.sector_bytes, &mut bytes).map_err(|source| GptError::Io {
        action: "reading",
        sector: header.entries_at,
        source,
    })?;
    if crc32(&bytes) != header.entries_crc {
        return Err(damaged("the checksum of its entries is wrong"));
    }
    let entries: Vec<Option<Partition>> = bytes.chunks_exact(entry_bytes).map(partition).collect();
    let table = Table {
        disk_id: header.disk_id,
        first_usable: header.first_usable,
        last_usable: header.last_usable,
        entry_bytes: header.entry_bytes,
        entries,
    };
    let mut extents: Vec<(u64, u64)> = table.partitions().map(|(_, p)| (p.first, p.last)).collect();
    extents.sort_unstable();
    if extents.iter().any(|&(first, last)| first < table.first_usable || last > table.last_usable || first > last) {
        return Err(damaged("a partition is outside the usable sectors"));
    }
    if extents.windows(2).any(|pair| pair[0].1 >= pair[1].0) {
        return Err(damaged("two partitions overlap"));
    }
    Ok((table, header.other))
}

fn partition(entry: &[u8]) -> Option<Partition> {
    let kind = guid(entry, 0);
    if kind.is_nil() {
        return None;
    }
    let units = entry[56..128].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let name = char::decode_utf16(units.take_while(|&unit| unit != 0))
        .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    Some(Partition {
        kind,
        id: guid(entry, 16),
        first: number64(entry, 32),
        last: number64(entry, 40),
        attributes: number64(entry, 48),
        name,
    })
}
