//! The root: checked against the root hash, opened as a dm-verity device, mounted read-only.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mount::{MountFlags, mount};

use super::console;
use super::disks::PartitionDevice;
use super::dm::VerityDevice;
use super::failure::Failure;
use super::slot::Slot;
use super::storage::Section;
use super::verity::{BLOCK, Checker};
use crate::status::Code;

/// Opens and mounts the root of a slot on `target`. With `verify_all` every block is read and checked first.
pub fn mount_verified(
    slot: &Slot,
    data: &PartitionDevice,
    hashes: &PartitionDevice,
    root_hash: [u8; 32],
    verify_all: bool,
    target: &Path,
) -> Result<(), Failure> {
    let corrupt = |text: String| Failure { code: Code::RootCorrupt, text };
    let in_partitions = |error: &dyn std::fmt::Display| {
        corrupt(format!("{} with hashes {}: {error}", data.node.display(), hashes.node.display()))
    };
    let disk = slot.disk.open().map_err(|error| corrupt(format!("{}: {error}", slot.disk.name)))?;
    let data_bytes = Section::new(&disk, data.start, data.length);
    let hash_bytes = Section::new(&disk, hashes.start, hashes.length);
    let checker = Checker::new(&slot.superblock, &data_bytes, &hash_bytes, root_hash);
    // The first and the last block with all hashes above them: damage there is reported here in words, before the
    // kernel meets it and stops. Everything else the kernel checks when it is read.
    let head = checker.read_data(0).map_err(|error| in_partitions(&error))?;
    checker.read_data(slot.superblock.data_blocks - 1).map_err(|error| in_partitions(&error))?;
    if verify_all {
        verify(&checker, slot.superblock.data_blocks).map_err(|error| in_partitions(&error))?;
    }
    let filesystem = filesystem(&head).ok_or_else(|| in_partitions(&"it is neither erofs nor squashfs"))?;

    let device = VerityDevice {
        name: "root",
        data: data.device,
        hashes: hashes.device,
        superblock: &slot.superblock,
        root_hash,
    };
    let node = device.open().map_err(Failure::of(Code::Stage1Failed))?;
    let mounted = fs::create_dir_all(target)
        .and_then(|()| mount(&node, target, filesystem, MountFlags::RDONLY, None).map_err(Into::into));
    mounted.map_err(|error| Failure {
        code: Code::Stage1Failed,
        text: format!("mounting the verified root as {filesystem}: {error}; is the module in the initrd?"),
    })
}

fn verify(
    checker: &Checker<'_, Section<'_, fs::File>, Section<'_, fs::File>>,
    blocks: u64,
) -> Result<(), super::verity::CheckError> {
    console::note(&format!("checking all {} MiB of the root", (blocks * BLOCK) >> 20));
    let reported = AtomicU64::new(0);
    checker.check_all(&|done, total| {
        let tenth = done * 10 / total.max(1);
        if reported.fetch_max(tenth, Ordering::Relaxed) < tenth {
            console::detail(&format!("checked {} %", tenth * 10));
        }
    })
}

/// The filesystem that a first block belongs to.
fn filesystem(block: &[u8]) -> Option<&'static str> {
    if block.get(1024..1028) == Some(&[0xe2, 0xe1, 0xf5, 0xe0]) {
        Some("erofs")
    } else if block.starts_with(b"hsqs") {
        Some("squashfs")
    } else {
        None
    }
}
