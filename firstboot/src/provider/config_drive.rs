//! OpenStack's ConfigDrive: a volume labelled `config-2`.
//!
//! Format: "Config drive" and "Metadata service" of the Nova documentation; of the versions on it `latest` is read.

use super::volume::{Volume, VolumeError};
use super::{Found, SIGNATURE};
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
        ("vendor_data.json", Format::VendorData),
        ("meta_data.json", Format::MetaData),
        ("network_data.json", Format::NetworkData),
        ("user_data", Format::UserData),
    ];
    for (file, format) in files {
        let path = format!("{DIRECTORY}/{file}");
        let Some(mut bytes) = volume.find(&path)? else { continue };
        let name = format!("{label}:{path}");
        if format == Format::VendorData {
            match vendor_data(&bytes) {
                Ok(Some(text)) => bytes = text.into_bytes(),
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

/// What `vendor_data.json` has for cloud-init: the text under the key `cloud-init`, or a text alone.
///
/// # Errors
/// What it has instead, in words.
pub fn vendor_data(bytes: &[u8]) -> Result<Option<String>, &'static str> {
    use serde_json::Value;
    let text = |value: Value| match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
        _ => Err("has something else than a text for cloud-init; it is not used"),
    };
    match serde_json::from_slice(bytes).map_err(|_| "is not valid JSON; it is not used")? {
        Value::Object(mut object) if object.is_empty() || object.contains_key("cloud-init") => {
            text(object.remove("cloud-init").unwrap_or_default())
        }
        Value::Object(_) => Err("has nothing under the key cloud-init; it is not used"),
        other => text(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendor_data_is_a_text_in_json() {
        assert_eq!(vendor_data(b"{\"cloud-init\": \"#cloud-config\\n\"}").unwrap().as_deref(), Some("#cloud-config\n"));
        assert_eq!(vendor_data(b"\"#cloud-config\"").unwrap().as_deref(), Some("#cloud-config"));
        assert_eq!((vendor_data(b"{}").unwrap(), vendor_data(b"null").unwrap()), (None, None));
        assert!(vendor_data(b"{\"cloud-init\": [1]}").is_err() && vendor_data(b"{\"static\": 1}").is_err());
        assert!(vendor_data(b"no json").is_err());
    }

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
}
