//! The identity of an HTTPS server: a fresh key, and a certificate that it signs itself, for one IP address.
//!
//! Whoever pins the certificate trusts this server alone.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ED25519, SanType, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::qemu::{QemuError, at};

/// A private key and its certificate.
pub struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} bytes)", self.certificate.der().len())
    }
}

impl Identity {
    /// Makes one for this address.
    ///
    /// # Errors
    /// The kernel has no randomness.
    pub fn new(address: Ipv4Addr) -> Result<Self, QemuError> {
        let made = || {
            let key = KeyPair::generate_for(&PKCS_ED25519)?;
            let mut wanted = CertificateParams::default();
            wanted.distinguished_name = DistinguishedName::new();
            wanted.distinguished_name.push(DnType::CommonName, "ingot test server");
            wanted.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(address))];
            // Whatever a guest's clock says, within reason.
            (wanted.not_before, wanted.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2099, 12, 31));
            Ok::<_, rcgen::Error>(Self { certificate: wanted.self_signed(&key)?, key })
        };
        made().map_err(|error| at("cannot make a key for", Path::new("a server"))(std::io::Error::other(error)))
    }

    /// The certificate in PEM.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// What a server with this identity speaks.
    ///
    /// # Errors
    /// TLS refuses the key.
    pub fn server(self) -> Result<Arc<rustls::ServerConfig>, QemuError> {
        let failed = |error| at("cannot speak TLS with", Path::new("its own key"))(std::io::Error::other(error));
        let chain = vec![CertificateDer::from(self.certificate)];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(failed)?;
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Tool;

    #[test]
    fn openssl_takes_it_for_its_address_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server.pem");
        std::fs::write(&path, Identity::new(Ipv4Addr::new(198, 18, 0, 2)).unwrap().pem()).unwrap();
        let verify = |address: &str| {
            let tool = Tool::new("openssl").args(["verify", "-x509_strict", "-verify_ip", address, "-CAfile"]);
            tool.arg(&path).arg(&path).run()
        };
        if Tool::new("openssl").args(["version"]).run().is_err() {
            println!("skipped: openssl is not installed");
            return;
        }
        verify("198.18.0.2").unwrap();
        assert!(verify("198.18.0.3").is_err());
    }
}
