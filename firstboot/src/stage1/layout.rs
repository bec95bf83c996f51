//! Where the partitions of a node's disk go: the plan for the first boot, and for a disk that has grown.
//!
//! Takes the table of the flashed image, gives the table of the node; nothing is written here. The image holds
//! `esp`, `verity-a` and, as its last partition, `root-a`, no larger than its content. On the node `root-a` becomes
//! a whole slot, `verity-b`, `root-b` and `var` follow it, and every id becomes the node's own.

use thiserror::Error;
use uuid::Uuid;

use super::gpt::{ATTRIBUTE_NO_AUTO, Geometry, Partition, TYPE_ROOT, TYPE_ROOT_VERITY, TYPE_VAR, Table};

/// Partitions start at multiples of this many bytes.
const ALIGNMENT: u64 = 1 << 20;
/// A state partition smaller than this holds neither a journal nor a container image.
const LEAST_VAR: u64 = 256 << 20;
/// A disk that has grown by less is left alone.
const LEAST_GROWTH: u64 = 64 << 20;

/// The disk cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// The disk is too small.
    #[error(
        "the disk has {} MiB, and this image needs at least {} MiB: two root slots of {} MiB with their hashes, and {} MiB of state",
        .has >> 20, .needs.div_ceil(1 << 20), .slot >> 20, LEAST_VAR >> 20
    )]
    TooSmall {
        /// The disk's bytes.
        has: u64,
        /// The bytes needed.
        needs: u64,
        /// The bytes of a slot.
        slot: u64,
    },
    /// There is no partition `var`, and no room for it.
    #[error("there is no partition var, and only {} MiB behind the others for a new one, which needs {} MiB", .has >> 20, LEAST_VAR >> 20)]
    NoRoomForVar {
        /// The bytes there are.
        has: u64,
    },
    /// Something lies where a partition has to grow or to be made.
    #[error("partition {0} lies behind root-a, where the second slot has to go; flash the image again")]
    InTheWay(String),
    /// A partition of the image is not there.
    #[error("the disk has no partition {0}; flash the image again")]
    Missing(&'static str),
    /// No entry is left in the table.
    #[error("the partition table has no room for three more partitions")]
    NoEntry,
}

fn align_up(sector: u64, geometry: Geometry) -> u64 {
    // A sector number too large to be aligned is too large for any disk.
    sector.checked_next_multiple_of((ALIGNMENT / geometry.sector_bytes).max(1)).unwrap_or(u64::MAX)
}

/// The last sector that partitions can use once the backup table is at the disk's end: aligned, so that the disk's
/// last partition is a whole number of MiB.
fn usable_end(table: &Table, geometry: Geometry) -> (u64, u64) {
    let last_usable = geometry.sectors.saturating_sub(2 + table.entry_sectors(geometry.sector_bytes));
    let unit = (ALIGNMENT / geometry.sector_bytes).max(1);
    (last_usable, ((last_usable + 1) / unit * unit).saturating_sub(1))
}

/// The node's table, made from the image's. `fresh` gives random ids.
pub fn for_first_boot(
    table: &Table,
    geometry: Geometry,
    slot_bytes: u64,
    mut fresh: impl FnMut() -> Uuid,
) -> Result<Table, LayoutError> {
    let (root_number, root) = table.named("root-a").ok_or(LayoutError::Missing("root-a"))?;
    let (_, verity) = table.named("verity-a").ok_or(LayoutError::Missing("verity-a"))?;
    if let Some((_, other)) = table.partitions().find(|(_, other)| other.first > root.last) {
        return Err(LayoutError::InTheWay(other.name.clone()));
    }
    let slot = align_up(slot_bytes.div_ceil(geometry.sector_bytes).max(root.sectors()), geometry);
    let root_a_end = root.first.saturating_add(slot);
    let verity_b = align_up(root_a_end, geometry);
    let root_b = align_up(verity_b.saturating_add(verity.sectors()), geometry);
    let var = align_up(root_b.saturating_add(slot), geometry);
    let (last_usable, var_end) = usable_end(table, geometry);
    let least_end = var.saturating_add(LEAST_VAR / geometry.sector_bytes);
    if var_end + 1 < least_end {
        // Behind the last partition are the entries and the header of the backup table.
        let backup = table.entry_sectors(geometry.sector_bytes) + 1;
        return Err(LayoutError::TooSmall {
            has: geometry.sectors * geometry.sector_bytes,
            needs: least_end.saturating_add(backup).saturating_mul(geometry.sector_bytes),
            slot: slot.saturating_mul(geometry.sector_bytes),
        });
    }

    let mut node = table.clone();
    node.disk_id = fresh();
    node.last_usable = last_usable;
    for (number, entry) in (1..).zip(&mut node.entries) {
        if let Some(partition) = entry {
            partition.id = fresh();
            if number == root_number {
                partition.last = root_a_end - 1;
            }
        }
    }
    let mut partition = |name: &str, kind, first, sectors, attributes| {
        let last = first + sectors - 1;
        Partition { kind, id: fresh(), first, last, attributes, name: name.to_owned() }
    };
    let new = [
        partition("verity-b", TYPE_ROOT_VERITY, verity_b, verity.sectors(), verity.attributes),
        partition("root-b", TYPE_ROOT, root_b, slot, root.attributes),
        new_var(var, var_end, fresh()),
    ];
    let mut free = node.entries.iter_mut().skip(root_number as usize).filter(|entry| entry.is_none());
    for partition in new {
        *free.next().ok_or(LayoutError::NoEntry)? = Some(partition);
    }
    Ok(node)
}

/// The table of a node whose `var` was deleted: a new one, behind all that is there.
pub fn for_lost_var(table: &Table, geometry: Geometry, id: Uuid) -> Result<Table, LayoutError> {
    let behind = table.partitions().map(|(_, partition)| partition.last + 1).max().unwrap_or(table.first_usable);
    let first = align_up(behind, geometry);
    let (last_usable, last) = usable_end(table, geometry);
    let least_end = first.saturating_add(LEAST_VAR / geometry.sector_bytes);
    if last + 1 < least_end {
        return Err(LayoutError::NoRoomForVar { has: (last + 1).saturating_sub(first) * geometry.sector_bytes });
    }
    let mut node = table.clone();
    node.last_usable = last_usable;
    let free = node.entries.iter_mut().find(|entry| entry.is_none()).ok_or(LayoutError::NoEntry)?;
    *free = Some(new_var(first, last, id));
    Ok(node)
}

/// stage1 mounts it, nothing else has to find it.
fn new_var(first: u64, last: u64, id: Uuid) -> Partition {
    Partition { kind: TYPE_VAR, id, first, last, attributes: ATTRIBUTE_NO_AUTO, name: "var".to_owned() }
}

/// The table with a larger `var`, when the disk has grown by enough and nothing lies behind `var`.
pub fn for_grown_disk(table: &Table, geometry: Geometry) -> Option<Table> {
    let (number, var) = table.named("var")?;
    let (last_usable, end) = usable_end(table, geometry);
    let growth = end.checked_sub(var.last)?.checked_mul(geometry.sector_bytes)?;
    if growth < LEAST_GROWTH || table.partitions().any(|(_, other)| other.first > var.last) {
        return None;
    }
    let mut grown = table.clone();
    grown.last_usable = last_usable;
    grown.entries.get_mut(number as usize - 1)?.as_mut()?.last = end;
    Some(grown)
}
