//! Module files: decompression, and the firmware that they name.

use std::io::Read;
use std::path::{Component, Path};

use object::{Object, ObjectSection};

use super::ModulesError;
use crate::boot::inside;

/// The largest module that is accepted, in bytes. The largest of a distribution are below 20 MiB.
const LARGEST: u64 = 256 << 20;

/// Reads a module, uncompressed. The compression is told by the file's name, as kmod does.
pub fn read(root: &Path, path: &Path) -> Result<Vec<u8>, ModulesError> {
    let reading = |source| ModulesError::Read { path: path.to_owned(), source };
    let wrong = |problem: String| ModulesError::Module { path: path.to_owned(), problem };
    let file = inside::open(root, path).map_err(reading)?;
    let stream: Box<dyn Read> = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new(file)),
        Some("zst") => Box::new(zstd::Decoder::new(file).map_err(reading)?),
        Some("gz") => Box::new(flate2::read::GzDecoder::new(file)),
        _ => Box::new(file),
    };
    let mut bytes = Vec::new();
    stream.take(LARGEST + 1).read_to_end(&mut bytes).map_err(reading)?;
    if bytes.len() as u64 > LARGEST {
        return Err(wrong(format!("it is larger than {} MiB uncompressed", LARGEST >> 20)));
    }
    if !bytes.starts_with(b"\x7fELF") {
        return Err(wrong("it is not an ELF file".to_owned()));
    }
    Ok(bytes)
}

/// The firmware files that a module names in its `.modinfo`.
pub fn firmware(module: &[u8]) -> Vec<String> {
    information(module, "firmware")
}

/// The values that a module has for a key in its `.modinfo`, sorted.
pub fn information(module: &[u8], key: &str) -> Vec<String> {
    let section = object::File::parse(module).ok().and_then(|file| {
        let section = file.section_by_name(".modinfo")?;
        section.data().ok().map(<[u8]>::to_vec)
    });
    let mut values: Vec<String> = section
        .unwrap_or_default()
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix(key)?.strip_prefix('='))
        .map(str::to_owned)
        .collect();
    values.sort();
    values.dedup();
    values
}

/// A firmware file of the root, perhaps compressed (the kernel reads `.zst` and `.xz` itself). Firmware that the root
/// does not have is left out: modules name more than any one device needs.
pub fn find_firmware(root: &Path, name: &str) -> Result<Option<(String, Vec<u8>)>, ModulesError> {
    if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(None);
    }
    for suffix in ["", ".zst", ".xz"] {
        let name = format!("{name}{suffix}");
        let path = Path::new("usr/lib/firmware").join(&name);
        match inside::read(root, &path) {
            Ok(bytes) => return Ok(Some((name, bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(ModulesError::Read { path, source }),
        }
    }
    Ok(None)
}
