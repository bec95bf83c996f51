//! dm-verity's on-disk format: superblock, hash tree, and checking a root against its root hash.
//!
//! The format is that of `veritysetup` (cryptsetup) and the kernel's `dm-verity`, hash type 1:
//!
//! - Block 0 of the hash partition holds a 512-byte superblock: `verity\0\0`, version, hash type, UUID, the name
//!   of the digest, sizes and salt. It is not itself protected: a wrong value leads to a wrong root hash.
//! - From block 1 on lies the tree, the topmost level first. A digest is `SHA-256(salt || block)`; a hash block
//!   holds the digests of up to 128 blocks of the level below, in order, and zeros behind the last. The level
//!   lowest in the tree holds the digests of the data blocks.
//! - The root hash is the digest of the topmost block.
//!
//! Here: SHA-256 and blocks of 4096 bytes only, which is what Ingot's builder makes.

mod check;

pub use check::{CheckError, Checker};

use thiserror::Error;

/// Bytes of a data block and of a hash block.
pub const BLOCK: u64 = 4096;
/// Digests in a hash block.
const FANOUT: u64 = 128;

/// A superblock cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SuperblockError {
    /// There is none.
    #[error("there is no dm-verity superblock")]
    Missing,
    /// It asks for something that Ingot does not make.
    #[error("the dm-verity superblock has {field} {value}, expected {expected}")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is supported.
        expected: &'static str,
    },
}

/// The superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The UUID, which only names the device.
    pub uuid: [u8; 16],
    /// How many blocks of data are protected.
    pub data_blocks: u64,
    /// The salt, at most 256 bytes.
    pub salt: Vec<u8>,
}

impl Superblock {
    /// Reads a superblock from the first 512 bytes of the hash partition.
    pub fn parse(bytes: &[u8; 512]) -> Result<Superblock, SuperblockError> {
        let number32 = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if !bytes.starts_with(b"verity\0\0") {
            return Err(SuperblockError::Missing);
        }
        let algorithm = bytes[32..64].split(|&byte| byte == 0).next().unwrap_or_default();
        let algorithm = String::from_utf8_lossy(algorithm).into_owned();
        let data_blocks = u64::from(number32(72)) | u64::from(number32(76)) << 32;
        let salt_bytes = usize::from(u16::from_le_bytes([bytes[80], bytes[81]]));
        let expect = |right: bool, field, value: String, expected| {
            if right { Ok(()) } else { Err(SuperblockError::Unsupported { field, value, expected }) }
        };
        expect(number32(8) == 1, "version", number32(8).to_string(), "1")?;
        expect(number32(12) == 1, "hash type", number32(12).to_string(), "1")?;
        expect(algorithm == "sha256", "digest", algorithm.escape_default().to_string(), "sha256")?;
        expect(number32(64) == 4096, "data block size", number32(64).to_string(), "4096")?;
        expect(number32(68) == 4096, "hash block size", number32(68).to_string(), "4096")?;
        // 2^48 blocks are an exbibyte: more is damage, and every sum below stays far from overflow.
        expect((1..1 << 48).contains(&data_blocks), "data blocks", data_blocks.to_string(), "1 to 2^48")?;
        expect(salt_bytes <= 256, "salt length", salt_bytes.to_string(), "at most 256")?;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[16..32]);
        Ok(Superblock { uuid, data_blocks, salt: bytes[88..88 + salt_bytes].to_vec() })
    }

    /// The levels of the tree, the topmost first: the first hash block and the number of hash blocks.
    pub fn levels(&self) -> Vec<Level> {
        let mut counts = Vec::new();
        let mut below = self.data_blocks;
        while below > 1 {
            below = below.div_ceil(FANOUT);
            counts.push(below);
        }
        let mut first = 1;
        let mut levels = Vec::new();
        for &blocks in counts.iter().rev() {
            levels.push(Level { first, blocks });
            first += blocks;
        }
        levels
    }

    /// Bytes that superblock and tree take.
    pub fn hash_bytes(&self) -> u64 {
        self.levels().last().map_or(1, |level| level.first + level.blocks) * BLOCK
    }
}

/// One level of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Its first block in the hash partition.
    pub first: u64,
    /// Its number of blocks.
    pub blocks: u64,
}

#[cfg(test)]
pub(super) mod tests;
