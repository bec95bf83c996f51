//! The programs that run on a node: found beside the `ingot` command.

use std::fs;
use std::path::{Path, PathBuf};

use super::BuildError;

/// The static programs that are put onto images.
#[derive(Debug, Clone)]
pub struct NodePrograms {
    /// The service of the first boot.
    pub firstboot: PathBuf,
    /// The initrd's init.
    pub stage1: PathBuf,
}

impl NodePrograms {
    /// Looks in `directory` if given, else beside the running command, in `../lib/ingot` and where `cargo` puts static programs.
    pub fn find(directory: Option<&Path>) -> Result<Self, BuildError> {
        let mut places = Vec::new();
        if let Some(directory) = directory {
            places.push(directory.to_owned());
        } else if let Some(own) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
            places.push(own.join("../lib/ingot"));
            places.push(own.join("../x86_64-unknown-linux-gnu/release"));
            places.push(own.to_owned());
        }
        for place in &places {
            let programs = Self { firstboot: place.join("firstboot"), stage1: place.join("stage1") };
            if is_static(&programs.firstboot) && is_static(&programs.stage1) {
                return Ok(programs);
            }
        }
        let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        Err(BuildError::Input(format!(
            "there are no static `firstboot` and `stage1` in {}; build them with scripts/build, or name their directory with --node-programs",
            places.join(", ")
        )))
    }

    /// SHA-256 of each program.
    pub fn hashes(&self) -> Result<(String, String), BuildError> {
        let hash = |path: &Path| -> Result<String, BuildError> {
            let bytes = fs::read(path).map_err(BuildError::io(path))?;
            Ok(crate::cache::Key::new("program", 1).part("bytes", bytes).finish())
        };
        Ok((hash(&self.firstboot)?, hash(&self.stage1)?))
    }
}

/// Whether a file is an ELF program that needs no dynamic loader: a node's initrd has none.
fn is_static(path: &Path) -> bool {
    use object::read::elf::{FileHeader as _, ProgramHeader as _};
    let Ok(bytes) = fs::read(path) else { return false };
    let Ok(header) = object::elf::FileHeader64::<object::Endianness>::parse(&*bytes) else { return false };
    let Ok(endian) = header.endian() else { return false };
    header
        .program_headers(endian, &*bytes)
        .is_ok_and(|headers| headers.iter().all(|h| h.p_type(endian) != object::elf::PT_INTERP))
}
