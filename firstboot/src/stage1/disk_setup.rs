//! Lays out the node's disk on its first boot, grows it later, repairs a damaged table, and has the kernel know.

use std::fs::File;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::console;
use super::disks::{Disk, PartitionDevice};
use super::gpt::{self, Geometry, GptError, Partition, Table};
use super::layout::{self, LayoutError};
use super::node_state::random_id;
use super::slot::Slot;
use super::storage::Storage;
use crate::sys::{self, PartitionChange};

/// So much of a new state partition is zeroed before the table names it: where a filesystem would begin. What an
/// earlier installation left there is not this node's state.
const ZEROED: usize = 1 << 20;

/// The disk could not be laid out.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The plan does not work out.
    #[error("{disk}: {source}")]
    Layout {
        /// The disk.
        disk: String,
        /// Why.
        source: LayoutError,
    },
    /// The table could not be written.
    #[error("{disk}: {source}")]
    Table {
        /// The disk.
        disk: String,
        /// Why.
        source: GptError,
    },
    /// The disk could not be opened or written.
    #[error("{disk}: {step}: {source}")]
    Io {
        /// The disk.
        disk: String,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's partitions are not those of the table.
    #[error("{disk}: the kernel does not show partition {name} as the table has it")]
    NotShown {
        /// The disk.
        disk: String,
        /// The partition.
        name: String,
    },
}

/// The disk as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Its table.
    pub table: Table,
    /// Whether this is the node's first boot: it has no state yet.
    pub first_boot: bool,
    /// Whether `var` got larger.
    pub grown: bool,
}

/// Makes the disk's table what the node needs.
pub fn prepare(slot: &Slot, slot_bytes: u64) -> Result<Ready, SetupError> {
    let (disk, geometry) = (&slot.disk, slot.disk.geometry);
    let name = || disk.name.clone();
    let table = &slot.found.table;
    let new_var = table.named("var").is_none();
    let first_boot = new_var && table.named("root-b").is_none();
    let (wanted, grown) = if new_var {
        let planned = if first_boot {
            layout::for_first_boot(table, geometry, slot_bytes, random_id)
        } else {
            layout::for_lost_var(table, geometry, random_id())
        };
        (Some(planned.map_err(|source| SetupError::Layout { disk: name(), source })?), false)
    } else if let Some(larger) = layout::for_grown_disk(table, geometry) {
        (Some(larger), true)
    } else {
        let damaged = !slot.found.from_primary || !slot.found.backup_is_whole;
        if damaged {
            console::note(&format!("repairing the partition table of {}", disk.name));
        }
        (damaged.then(|| table.clone()), false)
    };
    let table = match wanted {
        None => table.clone(),
        Some(wanted) => {
            let io = |step| move |source| SetupError::Io { disk: disk.name.clone(), step, source };
            let mut file = disk.open_to_write().map_err(io("opening it to write its partition table"))?;
            if new_var {
                zero_new_var(&mut file, geometry, &wanted).map_err(io("clearing the place of partition var"))?;
            }
            gpt::write(&mut file, geometry, &wanted).map_err(|source| SetupError::Table { disk: name(), source })?;
            show_kernel(&file, disk, &wanted).map_err(io("having the kernel read its partition table"))?;
            wanted
        }
    };
    Ok(Ready { table, first_boot: new_var, grown })
}

fn zero_new_var(disk: &mut impl Storage, geometry: Geometry, table: &Table) -> io::Result<()> {
    if let Some((_, var)) = table.named("var") {
        disk.write_at(var.first * geometry.sector_bytes, &vec![0; ZEROED])?;
        disk.flush()?;
    }
    Ok(())
}

/// Has the kernel read the table; where a partition is in use, tells it of each that is new or larger.
fn show_kernel(file: &File, disk: &Disk, table: &Table) -> io::Result<()> {
    let mut result = sys::reread_partition_table(file);
    for _ in 0..20 {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            _ => return result,
        }
        thread::sleep(Duration::from_millis(50));
        result = sys::reread_partition_table(file);
    }
    for (number, partition) in table.partitions() {
        let (start, length) = extent(disk.geometry, partition);
        match disk.partition(number) {
            Some(shown) if (shown.start, shown.length) == (start, length) => {}
            Some(_) => sys::change_partition(file, PartitionChange::Resize, number, start, length)?,
            None => sys::change_partition(file, PartitionChange::Add, number, start, length)?,
        }
    }
    Ok(())
}

/// First byte and number of bytes.
fn extent(geometry: Geometry, partition: &Partition) -> (u64, u64) {
    (partition.first * geometry.sector_bytes, partition.sectors() * geometry.sector_bytes)
}

/// The kernel's device for a partition of the table. Waits a little: a device that has just been found may still be
/// scanned.
pub fn device(disk: &Disk, table: &Table, number: u32) -> Result<PartitionDevice, SetupError> {
    let partition = usize::try_from(number).ok().and_then(|n| table.entries.get(n.checked_sub(1)?)?.as_ref());
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let shown = disk.partition(number).filter(|shown| {
            partition.is_some_and(|partition| (shown.start, shown.length) == extent(disk.geometry, partition))
                && shown.node.exists()
        });
        match shown {
            Some(shown) => return Ok(shown),
            None if Instant::now() >= deadline => {
                let name = partition.map_or_else(|| number.to_string(), |partition| partition.name.clone());
                return Err(SetupError::NotShown { disk: disk.name.clone(), name });
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    }
}
