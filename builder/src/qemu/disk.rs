//! A guest's own disk: the image stays as it is, the guest writes to a file beside it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::launcher::Launcher;
use super::scenario::FlipBit;
use super::{QemuError, at};

/// Bytes in a GiB.
const GIB: u64 = 1 << 30;

/// A disk file as QEMU opens it.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// `qcow2` or `raw`.
    pub format: &'static str,
    /// Logical sector size in bytes.
    pub sector: u32,
}

/// Makes the disk of a guest as large as `gib` from a raw image.
///
/// Usually that is an empty qcow2 file on top of the image, made at once whatever the size. With bits to flip it is a
/// copy (shared with the image where the file system can, with holes where the image has them).
///
/// # Errors
/// The image is missing or larger than the disk, a partition to flip a bit in does not exist, the disk is full.
pub fn prepare(
    launcher: &dyn Launcher,
    image: &Path,
    directory: &Path,
    name: &str,
    gib: u64,
    sector: u32,
    flips: &[FlipBit],
) -> Result<Disk, QemuError> {
    let image = image.canonicalize().map_err(at("cannot find image", image))?;
    let length = std::fs::metadata(&image).map_err(at("cannot read", &image))?.len();
    let size = gib.saturating_mul(GIB);
    let wrong = |problem: String| QemuError::Image { path: image.clone(), problem };
    if length > size {
        return Err(wrong(format!(
            "has {length} bytes and does not fit on a disk of {gib} GiB; give a larger disk_gib"
        )));
    }
    if flips.is_empty() {
        let path = directory.join(format!("{name}.qcow2"));
        let arguments = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            &image.display().to_string(),
            &path.display().to_string(),
            &size.to_string(),
        ]
        .map(str::to_owned);
        let binds = [directory.to_owned(), parent(&image)];
        launcher.command("qemu-img", &arguments, &binds).run()?;
        return Ok(Disk { path, format: "qcow2", sector });
    }
    let path = directory.join(format!("{name}.raw"));
    let source = File::open(&image).map_err(at("cannot read", &image))?;
    let copy = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .map_err(at("cannot write", &path))?;
    copy_sparse(&source, &copy, length).map_err(at("cannot copy the image to", &path))?;
    copy.set_len(size).map_err(at("cannot write", &path))?;
    for flip in flips {
        let (start, bytes) = partition(&path, &flip.partition, sector).map_err(&wrong)?;
        if flip.offset >= bytes {
            return Err(wrong(format!("partition {} has {bytes} bytes, no byte {}", flip.partition, flip.offset)));
        }
        let mut byte = [0];
        copy.read_exact_at(&mut byte, start + flip.offset).map_err(at("cannot read", &path))?;
        byte[0] ^= 1;
        copy.write_all_at(&byte, start + flip.offset).map_err(at("cannot write", &path))?;
    }
    Ok(Disk { path, format: "raw", sector })
}

impl Disk {
    /// Makes the disk larger, as an administrator of virtual machines would; the guest must be off.
    ///
    /// # Errors
    /// It cannot be resized.
    pub fn grow(&self, launcher: &dyn Launcher, image: &Path, gib: u64) -> Result<(), QemuError> {
        let size = gib.saturating_mul(GIB).to_string();
        let arguments = ["resize", "-q", "-f", self.format, &self.path.display().to_string(), &size].map(str::to_owned);
        launcher.command("qemu-img", &arguments, &[parent(&self.path), parent(image)]).run()?;
        Ok(())
    }
}

/// The directory that a file is in.
pub(super) fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

/// Copies data and leaves holes as holes; shares the extents where the file system can.
fn copy_sparse(source: &File, target: &File, length: u64) -> std::io::Result<()> {
    use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
    if ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    let mut from = 0;
    while from < length {
        from = match seek(source, SeekFrom::Data(from)) {
            Ok(data) => data,
            // No data after this.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(source, SeekFrom::Hole(from))?;
        while from < end {
            let mut to = from;
            let want = usize::try_from(end - from).unwrap_or(usize::MAX);
            if copy_file_range(source, Some(&mut from), target, Some(&mut to), want)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
    Ok(())
}

/// Offset and size in bytes of the partition with this name.
fn partition(path: &Path, name: &str, sector: u32) -> Result<(u64, u64), String> {
    let block = if sector == 4096 { gpt::disk::LogicalBlockSize::Lb4096 } else { gpt::disk::LogicalBlockSize::Lb512 };
    // The disk is larger than the image, so the backup table is not at its end.
    let table = gpt::GptConfig::new()
        .writable(false)
        .only_valid_headers(false)
        .logical_block_size(block)
        .open(path)
        .map_err(|error| format!("its partition table cannot be read: {error}"))?;
    let names: Vec<&str> = table.partitions().values().map(|partition| partition.name.as_str()).collect();
    let found = table.partitions().values().find(|partition| partition.name == name);
    let found = found.ok_or_else(|| format!("has no partition {name}; there are: {}", names.join(", ")))?;
    let sectors = found.last_lba.checked_sub(found.first_lba).and_then(|count| count.checked_add(1));
    let sectors = sectors.ok_or_else(|| format!("partition {name} ends before it begins"))?;
    let bytes =
        |count: u64| count.checked_mul(u64::from(sector)).ok_or_else(|| format!("partition {name} is too large"));
    Ok((bytes(found.first_lba)?, bytes(sectors)?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::process::Tool;
    use crate::qemu::HostLauncher;

    fn image(directory: &Path) -> PathBuf {
        let path = directory.join("image,1.raw");
        let file = File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        let mut disk = gpt::GptConfig::new()
            .writable(true)
            .logical_block_size(gpt::disk::LogicalBlockSize::Lb512)
            .create(&path)
            .unwrap();
        disk.add_partition("root-a", 1 << 20, gpt::partition_types::LINUX_FS, 0, None).unwrap();
        let start = disk.partitions()[&1].first_lba * 512;
        disk.write().unwrap();
        file.write_all_at(&[0x10, 0x20], start + 5000).unwrap();
        path
    }

    #[test]
    fn one_bit_differs_and_the_image_is_untouched() {
        let Ok(launcher) = HostLauncher::new() else {
            println!("skipped: QEMU is not installed");
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        let image = image(directory.path());
        let before = std::fs::read(&image).unwrap();
        let flip = |name: &str, offset| [FlipBit { partition: name.into(), offset }];
        let disk = prepare(&launcher, &image, directory.path(), "g", 1, 512, &flip("root-a", 5001)).unwrap();
        let after = std::fs::read(&disk.path).unwrap();
        assert_eq!(after.len() as u64, GIB);
        let differ: Vec<usize> = (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
        assert_eq!(differ.len(), 1);
        assert_eq!((before[differ[0]], after[differ[0]]), (0x20, 0x21));
        assert_eq!(std::fs::read(&image).unwrap(), before);
        let error = prepare(&launcher, &image, directory.path(), "g", 1, 512, &flip("root-b", 0)).unwrap_err();
        assert!(error.to_string().ends_with("has no partition root-b; there are: root-a"), "{error}");
        assert!(prepare(&launcher, &image, directory.path(), "g", 1, 512, &flip("root-a", 1 << 20)).is_err());
    }

    #[test]
    fn an_overlay_reads_as_the_image_and_can_grow() {
        let Ok(launcher) = HostLauncher::new() else {
            println!("skipped: QEMU is not installed");
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        let image = image(directory.path());
        let disk = prepare(&launcher, &image, directory.path(), "g", 1, 512, &[]).unwrap();
        disk.grow(&launcher, &image, 2).unwrap();
        let info = Tool::new("qemu-img").args(["info", "--output=json"]).arg(&disk.path).run().unwrap();
        let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
        assert_eq!(info["virtual-size"], 2 * GIB);
        assert_eq!(info["backing-filename"].as_str(), image.canonicalize().unwrap().to_str());
        let raw = directory.path().join("back.raw");
        Tool::new("qemu-img").args(["convert", "-O", "raw"]).arg(&disk.path).arg(&raw).run().unwrap();
        assert!(std::fs::read(raw).unwrap().starts_with(&std::fs::read(&image).unwrap()));
    }

    #[test]
    fn an_image_that_is_too_large_is_refused() {
        let Ok(launcher) = HostLauncher::new() else { return };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("big.raw");
        File::create(&path).unwrap().set_len(GIB + 1).unwrap();
        let error = prepare(&launcher, &path, directory.path(), "g", 1, 512, &[]).unwrap_err();
        assert!(error.to_string().contains("disk_gib"), "{error}");
    }

    #[test]
    fn holes_stay_holes() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("a"), directory.path().join("b"));
        let mut source = File::create(&from).unwrap();
        source.write_all(&[7; 100]).unwrap();
        source.set_len(64 << 20).unwrap();
        source.write_all_at(&[8; 100], 32 << 20).unwrap();
        let target = OpenOptions::new().read(true).write(true).create_new(true).open(&to).unwrap();
        copy_sparse(&File::open(&from).unwrap(), &target, 64 << 20).unwrap();
        target.set_len(64 << 20).unwrap();
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
        assert!(target.metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}
