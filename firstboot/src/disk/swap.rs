//! The swap file on the state partition.
//!
//! It is made beside nothing else and holds nothing of value: whatever a power cut leaves of it is made anew.

use super::record::Record;
use super::units::escape_path;
use super::{DiskError, HostError, PATIENCE};
use crate::config::{Bytes, Swap, SwapSize};
use crate::host::Host;
use crate::tuning::facts::memory;

/// Where it lies.
pub const SWAP_FILE: &str = "/var/lib/ingot/swapfile";
/// What the state partition keeps free, in bytes.
const KEPT_FREE: u64 = 1 << 30;
const LIMIT: u64 = 1 << 20;

/// Makes the file, or removes it where none is wanted; gives its path where there is one.
pub fn file(host: &dyn Host, record: &mut Record, swap: Option<&Swap>) -> Result<Option<&'static str>, DiskError> {
    let Some(Swap::File(size)) = swap else {
        if record.swap_file_bytes > 0 {
            off(host)?;
            host.remove(SWAP_FILE)?;
            record.swap_file_bytes = 0;
            record.save(host)?;
        }
        return Ok(None);
    };
    let bytes = match size {
        SwapSize::Bytes(Bytes(bytes)) => *bytes,
        SwapSize::Share(share) => {
            let memory = memory(host)?;
            share
                .of(memory
                    .ok_or_else(|| DiskError::Swap("/proc/meminfo does not say how much memory there is".into()))?)
        }
    };
    // A whole number of pages of any machine.
    let bytes = bytes & !0xffff;
    if record.swap_file_bytes == bytes && host.exists(SWAP_FILE) {
        return Ok(Some(SWAP_FILE));
    }
    off(host)?;
    host.remove(SWAP_FILE)?;
    let free = free(host)?;
    if free < bytes.saturating_add(KEPT_FREE) {
        let (wanted, free) = (Bytes(bytes).rounded(), Bytes(free).rounded());
        let text = format!(
            "a file of {wanted} does not fit: /var has {free} free, of which 1 GiB is kept; give less, or a disk"
        );
        return Err(DiskError::Swap(text));
    }
    // What the file is known for from here on: unfinished until the size is recorded.
    record.swap_file_bytes = 0;
    record.save(host)?;
    host.write(SWAP_FILE, b"", 0o600)?;
    host.run("fallocate", &["--length", &bytes.to_string(), SWAP_FILE], PATIENCE)?;
    host.run("mkswap", &[SWAP_FILE], PATIENCE)?;
    record.swap_file_bytes = bytes;
    record.save(host)?;
    Ok(Some(SWAP_FILE))
}

fn free(host: &dyn Host) -> Result<u64, DiskError> {
    let output = host.run("df", &["--output=avail", "--block-size=1", "/var/lib/ingot"], PATIENCE)?;
    let text = String::from_utf8_lossy(&output).into_owned();
    let number = text.lines().nth(1).and_then(|line| line.trim().parse().ok());
    number.ok_or_else(|| DiskError::Swap("df does not say how much /var has free".into()))
}

fn off(host: &dyn Host) -> Result<(), HostError> {
    if is_active(host, &[SWAP_FILE.to_owned()])? {
        host.run("swapoff", &[SWAP_FILE], super::MOUNT_PATIENCE)?;
    }
    Ok(())
}

/// Whether one of these is swapped to.
pub fn is_active(host: &dyn Host, paths: &[String]) -> Result<bool, HostError> {
    let text = host.read("/proc/swaps", LIMIT)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .any(|swap| paths.iter().any(|path| path == swap)))
}

/// Begins to use the file.
pub fn start(host: &dyn Host, file: Option<&str>) -> Result<(), HostError> {
    let Some(file) = file else { return Ok(()) };
    if is_active(host, &[file.to_owned()])? {
        return Ok(());
    }
    host.run("systemctl", &["start", &format!("{}.swap", escape_path(file))], PATIENCE).map(drop)
}
