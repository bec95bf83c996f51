//! The keys that open sealed secrets: from a medium or a credential to the node, where they stay.

use crate::config::Secret;
use crate::config::sealed::ConfigKey;
use crate::host::{Host, HostError};

/// Where the node keeps them, one a line; only root may read it.
pub const KEPT_KEYS: &str = "/var/lib/ingot/config.key";
const MAXIMUM_BYTES: u64 = 64 * 1024;
/// The most keys that a node keeps; the oldest go first.
const MAXIMUM_KEYS: usize = 16;

/// The keys of a node.
#[derive(Debug, Default)]
pub struct ConfigKeys(Vec<ConfigKey>);

impl ConfigKeys {
    /// Those that the node keeps. What is damaged there is left out: the key comes again from where it came.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn kept(host: &dyn Host) -> Result<Self, HostError> {
        let text = host.read(KEPT_KEYS, MAXIMUM_BYTES)?.unwrap_or_default();
        Ok(Self(String::from_utf8_lossy(&text).lines().filter_map(|line| line.parse().ok()).collect()))
    }

    /// Takes over keys that were found, and keeps those that are new. Gives how many of the texts are no keys.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn learn(&mut self, host: &dyn Host, found: &[Secret]) -> Result<usize, HostError> {
        let mut wrong = 0;
        let known = self.0.len();
        for text in found {
            match text.expose().parse::<ConfigKey>() {
                Ok(key) if self.0.iter().any(|known| known.public() == key.public()) => {}
                Ok(key) => self.0.push(key),
                Err(_) => wrong += 1,
            }
        }
        if self.0.len() > known {
            self.0.drain(..self.0.len().saturating_sub(MAXIMUM_KEYS));
            let text: String = self.0.iter().map(|key| format!("{}\n", key.to_secret().expose())).collect();
            host.write(KEPT_KEYS, text.as_bytes(), 0o600)?;
        }
        Ok(wrong)
    }

    /// The keys.
    pub fn as_slice(&self) -> &[ConfigKey] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::simulated::SimulatedHost;

    use std::cell::RefCell;

    use crate::config::{Document, Format, Machine, seal_document};
    use crate::provider::{Found, Labelled, Media, NodeSources, Sources, Volume, VolumeError};
    use crate::report::Report;
    use crate::service::Service;
    use crate::status::Code;

    /// What is found at each look; the last stays.
    struct Looks(RefCell<Vec<Found>>);

    impl Sources for Looks {
        fn look(&self, _: &Machine) -> Found {
            let mut looks = self.0.borrow_mut();
            if looks.len() > 1 { looks.remove(0) } else { looks[0].clone() }
        }
    }

    #[derive(Default)]
    struct Heard(std::sync::Mutex<String>);

    impl Report for Heard {
        fn report(&self, code: Code, text: &str) {
            self.0.lock().unwrap().push_str(&format!("{code:?} {text}\n"));
        }
        fn note(&self, text: &str) {
            self.0.lock().unwrap().push_str(text);
        }
    }

    #[test]
    fn a_sealed_file_waits_for_its_key_and_needs_it_only_once() {
        const SECRET: &str = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=";
        let key = ConfigKey::generate().unwrap();
        let text =
            format!("version = 1\n[join]\ndriver = \"docker-swarm\"\nrole = \"manager\"\nsecret = \"{SECRET}\"\n");
        let (text, _) = seal_document("f", text.as_bytes(), &[key.public()]).unwrap();
        let document = Document { name: "f".into(), format: Format::NodeToml, bytes: text.into_bytes() };
        let sealed = Found { documents: vec![document], media: vec!["INGOT".into()], ..Found::default() };
        let opened = Found { config_keys: vec![key.to_secret()], ..sealed.clone() };
        let host = SimulatedHost::default();
        let address = crate::host::InterfaceAddress { interface: "en0".into(), address: [10, 0, 0, 2].into() };
        host.state().addresses = vec![address];
        let heard = Heard::default();
        Service::new(&host, &heard, &Looks(RefCell::new(vec![sealed.clone(), sealed.clone(), opened]))).run();
        let log = heard.0.into_inner().unwrap();
        assert!(
            log.contains("ConfigInvalid f:5:10: join.secret: is sealed, and this machine has no config key"),
            "{log}"
        );
        assert!(log.contains("Joined"), "{log}");
        // The kept documents stay sealed, and the key opens them in every later boot.
        assert!(!host.text("/var/lib/ingot/config.json").contains(SECRET) && !log.contains(SECRET));
        host.reboot();
        let heard = Heard::default();
        Service::new(&host, &heard, &Looks(RefCell::new(vec![Found::default()]))).run();
        assert!(heard.0.into_inner().unwrap().contains("Joined"));
        assert_eq!(host.disk().founded, 1);
    }

    struct NoMedia;

    impl Media for NoMedia {
        fn labelled(&self, _: &[&str]) -> Vec<Labelled> {
            Vec::new()
        }
        fn open(&self, _: &Labelled) -> Result<Volume, VolumeError> {
            unreachable!("there are none")
        }
    }

    /// The whole way through the firmware: the key and the sealed file are both credentials, and gone with the next boot.
    #[test]
    fn a_key_from_the_firmware_opens_what_is_sealed_and_is_kept() {
        const SECRET: &str = "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=";
        const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials";
        let key = ConfigKey::generate().unwrap();
        let text =
            format!("version = 1\n[join]\ndriver = \"docker-swarm\"\nrole = \"manager\"\nsecret = \"{SECRET}\"\n");
        let (text, _) = seal_document("f", text.as_bytes(), &[key.public()]).unwrap();
        let host = SimulatedHost::default();
        let address = crate::host::InterfaceAddress { interface: "en0".into(), address: [10, 0, 0, 2].into() };
        host.state().addresses = vec![address];
        let credentials = ["ingot.config-key", "ingot.node.toml"].map(|name| format!("{FW_CFG}/{name}/raw"));
        host.put(&credentials[0], key.to_secret().expose());
        host.put(&credentials[1], &text);
        let heard = Heard::default();
        Service::new(&host, &heard, &NodeSources::new(&host, &NoMedia)).run();
        let log = heard.0.into_inner().unwrap();
        assert!(log.contains("ConfigFound credential ingot.node.toml (fw_cfg)") && log.contains("Joined"), "{log}");
        assert!(!log.contains(SECRET) && !log.contains(key.to_secret().expose()), "{log}");
        assert!(!host.text("/var/lib/ingot/config.json").contains(SECRET));
        for path in &credentials {
            host.state().disk.files.remove(path);
        }
        host.reboot();
        let heard = Heard::default();
        Service::new(&host, &heard, &NodeSources::new(&host, &NoMedia)).run();
        assert!(heard.0.into_inner().unwrap().contains("Joined"));
        assert_eq!(host.disk().files[KEPT_KEYS].1, 0o600);
        assert_eq!(host.disk().founded, 1);
    }

    #[test]
    fn keys_are_kept_once_and_only_for_root() {
        let host = SimulatedHost::default();
        let (a, b) = (ConfigKey::generate().unwrap(), ConfigKey::generate().unwrap());
        let mut keys = ConfigKeys::kept(&host).unwrap();
        assert_eq!(keys.learn(&host, &[a.to_secret(), Secret::new("no key")]).unwrap(), 1);
        assert_eq!(keys.learn(&host, &[b.to_secret(), a.to_secret()]).unwrap(), 0);
        let kept = ConfigKeys::kept(&host).unwrap();
        let publics: Vec<_> = kept.as_slice().iter().map(ConfigKey::public).collect();
        assert_eq!(publics, [a.public(), b.public()]);
        assert_eq!(host.disk().files[KEPT_KEYS].1, 0o600);
        for _ in 0..MAXIMUM_KEYS {
            keys.learn(&host, &[ConfigKey::generate().unwrap().to_secret()]).unwrap();
        }
        assert_eq!(ConfigKeys::kept(&host).unwrap().as_slice().len(), MAXIMUM_KEYS);
    }
}
