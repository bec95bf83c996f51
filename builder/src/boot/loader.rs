//! The files of the EFI system partition.
//!
//! ```text
//! /EFI/BOOT/BOOTX64.EFI               systemd-boot, where every firmware looks on a disk it does not know
//! /EFI/Linux/ROLE-VERSION.efi         the UKI; systemd-boot finds it there by itself
//! /loader/loader.conf                 boot at once, no editing of the command line
//! ```
//!
//! Nothing is written to the firmware's variables: a disk that is moved to another machine boots there.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::pe::{Pe, PeError};
use crate::image::fat::{Content, Files};

const LOADER_CONF: &str = "timeout 0\neditor no\n";

/// The EFI system partition's files could not be made.
#[derive(Debug, Error)]
pub enum LoaderError {
    /// The boot loader could not be read.
    #[error("cannot read the boot loader {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The boot loader is not an EFI program.
    #[error("the boot loader {}: {source}", path.display())]
    Program {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: PeError,
    },
}

/// The file name of a role's UKI. Characters other than letters, digits, `.`, `_` and `-` become `-`, so that a `+` cannot
/// be taken for a boot counter.
pub fn uki_name(role: &str, version: &str) -> String {
    let plain = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }).collect()
    };
    format!("{}-{}.efi", plain(role).trim_matches(['-', '.']), plain(version).trim_matches(['-', '.']))
}

/// The partition's files: systemd-boot (`systemd-bootx64.efi`) and one UKI under this file name.
pub fn esp_files(boot_loader: &Path, uki_name: &str, uki: Content) -> Result<Files, LoaderError> {
    let loader =
        std::fs::read(boot_loader).map_err(|source| LoaderError::Read { path: boot_loader.to_owned(), source })?;
    Pe::parse(loader.clone()).map_err(|source| LoaderError::Program { path: boot_loader.to_owned(), source })?;
    Ok(Files::from([
        ("EFI/BOOT/BOOTX64.EFI".to_owned(), Content::Bytes(loader)),
        (format!("EFI/Linux/{uki_name}"), uki),
        ("loader/loader.conf".to_owned(), Content::Bytes(LOADER_CONF.as_bytes().to_vec())),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::pe::tests::program;

    #[test]
    fn the_files_are_where_firmware_and_loader_look() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("systemd-bootx64.efi");
        assert!(matches!(esp_files(&path, "a.efi", Content::Bytes(vec![])), Err(LoaderError::Read { .. })));
        std::fs::write(&path, b"text").unwrap();
        assert!(matches!(esp_files(&path, "a.efi", Content::Bytes(vec![])), Err(LoaderError::Program { .. })));
        std::fs::write(&path, program(0)).unwrap();
        let files = esp_files(&path, &uki_name("quickstart/worker", "2026.1+b"), Content::Bytes(vec![1])).unwrap();
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(names, ["EFI/BOOT/BOOTX64.EFI", "EFI/Linux/quickstart-worker-2026.1-b.efi", "loader/loader.conf"]);
    }
}
