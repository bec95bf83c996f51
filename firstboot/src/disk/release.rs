//! Giving a disk up: `firstboot release-disk`.
//!
//! Takes a disk that is in the machine and forgets that this node ever had it; nothing is written to the disk. From then
//! on an empty one is claimed anew, and one with content only where its serial number is listed under `wipe`, also where
//! that is this node's own filesystem. A disk that is not listed is recognised by what is on it, and kept. No
//! configuration can say it: what stands in a file stays there, and would give the next disk up too. Nothing else may
//! change the record meanwhile; the command stops the service before.

use thiserror::Error;

use super::inventory::{self, DiskInfo};
use super::record::Record;
use crate::config::Machine;
use crate::host::{Host, HostError};

/// The disk is not given up.
#[derive(Debug, Error)]
pub enum ReleaseError {
    /// The machine did not do what it was told.
    #[error(transparent)]
    Host(#[from] HostError),
    /// No disk is called so.
    #[error("no disk has the serial number or name {word}; there are: {seen}")]
    Unknown {
        /// What was said.
        word: String,
        /// The disks that are there.
        seen: String,
    },
    /// Several are.
    #[error("{word} means several disks ({seen}): give the name of one, such as sda")]
    Several {
        /// What was said.
        word: String,
        /// Which.
        seen: String,
    },
    /// It is in use.
    #[error("{disk} is not given up: {reason}; end that use first, such as with `systemctl stop` and its .mount unit")]
    InUse {
        /// The disk.
        disk: String,
        /// By whom.
        reason: String,
    },
    /// There is nothing to give up.
    #[error("{0} was never claimed by this node, so there is nothing to give up")]
    NotClaimed(String),
}

/// Forgets the disk with this serial number or name (`sdb`, `/dev/sdb`); gives it in words.
///
/// # Errors
/// All of [`ReleaseError`]; then the record is what it was.
pub fn release(host: &dyn Host, machine: &Machine, word: &str) -> Result<String, ReleaseError> {
    let disks = inventory::disks(host)?;
    let said = |disks: &[&DiskInfo]| disks.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let meant: Vec<&DiskInfo> = disks
        .iter()
        .filter(|disk| disk.serial.as_deref() == Some(word) || disk.name == word || disk.node() == word)
        .collect();
    let disk = match meant[..] {
        [disk] => disk,
        [] => {
            let seen = if disks.is_empty() { "none".to_owned() } else { said(&disks.iter().collect::<Vec<_>>()) };
            return Err(ReleaseError::Unknown { word: word.to_owned(), seen });
        }
        _ => return Err(ReleaseError::Several { word: word.to_owned(), seen: said(&meant) }),
    };
    if let Some(reason) = &disk.taken {
        return Err(ReleaseError::InUse { disk: disk.to_string(), reason: reason.clone() });
    }
    let mut record = Record::load(host)?;
    if !record.forget(&disk.identity(machine).0) {
        return Err(ReleaseError::NotClaimed(disk.to_string()));
    }
    record.save(host)?;
    Ok(disk.to_string())
}
