//! The identity of an HTTPS server: a fresh key, and a certificate that it signs itself.
//!
//! The certificate is written here, in DER, because it is always the same one: X.509 version 3 (RFC 5280), Ed25519
//! (RFC 8410), one IP address as its subject's alternative name. Whoever pins it trusts this server alone.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::qemu::{QemuError, at};

/// Ed25519 as an `AlgorithmIdentifier`: OID 1.3.101.112, no parameters.
const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
/// The attribute `commonName`: OID 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
/// The extension `subjectAltName`: OID 2.5.29.17.
const ALTERNATIVE_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];
/// Whatever a guest's clock says, within reason.
const VALIDITY: [&[u8]; 2] = [b"20000101000000Z", b"20991231235959Z"];

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const GENERALIZED_TIME: u8 = 0x18;
const UTC_TIME: u8 = 0x17;

/// A private key and its certificate.
pub struct Identity {
    certificate: Vec<u8>,
    /// The key as PKCS #8.
    key: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} bytes)", self.certificate.len())
    }
}

impl Identity {
    /// Makes one for this address.
    ///
    /// # Errors
    /// The kernel has no randomness.
    pub fn new(address: Ipv4Addr) -> Result<Self, QemuError> {
        let failed = |error: String| at("cannot make a key for", Path::new("a server"))(std::io::Error::other(error));
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|error| failed(error.to_string()))?;
        let pair = Ed25519KeyPair::from_pkcs8(key.as_ref()).map_err(|error| failed(error.to_string()))?;
        let body = to_be_signed(address, pair.public_key().as_ref());
        let signature = pair.sign(&body);
        let certificate = der(SEQUENCE, &[&body, ED25519, &bit_string(signature.as_ref())]);
        Ok(Self { certificate, key: key.as_ref().to_vec() })
    }

    /// The certificate in PEM.
    pub fn pem(&self) -> String {
        let text = STANDARD.encode(&self.certificate);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    /// What a server with this identity speaks.
    ///
    /// # Errors
    /// TLS refuses the key.
    pub fn server(self) -> Result<Arc<rustls::ServerConfig>, QemuError> {
        let failed = |error| at("cannot speak TLS with", Path::new("its own key"))(std::io::Error::other(error));
        let chain = vec![CertificateDer::from(self.certificate)];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key));
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

/// `TBSCertificate`.
fn to_be_signed(address: Ipv4Addr, public: &[u8]) -> Vec<u8> {
    // Version 3 is the number 2, in an explicit tag.
    let version = der(0xa0, &[&der(INTEGER, &[&[2]])]);
    let serial = der(INTEGER, &[&[1]]);
    let common_name = der(SEQUENCE, &[COMMON_NAME, &der(UTF8_STRING, &[b"ingot test server"])]);
    let name = der(SEQUENCE, &[&der(SET, &[&common_name])]);
    // Until 2049 times have two digits for the year.
    let [from, until] = VALIDITY;
    let validity = der(SEQUENCE, &[&der(UTC_TIME, &[&from[2..]]), &der(GENERALIZED_TIME, &[until])]);
    let key = der(SEQUENCE, &[ED25519, &bit_string(public)]);
    // `iPAddress` has the tag 7.
    let names = der(SEQUENCE, &[&der(0x87, &[&address.octets()])]);
    let extension = der(SEQUENCE, &[ALTERNATIVE_NAME, &der(OCTET_STRING, &[&names])]);
    let extensions = der(0xa3, &[&der(SEQUENCE, &[&extension])]);
    der(SEQUENCE, &[&version, &serial, ED25519, &name, &validity, &name, &key, &extensions])
}

fn bit_string(bytes: &[u8]) -> Vec<u8> {
    // No bit of the last byte is left out.
    der(BIT_STRING, &[&[0], bytes])
}

/// A value with its tag and its length.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut out = vec![tag];
    match (&length[..], length.len()) {
        ([], _) => out.push(0),
        (&[short @ 0..=0x7f], _) => out.push(short),
        (long, count) => {
            // A length of this machine's memory has at most eight bytes.
            out.push(0x80 | u8::try_from(count).unwrap_or(8));
            out.extend_from_slice(long);
        }
    }
    out.extend(content);
    out
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

    #[test]
    fn long_lengths_have_a_length_of_their_own() {
        assert_eq!(der(4, &[]), [4, 0]);
        assert_eq!(der(4, &[&[7; 127]])[..2], [4, 127]);
        assert_eq!(der(4, &[&[7; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(der(4, &[&[7; 300]])[..4], [4, 0x82, 1, 44]);
    }
}
