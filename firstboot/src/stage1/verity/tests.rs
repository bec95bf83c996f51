use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;

/// A tree as the format describes it, made level by level: the oracle for the checker where the real tool is not
/// at hand. Gives the hash partition and the root hash.
pub fn format(data: &[u8], salt: &[u8]) -> (Vec<u8>, [u8; 32]) {
    let digests = |blocks: &[u8]| -> Vec<[u8; 32]> {
        blocks
            .chunks(4096)
            .map(|block| Sha256::new().chain_update(salt).chain_update(block).finalize().into())
            .collect()
    };
    let mut hashes = digests(data);
    let mut levels: Vec<Vec<u8>> = Vec::new();
    while hashes.len() > 1 {
        let mut level = hashes.concat();
        level.resize(level.len().next_multiple_of(4096), 0);
        hashes = digests(&level);
        levels.push(level);
    }
    let mut superblock = vec![0; 4096];
    superblock[..8].copy_from_slice(b"verity\0\0");
    superblock[8] = 1;
    superblock[12] = 1;
    superblock[32..38].copy_from_slice(b"sha256");
    superblock[64..68].copy_from_slice(&4096_u32.to_le_bytes());
    superblock[68..72].copy_from_slice(&4096_u32.to_le_bytes());
    superblock[72..80].copy_from_slice(&(data.len() as u64 / 4096).to_le_bytes());
    superblock[80..82].copy_from_slice(&u16::try_from(salt.len()).unwrap().to_le_bytes());
    superblock[88..88 + salt.len()].copy_from_slice(salt);
    levels.push(superblock);
    levels.reverse();
    (levels.concat(), hashes[0])
}

fn superblock(hashes: &[u8]) -> Superblock {
    Superblock::parse(hashes[..512].try_into().unwrap()).unwrap()
}

fn data(blocks: usize) -> Vec<u8> {
    (0..blocks * 4096).map(|at| u8::try_from((at * 7 + at / 4096 * 13) % 251).unwrap()).collect()
}

#[test]
fn a_whole_tree_is_accepted_at_every_height() {
    // One block (no tree), one level, its boundary, two levels, three.
    for blocks in [1, 2, 128, 129, 300, 128 * 128 + 1] {
        let data = data(blocks);
        let (hashes, root_hash) = format(&data, &[5; 32]);
        let superblock = superblock(&hashes);
        assert_eq!(superblock.hash_bytes(), hashes.len() as u64);
        let checker = Checker::new(&superblock, &data, &hashes, root_hash);
        assert!(checker.root_matches().unwrap(), "{blocks}");
        for block in [0, blocks / 2, blocks - 1] {
            assert_eq!(checker.read_data(block as u64).unwrap(), data[block * 4096..(block + 1) * 4096]);
        }
        checker.check_all(&|_, _| {}).unwrap();
        assert!(!Checker::new(&superblock, &data, &hashes, [0; 32]).root_matches().unwrap());
    }
}

#[test]
fn a_flipped_bit_is_found_and_its_block_named() {
    let data = data(1000);
    let (hashes, root_hash) = format(&data, &[5; 32]);
    let superblock = superblock(&hashes);
    let mut bad = data.clone();
    bad[700 * 4096 + 9] ^= 4;
    bad[650 * 4096] ^= 4;
    let error = Checker::new(&superblock, &bad, &hashes, root_hash).check_all(&|_, _| {}).unwrap_err();
    assert!(matches!(error, CheckError::Corrupt { part: "data", block: 650 }), "the first one: {error}");
    assert!(Checker::new(&superblock, &bad, &hashes, root_hash).read_data(700).is_err());
    assert!(Checker::new(&superblock, &bad, &hashes, root_hash).read_data(699).is_ok());
    for (at, block) in [(4096 + 3, 1), (2 * 4096 + 3, 2), (9 * 4096 + 4, 9)] {
        let mut bad = hashes.clone();
        bad[at] ^= 1;
        let error = Checker::new(&superblock, &data, &bad, root_hash).check_all(&|_, _| {}).unwrap_err();
        assert!(matches!(error, CheckError::Corrupt { part: "hash", block: b } if b == block), "{error}");
    }
    let short = data[..900 * 4096].to_vec();
    let error = Checker::new(&superblock, &short, &hashes, root_hash).check_all(&|_, _| {}).unwrap_err();
    assert!(matches!(error, CheckError::Read { part: "data", block: 900, .. }), "{error}");
}

#[test]
fn veritysetup_makes_what_is_read_here() {
    let directory = tempfile::tempdir().unwrap();
    let (data_path, hash_path) = (directory.path().join("data"), directory.path().join("hash"));
    for blocks in [2, 128, 129, 20_000] {
        let data = data(blocks);
        std::fs::write(&data_path, &data).unwrap();
        let _ = std::fs::remove_file(&hash_path);
        #[allow(clippy::disallowed_methods)]
        let output = std::process::Command::new("veritysetup").arg("format").args([&data_path, &hash_path]).output();
        let Ok(output) = output else {
            eprintln!("skipped: veritysetup is not installed");
            return;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        let root_hash = text.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim();
        let root_hash = crate::stage1::cmdline::hex(root_hash).unwrap().try_into().unwrap();
        let hashes = std::fs::read(&hash_path).unwrap();
        let superblock = superblock(&hashes);
        assert_eq!(superblock.data_blocks, blocks as u64);
        assert_eq!(superblock.hash_bytes(), hashes.len() as u64);
        let checker = Checker::new(&superblock, &data, &hashes, root_hash);
        assert!(checker.root_matches().unwrap());
        checker.check_all(&|_, _| {}).unwrap();
        // And the oracle of these tests makes the same tree.
        assert_eq!(
            format(&data, &superblock.salt),
            (
                {
                    let mut hashes = hashes.clone();
                    hashes[16..32].fill(0);
                    hashes
                },
                root_hash
            )
        );
    }
}

proptest! {
    #[test]
    fn any_superblock_is_read_without_a_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 512),
        keep in 0_usize..512,
    ) {
        let (hashes, _) = format(&data(2), &[5; 32]);
        bytes[..keep].copy_from_slice(&hashes[..keep]);
        if let Ok(superblock) = Superblock::parse(bytes[..].try_into().unwrap()) {
            prop_assert!(superblock.hash_bytes() > 0 && superblock.salt.len() <= 256);
            let empty = Vec::new();
            prop_assert!(Checker::new(&superblock, &empty, &empty, [0; 32]).root_matches().is_err());
        }
    }
}
