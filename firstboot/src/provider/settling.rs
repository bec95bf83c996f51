//! Whether every medium that is plugged in can be expected to have been seen.
//!
//! Takes what the kernel and udev say of their devices; gives yes or no, at once. udev says when it has nothing more to
//! do, but not that a stick is still to come: a USB device takes seconds from its power to its disk, and what has not
//! answered yet nobody knows of. So where there is USB, its controllers must have run for a while, the last device must
//! have been there for a while, and every one that says that it is storage must have its disk. A machine without USB
//! waits for udev alone.
//!
//! Read are `/run/udev/queue` (there while udev is at work) and, below `/sys/bus/usb/devices`, `bInterfaceClass` and
//! `power/connected_duration`, in milliseconds (`Documentation/ABI/testing/sysfs-bus-usb` of the kernel).

use std::path::Path;

/// How long a controller must have run, in milliseconds: time for what hangs off it to answer.
const CONTROLLER: u64 = 8_000;
/// How long the last device must have been there: a hub has more behind it.
const DEVICE: u64 = 3_000;
/// How long storage is waited for to show its disk; the kernel alone waits a second before it looks.
const DISK: u64 = 20_000;
/// The interface class of storage (USB-IF, "Defined Class Codes").
const STORAGE: &str = "08";

/// True where nothing more is expected. `uptime` is the machine's, in milliseconds: a kernel that does not say how long
/// a device has been there is taken to have had it from the beginning.
pub fn are_settled(root: &Path, uptime: u64) -> bool {
    if root.join("run/udev/queue").exists() {
        return false;
    }
    let devices = root.join("sys/bus/usb/devices");
    let connected = |name: &str| {
        let said = std::fs::read_to_string(devices.join(name).join("power/connected_duration")).ok();
        said.and_then(|text| text.trim().parse().ok()).unwrap_or(uptime)
    };
    let entries = std::fs::read_dir(&devices).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).all(|name| match name.split_once(':') {
        None if name.starts_with("usb") => connected(&name) >= CONTROLLER,
        None => connected(&name) >= DEVICE,
        Some((device, _)) => {
            let interface = devices.join(&name);
            let class = std::fs::read_to_string(interface.join("bInterfaceClass")).unwrap_or_default();
            class.trim() != STORAGE || has_disk(&interface) || connected(device) >= DISK
        }
    })
}

/// Whether the storage behind an interface has a disk: `host6/target6:0:0/6:0:0:0/block/sdb`.
fn has_disk(interface: &Path) -> bool {
    let below = |directory: &Path, start: &str| -> Vec<_> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(start))
            .map(|entry| entry.path())
            .collect()
    };
    let targets = below(interface, "host").into_iter().flat_map(|host| below(&host, "target"));
    let mut units = targets.flat_map(|target| below(&target, ""));
    units.any(|unit| !below(&unit.join("block"), "").is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_machine_without_usb_waits_for_udev_alone() {
        let directory = tempfile::tempdir().unwrap();
        assert!(are_settled(directory.path(), 0));
        put(directory.path(), "run/udev/queue", "");
        assert!(!are_settled(directory.path(), 1_000_000));
    }

    #[test]
    fn usb_is_settled_once_all_have_had_their_time_and_storage_has_its_disk() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let device = |name: &str, milliseconds: &str| {
            put(root, &format!("sys/bus/usb/devices/{name}/power/connected_duration"), milliseconds);
        };
        device("usb1", "7999\n");
        assert!(!are_settled(root, 60_000), "the controller has only just begun");
        device("usb1", "8000\n");
        assert!(are_settled(root, 60_000));
        // A hub, and then a stick behind it.
        device("1-1", "100\n");
        assert!(!are_settled(root, 60_000));
        device("1-1", "5000\n");
        device("1-1.2", "3100\n");
        put(root, "sys/bus/usb/devices/1-1.2:1.0/bInterfaceClass", "08\n");
        assert!(!are_settled(root, 60_000), "its disk is still to come");
        put(root, "sys/bus/usb/devices/1-1.2:1.0/host6/target6:0:0/6:0:0:0/vendor", "x");
        assert!(!are_settled(root, 60_000));
        put(root, "sys/bus/usb/devices/1-1.2:1.0/host6/target6:0:0/6:0:0:0/block/sdb/size", "1");
        assert!(are_settled(root, 60_000));
        // A reader without a disk is not waited for without end, a keyboard not at all.
        device("1-2", "19000\n");
        put(root, "sys/bus/usb/devices/1-2:1.0/bInterfaceClass", "08\n");
        put(root, "sys/bus/usb/devices/1-1:1.0/bInterfaceClass", "03\n");
        assert!(!are_settled(root, 60_000));
        device("1-2", "20000\n");
        assert!(are_settled(root, 60_000));
    }

    #[test]
    fn a_kernel_that_does_not_say_since_when_counts_from_its_start() {
        let directory = tempfile::tempdir().unwrap();
        put(directory.path(), "sys/bus/usb/devices/usb1/bDeviceClass", "09\n");
        assert!(!are_settled(directory.path(), 5_000) && are_settled(directory.path(), 9_000));
    }
}
