//! Binary packages, read as deb(5) describes them: `control.tar` and `data.tar`, stored or compressed with xz, zstd or gzip.
//!
//! What is inside comes from outside: sizes are bounded, nothing is allocated on the word of a header, and paths
//! are for the caller to place (an entry's path may be absolute or climb with `..`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::ar::{self, Member};
use super::{StoreError, io_error};

/// The largest `control.tar` that is accepted, in bytes once uncompressed.
const CONTROL_LIMIT: u64 = 64 << 20;
/// The largest `data.tar`: a fixed part and this many times its compressed size, but never more than the last number.
const DATA_LIMIT: (u64, u64, u64) = (256 << 20, 200, 32 << 30);
/// Memory that a decoder may use, in bytes (xz -9 needs 65 MiB).
const DECODER_MEMORY: u64 = 512 << 20;
/// Largest zstd window accepted, as a power of two (128 MiB, the decoder's own default).
const ZSTD_WINDOW: u32 = 27;

/// An opened package.
#[derive(Debug)]
pub struct Deb {
    path: PathBuf,
    file: File,
    control: Part,
    data: Part,
}

#[derive(Debug, Clone)]
struct Part {
    member: Member,
    coding: Coding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Stored,
    Gzip,
    Xz,
    Zstd,
}

/// The fields of a package's `control` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    fields: BTreeMap<String, String>,
}

impl Control {
    /// A field by its name; folded lines are joined by newlines.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(field)).map(|(_, value)| value.as_str())
    }

    /// All fields by name.
    pub fn fields(&self) -> &BTreeMap<String, String> {
        &self.fields
    }
}

impl Deb {
    /// Opens a package and finds its two archives.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        let error = |problem: String| StoreError::Deb { path: path.to_owned(), problem };
        let members = ar::members(&file).map_err(error)?;
        let Some(first) = members.first().filter(|m| m.name == "debian-binary") else {
            return Err(error("its first member is not debian-binary, so it is no .deb".into()));
        };
        let mut version = [0; 2];
        let read = file.read_at(&mut version, first.offset).map_err(io_error("read", path))?;
        if read != 2 || first.size < 4 || &version != b"2." {
            return Err(error("it has a format version other than 2.x".into()));
        }
        let part = |stem: &str| -> Result<Part, StoreError> {
            let member = members
                .iter()
                .find(|m| m.name == stem || m.name.strip_prefix(stem).is_some_and(|r| r.starts_with('.')));
            let member = member.ok_or_else(|| error(format!("it has no {stem}")))?.clone();
            let coding = match &member.name[stem.len()..] {
                "" => Coding::Stored,
                ".gz" => Coding::Gzip,
                ".xz" => Coding::Xz,
                ".zst" => Coding::Zstd,
                _ => return Err(error(format!("{} has a compression that is not known", member.name))),
            };
            Ok(Part { member, coding })
        };
        let (control, data) = (part("control.tar")?, part("data.tar")?);
        Ok(Self { path: path.to_owned(), file, control, data })
    }

    /// The uncompressed `control.tar`.
    pub fn control_tar(&self) -> Result<Box<dyn Read + '_>, StoreError> {
        self.part(&self.control, CONTROL_LIMIT)
    }

    /// The uncompressed `data.tar`.
    pub fn data_tar(&self) -> Result<Box<dyn Read + '_>, StoreError> {
        let (fixed, times, most) = DATA_LIMIT;
        self.part(&self.data, self.data.member.size.saturating_mul(times).saturating_add(fixed).min(most))
    }

    /// The files of `control.tar` by name (`control`, `postinst`, `conffiles`, …) with their permission bits.
    pub fn control_files(&self) -> Result<BTreeMap<String, (u32, Vec<u8>)>, StoreError> {
        let mut files = BTreeMap::new();
        let mut archive = tar::Archive::new(self.control_tar()?);
        for entry in archive.entries().map_err(|e| self.error(&e))? {
            let mut entry = entry.map_err(|e| self.error(&e))?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = entry.path().map_err(|e| self.error(&e))?.to_string_lossy().into_owned();
            let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
            let mode = entry.header().mode().map_err(|e| self.error(&e))?;
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(|e| self.error(&e))?;
            files.insert(name, (mode, content));
        }
        Ok(files)
    }

    /// The fields of the `control` file.
    pub fn control(&self) -> Result<Control, StoreError> {
        let problem = |problem: &str| StoreError::Deb { path: self.path.clone(), problem: problem.to_owned() };
        let mut files = self.control_files()?;
        let (_, bytes) = files.remove("control").ok_or_else(|| problem("its control.tar has no control file"))?;
        let text = String::from_utf8(bytes).map_err(|_| problem("its control file is not UTF-8"))?;
        let paragraphs = deb822_fast::borrowed::BorrowedParser::new(&text)
            .parse_all()
            .map_err(|e| problem(&format!("its control file cannot be read: {e}")))?;
        let first = paragraphs.first().ok_or_else(|| problem("its control file is empty"))?;
        Ok(Control { fields: first.iter().map(|f| (f.name().to_owned(), f.join())).collect() })
    }

    /// Calls `visit` for every entry of `data.tar`, in the archive's order.
    pub fn for_each<E, F>(&self, mut visit: F) -> Result<(), E>
    where
        E: From<StoreError>,
        F: FnMut(&mut tar::Entry<'_, Box<dyn Read + '_>>) -> Result<(), E>,
    {
        let mut archive = tar::Archive::new(self.data_tar()?);
        for entry in archive.entries().map_err(|e| self.error(&e))? {
            visit(&mut entry.map_err(|e| self.error(&e))?)?;
        }
        Ok(())
    }

    fn part(&self, part: &Part, limit: u64) -> Result<Box<dyn Read + '_>, StoreError> {
        let slice = Slice { file: &self.file, offset: part.member.offset, left: part.member.size };
        let slice = io::BufReader::with_capacity(1 << 16, slice);
        let reader: Box<dyn Read + '_> = match part.coding {
            Coding::Stored => Box::new(slice),
            Coding::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(slice)),
            Coding::Xz => Box::new(xz(slice).map_err(|e| self.error(&e))?),
            Coding::Zstd => Box::new(zstd(slice).map_err(|e| self.error(&e))?),
        };
        Ok(Box::new(Bounded { inner: reader, left: limit, what: part.member.name.clone() }))
    }

    fn error(&self, error: &io::Error) -> StoreError {
        StoreError::Deb { path: self.path.clone(), problem: error.to_string() }
    }
}

/// An xz decoder for concatenated streams, with bounded memory.
pub(crate) fn xz<R: io::BufRead>(reader: R) -> io::Result<impl Read> {
    let stream = liblzma::stream::Stream::new_stream_decoder(DECODER_MEMORY, liblzma::stream::CONCATENATED)?;
    Ok(liblzma::bufread::XzDecoder::new_stream(reader, stream))
}

/// A zstd decoder with a bounded window.
pub(crate) fn zstd<R: io::BufRead>(reader: R) -> io::Result<impl Read> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
    decoder.window_log_max(ZSTD_WINDOW)?;
    Ok(decoder)
}

/// A part of a file.
struct Slice<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Slice<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..most], self.offset)?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Fails when more comes out than is allowed, rather than filling the disk.
pub(crate) struct Bounded<R> {
    pub inner: R,
    pub left: u64,
    /// What is being read, for the message.
    pub what: String,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{} uncompresses to more than is plausible", self.what))
        })?;
        Ok(count)
    }
}

#[cfg(test)]
#[path = "deb_tests.rs"]
pub(super) mod tests;
