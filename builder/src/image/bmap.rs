//! Block maps: which blocks of a raw image carry content, with a checksum for each range.
//!
//! Written beside every raw image as `NAME.raw.bmap`, format version 2.0 of `bmaptool`: blocks of 4096 bytes, SHA-256 per
//! range, and a SHA-256 of the map itself. A flasher writes only the mapped ranges and knows at once when one of them
//! is damaged. Ranges are cut at 64 MiB so that they can be checked in parallel and a bad one costs little.
//!
//! The map comes from the extents that the image was assembled from. It does not depend on where the file system
//! that holds the image happens to have holes, and blocks that are zero but must be zero (in a FAT, in the root)
//! are mapped.

mod xml;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::disk::{DiskImage, Extent};

/// Size of a block in bytes.
pub const BLOCK: u64 = 4096;
/// Blocks in the longest range: 64 MiB.
const MAX_RANGE: u64 = 16_384;

/// A block map could not be made, read or trusted.
#[derive(Debug, Error)]
pub enum BmapError {
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
    /// Not a block map that is understood.
    #[error("not a block map: {0}")]
    Format(String),
    /// The map's checksum of itself is wrong.
    #[error("the block map is damaged: its checksum is {found}, it says {expected}")]
    Checksum {
        /// Hex.
        found: String,
        /// Hex.
        expected: String,
    },
    /// A range of the image is not what the map says.
    #[error("blocks {first} to {last} of {} do not match the block map", path.display())]
    Range {
        /// The image.
        path: PathBuf,
        /// First block.
        first: u64,
        /// Last block.
        last: u64,
    },
}

/// Blocks that carry content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// First block.
    pub first: u64,
    /// Last block, inclusive.
    pub last: u64,
    /// SHA-256 of their bytes.
    pub sha256: [u8; 32],
}

/// A block map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bmap {
    /// Size of the image in bytes.
    pub image_size: u64,
    /// Mapped ranges, in order, without overlap.
    pub ranges: Vec<Range>,
}

impl Bmap {
    /// Maps an image, with `jobs` threads.
    pub fn create(image: &DiskImage, jobs: usize) -> Result<Self, BmapError> {
        Self::of_file(&image.path, image.size, &image.extents, jobs)
    }

    /// Maps the extents of a file, with `jobs` threads.
    pub fn of_file(path: &Path, size: u64, extents: &[Extent], jobs: usize) -> Result<Self, BmapError> {
        let mut ranges = Vec::new();
        for extent in extents.iter().filter(|extent| extent.length > 0) {
            let (mut first, end) = (extent.start / BLOCK, extent.end().min(size).div_ceil(BLOCK));
            while first < end {
                let last = (first + MAX_RANGE).min(end) - 1;
                ranges.push(Range { first, last, sha256: [0; 32] });
                first = last + 1;
            }
        }
        hash_ranges(path, size, &mut ranges, jobs)?;
        Ok(Self { image_size: size, ranges })
    }

    /// Checks every mapped range of an image or a device, with `jobs` threads.
    pub fn verify(&self, path: &Path, jobs: usize) -> Result<(), BmapError> {
        let mut found = self.ranges.clone();
        hash_ranges(path, self.image_size, &mut found, jobs)?;
        match self.ranges.iter().zip(&found).find(|(wanted, found)| wanted.sha256 != found.sha256) {
            Some((Range { first, last, .. }, _)) => {
                Err(BmapError::Range { path: path.to_owned(), first: *first, last: *last })
            }
            None => Ok(()),
        }
    }

    /// How many blocks are mapped.
    pub fn mapped_blocks(&self) -> u64 {
        self.ranges.iter().map(|range| range.last - range.first + 1).sum()
    }

    /// The map as XML.
    pub fn to_xml(&self) -> String {
        xml::write(self)
    }

    /// Reads a map and checks its checksum. Versions 1.3, 1.4 and 2.0 with SHA-256.
    pub fn parse(text: &str) -> Result<Self, BmapError> {
        xml::parse(text)
    }

    /// Writes the map to a file.
    pub fn write(&self, path: &Path) -> Result<(), BmapError> {
        std::fs::write(path, self.to_xml()).map_err(|source| BmapError::Io {
            doing: "write",
            path: path.to_owned(),
            source,
        })
    }
}

fn hash_ranges(path: &Path, size: u64, ranges: &mut [Range], jobs: usize) -> Result<(), BmapError> {
    let reading = |source| BmapError::Io { doing: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(reading)?;
    let jobs = jobs.clamp(1, ranges.len().max(1));
    let queue = Mutex::new(ranges.iter_mut());
    let failure = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let mut buffer = vec![0; 1 << 20];
                // A poisoned lock means that another thread panicked; the scope passes that on.
                while let Ok(Some(range)) = queue.lock().map(|mut queue| queue.next()) {
                    match hash_range(&file, size, range, &mut buffer) {
                        Ok(sha256) => range.sha256 = sha256,
                        Err(error) => {
                            if let Ok(mut slot) = failure.lock() {
                                *slot = Some(error);
                            }
                            return;
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Ok(Some(error)) => Err(reading(error)),
        _ => Ok(()),
    }
}

fn hash_range(file: &File, size: u64, range: &Range, buffer: &mut [u8]) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let (mut position, end) = (range.first * BLOCK, ((range.last + 1) * BLOCK).min(size));
    while position < end {
        let count = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact_at(&mut buffer[..count], position)?;
        hasher.update(&buffer[..count]);
        position += count as u64;
    }
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::image::disk::tests::sample;
    use crate::image::layout::SectorSize;
    use crate::image::testing::peer;

    #[test]
    fn a_copy_by_the_map_is_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let image = sample(dir.path(), SectorSize::B512);
        let map = Bmap::create(&image, 2).unwrap();
        assert_eq!(map, Bmap::create(&image, 1).unwrap());
        assert_eq!(Bmap::parse(&map.to_xml()).unwrap(), map);
        assert!(map.mapped_blocks() * BLOCK < image.size / 4);
        map.verify(&image.path, 2).unwrap();

        let file = File::options().write(true).open(&image.path).unwrap();
        let root = image.layout.partition("root-a").unwrap().start;
        file.write_all_at(b"damage", root + 5000).unwrap();
        let error = map.verify(&image.path, 2).unwrap_err();
        assert!(
            matches!(error, BmapError::Range { first, last, .. }
            if (first..=last).contains(&((root + 5000) / BLOCK))),
            "{error}"
        );
    }

    #[test]
    fn bmaptool_takes_it() {
        let Some(bmaptool) = peer("bmaptool") else { return };
        let dir = tempfile::tempdir().unwrap();
        let image = sample(dir.path(), SectorSize::B512);
        let map = dir.path().join("image.raw.bmap");
        Bmap::create(&image, 2).unwrap().write(&map).unwrap();
        let copy = dir.path().join("copy.raw");
        bmaptool.clone().arg("copy").arg("--bmap").args([&map, &image.path, &copy]).run().unwrap();
        assert!(fs::read(&copy).unwrap() == fs::read(&image.path).unwrap());

        let file = File::options().write(true).open(&image.path).unwrap();
        file.write_all_at(b"damage", image.layout.partition("root-a").unwrap().start).unwrap();
        let error = bmaptool.arg("copy").arg("--bmap").args([&map, &image.path, &copy]).run().unwrap_err();
        assert!(error.to_string().contains("checksum mismatch"), "{error}");
    }

    #[test]
    fn what_bmaptool_writes_is_read() {
        let Some(bmaptool) = peer("bmaptool") else { return };
        let dir = tempfile::tempdir().unwrap();
        let image = sample(dir.path(), SectorSize::B512);
        let said = bmaptool.arg("create").arg(&image.path).run().unwrap();
        let map = Bmap::parse(std::str::from_utf8(&said.stdout).unwrap()).unwrap();
        assert_eq!(map.image_size, image.size);
        map.verify(&image.path, 2).unwrap();
    }
}
