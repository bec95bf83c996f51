use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::config::{Document, Format, NodeConfig, load};
use crate::host::simulated::{Killed, SimulatedHost};

const TB: u64 = 1_000_000_000_000;

fn config(text: &str) -> NodeConfig {
    let bytes = format!("version = 1\n{text}").into_bytes();
    load(&[Document { name: "f".into(), format: Format::NodeToml, bytes }], &Machine::default()).unwrap().config
}

/// A machine with a system disk and three data disks, on an image that has the programs.
pub(super) fn machine() -> SimulatedHost {
    let host = SimulatedHost::default();
    for program in ["mkfs.xfs", "mkfs.ext4", "cryptsetup"] {
        host.put(&format!("/usr/sbin/{program}"), "");
    }
    host.put("/usr/bin/systemd-cryptenroll", "");
    host.put("/proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\n");
    host.plug_in("sda", TB, "SYS", "ST4000");
    host.put("/sys/block/sda/sda2/partition", "2");
    host.put("/sys/block/sda/sda2/dev", "8:2");
    host.put("/sys/block/sda/sda2/holders/dm-0", "");
    host.scribble("sda", 512, b"EFI PART");
    for (name, serial) in [("sdb", "A1"), ("sdc", "A2"), ("sdd", "A3")] {
        host.plug_in(name, 4 * TB, serial, "ST4000");
    }
    host.put("/sys/block/loop0/size", "100");
    host
}

fn done(host: &SimulatedHost, text: &str) -> Result<Settled, String> {
    let config = config(text);
    settle(host, &config.disks, config.swap.as_ref(), &host.machine()).map_err(|error| error.to_string())
}

fn refused(host: &SimulatedHost, text: &str, expected: &[&str]) {
    let before = host.disk().devices;
    let error = done(host, text).expect_err(text);
    for part in expected {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
    assert_eq!(host.disk().devices, before, "nothing is touched: {error}");
}

const THREE: &str = "[[disk]]\nname = \"data\"\nmatch = { model = \"ST4*\" }\ncount = 3\nmount = \"/data/{n}\"\n";

#[test]
fn blank_disks_are_claimed_once_and_mounted_at_every_boot() {
    let host = machine();
    let settled = done(&host, THREE).unwrap();
    assert_eq!(settled.made, 3);
    assert_eq!(settled.disks[0], "/data/0: sdb (4.00 TB, ST4000, serial A1), made");
    let unit = host.text("/etc/systemd/system/data-0.mount");
    assert!(unit.contains("Where=/data/0\nType=xfs\nOptions=defaults\n"), "{unit}");
    assert!(
        host.text("/etc/systemd/system/local-fs.target.d/20-ingot-data-2.mount.conf").contains("Wants=data-2.mount")
    );
    // The next boot, and another image that has no record of anything.
    let devices = host.disk().devices;
    for forget in [false, true] {
        host.reboot();
        if forget {
            host.state().disk.files.retain(|path, _| !path.starts_with("/etc/") && !path.starts_with("/var/"));
        }
        let settled = done(&host, THREE).unwrap();
        assert_eq!((settled.made, host.disk().devices == devices), (0, true), "{settled:?}");
        assert_eq!(host.state().volatile.mounts.len(), 3);
    }
    // A second look changes nothing at all.
    let points = host.points();
    done(&host, THREE).unwrap();
    assert_eq!(host.points(), points);
}

#[test]
fn a_rule_holds_exactly_or_not_at_all() {
    for (count, found) in [(1, 3), (2, 3), (4, 3)] {
        let text = THREE.replace("count = 3", &format!("count = {count}"));
        let expected = format!("{found} disks match (model ST4*), and it must be {count}");
        refused(
            &machine(),
            &text,
            &[&expected, "sdb (4.00 TB", "sda (1.00 TB, ST4000, serial SYS) not, because sda2 belongs to dm-0"],
        );
    }
    let serial =
        |list: &str| format!("[[disk]]\nname = \"data\"\nmatch = {{ serial = [{list}] }}\nmount = \"/data/{{n}}\"\n");
    refused(
        &machine(),
        &serial("\"A1\", \"A9\""),
        &["1 disks match (serial A1 or A9), and it must be 2", "others that are free: sdc"],
    );
    refused(&machine(), &serial("\"SYS\""), &["0 disks match", "serial SYS) not, because"]);
    // The list's order is the order of the numbers.
    let host = machine();
    let settled = done(&host, &serial("\"A3\", \"A1\"")).unwrap();
    assert!(
        settled.disks[0].starts_with("/data/0: sdd") && settled.disks[1].starts_with("/data/1: sdb"),
        "{settled:?}"
    );
    assert!(host.disk().devices["/dev/sdc"].pieces.is_empty());
    // Two rules for one disk.
    let two = format!("{THREE}[[disk]]\nname = \"log\"\nmatch = {{ serial = \"A2\" }}\nmount = \"/log\"\n");
    refused(&machine(), &two, &["sdc (4.00 TB, ST4000, serial A2) matches both data and log"]);
}

#[test]
fn disks_in_use_or_not_fit_are_never_taken_even_when_they_may_be_wiped() {
    let text = "[[disk]]\nname = \"data\"\nmatch = { serial = \"A1\" }\nmount = \"/data\"\nwipe = [\"A1\"]\n";
    for (path, content, reason) in [
        ("/sys/block/sdb/removable", "1", "its medium can be taken out"),
        ("/sys/block/sdb/ro", "1", "it is read-only"),
        ("/sys/block/sdb/holders/md0", "", "sdb belongs to md0"),
        ("/proc/self/mountinfo", "1 1 8:32 / /old rw - xfs /dev/sdb rw\n", "sdb is mounted on /old"),
    ] {
        let host = machine();
        host.put(path, content);
        host.state().volatile.mounts.push(("/dev/none".into(), "/none".into()));
        refused(&host, text, &["0 disks match", reason]);
    }
    let host = machine();
    host.state().volatile.swaps.push("/dev/sdb".into());
    refused(&host, text, &["sdb is swap space"]);
    let host = machine();
    host.put("/run/udev/data/b8:32", "E:ID_SERIAL_SHORT=A1\nE:ID_FS_LABEL=CIDATA\n");
    refused(&host, text, &["medium with configuration"]);
    let host = machine();
    host.state().volatile.busy.insert("/dev/sdb".into());
    refused(&host, text, &["is in use, though nothing shows by whom"]);
    // Nothing on a cable by its model or size alone.
    let host = machine();
    host.put("/run/udev/data/b8:32", "E:ID_SERIAL_SHORT=A1\nE:ID_BUS=usb\n");
    refused(&host, THREE, &["2 disks match"]);
    assert!(done(&host, text).is_ok());
    // One that refuses to say its name is known by what else it says.
    host.state().volatile.unreadable = ["/sys/block/sdb/device/wwid", "/sys/block/sdb/wwid"].into();
    assert!(done(&host, text).is_ok());
    // Two paths to one disk.
    let host = machine();
    for number in [32, 48] {
        host.put(&format!("/run/udev/data/b8:{number}"), "E:ID_SERIAL_SHORT=A1\n");
    }
    refused(&host, THREE, &["have the same name of their own"]);
}

#[test]
fn foreign_content_is_kept_unless_its_serial_number_is_listed() {
    for (offset, bytes, what) in [
        (0, &b"XFSB"[..], "xfs 00000000-0000-0000-0000-000000000000"),
        (1080, &[0x53, 0xef][..], "ext4"),
        (512, b"EFI PART", "a GPT partition table"),
        (536, b"LVM2 001", "an LVM physical volume"),
        (0, b"bluestore block device", "a Ceph OSD"),
        (65600, b"_BHRfS_M", "btrfs"),
        (4096, &[0xfc, 0x4e, 0x2b, 0xa9], "a member of a Linux RAID"),
        (4 * TB - 8192, &[0xfc, 0x4e, 0x2b, 0xa9], "a member of a Linux RAID"),
        (131_072, &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0], "ZFS"),
        (777, b"x", "data of an unknown kind (from byte 777)"),
        (4 * TB - 1, b"x", "in its last MiB"),
    ] {
        let host = machine();
        host.scribble("sdc", offset, bytes);
        refused(&host, THREE, &["serial A2) holds", what, "list its serial number under wipe"]);
        // The wrong disk is listed.
        refused(&host, &format!("{THREE}wipe = [\"A1\"]\n"), &[what]);
        let settled = done(&host, &format!("{THREE}wipe = [\"A2\", \"A7\"]\n")).unwrap();
        assert_eq!(settled.made, 3);
        // The list stays in the configuration; the disks are the node's own now.
        host.reboot();
        assert_eq!(done(&host, &format!("{THREE}wipe = [\"A1\", \"A2\"]\n")).unwrap().made, 0);
    }
}

#[test]
fn a_replaced_disk_takes_the_free_number_and_a_vanished_one_is_missed() {
    let host = machine();
    done(&host, THREE).unwrap();
    host.reboot();
    let old = host.pull_out("sdc");
    refused(&host, THREE, &["2 disks match", "must be 3"]);
    host.plug_in("sde", 4 * TB, "A9", "ST4000");
    let settled = done(&host, THREE).unwrap();
    assert_eq!(settled.made, 1);
    assert!(settled.disks.iter().any(|line| line.starts_with("/data/1: sde")), "{settled:?}");
    // The old one comes back in the place of another.
    host.reboot();
    host.pull_out("sdd");
    host.plug_in("sdc", 4 * TB, "A2", "ST4000");
    host.state().disk.devices.insert("/dev/sdc".into(), old);
    refused(&host, THREE, &["are both number 1"]);
}

#[test]
fn a_finished_disk_that_is_suddenly_empty_or_of_another_kind_is_not_made_anew() {
    let host = machine();
    done(&host, THREE).unwrap();
    host.reboot();
    host.state().disk.devices.get_mut("/dev/sdb").unwrap().pieces.clear();
    refused(&host, THREE, &["serial A1) held this node's data and is empty now", "firstboot release-disk A1"]);
    refused(&host, &format!("{THREE}wipe = [\"A1\"]\n"), &["serial A1) held this node's data and is empty now"]);
    release(&host, &host.machine(), "A1").unwrap();
    assert_eq!(done(&host, THREE).unwrap().made, 1);
    host.reboot();
    let ext4 = format!("{THREE}filesystem = \"ext4\"\nwipe = [\"A1\", \"A2\", \"A3\"]\n");
    refused(&host, &ext4, &["holds this rule's data as xfs, and the rule now says ext4"]);
}

#[test]
fn what_is_listed_under_wipe_is_wiped_once_and_never_again() {
    let text = format!("{THREE}wipe = [\"A1\", \"A2\", \"A3\"]\n");
    let renamed = text.replace("name = \"data\"", "name = \"store\"");
    let machine = || {
        let host = machine();
        host.scribble("sdb", 0, b"XFSB");
        assert_eq!(done(&host, &text).unwrap().made, 3);
        host.reboot();
        host
    };
    // One damaged sector: the filesystem's mark is gone, all else is there.
    let host = machine();
    host.scribble("sdb", 0, b"XXXX");
    let expected =
        ["serial A1) held this node's data for [[disk]] data and holds data of an unknown kind", "release-disk A1"];
    refused(&host, &text, &expected);
    // The rule gets another name.
    refused(&machine(), &renamed, &["serial A1) held this node's data for [[disk]] data and holds xfs"]);
    // The disk gets another system's mark.
    let host = machine();
    host.scribble("sdb", 512, b"EFI PART");
    refused(&host, &text, &["holds a GPT partition table now"]);
    // Another disk has its number meanwhile.
    let host = machine();
    let old = host.pull_out("sdb");
    host.plug_in("sde", 4 * TB, "A9", "ST4000");
    assert_eq!(done(&host, &text).unwrap().made, 1);
    host.reboot();
    host.pull_out("sde");
    host.plug_in("sdb", 4 * TB, "A1", "ST4000");
    host.state().disk.devices.insert("/dev/sdb".into(), old);
    host.scribble("sdb", 0, b"XXXX");
    refused(&host, &text, &["serial A1) held this node's data and holds data of an unknown kind"]);
    // Given up by hand, it is a disk like any other: its content goes where it is listed, and only there.
    assert!(release(&host, &host.machine(), "A1").unwrap().contains("serial A1"));
    refused(&host, THREE, &["serial A1) holds data of an unknown kind", "list its serial number under wipe"]);
    nothing_precious(&host, "sdb");
    assert_eq!(done(&host, &text).unwrap().made, 1);
}

/// The simulated machine ends the test when a disk that was in use is made anew; this one may be.
fn nothing_precious(host: &SimulatedHost, name: &str) {
    host.state().disk.devices.get_mut(&format!("/dev/{name}")).unwrap().clear(10 << 20, 1);
}

#[test]
fn what_is_given_up_and_listed_is_made_anew_whatever_it_holds() {
    let listed = format!("{THREE}wipe = [\"A1\"]\n");
    let released = |text: &str| {
        let host = machine();
        done(&host, text).unwrap();
        host.reboot();
        release(&host, &host.machine(), "A1").unwrap();
        nothing_precious(&host, "sdb");
        host
    };
    // Its own filesystem, and even another kind of one.
    let host = released(&listed);
    assert_eq!(done(&host, &listed).unwrap().made, 1);
    host.reboot();
    assert_eq!(done(&host, &listed).unwrap().made, 0);
    let ext4 = format!("{THREE}filesystem = \"ext4\"\nwipe = [\"A1\", \"A2\", \"A3\"]\n");
    let host = released(THREE);
    refused(&host, &ext4, &["serial A2) holds this rule's data as xfs"]);
    for (serial, name) in [("A2", "sdc"), ("A3", "sdd")] {
        release(&host, &host.machine(), serial).unwrap();
        nothing_precious(&host, name);
    }
    assert_eq!(done(&host, &ext4).unwrap().made, 3);
    // In use again, it is kept, also where it is listed later.
    let host = released(THREE);
    assert_eq!(done(&host, THREE).unwrap().made, 0);
    host.reboot();
    assert_eq!(done(&host, &listed).unwrap().made, 0);
}

#[test]
fn a_disk_whose_key_went_with_the_mainboard_is_made_anew_when_it_is_given_up() {
    let text = EVERYTHING.replace("key-file", "tpm2");
    let host = everything();
    done(&host, &text).unwrap();
    host.reboot();
    host.state().volatile.new_tpm = true;
    let before = host.disk().devices;
    for _ in 0..2 {
        let error = done(&host, &text).unwrap_err();
        assert!(error.contains("stays locked: the TPM does not give its key"), "{error}");
        assert!(
            error.contains("list its serial number under wipe and run `/usr/lib/ingot/firstboot release-disk A2`"),
            "{error}"
        );
    }
    let listed = text.replace("encrypt = ", "wipe = [\"A2\"]\nencrypt = ");
    assert!(done(&host, &listed).unwrap_err().contains("stays locked"));
    assert_eq!(host.disk().devices, before);
    release(&host, &host.machine(), "A2").unwrap();
    // Given up and not listed, it is what it was.
    assert!(done(&host, &text).unwrap_err().contains("stays locked"));
    assert_eq!(host.disk().devices, before);
    host.state().volatile.new_tpm = false;
    assert_eq!(done(&host, &listed).unwrap().made, 1);
}

#[test]
fn a_disk_is_given_up_by_its_serial_number_or_its_name_when_nothing_uses_it() {
    let host = machine();
    let said = |word: &str| release(&host, &host.machine(), word).map_err(|error| error.to_string());
    assert!(said("A1").unwrap_err().contains("sdb (4.00 TB, ST4000, serial A1) was never claimed"));
    done(&host, THREE).unwrap();
    let before = host.text(record::RECORD);
    assert!(said("A9").unwrap_err().contains("no disk has the serial number or name A9; there are: sda (1.00 TB"));
    assert!(said("A1").unwrap_err().contains("is not given up: sdb is mounted on /data/0"));
    assert_eq!(host.text(record::RECORD), before);
    host.reboot();
    assert!(said("/dev/sdb").is_ok());
    assert!(said("sdb").unwrap_err().contains("was never claimed"));
    // What is on it still says whose it is.
    assert_eq!(done(&host, THREE).unwrap().made, 0);
}

#[test]
fn a_filesystem_can_be_taken_over() {
    let text = "[[disk]]\nname = \"old\"\nmatch = { serial = \"A1\" }\nmount = \"/old\"\nadopt = [\"A1\"]\n";
    let host = machine();
    refused(&host, text, &["is listed under adopt and holds nothing, not xfs"]);
    host.scribble("sdb", 0, b"XFSB");
    host.scribble("sdb", 32, &[5; 16]);
    let settled = done(&host, text).unwrap();
    assert_eq!((settled.made, settled.disks[0].ends_with("taken over")), (0, true));
    host.reboot();
    // Known by the record from now on, also when it is no longer listed.
    assert_eq!(done(&host, &text.replace("adopt = [\"A1\"]\n", "")).unwrap().made, 0);
    let host = machine();
    host.scribble("sdb", 1080, &[0x53, 0xef]);
    refused(&host, text, &["is listed under adopt and holds ext4"]);
}

#[test]
fn what_the_image_lacks_is_said_before_a_disk_is_touched() {
    let host = machine();
    host.state().disk.files.remove("/usr/sbin/mkfs.xfs");
    refused(&host, THREE, &["the image has no mkfs.xfs", "parts/data-disks"]);
    let host = machine();
    host.state().volatile.read_only = vec!["/data"];
    refused(&host, THREE, &["/data/0 cannot be made", "persist"]);
}

#[test]
fn what_is_no_longer_wanted_is_unmounted_and_keeps_its_data() {
    let host = machine();
    let text = format!("{THREE}required_by = [\"docker.service\"]\n[swap]\nsize = \"50% of RAM\"\n");
    done(&host, &text).unwrap();
    let needs = host.text("/etc/systemd/system/docker.service.d/20-ingot-disks.conf");
    assert!(needs.contains("RequiresMountsFor=/data/0 /data/1 /data/2\n"), "{needs}");
    assert_eq!(host.state().volatile.swaps, [swap::SWAP_FILE]);
    assert!(host.state().commands.contains(&format!("fallocate --length 8589934592 {}", swap::SWAP_FILE)));
    let devices = host.disk().devices;
    done(&host, "").unwrap();
    assert!(host.state().volatile.mounts.is_empty());
    assert!(
        !host.disk().files.keys().any(|path| path.starts_with("/etc/systemd/system/")),
        "{:?}",
        host.disk().files.keys()
    );
    assert!(!host.exists(swap::SWAP_FILE));
    assert_eq!(host.disk().devices, devices);
    assert_eq!(done(&host, &text).unwrap().made, 0, "they are recognised when they are wanted again");
}

const EVERYTHING: &str = "[[disk]]\nname = \"data\"\nmatch = { serial = [\"A1\"] }\nmount = \"/data/{n}\"\nwipe = [\"A1\"]\n\
    [[disk]]\nname = \"safe\"\nmatch = { serial = \"A2\" }\nmount = \"/safe\"\nfilesystem = \"ext4\"\nencrypt = \"key-file\"\nlabel = \"safe\"\n\
    [swap]\nmatch = { serial = \"A3\" }\n";

fn everything() -> SimulatedHost {
    let host = machine();
    host.scribble("sdb", 512, b"EFI PART");
    host.scribble("sdb", 4 * TB - 512, b"EFI PART");
    host
}

fn killed(host: &SimulatedHost, text: &str) -> bool {
    match catch_unwind(AssertUnwindSafe(|| done(host, text))) {
        Ok(result) => {
            result.unwrap();
            false
        }
        Err(payload) if payload.is::<Killed>() => true,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

#[test]
fn the_plug_is_pulled_at_every_point_and_the_next_boot_finishes() {
    let reference = everything();
    done(&reference, EVERYTHING).unwrap();
    let mut point = 0;
    loop {
        let host = everything();
        host.state().plug = Some(point);
        if !killed(&host, EVERYTHING) {
            break;
        }
        host.reboot();
        done(&host, EVERYTHING).unwrap_or_else(|error| panic!("point {point}: {error}"));
        let (disk, expected) = (host.disk(), reference.disk());
        assert_eq!(disk.devices, expected.devices, "point {point}");
        assert_eq!(disk.files, expected.files, "point {point}");
        assert_eq!(host.state().volatile.mounts.len(), 2, "point {point}");
        point += 1;
    }
    assert!(point > 80, "only {point} points");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
    #[test]
    fn the_plug_is_pulled_again_and_again(points in proptest::collection::vec(0_u64..120, 1..10)) {
        let reference = everything();
        done(&reference, EVERYTHING).unwrap();
        let host = everything();
        for point in points {
            let now = host.points();
            host.state().plug = Some(now + point);
            killed(&host, EVERYTHING);
            host.reboot();
        }
        done(&host, EVERYTHING).unwrap();
        proptest::prop_assert_eq!(host.disk(), reference.disk());
    }
}

#[test]
fn an_unfinished_disk_that_is_known_by_its_place_alone_is_looked_at_again() {
    let text = "[[disk]]\nname = \"data\"\nmatch = { path = \"/dev/disk/by-path/pci-0-sdb\" }\nmount = \"/data\"\n";
    let host = machine();
    host.put("/run/udev/data/b8:32", "S:disk/by-path/pci-0-sdb\n");
    host.state().failing = vec!["mkfs.xfs"];
    assert!(done(&host, text).is_err());
    host.reboot();
    host.state().failing.clear();
    // In the meantime someone put another disk into the slot.
    host.scribble("sdb", 1080, &[0x53, 0xef]);
    refused(&host, text, &["no serial number) holds ext4", "clear it by hand"]);
    host.state().disk.devices.get_mut("/dev/sdb").unwrap().pieces.clear();
    assert_eq!(done(&host, text).unwrap().made, 1);
}

#[test]
fn an_encrypted_disk_needs_its_key() {
    let host = everything();
    done(&host, EVERYTHING).unwrap();
    let commands = host.state().commands.join("\n");
    assert!(commands.contains("cryptsetup luksFormat --batch-mode --type luks2"), "{commands}");
    let table = host.text("/etc/crypttab");
    assert!(
        table.contains("ingot-safe-0 UUID=") && table.contains("/var/lib/ingot/disk-keys/safe-0.key luks,nofail"),
        "{table}"
    );
    assert_eq!(host.disk().files["/var/lib/ingot/disk-keys/safe-0.key"].1, 0o600);
    host.reboot();
    host.state().disk.files.remove("/var/lib/ingot/disk-keys/safe-0.key");
    let error = done(&host, EVERYTHING).unwrap_err();
    assert!(error.contains("its key /var/lib/ingot/disk-keys/safe-0.key is not on this state partition"), "{error}");

    let host = everything();
    done(&host, &EVERYTHING.replace("key-file", "tpm2")).unwrap();
    let commands = host.state().commands.join("\n");
    assert!(commands.contains("systemd-cryptenroll --wipe-slot=password /dev/sdc"), "{commands}");
    assert!(host.text("/etc/crypttab").contains(" - luks,nofail,x-systemd.device-timeout=60s,tpm2-device=auto"));
    assert!(!host.disk().files.keys().any(|path| path.contains("disk-keys")));
}
