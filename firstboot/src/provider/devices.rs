//! Which block devices carry a label that means configuration.
//!
//! Takes udev's records of the devices (`/run/udev/data`); gives labels and devices in a fixed order. Two media with
//! the same label are two entries: the links in `/dev/disk/by-label` show only one of them. A FAT volume has two
//! labels, one in its top directory and one in its boot sector, and tools such as `mkfs.vfat` and `mlabel` do not
//! always write both. udev knows the first; the second is read here, and counts where the first means nothing.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::settling;
use super::volume::{Volume, VolumeError};
use crate::report::uptime_ms;

/// A device with a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labelled {
    /// The label, as it is written on the medium.
    pub label: String,
    /// The device: `/dev/sdb1`.
    pub device: String,
}

impl std::fmt::Display for Labelled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.label, self.device)
    }
}

/// The media that are plugged in.
pub trait Media {
    /// All devices whose label is one of `labels`, whatever its letter case, sorted by device.
    fn labelled(&self, labels: &[&str]) -> Vec<Labelled>;
    /// Mounts one of them.
    ///
    /// # Errors
    /// [`VolumeError::Mount`].
    fn open(&self, medium: &Labelled) -> Result<Volume, VolumeError>;
    /// Whether everything that is plugged in can be expected to have been seen.
    fn are_settled(&self) -> bool {
        true
    }
}

/// The real media.
#[derive(Debug, Clone)]
pub struct BlockDevices {
    root: PathBuf,
}

impl Default for BlockDevices {
    fn default() -> Self {
        Self { root: PathBuf::from("/") }
    }
}

impl Media for BlockDevices {
    fn labelled(&self, labels: &[&str]) -> Vec<Labelled> {
        let known = |label: &str| labels.iter().any(|known| known.eq_ignore_ascii_case(label));
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.root.join("run/udev/data")).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(number) = name.to_str().and_then(|name| name.strip_prefix('b')) else { continue };
            let Ok(record) = std::fs::read_to_string(entry.path()) else { continue };
            let property = |key: &str| record.lines().find_map(|line| line.strip_prefix("E:")?.strip_prefix(key));
            let (label, filesystem) = (property("ID_FS_LABEL="), property("ID_FS_TYPE="));
            let named = label.is_some_and(known);
            if !named && filesystem != Some("vfat") {
                continue;
            }
            let Some(device) = self.device(number) else { continue };
            let label = if named { label.map(str::to_owned) } else { self.boot_sector_label(&device) };
            if let Some(label) = label.filter(|label| known(label)) {
                found.push(Labelled { label, device });
            }
        }
        found.sort_by(|one, other| one.device.cmp(&other.device));
        found
    }

    fn open(&self, medium: &Labelled) -> Result<Volume, VolumeError> {
        Volume::open_device(Path::new(&medium.device))
    }

    fn are_settled(&self) -> bool {
        settling::are_settled(&self.root, uptime_ms())
    }
}

impl BlockDevices {
    /// The node of the device with this number (`8:17`).
    fn device(&self, number: &str) -> Option<String> {
        let event = std::fs::read_to_string(self.root.join("sys/dev/block").join(number).join("uevent")).ok()?;
        let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        Some(format!("/dev/{name}"))
    }

    fn boot_sector_label(&self, device: &str) -> Option<String> {
        let mut sector = [0; 512];
        let mut file = std::fs::File::open(self.root.join(device.trim_start_matches('/'))).ok()?;
        file.read_exact(&mut sector).ok()?;
        fat_label(&sector)
    }
}

/// The label in a FAT boot sector (Microsoft's FAT specification, section 3.1 to 3.3); `None` where there is none.
fn fat_label(sector: &[u8; 512]) -> Option<String> {
    const EXTENDED: u8 = 0x29;
    let label = if sector[66] == EXTENDED && sector[82..90] == *b"FAT32   " {
        &sector[71..82]
    } else if sector[38] == EXTENDED && sector[54..57] == *b"FAT" {
        &sector[43..54]
    } else {
        return None;
    };
    let label = std::str::from_utf8(label).ok()?.trim_end();
    (!label.is_empty() && label != "NO NAME").then(|| label.to_owned())
}

/// A boot sector's label is printed as it is: it must be short.
#[cfg(any(test, fuzzing))]
pub fn fuzz(bytes: &[u8]) {
    if let Some(sector) = bytes.first_chunk() {
        assert!(fat_label(sector).is_none_or(|label| (1..=11).contains(&label.len())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fat(sixteen: bool, label: &str) -> Vec<u8> {
        let mut sector = vec![0; 512];
        let (mark, text, kind) = if sixteen { (38, 43, 54) } else { (66, 71, 82) };
        sector[mark] = 0x29;
        sector[text..text + 11].copy_from_slice(format!("{label:<11}").as_bytes());
        sector[kind..kind + 8].copy_from_slice(if sixteen { b"FAT16   " } else { b"FAT32   " });
        sector
    }

    fn add(root: &Path, number: &str, name: &str, record: &str, content: &[u8]) {
        for directory in ["run/udev/data", "dev", &format!("sys/dev/block/{number}")] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        std::fs::write(root.join("run/udev/data").join(format!("b{number}")), record).unwrap();
        std::fs::write(root.join("sys/dev/block").join(number).join("uevent"), format!("DEVNAME={name}\n")).unwrap();
        std::fs::write(root.join("dev").join(name), content).unwrap();
    }

    #[test]
    fn labels_are_found_in_udevs_records_and_in_boot_sectors() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        add(root, "8:33", "sdc1", "I:1\nE:ID_FS_LABEL=INGOT\nE:ID_FS_TYPE=vfat\n", b"");
        add(root, "8:17", "sdb1", "E:ID_FS_LABEL=ingot\nE:ID_FS_TYPE=ext4\n", b"");
        add(root, "8:49", "sdd1", "E:ID_FS_TYPE=vfat\n", &fat(false, "CIDATA"));
        add(root, "8:65", "sde1", "E:ID_FS_LABEL=DATA\nE:ID_FS_TYPE=vfat\n", &fat(true, "cidata"));
        add(root, "8:81", "sdf1", "E:ID_FS_LABEL=root\nE:ID_FS_TYPE=ext4\n", b"");
        add(root, "8:97", "sdg1", "E:ID_FS_TYPE=vfat\n", b"short");
        let media = BlockDevices { root: root.to_owned() };
        let shown = |labels: &[&str]| media.labelled(labels).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&["INGOT"]), ["ingot (/dev/sdb1)", "INGOT (/dev/sdc1)"]);
        assert_eq!(shown(&["cidata"]), ["CIDATA (/dev/sdd1)", "cidata (/dev/sde1)"]);
        assert!(shown(&["config-2"]).is_empty());
        // Gone from the machine: udev forgets it.
        std::fs::remove_file(root.join("run/udev/data/b8:17")).unwrap();
        assert_eq!(shown(&["INGOT"]), ["INGOT (/dev/sdc1)"]);
    }

    #[test]
    fn a_boot_sector_made_by_the_real_tool_is_read() {
        let directory = tempfile::tempdir().unwrap();
        for (bits, label) in [("12", "cidata"), ("16", "CIDATA"), ("32", "INGOT")] {
            let image = directory.path().join(bits);
            std::fs::File::create(&image).unwrap().set_len(40 << 20).unwrap();
            #[allow(clippy::disallowed_methods)] // a peer of the test
            let made =
                std::process::Command::new("/usr/sbin/mkfs.vfat").args(["-F", bits, "-n", label]).arg(&image).output();
            let Ok(output) = made else {
                println!("skipped: mkfs.vfat is not installed");
                return;
            };
            if bits != "12" {
                assert!(output.status.success(), "{output:?}");
            } else if !output.status.success() {
                continue; // 40 MiB are too much for FAT12 with the clusters of some versions
            }
            let mut sector = [0; 512];
            std::fs::File::open(&image).unwrap().read_exact(&mut sector).unwrap();
            assert_eq!(
                fat_label(&sector).map(|label| label.to_lowercase()).as_deref(),
                Some(label.to_lowercase().as_str())
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_sector_is_read_without_a_panic(bytes in proptest::collection::vec(0_u8.., 512)) {
            let sector: [u8; 512] = bytes.try_into().unwrap();
            if let Some(label) = fat_label(&sector) {
                proptest::prop_assert!(!label.is_empty() && label.len() <= 11);
            }
        }
    }
}
