//! A stick that results are written to, with what can be wrong with it.

use std::collections::BTreeMap;
use std::io;

use rustix::io::Errno;

use crate::provider::ResultsDirectory;

#[derive(Debug, Default)]
pub struct Stick {
    pub files: BTreeMap<String, Vec<u8>>,
    /// What every write fails with.
    pub fault: Option<Errno>,
    /// It is pulled out after so many writes.
    pub writes_left: Option<u32>,
    /// How many files were written.
    pub written: u32,
}

impl ResultsDirectory for Stick {
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        // FAT does not tell letter cases apart.
        Ok(self.files.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, bytes)| bytes.clone()))
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if let Some(fault) = self.fault {
            return Err(fault.into());
        }
        if let Some(left) = &mut self.writes_left {
            *left = left.checked_sub(1).ok_or(Errno::IO)?;
        }
        self.files.retain(|known, _| !known.eq_ignore_ascii_case(name));
        self.files.insert(name.to_owned(), bytes.to_vec());
        self.written += 1;
        Ok(())
    }
}
