//! Which files of a medium are configuration, and in what order.
//!
//! Names are compared without regard to letter case: an ISO 9660 or an old FAT may have changed it.

use super::Found;
use super::volume::{Volume, VolumeError};
use crate::config::{Document, Format, Machine};

struct Files<'a> {
    volume: &'a Volume,
    label: &'a str,
    names: Vec<String>,
}

impl<'a> Files<'a> {
    fn new(volume: &'a Volume, label: &'a str) -> Result<Self, VolumeError> {
        Ok(Self { volume, label, names: volume.names()? })
    }

    fn find(&self, wanted: &str) -> Option<&str> {
        // The exact name first, where a case-sensitive filesystem has several.
        let exact = self.names.iter().find(|name| *name == wanted);
        exact.or_else(|| self.names.iter().find(|name| name.eq_ignore_ascii_case(wanted))).map(String::as_str)
    }

    fn read(&self, wanted: &str, format: Format) -> Result<Option<Document>, VolumeError> {
        let Some(name) = self.find(wanted) else { return Ok(None) };
        Ok(Some(Document { name: format!("{}:{name}", self.label), format, bytes: self.volume.read(name)? }))
    }
}

/// Reads a NoCloud medium: `meta-data`, `network-config`, `vendor-data`, `user-data`, and over them a `node.toml`.
///
/// # Errors
/// All of [`VolumeError`].
pub fn documents_of_cidata(volume: &Volume, label: &str, _: &Machine, found: &mut Found) -> Result<(), VolumeError> {
    let files = Files::new(volume, label)?;
    found.documents.extend(files.read("meta-data", Format::MetaData)?);
    found.documents.extend(files.read("network-config", Format::NetworkConfig)?);
    found.documents.extend(files.read("vendor-data", Format::VendorData)?);
    found.documents.extend(files.read("user-data", Format::UserData)?);
    found.documents.extend(files.read("node.toml", Format::NodeToml)?);
    Ok(())
}

/// Reads an `INGOT` volume: `node.toml`, and over it the files for this machine.
///
/// # Errors
/// All of [`VolumeError`].
pub fn documents_of_ingot(
    volume: &Volume,
    label: &str,
    machine: &Machine,
    found: &mut Found,
) -> Result<(), VolumeError> {
    let files = Files::new(volume, label)?;
    found.documents.extend(files.read("node.toml", Format::NodeToml)?);
    for name in machine_files(machine) {
        found.documents.extend(files.read(&name, Format::PartToml)?);
    }
    Ok(())
}

/// The names that a file for this machine may have, in the order of their precedence. FAT has no colons in names,
/// so a MAC address is written with hyphens or as twelve digits.
fn machine_files(machine: &Machine) -> Vec<String> {
    let mut names = Vec::new();
    for mac in &machine.macs {
        names.push(format!("{}.toml", mac.digits()));
        names.push(format!("{}.toml", mac.to_string().replace(':', "-")));
        names.push(format!("{mac}.toml"));
    }
    for id in machine.serial.iter().chain(&machine.uuid) {
        let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
        let name: String = id.chars().map(safe).collect();
        // A serial number `node` must not make the site's file the machine's.
        if !name.eq_ignore_ascii_case("node") {
            names.push(format!("{name}.toml"));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)], read: super::super::Reader) -> Found {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let machine = Machine {
            macs: ["52:54:00:00:00:01".parse().unwrap()].into(),
            serial: Some("SN/1 x".into()),
            uuid: Some("aa-bb".into()),
        };
        let mut found = Found::default();
        read(&Volume::open_directory(directory.path()).unwrap(), "L", &machine, &mut found).unwrap();
        found
    }

    fn names(found: &Found) -> Vec<&str> {
        found.documents.iter().map(|document| document.name.as_str()).collect()
    }

    #[test]
    fn an_ingot_volume_has_the_sites_file_and_this_machines() {
        let files = [
            ("AA-BB.TOML", "d"),
            ("SN_1_x.toml", "c"),
            ("52-54-00-00-00-01.toml", "b"),
            ("52-54-00-00-00-02.toml", "another machine's"),
            ("Node.toml", "a"),
            ("README", "x"),
        ];
        let found = found(&files, documents_of_ingot);
        assert_eq!(names(&found), ["L:Node.toml", "L:52-54-00-00-00-01.toml", "L:SN_1_x.toml", "L:AA-BB.TOML"]);
    }

    #[test]
    fn a_nocloud_medium_has_its_order_and_says_what_is_not_read() {
        let files =
            [("user-data", "u"), ("meta-data", "m"), ("node.toml", "n"), ("network-config", "x"), ("vendor-data", "v")];
        let found = found(&files, documents_of_cidata);
        assert_eq!(names(&found), ["L:meta-data", "L:network-config", "L:vendor-data", "L:user-data", "L:node.toml"]);
        assert!(found.notes.is_empty());
    }
}
