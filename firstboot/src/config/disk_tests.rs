use super::*;
use crate::config::{Document, Format, Machine, NodeConfig, load};

fn read(text: &str) -> Result<NodeConfig, String> {
    let bytes = format!("version = 1\n{text}").into_bytes();
    let documents = [Document { name: "f".into(), format: Format::NodeToml, bytes }];
    load(&documents, &Machine::default()).map(|loaded| loaded.config).map_err(|error| error.to_string())
}

fn refused(text: &str, expected: &[&str]) {
    let error = read(text).expect_err(text);
    for part in expected {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
}

#[test]
fn a_rule_and_its_defaults() {
    let config = read(
        "[[disk]]\nname = \"data\"\nmatch = { model = \"ST10000*\", size = \"9T..11T\" }\ncount = 10\n\
         mount = \"/data/{n}\"\noptions = [\"noatime\", \"logbsize=256k\"]\n\
         [[disk]]\nname = \"log\"\nmatch = { serial = [\"A1\", \"A2\"] }\nfilesystem = \"ext4\"\nmount = \"/log/{n}\"\n\
         encrypt = \"tpm2\"\nlabel = \"log-{n}\"\nmkfs = [\"-m\", \"0\"]\nwipe = [\"A1\"]\nrequired_by = [\"docker.service\"]\n\
         [swap]\nsize = \"50% of RAM, at most 64GiB\"\n",
    )
    .unwrap();
    let [data, log] = &config.disks[..] else { panic!("{config:?}") };
    assert_eq!((data.count, data.filesystem, data.encrypt), (10, Filesystem::Xfs, None));
    assert_eq!(data.matches.to_string(), "size 9T..11T, model ST10000*");
    assert_eq!((log.count, log.filesystem, log.encrypt), (2, Filesystem::Ext4, Some(Encryption::Tpm2)));
    assert!(matches!(config.swap, Some(Swap::File(SwapSize::Share(_)))));
    let config = read("[swap]\nmatch = { wwn = \"0x5000c500a1b2c3d4\" }\nwipe = [\"X\"]\n").unwrap();
    assert!(matches!(config.swap, Some(Swap::Disk { ref wipe, .. }) if wipe.len() == 1));
}

#[test]
fn what_is_wrong_is_said_with_its_key() {
    let rule = "[[disk]]\nname = \"data\"\nmount = \"/data\"\nmatch = { serial = \"A1\" }\n";
    assert!(read(rule).is_ok());
    for (more, expected) in [
        ("count = 2\n", "disk[0].count: is 2, but match lists 1"),
        ("filesystem = \"btrfs\"\n", "xfs or ext4"),
        ("encrypt = \"yes\"\n", "disk[0].encrypt"),
        ("encrypt = true\n", "disk[0].encrypt"),
        ("options = [\"nobarrier\"]\n", "since Linux 4.19"),
        ("options = [\"x-systemd.automount\"]\n", "is for fstab"),
        ("label = \"way-too-long-for-xfs\"\n", "at most 12 characters"),
        ("label = \"CIDATA\"\n", "configuration medium"),
        ("mkfs = [\"-L\", \"x\"]\n", "is not for here"),
        ("mkfs = [\"/dev/sda\"]\n", "is no argument"),
        ("wipe = [\"*\"]\n", "not a pattern"),
        ("wipe = [\"A1\"]\nadopt = [\"A1\"]\n", "is listed under wipe too"),
        ("adopt = [\"A1\"]\nencrypt = \"tpm2\"\n", "cannot be taken over"),
        ("requird_by = []\n", "did you mean \"required_by\"?"),
        ("required_by = [\"docker\"]\n", "is not the name of a unit"),
    ] {
        refused(&format!("{rule}{more}"), &[expected]);
    }
    refused("[[disk]]\n", &["disk[0].match: is missing", "disk[0].name: is missing", "disk[0].mount: is missing"]);
    refused("[[disk]]\nname=\"a\"\nmount=\"/x\"\nmatch={}\n", &["matches no disk"]);
    refused("[[disk]]\nname=\"a\"\nmount=\"/x\"\nmatch={serial=[]}\n", &["is an empty list"]);
    refused("[[disk]]\nname=\"a\"\nmount=\"/x\"\nmatch={serial=[\"A\",\"A\"]}\n", &["names a disk twice"]);
    refused("[[disk]]\nname=\"a\"\nmount=\"/x\"\nmatch={path=\"/dev/sdb\"}\n", &["anew at every boot"]);
    refused("[[disk]]\nname=\"a\"\nmount=\"/x\"\nmatch={size=\"4T\"}\n", &["write a range"]);
    let serials = "match={serial=\"A\",wwn=\"0x5000c500a1b2c3d4\"}";
    refused(&format!("[[disk]]\nname=\"a\"\nmount=\"/x\"\n{serials}\n"), &["names disks in two ways"]);
    refused("[[disk]]\nname=\"a\"\nmount=\"/x\"\nmatch={size=\">1T\"}\ncount=2\n", &["write mount = \"/x/{n}\""]);
    refused(&format!("{rule}{rule}"), &["disk[0] has the same name", "disk[0] is mounted there too"]);
    refused("[swap]\n", &["either size or match"]);
    refused("[swap]\nsize=\"1G\"\nwipe=[\"A\"]\n", &["is for a disk"]);
    refused("[swap]\nsize=\"1K\"\n", &["less than 1 MiB"]);
}
