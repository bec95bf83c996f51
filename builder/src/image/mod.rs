//! The `image` stage: from a finished root and the boot files to one disk image.
//!
//! In the order of the data:
//! [`erofs`] (the arguments that make the root file system) → [`verity`] (its hash tree) → [`fat`] (the EFI system
//! partition) → [`layout`] (the partition table) → [`disk`] (all of it in one sparse file) → [`bmap`] (which parts
//! of that file matter) and [`manifest`] (what it was made of).
//!
//! Everything written is a function of the arguments: identifiers are derived, times are given, and no order comes
//! from a directory or from a thread.

pub mod bmap;
pub mod disk;
pub mod erofs;
pub mod fat;
pub mod layout;
pub mod manifest;
pub mod region;
pub mod verity;

use std::fmt::Write as _;

/// Bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
pub(crate) mod testing {
    use std::path::Path;

    use crate::process::Tool;

    /// The real tool that a result is compared with, if this machine has it; otherwise a line says that the
    /// comparison is skipped.
    pub fn peer(program: &str) -> Option<Tool> {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"]
            .iter()
            .map(|directory| Path::new(directory).join(program))
            .find(|path| path.exists());
        if found.is_none() {
            println!("skipped: {program} is not installed, nothing to compare with");
        }
        found.map(Tool::new)
    }
}
