//! The volume that hands a node its configuration: FAT on a whole disk, as sticks and NoCloud disks have it.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Cursor, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::scenario::Medium;
use super::{QemuError, at};

/// Size in bytes: FAT16 by its number of clusters, and room for reports that nodes write back.
const SIZE: u64 = 16 * 1024 * 1024;

impl Medium {
    /// The volume's label, by which the node knows it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Usb => "INGOT",
            Self::Cidata => "CIDATA",
        }
    }

    /// The files of a medium that carries this `node.toml`.
    ///
    /// `NoCloud` demands `meta-data`; in `user-data` the first line says that a `node.toml` follows.
    pub fn files(self, node_toml: &str, instance: &str) -> BTreeMap<String, Vec<u8>> {
        let files = match self {
            Self::Usb => vec![("node.toml", node_toml.to_owned())],
            Self::Cidata => vec![
                ("meta-data", format!("instance-id: {instance}\n")),
                ("user-data", format!("#ingot-config\n{node_toml}")),
            ],
        };
        files.into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes())).collect()
    }
}

/// Writes a volume with this label and these files in its root directory; only its owner may read it.
///
/// # Errors
/// The file cannot be written, or the files do not fit.
pub fn write(path: &Path, label: &str, files: &BTreeMap<String, Vec<u8>>) -> Result<(), QemuError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(at("cannot write", path))?;
    file.set_len(SIZE).map_err(at("cannot write", path))?;
    fill(&file, label, files).map_err(at("cannot write the volume", path))
}

/// Reads a file of a volume that a guest may have in use: what it has written back so far. At most 4 MiB.
///
/// # Errors
/// The volume or the file cannot be read.
pub fn read(volume: &Path, file: &str) -> Result<Vec<u8>, QemuError> {
    // A copy, so that nothing of the guest's is written, whatever the reader notes.
    let bytes = std::fs::read(volume).map_err(at("cannot read", volume))?;
    let mut content = Vec::new();
    fatfs::FileSystem::new(Cursor::new(bytes), fatfs::FsOptions::new())
        .and_then(|volume| volume.root_dir().open_file(file)?.take(4 << 20).read_to_end(&mut content))
        .map_err(at("cannot read from the stick", Path::new(file)))?;
    Ok(content)
}

fn fill(file: &std::fs::File, label: &str, files: &BTreeMap<String, Vec<u8>>) -> std::io::Result<()> {
    let mut padded = [b' '; 11];
    for (to, from) in padded.iter_mut().zip(label.bytes()) {
        *to = from;
    }
    fatfs::format_volume(file, fatfs::FormatVolumeOptions::new().volume_label(padded))?;
    let volume = fatfs::FileSystem::new(file, fatfs::FsOptions::new())?;
    {
        let root = volume.root_dir();
        for (name, bytes) in files {
            let mut entry = root.create_file(name)?;
            entry.write_all(bytes)?;
            entry.flush()?;
        }
    }
    volume.unmount()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Tool;

    #[test]
    fn other_tools_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stick.img");
        let files = Medium::Cidata.files("version = 1\n", "w1");
        write(&path, Medium::Cidata.label(), &files).unwrap();
        if Tool::new("fsck.vfat").args(["-n", "-v"]).arg(&path).run().is_err_and(|error| is_missing(&error)) {
            println!("skipped: dosfstools is not installed");
            return;
        }
        Tool::new("fsck.vfat").arg("-n").arg(&path).run().unwrap();
        let label = Tool::new("blkid").args(["-p", "-o", "value", "-s", "LABEL"]).arg(&path).run().unwrap();
        assert_eq!(String::from_utf8_lossy(&label.stdout).trim(), "CIDATA");
        if let Ok(read) = Tool::new("mtype").args(["-i"]).arg(&path).arg("::user-data").run() {
            assert_eq!(read.stdout, b"#ingot-config\nversion = 1\n");
        } else {
            println!("skipped: mtools is not installed");
        }
    }

    #[test]
    fn what_is_on_it_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stick.img");
        write(&path, "INGOT", &BTreeMap::from([("node.toml.minisig".to_owned(), b"text".to_vec())])).unwrap();
        assert_eq!(read(&path, "node.toml.minisig").unwrap(), b"text");
        assert_eq!(read(&path, "NODE.TOML.MINISIG").unwrap(), b"text");
        let error = read(&path, "ingot-results/a.json").unwrap_err().to_string();
        assert!(error.starts_with("cannot read from the stick ingot-results/a.json"), "{error}");
        std::fs::write(&path, b"no volume").unwrap();
        assert!(read(&path, "node.toml").is_err());
    }

    fn is_missing(error: &crate::process::ProcessError) -> bool {
        matches!(error, crate::process::ProcessError::Start { .. })
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let files = BTreeMap::from([("big".to_owned(), vec![1; 17 * 1024 * 1024])]);
        assert!(write(&directory.path().join("stick.img"), "INGOT", &files).is_err());
    }
}
