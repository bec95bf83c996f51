//! The disk image: partition table, EFI system partition, hash tree and root in one sparse file.
//!
//! Takes the sealed parts and gives a raw image that boots from a disk with the given sector size. The order is
//! `esp`, `verity-a`, `root-a`: the root is last so that the node can grow its slot in place. The image carries the
//! root in its own size, and the hash partition in the size that a full slot needs.
//!
//! GUIDs are derived: the root's and its tree's from the root hash, as the Discoverable Partitions Specification
//! wants, the others from the image's id. What is not written is a hole; [`DiskImage::extents`] says which parts of the
//! file matter, and does so from the content, not from the file system that the image happens to be on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

use super::fat::{self, FatError, FatOptions, Volume};
use super::layout::{Kind, Layout, LayoutError, MIB, READ_ONLY, Request, SectorSize};
use super::verity::{self, Verity};

/// Extents begin and end on multiples of this many bytes.
pub const GRAIN: u64 = 4096;

/// A disk image could not be put together.
#[derive(Debug, Error)]
pub enum DiskError {
    /// Reading or writing failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// `read`, `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The root is larger than the slot that it must fit into on the node.
    #[error("the root has {root} bytes, a slot on the node has {slot}; raise image.slot_mib to {} or more", root.div_ceil(MIB))]
    Slot {
        /// Size of the root file system in bytes.
        root: u64,
        /// Size of a slot in bytes.
        slot: u64,
    },
    /// The files handed over do not belong together.
    #[error("{} has {found} bytes, its hash tree was made for {expected}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The size that was expected.
        expected: u64,
    },
    /// See [`LayoutError`].
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// See [`FatError`].
    #[error(transparent)]
    Fat(#[from] FatError),
}

/// What goes into an image.
#[derive(Debug, Clone, Copy)]
pub struct DiskInput<'a> {
    /// Logical sector size of the disks that the image is for.
    pub sector_size: SectorSize,
    /// Size of the EFI system partition in bytes.
    pub esp_bytes: u64,
    /// Size of a root slot on the node in bytes; the hash partition is made large enough for it.
    pub slot_bytes: u64,
    /// Files of the EFI system partition.
    pub esp: &'a fat::Files,
    /// The root file system.
    pub root: &'a Path,
    /// Its hash device, as [`verity::create`] wrote it.
    pub hash: &'a Path,
    /// What [`verity::create`] gave.
    pub verity: &'a Verity,
    /// Identifies the image; disk and partition GUIDs are derived from it.
    pub image_id: Uuid,
    /// Time of the files on the EFI system partition, seconds since 1970.
    pub time: u64,
    /// Where the image goes. It appears under this name when it is complete.
    pub out: &'a Path,
}

/// A part of the image that carries content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte; a multiple of [`GRAIN`].
    pub start: u64,
    /// Size in bytes; a multiple of [`GRAIN`].
    pub length: u64,
}

impl Extent {
    fn covering(start: u64, length: u64) -> Self {
        let first = start - start % GRAIN;
        Self { start: first, length: (start + length).next_multiple_of(GRAIN) - first }
    }

    /// One past its last byte.
    pub fn end(&self) -> u64 {
        self.start + self.length
    }
}

/// A finished image. It can be kept as JSON beside a cached image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskImage {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Its partition table.
    pub layout: Layout,
    /// What of it carries content, in order, without overlap. The rest is zero in the file and need not be written
    /// to a disk.
    pub extents: Vec<Extent>,
    /// SHA-256 of the whole file in hex.
    pub sha256: String,
    /// The EFI system partition's file system.
    pub esp: Volume,
}

/// Writes the image.
pub fn assemble(input: &DiskInput) -> Result<DiskImage, DiskError> {
    let layout = plan(input)?;
    // Beside the final name, so that the rename is atomic; an interrupted build leaves nothing under that name.
    let mut partial = input.out.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    let finished = write(input, &layout, &partial).and_then(|(extents, esp)| {
        let sha256 = sha256(&partial, layout.size, &extents)?;
        std::fs::rename(&partial, input.out).map_err(|source| failed("write", input.out, source))?;
        Ok(DiskImage { path: input.out.to_owned(), size: layout.size, layout, extents, sha256, esp })
    });
    if finished.is_err() {
        // The error at hand says more than a failure to clean up would.
        let _ = std::fs::remove_file(&partial);
    }
    finished
}

/// The layout that the image of these parts has.
pub fn plan(input: &DiskInput) -> Result<Layout, DiskError> {
    let size = |path: &Path| std::fs::metadata(path).map(|m| m.len()).map_err(|source| failed("read", path, source));
    let (root, hash) = (size(input.root)?, size(input.hash)?);
    let expected = input.verity.data_blocks * verity::BLOCK as u64;
    if root != expected {
        return Err(DiskError::Mismatch { path: input.root.to_owned(), found: root, expected });
    }
    if hash != input.verity.hash_bytes {
        let expected = input.verity.hash_bytes;
        return Err(DiskError::Mismatch { path: input.hash.to_owned(), found: hash, expected });
    }
    if root > input.slot_bytes {
        return Err(DiskError::Slot { root, slot: input.slot_bytes });
    }
    let derive = |name: &str| Uuid::new_v5(&input.image_id, name.as_bytes());
    let request =
        |name: &str, kind, guid, size, attributes| Request { name: name.to_owned(), kind, guid, size, attributes };
    let hash_room = verity::hash_device_bytes(input.slot_bytes.div_ceil(verity::BLOCK as u64));
    let requests = vec![
        request("esp", Kind::Esp, derive("esp"), input.esp_bytes, 0),
        request("verity-a", Kind::RootVerity, input.verity.verity_partition_guid(), hash_room, READ_ONLY),
        request("root-a", Kind::Root, input.verity.root_partition_guid(), root, READ_ONLY),
    ];
    Ok(Layout::plan(input.sector_size, derive("disk"), requests)?)
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> DiskError {
    DiskError::Io { doing, path: path.to_owned(), source }
}

fn write(input: &DiskInput, layout: &Layout, path: &Path) -> Result<(Vec<Extent>, Volume), DiskError> {
    let writing = |source| failed("write", path, source);
    let mut image = File::options().read(true).write(true).create(true).truncate(true).open(path).map_err(writing)?;
    image.set_len(layout.size).map_err(writing)?;
    layout.write(&mut image)?;

    let mut extents = vec![Extent { start: 0, length: MIB }];
    let mut esp = None;
    for partition in &layout.partitions {
        let length = match partition.kind {
            Kind::Esp => {
                let serial = Uuid::new_v5(&input.image_id, b"esp serial").as_fields().0;
                let options = FatOptions {
                    size: partition.size,
                    sector_size: input.sector_size,
                    label: "ESP".to_owned(),
                    serial,
                    time: input.time,
                };
                let volume = fat::write_region(&image, partition.start, &options, input.esp)?;
                esp = Some(volume);
                volume.used_bytes
            }
            Kind::RootVerity => copy(input.hash, &image, partition.start, path)?,
            _ => copy(input.root, &image, partition.start, path)?,
        };
        extents.push(Extent::covering(partition.start, length));
    }
    // The second copy of the table.
    extents.push(Extent::covering(layout.end_usable(), layout.size - layout.end_usable()));
    // The layout that `plan` gives begins with the EFI system partition.
    let esp = esp.ok_or(DiskError::Layout(LayoutError::DiskSize(layout.size)))?;
    Ok((merge(extents), esp))
}

/// Joins extents that touch.
fn merge(extents: Vec<Extent>) -> Vec<Extent> {
    let mut merged: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents.into_iter().filter(|extent| extent.length > 0) {
        match merged.last_mut() {
            Some(last) if extent.start <= last.end() => last.length = extent.end().max(last.end()) - last.start,
            _ => merged.push(extent),
        }
    }
    merged
}

/// Copies a whole file to byte `at` of the image: by reference where the file system can, in the kernel otherwise.
fn copy(from: &Path, image: &File, at: u64, image_path: &Path) -> Result<u64, DiskError> {
    let reading = |source| failed("read", from, source);
    let source = File::open(from).map_err(reading)?;
    let length = source.metadata().map_err(reading)?.len();
    let (mut offset_in, mut offset_out) = (0u64, at);
    while offset_in < length {
        let wanted = usize::try_from(length - offset_in).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(&source, Some(&mut offset_in), image, Some(&mut offset_out), wanted) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    // Between file systems, and where the kernel cannot: by hand, from where it stopped.
    let mut buffer = vec![0; 1 << 20];
    while offset_in < length {
        let count = source.read_at(&mut buffer, offset_in).map_err(reading)?;
        if count == 0 {
            return Err(reading(io::ErrorKind::UnexpectedEof.into()));
        }
        image.write_all_at(&buffer[..count], offset_out).map_err(|source| failed("write", image_path, source))?;
        offset_in += count as u64;
        offset_out += count as u64;
    }
    Ok(length)
}

/// SHA-256 of a file whose content outside the extents is known to be zero.
pub fn sha256(path: &Path, size: u64, extents: &[Extent]) -> Result<String, DiskError> {
    let reading = |source| failed("read", path, source);
    let file = File::open(path).map_err(reading)?;
    let mut hasher = Sha256::new();
    let zeros = vec![0; 1 << 20];
    let mut buffer = vec![0; 1 << 20];
    let mut position = 0;
    let end = Extent { start: size, length: 0 };
    for extent in extents.iter().chain([&end]) {
        while position < extent.start {
            let count = (extent.start - position).min(zeros.len() as u64);
            hasher.update(&zeros[..usize::try_from(count).unwrap_or(zeros.len())]);
            position += count;
        }
        while position < extent.end() {
            let count = (extent.end() - position).min(buffer.len() as u64);
            let part = &mut buffer[..usize::try_from(count).unwrap_or(zeros.len())];
            file.read_exact_at(part, position).map_err(reading)?;
            hasher.update(&*part);
            position += count;
        }
    }
    Ok(super::hex(&hasher.finalize()))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::image::fat::Content;
    use crate::image::region::Region;
    use crate::image::testing::peer;

    /// A small image of made-up content.
    pub fn sample(dir: &Path, sector_size: SectorSize) -> DiskImage {
        let root: Vec<u8> = (0..3_000_000u32 / 4096 * 4096).map(|i| u8::try_from(i / 4096 % 251).unwrap()).collect();
        fs::write(dir.join("root"), &root).unwrap();
        let verity = verity::create(&dir.join("root"), &dir.join("hash"), &[1; 32], Uuid::from_u128(5), 2).unwrap();
        let esp = fat::Files::from([
            ("EFI/BOOT/BOOTX64.EFI".to_owned(), Content::Bytes(vec![1; 10_000])),
            ("EFI/Linux/role-1.efi".to_owned(), Content::Bytes(vec![2; 1_000_000])),
        ]);
        let input = DiskInput {
            sector_size,
            esp_bytes: 40 * MIB,
            slot_bytes: 512 * MIB,
            esp: &esp,
            root: &dir.join("root"),
            hash: &dir.join("hash"),
            verity: &verity,
            image_id: Uuid::from_u128(99),
            time: 1_790_000_000,
            out: &dir.join("image.raw"),
        };
        assemble(&input).unwrap()
    }

    #[test]
    fn every_part_is_where_the_table_says() {
        for sector_size in [SectorSize::B512, SectorSize::B4096] {
            let dir = tempfile::tempdir().unwrap();
            let image = sample(dir.path(), sector_size);
            let mut file = File::open(&image.path).unwrap();
            assert_eq!(Layout::read(&mut file, sector_size).unwrap(), image.layout);
            let names: Vec<&str> = image.layout.partitions.iter().map(|p| p.name.as_str()).collect();
            assert_eq!(names, ["esp", "verity-a", "root-a"]);

            let esp = image.layout.partition("esp").unwrap();
            let region = Region::new(&file, esp.start, esp.size);
            assert_eq!(fat::read(region, "EFI/Linux/role-1.efi").unwrap().unwrap(), vec![2; 1_000_000]);

            // Each partition, cut out, is what dm-verity will see.
            for (name, from) in [("root-a", "root"), ("verity-a", "hash")] {
                let partition = image.layout.partition(name).unwrap();
                let wanted = fs::read(dir.path().join(from)).unwrap();
                let mut found = vec![0; wanted.len()];
                file.read_exact_at(&mut found, partition.start).unwrap();
                assert!(found == wanted, "{name}");
            }
            // 512 MiB in blocks of 4096 are 131072 leaves in 1024 blocks, 8 above them, 1 on top, and the superblock.
            let verity = image.layout.partition("verity-a").unwrap();
            assert_eq!(verity.size, 5 * MIB);
            assert!(fs::metadata(&image.path).unwrap().blocks() * 512 < image.size / 4, "the image is sparse");
        }
    }

    #[test]
    fn two_runs_are_the_same_file_and_the_hash_is_right() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = sample(one.path(), SectorSize::B512);
        let second = sample(two.path(), SectorSize::B512);
        assert_eq!(first.sha256, second.sha256);
        assert_eq!(first.extents, second.extents);
        assert_eq!(first.sha256, crate::image::hex(&Sha256::digest(fs::read(&first.path).unwrap())));
        assert!(!one.path().join("image.raw.part").exists());
    }

    #[test]
    fn the_extents_are_all_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let image = sample(dir.path(), SectorSize::B512);
        let mut bytes = fs::read(&image.path).unwrap();
        for extent in &image.extents {
            let range = usize::try_from(extent.start).unwrap()..usize::try_from(extent.end()).unwrap();
            bytes[range].fill(0);
        }
        assert!(bytes.iter().all(|byte| *byte == 0));
        assert!(image.extents.windows(2).all(|pair| pair[0].end() < pair[1].start));
    }

    #[test]
    fn the_table_pleases_sgdisk() {
        let dir = tempfile::tempdir().unwrap();
        let image = sample(dir.path(), SectorSize::B512);
        let Some(sgdisk) = peer("sgdisk") else { return };
        let said = String::from_utf8(sgdisk.arg("-v").arg(&image.path).run().unwrap().stdout).unwrap();
        assert!(said.contains("No problems found"), "{said}");
    }

    #[test]
    fn a_root_larger_than_its_slot_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path(), SectorSize::B512);
        let verity =
            verity::create(&dir.path().join("root"), &dir.path().join("hash"), &[1; 32], Uuid::from_u128(5), 1)
                .unwrap();
        let input = DiskInput {
            sector_size: SectorSize::B512,
            esp_bytes: 40 * MIB,
            slot_bytes: 2 * MIB,
            esp: &fat::Files::new(),
            root: &dir.path().join("root"),
            hash: &dir.path().join("hash"),
            verity: &verity,
            image_id: Uuid::from_u128(99),
            time: 0,
            out: &dir.path().join("other.raw"),
        };
        let text = assemble(&input).unwrap_err().to_string();
        assert!(text.contains("raise image.slot_mib to 3"), "{text}");
        fs::write(dir.path().join("hash"), b"short").unwrap();
        assert!(matches!(assemble(&input), Err(DiskError::Mismatch { .. })));
        assert!(!dir.path().join("other.raw").exists());
    }
}
