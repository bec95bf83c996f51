use proptest::prelude::*;

use super::*;
use crate::image::testing::peer;

fn request(name: &str, kind: Kind, size: u64, attributes: u64) -> Request {
    Request { name: name.to_owned(), kind, guid: Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()), size, attributes }
}

fn sample(sector_size: SectorSize) -> Layout {
    let requests = vec![
        request("esp", Kind::Esp, 64 * MIB, 0),
        request("verity-a", Kind::RootVerity, 3 * MIB + 1, READ_ONLY),
        request("root-a", Kind::Root, 40 * MIB - 7, READ_ONLY),
    ];
    Layout::plan(sector_size, Uuid::from_u128(7), requests).unwrap()
}

fn written(layout: &Layout) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(layout.size).unwrap();
    layout.write(file.as_file_mut()).unwrap();
    file
}

#[test]
fn what_is_written_is_read_back() {
    for sector_size in [SectorSize::B512, SectorSize::B4096] {
        let layout = sample(sector_size);
        let file = written(&layout);
        assert_eq!(Layout::read(&mut file.reopen().unwrap(), sector_size).unwrap(), layout);
    }
}

#[test]
fn the_dump_is_stable() {
    insta::assert_snapshot!(sample(SectorSize::B512).dump());
}

#[test]
fn sgdisk_and_sfdisk_agree() {
    for sector_size in [SectorSize::B512, SectorSize::B4096] {
        let layout = sample(sector_size);
        let file = written(&layout);
        // sgdisk takes an image file to have sectors of 512 bytes.
        if let Some(sgdisk) = peer("sgdisk").filter(|_| sector_size == SectorSize::B512) {
            let said = String::from_utf8(sgdisk.arg("-v").arg(file.path()).run().unwrap().stdout).unwrap();
            assert!(said.contains("No problems found"), "{said}");
        }
        let Some(mut sfdisk) = peer("sfdisk") else { return };
        if sector_size == SectorSize::B4096 {
            let help = sfdisk.clone().arg("--help").run().unwrap().stdout;
            if !String::from_utf8_lossy(&help).contains("--sector-size") {
                println!("skipped: this sfdisk cannot read images with sectors of 4096 bytes");
                return;
            }
            sfdisk = sfdisk.args(["--sector-size", "4096"]);
        }
        sfdisk.clone().arg("--verify").arg(file.path()).run().unwrap();
        let output = sfdisk.arg("-J").arg(file.path()).run().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let table = &json["partitiontable"];
        let same = |value: &serde_json::Value, guid: Uuid| {
            assert_eq!(value.as_str().unwrap().to_lowercase(), guid.to_string());
        };
        same(&table["id"], layout.disk_guid);
        assert_eq!(table["sectorsize"], sector_size.bytes());
        assert_eq!(table["firstlba"].as_u64().unwrap() * sector_size.bytes(), layout.first_usable());
        assert_eq!((table["lastlba"].as_u64().unwrap() + 1) * sector_size.bytes(), layout.end_usable());
        let found = table["partitions"].as_array().unwrap();
        assert_eq!(found.len(), layout.partitions.len());
        for (found, partition) in found.iter().zip(&layout.partitions) {
            assert_eq!(found["start"].as_u64().unwrap() * sector_size.bytes(), partition.start);
            assert_eq!(found["size"].as_u64().unwrap() * sector_size.bytes(), partition.size);
            assert_eq!(found["name"], partition.name.as_str());
            same(&found["type"], partition.kind.guid());
            same(&found["uuid"], partition.guid);
            let attributes = if partition.attributes == 0 { None } else { Some("GUID:60") };
            assert_eq!(found["attrs"].as_str(), attributes);
        }
    }
}

#[test]
fn impossible_layouts_are_refused() {
    let change = |change: fn(&mut Layout)| {
        let mut layout = sample(SectorSize::B512);
        change(&mut layout);
        layout.check().unwrap_err().to_string()
    };
    assert!(change(|l| l.partitions[2].size += 2 * MIB).contains("past the last usable byte"));
    assert!(change(|l| l.partitions[1].start -= MIB).contains("is free"));
    assert!(change(|l| l.partitions[0].start = 512 * 34).contains("whole MiB"));
    assert!(change(|l| l.partitions[0].name = "n".repeat(37)).contains("UTF-16"));
    assert!(change(|l| l.partitions[0].name = "root-a".to_owned()).contains("same name"));
    assert!(change(|l| l.partitions[0].guid = l.partitions[1].guid).contains("used twice"));
    assert!(change(|l| l.size += 1).contains("cannot carry"));
    assert!(matches!(SectorSize::try_from(520), Err(LayoutError::SectorSize(520))));
}

#[test]
fn a_damaged_table_is_refused() {
    use std::os::unix::fs::FileExt;
    let layout = sample(SectorSize::B512);
    for offset in [450, 512 + 20, 1024 + 3, layout.size - 512 + 16, layout.size - 33 * 512 + 3] {
        let file = written(&layout);
        let mut byte = [0];
        file.as_file().read_exact_at(&mut byte, offset).unwrap();
        file.as_file().write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
        assert!(Layout::read(&mut file.reopen().unwrap(), SectorSize::B512).is_err(), "byte {offset}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_plan_is_written_and_read_back(
        sizes in prop::collection::vec(1u64..9 * MIB, 0..12), big_sectors in any::<bool>()
    ) {
        let sector_size = if big_sectors { SectorSize::B4096 } else { SectorSize::B512 };
        let requests = sizes.iter().enumerate().map(|(i, s)| request(&format!("p{i}"), Kind::Var, *s, 0)).collect();
        let layout = Layout::plan(sector_size, Uuid::from_u128(9), requests).unwrap();
        let file = written(&layout);
        prop_assert_eq!(Layout::read(&mut file.reopen().unwrap(), sector_size).unwrap(), layout);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        use std::os::unix::fs::FileExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 * 1024).unwrap();
        file.as_file().write_all_at(&bytes, 0).unwrap();
        let _ = Layout::read(&mut file.reopen().unwrap(), SectorSize::B512);
    }
}
