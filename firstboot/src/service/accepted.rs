//! What this node has accepted by its signature, so that nothing older is accepted again.
//!
//! It has a file of its own, which outlives the configuration: forgetting that, or a damage to it, does not bring back
//! what was signed before. The documents that came with the newest signature are known by their hashes, so that the
//! same stick can still be read.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Document;
use crate::host::{Host, HostError};
use crate::rendezvous::to_hex;

/// Where it is kept.
pub const ACCEPTED: &str = "/var/lib/ingot/accepted.json";
const MAXIMUM_BYTES: u64 = 1024 * 1024;

/// What was accepted last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The newest signature, in seconds since 1970; 0 where there was none.
    pub newest: u64,
    /// The SHA-256 of the documents that came with it, each with its name.
    documents: BTreeSet<String>,
}

impl Accepted {
    /// What was noted; nothing where there is no such file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(host: &dyn Host) -> Result<Self, HostError> {
        let bytes = host.read(ACCEPTED, MAXIMUM_BYTES)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    /// Notes a configuration, where its signature is newer than all before.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn note(host: &dyn Host, newest: u64, documents: &[Document]) -> Result<(), HostError> {
        if newest <= Self::read(host)?.newest {
            return Ok(());
        }
        let accepted = Self { newest, documents: documents.iter().map(hash).collect() };
        // Plain data becomes JSON in any case.
        host.write(ACCEPTED, &serde_json::to_vec(&accepted).unwrap_or_default(), 0o600)
    }

    /// True for a document that was accepted, word for word.
    pub fn knows(&self, document: &Document) -> bool {
        self.documents.contains(&hash(document))
    }
}

fn hash(document: &Document) -> String {
    let mut hash = Sha256::new();
    hash.update((document.name.len() as u64).to_be_bytes());
    hash.update(&document.name);
    hash.update(&document.bytes);
    to_hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;
    use crate::host::simulated::SimulatedHost;

    #[test]
    fn the_newest_stays_and_its_documents_are_known() {
        let host = SimulatedHost::default();
        let document =
            |text: &str| Document { name: "INGOT:node.toml".into(), format: Format::NodeToml, bytes: text.into() };
        assert_eq!(Accepted::read(&host).unwrap(), Accepted::default());
        Accepted::note(&host, 200, &[document("a")]).unwrap();
        Accepted::note(&host, 100, &[document("b")]).unwrap();
        let accepted = Accepted::read(&host).unwrap();
        assert_eq!(
            (accepted.newest, accepted.knows(&document("a")), accepted.knows(&document("b"))),
            (200, true, false)
        );
        assert_eq!(host.disk().files[ACCEPTED].1, 0o600);
        assert!(!host.text(ACCEPTED).contains("INGOT"));
    }
}
