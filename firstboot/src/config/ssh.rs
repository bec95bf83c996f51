//! `[ssh]`: who may log in as root, and what the node's own SSH identity is.

use std::collections::BTreeMap;

use serde::Serialize;

use super::fields::Fields;
use super::problem::Findings;
use super::secret::Secret;
use super::tree::Node;
use super::values::SshKey;

/// How the node is reached by SSH, but for root's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ssh {
    /// Whether root may log in with its keys.
    pub root_login: bool,
    /// Host keys that the configuration brings; the node makes one where there is none.
    pub host_keys: BTreeMap<HostKeyType, HostKey>,
}

impl Default for Ssh {
    fn default() -> Self {
        Self { root_login: true, host_keys: BTreeMap::new() }
    }
}

/// The kind of a host key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HostKeyType {
    /// Ed25519.
    Ed25519,
    /// ECDSA on a NIST curve.
    Ecdsa,
    /// RSA.
    Rsa,
}

impl HostKeyType {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Ed25519, Self::Ecdsa, Self::Rsa];

    /// Its name in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Ecdsa => "ecdsa",
            Self::Rsa => "rsa",
        }
    }

    /// What the line of a public key of this kind begins with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::Ecdsa => "ecdsa-sha2-nistp",
            Self::Rsa => "ssh-rsa",
        }
    }
}

/// A host key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostKey {
    /// The private key, in PEM.
    pub private: Secret,
    /// A hash of it, so that a changed key is seen without showing it.
    pub digest: String,
    /// The public key.
    pub public: Option<SshKey>,
    /// Its certificate by an authority of the site, one line.
    pub certificate: Option<String>,
}

/// Reads `[ssh]`: root's keys, and the rest.
pub fn read(node: &Node, findings: &mut Findings) -> (Vec<SshKey>, Ssh) {
    let Some(fields) = Fields::new(node, "ssh", findings) else { return (Vec::new(), Ssh::default()) };
    let keys = fields.parsed_list("authorized_keys", findings);
    let root_login = fields.boolean("root_login", findings).unwrap_or(true);
    let host_keys = fields.entry("host_keys").map(|entry| host_keys(&entry.node, findings)).unwrap_or_default();
    (keys, Ssh { root_login, host_keys })
}

fn host_keys(node: &Node, findings: &mut Findings) -> BTreeMap<HostKeyType, HostKey> {
    let mut keys = BTreeMap::new();
    let Some(fields) = Fields::new(node, "ssh.host_keys", findings) else { return keys };
    for kind in HostKeyType::ALL {
        let key = |what: &str| format!("{}_{what}", kind.name());
        let private = fields.text(&key("private"), findings);
        let public: Option<SshKey> = fields.parsed(&key("public"), findings);
        if public.as_ref().is_some_and(|public| !public.to_string().starts_with(kind.prefix())) {
            fields.error(&key("public"), "is a key of another kind", "", findings);
        }
        let certificate = fields.text(&key("certificate"), findings).map(|text| text.trim().to_owned());
        if certificate.as_ref().is_some_and(|line| !is_certificate(line, kind)) {
            let message = "is no certificate of such a host key, or not a whole one";
            fields.error(&key("certificate"), message, "it is the one line of a -cert.pub file", findings);
        }
        let Some(private) = private else {
            if public.is_some() || certificate.is_some() {
                fields.missing(&key("private"), "a host key is its private key; the rest belongs to it", findings);
            }
            continue;
        };
        if let Err(what) = judge_private(private) {
            fields.error(
                &key("private"),
                what,
                "give the whole file, as ssh-keygen writes it, without a passphrase",
                findings,
            );
            continue;
        }
        let digest = crate::journal::Inputs::of([private.trim().as_bytes()]);
        let private = Secret::new(format!("{}\n", private.trim()));
        keys.insert(kind, HostKey { private, digest: format!("{digest:?}"), public, certificate });
    }
    keys
}

fn judge_private(text: &str) -> Result<(), &'static str> {
    let text = text.trim();
    if text.len() > 16 * 1024 {
        return Err("is too long for a key");
    }
    if !text.starts_with("-----BEGIN ")
        || !text.ends_with("PRIVATE KEY-----")
        || text.matches("-----BEGIN ").count() != 1
    {
        return Err("is no private key, or not a whole one");
    }
    if text.contains("ENCRYPTED") {
        return Err("is encrypted with a passphrase, which no one can type here");
    }
    Ok(())
}

fn is_certificate(line: &str, kind: HostKeyType) -> bool {
    let mut words = line.split_ascii_whitespace();
    let (name, blob) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    name.starts_with(kind.prefix())
        && name.ends_with("-cert-v01@openssh.com")
        && line.len() <= 16 * 1024
        && !line.chars().any(char::is_control)
        && base64::Engine::decode(&base64::engine::general_purpose::STANDARD, blob).is_ok_and(|blob| blob.len() > 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Document, Format, Machine, load};

    const PRIVATE: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\\nkV0lmS1T\\n-----END OPENSSH PRIVATE KEY-----\\n";

    fn read_text(text: &str) -> Result<Ssh, String> {
        let documents = [Document { name: "f".into(), format: Format::PartToml, bytes: text.as_bytes().to_vec() }];
        load(&documents, &Machine::default()).map(|loaded| loaded.config.ssh).map_err(|error| error.to_string())
    }

    #[test]
    fn a_host_key_is_taken_and_not_shown() {
        let text = format!("[ssh.host_keys]\ned25519_private = \"{PRIVATE}\"\n");
        let ssh = read_text(&text).unwrap();
        assert!(ssh.root_login);
        assert!(ssh.host_keys[&HostKeyType::Ed25519].private.expose().ends_with("KEY-----\n"));
        assert!(!format!("{ssh:?} {}", serde_json::to_string(&ssh).unwrap()).contains("kV0lmS1T"));
        let other = read_text(&text.replace("kV0lmS1T", "kV0lmS1U")).unwrap();
        assert_ne!(format!("{ssh:?}"), format!("{other:?}"), "a changed key is another step");
        let documents = [Document { name: "f".into(), format: Format::PartToml, bytes: text.into_bytes() }];
        let loaded = load(&documents, &Machine::default()).unwrap();
        assert!(!format!("{:?}", loaded.origins).contains("kV0lmS1T"));
    }

    #[test]
    fn what_is_no_host_key_is_refused_and_not_repeated() {
        for (text, expected) in [
            ("ed25519_private = \"kV0lmS1T\"".to_owned(), "no private key"),
            (format!("ed25519_private = \"{}\"", PRIVATE.replace("OPENSSH", "ENCRYPTED")), "passphrase"),
            (format!("ed25519_private = \"{}\"", &PRIVATE[..60]), "not a whole one"),
            ("rsa_certificate = \"ssh-rsa-cert-v01@openssh.com AAAA\"".to_owned(), "no certificate"),
            ("dsa_private = \"\"".to_owned(), "did you mean \"rsa_private\"?"),
            (
                "rsa_public = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDI2sNZwkdbcFhWEiUQbY2Dtz0J+EHqO1sUVUyTMaHuB\""
                    .to_owned(),
                "another kind",
            ),
        ] {
            let error = read_text(&format!("[ssh.host_keys]\n{text}\n")).unwrap_err();
            assert!(error.contains(expected) && !error.contains("kV0lmS1T"), "{error:?} lacks {expected:?}");
        }
    }
}
