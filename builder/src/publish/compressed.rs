//! `NAME.raw.zst`: the raw image as one zstd frame, with its size in the header and a checksum at the end.
//!
//! Compressed by several threads. libzstd cuts the input into jobs by its parameters alone, so the bytes do not depend
//! on how many threads there are, as long as there is at least one beside the caller.

use std::path::Path;

use super::{Hashing, PublishError, atomically, failed, pieces};
use crate::image::disk::DiskImage;
use crate::image::manifest::Output;

/// The root is compressed already; a higher level gains little.
const LEVEL: i32 = 3;

/// Writes the compressed image, with `jobs` threads.
pub fn write(image: &DiskImage, out: &Path, jobs: usize) -> Result<Output, PublishError> {
    atomically(out, |file| {
        let compressing = failed("compress", out);
        let mut encoder = zstd::Encoder::new(Hashing::new(file), LEVEL).map_err(&compressing)?;
        encoder.include_checksum(true).map_err(&compressing)?;
        encoder.set_pledged_src_size(Some(image.size)).map_err(&compressing)?;
        encoder.include_contentsize(true).map_err(&compressing)?;
        encoder.multithread(u32::try_from(jobs.max(1)).unwrap_or(1)).map_err(&compressing)?;
        pieces(image, |piece| std::io::Write::write_all(&mut encoder, piece).map_err(&compressing))?;
        Ok(encoder.finish().map_err(&compressing)?.output(out))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::image::disk::tests::sample;
    use crate::image::layout::SectorSize;

    #[test]
    fn it_unpacks_to_the_image_and_threads_do_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let image = sample(dir.path(), SectorSize::B512);
        let write = |jobs| {
            let out = dir.path().join(format!("{jobs}.raw.zst"));
            let output = write(&image, &out, jobs).unwrap();
            let bytes = fs::read(&out).unwrap();
            assert_eq!(output.bytes, bytes.len() as u64);
            assert_eq!(output.sha256, crate::image::hex(&Sha256::digest(&bytes)));
            bytes
        };
        let one = write(1);
        for jobs in [0, 2, 5] {
            assert!(write(jobs) == one, "{jobs} threads");
        }
        assert!(zstd::decode_all(&one[..]).unwrap() == fs::read(&image.path).unwrap());
        assert_eq!(zstd::zstd_safe::get_frame_content_size(&one).unwrap(), Some(image.size));
    }
}
