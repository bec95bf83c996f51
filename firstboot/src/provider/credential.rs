//! The credential `ingot.node.toml`: what a hypervisor or a management controller hands in.
//!
//! Ways to hand it in are those of systemd.system-credentials(7): SMBIOS type 11, `io.systemd.credential:NAME=TEXT` or
//! `io.systemd.credential.binary:NAME=BASE64`, and QEMU's `fw_cfg`, `opt/io.systemd.credentials/NAME`. They are read from
//! the firmware itself, because systemd imports them only from version 252 on, and Ubuntu 22.04 has 249. Where a newer
//! systemd has imported one, also from the EFI system partition, its copy is taken.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::firmware::oem_strings;
use super::{Found, SIGNATURE, Surroundings};
use crate::config::{Document, Format, MAXIMUM_DOCUMENT_BYTES, Secret, SourceKind};

/// The credential's name.
pub const CREDENTIAL: &str = "ingot.node.toml";
/// The credential with a key for sealed secrets.
pub const CONFIG_KEY: &str = "ingot.config-key";
const IMPORTED: &str = "/run/credentials/@system";
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials";

pub fn look(surroundings: &Surroundings<'_>, found: &mut Found) {
    if let Some((key, _)) = read(surroundings, CONFIG_KEY, found) {
        found.config_keys.push(Secret::new(String::from_utf8_lossy(&key)));
    }
    let Some((bytes, medium)) = read(surroundings, CREDENTIAL, found) else { return };
    if let Some((signature, _)) = read(surroundings, &format!("{CREDENTIAL}{SIGNATURE}"), found) {
        found.signatures.insert(format!("credential:{CREDENTIAL}"), signature);
    }
    found.documents.push(Document { name: format!("credential:{CREDENTIAL}"), format: Format::NodeToml, bytes });
    found.media.push(format!("credential {CREDENTIAL} ({medium})"));
}

fn read(surroundings: &Surroundings<'_>, name: &str, found: &mut Found) -> Option<(Vec<u8>, &'static str)> {
    let files = [(format!("{IMPORTED}/{name}"), "systemd"), (format!("{FW_CFG}/{name}/raw"), "fw_cfg")];
    for (path, medium) in files {
        match surroundings.host.read(&path, MAXIMUM_DOCUMENT_BYTES as u64) {
            Ok(Some(bytes)) => return Some((bytes, medium)),
            Ok(None) => {}
            Err(error) => found.is_broken(SourceKind::Credential, format!("credential {name} ({medium}): {error}")),
        }
    }
    for text in oem_strings(surroundings.host) {
        let value = |prefix: &str| text.strip_prefix(prefix)?.strip_prefix(name)?.strip_prefix('=');
        if let Some(plain) = value("io.systemd.credential:") {
            return Some((plain.as_bytes().to_vec(), "SMBIOS"));
        }
        if let Some(coded) = value("io.systemd.credential.binary:") {
            let compact: String = coded.split_whitespace().collect();
            match STANDARD.decode(compact) {
                Ok(bytes) => return Some((bytes, "SMBIOS")),
                Err(_) => found
                    .is_broken(SourceKind::Credential, format!("credential {name} (SMBIOS): it is not valid base64")),
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::firmware::table_with;
    use super::super::tests::look_with;
    use super::*;
    use crate::host::simulated::SimulatedHost;

    fn host(strings: &[&str]) -> SimulatedHost {
        let host = SimulatedHost::default();
        host.put_bytes("/sys/firmware/dmi/tables/DMI", &table_with(strings));
        host
    }

    #[test]
    fn a_credential_comes_as_text_or_in_base64() {
        for text in [
            "io.systemd.credential:ingot.node.toml=version = 1",
            "io.systemd.credential.binary:ingot.node.toml=dmVyc2lvbiA9IDE=",
        ] {
            let found = look_with(&host(&["other", "io.systemd.credential:ingot.node.tomlx=1", text]), look);
            assert_eq!(found.documents[0].bytes, b"version = 1", "{text}");
            assert_eq!(found.media, ["credential ingot.node.toml (SMBIOS)"]);
        }
        let found = look_with(&host(&["io.systemd.credential.binary:ingot.node.toml=%"]), look);
        assert!(found.documents.is_empty());
        assert_eq!(found.unreadable, ["credential ingot.node.toml (SMBIOS): it is not valid base64"]);
        assert!(found.broken.contains(&SourceKind::Credential));
    }

    #[test]
    fn a_key_for_sealed_secrets_comes_the_same_ways_and_is_shown_nowhere() {
        let keys = |host: &SimulatedHost| {
            let found = look_with(host, look);
            assert!(found.documents.is_empty() && found.media.is_empty(), "a key alone is no configuration");
            assert!(!format!("{found:?}").contains("ingot-config-key"), "{found:?}");
            found.config_keys.iter().map(|key| key.expose().to_owned()).collect::<Vec<_>>()
        };
        let host = host(&["io.systemd.credential.binary:ingot.config-key=aW5nb3QtY29uZmlnLWtleTE="]);
        assert_eq!(keys(&host), ["ingot-config-key1"]);
        host.put(
            "/sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials/ingot.config-key/raw",
            "ingot-config-key2",
        );
        assert_eq!(keys(&host), ["ingot-config-key2"]);
        host.put("/run/credentials/@system/ingot.config-key", "ingot-config-key3");
        assert_eq!(keys(&host), ["ingot-config-key3"]);
    }

    #[test]
    fn fw_cfg_and_what_systemd_imported_come_first() {
        let host = host(&["io.systemd.credential:ingot.node.toml=version = 1"]);
        host.put("/sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials/ingot.node.toml/raw", "version = 2");
        assert_eq!(look_with(&host, look).documents[0].bytes, b"version = 2");
        host.put("/run/credentials/@system/ingot.node.toml", "version = 3");
        host.put("/run/credentials/@system/ingot.node.toml.minisig", "signature");
        let found = look_with(&host, look);
        assert_eq!((found.documents.len(), found.documents[0].bytes.as_slice()), (1, b"version = 3".as_slice()));
        assert_eq!(found.signatures["credential:ingot.node.toml"], b"signature");
    }
}
