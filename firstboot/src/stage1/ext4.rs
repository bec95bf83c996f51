//! What is on the state partition: an ext4, nothing, or something that must not be touched.
//!
//! Reads the ext4 superblock (kernel documentation, `filesystems/ext4/super`) and looks for the signatures of other
//! contents. Nothing is written.

use std::io;

use super::storage::Source;

/// What a partition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// No filesystem.
    Nothing,
    /// An ext4 (or its forerunners).
    Ext4(Ext4),
    /// Something else.
    Other(&'static str),
}

/// What matters of an ext4 superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ext4 {
    /// Blocks of the filesystem.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// The kernel has seen errors in it.
    pub has_errors: bool,
    /// It was made and never mounted, and holds no file: making it again loses nothing. A power cut while
    /// `mke2fs` runs can leave such a superblock before the rest is written.
    pub is_untouched: bool,
}

/// Looks at a partition.
pub fn probe(partition: &impl Source) -> io::Result<Content> {
    let mut head = vec![0; 4096];
    partition.read_at(0, &mut head)?;
    let superblock = &head[1024..2048];
    if superblock[56..58] == [0x53, 0xef] {
        return Ok(ext4(superblock).map_or(Content::Other("a damaged ext4"), Content::Ext4));
    }
    let mut later = [0; 8];
    // Signatures that lie behind what an empty partition has zeroed.
    for (at, signature, name) in [
        (65_600, &b"_BHRfS_M"[..], "btrfs"),
        (4086, &b"SWAPSPAC"[..], "swap space"),
        (4096, &[0xfc, 0x4e, 0x2b, 0xa9][..], "a RAID member"),
    ] {
        if partition.read_at(at, &mut later).is_ok() && later.starts_with(signature) {
            return Ok(Content::Other(name));
        }
    }
    for (at, signature, name) in [
        (0, &b"LUKS"[..], "an encrypted volume"),
        (0, &b"XFSB"[..], "xfs"),
        (512, &b"LABELONE"[..], "an LVM volume"),
        (510, &[0x55, 0xaa][..], "FAT, NTFS or a partition table"),
        (1024, &[0xe2, 0xe1, 0xf5, 0xe0][..], "erofs"),
    ] {
        if head[at..].starts_with(signature) {
            return Ok(Content::Other(name));
        }
    }
    // The first half of the superblock's sectors must be empty; the second may have got written alone.
    if head[..1536].iter().all(|&byte| byte == 0) { Ok(Content::Nothing) } else { Ok(Content::Other("unknown data")) }
}

fn ext4(bytes: &[u8]) -> Option<Ext4> {
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let has_64_bits = number(96) & 0x80 != 0;
    let high = if has_64_bits { u64::from(number(336)) } else { 0 };
    let block_bytes = 1024_u64.checked_shl(number(24)).filter(|bytes| (1024..=65536).contains(bytes))?;
    // Inodes 1 to 10 are reserved, 11 is lost+found; an orphan file or a quota adds a few.
    let inodes_in_use = number(0).checked_sub(number(16))?;
    let never_mounted = number(44) == 0 && bytes[52..54] == [0, 0];
    Some(Ext4 {
        blocks: u64::from(number(4)) | high << 32,
        block_bytes,
        has_errors: bytes[58] & 2 != 0,
        is_untouched: never_mounted && inodes_in_use <= 12,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::path::Path;

    fn run(program: &str, arguments: &[&str]) -> Option<()> {
        #[allow(clippy::disallowed_methods)]
        let output = std::process::Command::new(program).args(arguments).output().ok()?;
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Some(())
    }

    fn image(path: &Path, mebibytes: u64) -> File {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
        file.set_len(mebibytes << 20).unwrap();
        file
    }

    #[test]
    fn tells_an_untouched_ext4_from_one_with_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("var");
        let file = image(&path, 64);
        let name = path.to_str().unwrap();
        assert_eq!(probe(&file).unwrap(), Content::Nothing);
        let options = ["-t", "ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=1,nodiscard"];
        if run("mke2fs", &[&options[..], &[name]].concat()).is_none() {
            eprintln!("skipped: mke2fs is not installed");
            return;
        }
        let Content::Ext4(ext4) = probe(&file).unwrap() else { panic!("not ext4") };
        assert_eq!(ext4, Ext4 { blocks: 16 << 10, block_bytes: 4096, has_errors: false, is_untouched: true });
        std::fs::create_dir_all(directory.path().join("tree/a/b/c/d")).unwrap();
        let tree = directory.path().join("tree");
        run("mke2fs", &[&options[..], &["-d", tree.to_str().unwrap(), name]].concat());
        assert!(matches!(probe(&file).unwrap(), Content::Ext4(Ext4 { is_untouched: false, .. })));
    }

    #[test]
    fn foreign_content_is_named() {
        let content = |at: usize, signature: &[u8]| {
            let mut bytes = vec![0; 128 << 10];
            bytes[at..at + signature.len()].copy_from_slice(signature);
            probe(&bytes).unwrap()
        };
        assert_eq!(content(0, b"XFSB"), Content::Other("xfs"));
        assert_eq!(content(65_600, b"_BHRfS_M"), Content::Other("btrfs"));
        assert_eq!(content(4086, b"SWAPSPACE2"), Content::Other("swap space"));
        assert_eq!(content(700, b"?"), Content::Other("unknown data"));
        assert_eq!(content(1600, b"?"), Content::Nothing, "half of a superblock");
        assert_eq!(
            content(1024 + 56, &[0x53, 0xef, 0, 0]),
            Content::Ext4(Ext4 { blocks: 0, block_bytes: 1024, has_errors: false, is_untouched: true })
        );
    }

    proptest::proptest! {
        #[test]
        fn any_superblock_is_read_without_a_panic(mut bytes in proptest::collection::vec(0_u8.., 1024)) {
            bytes[56..58].copy_from_slice(&[0x53, 0xef]);
            let mut disk = vec![0; 1024];
            disk.extend(bytes);
            disk.resize(128 << 10, 0);
            let _ = probe(&disk);
        }
    }
}
