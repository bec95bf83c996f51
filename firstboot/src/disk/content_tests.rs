use std::path::Path;
use std::time::Duration;

use super::*;
use crate::process::{ProcessError, run};

const SIZE: u64 = 400 << 20;

fn of_file(path: &Path) -> Content {
    let device = path.to_str().unwrap();
    let host = crate::host::RealHost::default();
    let size = std::fs::metadata(path).unwrap().len();
    inspect(size, |offset, length| crate::host::Host::read_device(&host, device, offset, length)).unwrap()
}

fn of_bytes(bytes: &[u8]) -> Content {
    let read = |offset: u64, length: u64| {
        let offset = usize::try_from(offset).unwrap();
        Ok::<_, ()>(bytes[offset..offset + usize::try_from(length).unwrap()].to_vec())
    };
    inspect(bytes.len() as u64, read).unwrap()
}

#[test]
fn only_zeros_are_blank() {
    let mut bytes = vec![0; 3 << 20];
    assert_eq!(of_bytes(&bytes), Content::Blank);
    for place in [0, 511, (1 << 20) - 1, 2 << 20, (3 << 20) - 1] {
        bytes[place] = 1;
        assert!(of_bytes(&bytes).to_string().contains(&format!("from byte {place}")), "{}", of_bytes(&bytes));
        bytes[place] = 0;
    }
    // Between the ends nothing is looked at.
    bytes[(1 << 20) + 5] = 1;
    assert_eq!(of_bytes(&bytes), Content::Blank);
    assert_eq!(of_bytes(&[0; 512]), Content::Blank);
    assert_eq!(of_bytes(&[]), Content::Blank);
}

/// What real programs leave on a disk: none of it is blank, and what Ingot makes is read with its UUID.
#[test]
fn what_real_programs_make_is_never_blank() {
    const UUID: &str = "4ab1a4b1-95fb-4e6f-8f5c-9a7d1c1f2e3d";
    let directory = tempfile::tempdir().unwrap();
    let uuid: Uuid = UUID.parse().unwrap();
    let key = directory.path().join("key");
    std::fs::write(&key, [7; 64]).unwrap();
    let key = key.to_str().unwrap();
    let (meta, luks) = (format!("uuid={UUID}"), ["luksFormat", "-q", "--type"]);
    let gpt = "echo ',,' | sfdisk -q -X gpt \"$0\"";
    // LVM takes no file, so it gets a loop device, where there are any.
    let lvm = "l=$(losetup --find --show \"$0\") || exit 9; pvcreate -q -q \"$l\"; s=$?; losetup -d \"$l\"; exit $s";
    let mbr = "echo ',,' | sfdisk -q -X dos \"$0\"";
    // An array needs a device; its superblock is laid out here as in the kernel's md_p.h, where md would put it.
    let md = |offset: u64| {
        format!("printf '\\374\\116\\053\\251' | dd of=\"$0\" bs=1 seek={offset} conv=notrunc status=none")
    };
    let (md10, md12, md090) = (md((SIZE - 8192) & !0xfff), md(4096), md((SIZE & !0xffff) - 65536));
    let commands: Vec<(&str, Vec<&str>, &str)> = vec![
        ("mkfs.xfs", vec!["-q", "-m", &meta], "xfs"),
        ("mkfs.ext4", vec!["-q", "-F", "-U", UUID], "ext4"),
        ("mkswap", vec!["-U", UUID], "swap"),
        (
            "cryptsetup",
            [
                &luks[..],
                &["luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--uuid", UUID, "--key-file", key],
            ]
            .concat(),
            "luks",
        ),
        (
            "cryptsetup",
            [&luks[..], &["luks1", "--pbkdf-force-iterations", "1000", "--uuid", UUID, "--key-file", key]].concat(),
            "luks",
        ),
        ("mkfs.btrfs", vec!["-q", "-f"], "btrfs"),
        ("mkfs.vfat", vec![], "a FAT filesystem"),
        ("sh", vec!["-c", lvm], "an LVM physical volume"),
        ("sh", vec!["-c", gpt], "a GPT partition table"),
        ("sh", vec!["-c", mbr], "an MBR partition table"),
        ("sh", vec!["-c", &md10], "a member of a Linux RAID (md)"),
        ("sh", vec!["-c", &md12], "a member of a Linux RAID (md)"),
        ("sh", vec!["-c", &md090], "a member of a Linux RAID (md)"),
    ];
    for (number, (program, arguments, expected)) in commands.iter().enumerate() {
        let image = directory.path().join(format!("disk{number}"));
        std::fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
        assert_eq!(of_file(&image), Content::Blank);
        let mut arguments = arguments.clone();
        arguments.push(image.to_str().unwrap());
        match run(program, &arguments, Duration::from_mins(2)) {
            Ok(_) => {}
            Err(ProcessError::Start { .. }) => {
                println!("skipped: {program} is not installed");
                continue;
            }
            Err(error) if arguments.contains(&lvm) => {
                println!("skipped: no LVM on a loop device here: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        let content = of_file(&image);
        match &content {
            Content::Marked { kind, uuid: found, beside: None } => assert_eq!((*kind, *found), (*expected, uuid)),
            Content::Other(what) => assert_eq!(what, expected, "{program} {arguments:?}"),
            other => panic!("{program} {arguments:?}: {other}"),
        }
        // What libblkid sees, this sees; what this calls blank, libblkid sees nothing on.
        let device = image.to_str().unwrap();
        let seen = run("wipefs", &["--no-act", "--noheadings", "--output", "TYPE", device], Duration::from_secs(20));
        if let Ok(seen) = seen {
            assert!(expected.contains("md") || !seen.is_empty(), "{expected}: {}", String::from_utf8_lossy(&seen));
        }
        std::fs::remove_file(&image).unwrap();
    }
}

#[test]
fn a_file_at_the_end_does_not_hide_whose_disk_it_is() {
    let mut bytes = vec![0; 3 << 20];
    bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
    bytes[1128..1144].copy_from_slice(&[9; 16]);
    let end = bytes.len();
    bytes[end - 512..end - 504].copy_from_slice(b"EFI PART");
    let content = of_bytes(&bytes);
    assert!(matches!(content, Content::Marked { kind: "ext4", beside: Some(_), .. }), "{content}");
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic_and_are_blank_only_if_zero(
        pieces in proptest::collection::vec((0_usize..8192, proptest::collection::vec(proptest::prelude::any::<u8>(), 1..64)), 0..6),
        length in 0_usize..9000,
    ) {
        let mut bytes = vec![0; length];
        for (offset, piece) in pieces {
            for (place, byte) in bytes.iter_mut().skip(offset).zip(piece) {
                *place = byte;
            }
        }
        proptest::prop_assert_eq!(of_bytes(&bytes) == Content::Blank, bytes.iter().all(|byte| *byte == 0));
    }
}
