//! The disks that the kernel has, as `/sys/block` shows them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::dm::DeviceNumber;
use super::gpt::Geometry;

const SYS_BLOCK: &str = "/sys/block";

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's name: `vda`, `nvme0n1`.
    pub name: String,
    /// Its size.
    pub geometry: Geometry,
    /// What it is, as far as the kernel knows: `QEMU HARDDISK`; may be empty.
    pub model: String,
    /// Where in `/sys` it is.
    directory: PathBuf,
}

/// A partition that the kernel has a device for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDevice {
    /// The path below `/dev`.
    pub node: PathBuf,
    /// The device number.
    pub device: DeviceNumber,
    /// Its first byte on the disk.
    pub start: u64,
    /// Its bytes.
    pub length: u64,
}

/// All disks that could hold a system, sorted by name. No RAM, loop, device-mapper or floppy devices, no optical
/// drives, nothing without a medium.
pub fn list() -> Vec<Disk> {
    list_in(Path::new(SYS_BLOCK))
}

fn list_in(directory: &Path) -> Vec<Disk> {
    let mut disks: Vec<Disk> =
        fs::read_dir(directory).into_iter().flatten().flatten().filter_map(|entry| disk(&entry.path())).collect();
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    disks
}

fn disk(directory: &Path) -> Option<Disk> {
    const NO_DISKS: [&str; 8] = ["loop", "ram", "zram", "dm-", "md", "fd", "sr", "nbd"];
    let name = directory.file_name()?.to_str()?;
    if NO_DISKS.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    let sector_bytes = attribute(directory, "queue/logical_block_size")?.parse().ok()?;
    // `size` counts units of 512 bytes, whatever the sectors are.
    let bytes = attribute(directory, "size")?.parse::<u64>().ok()?.checked_mul(512)?;
    if bytes == 0 || sector_bytes == 0 {
        return None;
    }
    let words = [attribute(directory, "device/vendor"), attribute(directory, "device/model")];
    Some(Disk {
        // A `/` of the device's name is a `!` in the name of its directory.
        name: name.replace('!', "/"),
        geometry: Geometry { sector_bytes, sectors: bytes / sector_bytes },
        model: words.into_iter().flatten().filter(|word| !word.starts_with("0x")).collect::<Vec<_>>().join(" "),
        directory: directory.to_owned(),
    })
}

fn attribute(directory: &Path, name: &str) -> Option<String> {
    fs::read_to_string(directory.join(name)).ok().map(|text| text.trim().to_owned())
}

impl Disk {
    /// The path of the device.
    pub fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Opens it for reading.
    pub fn open(&self) -> io::Result<File> {
        File::open(self.node())
    }

    /// Opens it for writing.
    pub fn open_to_write(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.node())
    }

    /// The kernel's device for partition `number`.
    pub fn partition(&self, number: u32) -> Option<PartitionDevice> {
        let entries = fs::read_dir(&self.directory).ok()?.flatten();
        let number = number.to_string();
        let directory =
            entries.map(|entry| entry.path()).find(|path| attribute(path, "partition").as_ref() == Some(&number))?;
        let (major, minor) = attribute(&directory, "dev")?
            .split_once(':')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))?;
        let name = directory.file_name()?.to_str()?.replace('!', "/");
        Some(PartitionDevice {
            node: Path::new("/dev").join(name),
            device: DeviceNumber { major, minor },
            start: attribute(&directory, "start")?.parse::<u64>().ok()?.checked_mul(512)?,
            length: attribute(&directory, "size")?.parse::<u64>().ok()?.checked_mul(512)?,
        })
    }
}

#[cfg(test)]
impl Disk {
    /// A disk for tests that never open it.
    pub fn imaginary(name: &str, geometry: Geometry) -> Disk {
        Disk { name: name.to_owned(), geometry, model: String::new(), directory: PathBuf::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn lists_disks_with_a_medium_and_nothing_else() {
        let sys = tempfile::tempdir().unwrap();
        let sys = sys.path();
        for (name, size, sector) in
            [("vdb", 2048, 512), ("sda", 8 * 4096, 4096), ("loop0", 8, 512), ("sr0", 8, 2048), ("sdz", 0, 512)]
        {
            write(&sys.join(name).join("size"), &format!("{size}\n"));
            write(&sys.join(name).join("queue/logical_block_size"), &format!("{sector}\n"));
        }
        write(&sys.join("sda/device/model"), "HARDDISK \n");
        write(&sys.join("sda/sda2/partition"), "2\n");
        write(&sys.join("sda/sda2/dev"), "8:2\n");
        write(&sys.join("sda/sda2/start"), "2048\n");
        write(&sys.join("sda/sda2/size"), "4096\n");
        let disks = list_in(sys);
        assert_eq!(disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["sda", "vdb"]);
        assert_eq!(disks[0].geometry, Geometry { sector_bytes: 4096, sectors: 4096 });
        assert_eq!(disks[0].model, "HARDDISK");
        let partition = disks[0].partition(2).unwrap();
        assert_eq!((partition.start, partition.length), (1 << 20, 2 << 20));
        assert_eq!(partition.device, DeviceNumber { major: 8, minor: 2 });
        assert!(disks[0].partition(1).is_none());
    }
}
