//! The `publish` stage: a raw image in the forms that people and programs take it in.
//!
//! Takes a finished [`DiskImage`] and gives `NAME.raw.zst` ([`compressed`]) and `NAME.qcow2` ([`qcow2`]). Both are functions of
//! the image alone: not of the number of threads, nor of where the image's file has holes.

pub mod compressed;
pub mod qcow2;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::image::disk::{DiskImage, Extent};
use crate::image::manifest::Output;

/// An image could not be published.
#[derive(Debug, Error)]
pub enum PublishError {
    /// Reading or writing failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, `compress`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel or the library said.
        source: io::Error,
    },
    /// The image is too large for the format.
    #[error("an image of {size} bytes is too large for {format}")]
    TooLarge {
        /// Size in bytes.
        size: u64,
        /// The format.
        format: &'static str,
    },
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> PublishError + 'a {
    move |source| PublishError::Io { doing, path: path.to_owned(), source }
}

/// Writes a file under a temporary name and gives it its own when it is complete.
fn atomically<T>(out: &Path, write: impl FnOnce(&mut File) -> Result<T, PublishError>) -> Result<T, PublishError> {
    let mut partial = out.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    let finished = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&partial)
        .map_err(failed("write", &partial))
        .and_then(|mut file| write(&mut file))
        .and_then(|value| std::fs::rename(&partial, out).map_err(failed("write", out)).map(|()| value));
    if finished.is_err() {
        // The error at hand says more than a failure to clean up would.
        let _ = std::fs::remove_file(&partial);
    }
    finished
}

/// A writer that hashes what passes.
struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    count: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), count: 0 }
    }

    fn output(self, out: &Path) -> Output {
        Output {
            file: out.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            bytes: self.count,
            sha256: crate::image::hex(&self.hasher.finalize()),
        }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Gives the image piece by piece, at most 1 MiB each: what lies in the extents is read, the rest is known to be zero.
fn pieces(image: &DiskImage, mut each: impl FnMut(&[u8]) -> Result<(), PublishError>) -> Result<(), PublishError> {
    let reading = failed("read", &image.path);
    let file = File::open(&image.path).map_err(&reading)?;
    let zeros = vec![0; 1 << 20];
    let mut buffer = vec![0; 1 << 20];
    let length = |wanted: u64| usize::try_from(wanted).map_or(1 << 20, |wanted| wanted.min(1 << 20));
    let mut position = 0;
    let end = Extent { start: image.size, length: 0 };
    for extent in image.extents.iter().chain([&end]) {
        while position < extent.start {
            let count = length(extent.start - position);
            each(&zeros[..count])?;
            position += count as u64;
        }
        while position < extent.end() {
            let count = length(extent.end() - position);
            file.read_exact_at(&mut buffer[..count], position).map_err(&reading)?;
            each(&buffer[..count])?;
            position += count as u64;
        }
    }
    Ok(())
}
