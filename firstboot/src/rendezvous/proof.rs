//! The cryptography of the rendezvous: proofs over the transcript, and the sealing of the token.

use chacha20poly1305::aead::{Aead, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hmac::{Hmac, KeyInit as _, Mac};
use sha2::Sha256;

use super::message::{Bytes32, Hello, to_hex};
use crate::config::Secret;

const DOMAIN_SERVER: &str = "ingot-rendezvous-v2-server";
const DOMAIN_NODE: &str = "ingot-rendezvous-v2-node";
const DOMAIN_KEY: &str = "ingot-rendezvous-v2-key";

/// Everything that both sides have said when the manager's proof is due.
pub struct Transcript(Vec<u8>);

impl Transcript {
    /// Of the node's hello and the manager's challenge.
    pub fn new(hello: &Hello, manager_nonce: &Bytes32, manager_name: &str, manager_time: u64) -> Self {
        let mut bytes = Vec::new();
        // Each field with its length: no two different exchanges have the same transcript.
        for field in [
            &hello.version.to_be_bytes()[..],
            &hello.nonce.0,
            hello.identity.hostname.as_bytes(),
            hello.identity.id.as_bytes(),
            hello.identity.seat.name().as_bytes(),
            &hello.time.to_be_bytes(),
            &manager_nonce.0,
            manager_name.as_bytes(),
            &manager_time.to_be_bytes(),
        ] {
            bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
            bytes.extend_from_slice(field);
        }
        Self(bytes)
    }

    fn mac(&self, secret: &Secret, domain: &str) -> Hmac<Sha256> {
        // HMAC takes keys of every length, so this cannot fail (RFC 2104, section 3).
        #[allow(clippy::expect_used)]
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes any key");
        mac.update(&(domain.len() as u64).to_be_bytes());
        mac.update(domain.as_bytes());
        mac.update(&self.0);
        mac
    }

    fn bytes(&self, secret: &Secret, domain: &str) -> [u8; 32] {
        self.mac(secret, domain).finalize().into_bytes().into()
    }

    /// The manager's proof.
    pub fn manager_proof(&self, secret: &Secret) -> Bytes32 {
        Bytes32(self.bytes(secret, DOMAIN_SERVER))
    }

    /// Checks the manager's proof, in constant time.
    pub fn is_manager_proof(&self, secret: &Secret, proof: &Bytes32) -> bool {
        self.mac(secret, DOMAIN_SERVER).verify_slice(&proof.0).is_ok()
    }

    /// The node's proof.
    pub fn node_proof(&self, secret: &Secret) -> Bytes32 {
        Bytes32(self.bytes(secret, DOMAIN_NODE))
    }

    /// Checks the node's proof, in constant time.
    pub fn is_node_proof(&self, secret: &Secret, proof: &Bytes32) -> bool {
        self.mac(secret, DOMAIN_NODE).verify_slice(&proof.0).is_ok()
    }

    /// Encrypts what only the other side of this exchange may read.
    pub fn seal(&self, secret: &Secret, plain: &[u8]) -> Option<Vec<u8>> {
        self.cipher(secret).encrypt(&Nonce::default(), Payload { msg: plain, aad: &self.0 }).ok()
    }

    /// Decrypts it; `None` where it was not sealed in this exchange or was changed.
    pub fn open(&self, secret: &Secret, sealed: &[u8]) -> Option<Vec<u8>> {
        self.cipher(secret).decrypt(&Nonce::default(), Payload { msg: sealed, aad: &self.0 }).ok()
    }

    fn cipher(&self, secret: &Secret) -> ChaCha20Poly1305 {
        // The key depends on both sides' fresh nonces and seals one message, so the cipher's own nonce may be fixed.
        ChaCha20Poly1305::new(&Key::from(self.bytes(secret, DOMAIN_KEY)))
    }
}

/// A key of its own for one purpose, made of a secret: HMAC-SHA256 over the purpose's name, as hex digits.
pub fn derive_hex(secret: &Secret, purpose: &str) -> String {
    // HMAC takes keys of every length, so this cannot fail (RFC 2104, section 3).
    #[allow(clippy::expect_used)]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes any key");
    mac.update(purpose.as_bytes());
    to_hex(&mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rendezvous::{NodeIdentity, Seat};

    fn transcript(hostname: &str, id: &str, name: &str) -> Transcript {
        let identity = NodeIdentity { hostname: hostname.into(), id: id.into(), seat: Seat::Worker };
        let hello = Hello { version: 1, nonce: Bytes32([1; 32]), identity, time: 5 };
        Transcript::new(&hello, &Bytes32([2; 32]), name, 6)
    }

    #[test]
    fn proofs_are_bound_to_side_secret_and_transcript() {
        let (a, b) = (Secret::new("a"), Secret::new("b"));
        let this = transcript("w1", "x", "m1");
        assert!(this.is_manager_proof(&a, &this.manager_proof(&a)));
        assert!(this.is_node_proof(&a, &this.node_proof(&a)));
        assert!(!this.is_node_proof(&a, &this.manager_proof(&a)), "reflection");
        assert!(!this.is_node_proof(&b, &this.node_proof(&a)));
        // Moving a character between neighbouring fields changes the transcript.
        assert!(!transcript("w1x", "", "m1").is_node_proof(&a, &this.node_proof(&a)));
    }

    #[test]
    fn what_is_sealed_opens_only_unchanged_in_its_exchange() {
        let secret = Secret::new("a");
        let this = transcript("w1", "x", "m1");
        let mut sealed = this.seal(&secret, b"token").unwrap();
        assert_eq!(this.open(&secret, &sealed).unwrap(), b"token");
        assert!(transcript("w2", "x", "m1").open(&secret, &sealed).is_none());
        sealed[0] ^= 1;
        assert!(this.open(&secret, &sealed).is_none());
    }
}
