use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::stage1::layout::{self, LayoutError};
use crate::stage1::storage::{Source, Storage};

impl Storage for Vec<u8> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let space = self.get_mut(start..start + bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        space.copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const MIB: u64 = 1 << 20;
const SLOT: u64 = 64 * MIB;

fn geometry(sector_bytes: u64, mebibytes: u64) -> Geometry {
    Geometry { sector_bytes, sectors: mebibytes * MIB / sector_bytes }
}

fn id(number: u8) -> Uuid {
    Uuid::from_bytes([number; 16])
}

/// The table of an image as the builder makes it, for an image file of 40 MiB.
fn image_table(sector_bytes: u64) -> (Table, Geometry) {
    let geometry = geometry(sector_bytes, 40);
    let unit = MIB / sector_bytes;
    let partition = |name: &str, kind, number, start: u64, length: u64| {
        let (first, last) = (start * unit, (start + length) * unit - 1);
        Some(Partition { kind, id: id(number), first, last, attributes: 0, name: name.to_owned() })
    };
    let mut entries = vec![
        partition("esp", TYPE_ESP, 2, 1, 16),
        partition("verity-a", TYPE_ROOT_VERITY, 3, 17, 1),
        partition("root-a", TYPE_ROOT, 4, 18, 20),
    ];
    entries.resize(128, None);
    let mut table = Table { disk_id: id(1), first_usable: 0, last_usable: 0, entry_bytes: 128, entries };
    table.first_usable = 2 + table.entry_sectors(sector_bytes);
    table.last_usable = geometry.sectors - 2 - table.entry_sectors(sector_bytes);
    (table, geometry)
}

/// An image on a larger disk, and the disk's geometry.
pub fn flashed_disk(sector_bytes: u64, mebibytes: u64) -> (Vec<u8>, Table, Geometry) {
    let (table, image) = image_table(sector_bytes);
    let mut disk = vec![0; usize::try_from(40 * MIB).unwrap()];
    write(&mut disk, image, &table).unwrap();
    disk.resize(usize::try_from(mebibytes * MIB).unwrap(), 0);
    (disk, table, geometry(sector_bytes, mebibytes))
}

pub fn fresh_ids() -> impl FnMut() -> Uuid {
    let mut number = 100_u128;
    move || {
        number += 1;
        Uuid::from_u128(number << 64 | 7)
    }
}

#[test]
fn the_checksum_is_the_standard_one() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

#[test]
fn a_first_boot_lays_out_the_disk() {
    for sector_bytes in [512, 4096] {
        let (mut disk, image, geometry) = flashed_disk(sector_bytes, 600);
        let found = read(&disk, geometry).unwrap();
        assert_eq!(found.table, image);
        let node = layout::for_first_boot(&found.table, geometry, SLOT, fresh_ids()).unwrap();
        write(&mut disk, geometry, &node).unwrap();
        let found = read(&disk, geometry).unwrap();
        assert_eq!(found, Found { table: node.clone(), from_primary: true, backup_is_whole: true });

        let names: Vec<(u32, &str)> = node.partitions().map(|(number, p)| (number, p.name.as_str())).collect();
        assert_eq!(names, [(1, "esp"), (2, "verity-a"), (3, "root-a"), (4, "verity-b"), (5, "root-b"), (6, "var")]);
        let old: BTreeSet<Uuid> = image.partitions().map(|(_, p)| p.id).chain([image.disk_id]).collect();
        let new: BTreeSet<Uuid> = node.partitions().map(|(_, p)| p.id).chain([node.disk_id]).collect();
        assert!(old.is_disjoint(&new) && new.len() == 7, "every id is new and its own");
        for name in ["root-a", "root-b"] {
            assert_eq!(node.named(name).unwrap().1.sectors() * sector_bytes, SLOT);
        }
        for (_, partition) in node.partitions() {
            assert_eq!(partition.first * sector_bytes % MIB, 0, "{}", partition.name);
        }
        assert_eq!((node.named("var").unwrap().1.last + 1) * sector_bytes, 599 * MIB);

        let larger = super::tests::geometry(sector_bytes, 700);
        disk.resize(usize::try_from(700 * MIB).unwrap(), 0);
        let grown = layout::for_grown_disk(&read(&disk, larger).unwrap().table, larger).unwrap();
        write(&mut disk, larger, &grown).unwrap();
        assert_eq!((grown.named("var").unwrap().1.last + 1) * sector_bytes, 699 * MIB);
        assert_eq!(grown.named("var").unwrap().1.first, node.named("var").unwrap().1.first);
        assert_eq!(layout::for_grown_disk(&grown, larger), None, "once is enough");
        assert_eq!(read(&disk, larger).unwrap().table, grown);
    }
}

#[test]
fn a_disk_that_cannot_be_laid_out_is_refused_with_numbers() {
    let (_, image, geometry) = flashed_disk(512, 300);
    let error = layout::for_first_boot(&image, geometry, SLOT, fresh_ids()).unwrap_err();
    assert!(matches!(error, LayoutError::TooSmall { has, .. } if has == 300 * MIB), "{error}");
    let LayoutError::TooSmall { needs, .. } = error else { unreachable!() };
    let enough = Geometry { sector_bytes: 512, sectors: needs.div_ceil(512) };
    assert!(layout::for_first_boot(&image, enough, SLOT, fresh_ids()).is_ok(), "what it asks for is enough");
    let short = Geometry { sector_bytes: 512, sectors: needs / 512 - 2048 };
    assert!(layout::for_first_boot(&image, short, SLOT, fresh_ids()).is_err(), "and not more than is needed");

    let large = super::tests::geometry(512, 1000);
    let mut other = image.clone();
    other.entries[3] =
        Some(Partition { first: 100_000, last: 200_000, name: "data".to_owned(), ..image.entries[0].clone().unwrap() });
    let error = layout::for_first_boot(&other, large, SLOT, fresh_ids()).unwrap_err();
    assert_eq!(error, LayoutError::InTheWay("data".to_owned()));
    let mut other = image.clone();
    other.entries.truncate(5);
    assert_eq!(layout::for_first_boot(&other, large, SLOT, fresh_ids()), Err(LayoutError::NoEntry));
    assert!(layout::for_first_boot(&image, large, u64::MAX, fresh_ids()).is_err(), "no overflow");
}

#[test]
fn a_deleted_var_gets_its_place_back_and_ids_stay() {
    let (_, image, geometry) = flashed_disk(512, 600);
    let node = layout::for_first_boot(&image, geometry, SLOT, fresh_ids()).unwrap();
    let mut without = node.clone();
    without.entries[5] = None;
    let again = layout::for_lost_var(&without, geometry, id(9)).unwrap();
    assert_eq!(again.named("var").unwrap().1.id, id(9));
    let mut expected = node.clone();
    expected.entries[5].as_mut().unwrap().id = id(9);
    assert_eq!(again, expected);
    let small = super::tests::geometry(512, 200);
    assert!(matches!(layout::for_lost_var(&without, small, id(9)), Err(LayoutError::NoRoomForVar { .. })));
}

/// A disk with a volatile cache that loses power: it takes at most so many sector writes, and of those since the
/// last flush only some are carried out.
#[derive(Clone)]
struct FailingDisk<'a> {
    base: &'a Vec<u8>,
    sector_bytes: u64,
    /// Sectors by offset that are safe.
    durable: BTreeMap<u64, Vec<u8>>,
    /// Sectors written since the last flush, in order.
    pending: Vec<(u64, Vec<u8>)>,
    left: usize,
}

impl<'a> FailingDisk<'a> {
    fn new(base: &'a Vec<u8>, sector_bytes: u64) -> Self {
        Self { base, sector_bytes, durable: BTreeMap::new(), pending: Vec::new(), left: usize::MAX }
    }

    /// The disk after the power is back: of the pending sectors, those whose bit is set were carried out.
    fn after_power_cut(&self, mask: u64) -> Self {
        let mut disk = self.clone();
        let pending = std::mem::take(&mut disk.pending).into_iter().enumerate();
        disk.durable.extend(pending.filter(|(index, _)| mask >> (index % 64) & 1 == 1).map(|(_, write)| write));
        disk.left = usize::MAX;
        disk
    }
}

impl Source for FailingDisk<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.base.read_at(offset, buffer)?;
        let end = offset + buffer.len() as u64;
        let durable = self.durable.range(offset..end).map(|(at, bytes)| (*at, bytes));
        let pending = self.pending.iter().filter(|(at, _)| (offset..end).contains(at)).map(|(at, bytes)| (*at, bytes));
        for (at, bytes) in durable.chain(pending) {
            let space = &mut buffer[usize::try_from(at - offset).unwrap()..];
            let length = space.len().min(bytes.len());
            space[..length].copy_from_slice(&bytes[..length]);
        }
        Ok(())
    }
}

impl Storage for FailingDisk<'_> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let step = usize::try_from(self.sector_bytes).unwrap();
        for (offset, bytes) in (offset..).step_by(step).zip(bytes.chunks(step)) {
            self.left = self.left.checked_sub(1).ok_or_else(|| io::Error::other("no power"))?;
            self.pending.push((offset, bytes.to_vec()));
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.durable.extend(std::mem::take(&mut self.pending));
        Ok(())
    }
}

#[test]
fn a_power_cut_at_any_write_leaves_a_disk_that_boots() {
    // Which of the pending sectors are carried out: none, all, every other, only the last ones, only the first.
    const MASKS: [u64; 6] =
        [0, u64::MAX, 0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa, 0x1_0000_0001, 0xffff_ffff_ffff_fffe];
    for sector_bytes in [512, 4096] {
        // Two tables and the MBR.
        let writes = 2 * (16384 / sector_bytes + 1) + 1;
        let (disk, image, geometry) = flashed_disk(sector_bytes, 600);
        let node = layout::for_first_boot(&image, geometry, SLOT, fresh_ids()).unwrap();
        let (mut old, mut new, mut damaged_primaries) = (0, 0, 0);
        for left in 0..=usize::try_from(writes).unwrap() {
            let mut failing = FailingDisk { left, ..FailingDisk::new(&disk, sector_bytes) };
            assert_eq!(write(&mut failing, geometry, &node).is_err(), (left as u64) < writes);
            for mask in MASKS {
                let mut content = failing.after_power_cut(mask);
                let found = read(&content, geometry).unwrap();
                damaged_primaries += usize::from(!found.from_primary);
                let next = if found.table == image {
                    old += 1;
                    // The next boot does it all again.
                    layout::for_first_boot(&found.table, geometry, SLOT, fresh_ids()).unwrap()
                } else {
                    assert_eq!(found.table, node, "cut after {left}, mask {mask:x}");
                    new += 1;
                    // The next boot repairs.
                    found.table
                };
                write(&mut content, geometry, &next).unwrap();
                let found = read(&content, geometry).unwrap();
                assert_eq!(found, Found { table: next, from_primary: true, backup_is_whole: true });
            }
        }
        assert!(old > 0 && new > 0 && damaged_primaries > 0, "all three are met");
    }
}

#[test]
fn a_damaged_primary_is_no_loss_and_a_foreign_one_is_explained() {
    let (mut disk, image, _) = flashed_disk(512, 40);
    let geometry = geometry(512, 40);
    disk[512 + 60] ^= 1;
    let found = read(&disk, geometry).unwrap();
    assert_eq!((found.table, found.from_primary), (image.clone(), false));
    disk[512..1024].fill(0);
    assert_eq!(read(&disk, geometry).unwrap().table, image);
    let end = disk.len();
    disk[end - 512..].fill(0);
    assert!(matches!(read(&disk, geometry), Err(GptError::NoHeader(1))));

    let (disk, ..) = flashed_disk(4096, 40);
    let error = read(&disk, geometry).unwrap_err();
    assert!(matches!(error, GptError::OtherSectorSize { disk: 512, table: 4096 }), "{error}");
}

/// The backup lies where the image ended, and the primary's entries are torn.
#[test]
fn the_backup_of_the_image_is_found_on_a_larger_disk() {
    let (mut disk, image, geometry) = flashed_disk(512, 600);
    disk[1024 + 5] ^= 1;
    let found = read(&disk, geometry).unwrap();
    assert_eq!((found.table, found.from_primary), (image, false));
}

/// Runs a program on a file; `None` when it is not installed.
fn run(program: &str, arguments: &[&str], file: &Path) -> Option<String> {
    #[allow(clippy::disallowed_methods)]
    let result = std::process::Command::new(program).args(arguments).arg(file).output();
    let Ok(output) = result else {
        eprintln!("skipped: {program} is not installed");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {text}");
    Some(text)
}

#[test]
fn other_tools_agree_with_what_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let (_, image, geometry) = flashed_disk(512, 600);
    let node = layout::for_first_boot(&image, geometry, SLOT, fresh_ids()).unwrap();
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(600 * MIB).unwrap();
    write(&mut file, geometry, &node).unwrap();
    if let Some(text) = run("sgdisk", &["-v"], &path) {
        assert!(text.contains("No problems found"), "{text}");
    }
    if let Some(text) = run("sgdisk", &["-p"], &path) {
        for (number, partition) in node.partitions() {
            let row = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let row = row.into_iter().find(|row| row.first() == Some(&number.to_string().as_str())).unwrap();
            assert_eq!(row[1..3], [partition.first.to_string(), partition.last.to_string()]);
            assert_eq!(row.last(), Some(&partition.name.as_str()));
        }
    }
    if let Some(text) = run("sfdisk", &["--verify"], &path) {
        assert!(text.contains("No errors detected"), "{text}");
    }
    if let Some(text) = run("sfdisk", &["--dump"], &path) {
        for (_, partition) in node.partitions() {
            assert!(text.to_lowercase().contains(&format!("uuid={}", partition.id)), "{text}");
        }
    }

    // And sgdisk's own table is read as it means it.
    let arguments = ["-o", "-n1:2048:+16M", "-t1:ef00", "-c1:esp", "-n5:65536:+8M", "-t5:8303", "-c5:grün 😀"];
    if run("sgdisk", &arguments, &path).is_some() {
        let found = read(&File::open(&path).unwrap(), geometry).unwrap();
        assert!(found.from_primary && found.backup_is_whole);
        let (number, partition) = found.table.named("grün 😀").unwrap();
        assert_eq!((number, partition.first, partition.sectors()), (5, 65536, 16384));
        assert_eq!(found.table.named("esp").unwrap().1.kind, TYPE_ESP);
    }
}

/// For sectors of 4096 bytes the peer is another implementation in Rust: the tools take the size from a device.
#[test]
fn another_implementation_reads_both_sector_sizes() {
    for (sector_bytes, block) in
        [(512, ::gpt::disk::LogicalBlockSize::Lb512), (4096, ::gpt::disk::LogicalBlockSize::Lb4096)]
    {
        let (mut disk, image, geometry) = flashed_disk(sector_bytes, 600);
        let node = layout::for_first_boot(&image, geometry, SLOT, fresh_ids()).unwrap();
        write(&mut disk, geometry, &node).unwrap();
        let theirs = ::gpt::GptConfig::new()
            .writable(false)
            .logical_block_size(block)
            .open_from_device(io::Cursor::new(disk))
            .unwrap();
        assert_eq!(theirs.guid(), &node.disk_id);
        for (number, partition) in node.partitions() {
            let their = &theirs.partitions()[&number];
            assert_eq!((their.first_lba, their.last_lba), (partition.first, partition.last));
            assert_eq!((&their.name, their.part_guid), (&partition.name, partition.id));
            assert_eq!(their.flags, partition.attributes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever stands in the header, with a right checksum, the reader gives a sound table or an error.
    #[test]
    fn a_hostile_header_gives_a_sound_table_or_an_error(
        at in 8_usize..92, value in any::<u64>(), small in any::<bool>(),
    ) {
        let (table, geometry) = image_table(512);
        let mut disk = vec![0; usize::try_from(40 * MIB).unwrap()];
        write(&mut disk, geometry, &table).unwrap();
        let value = if small { value % 300 } else { value };
        let end = (at + 8).min(92);
        disk[512 + at..512 + end].copy_from_slice(&value.to_le_bytes()[..end - at]);
        disk[528..532].fill(0);
        let crc = crc32(&disk[512..604]);
        disk[528..532].copy_from_slice(&crc.to_le_bytes());
        disk.truncate(30 << 20);
        let geometry = Geometry { sectors: disk.len() as u64 / 512, ..geometry };
        if let Ok(found) = read(&disk, geometry) {
            for (_, partition) in found.table.partitions() {
                prop_assert!(partition.first <= partition.last && partition.last < geometry.sectors);
            }
            let _ = layout::for_first_boot(&found.table, geometry, SLOT, fresh_ids());
            let _ = layout::for_grown_disk(&found.table, geometry);
        }
    }

    /// Hostile entries, with right checksums.
    #[test]
    fn hostile_entries_give_a_sound_table_or_an_error(
        entries in proptest::collection::vec((0_u64..100_000, 0_u64..100_000, any::<[u8; 72]>()), 1..6),
        slot in any::<u64>(),
    ) {
        let (mut table, geometry) = image_table(512);
        let mut disk = vec![0; 1 << 20];
        disk.resize(usize::try_from(40 * MIB).unwrap(), 0);
        write(&mut disk, geometry, &table).unwrap();
        for (index, (first, last, name)) in entries.iter().enumerate() {
            let at = 1024 + index * 128;
            disk[at..at + 16].copy_from_slice(&TYPE_ROOT.to_bytes_le());
            disk[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
            disk[at + 40..at + 48].copy_from_slice(&last.to_le_bytes());
            disk[at + 56..at + 128].copy_from_slice(name);
        }
        let crc = crc32(&disk[1024..1024 + 16384]);
        disk[600..604].copy_from_slice(&crc.to_le_bytes());
        disk[528..532].fill(0);
        let crc = crc32(&disk[512..604]);
        disk[528..532].copy_from_slice(&crc.to_le_bytes());
        let end = disk.len();
        disk[end - 512..].fill(0);
        if let Ok(found) = read(&disk, geometry) {
            table = found.table;
            let mut end = 0;
            let mut extents: Vec<_> = table.partitions().map(|(_, p)| (p.first, p.last)).collect();
            extents.sort_unstable();
            for (first, last) in extents {
                prop_assert!(first > end && last >= first && last < geometry.sectors);
                end = last;
            }
            let _ = layout::for_first_boot(&table, geometry, slot, fresh_ids());
        }
    }
}
