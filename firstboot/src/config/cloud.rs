//! cloud-init's documents, read natively.
//!
//! Takes `user-data`, `vendor-data`, `meta-data` and `network-config` as `NoCloud` and `ConfigDrive` have them. Gives the same tree as
//! `node.toml` does. What becomes of each key stands in one table (`keys::KEYS`, `docs/cloud-init.md`): carried over;
//! needless, which a note says; without effect, which a warning says (an error with `strict = true`); or refused.
//! Nothing is lost silently, and nothing in these documents is run, fetched or expanded while they are read.
//!
//! The way of a document: `unpack` (compression, base64, `mime`) → `yaml` → `user_data` with `disks`, `files` and `users`.

mod disks;
mod files;
mod keys;
mod meta_data;
mod mime;
pub mod network;
mod power;
mod unpack;
mod user_data;
mod users;
mod vendor_data;
mod yaml;

pub use meta_data::meta_data;
pub use unpack::is_user_data;
pub use user_data::user_data;
pub use vendor_data::{vendor_data, vendor_data_json};

use super::problem::Findings;
use super::tree::{Node, Origin};
use yaml::{NULL, yaml_tree};

/// The keys of what must be a mapping.
fn entries(node: Node, whole: &Origin, findings: &mut Findings) -> Vec<(String, Origin, Node)> {
    yaml::entries(node, "", whole, findings)
}

/// Reads any bytes as a message, for fuzzing: what is decoded is never more than what was there, and parts lie within.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_mime(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(entity) = mime::Entity::parse(&text) else { return };
    if let Ok(decoded) = entity.decoded() {
        assert!(decoded.len() <= entity.body.len());
    }
    let parts = entity.parts().unwrap_or_default();
    assert!(parts.iter().map(|part| part.len()).sum::<usize>() <= entity.body.len());
    let _ = (entity.file_name(), entity.content_type());
    let mut findings = Findings::default();
    let document = std::sync::Arc::from("message");
    if let Some(parts) = unpack::unpack(&document, bytes, &mut findings) {
        assert!(parts.iter().map(|part| part.text.len()).sum::<usize>() <= 5 * super::MAXIMUM_DOCUMENT_BYTES);
    } else {
        assert!(!findings.errors.is_empty());
    }
}
