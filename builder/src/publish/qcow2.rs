//! `NAME.qcow2`: the image for QEMU and for what is built on it.
//!
//! Version 3 after QEMU's `docs/interop/qcow2.txt`: clusters of 64 KiB, 16-bit reference counts, no backing file, no
//! compression (the root is compressed already). Clusters that are zero are not allocated. Written here rather than by
//! `qemu-img`, so that it needs no tool and its bytes depend on the image alone:
//!
//! ```text
//! header | reference table | reference blocks | L1 table | L2 tables | data in the order of the disk
//! ```

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Hashing, PublishError, atomically, failed};
use crate::image::disk::DiskImage;
use crate::image::manifest::Output;

const CLUSTER: u64 = 1 << 16;
/// Entries of a table that fills one cluster: 8 bytes each in L1, L2 and the reference table.
const ENTRIES: u64 = CLUSTER / 8;
/// Clusters counted by one reference block: 2 bytes each.
const COUNTS: u64 = CLUSTER / 2;
/// Set where exactly one table refers to the cluster.
const COPIED: u64 = 1 << 63;
const HEADER: usize = 104;

/// Where the parts of the file are, in clusters.
struct Plan {
    table: u64,
    blocks: u64,
    l1: u64,
    /// Numbers of the L2 tables that exist.
    l2: Vec<u64>,
    /// Numbers of the guest's clusters that carry content.
    data: Vec<u64>,
}

impl Plan {
    fn new(guest_clusters: u64, data: Vec<u64>) -> Self {
        let mut l2: Vec<u64> = data.iter().map(|cluster| cluster / ENTRIES).collect();
        l2.dedup();
        let l1 = guest_clusters.div_ceil(ENTRIES).div_ceil(ENTRIES).max(1);
        let rest = 1 + l1 + l2.len() as u64 + data.len() as u64;
        // The reference blocks count themselves and their table: add until it fits.
        let (mut table, mut blocks) = (1, 1);
        loop {
            let needed = (rest + table + blocks).div_ceil(COUNTS);
            let tables = needed.div_ceil(ENTRIES);
            if needed <= blocks && tables <= table {
                return Self { table, blocks, l1, l2, data };
            }
            (table, blocks) = (tables.max(table), needed.max(blocks));
        }
    }

    fn l1_start(&self) -> u64 {
        1 + self.table + self.blocks
    }

    fn l2_start(&self) -> u64 {
        self.l1_start() + self.l1
    }

    fn data_start(&self) -> u64 {
        self.l2_start() + self.l2.len() as u64
    }

    fn clusters(&self) -> u64 {
        self.data_start() + self.data.len() as u64
    }

    fn header(&self, size: u64) -> Result<[u8; HEADER], PublishError> {
        let word = |value: u64| u32::try_from(value).map_err(|_| PublishError::TooLarge { size, format: "qcow2" });
        let l1_entries = word(size.div_ceil(CLUSTER).div_ceil(ENTRIES))?;
        let mut header = [0; HEADER];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"QFI\xfb");
        put(4, &3u32.to_be_bytes());
        put(20, &16u32.to_be_bytes()); // log2 of the cluster size
        put(24, &size.to_be_bytes());
        put(36, &l1_entries.to_be_bytes());
        put(40, &(self.l1_start() * CLUSTER).to_be_bytes());
        put(48, &CLUSTER.to_be_bytes()); // the reference table follows the header
        put(56, &word(self.table)?.to_be_bytes());
        put(96, &4u32.to_be_bytes()); // log2 of the bits in a reference count
        put(100, &104u32.to_be_bytes()); // length of this header
        Ok(header)
    }
}

/// Writes the image as qcow2.
pub fn write(image: &DiskImage, out: &Path) -> Result<Output, PublishError> {
    let reading = failed("read", &image.path);
    let source = File::open(&image.path).map_err(&reading)?;
    let plan = Plan::new(image.size.div_ceil(CLUSTER), content(image, &source)?);
    atomically(out, |file| {
        let writing = failed("write", out);
        let mut sink = BufWriter::with_capacity(1 << 20, Hashing::new(file));
        let mut put = |bytes: &[u8]| sink.write_all(bytes).map_err(&writing);

        put(&cluster(&plan.header(image.size)?))?;
        put_table(&mut put, plan.table, (0..plan.blocks).map(|block| (1 + plan.table + block) * CLUSTER))?;
        for block in 0..plan.blocks {
            let counts = (block * COUNTS..(block + 1) * COUNTS).map(|cluster| u16::from(cluster < plan.clusters()));
            put(&counts.flat_map(u16::to_be_bytes).collect::<Vec<u8>>())?;
        }
        let mut entries = vec![0; usize::try_from(plan.l2.last().map_or(0, |last| last + 1)).unwrap_or_default()];
        for (index, table) in plan.l2.iter().enumerate() {
            // The vector has as many entries as the last table's number asks for.
            if let Some(entry) = usize::try_from(*table).ok().and_then(|table| entries.get_mut(table)) {
                *entry = ((plan.l2_start() + index as u64) * CLUSTER) | COPIED;
            }
        }
        put_table(&mut put, plan.l1, entries.into_iter())?;
        let mut numbers = plan.data.iter().zip(plan.data_start()..).peekable();
        for table in &plan.l2 {
            let entries = (table * ENTRIES..(table + 1) * ENTRIES).map(|guest| {
                numbers.next_if(|(number, _)| **number == guest).map_or(0, |(_, host)| (host * CLUSTER) | COPIED)
            });
            put(&entries.flat_map(u64::to_be_bytes).collect::<Vec<u8>>())?;
        }
        for number in &plan.data {
            let (bytes, count) = read(image, &source, *number)?;
            put(&cluster(&bytes[..count]))?;
        }
        let hashing = sink.into_inner().map_err(|error| writing(error.into_error()))?;
        Ok(hashing.output(out))
    })
}

/// Writes a table of `clusters` clusters that begins with these entries.
fn put_table(
    put: &mut impl FnMut(&[u8]) -> Result<(), PublishError>,
    clusters: u64,
    entries: impl Iterator<Item = u64>,
) -> Result<(), PublishError> {
    let mut bytes: Vec<u8> = entries.flat_map(u64::to_be_bytes).collect();
    bytes.resize(usize::try_from(clusters * CLUSTER).unwrap_or(bytes.len()), 0);
    put(&bytes)
}

/// The bytes, filled up to a cluster with zeros.
fn cluster(bytes: &[u8]) -> Vec<u8> {
    let mut cluster = bytes.to_vec();
    cluster.resize(1 << 16, 0);
    cluster
}

fn read(image: &DiskImage, source: &File, number: u64) -> Result<(Vec<u8>, usize), PublishError> {
    let start = number * CLUSTER;
    let count = usize::try_from(image.size.saturating_sub(start).min(CLUSTER)).unwrap_or(1 << 16);
    let mut bytes = vec![0; count];
    source.read_exact_at(&mut bytes, start).map_err(failed("read", &image.path))?;
    Ok((bytes, count))
}

/// Numbers of the guest's clusters that are not zero.
fn content(image: &DiskImage, source: &File) -> Result<Vec<u64>, PublishError> {
    let mut numbers: Vec<u64> = Vec::new();
    for extent in image.extents.iter().filter(|extent| extent.length > 0) {
        let first = (extent.start / CLUSTER).max(numbers.last().map_or(0, |last| last + 1));
        for number in first..extent.end().min(image.size).div_ceil(CLUSTER) {
            let (bytes, _) = read(image, source, number)?;
            if bytes.iter().any(|byte| *byte != 0) {
                numbers.push(number);
            }
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::image::disk::Extent;
    use crate::image::disk::tests::sample;
    use crate::image::layout::SectorSize;
    use crate::image::testing::peer;

    #[test]
    fn qemu_finds_no_fault_and_no_difference() {
        let dir = tempfile::tempdir().unwrap();
        let image = sample(dir.path(), SectorSize::B512);
        let out = dir.path().join("image.qcow2");
        let output = write(&image, &out).unwrap();
        let bytes = fs::read(&out).unwrap();
        assert_eq!(output.bytes, bytes.len() as u64);
        assert!(output.bytes < image.size / 4);

        let Some(qemu_img) = peer("qemu-img") else { return };
        let said = qemu_img.clone().args(["check", "-f", "qcow2"]).arg(&out).run().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains("No errors were found"), "{said}");
        let compare = ["compare", "-f", "raw", "-F", "qcow2"];
        qemu_img.args(compare).args([&image.path, &out]).run().unwrap();
    }

    #[test]
    fn reference_counts_reach_over_themselves() {
        // So much data that the blocks which count it need counting, at and around the borders of a block.
        for data in [0, 1, COUNTS - 5, COUNTS - 4, COUNTS - 3, COUNTS, 3 * COUNTS, 40 * COUNTS] {
            let plan = Plan::new(data.max(1), (0..data).collect());
            assert!(plan.blocks * COUNTS >= plan.clusters(), "{data}");
            assert!(plan.table * ENTRIES >= plan.blocks, "{data}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn any_extents_are_stored(parts in prop::collection::vec((0u64..40, 1u64..40, 0u8..3), 0..12), big in any::<bool>()) {
            let Some(qemu_img) = peer("qemu-img") else { return Ok(()) };
            let dir = tempfile::tempdir().unwrap();
            let mut image = sample(dir.path(), SectorSize::B512);
            // More than 512 MiB need a second L2 table.
            image.size = if big { 700 << 20 } else { 40 * 80 * 4096 };
            let file = File::create(&image.path).unwrap();
            file.set_len(image.size).unwrap();
            image.extents.clear();
            let mut next = 0;
            for (gap, length, fill) in parts {
                let extent = Extent { start: next + gap * 4096, length: length * 4096 };
                file.write_all_at(&vec![fill; usize::try_from(extent.length).unwrap()], extent.start).unwrap();
                image.extents.push(extent);
                next = extent.end();
            }
            let last = Extent { start: image.size - 4096, length: 4096 };
            if big && last.start > next {
                file.write_all_at(&[9; 4096], last.start).unwrap();
                image.extents.push(last);
            }
            let out = dir.path().join("image.qcow2");
            write(&image, &out).unwrap();
            qemu_img.clone().args(["check", "-f", "qcow2"]).arg(&out).run().unwrap();
            qemu_img.args(["compare", "-f", "raw", "-F", "qcow2"]).args([&image.path, &out]).run().unwrap();
        }
    }
}
