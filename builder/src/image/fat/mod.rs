//! FAT: the EFI system partition and configuration media.
//!
//! Writes a whole FAT file system with its files in one go. FAT32 wherever the size allows it (34 MiB with sectors of
//! 512 bytes, 260 MiB with 4096, which is what firmware expects of an EFI system partition), else FAT16 or FAT12. Sectors of 512 and
//! 4096 bytes. Serial number, label and times are given, never taken from a clock, and files are written in the order
//! of their names: the same arguments give the same bytes.
//!
//! The `fatfs` crate lays out the file system; `dots` then repairs the one thing it gets wrong, so that
//! `fsck.fat` has nothing to say.

mod dots;
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::layout::SectorSize;
use super::region::Region;

/// A FAT file system could not be written.
#[derive(Debug, Error)]
pub enum FatError {
    /// A file that goes onto the file system could not be read.
    #[error("cannot read {} for the FAT file system: {source}", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The image file could not be written.
    #[error("cannot write the FAT file system {label}: {source}")]
    Write {
        /// The volume's label.
        label: String,
        /// What the kernel or the library said.
        source: io::Error,
    },
    /// A path that FAT cannot hold.
    #[error("`{name}` cannot be a path on a FAT file system: {problem}")]
    Name {
        /// The path.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A label that FAT cannot hold.
    #[error("`{0}` cannot be a FAT label: use 1 to 11 characters of A-Z, 0-9, space, `-` and `_`")]
    Label(String),
    /// The files need more room.
    #[error("the files need {needed} bytes, the FAT file system {label} has room for {room}; make it larger")]
    Full {
        /// The volume's label.
        label: String,
        /// What the files need, in whole clusters.
        needed: u64,
        /// What there is.
        room: u64,
    },
    /// The size is not possible.
    #[error("a FAT file system of {0} bytes is not possible: use 1 MiB to 1 TiB in whole sectors")]
    Size(u64),
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What this file holds.
    File(PathBuf),
}

/// The files of a volume by path, `/`-separated, without a leading `/`. Directories are made as needed.
pub type Files = BTreeMap<String, Content>;

/// How the volume is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FatOptions {
    /// Size in bytes.
    pub size: u64,
    /// Logical sector size of the disk it is on.
    pub sector_size: SectorSize,
    /// The label, at most 11 characters.
    pub label: String,
    /// The serial number.
    pub serial: u32,
    /// Time of every file, seconds since 1970, in UTC. FAT begins in 1980 and counts in steps of two seconds.
    pub time: u64,
}

/// A volume that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// 12, 16 or 32.
    pub bits: u8,
    /// How many bytes from the start carry anything; what follows is unallocated clusters.
    pub used_bytes: u64,
    /// Bytes still free for files.
    pub free_bytes: u64,
}

/// Writes a volume into a file of its own; an existing file is replaced.
pub fn write_file(path: &Path, options: &FatOptions, files: &Files) -> Result<Volume, FatError> {
    let failed = |source| FatError::Write { label: options.label.clone(), source };
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path).map_err(failed)?;
    file.set_len(options.size).map_err(failed)?;
    write_region(&file, 0, options, files)
}

/// Writes a volume at byte `start` of an image file. The range must be zero: unused parts of it are not written.
pub fn write_region(image: &File, start: u64, options: &FatOptions, files: &Files) -> Result<Volume, FatError> {
    let label = label(&options.label)?;
    let failed = |source| FatError::Write { label: options.label.clone(), source };
    let sector = options.sector_size.bytes();
    if !(1 << 20..=1 << 40).contains(&options.size) || !options.size.is_multiple_of(sector) {
        return Err(FatError::Size(options.size));
    }
    let tree = tree(files)?;
    let mut region = Region::new(image, start, options.size);

    let mut format = FormatVolumeOptions::new()
        .bytes_per_sector(if sector == 4096 { 4096 } else { 512 })
        .volume_id(options.serial)
        .volume_label(label);
    if let Some(cluster) = fat32_cluster(options.size, sector) {
        format = format.fat_type(FatType::Fat32).bytes_per_cluster(cluster);
    }
    fatfs::format_volume(&mut region, format).map_err(failed)?;

    time::set(options.time);
    let (bits, free_bytes) = {
        let volume = FileSystem::new(&mut region, FsOptions::new().time_provider(&time::CLOCK)).map_err(failed)?;
        let cluster = u64::from(volume.cluster_size());
        let free = u64::from(volume.stats().map_err(failed)?.free_clusters()) * cluster;
        let wanted = needed(files, &tree, cluster)?;
        if wanted > free {
            return Err(FatError::Full { label: options.label.clone(), needed: wanted, room: free });
        }
        let root = volume.root_dir();
        for directory in &tree {
            root.create_dir(directory).map_err(failed)?;
        }
        for (name, content) in files {
            let mut file = root.create_file(name).map_err(failed)?;
            match content {
                Content::Bytes(bytes) => file.write_all(bytes).map_err(failed)?,
                Content::File(path) => copy(path, &mut file, &options.label)?,
            }
            file.flush().map_err(failed)?;
        }
        let bits = match volume.fat_type() {
            FatType::Fat12 => 12,
            FatType::Fat16 => 16,
            FatType::Fat32 => 32,
        };
        let free = u64::from(volume.stats().map_err(failed)?.free_clusters()) * cluster;
        drop(root);
        volume.unmount().map_err(failed)?;
        (bits, free)
    };
    dots::repair(&mut region).map_err(failed)?;
    Ok(Volume { bits, used_bytes: region.high_water(), free_bytes })
}

/// Reads one file of a volume, or `None` if it has no such file.
pub fn read<D: Read + Write + Seek>(device: D, name: &str) -> io::Result<Option<Vec<u8>>> {
    let volume = FileSystem::new(device, FsOptions::new())?;
    let root = volume.root_dir();
    let bytes = match root.open_file(name) {
        Ok(mut file) => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Some(bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(bytes)
}

/// The largest cluster up to 4096 bytes that leaves enough clusters for FAT32, if there is one.
fn fat32_cluster(size: u64, sector: u64) -> Option<u32> {
    // FAT32 has at least 65525 clusters; 600 more leave room for the tables in front of them.
    [4096u32, 2048, 1024, 512]
        .into_iter()
        .filter(|cluster| u64::from(*cluster) >= sector)
        .find(|cluster| (size - size / 64) / u64::from(*cluster) >= 65_525 + 600)
        .map(|cluster| if size >= 16 << 30 { 32 * 1024 } else { cluster })
}

fn copy(path: &Path, out: &mut impl Write, label: &str) -> Result<(), FatError> {
    let read = |source| FatError::Source { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(read)?;
        if count == 0 {
            return Ok(());
        }
        out.write_all(&buffer[..count]).map_err(|source| FatError::Write { label: label.to_owned(), source })?;
    }
}

/// What the files and directories take in whole clusters.
fn needed(files: &Files, tree: &BTreeSet<String>, cluster: u64) -> Result<u64, FatError> {
    let mut total = 0u64;
    for content in files.values() {
        let size = match content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::File(path) => {
                std::fs::metadata(path).map_err(|source| FatError::Source { path: path.clone(), source })?.len()
            }
        };
        total = total.saturating_add(size.next_multiple_of(cluster));
    }
    // A name takes at most 21 slots of 32 bytes: 20 for the long name and one for the short.
    let mut entries: BTreeMap<&str, u64> = tree.iter().map(|directory| (directory.as_str(), 4)).collect();
    for path in files.keys().map(String::as_str).chain(tree.iter().map(String::as_str)) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        *entries.entry(parent).or_default() += 1 + (name.encode_utf16().count() as u64).div_ceil(13);
    }
    Ok(entries.values().fold(total, |total, slots| total.saturating_add((slots * 32).next_multiple_of(cluster))))
}

/// Checks every path and gives the directories to make, parents first.
fn tree(files: &Files) -> Result<BTreeSet<String>, FatError> {
    let mut directories = BTreeSet::new();
    let mut folded: BTreeMap<String, &str> = BTreeMap::new();
    for name in files.keys() {
        let refuse = |problem| FatError::Name { name: name.clone(), problem };
        for part in name.split('/') {
            match part {
                "" => return Err(refuse("a part of it is empty")),
                "." | ".." => return Err(refuse("it has a `.` or `..` part")),
                _ if part.ends_with(['.', ' ']) => return Err(refuse("a part of it ends with a dot or a space")),
                // The library derives a short name from it that `fsck.fat` would repair.
                _ if part.starts_with(['.', ' ']) => return Err(refuse("a part of it begins with a dot or a space")),
                _ if part.contains(['"', '*', ':', '<', '>', '?', '\\', '|']) || part.chars().any(char::is_control) => {
                    return Err(refuse("it has a character that FAT does not allow"));
                }
                _ if part.encode_utf16().count() > 255 => return Err(refuse("a part of it is longer than 255")),
                _ => {}
            }
        }
        // FAT does not tell upper from lower case.
        if folded.insert(name.to_lowercase(), name).is_some() {
            return Err(refuse("another path differs from it in case only"));
        }
        let mut parent = name.as_str();
        while let Some((above, _)) = parent.rsplit_once('/') {
            directories.insert(above.to_owned());
            parent = above;
        }
    }
    for directory in &directories {
        if folded.contains_key(&directory.to_lowercase()) {
            return Err(FatError::Name { name: directory.clone(), problem: "it is a file and a directory" });
        }
    }
    Ok(directories)
}

fn label(text: &str) -> Result<[u8; 11], FatError> {
    let allowed = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || matches!(b, b' ' | b'-' | b'_');
    if text.is_empty() || text.len() > 11 || text.starts_with(' ') || !text.bytes().all(allowed) {
        return Err(FatError::Label(text.to_owned()));
    }
    let mut label = [b' '; 11];
    label[..text.len()].copy_from_slice(text.as_bytes());
    Ok(label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::testing::peer;

    fn options(mib: u64, sector_size: SectorSize) -> FatOptions {
        let label = "INGOT".to_owned();
        FatOptions { size: mib << 20, sector_size, label, serial: 0x1234_abcd, time: 1_790_000_001 }
    }

    fn files() -> Files {
        let bytes = |bytes: &[u8]| Content::Bytes(bytes.to_vec());
        Files::from([
            ("node.toml".to_owned(), bytes(b"version = 1\n")),
            ("empty".to_owned(), bytes(b"")),
            ("EFI/BOOT/BOOTX64.EFI".to_owned(), bytes(&vec![3; 100_001])),
            ("EFI/Linux/quickstart-worker-2026.1+3-0.efi".to_owned(), bytes(&vec![4; 300_000])),
            ("loader/loader.conf".to_owned(), bytes(b"timeout 0\n")),
            ("loader/a/b/c/deep file with spaces.txt".to_owned(), bytes(b"deep")),
        ])
    }

    fn check(path: &Path) {
        let Some(fsck) = peer("fsck.fat") else { return };
        let said = fsck.args(["-n", "-v"]).arg(path).run().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(!said.contains("Dirty bit") && !said.contains("uninitialized"), "{said}");
    }

    #[test]
    fn fsck_is_content_and_the_files_are_there() {
        for (mib, sector_size, bits) in [
            (2, SectorSize::B512, 12),
            (16, SectorSize::B512, 16),
            (30, SectorSize::B512, 16),
            (35, SectorSize::B512, 32),
            (64, SectorSize::B512, 32),
            (300, SectorSize::B512, 32),
            (64, SectorSize::B4096, 16),
            (265, SectorSize::B4096, 32),
            (512, SectorSize::B4096, 32),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let volume = write_file(file.path(), &options(mib, sector_size), &files()).unwrap();
            assert_eq!(volume.bits, bits, "{mib} MiB");
            check(file.path());
            for (name, content) in &files() {
                let found = read(file.reopen().unwrap(), name).unwrap().unwrap();
                assert_eq!(&Content::Bytes(found), content, "{name}");
            }
            assert_eq!(read(file.reopen().unwrap(), "nothing").unwrap(), None);
            // What is not in the used part is not needed: a copy without the rest is the same.
            let used = volume.used_bytes.next_multiple_of(4096);
            let next = rustix::fs::seek(file.as_file(), rustix::fs::SeekFrom::Data(used));
            assert_eq!(next, Err(rustix::io::Errno::NXIO), "{mib} MiB");
        }
    }

    #[test]
    fn the_same_arguments_give_the_same_bytes() {
        let write = || {
            let file = tempfile::NamedTempFile::new().unwrap();
            write_file(file.path(), &options(40, SectorSize::B512), &files()).unwrap();
            std::fs::read(file.path()).unwrap()
        };
        assert!(write() == write());
    }

    #[test]
    fn mtools_reads_time_and_label() {
        let Some(mdir) = peer("mdir") else { return };
        let file = tempfile::NamedTempFile::new().unwrap();
        write_file(file.path(), &options(40, SectorSize::B512), &files()).unwrap();
        let said = mdir.environment([("LC_ALL", "C")]).arg("-i").arg(file.path()).args(["-/", "::"]).run().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains("Volume in drive : is INGOT"), "{said}");
        assert!(said.contains("1234-ABCD"), "{said}");
        assert!(said.contains("2026-09-21  14:13"), "{said}");
        assert!(said.contains("quickstart-worker-2026.1+3-0.efi"), "{said}");
    }

    #[test]
    fn too_much_is_refused_before_it_is_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let files = Files::from([("big".to_owned(), Content::Bytes(vec![1; 3 << 20]))]);
        let error = write_file(file.path(), &options(2, SectorSize::B512), &files).unwrap_err();
        assert!(matches!(error, FatError::Full { .. }), "{error}");
    }

    #[test]
    fn impossible_names_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for name in ["/a", "a//b", "../a", "a/./b", "a:b", "dot.", "b\n", "", "a/", ".a"] {
            let files = Files::from([(name.to_owned(), Content::Bytes(Vec::new()))]);
            let error = write_file(file.path(), &options(2, SectorSize::B512), &files).unwrap_err();
            assert!(matches!(error, FatError::Name { .. }), "{name}: {error}");
        }
        for pair in [["a", "A"], ["x/y", "X"]] {
            let files = pair.map(|name| (name.to_owned(), Content::Bytes(Vec::new()))).into();
            let error = write_file(file.path(), &options(2, SectorSize::B512), &files).unwrap_err();
            assert!(matches!(error, FatError::Name { .. }), "{pair:?}: {error}");
        }
        for label in ["", "twelve chars", "lower", " A", "A/B"] {
            let options = FatOptions { label: label.to_owned(), ..options(2, SectorSize::B512) };
            assert!(matches!(write_file(file.path(), &options, &Files::new()), Err(FatError::Label(_))), "{label}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_tree_is_clean(
            names in prop::collection::btree_set("([a-z]{1,3}/){0,3}[A-Za-z0-9 ._-]{0,20}[a-z]", 0..60), size in 0usize..9000
        ) {
            let files: Files = names.iter().map(|n| (n.clone(), Content::Bytes(vec![7; size]))).collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            match write_file(file.path(), &options(4, SectorSize::B512), &files) {
                Ok(_) => {
                    check(file.path());
                    for name in &names {
                        prop_assert_eq!(read(file.reopen().unwrap(), name).unwrap(), Some(vec![7; size]));
                    }
                }
                Err(error) => prop_assert!(matches!(error, FatError::Name { .. } | FatError::Full { .. }), "{}", error),
            }
        }
    }
}
