//! dm-verity: a hash tree over the root file system.
//!
//! Takes the root image and gives the hash device beside it and the root hash that goes into the kernel command
//! line. The format is `veritysetup`'s: superblock version 1 in the first block, hash type 1 (the salt in front
//! of the data), SHA-256, 4096-byte data and hash blocks, the tree's top level first. The bytes are exactly those
//! that `veritysetup format --uuid --salt` writes; nothing in them is random.
//!
//! A device of a single data block has no tree: its root hash is the block's own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

/// Size of a data block and of a hash block in bytes.
pub const BLOCK: usize = 4096;
const DIGEST: usize = 32;
const DIGESTS_PER_BLOCK: u64 = (BLOCK / DIGEST) as u64;
const MAGIC: &[u8; 8] = b"verity\0\0";
/// Blocks that one thread takes at a time: a multiple of [`DIGESTS_PER_BLOCK`], 4 MiB of data.
const CHUNK: usize = 1024;
/// The largest salt the superblock can hold.
const MAX_SALT: usize = 256;

/// A hash tree could not be made or does not match.
#[derive(Debug, Error)]
pub enum VerityError {
    /// Reading or writing failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// `read`, `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The data is not a whole number of blocks, or is empty.
    #[error("{} has {size} bytes; dm-verity needs a whole, non-zero number of {BLOCK}-byte blocks", path.display())]
    Size {
        /// The data.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The salt is longer than the superblock can hold.
    #[error("a salt of {0} bytes is too long: the superblock holds {MAX_SALT}")]
    Salt(usize),
    /// The superblock is not one that we write or the kernel reads.
    #[error("not a verity superblock that is supported: {0}")]
    Superblock(&'static str),
    /// A data block is not what the tree says.
    #[error("block {block} of {} does not match the hash tree", path.display())]
    Corrupt {
        /// The data.
        path: PathBuf,
        /// Number of the first wrong block.
        block: u64,
    },
    /// The tree itself is damaged, though the data matches the root hash.
    #[error("the hash tree in {} is damaged at byte {offset}", path.display())]
    Tree {
        /// The hash device.
        path: PathBuf,
        /// First wrong byte.
        offset: u64,
    },
    /// Data and tree agree with each other, not with the root hash that was expected.
    #[error("the root hash of {} is {found}, expected {expected}", path.display())]
    RootHash {
        /// The data.
        path: PathBuf,
        /// Hex.
        found: String,
        /// Hex.
        expected: String,
    },
}

/// A finished hash tree. It can be kept as JSON beside a cached hash device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verity {
    /// The root hash: what the kernel command line carries as `roothash=`.
    pub root_hash: [u8; 32],
    /// Number of 4096-byte data blocks.
    pub data_blocks: u64,
    /// Size of the hash device in bytes, superblock included.
    pub hash_bytes: u64,
    /// The salt.
    pub salt: Vec<u8>,
    /// The UUID in the superblock.
    pub uuid: Uuid,
}

impl Verity {
    /// The root hash in lower-case hex.
    pub fn root_hash_hex(&self) -> String {
        super::hex(&self.root_hash)
    }

    /// The GUID of the root partition after the Discoverable Partitions Specification: the root hash's first half.
    pub fn root_partition_guid(&self) -> Uuid {
        partition_guids(&self.root_hash).0
    }

    /// The GUID of the verity partition: the root hash's second half.
    pub fn verity_partition_guid(&self) -> Uuid {
        partition_guids(&self.root_hash).1
    }
}

/// The GUIDs of the root and of the verity partition that belong to a root hash.
pub fn partition_guids(root_hash: &[u8; 32]) -> (Uuid, Uuid) {
    let (mut first, mut second) = ([0; 16], [0; 16]);
    first.copy_from_slice(&root_hash[..16]);
    second.copy_from_slice(&root_hash[16..]);
    (Uuid::from_bytes(first), Uuid::from_bytes(second))
}

/// The first block of a hash device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Identifies the device.
    pub uuid: Uuid,
    /// Number of 4096-byte data blocks.
    pub data_blocks: u64,
    /// Put in front of every block that is hashed.
    pub salt: Vec<u8>,
}

impl Superblock {
    /// The block as it is on disk. The salt is at most 256 bytes; more is cut.
    pub fn to_bytes(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let salt = &self.salt[..self.salt.len().min(MAX_SALT)];
        block[0..8].copy_from_slice(MAGIC);
        block[8..12].copy_from_slice(&1u32.to_le_bytes()); // version
        block[12..16].copy_from_slice(&1u32.to_le_bytes()); // hash type: the salt comes first
        block[16..32].copy_from_slice(self.uuid.as_bytes());
        block[32..38].copy_from_slice(b"sha256");
        block[64..68].copy_from_slice(&4096u32.to_le_bytes());
        block[68..72].copy_from_slice(&4096u32.to_le_bytes());
        block[72..80].copy_from_slice(&self.data_blocks.to_le_bytes());
        block[80..82].copy_from_slice(&u16::try_from(salt.len()).unwrap_or_default().to_le_bytes());
        block[88..88 + salt.len()].copy_from_slice(salt);
        block
    }

    /// Reads the first 512 bytes or more of a hash device.
    pub fn parse(bytes: &[u8]) -> Result<Self, VerityError> {
        let block: &[u8; 512] = bytes.first_chunk().ok_or(VerityError::Superblock("it is shorter than 512 bytes"))?;
        let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        if &block[0..8] != MAGIC {
            return Err(VerityError::Superblock("it does not begin with `verity`"));
        }
        if word(8) != 1 || word(12) != 1 {
            return Err(VerityError::Superblock("its version or hash type is not 1"));
        }
        if &block[32..39] != b"sha256\0" {
            return Err(VerityError::Superblock("its algorithm is not sha256"));
        }
        if word(64) != 4096 || word(68) != 4096 {
            return Err(VerityError::Superblock("its block sizes are not 4096"));
        }
        let mut eight = [0; 8];
        eight.copy_from_slice(&block[72..80]);
        let mut sixteen = [0; 16];
        sixteen.copy_from_slice(&block[16..32]);
        let salt_size = usize::from(u16::from_le_bytes([block[80], block[81]]));
        if salt_size > MAX_SALT {
            return Err(VerityError::Superblock("its salt is longer than 256 bytes"));
        }
        Ok(Self {
            uuid: Uuid::from_bytes(sixteen),
            data_blocks: u64::from_le_bytes(eight),
            salt: block[88..88 + salt_size].to_vec(),
        })
    }
}

/// Size of the hash device for so many data blocks, in bytes, superblock included.
pub fn hash_device_bytes(data_blocks: u64) -> u64 {
    let mut blocks = 1;
    let mut level = data_blocks;
    while level > 1 {
        level = level.div_ceil(DIGESTS_PER_BLOCK);
        blocks += level;
    }
    blocks * BLOCK as u64
}

/// Hashes `data` and writes the hash device to `out`, with `jobs` threads.
pub fn create(data: &Path, out: &Path, salt: &[u8], uuid: Uuid, jobs: usize) -> Result<Verity, VerityError> {
    if salt.len() > MAX_SALT {
        return Err(VerityError::Salt(salt.len()));
    }
    let tree = Tree::build(data, salt, jobs)?;
    let superblock = Superblock { uuid, data_blocks: tree.data_blocks, salt: salt.to_vec() };
    let mut bytes = superblock.to_bytes().to_vec();
    tree.append_to(&mut bytes);
    std::fs::write(out, &bytes).map_err(|source| VerityError::Io { doing: "write", path: out.to_owned(), source })?;
    Ok(Verity {
        root_hash: tree.root_hash,
        data_blocks: tree.data_blocks,
        hash_bytes: bytes.len() as u64,
        salt: salt.to_vec(),
        uuid,
    })
}

/// Checks `data` and the hash device `hash` against the root hash, with `jobs` threads. The hash file may be
/// longer than the tree (a partition is).
pub fn verify(data: &Path, hash: &Path, root_hash: &[u8; 32], jobs: usize) -> Result<Superblock, VerityError> {
    let read = |source| VerityError::Io { doing: "read", path: hash.to_owned(), source };
    let file = File::open(hash).map_err(read)?;
    let mut first = [0; BLOCK];
    file.read_exact_at(&mut first, 0).map_err(read)?;
    let superblock = Superblock::parse(&first)?;
    let tree = Tree::build(data, &superblock.salt, jobs)?;
    if tree.data_blocks != superblock.data_blocks {
        return Err(VerityError::Superblock("its number of blocks is not that of the data"));
    }
    let mut wanted = Vec::new();
    tree.append_to(&mut wanted);
    let mut found = vec![0; wanted.len()];
    file.read_exact_at(&mut found, BLOCK as u64).map_err(read)?;
    // The leaves are the last level: where one of them differs, a data block can be named.
    let leaves = wanted.len() - tree.levels.first().map_or(0, Vec::len);
    if let Some(at) = (leaves..wanted.len()).find(|at| wanted[*at] != found[*at])
        && &tree.root_hash != root_hash
    {
        return Err(VerityError::Corrupt { path: data.to_owned(), block: ((at - leaves) / DIGEST) as u64 });
    }
    if &tree.root_hash != root_hash {
        return Err(VerityError::RootHash {
            path: data.to_owned(),
            found: super::hex(&tree.root_hash),
            expected: super::hex(root_hash),
        });
    }
    if let Some(at) = (0..wanted.len()).find(|at| wanted[*at] != found[*at]) {
        return Err(VerityError::Tree { path: hash.to_owned(), offset: (BLOCK + at) as u64 });
    }
    Ok(superblock)
}

struct Tree {
    root_hash: [u8; 32],
    data_blocks: u64,
    /// Hash blocks by level, the leaves first; each level padded with zeros to whole blocks.
    levels: Vec<Vec<u8>>,
}

impl Tree {
    fn build(data: &Path, salt: &[u8], jobs: usize) -> Result<Self, VerityError> {
        let read = |source| VerityError::Io { doing: "read", path: data.to_owned(), source };
        let file = File::open(data).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        if size == 0 || !size.is_multiple_of(BLOCK as u64) {
            return Err(VerityError::Size { path: data.to_owned(), size });
        }
        let data_blocks = size / BLOCK as u64;
        let blocks = usize::try_from(data_blocks).map_err(|_| VerityError::Size { path: data.to_owned(), size })?;
        let salted = Sha256::new_with_prefix(salt);

        let mut leaves = vec![0; blocks * DIGEST];
        {
            let chunks = Mutex::new(leaves.chunks_mut(CHUNK * DIGEST).enumerate());
            let failure = Mutex::new(None);
            thread::scope(|scope| {
                for _ in 0..jobs.clamp(1, blocks.div_ceil(CHUNK)) {
                    scope.spawn(|| {
                        let mut buffer = vec![0; CHUNK * BLOCK];
                        loop {
                            // A poisoned lock means that another thread panicked; the scope passes that on.
                            let Ok(Some((index, digests))) = chunks.lock().map(|mut c| c.next()) else { return };
                            let part = &mut buffer[..digests.len() / DIGEST * BLOCK];
                            if let Err(error) = file.read_exact_at(part, (index * CHUNK * BLOCK) as u64) {
                                if let Ok(mut slot) = failure.lock() {
                                    *slot = Some(error);
                                }
                                return;
                            }
                            hash_blocks(&salted, part, digests);
                        }
                    });
                }
            });
            if let Ok(Some(error)) = failure.into_inner() {
                return Err(read(error));
            }
        }

        let mut levels = Vec::new();
        let mut digests = leaves;
        while digests.len() > DIGEST {
            digests.resize(digests.len().next_multiple_of(BLOCK), 0);
            let mut above = vec![0; digests.len() / BLOCK * DIGEST];
            hash_blocks(&salted, &digests, &mut above);
            levels.push(std::mem::replace(&mut digests, above));
        }
        let mut root_hash = [0; 32];
        root_hash.copy_from_slice(&digests);
        Ok(Self { root_hash, data_blocks, levels })
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        for level in self.levels.iter().rev() {
            out.extend_from_slice(level);
        }
    }
}

fn hash_blocks(salted: &Sha256, blocks: &[u8], digests: &mut [u8]) {
    for (block, digest) in blocks.chunks_exact(BLOCK).zip(digests.chunks_exact_mut(DIGEST)) {
        let mut hasher = salted.clone();
        hasher.update(block);
        digest.copy_from_slice(&hasher.finalize());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::image::testing::peer;

    const SALT: [u8; 32] = [0xa5; 32];
    const UUID: Uuid = Uuid::from_u128(0x0123_4567_89ab_4def_8123_4567_89ab_cdef);

    fn sample(blocks: usize) -> Vec<u8> {
        let mut bytes = vec![0x5a; blocks * BLOCK];
        for (number, block) in bytes.chunks_exact_mut(BLOCK).enumerate() {
            block[..8].copy_from_slice(&(number as u64).to_le_bytes());
        }
        bytes
    }

    fn make(dir: &Path, blocks: usize, jobs: usize) -> Verity {
        fs::write(dir.join("data"), sample(blocks)).unwrap();
        create(&dir.join("data"), &dir.join("hash"), &SALT, UUID, jobs).unwrap()
    }

    #[test]
    fn veritysetup_writes_the_same_bytes() {
        let Some(veritysetup) = peer("veritysetup") else { return };
        // One block has no level; 128 fill one hash block; 129 need a second level; 16385 a third.
        for blocks in [1, 2, 127, 128, 129, 1025, 16384, 16385] {
            let dir = tempfile::tempdir().unwrap();
            let verity = make(dir.path(), blocks, 2);
            let peer_hash = dir.path().join("peer");
            let output = veritysetup
                .clone()
                .args(["format", "--salt", &super::super::hex(&SALT), "--uuid", &UUID.to_string()])
                .arg(dir.path().join("data"))
                .arg(&peer_hash)
                .run()
                .unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(said.contains(&verity.root_hash_hex()), "{blocks} blocks: {said}");
            assert!(fs::read(&peer_hash).unwrap() == fs::read(dir.path().join("hash")).unwrap(), "{blocks} blocks");
            veritysetup
                .clone()
                .arg("verify")
                .args([dir.path().join("data"), dir.path().join("hash")])
                .arg(verity.root_hash_hex())
                .run()
                .unwrap();
        }
    }

    #[test]
    fn every_kind_of_damage_is_found_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let verity = make(dir.path(), 300, 2);
        let (data, hash) = (dir.path().join("data"), dir.path().join("hash"));
        assert_eq!(verify(&data, &hash, &verity.root_hash, 2).unwrap().data_blocks, 300);

        let mut bytes = fs::read(&data).unwrap();
        bytes[200 * BLOCK + 17] ^= 1;
        fs::write(&data, &bytes).unwrap();
        let error = verify(&data, &hash, &verity.root_hash, 2).unwrap_err();
        assert!(matches!(error, VerityError::Corrupt { block: 200, .. }), "{error}");
        bytes[200 * BLOCK + 17] ^= 1;
        fs::write(&data, &bytes).unwrap();

        let mut tree = fs::read(&hash).unwrap();
        tree[5000] ^= 1;
        fs::write(&hash, &tree).unwrap();
        let error = verify(&data, &hash, &verity.root_hash, 2).unwrap_err();
        assert!(matches!(error, VerityError::Tree { offset: 5000, .. }), "{error}");
        tree[5000] ^= 1;
        fs::write(&hash, &tree).unwrap();
        let error = verify(&data, &hash, &[0; 32], 2).unwrap_err();
        assert!(matches!(error, VerityError::RootHash { .. }), "{error}");
    }

    #[test]
    fn a_partial_block_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for size in [0, 1, 4095, 4097] {
            fs::write(dir.path().join("data"), vec![0; size]).unwrap();
            let error = create(&dir.path().join("data"), &dir.path().join("hash"), &SALT, UUID, 1).unwrap_err();
            assert!(matches!(error, VerityError::Size { .. }), "{error}");
        }
    }

    #[test]
    fn the_guids_are_the_halves_of_the_root_hash() {
        let hash: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let (root, verity) = partition_guids(&hash);
        assert_eq!(root.to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(verity.to_string(), "10111213-1415-1617-1819-1a1b1c1d1e1f");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn size_is_predicted_and_threads_do_not_matter(blocks in 1usize..3000, jobs in 1usize..5) {
            let dir = tempfile::tempdir().unwrap();
            let one = make(dir.path(), blocks, 1);
            let many = make(dir.path(), blocks, jobs);
            prop_assert_eq!(&one, &many);
            prop_assert_eq!(one.hash_bytes, hash_device_bytes(blocks as u64));
            prop_assert!(verify(&dir.path().join("data"), &dir.path().join("hash"), &one.root_hash, jobs).is_ok());
        }

        #[test]
        fn a_superblock_survives_the_round_trip(
            uuid in any::<u128>(), data_blocks in any::<u64>(), salt in prop::collection::vec(any::<u8>(), 0..=256)
        ) {
            let superblock = Superblock { uuid: Uuid::from_u128(uuid), data_blocks, salt };
            prop_assert_eq!(Superblock::parse(&superblock.to_bytes()).unwrap(), superblock);
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Superblock::parse(&bytes);
        }
    }
}
