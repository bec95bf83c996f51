//! Which files of a medium are configuration, in what order, and which of several media counts.
//!
//! Names are compared without regard to letter case: an ISO 9660 or an old FAT may have changed it.

use super::config_drive::documents_of_config_drive;
use super::devices::Media;
use super::nocloud::{FILES, says_nothing};
use super::volume::{Volume, VolumeError};
use super::{Found, SIGNATURE, Surroundings};
use crate::config::{Document, Format, Machine, Secret, SourceKind};

/// The file on an `INGOT` volume with the key for sealed secrets.
const CONFIG_KEY_FILE: &str = "config.key";

/// How often a medium is read before it counts as broken.
const ATTEMPTS: u32 = 3;

/// How the documents of a kind of medium are read.
pub type Reader = fn(&Volume, &str, &Machine, &mut Found) -> Result<(), VolumeError>;

/// The labels of media, in either letter case, lowest precedence first.
const KINDS: [(SourceKind, &str, Reader); 3] = [
    (SourceKind::Cidata, "CIDATA", documents_of_cidata),
    (SourceKind::ConfigDrive, "config-2", documents_of_config_drive),
    (SourceKind::Ingot, "INGOT", documents_of_ingot),
];

/// Looks at all media.
pub fn look(surroundings: &Surroundings<'_>, found: &mut Found) {
    for (kind, label, read) in KINDS {
        found.absorb(look_at_kind(surroundings.media, surroundings.machine, (kind, label), read));
    }
}

/// Looks at the media with one label. Two that say the same are as good as one; of two that differ nobody knows which
/// is meant, so neither counts until one is pulled out.
fn look_at_kind(media: &dyn Media, machine: &Machine, (source, label): (SourceKind, &str), read: Reader) -> Found {
    let mut kind = Found::default();
    let mut differ = false;
    for medium in media.labelled(&[label]) {
        let mut attempt = 0;
        let result = loop {
            attempt += 1;
            let mut one = Found::default();
            match media.open(&medium).and_then(|volume| read(&volume, &medium.label, machine, &mut one)) {
                Err(error) if error.is_broken_medium() && attempt < ATTEMPTS => {}
                result => break result.map(|()| one),
            }
        };
        match result {
            Ok(one) if one.documents.is_empty() && !one.config_keys.is_empty() => {
                kind.config_keys.extend(one.config_keys);
            }
            Ok(one) if one.documents.is_empty() => {
                kind.unreadable.push(format!("{medium}: it holds no configuration for this machine"));
            }
            Ok(one) => {
                let content = |found: &Found| -> Vec<_> {
                    found.documents.iter().map(|document| (document.format, document.bytes.clone())).collect()
                };
                differ |= !kind.media.is_empty() && content(&kind) != content(&one);
                kind.config_keys.extend(one.config_keys);
                kind.media.push(medium.to_string());
                if kind.documents.is_empty() {
                    (kind.documents, kind.signatures, kind.notes) = (one.documents, one.signatures, one.notes);
                }
            }
            Err(error) => kind.is_broken(source, format!("{medium}: {error}")),
        }
    }
    if differ {
        let media = kind.media.join(" and ");
        kind.is_broken(source, format!("{media} have the same label and differ; pull out all but one"));
        return Found { unreadable: kind.unreadable, broken: kind.broken, ..Found::default() };
    }
    kind
}

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

    /// Adds a file and its signature.
    fn add(&self, wanted: &str, format: Format, found: &mut Found) -> Result<(), VolumeError> {
        let Some(document) = self.read(wanted, format)?.filter(|document| !says_nothing(document)) else {
            return Ok(());
        };
        if let Some(name) = self.find(&format!("{wanted}{SIGNATURE}")) {
            found.signatures.insert(document.name.clone(), self.volume.read(name)?);
        }
        found.documents.push(document);
        Ok(())
    }
}

/// Reads a NoCloud medium.
///
/// # Errors
/// All of [`VolumeError`].
pub fn documents_of_cidata(volume: &Volume, label: &str, _: &Machine, found: &mut Found) -> Result<(), VolumeError> {
    let files = Files::new(volume, label)?;
    FILES.iter().try_for_each(|(name, format)| files.add(name, *format, found))
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
    if let Some(name) = files.find(CONFIG_KEY_FILE) {
        found.config_keys.push(Secret::new(String::from_utf8_lossy(&volume.read(name)?)));
    }
    files.add("node.toml", Format::NodeToml, found)?;
    machine_files(machine).iter().try_for_each(|name| files.add(name, Format::PartToml, found))
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
    use super::super::tests::Directories;
    use super::*;

    const INGOT: (SourceKind, &str) = (SourceKind::Ingot, "INGOT");

    fn found(files: &[(&str, &str)], read: Reader) -> Found {
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
    fn a_nocloud_medium_has_its_order_and_empty_files_say_nothing() {
        let files = [
            ("user-data", "u"),
            ("meta-data", "m"),
            ("node.toml", "n"),
            ("network-config", "x"),
            ("vendor-data", "\n"),
            ("NODE.TOML.MINISIG", "signature"),
        ];
        let found = found(&files, documents_of_cidata);
        assert_eq!(names(&found), ["L:meta-data", "L:network-config", "L:user-data", "L:node.toml"]);
        assert_eq!(found.signatures["L:node.toml"], b"signature");
    }

    #[test]
    fn two_media_with_one_label_are_named_and_only_equal_ones_count() {
        let media = Directories::default();
        media.add("INGOT", "/dev/sdb1", &[("node.toml", "version = 1")]);
        media.add("ingot", "/dev/sdc", &[("node.toml", "version = 1")]);
        media.add("INGOT", "/dev/sdd1", &[("README", "x")]);
        let look = || look_at_kind(&media, &Machine::default(), INGOT, documents_of_ingot);
        let found = look();
        assert_eq!((found.documents.len(), found.media.join(", ")), (1, "INGOT (/dev/sdb1), ingot (/dev/sdc)".into()));
        assert_eq!(found.unreadable, ["INGOT (/dev/sdd1): it holds no configuration for this machine"]);
        assert!(found.broken.is_empty(), "one for other machines says nothing about this one");
        media.add("INGOT", "/dev/sde1", &[("node.toml", "version = 2")]);
        let found = look();
        assert!(found.documents.is_empty() && found.media.is_empty() && found.broken.contains(&SourceKind::Ingot));
        assert_eq!(
            found.unreadable[1],
            "INGOT (/dev/sdb1) and ingot (/dev/sdc) and INGOT (/dev/sde1) have the same label and differ; pull out all \
             but one"
        );
        media.remove("/dev/sde1");
        assert_eq!(look().documents.len(), 1);
    }

    #[test]
    fn a_key_may_come_on_a_stick_of_its_own_or_beside_the_configuration() {
        let media = Directories::default();
        media.add("INGOT", "/dev/sdb1", &[("node.toml", "version = 1")]);
        media.add("INGOT", "/dev/sdc1", &[("CONFIG.KEY", "one")]);
        let found = look_at_kind(&media, &Machine::default(), INGOT, documents_of_ingot);
        assert_eq!((found.documents.len(), found.media.len(), found.unreadable.len()), (1, 1, 0));
        assert_eq!(found.config_keys, [Secret::new("one")]);
        media.remove("/dev/sdc1");
        media.add("INGOT", "/dev/sdc1", &[("node.toml", "version = 1"), ("config.key", "two")]);
        let found = look_at_kind(&media, &Machine::default(), INGOT, documents_of_ingot);
        assert_eq!(found.config_keys, [Secret::new("two")]);
    }

    #[test]
    fn a_medium_that_breaks_while_it_is_read_is_read_again_and_then_named() {
        let media = Directories::default();
        media.add("INGOT", "/dev/sdb1", &[("node.toml", "version = 1")]);
        media.breaks.set(2);
        let found = look_at_kind(&media, &Machine::default(), INGOT, breaking);
        assert_eq!((found.documents.len(), found.unreadable.len()), (1, 0), "the third attempt worked");
        // The first document is there, the second breaks: neither counts.
        media.breaks.set(ATTEMPTS);
        let found = look_at_kind(&media, &Machine::default(), INGOT, breaking);
        assert!(found.documents.is_empty() && found.media.is_empty());
        assert!(found.unreadable[0].starts_with("INGOT (/dev/sdb1): cannot read mem: "), "{:?}", found.unreadable);
    }

    /// Reads what is there, and then a file whose content the kernel cannot give.
    fn breaking(volume: &Volume, label: &str, machine: &Machine, found: &mut Found) -> Result<(), VolumeError> {
        documents_of_ingot(volume, label, machine, found)?;
        if volume.find("broken")?.is_some() {
            Volume::open_directory(std::path::Path::new("/proc/self"))?.read("mem")?;
        }
        Ok(())
    }

    #[test]
    fn links_and_a_hundred_megabytes_make_a_medium_unreadable() {
        let media = Directories::default();
        media.add("INGOT", "/dev/sdb1", &[]);
        let file = media.path("/dev/sdb1").join("node.toml");
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        let found = look_at_kind(&media, &Machine::default(), INGOT, documents_of_ingot);
        assert!(found.unreadable[0].contains("symbolic links and the like are refused"), "{:?}", found.unreadable);
        std::fs::remove_file(&file).unwrap();
        std::fs::File::create(&file).unwrap().set_len(100 << 20).unwrap();
        let found = look_at_kind(&media, &Machine::default(), INGOT, documents_of_ingot);
        assert!(found.unreadable[0].contains("node.toml is larger than 1 MiB"), "{:?}", found.unreadable);
        assert!(found.broken.contains(&SourceKind::Ingot));
    }
}
