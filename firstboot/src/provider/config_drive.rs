//! OpenStack's ConfigDrive: a volume labelled `config-2`.
//!
//! Format: "Config drive" and "Metadata service" of the Nova documentation; of the versions on it `latest` is read.

use super::volume::{Volume, VolumeError};
use super::{Found, SIGNATURE};
use crate::config::cloud::vendor_data;
use crate::config::{Document, Format, Machine};

const DIRECTORY: &str = "openstack/latest";

/// Reads `vendor_data.json`, `meta_data.json`, `network_data.json` and `user_data`, lowest precedence first.
pub fn documents_of_config_drive(
    volume: &Volume,
    label: &str,
    _: &Machine,
    found: &mut Found,
) -> Result<(), VolumeError> {
    let files = [
        ("vendor_data.json", Format::VendorDataJson),
        ("meta_data.json", Format::MetaData),
        ("network_data.json", Format::NetworkData),
        ("user_data", Format::UserData),
    ];
    for (file, format) in files {
        let path = format!("{DIRECTORY}/{file}");
        let Some(bytes) = volume.find(&path)? else { continue };
        let name = format!("{label}:{path}");
        if format == Format::VendorDataJson {
            // A signature is one of the file as it lies there, so it is only looked at here.
            match vendor_data(&bytes) {
                Ok(Some(_)) => {}
                Ok(None) => continue,
                Err(wrong) => {
                    found.notes.push(format!("{name}: {wrong}"));
                    continue;
                }
            }
        }
        if let Some(signature) = volume.find(&format!("{path}{SIGNATURE}"))? {
            found.signatures.insert(name.clone(), signature);
        }
        found.documents.push(Document { name, format, bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_drive_has_its_files_two_directories_down() {
        let directory = tempfile::tempdir().unwrap();
        let latest = directory.path().join(DIRECTORY);
        std::fs::create_dir_all(&latest).unwrap();
        let files = [
            ("user_data", "#cloud-config\n"),
            ("meta_data.json", "{}"),
            ("network_data.json", "{}"),
            ("vendor_data.json", "[]"),
        ];
        for (name, text) in files {
            std::fs::write(latest.join(name), text).unwrap();
        }
        let mut found = Found::default();
        let volume = Volume::open_directory(directory.path()).unwrap();
        documents_of_config_drive(&volume, "config-2", &Machine::default(), &mut found).unwrap();
        let names: Vec<_> = found
            .documents
            .iter()
            .map(|document| document.name.trim_start_matches("config-2:openstack/latest/"))
            .collect();
        assert_eq!(names, ["meta_data.json", "network_data.json", "user_data"]);
        assert!(found.notes[0].starts_with("config-2:openstack/latest/vendor_data.json: has something else"));
    }

    #[test]
    fn all_of_a_signed_config_drive_is_good() {
        use crate::provider::keep_signed;
        use crate::provider::test_keys::TestKey;
        let directory = tempfile::tempdir().unwrap();
        let latest = directory.path().join(DIRECTORY);
        std::fs::create_dir_all(&latest).unwrap();
        let key = TestKey::new();
        for (name, text) in [
            ("vendor_data.json", "{\"cloud-init\": \"#cloud-config\\nhostname: a\\n\"}"),
            ("user_data", "#cloud-config\n"),
        ] {
            std::fs::write(latest.join(name), text).unwrap();
            let signature = key.sign(text.as_bytes(), &format!("timestamp:100\tfile:{name}\thashed"));
            std::fs::write(latest.join(format!("{name}{SIGNATURE}")), signature).unwrap();
        }
        let mut found = Found::default();
        let volume = Volume::open_directory(directory.path()).unwrap();
        documents_of_config_drive(&volume, "config-2", &Machine::default(), &mut found).unwrap();
        let signed = keep_signed(&found, &[key.public()], 0, &|_| false);
        assert_eq!((signed.documents.len(), signed.refused), (2, Vec::new()));
    }
}
