//! `[seal]`: what a node accepts once it has joined, or from its first boot on.

use std::fmt;
use std::str::FromStr;

use minisign_verify::PublicKey;
use serde::Serialize;

use super::fields::Fields;
use super::problem::Findings;
use super::tree::Node;

/// What `[seal]` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Seal {
    /// The keys whose signatures a sealed node accepts.
    pub site_keys: Vec<SiteKey>,
    /// Whether unsigned configuration is refused from the first boot on; the role alone says so.
    pub require_signed: bool,
    /// Whether USB storage is blocked once the node has joined.
    pub block_usb: bool,
}

/// A public key in minisign's format, as the second line of `minisign.pub` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SiteKey(String);

impl SiteKey {
    /// The key in base64.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SiteKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        PublicKey::from_base64(text)
            .map(|_| Self(text.to_owned()))
            .map_err(|_| "is not a public key of minisign; give the second line of the .pub file: RW...")
    }
}

/// Reads `[seal]`. What is wrong is added to `findings`.
pub fn read_seal(node: &Node, findings: &mut Findings) -> Seal {
    let Some(fields) = Fields::new(node, "seal", findings) else { return Seal::default() };
    Seal {
        site_keys: fields.parsed_list("site_keys", findings),
        require_signed: fields.boolean("require_signed", findings).unwrap_or(false),
        block_usb: fields.boolean("block_usb", findings).unwrap_or(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Document, Format, Machine, load, seal_of};

    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    fn document(text: &str) -> Document {
        Document { name: "f".into(), format: Format::PartToml, bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn keys_are_checked_where_they_are_written() {
        let text = format!("[seal]\nsite_keys = [\"{KEY}\"]\nblock_usb = true\n");
        let seal = load(&[document(&text)], &Machine::default()).unwrap().config.seal;
        assert_eq!((seal.site_keys[0].as_str(), seal.block_usb, seal.require_signed), (KEY, true, false));
        let wrong = "[seal]\nsite_keys = [\"RWQf\", 7]\nblock_usb = \"yes\"\nusb = true\n";
        let error = load(&[document(wrong)], &Machine::default()).unwrap_err().to_string();
        for part in
            ["f:2:14: seal.site_keys", "not a public key of minisign", "f:3:13: seal.block_usb", "f:4:1: seal.usb"]
        {
            assert!(error.contains(part), "{error} lacks {part}");
        }
    }

    #[test]
    fn the_seal_of_documents_is_known_whatever_else_they_lack() {
        let role = document("[join]\ndriver = \"docker-swarm\"\n[seal]\nrequire_signed = true\n");
        let more = document(&format!("[seal]\nsite_keys = [\"{KEY}\"]\n"));
        let seal = seal_of(&[role, more]).unwrap();
        assert!(seal.require_signed && seal.site_keys.len() == 1);
        assert_eq!(seal_of(&[document("hostname = \"a\"\n")]), Some(Seal::default()));
        assert_eq!(seal_of(&[document("[seal]\nsite_keys = \"x\"\n")]), None, "what is wrong asks for nothing less");
        assert_eq!(seal_of(&[]), Some(Seal::default()));
    }
}
