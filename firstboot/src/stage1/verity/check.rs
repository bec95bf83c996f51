//! Checking data against a root hash, block by block up the tree, or all of it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{BLOCK, FANOUT, Superblock};
use crate::stage1::storage::Source;

type Hash = [u8; 32];

/// The root cannot be trusted.
#[derive(Debug, Error)]
pub enum CheckError {
    /// A block is not what it was.
    #[error("{part} block {block} (at byte {}) is corrupt", .block * BLOCK)]
    Corrupt {
        /// `data` or `hash`.
        part: &'static str,
        /// The block, from the start of its partition.
        block: u64,
    },
    /// A block cannot be read.
    #[error("{part} block {block} cannot be read: {source}")]
    Read {
        /// `data` or `hash`.
        part: &'static str,
        /// The block.
        block: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// A thread could not be started or did not end well.
    #[error("the check was interrupted: {0}")]
    Interrupted(String),
}

/// A root with its hash tree.
pub struct Checker<'a, D: ?Sized, H: ?Sized> {
    superblock: &'a Superblock,
    data: &'a D,
    hashes: &'a H,
    root_hash: Hash,
}

impl<'a, D: Source + ?Sized, H: Source + ?Sized> Checker<'a, D, H> {
    /// Data and hash partition with the root hash that they should have.
    pub fn new(superblock: &'a Superblock, data: &'a D, hashes: &'a H, root_hash: Hash) -> Self {
        Self { superblock, data, hashes, root_hash }
    }

    /// Whether this tree's root hash is the one asked for. Reads one block.
    pub fn root_matches(&self) -> Result<bool, CheckError> {
        match self.check(0, 0) {
            Ok(_) => Ok(true),
            Err(CheckError::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads one data block, checked from the root hash down.
    pub fn read_data(&self, block: u64) -> Result<Vec<u8>, CheckError> {
        self.check(self.superblock.levels().len(), block)
    }

    /// Reads and checks the ancestor of a data block that lies `depth` levels below the root; at the depth of the
    /// tree that is the data block itself.
    fn check(&self, depth: usize, data_block: u64) -> Result<Vec<u8>, CheckError> {
        let levels = self.superblock.levels();
        let mut expected = self.root_hash;
        for (above_data, at) in (0..=depth.min(levels.len())).map(|at| (levels.len() - at, at)) {
            // A block `n` levels above the data stands for 128^n data blocks.
            let index = (0..above_data).fold(data_block, |index, _| index / FANOUT);
            let (part, block, bytes) = match levels.get(at) {
                Some(level) => ("hash", level.first + index, self.read("hash", level.first + index)?),
                None => ("data", index, self.read("data", index)?),
            };
            if self.digest(&bytes) != expected {
                return Err(CheckError::Corrupt { part, block });
            }
            if at == depth.min(levels.len()) {
                return Ok(bytes);
            }
            let child = (0..above_data - 1).fold(data_block, |index, _| index / FANOUT) % FANOUT;
            expected = slot(&bytes, child);
        }
        // The loop always reaches `depth`.
        Ok(Vec::new())
    }

    /// Checks every hash and data block, with as many threads as there are processors. Gives the first block that
    /// is wrong. `progress` is told now and then how many of how many data blocks are done.
    pub fn check_all(&self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<(), CheckError> {
        let levels = self.superblock.levels();
        let mut expected: Vec<Hash> = vec![self.root_hash];
        for (at, level) in levels.iter().enumerate() {
            let below = levels.get(at + 1).map_or(self.superblock.data_blocks, |level| level.blocks);
            let first = level.first;
            let blocks = self.check_run("hash", first, &expected, &|_| {})?;
            let digests = blocks.into_iter().flat_map(|bytes| (0..FANOUT).map(move |child| slot(&bytes, child)));
            expected = digests.take(usize::try_from(below).unwrap_or(usize::MAX)).collect();
        }
        let total = self.superblock.data_blocks;
        self.check_run_discarding("data", &expected, &|done| progress(done, total))
    }

    /// Checks blocks from `first` on against these digests and gives their content.
    fn check_run(
        &self,
        part: &'static str,
        first: u64,
        expected: &[Hash],
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<Vec<u8>>, CheckError> {
        let mut contents = Vec::with_capacity(expected.len());
        for (block, expected) in (first..).zip(expected) {
            let bytes = self.read(part, block)?;
            if self.digest(&bytes) != *expected {
                return Err(CheckError::Corrupt { part, block });
            }
            contents.push(bytes);
            progress(block);
        }
        Ok(contents)
    }

    /// Checks blocks from 0 on against these digests in parallel.
    fn check_run_discarding(
        &self,
        part: &'static str,
        expected: &[Hash],
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), CheckError> {
        // Blocks that a thread takes at a time: large reads, and small enough to keep all threads busy.
        const RUN: u64 = 256;
        let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
        let failed_at = AtomicU64::new(u64::MAX);
        let total = expected.len() as u64;
        let work = || -> Result<(), CheckError> {
            let mut buffer = vec![0; usize::try_from(RUN * BLOCK).unwrap_or_default()];
            loop {
                let start = next.fetch_add(RUN, Ordering::Relaxed);
                if start >= total || start > failed_at.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let run = &expected[usize::try_from(start).unwrap_or_default()..];
                let run = &run[..run.len().min(usize::try_from(RUN).unwrap_or_default())];
                let bytes = &mut buffer[..run.len() * usize::try_from(BLOCK).unwrap_or_default()];
                if let Err(error) = self.check_buffer(part, start, run, bytes) {
                    failed_at.fetch_min(start, Ordering::Relaxed);
                    return Err(error);
                }
                progress(done.fetch_add(run.len() as u64, Ordering::Relaxed) + run.len() as u64);
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from).min(64);
        let results: Vec<Result<(), CheckError>> = thread::scope(|scope| {
            let handles: Vec<_> =
                (1..threads).filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
            let mine = work();
            let others = handles.into_iter().map(|handle| {
                handle.join().unwrap_or_else(|_| Err(CheckError::Interrupted("a thread panicked".to_owned())))
            });
            std::iter::once(mine).chain(others).collect()
        });
        let mut errors: Vec<CheckError> = results.into_iter().filter_map(Result::err).collect();
        errors.sort_by_key(|error| match error {
            CheckError::Corrupt { block, .. } | CheckError::Read { block, .. } => *block,
            CheckError::Interrupted(_) => u64::MAX,
        });
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    /// Reads a run of data blocks and checks each.
    fn check_buffer(&self, part: &'static str, start: u64, run: &[Hash], bytes: &mut [u8]) -> Result<(), CheckError> {
        if self.data.read_at(start * BLOCK, bytes).is_err() {
            // One by one, so that the error names the block.
            for (block, expected) in (start..).zip(run) {
                if self.digest(&self.read(part, block)?) != *expected {
                    return Err(CheckError::Corrupt { part, block });
                }
            }
            return Ok(());
        }
        let blocks = bytes.chunks_exact(usize::try_from(BLOCK).unwrap_or_default());
        for ((block, expected), bytes) in (start..).zip(run).zip(blocks) {
            if self.digest(bytes) != *expected {
                return Err(CheckError::Corrupt { part, block });
            }
        }
        Ok(())
    }

    fn read(&self, part: &'static str, block: u64) -> Result<Vec<u8>, CheckError> {
        let mut bytes = vec![0; usize::try_from(BLOCK).unwrap_or_default()];
        let result = match part {
            "hash" => self.hashes.read_at(block * BLOCK, &mut bytes),
            _ => self.data.read_at(block * BLOCK, &mut bytes),
        };
        result.map(|()| bytes).map_err(|source| CheckError::Read { part, block, source })
    }

    fn digest(&self, block: &[u8]) -> Hash {
        Sha256::new().chain_update(&self.superblock.salt).chain_update(block).finalize().into()
    }
}

/// The digest at an index of a hash block.
fn slot(bytes: &[u8], index: u64) -> Hash {
    let at = usize::try_from(index % FANOUT).unwrap_or_default() * 32;
    let mut hash = [0; 32];
    hash.copy_from_slice(&bytes[at..at + 32]);
    hash
}
