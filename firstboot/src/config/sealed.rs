//! Secrets that are encrypted to a site: `secret = "enc:v1:..."`.
//!
//! [`seal_document`] encrypts the secrets of a `node.toml` to one or more [`PublicKey`]s; a node opens them with a
//! [`ConfigKey`] that it got another way. So a sealed file may lie in a repository, on a web server or on a stick that is
//! lost. A value is bound to its key's path: moved to another key, it does not open.
//!
//! The form, in base64 behind `enc:v1:`: the number of recipients (1 byte), an ephemeral X25519 public key (32), the
//! content key wrapped for each recipient (48 each), the text under the content key. All encryption is
//! ChaCha20-Poly1305; wrapping keys come from X25519 by HKDF-SHA256 (RFC 5869) and hold for one value, as the content
//! key does, so the nonces are zero. What comes before a ciphertext is authenticated with it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hmac::{Hmac, KeyInit as _, Mac};
use sha2::Sha256;
use thiserror::Error;
use x25519_dalek::{PublicKey as Point, StaticSecret};

use super::Secret;

/// How a sealed value begins.
pub const PREFIX: &str = "enc:v1:";
const SECRET_PREFIX: &str = "ingot-config-secret-v1:";
const PUBLIC_PREFIX: &str = "ingot-config-public-v1:";
const DOMAIN: &[u8] = b"ingot-config-seal-v1";
/// The most keys that one value is sealed to.
pub const MAXIMUM_RECIPIENTS: usize = 16;
const WRAPPED: usize = 48;

/// Where secrets are sealed to: the public half of a [`ConfigKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// What opens sealed secrets. It is never shown.
#[derive(Clone)]
pub struct ConfigKey(StaticSecret);

/// A sealed value cannot be opened, or a key cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SealError {
    /// The text is not whole.
    #[error("is not a whole sealed value; was it cut off?")]
    Form,
    /// There is no key at all.
    #[error("is sealed, and this machine has no config key")]
    NoKey,
    /// None of the keys is one that it was sealed to.
    #[error("is sealed to another config key than this machine's")]
    OtherKey,
    /// The key is right, the value is not where it was, or not what it was.
    #[error("was sealed for another key of the configuration, or was changed")]
    Moved,
    /// The text is no key.
    #[error("is not a config key")]
    NotAKey,
    /// More recipients than a value can have, or none.
    #[error("needs from 1 to 16 public keys to seal to")]
    Recipients,
    /// The kernel gives no random numbers.
    #[error("cannot be sealed: the kernel gives no random numbers")]
    Random,
}

impl ConfigKey {
    /// A new one.
    ///
    /// # Errors
    /// [`SealError::Random`].
    pub fn generate() -> Result<Self, SealError> {
        random().map(|bytes| Self(StaticSecret::from(bytes)))
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(Point::from(&self.0).to_bytes())
    }

    /// The text of its file.
    pub fn to_secret(&self) -> Secret {
        Secret::new(format!("{SECRET_PREFIX}{}", STANDARD.encode(self.0.to_bytes())))
    }
}

impl fmt::Debug for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigKey of {}", self.public())
    }
}

impl FromStr for ConfigKey {
    type Err = SealError;

    /// Reads the text of a key's file; lines with `#` are comments.
    fn from_str(text: &str) -> Result<Self, SealError> {
        key_bytes(text, SECRET_PREFIX).map(|bytes| Self(StaticSecret::from(bytes)))
    }
}

impl FromStr for PublicKey {
    type Err = SealError;

    /// Reads the text of a `.pub` file; what stands behind the key is its name.
    fn from_str(text: &str) -> Result<Self, SealError> {
        key_bytes(text, PUBLIC_PREFIX).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", STANDARD.encode(self.0))
    }
}

fn key_bytes(text: &str, prefix: &str) -> Result<[u8; 32], SealError> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (Some(line), None) = (lines.next(), lines.next()) else { return Err(SealError::NotAKey) };
    let word = line.split_ascii_whitespace().next().unwrap_or_default();
    let encoded = word.strip_prefix(prefix).ok_or(SealError::NotAKey)?;
    STANDARD.decode(encoded).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(SealError::NotAKey)
}

fn random() -> Result<[u8; 32], SealError> {
    let mut bytes = [0; 32];
    // Reads of at most 256 bytes are whole once the kernel is ready (getrandom(2)).
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(32) => Ok(bytes),
        _ => Err(SealError::Random),
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes keys of every length, so this cannot fail (RFC 2104, section 3).
    #[allow(clippy::expect_used)]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The key that wraps the content key for one recipient; `None` for a public key that is no real one.
fn wrapping_key(own: &StaticSecret, other: [u8; 32], ephemeral: &[u8; 32], recipient: &[u8; 32]) -> Option<[u8; 32]> {
    let shared = own.diffie_hellman(&Point::from(other));
    if !shared.was_contributory() {
        return None;
    }
    let extracted = hmac(&[&ephemeral[..], recipient].concat(), &[shared.as_bytes()]);
    Some(hmac(&extracted, &[DOMAIN, &[1]]))
}

fn encrypt(key: [u8; 32], text: &[u8], bound: &[u8]) -> Option<Vec<u8>> {
    ChaCha20Poly1305::new(&Key::from(key)).encrypt(&Nonce::default(), Payload { msg: text, aad: bound }).ok()
}

fn decrypt(key: [u8; 32], sealed: &[u8], bound: &[u8]) -> Option<Vec<u8>> {
    ChaCha20Poly1305::new(&Key::from(key)).decrypt(&Nonce::default(), Payload { msg: sealed, aad: bound }).ok()
}

/// What the text is bound to: all that comes before it, and the path of its key.
fn bound(before: &[u8], path: &str) -> Vec<u8> {
    [DOMAIN, &(before.len() as u64).to_be_bytes(), before, path.as_bytes()].concat()
}

/// Seals a secret for the key at `path` to all recipients: each of them can open it.
///
/// # Errors
/// [`SealError::Recipients`], [`SealError::NotAKey`], [`SealError::Random`].
pub fn seal(path: &str, secret: &Secret, recipients: &[PublicKey]) -> Result<String, SealError> {
    let number = u8::try_from(recipients.len()).ok().filter(|n| (1..=MAXIMUM_RECIPIENTS).contains(&usize::from(*n)));
    let number = number.ok_or(SealError::Recipients)?;
    let ephemeral = StaticSecret::from(random()?);
    let content_key = random()?;
    let public = Point::from(&ephemeral).to_bytes();
    let mut sealed = vec![number];
    sealed.extend(public);
    let head = sealed.clone();
    for recipient in recipients {
        let key = wrapping_key(&ephemeral, recipient.0, &public, &recipient.0).ok_or(SealError::NotAKey)?;
        sealed.extend(encrypt(key, &content_key, &head).ok_or(SealError::Form)?);
    }
    let text = encrypt(content_key, secret.expose().as_bytes(), &bound(&sealed, path)).ok_or(SealError::Form)?;
    sealed.extend(text);
    Ok(format!("{PREFIX}{}", STANDARD.encode(sealed)))
}

/// True where a text says that it is sealed.
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// Checks as much of the form as can be checked without a key.
///
/// # Errors
/// [`SealError::Form`].
pub fn check_form(text: &str) -> Result<(), SealError> {
    parts(text).map(drop)
}

struct Parts {
    bytes: Vec<u8>,
    recipients: usize,
}

fn parts(text: &str) -> Result<Parts, SealError> {
    let encoded = text.trim().strip_prefix(PREFIX).ok_or(SealError::Form)?;
    let bytes = STANDARD.decode(encoded).map_err(|_| SealError::Form)?;
    let recipients = usize::from(*bytes.first().ok_or(SealError::Form)?);
    // The shortest text is empty and still has its tag of 16 bytes.
    if !(1..=MAXIMUM_RECIPIENTS).contains(&recipients) || bytes.len() < 33 + recipients * WRAPPED + 16 {
        return Err(SealError::Form);
    }
    Ok(Parts { bytes, recipients })
}

/// Opens the secret for the key at `path` with the first of the keys that it was sealed to.
///
/// # Errors
/// [`SealError::Form`], [`SealError::NoKey`], [`SealError::OtherKey`], [`SealError::Moved`].
pub fn open(path: &str, text: &str, keys: &[ConfigKey]) -> Result<Secret, SealError> {
    let Parts { bytes, recipients } = parts(text)?;
    if keys.is_empty() {
        return Err(SealError::NoKey);
    }
    let (head, rest) = bytes.split_at(33);
    let (wrapped, sealed) = rest.split_at(recipients * WRAPPED);
    let ephemeral: [u8; 32] = head[1..].try_into().map_err(|_| SealError::Form)?;
    let content_key = keys
        .iter()
        .filter_map(|key| wrapping_key(&key.0, ephemeral, &ephemeral, &key.public().0))
        .find_map(|key| wrapped.chunks_exact(WRAPPED).find_map(|wrapped| decrypt(key, wrapped, head)))
        .and_then(|key| key.try_into().ok())
        .ok_or(SealError::OtherKey)?;
    let before = &bytes[..33 + recipients * WRAPPED];
    let plain = decrypt(content_key, sealed, &bound(before, path)).ok_or(SealError::Moved)?;
    String::from_utf8(plain).map(Secret::new).map_err(|_| SealError::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ConfigKey {
        ConfigKey::generate().unwrap()
    }

    #[test]
    fn each_recipient_opens_it_and_nobody_else() {
        let (a, b, other) = (key(), key(), key());
        let secret = Secret::new("kV0lmS1TzqYb3Hn8");
        let sealed = seal("join.secret", &secret, &[a.public(), b.public()]).unwrap();
        assert!(is_sealed(&sealed) && check_form(&sealed).is_ok() && !sealed.contains("kV0lmS1"));
        for keys in [vec![a.clone()], vec![b.clone()], vec![other.clone(), b.clone()]] {
            assert_eq!(open("join.secret", &sealed, &keys).unwrap(), secret);
        }
        assert_eq!(open("join.secret", &sealed, &[other]), Err(SealError::OtherKey));
        assert_eq!(open("join.secret", &sealed, &[]), Err(SealError::NoKey));
        assert_eq!(open("join.token", &sealed, std::slice::from_ref(&a)), Err(SealError::Moved));
        assert_ne!(seal("join.secret", &secret, &[a.public()]), seal("join.secret", &secret, &[a.public()]));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed() {
        let key = key();
        let sealed = seal("p", &Secret::new("x"), &[key.public()]).unwrap();
        for length in 0..sealed.len() {
            assert!(open("p", &sealed[..length], std::slice::from_ref(&key)).is_err(), "{length}");
        }
        let bytes = STANDARD.decode(&sealed[PREFIX.len()..]).unwrap();
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            let text = format!("{PREFIX}{}", STANDARD.encode(&changed));
            assert!(open("p", &text, std::slice::from_ref(&key)).is_err(), "{index}");
        }
        assert_eq!(check_form("enc:v1:"), Err(SealError::Form));
        assert_eq!(check_form("enc:v1:AAAA"), Err(SealError::Form));
    }

    #[test]
    fn keys_read_back_and_are_not_shown() {
        let key = key();
        let file = format!("# of a site\n{}\n", key.to_secret().expose());
        let read: ConfigKey = file.parse().unwrap();
        assert_eq!(read.public(), key.public());
        assert!(!format!("{key:?}").contains(&key.to_secret().expose()[SECRET_PREFIX.len()..]));
        let public = format!("{} site\n", key.public());
        assert_eq!(public.parse::<PublicKey>().unwrap(), key.public());
        for bad in ["", "x", "ingot-config-secret-v1:AAAA", &public] {
            assert_eq!(bad.parse::<ConfigKey>().err(), Some(SealError::NotAKey), "{bad}");
        }
        assert_eq!(file.parse::<PublicKey>().err(), Some(SealError::NotAKey));
    }

    #[test]
    fn a_public_key_that_is_none_is_refused() {
        let zero: PublicKey = format!("{PUBLIC_PREFIX}{}", STANDARD.encode([0; 32])).parse().unwrap();
        assert_eq!(seal("p", &Secret::new("x"), &[zero]), Err(SealError::NotAKey));
        assert_eq!(seal("p", &Secret::new("x"), &[]), Err(SealError::Recipients));
    }

    #[test]
    fn x25519_is_the_one_of_rfc_7748() {
        // Section 6.1: Bob's private key and his public key.
        let hex = |text: &str| -> [u8; 32] {
            std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
        };
        let private = hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let public = hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
        assert_eq!(ConfigKey(StaticSecret::from(private)).public(), PublicKey(public));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_opened_or_refused(text in "enc:v1:[A-Za-z0-9+/=]{0,200}") {
            proptest::prop_assert!(open("p", &text, &[ConfigKey(StaticSecret::from([7; 32]))]).is_err());
        }
    }
}
