//! Writing a table so that the disk has a valid one at every instant.

use super::{Geometry, GptError, Partition, Table, crc32};
use crate::stage1::storage::Storage;

/// Writes the table to both of its places, the backup at the end of the disk.
///
/// Order: the backup, flush; the primary, flush; the protective MBR, flush. Firmware, kernel and [`super::read`]
/// take the primary while it is valid and the backup at the disk's end otherwise. Until the first flush returns the
/// old primary is whole; from then on the new backup is. Both tables describe a disk that boots, so it does not
/// matter where between these the power fails, nor in which order the disk carries out what lies between two
/// flushes: checksums tell a torn table.
pub fn write(disk: &mut impl Storage, geometry: Geometry, table: &Table) -> Result<(), GptError> {
    let Geometry { sector_bytes, sectors } = geometry;
    let entry_sectors = table.entry_sectors(sector_bytes);
    let Some(end) = sectors.checked_sub(1) else {
        return Err(GptError::DoesNotFit("the disk is empty"));
    };
    if table.first_usable < 2 + entry_sectors {
        return Err(GptError::DoesNotFit("the first partition may lie on the table's own entries"));
    }
    if table.last_usable.saturating_add(entry_sectors) >= end {
        return Err(GptError::DoesNotFit("the last partition may lie on the backup table"));
    }
    if table.partitions().any(|(_, p)| p.first < table.first_usable || p.last > table.last_usable || p.first > p.last) {
        return Err(GptError::DoesNotFit("a partition is outside the usable sectors"));
    }
    let entries = entries(table, entry_sectors * sector_bytes);
    let crc = crc32(&entries[..table.entries.len() * table.entry_bytes as usize]);

    put(disk, geometry, end - entry_sectors, &entries)?;
    put(
        disk,
        geometry,
        end,
        &header(table, geometry, crc, Place { own: end, other: 1, entries: end - entry_sectors }),
    )?;
    flush(disk, end)?;

    put(disk, geometry, 2, &entries)?;
    put(disk, geometry, 1, &header(table, geometry, crc, Place { own: 1, other: end, entries: 2 }))?;
    flush(disk, 1)?;

    write_protective_mbr(disk, geometry)
}

/// The sectors of a header, of the other header, and of the entries.
#[derive(Clone, Copy)]
struct Place {
    own: u64,
    other: u64,
    entries: u64,
}

fn put(disk: &mut impl Storage, geometry: Geometry, sector: u64, bytes: &[u8]) -> Result<(), GptError> {
    disk.write_at(sector * geometry.sector_bytes, bytes).map_err(|source| GptError::Io {
        action: "writing",
        sector,
        source,
    })
}

fn flush(disk: &mut impl Storage, sector: u64) -> Result<(), GptError> {
    disk.flush().map_err(|source| GptError::Io { action: "writing", sector, source })
}

/// A sector with a header.
fn header(table: &Table, geometry: Geometry, entries_crc: u32, place: Place) -> Vec<u8> {
    let mut bytes = b"EFI PART".to_vec();
    bytes.extend(0x0001_0000_u32.to_le_bytes());
    bytes.extend(92_u32.to_le_bytes());
    bytes.extend([0; 8]);
    for number in [place.own, place.other, table.first_usable, table.last_usable] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(table.disk_id.to_bytes_le());
    bytes.extend(place.entries.to_le_bytes());
    // The reader accepts no more entries than fit 1 MiB.
    bytes.extend(u32::try_from(table.entries.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(table.entry_bytes.to_le_bytes());
    bytes.extend(entries_crc.to_le_bytes());
    let crc = crc32(&bytes);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes.resize(usize::try_from(geometry.sector_bytes).unwrap_or(512), 0);
    bytes
}

fn entries(table: &Table, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    for (entry, space) in table.entries.iter().zip(bytes.chunks_exact_mut(table.entry_bytes as usize)) {
        if let Some(partition) = entry {
            space[..128].copy_from_slice(&entry_of(partition));
        }
    }
    bytes
}

fn entry_of(partition: &Partition) -> [u8; 128] {
    let mut entry = [0; 128];
    entry[..16].copy_from_slice(&partition.kind.to_bytes_le());
    entry[16..32].copy_from_slice(&partition.id.to_bytes_le());
    entry[32..40].copy_from_slice(&partition.first.to_le_bytes());
    entry[40..48].copy_from_slice(&partition.last.to_le_bytes());
    entry[48..56].copy_from_slice(&partition.attributes.to_le_bytes());
    for (unit, space) in partition.name.encode_utf16().zip(entry[56..].chunks_exact_mut(2)) {
        space.copy_from_slice(&unit.to_le_bytes());
    }
    entry
}

/// Makes the protective MBR cover the whole disk; boot code and signature stay.
fn write_protective_mbr(disk: &mut impl Storage, geometry: Geometry) -> Result<(), GptError> {
    let mut bytes = vec![0; usize::try_from(geometry.sector_bytes).unwrap_or(512)];
    disk.read_at(0, &mut bytes).map_err(|source| GptError::Io { action: "reading", sector: 0, source })?;
    let before = bytes.clone();
    let sectors = u32::try_from(geometry.sectors - 1).unwrap_or(u32::MAX);
    let mut record = [0_u8; 16];
    // Not active; from CHS 0/0/2 to the largest CHS; type EE; from sector 1.
    record[1..8].copy_from_slice(&[0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff]);
    record[8..12].copy_from_slice(&1_u32.to_le_bytes());
    record[12..16].copy_from_slice(&sectors.to_le_bytes());
    let existing = (446..510).step_by(16).find(|&at| bytes[at + 4] == 0xee);
    let at = existing.unwrap_or(446);
    bytes[at + 1..at + 16].copy_from_slice(&record[1..]);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    if bytes != before {
        put(disk, geometry, 0, &bytes)?;
        flush(disk, 0)?;
    }
    Ok(())
}
